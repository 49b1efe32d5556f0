"""One operation at a time: lease, journal, question; lingering, waiting, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import children
import duckdb
import pytest
from storekit import begin, commit_rows, let_go, predict, prediction, segments, snapshot, whole_pipeline

from nirs_store.db import database as access_module
from nirs_store.db import database as opened_module
from nirs_store.db import lock as lock_module
from nirs_store.db import migrations
from nirs_store.errors import InvalidInput, ReadOnlyStore, StoreBusy, StoreClosed, WriteFailed
from nirs_store.store import WorkspaceStore


def test_a_query_sees_what_any_store_committed_before(store: WorkspaceStore, folder: Path) -> None:
    with WorkspaceStore(folder) as other:
        for number in range(5):
            run_id = (store, other)[number % 2].begin_run(str(number), {}, [])
            for asked in (other, store):
                assert asked.get_run(run_id) is not None
        assert segments(folder) == []


def test_a_query_of_a_store_sees_its_own_buffered_rows(store: WorkspaceStore) -> None:
    _, pipeline_id = begin(store)
    for expected in (1, 2, 3):
        predict(store, pipeline_id)
        assert store.query_predictions().height == expected


def test_the_catalog_is_held_for_a_moment_after_a_query_and_then_let_go(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(access_module, "LINGER", 60.0)
        store.list_runs()
        assert store._engine.access.lingering
    let_go(store)
    assert not store._engine.access.lingering


def test_a_loop_of_queries_opens_the_file_once(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []
    real = migrations.open_catalog
    let_go(store)
    monkeypatch.setattr(access_module, "LINGER", 5.0)
    monkeypatch.setattr(
        migrations, "open_catalog", lambda *a, **k: (opened.append(k["read_only"]), real(*a, **k))[1]
    )
    for _ in range(10):
        store.list_runs()
    assert len(opened) <= 1


def test_readers_share_the_catalog_when_nothing_waits_to_be_applied(
    store: WorkspaceStore, folder: Path
) -> None:
    store.begin_run("r", {}, [])
    store.list_runs()
    let_go(store)
    with WorkspaceStore(folder) as first, WorkspaceStore(folder) as second:
        inside = threading.Barrier(2, timeout=10)
        for asked in (first, second):
            let_go(asked)

        def ask(asked: WorkspaceStore) -> None:
            # Both are inside their question at the same moment, or the barrier breaks.
            asked._engine.query(lambda con: inside.wait())

        threads = [threading.Thread(target=ask, args=(asked,)) for asked in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not inside.broken


def test_somebody_who_waits_ends_the_linger(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If nobody ended it, the other store would give up.
    monkeypatch.setattr(access_module, "LINGER", 3600.0)
    with WorkspaceStore(folder, lock_timeout=20) as other:
        store.begin_run("r", {}, [])
        store.list_runs()
        assert store._engine.access.lingering
        other.begin_run("s", {}, [])
        assert other.list_runs().height == 2


def test_a_reader_waits_no_longer_than_its_timeout_and_a_writer_not_at_all(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock on which time passes only while somebody sleeps.
    waited: list[float] = []
    began = time.monotonic()
    clock = SimpleNamespace(
        monotonic=lambda: began + sum(waited), sleep=lambda seconds: waited.append(seconds), time=time.time
    )
    run_id, _ = begin(store)
    let_go(store)
    child = crew(children.hold_lock, folder, True)
    child.hear()
    with WorkspaceStore(folder, lock_timeout=0.3) as other:
        monkeypatch.setattr(access_module, "time", clock)
        monkeypatch.setattr(lock_module, "time", clock)
        with pytest.raises(StoreBusy, match=str(child.pid)):
            other.list_runs()
        assert sum(waited) == pytest.approx(0.3, abs=0.01)
        for change in (lambda: other.delete_run(run_id, now=True), other.vacuum, other.gc_artifacts):
            with pytest.raises(StoreBusy):
                change()
        waited.clear()
        own = other.begin_run("writers go on", {}, [])
        whole_pipeline(other, own)
        assert waited == []
        monkeypatch.setattr(access_module, "time", time)
        monkeypatch.setattr(lock_module, "time", time)
        child.tell()
        child.hear()
        assert other.list_pipelines(own).height == 1


def test_eight_threads_share_a_store(store: WorkspaceStore) -> None:
    """Connections shared by threads failed or crashed; here one thread at a time has it."""
    run_id = store.begin_run("threads", {}, [])
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(3):
                whole_pipeline(store, run_id, f"t{number}")
                store.top_predictions(3)
                with store.transaction():
                    whole_pipeline(store, run_id, f"t{number} whole")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.list_pipelines(run_id)["status"].to_list() == ["completed"] * 48
    assert store.query_predictions(run_id=run_id).height == 96


def test_a_thread_that_waited_while_the_store_was_closed_opens_nothing_again(store: WorkspaceStore) -> None:
    started, go_on = threading.Event(), threading.Event()
    outcome: list[BaseException] = []

    def long() -> None:
        store._engine.query(lambda con: (started.set(), go_on.wait(10)))

    def late() -> None:
        try:
            store._engine.access.query(lambda con: None, timeout=10)
        except BaseException as error:
            outcome.append(error)

    threads = [
        threading.Thread(target=long),
        threading.Thread(target=late),
        threading.Thread(target=store.close),
    ]
    threads[0].start()
    started.wait(10)
    threads[2].start()
    time.sleep(0.1)
    threads[1].start()
    time.sleep(0.1)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert all(isinstance(error, StoreClosed) for error in outcome)
    assert not store._engine.access.lingering
    assert store._engine.access.con is None


def test_another_thread_that_keeps_the_store_busy_is_a_busy_store(folder: Path) -> None:
    with WorkspaceStore(folder, lock_timeout=0.2) as store:
        started, go_on = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=lambda: store._engine.query(lambda con: (started.set(), go_on.wait(10)))
        )
        thread.start()
        started.wait(10)
        with pytest.raises(StoreBusy, match="thread"):
            store.list_runs()
        store.begin_run("recording goes on", {}, [])
        go_on.set()
        thread.join()


def test_a_catalog_that_another_program_has_open_is_busy_for_readers_and_nothing_for_writers(
    folder: Path, crew: Callable[..., Any]
) -> None:
    WorkspaceStore(folder).close()
    child = crew(_open_with_duckdb, folder)
    child.hear()
    with WorkspaceStore(folder, lock_timeout=0.2) as store:
        store.begin_run("r", {}, [])
        with pytest.raises(StoreBusy, match="another program") as caught:
            store.list_runs()
        assert caught.value.pid == child.pid
        child.tell()
        child.hear()
        assert store.list_runs().height == 1


def _open_with_duckdb(talk: Any, folder: Path) -> None:
    with duckdb.connect(str(folder / "store.duckdb")):
        talk.say("open")
        talk.wait()


def test_a_backlog_is_applied_in_the_background(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go(store)
    applied, real = threading.Event(), store._engine.access.try_apply
    monkeypatch.setattr(store._engine.access, "try_apply", lambda **o: (real(**o), applied.set()))
    for number in range(140):
        store.begin_run(str(number), {}, [])
    while len(segments(folder)) >= 128:
        assert applied.wait(60)
        applied.clear()


def test_a_backlog_is_applied_in_turns_after_which_whoever_waits_is_let_in(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go(store)
    store._engine._flusher.stop()
    access = store._engine.access
    for number in range(10):
        store.begin_run(str(number), {}, [])
    monkeypatch.setattr(access, "_on_idle", lambda: None)
    applied: list[int] = []
    real = opened_module.apply_journal
    monkeypatch.setattr(opened_module, "apply_journal", lambda *a, **k: applied.append(1) or real(*a, **k))
    left: list[int] = []
    for somebody in (True, False):
        applied.clear()
        # Somebody comes during the first turn.
        monkeypatch.setattr(access._catalog_lock, "wanted", lambda comes=somebody: comes and bool(applied))
        access.try_apply(at_most=3)
        applied_ids = access._applied or set()
        left.append(sum(entry.txid not in applied_ids for entry in store._engine.journal.pending()))
    assert left == [7, 1]


def test_recording_helps_to_apply_when_far_too_much_waits(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.db import recorder as recorder_module

    monkeypatch.setattr(recorder_module, "_APPLY_SEGMENTS", 5)
    monkeypatch.setattr(recorder_module, "_PRESSURE_SEGMENTS", 10)
    monkeypatch.setattr(opened_module, "_KEPT_SEGMENTS", 4)
    let_go(store)
    # No other thread, which could be using the catalog just then.
    store._engine._flusher.stop()
    monkeypatch.setattr(
        store._engine, "_flusher", type("Idle", (), {"wake": lambda self: None, "stop": lambda self: None})()
    )
    monkeypatch.setattr(store._engine.access, "_on_idle", lambda: None)
    for number in range(50):
        store.begin_run(str(number), {}, [])
        assert len(segments(folder)) <= 10


def test_trouble_while_helping_is_not_the_recording_calls(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go(store)
    store.begin_run("r", {}, [])

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(opened_module, "apply_journal", broken)
        store._engine.access.try_apply()
    assert store.list_runs().height == 1


def test_a_question_that_duckdb_cannot_answer_is_bad_input_and_the_next_one_is_answered(
    store: WorkspaceStore,
) -> None:
    store.begin_run("r", {}, [])
    with pytest.raises(InvalidInput, match="abc"):
        store._engine.query(lambda con: con.execute("SELECT 'abc'::INTEGER").fetchall())
    assert store.list_runs().height == 1


def test_a_connection_that_became_invalid_is_not_used_again(store: WorkspaceStore) -> None:
    store.begin_run("r", {}, [])

    def fatal(con: Any) -> None:
        raise duckdb.FatalException("database has been invalidated")

    with pytest.raises(WriteFailed, match="committed is safe"):
        store._engine.change(fatal)
    assert store._engine.access.con is None
    assert store.list_runs().height == 1


def test_a_change_that_fails_changes_nothing_and_leaves_the_catalog_usable(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)

    def half(con: Any) -> None:
        con.execute("DELETE FROM runs")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        store._engine.change(half)
    assert store.get_run(run_id) is not None


def test_a_result_that_was_left_unfinished_does_not_spoil_the_next_question(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    for call in (
        lambda: store.gc_artifacts(dry_run=True),
        lambda: store.delete_run(run_id, dry_run=True),
        lambda: store.delete_prediction("nobody", now=True),
        lambda: store.delete_run("nobody", now=True),
    ):
        call()
        assert store.list_runs().height == 1
        store.begin_pipeline(run_id, "p", {}, [], "corn", "h")
        call()
        assert store.list_runs().height == 1


# -- who may only read -----------------------------------------------------------------------------


def test_a_read_only_store_answers_and_makes_no_file(store: WorkspaceStore, folder: Path) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    store.list_runs()
    store.close()
    before = snapshot(folder)
    with WorkspaceStore(folder, read_only=True) as reader:
        assert reader.list_runs()["run_id"].to_list() == [run_id]
        artifact_id = reader._engine.query(
            lambda con: con.execute("SELECT artifact_id FROM blobs").fetchall()
        )[0][0]
        assert reader.load_artifact(artifact_id)
        assert "read-only" in repr(reader)
        for change in (
            lambda: reader.begin_run("x", {}, []),
            lambda: reader.fail_run(run_id, "x"),
            lambda: reader.save_artifact(1, "int", "model"),
            lambda: reader.delete_run(run_id, now=True),
            lambda: reader.delete_prediction("x", now=True),
            lambda: reader.gc_artifacts(),
            reader.vacuum,
            reader.transaction,
        ):
            with pytest.raises(ReadOnlyStore, match="read-only"):
                change()
        assert reader.gc_artifacts(dry_run=True).files == ()
    assert snapshot(folder) == before


def test_a_read_only_store_says_how_much_it_could_not_apply(store: WorkspaceStore, folder: Path) -> None:
    seen, _ = begin(store)
    store.list_runs()
    let_go(store)
    store.begin_run("not applied", {}, [])
    with WorkspaceStore(folder, read_only=True) as reader:
        with pytest.warns(UserWarning, match="1 commits in its journal"):
            assert reader.list_runs()["run_id"].to_list() == [seen]
        assert reader.list_runs().height == 1
    assert len(segments(folder)) == 1


def test_a_read_only_store_reads_a_catalog_whose_log_a_crash_left(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any]
) -> None:
    store.close()
    child = crew(_die_with_a_log, folder)
    child.end()
    assert (folder / "store.duckdb.wal").exists()
    before = snapshot(folder)
    with WorkspaceStore(folder, read_only=True) as reader:
        assert reader.list_runs()["name"].to_list() == ["in the log"]
    assert snapshot(folder) == before
    with WorkspaceStore(folder) as again:
        assert again.list_runs()["name"].to_list() == ["in the log"]


def _die_with_a_log(talk: Any, folder: Path) -> None:
    import os
    import signal

    store = WorkspaceStore(folder)
    store.begin_run("in the log", {}, [])
    store._engine.access.exclusive(
        lambda access: (access.transact(lambda con: None), os.kill(os.getpid(), signal.SIGKILL)), timeout=10
    )


def test_many_rows_of_one_commit_arrive(store: WorkspaceStore, folder: Path) -> None:
    _, pipeline_id = begin(store)
    with store.transaction():
        for number in range(300):
            store.save_prediction(pipeline_id, None, **prediction(val_score=number / 300))
    assert store.query_predictions().height == 300
    commit_rows(folder, {"takeovers": [("t", "nobody", "nothing")]})
    assert store.top_predictions(1)["val_score"].to_list() == [0.0]


def test_a_catalog_that_nobody_used_for_a_while_is_kept_for_who_comes_just_then(
    store: WorkspaceStore,
) -> None:
    store._engine._flusher.stop()
    access = store._engine.access
    whole_pipeline(store, begin(store)[0])
    store.list_runs()
    whole_pipeline(store, begin(store)[0])
    store.list_runs()
    access._idle_since -= 60.0
    access._coming.add(-1)
    access.expire()
    assert access.lingering
    access._coming.discard(-1)
    access.expire()
    assert not access.lingering
