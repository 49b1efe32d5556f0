"""Reading back what was brought over, and comparing it with the source value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nirs_store.db.session import Engine
from nirs_store.errors import BlobCorrupt, BlobMissing
from nirs_store.migration.arriving import Arrivals, Batch, existing, stored_rows
from nirs_store.migration.reading import ForeignSource
from nirs_store.migration.report import MigrationReport, Notes

__all__ = ["verify"]

# Columns that belong to the migration and not to the source, or that people may change here.
_NOT_COMPARED = frozenset({"session_id", "name", "note", "tags", "environment"})
_EXAMPLES = 5


def verify(
    source: ForeignSource,
    engine: Engine,
    report: MigrationReport,
    show: Callable[[str, int, int], None],
    *,
    unpickle: bool = False,
) -> None:
    """Compare everything that is in the target with the source, and every file with its SHA-256.

    The source is read again: this does not trust what the carrying remembers.
    """
    arrivals = Arrivals(source, Notes(), "", unpickle=unpickle)
    differing: dict[str, list[str]] = {}

    def present(table: str, ids: Sequence[str]) -> set[str]:
        return engine.query(lambda con: existing(con, table, ids))

    wanted: dict[str, str] = {}
    done = 0
    files = report.counts["artifacts"]
    total = sum(arrivals.totals.values()) + files.added + files.present
    for batch in arrivals.batches(present):
        for key, problem in _compare(engine, batch):
            if problem is None:
                report.counts[batch.kind].verified += 1
            else:
                differing.setdefault(f"{batch.kind}: {problem}", []).append(key)
        wanted |= batch.artifacts
        done += batch.found
        show("verifying", done, total)
    for sha, name in wanted.items():
        record = engine.query(lambda con, sha=sha: stored_rows(con, "blobs", [sha]).get(sha))  # type: ignore[misc]
        try:
            if record is None:
                raise BlobMissing("no row")
            engine.blobs.verify(str(record["artifact_path"]), sha)
            report.counts["artifacts"].verified += 1
        except (BlobMissing, BlobCorrupt):
            differing.setdefault("artifacts: no intact file", []).append(name)
        done += 1
        show("verifying", done, total)
    report.differences = [
        f"{what}: {len(keys)} ({', '.join(keys[:_EXAMPLES])}{', ...' if len(keys) > _EXAMPLES else ''})"
        for what, keys in differing.items()
    ]


def _compare(engine: Engine, batch: Batch) -> list[tuple[str, str | None]]:
    stored = engine.query(lambda con: stored_rows(con, batch.table, batch.keys))
    arrays = [array["array_hash"] for array in batch.arrays]
    bytes_there = engine.query(lambda con: stored_rows(con, "arrays", arrays)) if arrays else {}
    data = {array["array_hash"]: array["data"] for array in batch.arrays}
    found: list[tuple[str, str | None]] = []
    for key, row in zip(batch.keys, batch.rows, strict=True):
        there = stored.get(key)
        if there is None:
            continue  # deleted here since an earlier migration
        wrong = _difference(row, there)
        if wrong is None and batch.kind == "arrays":
            hashes = [value for name, value in row.items() if name != "prediction_id"]
            if any(bytes_there.get(h, {}).get("data") != data[h] for h in hashes):
                wrong = "bytes differ"
        found.append((key, wrong))
    return found


def _difference(row: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    for name, value in row.items():
        other = there.get(name)
        same = value == other or (value != value and other != other)
        if not same and name not in _NOT_COMPARED:
            return f"{name} differs"
    return None
