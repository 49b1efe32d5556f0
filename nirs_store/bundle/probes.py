"""Probe spectra as a bundle holds them, and comparing predictions with the ones that they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "agree", "disagreement", "unpacked"]

TOLERANCE = 1e-6
"""Largest accepted difference, as a share of the largest expected value.

Replay on the same machine gives the same bits. Another build of the linear algebra gives about 1e-12; one
part in a million is far below what any reference method resolves.
"""


def agree(found: NDArray[Any], expected: NDArray[Any], tolerance: float = TOLERANCE) -> bool:
    """Tell whether two sets of predictions are the same: labels exactly, numbers within the tolerance.

    Examples
    --------
    >>> agree(np.array([1.0, 2.0]), np.array([1.0, 2.0 + 1e-9]))
    True
    >>> agree(np.array(["a", "b"]), np.array(["a", "a"]))
    False
    """
    if found.shape != expected.shape:
        return False
    if not (_numeric(found) and _numeric(expected)):
        return bool(np.array_equal(found.astype(str), expected.astype(str)))
    scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    return bool(np.allclose(found, expected, rtol=0.0, atol=tolerance * scale, equal_nan=True))


def disagreement(found: NDArray[Any], expected: NDArray[Any]) -> str:
    """Say how two sets of predictions differ."""
    if found.shape != expected.shape:
        return f"the shape is {found.shape}, expected {expected.shape}"
    if not (_numeric(found) and _numeric(expected)):
        wrong = int(np.sum(found.astype(str) != expected.astype(str)))
        return f"{wrong} of {expected.size} labels differ"
    numbers = expected.astype(np.float64)
    if (gone := np.isnan(found.astype(np.float64)) != np.isnan(numbers)).any():
        return f"{int(gone.sum())} of {expected.size} values are NaN on one side only"
    worst = float(np.nanmax(np.abs(found - numbers)))
    largest = float(np.nanmax(np.abs(numbers)))
    return f"the largest difference is {worst:.3g}, the largest expected value {largest:.3g}"


def unpacked(
    parts: Sequence[NDArray[Any]], grids: Sequence[NDArray[Any]], sources: Sequence[int]
) -> tuple[Any, Any]:
    """Give the arrays of a probe as `predict` takes them: spectra, and wavelengths or None.

    Examples
    --------
    >>> unpacked([np.zeros((1, 2))], [], ())
    (array([[0., 0.]]), None)
    """
    X = parts[0] if len(parts) == 1 else dict(zip(sources, parts, strict=False))
    if not grids:
        return X, None
    return X, grids[0] if len(grids) == 1 else dict(zip(sources, grids, strict=False))


def _numeric(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "biuf"
