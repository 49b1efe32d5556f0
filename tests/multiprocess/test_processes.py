"""Processes that start together, die, stop, fork, inherit, are handed a store, or may only read."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import children
import joblib
import pytest
from storekit import ROOT, begin, let_go, predict, prediction, python, snapshot, whole_pipeline

from nirs_store.db.lock import living
from nirs_store.errors import StoreBusy, WriteFailed
from nirs_store.store import WorkspaceStore


def complete(store: WorkspaceStore, pipeline_ids: list[str]) -> bool:
    """Whether each pipeline is there once, with its chain, predictions, arrays, model and log."""
    found = store.list_pipelines()
    for pipeline_id in pipeline_ids:
        (status,) = found.filter(pipeline_id=pipeline_id)["status"]
        rows = store.query_predictions(pipeline_id=pipeline_id)
        (chain_id,) = store.get_chains_for_pipeline(pipeline_id)["chain_id"]
        chain = store.get_chain(chain_id)
        assert chain is not None
        arrays = store.get_prediction_arrays(rows["prediction_id"].to_list())
        model = store.load_artifact(chain["fold_artifacts"]["fold_0"])
        if (status, rows.height, len(arrays), model) != ("completed", 2, 2, [pipeline_id]):
            return False
        if store.get_pipeline_log(pipeline_id).height != 1:
            return False
    return True


def test_a_second_process_asks_all_the_time_while_the_first_records_without_waiting_for_it(
    folder: Path, crew: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    WorkspaceStore(folder).close()
    reader = crew(children.ask_in_a_loop, folder, 40)
    with WorkspaceStore(folder) as store:
        assert reader.hear() == 0
        # Only a wait for the reader's turn at the catalog comes through here.
        waits: list[Any] = []
        catalog_lock = store._engine.access._catalog_lock
        real = catalog_lock.acquire
        monkeypatch.setattr(
            catalog_lock, "acquire", lambda **options: (waits.append(options), real(**options))
        )
        run_id = store.begin_run("r", {}, [])
        for number in range(20):
            whole_pipeline(store, run_id, str(number))
        assert waits == []
        assert reader.hear() >= 2
        store.list_runs()
        assert waits


def test_what_was_acknowledged_before_a_kill_is_there_afterwards(
    folder: Path, crew: Callable[..., Any]
) -> None:
    writer = crew(children.record_for_ever, folder)
    run_id = writer.hear()
    told = [writer.hear() for _ in range(5)]
    time.sleep(0.015)
    writer.signal(signal.SIGKILL)
    assert writer.end() == -signal.SIGKILL
    while writer._pipe.poll():
        try:
            told.append(writer._pipe.recv()[1])
        except EOFError:
            break
    with WorkspaceStore(folder) as store:
        assert complete(store, told)
        run = store.get_run(run_id)
        assert run is not None
        assert run["status"] == "interrupted"
        # The rest is whole or not there: a completed pipeline has all of its rows.
        done = store.list_pipelines(run_id).filter(status="completed")["pipeline_id"].to_list()
        assert complete(store, done)
        assert len(done) - len(told) in (0, 1)
        assert store.gc_artifacts() == 0
        assert living(store._engine.layout) == []
    assert list((folder / "journal" / "rejected").iterdir()) == []


def test_a_holder_that_stops_inside_its_change_blocks_readers_no_longer_than_they_like_and_writers_not_at_all(
    folder: Path, crew: Callable[..., Any]
) -> None:
    with WorkspaceStore(folder, lock_timeout=0.3) as store:
        run_id = store.begin_run("r", {}, [])
        store.list_runs()
        let_go(store)
        before = datetime.now(UTC)
        holder = crew(children.stop_inside_lock, folder)
        assert holder.hear() == "inside"
        time.sleep(0.05)
        pipeline_id = whole_pipeline(store, run_id)
        with WorkspaceStore(folder, lock_timeout=0.2) as other:
            whole_pipeline(other, run_id)
        with pytest.raises(StoreBusy) as caught:
            store.list_runs()
        assert (caught.value.host, caught.value.pid) == (socket.gethostname(), holder.pid)
        assert caught.value.since is not None
        assert caught.value.since >= before
        assert str(holder.pid) in str(caught.value)
        holder.signal(signal.SIGKILL)
        holder.end()
        assert complete(store, [pipeline_id])
        assert store.list_pipelines(run_id).height == 2


def test_a_question_sees_what_another_process_committed_before_it(
    folder: Path, crew: Callable[..., Any]
) -> None:
    with WorkspaceStore(folder) as store:
        assert store.list_runs().height == 0  # the catalog was open here once
        for count in (1, 2):
            writer = crew(children.record_pipelines, folder, 1)
            writer.hear()
            writer.tell()
            writer.hear()
            assert store.list_runs().height == count


# -- handing a store to workers ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows only spawns; covered there by the loky test")
def test_workers_of_multiprocessing_are_handed_a_store(store: WorkspaceStore, method: str) -> None:
    run_id = store.begin_run("parent", {}, [])
    buffered = store.begin_pipeline(run_id, "buffered", {}, [], "corn", "h")
    predict(store, buffered)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    count = 2 if method == "fork" else 1
    workers = [
        context.Process(target=children.worker_process, args=(store, run_id, number, answers))
        for number in range(count)
    ]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=60) for _ in workers] == ["running"] * count
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * count
    pipelines = store.list_pipelines(run_id)
    assert sorted(pipelines.filter(status="completed")["name"]) == [f"worker {n}" for n in range(count)]
    # Rows that a worker had only buffered when it ended are committed, and the parent's once.
    assert store.query_predictions().height == 1 + 2 * count
    store.complete_run(run_id, {})
    assert store.gc_artifacts(grace_seconds=0) == 0
    assert list((store.workspace_path / "journal" / "rejected").iterdir()) == []


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_workers_are_handed_a_store_that_has_recorded_nothing_yet(folder: Path, backend: str) -> None:
    with WorkspaceStore(folder) as other:
        run_id = other.begin_run("other", {}, [])
        with WorkspaceStore(folder) as store:
            path = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(children.__file__).parent)])
            try:
                found = joblib.Parallel(n_jobs=2, backend=backend)(
                    joblib.delayed(children.use_handed_store)(store, run_id, number) for number in range(4)
                )
            finally:
                if path is None:
                    del os.environ["PYTHONPATH"]
                else:
                    os.environ["PYTHONPATH"] = path
            assert found == ["running"] * 4
            assert store.list_pipelines(run_id)["status"].to_list() == ["completed"] * 4
            assert store.query_predictions(run_id=run_id).height == 4
            # What workers saved belongs to the session of the store that they were handed.
            assert store.gc_artifacts(grace_seconds=0) == 0
            kept = store.sql("SELECT count(*) AS n FROM artifacts WHERE artifact_type = 'handed'")["n"].item()
            assert kept == 4


FORK = """
import os, sys, json
from nirs_store import WorkspaceStore
store = WorkspaceStore(sys.argv[1])
run = store.begin_run("parent", {}, [])
store.list_runs()  # the catalog lingers open
pid = os.fork()
if pid == 0:
    store.begin_run("child", {}, [])
    print(json.dumps(sorted(store.list_runs()["name"])), flush=True)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert store.get_run(run)["status"] == "running"
store.complete_run(run, {})
store.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_detaches_and_both_go_on(folder: Path) -> None:
    done = python(FORK, folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["child", "parent"]
    with WorkspaceStore(folder) as store:
        assert dict(store.list_runs().select("name", "status").iter_rows()) == {
            "parent": "completed",
            "child": "interrupted",
        }


# -- the end of an interpreter -------------------------------------------------------------------------

EXIT = """
import sys, threading, time
import polars  # a thread that imports at the interrupt makes Python forget that it ends by one
sys.path.insert(0, {kit!r})
from storekit import begin, predict
from nirs_store import WorkspaceStore
store = WorkspaceStore(sys.argv[1])
run_id, pipeline_id = begin(store)
def ask():
    while True:
        try:
            store.top_predictions(5)
            predict(store, pipeline_id, dataset_name="thread")
        except RuntimeError:
            return
for _ in range(4):
    threading.Thread(target=ask, daemon=True).start()
time.sleep(0.3)
last = predict(store, pipeline_id, dataset_name="last")
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -2),
    ],
    ids=["end of program", "interrupt"],
)
def test_an_interpreter_that_ends_with_busy_daemon_threads_does_not_crash_and_commits_what_was_buffered(
    folder: Path, end: str, code: int
) -> None:
    done = python(EXIT.format(kit=str(ROOT / "tests" / "kit"), end=end), folder)
    assert done.returncode in (code, 130 if code == -2 else code), done.stderr
    assert "Fatal" not in done.stderr
    assert "closing" not in done.stderr
    with WorkspaceStore(folder) as store:
        assert store.query_predictions(dataset_name="last").height == 1
        assert living(store._engine.layout) == []
        assert store.list_runs()["status"].to_list() == ["interrupted"]


# -- who may only read ---------------------------------------------------------------------------------


def without_write_permission(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222 | 0o444 | (0o111 if path.is_dir() else 0))


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no user ids")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can act as another user")
def test_a_folder_that_cannot_be_written_answers_every_question_and_stays_as_it_is(
    folder: Path, crew: Callable[..., Any]
) -> None:
    with WorkspaceStore(folder) as store:
        run_id, _ = begin(store)
        whole_pipeline(store, run_id)
    for parent in folder.parents:
        if parent == Path("/tmp") or parent == Path(parent.anchor):
            break
        parent.chmod(parent.stat().st_mode | 0o055)
    before = snapshot(folder)
    ways: list[dict[str, Any]] = [{}, {"read_only": True}, {"create": False}]
    answers = crew(children.as_another_user, folder, ways).hear()
    assert len(answers) == len(ways)
    for options, found in zip(ways, answers, strict=True):
        assert found.pop("runs") == [run_id], options
        assert "read-only" in found.pop("repr"), options
        assert set(found.values()) == {"ReadOnlyStore"}, (options, found)
    assert snapshot(folder) == before


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_the_same_without_being_root(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        run_id = store.begin_run("r", {}, [])
    without_write_permission(folder)
    before = snapshot(folder)
    with WorkspaceStore(folder) as reader:
        assert reader.list_runs()["run_id"].to_list() == [run_id]
        with pytest.raises(PermissionError):
            reader.begin_run("x", {}, [])
    assert snapshot(folder) == before


# -- a disk that is really full --------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 24 MB."""
    import subprocess

    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can mount")
def test_on_a_full_disk_reading_and_deleting_work_and_nothing_acknowledged_is_lost(small_disk: Path) -> None:
    folder = small_disk / "workspace"
    filler = small_disk / "filler"
    with WorkspaceStore(folder) as store:
        run_id, pipeline_id = begin(store)
        done = [whole_pipeline(store, run_id)]
        other_run = store.begin_run("to delete", {}, [])
        whole_pipeline(store, other_run)
        store.list_runs()
        let_go(store)
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
                    file.flush()
            except OSError:
                pass
        acknowledged = []
        refused = 0
        for _ in range(6):
            try:
                prediction_id = store.save_prediction(pipeline_id, None, **prediction(model_name="x" * 20000))
                store.flush()
                acknowledged.append(prediction_id)
            except WriteFailed:
                refused += 1
        assert refused > 0
        # Whoever has nothing of its own to commit is answered.
        with WorkspaceStore(folder, read_only=True) as reader:
            assert reader.list_runs().height == 2
            assert complete(reader, done)
        filler.unlink()
        found = set(store.query_predictions(pipeline_id=pipeline_id)["prediction_id"])
        assert set(acknowledged) <= found
        assert len(found) == 6
        assert complete(store, done)
        assert store.delete_run(other_run, now=True) > 0
        store.vacuum()
        assert complete(store, done)
    assert list((folder / "journal" / "rejected").iterdir()) == []
