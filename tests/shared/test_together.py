"""Two computers with one workspace: what one records, the other answers and replays."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from storekit import Y_TRUE, begin, chain_of, predict, prediction, whole_pipeline

from nirs_store.db.table import digests
from nirs_store.errors import ForbiddenContent, InvalidInput, UnknownId
from nirs_store.store import WorkspaceStore


def rows_of(store: WorkspaceStore) -> dict[str, str]:
    """Digests of the tables of a store's replica, after it has asked for the head."""
    return store._engine.query(digests)


def test_a_question_sees_what_another_computer_has_recorded(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    whole_pipeline(one, run_id)
    one.flush()
    assert other.list_runs()["run_id"].to_list() == [run_id]
    other.fail_run(run_id, "stopped")
    run = one.get_run(run_id)
    assert run is not None
    assert (run["status"], run["error"]) == ("failed", "stopped")
    assert rows_of(one) == rows_of(other)


def test_a_chain_is_replayed_where_it_was_not_fitted(machine: Any) -> None:
    from sklearn.linear_model import LinearRegression

    one, other = machine("one"), machine("other")
    X = np.arange(12.0).reshape(4, 3) ** 1.5
    model = LinearRegression().fit(X, Y_TRUE)
    _, pipeline_id = begin(one)
    artifact_id = one.save_artifact(model, "sklearn.linear_model.LinearRegression", "model", "joblib")
    chain_id = chain_of(one, pipeline_id, artifact_id)
    one.flush()
    np.testing.assert_array_equal(other.replay_chain(chain_id, X), model.predict(X))


@pytest.mark.parametrize("inside", [nullcontext, WorkspaceStore.transaction], ids=["a call", "a transaction"])
def test_the_id_of_a_prediction_that_another_computer_deleted_may_be_taken_again(
    machine: Any, inside: Any
) -> None:
    one, other = machine("one"), machine("other")
    _, pipeline_id = begin(one)
    ids = [predict(one, pipeline_id) for _ in range(4)]
    one.flush()
    again_here, again_there, gone, kept = ids
    for each in (again_here, again_there, gone):
        other.delete_prediction(each, now=True)
    other.save_prediction(pipeline_id, None, **prediction(), prediction_id=again_there)
    other.flush()
    with inside(one):
        one.save_prediction(pipeline_id, None, **prediction(), prediction_id=again_here)
        one.save_prediction_arrays(again_here, Y_TRUE, Y_TRUE)
        one.save_prediction_arrays(again_there, Y_TRUE, Y_TRUE)
        with pytest.raises(UnknownId, match=gone):
            one.save_prediction_arrays(gone, Y_TRUE, Y_TRUE)
        for taken in (kept, again_here, again_there):
            with pytest.raises(InvalidInput, match=f"{taken}. already"):
                one.save_prediction(pipeline_id, None, **prediction(), prediction_id=taken)
            with pytest.raises(InvalidInput, match=f"{taken} has its arrays already"):
                one.save_prediction_arrays(taken, Y_TRUE, Y_TRUE)
    assert set(other.query_predictions()["prediction_id"]) == {again_here, again_there, kept}
    assert rows_of(one) == rows_of(other)


def test_a_gc_removes_the_copies_here_of_files_that_another_computer_deleted(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    for name in ("gone", "kept"):
        one.files.put(name.encode() * 1000, name, type="log", compression="gzip")
    gone, kept = (other.files.path(name) for name in ("gone", "kept"))
    one.files.delete("gone")
    assert gone.exists()
    other.gc_artifacts()
    assert (gone.parent.exists(), kept.read_bytes()) == (False, b"kept" * 1000)


# -- direct changes --------------------------------------------------------------------------------


def delete(store: WorkspaceStore, run_id: str) -> None:
    store.delete_run(run_id)


def delete_for_good(store: WorkspaceStore, run_id: str) -> None:
    store.delete_run(run_id, now=True)


def delete_and_bring_back(store: WorkspaceStore, run_id: str) -> None:
    store.delete_run(run_id)
    store.trash.restore(run_id)


def keep_files(store: WorkspaceStore, run_id: str) -> None:
    store.files.put(b"first", "notes", type="text_raw")
    store.files.put(b"second", "notes", type="text_raw")
    store.files.set_alias("notes", "stable", 1)
    store.files.delete("notes", version=2)


def guard_and_pin(store: WorkspaceStore, run_id: str) -> None:
    store.audit.guard.forbid(keys=["patient"])
    store.retention.pin(run_id, "the paper")


def keep_spectra(store: WorkspaceStore, run_id: str) -> None:
    store.datasets.add("corn", np.arange(40.0).reshape(4, 10), references={"protein": Y_TRUE})


def evaluate(store: WorkspaceStore, run_id: str) -> None:
    store.evaluations.record("model", "suite", {"rmse": 0.5})
    store.evaluations.record("other", "suite", {"rmse": 0.25})


CHANGES = (delete, delete_for_good, delete_and_bring_back, keep_files, guard_and_pin, keep_spectra, evaluate)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_direct_change_reaches_every_replica_as_it_was_made(machine: Any, change: Any) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    whole_pipeline(one, run_id)
    kept, pipeline_id = begin(other, "kept")
    predict(other, pipeline_id)
    change(other, run_id)
    before = rows_of(other)
    assert rows_of(one) == before
    assert kept in one.list_runs()["run_id"].to_list()
    # A new computer goes the whole way by itself.
    assert rows_of(machine("new")) == before


def test_a_change_that_fails_is_made_nowhere(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    begin(one)
    before = rows_of(one)

    def work(con: Any) -> None:
        con.execute("DELETE FROM runs")
        raise KeyError("no")

    with pytest.raises(KeyError):
        one._engine.change(work)
    assert rows_of(one) == rows_of(other) == before


def test_a_guard_that_another_computer_set_binds_one_that_only_records(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    begin(one)
    one.flush()
    other.audit.guard.forbid(keys=["patient"])
    other.flush()
    # What the background thread does by itself each second.
    one._engine._next_look = 0.0
    one._engine.keep()
    with pytest.raises(ForbiddenContent):
        one.begin_run("next", {"patient": "Ann"}, [])


# -- settings of another computer ------------------------------------------------------------------


def test_a_store_that_has_recorded_nothing_knows_the_guard_of_another_computer(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    other.audit.guard.forbid(patterns=[r"\d{3}-\d{2}-\d{4}"])
    with pytest.raises(ForbiddenContent):
        one.begin_run("of 123-45-6789", {}, [])
    assert one.list_runs().is_empty()


def test_a_switch_of_the_audit_trail_is_seen_at_once_on_another_computer(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    one.begin_run("first", {}, [])
    for on in (False, True):
        other.audit.switch(on, reads=on)
        assert (one.audit.enabled, one.audit.reads) == (on, on)
    one.close()
    assert not one._engine.journal.server._con  # what is closed opens no connection to look
    assert one.audit.enabled


def test_a_computer_may_have_a_name_that_is_not_utf_8(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: os.fsdecode(b"labor-\xfc"))
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    assert (other.get_run(run_id) or {})["status"] == "running"
    one.close()
    assert (other.get_run(run_id) or {})["status"] == "interrupted"
    assert rows_of(other) == rows_of(machine("third"))
