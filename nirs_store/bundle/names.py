"""What the name of an artifact says in version 1.0: its step, its fold, its place within the step.

Only the last part of a path counts, without its ending, cut at underscores. It must begin with
``step_<number>``; then, in this order: a part that begins with ``fold`` names the fold and the rest is
ignored; further parts make it one of several objects of the step; else it is the step's only object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from nirs_store.errors import BundleInvalid

__all__ = ["ArtifactName", "by_step", "fold_of", "in_order", "parse_artifact_name"]

_STEP = re.compile(r"\d{1,9}")
_FOLD = re.compile(r"fold(\d{1,9})")
_SUB = re.compile(r"sub(\d{1,9})")
_HASH = re.compile(r"[0-9a-f]{32,64}")


class ArtifactName(NamedTuple):
    """A member that holds a fitted object.

    Attributes
    ----------
    member : str
        Its name in the archive.
    step : int
        The step it belongs to.
    key : str
        What tells it from the others; of two members with one key the later counts.
    fold : str or None
        The part that begins with "fold": "fold0", "foldfinal".
    sub : int or None
        Its place within the step, where the name says it.
    """

    member: str
    step: int
    key: str
    fold: str | None
    sub: int | None


def parse_artifact_name(member: str) -> ArtifactName | None:
    """Read the name of a member; None when it names no step.

    Examples
    --------
    >>> parse_artifact_name("artifacts/step_3_fold0_PLSRegression_sub0.joblib").key
    'step_3_fold0'
    >>> parse_artifact_name("artifacts/step_1_sub0.joblib")[1:]
    (1, 'step_1_sub0', None, 0)
    """
    stem, dot, _ = member.rpartition("/")[2].rpartition(".")
    parts = (stem if dot else member.rpartition("/")[2]).split("_")
    if len(parts) < 2 or parts[0] != "step" or not _STEP.fullmatch(parts[1]):
        return None
    step = int(parts[1])
    fold = next((part for part in parts[2:] if part.startswith("fold")), None)
    subs = [int(match[1]) for part in parts[2:] if (match := _SUB.fullmatch(part))]
    if fold is not None:
        key = f"step_{step}_{fold}"
    elif len(parts) > 2:
        key = "_".join(parts)
    else:
        key = f"step_{step}"
    return ArtifactName(member, step, key, fold, subs[-1] if subs else None)


def by_step(members: Iterable[str], notes: list[str]) -> dict[int, dict[str, ArtifactName]]:
    """Group members by step and key, in the order in which they stand in the archive.

    Parameters
    ----------
    members : iterable of str
        Names of members under ``artifacts/``.
    notes : list of str
        Takes what a person should know.

    Raises
    ------
    BundleInvalid
        The names are hashes, from which no reader can tell what they are.
    """
    found: dict[int, dict[str, ArtifactName]] = {}
    nameless = []
    for member in members:
        name = parse_artifact_name(member)
        if name is None:
            nameless.append(member)
            continue
        held = found.setdefault(name.step, {})
        if name.key in held:
            notes.append(
                f"{held[name.key].member} is hidden by {member}: both mean {name.key}, and the later counts."
            )
        held[name.key] = name
    if nameless and not found:
        if all(_HASH.fullmatch(member.rpartition("/")[2].partition(".")[0]) for member in nameless):
            raise BundleInvalid(
                "The members of this bundle are named by hash, as nirs4all 0.7 wrote them, and nothing says "
                "which step "
                "each belongs to; no program can predict with it. Export the chain again with a newer "
                "version."
            )
        raise BundleInvalid(
            f"No member of this bundle is named step_<number>; the first is {nameless[0]}. It holds no model."
        )
    notes += [f"{member} belongs to no step and is not read." for member in nameless]
    return found


def fold_of(name: ArtifactName) -> int | None:
    """Give the number of the fold that a member belongs to, or None."""
    match = _FOLD.fullmatch(name.fold) if name.fold else None
    return int(match[1]) if match else None


def in_order(names: Iterable[ArtifactName], notes: list[str]) -> list[ArtifactName]:
    """Put the objects of one step into the order in which they apply.

    Version 1.0 leaves that to the order in the archive, which every tool that packs it anew may change. Where
    all names carry a number (``_sub0``, ``_sub1``), the number decides.
    """
    found = list(names)
    if any(name.sub is None for name in found):
        if len(found) > 1:
            listed = ", ".join(name.member for name in found)
            notes.append(
                f"The order of {listed} is only that of the archive; if it was packed anew, it may be wrong."
            )
        return found
    ordered = sorted(found, key=lambda name: name.sub or 0)
    if ordered != found:
        notes.append(
            f"Step {found[0].step} stands in the archive in another order than its numbers say; the numbers "
            "were followed."
        )
    return ordered
