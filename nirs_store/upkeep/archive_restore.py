"""Bringing an archive into a workspace: everything is verified first, then blobs, then rows in one transaction.

Rows come in by their ids and blobs by their hash, so the same archive brought in twice changes nothing the
second time, and a workspace that has other work keeps it.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from nirs_store.blobs.durable import ensure_dir, move_file, remove_file, write_error
from nirs_store.blobs.paths import check_suffix
from nirs_store.catalog import archive_arrivals, archive_rows
from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.ids import new_id
from nirs_store.registry.audit import note
from nirs_store.upkeep.archive import Progress
from nirs_store.upkeep.archive_format import Limits
from nirs_store.upkeep.archive_reading import extract, read_tables, rows_of

__all__ = ["RestoredArchive", "restore_archive"]


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
    source = Path(path).expanduser().absolute()
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


# -- merging -----------------------------------------------------------------------------------


def _placing(
    con: Connection, engine: Engine, tables: dict[str, pa.Table]
) -> tuple[dict[str, pa.Table], list[_Placed]]:
    """Where each blob goes, and its rows with that path; what is there whole is not written again."""
    rows = rows_of(tables, "blobs")
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
    added = archive_arrivals.new_rows(con, tables)
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
        return archive_arrivals.insert_rows(con, with_paths)

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
