"""How a chain names things: fold keys in one dialect, and every artifact that it refers to.

Chains come from several writers, and from JSON, where every key is text: the first fold may be
called ``0``, ``"0"`` or ``"fold_0"``, and the model fitted on all samples ``"final"``,
``"fold_final"`` or ``"refit"``. This module knows all spellings; the others see one.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from nirs_store.errors import InvalidInput

REFIT = "fold_final"
"""The key of the model that was fitted on all calibration samples."""

SOURCE_MAP = "_source_map"
"""The key in ``shared_artifacts`` under which the artifacts of several sources stand."""

_NUMBERED = re.compile(r"(?:fold_?)?(\d+)")
_REFIT_NAMES = frozenset({"final", "fold_final", "foldfinal", "refit", "fold_refit"})

Value = TypeVar("Value")


def fold_key(key: object) -> str:
    """Return a fold's key in the one spelling that the rest of the library uses.

    Parameters
    ----------
    key : int or str
        ``0``, ``"0"``, ``"fold_0"``; ``"final"``, ``"fold_final"``, ``"refit"``.

    Returns
    -------
    str
        ``"fold_<number>"``, or ``"fold_final"`` for the refit.

    Raises
    ------
    InvalidInput
        If the key is neither a fold number nor a name of the refit.

    Examples
    --------
    >>> fold_key(3), fold_key("fold_03"), fold_key("refit")
    ('fold_3', 'fold_3', 'fold_final')
    """
    text = str(key).strip()
    if text in _REFIT_NAMES:
        return REFIT
    numbered = None if isinstance(key, bool) else _NUMBERED.fullmatch(text)
    if numbered is None:
        raise InvalidInput(
            f"{key!r} is not the key of a fold. Expected a number from 0 (as 0, '0' or 'fold_0'), "
            "or 'final', 'fold_final' or 'refit' for the model fitted on all samples."
        )
    return f"fold_{int(numbered[1])}"


def fold_number(key: object) -> int | None:
    """Return the number of a fold, or None for the refit."""
    name = fold_key(key)
    return None if name == REFIT else int(name.removeprefix("fold_"))


def normalise_folds(folds: Mapping[Any, Value] | None, where: str) -> dict[str, Value]:
    """Spell the keys of a mapping over folds in one way and sort it: by number, the refit last."""
    found: dict[str, Value] = {}
    for key, value in _mapping(folds, where).items():
        try:
            name = fold_key(key)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from None
        if name in found and found[name] != value:
            raise InvalidInput(f"{where}: {key!r} and another key both mean {name!r}, with different values.")
        found[name] = value
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def normalise_weights(weights: Mapping[Any, Any] | None) -> dict[str, float] | None:
    """Check the weights of a fold ensemble and spell their keys in one way."""
    # The values are kept as they are; `predict` divides by their sum.
    if weights is None:
        return None
    named = normalise_folds(weights, "fold_weights")
    for name, value in named.items():
        try:
            named[name] = float(value)
        except (TypeError, ValueError):
            raise InvalidInput(f"fold_weights[{name!r}] must be a number, found {value!r}.") from None
        if not math.isfinite(named[name]) or named[name] < 0:
            raise InvalidInput(f"fold_weights[{name!r}] must be finite and at least 0, found {value!r}.")
    if named and not any(named.values()):
        raise InvalidInput("fold_weights: all weights are 0; at least one fold must count.")
    return named or None


def id_list(value: object, where: str) -> tuple[str, ...]:
    """Read one artifact id, a list of them, or None, as a tuple of ids in their order."""
    if value is None:
        return ()
    items: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    ids: list[str] = []
    for item in items:
        if not isinstance(item, str) or not item:
            raise InvalidInput(
                f"{where} must be an artifact id or a list of them, found {item!r} "
                f"of the type {type(item).__name__}."
            )
        ids.append(item)
    return tuple(ids)


def step_number(value: object, where: str) -> int:
    """Read the index of a step or source: an integer of at least 0, or its decimal text."""
    try:
        if isinstance(value, str) and value.strip().isdecimal():
            return int(value)
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidInput(f"{where} must be a whole number from 0, found {value!r}.")
    return number


def step_ids(step: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """List the artifacts that a step names for all folds, in the order in which they apply."""
    single = id_list(step.get("artifact_id"), f"{where}['artifact_id']")
    several = id_list(step.get("artifact_ids"), f"{where}['artifact_ids']")
    if single and several and not set(single) <= set(several):
        raise InvalidInput(
            f"{where} names {single[0]!r} as 'artifact_id', which is not among its 'artifact_ids'; "
            "give one of the two."
        )
    return several or single


def step_fold_ids(step: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """List the artifacts of a step that has fitted objects of its own for each fold."""
    name = f"{where}['fold_artifact_ids']"
    folds = normalise_folds(step.get("fold_artifact_ids"), name)
    return {fold: id_list(value, f"{name}[{fold!r}]") for fold, value in folds.items()}


def shared_ids(shared_artifacts: Mapping[Any, Any] | None) -> dict[int, tuple[str, ...]]:
    """Read the part of ``shared_artifacts`` that maps a step's index to its artifacts."""
    found: dict[int, tuple[str, ...]] = {}
    for key, value in _mapping(shared_artifacts, "shared_artifacts").items():
        if key == SOURCE_MAP:
            continue
        where = f"shared_artifacts[{key!r}]"
        index = step_number(key, f"The key {key!r} of shared_artifacts")
        ids = id_list(value, where)
        if found.setdefault(index, ids) != ids:
            raise InvalidInput(f"{where} and another key both mean step {index}, with different artifacts.")
    return found


def source_map(shared_artifacts: Mapping[Any, Any] | None) -> dict[int, dict[int, tuple[str, ...]]]:
    """Read ``shared_artifacts["_source_map"]``: step, then source, then the artifacts in order."""
    name = f"shared_artifacts[{SOURCE_MAP!r}]"
    found: dict[int, dict[int, tuple[str, ...]]] = {}
    entries = _mapping(_mapping(shared_artifacts, "shared_artifacts").get(SOURCE_MAP), name)
    for step, sources in entries.items():
        where = f"{name}[{step!r}]"
        index = step_number(step, f"The key {step!r} of {name}")
        by_source = {
            step_number(source, f"The key {source!r} of {where}"): id_list(ids, f"{where}[{source!r}]")
            for source, ids in _mapping(sources, where).items()
        }
        found[index] = dict(sorted(by_source.items()))
    return found


def chain_artifact_ids(
    steps: Sequence[Mapping[str, Any]],
    fold_artifacts: Mapping[Any, Any] | None,
    shared_artifacts: Mapping[Any, Any] | None,
) -> list[str]:
    """List every artifact that a chain names, each once, in the order of the steps."""
    if not isinstance(steps, list | tuple):
        raise InvalidInput(f"steps must be a list of dicts, found {type(steps).__name__}.")
    shared = shared_ids(shared_artifacts)
    sources = source_map(shared_artifacts)
    models = normalise_folds(fold_artifacts, "fold_artifacts")

    ids: list[str] = []
    for position, step in enumerate(steps):
        where = f"steps[{position}]"
        if not isinstance(step, Mapping):
            raise InvalidInput(f"{where} must be a dict, found {type(step).__name__}.")
        ids += step_ids(step, where)
        if step.get("step_idx") is not None:
            index = step_number(step["step_idx"], f"{where}['step_idx']")
            ids += shared.get(index, ())
            ids += _flat(sources.get(index, {}).values())
        ids += _flat(step_fold_ids(step, where).values())
        for source in stack_sources(step, where):
            ids += chain_artifact_ids(
                source["steps"], source.get("fold_artifacts"), source.get("shared_artifacts")
            )
    ids += _flat(shared.values())
    for by_source in sources.values():
        ids += _flat(by_source.values())
    for fold, value in models.items():
        ids += model_id(value, f"fold_artifacts[{fold!r}]")
    return list(dict.fromkeys(ids))


def chain_model_ids(chain: Mapping[str, Any]) -> set[str]:
    """Collect the artifacts of a chain that are models: its own, and those that feed a stack."""
    folds = normalise_folds(chain.get("fold_artifacts"), "fold_artifacts")
    found = {name for key, value in folds.items() for name in model_id(value, f"fold_artifacts[{key!r}]")}
    for position, step in enumerate(chain["steps"]):
        if step.get("step_idx") == chain.get("model_step_idx"):
            found.update(step_ids(step, f"steps[{position}]"))
        for source in stack_sources(step, f"steps[{position}]"):
            found |= chain_model_ids(source)
    return found


def stack_sources(step: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """List the chains whose predictions a stacked model is fed with, in the order of its columns."""
    # Each is whole in the step, so that the stack replays whatever becomes of the chains it was made from.
    sources = step.get("sources")
    if sources is None:
        return []
    chains = []
    for source in sources if isinstance(sources, list | tuple) else (None,):
        chain = source.get("chain") if isinstance(source, Mapping) else None
        if not isinstance(chain, Mapping) or "steps" not in chain:
            raise InvalidInput(
                f"{where}['sources'] must be a list of dicts with a 'chain', found {str(source)[:80]!r}."
            )
        chains.append(chain)
    return chains


def renamed(chain: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Copy a chain with other ids for its artifacts; those that `names` lacks stay."""

    def visit(value: Any) -> Any:
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, Mapping):
            return {key: visit(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [visit(item) for item in value]
        return value

    copied = dict(chain)
    copied["steps"] = [
        {
            key: visit(value)
            if key in ("artifact_id", "artifact_ids", "fold_artifact_ids")
            else [dict(source, chain=renamed(source["chain"], names)) for source in value]
            if key == "sources"
            else value
            for key, value in step.items()
        }
        for step in chain["steps"]
    ]
    for key in ("fold_artifacts", "shared_artifacts"):
        if key in chain:
            copied[key] = visit(chain[key])
    return copied


def model_id(value: object, where: str) -> tuple[str, ...]:
    """Read the id of one fold's model; a list of exactly one is accepted, None is not."""
    ids = id_list(value, where)
    if len(ids) != 1:
        raise InvalidInput(f"{where} must be the artifact id of one model, found {value!r}.")
    return ids


def _order(name: str) -> tuple[bool, int]:
    number = fold_number(name)
    return (number is None, number or 0)


def _flat(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [item for group in groups for item in group]


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where} must be a dict, found {type(value).__name__}.")
    return value
