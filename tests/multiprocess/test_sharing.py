"""Several processes on one workspace: nobody is locked out, nothing is lost, dead ones leave no lock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest

from nirs_store import WorkspaceStore
from nirs_store.errors import StoreBusy

RECORD = """
import sys, numpy as np
from nirs_store import WorkspaceStore
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = WorkspaceStore(folder)
run = store.begin_run(name, {}, [])
for index in range(count):
    pipeline = store.begin_pipeline(run, f"{name}-{index}", {}, [], "d", "h")
    model = store.save_artifact(np.arange(50) + index, "numpy.ndarray", "model")
    chain = store.save_chain(
        pipeline, [{"step_idx": 0, "operator_class": "m"}], 0, "m", "", "per_fold", {"fold_0": model}, {}
    )
    prediction = store.save_prediction(
        pipeline, chain, "d", "m", "m", "fold_0", "val", index / count, None, None, "rmse", "regression",
        5, 2, {}, {}, None, None, 0, 0.0,
    )
    store.save_prediction_arrays(prediction, np.arange(5.0), np.arange(5.0) + index)
    store.complete_pipeline(pipeline, 0.1, None, "rmse", 1)
    print(pipeline, flush=True)
store.complete_run(run, {})
store.close()
"""

READ = """
import sys, time
from nirs_store import WorkspaceStore
folder, until = sys.argv[1], time.monotonic() + float(sys.argv[2])
asked = 0
while time.monotonic() < until:
    with WorkspaceStore(folder) as store:
        top = store.top_predictions(10)
        assert top["val_score"].to_list() == sorted(top["val_score"].to_list())
    asked += 1
print(asked)
"""


def start(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 90) -> list[str]:
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out.split()


def test_writers_that_start_together_on_a_new_folder_lose_nothing_beside_readers(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "workspace"
    writers = [start(RECORD, folder, f"w{i}", 6) for i in range(2)]
    deadline = time.monotonic() + 30
    while not (folder / "store.duckdb").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    reader = start(READ, folder, 1)
    acknowledged = sorted(line for writer in writers for line in finish(writer))
    assert int(finish(reader)[0]) > 0
    with WorkspaceStore(folder) as store:
        pipelines = store.list_pipelines()
        assert sorted(pipelines["pipeline_id"].to_list()) == acknowledged
        assert set(pipelines["status"]) == {"completed"}
        predictions = store.query_predictions()
        assert predictions.height == len(acknowledged) == 12
        arrays = store.get_prediction_arrays(predictions["prediction_id"].to_list())
        assert len(arrays) == 12
        assert store.list_runs(status="completed").height == 2


def test_a_query_sees_what_another_process_committed_before_it(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        assert store.list_runs().height == 0  # so that the catalog was open here once
        for count in (1, 2):
            finish(start(RECORD, tmp_path, f"run {count}", 1))
            assert store.list_runs().height == count


def test_a_killed_writer_leaves_no_lock_and_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    writer = start(RECORD, tmp_path, "killed", 10_000)
    assert writer.stdout is not None
    lines = [writer.stdout.readline().strip() for _ in range(15)]
    writer.send_signal(signal.SIGKILL)
    lines += writer.communicate()[0].split()
    begun = time.monotonic()
    with WorkspaceStore(tmp_path) as store:
        done = store.list_pipelines().filter(status="completed")["pipeline_id"].to_list()
        assert set(lines) <= set(done)
        assert store.list_runs()["status"].to_list() == ["interrupted"]
        predictions = store.query_predictions()
        assert predictions.filter(predictions["pipeline_id"].is_in(done)).height == len(done)
    assert time.monotonic() - begun < 30, "opening waited for somebody who is dead"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process by a signal")
def test_a_stopped_holder_is_named_to_readers_and_does_not_stop_writers(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path):
        pass
    holder = start(
        "import sys, time\n"
        "from nirs_store import WorkspaceStore\n"
        "store = WorkspaceStore(sys.argv[1])\n"
        "def hold(access):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
        "store._engine.exclusive(hold)\n",
        tmp_path,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    holder.send_signal(signal.SIGSTOP)
    try:
        store = WorkspaceStore(tmp_path, lock_timeout=0.3)
        run_id = store.begin_run("goes on", {}, [])
        pipeline = store.begin_pipeline(run_id, "p", {}, [], "d", "h")
        store.complete_pipeline(pipeline, 0.1, None, "rmse", 1)
        with pytest.raises(StoreBusy) as caught:
            store.list_runs()
        assert caught.value.pid == holder.pid
        assert caught.value.host == os.uname().nodename
        assert caught.value.since is not None
    finally:
        holder.kill()
        holder.communicate()
    assert store.list_runs()["name"].to_list() == ["goes on"], "a dead holder's lease is free at once"
    store.close()


def test_a_store_is_handed_to_joblib_workers(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store, store.run("parent") as run:
        ids = joblib.Parallel(n_jobs=2, backend="loky")(
            joblib.delayed(_save_in_worker)(store, run.run_id, index) for index in range(4)
        )
        assert sorted(store.list_pipelines(run.run_id)["pipeline_id"].to_list()) == sorted(p for p, _ in ids)
        for index, (_, artifact_id) in enumerate(ids):
            np.testing.assert_array_equal(store.load_artifact(artifact_id), np.full(3, index))
        assert store.gc_artifacts(grace_seconds=0) == 0, "what workers saved belongs to the parent's session"
    # Two numbers of workers must not end each other's sessions: threads share the object itself.
    with WorkspaceStore(tmp_path) as store, store.run("threads") as run:
        ids = joblib.Parallel(n_jobs=2, backend="threading")(
            joblib.delayed(_save_in_worker)(store, run.run_id, index) for index in range(4)
        )
        assert store.list_pipelines(run.run_id).height == 4


def _save_in_worker(store: WorkspaceStore, run_id: str, index: int) -> tuple[str, str]:
    pipeline_id = store.begin_pipeline(run_id, f"worker {index}", {}, [], "d", "h")
    artifact_id = store.save_artifact(np.full(3, index), "numpy.ndarray", "model")
    store.complete_pipeline(pipeline_id, float(index), None, "rmse", 1)
    return pipeline_id, artifact_id


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_detaches_and_both_go_on(tmp_path: Path) -> None:
    code = (
        "import os, sys, json\n"
        "from nirs_store import WorkspaceStore\n"
        "store = WorkspaceStore(sys.argv[1])\n"
        "run = store.begin_run('parent', {}, [])\n"
        "store.list_runs()\n"  # the catalog lingers open
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    store.begin_run('child', {}, [])\n"
        "    names = sorted(store.list_runs()['name'])\n"
        "    print(json.dumps(names), flush=True)\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "assert store.get_run(run)['status'] == 'running'\n"
        "store.complete_run(run, {})\n"
        "store.close()\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout) == ["child", "parent"]
    with WorkspaceStore(tmp_path) as store:
        assert dict(store.list_runs().select("name", "status").iter_rows()) == {
            "parent": "completed",
            "child": "interrupted",
        }


def test_an_exit_without_close_commits_what_was_buffered(tmp_path: Path) -> None:
    code = (
        "import sys, threading, time\n"
        "from nirs_store import WorkspaceStore\n"
        "store = WorkspaceStore(sys.argv[1])\n"
        "run = store.begin_run('r', {}, [])\n"
        "pipeline = store.begin_pipeline(run, 'p', {}, [], 'd', 'h')\n"
        "def ask():\n"
        "    while True:\n"
        "        store.list_runs()\n"
        "threading.Thread(target=ask, daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "store.log_step(pipeline, 0, 'X', 'start', message='last words')\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 0, out.stderr
    with WorkspaceStore(tmp_path) as store:
        pipeline_id = store.list_pipelines()["pipeline_id"][0]
        assert store.get_pipeline_log(pipeline_id)["message"].to_list() == ["last words"]
