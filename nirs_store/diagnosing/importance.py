"""Which channels carry a PLS model: VIP and selectivity ratio; how well it explains X and y."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def vip(pls: Any) -> Floats:
    """Return the variable importance in projection of each channel of a fitted PLSRegression.

    VIP_j = sqrt(p sum_a(SS_a w_ja^2 / |w_a|^2) / sum_a SS_a), SS_a = q_a^2 t_a' t_a summed over the targets; Wold,
    Johansson and Cocchi (1993), in 3D QSAR in Drug Design. Its mean square is 1; above 1 counts as important.

    Returns
    -------
    ndarray, shape (n_features,)
        NaN where the model explains nothing of y.
    """
    weights, scores = np.asarray(pls.x_weights_, dtype=float), np.asarray(pls.x_scores_, dtype=float)
    # Of a y that is explained before the last component, the rest has neither weights nor scores.
    used = np.linalg.norm(weights, axis=0) > 0
    weights, scores = weights[:, used], scores[:, used]
    explained = (np.asarray(pls.y_loadings_, dtype=float)[:, used] ** 2).sum(axis=0) * (scores**2).sum(axis=0)
    shares = (weights / np.linalg.norm(weights, axis=0)) ** 2
    if not explained.any():
        return np.full(len(weights), np.nan)
    result: Floats = np.sqrt(len(weights) * shares @ explained / explained.sum())
    return result


def selectivity_ratio(coefficients: ArrayLike, X: ArrayLike) -> Floats:
    """Return, for each channel, explained over residual variance after target projection.

    Kvalheim (2010), Journal of Chemometrics 24, 496-504.

    Parameters
    ----------
    coefficients : array-like, shape (n_features,)
        Regression vector of one target at the model's input.
    X : array-like, shape (n_samples, n_features)
        Calibration spectra at the model's input; this function centers them.

    Returns
    -------
    ndarray, shape (n_features,)
        Infinite for a channel that the projection explains completely; NaN if all coefficients are 0.
    """
    vector = np.asarray(coefficients, dtype=float).ravel()
    if not vector.any():
        return np.full(len(vector), np.nan)
    spectra = np.asarray(X, dtype=float)
    centred = spectra - spectra.mean(axis=0)
    scores = centred @ (vector / np.linalg.norm(vector))
    modelled = np.outer(scores, centred.T @ scores / (scores @ scores))
    explained, rest = (modelled**2).sum(axis=0), ((centred - modelled) ** 2).sum(axis=0)
    ratio: Floats = np.divide(explained, rest, out=np.full(len(vector), np.inf), where=rest > 0)
    return ratio


def explained_variance(
    pls: Any,
    X: ArrayLike,
    y: ArrayLike,
    target: int | None = None,
    undo: Callable[[Floats], Floats] | None = None,
) -> tuple[Floats, Floats]:
    """Return the shares of the variance of X and of y that 1 to A latent variables explain together.

    Parameters
    ----------
    pls : fitted PLSRegression
    X, y : array-like
        Calibration spectra at the model's input, and measured values.
    target : int, optional
        Which of the model's targets `y` holds, counted from 0; by default y has all of them.
    undo : callable, optional
        Brings the model's answers, shape (n_samples, n_targets), into the unit of `y`, where the model was fitted on
        transformed values.

    Returns
    -------
    tuple of ndarray
        Two arrays of shape (A,), cumulative, at most 1. Of a constant y the shares are NaN.
    """
    spectra, values = np.asarray(X, dtype=float), np.asarray(y, dtype=float).reshape(len(np.asarray(y)), -1)
    x = (spectra - pls._x_mean) / pls._x_std
    scores, columns = x @ pls.x_rotations_, slice(None) if target is None else [target]
    numbers = range(1, scores.shape[1] + 1)
    rest_x = [((x - scores[:, :a] @ pls.x_loadings_[:, :a].T) ** 2).sum() for a in numbers]
    # Weighed as the model weighs its targets; the share of one target has no unit.
    spread = np.asarray(pls._y_std, dtype=float)[columns]
    rest_y = []
    for a in numbers:
        answer = (scores[:, :a] @ pls.y_loadings_[:, :a].T) * pls._y_std + pls._y_mean
        answer = answer if undo is None else np.asarray(undo(answer)).reshape(answer.shape)
        rest_y.append((((values - answer[:, columns]) / spread) ** 2).sum())
    whole = (((values - values.mean(axis=0)) / spread) ** 2).sum()
    explained = 1 - np.array(rest_y) / whole if whole > 0 else np.full(len(rest_y), np.nan)
    return 1 - np.array(rest_x) / (x**2).sum(), explained


def studentised_residuals(residuals: ArrayLike, leverage: ArrayLike, n_components: int) -> Floats:
    """Return internally studentized calibration residuals, r_i / (s sqrt(1 - h_i)), s^2 = sum r^2 / (n - A - 1).

    Martens and Naes (1989), Multivariate Calibration, section 5.3. NaN where a sample has leverage 1 or no degree of
    freedom is left.

    Parameters
    ----------
    residuals, leverage : array-like, shape (n_samples,)
        Of the samples that the model was fitted on.
    n_components : int
        Latent variables of the model.

    Returns
    -------
    ndarray, shape (n_samples,)
    """
    r, h = np.asarray(residuals, dtype=float), np.asarray(leverage, dtype=float)
    freedom = len(r) - n_components - 1
    if freedom < 1:
        return np.full(len(r), np.nan)
    s = np.sqrt((r**2).sum() / freedom)
    scale = s * np.sqrt(np.clip(1 - h, 0, None))
    result: Floats = np.divide(r, scale, out=np.full(len(r), np.nan), where=scale > 0)
    return result
