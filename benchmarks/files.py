"""Stored files at scale: registering and asking of 100,000, and one file of 2 GB through the store.

::

    python -m benchmarks.files                 # both; figures on standard output as JSON
    python -m benchmarks.files --count 10000 --megabytes 200

What is asked is compared with the same SQL on a bare DuckDB connection, the two in turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.clock import alternately, peak_memory
from nirs_store import WorkspaceStore
from nirs_store.files import rows as file_rows

_BATCH = 1000
_TYPES = ("splice_positions", "analysis_sequences", "episode_data", "report")


def _item(number: int) -> dict[str, object]:
    return {
        "source": None,
        "name": f"ensembl/GRCh{37 + number % 2}/model{number % 50:02d}/part_{number:06d}.tsv",
        "type": _TYPES[number % len(_TYPES)],
        "tags": ["final" if number % 100 == 0 else "draft", f"batch{number % 7}"],
        "metadata": {"sample": number, "instrument": f"lamp {number % 13}", "note": "scan of a meat sample"},
        "model_id": f"model{number % 50:02d}",
    }


def register(folder: Path, count: int, *, batch: int = _BATCH) -> dict[str, float]:
    """Register files in batches; the cost of the first and the last ones."""
    seconds = []
    with WorkspaceStore(folder) as store:
        store.files.put_many([_item(-1)])
        for start in range(0, count, batch):
            items = [_item(number) for number in range(start, start + batch)]
            begin = time.perf_counter()
            store.files.put_many(items)
            seconds.append(time.perf_counter() - begin)
        singles = []
        for number in range(count, count + 20):
            begin = time.perf_counter()
            store.files.put(**_item(number))  # type: ignore[arg-type]
            singles.append(time.perf_counter() - begin)
    few = max(1, len(seconds) // 20)
    return {
        "register_s": sum(seconds),
        "first_thousand_ms": 1e3 * sum(seconds[:few]) / few,
        "last_thousand_ms": 1e3 * sum(seconds[-few:]) / few,
        "one_more_ms": 1e3 * sorted(singles)[len(singles) // 2],
    }


def ask(folder: Path, *, repeats: int = 15) -> dict[str, float]:
    """List by pattern, filter by tag, search: through the store, and bare."""
    found: dict[str, float] = {}
    with WorkspaceStore(folder, read_only=True) as store:
        store.files.exists("nothing")
        questions = {
            "list": (
                lambda: store.files.list("ensembl/GRCh37/model1*"),
                {"pattern": "ensembl/GRCh37/model1*"},
            ),
            "tag": (lambda: store.files.list(tags="final"), {"tags": ["final"]}),
            "search": (lambda: store.files.search("lamp 7 meat"), {"words": ["lamp", "7", "meat"]}),
        }
        for name, (call, given) in questions.items():
            pattern = given.pop("pattern", None)
            where = file_rows.condition(pattern, {}, **given)  # type: ignore[arg-type]

            # A copy: DuckDB opens no file twice.
            copy = folder.parent / "bare.duckdb"
            copy.write_bytes((folder / "store.duckdb").read_bytes())
            con = duckdb.connect(str(copy), read_only=True)

            def bare(con: Any = con, where: tuple[str, dict[str, object]] = where) -> object:
                return con.sql(file_rows.list_sql(where[0]), params=where[1]).pl()

            # In blocks: a store lets go of the catalog 50 ms after a question, and opening it anew is another cost.
            ours, theirs = alternately(repeats, call, bare, block=5)
            con.close()
            found |= {
                f"{name}_ms": 1e3 * ours,
                f"{name}_bare_ms": 1e3 * theirs,
                f"{name}_ratio": ours / theirs,
            }
            found[f"{name}_rows"] = float(call().height)
    return found


def move(folder: Path, megabytes: int, compression: str) -> dict[str, float]:
    """Put one large file and get it again; seconds, and how far the memory rose."""
    source, target = folder / "large.bin", folder / "back.bin"
    # Half noise, half text: neither trivial to compress nor impossible.
    import os

    block = os.urandom(1 << 19) + (b"1000.5\t0.123456\n" * (1 << 15))
    with source.open("wb") as file:
        for number in range(megabytes):
            file.write(number.to_bytes(8, "big") + block[8:])
    found: dict[str, float] = {}
    with WorkspaceStore(folder / f"store-{compression}") as store:
        store.files.put(b"warm" * 1000, "warm.bin", type="file", compression=compression)
        store.files.get("warm.bin")
        memory: dict[str, float] = {}
        with peak_memory(memory):
            begin = time.perf_counter()
            version = store.files.put(source, "large.bin", type="file", compression=compression)
            found[f"{compression}_put_s"] = time.perf_counter() - begin
        found[f"{compression}_put_memory_mb"] = memory["memory_mb"]
        with peak_memory(memory):
            begin = time.perf_counter()
            store.files.get("large.bin", target)
            found[f"{compression}_get_s"] = time.perf_counter() - begin
        found[f"{compression}_get_memory_mb"] = memory["memory_mb"]
        found[f"{compression}_stored_share"] = version.stored_bytes / version.size_bytes
        if target.stat().st_size != source.stat().st_size:
            raise SystemExit("the file came back with another size")
    target.unlink()
    source.unlink()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--compressions", nargs="+", default=["none", "auto", "gzip"])
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        folder, found = Path(name), {}
        if given.count:
            found |= register(folder / "many", given.count)
            found |= ask(folder / "many")
        if given.megabytes:
            for compression in given.compressions:
                found |= move(folder, given.megabytes, compression)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
