"""Opening, background commits, forks, handing over, closing."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from storekit import begin, chain_of, failing, let_go, predict, prediction, segments, snapshot, whole_pipeline

from nirs_store.db.lock import living
from nirs_store.errors import (
    CatalogDamaged,
    ForeignCatalog,
    InvalidInput,
    NirsStoreError,
    NotAWorkspace,
    WriteFailed,
)
from nirs_store.store import WorkspaceStore

# -- opening ---------------------------------------------------------------------------------------


def test_a_workspace_is_made_when_there_is_none(folder: Path) -> None:
    WorkspaceStore(folder / "deep" / "inside").close()
    made = folder / "deep" / "inside"
    assert (made / "store.duckdb").is_file()
    assert (made / "artifacts").is_dir()
    assert (made / "journal" / "segments").is_dir()
    assert not (made / "exports").exists()
    assert not (made / "store.duckdb.wal").exists()


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
@pytest.mark.parametrize("prepare", ["missing", "empty", "full"])
def test_nothing_is_made_when_that_is_not_wanted(
    folder: Path, options: dict[str, bool], prepare: str
) -> None:
    if prepare != "missing":
        folder.mkdir()
    if prepare == "full":
        (folder / "notes.txt").write_text("mine")
    before = snapshot(folder.parent)
    with pytest.raises(NotAWorkspace, match=str(folder)):
        WorkspaceStore(folder, **options)
    assert snapshot(folder.parent) == before


def test_a_file_is_no_workspace(folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(NotAWorkspace, match="is a file"):
        WorkspaceStore(folder)
    with pytest.raises(NirsStoreError):
        WorkspaceStore(folder / "below")
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("name", ["artifacts", "journal", "store.duckdb"])
def test_something_else_in_the_place_of_a_part_is_said_and_left(folder: Path, name: str) -> None:
    folder.mkdir()
    place = folder / name
    if name == "store.duckdb":
        place.mkdir()
    else:
        place.write_text("mine")
    with pytest.raises(NirsStoreError, match=name):
        WorkspaceStore(folder)
    assert place.is_dir() if name == "store.duckdb" else place.read_text() == "mine"


def test_a_lost_catalog_beside_blobs_or_commits_is_not_replaced_by_an_empty_one(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        chain_of(store, begin(store)[1])
    (folder / "store.duckdb").rename(folder.parent / "elsewhere.duckdb")
    before = snapshot(folder)
    with pytest.raises(CatalogDamaged, match="lost"):
        WorkspaceStore(folder)
    assert snapshot(folder) == before


def test_a_lost_catalog_is_refused_before_anything_is_made_beside_the_blobs(folder: Path) -> None:
    blob = folder / "artifacts" / "ab" / "abcd.joblib"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x")
    before = snapshot(folder)
    with pytest.raises(CatalogDamaged, match="lost"):
        WorkspaceStore(folder)
    assert snapshot(folder) == before


def test_a_catalog_that_vanishes_while_the_store_is_open_is_said(store: WorkspaceStore, folder: Path) -> None:
    let_go(store)
    (folder / "store.duckdb").rename(folder / "moved")
    with pytest.raises(CatalogDamaged, match="missing"):
        store.list_runs()
    (folder / "moved").rename(folder / "store.duckdb")
    assert store.list_runs().is_empty()


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "never"},
        {"lock_timeout": -1},
        {"lock_timeout": float("nan")},
        {"cache_bytes": -1},
        {"memory_limit": "lots"},
        {"threads": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        WorkspaceStore(folder, **options).list_runs()


@pytest.mark.parametrize("path", ["", "a\x00b"])
def test_a_path_that_can_be_no_folder_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="workspace_path"):
        WorkspaceStore(path)


# -- the commit in the background ------------------------------------------------------------------


@pytest.mark.usefixtures("by_the_clock")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_while_rows_are_committed_in_the_background_is_told_at_the_next_call_and_loses_nothing(
    store: WorkspaceStore, folder: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, pipeline_id = begin(store)
    with failing(monkeypatch, "write", below=folder / "journal" / "tmp", code=code) as refused:
        prediction_id = predict(store, pipeline_id)
        deadline = time.monotonic() + 10
        while store._engine._background_error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert refused
        with pytest.raises(WriteFailed, match="call again") as caught:
            store.log_step(pipeline_id, 0, "x", "start")
        assert caught.value.errno == code
    # Told once; then everything goes on, and what was buffered is committed.
    store.log_step(pipeline_id, 0, "x", "start")
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    assert store.get_prediction(prediction_id) is not None
    assert store.get_pipeline_log(pipeline_id).height == 1
    store.complete_run(run_id, {})


@pytest.mark.usefixtures("by_the_clock")
def test_the_background_commit_tries_again_by_itself(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    with failing(monkeypatch, "fsync", below=folder / "journal" / "tmp") as refused:
        predict(store, pipeline_id)
        deadline = time.monotonic() + 10
        while not refused and time.monotonic() < deadline:
            time.sleep(0.01)
    before = len(segments(folder))
    deadline = time.monotonic() + 10
    while len(segments(folder)) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(segments(folder)) == before + 1
    with pytest.raises(WriteFailed):
        store.flush()


def test_a_blob_that_cannot_be_written_holds_the_rows_back_that_name_it(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    before = len(segments(folder))
    with failing(monkeypatch, "replace", below=folder / "journal" / "tmp"):
        artifact_id = store.save_artifact({"a": 1}, "dict", "model")
        with pytest.raises(WriteFailed):  # noqa: PT012
            chain_of(store, pipeline_id, artifact_id)
            store.flush()
        assert len(segments(folder)) == before
    chain_of(store, pipeline_id, artifact_id)
    store.flush()
    assert store.load_artifact(artifact_id) == {"a": 1}


def test_a_store_that_cannot_commit_its_last_rows_stays_open_and_can_be_closed_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WorkspaceStore(folder)
    _, pipeline_id = begin(store)
    prediction_id = predict(store, pipeline_id)
    with failing(monkeypatch, "write", below=folder / "journal" / "tmp"), pytest.raises(WriteFailed):
        store.close()
    predict(store, pipeline_id)
    store.close()
    with WorkspaceStore(folder) as again:
        assert again.get_prediction(prediction_id) is not None
        assert again.query_predictions().height == 2


# -- closing ---------------------------------------------------------------------------------------


def test_closing_leaves_nothing_in_the_journal_that_only_a_writer_could_apply(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    store.close()
    store.close()
    assert segments(folder) == []
    assert list((folder / "journal" / "claims").iterdir()) == []
    assert not (folder / "store.duckdb.wal").exists()


def test_a_store_that_nobody_holds_closes_itself(folder: Path) -> None:
    store = WorkspaceStore(folder)
    _, pipeline_id = begin(store)
    predict(store, pipeline_id)
    engine = weakref.ref(store._engine)
    del store
    gc.collect()
    assert engine() is None or engine().closed
    with WorkspaceStore(folder) as again:
        assert again.query_predictions().height == 1


def test_what_cannot_be_saved_when_nobody_holds_the_store_is_said_aloud(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = WorkspaceStore(folder)
    begin(store)
    with failing(monkeypatch, "write", below=folder / "journal" / "tmp"):
        store._engine.finish()
    assert "No space" in capsys.readouterr().err
    assert living(store._engine.layout) == []


def test_stores_that_were_closed_leave_no_thread_behind(folder: Path) -> None:
    def threads() -> int:
        return sum(t.name.startswith(("nirs_store", "nirs-store")) for t in threading.enumerate())

    before = threads()
    for _ in range(3):
        with WorkspaceStore(folder) as store:
            chain_of(store, begin(store)[1])
    assert threads() == before


# -- handing over ----------------------------------------------------------------------------------


def test_a_copy_saves_on_behalf_of_the_session_it_came_from(store: WorkspaceStore) -> None:
    copied = pickle.loads(pickle.dumps(store))
    try:
        artifact_id = copied.save_artifact({"a": 1}, "dict", "model")
        copied.flush()
        _, pipeline_id = begin(store)
        chain_of(store, pipeline_id, artifact_id)
        found = store.get_artifact(artifact_id)
        assert found is not None
        assert found["ref_count"] == 1
    finally:
        copied.close()


def test_a_run_of_a_copy_is_running_also_when_the_original_has_recorded_nothing(
    store: WorkspaceStore, folder: Path
) -> None:
    copied = pickle.loads(pickle.dumps(store))
    run_id = copied.begin_run("in a worker", {}, [])
    with WorkspaceStore(folder) as other:
        for asked in (store, copied, other):
            assert asked.list_runs()["status"].to_list() == ["running"]
        copied.close()
        assert other.list_runs()["status"].to_list() == ["running"]
        store.close()
        assert other.list_runs()["status"].to_list() == ["interrupted"]
        assert other.list_runs(status="interrupted")["run_id"].to_list() == [run_id]


def test_pickling_commits_so_that_the_other_process_finds_everything(
    store: WorkspaceStore, folder: Path
) -> None:
    _, pipeline_id = begin(store)
    prediction_id = predict(store, pipeline_id)
    before = len(segments(folder))
    pickle.dumps(store)
    assert len(segments(folder)) == before + 1
    assert store.get_prediction(prediction_id) is not None


def test_a_copy_keeps_the_options_and_makes_no_workspace(store: WorkspaceStore, folder: Path) -> None:
    with WorkspaceStore(
        folder, lock_timeout=3.5, durability="call", threads=1, memory_limit="1GB"
    ) as original:
        other = copy.copy(original)
        assert other._engine.settings.lock_timeout == 3.5
        assert other._engine.settings.durability == "call"
        assert other._engine.settings.create is False
        assert other.list_runs().is_empty()
        other.close()
        text = pickle.dumps(original)
    store.close()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    with pytest.raises(NotAWorkspace):
        pickle.loads(text)
    assert not folder.exists()


def test_a_read_only_store_can_be_handed_over(store: WorkspaceStore, folder: Path) -> None:
    store.close()
    before = snapshot(folder)
    with WorkspaceStore(folder, read_only=True) as reader, pickle.loads(pickle.dumps(reader)) as copied:
        assert copied.list_runs().is_empty()
        assert "read-only" in repr(copied)
    assert snapshot(folder) == before


def test_a_session_that_began_during_a_question_is_not_taken_for_dead(
    store: WorkspaceStore, folder: Path
) -> None:
    """Who lives must be asked after the journal was applied, not before."""
    made: list[WorkspaceStore] = []
    real = store._engine.access.query

    def query(ask: Any, **how: Any) -> Any:
        made.append(WorkspaceStore(folder))
        made[-1].begin_run("just now", {}, [])
        return real(ask, **how)

    store._engine.access.query = query  # type: ignore[method-assign]
    assert store.list_runs()["status"].to_list() == ["running"]
    run_id = store.list_runs()["run_id"].to_list()[0]
    assert (store.get_run(run_id) or {})["status"] == "running"
    for other in made:
        other.close()


# -- forks -----------------------------------------------------------------------------------------


def in_a_fork(work: Any) -> tuple[int, bytes]:
    """Run something in a forked child; gives its exit code and what it wrote."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(read)
            os.write(write, str(work()).encode())
            code = 0
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(code)
    os.close(write)
    said = b""
    while piece := os.read(read, 4096):
        said += piece
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_a_forked_child_finds_what_was_recorded_and_can_record(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    buffered = store.save_prediction(pipeline_id, None, **prediction())

    def child() -> str:
        store.log_step(pipeline_id, 0, "child", "start")
        chain_id = chain_of(store, pipeline_id, artifact_id)
        store.flush()
        return chain_id

    code, said = in_a_fork(child)
    assert code == 0, said
    assert store.get_pipeline_log(pipeline_id)["operator_class"].to_list() == ["child"]
    assert store.get_chain(said.decode()) is not None
    # The parent's rows are committed once, by the parent.
    assert store.query_predictions()["prediction_id"].to_list() == [buffered]
    assert list((store.workspace_path / "journal" / "rejected").iterdir()) == []
    store.complete_run(run_id, {})


@needs_fork
def test_a_fork_leaves_the_lease_and_the_claims_to_the_parent(store: WorkspaceStore, folder: Path) -> None:
    store.begin_run("r", {}, [])
    store.list_runs()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        # While the child lives, what the parent closes is closed.
        store.close()
        assert living(store._engine.layout) == []
        with WorkspaceStore(folder, lock_timeout=5) as other:
            other.vacuum()
            assert other.list_runs()["status"].to_list() == ["interrupted"]
    finally:
        os.close(write)
        os.waitpid(pid, 0)


@needs_fork
def test_a_child_of_a_store_without_a_session_has_one_of_its_own(store: WorkspaceStore) -> None:
    code, said = in_a_fork(lambda: (store.begin_run("child", {}, []), store._engine.living_sessions()))
    assert code == 0, said
    assert store.list_runs()["status"].to_list() == ["interrupted"]
    assert store._engine.session_id not in said.decode()


@needs_fork
def test_threads_that_fork_at_once_hold_nobody_up_for_ever(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    codes: list[int] = []

    def work() -> None:
        for _ in range(4):
            pid = os.fork()
            if not pid:
                os._exit(0)
            codes.append(os.waitpid(pid, 0)[1])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [0] * 12
    done: list[str] = []
    last = threading.Thread(target=lambda: done.append(whole_pipeline(store, run_id)))
    last.start()
    last.join(20)
    assert len(done) == 1


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="reads the open files from /proc")
def test_a_forked_child_has_nothing_of_the_catalog_open(store: WorkspaceStore) -> None:
    store.begin_run("r", {}, [])
    store.list_runs()
    code, said = in_a_fork(
        lambda: [
            name
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
            and "workspace" in (name := os.readlink(f"/proc/self/fd/{fd}"))
        ]
    )
    assert (code, said) == (0, b"[]")


def test_a_foreign_database_is_refused_untouched_also_when_a_journal_lies_beside_it(folder: Path) -> None:
    import duckdb

    WorkspaceStore(folder).close()
    (folder / "store.duckdb").unlink()
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute("CREATE TABLE mine (a INT)")
    data = (folder / "store.duckdb").read_bytes()
    with pytest.raises(ForeignCatalog, match="another program"):
        WorkspaceStore(folder)
    assert (folder / "store.duckdb").read_bytes() == data


def test_a_closed_store_leaves_nothing_in_the_journal_however_much_waited(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.db import recorder

    # Nobody applies meanwhile, as when the machine is too busy for it.
    monkeypatch.setattr(recorder, "_APPLY_SEGMENTS", 10_000)
    with WorkspaceStore(folder) as store:
        for number in range(140):
            store.begin_run(str(number), {}, [])
        assert len(segments(folder)) >= 140
    assert segments(folder) == []


def test_a_writer_whose_commits_another_one_applies_does_not_apply_any_itself(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.db import recorder

    store.begin_run("first", {}, [])
    monkeypatch.setattr(recorder, "_APPLY_BYTES", 3 * segments(folder)[0].stat().st_size)
    helped: list[bool] = []
    monkeypatch.setattr(store._engine.recorder, "_on_backlog", helped.append)
    with WorkspaceStore(folder) as other:
        for number in range(12):
            store.begin_run(f"run {number}", {}, [])
            other.list_runs()
            let_go(other)
    assert helped == []
    for number in range(12):
        store.begin_run(f"more {number}", {}, [])
    assert helped
