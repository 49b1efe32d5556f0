"""Opening store.duckdb: the settings, whose file it is, and its schema.

Always called under the lease. The file is attached to an in-memory connection, because the
row group size can only be said at ATTACH; then everything that could reach outside is locked.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import msgspec

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, write_error
from nirs_store.blobs.plain import open_plain, share, stat_plain
from nirs_store.db.audit_chain import append_notes, payload_of
from nirs_store.db.interrupts import interruptible
from nirs_store.db.journal import ARRAY_BYTES
from nirs_store.db.layout import Layout
from nirs_store.db.objects import (
    OLD_ALIAS,
    foreign_objects,
    objects_of,
    quoted,
    refuse_altered,
    refuse_false_meta,
    remember,
    was_inspected,
)
from nirs_store.db.schema import (
    BLOCK_SIZE,
    CATALOG_ALIAS,
    ROW_GROUP_SIZE,
    SCHEMA_VERSION,
    TABLES,
    VIEWS,
    column_names,
    create_statement,
    create_statements,
)
from nirs_store.db.sql import execute, incoming, number
from nirs_store.errors import (
    CatalogDamaged,
    ForeignCatalog,
    InvalidInput,
    NirsStoreError,
    PathEscapes,
    ReadOnlyStore,
    SchemaTooNew,
    StoreBusy,
    WriteFailed,
)
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import hold_while_forking

__all__ = [
    "MANY",
    "MIGRATIONS",
    "MOST",
    "STATEMENTS",
    "CatalogLocked",
    "Checkpoint",
    "Instance",
    "Migration",
    "Options",
    "attach",
    "clear",
    "clear_draft",
    "compact",
    "create_catalog",
    "inspect_catalog",
    "keep",
    "make_folders",
    "migrate_catalog",
    "migration_copies",
    "open_catalog",
    "open_migrated_copy",
    "pending_migrations",
    "refuse_foreign",
    "refuse_linked_folders",
    "refuse_lost_catalog",
    "schema_version",
    "take",
]


# -- Checkpoints of the catalog, and which of them tidy up.


# A checkpoint makes a mark, and another one for so many commits. Until its rows are put together with others it
# costs a fifth of a megabyte; putting together those of 81 took 0.26 s.
MOST = 128
_COMMITS_A_MARK = 16
# Commits beside which putting groups together counts for little.
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
        """Have it put them together if it has much to write anyway: nobody of this process waits for it."""
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
                self._layout.untidied.unlink(missing_ok=True)
            return True
        try:
            con.execute("SET GLOBAL max_vacuum_tasks = 0")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        finally:
            with contextlib.suppress(duckdb.Error):  # after a fatal error the instance is not used again
                con.execute(f"SET GLOBAL max_vacuum_tasks = {_DUCKDB_DEFAULT}")
        # A hint to whoever holds the lease next, in whichever process; without it groups stay small for longer.
        with contextlib.suppress(OSError):
            marks = open_plain(self._layout.untidied, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(marks, "ab") as file:
                file.write(b"." * (1 + commits // _COMMITS_A_MARK))
        return True

    def _has_room(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Whether the disk has room for what the log holds; much of that may have been deleted again."""
        try:
            logged, free = self._layout.wal.stat().st_size, shutil.disk_usage(self._layout.root).free
        except OSError:  # there is no log, or nobody can say
            return True
        if free >= logged + _OVERHEAD:
            return True
        return number(con, f"SELECT coalesce(sum({ARRAY_BYTES}), 0) FROM arrays") + _OVERHEAD <= free

    def _marks(self) -> int:
        try:
            return stat_plain(self._layout.untidied).st_size
        except OSError:
            return 0


# -- DuckDB instances of stores that were closed, kept for whoever opens the same catalog next in this process.


# An idle instance takes 4 MB and some sleeping threads.
_MOST = 2

_spare: OrderedDict[Hashable, duckdb.DuckDBPyConnection] = OrderedDict()
# A store may be collected, and so closed, wherever something is allocated: also in here.
_lock = threading.RLock()


def take(key: Hashable) -> duckdb.DuckDBPyConnection | None:
    """Get the spare instance that was made with these settings for this catalog; nobody else gets it."""
    with _lock:
        return _spare.pop(key, None)


def keep(key: Hashable, instance: duckdb.DuckDBPyConnection) -> None:
    """Keep an instance, in which nothing is attached, in place of an older one."""
    with _lock:
        # Two stores of one catalog may be closed, one after the other.
        dropped = [_spare.pop(key)] if key in _spare else []
        _spare[key] = instance
        while len(_spare) > _MOST:
            dropped.append(_spare.popitem(last=False)[1])
    for other in dropped:
        other.close()


def clear() -> None:
    """Close them all: a child would wait for threads that it has not got."""
    with _lock:
        dropped = list(_spare.values())
        _spare.clear()
    for instance in dropped:
        instance.close()


atexit.register(clear)
# Before a fork the last that was registered comes first: cleared, and then held.
hold_while_forking(_lock)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=clear)


# -- The tables that schema version 4 added, as they were then: what the migration makes never changes.


STATEMENTS = (
    "CREATE TABLE file_versions (version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, "
    "version INTEGER NOT NULL, is_latest BOOLEAN NOT NULL, type VARCHAR NOT NULL, kind VARCHAR NOT NULL, status "
    "VARCHAR NOT NULL, mode VARCHAR NOT NULL, coverage VARCHAR, model_id VARCHAR, evaluation_id VARCHAR, suite "
    "VARCHAR, group_name VARCHAR, episode VARCHAR, module VARCHAR, module_version VARCHAR, run_id VARCHAR, "
    "processing_id VARCHAR, artifact_id VARCHAR, content_hash VARCHAR, size_bytes BIGINT NOT NULL, stored_bytes "
    "BIGINT NOT NULL, compression VARCHAR NOT NULL, compression_note VARCHAR, members JSON, tags JSON, metadata "
    "JSON, message VARCHAR, session_id VARCHAR, created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL)",
    "CREATE TABLE file_aliases (alias_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, alias "
    "VARCHAR NOT NULL, version_id VARCHAR NOT NULL, made_at TIMESTAMP NOT NULL)",
    "CREATE TABLE file_retired (series VARCHAR PRIMARY KEY, version INTEGER NOT NULL)",
    "CREATE TABLE file_types (type VARCHAR PRIMARY KEY, description VARCHAR NOT NULL, metadata_schema JSON, "
    "made_at TIMESTAMP NOT NULL)",
    "CREATE TABLE processing_runs (processing_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, status VARCHAR NOT "
    "NULL, module VARCHAR, module_version VARCHAR, parameters JSON, message VARCHAR, session_id VARCHAR, "
    "started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP)",
    "CREATE TABLE lineage_links (link_id VARCHAR PRIMARY KEY, source_kind VARCHAR NOT NULL, source_id VARCHAR "
    "NOT NULL, target_kind VARCHAR NOT NULL, target_id VARCHAR NOT NULL, link_type VARCHAR NOT NULL, metadata "
    "JSON, created_at TIMESTAMP NOT NULL)",
    "CREATE TABLE audit_entries (number BIGINT NOT NULL, made_at TIMESTAMP NOT NULL, user_name VARCHAR NOT "
    "NULL, host VARCHAR NOT NULL, pid INTEGER NOT NULL, operation VARCHAR NOT NULL, object_kind VARCHAR, "
    "object_id VARCHAR, success BOOLEAN NOT NULL, message VARCHAR, details JSON, previous_hash VARCHAR NOT "
    "NULL, entry_hash VARCHAR NOT NULL)",
    "CREATE TABLE settings (key VARCHAR PRIMARY KEY, value JSON, changed_at TIMESTAMP NOT NULL)",
    "CREATE TABLE pins (pin_id VARCHAR PRIMARY KEY, object_kind VARCHAR NOT NULL, object_id VARCHAR NOT NULL, "
    "reason VARCHAR, made_at TIMESTAMP NOT NULL)",
    "CREATE TABLE evaluations (evaluation_id VARCHAR PRIMARY KEY, model_id VARCHAR NOT NULL, suite VARCHAR NOT "
    "NULL, chain_id VARCHAR, run_id VARCHAR, status VARCHAR NOT NULL, metric VARCHAR NOT NULL, better VARCHAR "
    "NOT NULL, scores JSON NOT NULL, success_rate DOUBLE, n_episodes INTEGER, n_samples INTEGER, episodes_id "
    "VARCHAR, samples_id VARCHAR, files JSON, tags JSON, metadata JSON, environment JSON, message VARCHAR, "
    "created_at TIMESTAMP NOT NULL)",
    "CREATE TABLE champions (champion_id VARCHAR PRIMARY KEY, suite VARCHAR NOT NULL, metric VARCHAR NOT NULL, "
    "model_id VARCHAR NOT NULL, evaluation_id VARCHAR NOT NULL, rank INTEGER NOT NULL, value DOUBLE, "
    "previous_id VARCHAR, improvements JSON, chosen_by VARCHAR NOT NULL, note VARCHAR, made_at TIMESTAMP NOT "
    "NULL)",
    "CREATE TABLE backups (backup_id VARCHAR PRIMARY KEY, path VARCHAR NOT NULL, parent_id VARCHAR, size_bytes "
    "BIGINT NOT NULL, n_blobs INTEGER NOT NULL, catalog_hash VARCHAR NOT NULL, status VARCHAR NOT NULL, details "
    "JSON, created_at TIMESTAMP NOT NULL)",
)


# -- Bringing an older catalog up to date: named steps in order, each one transaction.


class Migration(msgspec.Struct, frozen=True):
    """One step from a version to the next."""

    to_version: int
    name: str
    apply: Callable[[duckdb.DuckDBPyConnection], None]


def _run_notes(con: duckdb.DuckDBPyConnection) -> None:
    for column, kind in (("environment", "JSON"), ("note", "VARCHAR"), ("tags", "JSON")):
        con.execute(f"ALTER TABLE runs ADD COLUMN {column} {kind}")


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
    for statement in STATEMENTS:
        con.execute(statement)


def _targets(con: duckdb.DuckDBPyConnection) -> None:
    for column in ("target", "target_unit"):
        con.execute(f"ALTER TABLE chains ADD COLUMN {column} VARCHAR")
    con.execute(
        "UPDATE chains SET target = nullif(trim(metadata ->> '$.target'), ''), "
        "target_unit = nullif(trim(metadata ->> '$.target_unit'), '') "
        "WHERE metadata ->> '$.target' IS NOT NULL OR metadata ->> '$.target_unit' IS NOT NULL"
    )
    for statement in _STATEMENTS_5:
        con.execute(statement)
    # The last step that makes views: they name columns of today.
    for name in ("scores", "models", "run_overview", "log_lines"):
        con.execute(VIEWS[name].replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))


_STATEMENTS_5 = (
    "CREATE TABLE metrics (metric_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL, name VARCHAR NOT NULL, "
    "n_points BIGINT NOT NULL, steps BLOB USING COMPRESSION zstd NOT NULL, step_values BLOB USING COMPRESSION zstd "
    "NOT NULL, logged_at TIMESTAMP NOT NULL)",
    "CREATE TABLE trash (trash_id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, object_id VARCHAR NOT NULL, name "
    "VARCHAR, operation VARCHAR NOT NULL, counts JSON NOT NULL, holds JSON NOT NULL, size_bytes BIGINT NOT NULL, "
    "content BLOB NOT NULL, deleted_at TIMESTAMP NOT NULL)",
    "CREATE TABLE past_chains (chain_id VARCHAR PRIMARY KEY, trash_id VARCHAR, operation VARCHAR NOT NULL, "
    "pipeline_id VARCHAR NOT NULL, pipeline_name VARCHAR, run_id VARCHAR, run_name VARCHAR, tags JSON, dataset_name "
    "VARCHAR, preprocessings VARCHAR NOT NULL, model_name VARCHAR, model_class VARCHAR NOT NULL, steps JSON NOT "
    "NULL, target VARCHAR, target_unit VARCHAR, components INTEGER, task VARCHAR, metric VARCHAR, score DOUBLE, "
    "score_sd DOUBLE, n_samples BIGINT, created_at TIMESTAMP NOT NULL, deleted_at TIMESTAMP NOT NULL)",
)


def _service(con: duckdb.DuckDBPyConnection) -> None:
    for statement in _STATEMENTS_6:
        con.execute(statement)


_STATEMENTS_6 = (
    "CREATE TABLE calibration_versions (version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, version INTEGER "
    "NOT NULL, chain_id VARCHAR NOT NULL, dataset_version_id VARCHAR, correction_id VARCHAR, scope JSON NOT "
    "NULL, figures JSON NOT NULL, content_hash VARCHAR NOT NULL, author VARCHAR NOT NULL, note VARCHAR, "
    "metadata JSON, created_at TIMESTAMP NOT NULL)",
    "CREATE TABLE calibration_aliases (alias_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, alias VARCHAR NOT "
    "NULL, number INTEGER NOT NULL, version INTEGER, previous INTEGER, set_by VARCHAR NOT NULL, reason VARCHAR, "
    "set_at TIMESTAMP NOT NULL)",
    "CREATE TABLE calibration_rules (rule_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, alias VARCHAR NOT "
    "NULL, number INTEGER NOT NULL, rule JSON, set_by VARCHAR NOT NULL, set_at TIMESTAMP NOT NULL)",
    "CREATE TABLE calibration_retired (name VARCHAR PRIMARY KEY, version INTEGER NOT NULL)",
    "CREATE TABLE signatures (signature_id VARCHAR PRIMARY KEY, version_id VARCHAR NOT NULL, signer VARCHAR NOT "
    "NULL, meaning VARCHAR NOT NULL, note VARCHAR, content_hash VARCHAR NOT NULL, audit_head VARCHAR NOT NULL, "
    "signed_at TIMESTAMP NOT NULL, algorithm VARCHAR, key_id VARCHAR, signature VARCHAR)",
    "CREATE TABLE corrections (correction_id VARCHAR PRIMARY KEY, calibration VARCHAR NOT NULL, version INTEGER "
    "NOT NULL, number INTEGER NOT NULL, slope DOUBLE, bias DOUBLE, samples JSON, reason VARCHAR, author VARCHAR NOT "
    "NULL, metadata JSON, "
    "created_at TIMESTAMP NOT NULL, retired_at TIMESTAMP)",
    "CREATE TABLE measurements (measurement_id VARCHAR NOT NULL, batch_id VARCHAR NOT NULL, calibration "
    "VARCHAR, version INTEGER, chain_id VARCHAR NOT NULL, correction_id VARCHAR, role VARCHAR NOT NULL, "
    "sample_id VARCHAR, target VARCHAR, raw DOUBLE, prediction DOUBLE, label VARCHAR, lower DOUBLE, upper "
    "DOUBLE, flags JSON, instrument VARCHAR, operator VARCHAR, spectrum_hash VARCHAR, spectrum BLOB USING "
    "COMPRESSION zstd, bundle VARCHAR, metadata JSON, measured_at TIMESTAMP NOT NULL, logged_at TIMESTAMP NOT "
    "NULL)",
    "CREATE TABLE sample_references (reference_id VARCHAR PRIMARY KEY, sample_id VARCHAR NOT NULL, target "
    "VARCHAR, value DOUBLE, label VARCHAR, unit VARCHAR, lab VARCHAR, method VARCHAR, measured_at TIMESTAMP, note "
    "VARCHAR, replaces VARCHAR, "
    "added_at TIMESTAMP NOT NULL, added_by VARCHAR)",
    "CREATE TABLE dataset_versions (dataset_version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, version "
    "INTEGER NOT NULL, kind VARCHAR NOT NULL, parent_id VARCHAR, n_samples INTEGER NOT NULL, n_channels INTEGER "
    "NOT NULL, dtype VARCHAR NOT NULL, unit VARCHAR, first_wavelength DOUBLE, last_wavelength DOUBLE, labels JSON"
    " NOT NULL, spectra_ids JSON NOT NULL, samples_id VARCHAR NOT NULL, content_hash VARCHAR NOT NULL, size_bytes"
    " BIGINT NOT NULL, instrument JSON, selection JSON, metadata JSON, note VARCHAR, session_id VARCHAR, "
    "created_at TIMESTAMP NOT NULL)",
    "CREATE TABLE dataset_retired (name VARCHAR PRIMARY KEY, version INTEGER NOT NULL)",
)

# The version that brought the audit trail.
_AUDITED_FROM = 4

MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, "environment, note and tags of runs", _run_notes),
    Migration(3, "records of the artifact layer", _artifact_records),
    Migration(4, "files, lineage, audit, evaluations, backups", _files_and_history),
    Migration(5, "targets of chains, training curves, a trash; views with plain names", _targets),
    Migration(6, "calibrations in service: data sets, versions, aliases, signatures, measurements", _service),
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
    connect: Callable[[], duckdb.DuckDBPyConnection],
    steps: Sequence[Migration] | None = None,
) -> None:
    """Run the pending steps under the exclusive lease, the catalog being closed."""
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


_FILE_ENDINGS = ("", ".wal", ".wal.checkpoint", ".wal.recovery", ".checkpoint.wal", ".recovery.wal", ".tmp")
_LOCKED = re.compile(r"[Cc]ould not set lock|[Cc]onflicting lock|being used by another process")
_OWN = re.compile(r"Unique file handle conflict|already attached")
_HOLDER = re.compile(r"held in (.+?) \(PID (\d+)\)")
_DENIED = re.compile(r"Permission denied|Access is denied")
_NO_SPACE = re.compile(
    r"No space left|Input/output error|Disk quota|Read-only file system|[Nn]ot enough space"
)


# Part of the name of the drafts of this process: an instance may be handed on, and can reach no other file. Only the
# holder of the lease makes one.
_DRAFT = new_id()


class CatalogLocked(Exception):
    """A connection outside this protocol has the file open, of another program or of this process (`own`)."""

    def __init__(self, words: str, *, own: bool = False, pid: int | None = None) -> None:
        super().__init__(words)
        self.own = own
        self.pid = pid


class Options(msgspec.Struct, frozen=True):
    """Settings of the DuckDB connection."""

    threads: int | None = None
    memory_limit: str | None = None
    # Answer from an index however much of the table the answer is: how `check` reads whole indexes.
    whole_indexes: bool = False


def _quote(path: Path) -> str:
    # ATTACH takes no bound parameter.
    return "'" + str(path).replace("'", "''") + "'"


def attach(path: Path, *, read_only: bool, options: Options, spill: Path | None) -> duckdb.DuckDBPyConnection:
    """Connect to a catalog file."""
    con = _in_memory(options, spill)
    try:
        _attach(con, path, read_only)
        con.execute("SET TimeZone = 'UTC'")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        con.close()
        raise _explain(error, path) from error
    except BaseException:
        con.close()
        raise
    return con


def _in_memory(options: Options, spill: Path | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        # For remote files: eight threads a store that would never have anything to do.
        "async_threads": 0,
        # Checkpoints are made where there is room for them, see `Checkpoint`: one that fails has filled the disk.
        "checkpoint_threshold": "1TB",
        # Of files that are made; one that is there has its own.
        "default_block_size": str(BLOCK_SIZE),
        # An in-memory connection would spill into the current folder.
        "temp_directory": str(spill) if spill is not None else "",
    }
    if options.threads is not None:
        config["threads"] = options.threads
    if options.memory_limit is not None:
        config["memory_limit"] = options.memory_limit
    if options.whole_indexes:
        config |= {"index_scan_percentage": 1.0, "index_scan_max_count": 1 << 40}
    try:
        return duckdb.connect(":memory:", config=config)
    except duckdb.Error as error:
        raise InvalidInput(f"threads, memory_limit: DuckDB refuses them: {error}") from error


def _attach(con: duckdb.DuckDBPyConnection, path: Path, read_only: bool) -> None:
    _require_plain(path)
    access = ", READ_ONLY" if read_only else ""
    con.execute(f"ATTACH {_quote(path)} AS {CATALOG_ALIAS} (ROW_GROUP_SIZE {ROW_GROUP_SIZE}{access})")
    con.execute(f"USE {CATALOG_ALIAS}")


def _require_plain(path: Path) -> None:
    """Refuse a catalog that is a link or a pipe: it may be another workspace's, whose lock is not the one held."""
    for end in _FILE_ENDINGS:
        if end == ".tmp":
            continue  # a folder, where DuckDB spills
        place = Path(f"{path}{end}")
        try:
            stat_plain(place)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise _no_right(path, error) from error
        except OSError as error:
            raise ForeignCatalog(
                f"{place} was not opened: {error.strerror}. A workspace has its catalog in a file of its own. Nothing "
                "was changed. Name the folder where the catalog is, or move away what is in its place."
            ) from error


def _no_right(path: Path, error: BaseException) -> ReadOnlyStore:
    return ReadOnlyStore(
        f"{path} could not be opened, because this user may not: {error}. Nothing was changed, and nothing is damaged. "
        "Let its owner give the right to read and write (chmod g+rw), or open the workspace with read_only=True."
    )


class Instance:
    """A DuckDB in memory that opens and closes one catalog file as often as it is asked to.

    Making one takes 20 ms, opening the file in it 1 ms: a store that shares its catalog with others closes it
    after every few questions. It can reach that file and nothing else.
    """

    def __init__(self, path: Path, options: Options, spill: Path | None) -> None:
        self._path = path
        self._options = options
        self._spill = spill
        # What two instances have to have in common for one to stand in for the other.
        self._settings = (path, options, spill)
        self._root: duckdb.DuckDBPyConnection | None = None
        # Whether a file may be open in it: set before it is opened, and taken back when it is closed for sure.
        self._attached = False
        # The other file that it can reach: where a new catalog is made, to be renamed into place.
        self.draft = None if spill is None else spill / f"catalog-{_DRAFT}.duckdb"

    def attach(self, *, read_only: bool, path: Path | None = None) -> duckdb.DuckDBPyConnection:
        """Open the catalog, or its draft; errors as for `attach`."""
        path = path or self._path
        if self._attached:
            # By a call that was interrupted: nobody has the connection any more.
            self.discard()
        con = self._made().cursor()
        self._attached = True
        try:
            _attach(con, path, read_only)
        except duckdb.Error as error:
            self.discard(con)
            raise _explain(error, path) from error
        except BaseException:
            self.discard(con)
            raise
        return con

    def detach(self, con: duckdb.DuckDBPyConnection) -> None:
        """Close the file again; what was open on the connection is rolled back."""
        try:
            with contextlib.suppress(duckdb.Error):  # there is no transaction, most of the time
                con.rollback()
            con.execute("USE memory")
            con.execute(f"DETACH {CATALOG_ALIAS}")
        except BaseException as error:
            # After a fatal error, or interrupted: nobody can say what this instance still holds.
            self.discard(con)
            if not isinstance(error, duckdb.Error):
                raise
        else:
            self._attached = False
            con.close()

    @contextlib.contextmanager
    def rewriting(self, old: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a new draft in the catalog's place, and the catalog read-only under another name.

        Nothing is logged: what the draft was given is in it after a checkpoint, and not before. Both are closed
        when the block ends.
        """
        if self.draft is None:
            raise ValueError("an instance that may write nowhere")  # only read-only stores have one
        if self._attached:
            self.discard()
        con = self._made().cursor()
        self._attached = True
        try:
            con.execute(f"ATTACH {_quote(self._path)} AS {old} (READ_ONLY)")
            con.execute(
                f"ATTACH {_quote(self.draft)} AS {CATALOG_ALIAS} "
                f"(ROW_GROUP_SIZE {ROW_GROUP_SIZE}, BLOCK_SIZE {BLOCK_SIZE}, RECOVERY_MODE no_wal_writes)"
            )
            con.execute(f"USE {CATALOG_ALIAS}")
            yield con
            con.execute("USE memory")
            con.execute(f"DETACH {old}")
        except BaseException:
            # Nobody can say what is still under way in it.
            self.discard(con)
            raise
        self.detach(con)

    def discard(self, con: duckdb.DuckDBPyConnection | None = None) -> None:
        """Release everything; the next `attach` starts with a new instance."""
        root, self._root = self._root, None
        self._attached = False
        if con is not None:
            con.close()
        if root is not None:
            root.close()

    def put_by(self) -> None:
        """Release it for whoever opens the same catalog next in this process."""
        if self._attached:
            self.discard()
            return
        root, self._root = self._root, None
        if root is not None:
            keep(self._settings, root)

    def abandon(self) -> list[duckdb.DuckDBPyConnection]:
        """Forget an instance that a forked child inherited; returns what must not be destroyed there."""
        root, self._root = self._root, None
        self._attached = False
        return [] if root is None else [root]

    def _made(self) -> duckdb.DuckDBPyConnection:
        if self._root is None:
            self._root = take(self._settings)
        if self._root is None:
            root = _in_memory(self._options, self._spill)
            try:
                root.execute("SET GLOBAL TimeZone = 'UTC'")
                root.execute("PRAGMA disable_checkpoint_on_shutdown")
                # The file, its log, and what a checkpoint or the recovery after a crash writes beside them.
                reached = [self._path] if self.draft is None else [self._path, self.draft]
                files = [f"{path}{end}" for path in reached for end in _FILE_ENDINGS]
                root.execute(f"SET allowed_paths = [{', '.join(_quote(Path(file)) for file in files)}]")
                # It changes no answer.
                root.execute("SET allowed_configs = ['max_vacuum_tasks']")
                root.execute("SET enable_external_access = false")
                root.execute("SET lock_configuration = true")
            except BaseException:
                root.close()
                raise
            self._root = root
        return self._root


def _explain(error: duckdb.Error, path: Path) -> Exception:
    text = str(error)
    if _OWN.search(text):
        return CatalogLocked("by another DuckDB connection of this process (duckdb.connect)", own=True)
    if _LOCKED.search(text):
        # Not DuckDB's advice to open the file read-only: it would be a second program beside the lock.
        holder = _HOLDER.search(text)
        words = f"in another program: {holder[1]} (PID {holder[2]})" if holder else "in another program"
        return CatalogLocked(words, pid=int(holder[2]) if holder else None)
    if _DENIED.search(text):
        return _no_right(path, error)
    if _NO_SPACE.search(text):
        return WriteFailed(
            f"{path} could not be opened: {text} Nothing was changed; free space and call again."
        )
    if "WAL file" in text:
        return CatalogDamaged(
            f"DuckDB's log {path.name}.wal cannot be read: {text} Nothing was changed. Move the log out of "
            f"{path.parent} and open the workspace again: the commits that it holds are in the journal too and are "
            "applied again. "
            "Deletions, files, evaluations and settings that it holds are lost without it; a backup has them."
        )
    return CatalogDamaged(
        f"{path} cannot be opened as a DuckDB catalog: {text} "
        "The file was left as it is. Restore it from a backup or from the copy that the last migration kept."
    )


def inspect_catalog(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Version of an attached catalog in which nothing of others acts."""
    known = was_inspected(path)
    objects = [] if known else objects_of(con)
    refuse_false_meta(objects, path)
    version = schema_version(con, path)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema version {version}; this nirs_store reads up to {SCHEMA_VERSION}. "
            "It was left untouched. Upgrade nirs_store to open this workspace."
        )
    if not known:
        refuse_altered(con, objects, path)
        remember(path)
    return version


def schema_version(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Version of an attached catalog."""
    try:
        # Asked at every opening, so not by way of a list of all tables.
        rows = execute(con, "SELECT value FROM nirs_store_meta WHERE key = 'schema_version'").fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):
        raise ForeignCatalog(
            f"{path} is not a nirs_store catalog: it is {_whose(con)}. It was left untouched. "
            "Choose another folder for this workspace."
        ) from None
    if rows and str(rows[0][0]).isdigit():
        return int(rows[0][0])
    raise CatalogDamaged(f"{path} says it is ours but does not say its schema version. It was left as it is.")


def _whose(con: duckdb.DuckDBPyConnection) -> str:
    tables = {
        str(row[0])
        for row in con.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = ?", [CATALOG_ALIAS]
        ).fetchall()
    }
    if {"runs", "pipelines", "chains", "predictions"} <= tables:
        return (
            "a workspace of nirs4all 0.7 or 0.8, which used the same file name "
            "(`nirs-store migrate` brings its content into another folder)"
        )
    if tables:
        return f"a DuckDB database of another program (tables {', '.join(sorted(tables)[:5])})"
    return "an empty DuckDB database of unknown origin"


def create_catalog(layout: Layout, instance: Instance) -> None:
    """Make an empty catalog beside and rename it into place, so that none is ever half made."""
    draft = instance.draft
    if draft is None:
        raise ValueError("an instance that may write nowhere")  # only read-only stores have one
    clear_draft(draft)
    try:
        con = instance.attach(read_only=False, path=draft)
        try:
            con.execute("BEGIN")
            for statement in create_statements():
                con.execute(statement)
            for key, value in (
                ("format", "nirs_store"),
                ("schema_version", str(SCHEMA_VERSION)),
                ("workspace_id", new_id()),
            ):
                con.execute("INSERT INTO nirs_store_meta VALUES (?, ?)", [key, value])
            con.execute("COMMIT")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        except duckdb.Error as error:
            raise _explain(error, draft) from error
        finally:
            instance.detach(con)
        try:
            fd = os.open(draft, os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            share(draft, layout.root)
            move_file(draft, layout.catalog)
            fsync_dir(layout.root)
        except OSError as error:
            if isinstance(error, NirsStoreError):
                raise
            raise write_error(draft, error) from error
    finally:
        clear_draft(draft)


def clear_draft(draft: Path) -> None:
    """Remove a draft that is not used, or that a killed process left: a fork has drafts of the same name."""
    remove_file(draft, missing_ok=True)
    remove_file(draft.with_name(draft.name + ".wal"), missing_ok=True)


def open_catalog(
    layout: Layout, *, read_only: bool, options: Options, instance: Instance | None = None
) -> duckdb.DuckDBPyConnection:
    """Attach the workspace's catalog, check whose it is and bring its schema up to date."""

    def connect() -> duckdb.DuckDBPyConnection:
        if instance is not None:
            return instance.attach(read_only=read_only)
        return attach(
            layout.catalog, read_only=read_only, options=options, spill=None if read_only else layout.tmp
        )

    def close() -> None:
        if instance is not None:
            instance.detach(con)
        else:
            con.close()

    con = connect()
    try:
        version = inspect_catalog(con, layout.catalog)
        if read_only or not pending_migrations(version):
            return con
    except duckdb.Error as error:
        close()
        raise _explain(error, layout.catalog) from error
    except BaseException:
        close()
        raise
    close()
    migrate_catalog(
        layout, version, lambda: attach(layout.catalog, read_only=False, options=options, spill=layout.tmp)
    )
    return connect()


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
    open_catalog(copy, read_only=False, options=options).close()
    return attach(copy.catalog, read_only=True, options=options, spill=None)


# -- Rewriting the catalog into a new file: the only way DuckDB gives space back.


_OLD = OLD_ALIAS
_ARRAYS = "arrays"


def compact(
    layout: Layout, instance: Instance, finish: Callable[[duckdb.DuckDBPyConnection], None] = lambda con: None
) -> None:
    """Copy the catalog row by row into a new file and rename it into place.

    The lease is held alone, the catalog is closed in `instance` and its log was checkpointed. `finish` writes a
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
        fd = os.open(draft, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        _take_rights(draft, layout.catalog)
        move_file(draft, layout.catalog)
        fsync_dir(layout.root)
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


# -- The folders of a workspace: made when they are missing, refused when they are somebody else's.


def make_folders(layout: Layout, exists: bool) -> bool:
    """Make what is missing; False when an existing workspace cannot be written."""
    try:
        ensure_dir(layout.root)
        for folder in layout.folders:
            ensure_dir(folder, shared=True)
    except ReadOnlyStore:
        if exists:
            return False
        raise
    if os.access(layout.root, os.W_OK) and os.access(layout.segments, os.W_OK):
        return True
    if exists:
        return False
    raise ReadOnlyStore(f"{layout.root} cannot be written by this user, so no workspace can be made there.")


def refuse_linked_folders(layout: Layout) -> None:
    """Refuse a workspace whose own folders are links: what is swept and deleted there would be somebody else's."""
    for folder in layout.folders:
        try:
            found = os.lstat(folder)
        except OSError:
            continue  # made, or said by whoever needs it
        linked = stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", None)
        if not linked or (folder == layout.artifacts and _leads_inside(layout.root, folder)):
            continue
        raise PathEscapes(
            f"{folder} is a link to {os.path.realpath(folder)}; a workspace has its folders itself. Nothing was "
            "changed. Put the folder in the place of the link; the workspace as a whole may be a link."
        )


def _leads_inside(root: Path, folder: Path) -> bool:
    inside, real = Path(os.path.realpath(root)), Path(os.path.realpath(folder))
    return real != inside and real.is_relative_to(inside)


def refuse_lost_catalog(layout: Layout) -> None:
    """Refuse an empty catalog next to blobs or commits, which would hide that the real one was lost."""
    left = any(folder.is_dir() and any(folder.iterdir()) for folder in (layout.segments, layout.artifacts))
    # Looked for last: whoever makes a workspace makes the catalog before the first blob or commit.
    if left and not layout.catalog.exists():
        raise CatalogDamaged(
            f"{layout.root} has blobs or commits but no store.duckdb: the catalog was lost or moved. Nothing was "
            "changed. Restore store.duckdb from a backup or from a copy kept in journal/, or name another folder."
        )


def refuse_foreign(layout: Layout, options: Options) -> None:
    """Refuse a store.duckdb that is not ours before anything is made beside it."""
    try:
        con = attach(layout.catalog, read_only=True, options=options, spill=None)
    except CatalogLocked as error:
        raise StoreBusy(
            f"{layout.catalog} is open {error}, and has no journal next to it. "
            "Nothing was changed. Close it there and open the workspace again.",
            pid=error.pid,
        ) from error
    try:
        inspect_catalog(con, layout.catalog)
    except duckdb.Error as error:
        raise CatalogDamaged(f"{layout.catalog} cannot be read: {error} It was left as it is.") from error
    finally:
        con.close()
