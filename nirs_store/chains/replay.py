"""Predicting new spectra with a stored chain, exactly as its fitted objects would by hand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.operators import (
    Load,
    Workbench,
    own_copy,
)
from nirs_store.chains.plan import Member, Names, ReplayPlan, Stage, text_names
from nirs_store.chains.spectra import MODERATE, Spectra, magnitude, read_spectra
from nirs_store.chains.steps import Operator
from nirs_store.errors import ReplayError
from nirs_store.lazy import imported_from
from nirs_store.reading import Spectra as ReadSpectra
from nirs_store.values import is_frame

# -- Bringing the predictions of several folds together.


Array = NDArray[Any]


def mean(values: Sequence[Array], weights: Sequence[float] | None) -> Array:
    """Average predictions of equal shape over folds."""
    shapes = sorted({value.shape for value in values})
    if len(shapes) > 1:
        raise ReplayError(f"The models of the folds predict arrays of different shapes: {shapes}.")
    stacked = np.stack(values)
    return np.asarray(
        np.mean(stacked, axis=0) if weights is None else np.average(stacked, axis=0, weights=weights)
    )


def union(classes: Sequence[Array]) -> Array:
    """Sort all labels that any fold knows, each once."""
    if len({"number" if labels.dtype.kind in "biuf" else labels.dtype.kind for labels in classes}) > 1:
        types = sorted({str(labels.dtype) for labels in classes})
        raise ReplayError(f"The models of the folds use labels of different types: {types}.")
    first = classes[0]
    if all(np.array_equal(first, labels) for labels in classes[1:]):
        return np.unique(first)
    return np.unique(np.concatenate(classes))


def align(proba: Array, classes: Array, known: Array) -> Array:
    """Put the columns of one fold's probabilities under the labels of all folds."""
    if proba.ndim != 2 or proba.shape[1] != len(classes):
        raise ReplayError(
            f"A model knows {len(classes)} classes, but gave probabilities of shape {proba.shape}."
        )
    if np.array_equal(classes, known):
        return proba
    aligned = np.zeros((len(proba), len(known)), dtype=proba.dtype)
    aligned[:, np.searchsorted(known, classes)] = proba
    return aligned


def vote(labels: Sequence[Array], weights: Sequence[float] | None) -> Array:
    """Return each sample the label that most folds chose, or that has the largest sum of weights."""
    # Of labels with equally many votes the first in sorted order wins, as in scikit-learn's VotingClassifier. Labels of
    # several outputs are voted on one by one.
    known = union([column.ravel() for column in labels])
    shapes = sorted({column.shape for column in labels})
    if len(shapes) > 1:
        raise ReplayError(f"The models of the folds predict arrays of different shapes: {shapes}.")
    shares = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    votes = np.tensordot(shares, np.stack(labels)[..., np.newaxis] == known, axes=1)
    return np.asarray(known[np.argmax(votes, axis=-1)])


class ReplaysChains(Protocol):
    """What `replay_chain` needs of a store."""

    def replay_chain(self, chain_id: str, X: Any, wavelengths: Any = None) -> Array:
        """Predict with a stored chain."""
        ...


def replay_chain(store: ReplaysChains, chain_id: str, X: Any, wavelengths: Any = None) -> Array:
    """Predict new spectra with a chain of a store.

    Parameters
    ----------
    store : WorkspaceStore
        The store that holds the chain.
    chain_id : str
        The chain.
    X : array or data frame of shape (n_samples, n_channels)
        Spectra on the grid that the chain was trained on.
    wavelengths : array of shape (n_channels,), optional
        Their wavelengths, in the unit of the chain.

    Returns
    -------
    ndarray
        What ``store.replay_chain`` gives.

    Examples
    --------
    >>> class Store:
    ...     def replay_chain(self, chain_id, X, wavelengths=None):
    ...         return np.zeros(len(X))
    >>> replay_chain(Store(), "a-chain", np.ones((2, 3)))
    array([0., 0.])
    """
    return store.replay_chain(chain_id=chain_id, X=X, wavelengths=wavelengths)


def predict(plan: ReplayPlan, X: Any, load: Load, wavelengths: Any = None) -> Array:
    """Predict with a compiled chain."""
    return _predict(_Run(plan, X, load, wavelengths))


def predict_watched(
    plan: ReplayPlan, X: Any, load: Load, wavelengths: Any = None, *, before: int = 0
) -> tuple[Array, Array | None, list[Any]]:
    """Predict, and return what the models got as well; parameters and errors are those of `predict`."""
    run = _Run(plan, X, load, wavelengths, watched=True)
    y = _predict(run)
    inputs = run.inputs(before)
    proba = run.probabilities()[0] if run.classifies() and run.knows_probabilities() else None
    return y, proba, inputs


def _predict(run: _Run) -> Array:
    plan = run.plan
    members = plan.members
    if len(members) == 1:
        y = run.predictions()[0]
    elif not run.classifies():
        y = mean(run.predictions(), plan.weights)
    elif run.knows_probabilities():
        proba, classes = run.probabilities()
        y = classes[np.argmax(proba, axis=1)]
    else:
        y = vote(run.predictions(), plan.weights)
    return run.undo(plan.targets, y)


def predict_each(plan: ReplayPlan, X: Any, load: Load, wavelengths: Any = None) -> list[Array]:
    """Predict with every member on its own; parameters and errors are those of `predict`."""
    run = _Run(plan, X, load, wavelengths)
    return [run.undo(plan.targets, y) for y in run.predictions()]


def predict_proba(plan: ReplayPlan, X: Any, load: Load, wavelengths: Any = None) -> Array:
    """Return class probabilities; parameters and errors are those of `predict`."""
    run = _Run(plan, X, load, wavelengths)
    run.require_probabilities()
    if len(plan.members) == 1:
        return run.outputs("predict_proba")[0]
    return run.probabilities()[0]


def model_input(plan: ReplayPlan, X: Any, load: Load, wavelengths: Any = None, *, without: int = 0) -> Array:
    """Return spectra as the model of a chain gets them; parameters and errors are those of `predict`."""
    run = _Run(plan, X, load, wavelengths)
    stages = plan.members[0].stages
    return np.asarray(run.walk(stages[: len(stages) - without]), dtype=np.float64)


def predicted_classes(plan: ReplayPlan, load: Load) -> Array:
    """Return the labels that a classification chain can predict, in the order of `predict_proba`'s columns."""
    bench = Workbench(load, plan.memory)
    known = [_classes(bench, member) for member in plan.members]
    classes = known[0] if len(known) == 1 else union(known)
    # Without targets to undo these are the model's own, which the caller must not be able to change.
    return np.array(_undo(bench, plan.targets, classes))


class _Run:
    """One replay: the spectra after the steps that all members share, and what leads on from there."""

    __slots__ = ("_after_shared", "_bench", "_entered", "_given", "_last", "_n_samples", "_seen", "plan")

    def __init__(
        self, plan: ReplayPlan, X: Any, load: Load, wavelengths: Any, *, watched: bool = False
    ) -> None:
        self.plan = plan
        if isinstance(X, ReadSpectra):
            X, wavelengths = X.X, X.wavelengths if wavelengths is None else wavelengths
        # What went into every model, and into the step before it, by fold.
        self._seen: dict[str | None, tuple[Spectra, Spectra]] | None = {} if watched else None
        self._bench = Workbench(load, plan.memory)
        spectra = (
            self._stacked(X, wavelengths)
            if plan.stack
            else read_spectra(plan, X, wavelengths, self._adapts, self._fitted_columns)
        )
        self._given = self._last = spectra
        self._bench.finite = spectra.finite
        self._n_samples = len(spectra.parts[0])
        self._after_shared = self._shared(spectra, plan.members[0].stages[: plan.n_shared])
        self._entered = self._last

    def _shared(self, spectra: Spectra, stages: Sequence[Stage]) -> Spectra:
        """Take the spectra through the steps that all members share."""
        operators = stages[0].operators if len(stages) == 1 else ()
        if not spectra.moderate or len(operators) != 1 or not self._bench.facts(operators[0]).plain:
            return self._walk(spectra, stages)
        # The only step would look at the numbers that were just looked at. Of several, the second must.
        with _assume_finite():
            return self._walk(spectra, stages)

    def _stacked(self, X: Any, wavelengths: Any) -> Spectra:
        """Return the predictions of a stack's sources, side by side: its input in place of spectra."""
        ask = predict_proba if self.plan.stack_method == "predict_proba" else predict
        columns = [np.asarray(ask(base, X, self._bench.load, wavelengths)) for base in self.plan.stack]
        table = np.column_stack([_numbers(column) for column in columns])
        if self.plan.passthrough:
            own = read_spectra(self.plan, X, wavelengths).merged()
            table = np.hstack([table, own.parts[0]])
        return Spectra((table,), (None,), bool(np.isfinite(table).all()))

    def predictions(self) -> list[Array]:
        """Predict with every member, its own target transformers undone."""
        given = self.outputs("predict")
        return [self.undo(m.targets, y) for m, y in zip(self.plan.members, given, strict=True)]

    def outputs(self, method: str) -> list[Array]:
        """Take the spectra through every member's own steps and call its model."""
        members = self.plan.members
        if not self._needs_one_check():
            return [self._output(member, method) for member in members]
        # Every model would look at the same numbers again, and be told the same.
        with _assume_finite():
            found = [self._output(member, method) for member in members]
        if all(y.dtype.kind != "f" or np.isfinite(y).all() for y in found):
            return found
        # An overflow inside a model: whether that is an answer or an error, the model says.
        return [self._output(member, method) for member in members]

    def _needs_one_check(self) -> bool:
        """Whether all models get the same numbers, finite in every precision, and check no others."""
        if any(len(member.stages) > self.plan.n_shared for member in self.plan.members):
            return False
        parts = self._after_shared.parts
        if len(parts) > 1 or not isinstance(parts[0], np.ndarray) or parts[0].dtype.kind != "f":
            return False
        plain = all(self._bench.facts(member.model).plain for member in self.plan.members)
        return plain and magnitude(parts[0]) <= MODERATE

    def inputs(self, before: int) -> list[Any]:
        """Return what every model got, or what came into the step before it."""
        seen = self._seen or {}
        return [seen[member.fold][before].merged().parts[0] for member in self.plan.members]

    def walk(self, stages: Sequence[Stage]) -> Any:
        """Return the spectra that were given, after some steps."""
        return self._walk(self._given, stages).merged().parts[0]

    def _output(self, member: Member, method: str) -> Array:
        self._last = self._entered
        spectra = self._walk(self._after_shared, member.stages[self.plan.n_shared :]).merged()
        if self._seen is not None:
            self._seen[member.fold] = (spectra, self._last)
        result = np.asarray(self._bench.call(member.model, method, spectra.parts[0], spectra.grids[0]))
        if not result.ndim or len(result) != self._n_samples:
            raise ReplayError(
                f"{member.model.where} gave a result of shape {result.shape} for {self._n_samples} samples."
            )
        # An object of unknown make may hand out an array that it goes on using.
        return result if self._bench.facts(member.model).leaves_input else own_copy(result)

    def undo(self, targets: Sequence[Operator], y: Array) -> Array:
        """Transform predictions back to the unit, or the labels, of the measured targets."""
        return _undo(self._bench, targets, y)

    def classifies(self) -> bool:
        """Tell whether the members are classifiers; they must agree."""
        kinds = {self._bench.facts(member.model).classifier for member in self.plan.members}
        if len(kinds) > 1:
            raise ReplayError(
                "Some models of the folds are classifiers, others are not; they cannot be combined."
            )
        return kinds.pop()

    def knows_probabilities(self) -> bool:
        """Tell whether every member has ``predict_proba`` for a single output."""
        models = [self._bench.open(member.model)[0] for member in self.plan.members]
        return all(hasattr(model, "predict_proba") and _single_output(model) for model in models)

    def require_probabilities(self) -> None:
        """Refuse a chain that cannot give probabilities, naming the reason."""
        for member in self.plan.members:
            model = self._bench.open(member.model)[0]
            if not hasattr(model, "predict_proba"):
                raise ReplayError(
                    f"{member.model.where} is a {type(model).__name__}, which has no predict_proba()."
                )
            _classes(self._bench, member)

    def probabilities(self) -> tuple[Array, Array]:
        """Average the members' probabilities under the labels of all of them."""
        members = self.plan.members
        classes = [_classes(self._bench, member) for member in members]
        known = union(classes)
        each = self.outputs("predict_proba")
        aligned = [align(proba, own, known) for proba, own in zip(each, classes, strict=True)]
        return mean(aligned, self.plan.weights), known

    def _walk(self, spectra: Spectra, stages: Sequence[Stage]) -> Spectra:
        groups: tuple[tuple[Operator, ...], ...]
        last = self._last
        for stage in stages:
            last = spectra
            if stage.branches:
                parts = [self._walk(spectra, inside).merged().parts[0] for inside in stage.branches]
                spectra = Spectra((np.hstack(parts),), (None,), spectra.finite)
                continue
            if stage.by_source is None:
                spectra = spectra.merged()
                groups = (stage.operators,)
            else:
                groups = tuple(operators for _, operators in stage.by_source)
            applied = tuple(
                self._apply(stage, operators, part, grid)
                for operators, part, grid in zip(groups, spectra.parts, spectra.grids, strict=True)
            )
            spectra = Spectra(applied, spectra.grids, spectra.finite)
        # After the walks inside branches, so that it is what came into the last step of this one.
        self._last = last
        return spectra

    def _apply(self, stage: Stage, operators: Sequence[Operator], X: Any, grid: Any) -> Any:
        call = self._bench.call
        if stage.augments:
            return np.hstack([X, *(call(operator, "transform", X, grid) for operator in operators)])
        for operator in operators:
            X = call(operator, "transform", X, grid)
            # A step that was told so by set_output gives a frame, which the next step was fitted on.
            if getattr(X, "ndim", 0) < 2 and not is_frame(X):
                raise ReplayError(f"{operator.where} did not give a table, but {type(X).__name__}.")
        return X

    def _adapts(self) -> str:
        """Say how the first operators take wavelengths: "required", "optional", or "" where one does not."""
        member = self.plan.members[0]
        if not member.stages:
            return self._bench.facts(member.model).wavelengths.get("predict", "")
        stage = member.stages[0]
        if stage.branches:
            return ""
        groups = [stage.operators] if stage.by_source is None else [held for _, held in stage.by_source]
        needs = {
            self._bench.facts(held[0]).wavelengths.get("transform", "") if held else "" for held in groups
        }
        return "" if "" in needs else "optional" if "optional" in needs else "required"

    def _fitted_columns(self) -> list[Names | None]:
        """Names of the columns that the first operators were fitted on, by source."""
        member = self.plan.members[0]
        return [self._names(operators) for operators in _first(member.stages, member.model)]

    def _names(self, operators: Sequence[Operator]) -> Names | None:
        for operator in operators:
            names = text_names(getattr(self._bench.open(operator)[0], "feature_names_in_", None))
            if names is not None:
                return names
        return None


def _first(stages: Sequence[Stage], model: Operator) -> list[tuple[Operator, ...]]:
    """Operators that get the spectra as they come, by source."""
    if not stages:
        return [(model,)]
    stage = stages[0]
    if stage.branches:
        # An empty branch passes the spectra on to be joined with others; no caller gets them alone.
        inside = [_first(branch, model) for branch in stage.branches if branch]
        return [tuple(op for held in groups for op in held) for groups in zip(*inside, strict=False)]
    by_source = [stage.operators] if stage.by_source is None else [held for _, held in stage.by_source]
    return [held if stage.augments else held[:1] for held in by_source]


def _assume_finite() -> AbstractContextManager[None]:
    import sklearn  # long loaded: it is asked for by objects of its own only

    context: AbstractContextManager[None] = sklearn.config_context(assume_finite=True)
    return context


def _undo(bench: Workbench, targets: Sequence[Operator], y: Array) -> Array:
    for operator in reversed(targets):
        y = bench.undo(operator, y)
    return y


def _numbers(predicted: Array) -> Array:
    """Predictions of a stacked model's source, which it takes as columns."""
    try:
        return np.asarray(predicted, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ReplayError(
            f"A source of this stacked chain predicts {str(predicted.flat[0])!r}, and its final estimator takes "
            "numbers. Nothing was predicted; let it ask the sources for probabilities "
            "('stack_method': 'predict_proba'), or train them on classes that are numbers."
        ) from error


def _single_output(model: Any) -> bool:
    return isinstance(getattr(model, "classes_", None), np.ndarray)


def _classes(bench: Workbench, member: Member) -> Array:
    model, _ = bench.open(member.model)
    if not _single_output(model):
        raise ReplayError(
            f"{member.model.where} is a {type(model).__name__} without one array of classes: probabilities "
            "are for classifiers of a single output."
        )
    return _undo(bench, member.targets, model.classes_)


# Its old home.
__getattr__ = imported_from(__name__, {"nirs_store.chains.predictor": ("FittedPredictor",)})
