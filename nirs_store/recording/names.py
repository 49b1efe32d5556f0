"""Names of samples: given, out of a column of the spectra's frame, or from a pandas index."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.frames import as_array, column_names, index_names, is_frame

__all__ = ["take_names"]


def take_names(label: str, X: Any, given: Any, what: str = "sample_ids") -> tuple[Any, NDArray[Any] | None]:
    """Find the names of the samples and take the column that holds them out of the spectra.

    Parameters
    ----------
    label : str
        What X is called, for messages.
    X : array or frame, shape (n_samples, n_features)
        As `nirs_store.frames.native` leaves it.
    given : array-like of shape (n_samples,), str, or None
        The names, or the column of X that holds them. When None a text index of pandas names the
        samples; any other table has none.
    what : str
        What `given` is called, for messages.

    Returns
    -------
    X, names
        The spectra without that column; text or whole numbers, of shape (n_samples,), or None.

    Raises
    ------
    InvalidInput
        No such column, names that are missing or neither text nor whole numbers.
    ShapeMismatch
        Another number of names than samples.
    """
    if given is None:
        return X, index_names(X)
    if isinstance(given, str):
        names = _column(label, X, given, what)
        X = X.drop([given]) if type(X).__module__.partition(".")[0] == "polars" else X.drop(columns=[given])
    else:
        names = as_array(given, what)
    n = len(X) if hasattr(X, "__len__") else np.asarray(X).shape[0]
    if names.shape != (n,):
        raise ShapeMismatch(
            f"{what}: expected one name a sample of {label}, {n}; found the shape {names.shape}."
        )
    kinds = {type(each) for each in names.tolist()}
    if kinds == {str}:
        return X, names.astype(np.str_)
    if kinds == {int}:
        return X, names
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InvalidInput(f"{what}: expected text or whole numbers, one kind, none missing; found {found}.")


def _column(label: str, X: Any, name: str, what: str) -> NDArray[Any]:
    if not is_frame(X):
        raise InvalidInput(
            f"{what}={name!r} names a column, but {label} is no data frame. Pass the names themselves."
        )
    columns = column_names(X)
    if name not in columns:
        near = difflib.get_close_matches(name, map(str, columns), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(f"{what}: {label} has no column {name!r}.{hint}")
    return as_array(X[name], what)
