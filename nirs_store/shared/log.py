"""The log of a shared workspace: commits in PostgreSQL, in one order, applied to this computer's replica."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import msgspec
import psycopg

from nirs_store.db.changes import append_notes, payload_of
from nirs_store.db.journal import Entry, MigrateTo, Rejection, SegmentDamaged, leftovers, remove_leftover
from nirs_store.db.layout import Layout
from nirs_store.db.migrations import Migration, run_step
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.sql import incoming
from nirs_store.db.table import Capture, encode_images
from nirs_store.errors import (
    NirsStoreError,
    SessionEnded,
    SharedStoreUnreachable,
    StoreBusy,
)
from nirs_store.ids import naive, new_id, utcnow
from nirs_store.shared.objects import LogBodies
from nirs_store.shared.pg import Connection, Server, one, removed, schema_differs
from nirs_store.shared.replica import Position, note_as_of, read_position, write_position
from nirs_store.values import storable

T = TypeVar("T")

# Larger bodies go into the object store, and their rows have the keys.
_INLINE = 256 << 10
# At most so many bytes are fetched at once, and so many commits listed.
_FETCH_BYTES = 16 << 20
_LISTED = 10_000
NO_END = (1 << 63) - 1
# The server is told this often how far this computer is.
_SAY_EVERY = 60.0
# A connection for changes that was not used for so long is closed: servers have few.
_IDLE = 10.0
# A server ends a change that does nothing for so long: its process was stopped. One that works pings in between.
_STOPPED_AFTER, _PING = "30s", 10.0
_APPEND = "SELECT n, rejections FROM nirs_store.append(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"

_LOCK_HEAD = "SELECT head, schema_version FROM nirs_store.lock_head(%s, %s)"


class Pulled(Entry, frozen=True):
    """One commit in the log of a server."""

    log: SharedLog
    size: int
    rejected: str | None = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.size

    def read(self) -> bytes:
        """Return its bytes; the next ones are fetched with them."""
        if self.rejected is not None:
            raise SegmentDamaged(f"another computer rejected it: {self.rejected}")
        return self.log.body(self.number)


class SharedLog:
    """The commits of one shared workspace; a `CommitLog`."""

    whole = True

    def __init__(
        self,
        server: Server,
        workspace_id: str,
        layout: Layout,
        bodies: LogBodies,
        library: str,
        *,
        until: int | None = None,
    ) -> None:
        self.server = server
        self.workspace_id = workspace_id
        self._layout = layout
        self._bodies = bodies
        self._library = library
        # Where a replica that is built for a comparison stops; the server is not told of it.
        self._until = until
        self.changer = Server(server.address)
        # Under which name each claim of this process lives on the server, and how one that ended begins again.
        self.holders: dict[str, str] = {}
        self.renewals: dict[str, Callable[[], bool]] = {}
        # The version that the server must have; another one while a workspace is migrated.
        self.schema = SCHEMA_VERSION
        # The thread that makes a direct change: it holds the head.
        self._holder: int | None = None
        # When the server may be told again how far this computer is.
        self._say_again, self._changed, self._said = (0.0 if until is None else math.inf), 0.0, 0
        self._change: _SharedChange | None = None
        self._own: set[str] = set()
        # The newest commit that this process was told of: a server without it has lost something.
        self._known = Position(0, "")
        self._forget()
        self._watch()

    def _watch(self) -> None:
        for server in (self.server, self.changer):
            server.on_connect[""] = self._compare

    def _compare(self, con: Connection) -> None:
        """Refuse a server that was restored, or promoted, without commits of which this process knows."""
        if self._known.number:
            self._known.compare(con, self.workspace_id, self._layout, held=False)

    def _know(self, position: Position) -> None:
        with self._lock:
            if position.number > self._known.number:
                self._known = position

    def _forget(self) -> None:
        # What the replica holds, while it is open; and the last that was known of it, for estimates.
        self._position: Position | None = None
        self._last = self._seen = 0
        self._asked = 0.0
        self._listed: list[Pulled] = []
        self._fetched: dict[int, bytes] = {}
        self._rejections, self._rejections_told = 0, 0
        self._lock = threading.RLock()

    # -- committing --------------------------------------------------------------------------

    def append(
        self, pieces: list[bytes], txid: str, alone: Callable[[], bool] = lambda: False, /
    ) -> tuple[Entry, int]:
        """Commit one segment; the same txid twice is one commit."""
        if self._holder == threading.get_ident():
            raise StoreBusy(
                f"This thread is in the middle of a change of {self.server.address}, and would wait for itself. "
                "Nothing was recorded; record before the change or after it."
            )
        body = b"".join(pieces)
        claim, session = _writer(body)
        try:
            number, rejections = self._append(txid, session, claim, body)
        except SessionEnded:
            # Taken for dead while it slept. Where nothing that it claimed was given up, it goes on.
            renew = self.renewals.get(claim)
            if renew is None or not renew():
                raise
            number, rejections = self._append(txid, session, claim, body)
        self._own.add(txid)
        self._know(Position(number, txid))
        self._rejections = max(self._rejections, rejections)
        return Pulled(number, txid, self._name(number, txid), self, len(body)), max(0, number - self._last)

    @contextmanager
    def alone_with(self, subject: str, /) -> Iterator[None]:
        """Hold a lock of the server that has the name of the subject."""
        key = struct.unpack("ii", hashlib.sha256(f"{self.workspace_id} {subject}".encode()).digest()[:8])
        # On a connection of its own: the log's may be replaced at any moment, and locks end with it.
        server = Server(self.server.address)
        try:
            lock = "SELECT pg_advisory_lock(%s, %s)"
            server.run(lambda con: con.execute(lock, key), patience=self.server.address.patience)
            yield
        finally:
            server.close()

    def ask(self, work: Callable[[Connection], T]) -> T:
        """Ask the server; in the middle of a change on its own connection, because others may wait for it to end."""
        if self._holder == threading.get_ident() and self._change is not None:
            try:
                return work(self._change._con)
            except psycopg.Error as error:
                raise self.changer.explain(error) from error
        return self.server.run(work)

    def _append(self, txid: str, session: str, claim: str, body: bytes) -> tuple[int, int]:
        row = self._row(txid, "rows", session, self.holders.get(claim, claim), body)
        number, rejections = self.server.run(
            lambda con: one(con, _APPEND, row), patience=self.server.address.patience
        )
        return int(number), int(rejections)

    def commit_images(self, body: bytes, txid: str) -> None:
        """Commit images of new rows of a workspace that is being made."""
        row = self._row(txid, "delta", "", "", body)
        self.server.run(lambda con: one(con, _APPEND, row), patience=self.server.address.patience)

    def migrate(self, step: Migration) -> None:
        """Run a step in the direct change of this thread, which becomes the commit that says so."""
        if self._holder != threading.get_ident() or self._change is None:
            raise RuntimeError("no direct change is under way in this thread")
        self._change.migrate(step)

    def _row(
        self,
        txid: str,
        kind: str,
        session: str,
        claim: str,
        body: bytes,
        *,
        settings: bool = False,
    ) -> list[Any]:
        digest = hashlib.sha256(body).hexdigest()
        key = self._bodies.put(digest, body) if len(body) > _INLINE else None
        return [
            self.workspace_id, txid, kind, session, claim, SCHEMA_VERSION, self._library, len(body),
            None if key else body, key, digest, settings,
        ]  # fmt: skip

    # -- the replica ---------------------------------------------------------------------------

    def opened(self, con: duckdb.DuckDBPyConnection) -> None:
        """Read the position of a replica, and compare it with the log."""
        position = read_position(con, self.workspace_id, self._layout)
        self.ask(lambda server: position.compare(server, self.workspace_id, self._layout))
        with self._lock:
            self._position, self._last = position, position.number
            self._listed, self._fetched = [], {}
        self._know(position)

    def closed(self) -> None:
        """Forget where the replica is: another process of this computer may move it on."""
        with self._lock:
            position, self._position = self._position, None
            self._listed, self._fetched = [], {}
            if position is not None and position.number >= self._seen and self._asked:
                note_as_of(self._layout, self._asked)
        if self._change is None and time.monotonic() - self._changed > _IDLE:
            self.changer.drop()
        if position is not None and time.monotonic() >= self._say_again:
            self._say_again = time.monotonic() + _SAY_EVERY
            with contextlib.suppress(NirsStoreError):  # for people to look at, no more
                self.say(position.number)

    @property
    def machine(self) -> str:
        """Computer and replica, as others see them."""
        return storable(f"{socket.gethostname()}:{self._layout.root}")

    def say(self, number: int) -> None:
        """Tell the server how far this computer is."""
        params = [self.workspace_id, self.machine, number, self._library]
        self.server.run(lambda con: con.execute("SELECT nirs_store.seen(%s, %s, %s, %s)", params))
        self._said = number

    def position(self) -> Position:
        """Return where the replica is, which is open."""
        with self._lock:
            if self._position is None:
                raise RuntimeError("the replica is not open")
            return self._position

    def is_empty(self, besides: Container[str] = ()) -> bool:
        """Ask for the head."""
        with self._lock:
            position = self._position
        if position is None:
            return True
        self._seen = self._head()
        return self._seen <= position.number

    def settings_wait(self) -> bool:
        """Ask whether the settings were changed since the last commit that this replica is known to have."""
        sql = "SELECT settings_n FROM nirs_store.workspaces WHERE ws = %s"
        (number,) = self.ask(lambda con: self._mine(con, sql))
        return int(number) > self._last

    @property
    def behind(self) -> bool:
        """Whether the replica is open and has not come to the head as it was seen last."""
        with self._lock:
            return self._position is not None and self._position.number < self._seen

    def _head(self) -> int:
        sql = "SELECT head, rejections, schema_version FROM nirs_store.workspaces WHERE ws = %s"
        asked = time.time()
        head, rejections, schema = self.ask(lambda con: self._mine(con, sql))
        self._refuse_other(schema)
        self._rejections = max(self._rejections, rejections)
        self._asked = asked
        return int(head) if self._until is None else min(int(head), self._until)

    def _refuse_other(self, schema: int) -> None:
        if schema != self.schema:
            raise schema_differs(self.server.address, schema, self.schema)

    def _mine(self, con: Connection, sql: str) -> Any:
        """Ask the row of this workspace."""
        row = con.execute(sql, [self.workspace_id]).fetchone()
        if row is None:
            raise removed(self.server.address)
        return row

    def pending(self) -> Sequence[Entry]:
        """List what the replica lacks, or the first ten thousand."""
        with self._lock:
            if self._position is None:
                return []
            after = self._position.number
        sql = (
            "SELECT l.n, l.txid, l.bytes, r.reason FROM nirs_store.log l LEFT JOIN nirs_store.rejected r "
            "ON r.ws = l.ws AND r.n = l.n WHERE l.ws = %s AND l.n > %s AND l.n <= %s ORDER BY l.n LIMIT %s"
        )
        until = NO_END if self._until is None else self._until
        rows = self.ask(lambda con: con.execute(sql, [self.workspace_id, after, until, _LISTED]).fetchall())
        found = [Pulled(n, txid, self._name(n, txid), self, size, reason) for n, txid, size, reason in rows]
        for place, entry in enumerate(found, after + 1):
            if entry.number != place:
                raise SharedStoreUnreachable(
                    f"{self.server.address}: commit {place} is not in the log, and {entry.number} is. Nothing was "
                    "applied. A replica this old needs a snapshot; delete its folder to start from the newest one."
                )
        with self._lock:
            self._listed = found
        return found

    def body(self, number: int) -> bytes:
        """Return the bytes of a commit that was listed."""
        with self._lock:
            if number not in self._fetched:
                self._fetched = self._fetch(number)
            return self._fetched.pop(number)

    def _fetch(self, number: int) -> dict[int, bytes]:
        last, size = number, 0
        for entry in self._listed:
            if entry.number >= number:
                size += entry.size
                if size > _FETCH_BYTES and entry.number > number:
                    break
                last = entry.number
        sql = "SELECT n, body, key, sha256, bytes FROM nirs_store.log WHERE ws = %s AND n BETWEEN %s AND %s"
        rows = self.ask(
            lambda con: con.execute(sql, [self.workspace_id, number, last], binary=True).fetchall()
        )
        found = {}
        for n, body, key, digest, size in rows:
            data = self.bytes_of(body, key, size) or b""
            if hashlib.sha256(data).hexdigest() != digest:
                raise SharedStoreUnreachable(
                    f"{self.server.address}: the bytes of commit {n} are not those that were committed: their "
                    "SHA-256 is another. Nothing was applied. Look at the object store and the server, and ask again."
                )
            found[int(n)] = data
        return found

    def bytes_of(self, body: Any, key: str | None, size: int) -> bytes | None:
        """Return the bytes of a row of the log; None if they were truncated."""
        if body is not None:
            return bytes(body)
        return None if key is None else self._bodies.get(key, size)

    def mark(self, con: duckdb.DuckDBPyConnection, entries: Sequence[Entry]) -> None:
        """Write the position, in the transaction that writes the rows."""
        write_position(con, Position(entries[-1].number, entries[-1].txid))

    def applied(self, entries: Sequence[Entry]) -> None:
        """Know the new position."""
        with self._lock:
            last = entries[-1]
            self._position, self._last = Position(last.number, last.txid), last.number
            self._know(self._position)

    def remove(self, entries: list[Entry]) -> None:
        """Leave the log alone."""

    def sync(self) -> None:
        """Leave the log alone."""

    def nbytes(self) -> int:
        """Sum what was listed and is not applied."""
        with self._lock:
            return sum(entry.size for entry in self._listed if entry.number > self._last)

    # -- commits that cannot be applied ------------------------------------------------------

    def reject(self, entry: Entry, *, reason: str, claim: str, at: str) -> Rejection:
        """Note that a commit cannot be applied: from here on no computer applies it."""
        who = storable(f"{socket.gethostname()}:{os.getpid()}")
        params = [self.workspace_id, entry.number, entry.txid, claim, reason, who]
        self.ask(lambda con: con.execute("SELECT nirs_store.reject(%s, %s, %s, %s, %s, %s)", params))
        return Rejection(entry.txid, claim, reason, entry.path)

    def rejections(self) -> list[Rejection]:
        """List what is noted."""
        sql = "SELECT n, txid, holder, reason FROM nirs_store.rejected WHERE ws = %s ORDER BY n"
        rows = self.ask(lambda con: con.execute(sql, [self.workspace_id]).fetchall())
        return [Rejection(txid, holder, reason, self._name(n, txid)) for n, txid, holder, reason in rows]

    def rejections_of(self, claim: str) -> list[Rejection]:
        """Look only where a later answer of the server spoke of more."""
        if self._rejections == self._rejections_told:
            return []
        count = self._rejections
        found = [r for r in self.rejections() if r.txid in self._own]
        self._rejections_told = count
        self._own.difference_update(r.txid for r in found)
        return found

    # -- direct changes ------------------------------------------------------------------------

    @contextmanager
    def changing(self, catch_up: Callable[[], None]) -> Iterator[_SharedChange]:
        """Hold the head of the log while a direct change is made, so that no other process commits meanwhile.

        What waits is applied before, as far as possible without holding it.
        """
        if not self.is_empty():
            catch_up()
        patience = self.server.address.patience
        try:
            change = self.changer.run(self._begin, patience=patience)
        except SessionEnded:
            # A change may refer to what was claimed before it, as a commit does.
            if not all(renew() for renew in list(self.renewals.values())):
                raise
            change = self.changer.run(self._begin, patience=patience)
        self._holder, self._change = threading.get_ident(), change
        try:
            while (position := self._position) is not None and position.number < change.head:
                catch_up()
            yield change
        finally:
            self._holder = self._change = None
            self._changed = time.monotonic()
            change.end()

    def is_changing(self) -> bool:
        """Whether this thread makes a direct change."""
        return self._holder == threading.get_ident()

    def in_change(self, work: Callable[[Connection], T]) -> T:
        """Do something in the transaction of the direct change that this thread is making."""
        if not self.is_changing():
            raise RuntimeError("no direct change is under way in this thread")
        return self.ask(work)

    def _begin(self, con: Connection) -> _SharedChange:
        holders = [self.holders.get(claim, claim) for claim in self.renewals]
        try:
            # A process that is stopped asks nothing more; one that is stopped while it pulls reads nothing more.
            con.execute(
                f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = '{_STOPPED_AFTER}'; "
                f"SET LOCAL tcp_user_timeout = '{_STOPPED_AFTER}'"
            )
            head, version = one(con, _LOCK_HEAD, [self.workspace_id, holders])
            self._refuse_other(int(version))
        except BaseException:
            with contextlib.suppress(psycopg.Error):  # a connection that is lost has rolled back
                con.rollback()
            raise
        return _SharedChange(self, self.changer, con, int(head), int(version))

    def sweep_tmp(self, alive: Container[str]) -> None:
        """Sweep the replica's temporary folder."""
        for path in leftovers(self._layout, alive):
            remove_leftover(path)

    def close(self) -> None:
        """End the connections; a computer that asks now and then says last how far it came."""
        if self._until is None and self._last > self._said and self.server.connected:
            with contextlib.suppress(NirsStoreError):
                self.say(self._last)
        for server in (self.server, self.changer):
            server.close()

    def after_fork_in_child(self) -> None:
        """Start again, with connections of its own."""
        for server in (self.server, self.changer):
            server.after_fork_in_child()
        self._own.clear()
        self.holders, self.renewals = {}, {}
        self._holder = self._change = None
        self._forget()
        self._watch()

    def _name(self, number: int, txid: str) -> Path:
        return self._layout.segments / f"{number:012d}-{txid}.seg"


class _SharedChange:
    """A direct change under way: the head of the log is locked."""

    def __init__(self, log: SharedLog, server: Server, con: Connection, head: int, version: int) -> None:
        self._log, self._server, self._con = log, server, con
        self.head = head
        self._version = version
        self.committed = False
        self._capture: Capture | None = None
        self._migration: MigrateTo | None = None
        self._created = utcnow().isoformat()
        self._done = threading.Event()
        # DuckDB may be at work for minutes: a process that is stopped does not ping, and one that works does.
        self._pinger: threading.Thread | None = None
        pinger = threading.Thread(target=self._ping, name="nirs_store change", daemon=True)
        # The interpreter is ending and starts no threads: the change has half a minute between two statements.
        with contextlib.suppress(RuntimeError):
            pinger.start()
            self._pinger = pinger

    def through(self, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """Return a connection that notes which rows are touched."""
        self._capture = Capture(con)
        return self._capture.connection

    def migrate(self, step: Migration) -> None:
        """Run a step as every other replica will when it meets the commit."""
        if self._capture is None:
            raise RuntimeError("no change is under way")
        con = self._capture.real
        facts = {"from_version": step.to_version - 1, "to_version": step.to_version, "step": step.name}
        payload = payload_of("migrate", "workspace", details=facts)
        self._migration = MigrateTo(step.to_version, payload)
        run_step(con, step.to_version)
        with incoming(con) as rows:
            append_notes(con, rows, [(naive(datetime.fromisoformat(self._created)), None, payload)])

    def commit(self, con: duckdb.DuckDBPyConnection) -> None:
        """Append what was changed to the log and commit there."""
        capture = self._capture
        txid, to, sql = new_id(), self._migration, _APPEND
        if to is not None:
            more = {"migrate": msgspec.to_builtins(to)}
            body = encode_images({}, txid=txid, schema=to.version, created=self._created, more=more)
            sql = "SELECT n, 0 FROM nirs_store.migrate(%s, %s, %s, %s, %s, %s)"
            log = self._log
            row = [log.workspace_id, to.version - 1, to.version, txid, log._library, body]
        else:
            found = None if capture is None else capture.encode(con, txid=txid)
            if found is None:
                return  # nothing was changed
            settings = capture is not None and capture.touches("settings")
            row = self._log._row(txid, "delta", "", "", found, settings=settings)
        self._stop_pinging()
        try:
            number, _ = one(self._con, sql, row)
            position = Position(number, txid)
            write_position(con, position)
            self._con.execute("COMMIT")
        except psycopg.Error as error:
            self._server.drop()
            position = self._look_for(txid, error)
            write_position(con, position)
        self.committed = True
        if to is not None:
            self._log.schema = to.version
        with self._log._lock:
            self._log._position, self._log._last = position, position.number
            self._log._know(position)

    def _look_for(self, txid: str, error: psycopg.Error) -> Position:
        """Find out whether a COMMIT whose answer was lost was made; raise if it was not, or if that is unknown."""
        sql = "SELECT n FROM nirs_store.log WHERE ws = %s AND txid = %s"
        ws = self._log.workspace_id

        def look(con: Connection) -> Any:
            # The server may be in the middle of that COMMIT: it holds the head until it has come to its end.
            con.execute(_LOCK_HEAD, [ws, []])
            return con.execute(sql, [ws, txid]).fetchone()

        try:
            found = self._log.server.run(look, patience=self._server.address.patience)
        except (SharedStoreUnreachable, StoreBusy) as again:
            raise SharedStoreUnreachable(
                f"{self._log.server.address}: the connection was lost when this change was to be made, and the server "
                f"cannot be asked whether it was: {error} It is whole or absent; look when the server is back."
            ) from again
        if found is None:
            raise self._server.explain(error) from error
        return Position(int(found[0]), txid)

    def end(self) -> None:
        """Release the head."""
        self._stop_pinging()
        if not self._con.closed:
            try:
                if self._con.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    self._con.execute("ROLLBACK")
            except psycopg.Error:
                self._server.drop()

    def _stop_pinging(self) -> None:
        self._done.set()
        if self._pinger is not None:
            self._pinger.join()

    def _ping(self) -> None:
        while not self._done.wait(_PING):
            try:
                self._con.execute("SELECT 1")
            except psycopg.Error:
                return  # the change finds out when it commits


def _writer(body: bytes) -> tuple[str, str]:
    """Return claim and session of a commit, from its header."""
    (length,) = struct.unpack_from("<I", body, 8)
    header = json.loads(body[12 : 12 + length])
    return str(header["claim"]), str(header["session"])
