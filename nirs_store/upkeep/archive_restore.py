"""Bringing an archive into a workspace: everything is verified first, then blobs, then rows in one transaction.

Rows come in by their ids and blobs by their hash, so the same archive brought in twice changes nothing the
second time, and a workspace that has other work keeps it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa

from nirs_store.blobs.durable import ensure_dir, move_file, remove_file, write_error
from nirs_store.blobs.paths import check_suffix
from nirs_store.catalog import archive_rows
from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.arrays import decode_array
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.schema import SCHEMA_VERSION, arrow_schema
from nirs_store.errors import (
    CatalogDamaged,
    InvalidInput,
    NirsStoreError,
    SchemaTooNew,
    WriteFailed,
)
from nirs_store.ids import new_id
from nirs_store.registry.audit import note
from nirs_store.upkeep.archive import Progress
from nirs_store.upkeep.archive_format import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    Limits,
    Manifest,
    Member,
    Members,
    open_members,
)

__all__ = ["RestoredArchive", "read_manifest", "restore_archive"]

_PIECE = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")


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


def read_manifest(path: str | Path, *, limits: Limits | None = None) -> Manifest:
    """Read what an archive says of itself, without verifying the rest.

    Raises
    ------
    ArchiveInvalid, SchemaTooNew
    """
    bounds = limits or Limits()
    with open_members(Path(path), bounds) as members:
        for name, size, content in members:
            return _manifest(members, name, size, content, bounds)
        raise members.invalid("is empty")


def restore_archive(
    engine: Engine,
    path: str | Path,
    *,
    dry_run: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> RestoredArchive:
    """Bring an archive in; see `WorkspaceStore.restore_archive`."""
    source = Path(path).expanduser().absolute()
    engine.check_writable()
    try:
        with _staging(engine) as folder, ExitStack() as opened:
            manifest = _extract(source, folder, limits or Limits(), progress)
            tables = _tables(source, manifest, folder, opened)
            if dry_run:
                return engine.query(lambda con: _plan(con, engine, source, tables))
            restored = engine.exclusive(lambda access: _merge(access, engine, source, folder, tables))
    except NirsStoreError as error:
        note(engine, "restore_archive", message=str(error), success=False, details={"path": str(source)})
        raise
    engine.known.clear()
    note(engine, "restore_archive", details=restored.to_dict())
    return restored


@contextmanager
def _staging(engine: Engine) -> Iterator[Path]:
    """A folder on the file system of the blobs, so that a verified file is moved into place in one step."""
    folder = engine.layout.tmp / f"archive-{new_id()}"
    ensure_dir(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- verifying ---------------------------------------------------------------------------------


def _manifest(members: Members, name: str, size: int, content: IO[bytes], limits: Limits) -> Manifest:
    if name != MANIFEST or size > limits.manifest_bytes:
        raise members.invalid("does not begin with a manifest of an allowed size")
    try:
        found = msgspec.json.decode(content.read(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise members.invalid(f"has a manifest that cannot be read ({error})") from error
    if found.format != FORMAT:
        raise members.invalid(f"is of the format {found.format[:60]!r}")
    if found.format_version > FORMAT_VERSION or found.schema_version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{members.path} was made by nirs_store {found.nirs_store} (archive version {found.format_version}, schema "
            f"{found.schema_version}); this one reads up to {FORMAT_VERSION} and {SCHEMA_VERSION}. Nothing was "
            "restored; upgrade nirs_store."
        )
    listed = found.members
    if len(listed) != len(found.tables) + len(found.blobs):
        raise members.invalid("names a member twice")
    for table, member in found.tables.items():
        if table not in archive_rows.ARCHIVED or member.member != f"tables/{table}.arrow":
            raise members.invalid(f"has a table {table[:60]!r} that an archive cannot hold")
    for member in found.blobs:
        if member.member != f"blobs/{member.sha256}":
            raise members.invalid(f"has a blob {member.member[:80]!r} whose name is not its hash")
    if any(member.size < 0 or _HASH.fullmatch(member.sha256) is None for member in listed.values()):
        raise members.invalid("has a manifest with impossible sizes or hashes")
    total, packed = found.total_bytes, members.path.stat().st_size
    if len(listed) > limits.members or total > limits.total_bytes:
        raise members.invalid(
            f"promises {len(listed):,} members and {total:,} bytes, more than the {limits.members:,} and "
            f"{limits.total_bytes:,} allowed"
        )
    if total > limits.ratio_from and total > limits.ratio * packed:
        raise members.invalid(f"promises {total:,} bytes out of {packed:,}, which no honest archive holds")
    return found


def _extract(path: Path, folder: Path, limits: Limits, progress: Progress | None) -> Manifest:
    """Verify every member against the manifest while it is written into the staging folder."""
    with open_members(path, limits) as members:
        manifest: Manifest | None = None
        missing: dict[str, Member] = {}
        done = total = 0
        for name, size, content in members:
            if manifest is None:
                manifest = _manifest(members, name, size, content, limits)
                missing, total = manifest.members, manifest.total_bytes
                _check_space(folder, total)
                continue
            expected = missing.pop(name, None)
            if expected is None:
                raise members.invalid(
                    f"has a member {name!r} that its manifest does not name, or has it twice"
                )
            if size != expected.size:
                raise members.invalid(f"has a member {name!r} of {size:,} bytes instead of {expected.size:,}")
            _copy(members, content, folder / name.partition("/")[2], expected.size, expected.sha256, name)
            done += size
            if progress is not None:
                progress(done, total)
        if manifest is None:
            raise members.invalid("is empty")
        if missing:
            raise members.invalid(f"lacks {len(missing)} of its members, among them {sorted(missing)[0]!r}")
    return manifest


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteFailed(
            f"The archive holds {needed:,} bytes and {folder} has {free:,} free. Nothing was restored; free space."
        )


def _copy(members: Members, content: IO[bytes], target: Path, size: int, digest: str, name: str) -> None:
    hashed, written = hashlib.sha256(), 0
    try:
        with target.open("xb") as file:
            while piece := content.read(_PIECE):
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
        raise members.invalid(f"was altered: {name!r} does not have the hash that its manifest says")


def _tables(path: Path, manifest: Manifest, folder: Path, opened: ExitStack) -> dict[str, pa.Table]:
    """The rows, mapped from the staging folder, checked as far as they can be without the catalog."""
    members = Members(path, Limits())
    tables: dict[str, pa.Table] = {}
    for table, member in manifest.tables.items():
        try:
            source = opened.enter_context(pa.memory_map(str(folder / f"{table}.arrow")))
            rows = pa.ipc.open_file(source).read_all()
            rows.validate(full=True)
            schema = arrow_schema(table)
            unknown = set(rows.column_names) - set(schema.names)
            if unknown or rows.num_rows != member.rows:
                raise members.invalid(f"has a table {table!r} of other columns or rows than it says")
            rows = rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))
        except (pa.ArrowException, OSError) as error:
            raise members.invalid(f"has a table {table!r} that cannot be read ({error})") from error
        key = archive_rows.key_of(table)
        if key not in rows.column_names or len(set(rows[key].to_pylist())) != rows.num_rows:
            raise members.invalid(f"has a table {table!r} with a row twice")
        tables[table] = rows
    _check_arrays(members, tables)
    _check_blobs(members, manifest, tables)
    return tables


def _check_arrays(members: Members, tables: Mapping[str, pa.Table]) -> None:
    # An array under a false hash would stand in the way of the true one.
    if "arrays" not in tables:
        return
    for batch in tables["arrays"].to_batches(512):
        for row in batch.to_pylist():
            try:
                decode_array(row["array_hash"], row["dtype"], row["shape"], row["data"])
            except (CatalogDamaged, ValueError, TypeError) as error:
                raise members.invalid(
                    f"has an array {row['array_hash'][:64]!r} that is not its hash"
                ) from error


def _check_blobs(members: Members, manifest: Manifest, tables: Mapping[str, pa.Table]) -> None:
    there = {member.sha256: member.size for member in manifest.blobs}
    known = set()
    for row in _rows(tables, "blobs"):
        if there.get(row["content_hash"]) != row["size_bytes"]:
            raise members.invalid(f"names an artifact {row['artifact_id'][:64]!r} that it does not hold")
        if _HASH.fullmatch(row["artifact_id"]) and row["artifact_id"] != row["content_hash"]:
            raise members.invalid(f"names an artifact {row['artifact_id']!r} that is not its hash")
        known.add(row["artifact_id"])
    for row in _rows(tables, "artifact_refs"):
        if row["artifact_id"] not in known or row["owner_kind"] == "session":
            raise members.invalid(
                f"has a reference to an artifact {row['artifact_id'][:64]!r} that it does not hold"
            )


def _rows(tables: Mapping[str, pa.Table], table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tables[table].to_pylist() if table in tables else []
    return found


# -- merging -----------------------------------------------------------------------------------


def _placing(
    con: Connection, engine: Engine, tables: dict[str, pa.Table]
) -> tuple[dict[str, pa.Table], list[_Placed]]:
    """Where each blob goes, and its rows with that path; what is there whole is not written again."""
    rows = _rows(tables, "blobs")
    if not rows:
        return tables, []
    here = {b.artifact_id: b for b in archive_rows.blob_files(con, [row["artifact_id"] for row in rows])}
    needed: dict[str, _Placed] = {}
    for row in rows:
        known = here.get(row["artifact_id"])
        if known is not None and known.content_hash != row["content_hash"]:
            raise InvalidInput(
                f"Artifact {row['artifact_id']} names other content in this workspace. Nothing was restored."
            )
        # A stranger's path is never used; only the ending is taken over.
        suffix = check_suffix(Path(row["artifact_path"]).suffix)
        relative = engine.blobs.relative_path(row["content_hash"], suffix) if known is None else known.path
        row["artifact_path"] = relative
        file = engine.layout.root / relative
        if not (file.is_file() and file.stat().st_size == row["size_bytes"]):
            needed[relative] = _Placed(row["content_hash"], relative, row["size_bytes"], known is None)
    moved = pa.Table.from_pylist(rows, schema=tables["blobs"].schema)
    return {**tables, "blobs": moved}, list(needed.values())


def _plan(con: Connection, engine: Engine, path: Path, tables: dict[str, pa.Table]) -> RestoredArchive:
    _, placed = _placing(con, engine, tables)
    added = archive_rows.new_rows(con, tables)
    return RestoredArchive(path, added, len(placed), sum(each.size for each in placed), dry_run=True)


def _merge(
    access: CatalogAccess, engine: Engine, path: Path, folder: Path, tables: dict[str, pa.Table]
) -> RestoredArchive:
    """Blobs into place, then the rows; under the lease, so that no gc sees the one without the other."""
    placed: list[_Placed] = []
    written: list[Path] = []

    def write(con: Connection) -> dict[str, int]:
        with_paths, needed = _placing(con, engine, tables)
        often = Counter(each.content_hash for each in needed)
        for each in needed:
            often[each.content_hash] -= 1
            target = _put(engine, folder, each, again=often[each.content_hash] > 0)
            placed.append(each)
            if each.is_new:
                written.append(target)
        return archive_rows.insert_rows(con, with_paths)

    try:
        added = access.transact(write)
    except BaseException:
        # The rows did not come; files that no row names would only be found by a check.
        for file in written:
            remove_file(file, missing_ok=True)
        raise
    return RestoredArchive(path, added, len(placed), sum(each.size for each in placed))


def _put(engine: Engine, folder: Path, each: _Placed, *, again: bool) -> Path:
    target = engine.blobs.resolve(each.relative)
    ensure_dir(target.parent)
    source = folder / each.content_hash
    try:
        if again:  # two artifacts have the same bytes under two endings
            source = Path(shutil.copyfile(source, source.with_suffix(".copy")))
            fd = os.open(source, os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        os.chmod(source, 0o444)
        move_file(source, target)
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(target, error) from error
    engine.blobs.forget(each.content_hash)
    return target
