"""A stored chain as a fitted scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if

from nirs_store.chains.folds import REFIT
from nirs_store.chains.operators import Load, Workbench
from nirs_store.chains.plan import ReplayPlan, Stage
from nirs_store.chains.replay import (
    align,
    predict,
    predict_each,
    predict_proba,
    predict_watched,
    predicted_classes,
)
from nirs_store.chains.spectra import as_grid, one_grid, read_table, require_order
from nirs_store.chains.steps import Operator, model_ids
from nirs_store.display import block, field_table, short, table, with_unit
from nirs_store.domain.frame import OnOutlier, Predicted, Reading, as_names, details_frame, report_outliers
from nirs_store.domain.measure import Domain
from nirs_store.domain.scope import finish
from nirs_store.errors import InvalidInput, NirsStoreError, ReplayError, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra as ReadSpectra

# -- Bringing spectra to the grid of a calibration, for those who ask for it.


def to_grid(
    target: NDArray[np.float64] | None, X: Any, wavelengths: Any = None, unit: str | None = None
) -> NDArray[np.float64]:
    """Interpolate spectra linearly to other wavelengths; nothing is extrapolated."""
    if target is None:
        raise InvalidInput(
            "resample: the calibration's wavelengths were not recorded, so nothing can be resampled."
        )
    array, named, names = read_table(X, "X", unit)
    if named is None:
        require_order(names or (), "X")
    own = one_grid(named, None if wavelengths is None else as_grid(wavelengths, unit), "X")
    if own is None:
        raise InvalidInput(
            "resample: give the wavelengths of X, or a data frame whose columns are named by them."
        )
    if own.size != array.shape[1] or own.size < 2 or np.unique(own).size < own.size:
        raise ShapeMismatch(
            f"resample: X has {array.shape[1]} channels; expected as many different wavelengths, found {own.size} "
            f"({np.unique(own).size} different ones)."
        )
    slack = 1e-9 * float(np.abs(target).max())
    if target.min() < own.min() - slack or target.max() > own.max() + slack:
        raise ShapeMismatch(
            f"resample: the calibration needs {target.min():g} to {target.max():g}, X reaches from {own.min():g} to "
            f"{own.max():g}. {_too_short(target, own)}"
        )
    order = np.argsort(own)
    x, y = own[order], np.asarray(array, dtype=np.float64)[:, order]
    right = np.clip(np.searchsorted(x, target), 1, x.size - 1)
    share = np.clip((target - x[right - 1]) / (x[right] - x[right - 1]), 0.0, 1.0)
    return np.asarray(y[:, right - 1] * (1.0 - share) + y[:, right] * share)


def _too_short(target: NDArray[np.float64], own: NDArray[np.float64]) -> str:
    turned = 1e7 / own if own.min() > 0 else own
    if (
        turned.min() < target.max()
        and turned.max() > target.min()
        and not own.max() > target.min() > own.min()
    ):
        return "One is in nm, the other in cm-1, it seems: convert the wavelengths first, 1e7 / wavelengths."
    return "Nothing is extrapolated; measure the whole range."


# -- How many channels a chain takes, as far as its fitted objects tell.


def channels(plan: ReplayPlan, bench: Workbench) -> int | None:
    """Return the number of channels that spectra for a chain must have."""
    if plan.wavelengths is not None:
        return int(plan.wavelengths.size)
    if plan.sources:
        return None
    if plan.stack:
        # What its own objects get are predictions; the spectra go to the chains that feed it.
        widths = (channels(base, bench) for base in plan.stack)
    else:
        member = plan.members[0]
        widths = (bench.open(operator)[1].n_features for operator in _meets(member.stages, member.model))
    return next((width for width in widths if width), None)


def _meets(stages: Sequence[Stage], model: Operator | None) -> Iterator[Operator]:
    """Return the operators that meet as many channels as come in."""
    # One that does not know the number mostly keeps it, so the next is asked.
    for stage in stages:
        for inside in stage.branches:
            yield from _meets(inside, None)
        yield from stage.operators
        if stage.branches or stage.augments:
            # What follows meets more than came in.
            return
    if model is not None:
        yield model


Array = NDArray[Any]


def spread(each: list[Array], weights: tuple[float, ...] | None = None) -> Array:
    """Return standard deviation of what several models predict for the same samples.

    Parameters
    ----------
    each : list of ndarray of shape (n_samples,) or (n_samples, n_targets)
        Predictions, one array per model.
    weights : tuple of float, optional
        One a model; their sum need not be 1.

    Returns
    -------
    ndarray
        Of the shape of one prediction, in its unit.

    Notes
    -----
    s² = W / (W² − Σw²) · Σ w (ŷ − ȳ)², with W = Σw and ȳ = Σ w ŷ / W: the sample variance for weights of
    reliability, as in the GNU Scientific Library (Weighted Samples). Equal weights give n − 1 below.

    Examples
    --------
    >>> spread([np.array([1.0]), np.array([3.0])])
    array([1.41421356])
    """
    shares = np.ones(len(each)) if weights is None else np.asarray(weights, dtype=np.float64)
    whole, squares = shares.sum(), (shares**2).sum()
    stacked = np.stack(each).astype(np.float64)
    if not whole**2 > squares:
        raise InvalidInput("The spread of predictions needs at least two models whose weight is above 0.")
    deviations = stacked - np.average(stacked, axis=0, weights=shares)
    return np.asarray(np.sqrt(np.tensordot(shares, deviations**2, axes=1) * whole / (whole**2 - squares)))


def _has_probabilities(self: ChainPredictor) -> bool:
    models = [self._bench.open(member.model)[0] for member in self._plan.members]
    return all(hasattr(m, "predict_proba") and isinstance(m.classes_, np.ndarray) for m in models)


class ChainPredictor(BaseEstimator):  # type: ignore[misc,unused-ignore]
    """A chain as a scikit-learn predictor that is fitted on arrival.

    ``store.predictor(chain_id)`` makes one, and ``load_bundle(...)`` gives one. It holds everything that it
    needs in memory, so it goes on predicting when the store is closed, and a pickle of it needs neither store
    nor bundle. It works wherever scikit-learn takes a fitted estimator: in scorers, ``permutation_importance``,
    ``cross_val_predict``, at the end of a Pipeline, in a prefit stack.

    Parameters
    ----------
    chain : dict
        As ``store.get_chain`` gives it.
    load : callable
        Artifact id to fitted object; called for every artifact now, and not kept.

    Attributes
    ----------
    chain : dict
        The chain.
    domain : Domain or None
        What `predict_details` measures new spectra with; None where it is not known.
    n_features_in_ : int
        Channels of the spectra; not there where the chain does not tell, or keeps several sources apart.
    feature_names_in_ : ndarray of str
        Names of the calibration's columns, or its wavelengths; not there when neither was recorded.
    classes_ : ndarray of shape (n_classes,)
        Labels, for classifiers.

    Notes
    -----
    Like scikit-learn's FrozenEstimator it is never fitted again: ``fit`` changes nothing, there are no parameters
    to set, and ``clone`` gives the same object. So ``cross_val_score`` scores the one model that is there; it
    does not cross-validate a training.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])
    >>> fitted = {"line": LinearRegression().fit(X, y)}
    >>> chain = {"steps": [{"step_idx": 0}], "model_step_idx": 0, "fold_artifacts": {"final": "line"}}
    >>> line = ChainPredictor(chain, fitted.__getitem__)
    >>> line.predict([[3.0]]).round(6), line.score(X, y)
    (array([7.]), 1.0)
    """

    # On the class: an estimator of scikit-learn sets nothing but its parameters when it is made.
    #: The slope and bias correction of the calibration that the chain was asked for as, with slope and bias.
    correction: Any = None
    #: Where the calibration may be used that the chain was asked for as; what lies outside is flagged.
    scope: Mapping[str, Any] = MappingProxyType({})
    # Writes the log of the store that made this predictor; a pickle has none.
    _recorder: Callable[..., None] | None = None

    def __init__(
        self,
        chain: Mapping[str, Any],
        load: Callable[[str], Any],
        *,
        plan: ReplayPlan | None = None,
        domain: Domain | None = None,
    ) -> None:
        self.domain = domain
        self.chain: dict[str, Any] = dict(chain)
        self._plan = plan or ReplayPlan.from_chain(chain)
        self._folds_plan = folds_alone(chain, self._plan)
        wanted = [*self._plan.artifact_ids, *(self._folds_plan.artifact_ids if self._folds_plan else ())]
        self._objects = {artifact_id: load(artifact_id) for artifact_id in wanted}

    # A pickle holds the chain and its objects. It must not hang on how this version compiles a plan.

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {
            name: value for name, value in state.items() if name not in ("_plan", "_folds_plan", "_recorder")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("domain", None)
        # Those that were written before have the plan of their time with them.
        self._plan = ReplayPlan.from_chain(self.chain)
        self._folds_plan = folds_alone(self.chain, self._plan)

    # -- predicting ----------------------------------------------------------------------------

    def predict(
        self,
        X: Any,
        wavelengths: Any = None,
        *,
        return_std: bool = False,
        resample: bool = False,
        details: bool = False,
        log: bool = False,
        sample_ids: Iterable[Any] | None = None,
        instrument: str | None = None,
        operator: str | None = None,
    ) -> Any:
        """Predict new spectra; the same numbers as ``store.replay_chain``, corrected where `correction` is set.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_channels)
            Spectra on the grid of the calibration; columns of a data frame must be named by wavelength.
        wavelengths : array of shape (n_channels,), optional
            Their wavelengths, in the unit of the chain.
        return_std : bool
            Whether to give the spread of the fold models as well.
        resample : bool
            Interpolate spectra on another grid linearly to that of the calibration, which has to lie within
            theirs. Without it another grid is an error.
        details : bool
            Return the frame of `predict_details`, with its defaults.
        log : bool
            Keep the predictions in the log of the store that made this predictor. It is never the default here:
            scorers and other tools of scikit-learn call this method as often as they please.
        sample_ids, instrument, operator : optional
            For the log; see ``store.predict``.

        Returns
        -------
        ndarray, tuple of two, or data frame
            Of the shape that the estimator gives, in the unit of the reference values. With `return_std` also
            the standard deviation of the predictions of the fold models (see `spread`), of the same shape and
            unit. It tells how far the models disagree about a sample, not how far they are from the truth.

        Raises
        ------
        ShapeMismatch
            Another number of channels or another grid than the chain was trained on.
        InvalidInput
            NaN or infinities where a step allows none; or `return_std` for a classifier, or for a chain that
            has fewer than two fold models.
        ReplayError
            A step fails.
        """
        if details or log:
            if return_std:
                raise InvalidInput("details or log, return_std: give one of them.")
            frame = self.predict_details(
                X, wavelengths, resample=resample, sample_ids=sample_ids, on_outlier="warn" if details else "ignore",
                log=log, instrument=instrument, operator=operator,
            )  # fmt: skip
            if details:
                return frame
        if resample:
            X, wavelengths = (
                to_grid(self._plan.wavelengths, X, wavelengths, self._plan.unit),
                self._plan.wavelengths,
            )
        if not return_std:
            return self._corrected(predict(self._plan, X, self._objects.__getitem__, wavelengths))
        if self._classifies:
            raise InvalidInput("return_std: expected a regression, found a classifier. Use predict_proba().")
        if self._folds_plan is None:
            raise InvalidInput(
                "return_std: expected a chain with the models of at least two folds, found one model. Record the "
                "chain with its folds (a bundle of a refitted chain carries the refit only)."
            )
        y = predict(self._plan, X, self._objects.__getitem__, wavelengths)
        each = predict_each(self._folds_plan, X, self._objects.__getitem__, wavelengths)
        wide = 1.0 if self.correction is None else abs(self.correction.slope)
        return self._corrected(y), wide * spread(each, self._folds_plan.weights)

    def _corrected(self, y: Array) -> Array:
        return y if self.correction is None else y * self.correction.slope + self.correction.bias

    def predict_details(
        self,
        X: Any,
        wavelengths: Any = None,
        *,
        level: float = 0.90,
        alpha: float = 0.05,
        scaled: bool = False,
        margin: float = 5.0,
        flag: Mapping[str, float] | Sequence[str] = (),
        sample_ids: Iterable[Any] | None = None,
        on_outlier: OnOutlier = "warn",
        resample: bool = False,
        log: bool = False,
        instrument: str | None = None,
        operator: str | None = None,
        measured_at: Any = None,
        keep_spectra: bool = False,
        matrix: str | None = None,
    ) -> pl.DataFrame:
        """Predict new spectra, say how sure each number is, and flag what lies outside the calibration.

        Parameters
        ----------
        X : array, data frame or `Spectra`, shape (n_samples, n_channels)
            Spectra on the grid of the calibration.
        wavelengths : array of shape (n_channels,), optional
            Their wavelengths, in the unit of the chain.
        level : float
            Of the interval, from the out-of-fold residuals; of a classifier's set of labels.
        alpha : float
            Share of normal samples that are flagged ``outside``.
        scaled : bool
            Scale the interval by sqrt(1 + h), h being the leverage.
        margin : float
            Percent of the calibration's range by which a prediction may leave it before it is ``extrapolated``.
        flag : sequence of {"h", "gh", "nh"}, or mapping of them to limits
            Columns that flag as well, by their conventional limits or those given.
        sample_ids : iterable, optional
            Names of the samples; rows are numbered from 0 otherwise.
        on_outlier : {"warn", "raise", "ignore"}
            What a flag leads to: an `OutlierWarning`, an `OutlierFound` error, or nothing.
        resample : bool
            As for `predict`.
        log, instrument, operator, measured_at, keep_spectra : optional
            As for ``store.predict``; a predictor logs nothing unless it is asked to.
        matrix : str, optional
            The measured product; like `instrument` it is compared with the scope of a named calibration.

        Returns
        -------
        polars.DataFrame
            ``sample, prediction, lower, upper, t2, q, h, gh, nh, flags``; one row per sample, or per sample and
            ``target`` where there are several. A classifier has ``set`` in place of the bounds. Bounds are null
            where no interval can be given; ``domain.no_interval(level)`` says why. ``flags`` is a list of words:
            empty for a sample inside, ``["domain not known"]`` for a chain without a domain.

        Raises
        ------
        OutlierFound
            With ``on_outlier="raise"``, where a sample is flagged.
        ShapeMismatch, InvalidInput, ReplayError
            As for `predict`.
        """
        if resample:
            X = to_grid(self._plan.wavelengths, X, wavelengths, self._plan.unit)
            wavelengths = self._plan.wavelengths
        if log and self._recorder is None:
            raise InvalidInput(
                "log: no store is at hand: this predictor came from a bundle or a pickle. Ask a store for it: "
                "store.predictor(...)."
            )
        reading = Reading(level, alpha, scaled, margin, flag)
        load = self._objects.__getitem__
        names = as_names(sample_ids)
        found = detailed(self._plan, self.chain, self.domain, load, X, wavelengths, reading, names, "ignore")
        grid = getattr(X, "wavelengths", None) if wavelengths is None else wavelengths
        source = {"instrument": instrument, "matrix": matrix, "wavelengths": grid}
        found = finish(found, self.correction, self.scope, **source)
        report_outliers(found, on_outlier, f"Chain {self.chain.get('chain_id') or ''}".strip())
        if log and self._recorder is not None:
            self._recorder(
                found, X, names, instrument=instrument, operator=operator, measured_at=measured_at,
                keep_spectra=keep_spectra,
            )  # fmt: skip
        return found

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator,unused-ignore]
    def predict_proba(self, X: Any, wavelengths: Any = None) -> Array:
        """Return class probabilities, (n_samples, n_classes); only there for classifiers that have them."""
        return predict_proba(self._plan, X, self._objects.__getitem__, wavelengths)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions, or the accuracy of a classifier; as scikit-learn's ``score``."""
        from sklearn.metrics import accuracy_score, r2_score

        measure = accuracy_score if self._classifies else r2_score
        return float(measure(y, self.predict(X), sample_weight=sample_weight))

    @property
    def classes_(self) -> Array:
        """Labels in the order of the columns of `predict_proba`."""
        if not self._classifies:
            raise AttributeError("classes_: this chain is a regression.")
        try:
            return predicted_classes(self._plan, self._objects.__getitem__)
        except ReplayError as error:
            raise AttributeError(f"classes_: {error}") from error

    @property
    def wavelengths(self) -> NDArray[np.float64] | None:
        """The grid of the calibration, of shape (n_channels,), or None when it was not recorded."""
        return self._plan.wavelengths

    # -- an estimator of scikit-learn -----------------------------------------------------------

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Self:
        """Change nothing: the chain is fitted, and stays as it is."""
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return no parameters: a fitted chain has no parameters to choose."""
        return {}

    def set_params(self, **params: Any) -> Self:
        """Refuse all parameters.

        Raises
        ------
        InvalidInput
            Whenever one is given.
        """
        if params:
            raise InvalidInput(
                f"A stored chain has no parameters, found {', '.join(sorted(params))}. Nothing was changed. Build "
                "its estimator again and fit that."
            )
        return self

    def __sklearn_clone__(self) -> Self:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, RegressorTags

        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier" if self._classifies else "regressor"
        tags.classifier_tags = ClassifierTags() if self._classifies else None
        tags.regressor_tags = None if self._classifies else RegressorTags()
        tags.requires_fit = False
        tags.input_tags.allow_nan = all(self._bench.open(op)[1].allows_nan for op in self._plan.operators)
        return tags

    @property
    def n_features_in_(self) -> int:
        """Channels that the spectra must have."""
        known = channels(self._plan, self._bench)
        if known is None:
            raise AttributeError("n_features_in_: the chain does not say how many channels it takes.")
        return known

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the calibration's columns, or its wavelengths as text."""
        if self._plan.columns is not None:
            return np.array(self._plan.columns, dtype=object)
        if self._plan.wavelengths is None:
            raise AttributeError("feature_names_in_: the wavelengths of the calibration were not recorded.")
        names = [np.format_float_positional(value, trim="-") for value in self._plan.wavelengths]
        return np.array(names, dtype=object)

    @property
    def _bench(self) -> Workbench:
        return Workbench(self._objects.__getitem__, self._plan.memory)

    @property
    def _classifies(self) -> bool:
        # What the labels are transformed back to does not matter: the models decide.
        return self._bench.open(self._plan.members[0].model)[1].classifier

    @property
    def _title(self) -> str:
        return "Classifier" if self._classifies else "Predictor"

    # -- looking --------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        metadata = self.chain.get("metadata") or {}
        grid = self._plan.wavelengths
        unit = str(metadata.get("wavelength_unit") or "")
        target, target_unit = str(metadata.get("target") or ""), str(metadata.get("target_unit") or "")
        return {
            "predicts": with_unit(target, target_unit) if target else target,
            "channels": getattr(self, "n_features_in_", None)
            if grid is None
            else f"{grid.size}, {grid[0]:g} to {grid[-1]:g} {unit}".strip(),
            "models": ", ".join(self._plan.folds) or "one",
            "corrected by": ""
            if self.correction is None
            else self.correction.words.removeprefix("corrected by "),
            "chain": str(self.chain.get("chain_id") or ""),
        }

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        model = str(self.chain.get("model_class") or "model").rpartition(".")[2]
        parts = [part for part in (str(self.chain.get("preprocessings") or ""), model) if part]
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items() if value)
        return short(f"<{type(self).__name__} {' > '.join(parts)!r}: {facts}>", N_CHAR_MAX)

    def _repr_html_(self) -> str:
        steps = [
            (
                step.get("step_idx"),
                step.get("operator_type", "transform"),
                step.get("operator_class"),
                step.get("params"),
            )
            for step in self.chain.get("steps") or ()
        ]
        head = ("step", "type", "operator", "parameters")
        return block(self._title, field_table(self._facts()), table(head, steps))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        # scikit-learn's own would draw an estimator without parameters.
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


FittedPredictor = ChainPredictor
"""The former name of what ``store.predictor`` returns, for annotations."""


def detailed(
    plan: ReplayPlan,
    chain: Mapping[str, Any],
    domain: Domain | None,
    load: Load,
    X: Any,
    wavelengths: Any,
    reading: Reading,
    sample_ids: Iterable[Any] | None,
    on_outlier: OnOutlier,
) -> pl.DataFrame:
    """Predict with a compiled chain and lay out what its domain says; see `ChainPredictor.predict_details`."""
    if isinstance(X, ReadSpectra):
        sample_ids = X.ids if sample_ids is None else sample_ids
    y, proba, inputs = predict_watched(
        plan, X, load, wavelengths, before=0 if domain is None else domain.before
    )
    known = None if domain is None else domain.facts.get("classes")
    if proba is not None and known is not None:
        classes = predicted_classes(plan, load)
        # A fold or refit that never saw a label says nothing about it.
        inside = set(classes.tolist()) <= set(known)
        proba = align(proba, classes, np.asarray(known)) if inside else None
    spaces = 0 if domain is None else len(domain.spaces)
    if spaces and (spaces != len(inputs) or np.shape(inputs[0])[1] != len(domain.spaces[0].mean)):  # type: ignore[union-attr]
        raise ReplayError(
            f"The domain of chain {chain.get('chain_id')!r} belongs to {spaces} models of "
            f"{len(domain.spaces[0].mean)} channels, but the chain has others. "  # type: ignore[union-attr]
            "Nothing was predicted; add the domain again with add_domain."
        )
    targets = (chain.get("metadata") or {}).get("target_names")
    frame = details_frame(domain, Predicted(y, proba, inputs[:spaces]), reading, sample_ids, targets)
    return report_outliers(frame, on_outlier, f"Chain {chain.get('chain_id') or ''}".strip(), stacklevel=4)


def folds_alone(chain: Mapping[str, Any], plan: ReplayPlan) -> ReplayPlan | None:
    """Return the plan of a chain's fold models without its refit; None where there are fewer than two."""
    if len(plan.members) > 1:
        return plan
    # They may be named in the model's step alone.
    folds = {fold: model.artifact_id for fold, model in model_ids(chain)[0].items() if fold != REFIT}
    if len(folds) < 2:
        return None
    try:
        return ReplayPlan.from_chain({**chain, "fold_artifacts": folds})
    except NirsStoreError:
        # The refit predicts; the folds lack something, so there is no spread.
        return None
