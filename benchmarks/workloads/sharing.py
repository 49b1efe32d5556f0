"""W7: several processes on one folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import fixture
from benchmarks.clock import environment, median, percentile
from benchmarks.paths import ROOT
from benchmarks.sizes import SIZES, Size

# A writer: waits for the go, then records; training is CPU time spent before each pipeline.
_WRITER = """
import json, pathlib, sys, time
from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.sizes import SIZES
place, size, first, count, training, seconds = sys.argv[1:]
size = SIZES[size]
items = fixture.load(size.shape, size.pipelines)[int(first):int(first) + int(count)]
adapter = make("nirs_store", pathlib.Path(place))
adapter.begin(f"writer {first}")
print("ready", flush=True)
sys.stdin.readline()
start, number = time.monotonic(), 0
while (time.monotonic() - start < float(seconds)) if float(seconds) else number < len(items):
    until = time.process_time() + float(training)
    while time.process_time() < until:
        pass
    adapter.record(items[number % len(items)])
    number += 1
adapter.end()
adapter.close()
print(json.dumps([number, time.monotonic() - start]))
"""
# A reader: opens, asks and closes again and again. What a process imports at its first question is measured by W3.
_READER = """
import json, sys, time
from nirs_store import WorkspaceStore
place, seconds = sys.argv[1], float(sys.argv[2])
with WorkspaceStore(place) as store:
    store.top_predictions(10)
print("ready", flush=True)
sys.stdin.readline()
end, took, failed = time.monotonic() + seconds, [], 0
while time.monotonic() < end:
    start = time.perf_counter()
    try:
        with WorkspaceStore(place) as store:
            store.top_predictions(10)
    except Exception as error:
        failed += 1
        print(error, file=sys.stderr)
    took.append(time.perf_counter() - start)
    time.sleep(0.1)
print(json.dumps([took, failed]))
"""
# Seconds of CPU that stand for fitting one pipeline where training dominates.
_TRAINING = 0.2


class _Process:
    def __init__(self, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environment(),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> list:  # type: ignore[type-arg]
        found = json.loads(self.line() or "null")
        if self.process.wait() or found is None:
            raise RuntimeError("a process of the benchmark failed; its error is above")
        return list(found)


def sharing(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """A writer with and without a reader beside it; several writers against one."""
    count = size.writer_pipelines
    name_of = next(name for name, known in SIZES.items() if known is size)
    found = {"failures": 0.0}

    def writers(number: int, training: float) -> float:
        place = fixture.scratch(folder)
        crew = [_Process(_WRITER, place, name_of, k * count, count, training, 0) for k in range(number)]
        for one in crew:
            assert one.line() == "ready\n"
        start = time.perf_counter()
        for one in crew:
            one.go()
        done = sum(one.answer()[0] for one in crew)
        return float(done / (time.perf_counter() - start))

    def writer(reading: bool) -> float:
        place = fixture.scratch(folder)
        crew = [_Process(_WRITER, place, name_of, 0, size.pipelines, _TRAINING / 4, size.seconds)]
        assert crew[0].line() == "ready\n"
        if reading:
            crew.append(_Process(_READER, place, size.seconds))
            assert crew[1].line() == "ready\n"
        for one in crew:
            one.go()
        done, seconds = crew[0].answer()
        if reading:
            took, failed = crew[1].answer()
            found["reads"] = float(len(took))
            found["read_ms"] = 1e3 * median(took)
            found["read_p99_ms"] = 1e3 * percentile(took, 0.99)
            found["failures"] += failed
        return float(done / seconds)

    alone = [writer(False)]
    beside = writer(True)
    alone.append(writer(False))
    found["writer_alone_per_s"] = median(alone)
    found["writer_beside_per_s"] = beside
    for name, training in (("busy", _TRAINING), ("only", 0.0)):
        found[f"one_{name}_per_s"] = writers(1, training)
        for number in size.writers:
            found[f"{number}_{name}_per_s"] = writers(number, training)
    return found
