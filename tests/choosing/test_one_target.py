"""Chains of several targets, looked at one target at a time: each number equals that of the target's own column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold, cross_val_predict

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.choosing.rules import errors_of_the_mean, select_components
from nirs_store.errors import InvalidInput

MEAT = load_tecator()
X = MEAT.X[:90, ::3]
Y = np.column_stack([MEAT.fat[:90], MEAT.protein[:90] * 10])
FRAME = pl.DataFrame(Y, schema=["fat", "protein"])
CV = KFold(5, shuffle=True, random_state=1)
COUNTS = (1, 2, 3, 5, 7, 9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkspaceStore, Any, str, str]]:
    with WorkspaceStore(tmp_path_factory.mktemp("targets") / "ws") as store:
        options = {"cv": CV, "dataset_name": "meat", "keep": "all", "rule": "min"}
        board = store.screen(X, FRAME, components=COUNTS, **options)
        plain = record_cross_validation(
            store, PLSRegression(3), X, Y, cv=CV, dataset_name="no names"
        ).chain_id
        own = record_cross_validation(
            store,
            PLSRegression(4),
            X,
            Y[:, 1],
            cv=CV,
            dataset_name="meat",
            target="protein",
            target_unit="g/kg",
        ).chain_id
        yield store, board, plain, own


def _out_of_fold(count: int, place: int) -> Any:
    return cross_val_predict(PLSRegression(count, scale=False), X, Y, cv=CV)[:, place]


@pytest.mark.parametrize(("target", "place"), [("fat", 0), ("protein", 1), (1, 1)])
@pytest.mark.parametrize("rule", ["one_se", "randomization", "wold", "min"])
def test_a_rule_reads_the_errors_of_the_target(made: Any, rule: Any, target: Any, place: int) -> None:
    store, board, _, _ = made
    errors = [_out_of_fold(count, place) - Y[:, place] for count in COUNTS]
    matrix = np.column_stack([errors_of_the_mean(Y[:, place]), *errors])
    expected, columns = select_components(matrix, [0, *COUNTS], rule)
    choice = store.suggest_components(board.rows[0].chain_id, rule, target=target)
    assert (choice.components, choice.target) == (expected, ("fat", "protein")[place])
    assert choice.table["rmsecv"].to_numpy() == pytest.approx(columns["rmsecv"])
    assert choice.table["se"].to_numpy() == pytest.approx(columns["se"])
    assert board.choose(rule, target=target).components == expected


def test_a_run_gives_a_choice_for_each_target(made: Any) -> None:
    store, board, _, _ = made
    found = store.suggest_components(board.run_id)
    assert sorted(each.target for each in found) == ["fat", "protein"]
    one = store.suggest_components(board.run_id, target="protein")
    assert [each.target for each in one] == ["protein"]


def test_two_chains_are_compared_for_the_target_that_both_predict(made: Any) -> None:
    store, board, _, own = made
    chain = next(row for row in board.rows if row.components == 9).chain_id
    found = store.compare_errors(chain, own, target="protein")
    assert found.rmse_first == pytest.approx(np.sqrt(((_out_of_fold(9, 1) - Y[:, 1]) ** 2).mean()))
    with pytest.raises(InvalidInput, match="predicts protein; found 'fat'"):
        store.compare_errors(chain, own, target="fat")


@pytest.mark.parametrize("given", ["all columns", "its own", "own integers"])
def test_a_diagnosis_is_that_of_the_target(made: Any, given: str) -> None:
    store, board, _, _ = made
    chain = next(row for row in board.rows if row.components == 5).chain_id
    y = {"all columns": Y, "its own": Y[:, 1], "own integers": np.rint(Y[:, 1]).astype(int)}[given]
    found = store.diagnose(chain, X, y, target="protein")
    pls = PLSRegression(5, scale=False).fit(X, Y)
    residual = pls.predict(X)[:, 1] - Y[:, 1]
    assert np.rint(Y[:, 1]) == pytest.approx(Y[:, 1])  # so that the integers are the same values
    assert found.is_calibration
    assert found.target == "protein"
    assert found.samples["residual"].to_numpy() == pytest.approx(residual, abs=1e-8)
    s = np.sqrt((residual**2).sum() / (90 - 5 - 1))
    h = 1 / 90 + (pls.x_scores_**2 / (pls.x_scores_**2).sum(axis=0)).sum(axis=1)
    assert found.samples["studentised"].to_numpy() == pytest.approx(residual / (s * np.sqrt(1 - h)))
    assert found.channels["coefficient"].to_numpy() == pytest.approx(pls.coef_[1])
    whole = ((Y[:, 1] - Y[:, 1].mean()) ** 2).sum()
    assert found.explained["y"][-1] == pytest.approx(1 - (residual**2).sum() / whole)
    new = store.diagnose(chain, X[:7], Y[:7], target="fat").samples
    fat = pls.predict(X)[:, 0] - Y[:, 0]
    sec = np.sqrt((fat**2).sum() / 84)
    assert new["studentised"].to_numpy() == pytest.approx(fat[:7] / (sec * np.sqrt(1 + h[:7])))


def test_a_review_checks_each_target_or_one(made: Any) -> None:
    store, board, _, own = made
    chain = board.rows[0].chain_id
    both, one = store.review(chain), store.review(chain, target="protein")
    assert {"R05", "R06", "R07"} <= set(both.checked) == set(one.checked)
    assert set(both.checked) - {"R13"} == set(store.review(own).checked)
    named = [each.message.removeprefix("protein: ") for each in both.findings if "protein: " in each.message]
    assert named
    assert named == [each.message for each in one.findings if each.message in named]
    assert not any(each.message.startswith("protein: ") for each in one.findings)


def test_figures_show_the_target_alone(made: Any) -> None:
    store, board, _, _ = made
    chain = next(row for row in board.rows if row.components == 7).chain_id
    rmsecv = np.sqrt(((_out_of_fold(7, 1) - Y[:, 1]) ** 2).mean())
    frames = {
        name: store.plot_data(name, chain, target="protein") for name in ("predicted", "errors", "components")
    }
    cv = frames["predicted"].filter(set="cv")
    assert np.sqrt((cv["residual"] ** 2).mean()) == pytest.approx(rmsecv)
    assert frames["errors"].filter(components=7, error="RMSECV")["value"].item() == pytest.approx(rmsecv)
    # The recorded score is a mean over the targets.
    assert frames["components"].filter(components=7)["rmsecv"].item() == pytest.approx(rmsecv)
    folds = store.plot_data("folds", chain, target="protein")["validation"]
    val = CV.split(X)
    errors = (_out_of_fold(7, 1) - Y[:, 1]) ** 2
    assert folds.to_numpy() == pytest.approx([np.sqrt(errors[rows].mean()) for _, rows in val])
    assert store.plot_data("coefficients", chain, target="protein")[
        "coefficient"
    ].to_numpy() == pytest.approx(PLSRegression(7, scale=False).fit(X, Y).coef_[1])
    for given in (Y, Y[:, 1]):
        shown = store.plot_data("intervals", chain, X, given, target="protein")
        assert shown["measured"].to_numpy() == pytest.approx(Y[:, 1])
        assert set(shown["target"]) == {"protein"}
    axes = pytest.importorskip("matplotlib") and store.plot("predicted", chain, target="protein").axes[0]
    assert "protein" in axes.get_xlabel()


def test_a_chain_without_names_of_targets_is_counted(made: Any) -> None:
    store, _, plain, own = made
    found = store.diagnose(plain, X, Y, target=1)
    assert found.samples["measured"].to_numpy() == pytest.approx(Y[:, 1])
    assert found.is_calibration
    for wrong, words in ((2, "below 2"), ("protein", "count from 0")):
        with pytest.raises(InvalidInput, match=words):
            store.diagnose(plain, X, Y, target=wrong)
    for target in ("fat", True, "", -1):
        with pytest.raises(InvalidInput, match="target"):
            store.diagnose(own, X, Y[:, 1], target=target)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, chain: store.diagnose(chain, X, Y),
        lambda store, chain: store.diagnose(chain, X),
        lambda store, chain: store.suggest_components(chain),
        lambda store, chain: store.compare_errors(chain, chain),
        lambda store, chain: store.permutation_test(chain, X, Y, n_permutations=1),
        lambda store, chain: store.plot_data("predicted", chain),
    ],
)
def test_a_question_that_needs_one_target_says_which_there_are(made: Any, ask: Any) -> None:
    store, board, _, _ = made
    with pytest.raises(InvalidInput, match="target='fat' or 'protein'"):
        ask(store, board.rows[0].chain_id)
