"""The latent space of a fitted model, and the distance of a spectrum from the calibration in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nirs_store.domain.measure import q_limit_of, t2_limit_of
from nirs_store.errors import InvalidInput, ShapeMismatch

Floats = NDArray[np.float64]
_VARIANCE = 0.99
PCA_STEP = "PCA step"
_TRIED = 16


@dataclass(frozen=True, eq=False)
class Latent:
    """A centered and scaled space of A latent variables, with the calibration's scores in it.

    Attributes
    ----------
    kind : str
        Where the space comes from: ``"PLS"``, ``"PCA step"`` or ``"PCA of the model's input"``.
    mean, scale : ndarray, shape (n_features,)
        `mean` is subtracted from a spectrum, which is then divided by `scale` (1 if the model does not scale).
    rotations, loadings : ndarray, shape (n_features, A)
        Scores are ``(x - mean) / scale @ rotations``; a spectrum is reconstructed as ``scores @ loadings.T``.
    center, spread : ndarray, shape (A,)
        Mean and standard deviation (n - 1) of the calibration's scores.
    n : int
        Calibration samples.
    """

    kind: str
    mean: Floats
    scale: Floats
    rotations: Floats
    loadings: Floats
    center: Floats
    spread: Floats
    n: int

    @property
    def n_components(self) -> int:
        """Return the number of latent variables, A."""
        return int(self.rotations.shape[1])

    def _centred(self, X: ArrayLike) -> Floats:
        spectra = np.asarray(X, dtype=float)
        if spectra.ndim != 2 or spectra.shape[1] != len(self.mean):
            raise ShapeMismatch(
                f"X: expected spectra of {len(self.mean)} channels at the model's input; found shape {spectra.shape}."
            )
        centred: Floats = (spectra - self.mean) / self.scale
        return centred

    def scores(self, X: ArrayLike) -> Floats:
        """Return the scores of spectra at the model's input, shape (n_samples, A)."""
        scores: Floats = self._centred(X) @ self.rotations
        return scores

    def distances(self, X: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Return T2, Q and the leverage of each spectrum."""
        centred = self._centred(X)
        scores = centred @ self.rotations
        rest = centred - scores @ self.loadings.T
        t2 = (((scores - self.center) / self.spread) ** 2).sum(axis=1)
        return t2, (rest**2).sum(axis=1), 1 / self.n + t2 / max(self.n - 1, 1)

    def t2(self, X: ArrayLike) -> Floats:
        """Return Hotelling's T2 of each spectrum: the sum over a of (t_a - mean t_a)^2 / s_a^2."""
        return self.distances(X)[0]

    def leverage(self, X: ArrayLike) -> Floats:
        """Return the leverage of each spectrum: 1/n + T2 / (n - 1) for uncorrelated calibration scores."""
        return self.distances(X)[2]

    def residuals(self, X: ArrayLike) -> Floats:
        """Return what the latent variables do not explain, in the centered and scaled space of the model's input."""
        centred = self._centred(X)
        residuals: Floats = centred - (centred @ self.rotations) @ self.loadings.T
        return residuals

    def q(self, X: ArrayLike) -> Floats:
        """Return Q (SPE) of each spectrum: the squared norm of its residual."""
        return self.distances(X)[1]


def t2_limit(n: int, n_components: int, alpha: float = 0.05) -> float:
    """Return the limit of T2 for a new spectrum: A (n^2 - 1) / (n (n - A)) F(1 - alpha; A, n - A).

    Tracy, Young and Mason (1992), Journal of Quality Technology 24, 88-95.

    Raises
    ------
    InvalidInput
        There are not more samples than components, so that the distribution is not defined.

    Examples
    --------
    >>> round(t2_limit(50, 3, 0.05), 3)
    8.94
    """
    found = t2_limit_of(n, n_components, alpha)
    if found is None:
        raise InvalidInput(f"T2 limit: expected more samples than components; found n={n}, A={n_components}.")
    return found


def q_limit(residuals: ArrayLike, alpha: float = 0.05) -> tuple[float, str]:
    """Return the limit of Q and the name of the method, from the residuals of the calibration spectra.

    The limit is that of Jackson and Mudholkar (1979), Technometrics 21, 341-349, from the eigenvalues of the residuals'
    covariance. If that approximation degenerates (h0 <= 0), it is Box's g chi2(h), with mean and variance of the
    calibration's Q.

    Parameters
    ----------
    residuals : array-like, shape (n_samples, n_features)
        Residuals of the calibration spectra, from `Latent.residuals`.
    alpha : float
        Share of normal spectra above the limit.

    Returns
    -------
    tuple of float and str
        The limit, and ``"Jackson-Mudholkar"`` or ``"Box"``; 0 if the model explains every spectrum completely.
    """
    rest = np.asarray(residuals, dtype=float)
    q = (rest**2).sum(axis=1)
    return q_limit_of(power_sums(rest), float(q.mean()), float(q.var(ddof=1)), alpha)


def power_sums(residuals: Floats) -> tuple[float, float, float]:
    """Return the sums of the first three powers of the eigenvalues of the residuals' covariance."""
    rest = residuals - residuals.mean(axis=0)
    gram = (rest @ rest.T if len(rest) < rest.shape[1] else rest.T @ rest) / (len(rest) - 1)
    return float(np.trace(gram)), float((gram**2).sum()), float(((gram @ gram) * gram).sum())


def latent_of(model: Any, transformers: Sequence[Any] = (), calibration: ArrayLike | None = None) -> Latent:
    """Return the latent space of a fitted model.

    Parameters
    ----------
    model : fitted estimator
        A PLSRegression brings its own latent variables.
    transformers : sequence of fitted transformers
        Those before the model; a PCA that comes last gives the space (principal component regression), and
        spectra are then meant as they enter that PCA.
    calibration : array-like, shape (n_samples, n_features), optional
        Spectra at the model's input that it was fitted on. Needed where the model has no latent variables: a PCA
        of them with components for 99 % of the variance, at most n / 3, takes their place.

    Returns
    -------
    Latent

    Raises
    ------
    InvalidInput
        The model has no latent variables and `calibration` is missing.
    """
    from sklearn.decomposition import PCA

    last = transformers[-1] if len(transformers) else None
    if has_latent_variables(model):
        scores = np.asarray(model.x_scores_, dtype=float)
        names = ("_x_mean", "_x_std", "x_rotations_", "x_loadings_")
        mean, scale, rotations, loadings = (np.asarray(getattr(model, name), dtype=float) for name in names)
        center, spread = scores.mean(axis=0), _spread(scores.std(axis=0, ddof=1))
        return Latent("PLS", mean, scale, rotations, loadings, center, spread, len(scores))
    if isinstance(last, PCA):
        # A whitened one has the same T2 and residuals.
        axes = np.asarray(last.components_, dtype=float).T
        spread = np.sqrt(np.asarray(last.explained_variance_, dtype=float))
        return Latent(
            PCA_STEP, np.asarray(last.mean_, dtype=float), np.ones(len(axes)), axes, axes, np.zeros(axes.shape[1]),
            _spread(spread), int(last.n_samples_),
        )  # fmt: skip
    if calibration is None:
        raise InvalidInput(
            f"{type(model).__name__} has no latent variables: give the calibration spectra, so that a PCA of the "
            "model's input can take their place."
        )
    return _pca_of(np.asarray(calibration, dtype=float))


def has_latent_variables(model: Any) -> bool:
    """Tell whether a fitted model has latent variables of its own, as PLS does."""
    return hasattr(model, "x_rotations_") and hasattr(model, "x_scores_")


def _pca_of(spectra: Floats) -> Latent:
    """Fit a PCA with the components that 99 % of the variance need, and no more."""
    n, width = spectra.shape
    mean = spectra.mean(axis=0)
    centred = spectra - mean
    most = max(1, min(n // 3, width))
    wanted = _VARIANCE * float((centred**2).sum())
    # Of spectra few components are needed; twice as many are iterated, so that those have converged.
    values, axes = np.empty(0), np.empty((width, 0))
    tried = _TRIED
    while tried < min(n, width) // 3:
        values, axes = _leading(centred, tried)
        if float(values[: tried // 2].sum()) >= wanted:
            break
        tried *= 4
    else:
        values, axes = _all_components(centred)
    kept = min(int(np.searchsorted(np.cumsum(values), wanted)) + 1 if wanted else 1, most)
    axes = np.ascontiguousarray(axes[:, :kept])
    spread = _spread(np.sqrt(values[:kept] / max(n - 1, 1)))
    return Latent("PCA of the model's input", mean, np.ones(width), axes, axes, np.zeros(kept), spread, n)


def _leading(centred: Floats, count: int) -> tuple[Floats, Floats]:
    """Return the sums of squares and axes of the first components by subspace iteration, always the same ones."""
    axes = np.random.default_rng(0).normal(size=(centred.shape[1], count))
    for _ in range(3):
        axes = np.linalg.qr(centred.T @ (centred @ axes))[0]
    scores = centred @ axes
    values, turn = np.linalg.eigh(scores.T @ scores)
    return values[::-1], axes @ turn[:, ::-1]


def _all_components(centred: Floats) -> tuple[Floats, Floats]:
    """Return the same of all components by the eigenvalues of the smaller of the two products."""
    wide = len(centred) < centred.shape[1]
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if wide:
        vectors = centred.T @ vectors
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), np.finfo(float).tiny)
    return values, vectors


def _spread(deviations: Floats) -> Floats:
    """Replace deviations of components that are exhausted, so that rounding errors do not blow T2 up."""
    floor = max(float(deviations.max(initial=0.0)) * 1e-12, np.finfo(float).tiny)
    return np.where(deviations > floor, deviations, np.inf)
