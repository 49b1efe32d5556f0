"""Runs and pipelines: begun, completed, failed, rolled back, interrupted; and the facade itself."""

from __future__ import annotations

import inspect
import math
import os
import typing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from storekit import NO_FOLDERS, begin, chain_of, let_go, predict, prediction, whole_pipeline

import nirs_store
from nirs_store import ArtifactRegistry, migrate_nirs4all, restore_backup
from nirs_store.errors import InvalidInput, StoreClosed, UnknownId
from nirs_store.store import WorkspaceStore

DOCUMENTED: dict[str, list[str]] = {
    "begin_run": ["name", "config", "datasets"],
    "complete_run": ["run_id", "summary"],
    "fail_run": ["run_id", "error"],
    "begin_pipeline": ["run_id", "name", "expanded_config", "generator_choices", "dataset_name", "dataset_hash"],
    "complete_pipeline": ["pipeline_id", "best_val", "best_test", "metric", "duration_ms"],
    "fail_pipeline": ["pipeline_id", "error"],
    "save_chain": [
        "pipeline_id", "steps", "model_step_idx", "model_class", "preprocessings", "fold_strategy",
        "fold_artifacts", "shared_artifacts", "branch_path", "source_index",
    ],
    "get_chain": ["chain_id"],
    "get_chains_for_pipeline": ["pipeline_id"],
    "save_prediction": [
        "pipeline_id", "chain_id", "dataset_name", "model_name", "model_class", "fold_id", "partition",
        "val_score", "test_score", "train_score", "metric", "task_type", "n_samples", "n_features", "scores",
        "best_params", "branch_id", "branch_name", "exclusion_count", "exclusion_rate", "preprocessings",
        "prediction_id",
    ],
    "save_prediction_arrays": ["prediction_id", "y_true", "y_pred", "y_proba", "sample_indices", "weights"],
    "save_artifact": ["obj", "operator_class", "artifact_type", "format"],
    "register_existing_artifact": [
        "artifact_id", "path", "content_hash", "operator_class", "artifact_type", "format", "size_bytes",
    ],
    "load_artifact": ["artifact_id"],
    "get_artifact_path": ["artifact_id"],
    "log_step": [
        "pipeline_id", "step_idx", "operator_class", "event", "duration_ms", "message", "details", "level",
    ],
    "get_run": ["run_id"],
    "get_pipeline": ["pipeline_id"],
    "list_runs": ["status", "dataset", "limit", "offset"],
    "list_pipelines": ["run_id", "dataset_name"],
    "get_prediction": ["prediction_id", "load_arrays"],
    "query_predictions": [
        "dataset_name", "model_class", "partition", "fold_id", "branch_id", "pipeline_id", "run_id", "limit",
        "offset",
    ],
    "top_predictions": ["n", "metric", "ascending", "partition", "dataset_name", "group_by"],
    "get_pipeline_log": ["pipeline_id"],
    "get_run_log_summary": ["run_id"],
    "export_chain": ["chain_id", "output_path", "format"],
    "export_pipeline_config": ["pipeline_id", "output_path"],
    "export_run": ["run_id", "output_path"],
    "export_predictions_parquet": ["output_path"],
    "delete_run": ["run_id", "delete_artifacts"],
    "delete_prediction": ["prediction_id"],
    "gc_artifacts": [],
    "vacuum": [],
    "replay_chain": ["chain_id", "X", "wavelengths"],
    "close": [],
}  # fmt: skip
DEFAULTS = {
    "list_runs": {"status": None, "dataset": None, "limit": 100, "offset": 0},
    "top_predictions": {"metric": "val_score", "ascending": None, "partition": "val", "dataset_name": None, "group_by": None},
    "delete_run": {"delete_artifacts": True},
    "log_step": {"duration_ms": None, "message": None, "details": None, "level": "info"},
    "save_chain": {"branch_path": None, "source_index": None},
    "save_prediction": {"preprocessings": "", "prediction_id": None},
    "save_prediction_arrays": {"y_proba": None, "sample_indices": None, "weights": None},
    "get_prediction": {"load_arrays": False},
    "export_chain": {"format": "n4a"},
    "replay_chain": {"wavelengths": None},
    "query_predictions": dict.fromkeys(
        ("dataset_name", "model_class", "partition", "fold_id", "branch_id", "pipeline_id", "run_id", "limit")
    ) | {"offset": 0},
}  # fmt: skip

PUBLIC = [name for name, _ in inspect.getmembers(WorkspaceStore) if not name.startswith("_")]


def row(found: dict[str, Any] | None) -> dict[str, Any]:
    assert found is not None
    return found


# -- the facade ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", DOCUMENTED)
def test_a_method_takes_the_documented_arguments_in_order(method: str) -> None:
    parameters = list(inspect.signature(getattr(WorkspaceStore, method)).parameters.values())[1:]
    positional = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert positional == DOCUMENTED[method]
    assert {p.name: p.default for p in parameters if p.name in DEFAULTS.get(method, {})} == DEFAULTS.get(
        method, {}
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring_and_hints_that_resolve(name: str) -> None:
    member = inspect.getattr_static(WorkspaceStore, name)
    function = member.fget if isinstance(member, property) else getattr(WorkspaceStore, name)
    assert inspect.getdoc(function)
    hints = typing.get_type_hints(function)
    assert "return" in hints
    names = [p for p in inspect.signature(function).parameters if p != "self"]
    assert set(names) <= set(hints)


def test_constructor_and_protocol(store: WorkspaceStore) -> None:
    assert typing.get_type_hints(WorkspaceStore.__init__)["lock_timeout"] is float
    assert isinstance(store, nirs_store.WorkspaceStoreProtocol)


@pytest.mark.parametrize("timeout", [math.inf, 1e10, 1e300])
def test_who_waits_for_ever_is_answered(store: WorkspaceStore, timeout: float) -> None:
    with WorkspaceStore(store.workspace_path, lock_timeout=timeout) as other:
        begin(other)
        assert other.list_runs().height == 1
        assert other.check().ok


@pytest.mark.parametrize("timeout", ["30", None, -1, math.nan, 1j])
def test_what_is_no_time_is_refused(store: WorkspaceStore, folder: Path, timeout: Any) -> None:
    with pytest.raises(InvalidInput, match="lock_timeout: expected seconds"):
        WorkspaceStore(folder, lock_timeout=timeout)


@pytest.mark.parametrize("path", NO_FOLDERS)
def test_what_cannot_be_the_folder_of_a_workspace_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for take in (
        WorkspaceStore,
        ArtifactRegistry,
        lambda folder: migrate_nirs4all(tmp_path, folder),
        lambda folder: restore_backup(tmp_path, folder),
    ):
        with pytest.raises(InvalidInput, match=r"Nothing was changed|expected an open store"):
            take(path)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_below_a_folder_that_is_no_utf8_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(InvalidInput, match="not UTF-8"):
        WorkspaceStore("ws")
    assert list(place.iterdir()) == []


def test_the_facade_and_its_parts_hold_no_sql() -> None:
    package = Path(nirs_store.__file__).parent
    for path in (package / "store.py", *(package / "facade").glob("*.py")):
        for word in ("SELECT ", "INSERT ", "DELETE FROM", "UPDATE ", "con.execute", "con.sql"):
            text = "\n".join(line for line in path.read_text().splitlines() if '"""' not in line)
            assert word not in text or word == "SELECT ", f"{path.name} holds {word}"


def test_after_close_every_method_says_that_the_store_is_closed(
    store: WorkspaceStore, tmp_path: Path
) -> None:
    run_id, pipeline_id = begin(store)
    chain_id = chain_of(store, pipeline_id)
    prediction_id = predict(store, pipeline_id, chain_id)
    artifact_id = store.save_artifact(1, "int", "model")
    store.fail_pipeline(begin(store, "failed")[1], "x")
    store.close()
    store.close()
    given: dict[str, tuple[Any, ...]] = {
        "begin_run": ("r", {}, []),
        "complete_run": (run_id, {}),
        "fail_run": (run_id, "x"),
        "begin_pipeline": (run_id, "p", {}, [], "d", "h"),
        "complete_pipeline": (pipeline_id, 0.1, 0.1, "rmse", 1),
        "fail_pipeline": (pipeline_id, "x"),
        "save_chain": (pipeline_id, [], 0, "M", "", "", {}, {}),
        "save_prediction": (pipeline_id, None, *prediction().values()),
        "save_prediction_arrays": (prediction_id, [1.0], [1.0]),
        "save_artifact": (1, "int", "model", "joblib"),
        "register_existing_artifact": ("x", "y", "0" * 64, "C", "model", "bytes", 1),
        "log_step": (pipeline_id, 0, "x", "start"),
        "top_predictions": (1,),
        "export_chain": (chain_id, tmp_path / "x.n4a"),
        "export_pipeline_config": (pipeline_id, tmp_path / "x.json"),
        "export_run": (run_id, tmp_path / "x.yaml"),
        "export_predictions_parquet": (tmp_path / "x.parquet",),
        "replay_chain": (chain_id, np.zeros((1, 2))),
        "load_artifact": (artifact_id,),
        "get_artifact_path": (artifact_id,),
    }
    for method, names in DOCUMENTED.items():
        if method == "close":
            continue
        required = len(names) - len([n for n in names if n in DEFAULTS.get(method, {})])
        arguments = given.get(method, ("x",) * required)
        with pytest.raises(RuntimeError, match="WorkspaceStore is closed"):
            getattr(store, method)(*arguments)
    for call in (
        store.flush,
        store.transaction,
        lambda: store.run("r").__enter__(),
        lambda: store.gc_artifacts(dry_run=True),
    ):
        with pytest.raises(StoreClosed):
            call()
    assert "(closed)" in repr(store)
    assert list(tmp_path.glob("x.*")) == []


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.everywhere
def test_a_run_from_begin_to_completion(store: WorkspaceStore) -> None:
    run_id = store.begin_run("experiment", {"seed": 1}, [{"name": "corn"}])
    begun = row(store.get_run(run_id))
    assert (begun["name"], begun["status"], begun["config"], begun["completed_at"]) == (
        "experiment",
        "running",
        {"seed": 1},
        None,
    )
    store.complete_run(
        run_id, {"best": np.float32(0.5), "n": np.int64(3), "nan": math.nan, "when": [1, (2, 3)]}
    )
    done = row(store.get_run(run_id))
    assert done["status"] == "completed"
    assert done["summary"] == {"best": 0.5, "n": 3, "nan": None, "when": [1, [2, 3]]}
    assert done["completed_at"] >= done["created_at"]
    assert store.list_runs(status="completed")["run_id"].to_list() == [run_id]


@pytest.mark.parametrize("one", ["wheat", {"name": "wheat"}])
def test_a_data_set_by_itself_is_a_list_of_one(store: WorkspaceStore, one: Any) -> None:
    run_id = store.begin_run("corn", {}, one)
    with store.run("corn", datasets=one) as run:
        pass
    for found in (store.get_run(run_id), store.get_run(run.run_id)):
        assert found is not None
        assert found["datasets"] in (["wheat"], [{"name": "wheat"}])
    assert store.list_runs(dataset="wheat").height == 2


@pytest.mark.parametrize("datasets", [5, b"wheat"])
def test_data_sets_that_are_no_list_are_refused(store: WorkspaceStore, datasets: Any) -> None:
    with pytest.raises(InvalidInput, match="datasets: expected a list"):
        store.begin_run("corn", {}, datasets)
    assert store.list_runs().height == 0


@pytest.mark.parametrize(
    "given", [{"metadata": [1]}, {"metadata": "ab"}, {"wavelengths": [1j]}, {"wavelengths": [[1], [1, 2]]}]
)
def test_what_a_chain_cannot_be_described_by_is_refused(store: WorkspaceStore, given: dict[str, Any]) -> None:
    _, pipeline_id = begin(store)
    with pytest.raises(InvalidInput, match=next(iter(given))):
        store.save_chain(pipeline_id, [], 0, "PLS", "", "single", {}, {}, **given)
    assert store.get_chains_for_pipeline(pipeline_id).height == 0


def test_an_environment_that_is_no_dict_is_refused(store: WorkspaceStore) -> None:
    with pytest.raises(InvalidInput, match="environment: expected a dict, found list"):
        store.begin_run("corn", {}, [], environment=[1])  # type: ignore[arg-type]
    assert store.list_runs().height == 0


@pytest.mark.parametrize("path", ["12", {"a": 1}, 5])
def test_a_branch_path_that_is_no_list_is_refused(store: WorkspaceStore, path: Any) -> None:
    _, pipeline_id = begin(store)
    with pytest.raises(InvalidInput, match="branch_path: expected a list"):
        store.save_chain(pipeline_id, [], 0, "PLS", "", "single", {}, {}, branch_path=path)
    assert store.get_chains_for_pipeline(pipeline_id).height == 0


@pytest.mark.everywhere
def test_the_first_final_state_wins(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    prediction_id = predict(store, pipeline_id)
    store.complete_pipeline(pipeline_id, 0.5, 0.6, "rmse", 12)
    store.fail_pipeline(pipeline_id, "too late")
    predict(store, pipeline_id)
    store.complete_pipeline(pipeline_id, 9.0, 9.0, "r2", 9)
    found = row(store.get_pipeline(pipeline_id))
    assert (found["status"], found["best_val"], found["metric"], found["error"]) == (
        "completed",
        0.5,
        "rmse",
        None,
    )
    assert store.get_prediction(prediction_id) is not None
    assert store.query_predictions(pipeline_id=pipeline_id).height == 2
    store.complete_run(run_id, {})
    store.fail_run(run_id, "too late")
    assert row(store.get_run(run_id))["status"] == "completed"


@pytest.mark.takes_over
def test_a_failed_pipeline_is_rolled_back_once_and_keeps_its_row_and_its_logs(store: WorkspaceStore) -> None:
    _, pipeline_id = begin(store)
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    own = store.save_artifact({"own": 1}, "dict", "model", pipeline_id=pipeline_id)
    chain_id = chain_of(store, pipeline_id, artifact_id)
    prediction_id = predict(store, pipeline_id, chain_id)
    store.log_step(pipeline_id, 0, "PLS", "start")
    assert row(store.get_artifact(artifact_id))["ref_count"] == 1
    for _ in range(2):
        store.fail_pipeline(pipeline_id, "no convergence")
        failed = row(store.get_pipeline(pipeline_id))
        assert (failed["status"], failed["error"]) == ("failed", "no convergence")
        assert store.get_chain(chain_id) is None
        assert store.get_prediction(prediction_id) is None
        assert store.get_pipeline_log(pipeline_id)["event"].to_list() == ["start", "cleanup"]
        assert [row(store.get_artifact(each))["ref_count"] for each in (artifact_id, own)] == [0, 0]
    for late in (
        lambda: predict(store, pipeline_id),
        lambda: chain_of(store, pipeline_id),
    ):
        with pytest.raises(InvalidInput, match="rolled back"):
            late()
    assert store.gc_artifacts() == 2


@pytest.mark.takes_over
def test_a_failed_run_fails_what_it_left_unfinished_and_keeps_what_was_done(store: WorkspaceStore) -> None:
    run_id = store.begin_run("r", {}, [])
    done = whole_pipeline(store, run_id)
    left = store.begin_pipeline(run_id, "left", {}, [], "corn", "h")
    kept_artifact = store.save_artifact({"left": 1}, "dict", "model")
    chain_of(store, left, kept_artifact)
    store.fail_run(run_id, "power cut")
    assert (row(store.get_run(run_id))["status"], row(store.get_run(run_id))["error"]) == (
        "failed",
        "power cut",
    )
    assert row(store.get_pipeline(done))["status"] == "completed"
    assert (row(store.get_pipeline(left))["status"], row(store.get_pipeline(left))["error"]) == (
        "failed",
        "run failed: power cut",
    )
    assert store.query_predictions()["pipeline_id"].unique().to_list() == [done]
    assert row(store.get_artifact(kept_artifact))["ref_count"] == 0


def test_an_error_text_is_recorded_whatever_it_holds(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    store.fail_pipeline(pipeline_id, "name \udce9 and \x00")
    store.fail_run(run_id, ValueError("an exception"))  # type: ignore[arg-type]
    assert row(store.get_pipeline(pipeline_id))["error"] == "name \\udce9 and \\x00"
    assert row(store.get_run(run_id))["error"] == "an exception"


def test_a_run_whose_session_ended_without_finishing_it_shows_as_interrupted(
    store: WorkspaceStore, folder: Path
) -> None:
    with WorkspaceStore(folder) as other:
        run_id, pipeline_id = begin(other)
        finished = other.begin_run("finished", {}, [])
        other.complete_run(finished, {})
        assert row(store.get_run(run_id))["status"] == "running"
    assert row(store.get_run(run_id))["status"] == "interrupted"
    assert row(store.get_pipeline(pipeline_id))["status"] == "interrupted"
    assert store.list_runs(status="interrupted")["run_id"].to_list() == [run_id]
    assert store.list_runs(status="running").is_empty()
    assert store.list_pipelines()["status"].to_list() == ["interrupted"]
    assert store.get_run_log_summary(run_id)["pipeline_status"].to_list() == ["interrupted"]
    assert row(store.get_run(finished))["status"] == "completed"
    # It can still be finished by whoever picks it up.
    store.complete_pipeline(pipeline_id, 0.1, None, "rmse", 1)
    store.complete_run(run_id, {})
    assert row(store.get_run(run_id))["status"] == "completed"


def test_unknown_owners_are_refused_by_name(store: WorkspaceStore) -> None:
    _, pipeline_id = begin(store)
    calls: list[Any] = [
        lambda: store.begin_pipeline("nobody", "p", {}, [], "d", "h"),
        lambda: store.complete_run("nobody", {}),
        lambda: store.fail_run("nobody", "x"),
        lambda: store.complete_pipeline("nobody", 0.1, 0.1, "rmse", 1),
        lambda: store.fail_pipeline("nobody", "x"),
        lambda: store.save_chain("nobody", [], 0, "M", "", "", {}, {}),
        lambda: store.save_prediction("nobody", None, **prediction()),
        lambda: store.save_prediction(pipeline_id, "nobody", **prediction()),
        lambda: store.save_prediction_arrays("nobody", [1.0], [1.0]),
        lambda: store.log_step("nobody", 0, "x", "start"),
        lambda: store.replay_chain("nobody", np.zeros((1, 2))),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="nobody") as caught:
            call()
        assert isinstance(caught.value, UnknownId)
    assert store.list_pipelines().height == 1


def test_ids_sort_in_the_order_of_their_making(store: WorkspaceStore) -> None:
    ids = [store.begin_run("r", {}, []) for _ in range(5)]
    assert ids == sorted(ids)


def test_the_program_of_the_users_guide_runs(store: WorkspaceStore, tmp_path: Path) -> None:
    run_id = store.begin_run("experiment_1", config={"model": "pls"}, datasets=[{"name": "wheat"}])
    pipeline_id = store.begin_pipeline(
        run_id,
        name="0001_pls",
        expanded_config={},
        generator_choices=[],
        dataset_name="wheat",
        dataset_hash="h",
    )
    artifact_id = store.save_artifact(
        obj={"fitted": True}, operator_class="sklearn.PLSRegression", artifact_type="model", format="joblib"
    )
    chain_of(store, pipeline_id, artifact_id)
    store.save_prediction(pipeline_id, None, **prediction(dataset_name="wheat"))
    store.complete_pipeline(pipeline_id, best_val=0.95, best_test=0.9, metric="r2", duration_ms=1200)
    store.complete_run(run_id, summary={"total_pipelines": 5})
    assert store.top_predictions(n=5, metric="val_score").height == 1
    assert store.query_predictions(dataset_name="wheat", partition="val").height == 1
    assert store.list_runs(status="completed").height == 1
    store.export_predictions_parquet(tmp_path / "results.parquet", dataset_name="wheat", partition="val")
    assert pl.read_parquet(tmp_path / "results.parquet").height == 1
    store.delete_run(run_id, now=True)
    store.gc_artifacts()
    store.vacuum()
    let_go(store)
    assert store.list_runs().is_empty()


@pytest.mark.parametrize("first", ["complete_pipeline", "fail_pipeline"])
@pytest.mark.parametrize("second", ["complete_pipeline", "fail_pipeline"])
def test_to_end_a_pipeline_a_second_time_commits_what_is_buffered(
    store: WorkspaceStore, first: str, second: str
) -> None:
    endings: dict[str, tuple[Any, ...]] = {
        "complete_pipeline": (0.5, None, "rmse", 5),
        "fail_pipeline": ("it broke",),
    }
    _, ended = begin(store)
    getattr(store, first)(ended, *endings[first])
    _, pipeline_id = begin(store)
    prediction_id = predict(store, pipeline_id)
    getattr(store, second)(ended, *endings[second])
    store._engine.abort()
    with WorkspaceStore(store.workspace_path) as again:
        assert again.get_prediction(prediction_id) is not None
