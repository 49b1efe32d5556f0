"""The storage report: where a workspace's bytes are, and what keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nirs_store.catalog import storage
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.storage import RunBytes, Shared
from nirs_store.upkeep.durations import GRACE_SECONDS
from nirs_store.upkeep.gc import plan_gc

__all__ = ["RunBytes", "Shared", "StorageReport", "storage_report"]

# What lies in a workspace beside the catalog's file; anything else is the user's own.
_FOLDERS = ("artifacts", "journal", "quarantine", "exports", "library")


@dataclass(frozen=True)
class StorageReport:
    """Bytes of a workspace.

    Attributes
    ----------
    files : dict
        Bytes on disk by place: ``catalog`` (store.duckdb with its log), ``artifacts``, ``journal``,
        ``quarantine``, ``exports``, ``library``.
    kinds : tuple of Shared
        Artifacts by type ("model", "transformer", …), then the arrays inside the catalog: ``kind``,
        ``stored`` (how many), ``bytes``, and ``saved_bytes``, which as many copies as there are references would
        take on top.
    largest_runs : tuple of RunBytes
        ``run_id``, ``name``, ``bytes`` of artifacts and arrays that the run names, ``own_bytes`` of those
        that no other run names.
    unreferenced_bytes : int
        Files and arrays that nothing holds; `gc_artifacts` removes them.
    unknown_files : int
        Files among the artifacts that no row names; never removed.
    """

    files: dict[str, int]
    kinds: tuple[Shared, ...]
    largest_runs: tuple[RunBytes, ...]
    unreferenced_bytes: int
    unknown_files: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all files of the workspace."""
        return sum(self.files.values())

    @property
    def saved_bytes(self) -> int:
        """Bytes that deduplication saved."""
        return sum(kind.saved_bytes for kind in self.kinds)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        report = asdict(self)
        report["largest_runs"] = [run._asdict() for run in self.largest_runs]
        return {**report, "total_bytes": self.total_bytes, "saved_bytes": self.saved_bytes}


def storage_report(engine: Engine, *, runs: int = 10, grace_seconds: float = GRACE_SECONDS) -> StorageReport:
    """Measure a workspace; changes nothing."""

    def ask(con: Connection) -> tuple[tuple[Shared, ...], tuple[RunBytes, ...]]:
        kinds = (*storage.artifact_bytes(con), storage.array_bytes(con))
        return kinds, tuple(storage.largest_runs(con, runs))

    kinds, largest = engine.query(ask)
    plan = plan_gc(engine, grace_seconds=grace_seconds)
    root = engine.layout.root
    files = {"catalog": sum(_size(path) for path in (engine.layout.catalog, engine.layout.wal))}
    files |= {name: sum(map(_size, (root / name).rglob("*"))) for name in _FOLDERS}
    return StorageReport(files, kinds, largest, plan.bytes + plan.unused_array_bytes, len(plan.unknown_files))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        # Another process applied a segment, or finished a file, between the listing and the look.
        return 0
