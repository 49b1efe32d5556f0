"""Diagnose a stored chain with spectra: T2, Q, leverage, residuals and named outliers, as data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains import fold_key
from nirs_store.chains.one_target import column, one_target, place_of, say_which
from nirs_store.chains.operators import Workbench
from nirs_store.chains.origins import channel_origins
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.replay import model_input, predict
from nirs_store.diagnosing.importance import explained_variance, selectivity_ratio, studentised_residuals, vip
from nirs_store.domain.latent import Latent, latent_of, q_limit, t2_limit
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.ids import content_hash
from nirs_store.lazy import polars as pl
from nirs_store.protocol import ReadsChains, chain_of

__all__ = ["Diagnosis", "Inside", "diagnose", "inside", "transform"]

Floats = NDArray[np.float64]
_LARGE = 3.0
_FINAL = fold_key("final")


@dataclass(frozen=True, eq=False)
class Inside:
    """A chain, its fitted preprocessing and model, and its latent space where one is known.

    Attributes
    ----------
    chain : dict
        As ``store.get_chain`` returns it.
    model, transformers : objects
        Of the refit, or of the first fold where the chain has no refit.
    without : int
        How many of the last steps the latent space includes: 1 for a PCA before a linear model, else 0.
    """

    chain: Mapping[str, Any]
    plan: ReplayPlan
    load: Any
    model: Any
    transformers: tuple[Any, ...]
    without: int

    @property
    def place(self) -> int | None:
        """Return which of several targets is looked at; None where there is one."""
        return place_of(self.chain)

    @property
    def refitted(self) -> bool:
        """Tell whether the model was fitted on all calibration samples, not on those of a fold."""
        folds = self.chain.get("fold_artifacts")
        return not folds or any(fold_key(fold) == _FINAL for fold in folds)

    @property
    def is_pls(self) -> bool:
        """Tell whether the model brings latent variables of its own."""
        return hasattr(self.model, "x_rotations_") and hasattr(self.model, "x_scores_")

    def steps(self) -> list[Any]:
        """Return unfitted copies of preprocessing and model."""
        steps, targets = self.recipe()
        if targets:
            raise InvalidInput("This chain transforms y; give a plain sequence of steps.")
        return steps

    def recipe(self) -> tuple[list[Any], list[Any]]:
        """Return unfitted copies of preprocessing and model, and of what transforms y."""
        from sklearn.base import clone

        member, bench = self.plan.members[0], Workbench(self.load, self.plan.memory)
        if any(stage.augments or stage.branches or stage.by_source for stage in member.stages):
            raise InvalidInput("This chain has branches; give a plain sequence of steps.")
        if "transferred_from" in (self.chain.get("metadata") or {}):
            raise InvalidInput(
                "This chain was transferred to another instrument: its first step was fitted on pairs of spectra, and "
                "a new fit would lose it. Give the chain that it was transferred from."
            )
        operators = [operator for stage in member.stages for operator in stage.operators]
        steps = [clone(bench.open(operator)[0]) for operator in (*operators, member.model)]
        targets = [clone(bench.open(operator)[0]) for operator in (*self.plan.targets, *member.targets)]
        return steps, targets

    def origins(self, grid: Floats) -> NDArray[np.intp] | None:
        """Return the channel that each column of `input` shows; None where a step mixes them."""
        stages = self.plan.members[0].stages
        bench = Workbench(self.load, self.plan.memory)
        return channel_origins(stages[: len(stages) - self.without], bench, len(grid), grid)

    def input(self, X: Any, wavelengths: Any = None) -> Floats:
        """Return spectra in the space that T2 and Q are computed in."""
        return model_input(self.plan, X, self.load, wavelengths, without=self.without)

    def predict(self, X: Any, wavelengths: Any = None) -> NDArray[Any]:
        """Predict as ``store.replay_chain`` does."""
        return predict(self.plan, X, self.load, wavelengths)

    def undo(self, answers: Floats) -> Floats:
        """Bring answers of the model into the unit of the measured values."""
        bench = Workbench(self.load, self.plan.memory)
        for target in (*reversed(self.plan.members[0].targets), *reversed(self.plan.targets)):
            answers = np.asarray(bench.undo(target, answers), dtype=float)
        return answers

    def latent(self, calibration: Floats | None) -> Latent:
        """Return the latent space; `calibration` is at the model's input."""
        return latent_of(self.model, self.transformers if self.without else (), calibration)


def inside(store: ReadsChains, chain_id: str) -> Inside:
    """Load the fitted objects of a chain."""
    from sklearn.decomposition import PCA

    chain = chain_of(store, chain_id)
    plan = ReplayPlan.from_chain(chain)
    if plan.stack or plan.sources:
        raise InvalidInput(
            f"The chain {chain['chain_id']!r} combines several sources or chains; diagnose the chains that feed it."
        )
    # Kept, so that a diagnosis can be read after its store was closed.
    load = cache(store.load_artifact)
    bench = Workbench(load, plan.memory)
    member = plan.members[0]
    simple = [stage for stage in member.stages if not (stage.augments or stage.branches)]
    last = simple[-1].operators if simple and simple[-1] is member.stages[-1] else ()
    transformers = tuple(bench.open(operator)[0] for operator in last)
    model = bench.open(member.model)[0]
    pcr = len(transformers) == 1 and isinstance(transformers[0], PCA) and not hasattr(model, "x_rotations_")
    return Inside(chain, plan, load, model, transformers, int(pcr))


def transform(store: ReadsChains, chain_id: str, X: Any, wavelengths: Any = None) -> Floats:
    """Return the model's input for some spectra: the spectra after all preprocessing.

    Parameters
    ----------
    store, chain_id
        Workspace and chain.
    X : array, data frame or `Spectra`, shape (n_samples, n_features)
        Raw spectra on the grid of the calibration.
    wavelengths : array-like, shape (n_features,), optional
        Their wavelengths.

    Returns
    -------
    ndarray, shape (n_samples, n_features at the model)

    Raises
    ------
    UnknownId, ShapeMismatch, InvalidInput, ReplayError
        As ``store.replay_chain``.
    """
    found = inside(store, chain_id)
    return model_input(found.plan, X, found.load, wavelengths)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Result of `diagnose`, as data frames with one row per sample, channel or latent variable.

    Attributes
    ----------
    chain_id, title, target, unit : str
        The chain, and what it predicts.
    samples : polars.DataFrame
        ``sample, t2, q, leverage, predicted, measured, residual, studentised, flags``. `residual` is predicted
        minus measured, in the unit of y; `flags` is a list of words, empty for a sample without any.
    scores : polars.DataFrame
        ``sample, t1 .. tA``.
    limits : dict
        ``t2``, ``q`` (None where it is not known), ``leverage``, ``studentised``, and the method of each.
    n_calibration, n_components : int
        Samples and latent variables that the limits belong to.
    space : str
        Where the latent variables come from.
    is_calibration : bool
        Whether the spectra are those that the chain was fitted on.
    """

    chain_id: str
    title: str
    target: str
    unit: str
    samples: pl.DataFrame
    scores: pl.DataFrame
    limits: dict[str, Any]
    n_calibration: int
    n_components: int
    space: str
    is_calibration: bool
    wavelengths: Floats | None
    wavelength_unit: str | None
    _inside: Inside = field(repr=False)
    _latent: Latent = field(repr=False)
    _input: Floats = field(repr=False)
    _y: Floats | None = field(repr=False)

    def score_center_and_spread(self, a: int, b: int) -> tuple[Floats, Floats]:
        """Return the mean and the standard deviation of two calibration scores, counted from 1."""
        chosen = [a - 1, b - 1]
        return self._latent.center[chosen], self._latent.spread[chosen]

    @property
    def outliers(self) -> pl.DataFrame:
        """Return the samples with at least one flag."""
        return self.samples.filter(pl.col("flags").list.len() > 0)

    @cached_property
    def channels(self) -> pl.DataFrame:
        """Return one row per channel at the model's input: loadings; for a PLS also weights, coefficient and VIP.

        Of a model of several targets, coefficient and selectivity ratio belong to the target that was asked for; the
        latent variables and the VIP serve all of them.

        The column `wavelength` is there where each column shows one channel, in whatever order.
        """
        latent, pls = self._latent, self._inside.model if self._inside.is_pls else None
        columns: dict[str, Any] = {}
        grid = self.wavelengths
        places = None if grid is None else self._inside.origins(grid)
        if grid is not None and places is not None and len(places) == len(latent.mean):
            columns["wavelength"] = grid[places]
        columns["channel"] = np.arange(len(latent.mean))
        for a in range(latent.n_components):
            columns[f"p{a + 1}"] = latent.loadings[:, a]
        if pls is not None:
            for a in range(latent.n_components):
                columns[f"w{a + 1}"] = np.asarray(pls.x_weights_)[:, a]
            columns["coefficient"] = np.asarray(pls.coef_)[self._inside.place or 0]
            columns["vip"] = vip(pls)
            if self.is_calibration:
                columns["selectivity_ratio"] = selectivity_ratio(columns["coefficient"], self._input)
        return pl.DataFrame(columns)

    @cached_property
    def explained(self) -> pl.DataFrame:
        """Return the share of the variance of X and y that the first a latent variables explain, from 0 to 1.

        Raises
        ------
        InvalidInput
            The spectra are not the calibration's, the model is not a PLS, or no y was given.
        """
        if not (self._inside.is_pls and self.is_calibration and self._y is not None):
            raise InvalidInput("explained: expected a PLS chain, its calibration spectra and y.")
        found = self._inside
        x, y = explained_variance(found.model, self._input, self._y, found.place or 0, found.undo)
        return pl.DataFrame({"components": np.arange(1, len(x) + 1), "x": x, "y": y})

    def __repr__(self) -> str:
        flagged = self.outliers.height
        names = ", ".join(
            f"{row['sample']} ({', '.join(row['flags'])})"
            for row in self.outliers.head(5).iter_rows(named=True)
        )
        more = ", ..." if flagged > 5 else ""
        return (
            f"<Diagnosis of {self.title} with {self.samples.height} samples, {self.n_components} latent variables "
            f"({self.space}): {flagged} flagged{': ' + names + more if flagged else ''}>"
        )


def diagnose(
    store: ReadsChains,
    chain_id: str,
    X: Any,
    y: Any = None,
    *,
    wavelengths: Any = None,
    calibration: Any = None,
    sample_ids: Any = None,
    alpha: float = 0.05,
    target: str | int | None = None,
) -> Diagnosis:
    """Diagnose samples with a stored chain: T2, Q, leverage, residuals, named outliers.

    Parameters
    ----------
    store, chain_id
        Workspace and chain.
    X : array, data frame or `Spectra`, shape (n_samples, n_features)
        Raw spectra: those of the calibration, or new ones. The result of `read_spectra` includes reference values,
        wavelengths and names.
    y : array-like, shape (n_samples,), optional
        Measured values, in the unit of the target.
    wavelengths : array-like, shape (n_features,), optional
        Wavelengths of X.
    calibration : array or `Spectra`, optional
        The calibration spectra. Needed if X holds other spectra and you want the limit of Q, or if the model has no
        latent variables.
    sample_ids : sequence of str, optional
        Names of the samples; rows are numbered from 0 otherwise.
    alpha : float
        Share of normal samples above each limit.
    target : str or int, optional
        One target of a chain that predicts several, by name or counted from 0. `y` then has the values of this
        target, or one column per target of the chain.

    Returns
    -------
    Diagnosis

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The model has no latent variables and the calibration spectra are missing; the chain has several targets and
        none was named; or `y` was given for a classifier.
    ShapeMismatch
        Lengths or channels do not match.

    Notes
    -----
    Formulas and sources are those of `t2_limit`, `q_limit` and `studentised_residuals`. A sample is flagged
    ``high T2`` or ``high Q`` above the limit, ``high leverage`` above 3 (A + 1) / n, ``large residual`` if the
    studentized residual is beyond ± 3. For samples that the chain was not fitted on, the residual is divided by
    SEC sqrt(1 + h), if the residuals of the calibration are stored.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
    >>> meat = load_tecator()
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     chain = record_cross_validation(
    ...         store, PLSRegression(6, scale=False), meat.X, meat.fat, cv=5, dataset_name="meat").chain_id
    ...     found = diagnose(store, chain, meat.X, meat.fat)
    >>> found.samples.height, found.n_components, found.is_calibration
    (215, 6, True)
    >>> folder.cleanup()
    """
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha: expected a share between 0 and 1; found {alpha!r}.")
    found = inside(one_target(store, target), chain_id)
    if y is None:
        y = _references(X, found.chain)
    X, y, wavelengths, sample_ids = given_spectra(X, y, wavelengths, sample_ids)
    several = np.ndim(y) == 2 and np.shape(y)[1] > 1
    if several and found.place is None:
        which = say_which(found.chain) or "Give those of the target that the chain predicts."
        raise InvalidInput(f"y: expected the values of one target; found {np.shape(y)[1]}. {which}")
    spectra = found.input(X, wavelengths)
    measured = None if y is None else column(y, found.place).astype(float).reshape(-1)
    if measured is not None:
        check_length("y", "value", measured, len(spectra))
    names = _names(sample_ids, len(spectra))
    stored = _refit_values(store, found.chain)
    is_calibration = found.refitted and _is_calibration(found, X, y, measured, stored)
    fitted_on = spectra if is_calibration else None
    if calibration is not None:
        given = given_spectra(calibration, None, None, None)
        fitted_on = found.input(given[0], given[2])
    latent = found.latent(fitted_on)
    if fitted_on is not None and len(fitted_on) != latent.n:
        whose = (
            "the model was" if found.refitted else "the chain has no refit; the model of its first fold was"
        )
        raise ShapeMismatch(
            f"calibration: {whose} fitted on {latent.n} spectra; found {len(fitted_on)}. Give those spectra."
        )
    predicted = np.asarray(found.predict(X, wavelengths))
    if predicted.ndim == 2 and predicted.shape[1] == 1:
        predicted = predicted[:, 0]
    if predicted.ndim > 1 and found.place is None:
        raise InvalidInput(
            f"The chain {chain_id!r} predicts {predicted.shape[1]} targets. "
            f"{say_which(found.chain, predicted.shape[1])}"
        )
    predicted = column(predicted, found.place)
    limits = _limits(latent, fitted_on, alpha)
    if fitted_on is None and not found.refitted:
        limits["q_method"] = "not known: the chain has no refit on all calibration samples"
    columns: dict[str, Any] = {
        "sample": names,
        "t2": latent.t2(spectra),
        "q": latent.q(spectra),
        "leverage": latent.leverage(spectra),
        "predicted": predicted,
    }
    if measured is not None:
        if predicted.dtype.kind not in "fiu":
            raise InvalidInput(f"The chain {chain_id!r} predicts labels; leave y out.")
        residual = predicted - measured
        columns |= {"measured": measured, "residual": residual}
        columns["studentised"] = _studentised(
            stored, found.place, residual, columns["leverage"], latent, is_calibration
        )
    columns["flags"] = _flags(columns, limits)
    scores = latent.scores(spectra)
    metadata = found.chain.get("metadata") or {}
    grid = found.chain.get("wavelengths")
    return Diagnosis(
        chain_id=str(found.chain["chain_id"]),
        title=str(metadata.get("preprocessing_chain") or found.chain["model_class"]),
        target=str(metadata.get("target") or ""),
        unit=str(metadata.get("target_unit") or ""),
        samples=pl.DataFrame(columns, schema_overrides={"flags": pl.List(pl.String)}),
        scores=pl.DataFrame(
            {"sample": names} | {f"t{a + 1}": scores[:, a] for a in range(latent.n_components)}
        ),
        limits=limits,
        n_calibration=latent.n,
        n_components=latent.n_components,
        space=latent.kind,
        is_calibration=is_calibration,
        wavelengths=None if grid is None else np.asarray(grid, dtype=float),
        wavelength_unit=metadata.get("wavelength_unit"),
        _inside=found,
        _latent=latent,
        _input=spectra,
        _y=measured,
    )


def _references(X: Any, chain: Mapping[str, Any]) -> Any:
    """Return the values of the chain's target where `Spectra` have several; else None."""
    from nirs_store.reading import Spectra

    target = (chain.get("metadata") or {}).get("target")
    if isinstance(X, Spectra) and isinstance(X.target, tuple) and X.y is not None and target in X.target:
        return X.y[:, X.target.index(target)]
    return None


def given_spectra(X: Any, y: Any, wavelengths: Any, sample_ids: Any) -> tuple[Any, Any, Any, Any]:
    """Take `Spectra` apart; what was given by name wins."""
    from nirs_store.reading import Spectra

    if not isinstance(X, Spectra):
        return X, y, wavelengths, sample_ids
    return (
        X.X,
        X.y if y is None else y,
        X.wavelengths if wavelengths is None else wavelengths,
        X.ids if sample_ids is None else sample_ids,
    )


def _names(sample_ids: Any, n: int) -> list[str]:
    if sample_ids is None:
        return [str(row) for row in range(n)]
    names = [str(each) for each in sample_ids]
    check_length("sample_ids", "name", names, n)
    return names


def check_length(argument: str, what: str, found: Sized, n: int) -> None:
    """Refuse an argument that has not one item for each spectrum."""
    if len(found) != n:
        raise ShapeMismatch(f"{argument}: expected one {what} for each of {n} spectra; found {len(found)}.")


def _is_calibration(
    found: Inside, X: Any, y: Any, measured: Floats | None, stored: tuple[Floats, Floats] | None
) -> bool:
    """Tell whether spectra and values are those that the chain was fitted on, by their hash."""
    known = (found.chain.get("metadata") or {}).get("data_hash")
    if known is None or y is None or measured is None:
        return False
    values = [y]
    # Of several targets one may be given.
    if stored is not None and np.array_equal(column(stored[0], found.place).reshape(-1), measured):
        values += [stored[0], stored[0].reshape(-1)]
    return any(data_hash(X, each) == known for each in values)


def data_hash(X: Any, y: Any) -> str:
    """Hash spectra and values as a cross-validation does: whole numbers are fitted as 64-bit floats."""
    spectra, values = np.asarray(X), np.asarray(y)
    spectra = spectra if spectra.dtype.kind == "f" else spectra.astype(np.float64)
    return content_hash(spectra, values.astype(np.float64) if values.dtype.kind in "biuf" else values)


def _limits(latent: Latent, fitted_on: Floats | None, alpha: float) -> dict[str, Any]:
    q, method = (None, "not known: the calibration spectra were not given")
    if fitted_on is not None:
        q, method = q_limit(latent.residuals(fitted_on), alpha)
    return {
        "alpha": alpha,
        "t2": t2_limit(latent.n, latent.n_components, alpha),
        "t2_method": "F distribution",
        "q": q,
        "q_method": method,
        "leverage": 3 * (latent.n_components + 1) / latent.n,
        "studentised": _LARGE,
    }


def _studentised(
    stored: tuple[Floats, Floats] | None,
    place: int | None,
    residual: Floats,
    leverage: Floats,
    latent: Latent,
    is_calibration: bool,
) -> Floats:
    if is_calibration:
        return studentised_residuals(residual, leverage, latent.n_components)
    known = None if stored is None else column(np.subtract(stored[1], stored[0]), place).ravel()
    freedom = 0 if known is None else len(known) - latent.n_components - 1
    if known is None or freedom < 1:
        return np.full(len(residual), np.nan)
    sec = np.sqrt((known**2).sum() / freedom)
    result: Floats = residual / (sec * np.sqrt(1 + leverage))
    return result


def _refit_values(store: Any, chain: Mapping[str, Any]) -> tuple[Floats, Floats] | None:
    """Return the measured and predicted values of the refit on its own samples, where they are stored."""
    rows = store.query_predictions(chain_id=chain["chain_id"], partition="train", fold_id="final")
    for prediction_id in rows["prediction_id"].to_list():
        arrays = store.get_prediction_arrays([prediction_id]).get(prediction_id) or {}
        measured, predicted = arrays.get("y_true"), arrays.get("y_pred")
        if measured is not None and predicted is not None and np.asarray(predicted).dtype.kind in "fiu":
            shape = np.shape(measured)
            return np.asarray(measured, dtype=float), np.asarray(predicted, dtype=float).reshape(shape)
    return None


def _flags(columns: Mapping[str, Any], limits: Mapping[str, Any]) -> list[list[str]]:
    checks = [("t2", "high T2"), ("q", "high Q"), ("leverage", "high leverage")]
    above = [
        (np.asarray(columns[name]) > limits[name], words)
        for name, words in checks
        if limits[name] is not None
    ]
    if "studentised" in columns:
        above.append((np.abs(columns["studentised"]) > limits["studentised"], "large residual"))
    return [[words for over, words in above if over[i]] for i in range(len(columns["sample"]))]
