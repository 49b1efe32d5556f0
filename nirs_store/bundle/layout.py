"""How a chain travels: which objects, in which steps, and what had to be rearranged for version 1.0.

Version 1.0 of the format is a row of steps with shared transformers, then one model or one model a fold whose
predictions are averaged. `lay_out` brings a chain into that form where it can be done exactly, and says where
not.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin

from nirs_store.bundle import prefit
from nirs_store.chains.combine import union
from nirs_store.chains.kinds import AUGMENTATION, TARGETS, TRANSFORM
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import Member, Operator, ReplayPlan, Stage
from nirs_store.errors import ReplayError

__all__ = ["Layout", "Made", "Step", "as_it_is", "lay_out"]


@dataclass(frozen=True)
class Made:
    """An object that was put together for the bundle, and so has no blob yet."""

    name: str
    value: Any


Part = Operator | Made

# Protocol, frame, the names of a module and a class with their lengths, and that an object of the class is made.
_NEW_OBJECT = re.compile(
    rb"\x80[\x04\x05]\x95.{8}\x8c(.)(sklearn\.[\w.]+)\x94\x8c(.)(\w+)\x94\x93\x94\)\x81", re.DOTALL
)


@dataclass(frozen=True)
class Step:
    """One step of the bundle before its model.

    Attributes
    ----------
    index : int
        The step of the chain that it comes from.
    kind : str
        "transform", "feature_augmentation" or "y_processing".
    parts : tuple
        The objects that act, in order.
    by_source, by_fold : dict or None
        The objects of each source or fold, where the step could only be carried as it is.
    """

    index: int
    kind: str
    parts: tuple[Part, ...] = ()
    by_source: Mapping[int, tuple[Part, ...]] | None = None
    by_fold: Mapping[str, tuple[Part, ...]] | None = None


@dataclass(frozen=True)
class Layout:
    """What is written.

    Attributes
    ----------
    steps : tuple of Step
        In the order in which they apply.
    models : dict
        Fold to model; the key is None for a chain that has one model and no folds.
    weights : dict or None
        Fold to weight.
    expressible : bool
        Whether a reader of version 1.0 predicts the same.
    notes : tuple of str
        What was rearranged, or why the chain cannot be expressed.
    rearranged : bool
        Whether objects were put together.
    """

    steps: tuple[Step, ...]
    models: Mapping[str | None, Part]
    weights: Mapping[str, float] | None
    expressible: bool
    notes: tuple[str, ...] = field(default=())
    rearranged: bool = False


class _CannotExpress(Exception):
    """Version 1.0 has no place for this chain; the reason is the argument."""


def lay_out(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> Layout:
    """Bring a chain into the form of version 1.0, or keep it as it is and say why.

    Parameters
    ----------
    plan : ReplayPlan
        The chain.
    bench : Workbench
        Loads its objects.
    peek : callable
        Gives the bytes of an artifact. Loading is most of the time that an export takes, so an object whose
        bytes settle the question is not loaded.

    Raises
    ------
    ReplayError
        The chain cannot predict.
    """
    try:
        return _express(plan, bench, peek)
    except _CannotExpress as reason:
        return as_it_is(plan, str(reason))


def as_it_is(plan: ReplayPlan, reason: str) -> Layout:
    """Lay a chain out as this library replays it, without regard for version 1.0."""
    first = plan.members[0]
    steps: list[Step] = []
    for place, stage in enumerate(first.stages):
        kind = AUGMENTATION if stage.augments else TRANSFORM
        if stage.by_source is not None:
            steps.append(Step(stage.step_idx, kind, by_source=dict(stage.by_source)))
        elif place < plan.n_shared or all(m.stages[place] == stage for m in plan.members):
            steps.append(Step(stage.step_idx, kind, tuple(stage.operators)))
        else:
            own = {str(member.fold): tuple(member.stages[place].operators) for member in plan.members}
            steps.append(Step(stage.step_idx, kind, by_fold=own))
    steps += _target_steps(plan.targets)
    if len(plan.members) == 1:
        steps += _target_steps(first.targets)
    else:
        for place, target in enumerate(first.targets):
            own = {str(member.fold): (member.targets[place],) for member in plan.members}
            steps.append(Step(target.step_idx, TARGETS, by_fold=own))
    return Layout(
        tuple(steps),
        {member.fold: member.model for member in plan.members},
        _weights(plan),
        False,
        (
            f"Version 1.0 of the format cannot express this chain: {reason}. "
            "Only nirs_store can predict with this bundle.",
        ),
    )


def _express(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> Layout:
    if plan.sources:
        raise _CannotExpress(f"it keeps {len(plan.sources)} sources of spectra apart")
    notes: list[str] = []
    if plan.source_index is not None:
        notes.append(f"The chain uses source {plan.source_index} of several; readers must be given that one.")
    _note_wavelengths(plan, bench, notes)
    if len(plan.members) == 1:
        member = plan.members[0]
        targets, rearranged = _one_target((*plan.targets, *member.targets), bench, notes)
        return Layout(
            (*_stage_steps(member.stages), *targets),
            {member.fold: member.model},
            None,
            True,
            tuple(notes),
            rearranged,
        )
    targets, rearranged = _one_target(plan.targets, bench, notes)
    shared = plan.members[0].stages[: plan.n_shared]
    models: Mapping[str | None, Part]
    weights: Mapping[str, float] | None
    if _classifies(plan, bench, peek):
        models, weights = {None: _one_classifier(plan, bench, notes)}, None
        rearranged = True
    else:
        models, weights = (
            {member.fold: _whole_regressor(plan, member, bench) for member in plan.members},
            _weights(plan),
        )
        if any(isinstance(model, Made) for model in models.values()):
            rearranged = True
            notes.append(
                "Steps that each fold fitted for itself travel with its model, as one estimator a fold."
            )
    return Layout((*_stage_steps(shared), *targets), models, weights, True, tuple(notes), rearranged)


def _stage_steps(stages: Sequence[Stage]) -> list[Step]:
    steps: list[Step] = []
    for stage in stages:
        kind = AUGMENTATION if stage.augments else TRANSFORM
        last = steps[-1] if steps else None
        if last and last.index == stage.step_idx and last.kind == kind == TRANSFORM:
            steps[-1] = Step(last.index, kind, (*last.parts, *stage.operators))
        else:
            steps.append(Step(stage.step_idx, kind, tuple(stage.operators)))
    return steps


def _target_steps(targets: Sequence[Operator]) -> list[Step]:
    steps: list[Step] = []
    for target in targets:
        if steps and steps[-1].index == target.step_idx:
            steps[-1] = Step(target.step_idx, TARGETS, (*steps[-1].parts, target))
        else:
            steps.append(Step(target.step_idx, TARGETS, (target,)))
    return steps


def _one_target(targets: Sequence[Operator], bench: Workbench, notes: list[str]) -> tuple[list[Step], bool]:
    """Give the target steps; several become one, because other readers may undo them in another order."""
    if len(targets) < 2:
        return _target_steps(targets), False
    if any(bench.open(target)[1].one_d_targets for target in targets):
        raise _CannotExpress("it encodes labels in several steps")
    notes.append("Several target transformers travel as one Pipeline, which undoes them in reverse order.")
    whole = prefit.in_sequence([bench.open(target)[0] for target in targets])
    return [Step(targets[0].step_idx, TARGETS, (Made("sklearn.pipeline.Pipeline", whole),))], True


def _note_wavelengths(plan: ReplayPlan, bench: Workbench, notes: list[str]) -> None:
    # No method of scikit-learn's own classes takes wavelengths.
    others = [operator for operator in plan.operators if not operator.name.startswith("sklearn.")]
    wanting = [operator.where for operator in others if bench.open(operator)[1].wavelengths]
    if wanting:
        notes.append(f"{wanting[0]} takes wavelengths, which other readers of version 1.0 do not pass on.")


def _classifies(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> bool:
    pickles = [peek(member.model.artifact_id) for member in plan.members if member.model.artifact_id]
    # Of anything else only the object itself can tell: a classifier of one's own need not have classes_.
    if all(map(_is_regressor, pickles)):
        return False
    kinds = {bench.open(member.model)[1].classifier for member in plan.members}
    if len(kinds) > 1:
        raise ReplayError(
            "Some models of the folds are classifiers, others are not, so the chain cannot predict and is "
            "not exported."
        )
    return kinds.pop()


def _is_regressor(data: bytes) -> bool:
    """Whether a pickle makes an object of one of scikit-learn's regressors: that stands in its first bytes."""
    begun = _NEW_OBJECT.match(data)
    if begun is None or [len(begun[2]), len(begun[4])] != [begun[1][0], begun[3][0]]:
        return False
    try:
        module = importlib.import_module(begun[2].decode())
    except ImportError:  # of another version of scikit-learn
        return False
    made = getattr(module, begun[4].decode(), None)
    return isinstance(made, type) and issubclass(made, RegressorMixin)


def _own_stages(plan: ReplayPlan, member: Member) -> tuple[Stage, ...]:
    return member.stages[plan.n_shared :]


def _sequence(plan: ReplayPlan, member: Member, bench: Workbench) -> Any:
    """Put a fold's own steps and its model into one estimator."""
    parts: list[Any] = []
    for stage in _own_stages(plan, member):
        objects = [bench.open(operator)[0] for operator in stage.operators]
        parts += [prefit.augmented(objects)] if stage.augments else objects
    model = bench.open(member.model)[0]
    return prefit.in_sequence([*parts, model]) if parts else model


def _refuse_wavelengths(plan: ReplayPlan, member: Member, bench: Workbench) -> None:
    inside = [operator for stage in _own_stages(plan, member) for operator in stage.operators]
    for operator in (*inside, member.model):
        if bench.open(operator)[1].wavelengths:
            raise _CannotExpress(f"{operator.where} takes wavelengths, and each fold has its own")


def _whole_regressor(plan: ReplayPlan, member: Member, bench: Workbench) -> Part:
    if not _own_stages(plan, member) and not member.targets:
        return member.model
    _refuse_wavelengths(plan, member, bench)
    whole = _sequence(plan, member, bench)
    if member.targets:
        if any(bench.open(target)[1].one_d_targets for target in member.targets):
            raise _CannotExpress("each fold encodes labels in its own way")
        undoing = [bench.open(target)[0] for target in member.targets]
        whole = prefit.undo_targets(whole, undoing, _gives_one_d(member, bench))
    return Made(f"{type(whole).__module__}.{type(whole).__qualname__}", whole)


def _gives_one_d(member: Member, bench: Workbench) -> bool:
    n_features = bench.open(member.model)[1].n_features
    if n_features is None:
        raise _CannotExpress(f"the shape that {member.model.where} predicts is not known beforehand")
    try:
        found = np.asarray(bench.call(member.model, "predict", np.zeros((1, n_features))))
    except ReplayError as error:
        raise _CannotExpress(
            f"the shape that {member.model.where} predicts is not known beforehand"
        ) from error
    return found.ndim == 1


def _one_classifier(plan: ReplayPlan, bench: Workbench, notes: list[str]) -> Made:
    for member in plan.members:
        _refuse_wavelengths(plan, member, bench)
    models = [bench.open(member.model)[0] for member in plan.members]
    labels = [getattr(model, "classes_", None) for model in models]
    classes = [own for own in labels if isinstance(own, np.ndarray)]
    if len(classes) < len(labels):
        raise _CannotExpress("its classifiers predict several outputs, or do not name their labels")
    soft = all(hasattr(model, "predict_proba") for model in models)
    if any(member.targets for member in plan.members):
        if not soft:
            raise _CannotExpress("each fold encodes its labels in its own way, and has no probabilities")
        for place, member in enumerate(plan.members):
            for target in reversed(member.targets):
                classes[place] = bench.undo(target, classes[place])
    whole = [_sequence(plan, member, bench) for member in plan.members]
    known = union(classes)
    if soft:
        made = prefit.average_probabilities(whole, classes, known, plan.weights)
        notes.append(
            f"The classifiers of {len(whole)} folds travel as one, which averages their probabilities."
        )
    else:
        made = prefit.count_votes(whole, known, plan.weights)
        notes.append(f"The classifiers of {len(whole)} folds travel as one, which counts their votes.")
    return Made(f"{type(made).__module__}.{type(made).__qualname__}", made)


def _weights(plan: ReplayPlan) -> Mapping[str, float] | None:
    if plan.weights is None or len(plan.members) == 1:
        return None
    return {str(member.fold): float(member.weight or 0.0) for member in plan.members}
