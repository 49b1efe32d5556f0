"""The journal: a folder of immutable commits that wait to be applied to the catalog.

A commit is one file, written aside, synced and renamed into ``segments/``; the rename is the
commit. Numbers give the order: one above the highest that the writer can see, so a commit that
follows from another always has the higher number, and no clock takes part.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import xxhash

from nirs_store.blobs.durable import fsync_dir, move_files, remove_file, write_error, write_file
from nirs_store.blobs.plain import read_plain, stat_plain
from nirs_store.db.layout import Layout, size_of, sync_log
from nirs_store.db.schema import (
    ADDED_COLUMNS,
    CHANGE_KINDS,
    SCHEMA_VERSION,
    SEGMENT_TABLES,
    TABLES,
    arrow_schema,
)
from nirs_store.db.table import MAGIC as IMAGES
from nirs_store.db.table import Delta, decode_images, read_rows
from nirs_store.errors import CatalogDamaged, InvalidInput, WriteFailed
from nirs_store.ids import is_id, new_id
from nirs_store.values import MOST_BYTES, as_array, from_json, target_of

# -- Numpy arrays as content-addressed rows: dtype, shape and bytes, keyed by their hash.


StoredArray = tuple[str, str, str, bytes]
"""A row of the table `arrays`: array_hash, dtype, shape (JSON list), data (C order)."""

ARRAY_BYTES = """coalesce((
    TRY_CAST(regexp_extract(dtype, '[0-9]+') AS BIGINT) * CASE WHEN dtype LIKE '_U%' THEN 4 ELSE 1 END
    * CASE WHEN shape = '[]' THEN 1 ELSE list_product(TRY_CAST(shape AS BIGINT[])) END
)::BIGINT, 0)"""
"""SQL for the bytes of a row's array, as its dtype and shape say: the data itself would have to be decompressed.

Of a row that was damaged it counts none, so that a gc goes on; `check` finds the damage.
"""


def encode_array(value: Any, name: str) -> tuple[StoredArray, np.ndarray]:
    """Turn anything array-like into a row of `arrays`."""
    array = as_array(value, name)
    if array.dtype.names is not None:
        raise InvalidInput(
            f"{name}: expected one value per entry, found records with the fields {', '.join(array.dtype.names)}. "
            "Save each field as an array of its own."
        )
    if array.dtype.hasobject:
        flat = array.ravel().tolist()
        if not all(isinstance(item, str) for item in flat):
            kinds = sorted({type(item).__name__ for item in flat})
            raise InvalidInput(
                f"{name}: expected numbers, booleans or text, found objects of type "
                f"{', '.join(kinds)}. Convert the array first, e.g. with numpy.asarray(..., dtype=float)."
            )
        # Numpy pads text with NULs, and takes those at its end for padding.
        if any(item.endswith("\0") for item in flat):
            raise InvalidInput(f"{name}: text may not end with a NUL character. Nothing was recorded.")
        array = np.array(flat, dtype=np.str_).reshape(array.shape)
    if array.nbytes > MOST_BYTES:
        raise InvalidInput(
            f"{name}: expected an array of at most {MOST_BYTES:,} bytes, found {array.nbytes:,} (shape {array.shape}, "
            f"dtype {array.dtype}). Nothing was recorded. Use a smaller dtype, or keep it as a file (store.files)."
        )
    data = array.tobytes(order="C")
    dtype = array.dtype.str
    shape = f"[{','.join(map(str, array.shape))}]"
    key = xxhash.xxh3_128(f"{dtype}{shape}".encode())
    key.update(data)
    return (key.hexdigest(), dtype, shape, data), array


def decode_array(array_hash: str, dtype: str, shape: str, data: bytes) -> np.ndarray:
    """Rebuild the array of a row; the bytes are checked against their hash."""
    key = xxhash.xxh3_128(f"{dtype}{shape}".encode())
    key.update(data)
    if key.hexdigest() != array_hash:
        raise CatalogDamaged(
            f"Array {array_hash} does not hash to its name: the catalog's bytes were altered. "
            "Run `nirs-store check --read-data` to see what depends on it."
        )
    array: np.ndarray = np.frombuffer(data, dtype=np.dtype(dtype)).reshape(json.loads(shape))
    return array.copy()


# No more digits: the number above the highest must still be one that the catalog can hold, whatever program chose it.
_NAME = re.compile(r"^(\d{12,15})-([0-9a-f-]{36})\.seg$")
_MOST_NUMBER = 10**15 - 1
_TMP_AGE = 3600.0
_SETTLED = 1.0
_JOINED = 1 << 20
# A journal of so many commits takes long to list.
_LONG = 256
# Of so many commits their writer knows that they were its own, also when damage hides it.
_REMEMBERED = 65_536


class Entry(msgspec.Struct, frozen=True, order=True):
    """One commit in the log; here a file."""

    number: int
    txid: str
    path: Path

    @property
    def nbytes(self) -> int:
        """Its size; 0 where it cannot be looked at."""
        return size_of(self.path)

    def read(self) -> bytes:
        """Read its bytes; raises `SegmentDamaged` for something else in its place."""
        try:
            stat_plain(self.path)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise SegmentDamaged(f"{error.strerror or error}") from error
        return read_plain(self.path)


class Rejection(msgspec.Struct, frozen=True):
    """A segment that could not be applied, as the note next to it says."""

    txid: str
    claim: str
    reason: str
    path: Path


def read_entry(entry: Entry) -> Segment:
    """Read and decode a commit."""
    segment = decode(entry.read())
    if segment.txid != entry.txid:
        raise SegmentDamaged(f"its name says {entry.txid}, its header {segment.txid}")
    return segment


class _LocalChange:
    """A direct change of the only catalog of a workspace: its own COMMIT makes it."""

    committed = False

    def through(self, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        return con

    def commit(self, con: duckdb.DuckDBPyConnection) -> None:
        pass


class Journal:
    """The segments of one workspace folder; a `CommitLog`."""

    # Commits leave it once the catalog's file has them, and direct changes never were in it.
    whole = False
    # A listing has all of them.
    behind = False

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # The highest number, how many commits wait, and how many may be added before the folder is listed again.
        self._last, self._waiting, self._unlisted = 0, 0, 0
        self._alone_since: int | None = None
        self._rejected_seen: float | None = None
        self._told: set[str] = set()
        self._own: deque[str] = deque(maxlen=_REMEMBERED)

    def alone_with(self, subject: str, /) -> contextlib.AbstractContextManager[None]:
        """Do nothing: the lock of the folder keeps others out."""
        return contextlib.nullcontext()

    def append(
        self, pieces: list[bytes], txid: str, alone: Callable[[], bool] = lambda: False
    ) -> tuple[Entry, int]:
        """Commit one segment durably; returns its entry and how many segments now wait.

        `alone` tells whether the caller's is the only claim of a living store object.
        """
        # Another store object makes a claim before it commits. While the folder of claims is as it was, nothing else
        # commits, and the long listing of a journal that cannot be applied is not repeated each time.
        claims = self._claims_changed()
        if self._unlisted and claims == self._alone_since:
            self._unlisted -= 1
        else:
            self._list_numbers(claims, alone)
        number = self._last + 1
        if number > _MOST_NUMBER:
            raise WriteFailed(
                f"{self._layout.segments} holds a commit with the number {self._last}, above which there is none. "
                "Nothing was lost: run any query, which applies or rejects that commit, and call again."
            )
        self._last = number
        self._waiting += 1
        entry = self._entry(number, txid)
        self._own.append(txid)
        # One call to the system instead of one a table: while it lasts, other threads of this process hold it up.
        small = sum(map(len, pieces)) <= _JOINED
        write_file(entry.path, b"".join(pieces) if small else pieces, tmp_dir=self._layout.tmp)
        return entry, self._waiting

    def _list_numbers(self, claims: int | None, alone: Callable[[], bool]) -> None:
        # Its time was asked before the listing: a later commit changes it. One that is young could change again
        # and keep its time, which is coarse.
        settled = claims is not None and time.time() - claims / 1e9 > _SETTLED
        names = self._names()
        if len(names) > _LONG and settled and alone():
            # A claim that was there until a moment ago may have been one of another's last commit.
            names = self._names()
            self._alone_since, self._unlisted = claims, len(names) // 8
        else:
            self._alone_since, self._unlisted = None, 0
        numbers = [match[1] for match in map(_NAME.match, names) if match]
        # Of texts of one length the largest is the largest number; parsing all of a long journal takes longer.
        longest = max(map(len, numbers), default=0)
        self._last = max(
            self._last, int(max((text for text in numbers if len(text) == longest), default="0"))
        )
        self._waiting = len(numbers)

    def _claims_changed(self) -> int | None:
        try:
            return self._layout.claims.stat().st_mtime_ns
        except OSError:
            return None

    def pending(self) -> list[Entry]:
        """Segments to apply, in order, without gaps that a concurrent writer could still fill.

        One listing of a folder is not a snapshot: it can show a later file and miss an earlier
        one. Whatever the second listing has up to the highest number of the first is complete.
        """
        first = self._list_once()
        if not first:
            return []
        highest = first[-1].number
        return [entry for entry in self._list_once() if entry.number <= highest]

    def is_empty(self, besides: Container[str] = ()) -> bool:
        """Whether nothing waits, or nothing but some commits that are known by their ids."""
        return all(match[2] in besides for match in map(_NAME.match, self._names()) if match)

    def nbytes(self) -> int:
        """Sum of the sizes of the segments that wait."""
        return sum(entry.nbytes for entry in self._list_once())

    def opened(self, con: duckdb.DuckDBPyConnection) -> None:
        """Take any catalog: the table `applied` says which commits it has."""

    def closed(self) -> None:
        """Know nothing of catalogs."""

    def settings_wait(self) -> bool:
        """Know that they do not: the file of the settings is everybody's."""
        return False

    def mark(self, con: duckdb.DuckDBPyConnection, entries: Sequence[Entry]) -> None:
        """Leave it to the table `applied`."""

    def applied(self, entries: Sequence[Entry]) -> None:
        """Keep them until `remove`."""

    def changing(self, catch_up: Callable[[], None]) -> contextlib.AbstractContextManager[_LocalChange]:
        """Return a frame that does nothing: the lock keeps others out."""
        return contextlib.nullcontext(_LocalChange())

    def remove(self, entries: list[Entry]) -> None:
        """Unlink applied segments and sync the folder."""
        self._unlisted = 0
        if entries:
            # Their rows may be in a log that DuckDB has just made.
            sync_log(self._layout)
        for entry in entries:
            try:
                remove_file(entry.path, missing_ok=True)
            except WriteFailed:
                if not entry.path.is_dir():  # not a commit, whatever it is called
                    raise
        if entries:
            fsync_dir(self._layout.segments)

    def receive(self, found: Sequence[Entry]) -> bool:
        """Move commits from the inbox here, in their order; False if the numbers are used up."""
        last = max((entry.number for entry in self._list_once()), default=0)
        if last + len(found) > _MOST_NUMBER:
            return False
        self._unlisted = 0
        move_files(
            [(entry.path, self._entry(last + place, entry.txid).path) for place, entry in enumerate(found, 1)]
        )
        return True

    def sync(self) -> None:
        """Make earlier unlinks durable."""
        fsync_dir(self._layout.segments)

    def reject(self, entry: Entry, *, reason: str, claim: str, at: str) -> Rejection:
        """Set a segment aside, with a note that says why. The segment itself is kept."""
        target = self._layout.rejected / entry.path.name
        note = {"txid": entry.txid, "claim": claim, "reason": reason, "at": at}
        write_file(target.with_suffix(".json"), json.dumps(note, indent=1).encode(), tmp_dir=self._layout.tmp)
        os.replace(entry.path, target)
        fsync_dir(self._layout.rejected)
        fsync_dir(self._layout.segments)
        return Rejection(entry.txid, claim, reason, target)

    def rejections(self) -> list[Rejection]:
        """All segments rejected so far."""
        found = []
        try:
            notes = sorted(self._layout.rejected.glob("*.json"))
        except OSError as error:
            raise write_error(self._layout.rejected, error) from error
        for note in notes:
            try:
                data = json.loads(read_plain(note))
            except (OSError, ValueError, RecursionError):
                data = None
            data = data if isinstance(data, dict) else {}
            path = note.with_suffix(".seg")
            found.append(
                Rejection(
                    str(data.get("txid", note.stem)),
                    str(data.get("claim", "")),
                    str(data.get("reason", "its note cannot be read")),
                    path,
                )
            )
        return found

    def rejections_of(self, claim: str) -> list[Rejection]:
        """Rejections of one writer's commits that appeared since the last call; cheap when none."""
        try:
            changed = self._layout.rejected.stat().st_mtime
        except OSError:
            return []
        if changed == self._rejected_seen:
            return []
        own = [
            r
            for r in self.rejections()
            if r.txid not in self._told and (r.claim == claim or r.txid in self._own)
        ]
        self._told.update(r.txid for r in own)
        # A folder's time is coarse: while it is young, another note could come without changing it.
        self._rejected_seen = changed if time.time() - changed > _SETTLED else None
        return own

    def close(self) -> None:
        """Have nothing open."""

    def after_fork_in_child(self) -> None:
        """Forget what was committed until now: only the parent process reports it."""
        self._own.clear()
        self._unlisted = 0

    def sweep_tmp(self, alive: Container[str]) -> None:
        """Remove unfinished writes older than an hour, and folders whose session is not alive."""
        for path in leftovers(self._layout, alive):
            remove_leftover(path)

    def _entry(self, number: int, txid: str) -> Entry:
        return Entry(number, txid, self._layout.segments / f"{number:012d}-{txid}.seg")

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._layout.segments)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise write_error(self._layout.segments, error) from error

    def _list_once(self) -> list[Entry]:
        entries = []
        for name in self._names():
            match = _NAME.match(name)
            if match:
                entries.append(Entry(int(match[1]), match[2], self._layout.segments / name))
        entries.sort()
        return entries


def leftovers(layout: Layout, alive: Container[str]) -> list[Path]:
    """List what killed programs left in the temporary folder: old files, and folders of sessions that ended.

    A folder is named after what made it and its session, as in ``archive-<session>-<id>``; those of older versions
    name none, and count as ended when nothing in them was written for an hour.
    """
    limit = time.time() - _TMP_AGE
    places = sorted(layout.tmp.iterdir()) if layout.tmp.is_dir() else []
    # Copies of compressed files that were being made for programs that read a path.
    copies = (layout.root / "exports" / "files").glob("*/.*")
    places += sorted(path for path in copies if path.suffix in (".part", ".old"))
    for session in inbox_sessions(layout):
        with contextlib.suppress(OSError):  # another user's, who has shut the others out
            places += session.tmp.iterdir()
            if is_idle(session) and not inbox_commits(session):
                places.append(session.root)
    return [path for path in places if was_left(path, limit, alive)]


def was_left(path: Path, limit: float, alive: Container[str] = ()) -> bool:
    """Tell whether nothing of a file or folder was written since `limit`, and its session has ended."""
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            return status.st_mtime < limit
        session = path.name.partition("-")[2][:36]
        return stat.S_ISDIR(status.st_mode) and session not in alive and max(_written(path)) < limit
    except FileNotFoundError:
        return False


def _written(folder: Path) -> Iterator[float]:
    yield os.lstat(folder).st_mtime
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                yield os.lstat(os.path.join(place, name)).st_mtime


def sweep_drafts(target: Path) -> None:
    """Remove what killed programs left next to a target when they made it: drafts not written to for an hour."""
    limit = time.time() - _TMP_AGE
    names = re.compile(rf"\.?{re.escape(target.name[:80])}\.[0-9a-f-]{{36}}\w*\.tmp")
    if target.parent.is_dir():
        for path in list(target.parent.iterdir()):
            if names.fullmatch(path.name) and was_left(path, limit):
                remove_leftover(path)


def remove_leftover(path: Path) -> None:
    """Remove a file or folder that `leftovers` listed; one that is gone already is not an error."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise write_error(path, error) from error
    else:
        remove_file(path, missing_ok=True)


# A node that only records and has committed nothing for so long has ended.
INBOX_IDLE = 7 * 86_400.0


def inbox_sessions(layout: Layout) -> list[Layout]:
    """List what sessions that only record have put into the inbox, each like a workspace; links are left alone."""
    try:
        names = sorted(os.listdir(layout.inbox))
    except (FileNotFoundError, NotADirectoryError):
        return []
    real = os.path.realpath(layout.inbox)
    found = [Layout(layout.inbox / name) for name in names if is_id(name)]
    return [
        each
        for each in found
        if os.path.realpath(each.segments) == os.path.join(real, each.root.name, "journal", "segments")
    ]


def inbox_commits(session: Layout) -> list[Entry]:
    """List the commits of such a session that are still in the inbox, in order."""
    return Journal(session)._list_once()


def is_idle(session: Layout) -> bool:
    """Tell whether such a session has committed nothing for a week, by the clock of the file system."""
    with contextlib.suppress(OSError):
        return time.time() - os.stat(session.segments).st_mtime > INBOX_IDLE
    return False


def is_commit_name(name: str) -> bool:
    """Whether a file in the folder of commits is named as one."""
    return _NAME.match(name) is not None


def new_txid() -> str:
    """Return an id for one commit."""
    return new_id()


# -- One commit as bytes: a small header, Arrow streams a table, and a checksum over all of it.


_MAGIC = b"NIRSSEG1"
_FORMAT = 1
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class SegmentDamaged(ValueError):
    """The bytes are not a whole segment of a known format."""


class SegmentNewer(Exception):
    """The bytes are whole, and a newer version of this library wrote them: it is to apply them."""


class MigrateTo(msgspec.Struct, frozen=True):
    """What a commit says that brings every catalog of a shared workspace to the next version of the schema."""

    version: int
    note: dict[str, Any]
    """For the audit trail."""


class Segment(msgspec.Struct):
    """A decoded commit."""

    txid: str
    claim: str
    session: str
    created: str
    tables: dict[str, pa.Table] = msgspec.field(default_factory=dict)
    # A direct change that another computer made, instead of rows.
    delta: Delta | None = None
    # The version of the schema of its rows, and the one to which all catalogs go with this commit.
    schema: int = SCHEMA_VERSION
    migrate: MigrateTo | None = None


def encode(
    rows: Mapping[str, Sequence[tuple[Any, ...]]], *, txid: str, claim: str, session: str, created: str
) -> list[bytes]:
    """Encode rows (tuples in column order, one list per table) as the pieces of a segment."""
    streams: list[bytes] = []
    index: list[tuple[str, int, int]] = []
    for name in SEGMENT_TABLES:
        table_rows = rows.get(name)
        if not table_rows:
            continue
        stream = _stream(name, table_rows)
        streams.append(stream)
        index.append((name, len(table_rows), len(stream)))
    header = json.dumps(
        {
            "format": _FORMAT,
            "schema": SCHEMA_VERSION,
            "txid": txid,
            "claim": claim,
            "session": session,
            "created": created,
            "tables": index,
        }
    ).encode()
    pieces = [_MAGIC, struct.pack("<I", len(header)), header, *streams]
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return [*pieces, digest.digest()]


def _stream(name: str, rows: Sequence[tuple[Any, ...]]) -> bytes:
    # What pyarrow's stream writer gives, byte for byte, in two fifths of its time: all columns are converted in one
    # call, and the schema, which is always the same, is encoded once.
    opening, row_type = _opening(name)
    array = pa.array(rows, type=row_type)
    # More than 2 GB of text or bytes in a column is more than an array's offsets can address: Arrow makes several.
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    batches = [pa.RecordBatch.from_struct_array(chunk).serialize() for chunk in chunks]
    return b"".join((opening, *batches, _END_OF_STREAM))


@cache
def _opening(name: str) -> tuple[bytes, pa.StructType]:
    schema = arrow_schema(name)
    return schema.serialize().to_pybytes(), pa.struct(list(schema))


def with_targets(chains: pa.Table) -> pa.Table:
    """Add the columns `target` and `target_unit`, which an older library kept in the metadata alone."""
    found = [target_of(from_json(text)) for text in chains["metadata"].to_pylist()]
    for name in sorted(ADDED_COLUMNS["chains"] - set(chains.column_names)):
        chains = chains.append_column(
            arrow_schema("chains").field(name), pa.array([each[name] for each in found], pa.string())
        )
    return chains


def _table(name: str, stream: pa.Buffer) -> pa.Table:
    """Read the rows of a table from untrusted bytes: Arrow believes lengths and offsets until it is told not to."""

    def check(found: pa.Schema) -> None:
        # Nothing of another type, or nested, is ever looked into.
        if not found.equals(arrow_schema(name)):
            _complete(name, found.empty_table())

    return _complete(name, read_rows(stream, check, most=stream.size))


def _complete(name: str, table: pa.Table) -> pa.Table:
    """Return the table with the columns of today; an older library's rows lack those added since."""
    schema = arrow_schema(name)
    if table.schema.equals(schema):
        return table
    missing = ADDED_COLUMNS.get(name, frozenset()) - set(table.column_names)
    if name == "chains" and missing:
        table, missing = with_targets(table), frozenset()
    for column in schema:
        if column.name in missing:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    unknown = sorted(set(table.column_names) - set(schema.names))
    if unknown:
        raise SegmentNewer(f"it has rows of {name} with the columns {', '.join(unknown)}")
    if sorted(table.column_names) != sorted(schema.names) or not table.select(schema.names).schema.equals(
        schema
    ):
        raise SegmentDamaged(f"rows of {name!r} have other columns than the table")
    return table.select(schema.names)


def decode(data: bytes) -> Segment:
    """Decode and verify a segment."""
    if len(data) < 28 or data[:7] not in (_MAGIC[:7], IMAGES[:7]):
        raise SegmentDamaged("not a segment: the magic number is missing")
    if xxhash.xxh3_128(memoryview(data)[:-16]).digest() != data[-16:]:
        raise SegmentDamaged("checksum mismatch: the file is torn or altered")
    if data[:8] not in (_MAGIC, IMAGES):
        raise SegmentNewer(f"it begins with {data[:8]!r}")
    (length,) = struct.unpack_from("<I", data, 8)
    try:
        header = json.loads(data[12 : 12 + length])
        # Older versions did not name the schema.
        if header["format"] > _FORMAT or header.get("schema", 0) > SCHEMA_VERSION:
            raise SegmentNewer(f"it has the format {header['format']}, schema version {header.get('schema')}")
        if header["format"] != _FORMAT:
            raise SegmentDamaged(f"segment format {header['format']} is not known here")
        words = [header[name] for name in ("txid", "claim", "session", "created")]
        if not all(isinstance(word, str) for word in words):
            raise SegmentDamaged("its header holds something else than text")
        txid, claim, session, created = words
        segment = Segment(txid, claim, session, created, schema=header.get("schema", 0))
        start = 12 + length
        if data[:8] == IMAGES:
            named = {
                each[0]
                for each in header["tables"]
                if isinstance(each, list) and each and isinstance(each[0], str)
            }
            if unheard := sorted(named - TABLES.keys()):
                raise SegmentNewer(f"it changes the tables {', '.join(unheard)}")
            segment.delta = decode_images(header, memoryview(data)[start:-16])
            if "migrate" in header:
                segment.migrate = msgspec.convert(header["migrate"], MigrateTo)
            return segment
        for name, count, size in header["tables"]:
            if name not in SEGMENT_TABLES:
                raise SegmentNewer(f"it has rows of a table {name!r}")
            if name in segment.tables:
                raise SegmentDamaged(f"rows of {name!r} twice")
            if not 0 < size <= len(data) - 16 - start:
                raise SegmentDamaged(f"the rows of {name!r} do not lie in the file")
            table = _table(name, pa.py_buffer(memoryview(data)[start : start + size]))
            if table.num_rows != count:
                raise SegmentDamaged(f"{table.num_rows} rows of {name!r}, where {count} were announced")
            segment.tables[name] = table
            start += size
        if start != len(data) - 16:
            raise SegmentDamaged(f"{len(data) - 16 - start} bytes follow its rows")
        if "changes" in segment.tables:
            unknown = set(segment.tables["changes"].column("kind").to_pylist()) - CHANGE_KINDS
            if unknown:
                raise SegmentNewer(f"it has changes of the kinds {', '.join(sorted(map(str, unknown)))}")
    except SegmentDamaged:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        OSError,
        OverflowError,
        RecursionError,
        pa.ArrowException,
    ) as error:
        # OSError too: so Arrow calls a stream that makes no sense, though no file is read here.
        raise SegmentDamaged(f"cannot be decoded: {error}") from error
    return segment
