"""kill -9 of who records, changes, collects or only asks, at system calls all over: nothing is lost, half or different."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from storekit import Child, Talk, begin, chain_of, whole_pipeline

from nirs_store.db.table import digests
from nirs_store.store import WorkspaceStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("strace") is None, reason="kills are injected by strace"
    ),
    # What a killed process did not commit is dropped, and said.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
_CALLS = (
    "openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,unlink,mkdir,link,flock,"
    "connect,sendto,sendmsg,recvfrom,poll"
)
# So many kills of each, evenly over its calls.
_POINTS = 40


def record(store: WorkspaceStore, talk: Talk, doomed: str) -> None:
    run_id = store.begin_run("recorded", {}, [])
    talk.say(("pipeline", whole_pipeline(store, run_id)))
    talk.say(("pipeline", whole_pipeline(store, run_id, "again")))


def change(store: WorkspaceStore, talk: Talk, doomed: str) -> None:
    store.files.put(b"spectra" * 99, "corn.txt", type="text_raw")
    store.delete_run(doomed, now=True)
    talk.say(("gone", doomed))


def collect(store: WorkspaceStore, talk: Talk, doomed: str) -> None:
    store.delete_run(doomed, delete_artifacts=False, now=True)
    store.gc_artifacts(grace_seconds=0)


def ask(store: WorkspaceStore, talk: Talk, doomed: str) -> None:
    store.list_runs()
    store.list_pipelines()


def work(talk: Talk, what: str, place: str, doomed: str) -> None:
    talk.say("ready")
    talk.wait()
    with WorkspaceStore(place, retention=False) as store:
        globals()[what](store, talk, doomed)


class Sweep:
    """One operation, at a shared workspace that grows meanwhile."""

    def __init__(self, what: str, one: WorkspaceStore, place: str, folder: Path) -> None:
        self.what, self.one, self.place, self.folder = what, one, place, folder
        self.killed = 0
        self.acknowledged: set[str] = set()

    def run(self, *inject: str) -> list[str]:
        """Run it once under strace; returns the calls that it made."""
        doomed, pipeline_id = begin(self.one, "doomed")
        saved = self.one.save_artifact(
            [len(self.acknowledged), self.killed], "builtins.list", "model", "joblib"
        )
        chain_of(self.one, pipeline_id, saved)
        self.one.flush()
        child = Child(work, self.what, self.place, doomed)
        log = self.folder / "trace"
        try:
            assert child.hear() == "ready"
            tracer = subprocess.Popen(
                ["strace", "-p", str(child.pid), "-o", str(log), "-s", "0", "-e", f"trace={_CALLS}", *inject],
                stderr=subprocess.PIPE,
                text=True,
            )
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            child.tell()
            gone = False
            with suppress(EOFError, ConnectionResetError):
                while (said := child.hear()) is not None:
                    kind, ident = said
                    gone = gone or kind == "gone"
                    if kind == "pipeline":
                        self.acknowledged.add(ident)
            child.process.join(60)
            tracer.communicate()
        finally:
            child.kill()
        self.killed += child.process.exitcode == -9
        self.judge(doomed if gone else None)
        return [m[1] for line in log.read_text().splitlines() if (m := re.match(r"(\w+)\(", line))]

    def judge(self, deleted: str | None) -> None:
        with WorkspaceStore(self.place, retention=False) as store:
            rows = store._engine.query(digests)
            assert self.one._engine.query(digests) == rows
        found = self.one.list_pipelines()
        done = found.filter(found["status"] == "completed")["pipeline_id"]
        assert self.acknowledged <= set(done)
        assert done.is_unique().all()

        def half(con: Any) -> Any:
            sql = (
                "SELECT (SELECT count(*) FROM pipelines p WHERE status = 'completed' AND "
                "((SELECT count(*) FROM chains c WHERE c.pipeline_id = p.pipeline_id) <> 1 OR "
                "(SELECT count(*) FROM predictions r WHERE r.pipeline_id = p.pipeline_id) <> 2)), "
                "(SELECT count(*) FROM artifact_refs WHERE artifact_id NOT IN (SELECT artifact_id FROM blobs))"
            )
            return con.execute(sql).fetchone(), con.execute("SELECT artifact_path FROM blobs").fetchall()

        counts, paths = self.one._engine.query(half)
        assert counts == (0, 0)
        blobs = self.one._engine.layout.blobs
        assert [path for (path,) in paths if blobs.stat(path) is None] == []
        assert deleted is None or deleted not in set(self.one.list_runs()["run_id"])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["record", "change", "collect", "ask"])
def test_a_process_that_is_killed_at_any_call_costs_nothing(
    machine: Any, database: str, tmp_path: Path, what: str
) -> None:
    one = machine("one", retention=False)
    sweep = Sweep(what, one, f"{database}?workspace=corn&replica={tmp_path / 'killed'}", tmp_path)
    sweep.run()
    calls, counts, points = sweep.run(), Counter[str](), []
    for name in calls:
        counts[name] += 1
        points.append((name, counts[name]))
    every = max(1, len(points) // _POINTS)
    for name, nth in points[::every]:
        sweep.run("-e", f"inject={name}:signal=KILL:when={nth}")
    print(f"{what}: {sweep.killed} kills at every {every}th of {len(points)} calls")
    assert sweep.killed > len(points[::every]) // 2
