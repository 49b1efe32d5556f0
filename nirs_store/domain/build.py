"""Make the domain of a calibration from what its cross-validation and its refit have at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.domain.latent import PCA_STEP, Latent, has_latent_variables, latent_of, power_sums
from nirs_store.domain.measure import Domain, Space
from nirs_store.errors import InvalidInput

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FoldDomain:
    """What one fitted model says about the samples it left out, and its space where that is kept.

    Attributes
    ----------
    t2, q, h : ndarray or None
        Of the left-out samples; None where there are none.
    space : Space or None
        Of the refit, or of every fold of a chain without one.
    kind : str
        Where the latent variables come from.
    unknown : str
        Why there is nothing; empty where there is.
    """

    t2: Floats | None = None
    q: Floats | None = None
    h: Floats | None = None
    space: Space | None = None
    kind: str = ""
    unknown: str = ""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The samples that one fold model left out: their places, measured and predicted values.

    Attributes
    ----------
    places : ndarray, shape (m,)
        Equal for the same sample in several folds, and for its replicates.
    y_true, y_pred : ndarray, shape (m,) or (m, targets)
    y_proba : ndarray, shape (m, n_classes), or None
    """

    places: NDArray[Any]
    y_true: NDArray[Any]
    y_pred: NDArray[Any]
    y_proba: NDArray[Any] | None = None


def is_pca_step(model: Any, transformers: Sequence[Any]) -> bool:
    """Tell whether a PCA before the model gives the latent variables, so that the space lies before it."""
    from sklearn.decomposition import PCA

    return (
        len(transformers) > 0
        and isinstance(transformers[-1], PCA)
        and not has_latent_variables(_within(model))
    )


def _within(model: Any) -> Any:
    """Return the PLS inside a search or a transformed target, else the model itself."""
    for name in ("best_estimator_", "regressor_"):
        inside = getattr(model, name, None)
        if inside is not None and has_latent_variables(inside):
            return inside
    return model


class FoldWatch:
    """Observe the input of one fitted model: first its training samples, then those that it left out.

    Parameters
    ----------
    model, transformers
        Fitted.
    keep_space : bool
        Whether new samples will be measured with this model.
    formulas : bool
        Whether Jackson and Mudholkar's limit of Q may be requested, which needs the eigenvalues of a large matrix.
        Without it, and without enough left-out samples, Box's approximation is used; the method's name says so.
    """

    def __init__(
        self, model: Any, transformers: Sequence[Any], *, keep_space: bool, formulas: bool = True
    ) -> None:
        self._formulas = formulas
        self._model = model
        self._transformers = transformers
        self._keep_space = keep_space
        self._latent: Latent | None = None
        self.before = int(is_pca_step(model, transformers))
        self.found = FoldDomain()

    def see(self, partition: str, X: Any) -> None:
        """Take in spectra in the space, "train" before "val": at the model's input, less `before` steps."""
        try:
            if partition == "train":
                train, steps = _numbers(X), self._transformers if self.before else ()
                self._latent = latent_of(_within(self._model), steps, train)
                space = _space(self._latent, train, self._formulas) if self._keep_space else None
                self.found = FoldDomain(space=space, kind=self._latent.kind)
            elif partition == "val" and self._latent is not None:
                t2, q, h = self._latent.distances(_numbers(X))
                self.found = replace(self.found, t2=t2, q=q, h=h)
        except (np.linalg.LinAlgError, InvalidInput) as error:
            # A calibration is worth keeping where its domain is unknown; the reason is kept with it.
            self._latent = None
            self.found = FoldDomain(unknown=str(error))


def _numbers(X: Any) -> Floats:
    dense = X.toarray() if hasattr(X, "toarray") else X
    try:
        spectra = np.asarray(dense, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the model's input is not made of numbers ({error})") from error
    if spectra.ndim != 2 or not np.isfinite(spectra).all():
        raise InvalidInput("the model's input has missing values")
    return spectra


def _space(latent: Latent, train: Floats, formulas: bool) -> Space:
    if len(train) < 2:
        raise InvalidInput("a calibration of one sample has no domain")
    residuals = latent.residuals(train)
    q = (residuals**2).sum(axis=1)
    powers = power_sums(residuals) if formulas else (float(q.sum()) / (len(q) - 1), np.nan, np.nan)
    sums = np.array([*powers, q.mean(), q.var(ddof=1)])
    own = (latent.mean, latent.scale, latent.rotations, latent.loadings, latent.center, latent.spread)
    return Space(*own, latent.scores(train), sums)


def replicates_split(
    names: NDArray[Any] | None, folds: Sequence[tuple[NDArray[Any], NDArray[Any] | None]]
) -> bool:
    """Tell whether samples of one name lie on both sides of a fold (pairs of training and left-out rows)."""
    if names is None or np.unique(names).size == len(names):
        return False
    return any(left is not None and np.isin(names[left], names[train]).any() for train, left in folds)


def build(
    fits: Sequence[FoldDomain],
    left_out: Sequence[tuple[LeftOut, FoldDomain | None]],
    y: NDArray[Any],
    *,
    task: str,
    classes: NDArray[Any] | None = None,
    refused: str = "",
) -> Domain:
    """Build the domain from the parts of a cross-validation.

    Parameters
    ----------
    fits : sequence of FoldDomain
        That of the refit alone, or those of all folds.
    left_out : sequence of (LeftOut, FoldDomain or None)
        Of every fold.
    y : ndarray
        The measured values of the calibration.
    task : {"regression", "classification"}
    classes : ndarray, optional
        Labels in the order of the columns of probabilities.
    refused : str
        Why no interval may be given.
    """
    unknown = next(
        (each.unknown for each in fits if each.unknown), "" if fits else "the model was not measured"
    )
    spaces = () if unknown else tuple(each.space for each in fits if each.space is not None)
    measured = [
        (one, fit) for one, fit in left_out if fit is not None and fit.t2 is not None and fit.q is not None
    ]
    distances, medians, leverages = np.empty(0), np.empty(0), np.empty(0)
    if spaces and left_out and len(measured) == len(left_out):
        t2, q, leverages = (
            np.concatenate([getattr(fit, name) for _, fit in measured]) for name in ("t2", "q", "h")
        )
        # Where the latent variables rebuild every spectrum, Q is rounding error; it must not decide.
        floor = 1e-20 * float(sum(spaces[0].sums[:1]) + (spaces[0].scores ** 2).sum() / spaces[0].n)
        medians = np.maximum(
            [np.median(t2), np.median(q)], [np.finfo(float).tiny, max(floor, np.finfo(float).tiny)]
        )
        distances = np.sort(np.maximum(t2 / medians[0], q / medians[1]))
    errors, refused = _errors([one for one, _ in left_out], task, classes, refused)
    facts: dict[str, Any] = {
        "kind": fits[0].kind if fits else "",
        "task": task,
        "n": len(y),
        "left_out": np.unique(np.concatenate([one.places for one, _ in left_out])).size if left_out else 0,
        "refused": refused,
        "unknown": unknown,
        "before": int(bool(fits) and fits[0].kind == PCA_STEP),
    }
    if classes is not None:
        facts["classes"] = classes.tolist()
    y_range = np.empty((0, 2))
    if task == "regression":
        columns = np.asarray(y, dtype=float).reshape(len(y), -1)
        y_range = np.column_stack([columns.min(axis=0), columns.max(axis=0)])
    return Domain(facts, spaces, distances, medians, errors, leverages, y_range)


def _errors(
    left_out: Sequence[LeftOut], task: str, classes: NDArray[Any] | None, refused: str
) -> tuple[Floats, str]:
    """Return |y - out-of-fold y|, or 1 - p(true class), and why there is no interval."""
    nothing = np.empty((0, 0))
    if refused or not left_out:
        return nothing, refused or "no out-of-fold predictions"
    if task == "regression":
        parts = [
            np.abs(np.subtract(one.y_true, one.y_pred, dtype=float)).reshape(len(one.y_true), -1)
            for one in left_out
        ]
        return np.concatenate(parts), ""
    tables = [one.y_proba for one in left_out if one.y_proba is not None]
    if classes is None or len(tables) < len(left_out):
        return nothing, "the model gives no probabilities"
    place: Mapping[Any, int] = {label: index for index, label in enumerate(classes.tolist())}
    columns = [np.array([place[label] for label in one.y_true.tolist()], dtype=int) for one in left_out]
    given = [table[np.arange(len(table)), column] for table, column in zip(tables, columns, strict=True)]
    return 1 - np.concatenate(given)[:, None].astype(float), ""
