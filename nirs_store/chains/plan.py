"""A chain, checked and compiled: which artifacts apply in which order for each fold and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.folds import (
    REFIT,
    normalise_folds,
    normalise_weights,
    stack_sources,
    step_fold_ids,
    step_number,
)
from nirs_store.chains.grids import name_value, same_names
from nirs_store.chains.steps import (
    AUGMENTATION,
    MERGE,
    STACKED,
    TARGETS,
    Operator,
    Step,
    model_ids,
    read_steps,
)
from nirs_store.errors import InvalidInput, ReplayError, ShapeMismatch
from nirs_store.reading.cells import parse_unit

# -- Names of columns that are not wavelengths: what a calibration was fitted on, and whether a frame has the same.


Names = tuple[str, ...]
COLUMNS = "calibration_columns"
"""Where the metadata of a chain keep the names."""


def text_names(value: Any) -> Names | None:
    """Read a sequence of names; None where they are not text, all of them."""
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    names = tuple(value)
    return names if names and all(isinstance(name, str) for name in names) else None


def require_columns(found: Names, expected: Names, label: str, known: str) -> None:
    """Refuse a frame whose columns are others than those known, or the same in another order."""
    if same_names(found, expected):
        return
    if len(found) != len(expected):
        differ = f"there are {len(found)}, expected {len(expected)}"
    else:
        place = next(
            i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if name_value(a) != name_value(b)
        )
        differ = f"column {place} is {found[place]!r}, expected {expected[place]!r}"
    order = " They are the same in another order." if sorted(found) == sorted(expected) else ""
    raise ShapeMismatch(
        f"The columns of {label} are not those of {known}: {differ}.{order} Put the columns in that order, under "
        "those names; or pass an array, as with X.to_numpy(), where you know that it is in order."
    )


# Pickles of predictors that were written before the first release hold these, those of `steps` and `operators.Facts`:
# as another kind of class they could not be loaded.


@dataclass(frozen=True, slots=True)
class Stage:
    """One step on the way to a model: operators that act one after the other, or side by side."""

    step_idx: int
    augments: bool
    operators: tuple[Operator, ...]
    by_source: tuple[tuple[int, tuple[Operator, ...]], ...] | None = None
    branches: tuple[tuple[Stage, ...], ...] = ()

    @property
    def acting(self) -> tuple[Operator, ...]:
        """Every operator of the stage, those of its sources and branches included."""
        apart = [operator for _, held in self.by_source or () for operator in held]
        inside = [operator for stages in self.branches for stage in stages for operator in stage.acting]
        return (*self.operators, *apart, *inside)


@dataclass(frozen=True, slots=True)
class Member:
    """One model of the ensemble and what leads to it."""

    fold: str | None
    stages: tuple[Stage, ...]
    model: Operator
    targets: tuple[Operator, ...]
    weight: float | None = None


@dataclass(frozen=True)
class ReplayPlan:
    """A chain that has been checked and can be replayed any number of times, from any thread.

    Make one with `from_chain`; it holds ids, never fitted objects.
    """

    chain_id: str
    members: tuple[Member, ...]
    n_shared: int
    targets: tuple[Operator, ...] = ()
    sources: tuple[int, ...] = ()
    source_index: int | None = None
    wavelengths: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    stack: tuple[ReplayPlan, ...] = ()
    stack_method: str = "predict"
    passthrough: bool = False
    columns: Names | None = field(default=None, compare=False, repr=False)
    unit: str | None = field(default=None, compare=False, repr=False)
    # What inspection found out about the operators; derived, so it is not part of the value.
    memory: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def from_chain(cls, chain: Mapping[str, Any]) -> ReplayPlan:
        """Compile a chain as `get_chain` gives it."""
        if not isinstance(chain, Mapping):
            raise InvalidInput(f"A chain must be a dict, found {type(chain).__name__}.")
        source_index = chain.get("source_index")
        if source_index is not None:
            source_index = step_number(source_index, "source_index")
        steps = read_steps(chain)
        models = _models(chain)
        weights = _weights(chain, models)
        common, private = _split_targets([step for step in steps if step.kind == TARGETS])
        members = tuple(
            Member(
                fold,
                tuple(_stage(step, fold, source_index) for step in steps if step.kind != TARGETS),
                model,
                tuple(operator for step in private for operator in step.operators(fold)),
                weights.get(fold) if weights and fold else None,
            )
            for fold, model in models.items()
        )
        sources = () if source_index is not None else _sources(members[0].stages)
        # Metadata are the caller's own: what has another shape under these names means something else.
        metadata = chain.get("metadata")
        named = metadata if isinstance(metadata, Mapping) else {}
        stack, method, passthrough = _stack(chain)
        if stack and not sources:
            sources = next((plan.sources for plan in stack if plan.sources), ())
        return cls(
            chain_id=str(chain.get("chain_id") or ""),
            members=members,
            n_shared=_common_length([member.stages for member in members]),
            targets=tuple(operator for step in common for operator in step.operators(None)),
            sources=sources,
            source_index=source_index,
            wavelengths=_grid(chain.get("wavelengths")),
            stack=stack,
            stack_method=method,
            passthrough=passthrough,
            columns=text_names(named.get(COLUMNS)),
            unit=parse_unit(named.get("wavelength_unit")),
        )

    @property
    def nested(self) -> bool:
        """Whether it is more than a row of steps and one kind of model: merged branches, or a stack."""
        return bool(self.stack) or any(stage.branches for member in self.members for stage in member.stages)

    @property
    def folds(self) -> tuple[str, ...]:
        """The folds whose models take part; empty for a chain with one model and no folds."""
        return tuple(member.fold for member in self.members if member.fold)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weights of the members as stored, or None for a plain mean."""
        weights = tuple(member.weight for member in self.members if member.weight is not None)
        return weights or None

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Every object that a replay uses, each once, in the order of first use."""
        found: dict[str, Operator] = {}
        for base in self.stack:
            found.update((operator.key, operator) for operator in base.operators)
        for member in self.members:
            for stage in member.stages:
                found.update((operator.key, operator) for operator in stage.acting)
            found.update((operator.key, operator) for operator in (member.model, *member.targets))
        found.update((operator.key, operator) for operator in self.targets)
        return tuple(found.values())

    @property
    def artifact_ids(self) -> list[str]:
        """The artifacts that a replay loads; fewer than the chain names where there is only a refit."""
        return [operator.artifact_id for operator in self.operators if operator.artifact_id]

    @property
    def stateless_classes(self) -> list[str]:
        """Classes that a replay imports and instantiates from the chain's own text.

        Who replays a chain from a stranger must check these as well as the artifacts.
        """
        return [operator.name for operator in self.operators if not operator.artifact_id]


def _stack(chain: Mapping[str, Any]) -> tuple[tuple[ReplayPlan, ...], str, bool]:
    """Compile the chains that feed a stacked model."""
    index = step_number(chain.get("model_step_idx"), "The chain's 'model_step_idx'")
    for position, step in enumerate(chain["steps"]):
        if step_number(step.get("step_idx"), "step_idx") != index or step.get("operator_type") != STACKED:
            continue
        # They were recorded on the grid of the stack, and with its columns.
        shared = {name: chain.get(name) for name in ("chain_id", "wavelengths", "metadata")}
        plans = tuple(
            ReplayPlan.from_chain({**source, **shared})
            for source in stack_sources(step, f"steps[{position}]")
        )
        method = str(step.get("stack_method") or "predict")
        if method not in ("predict", "predict_proba"):
            raise ReplayError(
                f"Step {index} asks its sources for {method!r}; expected predict or predict_proba."
            )
        return plans, method, bool(step.get("passthrough"))
    return (), "predict", False


def _models(chain: Mapping[str, Any]) -> dict[str | None, Operator]:
    folds, single = model_ids(chain)
    if REFIT in folds:
        return {REFIT: folds[REFIT]}
    if folds:
        return {fold: folds[fold] for fold in folds}
    return {None: single} if single else _no_model(chain)


def _no_model(chain: Mapping[str, Any]) -> dict[str | None, Operator]:
    metadata = chain.get("metadata") or {}
    if "screening" in metadata or "search" in metadata:
        raise ReplayError(
            "This chain is a candidate whose scores were stored but not its fitted model, so it cannot predict. "
            + (
                "Keep it: store.screen with the same inputs returns the board, and board.keep(chain_id) fits it again."
                if "screening" in metadata
                else "Use the chain that the search chose, or record the search with keep='all'."
            )
        )
    raise ReplayError(
        f"The chain has no fitted model: 'fold_artifacts' is empty, and no artifact is named for its model, "
        f"step {chain.get('model_step_idx')!r}. A chain without a model cannot predict."
    )


def _weights(chain: Mapping[str, Any], models: Mapping[str | None, Operator]) -> dict[str, float] | None:
    stored = normalise_weights(chain.get("fold_weights"))
    if stored is None or None in models or REFIT in models:
        return None
    folds = [fold for fold in models if fold]
    weights = {fold: weight for fold, weight in stored.items() if fold != REFIT}
    if set(weights) != set(folds):
        raise ReplayError(
            f"The weights do not fit the models: fold_weights has {sorted(weights)}, the models are those of "
            f"{sorted(folds)}. Each fold needs one model and one weight."
        )
    if not any(weights.values()):
        raise ReplayError("All folds that have a model have the weight 0; at least one must count.")
    return weights


def _split_targets(steps: list[Step]) -> tuple[list[Step], list[Step]]:
    """Split the target steps: those shared by all folds, and from the first private one onwards."""
    # A shared step that comes after a private one has to be undone before it, hence for each fold.
    for position, step in enumerate(steps):
        if step.sources is not None:
            raise ReplayError(f"{step.where} transforms targets, which have no sources; drop its source map.")
        if step.by_fold:
            return steps[:position], steps[position:]
    return steps, []


def _stage(step: Step, fold: str | None, source_index: int | None) -> Stage:
    augments = step.kind == AUGMENTATION
    if step.kind == MERGE:
        if any(inner.kind == TARGETS for steps in step.branches for inner in steps):
            raise ReplayError(
                f"{step.where} merges branches that transform targets; do that before branching."
            )
        inside = tuple(tuple(_stage(inner, fold, source_index) for inner in steps) for steps in step.branches)
        return Stage(step.index, False, (), None, inside)
    if step.sources is None:
        return Stage(step.index, augments, step.operators(fold))
    if source_index is None:
        apart = tuple((source, step.of_source(source)) for source in step.sources)
        return Stage(step.index, augments, (), apart)
    if source_index not in step.sources:
        raise ReplayError(
            f"{step.where} has no artifacts for source {source_index}, which the chain uses; "
            f"its source map names {sorted(step.sources)}."
        )
    return Stage(step.index, augments, step.of_source(source_index))


def _sources(stages: tuple[Stage, ...]) -> tuple[int, ...]:
    """Return the sources that are treated apart, after checking that they can be."""
    merged: Stage | None = None
    names: tuple[int, ...] = ()
    for stage in stages:
        if stage.branches:
            for inside in stage.branches:
                found = _sources(inside)
                if found and (merged is not None or (names and names != found)):
                    raise ReplayError(
                        f"Step {stage.step_idx} merges branches that treat the sources {list(found)} apart, where "
                        f"{'they are merged already' if merged else f'others have {list(names)}'}."
                    )
                names = names or found
            merged = merged or stage
            continue
        if stage.by_source is None:
            merged = merged or stage
            continue
        found = tuple(source for source, _ in stage.by_source)
        if merged is not None:
            raise ReplayError(
                f"Step {stage.step_idx} treats sources apart, but step {merged.step_idx} before it has no "
                "source map, so the sources are already merged there."
            )
        if names and found != names:
            raise ReplayError(
                f"Step {stage.step_idx} names the sources {list(found)}, an earlier step {list(names)}. "
                "Name every source at each step; an empty list passes a source on unchanged."
            )
        names = found
    return names


def _common_length(paths: list[tuple[Stage, ...]]) -> int:
    length = 0
    for stages in zip(*paths, strict=True):
        if any(stage != stages[0] for stage in stages):
            break
        length += 1
    return length


def _grid(value: Any) -> NDArray[np.float64] | None:
    if value is None:
        return None
    try:
        grid = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        grid = np.array([np.nan])
    if grid.ndim != 1 or not grid.size or not np.isfinite(grid).all():
        raise InvalidInput("The chain's 'wavelengths' must be one finite number for each channel.")
    grid.flags.writeable = False
    return grid


# -- What is refused when a chain is saved, because it could never predict.


def check_numbers(steps: Sequence[Mapping[str, Any]], model_step_idx: object, source_index: object) -> None:
    """Check the numbers of the steps, of the model's step and of the source."""
    for position, step in enumerate(steps):
        step_number(step.get("step_idx"), f"steps[{position}]['step_idx']")
    step_number(model_step_idx, "model_step_idx")
    if source_index is not None:
        step_number(source_index, "source_index")


def check_weights(
    weights: Mapping[Any, Any] | None,
    fold_artifacts: Mapping[Any, Any] | None,
    steps: Sequence[Mapping[str, Any]],
    model_step_idx: object,
) -> None:
    """Check that the weights are numbers that can weigh, and fit the models that they are to weigh."""
    # Those of a chain with a refit, or with one model alone, weigh nothing, whatever their folds.
    named = normalise_weights(weights)
    if named is None:
        return
    folds = set(normalise_folds(fold_artifacts, "fold_artifacts"))
    for position, step in enumerate(steps):
        if not folds and step.get("step_idx") == model_step_idx:
            folds = set(step_fold_ids(step, f"steps[{position}]"))
    if not folds or REFIT in folds:
        return
    weighed = {fold: weight for fold, weight in named.items() if fold != REFIT}
    if set(weighed) != folds or not any(weighed.values()):
        raise InvalidInput(
            f"fold_weights: expected a weight for each of the models of {sorted(folds)}, at least one above 0, "
            f"found {weighed}. Nothing was recorded."
        )
