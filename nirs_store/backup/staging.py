"""Bringing an archive in: everything is verified first, then blobs come into place, then rows in one transaction."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa

from nirs_store.addresses import refuse_address, user_path
from nirs_store.backup import calibrations
from nirs_store.backup.archive import ARCHIVED, Progress, blob_files, key_of
from nirs_store.backup.container import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    Limits,
    Manifest,
    Member,
    invalid,
    open_members,
)
from nirs_store.blobs.durable import ensure_dir, make_read_only, sync_file, write_error
from nirs_store.blobs.store import check_suffix
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import decode_array, with_targets
from nirs_store.db.schema import SCHEMA_VERSION, arrow_schema, column_names
from nirs_store.db.session import Engine
from nirs_store.db.sql import incoming, number
from nirs_store.db.table import Unfolds, read_rows, same_kind
from nirs_store.errors import CatalogDamaged, InvalidInput, NirsStoreError, SchemaTooNew, WriteFailed
from nirs_store.ids import new_id
from nirs_store.records.notes import note

# -- Verifying an archive: every member against the manifest, and the rows against each other and the blobs.


_MAGIC = b"ARROW1\0\0"
_PIECE = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")


def parse_manifest(path: Path, name: str, size: int, content: IO[bytes], limits: Limits) -> Manifest:
    """Read the first member, and refuse what it promises beyond the limits."""
    if name != MANIFEST or size > limits.manifest_bytes:
        raise invalid(path, "does not begin with a manifest of an allowed size")
    try:
        found = msgspec.json.decode(content.read(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(path, f"has a manifest that cannot be read ({error})") from error
    if found.format != FORMAT:
        raise invalid(path, f"is of the format {found.format[:60]!r}")
    if found.format_version > FORMAT_VERSION or found.schema_version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} was made by nirs_store {found.nirs_store} (archive version {found.format_version}, schema "
            f"{found.schema_version}); this one reads up to {FORMAT_VERSION} and {SCHEMA_VERSION}. Nothing was "
            "restored; upgrade nirs_store."
        )
    listed = found.members
    if len(listed) != len(found.tables) + len(found.blobs):
        raise invalid(path, "names a member twice")
    for table, member in found.tables.items():
        if table not in ARCHIVED or member.member != f"tables/{table}.arrow":
            raise invalid(path, f"has a table {table[:60]!r} that an archive cannot hold")
    for member in found.blobs:
        if member.member != f"blobs/{member.sha256}":
            raise invalid(path, f"has a blob {member.member[:80]!r} whose name is not its hash")
    if any(member.size < 0 or _HASH.fullmatch(member.sha256) is None for member in listed.values()):
        raise invalid(path, "has a manifest with impossible sizes or hashes")
    total, packed = found.total_bytes, path.stat().st_size
    if len(listed) > limits.members or total > limits.total_bytes:
        raise invalid(
            path,
            f"promises {len(listed):,} members and {total:,} bytes, more than the {limits.members:,} and "
            f"{limits.total_bytes:,} allowed",
        )
    if total > limits.ratio_from and total > limits.ratio * packed:
        raise invalid(path, f"promises {total:,} bytes out of {packed:,}, which no honest archive holds")
    return found


def extract(path: Path, folder: Path, limits: Limits, progress: Progress | None) -> Manifest:
    """Verify every member against the manifest while it is written into the staging folder."""
    with open_members(path, limits) as members:
        manifest: Manifest | None = None
        missing: dict[str, Member] = {}
        done = total = 0
        for name, size, content in members:
            if manifest is None:
                manifest = parse_manifest(path, name, size, content, limits)
                missing, total = manifest.members, manifest.total_bytes
                _check_space(folder, total)
                continue
            expected = missing.pop(name, None)
            if expected is None:
                raise invalid(path, f"has a member {name!r} that its manifest does not name, or has it twice")
            if size != expected.size:
                raise invalid(path, f"has a member {name!r} of {size:,} bytes instead of {expected.size:,}")
            _copy(path, content, folder / name.partition("/")[2], expected.size, expected.sha256, name)
            done += size
            if progress is not None:
                progress(done, total)
        if manifest is None:
            raise invalid(path, "is empty")
        if missing:
            raise invalid(path, f"lacks {len(missing)} of its members, among them {sorted(missing)[0]!r}")
    return manifest


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteFailed(
            f"The archive holds {needed:,} bytes and {folder} has {free:,} free. Nothing was restored; free space."
        )


def _piece(path: Path, content: IO[bytes]) -> bytes:
    try:
        return content.read(_PIECE)
    except OSError as error:  # also a checksum of gzip that does not fit
        raise invalid(path, f"cannot be read ({error})") from error


def _copy(path: Path, content: IO[bytes], target: Path, size: int, digest: str, name: str) -> None:
    hashed, written = hashlib.sha256(), 0
    try:
        with target.open("xb") as file:
            while piece := _piece(path, content):
                written += len(piece)
                if written > size:
                    break
                hashed.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(target, error) from error
    if written != size or hashed.hexdigest() != digest:
        raise invalid(path, f"was altered: {name!r} does not have the hash that its manifest says")


def read_tables(path: Path, manifest: Manifest, folder: Path, opened: ExitStack) -> dict[str, pa.Table]:
    """Return the rows, mapped from the staging folder, checked as far as they can be without the catalog."""
    tables: dict[str, pa.Table] = {}
    for table, member in manifest.tables.items():
        try:
            source = opened.enter_context(pa.memory_map(str(folder / f"{table}.arrow")))
            schema = arrow_schema(table)
            if bytes(source.read(len(_MAGIC))) != _MAGIC:
                raise Unfolds("it does not begin as an Arrow file")
            rows = read_rows(source, partial(_check_columns, schema), most=member.size)
            if rows.num_rows != member.rows:
                raise invalid(path, f"has a table {table!r} of other rows than it says")
            rows = rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))
        except (pa.ArrowException, OSError, Unfolds) as error:
            if isinstance(error, NirsStoreError):
                raise
            raise invalid(path, f"has a table {table!r} that cannot be read ({error})") from error
        key = key_of(table)
        if key not in rows.column_names or len(set(rows[key].to_pylist())) != rows.num_rows:
            raise invalid(path, f"has a table {table!r} with a row twice")
        tables[table] = rows
    _check_arrays(path, tables)
    _check_blobs(path, manifest, tables)
    _check_datasets(path, tables)
    for table in ("dataset_retired", "file_retired"):
        if any(row["version"] is None or not 0 < row["version"] < 2**30 for row in rows_of(tables, table)):
            raise invalid(path, f"has a row of {table} with an impossible number")
    return tables


def _check_columns(expected: pa.Schema, found: pa.Schema) -> None:
    for column in found:
        if column.name not in expected.names:
            raise Unfolds(f"it has a column {column.name[:60]!r} that is not known")
        if not same_kind(column.type, expected.field(column.name).type):
            raise Unfolds(f"its column {column.name!r} is of the type {str(column.type)[:60]}")


def _check_arrays(path: Path, tables: Mapping[str, pa.Table]) -> None:
    # An array under a false hash would stand in the way of the true one.
    if "arrays" not in tables:
        return
    for batch in tables["arrays"].to_batches(512):
        for row in batch.to_pylist():
            try:
                decode_array(row["array_hash"], row["dtype"], row["shape"], row["data"])
            except (CatalogDamaged, ValueError, TypeError) as error:
                raise invalid(
                    path, f"has an array {row['array_hash'][:64]!r} that is not its hash"
                ) from error


def _check_blobs(path: Path, manifest: Manifest, tables: Mapping[str, pa.Table]) -> None:
    there = {member.sha256: member.size for member in manifest.blobs}
    known = set()
    for row in rows_of(tables, "blobs"):
        if there.get(row["content_hash"]) != row["size_bytes"]:
            raise invalid(path, f"names an artifact {row['artifact_id'][:64]!r} that it does not hold")
        if _HASH.fullmatch(row["artifact_id"]) and row["artifact_id"] != row["content_hash"]:
            raise invalid(path, f"names an artifact {row['artifact_id']!r} that is not its hash")
        known.add(row["artifact_id"])
    for row in rows_of(tables, "artifact_refs"):
        if row["artifact_id"] not in known or row["owner_kind"] in ("session", "trash"):
            raise invalid(
                path, f"has a reference to an artifact {row['artifact_id'][:64]!r} that it does not hold"
            )


def _check_datasets(path: Path, tables: Mapping[str, pa.Table]) -> None:
    """Refuse versions of data sets whose columns this library would not have written."""
    held: dict[str, set[str]] = {}
    for ref in rows_of(tables, "artifact_refs"):
        if ref["owner_kind"] == "dataset":
            held.setdefault(ref["owner_id"], set()).add(ref["artifact_id"])
    for row in rows_of(tables, "dataset_versions"):
        try:
            named = {*msgspec.json.decode(row["spectra_ids"], type=list[str]), row["samples_id"]}
            msgspec.json.decode(row["labels"], type=list[str])
            for name in ("instrument", "selection", "metadata"):
                msgspec.json.decode(row[name] or "{}", type=dict[str, Any])
            counts = (row["version"], row["n_samples"], row["n_channels"])
            fits = named == held.get(row["dataset_version_id"]) and min(counts) > 0
        except (msgspec.DecodeError, TypeError, KeyError):
            fits = False
        if not fits:
            raise invalid(path, f"has a data set {str(row.get('name'))[:60]!r} that cannot be read")


def rows_of(tables: Mapping[str, pa.Table], table: str) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts; none where the archive lacks it."""
    found: list[dict[str, Any]] = tables[table].to_pylist() if table in tables else []
    return found


# -- Rows come in by their keys, so that bringing them in twice changes nothing.


# Tables whose ids a tombstone may name: what comes back is alive again.
_MORTAL = ("runs", "pipelines", "chains", "predictions")
_RETIRED = ("dataset_retired", "file_retired", "calibration_retired")
# What tells one series of versions from another, and the numbers that were given away here.
_SERIES = {
    "file_versions": (
        ("name", "test_name"),
        "SELECT name, test_name, version FROM file_versions UNION ALL SELECT split_part(series, chr(10), 2), "
        "nullif(split_part(series, chr(10), 1), ''), version FROM file_retired",
    ),
    "dataset_versions": (
        ("name",),
        "SELECT name, version FROM dataset_versions UNION ALL SELECT name, version FROM dataset_retired",
    ),
}


def new_rows(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """How many of some rows are not there yet, by table."""
    found: dict[str, int] = {}
    for table, rows in calibrations.merged(con, tables).items():
        key = key_of(table)
        with incoming(con) as arriving:
            arriving.rows = rows.select([key])
            found[table] = number(con, f"SELECT count(*) FROM incoming ANTI JOIN {table} USING ({key})")
    return {table: count for table, count in found.items() if count}


def insert_rows(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """Insert the rows that are not there yet, inside the caller's transaction; gives their number by table."""
    added: dict[str, int] = {}
    tables = calibrations.merged(con, tables)
    for table in ARCHIVED:
        if table not in tables:
            continue
        rows = with_targets(tables[table]) if table == "chains" else tables[table]
        with incoming(con) as arriving:
            arriving.rows = rows
            if table in _MORTAL:
                con.execute(f"DELETE FROM dead WHERE id IN (SELECT {key_of(table)} FROM incoming)")
            names = [name for name in column_names(table) if name in rows.column_names]
            columns = ", ".join(names)
            # Without an index there is no conflict: `_source` leaves out what is there.
            clash = "" if table == "measurements" else " ON CONFLICT DO NOTHING"
            if table in _RETIRED:
                clash = " ON CONFLICT DO UPDATE SET version = excluded.version"
            added[table] = number(
                con, f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {_source(table, names)}{clash}"
            )
    if added.get("file_versions"):
        con.execute(
            "UPDATE file_versions SET is_latest = (version = n.newest) FROM "
            "(SELECT name, test_name, max(version) AS newest FROM file_versions GROUP BY name, test_name) n WHERE "
            "file_versions.name = n.name AND file_versions.test_name IS NOT DISTINCT FROM n.test_name "
            "AND is_latest <> (version = n.newest)"
        )
    return {table: count for table, count in added.items() if count}


def _source(table: str, names: Sequence[str]) -> str:
    """Where the rows of a table come from; numbers and aliases that are taken here make way."""
    key = key_of(table)
    if table in _SERIES:
        # The same name may have versions of its own here: what comes in gets the next numbers.
        series, given = _SERIES[table]
        others = ", ".join(f"i.{name}" for name in names if name != "version")
        ours = ", ".join(f"i.{name}" for name in series)
        same = " AND ".join(f"m.{name} IS NOT DISTINCT FROM i.{name}" for name in series)
        return (
            f"(SELECT {others}, CASE WHEN m.newest IS NULL THEN i.version ELSE m.newest + "
            f"row_number() OVER (PARTITION BY {ours} ORDER BY i.version) END AS version FROM incoming i "
            f"LEFT JOIN (SELECT {', '.join(series)}, max(version) AS newest FROM ({given}) GROUP BY ALL) m ON {same} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.{key} = i.{key}))"
        )
    there = f"(SELECT * FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE "
    if table in _RETIRED:
        # A number that either workspace has given away is never given again.
        return f"{there}t.{key} = i.{key} AND t.version >= i.version))"
    if table == "measurements":
        return f"{there}t.{key} = i.{key}) QUALIFY row_number() OVER (PARTITION BY i.{key}) = 1)"
    if table == "file_aliases":
        return f"{there}t.name = i.name AND t.alias = i.alias))"
    return "incoming"


# -- Bringing an archive into a workspace.


@dataclass(frozen=True)
class RestoredArchive:
    """What an archive added.

    Attributes
    ----------
    path : Path
    rows : dict of str to int
        New rows by table; empty when everything was there already.
    blobs, blob_bytes : int
        New files and their bytes.
    dry_run : bool
        True where nothing was changed, and this is what would be added.
    """

    path: Path
    rows: dict[str, int]
    blobs: int
    blob_bytes: int
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Placed:
    """Where the file of a blob goes."""

    content_hash: str
    relative: str
    size: int
    # Whether no row of this workspace named the file before.
    is_new: bool


def restore_archive(
    engine: Engine,
    path: str | Path,
    *,
    dry_run: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> RestoredArchive:
    """Bring an archive in; see `WorkspaceStore.restore_archive`."""
    refuse_address(path, "path")
    source = user_path(path).absolute()
    engine.check_writable()
    try:
        with _staging(engine) as folder, ExitStack() as opened:
            manifest = extract(source, folder, limits or Limits(), progress)
            tables = read_tables(source, manifest, folder, opened)
            if dry_run:
                return engine.query(lambda con: _plan(con, engine, source, tables))
            restored = engine.exclusive(lambda access: _merge(access, engine, source, folder, tables))
    except NirsStoreError as error:
        note(engine, "restore_archive", message=str(error), success=False, details={"path": str(source)})
        raise
    engine.id_cache.clear()
    note(engine, "restore_archive", details=restored.to_dict())
    return restored


@contextmanager
def _staging(engine: Engine) -> Iterator[Path]:
    """Return a folder on the file system of the blobs, so that a verified file is moved into place in one step."""
    # The session lives for others from here on, so that no process takes the folder for abandoned.
    with engine.recording():
        pass
    folder = engine.layout.tmp / f"archive-{engine.session_id}-{new_id()}"
    ensure_dir(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _placing(
    con: Connection, engine: Engine, tables: dict[str, pa.Table]
) -> tuple[dict[str, pa.Table], list[_Placed]]:
    """Where each blob goes, and its rows with that path; what is there whole is not written again."""
    rows = rows_of(tables, "blobs")
    if not rows:
        return tables, []
    here = {b.artifact_id: b for b in blob_files(con, [row["artifact_id"] for row in rows])}
    needed: dict[str, _Placed] = {}
    for row in rows:
        known = here.get(row["artifact_id"])
        if known is not None and known.content_hash != row["content_hash"]:
            raise InvalidInput(
                f"Artifact {row['artifact_id']} names other content in this workspace. Nothing was restored."
            )
        # A stranger's path is never used; only the ending is taken over.
        suffix = check_suffix(Path(row["artifact_path"]).suffix)
        relative = engine.blobs.key_of(row["content_hash"], suffix) if known is None else known.path
        row["artifact_path"] = relative
        there = engine.layout.blobs.stat(relative)
        if there is None or there.size != row["size_bytes"]:
            needed[relative] = _Placed(row["content_hash"], relative, row["size_bytes"], known is None)
    moved = pa.Table.from_pylist(rows, schema=tables["blobs"].schema)
    return {**tables, "blobs": moved}, list(needed.values())


def _plan(con: Connection, engine: Engine, path: Path, tables: dict[str, pa.Table]) -> RestoredArchive:
    _, placed = _placing(con, engine, tables)
    added = new_rows(con, tables)
    return RestoredArchive(path, added, len(placed), sum(each.size for each in placed), dry_run=True)


def _merge(
    access: Database, engine: Engine, path: Path, folder: Path, tables: dict[str, pa.Table]
) -> RestoredArchive:
    """Blobs into place, then the rows; under the lock, so that no gc sees the one without the other."""
    placed: list[_Placed] = []

    def write(con: Connection) -> dict[str, int]:
        with_paths, needed = _placing(con, engine, tables)
        placed.extend(needed)
        _put(engine, folder, needed)
        return insert_rows(con, with_paths)

    try:
        added = access.transact(write)
    except BaseException:
        # The rows did not come; files that no row names would only be found by a check.
        new = [each.relative for each in placed if each.is_new]
        engine.layout.blobs.trash(new)
        engine.layout.blobs.delete(new)
        raise
    return RestoredArchive(path, added, len(placed), sum(each.size for each in placed))


def _put(engine: Engine, folder: Path, needed: Sequence[_Placed]) -> None:
    files: dict[str, Path] = {}
    try:
        for each in needed:
            source = folder / each.content_hash
            if source in files.values():  # two artifacts have the same bytes under two endings
                source = Path(shutil.copyfile(source, source.with_suffix(f".{len(files)}")))
                sync_file(source)
            make_read_only(source)
            files[each.relative] = source
    except OSError as error:
        raise write_error(folder, error) from error
    engine.layout.blobs.put(files)
    for each in needed:
        engine.blobs.forget(each.content_hash)
