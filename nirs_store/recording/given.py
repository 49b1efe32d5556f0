"""Take `Spectra` and stored data sets apart into what a cross-validation is given."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nirs_store.chains.grids import advice, differ, same_grid
from nirs_store.datasets.version import DatasetVersion
from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra
from nirs_store.reading.spectra import check_names
from nirs_store.values import as_array, column_names, is_frame, native


def resolve(store: Any, X: Any, target: Any, word: str = "X") -> Any:
    """Return the samples of a stored data set that X names, without those whose target is not known."""
    # Anything but the name of a data set is returned as it is.
    if isinstance(X, (str, DatasetVersion)):
        if target is None:
            labels = ", ".join(store.datasets.version(X).labels) or "none"
            raise InvalidInput(f"target: expected a column of {X}. Its columns: {labels}.")
        X = store.datasets.get(X, target=target)
    if not isinstance(X, Spectra) or X.dataset is None or X.y is None:
        return X
    columns = X.y if X.y.ndim == 2 else X.y.reshape(-1, 1)
    # Labels that are missing are None, numbers NaN: neither equals itself or holds text.
    missing = np.array([any(cell is None or cell != cell for cell in row) for row in columns.tolist()])
    if not missing.any():
        return X
    if missing.all():
        raise InvalidInput(f"target: no sample of {X.dataset.name} has a value of {X.target!r}.")
    warnings.warn(
        f"{word}: {int(missing.sum())} of {len(X)} samples of {X.dataset.name} have no value of {X.target!r} and are "
        "left out.",
        RecordingWarning,
        stacklevel=4,
    )
    return X[~missing]


def stored_facts(X: Any, prefix: str = "dataset") -> dict[str, Any]:
    """Say in a chain's metadata from which version of a data set its samples are, and which rows of it."""
    if not isinstance(X, Spectra) or X.dataset is None:
        return {}
    return {
        f"{prefix}_version_id": X.dataset.dataset_version_id,
        prefix: X.dataset.name,
        f"{prefix}_rows": X.dataset.ranges,
    }


def take_spectra(X: Any, y: Any, *named: Any) -> tuple[Any, dict[str, Any]]:
    """Take `Spectra` apart; what was given by name wins. Several names of targets go into the stored facts."""
    names = ("wavelengths", "wavelength_unit", "sample_ids", "groups", "target", "target_unit")
    given = dict(zip(names, named, strict=True))
    columns: tuple[str, ...] = ()
    if given["target"] is not None and not isinstance(given["target"], str):
        columns = check_names("target", given["target"])
        given["target"] = _one_name(X, y, columns)
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
    stored = stored_facts(X)
    if isinstance(X, Spectra) and isinstance(X.target, tuple) and isinstance(X.target_unit, tuple):
        stored["target_units"] = list(X.target_unit)
    if len(columns) > 1:
        stored["target_names"] = list(columns)
    return y, given | {"stored": stored, "stored_test": {}}


def _one_name(X: Any, y: Any, names: tuple[str, ...]) -> str | None:
    """Check names for the columns of y; return the name of a single column, None for several."""
    if any(not name.strip() for name in names):
        raise InvalidInput(f"target: expected names that are not empty; found {list(names)!r:.60}.")
    if y is None and isinstance(X, Spectra) and X.target is not None:
        columns = [X.target] if isinstance(X.target, str) else list(X.target)
        if columns != list(names):
            raise InvalidInput(
                f"target: the spectra were read with {columns!r:.60}; found {list(names)!r:.60}. Read them with "
                f"target={list(names)!r:.60}, or pass y."
            )
    elif y is not None:
        shape = as_array(y, "y").shape
        width = shape[1] if len(shape) > 1 else 1
        if len(names) != width:
            raise ShapeMismatch(
                f"target: expected one name per column of y, {width}; found {len(names)}: {list(names)!r:.60}."
            )
        frame = native(y, "y")
        columns = [str(name) for name in column_names(frame)] if is_frame(frame) else []
        if columns != list(names) and set(columns) == set(names):
            raise InvalidInput(
                f"target: the columns of y are {columns!r:.60}; found them in another order: {list(names)!r:.60}."
            )
    return names[0] if len(names) == 1 else None


def take_test(X: Any, X_test: Any, y_test: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return a test set as `record_cross_validation` takes it; warn of samples that are in the calibration too."""
    if not isinstance(X_test, Spectra):
        return {} if X_test is None and y_test is None else {"X_test": X_test, "y_test": y_test}
    if isinstance(X, Spectra) and y_test is None and X_test.target != X.target:
        raise InvalidInput(
            f"X_test: expected the target {X.target!r} of the calibration; {X_test.source.path.name} was read with "
            f"{X_test.target!r}. Read it with read_spectra(..., target={X.target!r}); if it is the same quantity under "
            "another name, pass X_test=test.X, y_test=test.y."
        )
    y_test = take_spectra(X_test, y_test, *[None] * 6)[0]
    given["stored_test"] = stored_facts(X_test, "dataset_test")
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
        own = X.source.path.stem if X.dataset is None else X.dataset.name
        X, dataset_name = X.X, dataset_name or own
    if not isinstance(dataset_name, str) or not dataset_name.strip():
        raise InvalidInput(
            f"dataset_name: expected a name for these spectra, such as dataset_name='corn' (arrays bring none along); "
            f"found {dataset_name!r}."
        )
    return X, dataset_name
