"""Samples of one group stay in one fold, whatever splits, and reach the searches inside an estimator."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import StackingRegressor
from sklearn.feature_selection import RFECV, SelectFromModel
from sklearn.linear_model import LassoCV, LogisticRegression, Ridge
from sklearn.model_selection import (
    BaseCrossValidator,
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    LeavePGroupsOut,
    LeavePOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    TimeSeriesSplit,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import record_cross_validation, record_search
from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch

RNG = np.random.default_rng(3)
X = RNG.normal(size=(36, 5))
Y = X @ np.arange(5.0) + RNG.normal(scale=0.1, size=36)
LABELS = np.where(np.arange(36) % 6 < 3, "low", "high")
# Samples of a group are not neighbours, so every splitter that does not know them tears them apart.
GROUPS = RNG.permutation(np.repeat(np.arange(12), 3))
ORDERED = np.repeat(np.arange(12), 3)


def record(store: Any, model: Any = None, **given: Any) -> Any:
    options: dict[str, Any] = {
        "cv": GroupKFold(4),
        "dataset_name": "d",
        "groups": GROUPS,
        "refit": False,
    } | given
    y = options.pop("y", Y)
    return record_cross_validation(store, Ridge() if model is None else model, X, y, **options)


class EveryThird(BaseCrossValidator):  # type: ignore[misc,unused-ignore]
    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        return 3

    def _iter_test_indices(self, X: Any = None, y: Any = None, groups: Any = None) -> Iterator[Any]:
        for start in range(3):
            yield np.arange(start, len(X), 3)


class SubclassOfKFold(KFold):  # type: ignore[misc,unused-ignore]
    pass


TWINS = {
    "a number": (4, GroupKFold(4)),
    "a numpy number": (np.int64(3), GroupKFold(3)),
    "None": (None, GroupKFold(5)),
    "KFold": (KFold(4), GroupKFold(4)),
    "KFold, shuffled": (KFold(3, shuffle=True, random_state=7), GroupKFold(3, shuffle=True, random_state=7)),
    "ShuffleSplit": (
        ShuffleSplit(3, test_size=0.25, random_state=1), GroupShuffleSplit(3, test_size=0.25, random_state=1),
    ),
    "LeaveOneOut": (LeaveOneOut(), LeaveOneGroupOut()),
    "LeavePOut": (LeavePOut(2), LeavePGroupsOut(2)),
    "GroupKFold": (GroupKFold(4), GroupKFold(4)),
}  # fmt: skip


@pytest.mark.parametrize("case", TWINS)
def test_a_splitter_gives_the_folds_of_its_grouped_twin(model_store: Any, case: str) -> None:
    given, twin = TWINS[case]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = record(model_store, cv=given)
    own = [str(w.message) for w in said if w.category is RecordingWarning]
    assert result.n_folds == twin.get_n_splits(X, Y, GROUPS)
    if not isinstance(twin, GroupShuffleSplit | LeavePGroupsOut):
        expected = cross_val_predict(Ridge(), X, Y, groups=GROUPS, cv=twin)
        assert result.rmsecv == pytest.approx(np.sqrt(np.mean((expected - Y) ** 2)))
    # A splitter of the caller's is not exchanged without a word; a number means no particular one.
    replaced = hasattr(given, "split") and type(given) is not type(twin)
    assert len(own) == replaced
    assert not replaced or type(twin).__name__ in own[0]


def test_classes_are_spread_over_folds_of_whole_groups(model_store: Any) -> None:
    given = {"y": LABELS, "groups": ORDERED}
    plain = record(model_store, LogisticRegression(), cv=3, **given)
    with pytest.warns(RecordingWarning, match="StratifiedGroupKFold"):
        drawn = record(
            model_store, LogisticRegression(), cv=StratifiedKFold(3, shuffle=True, random_state=3), **given
        )
    for result, twin in (
        (plain, StratifiedGroupKFold(3)),
        (drawn, StratifiedGroupKFold(3, shuffle=True, random_state=3)),
    ):
        expected = cross_val_predict(LogisticRegression(), X, LABELS, groups=ORDERED, cv=twin)
        assert result.pooled["accuracy"] == pytest.approx(np.mean(expected == LABELS))
    assert plain.pooled["accuracy"] != drawn.pooled["accuracy"], "else the seed would not show"


REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "repeated": (RepeatedKFold(n_splits=3, n_repeats=2), GROUPS, InvalidInput, "RepeatedKFold ignores groups"),
    "by time": (TimeSeriesSplit(3), GROUPS, InvalidInput, "TimeSeriesSplit ignores groups"),
    "stratified, by chance": (StratifiedShuffleSplit(3), GROUPS, InvalidInput, "StratifiedShuffleSplit ignores"),
    "of one's own": (EveryThird(), GROUPS, InvalidInput, "Fold 0 has samples of .* on both sides"),
    "a subclass": (SubclassOfKFold(3), GROUPS, InvalidInput, "Fold 0 has samples of .* on both sides"),
    "predefined": (PredefinedSplit(np.arange(36) % 4), GROUPS, InvalidInput, "on both sides"),
    "a list": ([(np.arange(10, 36), np.arange(10))], ORDERED, InvalidInput, r"1 groups on both sides \(3\)"),
    "too few groups": (GroupKFold(13), GROUPS, InvalidInput, "cannot split these 36 samples"),
    "too few labels": (3, GROUPS[:-1], ShapeMismatch, "one label per sample, 36"),
    "a missing label": (3, np.where(GROUPS == 4, np.nan, GROUPS), InvalidInput, "3 are missing, the first in row"),
    "a missing text": (3, [None, *map(str, GROUPS[1:])], InvalidInput, "1 are missing, the first in row 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_fold_with_a_group_on_both_sides_is_refused(model_store: Any, case: str) -> None:
    cv, groups, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        record(model_store, cv=cv, groups=groups)
    assert model_store.list_runs().is_empty()


def test_a_list_of_splits_that_keeps_groups_is_taken(model_store: Any) -> None:
    folds = [(np.flatnonzero(k == GROUPS % 2), np.flatnonzero(k != GROUPS % 2)) for k in (0, 1)]
    assert record(model_store, cv=folds, groups=GROUPS.astype(str).astype(object)).n_folds == 2


def grid(cv: Any) -> GridSearchCV:
    return GridSearchCV(Ridge(), {"alpha": [0.1, 1.0, 10.0]}, cv=cv)


SEARCHES = {
    "the model": grid(GroupKFold(3)),
    "after a step": make_pipeline(StandardScaler(), grid(GroupKFold(3))),
    "in a transformed target": TransformedTargetRegressor(grid(LeaveOneGroupOut()), func=np.cbrt, inverse_func=np.power),
    "a step": make_pipeline(RFECV(Ridge(), cv=GroupKFold(3)), PLSRegression(1)),
}  # fmt: skip
SEARCHES["in a transformed target"].set_params(func=None, inverse_func=None, transformer=StandardScaler())


@pytest.mark.parametrize("case", SEARCHES)
@pytest.mark.parametrize("routed", [False, True])
def test_a_search_inside_gets_the_groups_of_its_fold(model_store: Any, case: str, routed: bool) -> None:
    model, expected = SEARCHES[case], np.zeros(36)
    with sklearn.config_context(enable_metadata_routing=routed):
        if routed and case == "in a transformed target":
            # The wrapper asks what it wraps, which asks for groups.
            model = TransformedTargetRegressor(grid(GroupKFold(3)), transformer=StandardScaler())
        found = record(model_store, model)
        for train, val in GroupKFold(4).split(X, Y, GROUPS):
            fitted = sklearn.base.clone(model)
            if hasattr(fitted, "steps") and not routed:
                step = next(name for name, each in fitted.steps if hasattr(each, "cv"))
                fitted.fit(X[train], Y[train], **{f"{step}__groups": GROUPS[train]})
            else:
                fitted.fit(X[train], Y[train], groups=GROUPS[train])
            expected[val] = fitted.predict(X[val])
    assert found.rmsecv == pytest.approx(np.sqrt(np.mean((expected - Y) ** 2)))


def test_a_search_that_cannot_have_its_groups_is_refused(model_store: Any) -> None:
    with pytest.raises(InvalidInput, match="splits by groups while it is fitted: pass groups="):
        record(model_store, grid(GroupKFold(3)), cv=3, groups=None)
    tombstones = make_pipeline(
        SelectFromModel(grid(GroupKFold(3)), importance_getter=lambda g: g.best_estimator_.coef_), Ridge()
    )
    with pytest.raises(InvalidInput, match="enable_metadata_routing"):
        record(model_store, tombstones)
    assert model_store.list_runs().is_empty()
    with pytest.warns(RecordingWarning, match=r"splits samples of one group while it searches \(cv=3\)"):
        record(model_store, grid(3))


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_reach_the_model_alone(model_store: Any, wrapped: bool) -> None:
    weights = np.linspace(0.0, 1.0, 36)
    model: Any = GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=3) if wrapped else Ridge()
    found = record(
        model_store, make_pipeline(StandardScaler(), model), cv=KFold(3), groups=None, sample_weight=weights
    )
    expected = np.zeros(36)
    for train, val in KFold(3).split(X):
        scaler = StandardScaler().fit(X[train])
        fitted = Ridge().fit(scaler.transform(X[train]), Y[train], sample_weight=weights[train])
        expected[val] = fitted.predict(scaler.transform(X[val]))
    assert found.rmsecv == pytest.approx(np.sqrt(np.mean((expected - Y) ** 2)))


@pytest.mark.parametrize(
    ("weights", "model", "words"),
    [
        (np.ones(36), PLSRegression(2), "PLS.* cannot be fitted with weights"),
        (np.ones(35), Ridge(), "one per sample, 36"),
        (np.full(36, -1.0), Ridge(), "0 or more"),
        (np.zeros(36), Ridge(), "not all 0"),
        (np.repeat([1.0, 0.0], [1, 35]), Ridge(), "one fold is fitted on have the weight 0"),
        (["heavy"] * 36, Ridge(), "numbers only"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(
    model_store: Any, weights: Any, model: Any, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        record(model_store, model, sample_weight=weights)
    assert model_store.list_runs().is_empty()


ROWS = list(KFold(4).split(np.zeros(30)))


@pytest.mark.parametrize(
    "estimator",
    [
        GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=ROWS),
        GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=[(np.arange(30) < 20, np.arange(30) >= 20)]),
        GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=PredefinedSplit(np.arange(30) % 3)),
        GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=KFold(3).split(np.zeros(30))),
        make_pipeline(StandardScaler(), LassoCV(cv=tuple(ROWS))),
        TransformedTargetRegressor(GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=ROWS)),
        StackingRegressor([("a", Ridge())], cv=ROWS),
    ],
    ids=["list", "masks", "predefined", "generator", "in a pipeline", "of a target", "stack"],
)
def test_inner_folds_that_name_rows_of_the_whole_data_are_refused(store: Any, estimator: Any) -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    with pytest.raises(InvalidInput, match=r"folds of its own .*splitter, e\.g\. cv=KFold"):
        record_cross_validation(store, estimator, X, X[:, 0], cv=3, dataset_name="d")
    if isinstance(estimator, GridSearchCV) and isinstance(estimator.cv, list):
        with pytest.raises(InvalidInput, match="folds of its own"):
            record_search(store, estimator, X, X[:, 0], cv=3, dataset_name="d")
        assert not store.list_runs().height
        if hasattr(store, "get_chains_for_run"):  # a search on its own folds is what the words advise
            assert record_search(store, estimator, X, X[:, 0], dataset_name="d").chain_id
        return
    assert not store.list_runs().height
