"""Statistics of a store: what is there, what it takes, what was saved, what went wrong, how it grew."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from nirs_store.catalog import statistics_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.audit_queries import errors_by_operation
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.storage import Shared, array_bytes, artifact_bytes
from nirs_store.display import block, byte_text, field_table, table
from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl

__all__ = ["Statistics", "statistics"]


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
        """Bytes of artifacts, arrays and what files keep beside them."""
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
        """The statistics as plain data."""
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
    """Count; changes nothing.

    Parameters
    ----------
    runs : int
        How many of the largest runs.
    step : {"day", "week", "month", "year"}
        Periods of the growth.

    Raises
    ------
    InvalidInput
        An unknown step; the nearest is named.
    """
    if step not in statistics_rows.STEPS:
        near = difflib.get_close_matches(str(step), statistics_rows.STEPS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(f"step: expected one of {', '.join(statistics_rows.STEPS)}, found {step!r}.{hint}")

    def ask(con: Connection) -> Statistics:
        return Statistics(
            statistics_rows.counts(con),
            statistics_rows.statuses(con, engine.living_sessions()),
            (*artifact_bytes(con), array_bytes(con)),
            statistics_rows.files(con),
            errors_by_operation(con),
            statistics_rows.by_run(con, runs),
            statistics_rows.growth(con, step),
        )

    return engine.query(ask)
