"""W1 and W9: recording pipelines one after another."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.adapters.base import Adapter
from benchmarks.clock import median, peak_memory, timed
from benchmarks.fixture import Pipeline
from benchmarks.paths import tree_bytes
from benchmarks.sizes import Size


def record_all(
    adapter: Adapter, items: list[Pipeline], name: str = "run"
) -> tuple[str, list[str], list[float]]:
    """Record a run of all pipelines; returns its id, the chains and the seconds of each pipeline."""
    run, chains, seconds = adapter.begin(name), [], []
    for item in items:
        start = time.perf_counter()
        chains.append(adapter.record(item))
        seconds.append(time.perf_counter() - start)
    adapter.end()
    return run, chains, seconds


def _summary(seconds: list[float]) -> dict[str, float]:
    hundred = max(1, min(100, len(seconds) // 2))
    ten = max(1, min(10, len(seconds) // 2))
    return {
        "pipeline_ms": 1e3 * median(seconds),
        "first10_ms": 1e3 * median(seconds[:ten]),
        "last10_ms": 1e3 * median(seconds[-ten:]),
        "first_ms": 1e3 * sum(seconds[:hundred]) / hundred,
        "last_ms": 1e3 * sum(seconds[-hundred:]) / hundred,
        "max_ms": 1e3 * max(seconds),
    }


def ingest(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """W1: one run, every pipeline durable when it is completed, closed at the end."""
    items = fixture.load(size.shape, size.pipelines)
    _warm_up(peer, folder / "warm")
    found: dict[str, float] = {}
    seconds: list[float] = []

    def work() -> None:
        adapter = make(peer, folder / "w1")
        seconds.extend(record_all(adapter, items)[2])
        adapter.close()

    with peak_memory(found):
        found["total_s"] = timed(work)
    return {**found, **_summary(seconds), "disk_mb": tree_bytes(folder / "w1") / 1e6}


def growth(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """W9: many pipelines with small models; what grows with their number."""
    items = fixture.load(size.small, size.growth)
    _warm_up(peer, folder / "warm")
    place = folder / "w9"
    adapter = make(peer, place)
    found: dict[str, float] = {}
    adapter.begin("run")
    seconds = []
    step = max(1, len(items) // 20)
    with peak_memory(found):
        for item in items:
            start = time.perf_counter()
            adapter.record(item)
            seconds.append(time.perf_counter() - start)
    adapter.end()
    adapter.close()
    # The curve: mean milliseconds a pipeline, in twenty pieces.
    curve = {
        f"curve_{i // step:02d}": 1e3 * sum(seconds[i : i + step]) / step for i in range(0, len(items), step)
    }
    opening: list[float] = []
    asking: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        again = make(peer, place)
        opening.append(time.perf_counter() - start)
        asking.append(timed(lambda a=again: a.top(10, "nir")))
        again.close()
    return {
        **found,
        **_summary(seconds),
        **curve,
        "open_ms": 1e3 * median(opening),
        "top10_ms": 1e3 * median(asking),
        "disk_mb": tree_bytes(place) / 1e6,
        "catalog_mb": (place / "store.duckdb").stat().st_size / 1e6,
        "pipelines": float(len(items)),
    }


def _warm_up(peer: str, folder: Path) -> None:
    """One small pipeline, so that imports and first-time work are no part of the measurement."""
    adapter = make(peer, folder)
    record_all(adapter, fixture.load(fixture.TINY, 1))
    adapter.close()
