"""W6: deleting one of two runs."""

from __future__ import annotations

from pathlib import Path

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.clock import timed
from benchmarks.paths import tree_bytes
from benchmarks.sizes import Size
from benchmarks.workloads.ingest import record_all


def clean(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Delete it with everything that only it needs, and give the space back."""
    items = fixture.load(size.shape, size.pipelines)
    half = min(size.runs, len(items) // 2) or 1
    place = folder / "w6"
    adapter = make(peer, place)
    first, _, _ = record_all(adapter, items[:half], "first")
    record_all(adapter, items[-half:], "second")
    adapter.close()
    before = tree_bytes(place)
    adapter = make(peer, place)
    seconds = timed(lambda: adapter.clean(first))
    adapter.close()
    after = tree_bytes(place)
    return {
        "clean_s": seconds,
        "before_mb": before / 1e6,
        "after_mb": after / 1e6,
        "freed": 1 - after / before,
    }
