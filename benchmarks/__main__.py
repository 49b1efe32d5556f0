"""Command line of the benchmarks.

::

    python -m benchmarks peers                    # once: environments of MLflow and nirs4all
    python -m benchmarks run                      # everything, three rounds
    python -m benchmarks run --short              # a first impression, under 3 minutes
    python -m benchmarks run W1 W4 --rounds 5     # some of it
    python -m benchmarks report                   # tables and plots again, from the JSON file
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.adapters import PEERS
from benchmarks.paths import RESULTS
from benchmarks.peers import PINNED, make_environments
from benchmarks.sizes import SIZES
from benchmarks.workloads import PEERS as WORKLOADS


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    peers = commands.add_parser("peers", help="make the peers' environments")
    peers.add_argument("names", nargs="*", choices=[*PINNED, []], help="default: all")
    run = commands.add_parser("run", help="measure, write JSON, tables and plots")
    run.add_argument("workloads", nargs="*", metavar="W", help=f"of {', '.join(WORKLOADS)}; default: all")
    run.add_argument("--short", action="store_true", help="small sizes, one round, no foreign peers, no W7")
    run.add_argument("--size", choices=list(SIZES), default="full")
    run.add_argument("--rounds", type=int, default=3)
    run.add_argument("--peers", nargs="+", choices=PEERS)
    run.add_argument("--scratch", type=Path, help="folder on the disk to be measured")
    run.add_argument("--json", type=Path, default=RESULTS)
    run.add_argument("--merge", action="store_true", help="keep what the file has of other workloads")
    report = commands.add_parser("report", help="tables and plots again, from the JSON file")
    report.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if given.command == "peers":
        make_environments(given.names or list(PINNED))
        return
    if given.command == "run":
        _run(given)
    from benchmarks.report import write

    print(write(json.loads(given.json.read_text()), publish=given.json == RESULTS, beside=given.json))


# Of the short form only when they are asked for by name: most of their time is that of starting processes.
_LONG = ("W7", "W16", "parts")


def _run(given: argparse.Namespace) -> None:
    from benchmarks import runner

    unknown = set(given.workloads) - set(WORKLOADS)
    if unknown:
        raise SystemExit(f"unknown workloads: {', '.join(sorted(unknown))}; known: {', '.join(WORKLOADS)}")
    if given.short:
        given.size, given.rounds = "short", 1
        given.peers = given.peers or ["floor", "nirs_store", "plain"]
        given.json = given.json if given.json != RESULTS else RESULTS.with_name("results-short.json")
    chosen = given.workloads or [name for name in WORKLOADS if not (given.short and name in _LONG)]
    others = []
    if given.merge and given.json.exists():
        before = json.loads(given.json.read_text())
        others = [row for row in before["rows"] if row["workload"] not in chosen]

    def keep(results: dict[str, Any]) -> None:
        given.json.write_text(json.dumps({**results, "rows": others + results["rows"]}, indent=1) + "\n")

    results = runner.run(
        chosen, size=given.size, rounds=given.rounds, peers=given.peers, scratch=given.scratch, keep=keep
    )
    keep(results)


if __name__ == "__main__":
    main()
