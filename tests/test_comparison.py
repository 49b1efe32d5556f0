"""Runs and chains side by side, and the pivot of a whole store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import CrossValidationResult, WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.records.views import flatten


@dataclass(frozen=True)
class Recorded:
    """Two runs of two models each, and one of a classifier."""

    store: WorkspaceStore
    pls: CrossValidationResult
    scaled: CrossValidationResult
    ridge: CrossValidationResult


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    meat = load_tecator()
    cv = KFold(3, shuffle=True, random_state=1)
    with WorkspaceStore(tmp_path_factory.mktemp("workspace")) as store:

        def run(model: Any, **options: Any) -> CrossValidationResult:
            return record_cross_validation(
                store, model, meat.X, meat.fat, cv=cv, dataset_name="meat", refit=False, **options
            )

        pls = run(PLSRegression(4, scale=False))
        scaled = run(make_pipeline(StandardScaler(), PLSRegression(6, scale=False)))
        ridge = run(make_pipeline(StandardScaler(), Ridge(alpha=0.5)), run_id=scaled.run_id)
        yield Recorded(store, pls, scaled, ridge)


def items(frame: Any) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in frame.iter_rows()}


def test_chains_differ_in_steps_parameters_and_scores(recorded: Recorded) -> None:
    ids = [recorded.pls.chain_id, recorded.scaled.chain_id]
    frame = recorded.store.compare(ids)
    assert frame.columns == ["item", *ids]
    found = items(frame)
    assert found["preprocessings"] == ("", "StandardScaler")
    assert found["step.2"] == (
        "sklearn.cross_decomposition.PLSRegression",
        "sklearn.preprocessing.StandardScaler",
    )
    assert found["step.2.params.n_components"] == ("4", None)
    assert found["step.3.params.n_components"] == (None, "6")
    assert found["score.rmsecv"] == tuple(f"{r.rmsecv:.6g}" for r in (recorded.pls, recorded.scaled))
    assert found["best chain"] == ("PLS(4, scale=False)", "StandardScaler > PLS(6, scale=False)")


def test_what_is_the_same_everywhere_is_left_out_unless_asked_for(recorded: Recorded) -> None:
    ids = [recorded.pls.chain_id, recorded.scaled.chain_id]
    differences, everything = items(recorded.store.compare(ids)), items(recorded.store.compare(ids, False))
    for name in ("datasets", "dataset_hash", "fold_strategy", "kind", "metric", "n_folds"):
        assert name not in differences
        assert everything[name][0] == everything[name][1] is not None
    assert differences.items() <= everything.items()
    assert all(len(set(values)) > 1 for values in differences.values())


def test_runs_are_compared_by_configuration_and_best_chain(recorded: Recorded) -> None:
    frame = recorded.store.compare([recorded.pls.run_id, recorded.scaled.run_id], only_differences=False)
    found = items(frame)
    best = min((recorded.scaled, recorded.ridge), key=lambda result: result.value)
    assert found["kind"] == ("run", "run")
    assert found["datasets"] == ("meat", "meat")
    assert found["score.score"] == (f"{recorded.pls.value:.6g}", f"{best.value:.6g}")
    assert found["best chain"][1] == best.name
    assert any(name.startswith("config.steps") for name in found)


def test_a_run_of_two_tasks_has_no_best_chain(recorded: Recorded) -> None:
    store = recorded.store
    with store.run("both", datasets=["meat"]) as run, store.run("none") as other:
        for task in ("regression", "classification"):
            with run.pipeline(task, dataset_name="other") as p:
                step = {"step_idx": 0, "operator_class": "a.Model", "params": {}, "stateless": True}
                chain = store.save_chain(p.pipeline_id, [step], 0, "a.Model", "", "per_fold", {}, {})
                store.save_prediction(
                    p.pipeline_id, chain, "other", "m", "m", "fold_0", "val", 1.0, None, None, "rmse", task, 3, 4,
                    {}, {}, None, None, 0, 0.0,
                )  # fmt: skip
    found = items(store.compare([run.run_id, other.run_id]))
    assert found["name"] == ("both", "none")
    assert "best chain" not in found
    store.delete_run(run.run_id, now=True)
    store.delete_run(other.run_id, now=True)


@pytest.mark.parametrize("ids", ["abc", [], ["one"], ["one", 2], [["a"], ["b"]]])
def test_fewer_than_two_ids_are_refused(recorded: Recorded, ids: Any) -> None:
    with pytest.raises(InvalidInput, match="at least two ids"):
        recorded.store.compare(ids)


def test_an_id_named_twice_and_an_unknown_one_are_refused(recorded: Recorded) -> None:
    with pytest.raises(InvalidInput, match="twice"):
        recorded.store.compare([recorded.pls.chain_id] * 2)
    with pytest.raises(UnknownId, match="run or chain"):
        recorded.store.compare([recorded.pls.chain_id, "nobody"])
    with pytest.raises(KeyError):
        recorded.store.compare([recorded.pls.pipeline_id, recorded.pls.chain_id])


def test_nested_settings_become_dotted_names() -> None:
    assert flatten({"a": {"b": [1, {"c": None}]}, "d": {}}, "config") == {
        "config.a.b.0": 1,
        "config.a.b.1.c": None,
        "config.d": {},
    }


def test_the_pivot_of_a_store_holds_each_pooled_score(recorded: Recorded) -> None:
    pivot = recorded.store.pivot()
    assert (pivot.rows, pivot.columns, pivot.metric) == ("preprocessings", "model_class", "rmse")
    cells = {
        (row["preprocessings"], column): row[column]
        for row in pivot.frame.iter_rows(named=True)
        for column in pivot.frame.columns[1:]
    }
    pls, ridge = "sklearn.cross_decomposition.PLSRegression", "sklearn.linear_model.Ridge"
    assert cells == {
        ("", pls): pytest.approx(recorded.pls.rmsecv),
        ("", ridge): None,
        ("StandardScaler", pls): pytest.approx(recorded.scaled.rmsecv),
        ("StandardScaler", ridge): pytest.approx(recorded.ridge.rmsecv),
    }


def test_a_pivot_takes_filters_other_kinds_and_another_metric(recorded: Recorded) -> None:
    pivot = recorded.store.pivot("model_name", "dataset_name", "r2", run_id=recorded.scaled.run_id)
    assert pivot.frame.columns == ["model_name", "meat"]
    assert dict(pivot.frame.iter_rows()) == {
        "PLS(6, scale=False)": pytest.approx(recorded.scaled.pooled["r2"]),
        "Ridge(alpha=0.5)": pytest.approx(recorded.ridge.pooled["r2"]),
    }
    assert recorded.store.pivot(dataset_name="nothing", metric="rpd").metric == "rpd"
    with pytest.raises(InvalidInput, match="Did you mean 'preprocessings'"):
        recorded.store.pivot("preprocesings")
    with pytest.raises(InvalidInput, match="Did you mean 'rmse'"):
        recorded.store.pivot(metric="rmsee")
