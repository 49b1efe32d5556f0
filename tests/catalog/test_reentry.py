"""A store that is called in the middle of one of its own calls, in the same thread.

Signal handlers do that, and so does the collector, which closes a store that nobody holds any more wherever something
is allocated. The locks let their own thread in.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from storekit import begin, predict, segments, whole_pipeline

from nirs_store.db import apply
from nirs_store.db import connection as spare
from nirs_store.db import recorder as recorder_module
from nirs_store.db.session import Engine
from nirs_store.errors import StoreBusy
from nirs_store.store import WorkspaceStore


class Terminated(BaseException):
    """What a handler may raise."""


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, handler: Callable[[], Any]) -> Iterator[list[str]]:
    """Call a handler once, between the rows of pipelines and those of predictions of one commit."""
    came: list[str] = []
    real = apply.execute

    def run(con: Any, sql: str, params: Any = None) -> Any:
        if not came and sql.startswith("INSERT INTO predictions"):
            came.append(sql)
            handler()
        return real(con, sql, params)

    with monkeypatch.context() as patch:
        patch.setattr(apply, "execute", run)
        yield came


def recorded(store: WorkspaceStore) -> tuple[int, int]:
    return store.list_pipelines().height, store.query_predictions().height


@pytest.mark.parametrize("ends", ["returns", "raises"])
@pytest.mark.parametrize("warm", [True, False], ids=["catalog known", "catalog opened"])
def test_a_handler_that_closes_the_store_in_the_middle_of_applying_loses_nothing(
    store: WorkspaceStore, folder: Path, ends: str, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if warm:
        store.list_runs()
    run_id = store.begin_run("r", {}, [])
    whole_pipeline(store, run_id)

    def handler() -> None:
        store.close()
        if ends == "raises":
            raise Terminated

    with interrupted(monkeypatch, handler) as came:
        if ends == "raises":
            with pytest.raises(Terminated):
                store.query_predictions()
        else:
            assert store.query_predictions().height == 2, "the question is answered, and then it is closed"
    assert came
    assert not store._engine.access.lingering
    assert store._engine.access.con is None
    with WorkspaceStore(folder) as again:
        assert recorded(again) == (1, 2)
        assert again.check(read_data=True).findings == ()


@pytest.mark.parametrize("call", ["list_runs", "sql", "vacuum", "gc_artifacts"])
def test_a_handler_that_asks_in_the_middle_of_applying_is_refused_and_nothing_is_lost(
    store: WorkspaceStore, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.list_runs()
    run_id = store.begin_run("r", {}, [])
    whole_pipeline(store, run_id)
    ask = getattr(store, call)
    with (
        interrupted(monkeypatch, lambda: ask("SELECT 1") if call == "sql" else ask()),
        pytest.raises(StoreBusy, match="when the interrupted call has returned"),
    ):
        store.query_predictions()
    assert recorded(store) == (1, 2)
    assert store.check(read_data=True).findings == ()


def test_a_handler_may_record_in_the_middle_of_applying(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.list_runs()
    run_id = store.begin_run("r", {}, [])
    whole_pipeline(store, run_id)
    with interrupted(monkeypatch, lambda: store.fail_run(run_id, "terminated")):
        assert store.query_predictions().height == 2
    assert store.list_runs()["status"].to_list() == ["failed"]


def test_a_question_may_be_asked_within_another(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    assert store._engine.query(lambda con: store.get_run(run_id)) is not None
    assert not store._engine.access._busy


@pytest.mark.parametrize("what", ["flush", "close", "record", "record and flush"])
def test_a_handler_in_the_middle_of_a_commit_commits_each_row_once(
    store: WorkspaceStore, folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    predict(store, pipeline_id)
    real = recorder_module.encode
    came: list[str] = []

    def encode(*rows: Any, **about: Any) -> Any:
        if not came:
            came.append(what)
            if "record" in what:
                predict(store, pipeline_id)
            if "flush" in what:
                store.flush()
            if what == "close":
                store.close()
        return real(*rows, **about)

    monkeypatch.setattr(recorder_module, "encode", encode)
    store.flush()
    assert came
    store.close()
    assert os.listdir(folder / "journal" / "rejected") == []
    with WorkspaceStore(folder) as again:
        assert again.query_predictions().height == (2 if "record" in what else 1)


def test_a_handler_that_closes_in_the_middle_of_closing_waits_for_nobody(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    predict(store, pipeline_id)
    real = recorder_module.encode

    def encode(*rows: Any, **about: Any) -> Any:
        monkeypatch.setattr(recorder_module, "encode", real)
        store.close()
        return real(*rows, **about)

    monkeypatch.setattr(recorder_module, "encode", encode)
    closing = threading.Thread(target=store.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert segments(folder) == []
    with WorkspaceStore(folder) as again:
        assert recorded(again) == (1, 1)


def test_a_store_that_the_collector_finds_in_its_keeper_s_thread_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Holder:
        pass

    holder: Any = Holder()
    holder.itself, holder.store = holder, WorkspaceStore(folder)
    run_id = holder.store.begin_run("r", {}, [])
    for number in range(3):
        whole_pipeline(holder.store, run_id, f"p{number}")
    holder.store.list_runs()
    pipeline_id = holder.store.begin_pipeline(run_id, "last", {}, [], "d", "h")
    predict(holder.store, pipeline_id)
    holder.store.flush()
    engine: Engine = holder.store._engine
    came: list[str] = []
    real = apply.execute

    def run(con: Any, sql: str, params: Any = None) -> Any:
        if not came and sql.startswith("INSERT INTO predictions"):
            came.append(threading.current_thread().name)
            gc.collect()
        return real(con, sql, params)

    gc.disable()
    try:
        del holder
        monkeypatch.setattr(apply, "execute", run)
        engine._on_backlog(False)
        deadline = time.monotonic() + 20
        while not engine._gone and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        gc.enable()
    assert came == ["nirs_store background flusher"]
    assert engine._gone
    with WorkspaceStore(folder) as again:
        assert recorded(again) == (4, 7)
        assert again.check(read_data=True).findings == ()


def test_an_instance_may_be_put_by_while_another_is_taken() -> None:
    class Key:
        def __hash__(self) -> int:
            if not spare._pool:
                spare.keep("another", other)  # type: ignore[arg-type]
            return 1

    class Instance:
        def close(self) -> None:
            pass

    other = Instance()
    spare.clear()
    taking = threading.Thread(target=spare.take, args=(Key(),), daemon=True)
    taking.start()
    taking.join(20)
    assert not taking.is_alive()
    assert spare.take("another") is other
