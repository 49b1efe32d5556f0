"""Bringing the predictions of several folds together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import ReplayError

__all__ = ["align", "mean", "union", "vote"]

Array = NDArray[Any]


def mean(values: Sequence[Array], weights: Sequence[float] | None) -> Array:
    """Average predictions of equal shape over folds.

    Parameters
    ----------
    values : sequence of ndarray
        One array a fold, all of one shape.
    weights : sequence of float or None
        One a fold; their sum need not be 1.

    Returns
    -------
    ndarray
        ``np.mean(np.stack(values), axis=0)``, with weights
        ``np.average(np.stack(values), axis=0, weights=weights)``, to the last bit.
    """
    shapes = sorted({value.shape for value in values})
    if len(shapes) > 1:
        raise ReplayError(f"The models of the folds predict arrays of different shapes: {shapes}.")
    stacked = np.stack(values)
    return np.asarray(
        np.mean(stacked, axis=0) if weights is None else np.average(stacked, axis=0, weights=weights)
    )


def union(classes: Sequence[Array]) -> Array:
    """Sort all labels that any fold knows, each once.

    Raises
    ------
    ReplayError
        If some folds use numbers and others text, which have no common order.
    """
    if len({"number" if labels.dtype.kind in "biuf" else labels.dtype.kind for labels in classes}) > 1:
        types = sorted({str(labels.dtype) for labels in classes})
        raise ReplayError(f"The models of the folds use labels of different types: {types}.")
    first = classes[0]
    if all(np.array_equal(first, labels) for labels in classes[1:]):
        return np.unique(first)
    return np.unique(np.concatenate(classes))


def align(proba: Array, classes: Array, known: Array) -> Array:
    """Put the columns of one fold's probabilities under the labels of all folds.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes)
        Probabilities, a column for each of `classes`.
    classes : ndarray of shape (n_classes,)
        Labels of this fold.
    known : ndarray of shape (n_known,)
        Labels of all folds, sorted.

    Returns
    -------
    ndarray of shape (n_samples, n_known)
        A label that this fold never saw has the probability 0.
    """
    if proba.ndim != 2 or proba.shape[1] != len(classes):
        raise ReplayError(
            f"A model knows {len(classes)} classes, but gave probabilities of shape {proba.shape}."
        )
    if np.array_equal(classes, known):
        return proba
    aligned = np.zeros((len(proba), len(known)), dtype=proba.dtype)
    aligned[:, np.searchsorted(known, classes)] = proba
    return aligned


def vote(labels: Sequence[Array], weights: Sequence[float] | None) -> Array:
    """Give each sample the label that most folds chose, or that has the largest sum of weights.

    Of labels with equally many votes the first in sorted order wins, as in scikit-learn's
    VotingClassifier. Labels of several outputs are voted on one by one.

    Examples
    --------
    >>> vote([np.array(["b", "a"]), np.array(["a", "a"])], None).tolist()
    ['a', 'a']
    """
    known = union([column.ravel() for column in labels])
    shapes = sorted({column.shape for column in labels})
    if len(shapes) > 1:
        raise ReplayError(f"The models of the folds predict arrays of different shapes: {shapes}.")
    shares = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    votes = np.tensordot(shares, np.stack(labels)[..., np.newaxis] == known, axes=1)
    return np.asarray(known[np.argmax(votes, axis=-1)])
