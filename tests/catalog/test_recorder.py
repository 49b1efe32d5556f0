"""Recording: a call's rows are committed whole or not at all, once, whatever interrupts it."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from storekit import begin, chain_of, failing, predict, prediction, segments, whole_pipeline

from nirs_store.db import recorder as recorder_module
from nirs_store.db import session
from nirs_store.db.journal import encode_array
from nirs_store.db.lock import read_claims
from nirs_store.db.recorder import FLUSH_AFTER, BackgroundFlusher, Buffer, IdCache
from nirs_store.db.schema import column_names
from nirs_store.errors import InvalidInput, StoreClosed, UnknownId, WriteFailed
from nirs_store.ids import naive
from nirs_store.store import WorkspaceStore


def test_rows_are_buffered_until_something_commits_them(store: WorkspaceStore, folder: Path) -> None:
    run_id, pipeline_id = begin(store)
    before = len(segments(folder))
    predict(store, pipeline_id)
    store.log_step(pipeline_id, 0, "x", "start")
    assert len(segments(folder)) == before
    store.complete_pipeline(pipeline_id, 1.0, None, "rmse", 1)
    assert len(segments(folder)) == before + 1
    store.complete_run(run_id, {})
    assert len(segments(folder)) == before + 2


def test_buffered_rows_are_committed_by_themselves_a_second_later_and_not_before(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    before = len(segments(folder))
    now, recorder, committed = [100.0], store._engine.recorder, threading.Event()
    flush = recorder.flush
    monkeypatch.setattr(recorder_module, "FLUSH_AFTER", FLUSH_AFTER)
    for module in (recorder_module, session):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(recorder, "flush", lambda: (flush(), committed.set()))
    predict(store, pipeline_id)
    now[0] = 100.999
    store._engine.keep()
    assert not committed.is_set()
    now[0] = 101.0
    # Nobody calls: the thread in the background looks by itself.
    assert committed.wait(60)
    assert len(segments(folder)) == before + 1


def test_with_durability_call_every_call_is_a_commit(folder: Path) -> None:
    with WorkspaceStore(folder, durability="call") as store:
        _, pipeline_id = begin(store)
        before = len(segments(folder))
        store.save_prediction(pipeline_id, None, **prediction())
        store.log_step(pipeline_id, 0, "x", "start")
        assert len(segments(folder)) == before + 2


def test_a_large_buffer_does_not_wait(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_FLUSH_BYTES", 1000)
    _, pipeline_id = begin(store)
    before = len(segments(folder))
    for _ in range(6):
        store.log_step(pipeline_id, 0, "x", "start")
    assert len(segments(folder)) == before + 1


def test_a_commit_that_failed_after_its_rename_is_not_made_twice(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the folder's sync comes when the commit may be there already, and applied by somebody."""
    _, pipeline_id = begin(store)
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/segments"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    first = store.save_prediction(pipeline_id, None, **prediction())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(WriteFailed):
            store.flush()
    second = store.save_prediction(pipeline_id, None, **prediction())
    with WorkspaceStore(folder) as other:
        assert other.query_predictions()["prediction_id"].to_list() == [first]
    assert set(store.query_predictions()["prediction_id"]) == {first, second}
    assert list((folder / "journal" / "rejected").iterdir()) == []


def test_the_same_commit_twice_in_one_journal_is_applied_once(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    prediction_id = store.save_prediction(pipeline_id, None, **prediction())
    real = os.fsync
    with monkeypatch.context() as patch:

        def fsync(fd: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}").endswith("/segments"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd)

        patch.setattr(os, "fsync", fsync)
        for _ in range(2):
            with pytest.raises(WriteFailed):
                store.flush()
    assert store.query_predictions()["prediction_id"].to_list() == [prediction_id]
    assert list((folder / "journal" / "rejected").iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_rows_stay_when_the_disk_is_full_and_go_with_the_next_commit(
    store: WorkspaceStore, folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    prediction_id = predict(store, pipeline_id)
    with failing(monkeypatch, call, below=folder / "journal" / "tmp") as refused:
        with pytest.raises(WriteFailed, match="No space"):
            store.flush()
        with pytest.raises(WriteFailed):
            store.list_runs()
    assert refused
    later = predict(store, pipeline_id)
    assert set(store.query_predictions()["prediction_id"]) == {prediction_id, later}


def test_a_transaction_is_one_commit(store: WorkspaceStore, folder: Path) -> None:
    before = len(segments(folder))
    with store.transaction():
        run_id = store.begin_run("r", {}, [])
        whole_pipeline(store, run_id)
        store.complete_run(run_id, {})
        assert len(segments(folder)) == before
    assert len(segments(folder)) == before + 1
    assert store.list_runs()["status"].to_list() == ["completed"]


def test_a_transaction_that_fails_leaves_no_rows_and_nothing_that_could_be_built_on(
    store: WorkspaceStore,
) -> None:
    run_id, pipeline_id = begin(store)
    old = store.save_prediction(pipeline_id, None, **prediction())
    with pytest.raises(RuntimeError, match="stop"), store.transaction():  # noqa: PT012
        inner = store.begin_pipeline(run_id, "inner", {}, [], "corn", "h")
        chain_id = chain_of(store, pipeline_id)
        new = predict(store, pipeline_id, chain_id)
        store.save_prediction_arrays(old, [1.0], [1.0])
        store.fail_pipeline(pipeline_id, "discarded with the rest")
        raise RuntimeError("stop")
    assert store.get_pipeline(inner) is None
    assert store.get_prediction(new) is None
    for call in (
        lambda: store.log_step(inner, 0, "x", "start"),
        lambda: store.save_prediction(pipeline_id, chain_id, **prediction()),
        lambda: store.save_prediction_arrays(new, [1.0], [1.0]),
    ):
        with pytest.raises(UnknownId):
            call()
    store.save_prediction_arrays(old, [1.0], [2.0])
    found = store.get_prediction(old, load_arrays=True)
    assert found is not None
    assert found["y_pred"].tolist() == [2.0]


def test_blobs_of_a_failed_transaction_can_be_collected_later(store: WorkspaceStore, folder: Path) -> None:
    with pytest.raises(RuntimeError), store.transaction():  # noqa: PT012
        artifact_id = store.save_artifact({"a": 1}, "dict", "model")
        raise RuntimeError
    found = store.get_artifact(artifact_id)
    assert found is not None
    assert found["ref_count"] == 1
    store.close()
    with WorkspaceStore(folder) as again:
        assert again.gc_artifacts(grace_seconds=0) == 1


def test_queries_in_a_transaction_do_not_see_its_rows_and_other_threads_commit_meanwhile(
    store: WorkspaceStore,
) -> None:
    with store.transaction():
        inside = store.begin_run("inside", {}, [])
        assert store.get_run(inside) is None
        names: list[str] = []

        def elsewhere() -> None:
            store.begin_run("outside", {}, [])
            names.extend(store.list_runs()["name"])

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert names == ["outside"]
    assert store.list_runs()["name"].sort().to_list() == ["inside", "outside"]


def test_a_deletion_elsewhere_does_not_make_a_transaction_forget_its_own_rows(store: WorkspaceStore) -> None:
    doomed, _ = begin(store, "doomed")
    with store.transaction():
        run_id = store.begin_run("kept", {}, [])
        artifact_id = store.save_artifact({"a": 1}, "dict", "model")
        store.delete_run(doomed, now=True)
        pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "corn", "h")
        store.delete_run("unknown", now=True)
        predict(store, pipeline_id, chain_of(store, pipeline_id, artifact_id))
    assert store.query_predictions(run_id=run_id).height == 1


def test_a_transaction_inside_another_is_refused(store: WorkspaceStore) -> None:
    with store.transaction(), pytest.raises(InvalidInput, match="transaction"), store.transaction():
        pass
    with store.transaction():
        store.begin_run("fine again", {}, [])


def test_claims_are_held_until_the_commit_that_names_the_blob(store: WorkspaceStore, folder: Path) -> None:
    layout = store._engine.layout
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    assert artifact_id in read_claims(layout, remove_dead=False)
    with store.transaction():
        other = store.save_artifact({"b": 1}, "dict", "model")
        thread = threading.Thread(target=store.flush)
        thread.start()
        thread.join()
        # Another thread's commit must not give up what this transaction has in hand.
        assert other in read_claims(layout, remove_dead=False)
    assert read_claims(layout, remove_dead=False) == set()


def test_a_row_that_comes_after_the_close_is_refused_and_not_lost_in_silence(store: WorkspaceStore) -> None:
    store.begin_run("r", {}, [])
    recorder = store._engine.recorder
    store.close()
    # A thread that had found the store open a moment before.
    with pytest.raises(StoreClosed), recorder.recording() as unit:
        unit.change("complete_run", "r")
    with pytest.raises(StoreClosed), recorder.transaction():
        pass


def test_a_transaction_that_ends_after_the_close_says_so(store: WorkspaceStore) -> None:
    entered, closed = threading.Event(), threading.Event()
    outcome: list[BaseException] = []

    def late() -> None:
        try:
            with store.transaction():
                store.begin_run("late", {}, [])
                entered.set()
                closed.wait(10)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    entered.wait(10)
    store.close()
    closed.set()
    thread.join(10)
    assert [type(error) for error in outcome] == [StoreClosed]


class Interrupt(BaseException):
    """As a KeyboardInterrupt that comes at an unlucky moment."""


def interrupted_after(lines: int, call: Any) -> bool:
    """Run a call and interrupt it at the n-th line of the recording code; tell whether it was."""
    left = lines
    rooms = ("/catalog/records.py", "/catalog/recorder.py", "/catalog/buffer.py", "/catalog/engine.py")

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(rooms):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Interrupt
        return trace

    before = sys.gettrace()  # of a measurement of coverage, say
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.slow
def test_a_call_interrupted_at_any_line_has_recorded_all_of_its_rows_or_none(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        run_id, pipeline_id = begin(store)
        artifact_id = store.save_artifact({"a": 1}, "dict", "model")
        store.flush()
        line = 0
        going = True
        while going:
            line += 7
            going = interrupted_after(line, lambda: chain_of(store, pipeline_id, artifact_id))
        line = 0
        going = True
        while going:
            line += 23
            going = interrupted_after(line, lambda: whole_pipeline(store, run_id))
        assert list((folder / "journal" / "rejected").iterdir()) == []
        store.flush()
        chains = store.get_chains_for_pipeline(pipeline_id)["chain_id"].to_list()
        assert chains
    with WorkspaceStore(folder) as store:
        held = store._engine.query(
            lambda con: con.execute(
                "SELECT c.chain_id FROM chains c WHERE NOT EXISTS "
                "(SELECT 1 FROM artifact_refs r WHERE r.owner_id = c.chain_id)"
            ).fetchall()
        )
        assert held == []
        assert set(store.get_chains_for_pipeline(pipeline_id)["chain_id"]) == set(chains)
        done = store.list_pipelines(run_id).filter(status="completed")["pipeline_id"]
        assert [store.query_predictions(pipeline_id=each).height for each in done] == [2] * len(done)


# -- Rows before their commit.


def test_columns_that_are_not_given_are_null_and_unknown_ones_are_an_error() -> None:
    buffer = Buffer()
    assert not buffer
    buffer.add("logs", {"log_id": "l", "event": "start"})
    assert buffer
    assert dict(zip(column_names("logs"), buffer.rows["logs"][0], strict=True))["message"] is None
    with pytest.raises(KeyError, match="colour"):
        buffer.add("logs", {"colour": "red"})


def test_an_array_is_carried_once_a_commit_and_by_each_commit_that_names_it() -> None:
    first, second, whole = Buffer(), Buffer(), Buffer()
    row, _ = encode_array(np.arange(3.0), "y")
    for buffer in (first, second):
        assert buffer.add_array(row) == buffer.add_array(row) == row[0]
        assert len(buffer.rows["arrays"]) == 1
    for buffer in (first, second):
        whole.absorb(buffer)
    assert whole.rows["arrays"] == [row]


def test_absorbing_keeps_the_order_and_the_claims() -> None:
    one, two, whole = Buffer(), Buffer(), Buffer()
    one.change("a", "1")
    one.blobs.add("x")
    two.change("b", "2")
    two.add("logs", {"log_id": "l"})
    whole.absorb(one)
    whole.absorb(two, ("changes",))
    assert [row[1] for row in whole.rows["changes"]] == ["a", "b"]
    assert whole.rows["logs"] == []
    assert whole.blobs == {"x"}


def test_a_change_travels_as_strict_json() -> None:
    buffer = Buffer()
    buffer.change("complete_run", "r", {"summary": {"best": math.nan, "n": np.int64(3)}})
    payload = buffer.rows["changes"][0][4]
    assert json.loads(payload, parse_constant=pytest.fail) == {"summary": {"best": None, "n": 3}}
    with pytest.raises(InvalidInput):
        buffer.change("complete_run", "r", {"summary": object()})


def test_times_are_utc() -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert naive(moment) == datetime(2026, 3, 1, 10)
    assert naive(datetime(2026, 3, 1, tzinfo=UTC)).tzinfo is None


# -- The background thread: starts when needed, does what is due, ends.


class Kept:
    def __init__(self) -> None:
        self.next_flush: float | None = None
        self.next_look: float | None = None
        self.lingering = False
        self.backlog = False
        self.calls = 0

    def keep(self) -> None:
        self.calls += 1


def until(condition: object, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.002)
    assert condition()  # type: ignore[operator]


def keepers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "nirs_store background flusher"]


def test_no_thread_runs_before_there_is_something_to_keep() -> None:
    before = len(keepers())
    kept = Kept()
    keeper = BackgroundFlusher(kept)
    assert len(keepers()) == before
    keeper.wake()
    until(lambda: kept.calls >= 1)
    assert len(keepers()) == before + 1
    keeper.stop()
    assert len(keepers()) == before
    keeper.wake()
    assert len(keepers()) == before


def test_it_comes_when_something_is_due_and_sleeps_otherwise() -> None:
    kept = Kept()
    keeper = BackgroundFlusher(kept)
    keeper.wake()
    until(lambda: kept.calls == 1)
    time.sleep(0.1)
    assert kept.calls == 1
    kept.next_flush = time.monotonic() + 0.05
    keeper.wake()
    until(lambda: kept.calls == 2)
    kept.next_flush = None
    until(lambda: kept.calls == 3)
    kept.lingering = True
    keeper.wake()
    until(lambda: kept.calls > 6)
    keeper.stop()


def test_an_interpreter_that_starts_no_more_threads_does_not_fail_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    keeper = BackgroundFlusher(Kept())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        keeper.wake()
    keeper.stop()


# -- What a process remembers to exist is bounded and can be forgotten.


def test_it_remembers_notes_and_forgets_on_demand() -> None:
    known = IdCache()
    known.add("run", "a", {"n": 1})
    assert known.get("run", "a") == {"n": 1}
    assert ("run", "a") in known
    assert known.get("pipeline", "a") is None
    known.forget("run", "a")
    known.forget("chain", "never seen")
    assert ("run", "a") not in known


def test_a_training_loop_of_millions_does_not_fill_the_memory() -> None:
    known = IdCache(limit=3)
    for number in range(10):
        known.add("prediction", str(number), number)
    assert [known.get("prediction", str(number)) for number in range(10)] == [None] * 7 + [7, 8, 9]
    known.clear()
    assert known.get("prediction", "9") is None
