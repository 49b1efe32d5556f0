"""Take `Spectra` apart into what a cross-validation is given."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from nirs_store.chains.grids import advice, differ, same_grid
from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra

__all__ = ["take_name", "take_spectra"]


def take_spectra(X: Any, y: Any, *named: Any) -> tuple[Any, dict[str, Any]]:
    """Take `Spectra` apart; what was given by name wins."""
    names = ("wavelengths", "wavelength_unit", "sample_ids", "groups", "target", "target_unit")
    given = dict(zip(names, named, strict=True))
    if isinstance(X, Spectra):
        several = isinstance(X.target, tuple)
        units = {X.target_unit} if isinstance(X.target_unit, (str, type(None))) else set(X.target_unit)
        own = {
            "wavelengths": X.wavelengths,
            "wavelength_unit": X.unit,
            "sample_ids": X.ids,
            "groups": X.groups,
            "target": None if several else X.target,
            "target_unit": units.pop() if len(units) == 1 else None,
        }
        given = {name: own[name] if value is None else value for name, value in given.items()}
        if y is None and X.y is not None:
            y = pl.DataFrame(X.y, schema=list(X.target)) if isinstance(X.target, tuple) else X.y
        if y is None:
            raise InvalidInput(
                f"{X.source.path.name}: no target was read. Name one with read_spectra(..., target=...), or pass y. "
                f"Labels in it: {', '.join(X.labels) or 'none'}."
            )
    if y is None:
        raise InvalidInput("y: expected measured values, one per sample; found None.")
    return y, given


def take_test(X: Any, X_test: Any, y_test: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a test set as `record_cross_validation` takes it; warn of samples that are in the calibration too."""
    if not isinstance(X_test, Spectra):
        return {} if X_test is None and y_test is None else {"X_test": X_test, "y_test": y_test}
    if isinstance(X, Spectra) and y_test is None and X_test.target != X.target:
        raise InvalidInput(
            f"X_test: expected the target {X.target!r} of the calibration; {X_test.source.path.name} was read with "
            f"{X_test.target!r}. Read it with read_spectra(..., target={X.target!r})."
        )
    y_test = take_spectra(X_test, y_test, *[None] * 6)[0]
    grid = given["wavelengths"]
    if grid is not None and X_test.wavelengths is not None:
        grid = np.asarray(grid, dtype=float)
        if not same_grid(X_test.wavelengths, grid):
            raise ShapeMismatch(
                f"X_test: expected the wavelengths of the calibration: {differ(X_test.wavelengths, grid)}. "
                f"{advice(X_test.wavelengths, grid)}"
            )
    ids = X_test.ids
    names = given["sample_ids"]
    both = (
        []
        if ids is None or names is None or isinstance(names, str)
        else sorted({*map(str, ids)} & {*map(str, names)})
    )
    if both:
        warnings.warn(
            f"X_test: {len(both)} of its samples have names of calibration samples, for example {both[0]!r}. The RMSEP "
            "is too low if they are the same samples.",
            RecordingWarning,
            stacklevel=4,
        )
    known = {} if ids is None else {"sample_ids_test": ids}
    return {"X_test": X_test.X, "y_test": y_test, **known}


def take_name(X: Any, dataset_name: Any) -> tuple[Any, str]:
    """Return the spectra as an array or frame, and the name of the data set: by default that of the file."""
    if isinstance(X, Spectra):
        X, dataset_name = X.X, dataset_name or X.source.path.stem
    if not isinstance(dataset_name, str) or not dataset_name.strip():
        raise InvalidInput(f"dataset_name: expected a name for these spectra; found {dataset_name!r}.")
    return X, dataset_name
