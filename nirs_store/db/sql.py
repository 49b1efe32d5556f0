"""Run statements: parsed once, interrupted by Ctrl-C, with errors in the words of this library.

Of a query to a few rows, DuckDB spends up to a third on the text. A repeated query is kept parsed;
it is bound and planned again each time, so it says nothing about a catalog.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from nirs_store.blobs.durable import write_error
from nirs_store.db.layout import Layout
from nirs_store.errors import CatalogDamaged, InvalidInput, NirsStoreError, WriteFailed
from nirs_store.lazy import polars as pl

# -- Ctrl-C and time limits for DuckDB statements, wherever DuckDB is in one.


T = TypeVar("T")

# An interruption that comes between two statements is lost, so it is repeated.
_PAUSE = 0.05


class TimeOver(Exception):
    """A statement was interrupted because its time was over."""


def is_interrupt(error: BaseException | None) -> bool:
    """Whether DuckDB says with this that it saw a signal: it swallows the KeyboardInterrupt."""
    return type(error) is RuntimeError and "Query interrupted" in str(error)


class _Block:
    """Statements that the main thread is running on a connection."""

    def __init__(self, con: duckdb.DuckDBPyConnection, outer: _Block | None) -> None:
        self.con = con
        self.outer = outer
        self.stopped = False
        self.over = False


class _Watch:
    """The thread that hears of signals while the main thread runs statements."""

    def __init__(self) -> None:
        # The innermost block; only the main thread sets it.
        self.block: _Block | None = None
        # A signal handler or a destructor may ask another store while this thread has it.
        self._lock = threading.RLock()
        # Where a signal arrives, and where it is read.
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        # The wakeup descriptor that was set before, such as that of an event loop.
        self._other = -1

    def arm(self, block: _Block) -> None:
        """Have the statements of a block interrupted from now on."""
        with self._lock:
            ends = self._ends or self._make_ends()
            if self._thread is None:
                self._start(ends[1])
            if self.block is None:
                other = signal.set_wakeup_fd(ends[0].fileno(), warn_on_full_buffer=False)
                # Ours is still there when a second Ctrl-C has interrupted `disarm`.
                self._other = other if other != ends[0].fileno() else self._other
            # A signal that came at the end of an earlier block interrupts no statement of this one.
            self._read(ends[1])
            self.block = block

    def heard(self) -> bool:
        """Read which signals came, and pass them on; tells whether Ctrl-C is to end the block."""
        with self._lock:
            came = self._ends is not None and self._read(self._ends[1])
        # A program's own handler may go on: DuckDB calls it, and stops if it raises.
        return came and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def disarm(self) -> None:
        """Wait for an interruption that is being made, and give the descriptor back after the outermost block."""
        with self._lock:
            pass
        if self.block is None:
            signal.set_wakeup_fd(self._other)

    def end_thread(self) -> None:
        """End the thread: Python warns of a fork with other threads. The next block starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
        while thread is not None and thread.is_alive():
            if self._ends is not None:
                with contextlib.suppress(BlockingIOError):
                    self._ends[0].send(b"\0")
            # Again, if the main thread has read that meanwhile.
            thread.join(_PAUSE)

    def forget(self) -> None:
        """Give the descriptor back in a forked child: it is the parent that reads there."""
        if self._ends is not None:
            found = signal.set_wakeup_fd(-1)
            with contextlib.suppress(OSError, ValueError):  # closed by its owner
                signal.set_wakeup_fd(found if found != self._ends[0].fileno() else self._other)

    def _make_ends(self) -> tuple[socket.socket, socket.socket]:
        # Never closed: the system would give their numbers to other files, and a late signal write into those.
        self._ends = ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        return ends

    def _start(self, end: socket.socket) -> None:
        thread = threading.Thread(target=self._run, args=[end], name="nirs_store signals", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending and starts no threads
            self._thread = None

    def _run(self, end: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(end, selectors.EVENT_READ)
            while self._thread is threading.current_thread():
                selector.select()
                # Read and acted upon under the lock: in between, the main thread could come to another block.
                with self._lock:
                    heard, block = self.heard(), self.block
                    if block is None or not heard:
                        continue
                    block.stopped = True
                while not block.over:
                    self._interrupt()
                    time.sleep(_PAUSE)

    def _read(self, end: socket.socket) -> bool:
        try:
            numbers = end.recv(4096)
        except BlockingIOError:
            return False
        if self._other != -1:
            with contextlib.suppress(OSError):  # closed meanwhile, or full: then it has enough to read
                _send(self._other, numbers)
        return signal.SIGINT in numbers

    def _interrupt(self) -> None:
        with self._lock:
            block = self.block
            while block is not None:
                with contextlib.suppress(duckdb.Error):  # closed by its owner
                    block.con.interrupt()
                block = block.outer


def _send(descriptor: int, numbers: bytes) -> None:
    if sys.platform != "win32":
        os.write(descriptor, numbers)
        return
    other = socket.socket(fileno=descriptor)
    try:
        other.send(numbers)
    finally:
        other.detach()


_watch = _Watch()


def _renew() -> None:
    global _watch
    before, _watch = _watch, _Watch()
    before.forget()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=lambda: _watch.end_thread(), after_in_child=_renew)


def interruptible(con: duckdb.DuckDBPyConnection, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
    """Run statements so that Ctrl-C ends them at once; in the main thread, which alone handles signals."""
    if threading.current_thread() is not threading.main_thread():
        return work(con)
    watch = _watch
    block = _Block(con, watch.block)
    try:
        watch.arm(block)
        found = work(con)
        if block.stopped or watch.heard():
            # DuckDB took the signal, and the caller dropped its error.
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0)
            raise KeyboardInterrupt
        return found
    except Exception as error:
        # DuckDB may have seen the signal before the other thread did, and other code have made another error of it.
        if block.stopped or is_interrupt(error) or watch.heard():
            # The signal may still wait for the main thread: it is handled here, and does not come a second time.
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0)
            raise KeyboardInterrupt from None
        raise
    finally:
        # No calls before these: a signal is handled at the next one.
        block.over = True
        watch.block = block.outer
        watch.disarm()


def within(con: duckdb.DuckDBPyConnection, work: Callable[[], T], seconds: float | None) -> T:
    """Run one statement; interrupt it, and raise `TimeOver`, when its time is over."""
    if seconds is None:
        return work()
    done, late = threading.Event(), threading.Event()

    def wait(seconds: float) -> None:
        if not done.wait(min(seconds, threading.TIMEOUT_MAX)):
            late.set()
            while not done.is_set():
                con.interrupt()
                done.wait(_PAUSE)

    thread = threading.Thread(target=wait, args=[seconds], name="nirs_store time limit", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending and starts no threads
        return work()
    try:
        return work()
    except (
        duckdb.InterruptException,
        OSError,
    ) as error:  # OSError: from a result that is read batch by batch
        if late.is_set():
            raise TimeOver from error
        raise
    finally:
        done.set()
        # The next statement on the connection is not its business.
        thread.join()


# -- What DuckDB and the disk say went wrong, in the words of this library.


@contextlib.contextmanager
def translated(layout: Layout, give_up: Callable[[], None]) -> Iterator[None]:
    """Raise typed errors instead of DuckDB's; `give_up` is called when its connection is of no more use."""
    try:
        yield
    except (duckdb.FatalException, duckdb.InternalException) as error:
        give_up()
        raise WriteFailed(
            f"DuckDB had to give up {layout.catalog}: {error} What was committed is safe; the change "
            "under way was not made. Remove the cause (full disk, I/O error) and call again."
        ) from error
    except (duckdb.IOException, duckdb.TransactionException, duckdb.OutOfMemoryException) as error:
        give_up()
        raise WriteFailed(
            f"The catalog operation failed: {error} Nothing was changed. Remove the cause and call again."
        ) from error
    except duckdb.DataError as error:
        raise InvalidInput(f"The catalog cannot answer this: {error} Nothing was changed.") from error
    except OSError as error:
        # From a file next to the catalog. Errors of this library may be OSErrors too.
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(Path(error.filename or layout.journal), error) from error
    except duckdb.Error as error:
        # A block with a wrong checksum comes as the bare base class.
        if type(error) is not duckdb.Error:
            raise
        raise CatalogDamaged(
            f"{layout.catalog} is damaged: {error} Nothing was changed. `nirs-store check --read-data` "
            "says what depends on it; restore the file from a backup."
        ) from error


# -- Results as polars data frames, made column by column.


_ROWS_A_BATCH, _ROWS_AT_ONCE = 1 << 16, 2048


class TooManyRows(Exception):
    """A result has more rows than were allowed."""


class TooManyBytes(Exception):
    """A result takes more memory than was allowed."""


def to_frame(
    relation: duckdb.DuckDBPyRelation,
    *,
    most: int | None = None,
    most_bytes: int | None = None,
    check: Callable[[pa.Array], None] | None = None,
) -> pl.DataFrame:
    """Fetch a result whole; TIMESTAMP columns come back as UTC, as everything in the catalog is."""
    unbound = most is None and most_bytes is None
    table: pa.Table = relation.to_arrow_table() if unbound else _at_most(relation, most, most_bytes)
    if check is not None:
        for column in table.columns:
            for chunk in column.chunks:
                check(chunk)
    return pl.DataFrame(
        [_series(name, column) for name, column in zip(table.column_names, table.columns, strict=True)]
    )


def _at_most(relation: duckdb.DuckDBPyRelation, most: int | None, most_bytes: int | None) -> pa.Table:
    # A batch is in memory before it is counted: where bytes are bound, it has no more rows than DuckDB makes at once.
    with relation.to_arrow_reader(_ROWS_A_BATCH if most_bytes is None else _ROWS_AT_ONCE) as reader:
        batches, count, size = [], 0, 0
        for batch in reader:
            count, size = count + batch.num_rows, size + batch.nbytes
            if most is not None and count > most:
                raise TooManyRows
            if most_bytes is not None and size > most_bytes:
                raise TooManyBytes
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema)


def few_rows(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pl.DataFrame:
    """Make the frame of a few rows that were fetched as Python values: for them Arrow takes as long as the
    query.
    """
    columns = _columns(schema)
    moments = [name for name, kind in columns.items() if isinstance(kind, pl.Datetime)]
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    for row in named:
        for name in moments:
            if row[name] is not None:
                row[name] = row[name].replace(tzinfo=UTC)
    # All columns at once: one by one, and the time zone set afterwards, takes ten times as long; as plain rows, three
    # times. Not by way of Arrow, which imports pandas when it is given a list, if that is installed.
    return pl.from_dicts(named, schema=columns) if named else pl.DataFrame(schema=columns)


@cache
def _columns(schema: pa.Schema) -> dict[str, pl.DataType]:
    return {field.name: _kind(field.type) for field in schema}


def _kind(kind: pa.DataType) -> pl.DataType:
    if pa.types.is_timestamp(kind):
        return pl.Datetime(kind.unit, "UTC")
    kinds = {
        pa.string(): pl.String(),
        pa.float64(): pl.Float64(),
        pa.int32(): pl.Int32(),
        pa.int64(): pl.Int64(),
    }
    return kinds[kind]


def _series(name: str, column: pa.ChunkedArray) -> pl.Series:
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # more than one chunk is left where offsets would overflow
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], column.type)
    if isinstance(values, pa.ExtensionArray):  # JSON is text with a label
        values = values.storage
    if pa.types.is_timestamp(values.type) and values.type.tz is None:
        values = values.cast(pa.timestamp(values.type.unit, "UTC"))
    made = pl.from_arrow(values)
    return pl.Series(name, made)


# Texts are put together from fixed parts, so there are few; but the combinations of filters are not counted.
_MOST = 512
_parsed: dict[str, duckdb.Statement] = {}


def parsed(con: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """One statement, parsed now or before; DuckDB copies it before it runs it."""
    found = _parsed.get(sql)
    if found is None:
        (found,) = con.extract_statements(sql)
        if len(_parsed) >= _MOST:
            _parsed.clear()
        _parsed[sql] = found
    return found


def execute(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> duckdb.DuckDBPyConnection:
    """Run one statement, as the method of a connection does."""
    return con.execute(parsed(con, sql), params)


# -- Arrow rows that statements read as a table.


_ARRIVING = "arriving"


class StagedRows:
    """Arrow rows that the statements of one connection see under a name.

    Registered once: DuckDB makes a view of them and drops it, which costs as much as inserting a few rows.
    """

    def __init__(self, name: str = _ARRIVING) -> None:
        self.name = name
        self._registered = False
        self.rows = _NOTHING

    @property
    def rows(self) -> pa.Table:
        """What a statement reads."""
        return self._rows

    @rows.setter
    def rows(self, rows: pa.Table) -> None:
        self._rows = rows
        # What DuckDB asks anything for that gives Arrow rows; the schema when a statement is planned. Methods of
        # pyarrow, because Ctrl-C in one of ours would reach DuckDB as an error of the statement.
        self.__arrow_c_stream__ = rows.__arrow_c_stream__
        self.__arrow_c_schema__ = rows.schema.__arrow_c_schema__

    def register(self, con: duckdb.DuckDBPyConnection) -> None:
        """Let the connection's statements see the rows; outside a transaction, which could take that back."""
        if not self._registered:
            con.register(self.name, self)
            self._registered = True

    def clear(self) -> None:
        """Hold no rows any more."""
        self.rows = _NOTHING


# Made of nothing, because pyarrow imports pandas for a list of values.
_NOTHING = pa.Table.from_arrays([pa.Array.from_buffers(pa.int8(), 0, [None, None])], names=["nothing"])


@contextlib.contextmanager
def incoming(con: duckdb.DuckDBPyConnection) -> Iterator[StagedRows]:
    """Rows under a name of their own for as long as the block runs, inside a transaction or not."""
    rows = StagedRows("incoming")
    rows.register(con)
    try:
        yield rows
    finally:
        # In a transaction that has failed this raises too, and would hide what was wrong.
        with contextlib.suppress(duckdb.TransactionException):
            con.unregister(rows.name)


# -- The single number of a query, fetched whole.


def number(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> int:
    """First value of the first row as a whole number; also the count of rows that a DELETE reports."""
    rows = execute(con, sql, params if params is not None else []).fetchall()
    return int(rows[0][0]) if rows else 0
