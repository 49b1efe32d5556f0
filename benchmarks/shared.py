"""Times of a shared workspace, next to those of a folder in the same rounds.

::

    python -m benchmarks.shared postgresql://lab@127.0.0.1/nirs --blobs s3://lab/bench [--rounds 3]

Makes workspaces called ``bench-...`` in that database, and leaves them there.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np

from nirs_store.store import WorkspaceStore

_BYTES = 300_000
_PIPELINE = """
import sys, time
from benchmarks.shared import pipeline
from nirs_store.store import WorkspaceStore
store = WorkspaceStore(sys.argv[1])
run_id = store.begin_run("r", {}, [])
print("ready", flush=True)
sys.stdin.readline()
count, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    pipeline(store, run_id, int(sys.argv[3]))
    count += 1
print(count, flush=True)
store.close()
"""


def pipeline(store: WorkspaceStore, run_id: str, blobs: int = 5, predictions: int = 5) -> str:
    """Record a pipeline with a model a fold, as a cross-validation does."""
    pipeline_id = store.begin_pipeline(run_id, "pls", {}, [], "corn", "hash")
    rng = np.random.default_rng(time.monotonic_ns())
    ids = [store.save_artifact(rng.bytes(_BYTES), "builtins.bytes", "model", "joblib") for _ in range(blobs)]
    folds = {f"fold_{number}": ident for number, ident in enumerate(ids)}
    steps = [{"step_idx": 0, "operator_class": "builtins.bytes", "params": {}}]
    chain_id = (
        store.save_chain(pipeline_id, steps, 0, "builtins.bytes", "raw", "per_fold", folds, {})
        if ids
        else None
    )
    y = rng.normal(size=60)
    for fold in range(predictions):
        prediction_id = store.save_prediction(
            pipeline_id, chain_id, "corn", "PLS", "PLS", f"fold_{fold}", "val", 0.5, None, None, "rmse", "regression",
            60, 100, {"rmse": 0.5}, {}, None, None, 0, 0.0,
        )  # fmt: skip
        store.save_prediction_arrays(prediction_id, y, y)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
    return pipeline_id


def timed(work: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append((time.perf_counter() - begin) * 1000)
    return found


def said(name: str, values: list[float]) -> None:
    """Print median and the worst of a hundred."""
    ordered = sorted(values)
    worst = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
    print(f"{name:<58} {statistics.median(values):8.1f} {worst:8.1f}", flush=True)


def writers(place: str, count: int, seconds: float, blobs: int) -> list[int]:
    """Pipelines that each of some processes records in a time."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PIPELINE, place, str(seconds), str(blobs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    return [int(process.communicate("\n")[0].split()[-1]) for process in running]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared")
    parser.add_argument("server")
    parser.add_argument("--blobs", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    print(f"{'milliseconds':<58} {'median':>8} {'99 %':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.rounds):
            one_round(Path(scratch) / str(number), given.server, given.blobs, given.times)


def one_round(scratch: Path, server: str, blobs: str, times: int) -> None:
    """Measure everything once."""
    place = f"{server}?workspace=bench-{uuid4().hex[:8]}"
    at = {name: f"{place}&replica={scratch / name}" for name in ("one", "other", "new", "snapshot")}
    folder = WorkspaceStore(scratch / "folder")
    one = WorkspaceStore(at["one"], blobs=blobs)
    other = WorkspaceStore(at["other"])
    for name, store in (("folder", folder), ("shared", one)):
        run_id = store.begin_run("r", {}, [])
        said(
            f"S1 pipeline with 5 blobs of 300 kB, {name}",
            timed(lambda s=store, r=run_id: pipeline(s, r), times),
        )
        said(f"S2 pipeline without blobs, {name}", timed(lambda s=store, r=run_id: pipeline(s, r, 0), times))
    other.list_runs()
    run_id = one.begin_run("fresh", {}, [])
    for foreign in (0, 2, 16, 64, 256):
        for _ in range(foreign):
            pipeline(one, run_id, 0)
        said(f"S4 question after {foreign} foreign pipelines", timed(other.list_runs, 1))
    for name, store in (("folder", folder), ("shared", one)):
        store.top_chains(10)
        said(f"S5 warm top 10, {name}", timed(lambda s=store: s.top_chains(10), times))
    said(
        "S7 direct change (pin), folder", timed(lambda: folder.retention.pin(folder_run(folder), "x"), times)
    )
    said("S7 direct change (pin), shared", timed(lambda: one.retention.pin(run_id, "x"), times))
    said("S6 new computer by replay", timed(lambda: asked(at["new"]), 1))
    publish(one)
    said("S6 new computer by snapshot", timed(lambda: asked(at["snapshot"]), 1))
    for name, where in (("folder", str(scratch / "folder")), ("shared", at["one"])):
        for size in (0, 5):
            counts = writers(where, 4, 4.0, size)
            print(
                f"S3 4 writers, {size} blobs, {name}: {sum(counts) / 4.0:.0f} pipelines/s, each {sorted(counts)}"
            )
    for store in (folder, one, other):
        store.close()


def folder_run(store: WorkspaceStore) -> str:
    """Id of the newest run."""
    return str(store.list_runs(limit=1)["run_id"][0])


def asked(place: str) -> None:
    """Open a workspace and ask it something."""
    with WorkspaceStore(place) as store:
        store.list_runs()


def publish(store: WorkspaceStore) -> None:
    """Make a snapshot."""
    from nirs_store.shared import snapshots
    from nirs_store.shared.opening import parts_of

    snapshots.publish(store._engine, *parts_of(store._engine))


if __name__ == "__main__":
    main()
