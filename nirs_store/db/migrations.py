"""Bringing an older catalog up to date: named steps in order, each one transaction."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import msgspec

from nirs_store.blobs.durable import remove_file
from nirs_store.db.audit_chain import append_notes, payload_of
from nirs_store.db.connection import CatalogLocked, Instance, Options, attach, explain, inspect_catalog
from nirs_store.db.interrupts import interruptible
from nirs_store.db.layout import Layout, put_in_place
from nirs_store.db.schema import CATALOG_ALIAS, VIEWS
from nirs_store.db.sql import execute, incoming
from nirs_store.errors import CatalogDamaged, StoreBusy, WriteFailed
from nirs_store.ids import new_id, now_naive


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
    """Run the pending steps under the exclusive lease, the catalog being closed."""
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

    For stores that may write nothing: the workspace stays as it is. The lease is held, and this process
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
