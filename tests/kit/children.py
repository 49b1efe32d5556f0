"""What other processes do in the tests. Each function runs in a process of its own and talks to its parent."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from storekit import Talk, begin, chain_of, predict, whole_pipeline

from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock
from nirs_store.errors import StoreBusy
from nirs_store.store import WorkspaceStore


def hold_lock(talk: Talk, folder: Path, exclusive: bool) -> None:
    """Hold the catalog until told."""
    catalog_lock = CatalogLock(Layout(folder), writable=True)
    catalog_lock.acquire(exclusive=exclusive, timeout=10)
    talk.say("held")
    talk.wait()
    catalog_lock.release()


def record_pipelines(talk: Talk, folder: Path, count: int) -> list[str]:
    """Open (or make) a store and record some pipelines as soon as told."""
    talk.say("ready")
    talk.wait()
    with WorkspaceStore(folder) as store:
        run_id = store.begin_run(f"writer {os.getpid()}", {}, [{"name": "corn"}])
        done = [whole_pipeline(store, run_id, f"p{i}") for i in range(count)]
        store.complete_run(run_id, {})
    return done


def record_for_ever(talk: Talk, folder: Path) -> None:
    """Record pipelines and acknowledge each one, until killed."""
    store = WorkspaceStore(folder)
    run_id = store.begin_run("doomed", {}, [])
    talk.say(run_id)
    while True:
        talk.say(whole_pipeline(store, run_id))


def record_and_wait(talk: Talk, folder: Path) -> None:
    """Begin a run, save an artifact, and stay."""
    store = WorkspaceStore(folder)
    run_id, pipeline_id = begin(store, "waiting")
    artifact_id = store.save_artifact({"held": True}, "dict", "model", "joblib")
    store.flush()
    talk.say((run_id, pipeline_id, artifact_id))
    talk.wait()
    store.close()


def promote(talk: Talk, folder: Path, chains: list[str], count: int) -> list[tuple[int, str]]:
    """Register chains under one name and point one alias to each, as soon as told."""
    talk.say("ready")
    talk.wait()
    made = []
    with WorkspaceStore(folder) as store:
        for number in range(count):
            chain = chains[number % len(chains)]
            version = store.calibrations.register("fat", chain)
            store.calibrations.set_alias("fat", "production", version)
            made.append((version.version, chain))
    return made


def read_alias(talk: Talk, folder: Path) -> list[tuple[int, str, tuple[int, ...]]]:
    """Read one alias in every way until told; gives what was seen: version, chain, and versions that have the alias."""
    seen = set()
    talk.say("ready")
    with WorkspaceStore(folder) as store:
        while not talk.told():
            found = store.calibrations.resolve("fat@production")
            pointed = store.calibrations.versions("fat").filter(aliases="production")["version"].to_list()
            seen.add((found.version, found.chain_id, tuple(pointed)))
            version = store.calibrations.get("fat@production")
            assert version.aliases == ("production",)
            seen.add((version.version, version.chain_id, tuple(pointed)))
    return sorted(seen)


def ask(talk: Talk, folder: Path, options: dict[str, Any]) -> Any:
    """Open a store and ask for its runs."""
    try:
        with WorkspaceStore(folder, **options) as store:
            return store.list_runs()["run_id"].to_list()
    except StoreBusy as error:
        return ("busy", error.host, error.pid, error.since)


def ask_in_a_loop(talk: Talk, folder: Path, until: int) -> int:
    """Ask again and again until that many predictions are there; tells of the first answer, gives how often it asked."""
    asked = 0
    seen = 0
    while seen < until:
        with WorkspaceStore(folder) as store:
            found = store.query_predictions().height
            assert found >= seen, "what was seen once is gone"
            seen = found
        asked += 1
        if asked == 1:
            talk.say(found)
    return asked


def stop_inside_lock(talk: Talk, folder: Path) -> None:
    """Stop, as under a debugger, in the middle of a change."""
    store = WorkspaceStore(folder)

    def halt(con: Any) -> None:
        con.execute("SELECT 1").fetchall()
        talk.say("inside")
        os.kill(os.getpid(), signal.SIGSTOP)

    store._engine.change(halt)


def save_between_blob_and_row(talk: Talk, folder: Path) -> str:
    """Write a blob, wait before its row is recorded, go on when told."""
    store = WorkspaceStore(folder)
    put = store._engine.blobs.put

    def slow_put(data: bytes, suffix: str, **how: Any) -> Any:
        info = put(data, suffix, **how)
        store._engine.blobs.wait()
        talk.say(info.artifact_id)
        talk.wait()
        return info

    store._engine.blobs.put = slow_put  # type: ignore[method-assign]
    artifact_id = store.save_artifact({"x": np.arange(50.0)}, "dict", "model", "joblib")
    store.flush()
    store.close()
    return artifact_id


def save_then_chain(talk: Talk, folder: Path) -> str:
    """Save an artifact, wait, then name it in a chain."""
    with WorkspaceStore(folder) as store:
        _, pipeline_id = begin(store)
        artifact_id = store.save_artifact({"x": 1}, "dict", "model", "joblib")
        store.flush()
        talk.say(artifact_id)
        talk.wait()
        return chain_of(store, pipeline_id, artifact_id)


def collect_garbage(talk: Talk, folder: Path, grace: float) -> int:
    """Run a gc."""
    with WorkspaceStore(folder) as store:
        return store.gc_artifacts(grace_seconds=grace)


def as_another_user(talk: Talk, folder: Path, ways: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Look at a workspace, and try to change it, as a user who may only read; once for each way of opening it."""
    with tempfile.TemporaryDirectory() as scratch, WorkspaceStore(scratch) as warm:
        # What is imported on first use may lie where the other user cannot read.
        whole_pipeline(warm, warm.begin_run("warm", {}, []))
        warm.list_runs()
    os.setgid(65534)
    os.setuid(65534)
    return [_answers_and_refusals(folder, options) for options in ways]


def _answers_and_refusals(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    with WorkspaceStore(folder, **options) as store:
        runs = store.list_runs()
        found: dict[str, Any] = {"runs": runs["run_id"].to_list(), "repr": repr(store)}
        for name, change in {
            "begin_run": lambda: store.begin_run("new", {}, []),
            "save_artifact": lambda: store.save_artifact(1, "int", "model", "joblib"),
            "delete_run": lambda: store.delete_run(found["runs"][0], now=True),
            "gc": lambda: store.gc_artifacts(),
            "vacuum": lambda: store.vacuum(),
            "fail_run": lambda: store.fail_run(found["runs"][0], "no"),
        }.items():
            try:
                change()
            except Exception as error:
                found[name] = type(error).__name__
    return found


def use_handed_store(store: WorkspaceStore, run_id: str, number: int) -> str:
    """What a worker does with a store that it was handed: record a pipeline, and ask."""
    pipeline_id = store.begin_pipeline(run_id, f"worker {number}", {}, [], "corn", "hash")
    chain_id = chain_of(store, pipeline_id)
    predict(store, pipeline_id, chain_id, fold_id=f"fold_{number}")
    store.save_artifact([number], "list", "handed", "joblib")
    store.complete_pipeline(pipeline_id, 0.1, None, "rmse", 1)
    run = store.get_run(run_id)
    assert run is not None
    return str(run["status"])


def worker_process(store: WorkspaceStore, run_id: str, number: int, answers: Any) -> None:
    """The same, for multiprocessing; leaves without closing, as workers do."""
    status = use_handed_store(store, run_id, number)
    pipeline_id = store.begin_pipeline(run_id, "buffered at the end", {}, [], "corn", "hash")
    predict(store, pipeline_id, None)
    answers.put(status)


def record_until_told(talk: Talk, folder: Path) -> int:
    """Record whole runs one after the other, and delete every third again; gives their number."""
    number = 0
    with WorkspaceStore(folder) as store:
        while not talk.told():
            run_id = store.begin_run(f"busy {number}", {}, [])
            whole_pipeline(store, run_id, f"p{number}")
            store.complete_run(run_id, {})
            if number % 3 == 2:
                store.delete_run(run_id, now=True)
            number += 1
            if number == 2:
                talk.say("recording")
    return number
