from __future__ import annotations

import numpy as np
import pytest

from nirs_store.chains.replay import align, mean, union, vote
from nirs_store.errors import ReplayError


def test_a_mean_divides_by_the_sum_of_the_weights() -> None:
    values = [np.array([1.0, 2.0]), np.array([3.0, 6.0])]
    assert mean(values, None).tolist() == [2.0, 4.0]
    assert mean(values, (1.0, 3.0)).tolist() == [2.5, 5.0]


def test_predictions_of_different_shapes_have_no_mean() -> None:
    with pytest.raises(ReplayError, match="different shapes"):
        mean([np.zeros(3), np.zeros((3, 1))], None)
    with pytest.raises(ReplayError, match="different shapes"):
        vote([np.array(["a"]), np.array([["a"]])], None)


def test_labels_of_all_folds_are_sorted_and_keep_their_type() -> None:
    assert union([np.array(["b", "a"]), np.array(["ccc"])]).tolist() == ["a", "b", "ccc"]
    assert union([np.array([3, 1]), np.array([2])]).dtype == np.array([1]).dtype
    assert union([np.array([2, 1], dtype=np.int8)] * 2).dtype == np.int8


def test_numbers_and_text_are_not_mixed_as_labels() -> None:
    with pytest.raises(ReplayError, match="different types"):
        union([np.array([1, 2]), np.array(["1", "2"])])


def test_a_class_that_a_fold_never_saw_has_probability_zero() -> None:
    known = np.array(["a", "b", "c"])
    aligned = align(np.array([[0.4, 0.6]]), np.array(["c", "a"]), known)
    assert aligned.tolist() == [[0.6, 0.0, 0.4]]
    with pytest.raises(ReplayError, match="knows 2 classes"):
        align(np.array([[0.4, 0.3, 0.3]]), np.array(["c", "a"]), known)


def test_the_majority_wins_and_a_tie_goes_to_the_label_that_sorts_first() -> None:
    folds = [np.array(["b", "b", "c"]), np.array(["b", "a", "b"]), np.array(["a", "a", "a"])]
    assert vote(folds, None).tolist() == ["b", "a", "a"]
    assert vote(folds, (1.0, 1.0, 2.0)).tolist() == ["a", "a", "a"]
    assert vote(folds, (5.0, 1.0, 2.0)).tolist() == ["b", "b", "c"]


def test_outputs_are_voted_on_one_by_one() -> None:
    folds = [np.array([[1, 9], [2, 9]]), np.array([[1, 8], [3, 8]]), np.array([[2, 8], [3, 9]])]
    assert vote(folds, None).tolist() == [[1, 8], [3, 9]]
