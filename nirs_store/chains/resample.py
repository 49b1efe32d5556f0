"""Bringing spectra to the grid of a calibration, for those who ask for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.spectra import as_grid, one_grid, read_table
from nirs_store.errors import InvalidInput, ShapeMismatch

__all__ = ["to_grid"]


def to_grid(target: NDArray[np.float64] | None, X: Any, wavelengths: Any = None) -> NDArray[np.float64]:
    """Interpolate spectra linearly to other wavelengths; nothing is extrapolated.

    Parameters
    ----------
    target : ndarray of shape (n_wanted,), or None
        The grid of the calibration.
    X : array or data frame of shape (n_samples, n_channels)
        Spectra; columns of a data frame are named by wavelength.
    wavelengths : array of shape (n_channels,), optional
        Their wavelengths, in the unit of `target`, where X does not name them.

    Returns
    -------
    ndarray of shape (n_samples, n_wanted)

    Raises
    ------
    InvalidInput
        One of the grids is not known.
    ShapeMismatch
        The spectra do not reach as far as the calibration, or wavelengths do not fit the channels or their names.

    Examples
    --------
    >>> to_grid(np.array([1.0, 1.5]), [[0.0, 2.0, 4.0]], [0.0, 1.0, 2.0])
    array([[2., 3.]])
    """
    if target is None:
        raise InvalidInput(
            "resample: the calibration's wavelengths were not recorded, so nothing can be resampled."
        )
    array, named, _ = read_table(X, "X")
    own = one_grid(named, None if wavelengths is None else as_grid(wavelengths), "X")
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
            f"{own.max():g}. Nothing is extrapolated; measure the whole range."
        )
    order = np.argsort(own)
    x, y = own[order], np.asarray(array, dtype=np.float64)[:, order]
    right = np.clip(np.searchsorted(x, target), 1, x.size - 1)
    share = np.clip((target - x[right - 1]) / (x[right] - x[right - 1]), 0.0, 1.0)
    return np.asarray(y[:, right - 1] * (1.0 - share) + y[:, right] * share)
