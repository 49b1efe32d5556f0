"""Crash sweep: kill, or fail, an operation at every system call by which it changes the workspace.

    python tests/faults/sweep.py --all              every point, prints the report card
    python tests/faults/sweep.py --all --kill-only  the kills only
    python tests/faults/sweep.py --points 200       a sample
    python tests/faults/sweep.py gc vacuum          some operations only

After each fault a fresh process opens the workspace and looks for acknowledged writes that are lost and for
half states, then runs the operation again. Linux with strace.
"""

from __future__ import annotations

import argparse
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

# This folder, and the checkout when the package is not installed.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from fault_bench import Bench, Call, Fault, Outcome, unavailable  # noqa: E402
from fault_ops import OPERATIONS  # noqa: E402

__all__ = ["Card", "clean_passes", "faults_of", "run_faults", "sample"]

BEYOND = "beyond the last"
KINDS = ("KILL", "ENOSPC", "EIO", "ENOSPC+", "EIO+")


def faults_of(bench: Bench, operation: str, kinds: Sequence[str] = KINDS) -> list[Fault]:
    """Every fault of an operation: each kind at each of its calls."""
    return [
        Fault(operation, thread, call, kind)
        for thread in OPERATIONS[operation].threads
        for call in bench.calls(operation, thread)
        for kind in kinds
        # No file system answers a deletion with "no space".
        if not (kind == "ENOSPC" and call.name.startswith(("unlink", "rmdir")))
    ]


def clean_passes(bench: Bench, operation: str) -> list[Fault]:
    """For each system call, a kill at one more than the operation makes: it should come through."""
    beyond = []
    for thread in OPERATIONS[operation].threads:
        calls = bench.calls(operation, thread)
        last = {call.name: call for call in calls}
        beyond += [
            Fault(operation, thread, Call(name, call.nth + 1, BEYOND, {}), "KILL")
            for name, call in last.items()
            if name not in ("openat", "open")
        ]
    return beyond


def sample(faults: Sequence[Fault], count: int, seed: str) -> list[Fault]:
    """Some faults, always the same ones: half of them kills."""
    rng = random.Random(seed)
    kills = [fault for fault in faults if fault.what == "KILL"]
    errors = [fault for fault in faults if fault.what != "KILL"]
    half = min(len(kills), (count + 1) // 2)
    return rng.sample(kills, half) + rng.sample(errors, min(len(errors), count - half))


def run_faults(
    benches: Sequence[Bench],
    faults: Iterable[Fault],
    seen: Callable[[Outcome], None],
    deadline: float | None = None,
) -> int:
    """Run faults on some benches at once; returns how many were left when the time was over."""
    waiting: queue.SimpleQueue[Fault] = queue.SimpleQueue()
    for fault in faults:
        waiting.put(fault)
    mutex = threading.Lock()
    failed: list[BaseException] = []

    def work(bench: Bench) -> None:
        while not failed and (deadline is None or time.monotonic() < deadline):
            try:
                fault = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                outcome = bench.outcome(fault)
            except BaseException as error:
                error.add_note(str(fault))
                failed.append(error)
                return
            with mutex:
                seen(outcome)

    threads = [threading.Thread(target=work, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return waiting.qsize()


class Card:
    """The report card."""

    _COLUMNS = (
        *("points", "kills", "errors", "clean", "missed"),
        *("lost", "half", "silent", "untyped", "stuck", "repeat"),
    )

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._points: set[tuple[str, str, str, int]] = set()
        self._began = time.monotonic()
        self.problems: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        fault = outcome.fault
        assert fault is not None
        count = self._counts.setdefault(fault.operation, Counter())
        point = (fault.operation, fault.thread, fault.call.name, fault.call.nth)
        if not outcome.fired:
            count["clean" if fault.call.text == BEYOND else "missed"] += 1
        else:
            count["points"] += point not in self._points
            self._points.add(point)
            count["kills" if fault.what == "KILL" else "errors"] += 1
        count["lost"] += bool(outcome.lost)
        count["half"] += bool(outcome.half)
        count["silent"] += outcome.silent
        count["untyped"] += outcome.ended in ("untyped", "crashed", "hung")
        count["stuck"] += outcome.stuck
        count["repeat"] += bool(outcome.repeat)
        if outcome.problems:
            self.problems.append(f"{fault}\n    " + "\n    ".join(outcome.problems))

    def total(self, column: str) -> int:
        """One column summed over all operations."""
        return sum(count[column] for count in self._counts.values())

    def __str__(self) -> str:
        head = f"{'operation':<18}" + "".join(f"{name:>8}" for name in self._COLUMNS)
        lines = [
            f"{name:<18}" + "".join(f"{count[column]:>8}" for column in self._COLUMNS)
            for name, count in self._counts.items()
        ]
        lines.append(f"{'all':<18}" + "".join(f"{self.total(column):>8}" for column in self._COLUMNS))
        return "\n".join([head, *lines, f"{time.monotonic() - self._began:.0f} seconds"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "operations", nargs="*", metavar="operation", help=f"of {', '.join(OPERATIONS)}; default: all"
    )
    parser.add_argument("--all", action="store_true", help="every point (the default without --points)")
    parser.add_argument("--points", type=int, help="a seeded sample of so many faults")
    parser.add_argument("--kill-only", action="store_true", help="no errors")
    parser.add_argument("--jobs", type=int, default=2, help="at once (default 2)")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after so long (default 30)")
    parser.add_argument("--seed", default="sweep")
    options = parser.parse_args(arguments)
    unknown = set(options.operations) - OPERATIONS.keys()
    if unknown:
        parser.error(f"no such operation: {', '.join(sorted(unknown))}")
    reason = unavailable()
    if reason is not None:
        print(reason)
        return 0
    card = Card()
    benches = [Bench() for _ in range(options.jobs)]
    try:
        names = options.operations or list(OPERATIONS)
        kinds = KINDS[:1] if options.kill_only else KINDS
        faults = [fault for name in names for fault in faults_of(benches[0], name, kinds)]
        faults += [fault for name in names for fault in clean_passes(benches[0], name)]
        # Shuffled, so that a sweep that runs out of time has seen some of everything.
        random.Random(options.seed).shuffle(faults)
        if options.points is not None and not options.all:
            faults = sample(faults, options.points, options.seed)
        print(f"{len(faults)} faults", flush=True)
        done = 0

        def seen(outcome: Outcome) -> None:
            nonlocal done
            done += 1
            before = len(card.problems)
            card.add(outcome)
            for problem in card.problems[before:]:
                print(problem, flush=True)
            if done % 200 == 0:
                print(f"{done} of {len(faults)}\n{card}", flush=True)

        left = run_faults(benches, faults, seen, time.monotonic() + 60 * options.minutes)
    finally:
        for bench in benches:
            bench.close()
    print(card)
    if left:
        print(f"{left} faults were not reached in {options.minutes:g} minutes")
    return 1 if card.problems else 0


if __name__ == "__main__":
    sys.exit(main())
