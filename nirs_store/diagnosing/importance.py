"""Which channels carry a PLS model: VIP and selectivity ratio; how well it explains X and y."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["explained_variance", "selectivity_ratio", "studentised_residuals", "vip"]

Floats = NDArray[np.float64]


def vip(pls: Any) -> Floats:
    """Return the variable importance in projection of each channel of a fitted PLSRegression.

    VIP_j = sqrt(p sum_a(SS_a w_ja^2 / |w_a|^2) / sum_a SS_a), SS_a = q_a^2 t_a' t_a summed over the targets; Wold,
    Johansson and Cocchi (1993), in 3D QSAR in Drug Design. Its mean square is 1; above 1 counts as important.

    Returns
    -------
    ndarray, shape (n_features,)
    """
    weights, scores = np.asarray(pls.x_weights_, dtype=float), np.asarray(pls.x_scores_, dtype=float)
    explained = (np.asarray(pls.y_loadings_, dtype=float) ** 2).sum(axis=0) * (scores**2).sum(axis=0)
    shares = (weights / np.linalg.norm(weights, axis=0)) ** 2
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
        Calibration spectra at the model's input; centred here.

    Returns
    -------
    ndarray, shape (n_features,)
        Infinite for a channel that the projection explains whole.
    """
    vector = np.asarray(coefficients, dtype=float).ravel()
    spectra = np.asarray(X, dtype=float)
    centred = spectra - spectra.mean(axis=0)
    scores = centred @ (vector / np.linalg.norm(vector))
    modelled = np.outer(scores, centred.T @ scores / (scores @ scores))
    explained, rest = (modelled**2).sum(axis=0), ((centred - modelled) ** 2).sum(axis=0)
    ratio: Floats = np.divide(explained, rest, out=np.full(len(vector), np.inf), where=rest > 0)
    return ratio


def explained_variance(pls: Any, X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Return the shares of the variance of X and of y that 1 to A latent variables explain together.

    Parameters
    ----------
    pls : fitted PLSRegression
    X, y : array-like
        Calibration spectra at the model's input, and measured values.

    Returns
    -------
    tuple of ndarray
        Two arrays of shape (A,), cumulative, between 0 and 1.
    """
    spectra, values = np.asarray(X, dtype=float), np.asarray(y, dtype=float).reshape(len(np.asarray(y)), -1)
    x = (spectra - pls._x_mean) / pls._x_std
    t = (values - pls._y_mean) / pls._y_std
    scores = x @ pls.x_rotations_
    found = []
    for block, loadings in ((x, pls.x_loadings_), (t, pls.y_loadings_)):
        rest = [
            ((block - scores[:, :a] @ loadings[:, :a].T) ** 2).sum() for a in range(1, scores.shape[1] + 1)
        ]
        found.append(1 - np.array(rest) / (block**2).sum())
    return found[0], found[1]


def studentised_residuals(residuals: ArrayLike, leverage: ArrayLike, n_components: int) -> Floats:
    """Return internally studentised calibration residuals, r_i / (s sqrt(1 - h_i)), s^2 = sum r^2 / (n - A - 1).

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
