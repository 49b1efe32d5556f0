"""Kill loops on a shared workspace: four processes record, one deletes and collects, two computers query.

    python -m benchmarks.kill_loops                 ten minutes
    python -m benchmarks.kill_loops --seconds 60
    python -m benchmarks.kill_loops --life 60       longer lives: on a busy machine a start takes seconds of each

The four and the one are killed at random moments and started again. Each says aloud what it was told is done. At the
end everything that was said must be there once, no row may name a blob that is missing, and three replicas, one of them
new, must hold the same rows. PostgreSQL is found as the tests find it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_KIT = Path(__file__).parents[1] / "tests" / "kit"
_WRITERS = 4
_SAYS = """
import random, sys, time, warnings
sys.path.insert(0, {kit!r})
warnings.simplefilter("ignore")
from storekit import begin, chain_of, whole_pipeline
from nirs_store.errors import ArtifactMissing, UnknownId
from nirs_store.store import WorkspaceStore
dice = random.Random()
store = WorkspaceStore({place!r}, retention=False)
if not {writes}:
    # What the others committed while it started takes longer to apply than it may live, on a busy machine.
    store.list_runs(limit=1)
print("ready", flush=True)
while True:
    if {writes}:
        run_id, pipeline_id = begin(store)
        # Contents of ten seconds: a deletion leaves some to nobody, and others save them again soon.
        content = float(int(time.time() * 100) + dice.randrange(1000))
        saved = store.save_artifact([content] * 500, "builtins.list", "model", "joblib")
        try:
            chain_of(store, pipeline_id, saved)
        except ArtifactMissing:
            continue
        store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
        print("done", run_id, flush=True)
        time.sleep(dice.random() / 5)  # there are more processes than CPUs, and who deletes needs its turn
    else:
        runs = store.list_runs()["run_id"].to_list()
        if len(runs) > 10:
            chosen = dice.choice(runs)
            print("deleting", chosen, flush=True)
            try:
                store.delete_run(chosen, now=True)
            except UnknownId:
                pass
            print("deleted", chosen, flush=True)
        print("collected", store.gc_artifacts(grace_seconds=0), flush=True)
"""


class Loop(threading.Thread):
    """Run a program, kill it after a while, and run it again."""

    def __init__(self, code: str, until: float, life: float, seed: int) -> None:
        super().__init__(daemon=True)
        self._code, self._until, self._life, self._dice = code, until, life, random.Random(seed)
        self.said: list[tuple[str, str]] = []
        self.kills = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Repeat until the time is over."""
        while time.monotonic() < self._until:
            process = subprocess.Popen(
                [sys.executable, "-c", self._code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            # One in five is killed while it starts and opens the workspace.
            young = self._dice.random() < 0.2
            killer = threading.Timer(self._dice.uniform(0.2, 5.0 if young else self._life), process.kill)
            if young:
                killer.start()
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                if line == "ready\n" and not young:
                    killer.start()
                elif line.endswith("\n"):
                    what, _, about = line.strip().partition(" ")
                    self.said.append((what, about))
            error = process.stderr.read()
            killer.cancel()
            if process.wait() == -9:
                self.kills += 1
            else:
                self.errors.append(error)


def judge(stores: list[Any], loops: list[Loop]) -> dict[str, int]:
    """Count rows and blobs that are lost, doubled, missing or different."""
    from nirs_store.db.table import digests

    done = {run_id for loop in loops for what, run_id in loop.said if what == "done"}
    deleting = {run_id for loop in loops for what, run_id in loop.said if what == "deleting"}
    deleted = {run_id for loop in loops for what, run_id in loop.said if what == "deleted"}
    collections = sum(what == "collected" for loop in loops for what, _ in loop.said)

    def ask(con: Any) -> tuple[list[Any], ...]:
        asked = (
            "SELECT r.run_id, r.status, p.status FROM runs r JOIN pipelines p USING (run_id)",
            "SELECT artifact_path FROM blobs",
            "SELECT count(*) FROM artifact_refs WHERE artifact_id NOT IN (SELECT artifact_id FROM blobs)",
            "SELECT count(*) FROM pipelines p WHERE status = 'completed' AND "
            "(SELECT count(*) FROM chains c WHERE c.pipeline_id = p.pipeline_id) <> 1",
        )
        return tuple(con.execute(sql).fetchall() for sql in asked)

    rows, paths, dangling, half = stores[0]._engine.query(ask)
    there = [run_id for run_id, _, status in rows if status == "completed"]
    blobs = stores[0]._engine.layout.blobs
    found = [store._engine.query(digests) for store in stores]
    log = stores[0]._engine.journal
    # Those of deletions and of collections, whether or not their process lived to say so.
    given_up = "SELECT count(*), count(*) FILTER (WHERE state = 'gone') FROM nirs_store.keys"
    keys, gone = log.ask(lambda con: con.execute(given_up).fetchone())
    return {
        "acknowledged": len(done),
        "deletions begun": len(deleting),
        "deleted": len(deleted),
        "collections": collections,
        "blobs given up": keys,
        "of these deleted": gone,
        "kills": sum(loop.kills for loop in loops),
        "commits": log._head(),
        "lost": len(done - deleting - set(there)),
        "deleted and there": len(deleted & {run_id for run_id, _, _ in rows}),
        "doubled": len(there) - len(set(there)),
        "half": half[0][0],
        "blobs missing": sum(blobs.stat(path) is None for (path,) in paths) + dangling[0][0],
        "different replicas": sum(each != found[0] for each in found),
        "untyped errors": sum(len(loop.errors) for loop in loops),
    }


def run(
    server: str, folder: Path, seconds: float, *, life: float = 20.0, seed: int = 0
) -> tuple[dict[str, int], list[str]]:
    """Run the loops on an empty database; return the counts and the messages of errors."""
    from nirs_store.store import WorkspaceStore

    def place(name: str) -> str:
        return f"{server}?workspace=corn&replica={folder / name}"

    blobs = (folder / "blobs").as_uri()
    asking = [WorkspaceStore(place(name), blobs=blobs) for name in ("one", "two")]
    until = time.monotonic() + seconds
    loops = [
        Loop(
            _SAYS.format(
                kit=str(_KIT),
                # Who deletes has a replica of its own: it has to catch up between two kills.
                place=place(f"computer{number % 2 if number < _WRITERS else 2}"),
                writes=number < _WRITERS,
            ),
            until,
            life,
            seed + number,
        )
        for number in range(_WRITERS + 1)
    ]
    asked = 0
    for loop in loops:
        loop.start()
    while any(loop.is_alive() for loop in loops):
        for store in asking:
            store.list_runs(limit=10)
            asked += 1
        time.sleep(0.2)
    with WorkspaceStore(place("new")) as new:
        for store in (*asking, new):
            store.flush()
        counts = {"queries": asked, **judge([*asking, new], loops)}
    for store in asking:
        store.close()
    return counts, [error for loop in loops for error in loop.errors]


def main() -> int:
    """Run from the command line; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--life", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(_KIT))
    import psycopg
    from sharedkit import PostgreSQL, programs

    where = programs()
    if where is None:
        print("PostgreSQL is not installed here")
        return 0
    home, folder = Path(tempfile.mkdtemp(prefix="pg-")), Path(tempfile.mkdtemp(prefix="kill-loops-"))
    server = PostgreSQL(where, home)
    try:
        with psycopg.connect(server.url("postgres"), autocommit=True) as con:
            con.execute("CREATE DATABASE loops")
        counts, errors = run(
            server.url("loops"), folder, options.seconds, life=options.life, seed=options.seed
        )
    finally:
        with suppress(AssertionError):
            server.stop()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    for error in errors[:3]:
        print(error[-1500:])
    broken = (
        "lost",
        "deleted and there",
        "doubled",
        "half",
        "blobs missing",
        "different replicas",
        "untyped errors",
    )
    if not counts["deleted"]:
        print("Nothing was deleted, so this says nothing about deletions; let it run for longer.")
    return 1 if any(counts[name] for name in broken) else 0


if __name__ == "__main__":
    sys.exit(main())
