"""Bringing an older catalog up to date: named steps in order, each one transaction.

Before the first step the file is copied to ``journal/before-migration-v<version>.duckdb``; the
copy stays until the user removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import msgspec

from nirs_store.blobs.durable import fsync_dir, move_file, remove_file
from nirs_store.catalog import migration_4
from nirs_store.catalog.audit_rows import append_notes, payload_of
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.incoming import incoming
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.schema import CATALOG_ALIAS, VIEWS
from nirs_store.errors import WriteFailed
from nirs_store.ids import new_id

__all__ = ["MIGRATIONS", "Migration", "migrate_catalog", "migration_copies", "pending_migrations"]


class Migration(msgspec.Struct, frozen=True):
    """One step from a version to the next."""

    to_version: int
    name: str
    apply: Callable[[duckdb.DuckDBPyConnection], None]


def _run_notes(con: duckdb.DuckDBPyConnection) -> None:
    for column, kind in (("environment", "JSON"), ("note", "VARCHAR"), ("tags", "JSON")):
        con.execute(f"ALTER TABLE runs ADD COLUMN {column} {kind}")
    for name in ("scores", "models", "run_overview", "log_lines"):
        con.execute(VIEWS[name])


def _artifact_records(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        "CREATE TABLE artifact_records (record_id VARCHAR PRIMARY KEY, artifact_id VARCHAR NOT NULL, "
        "pipeline_id VARCHAR NOT NULL, chain_path VARCHAR NOT NULL, branch_path JSON, source_index INTEGER, "
        "step_index INTEGER, substep_index INTEGER, fold_id VARCHAR, artifact_type VARCHAR NOT NULL, "
        "class_name VARCHAR NOT NULL, custom_name VARCHAR, params JSON, feature_columns JSON, "
        "input_data_hash VARCHAR, dataset_hash VARCHAR, library_version VARCHAR NOT NULL, "
        "created_at TIMESTAMP NOT NULL)"
    )
    con.execute(
        "CREATE TABLE artifact_links (link_id VARCHAR PRIMARY KEY, record_id VARCHAR NOT NULL, "
        "pipeline_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, position INTEGER NOT NULL, "
        "target_id VARCHAR NOT NULL, artifact_id VARCHAR NOT NULL, feature_index INTEGER)"
    )


def _files_and_history(con: duckdb.DuckDBPyConnection) -> None:
    for statement in migration_4.STATEMENTS:
        con.execute(statement)


# The version that brought the audit trail.
_AUDITED_FROM = 4

MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, "environment, note and tags of runs; views with plain names", _run_notes),
    Migration(3, "records of the artifact layer", _artifact_records),
    Migration(4, "files, lineage, audit, evaluations, backups", _files_and_history),
)


def pending_migrations(version: int, steps: Sequence[Migration] | None = None) -> list[Migration]:
    """Steps that a catalog of this version still needs; writes nothing."""
    return [step for step in (MIGRATIONS if steps is None else steps) if step.to_version > version]


def migration_copies(layout: Layout) -> list[Path]:
    """Copies kept from before earlier migrations, newest version last."""
    return sorted(layout.journal.glob("before-migration-v*.duckdb"))


def migrate_catalog(
    layout: Layout,
    version: int,
    connect: Callable[[], duckdb.DuckDBPyConnection],
    steps: Sequence[Migration] | None = None,
) -> None:
    """Run the pending steps under the exclusive lease, the catalog being closed.

    Raises
    ------
    WriteFailed
        A step or the copy failed; the catalog is at the last version whose step was committed.
    """
    # Replays a log that a crash left, so that the copy is the whole catalog. Nothing of this
    # process has the file open afterwards: copying it by open() cannot drop a lock in use.
    con = connect()
    try:
        con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
    except duckdb.Error as error:
        raise WriteFailed(
            f"{layout.catalog} could not be prepared for its migration: {error} Nothing was changed; remove the "
            "cause and open the workspace again."
        ) from error
    finally:
        con.close()
    _keep_copy(layout, version)
    for step in pending_migrations(version, steps):
        con = connect()
        try:
            con.execute("BEGIN")
            step.apply(con)
            if step.to_version >= _AUDITED_FROM:
                facts = {"from_version": version, "to_version": step.to_version, "step": step.name}
                note = (now_naive(), None, payload_of("migrate", "workspace", details=facts))
                with incoming(con) as rows:
                    append_notes(con, rows, [note])
            con.execute(
                "UPDATE nirs_store_meta SET value = ? WHERE key = 'schema_version'", [str(step.to_version)]
            )
            con.execute("COMMIT")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        except duckdb.Error as error:
            raise WriteFailed(
                f"Migration {step.name!r} of {layout.catalog} failed: {error} Its transaction was rolled back; "
                f"a copy from before is in {layout.journal}."
            ) from error
        finally:
            con.close()


def _keep_copy(layout: Layout, version: int) -> None:
    # A copy that an earlier attempt left is replaced: the catalog may have gone on since.
    target = layout.journal / f"before-migration-v{version}.duckdb"
    draft = layout.tmp / f"copy-{new_id()}.duckdb"
    try:
        shutil.copyfile(layout.catalog, draft)
        fd = os.open(draft, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        move_file(draft, target)
        fsync_dir(layout.journal)
    except OSError as error:
        remove_file(draft, missing_ok=True)
        raise WriteFailed(
            f"The catalog could not be copied before its migration: {error}. Nothing was changed; "
            "free space and open the workspace again."
        ) from error
