"""W2: the same fitted transformer saved many times."""

from __future__ import annotations

from pathlib import Path

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.clock import median, timed
from benchmarks.paths import tree_bytes
from benchmarks.sizes import Size


def dedup(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Save it; the median is that of the second save and later ones."""
    obj = fixture.transformer()
    adapter = make(peer, folder / "w2")
    run = adapter.begin("run") if peer != "floor" else ""
    seconds = [timed(lambda: adapter.save(obj)) for _ in range(size.saves)]
    if run:
        adapter.end()
    adapter.close()
    return {"save_ms": 1e3 * median(seconds[1:]), "disk_mb": tree_bytes(folder / "w2") / 1e6}
