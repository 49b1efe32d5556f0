"""Measuring: medians, peak memory, whole processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def environment(**more: str) -> dict[str, str]:
    """Variables of a measured process: one thread for linear algebra, this checkout first."""
    found = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "PYTHONPATH": str(ROOT), **more}
    # A long first import must not be paid for by whoever happens to run first.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def median(values: Sequence[float]) -> float:
    """Median, as a plain number."""
    return float(statistics.median(values))


def percentile(values: Sequence[float], part: float) -> float:
    """Nearest-rank percentile; `part` between 0 and 1."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(part * len(ordered)))])


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternately(repeats: int, *calls: Callable[[], Any], block: int = 1) -> list[float]:
    """Median seconds of each call, run in turn (A B A B) after one call of each to warm up."""
    for call in calls:
        call()
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(0, repeats, block):
        for seconds, call in zip(found, calls, strict=True):
            seconds += [timed(call) for _ in range(block)]
    return [median(seconds) for seconds in found]


def whole_process(arguments: Sequence[str], *, python: str = sys.executable) -> float:
    """Wall seconds of a Python process from start to exit."""
    start = time.perf_counter()
    subprocess.run([python, *arguments], check=True, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def processes(repeats: int, *commands: Sequence[str]) -> list[float]:
    """Median wall seconds of whole processes, run in turn after one of each to warm up the disk."""
    return alternately(repeats, *[lambda c=command: whole_process(c) for command in commands])


@contextmanager
def peak_memory(found: dict[str, float]) -> Iterator[None]:
    """Note how far the resident memory rose above where it stood, in MB, as `memory_mb`."""
    import psutil

    process = psutil.Process()
    before = process.memory_info().rss
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        # Linux keeps the peak itself, and forgets it on request.
        reset.write_text("5")
        yield
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    else:
        highest, over = [before], threading.Event()

        def watch() -> None:
            while not over.wait(0.01):
                highest.append(process.memory_info().rss)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        yield
        over.set()
        watcher.join()
        peak = max(highest)
    found["memory_mb"] = max(0, peak - before) / 1e6
