"""W10: a search loop that asks after every pipeline."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.clock import environment
from benchmarks.paths import ROOT
from benchmarks.sizes import Size

_ASKER = (
    "import sys, time; from nirs_store import WorkspaceStore; s = WorkspaceStore(sys.argv[1])\n"
    "while True: s.top_predictions(5); time.sleep(1.0)"
)


def asking(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Milliseconds a pipeline: recording only; asking too; asking beside a process that asks each second.

    The three take turns, pipeline by pipeline in tens, each on a store of its own, so that the noise of the
    machine falls on all of them.
    """
    items = fixture.load(size.shape, size.pipelines)
    places = [folder / name for name in ("alone", "asks", "beside")]
    adapters: list[Any] = [make(peer, place) for place in places]
    for adapter in adapters:
        adapter.begin("run")
    spent = [0.0, 0.0, 0.0]
    other = subprocess.Popen([sys.executable, "-c", _ASKER, str(places[2])], env=environment(), cwd=ROOT)
    try:
        for start in range(0, len(items), 10):
            for turn, adapter in enumerate(adapters):
                begin = time.perf_counter()
                for item in items[start : start + 10]:
                    chain = adapter.record(item)
                    if turn:
                        adapter.store.top_predictions(5)
                        adapter.store.get_chain(chain)
                spent[turn] += time.perf_counter() - begin
        if other.poll() is not None:
            raise SystemExit("the process that asks has died")
    finally:
        other.kill()
        other.wait()
    for adapter in adapters:
        adapter.end()
        adapter.close()
    alone, asks, beside = (1e3 * seconds / len(items) for seconds in spent)
    return {"alone_ms": alone, "more_ms": asks - alone, "more_beside_ms": beside - alone}
