"""How a chain travels: which objects, in which steps, and what had to be rearranged for version 1.0.

Version 1.0 knows a row of steps and one model for each fold. What each fold does for itself is put into its model,
and fitted classifiers become one, because other readers would average their labels.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import Member, ReplayPlan, Stage
from nirs_store.chains.replay import union
from nirs_store.chains.steps import AUGMENTATION, TARGETS, TRANSFORM, Operator
from nirs_store.errors import ReplayError

Array = NDArray[Any]

# Protocol, frame, the names of a module and a class with their lengths, and that an object of the class is made.
_NEW_OBJECT = re.compile(
    rb"\x80[\x04\x05]\x95.{8}\x8c(.)(sklearn\.[\w.]+)\x94\x8c(.)(\w+)\x94\x93\x94\)\x81", re.DOTALL
)


@dataclass(frozen=True)
class Made:
    """An object that was put together for the bundle, and so has no blob yet."""

    value: Any

    @property
    def name(self) -> str:
        """Full name of its class."""
        return f"{type(self.value).__module__}.{type(self.value).__qualname__}"


Part = Operator | Made


@dataclass(frozen=True)
class Step:
    """One step of the bundle before its model."""

    index: int
    kind: str
    parts: tuple[Part, ...] = ()
    by_source: Mapping[int, tuple[Part, ...]] | None = None
    by_fold: Mapping[str, tuple[Part, ...]] | None = None


@dataclass(frozen=True)
class Layout:
    """The kinds of members that are written."""

    steps: tuple[Step, ...]
    models: Mapping[str | None, Part]
    weights: Mapping[str, float] | None
    expressible: bool
    notes: tuple[str, ...] = ()

    @property
    def rearranged(self) -> bool:
        """Whether anything was put together for the bundle."""
        parts = [*self.models.values(), *(part for step in self.steps for part in step.parts)]
        return any(isinstance(part, Made) for part in parts)


class _CannotExpress(Exception):
    """Version 1.0 has no place for this chain; the reason is the argument."""


def lay_out(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> Layout:
    """Bring a chain into the form of version 1.0, or keep it as it is and say why."""
    try:
        return _express(plan, bench, peek)
    except _CannotExpress as reason:
        return as_it_is(plan, str(reason))


def inexpressible(reason: str) -> str:
    """Say that only this library can predict with a bundle, and why."""
    return (
        f"Version 1.0 of the format cannot express this chain: {reason}. "
        "Only nirs_store can predict with this bundle."
    )


def as_it_is(plan: ReplayPlan, reason: str) -> Layout:
    """Lay a chain out as this library replays it, without regard for version 1.0."""
    first, alone = plan.members[0], len(plan.members) == 1
    steps: list[Step] = []
    for place, stage in enumerate(first.stages):
        if stage.by_source is not None:
            steps.append(replace(_step(stage), by_source=dict(stage.by_source)))
        elif place < plan.n_shared or all(member.stages[place] == stage for member in plan.members):
            steps.append(_step(stage))
        else:
            own = {str(member.fold): tuple(member.stages[place].operators) for member in plan.members}
            steps.append(replace(_step(stage), parts=(), by_fold=own))
    steps += _target_steps(plan.targets)
    if alone:
        steps += _target_steps(first.targets)
    else:
        for place, target in enumerate(first.targets):
            own = {str(member.fold): (member.targets[place],) for member in plan.members}
            steps.append(Step(target.step_idx, TARGETS, by_fold=own))
    models = {member.fold: member.model for member in plan.members}
    return Layout(tuple(steps), models, _weights(plan), False, (inexpressible(reason),))


def _express(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> Layout:
    if plan.sources:
        raise _CannotExpress(f"it keeps {len(plan.sources)} sources of spectra apart")
    notes: list[str] = []
    if plan.source_index is not None:
        notes.append(f"The chain uses source {plan.source_index} of several; readers must be given that one.")
    _note_wavelengths(plan, bench, notes)
    first, alone = plan.members[0], len(plan.members) == 1
    targets = _one_target((*plan.targets, *(first.targets if alone else ())), bench, notes)
    models: dict[str | None, Part] = {member.fold: member.model for member in plan.members}
    if not alone and _classifies(plan, bench, peek):
        models = {None: _one_classifier(plan, bench, notes)}
    elif not alone:
        models = {member.fold: _whole_regressor(plan, member, bench) for member in plan.members}
        if any(isinstance(model, Made) for model in models.values()):
            notes.append(
                "Steps that each fold fitted for itself travel with its model, as one estimator per fold."
            )
    weights = _weights(plan) if len(models) > 1 else None
    stages = _joined(map(_step, first.stages[: plan.n_shared]))
    return Layout((*stages, *targets), models, weights, True, tuple(notes))


def _step(stage: Stage) -> Step:
    return Step(stage.step_idx, AUGMENTATION if stage.augments else TRANSFORM, tuple(stage.operators))


def _target_steps(targets: Sequence[Operator]) -> list[Step]:
    return _joined(Step(target.step_idx, TARGETS, (target,)) for target in targets)


def _joined(steps: Iterable[Step]) -> list[Step]:
    """Join neighbors of one number, whose objects act one after the other."""
    found: list[Step] = []
    for step in steps:
        last = found[-1] if found else None
        if last and (last.index, last.kind) == (step.index, step.kind) and step.kind != AUGMENTATION:
            found[-1] = replace(last, parts=(*last.parts, *step.parts))
        else:
            found.append(step)
    return found


def _one_target(targets: Sequence[Operator], bench: Workbench, notes: list[str]) -> list[Step]:
    """Return the target steps; several become one, because other readers may undo them in another order."""
    if len(targets) < 2:
        return _target_steps(targets)
    if any(bench.open(target)[1].one_d_targets for target in targets):
        raise _CannotExpress("it encodes labels in several steps")
    notes.append("Several target transformers travel as one Pipeline, which undoes them in reverse order.")
    whole = in_sequence([bench.open(target)[0] for target in targets])
    return [Step(targets[0].step_idx, TARGETS, (Made(whole),))]


def _note_wavelengths(plan: ReplayPlan, bench: Workbench, notes: list[str]) -> None:
    # No method of scikit-learn's own classes takes wavelengths.
    others = [operator for operator in plan.operators if not operator.name.startswith("sklearn.")]
    wanting = [operator.where for operator in others if bench.open(operator)[1].wavelengths]
    if wanting:
        notes.append(f"{wanting[0]} takes wavelengths, which other readers of version 1.0 do not pass on.")


def _weights(plan: ReplayPlan) -> Mapping[str, float] | None:
    if plan.weights is None or len(plan.members) == 1:
        return None
    return {str(member.fold): float(member.weight or 0.0) for member in plan.members}


# -- Regressors or classifiers.


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
    """Whether a pickle makes an object of one of scikit-learn's regressors: its first bytes tell."""
    begun = _NEW_OBJECT.match(data)
    if begun is None or [len(begun[2]), len(begun[4])] != [begun[1][0], begun[3][0]]:
        return False
    try:
        module = importlib.import_module(begun[2].decode())
    except ImportError:  # of another version of scikit-learn
        return False
    made = getattr(module, begun[4].decode(), None)
    return isinstance(made, type) and issubclass(made, RegressorMixin)


# -- What each fold does for itself, in one estimator.


def _sequence(plan: ReplayPlan, member: Member, bench: Workbench) -> Any:
    """Put a fold's own steps and its model into one estimator."""
    own = member.stages[plan.n_shared :]
    for operator in (*(operator for stage in own for operator in stage.operators), member.model):
        if bench.open(operator)[1].wavelengths:
            raise _CannotExpress(f"{operator.where} takes wavelengths, and each fold has its own")
    parts: list[Any] = []
    for stage in own:
        objects = [bench.open(operator)[0] for operator in stage.operators]
        parts += [augmented(objects)] if stage.augments else objects
    model = bench.open(member.model)[0]
    return in_sequence([*parts, model]) if parts else model


def _whole_regressor(plan: ReplayPlan, member: Member, bench: Workbench) -> Part:
    if not member.stages[plan.n_shared :] and not member.targets:
        return member.model
    whole = _sequence(plan, member, bench)
    if member.targets:
        if any(bench.open(target)[1].one_d_targets for target in member.targets):
            raise _CannotExpress("each fold encodes labels in its own way")
        undoing = [bench.open(target)[0] for target in member.targets]
        whole = undo_targets(whole, undoing, _gives_one_d(member, bench))
    return Made(whole)


def _gives_one_d(member: Member, bench: Workbench) -> bool:
    unknown = _CannotExpress(f"the shape that {member.model.where} predicts is not known beforehand")
    n_features = bench.open(member.model)[1].n_features
    if n_features is None:
        raise unknown
    try:
        found = np.asarray(bench.call(member.model, "predict", np.zeros((1, n_features))))
    except ReplayError as error:
        raise unknown from error
    return found.ndim == 1


def _one_classifier(plan: ReplayPlan, bench: Workbench, notes: list[str]) -> Made:
    whole = [_sequence(plan, member, bench) for member in plan.members]
    models = [bench.open(member.model)[0] for member in plan.members]
    labels = [getattr(model, "classes_", None) for model in models]
    classes = [own for own in labels if isinstance(own, np.ndarray)]
    if len(classes) < len(labels):
        raise _CannotExpress("its classifiers predict several outputs, or do not name their labels")
    soft = all(hasattr(model, "predict_proba") for model in models)
    if not soft and any(member.targets for member in plan.members):
        raise _CannotExpress("each fold encodes its labels in its own way, and has no probabilities")
    for place, member in enumerate(plan.members):
        for target in reversed(member.targets):
            classes[place] = bench.undo(target, classes[place])
    known = union(classes)
    how = "averages their probabilities" if soft else "counts their votes"
    notes.append(f"The classifiers of {len(whole)} folds travel as one, which {how}.")
    if soft:
        return Made(average_probabilities(whole, classes, known, plan.weights))
    return Made(count_votes(whole, known, plan.weights))


# -- Fitted scikit-learn objects put together from parts that are fitted already.


def in_sequence(parts: Sequence[Any]) -> Any:
    """Put fitted transformers, and perhaps a model at the end, into one fitted Pipeline."""
    from sklearn.pipeline import Pipeline

    return Pipeline([(f"step_{number}", part) for number, part in enumerate(parts)])


def augmented(transformers: Sequence[Any]) -> Any:
    """Put fitted transformers side by side, their input first: ``hstack([X, t1(X), t2(X), ...])``."""
    from sklearn.pipeline import FeatureUnion

    named = [(f"part_{number}", transformer) for number, transformer in enumerate(transformers)]
    return FeatureUnion([("input", "passthrough"), *named])


def undo_targets(model: Any, transformers: Sequence[Any], one_d: bool) -> Any:
    """Let a fitted regressor undo the target transformers that it was trained behind."""
    from sklearn.compose import TransformedTargetRegressor

    undoing = transformers[0] if len(transformers) == 1 else in_sequence(transformers)
    whole = TransformedTargetRegressor(regressor=model, transformer=undoing, check_inverse=False)
    whole.regressor_ = model
    whole.transformer_ = undoing
    whole._training_dim = 1 if one_d else 2
    return whole


def average_probabilities(
    models: Sequence[Any], classes: Sequence[Array], known: Array, weights: Sequence[float] | None
) -> Any:
    """Make one classifier that averages the probabilities of fitted ones."""
    from sklearn.ensemble import VotingClassifier
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import Bunch

    if not all(np.array_equal(known, own) for own in classes):
        # A label that a fold never saw has no column there, which VotingClassifier cannot take. Its
        # replacement gives labels only.
        shares = [1.0] * len(models) if weights is None else list(weights)
        blocks = [
            share * (known[:, np.newaxis] == own[np.newaxis, :]).astype(np.float64)
            for share, own in zip(shares, classes, strict=True)
        ]
        columns = [_calling(model, "predict_proba") for model in models]
        return _largest_sum(columns, np.hstack(blocks) / sum(shares), known)
    named = [(f"fold_{number}", model) for number, model in enumerate(models)]
    whole = VotingClassifier(named, voting="soft", weights=None if weights is None else list(weights))
    whole.estimators_ = list(models)
    whole.named_estimators_ = Bunch(**dict(named))
    whole.le_ = LabelEncoder().fit(known)
    whole.classes_ = whole.le_.classes_
    return whole


def count_votes(models: Sequence[Any], known: Array, weights: Sequence[float] | None) -> Any:
    """Make one classifier that gives the label for which most fitted ones vote; a tie goes to the first."""
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    shares = [1.0] * len(models) if weights is None else list(weights)
    columns = []
    for model in models:
        ballots = OneHotEncoder(categories=[known], sparse_output=False).fit(known.reshape(-1, 1))
        upright = FunctionTransformer(np.expand_dims, kw_args={"axis": 1})
        columns.append(in_sequence([_calling(model, "predict"), upright, ballots]))
    blocks = [share * np.eye(len(known)) for share in shares]
    return _largest_sum(columns, np.hstack(blocks), known)


def _calling(model: Any, method: str) -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(getattr(model, method))


def _largest_sum(columns: Sequence[Any], shares: Array, known: Array) -> Any:
    """Choose for each sample the label with the largest weighted sum of columns."""
    from sklearn.pipeline import FeatureUnion
    from sklearn.svm import LinearSVC

    # Linear, and without a predict_proba: a sum of votes is not a probability.
    chooser = LinearSVC()
    if len(known) > 2:
        chooser.coef_ = shares
    elif len(known) == 2:
        # scikit-learn keeps one row for two labels: its sign decides, and 0 means the first.
        chooser.coef_ = shares[1:] - shares[:1]
    else:
        chooser.coef_ = np.zeros_like(shares)
    chooser.intercept_ = np.zeros(len(chooser.coef_))
    chooser.classes_ = known
    chooser.n_features_in_ = shares.shape[1]
    chooser.n_iter_ = 0
    together = FeatureUnion([(f"fold_{number}", column) for number, column in enumerate(columns)])
    return in_sequence([together, chooser])
