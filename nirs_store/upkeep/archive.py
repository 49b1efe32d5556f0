"""Writing an archive: chosen rows, their lineage and their blobs in one file, complete or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from nirs_store.blobs.durable import fsync_dir, move_file, remove_file, write_error
from nirs_store.catalog import archive_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.environment import environment
from nirs_store.catalog.schema import SCHEMA_VERSION
from nirs_store.errors import BlobCorrupt, InvalidInput, NirsStoreError
from nirs_store.ids import new_id, utcnow
from nirs_store.registry.audit import note
from nirs_store.upkeep.archive_format import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    Member,
    format_of,
    packer,
)

__all__ = ["Archive", "ArchivePlan", "Progress", "archive", "plan_archive"]

Progress = Callable[[int, int], None]
"""Called with the bytes done so far and those to do."""


@dataclass(frozen=True)
class ArchivePlan:
    """What an archive holds: rows by table, blobs and their bytes."""

    rows: dict[str, int]
    blobs: int
    blob_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Archive:
    """An archive that was written: its file and size, rows by table, blobs and their bytes."""

    path: Path
    size: int
    rows: dict[str, int]
    blobs: int
    blob_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "path": str(self.path)}


def plan_archive(
    engine: Engine,
    path: str | Path,
    *,
    runs: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
    evaluations: Sequence[str] | None = None,
    overwrite: bool = False,
) -> ArchivePlan:
    """Look what an archive would hold, and whether it could be written there; writes nothing."""
    target = Path(path).expanduser().absolute()
    format_of(target)
    _check_target(engine, target, overwrite)

    def ask(con: Connection) -> ArchivePlan:
        chosen = archive_rows.select(con, runs=runs, files=files, evaluations=evaluations)
        whole = archive_rows.counts(con)
        rows = {table: whole[table] if keys is None else len(keys) for table, keys in chosen.keys.items()}
        blobs = archive_rows.blob_files(con, chosen.keys["blobs"])
        sizes = {blob.content_hash: blob.size for blob in blobs}
        return ArchivePlan({t: n for t, n in rows.items() if n}, len(sizes), sum(sizes.values()))

    return engine.query(ask)


def archive(
    engine: Engine,
    path: str | Path,
    *,
    runs: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
    evaluations: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Archive:
    """Write an archive; see `WorkspaceStore.archive`."""
    target = Path(path).expanduser().absolute()
    chosen = {"runs": runs, "files": files, "evaluations": evaluations}
    try:
        format = format_of(target)
        _check_target(engine, target, overwrite)
        made = _write(engine, target, format, chosen, overwrite, progress)
    except NirsStoreError as error:
        note(engine, "archive", message=str(error), success=False, details={"path": str(target)})
        raise
    note(engine, "archive", details={"path": str(target), "rows": made.rows, "blobs": made.blobs})
    return made


def _check_target(engine: Engine, target: Path, overwrite: bool) -> None:
    layout = engine.layout
    real = target.parent.resolve() / target.name
    root = layout.root.resolve()
    if real.is_relative_to(root / layout.artifacts.name) or real.is_relative_to(root / layout.journal.name):
        raise InvalidInput(
            f"path: {target} lies among the store's own files. Nothing was written; name another."
        )
    if not target.parent.is_dir():
        raise InvalidInput(f"path: there is no folder {target.parent}. Nothing was written; make it first.")
    if target.exists() and (not overwrite or target.is_dir()):
        raise InvalidInput(
            f"path: {target} exists already and was left as it is. Name another, or overwrite it with "
            "overwrite=True (on the command line: --overwrite)."
        )


def _write(
    engine: Engine,
    target: Path,
    format: str,
    chosen: dict[str, Sequence[str] | None],
    overwrite: bool,
    progress: Progress | None,
) -> Archive:
    if engine.writable:
        # The session's row comes before any claim of its.
        with engine.recording():
            pass
    draft = target.with_name(f"{target.name[:80]}.{new_id()}.tmp")
    try:
        with (
            ExitStack() as held,
            tempfile.TemporaryDirectory(prefix=".nirs_store-", dir=target.parent) as folder,
        ):
            manifest, blobs = engine.query(lambda con: _read_rows(con, engine, chosen, Path(folder), held))
            total, done = manifest.total_bytes, 0
            with draft.open("xb") as file:
                with packer(file, format) as packed:
                    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
                    _add(packed.add, MANIFEST, len(text), _Text(text))
                    for member in manifest.members.values():
                        kind, _, name = member.member.partition("/")
                        place = Path(folder) / name if kind == "tables" else engine.blobs.path_of(blobs[name])
                        with place.open("rb") as source:
                            _add(packed.add, member.member, member.size, _Hashed(source, member, place))
                        done += member.size
                        if progress is not None:
                            progress(done, total)
                file.flush()
                os.fsync(file.fileno())
        if engine.writable:
            engine.recorder.release_claims()
        if target.exists() and not overwrite:
            raise InvalidInput(f"path: {target} was made by somebody else meanwhile and was left as it is.")
        size = draft.stat().st_size
        move_file(draft, target)
        fsync_dir(target.parent)
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(target, error) from error
    finally:
        remove_file(draft, missing_ok=True)
    rows = {table: member.rows for table, member in manifest.tables.items()}
    return Archive(target, size, rows, len(manifest.blobs), sum(blob.size for blob in manifest.blobs))


def _read_rows(
    con: Connection,
    engine: Engine,
    chosen: dict[str, Sequence[str] | None],
    folder: Path,
    held: ExitStack,
) -> tuple[Manifest, dict[str, str]]:
    """Write the tables and claim the blobs, in one look at the catalog: no gc comes between."""
    selection = archive_rows.select(
        con, runs=chosen["runs"], files=chosen["files"], evaluations=chosen["evaluations"]
    )
    blobs = archive_rows.blob_files(con, selection.keys["blobs"])
    if engine.writable:
        held.enter_context(engine.recorder.claiming(*(blob.artifact_id for blob in blobs)))
    files = {blob.content_hash: blob for blob in blobs}
    tables: dict[str, Member] = {}
    for table, keys in selection.keys.items():
        place = folder / f"{table}.arrow"
        rows = archive_rows.write_table(con, table, keys, place)
        if rows:
            with place.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            tables[table] = Member(f"tables/{table}.arrow", place.stat().st_size, digest, rows)
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        schema_version=SCHEMA_VERSION,
        nirs_store=environment().get("nirs-store", ""),
        created_at=utcnow().isoformat(),
        workspace_id=archive_rows.workspace_id(con),
        selection={name: None if ids is None else list(ids) for name, ids in chosen.items()},
        tables=tables,
        blobs=[Member(f"blobs/{digest}", blob.size, digest) for digest, blob in sorted(files.items())],
    )
    return manifest, {digest: blob.path for digest, blob in files.items()}


def _add(add: Callable[[str, int, IO[bytes]], None], name: str, size: int, source: Any) -> None:
    add(name, size, source)
    source.finish()


class _Text:
    """Bytes in memory as a source."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read(self, size: int = -1) -> bytes:
        piece = self._data if size < 0 else self._data[:size]
        self._data = self._data[len(piece) :]
        return bytes(piece)

    def finish(self) -> None:
        """Nothing is left to check."""


class _Hashed:
    """A file as a source that is compared with its hash when all of it was read."""

    def __init__(self, file: IO[bytes], member: Member, place: Path) -> None:
        self._file = file
        self._member = member
        self._place = place
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._digest.update(piece)
        return piece

    def finish(self) -> None:
        """Raise where the file is not what its row says."""
        if self._digest.hexdigest() != self._member.sha256 or self._file.read(1):
            raise BlobCorrupt(
                f"{self._place} is not what its row says. No archive was written; run `nirs-store check --read-data`."
            )
