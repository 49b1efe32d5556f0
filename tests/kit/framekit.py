"""The same spectra, labels and columns as data frames and arrays of every make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from nirs_store import load_tecator

MEAT = load_tecator()
X, Y = MEAT.X[:48, ::10].copy(), MEAT.fat[:48].copy()
GRID = [f"{w:g}" for w in MEAT.wavelengths[::10]]
LABELS = np.where(Y > 15, "fatty", "lean")
NAMES = [f"meat {i}" for i in range(48)]


class ArrowArray:
    """Nothing but the Arrow C array interface."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __arrow_c_array__(self, requested_schema: object = None) -> Any:
        return self._data.__arrow_c_array__(requested_schema)


class ArrowStream:
    """Nothing but the Arrow C stream interface."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        return self._data.__arrow_c_stream__(requested_schema)


def arrow_table() -> Any:
    return pa.table({name: X[:, i] for i, name in enumerate(GRID)})


TABLES: dict[str, Callable[[], Any]] = {
    "polars": lambda: pl.DataFrame(X, schema=GRID),
    "lazy polars": lambda: pl.LazyFrame(X, schema=GRID),
    "pandas": lambda: pd.DataFrame(X, columns=GRID),
    "pandas, numbers for names": lambda: pd.DataFrame(X, columns=[float(w) for w in GRID]),
    "pandas, nullable": lambda: pd.DataFrame(X, columns=GRID).astype("Float64"),
    "pandas, arrow": lambda: pd.DataFrame(X, columns=GRID).astype("double[pyarrow]"),
    "pyarrow table": arrow_table,
    "pyarrow batch": lambda: arrow_table().to_batches()[0],
    "pyarrow reader": lambda: arrow_table().to_reader(),
    "duckdb": lambda: duckdb.from_arrow(arrow_table()),
    "arrow stream": lambda: ArrowStream(arrow_table()),
    "arrow array": lambda: ArrowArray(arrow_table().to_batches()[0]),
}
COLUMNS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "polars": pl.Series,
    "pandas": pd.Series,
    "pandas, categories": lambda values: pd.Series(values, dtype="category"),
    "pyarrow array": pa.array,
    "pyarrow chunks": lambda values: pa.chunked_array([values[:20], values[20:]]),
    "pyarrow dictionary": lambda values: pa.array(values).dictionary_encode(),
    "arrow stream": lambda values: ArrowStream(pa.chunked_array([values])),
    "arrow array": lambda values: ArrowArray(pa.array(values)),
}
