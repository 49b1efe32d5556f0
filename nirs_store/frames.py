"""Taking arrays and data frames from anybody: numpy, polars, pandas, and what speaks Arrow.

Anything with the Arrow C interface (pyarrow, DuckDB, cuDF, Modin, narwhals …) is read through it;
everything leaves as numpy, without a copy where the memory is already right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput

__all__ = ["as_array", "as_floats", "column_names", "index_names", "is_frame", "native"]

_KNOWN = ("numpy", "pandas", "polars")


def native(value: Any, name: str = "The table") -> Any:
    """A value that numpy, polars or pandas can handle: what speaks Arrow becomes polars.

    Parameters
    ----------
    value : Any
        Arrays, series and frames of numpy, polars and pandas are passed on, and so is everything
        that has no Arrow C interface. A stream is read to its end: pass the result on, not the stream.
    name : str
        For messages.

    Returns
    -------
    Any
        For Arrow data a `polars.DataFrame` (of a table) or a `polars.Series` (of one column).

    Raises
    ------
    InvalidInput
        Arrow data that polars cannot hold.
    """
    kind = type(value)
    if kind.__module__.partition(".")[0] in _KNOWN:
        return value.collect() if kind.__name__ == "LazyFrame" else value
    if not (hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__arrow_c_array__")):
        return value
    import polars as pl

    try:
        series = pl.Series(value)
        return series.struct.unnest() if series.dtype == pl.Struct else series
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{name} holds Arrow data that cannot be read: {error}") from error


def is_frame(value: Any) -> bool:
    """Whether a value is a table with named columns, polars or pandas or alike."""
    kind = type(value)
    return hasattr(kind, "columns") and hasattr(kind, "to_numpy")


def column_names(frame: Any) -> list[Any]:
    """Names of the columns, as they are (pandas may have numbers)."""
    return list(frame.columns)


def as_array(value: Any, name: str = "The table") -> NDArray[Any]:
    """Anything array-like as a numpy array.

    Parameters
    ----------
    value : array-like, series or frame
        As for `native`; a column of lists of one length becomes a matrix.
    name : str
        For messages.

    Returns
    -------
    ndarray
        Numbers keep their type. What is missing, or masked, is NaN among numbers; text has the dtype object.

    Raises
    ------
    InvalidInput
        Arrow data that cannot be read, lists of different lengths, and masked values in an array that has no NaN.

    Examples
    --------
    >>> import polars as pl
    >>> as_array(pl.Series(["beef", "pork"]))
    array(['beef', 'pork'], dtype=object)
    """
    value = native(value, name)
    if isinstance(value, np.ndarray):
        # Looked at by its name first: numpy imports its masked arrays when they are asked for.
        return _unmasked(value, name) if hasattr(value, "mask") else value
    if not hasattr(value, "to_numpy"):
        try:
            return np.asarray(value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{name} cannot be read as an array: {error} Nothing was changed.") from error
    if type(value).__module__.partition(".")[0] == "polars":
        import polars as pl

        if isinstance(value, pl.Series) and isinstance(value.dtype, pl.List):
            widths = value.list.len().unique()
            if widths.len() == 1 and widths[0] is not None:
                value = value.list.to_array(widths[0])
        return np.asarray(value.to_numpy())
    array = np.asarray(value.to_numpy())
    if array.dtype.hasobject and _is_numeric(value):
        # Nullable columns of pandas come as objects, with a marker of its own for what is missing.
        return np.asarray(value.to_numpy(dtype=np.float64, na_value=np.nan))
    return array


def as_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    """Real numbers as float64.

    Raises
    ------
    TypeError, ValueError
        Something else, as of numpy; complex numbers too, whose imaginary part numpy would leave out.
    """
    if array.dtype.kind == "c":
        raise TypeError("these are complex")
    return array.astype(np.float64)


def _unmasked(value: NDArray[Any], name: str) -> NDArray[Any]:
    if not isinstance(value, np.ma.MaskedArray):
        return value
    if not np.ma.is_masked(value):
        return np.asarray(value.data)
    if value.dtype.kind not in "fc":
        raise InvalidInput(
            f"{name}: masked values can be NaN among floating-point numbers only, found {value.dtype}. Nothing was "
            "changed. Convert it first, e.g. with .astype(float), or fill it with .filled(...)."
        )
    return np.asarray(value.filled(np.nan))


def _is_numeric(value: Any) -> bool:
    dtypes = value.dtypes if is_frame(value) else [getattr(value, "dtype", None)]
    return all(getattr(dtype, "kind", "O") in "biuf" for dtype in dtypes)


def index_names(frame: Any) -> NDArray[Any] | None:
    """Names of the rows of a pandas frame whose index is text; None for every other table."""
    index = getattr(frame, "index", None)
    if index is None or not hasattr(index, "to_numpy"):
        return None
    names = np.asarray(index.to_numpy())
    if names.ndim != 1 or not names.size or not all(isinstance(each, str) for each in names.tolist()):
        return None
    return names.astype(np.str_)
