"""Kennard-Stone and SPXY: the order of selection, the splitter, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import cross_val_predict, cross_validate

from nirs_store import KennardStoneSplit, kennard_stone, load_tecator, selection
from nirs_store.errors import InvalidInput, ShapeMismatch


def textbook(distances):
    """Select by the whole matrix of distances, as the paper describes it."""
    n = len(distances)
    pairs = [(distances[i, j], -i, -j) for i in range(n) for j in range(i + 1, n)]
    _, i, j = max(pairs)
    chosen = [-i, -j]
    while len(chosen) < n:
        rest = [k for k in range(n) if k not in chosen]
        chosen.append(max(rest, key=lambda k: (min(distances[k, c] for c in chosen), -k)))
    return chosen


def euclid(values):
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    return np.sqrt(((values[:, None] - values[None]) ** 2).sum(axis=2))


@pytest.mark.parametrize("block", [50, 2_000_000])
def test_the_order_is_that_of_the_paper(monkeypatch, block):
    monkeypatch.setattr(selection, "_BLOCK", block)
    meat = load_tecator()
    X, y = meat.X[:40], meat.fat[:40]
    assert kennard_stone(X).tolist() == textbook(euclid(X))
    both = euclid(X) / euclid(X).max() + euclid(y) / euclid(y).max()
    assert kennard_stone(X, y).tolist() == textbook(both)
    assert kennard_stone(X, y, 7).tolist() == textbook(both)[:7]


def test_by_hand_with_ties_and_samples_that_are_alike():
    # 10 and 0 are farthest apart, 5 is 5 from both; then 3 is 2 from the nearest, 6 is 1, the second 10 is 0.
    assert kennard_stone(np.array([[10.0], [3.0], [6.0], [0.0], [10.0], [5.0]])).tolist() == [
        0,
        3,
        5,
        1,
        2,
        4,
    ]
    assert sorted(kennard_stone(np.ones((4, 2)), np.ones(4)).tolist()) == [0, 1, 2, 3]


def test_it_splits_as_scikit_learn_expects():
    meat = load_tecator()
    X, y = meat.X[:60], meat.fat[:60]
    for size, held_out in ((0.25, 15), (9, 9), (0.01, 1)):
        ((train, test),) = KennardStoneSplit(size).split(X, y)
        assert len(test) == held_out
        assert set(train) == set(kennard_stone(X)[: 60 - held_out])
        assert sorted([*train, *test]) == list(range(60))
    ((train, _),) = KennardStoneSplit(20, use_y=True).split(X, y)
    assert set(train) == set(kennard_stone(X, y, 40))
    assert len(cross_validate(PLSRegression(3), X, y, cv=KennardStoneSplit())["test_score"]) == 1
    with pytest.raises(ValueError, match="partition"):
        cross_val_predict(PLSRegression(3), X, y, cv=KennardStoneSplit())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kennard_stone([[1.0, 2.0]]), "two samples"),
        (lambda: kennard_stone([1.0, 2.0]), "one row per sample"),
        (lambda: kennard_stone([[1.0], [np.nan]]), "1 samples"),
        (lambda: kennard_stone([[1.0], [2.0]], n_samples=3), "from 2 to 2"),
        (lambda: kennard_stone([[1.0], [2.0]], [1.0]), "found 1"),
        (lambda: next(KennardStoneSplit(1.5).split(np.eye(5))), "test_size"),
        (lambda: next(KennardStoneSplit(4).split(np.eye(5))), "from 1 to 3"),
        (lambda: next(KennardStoneSplit().split(np.eye(5), groups=[1, 1, 2, 2, 3])), "means of the groups"),
        (lambda: next(KennardStoneSplit(use_y=True).split(np.eye(5))), "measured values"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises((InvalidInput, ShapeMismatch), match=words):
        call()
