"""Deleting: in one transaction, with tombstones, and only what nobody else holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from storekit import begin, chain_of, let_go, predict, prediction, sql, whole_pipeline

from nirs_store.errors import WriteFailed
from nirs_store.maintenance import deletion
from nirs_store.store import WorkspaceStore


def test_a_run_goes_with_everything_it_owns_and_nothing_else(store: WorkspaceStore, folder: Path) -> None:
    kept, _ = begin(store, "kept")
    whole_pipeline(store, kept)
    run_id = store.begin_run("doomed", {}, [])
    pipeline_id = whole_pipeline(store, run_id, n=3)
    plan = store.delete_run(run_id, dry_run=True)
    assert plan.rows == {
        "runs": 1,
        "pipelines": 1,
        "chains": 1,
        "predictions": 3,
        "prediction_arrays": 3,
        "logs": 1,
    }
    assert len(plan.artifacts) == 1
    assert plan.artifact_bytes > 0
    assert store.get_run(run_id) is not None
    assert store.delete_run(run_id, now=True) == plan.total_rows == 10
    assert store.get_run(run_id) is None
    assert store.get_pipeline(pipeline_id) is None
    assert store.delete_run(run_id, now=True) == 0
    assert store.list_runs()["run_id"].to_list() == [kept]
    assert store.query_predictions().height == 2
    let_go(store)
    assert sql(folder, "SELECT count(*) FROM arrays") == [(2,)]
    assert len(list((folder / "artifacts").rglob("*.joblib"))) == 1


def test_the_audit_trail_says_of_a_deletion_what_its_plan_said(store: WorkspaceStore, folder: Path) -> None:
    _, pipeline_id = begin(store, "kept")
    shared = store.save_artifact({"shared": 1}, "dict", "model")
    chain_of(store, pipeline_id, shared)
    run_id = store.begin_run("doomed", {}, [])
    whole_pipeline(store, run_id, n=3)
    chain_of(store, store.begin_pipeline(run_id, "p", {}, [], "nir", "0"), shared)
    plan = store.delete_run(run_id, dry_run=True)
    assert store.delete_run(run_id, now=True) == plan.total_rows
    let_go(store)
    ((details,),) = sql(folder, "SELECT details FROM audit_entries WHERE operation = 'delete_run'")
    assert json.loads(details) == {"name": "doomed", "rows": plan.rows, "artifacts": len(plan.artifacts)}
    assert len(plan.artifacts) == 1
    assert store.get_artifact(shared) is not None


def test_a_model_that_two_runs_use_survives_the_deletion_of_either(store: WorkspaceStore) -> None:
    first, pipeline_one = begin(store, "first")
    second, pipeline_two = begin(store, "second")
    artifact_id = store.save_artifact({"shared": 1}, "dict", "model")
    chain_of(store, pipeline_one, artifact_id)
    chain_of(store, pipeline_two, artifact_id)
    assert (store.get_artifact(artifact_id) or {})["ref_count"] == 2
    store.delete_run(first, now=True)
    assert store.load_artifact(artifact_id) == {"shared": 1}
    assert (store.get_artifact(artifact_id) or {})["ref_count"] == 1
    store.delete_run(second, now=True)
    assert store.get_artifact(artifact_id) is None
    with pytest.raises(KeyError):
        store.load_artifact(artifact_id)


def test_what_a_session_saved_and_no_chain_took_over_survives_too(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    chain_of(store, pipeline_id, artifact_id)
    store.save_artifact({"a": 1}, "dict", "model")
    store.delete_run(run_id, now=True)
    assert store.load_artifact(artifact_id) == {"a": 1}


def test_files_can_be_left_for_a_later_gc_which_then_takes_them(store: WorkspaceStore, folder: Path) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    store.delete_run(run_id, delete_artifacts=False, now=True)
    assert len(list((folder / "artifacts").rglob("*.joblib"))) == 1
    assert store.gc_artifacts() == 1
    assert list((folder / "artifacts").rglob("*.joblib")) == []


def test_a_deletion_that_breaks_in_the_middle_has_deleted_nothing(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, _ = begin(store)
    pipeline_id = whole_pipeline(store, run_id)

    def broken(con: Any) -> None:
        raise duckdb.IOException("I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "prune_arrays", broken)
        with pytest.raises(WriteFailed):
            store.delete_run(run_id, now=True)
    assert store.get_run(run_id) is not None
    assert store.query_predictions(pipeline_id=pipeline_id).height == 2
    assert store.delete_run(run_id, now=True) > 0


def test_a_source_map_among_the_shared_artifacts_does_not_stop_a_deletion(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    one, two, model = (store.save_artifact({name: 1}, "dict", "transformer") for name in "abc")
    chain_id = store.save_chain(
        pipeline_id, [{"step_idx": 0, "operator_class": "X", "params": {}}, {"step_idx": 1, "operator_class": "M", "params": {}}],
        1, "M", "", "per_fold", {"fold_0": model}, {"_source_map": {"0": {"0": [one], "1": [two]}}},
    )  # fmt: skip
    for artifact_id in (one, two, model):
        assert (store.get_artifact(artifact_id) or {})["ref_count"] == 1
    assert (store.get_chain(chain_id) or {})["shared_artifacts"] == {
        "_source_map": {"0": {"0": [one], "1": [two]}}
    }
    store.delete_run(run_id, now=True)
    assert [store.get_artifact(artifact_id) for artifact_id in (one, two, model)] == [None] * 3


def test_a_prediction_goes_with_its_arrays_but_not_with_those_that_others_use(
    store: WorkspaceStore, folder: Path
) -> None:
    _, pipeline_id = begin(store)
    first = predict(store, pipeline_id)
    second = store.save_prediction(pipeline_id, None, **prediction())
    store.save_prediction_arrays(second, [1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 9.0])
    assert store.delete_prediction(second, now=True)
    assert not store.delete_prediction(second, now=True)
    assert not store.delete_prediction("nobody", now=True)
    found = store.get_prediction(first, load_arrays=True)
    assert found is not None
    np.testing.assert_array_equal(found["y_true"], [1, 2, 3, 4])
    let_go(store)
    assert sql(folder, "SELECT count(*) FROM arrays") == [(2,)]


def test_the_wavelengths_of_a_chain_are_not_taken_for_unused(store: WorkspaceStore) -> None:
    _, pipeline_id = begin(store)
    chain_id = chain_of(store, pipeline_id, wavelengths=[850.0, 852.0])
    store.delete_prediction(predict(store, pipeline_id), now=True)
    store.gc_artifacts()
    store.vacuum()
    chain = store.get_chain(chain_id)
    assert chain is not None
    assert chain["wavelengths"].tolist() == [850.0, 852.0]
