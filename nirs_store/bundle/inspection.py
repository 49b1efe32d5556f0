"""Looking into a bundle without making anything of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirs_store.bundle.card import readable
from nirs_store.bundle.contents import Contents, read_contents
from nirs_store.bundle.limits import DEFAULT_LIMITS, Limits

__all__ = ["Inspection", "inspect_bundle"]


@dataclass(frozen=True)
class Inspection:
    """What a bundle says and what was found in it; nothing of it was loaded.

    Attributes
    ----------
    path : str
        The file.
    kind : {"joblib", "skops"}
        With pickles, or without.
    verdict : {"opens as it is", "needs trusted_types", "needs allow_pickle"}
        What `load_bundle` asks of whoever opens it.
    needs_trust : tuple of str
        Types that must be trusted by name.
    types : tuple of str
        Everything that loading would make: of pickles what they name, as far as their opcodes tell.
    writer : str
        "nirs_store" or "another program".
    format_version : str
        Of the container.
    content_hash : str
        SHA-256 over objects and chain.
    members : tuple of (str, int)
        Every member of the archive with its size in bytes.
    environment, scores, units, facts : dict
        What its writer stated; nobody has checked that.
    notes : tuple of str
        What was rearranged in the export, or found strange in the reading.
    card : str or None
        Its card.
    """

    path: str
    kind: str
    verdict: str
    needs_trust: tuple[str, ...]
    types: tuple[str, ...]
    writer: str
    format_version: str
    content_hash: str
    members: tuple[tuple[str, int], ...]
    environment: dict[str, str]
    scores: dict[str, Any]
    units: dict[str, Any]
    facts: dict[str, Any]
    notes: tuple[str, ...]
    card: str | None


def inspect_bundle(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Inspection:
    """Look into a bundle: its members, hashes, types and card. Nothing of it is loaded or run.

    Parameters
    ----------
    path : path
        The file.
    limits : Limits
        How large it may be.

    Raises
    ------
    BundleInvalid, BundleTooNew
        As for `load_bundle`.

    Examples
    --------
    >>> inspect_bundle("wheat.n4a").verdict
    'opens as it is'
    """
    contents = read_contents(Path(path), limits)
    types, needs = _types(contents)
    if contents.kind == "joblib":
        verdict = "needs allow_pickle"
    else:
        verdict = "needs trusted_types" if needs else "opens as it is"
    record = contents.record
    notes = record.version_1_0.notes if record else tuple(contents.outline.notes if contents.outline else ())
    return Inspection(
        path=str(contents.path),
        kind=contents.kind,
        verdict=verdict,
        needs_trust=needs,
        types=types,
        writer="nirs_store" if record else "another program",
        format_version=contents.manifest.format_version,
        content_hash=contents.content_hash,
        members=tuple(contents.sizes.items()),
        environment=dict(record.environment) if record else {},
        scores=dict(record.scores) if record else {},
        units=dict(record.units) if record else {},
        facts=dict(record.facts) if record else {},
        notes=notes,
        card=None if contents.card is None else readable(contents.card),
    )


def _types(contents: Contents) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if contents.kind == "joblib":
        return contents.pickles.classes, ()
    from nirs_store.bundle.safe import payload_types
    from nirs_store.bundle.skops_audit import untrusted

    types = payload_types(contents)
    return tuple(sorted(types)), tuple(untrusted(types))
