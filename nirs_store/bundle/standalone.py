#!/usr/bin/env python3
"""A calibration model that predicts from near-infrared spectra: @TITLE@.

Exported by nirs_store, which it does not need: numpy, joblib and the packages of the fitted objects are
enough (@ENVIRONMENT@).

    python @FILE@ spectra.csv                     # predictions to the screen
    python @FILE@ spectra.csv -o predicted.csv    # or into a file

or from Python: ``predict = runpy.run_path("@FILE@")["predict"]``, then ``predict(X)``.

The fitted objects below are pickles: running this file runs what they contain. Use it only if you trust
whoever gave it to you.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import inspect
import io
import json
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np

# What the chain is, and its fitted objects: SHA-256 of the bytes, and the bytes in base64.
CHAIN: dict[str, Any] = json.loads(r"""{}""")
OBJECTS: dict[str, str] = {}

_loaded: dict[str, Any] = {}


def predict(X: Any, wavelengths: Any = None) -> Any:
    """Predict from spectra.

    Parameters
    ----------
    X : array or data frame of shape (n_samples, n_channels)
        Spectra on the grid of the calibration; columns that are named by numbers are named after their
        wavelengths.
    wavelengths : array of shape (n_channels,), optional
        Their wavelengths; compared, as the names of columns are, with those of the calibration where these are
        known.

    Returns
    -------
    ndarray
        Predictions, in the unit of the reference values.
    """
    named = _named(X)
    # Row by row in memory, so that a data frame and the array it shows give the same bits.
    X = np.ascontiguousarray(X) if hasattr(X, "columns") else np.asarray(X)
    if X.dtype.kind not in "fiub":
        X = X.astype(np.float64)
    if X.ndim != 2 or not X.size:
        raise ValueError(f"X must have the shape (n_samples, n_channels), found {X.shape}.")
    grid = _grid(X.shape[1], named)
    if wavelengths is not None:
        grid = _grid(X.shape[1], wavelengths)
    for step in CHAIN["steps"]:
        objects = [_object(name) for name in step["objects"]]
        if step["kind"] == "feature_augmentation":
            X = np.hstack([X, *(_call(found, "transform", X, grid) for found in objects)])
        else:
            for found in objects:
                X = _call(found, "transform", X, grid)
    outputs = [np.asarray(_call(_object(name), "predict", X, grid)) for name in CHAIN["models"]]
    y = outputs[0]
    if len(outputs) > 1:
        stacked, weights = np.stack(outputs), CHAIN["weights"]
        y = np.mean(stacked, axis=0) if weights is None else np.average(stacked, axis=0, weights=weights)
    for name in reversed(CHAIN["targets"]):
        y = _undo(_object(name), y)
    return y


def _named(X: Any) -> Any:
    """Give the wavelengths that the columns of a data frame are named after, if all of them are."""
    names = list(getattr(X, "columns", ()))
    try:
        numbers = np.array([float(name) for name in names])
    except (TypeError, ValueError):
        return None
    # A frame made from an array without names counts its columns; those are not wavelengths.
    counted = all(isinstance(name, (int, np.integer)) for name in names)
    if not names or not np.isfinite(numbers).all() or (counted and (numbers == np.arange(len(names))).all()):
        return None
    return numbers


def _grid(n_channels: int, wavelengths: Any) -> Any:
    stored = CHAIN["wavelengths"]
    given = None if wavelengths is None else np.asarray(wavelengths, dtype=np.float64)
    if given is not None and given.shape != (n_channels,):
        raise ValueError(f"X has {n_channels} channels, but there are {given.size} wavelengths.")
    if stored is None:
        return given
    grid = np.asarray(stored, dtype=np.float64)
    if grid.size != n_channels:
        raise ValueError(
            f"The model was trained on {grid.size} channels ({grid[0]:g} to {grid[-1]:g}), X has "
            f"{n_channels}."
        )
    if given is not None:
        spacing = np.abs(np.diff(grid)).min() if grid.size > 1 else 0.0
        if np.abs(given - grid).max() > max(0.01 * spacing, 1e-9 * np.abs(grid).max()):
            raise ValueError(
                f"X is not on the grid of the model ({grid[0]:g} to {grid[-1]:g}); resample it first."
            )
    return grid


def _object(name: str) -> Any:
    if name not in _loaded:
        data = base64.b64decode(OBJECTS[name])
        if hashlib.sha256(data).hexdigest() != name:
            raise ValueError("This file was damaged: one of its objects has another SHA-256 than it should.")
        _loaded[name] = joblib.load(io.BytesIO(data))
    return _loaded[name]


def _call(found: Any, method: str, X: Any, grid: Any) -> Any:
    function = getattr(found, method)
    if hasattr(X, "columns") and not hasattr(found, "feature_names_in_"):
        X = np.asarray(X)  # a frame because of this process's configuration of scikit-learn
    X = X.copy(order="K") if isinstance(X, np.ndarray) else X
    if grid is not None and "wavelengths" in inspect.signature(function).parameters:
        return function(X, wavelengths=grid)
    return function(X)


def _undo(found: Any, y: Any) -> Any:
    """Transform predictions back; 1-D values go in as one column, labels as they are."""
    tags = found.__sklearn_tags__() if hasattr(found, "__sklearn_tags__") else None
    labels = tags is not None and tags.target_tags.one_d_labels
    if y.ndim > 1 or labels:
        return np.asarray(found.inverse_transform(y))
    back = np.asarray(found.inverse_transform(y.reshape(-1, 1)))
    return back.ravel() if back.shape == (len(y), 1) else back


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_csv(stream: Any) -> tuple[list[str], Any, Any]:
    """Read sample names, spectra and wavelengths; the columns whose header is a number are the channels."""
    text = stream.read().lstrip("\ufeff")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    if not rows:
        raise ValueError("The file is empty.")
    if delimiter == ";" and not any("." in cell for cell in rows[-1]):
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]  # decimal commas
    header = [_number(cell) for cell in rows[0]]
    named = any(number is None for number in header) or _is_grid(header)
    channels = [place for place, number in enumerate(header) if number is not None]
    stored = CHAIN["wavelengths"]
    if named and stored is not None:
        near = {round(value, 2) for value in stored}
        kept = [place for place in channels if round(header[place] or 0.0, 2) in near]
        channels = kept if len(kept) == len(stored) else channels
    body = rows[1:] if named else rows
    others = [place for place in range(len(rows[0])) if place not in channels]
    samples = [row[others[0]] if others else str(number) for number, row in enumerate(body, start=1)]
    spectra = np.array([[float(row[place]) for place in channels] for row in body], dtype=np.float64)
    grid = np.array([header[place] for place in channels], dtype=np.float64) if named else None
    return samples, spectra, grid


def _is_grid(header: list[float | None]) -> bool:
    """Tell a row of wavelengths from a spectrum: it rises or falls from channel to channel."""
    steps = np.diff([number for number in header if number is not None])
    return len(steps) > 1 and bool((steps > 0).all() or (steps < 0).all()) and abs(header[0] or 0.0) > 100


def main(arguments: list[str] | None = None) -> int:
    """Read a CSV file of spectra, a sample a row, and write a CSV file of predictions."""
    parser = argparse.ArgumentParser(description=str(CHAIN.get("title") or "Predict from spectra."))
    parser.add_argument(
        "spectra",
        help="CSV file, a sample a row; columns headed by wavelengths are the spectra; - for standard input",
    )
    parser.add_argument("-o", "--output", help="CSV file to write; default: the screen")
    options = parser.parse_args(arguments)
    try:
        if options.spectra == "-":
            samples, X, wavelengths = _read_csv(sys.stdin)
        else:
            with Path(options.spectra).open(newline="", encoding="utf-8") as stream:
                samples, X, wavelengths = _read_csv(stream)
        y = predict(X, wavelengths)
    except (OSError, ValueError, IndexError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = y.reshape(len(y), -1)
    names = [str(CHAIN.get("target") or "prediction")]
    if table.shape[1] > 1:
        names = [f"{names[0]}_{number}" for number in range(table.shape[1])]
    lines = [
        ["sample", *names],
        *([sample, *row] for sample, row in zip(samples, table.tolist(), strict=True)),
    ]
    if options.output:
        with Path(options.output).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(lines)
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
