"""`suggest_components` of recorded chains: families, the rule's choice, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.choosing.components import suggest_components
from nirs_store.choosing.rules import errors_of_the_mean, select_components
from nirs_store.errors import InvalidInput, UnknownId

MEAT = load_tecator()
X, FAT = MEAT.X[:80], MEAT.fat[:80]
CV = KFold(5, shuffle=True, random_state=3)


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[WorkspaceStore, str, dict[Any, str]]]:
    chains: dict[Any, str] = {}
    with WorkspaceStore(tmp_path_factory.mktemp("choosing") / "ws") as store:
        with store.run("screening", datasets=["meat"]) as run:
            options = {"cv": CV, "dataset_name": "meat", "run_id": run.run_id, "refit": False}
            for a in (1, 2, 4, 6, 8):
                for target in ("fat", "water"):
                    chains[target, a] = record_cross_validation(
                        store, PLSRegression(a, scale=False), X, MEAT.y[target][:80], target=target, **options
                    ).chain_id
            for a in (2, 4):
                model = make_pipeline(StandardScaler(), PLSRegression(a))
                chains["scaled", a] = record_cross_validation(
                    store, model, X, FAT, target="fat", **options
                ).chain_id
            chains["svr"] = record_cross_validation(store, SVR(), X, FAT, target="fat", **options).chain_id
        yield store, run.run_id, chains


@pytest.mark.parametrize("rule", ["one_se", "min", "wold", "randomization"])
def test_a_chain_stands_for_its_family(recorded: Any, rule: Any) -> None:
    store, _, chains = recorded
    errors = [cross_val_predict(PLSRegression(a, scale=False), X, FAT, cv=CV) - FAT for a in (1, 2, 4, 6, 8)]
    expected, columns = select_components(
        np.column_stack([errors_of_the_mean(FAT), *errors]), [0, 1, 2, 4, 6, 8], rule
    )
    choice = suggest_components(store, chains["fat", 6], rule)
    assert choice.components == expected
    assert choice.chain_id == chains["fat", expected]
    assert choice.table["rmsecv"].to_numpy() == pytest.approx(columns["rmsecv"])
    assert choice.table.filter(choice.table["chosen"])["components"].to_list() == [expected]
    assert "fat" in repr(choice)
    assert rule in repr(choice)


def test_a_run_gives_each_family_and_some_chains_only_themselves(recorded: Any) -> None:
    store, run_id, chains = recorded
    found = suggest_components(store, run_id)
    assert [(c.target, c.preprocessings != "", c.table.height) for c in found] == sorted(
        [("fat", False, 6), ("water", False, 6), ("fat", True, 3)],
        key=lambda key: [(c.target, c.preprocessings != "", c.table.height) for c in found].index(key),
    )
    assert len(found) == 3
    assert [c.rmsecv for c in found] == sorted(c.rmsecv for c in found)
    some = suggest_components(store, [chains["fat", 1], chains["fat", 2]], "min")
    assert some.table["components"].to_list() == [0, 1, 2]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([("fat", 2), ("water", 4)], "target"),
        ([("fat", 2), ("scaled", 4)], "recipe"),
        (["svr"], "at least two"),
        ([("fat", 2), ("fat", 2)], "at least two"),
        ([], "found none"),
    ],
)
def test_chains_that_cannot_be_joined_are_refused(recorded: Any, keys: Any, words: str) -> None:
    store, _, chains = recorded
    with pytest.raises(InvalidInput, match=words):
        suggest_components(store, [chains[key] for key in keys])


def test_an_unknown_id_is_named(recorded: Any) -> None:
    with pytest.raises(UnknownId, match="nothing-like-it"):
        suggest_components(recorded[0], "nothing-like-it")
