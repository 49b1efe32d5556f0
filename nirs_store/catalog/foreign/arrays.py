"""The arrays of nirs4all's predictions: from a table of lists, or from its Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nirs_store.catalog.foreign.opening import ForeignSource, tombstones
from nirs_store.errors import CatalogDamaged

__all__ = ["NAMES", "UNPLACED", "ForeignArrays", "read_arrays"]

NAMES = ("y_true", "y_pred", "y_proba", "sample_indices", "weights")
# What the Parquet files hold beside; it has no place in a prediction here.
UNPLACED = ("X", "spectra", "sample_metadata", "result_metadata")
_ROWS = 1000


class ForeignArrays(NamedTuple):
    """The arrays of one prediction.

    Attributes
    ----------
    prediction_id : str
    arrays : dict
        By name, those that are there and fit the number of samples.
    misfits : tuple of str
        Names of those that do not fit; nirs4all keeps the weights of folds under "weights", for instance.
    unplaced : tuple of str
        Names of what has no place here.
    """

    prediction_id: str
    arrays: dict[str, NDArray[Any]]
    misfits: tuple[str, ...]
    unplaced: tuple[str, ...]


def read_arrays(source: ForeignSource) -> Iterator[ForeignArrays]:
    """Give the arrays of every prediction once; of several versions the last, as nirs4all does."""
    for row in source.rows("prediction_arrays"):
        yield _arrays_of(row)
    files = sorted((source.root / "arrays").glob("*.parquet"))
    deleted = tombstones(source.root)
    last: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(files):
        place = 0
        for batch in _batches(path, ["prediction_id"]):
            for prediction_id in batch.column(0).to_pylist():
                last[str(prediction_id)] = (number, place)
                place += 1
    for number, path in enumerate(files):
        place = 0
        for batch in _batches(path, None):
            for row in batch.to_pylist():
                prediction_id = str(row["prediction_id"])
                if last[prediction_id] == (number, place) and prediction_id not in deleted:
                    yield _arrays_of(row)
                place += 1


def _batches(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            yield from file.iter_batches(batch_size=_ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise CatalogDamaged(
            f"{path} cannot be read: {error}. What was migrated so far is kept; restore the file and run the "
            "migration again."
        ) from error


def _arrays_of(row: Mapping[str, Any]) -> ForeignArrays:
    found: dict[str, NDArray[Any]] = {}
    for name in ("y_true", "y_pred"):
        labels = row.get(f"{name}_labels")
        if isinstance(labels, str):
            found[name] = _labels(labels, str(row["prediction_id"]))
        elif row.get(name) is not None:
            found[name] = _shaped(np.array(row[name], dtype=np.float64), row.get(f"{name}_shape"))
    for name, kind in (("y_proba", np.float64), ("sample_indices", np.int32), ("weights", np.float64)):
        if row.get(name) is not None:
            found[name] = _shaped(np.array(row[name], dtype=kind), row.get(f"{name}_shape"))
    misfits = _fit(found)
    unplaced = tuple(name for name in UNPLACED if row.get(name) is not None)
    return ForeignArrays(str(row["prediction_id"]), found, misfits, unplaced)


def _shaped(values: NDArray[Any], shape: Any) -> NDArray[Any]:
    if shape and int(np.prod(shape)) == values.size:
        return values.reshape([int(length) for length in shape])
    return values


def _fit(found: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    """Give every array one entry a sample; take out, and name, those that cannot have one."""
    indices = found.get("sample_indices")
    known = [len(found[name]) for name in ("y_true", "y_pred") if name in found]
    n_samples = len(indices) if indices is not None and len(indices) else min(known, default=0)
    misfits = []
    for name, values in list(found.items()):
        # Older versions keep tables as flat lists, without their shape.
        flat = values.ndim == 1 and name in ("y_true", "y_pred", "y_proba")
        if flat and n_samples and values.size > n_samples and values.size % n_samples == 0:
            values = found[name] = values.reshape(n_samples, -1)
        if len(values) != n_samples:
            misfits.append(name)
            del found[name]
    return tuple(misfits)


def _labels(text: str, prediction_id: str) -> NDArray[Any]:
    try:
        coded = json.loads(text)
        kind = np.str_ if coded["label_type"] == "str" else np.int64
        vocabulary = np.array(coded["vocabulary"], dtype=kind)
        return np.asarray(vocabulary[np.array(coded["indices"], dtype=np.int64)].reshape(coded["shape"]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CatalogDamaged(
            f"The labels of prediction {prediction_id!r} in the source cannot be read: {error!r}. What was migrated "
            "so far is kept."
        ) from error
