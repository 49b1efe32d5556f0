"""The model of a store: references, roll-backs and deletion, as the real one promises them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from nirs_store.errors import ArtifactMissing, InvalidInput, ShapeMismatch, StoreClosed, UnknownId
from tests.model import ModelStore, named_artifacts


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def store() -> ModelStore:
    return ModelStore()


def begin(store: ModelStore, run_id: str | None = None) -> str:
    run_id = run_id or store.begin_run("run", {"seed": (1, 2)}, [{"name": "corn"}])
    return store.begin_pipeline(run_id, "pls", {}, [], "corn", "")


def chain(store: ModelStore, pipeline_id: str, artifact_id: str) -> str:
    return store.save_chain(
        pipeline_id, [{"step_idx": 1}], 1, "PLS", "", "per_fold", {"fold_0": artifact_id}, {}
    )


def predict(store: ModelStore, pipeline_id: str, chain_id: str | None = None, **changes: Any) -> str:
    row: dict[str, Any] = {
        "pipeline_id": pipeline_id, "chain_id": chain_id, "dataset_name": "corn", "model_name": "PLS(2)",
        "model_class": "sklearn.cross_decomposition.PLSRegression", "fold_id": "fold_0", "partition": "val",
        "val_score": 1.0, "test_score": None, "train_score": 0.5, "metric": "rmse", "task_type": "regression",
        "n_samples": 3, "n_features": 4, "scores": {"rmse": 1.0}, "best_params": None, "branch_id": None,
        "branch_name": None, "exclusion_count": 0, "exclusion_rate": 0.0,
    }  # fmt: skip
    return store.save_prediction(**(row | changes))


def count(store: ModelStore, artifact_id: str) -> int | None:
    found = store.get_artifact(artifact_id)
    return None if found is None else int(found["ref_count"])


def save(store: ModelStore, value: Any = "model", pipeline_id: str | None = None) -> str:
    return store.save_artifact(value, "builtins.str", "model", pipeline_id=pipeline_id)


def test_saving_the_same_twice_shows_two_references_and_a_chain_takes_one_over(store: ModelStore) -> None:
    artifact_id = save(store)
    assert save(store) == artifact_id
    assert count(store, artifact_id) == 2
    chain(store, begin(store), artifact_id)
    assert count(store, artifact_id) == 2


def test_an_artifact_of_two_chains_survives_the_deletion_of_either(store: ModelStore) -> None:
    first, second = (store.begin_run(name, {}, []) for name in "ab")
    artifact_id = save(store)
    for run_id in (first, second):
        chain(store, begin(store, run_id), artifact_id)
    assert count(store, artifact_id) == 2
    store.delete_run(first, now=True)
    assert store.load_artifact(artifact_id) == "model"
    store.delete_run(second, now=True)
    assert count(store, artifact_id) is None
    with pytest.raises(UnknownId):
        store.load_artifact(artifact_id)


def test_deleting_without_artifacts_releases_them_for_gc(store: ModelStore) -> None:
    run_id = store.begin_run("run", {}, [])
    pipeline_id = begin(store, run_id)
    artifact_id = save(store)
    predict(store, pipeline_id, chain(store, pipeline_id, artifact_id))
    store.log_step(pipeline_id, 1, "PLS", "start")
    assert store.delete_run(run_id, delete_artifacts=False, now=True) == 5
    assert count(store, artifact_id) == 0
    assert store.gc_artifacts() == 1
    assert store.delete_run(run_id, now=True) == 0


def test_a_failed_pipeline_leaves_its_row_and_its_logs(store: ModelStore) -> None:
    pipeline_id = begin(store)
    artifact_id, early = save(store), save(store, "early", pipeline_id)
    prediction_id = predict(store, pipeline_id, chain(store, pipeline_id, artifact_id))
    store.log_step(pipeline_id, 1, "PLS", "start", details={"a": 1})
    store.fail_pipeline(pipeline_id, "it broke")
    store.fail_pipeline(pipeline_id, "again")
    row = store.get_pipeline(pipeline_id)
    assert row is not None
    assert (row["status"], row["error"]) == ("failed", "it broke")
    assert store.get_prediction(prediction_id) is None
    assert store.get_chains_for_pipeline(pipeline_id).is_empty()
    log = store.get_pipeline_log(pipeline_id)
    assert log["event"].to_list() == ["start", "cleanup"]
    assert log["message"].to_list()[1].startswith("released 2 artifacts")
    assert (count(store, artifact_id), count(store, early)) == (0, 0)


def test_the_first_final_state_wins(store: ModelStore) -> None:
    pipeline_id = begin(store)
    chain_id = chain(store, pipeline_id, save(store))
    store.complete_pipeline(pipeline_id, 1.0, None, "rmse", 5)
    store.fail_pipeline(pipeline_id, "late")
    row = store.get_pipeline(pipeline_id)
    assert row is not None
    assert row["status"] == "completed"
    assert store.get_chain(chain_id) is not None


def test_a_failed_run_fails_its_open_pipelines_only(store: ModelStore) -> None:
    run_id = store.begin_run("run", {}, [])
    done, unfinished = begin(store, run_id), begin(store, run_id)
    store.complete_pipeline(done, 1.0, None, "rmse", 5)
    store.fail_run(run_id, "no power")
    assert store.list_pipelines(run_id)["status"].to_list() == ["failed", "completed"]
    assert store.list_pipelines(run_id)["pipeline_id"].to_list() == [unfinished, done]


def test_a_sessions_references_count_until_the_grace_period_is_over() -> None:
    clock = Clock()
    store = ModelStore(clock)
    artifact_id = save(store)
    clock.now += timedelta(days=1)
    assert store.gc_artifacts() == 0
    again = store.reopen()
    clock.now += timedelta(minutes=59)
    assert again.gc_artifacts() == 0
    clock.now += timedelta(minutes=1)
    assert again.gc_artifacts() == 1
    assert again.get_artifact(artifact_id) is None


def test_a_chain_does_not_take_over_what_another_session_holds() -> None:
    store = ModelStore()
    artifact_id = save(store)
    again = store.reopen()
    chain(again, begin(again), artifact_id)
    assert count(again, artifact_id) == 2


def test_arrays_come_back_as_they_were_and_only_once(store: ModelStore) -> None:
    prediction_id = predict(store, begin(store))
    proba = np.arange(6.0).reshape(3, 2)
    store.save_prediction_arrays(prediction_id, np.array(["a", "b", "a"]), np.array(["a", "b", "b"]), proba)
    proba[0, 0] = 99.0
    found = store.get_prediction(prediction_id, load_arrays=True)
    assert found is not None
    assert found["y_proba"].shape == (3, 2)
    assert found["y_proba"][0, 0] == 0.0
    assert found["weights"] is None
    assert "y_true" not in (store.get_prediction(prediction_id) or {})
    with pytest.raises(InvalidInput):
        store.save_prediction_arrays(prediction_id, None, None)
    assert store.delete_prediction(prediction_id, now=True)
    assert not store.delete_prediction(prediction_id, now=True)


def test_arrays_of_different_lengths_are_refused(store: ModelStore) -> None:
    with pytest.raises(ShapeMismatch):
        store.save_prediction_arrays(predict(store, begin(store)), np.ones(3), np.ones(2))


def test_missing_scores_rank_last_in_both_directions(store: ModelStore) -> None:
    pipeline_id = begin(store)
    for score in (2.0, float("nan"), 1.0, None):
        predict(store, pipeline_id, val_score=score)
    up = store.top_predictions(4)["val_score"].to_list()
    down = store.top_predictions(4, ascending=False)["val_score"].to_list()
    assert (up[:2], down[:2]) == ([1.0, 2.0], [2.0, 1.0])
    with pytest.raises(ValueError, match="Invalid metric column"):
        store.top_predictions(1, metric="name; DROP TABLE runs")
    with pytest.raises(ValueError, match="Invalid group_by column"):
        store.top_predictions(1, group_by="nothing")


def test_the_top_of_each_group(store: ModelStore) -> None:
    pipeline_id = begin(store)
    for name, score in (("PLS", 2.0), ("PLS", 1.0), ("Ridge", 3.0)):
        predict(store, pipeline_id, model_name=name, val_score=score)
    top = store.top_predictions(1, group_by="model_name")
    assert top.select("model_name", "val_score").rows() == [("PLS", 1.0), ("Ridge", 3.0)]


def test_filters_are_exact_and_joined(store: ModelStore) -> None:
    pipeline_id = begin(store)
    predict(store, pipeline_id, dataset_name="corn")
    predict(store, pipeline_id, dataset_name="corn_old", fold_id="fold_1")
    assert store.query_predictions(dataset_name="corn").height == 1
    assert store.query_predictions(dataset_name="corn", fold_id="fold_1").is_empty()
    assert store.query_predictions(model_class="%PLS%").height == 2
    assert store.query_predictions(model_class="PLS").is_empty()
    assert store.query_predictions()["fold_id"].to_list() == ["fold_1", "fold_0"]
    assert store.query_predictions(limit=1, offset=1)["fold_id"].to_list() == ["fold_0"]
    assert store.list_runs(dataset="corn").height == 1
    assert store.list_runs(dataset="cor").is_empty()


def test_a_fresh_store_answers_with_empty_frames_that_have_their_columns(store: ModelStore) -> None:
    assert "val_score" in store.query_predictions().columns
    assert "val_score" in store.top_predictions(3).columns
    assert store.list_runs().columns[:2] == ["run_id", "name"]
    assert store.get_run_log_summary("nothing").columns[0] == "pipeline_id"


def test_unknown_ids_are_errors_where_something_is_written(store: ModelStore) -> None:
    for call in (
        lambda: store.complete_run("x", {}),
        lambda: store.begin_pipeline("x", "n", {}, [], "d", ""),
        lambda: store.fail_pipeline("x", "e"),
        lambda: predict(store, begin(store), "x"),
        lambda: store.save_prediction_arrays("x", None, None),
        lambda: store.log_step("x", 0, "", "start"),
        lambda: store.read_artifact("x"),
    ):
        with pytest.raises(KeyError):
            call()
    with pytest.raises(ArtifactMissing):
        chain(store, begin(store), "x")
    assert store.get_chain("x") is store.get_run("x") is store.get_prediction("x") is None


def test_a_closed_store_refuses_everything(store: ModelStore) -> None:
    with store, store.transaction():
        store.flush()
        store.vacuum()
    store.close()
    for call in (store.list_runs, store.flush, store.gc_artifacts, lambda: save(store)):
        with pytest.raises(StoreClosed, match="WorkspaceStore is closed"):
            call()


def test_every_place_where_a_chain_names_artifacts_is_seen() -> None:
    steps: list[dict[str, Any]] = [
        {"artifact_id": "a"},
        {"artifact_ids": ["b", "c"], "params": {"name": "no"}},
    ]
    steps.append({"fold_artifact_ids": {"fold_0": ["d"], "final": ["a"]}})
    shared = {"1": ["e"], "_source_map": {"2": {"0": ["f"]}}}
    assert named_artifacts(steps, {"fold_0": "g", "final": "a"}, shared) == list("abcdgef")
