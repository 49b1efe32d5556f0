"""The steps of a chain: what each is, and which fitted objects belong to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from nirs_store.chains.folds import (
    model_id,
    normalise_folds,
    shared_ids,
    source_map,
    stack_sources,
    step_fold_ids,
    step_ids,
    step_number,
)
from nirs_store.errors import InvalidInput, ReplayError

TRANSFORM = "transform"
TARGETS = "y_processing"
AUGMENTATION = "feature_augmentation"
SPLITTER = "splitter"
MODEL = "model"
STACKED = "meta_model"
MERGE = "merge"

KINDS = (TRANSFORM, TARGETS, AUGMENTATION, SPLITTER, MERGE, MODEL)

_ALIASES = {"preprocessing": TRANSFORM, "transformer": TRANSFORM}
# KFold, ShuffleSplit, SPXYSplitter, LeaveOneGroupOut: only steps that do not say what they are.
_SPLITTER_NAME = re.compile(r"Split|Fold|^Leave")


def step_kind(operator_type: str | None, operator_class: str, has_artifacts: bool) -> str:
    """Tell what a step is: by its own word, else by the name of its class."""
    if operator_type is not None and not isinstance(operator_type, str):
        raise InvalidInput(f"operator_type must be text, found {operator_type!r}.")
    if operator_type:
        return _ALIASES.get(operator_type, operator_type)
    if not has_artifacts and _SPLITTER_NAME.search(operator_class.rpartition(".")[2]):
        return SPLITTER
    return TRANSFORM


def check_kind(kind: str, where: str) -> str:
    """Refuse a kind of step that a replay does not know how to apply."""
    if kind not in (*KINDS, STACKED):
        raise ReplayError(
            f"{where} is of the type {kind!r}, which a replay cannot apply. Known types: {', '.join(KINDS)}."
        )
    return kind


# -- Reading the steps of a chain: what each is, and which fitted objects stand behind it.


@dataclass(frozen=True, slots=True)
class Operator:
    """One object of a chain at its place: a fitted artifact, or a class that needs no fitting."""

    step_idx: int
    name: str
    artifact_id: str | None
    key: str
    params: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @property
    def where(self) -> str:
        """The operator as messages call it."""
        return (
            f"Step {self.step_idx} ({self.name.rpartition('.')[2]})" if self.name else f"Step {self.step_idx}"
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain with everything that may stand behind it."""

    index: int
    position: int
    kind: str
    name: str
    params: Mapping[str, Any]
    stateless: bool
    ids: tuple[str, ...]
    by_fold: Mapping[str, tuple[str, ...]]
    sources: Mapping[int, tuple[str, ...]] | None
    branches: tuple[tuple[Step, ...], ...] = ()

    @property
    def where(self) -> str:
        """The step as messages call it."""
        return f"Step {self.index} ({self.name})" if self.name else f"Step {self.index}"

    def operators(self, fold: str | None) -> tuple[Operator, ...]:
        """List the objects that act at this step for a fold."""
        ids = (self.by_fold.get(fold) if fold else None) or self.ids
        if ids:
            return self._fitted(ids)
        if self.by_fold:
            raise ReplayError(
                f"{self.where} has no fitted object for {fold or 'a chain without folds'}; its "
                f"'fold_artifact_ids' names {sorted(self.by_fold)}. Save one for every fold that has a model."
            )
        if not self.stateless:
            raise ReplayError(
                f"{self.where} should have a fitted object but names no artifact, so the chain cannot "
                "predict. Name it under 'artifact_id' or in 'shared_artifacts', or mark the step stateless."
            )
        key = f"{self.index}.{self.position}: {self.name}"
        return (Operator(self.index, self.name, None, key, self.params),)

    def of_source(self, source: int) -> tuple[Operator, ...]:
        """List the objects that act on one source; none means that it passes unchanged."""
        return self._fitted((self.sources or {})[source])

    def _fitted(self, ids: Sequence[str]) -> tuple[Operator, ...]:
        return tuple(Operator(self.index, self.name, artifact_id, artifact_id) for artifact_id in ids)


def read_steps(chain: Mapping[str, Any]) -> list[Step]:
    """List the steps that lead to the chain's model, in the order in which they apply."""
    # That order is ``step_idx``, and for steps of one index their order in the list. Left out are splitters, other
    # models, steps after the model, and steps of branches that the model is not on.
    model_index = _model_index(chain)
    entries = _entries(chain)
    shared = shared_ids(chain.get("shared_artifacts"))
    sources = source_map(chain.get("shared_artifacts"))
    _refuse_strays(shared.keys() | sources.keys(), {index for index, _, _ in entries}, model_index)
    branch = _branch(chain, entries, model_index)
    before = [entry for entry in entries if entry[0] < model_index]
    return _read_branch(before, branch, shared, sources)


def _read_branch(
    entries: list[Entry],
    branch: tuple[int, ...],
    shared: Mapping[int, tuple[str, ...]],
    sources: Mapping[int, dict[int, tuple[str, ...]]],
) -> list[Step]:
    """List the steps that lead along one branch; branches that are merged on the way go into one step."""
    merged = _merged(entries, branch)
    inside = {where for held in merged.values() for _, where, _ in held}
    found: list[Step] = []
    for index, group in groupby(entries, key=lambda entry: entry[0]):
        raw: list[Step] = []
        for _, where, entry in group:
            if where in inside or not _on_branch(entry, where, branch):
                continue
            # The place in the list keeps apart what several branches do at one index.
            place = int(where[6:-1])
            step = _read(place, entry, where, shared.get(index, ()), sources.get(index))
            if step.kind == MERGE:
                parts = tuple(
                    tuple(_read_branch(_of(merged[where], path), path, shared, sources))
                    for path in _merged_paths(entry, where, merged[where])
                )
                step = replace(step, branches=parts)
            raw.append(step)
        found += _settle(
            [step for step in raw if step.kind not in (MODEL, STACKED, SPLITTER)], shared.get(index, ())
        )
    return found


def _merged(entries: list[Entry], branch: tuple[int, ...]) -> dict[str, list[Entry]]:
    """Find what each merge on the way brings together: the branched steps before it, by its own place."""
    found: dict[str, list[Entry]] = {}
    taken: set[str] = set()
    for place, (index, where, entry) in enumerate(entries):
        level = _entry_path(entry, where)
        if entry.get("operator_type") != MERGE or level != branch[: len(level)]:
            continue
        held = []
        for earlier in entries[:place]:
            path = _entry_path(earlier[2], earlier[1])
            if len(path) > len(level) and path[: len(level)] == level and earlier[1] not in taken:
                held.append(earlier)
                taken.add(earlier[1])
        if not held:
            raise ReplayError(f"Step {index} merges branches, but no step before it is on one.")
        found[where] = held
    return found


def _merged_paths(entry: Mapping[str, Any], where: str, held: list[Entry]) -> list[tuple[int, ...]]:
    """List the branches that a merge brings together, in the order in which they are put side by side."""
    stated = entry.get("branches")
    if stated is not None:
        if not isinstance(stated, list | tuple) or not stated:
            raise InvalidInput(f"{where}['branches'] must be a list of branch paths, found {stated!r}.")
        return [_path(path, f"{where}['branches']") for path in stated]
    depth = len(_entry_path(entry, where)) + 1
    return sorted({_entry_path(step, at)[:depth] for _, at, step in held})


def _of(held: list[Entry], path: tuple[int, ...]) -> list[Entry]:
    """Return the steps of one branch, those of its own branches included."""
    return [
        item
        for item in held
        if (own := _entry_path(item[2], item[1]))[: len(path)] == path or own == path[: len(own)]
    ]


def _entry_path(entry: Mapping[str, Any], where: str) -> tuple[int, ...]:
    return _path(entry.get("branch_path") or (), f"{where}['branch_path']")


def model_ids(chain: Mapping[str, Any]) -> tuple[dict[str, Operator], Operator | None]:
    """Find the chain's models: those of the folds, and the only one of a chain without folds."""
    index = _model_index(chain)
    name = str(chain.get("model_class") or "")
    folds = {
        fold: model_id(value, f"fold_artifacts[{fold!r}]")
        for fold, value in normalise_folds(chain.get("fold_artifacts"), "fold_artifacts").items()
    }
    shared = single = shared_ids(chain.get("shared_artifacts")).get(index, ())
    entries = _entries(chain)
    branch = _branch(chain, entries, index)
    at_model: list[set[str]] = []  # what each entry of this index on the model's branch names
    for _, where, entry in [item for item in entries if item[0] == index]:
        name = name or str(entry.get("operator_class") or "")
        if entry.get("operator_type") == STACKED and not stack_sources(entry, where):
            raise ReplayError(
                f"Step {index} is a stacked model, which predicts from the predictions of other models, and does "
                "not say of which. Record it with record_stacking, or as one estimator, such as a "
                "StackingRegressor."
            )
        if entry.get("operator_type") in (TRANSFORM, TARGETS, AUGMENTATION, SPLITTER):
            raise ReplayError(
                f"The chain calls step {index} its model, but the step says it is of the type "
                f"{entry['operator_type']!r}."
            )
        own = step_fold_ids(entry, where)
        folds = folds or {fold: model_id(list(ids), where) for fold, ids in own.items()}
        ids = step_ids(entry, where)
        single = single or ids
        if (path := _entry_path(entry, where)) == branch[: len(path)]:
            at_model.append({*ids, *(ident for several in own.values() for ident in several)})
    _refuse_more_than_models(index, folds.values(), single, shared, at_model)
    fitted = {fold: Operator(index, name, ids[0], ids[0]) for fold, ids in folds.items()}
    if fitted or not single:
        return fitted, None
    if len(single) > 1:
        raise ReplayError(
            f"The model, step {index}, names {len(single)} artifacts and no folds: which of them predicts? "
            "Name the models of folds in 'fold_artifacts'."
        )
    return {}, Operator(index, name, single[0], single[0])


def _refuse_more_than_models(
    index: int,
    folds: Iterable[Sequence[str]],
    single: Sequence[str],
    shared: Sequence[str],
    at_model: Sequence[set[str]],
) -> None:
    """Refuse objects next to the model at its own index: nothing tells what they do, or when."""
    # One entry that names a model of its own besides those of the folds is not a contradiction: the folds predict.
    models = {ident for ids in folds for ident in ids} or set(single)
    strays = set(shared) - models
    if len(at_model) > 1:
        strays |= set().union(*at_model) - models
    if strays:
        raise ReplayError(
            f"Step {index} is the model, and artifact {min(strays)[:12]} belongs to the same step but is not one "
            "of its models; left out, the prediction would be wrong. Give what acts before the model a "
            "'step_idx' below the model's."
        )


Entry = tuple[int, str, Mapping[str, Any]]


def _entries(chain: Mapping[str, Any]) -> list[Entry]:
    steps = chain.get("steps")
    if not isinstance(steps, list | tuple):
        raise InvalidInput(f"The chain's 'steps' must be a list of dicts, found {type(steps).__name__}.")
    entries: list[Entry] = []
    for position, step in enumerate(steps):
        where = f"steps[{position}]"
        if not isinstance(step, Mapping):
            raise InvalidInput(f"{where} must be a dict, found {type(step).__name__}.")
        entries.append((step_number(step.get("step_idx"), f"{where}['step_idx']"), where, step))
    return sorted(entries, key=lambda entry: entry[0])


def _model_index(chain: Mapping[str, Any]) -> int:
    return step_number(chain.get("model_step_idx"), "The chain's 'model_step_idx'")


def _refuse_strays(named: set[int], known: set[int], model_index: int) -> None:
    strays = sorted(index for index in named - known if index < model_index)
    if strays:
        raise ReplayError(
            f"'shared_artifacts' names artifacts for step {strays[0]}, which is not among the chain's steps "
            f"{sorted(known)}; left out, the prediction would be wrong."
        )


def _branch(chain: Mapping[str, Any], entries: list[Entry], model_index: int) -> tuple[int, ...]:
    path = chain.get("branch_path")
    if not path:
        path = next(
            (e.get("branch_path") for i, _, e in entries if i == model_index and e.get("branch_path")), ()
        )
    return _path(path, "The chain's 'branch_path'")


def _on_branch(entry: Mapping[str, Any], where: str, branch: tuple[int, ...]) -> bool:
    path = _entry_path(entry, where)
    if path and not branch:
        raise ReplayError(
            f"{where} ran in branch {list(path)}, but the model belongs to no branch: it was fitted on merged "
            "branches. Say how, with a step of the type 'merge' after them."
        )
    return path == branch[: len(path)]


def _path(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"{where} must be a list of numbers, found {value!r}.")
    return tuple(step_number(item, where) for item in value)


def _read(
    position: int,
    entry: Mapping[str, Any],
    where: str,
    shared: tuple[str, ...],
    sources: dict[int, tuple[str, ...]] | None,
) -> Step:
    own, by_fold = step_ids(entry, where), step_fold_ids(entry, where)
    name = str(entry.get("operator_class") or "")
    kind = step_kind(entry.get("operator_type"), name, bool(own or by_fold or shared or sources))
    index = step_number(entry["step_idx"], where)
    label = f"Step {index} ({name})"
    check_kind(kind, label)
    params = entry.get("params") or {}
    if not isinstance(params, Mapping):
        raise InvalidInput(f"{where}['params'] must be a dict, found {type(params).__name__}.")
    private = {artifact_id for ids in by_fold.values() for artifact_id in ids}
    if sources is not None:
        if by_fold:
            raise ReplayError(f"{label} has fitted objects both for each fold and for each source.")
        apart = {artifact_id for ids in sources.values() for artifact_id in ids}
        if strays := set(own + shared) - apart:
            raise ReplayError(
                f"{label} names {sorted(strays)[0]!r}, which its source map gives to no source."
            )
    # Some writers list the objects of the folds among the others as well.
    ids = tuple(artifact_id for artifact_id in own if artifact_id not in private)
    return Step(
        index,
        position,
        kind,
        name,
        deepcopy(dict(params)),
        bool(entry.get("stateless")),
        ids,
        by_fold,
        sources,
    )


def _settle(steps: list[Step], shared: tuple[str, ...]) -> list[Step]:
    """Bring together what the steps of one index name themselves and what ``shared_artifacts`` names."""
    if not steps:
        return []
    private = {artifact_id for step in steps for ids in step.by_fold.values() for artifact_id in ids}
    shared = tuple(artifact_id for artifact_id in shared if artifact_id not in private)
    own = tuple(artifact_id for step in steps for artifact_id in step.ids)
    apart = steps[0].sources is not None
    if len(steps) > 1 and apart:
        raise ReplayError(
            f"{steps[0].where} has several operators and a source map, which contradict each other."
        )
    if not shared or apart or own == shared:
        return steps
    if own:
        raise ReplayError(
            f"{steps[0].where} names the artifacts {list(own)}, but 'shared_artifacts' names {list(shared)} "
            "for it. The two must agree."
        )
    first = steps[0]
    if len(steps) > 1 and any(step.kind != TRANSFORM or step.stateless or step.by_fold for step in steps):
        raise ReplayError(
            f"Step {first.index} has {len(steps)} operators, and 'shared_artifacts' does not say which "
            "artifact belongs to which. Name them in the steps, under 'artifact_id'."
        )
    return [replace(first, position=0, ids=shared, sources=None, branches=())]
