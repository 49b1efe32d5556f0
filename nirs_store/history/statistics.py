"""Statistics of a store: what is there, what it takes, what was saved, what went wrong, how it grew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nirs_store.audit.trail import errors_by_operation
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.display import block, byte_text, field_table, table
from nirs_store.lazy import polars as pl
from nirs_store.maintenance.gc import Shared, array_bytes, artifact_bytes
from nirs_store.records.queries import frame
from nirs_store.values import one_of

# -- Counting: by type, status and run, by day and month, and what compression and deduplication saved.


_COUNTED = (
    "runs", "pipelines", "chains", "predictions", "blobs", "file_versions", "dataset_versions", "evaluations",
    "champions", "calibration_versions", "lineage_links", "audit_entries", "pins", "logs",
)  # fmt: skip
_GROWING = {
    "runs": ("runs", "created_at", "0"),
    "pipelines": ("pipelines", "created_at", "0"),
    "chains": ("chains", "created_at", "0"),
    "predictions": ("predictions", "created_at", "0"),
    "artifacts": ("blobs", "created_at", "size_bytes"),
    "files": ("file_versions", "created_at", "stored_bytes"),
    "datasets": ("dataset_versions", "created_at", "size_bytes"),
    "evaluations": ("evaluations", "created_at", "0"),
}
STEPS = ("day", "week", "month", "year")


def counts(con: Connection) -> dict[str, int]:
    """Rows of each table that people know of."""
    each = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in _COUNTED)
    row = frame(con, f"SELECT {each}").row(0, named=True)
    names = {"blobs": "artifacts", "file_versions": "files", "dataset_versions": "datasets"}
    return {names.get(name, name): int(value) for name, value in row.items()}


def statuses(con: Connection, alive: list[str]) -> dict[str, dict[str, int]]:
    """Return runs, pipelines and files by status; what a dead session left running shows as interrupted."""
    status = "CASE WHEN status = 'running' AND NOT list_contains($alive, session_id) THEN 'interrupted' ELSE status END"
    found: dict[str, dict[str, int]] = {}
    for name, column in (("runs", status), ("pipelines", status), ("file_versions", "status")):
        rows = con.execute(
            f"SELECT {column} AS s, count(*) FROM {name} GROUP BY s ORDER BY s",
            {"alive": alive} if "$alive" in column else None,
        ).fetchall()
        found["files" if name == "file_versions" else name] = {str(row[0]): int(row[1]) for row in rows}
    return found


def files(con: Connection) -> dict[str, Any]:
    """Files by type and compression: versions, bytes as given and as stored."""
    found: dict[str, Any] = {}
    for column in ("type", "compression"):
        rows = con.execute(
            f"SELECT {column}, count(*), coalesce(sum(size_bytes), 0)::BIGINT, "
            f"coalesce(sum(stored_bytes), 0)::BIGINT FROM file_versions GROUP BY {column} ORDER BY 4 DESC, 1"
        ).fetchall()
        found[column] = {
            str(row[0]): {"count": int(row[1]), "bytes": int(row[2]), "stored_bytes": int(row[3])}
            for row in rows
        }
    return found


def by_run(con: Connection, limit: int) -> pl.DataFrame:
    """Return the runs with most bytes: pipelines, chains, predictions, artifacts, files, bytes."""
    return frame(
        con,
        """
        WITH held AS (
            SELECT run_id, count(*) AS artifacts, sum(size_bytes) AS bytes FROM (
                SELECT DISTINCT l.run_id, b.artifact_id, b.size_bytes FROM artifact_refs r
                    JOIN pipelines l USING (pipeline_id) JOIN blobs b ON b.artifact_id = r.artifact_id)
            GROUP BY run_id
        ), put AS (
            SELECT run_id, count(*) AS files, sum(stored_bytes) AS bytes FROM file_versions
            WHERE run_id IS NOT NULL GROUP BY run_id
        ), lines AS (SELECT run_id, count(*) AS n FROM pipelines GROUP BY run_id),
        linked AS (SELECT run_id, count(*) AS n FROM chains JOIN pipelines USING (pipeline_id) GROUP BY run_id),
        counted AS (SELECT run_id, count(*) AS n FROM predictions JOIN pipelines USING (pipeline_id) GROUP BY run_id)
        SELECT r.run_id, r.name, r.status, coalesce(lines.n, 0) AS pipelines, coalesce(linked.n, 0) AS chains,
            coalesce(counted.n, 0) AS predictions, coalesce(held.artifacts, 0) AS artifacts,
            coalesce(put.files, 0) AS files,
            (coalesce(held.bytes, 0) + coalesce(put.bytes, 0))::BIGINT AS bytes
        FROM runs r LEFT JOIN held USING (run_id) LEFT JOIN put USING (run_id) LEFT JOIN lines USING (run_id)
            LEFT JOIN linked USING (run_id) LEFT JOIN counted USING (run_id)
        ORDER BY bytes DESC, r.run_id LIMIT ?
        """,
        [limit],
    )


def growth(con: Connection, step: str) -> pl.DataFrame:
    """Return what was added per day, week, month or year: rows per kind and bytes, with running totals."""
    parts = " UNION ALL ".join(
        f"SELECT date_trunc('{step}', {moment})::DATE AS since, '{name}' AS kind, {size}::BIGINT AS bytes FROM {table}"
        for name, (table, moment, size) in _GROWING.items()
    )
    each = ", ".join(f"count(*) FILTER (kind = '{name}') AS {name}" for name in _GROWING)
    return frame(
        con,
        f"SELECT *, sum(bytes) OVER (ORDER BY since)::BIGINT AS total_bytes FROM (SELECT since, {each}, "
        f"sum(bytes)::BIGINT AS bytes FROM ({parts}) GROUP BY since) ORDER BY since",
    )


@dataclass(frozen=True)
class Statistics:
    """What a store holds, in numbers.

    Attributes
    ----------
    counts : dict of str to int
        Rows by kind: runs, pipelines, chains, predictions, artifacts, files, evaluations, ...
    by_status : dict
        Runs, pipelines and files by status.
    artifacts : tuple of Shared
        Artifacts by type, then arrays: ``kind``, ``stored``, ``bytes``, ``saved_bytes``.
    files : dict
        Versions of files by ``type`` and by ``compression``: ``count``, ``bytes`` (as given), ``stored_bytes``.
    operations : dict of str to (int, int)
        Entries of the audit trail by operation, and how many of them failed.
    runs : polars.DataFrame
        The largest runs: pipelines, chains, predictions, artifacts, files, bytes.
    growth : polars.DataFrame
        What came in each period, and ``total_bytes`` so far.
    """

    counts: dict[str, int]
    by_status: dict[str, dict[str, int]]
    artifacts: tuple[Shared, ...]
    files: dict[str, Any]
    operations: dict[str, tuple[int, int]]
    runs: pl.DataFrame
    growth: pl.DataFrame

    @property
    def total_bytes(self) -> int:
        """Bytes of artifacts, arrays and what files keep next to them."""
        return sum(kind.bytes for kind in self.artifacts)

    @property
    def saved_bytes(self) -> int:
        """Bytes that deduplication saved."""
        return sum(kind.saved_bytes for kind in self.artifacts)

    @property
    def deduplication(self) -> float:
        """Share of the bytes that storing nothing twice saved: saved / (stored + saved); 0 when empty."""
        whole = self.total_bytes + self.saved_bytes
        return self.saved_bytes / whole if whole else 0.0

    @property
    def compression(self) -> float:
        """Share of the bytes of files that compression saved: 1 - stored / given; 0 without files."""
        given = sum(kind["bytes"] for kind in self.files["type"].values())
        stored = sum(kind["stored_bytes"] for kind in self.files["type"].values())
        return 1.0 - stored / given if given else 0.0

    @property
    def total_errors(self) -> int:
        """Entries of the audit trail about what was refused or failed."""
        return sum(failed for _, failed in self.operations.values())

    @property
    def errors_by_operation(self) -> dict[str, int]:
        """Failed entries by operation, most first."""
        return {name: failed for name, (_, failed) in self.operations.items() if failed}

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as plain data."""
        return {
            "counts": self.counts,
            "by_status": self.by_status,
            "artifacts": [vars(kind) for kind in self.artifacts],
            "total_bytes": self.total_bytes,
            "saved_bytes": self.saved_bytes,
            "deduplication": self.deduplication,
            "files": self.files,
            "compression": self.compression,
            "operations": {
                name: {"entries": entries, "failed": failed}
                for name, (entries, failed) in self.operations.items()
            },
            "total_errors": self.total_errors,
            "errors_by_operation": self.errors_by_operation,
            "runs": self.runs.to_dicts(),
            "growth": self.growth.to_dicts(),
        }

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            name.replace("_", " "): f"{count:,}{self._of(name)}"
            for name, count in self.counts.items()
            if count
        }
        facts["stored"] = byte_text(self.total_bytes)
        facts["saved"] = f"{byte_text(self.saved_bytes)} ({self.deduplication:.0%}) by storing nothing twice"
        if self.files["type"]:
            facts["compression"] = f"{self.compression:.0%} of the bytes of files"
        facts["errors"] = ", ".join(f"{n} {name}" for name, n in self.errors_by_operation.items()) or "none"
        return facts

    def _of(self, name: str) -> str:
        found = self.by_status.get(name)
        return f" ({', '.join(f'{n} {status}' for status, n in found.items())})" if found else ""

    def __str__(self) -> str:
        facts = self._facts()
        width = max(map(len, facts))
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items())

    def _repr_html_(self) -> str:
        grown = table(self.growth.columns, self.growth.tail(12).rows(), caption="growth")
        return block("Statistics", field_table(self._facts()), grown)


def statistics(engine: Engine, *, runs: int = 10, step: str = "month") -> Statistics:
    """Count; changes nothing."""
    one_of("step", step, STEPS, "")

    def ask(con: Connection) -> Statistics:
        return Statistics(
            counts(con),
            statuses(con, engine.living_sessions()),
            (*artifact_bytes(con), array_bytes(con)),
            files(con),
            errors_by_operation(con),
            by_run(con, runs),
            growth(con, step),
        )

    return engine.query(ask)
