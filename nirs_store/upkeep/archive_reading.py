"""Verifying an archive: every member against the manifest, and the rows against each other and the blobs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa

from nirs_store.blobs.durable import write_error
from nirs_store.catalog import archive_rows
from nirs_store.catalog.arrays import decode_array
from nirs_store.catalog.schema import SCHEMA_VERSION, arrow_schema
from nirs_store.errors import CatalogDamaged, SchemaTooNew, WriteFailed
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

__all__ = ["extract", "parse_manifest", "read_manifest", "read_tables", "rows_of"]

_PIECE = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")


def read_manifest(path: str | Path, *, limits: Limits | None = None) -> Manifest:
    """Read what an archive says of itself, without verifying the rest.

    Raises
    ------
    ArchiveInvalid, SchemaTooNew
    """
    bounds = limits or Limits()
    with open_members(Path(path), bounds) as members:
        for name, size, content in members:
            return parse_manifest(members, name, size, content, bounds)
        raise members.invalid("is empty")


def parse_manifest(members: Members, name: str, size: int, content: IO[bytes], limits: Limits) -> Manifest:
    """Read the first member, and refuse what it promises beyond the limits."""
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


def extract(path: Path, folder: Path, limits: Limits, progress: Progress | None) -> Manifest:
    """Verify every member against the manifest while it is written into the staging folder."""
    with open_members(path, limits) as members:
        manifest: Manifest | None = None
        missing: dict[str, Member] = {}
        done = total = 0
        for name, size, content in members:
            if manifest is None:
                manifest = parse_manifest(members, name, size, content, limits)
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


def _piece(members: Members, content: IO[bytes]) -> bytes:
    try:
        return content.read(_PIECE)
    except OSError as error:  # also a checksum of gzip that does not fit
        raise members.invalid(f"cannot be read ({error})") from error


def _copy(members: Members, content: IO[bytes], target: Path, size: int, digest: str, name: str) -> None:
    hashed, written = hashlib.sha256(), 0
    try:
        with target.open("xb") as file:
            while piece := _piece(members, content):
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


def read_tables(path: Path, manifest: Manifest, folder: Path, opened: ExitStack) -> dict[str, pa.Table]:
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
    for row in rows_of(tables, "blobs"):
        if there.get(row["content_hash"]) != row["size_bytes"]:
            raise members.invalid(f"names an artifact {row['artifact_id'][:64]!r} that it does not hold")
        if _HASH.fullmatch(row["artifact_id"]) and row["artifact_id"] != row["content_hash"]:
            raise members.invalid(f"names an artifact {row['artifact_id']!r} that is not its hash")
        known.add(row["artifact_id"])
    for row in rows_of(tables, "artifact_refs"):
        if row["artifact_id"] not in known or row["owner_kind"] == "session":
            raise members.invalid(
                f"has a reference to an artifact {row['artifact_id'][:64]!r} that it does not hold"
            )


def rows_of(tables: Mapping[str, pa.Table], table: str) -> list[dict[str, Any]]:
    """The rows of a table as dicts; none where the archive lacks it."""
    found: list[dict[str, Any]] = tables[table].to_pylist() if table in tables else []
    return found
