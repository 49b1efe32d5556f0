"""Checking a workspace: everything is looked at, nothing is changed.

The lease is shared while rows and folder are compared, so nobody applies the journal or collects
meanwhile; recording goes on. Blobs are hashed after the lease was given up, because that can take
long, and what looks bad is looked at again under it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.connection import Options
from nirs_store.catalog.inspection import Inspection
from nirs_store.catalog.journal import Journal
from nirs_store.catalog.layout import Layout, as_folder
from nirs_store.catalog.schema import SCHEMA_VERSION
from nirs_store.catalog.values import as_seconds
from nirs_store.catalog.wholeread import altered_arrays, unreadable
from nirs_store.errors import CatalogDamaged, ForeignCatalog, NotAWorkspace, SchemaTooNew, WriteFailed
from nirs_store.upkeep.audittrail import audit_findings
from nirs_store.upkeep.blobfiles import Expected, Progress, expected_files, hash_files, look_at, unknown_files
from nirs_store.upkeep.findings import CheckReport, Finding
from nirs_store.upkeep.structure import Structure, catalog_damaged, examine
from nirs_store.upkeep.surroundings import Surroundings, look_around

__all__ = ["check", "check_workspace", "reader_of"]

_RESTORE = "Bring it back from a backup, or, when a migration kept a copy, use `nirs-store repair --restore-catalog`."


def check_workspace(
    root: str | Path,
    *,
    read_data: bool = False,
    lock_timeout: float = 30.0,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a folder without opening it as a store: also one whose catalog is gone or damaged.

    Parameters
    ----------
    root : str or Path
        The workspace.
    read_data : bool
        Read every column, index, array and blob, and compare their checksums.
    lock_timeout : float
        Seconds to wait for a process that has the catalog alone.
    progress : callable, optional
        Called with the bytes of blobs read so far and those to read.

    Raises
    ------
    NotAWorkspace
        The folder never was one.
    StoreBusy
    """
    layout, timeout = Layout(as_folder(root, "root")), as_seconds(lock_timeout, "lock_timeout")
    return check(reader_of(layout), layout, read_data=read_data, timeout=timeout, progress=progress)


def reader_of(layout: Layout) -> CatalogAccess:
    """A way to the catalog of a folder that nobody opened as a store.

    Raises
    ------
    NotAWorkspace
    """
    if not layout.catalog.exists() and not layout.journal.is_dir():
        raise NotAWorkspace(
            f"{layout.root} is not a workspace: it has neither store.duckdb nor journal/. Nothing was changed. "
            "Name another folder."
        )
    return CatalogAccess(layout, Journal(layout), writable=False, options=Options(), on_idle=lambda: None)


def check(
    access: CatalogAccess,
    layout: Layout,
    *,
    read_data: bool,
    timeout: float,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a workspace; see `check_workspace`."""
    findings: list[Finding] = []
    with access.inspecting(timeout=timeout) as connect:
        seen = look_around(layout)
        findings += seen.findings()
        con = None
        try:
            con = connect()
        except (CatalogDamaged, ForeignCatalog, SchemaTooNew, WriteFailed) as error:
            findings.append(_unopened(layout, error))
        structure = Structure()
        if con is not None:
            structure = _look_into(con, layout, seen, read_data=read_data)
        findings += structure.findings
        if structure.blobs is not None:
            findings += unknown_files(layout, structure.blobs, seen, besides=structure.restorable)
        expected = expected_files(structure.blobs, structure.needed_by, seen)
        wrong, present = look_at(layout, expected)
        findings += wrong
    if read_data:
        suspects = [file for file, _ in hash_files(layout, present, progress)]
        findings += _look_again(access, layout, suspects, timeout) if suspects else []
    counts = structure.counts | {
        "files": len(seen.files),
        "bytes": sum(file.size or 0 for file in expected),
        "segments": len(seen.segments) + len(seen.damaged),
    }
    return CheckReport.of_findings(str(layout.root), read_data, findings, counts)


def _unopened(layout: Layout, error: Exception) -> Finding:
    if isinstance(error, ForeignCatalog) and not layout.journal.is_dir():
        raise error
    if isinstance(error, SchemaTooNew):
        return Finding("schema_too_new", "error", "store.duckdb", str(error), (), "Upgrade nirs_store.")
    if not layout.catalog.exists():
        return Finding("catalog_missing", "error", "store.duckdb", "the catalog is gone.", (), _RESTORE)
    return Finding("catalog_damaged", "error", "store.duckdb", str(error), (), _RESTORE)


def _look_into(con: Connection, layout: Layout, seen: Surroundings, *, read_data: bool) -> Structure:
    first = Structure()
    inspection = first.ask("pending rows", lambda: Inspection(con, seen.segments))
    if inspection is None:
        return first
    found = examine(inspection, seen)
    found.findings += found.ask("audit trail", lambda: audit_findings(con, layout)) or []
    version = found.ask("nirs_store_meta", inspection.version)
    if version is not None and version < SCHEMA_VERSION:
        words = f"schema version {version}; opening the store for writing brings it to {SCHEMA_VERSION}."
        found.findings.append(Finding("schema_old", "info", "store.duckdb", words))
    if layout.wal.exists():
        found.findings.append(
            Finding(
                "wal_present",
                "warning",
                layout.wal.name,
                "a process died with the catalog open and left DuckDB's log; the rows in it were counted here.",
                remedy="The next query of a store that may write takes it in. Keep both files together.",
            )
        )
    if read_data:
        _read(con, seen, inspection, found)
    return found


def _read(con: Connection, seen: Surroundings, inspection: Inspection, found: Structure) -> None:
    for table, what, reason in found.ask("tables", lambda: list(unreadable(con))) or ():
        if reason is not None:
            found.findings.append(catalog_damaged(table, f"its {what} cannot be read: {reason}"))
    for array_hash in found.ask("arrays", lambda: list(altered_arrays(con, seen.segments))) or ():
        users = found.ask("users of arrays", partial(inspection.users_of_array, array_hash))
        found.findings.append(
            Finding(
                "array_corrupt",
                "error",
                f"arrays/{array_hash}",
                "its bytes no longer hash to its name.",
                affects=tuple(users or ()),
                remedy="Bring store.duckdb back from a backup, or record the predictions again.",
            )
        )


def _look_again(
    access: CatalogAccess, layout: Layout, suspects: list[Expected], timeout: float
) -> list[Finding]:
    """A gc may have removed them meanwhile, or a save healed them: only what is still bad now is."""
    with access.inspecting(timeout=timeout) as connect:
        bad = hash_files(layout, suspects)
        try:
            rows = Inspection(connect(), look_around(layout).segments).blobs()
        except (CatalogDamaged, ForeignCatalog, SchemaTooNew, WriteFailed):
            return [finding for _, finding in bad]  # said already
        named = {row.artifact_id for row in rows}
    return [finding for file, finding in bad if file.artifact_id in named]
