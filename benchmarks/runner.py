"""Running a set of workloads in turn: round after round, each peer of a workload after the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import fixture
from benchmarks.adapters import PEERS as ALL_PEERS
from benchmarks.clock import environment
from benchmarks.machine import describe
from benchmarks.paths import CACHE, ROOT
from benchmarks.peers import python_of
from benchmarks.workloads import PEERS

# Beyond that a process is stuck, not slow.
_PATIENCE = 1800


class Unequal(RuntimeError):
    """The peers do not record the same."""


def worker(peer: str, what: str, size: str, folder: Path, *more: str) -> Any:
    """Run one measurement in a process of the peer's own environment."""
    python = python_of(peer)
    assert python is not None
    if hasattr(os, "sync"):
        # What one peer left unwritten must not be paid for by the next.
        os.sync()
    done = subprocess.run(
        [python, "-m", "benchmarks.worker", what, peer, size, str(folder), *more],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=_PATIENCE,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare_results(peers: Sequence[str]) -> None:
    """Record the same three pipelines with each peer, and compare what a new process reads back.

    Raises
    ------
    Unequal
    """
    found: dict[str, dict[str, str]] = {}
    for peer in peers:
        folder = fixture.scratch()
        try:
            chains = worker(peer, "check", "tiny", folder / "equal")
            found[peer] = worker(peer, "read", "tiny", folder / "equal", *chains)
        finally:
            shutil.rmtree(folder)
    for what in ("scores", "arrays", "predictions"):
        digests = {peer: answer[what] for peer, answer in found.items() if what in answer}
        if len(set(digests.values())) > 1:
            raise Unequal(f"{what} differ: {digests}")


def available(peers: Sequence[str] | None) -> list[str]:
    """The peers to run: all that are asked for and installed."""
    wanted = list(peers or ALL_PEERS)
    missing = [peer for peer in wanted if python_of(peer) is None]
    if missing:
        _say(f"left out, because not installed: {', '.join(missing)} (python -m benchmarks peers)")
    return [peer for peer in wanted if peer not in missing]


def run(
    workloads: Sequence[str],
    *,
    size: str,
    rounds: int,
    peers: Sequence[str] | None,
    scratch: Path | None,
    keep: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Measure, and give everything that a report is made from.

    `keep` is called with the results so far after every measurement. One that fails is named in the results
    under ``failures``, and the others go on.
    """
    chosen = available(peers)
    compare_results(chosen)
    _say(f"{', '.join(chosen)} record and read back the same")
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    place = scratch or CACHE
    place.mkdir(parents=True, exist_ok=True)
    results = {
        "size": size,
        "rounds": rounds,
        "machine": describe(place),
        "rows": rows,
        "failures": failures,
    }
    for workload in workloads:
        with ExitStack() as later:
            for turn, peer in product(range(rounds), PEERS[workload]):
                if peer not in chosen:
                    continue
                folder = fixture.scratch(scratch)
                # Removed after the last round: ext4 passes over the inodes of files that were deleted in the last
                # minutes one by one, and whoever comes next would pay for it with every file.
                later.callback(shutil.rmtree, folder, ignore_errors=True)
                start = time.perf_counter()
                try:
                    metrics = worker(peer, workload, size, folder)
                except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                    failures.append(f"{workload} {peer} round {turn + 1}: {error}")
                    _say(f"FAILED {failures[-1]}")
                    continue
                _say(f"{workload} {peer} round {turn + 1}: {time.perf_counter() - start:.1f} s")
                rows.append({"workload": workload, "peer": peer, "round": turn, "metrics": metrics})
                keep(results)
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
