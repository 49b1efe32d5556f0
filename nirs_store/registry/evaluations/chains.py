"""A chain of this store as an evaluation: its predictions for new spectra, scored as the field does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.frames import as_array, column_names, index_names, is_frame, native
from nirs_store.lazily import polars as pl
from nirs_store.scores import classification_scores, regression_scores

__all__ = ["evaluate"]

_TAKEN = ("sample", "y_true", "y_pred")


def evaluate(
    X: Any, y: Any, predicted: NDArray[Any], groups: Any
) -> tuple[dict[str, float], str, dict[str, Any]]:
    """Scores, the one that ranks, and the columns of the table of samples.

    Raises
    ------
    ShapeMismatch, InvalidInput
    """
    truth = _column(as_array(y, "y"), "y")
    guess = _column(np.asarray(predicted), "the chain's predictions")
    if len(truth) != len(guess):
        raise ShapeMismatch(
            f"y: expected a value a sample, {len(guess)} of them, found {len(truth)}. Nothing was recorded."
        )
    numeric = truth.dtype.kind in "fiu" and guess.dtype.kind in "fiu"
    labels = truth.dtype.kind in "UOb" or guess.dtype.kind in "UOb"
    if not numeric and not labels:
        raise InvalidInput(f"y: expected numbers or labels, found {truth.dtype}. Nothing was recorded.")
    table: dict[str, Any] = {"sample": _names(X, len(truth))}
    if numeric and not (truth.dtype.kind in "iu" and guess.dtype.kind in "iu"):
        found = regression_scores(truth, guess)
        scores = {"rmsep": found.pop("rmse"), **found}
        metric = "rmsep"
        table |= {"y_true": truth.astype(np.float64), "y_pred": guess.astype(np.float64)}
    else:
        # A regression predicts floats, so whole numbers on both sides are labels.
        scores = classification_scores(truth, guess)
        scores.pop("log_loss")
        metric = "balanced_accuracy"
        table |= {"y_true": truth.tolist(), "y_pred": guess.tolist()}
    scores.pop("n")
    table |= _groups(groups, len(truth))
    return {name: float(value) for name, value in scores.items()}, metric, table


def _column(values: NDArray[Any], name: str) -> NDArray[Any]:
    array = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if array.ndim != 1 or not len(array):
        raise ShapeMismatch(
            f"{name}: expected one column with a value a sample, found the shape {values.shape}. Nothing was recorded."
        )
    return array


def _names(X: Any, n: int) -> list[Any]:
    names = index_names(X) if is_frame(X) else None
    found = list(range(n)) if names is None else names.tolist()
    # Names that repeat cannot say which rows belong together.
    return found if len(set(found)) == n else list(range(n))


def _groups(groups: Any, n: int) -> dict[str, Any]:
    if groups is None:
        return {}
    groups = native(groups, "groups")
    if isinstance(groups, Mapping):
        columns = {str(name): values for name, values in groups.items()}
    elif is_frame(groups):
        columns = {str(name): groups[name] for name in column_names(groups)}
    else:
        columns = {"group": groups}
    found: dict[str, Any] = {}
    for name, values in columns.items():
        if name in _TAKEN:
            raise InvalidInput(f"groups: {name!r} is a column of the table already. Give it another name.")
        array = as_array(values, f"groups[{name!r}]")
        if array.shape != (n,):
            raise ShapeMismatch(
                f"groups[{name!r}]: expected a value a sample, {n} of them, found the shape {array.shape}. "
                "Nothing was recorded."
            )
        found[name] = pl.Series(name, array.tolist())
    return found
