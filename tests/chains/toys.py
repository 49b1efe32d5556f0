"""Operators of unknown make, as other packages bring them: no scikit-learn base, no tags."""

from __future__ import annotations

from typing import Any

import numpy as np


class Shift:
    """Adds the first wavelength, or a constant."""

    def __init__(self, by: float = 0.0) -> None:
        self.by = by

    def transform(self, X: Any, wavelengths: Any = None) -> Any:
        return X + (self.by if wavelengths is None else wavelengths[0])


class Greedy:
    """Needs wavelengths, and overwrites what it is given."""

    def transform(self, X: Any, *, wavelengths: Any) -> Any:
        X *= wavelengths
        return X


class InPlace:
    """Centres its input in place."""

    def transform(self, X: Any) -> Any:
        X -= 1.0
        return X


class Resampler:
    """Brings any grid to the one it was made with."""

    def __init__(self, grid: Any) -> None:
        self.grid = np.asarray(grid)

    def transform(self, X: Any, wavelengths: Any) -> Any:
        return np.array([np.interp(self.grid, wavelengths, row) for row in X])


class Remembering:
    """Predicts with an array that it keeps."""

    def __init__(self, n: int) -> None:
        self.kept = np.zeros(n)

    def predict(self, X: Any) -> Any:
        return self.kept


class WavelengthModel:
    """Predicts the mean wavelength."""

    def predict(self, X: Any, wavelengths: Any) -> Any:
        return np.full(len(X), float(np.mean(wavelengths)))


class Odd:
    """Returns whatever it was made with."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def transform(self, X: Any) -> Any:
        return self.result

    predict = transform


class NotATransformer:
    """Has no transform, so a chain's text must not be able to call it."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
