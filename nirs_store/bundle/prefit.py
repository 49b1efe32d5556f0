"""Fitted scikit-learn objects put together from parts that are fitted already.

Version 1.0 of the format knows one fitted object for each fold, and averages what they predict. What does not
fit that is put into scikit-learn's own containers, without fitting anything again: steps that each fold
fitted for itself go with their model into a Pipeline, target transformers of a fold into a
TransformedTargetRegressor, and classifiers, whose labels have no average, into one estimator that averages
their probabilities or counts their votes. Only scikit-learn's classes are used, so that a reader needs
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["augmented", "average_probabilities", "count_votes", "in_sequence", "undo_targets"]

Array = NDArray[Any]


def in_sequence(parts: Sequence[Any]) -> Any:
    """Put fitted transformers, and perhaps a model at the end, into one fitted Pipeline."""
    from sklearn.pipeline import Pipeline

    return Pipeline([(f"step_{number}", part) for number, part in enumerate(parts)])


def augmented(transformers: Sequence[Any]) -> Any:
    """Put fitted transformers side by side, their input first: ``hstack([X, t1(X), t2(X), ...])``."""
    from sklearn.pipeline import FeatureUnion

    named = [(f"part_{number}", transformer) for number, transformer in enumerate(transformers)]
    return FeatureUnion([("input", "passthrough"), *named])


def undo_targets(model: Any, transformers: Sequence[Any], one_d: bool) -> Any:
    """Let a fitted regressor undo the target transformers that it was trained behind.

    Parameters
    ----------
    model : estimator
        Predicts transformed targets.
    transformers : sequence
        In the order of training; undone in reverse.
    one_d : bool
        Whether the model gives predictions of shape (n_samples,).
    """
    from sklearn.compose import TransformedTargetRegressor

    undoing = transformers[0] if len(transformers) == 1 else in_sequence(transformers)
    whole = TransformedTargetRegressor(regressor=model, transformer=undoing, check_inverse=False)
    whole.regressor_ = model
    whole.transformer_ = undoing
    whole._training_dim = 1 if one_d else 2
    return whole


def average_probabilities(
    models: Sequence[Any], classes: Sequence[Array], known: Array, weights: Sequence[float] | None
) -> Any:
    """Make one classifier that averages the probabilities of fitted ones.

    Parameters
    ----------
    models : sequence of classifier
        With ``predict_proba``.
    classes : sequence of ndarray
        The labels of each, in the order of its columns.
    known : ndarray of shape (n_classes,)
        The labels of all of them, sorted.
    weights : sequence of float or None
        One a model.
    """
    if all(np.array_equal(known, own) for own in classes):
        return _soft_vote(models, known, weights)
    # A label that a fold never saw has no column there, which VotingClassifier cannot take. What is made in
    # its place gives labels only.
    shares = [1.0] * len(models) if weights is None else list(weights)
    blocks = [
        share * (known[:, np.newaxis] == own[np.newaxis, :]).astype(np.float64)
        for share, own in zip(shares, classes, strict=True)
    ]
    columns = [_calling(model, "predict_proba") for model in models]
    return _largest_sum(columns, np.hstack(blocks) / sum(shares), known)


def count_votes(models: Sequence[Any], known: Array, weights: Sequence[float] | None) -> Any:
    """Make one classifier that gives the label for which most fitted ones vote; a tie goes to the first."""
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    shares = [1.0] * len(models) if weights is None else list(weights)
    columns = []
    for model in models:
        ballots = OneHotEncoder(categories=[known], sparse_output=False).fit(known.reshape(-1, 1))
        upright = FunctionTransformer(np.expand_dims, kw_args={"axis": 1})
        columns.append(in_sequence([_calling(model, "predict"), upright, ballots]))
    blocks = [share * np.eye(len(known)) for share in shares]
    return _largest_sum(columns, np.hstack(blocks), known)


def _soft_vote(models: Sequence[Any], known: Array, weights: Sequence[float] | None) -> Any:
    from sklearn.ensemble import VotingClassifier
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import Bunch

    named = [(f"fold_{number}", model) for number, model in enumerate(models)]
    whole = VotingClassifier(named, voting="soft", weights=None if weights is None else list(weights))
    whole.estimators_ = list(models)
    whole.named_estimators_ = Bunch(**dict(named))
    whole.le_ = LabelEncoder().fit(known)
    whole.classes_ = whole.le_.classes_
    return whole


def _calling(model: Any, method: str) -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(getattr(model, method))


def _largest_sum(columns: Sequence[Any], shares: Array, known: Array) -> Any:
    """Choose for each sample the label with the largest weighted sum of columns.

    Parameters
    ----------
    columns : sequence of transformer
        Each gives some columns.
    shares : ndarray of shape (n_classes, n_columns)
        What each column counts for each label.
    known : ndarray of shape (n_classes,)
        The labels.
    """
    from sklearn.pipeline import FeatureUnion
    from sklearn.svm import LinearSVC

    # Linear, and without a predict_proba: a sum of votes is no probability.
    chooser = LinearSVC()
    if len(known) > 2:
        chooser.coef_ = shares
    elif len(known) == 2:
        # scikit-learn keeps one row for two labels: its sign decides, and 0 means the first.
        chooser.coef_ = shares[1:] - shares[:1]
    else:
        chooser.coef_ = np.zeros_like(shares)
    chooser.intercept_ = np.zeros(len(chooser.coef_))
    chooser.classes_ = known
    chooser.n_features_in_ = shares.shape[1]
    chooser.n_iter_ = 0
    union = FeatureUnion([(f"fold_{number}", column) for number, column in enumerate(columns)])
    return in_sequence([union, chooser])
