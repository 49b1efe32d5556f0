#!/usr/bin/env python3
"""A calibration model that predicts from near-infrared spectra: @TITLE@.

Exported by nirs_store, which it does not need: numpy, joblib and the packages of the fitted objects are
enough (@ENVIRONMENT@).

    python @FILE@ spectra.csv                     # predictions to the screen
    python @FILE@ spectra.csv -o predicted.csv    # or into a file

or from Python: ``predict = runpy.run_path("@FILE@")["predict"]``, then ``predict(X)``.

The fitted objects below are pickles: running this file runs what they contain. Use it only if you trust
the person who gave it to you.
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

# Reading files of spectra and headers, as nirs_store does: every script carries the source of these modules.
# @READER@
from nirs_store.chains.grids import (
    advice,
    differ,
    disordered,
    flat_names,
    hidden_grid,
    in_unit,
    parse_header,
    same_grid,
    same_names,
)
from nirs_store.domain.measure import NOT_KNOWN, Domain
from nirs_store.reading.cells import parse_channel, safe_cell
from nirs_store.reading.text import describe, read_text

# @READER@
# What the chain is, and its fitted objects: SHA-256 of the bytes, and the bytes in base64.
CHAIN: dict[str, Any] = json.loads(r"""{}""")
OBJECTS: dict[str, str] = {}
# What says whether a sample is inside the calibration: numbers, an npz file in base64; empty where it is not known.
DOMAIN = ""

_loaded: dict[str, Any] = {}


def predict(X: Any, wavelengths: Any = None) -> Any:
    """Predict from spectra."""
    return _predict(X, wavelengths)[0]


def details(X: Any, wavelengths: Any = None, **options: Any) -> dict[str, list[Any]]:
    """Predict, say how sure each number is, and flag what lies outside the calibration."""
    y, inputs, proba = _predict(X, wavelengths)
    domain = Domain.from_bytes(base64.b64decode(DOMAIN)) if DOMAIN else Domain({})
    found = domain.measure(inputs[: len(domain.spaces)], y, proba, **options)
    table: dict[str, Any] = {"prediction": y.tolist()}
    for name, bound in (("lower", found.lower), ("upper", found.upper)):
        if bound is not None:
            table[name] = bound.reshape(y.shape).tolist()
    if found.sets is not None:
        table["set"] = found.sets
    table |= {name: values.tolist() for name, values in found.values.items()}
    table["flags"] = [list(dict.fromkeys(word for target in row for word in target)) for row in found.flags]
    return table


def _predict(X: Any, wavelengths: Any) -> tuple[Any, list[Any], Any]:
    """Predict; return what the models got, and a classifier's probabilities of the calibration's classes."""
    named = _named(X) if hasattr(X, "columns") else None
    # Row by row in memory, so that a data frame and the array it shows give the same bits.
    X = np.ascontiguousarray(X) if hasattr(X, "columns") else np.asarray(X)
    if X.dtype.kind not in "fiub":
        X = X.astype(np.float64)
    if X.ndim != 2 or not X.size:
        raise ValueError(f"X must have the shape (n_samples, n_channels), found {X.shape}.")
    grid = _grid(X.shape[1], named)
    if wavelengths is not None:
        grid = _grid(X.shape[1], _wavelengths(wavelengths))
    before = X
    for step in CHAIN["steps"]:
        before = X
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
    if not DOMAIN:
        return y, [], None
    facts = Domain.from_bytes(base64.b64decode(DOMAIN)).facts
    space = before if facts.get("before") else X
    proba, model = None, _object(CHAIN["models"][0])
    if facts.get("classes") and len(outputs) == 1 and hasattr(model, "predict_proba"):
        labels = model.classes_
        for name in reversed(CHAIN["targets"]):
            labels = _undo(_object(name), labels)
        table = np.asarray(_call(model, "predict_proba", X, grid))
        proba = np.zeros((len(table), len(facts["classes"])))
        for place, label in enumerate(labels.tolist()):
            if label not in facts["classes"]:
                return y, [space] * len(outputs), None
            proba[:, facts["classes"].index(label)] = table[:, place]
    return y, [space] * len(outputs), proba


def _wavelengths(wavelengths: Any) -> Any:
    """Return wavelengths in the unit of the model, those that are text as well."""
    given = np.asarray(wavelengths)
    if given.ndim == 1 and given.dtype.kind in "UOT":
        numbers = _header(given.tolist())
        given = given if None in numbers else np.array(numbers)
    return given


def _header(names: Any) -> list[float | None]:
    try:
        return in_unit(*parse_header(names), CHAIN.get("unit"))
    except ValueError as error:
        raise ValueError(f"X {error}") from error


def _named(X: Any) -> Any:
    """Return the wavelengths that the columns of a data frame are named after; compare other names."""
    names = flat_names(list(getattr(X, "column_names", X.columns)))  # the columns of pyarrow are not names
    numbers = _header(names)
    strange = [str(name) for name, number in zip(names, numbers, strict=True) if number is None]
    if strange and len(strange) < len(names):
        raise ValueError(
            f"X has columns that are not named by a wavelength: {', '.join(strange[:5])}. Drop them."
        )
    texts = [str(name) for name in names]
    stored, text = CHAIN["wavelengths"], all(isinstance(name, str) for name in names)
    if strange or stored is None:
        known = (CHAIN.get("columns") or _fitted_names()) if text else []
        if known and not same_names(texts, known):
            order = " They are the same in another order." if sorted(texts) == sorted(known) else ""
            raise ValueError(f"The columns of X are not those that the model was trained on.{order}")
        shown = None if known else disordered(texts)
        if shown is not None:
            raise ValueError(
                f"The columns of X are numbered in another order than they stand in ({shown}, ...)."
            )
    if strange:
        return hidden_grid(texts, None if stored is None else np.array(stored))
    # A frame made from an array without names counts its columns; those are not wavelengths.
    counted = all(isinstance(name, (int, np.integer)) for name in names)
    return None if counted and numbers == list(range(len(names))) else np.array(numbers, dtype=np.float64)


def _fitted_names() -> list[str]:
    """Names of the columns that the first objects were fitted on."""
    steps = [step["objects"] for step in CHAIN["steps"]]
    for name in steps[0] if steps else CHAIN["models"]:
        names = list(getattr(_object(name), "feature_names_in_", ()))
        if names and all(isinstance(each, str) for each in names):
            return names
    return []


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
    if given is not None and not same_grid(given, grid):
        raise ValueError(
            f"X is not on the grid of the model ({grid[0]:g} to {grid[-1]:g}): {differ(given, grid)}. "
            f"{advice(given, grid)}"
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


def _read(path: str, **reading: Any) -> Any:
    """Read a file, or standard input; check channels that the calibration knows by their names."""
    if path == "-":
        stream = getattr(sys.stdin, "buffer", None)
        data = stream.read() if stream is not None else sys.stdin.read().encode()
    else:
        data = Path(path).read_bytes()
    names = (CHAIN.get("columns") or []) if CHAIN["wavelengths"] is None else []
    grid = [channel[0] for channel in map(parse_channel, names) if channel is not None]
    by_name = len(grid) < len(names) and reading.get("header") is not False
    table = read_text(data, channels=names if by_name else None, **reading)
    known = table.wavelengths is not None and len(grid) == len(names) > 0
    if known and (len(grid) != len(table.wavelengths) or not np.allclose(table.wavelengths, grid)):
        raise ValueError(f"X is not on the grid of the model ({names[0]} to {names[-1]}).")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Read a text file of spectra and write a CSV file of predictions."""
    parser = argparse.ArgumentParser(description=str(CHAIN.get("title") or "Predict from spectra."))
    parser.add_argument(
        "spectra", help="CSV file; columns headed by wavelengths are the spectra; - for standard input"
    )
    parser.add_argument("-o", "--output", help="CSV file to write; default: the screen")
    parser.add_argument("--decimal", choices=[".", ","], help="decimal sign; default: as found")
    parser.add_argument("--delimiter", metavar="SIGN", help="separator, or 'tab'; default: as found")
    parser.add_argument("--encoding", metavar="NAME", help="for example cp1252; default: as found")
    parser.add_argument(
        "--orientation",
        choices=["rows", "columns"],
        help="one sample per row or per column; default: as found",
    )
    parser.add_argument(
        "--header", action=argparse.BooleanOptionalAction, help="whether the first row names the channels"
    )
    parser.add_argument(
        "--details", action="store_true", help="add bounds, distances from the calibration and flags"
    )
    given = vars(parser.parse_args(arguments))
    path, output, wanted = given.pop("spectra"), given.pop("output"), given.pop("details")
    if given["delimiter"] == "tab":
        given["delimiter"] = "\t"
    try:
        table = _read(path, **given)
        if sys.stderr is not None and sys.stderr.isatty():
            print(describe(table), file=sys.stderr)
        found = details(table.X, table.wavelengths)
        y = np.asarray(found.pop("prediction"))
    except (OSError, ValueError, IndexError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    first = next(iter(table.labels.values()), None)
    samples = [str(k + 1) for k in range(len(table.X))] if first is None else first
    predicted = y.reshape(len(y), -1)
    names = [str(CHAIN.get("target") or "prediction")]
    if predicted.shape[1] > 1:
        names = [f"{names[0]}_{number}" for number in range(predicted.shape[1])]
    if len(CHAIN.get("target_names") or ()) == predicted.shape[1]:
        names = CHAIN["target_names"]
    for sample, words in zip(samples, found["flags"], strict=True):
        if words and words != [NOT_KNOWN]:
            print(f"warning: {sample}: {', '.join(words)}", file=sys.stderr)
    if any(NOT_KNOWN in words for words in found["flags"]):
        print(f"warning: {NOT_KNOWN}: nothing says whether the samples are inside", file=sys.stderr)
    further, cells = _further(found, names) if wanted else ([], [[] for _ in samples])
    lines = [
        ["sample", *map(safe_cell, names), *map(safe_cell, further)],
        *(
            [
                safe_cell(sample),
                *(safe_cell(cell) if isinstance(cell, str) else cell for cell in (*row, *more)),
            ]
            for sample, row, more in zip(samples, predicted.tolist(), cells, strict=True)
        ),
    ]
    if output:
        with Path(output).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(lines)
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
    return 0


def _further(found: dict[str, list[Any]], names: list[str]) -> tuple[list[str], list[list[Any]]]:
    """Lay out what goes beyond the predictions: names of columns, and the cells of each sample."""
    columns: dict[str, list[Any]] = {}
    for key, values in found.items():
        if key in ("lower", "upper"):
            table = np.reshape(values, (len(values), -1))
            columns |= {f"{key}_{name}": table[:, place].tolist() for place, name in enumerate(names)}
        else:
            columns[key] = ["; ".join(map(str, each)) if isinstance(each, list) else each for each in values]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


if __name__ == "__main__":
    sys.exit(main())
