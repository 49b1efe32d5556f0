"""Bring an older catalog up to date in named steps, open it, and rewrite it into a new file to give space back."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import msgspec

from nirs_store.blobs.durable import fsync_dir, remove_file, sync_file, write_error
from nirs_store.blobs.plain import open_plain, stat_plain
from nirs_store.db.changes import append_notes, payload_of
from nirs_store.db.connection import (
    CatalogLocked,
    Instance,
    Options,
    attach,
    clear_draft,
    explain,
    inspect_catalog,
)
from nirs_store.db.journal import ARRAY_BYTES
from nirs_store.db.layout import Layout, put_in_place
from nirs_store.db.schema import (
    CATALOG_ALIAS,
    OLD_ALIAS,
    TABLES,
    VIEWS,
    column_names,
    create_statement,
    create_statements,
    foreign_objects,
    objects_of,
    quoted,
)
from nirs_store.db.sql import execute, incoming, interruptible, number
from nirs_store.errors import CatalogDamaged, NirsStoreError, StoreBusy, WriteFailed
from nirs_store.ids import new_id, now_naive

# -- Checkpoints of the catalog, and rewriting it into a new file: the only way DuckDB gives space back.


# A checkpoint makes a mark, and another one for so many commits. Until its rows are put together with others it
# costs a fifth of a megabyte; putting together those of 81 took 0.26 s.
MOST = 128
_COMMITS_A_MARK = 16
# Commits next to which putting groups together counts for little.
MANY = 64
_DUCKDB_DEFAULT = 100
# What a checkpoint adds to the file besides the rows.
_OVERHEAD = 1 << 18


class Checkpoint:
    """What a store has changed in the catalog and not yet written into its file."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pending = False
        self._commits = 0
        self._tidying = False

    def need(self, *, tidying: bool) -> None:
        """Ask for one when the catalog is released, and, with `tidying`, for small row groups to be put together."""
        self._pending = True
        self._tidying = self._tidying or tidying

    def offer(self) -> None:
        """Have it put them together if it has much to write anyway: no thread of this process waits for it."""
        self._tidying = self._tidying or self._commits >= MANY

    def count(self, commits: int) -> None:
        """Note how many commits were applied."""
        self._commits += commits

    def write(self, con: duckdb.DuckDBPyConnection, *, hurried: bool) -> bool:
        """Make it, if anything was changed; tells whether it was made."""
        if not self._pending or not self._has_room(con):
            return False
        tidying = (self._tidying and not hurried) or self._marks() >= MOST
        commits = self._commits
        self._pending, self._commits, self._tidying = False, 0, False
        if tidying:
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
            with contextlib.suppress(OSError):
                self._layout.uncompacted.unlink(missing_ok=True)
            return True
        try:
            con.execute("SET GLOBAL max_vacuum_tasks = 0")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        finally:
            with contextlib.suppress(duckdb.Error):  # after a fatal error the instance is not used again
                con.execute(f"SET GLOBAL max_vacuum_tasks = {_DUCKDB_DEFAULT}")
        # A hint for the next process that holds the lock; without it groups stay small for longer.
        with contextlib.suppress(OSError):
            marks = open_plain(self._layout.uncompacted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(marks, "ab") as file:
                file.write(b"." * (1 + commits // _COMMITS_A_MARK))
        return True

    def _has_room(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Whether the disk has room for what the log holds; much of that may have been deleted again."""
        try:
            logged, free = self._layout.wal.stat().st_size, shutil.disk_usage(self._layout.root).free
        except OSError:  # there is no log, or it is not known
            return True
        if free >= logged + _OVERHEAD:
            return True
        return number(con, f"SELECT coalesce(sum({ARRAY_BYTES}), 0) FROM arrays") + _OVERHEAD <= free

    def _marks(self) -> int:
        try:
            return stat_plain(self._layout.uncompacted).st_size
        except OSError:
            return 0


_OLD = OLD_ALIAS
_ARRAYS = "arrays"


def compact(
    layout: Layout, instance: Instance, finish: Callable[[duckdb.DuckDBPyConnection], None] = lambda con: None
) -> None:
    """Copy the catalog row by row into a new file and rename it into place.

    The lock is held alone, the catalog is closed in `instance` and its log was checkpointed. `finish` writes a
    last thing into the new file. Nothing has changed when this raises.
    """
    if layout.wal.exists():
        # The log belongs to the old file and would be replayed into the new one.
        raise WriteFailed(
            f"{layout.wal} could not be checkpointed, so the catalog cannot be rewritten. Nothing was lost; "
            "free space and call again."
        )
    draft = instance.draft
    if draft is None:
        raise ValueError("an instance that may write nowhere")  # only read-only stores have one
    clear_draft(draft)
    try:
        # Were the log to come back after a power loss, it must not find the new file.
        fsync_dir(layout.root)
        with instance.rewriting(_OLD) as con:
            interruptible(con, lambda con: _copy(con, layout, finish))
        _take_rights(draft, layout.catalog)
        put_in_place(draft, layout.catalog)
    except duckdb.Error as error:
        raise WriteFailed(
            f"{layout.catalog} could not be rewritten: {error} The old file is in place and unchanged; "
            "free space and call again."
        ) from error
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(layout.catalog, error) from error
    finally:
        clear_draft(draft)


def _take_rights(draft: Path, old: Path) -> None:
    """Give the new file the owner, group and mode of the old one, so that those who could open it still can."""
    found = os.stat(old)
    if os.name != "nt":
        for owner in (found.st_uid, -1):
            # Of another user's file the group can be kept, by a member of it; root keeps both.
            with contextlib.suppress(PermissionError):
                os.chown(draft, owner, found.st_gid)
                break
    os.chmod(draft, stat.S_IMODE(found.st_mode))


def _copy(
    con: duckdb.DuckDBPyConnection, layout: Layout, finish: Callable[[duckdb.DuckDBPyConnection], None]
) -> None:
    if foreign_objects(objects_of(con, _OLD)):
        _copy_everything(con, layout, finish)
        return
    tables = [table for table in TABLES if table != _ARRAYS]
    con.execute(create_statement(TABLES[_ARRAYS]))
    other = con.cursor()
    try:
        # Decompressing arrays is one thread's work, and takes about as long as everything else before the checkpoint.
        with ThreadPoolExecutor(1, thread_name_prefix="nirs-store-vacuum") as beside:
            try:
                arrays = beside.submit(_copy_arrays, other, layout)
                con.execute("BEGIN")
                for statement in create_statements(tables):
                    con.execute(statement)
                _copy_tables(con, layout, tables)
                finish(con)
                con.execute("COMMIT")
                arrays.result()
            except BaseException:
                other.interrupt()  # a large catalog is not waited for
                raise
    finally:
        other.close()
    con.execute(f"CHECKPOINT {CATALOG_ALIAS}")


def _copy_everything(
    con: duckdb.DuckDBPyConnection, layout: Layout, finish: Callable[[duckdb.DuckDBPyConnection], None]
) -> None:
    """Copy a catalog with what others have put there, in DuckDB's own way: it keeps rows in the order they came."""
    con.execute(f"COPY FROM DATABASE {_OLD} TO {CATALOG_ALIAS}")
    lost = {str(each) for each in objects_of(con, _OLD)} - {str(each) for each in objects_of(con)}
    if lost:
        raise WriteFailed(
            f"{layout.catalog} could not be rewritten: DuckDB does not copy {', '.join(sorted(lost))}, which others "
            "have put there. The old file is in place and unchanged. Move it into a file of its own and call again."
        )
    for each in objects_of(con, _OLD):
        if each.kind == "table":
            name = f"{quoted(each.schema)}.{quoted(each.name)}"
            counts = [number(con, f"SELECT count(*) FROM {alias}.{name}") for alias in (_OLD, CATALOG_ALIAS)]
            if counts[0] != counts[1]:
                raise _rows_lost(layout, each.name, counts[0], counts[1])
    con.execute("BEGIN")
    finish(con)
    con.execute("COMMIT")
    con.execute(f"CHECKPOINT {CATALOG_ALIAS}")


def _rows_lost(layout: Layout, table: str, before: int, after: int) -> CatalogDamaged:
    return CatalogDamaged(
        f"Rewriting {layout.catalog} gave {after} rows of {table} for {before}; the old file is "
        "in place and unchanged. Run `nirs-store check --read-data`."
    )


def _copy_arrays(con: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    con.execute("BEGIN")
    _copy_tables(con, layout, [_ARRAYS])
    con.execute("COMMIT")


def _copy_tables(con: duckdb.DuckDBPyConnection, layout: Layout, tables: Sequence[str]) -> None:
    counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {_OLD}.{table}" for table in tables)
    for table, before in con.execute(counts).fetchall():
        if not before:
            continue
        names = ", ".join(column_names(table))
        # In the order of the key: ids sort by time, so a pipeline's rows lie together. Arrays stay in the order
        # in which they came, because that of their hashes would scatter them: what is read to get one is
        # decompressed two thousand at a time.
        order = "" if table == _ARRAYS else " ORDER BY 1"
        new = f"{CATALOG_ALIAS}.{table}"
        after = number(con, f"INSERT INTO {new} ({names}) SELECT {names} FROM {_OLD}.{table}{order}")
        if before != after:
            raise _rows_lost(layout, table, before, after)


class Migration(msgspec.Struct, frozen=True):
    """One step from a version to the next."""

    to_version: int
    name: str
    apply: Callable[[duckdb.DuckDBPyConnection], None]


def _sql(statements: str) -> Callable[[duckdb.DuckDBPyConnection], None]:
    """Make a step of statements; tables are as they were then, whatever becomes of the schema."""

    def run(con: duckdb.DuckDBPyConnection) -> None:
        con.execute(statements)

    return run


def _targets(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(_TARGETS)
    # The last step that makes views: they name columns of today.
    for name in ("scores", "models", "run_overview", "log_lines"):
        con.execute(VIEWS[name].replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))


_RUN_NOTES = """
ALTER TABLE runs ADD COLUMN environment JSON;
ALTER TABLE runs ADD COLUMN note VARCHAR;
ALTER TABLE runs ADD COLUMN tags JSON;
"""
_ARTIFACT_RECORDS = """
CREATE TABLE artifact_records (
    record_id VARCHAR PRIMARY KEY, artifact_id VARCHAR NOT NULL, pipeline_id VARCHAR NOT NULL,
    chain_path VARCHAR NOT NULL, branch_path JSON, source_index INTEGER, step_index INTEGER, substep_index INTEGER,
    fold_id VARCHAR, artifact_type VARCHAR NOT NULL, class_name VARCHAR NOT NULL, custom_name VARCHAR, params JSON,
    feature_columns JSON, input_data_hash VARCHAR, dataset_hash VARCHAR, library_version VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);
CREATE TABLE artifact_links (
    link_id VARCHAR PRIMARY KEY, record_id VARCHAR NOT NULL, pipeline_id VARCHAR NOT NULL, kind VARCHAR NOT NULL,
    position INTEGER NOT NULL, target_id VARCHAR NOT NULL, artifact_id VARCHAR NOT NULL, feature_index INTEGER
);
"""
_FILES_AND_HISTORY = """
CREATE TABLE file_versions (
    version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, version INTEGER NOT NULL,
    is_latest BOOLEAN NOT NULL, type VARCHAR NOT NULL, kind VARCHAR NOT NULL, status VARCHAR NOT NULL,
    mode VARCHAR NOT NULL, coverage VARCHAR, model_id VARCHAR, evaluation_id VARCHAR, suite VARCHAR,
    group_name VARCHAR, episode VARCHAR, module VARCHAR, module_version VARCHAR, run_id VARCHAR,
    processing_id VARCHAR, artifact_id VARCHAR, content_hash VARCHAR, size_bytes BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL, compression VARCHAR NOT NULL, compression_note VARCHAR, members JSON, tags JSON,
    metadata JSON, message VARCHAR, session_id VARCHAR, created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL
);
CREATE TABLE file_aliases (
    alias_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, alias VARCHAR NOT NULL,
    version_id VARCHAR NOT NULL, made_at TIMESTAMP NOT NULL
);
CREATE TABLE file_retired (series VARCHAR PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE file_types (
    type VARCHAR PRIMARY KEY, description VARCHAR NOT NULL, metadata_schema JSON, made_at TIMESTAMP NOT NULL
);
CREATE TABLE processing_runs (
    processing_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, status VARCHAR NOT NULL, module VARCHAR,
    module_version VARCHAR, parameters JSON, message VARCHAR, session_id VARCHAR, started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP
);
CREATE TABLE lineage_links (
    link_id VARCHAR PRIMARY KEY, source_kind VARCHAR NOT NULL, source_id VARCHAR NOT NULL,
    target_kind VARCHAR NOT NULL, target_id VARCHAR NOT NULL, link_type VARCHAR NOT NULL, metadata JSON,
    created_at TIMESTAMP NOT NULL
);
CREATE TABLE audit_entries (
    number BIGINT NOT NULL, made_at TIMESTAMP NOT NULL, user_name VARCHAR NOT NULL, host VARCHAR NOT NULL,
    pid INTEGER NOT NULL, operation VARCHAR NOT NULL, object_kind VARCHAR, object_id VARCHAR,
    success BOOLEAN NOT NULL, message VARCHAR, details JSON, previous_hash VARCHAR NOT NULL,
    entry_hash VARCHAR NOT NULL
);
CREATE TABLE settings (key VARCHAR PRIMARY KEY, value JSON, changed_at TIMESTAMP NOT NULL);
CREATE TABLE pins (
    pin_id VARCHAR PRIMARY KEY, object_kind VARCHAR NOT NULL, object_id VARCHAR NOT NULL, reason VARCHAR,
    made_at TIMESTAMP NOT NULL
);
CREATE TABLE evaluations (
    evaluation_id VARCHAR PRIMARY KEY, model_id VARCHAR NOT NULL, suite VARCHAR NOT NULL, chain_id VARCHAR,
    run_id VARCHAR, status VARCHAR NOT NULL, metric VARCHAR NOT NULL, better VARCHAR NOT NULL, scores JSON NOT NULL,
    success_rate DOUBLE, n_episodes INTEGER, n_samples INTEGER, episodes_id VARCHAR, samples_id VARCHAR, files JSON,
    tags JSON, metadata JSON, environment JSON, message VARCHAR, created_at TIMESTAMP NOT NULL
);
CREATE TABLE champions (
    champion_id VARCHAR PRIMARY KEY, suite VARCHAR NOT NULL, metric VARCHAR NOT NULL, model_id VARCHAR NOT NULL,
    evaluation_id VARCHAR NOT NULL, rank INTEGER NOT NULL, value DOUBLE, previous_id VARCHAR, improvements JSON,
    chosen_by VARCHAR NOT NULL, note VARCHAR, made_at TIMESTAMP NOT NULL
);
CREATE TABLE backups (
    backup_id VARCHAR PRIMARY KEY, path VARCHAR NOT NULL, parent_id VARCHAR, size_bytes BIGINT NOT NULL,
    n_blobs INTEGER NOT NULL, catalog_hash VARCHAR NOT NULL, status VARCHAR NOT NULL, details JSON,
    created_at TIMESTAMP NOT NULL
);
"""
_TARGETS = """
ALTER TABLE chains ADD COLUMN target VARCHAR;
ALTER TABLE chains ADD COLUMN target_unit VARCHAR;
UPDATE chains SET target = nullif(trim(metadata ->> '$.target'), ''), target_unit = nullif(trim(metadata ->>
    '$.target_unit'), '') WHERE metadata ->> '$.target' IS NOT NULL OR metadata ->> '$.target_unit' IS NOT NULL;
CREATE TABLE metrics (
    metric_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL, name VARCHAR NOT NULL, n_points BIGINT NOT NULL,
    steps BLOB USING COMPRESSION zstd NOT NULL, step_values BLOB USING COMPRESSION zstd NOT NULL,
    logged_at TIMESTAMP NOT NULL
);
CREATE TABLE trash (
    trash_id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, object_id VARCHAR NOT NULL, name VARCHAR,
    operation VARCHAR NOT NULL, counts JSON NOT NULL, holds JSON NOT NULL, size_bytes BIGINT NOT NULL,
    content BLOB NOT NULL, deleted_at TIMESTAMP NOT NULL
);
CREATE TABLE past_chains (
    chain_id VARCHAR PRIMARY KEY, trash_id VARCHAR, operation VARCHAR NOT NULL, pipeline_id VARCHAR NOT NULL,
    pipeline_name VARCHAR, run_id VARCHAR, run_name VARCHAR, tags JSON, dataset_name VARCHAR,
    preprocessings VARCHAR NOT NULL, model_name VARCHAR, model_class VARCHAR NOT NULL, steps JSON NOT NULL,
    target VARCHAR, target_unit VARCHAR, components INTEGER, task VARCHAR, metric VARCHAR, score DOUBLE,
    score_sd DOUBLE, n_samples BIGINT, created_at TIMESTAMP NOT NULL, deleted_at TIMESTAMP NOT NULL
);
"""
_SERVICE = """
CREATE TABLE calibration_versions (
    version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, version INTEGER NOT NULL, chain_id VARCHAR NOT NULL,
    dataset_version_id VARCHAR, correction_id VARCHAR, scope JSON NOT NULL, figures JSON NOT NULL,
    content_hash VARCHAR NOT NULL, author VARCHAR NOT NULL, note VARCHAR, metadata JSON, created_at TIMESTAMP NOT NULL
);
CREATE TABLE calibration_aliases (
    alias_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, alias VARCHAR NOT NULL, number INTEGER NOT NULL,
    version INTEGER, previous INTEGER, set_by VARCHAR NOT NULL, reason VARCHAR, set_at TIMESTAMP NOT NULL
);
CREATE TABLE calibration_rules (
    rule_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, alias VARCHAR NOT NULL, number INTEGER NOT NULL, rule JSON,
    set_by VARCHAR NOT NULL, set_at TIMESTAMP NOT NULL
);
CREATE TABLE calibration_retired (name VARCHAR PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE signatures (
    signature_id VARCHAR PRIMARY KEY, version_id VARCHAR NOT NULL, signer VARCHAR NOT NULL, meaning VARCHAR NOT NULL,
    note VARCHAR, content_hash VARCHAR NOT NULL, audit_head VARCHAR NOT NULL, signed_at TIMESTAMP NOT NULL,
    algorithm VARCHAR, key_id VARCHAR, signature VARCHAR
);
CREATE TABLE corrections (
    correction_id VARCHAR PRIMARY KEY, calibration VARCHAR NOT NULL, version INTEGER NOT NULL,
    number INTEGER NOT NULL, slope DOUBLE, bias DOUBLE, samples JSON, reason VARCHAR, author VARCHAR NOT NULL,
    metadata JSON, created_at TIMESTAMP NOT NULL, retired_at TIMESTAMP
);
CREATE TABLE measurements (
    measurement_id VARCHAR NOT NULL, batch_id VARCHAR NOT NULL, calibration VARCHAR, version INTEGER,
    chain_id VARCHAR NOT NULL, correction_id VARCHAR, role VARCHAR NOT NULL, sample_id VARCHAR, target VARCHAR,
    raw DOUBLE, prediction DOUBLE, label VARCHAR, lower DOUBLE, upper DOUBLE, flags JSON, instrument VARCHAR,
    operator VARCHAR, spectrum_hash VARCHAR, spectrum BLOB USING COMPRESSION zstd, bundle VARCHAR, metadata JSON,
    measured_at TIMESTAMP NOT NULL, logged_at TIMESTAMP NOT NULL
);
CREATE TABLE sample_references (
    reference_id VARCHAR PRIMARY KEY, sample_id VARCHAR NOT NULL, target VARCHAR, value DOUBLE, label VARCHAR,
    unit VARCHAR, lab VARCHAR, method VARCHAR, measured_at TIMESTAMP, note VARCHAR, replaces VARCHAR,
    added_at TIMESTAMP NOT NULL, added_by VARCHAR
);
CREATE TABLE dataset_versions (
    dataset_version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, version INTEGER NOT NULL, kind VARCHAR NOT NULL,
    parent_id VARCHAR, n_samples INTEGER NOT NULL, n_channels INTEGER NOT NULL, dtype VARCHAR NOT NULL, unit VARCHAR,
    first_wavelength DOUBLE, last_wavelength DOUBLE, labels JSON NOT NULL, spectra_ids JSON NOT NULL,
    samples_id VARCHAR NOT NULL, content_hash VARCHAR NOT NULL, size_bytes BIGINT NOT NULL, instrument JSON,
    selection JSON, metadata JSON, note VARCHAR, session_id VARCHAR, created_at TIMESTAMP NOT NULL
);
CREATE TABLE dataset_retired (name VARCHAR PRIMARY KEY, version INTEGER NOT NULL);
"""

# The version that brought the audit trail.
_AUDITED_FROM = 4

MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, "environment, note and tags of runs", _sql(_RUN_NOTES)),
    Migration(3, "records of the artifact layer", _sql(_ARTIFACT_RECORDS)),
    Migration(4, "files, lineage, audit, evaluations, backups", _sql(_FILES_AND_HISTORY)),
    Migration(5, "targets of chains, training curves, a trash; views with plain names", _targets),
    Migration(
        6, "calibrations in service: data sets, versions, aliases, signatures, measurements", _sql(_SERVICE)
    ),
)


def pending_migrations(version: int, steps: Sequence[Migration] | None = None) -> list[Migration]:
    """Return steps that a catalog of this version still needs; writes nothing."""
    return [step for step in (MIGRATIONS if steps is None else steps) if step.to_version > version]


def migration_copies(layout: Layout) -> list[Path]:
    """Return copies kept from before earlier migrations, newest version last."""
    return sorted(layout.journal.glob("before-migration-v*.duckdb"))


def migrate_catalog(
    layout: Layout,
    version: int,
    instance: Instance,
    steps: Sequence[Migration] | None = None,
) -> None:
    """Run the pending steps under the exclusive lock, the catalog being closed."""
    # Replays a log that a crash left, so that the copy is the whole catalog. Nothing of this
    # process has the file open afterwards: copying it by open() cannot drop a lock in use.
    con = instance.attach(read_only=False)
    try:
        con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
    except duckdb.Error as error:
        raise WriteFailed(
            f"{layout.catalog} could not be prepared for its migration: {error} Nothing was changed; remove the "
            "cause and open the workspace again."
        ) from error
    finally:
        instance.detach(con)
    _keep_copy(layout, version)
    for step in pending_migrations(version, steps):
        con = instance.attach(read_only=False)
        try:
            con.execute("BEGIN")
            interruptible(con, step.apply)
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
            instance.detach(con)


def run_step(con: duckdb.DuckDBPyConnection, version: int) -> None:
    """Bring a catalog of a shared workspace from the version before to a version, inside the caller's transaction."""
    found = execute(con, "SELECT value FROM nirs_store_meta WHERE key = 'schema_version'").fetchall()
    step = next((step for step in MIGRATIONS if step.to_version == version), None)
    if step is None or found != [(str(version - 1),)]:
        raise ValueError(f"the step to schema version {version} does not fit a catalog of {found}")
    step.apply(con)
    execute(con, "UPDATE nirs_store_meta SET value = ? WHERE key = 'schema_version'", [str(version)])


def _keep_copy(layout: Layout, version: int) -> None:
    # A copy that an earlier attempt left is replaced: the catalog may have gone on since.
    target = layout.journal / f"before-migration-v{version}.duckdb"
    draft = layout.tmp / f"copy-{new_id()}.duckdb"
    try:
        shutil.copyfile(layout.catalog, draft)
        put_in_place(draft, target)
    except OSError as error:
        remove_file(draft, missing_ok=True)
        raise WriteFailed(
            f"The catalog could not be copied before its migration: {error}. Nothing was changed; "
            "free space and open the workspace again."
        ) from error


def open_catalog(
    layout: Layout, instance: Instance, *, read_only: bool, migrate: bool = True
) -> duckdb.DuckDBPyConnection:
    """Attach the workspace's catalog, check whose it is and, with `migrate`, bring its schema up to date."""
    if not read_only and layout.wal.exists():
        _sync_what_others_wrote(layout, instance)
    con = instance.attach(read_only=read_only)
    try:
        version = inspect_catalog(con, layout.catalog)
        if read_only or not migrate or not pending_migrations(version):
            return con
    except duckdb.Error as error:
        instance.detach(con)
        raise explain(error, layout.catalog) from error
    except BaseException:
        instance.detach(con)
        raise
    instance.detach(con)
    migrate_catalog(layout, version, instance)
    return instance.attach(read_only=False)


def _sync_what_others_wrote(layout: Layout, instance: Instance) -> None:
    """Make a checkpoint durable that was killed, or met an error, before its last sync: DuckDB removes its log now."""
    # Read-only first: closing a file drops the locks that others in this process hold on it.
    instance.detach(instance.attach(read_only=True))
    try:
        sync_file(layout.catalog)
    except OSError as error:
        raise write_error(layout.catalog, error) from error


_POLL = 0.01
# So long a connection of this process itself is waited for: it goes only if another thread closes it.
_OWN_PATIENCE = 1.0


def open_when_free(
    layout: Layout, instance: Instance, *, read_only: bool, migrate: bool, deadline: float
) -> duckdb.DuckDBPyConnection:
    """Open the catalog as `open_catalog` does, and wait for another program that has it open."""
    began = time.monotonic()
    while True:
        try:
            if not layout.catalog.exists():
                raise CatalogDamaged(
                    f"{layout.catalog} is missing. Restore it from a backup, or from a copy that a migration kept; the "
                    "blobs and the journal are untouched."
                )
            return open_catalog(layout, instance, read_only=read_only, migrate=migrate)
        except CatalogLocked as error:
            if error.own:
                deadline = min(deadline, began + _OWN_PATIENCE)
            if time.monotonic() >= deadline:
                raise StoreBusy(
                    f"{layout.catalog} is open {error}. Close it there and ask again; nothing is damaged, and "
                    "recording is not affected.",
                    pid=error.pid,
                ) from error
            time.sleep(_POLL)


def open_migrated_copy(layout: Layout, folder: Path, *, options: Options) -> duckdb.DuckDBPyConnection:
    """Attach a copy of an older catalog, brought up to date in a folder of its own.

    For stores that may write nothing: the workspace stays as it is. The lock is held, and this process
    has the catalog closed, so that copying it drops no lock.
    """
    copy = Layout(folder)
    for place in copy.folders:
        place.mkdir(parents=True, exist_ok=True)
    for source, target in ((layout.catalog, copy.catalog), (layout.wal, copy.wal)):
        if source.exists():
            shutil.copyfile(source, target)
    made = Instance(copy.catalog, options, copy.tmp)
    made.detach(open_catalog(copy, made, read_only=False))
    made.discard()
    return attach(copy.catalog, read_only=True, options=options, spill=None)
