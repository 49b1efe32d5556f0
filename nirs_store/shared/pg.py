"""Connections to PostgreSQL: opened, checked, opened again when one is lost, and never shared with a forked child."""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg

from nirs_store.blobs.bucket import is_loopback
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.errors import (
    InvalidInput,
    NirsStoreError,
    NotAWorkspace,
    ReadOnlyStore,
    SchemaTooNew,
    SessionEnded,
    SharedStoreUnreachable,
    StoreBusy,
)
from nirs_store.shared.address import Address
from nirs_store.shared.pgschema import NO_WORKSPACE, SCHEMA_DIFFERS, SESSION_ENDED

T = TypeVar("T")
Connection = psycopg.Connection[Any]

# A server that is silent for so long is taken for lost, however quietly its computer acknowledges packets. One that
# waits for a lock says so earlier.
_SILENCE, _SHORTEST_SILENCE, _LOCK_SHARE = 30.0, 5.0, 0.5
_IDLE = psycopg.pq.TransactionStatus.IDLE
_OLDEST = 140_000
# Seconds that clocks may differ before it is said.
_CLOCK = 2.0
_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
# What a server says that will be itself again: shutting down, starting, out of connections or space, a deadlock.
_PASSING = ("08", "57P", "53", "40")
_HOPELESS = re.compile(
    # Not "SSL error", which is also what a server says that is killed.
    r"authentication failed|no password supplied|pg_hba\.conf|does not exist|not permitted to log in|certificate|"
    r"does not support SSL|wrong version number|unknown ca|invalid \w+ value|definition of service",
    re.IGNORECASE,
)
_KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class _Heard(psycopg.Connection[Any]):
    """A connection that does not wait forever for a server that is stopped, or for packets that are lost."""

    silence = _SILENCE

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **named: Any) -> T:
        """Wait for an answer."""
        return super().wait(_while_heard(gen, self.silence), *args, **named)


def _while_heard(gen: Generator[Any, Any, T], silence: float) -> Generator[Any, Any, T]:
    """Pass a generator of psycopg on until nothing was sent or received for a while."""
    heard = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > silence:
                raise psycopg.OperationalError(f"the server has said nothing for {silence:.0f} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class Server:
    """One connection at a time to the server of a shared workspace; safe to use from many threads."""

    def __init__(self, address: Address) -> None:
        self.address = address
        # Called with each new connection before anything else; by the caller's name.
        self.on_connect: dict[str, Callable[[Connection], None]] = {}
        self._lock = threading.RLock()
        self._con: Connection | None = None

    def run(self, work: Callable[[Connection], T], *, patience: float = 0.0) -> T:
        """Do some work, again on a new connection if the old one is lost: done twice, it must be as if done once."""
        # A lost connection is replaced once at least; for `patience` seconds it is tried again and again.
        deadline = time.monotonic() + patience
        pause, fresh = 0.0, False
        while True:
            try:
                with self._lock:
                    fresh = self._con is None
                    return work(self._connected())
            except psycopg.errors.LockNotAvailable as error:
                # Another process changes something for long. The connection is fine, unless a transaction is open.
                with self._lock:
                    if self._con is not None and self._con.info.transaction_status != _IDLE:
                        self.drop()
                    if time.monotonic() >= deadline:
                        raise self.explain(error) from error
            except psycopg.Error as error:
                with self._lock:
                    lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
                    passing = lost and _may_pass(error)
                    if lost:
                        self.drop()
                    if not passing or (fresh and time.monotonic() + pause >= deadline):
                        raise self.explain(error) from error
                if fresh:
                    time.sleep(pause)
                    pause = min(_LONGEST_PAUSE, max(_PAUSE, pause * 2))

    def explain(self, error: psycopg.Error) -> NirsStoreError:
        """Return the error of this library for one of the server."""
        text = " ".join(str(error).split()).rstrip(".") + "."
        match error.sqlstate:
            case code if code == NO_WORKSPACE:
                return removed(self.address)
            case code if code == SCHEMA_DIFFERS:
                return schema_differs(self.address, str(error).split()[0], SCHEMA_VERSION)
            case code if code == SESSION_ENDED:
                return SessionEnded(
                    f"{self.address}: this store object did not answer for a while and was taken for dead, so what it "
                    "had claimed was given up. Nothing was committed now. Open the workspace again and save once more "
                    "what was not committed."
                )
            case "42501":
                return ReadOnlyStore(
                    f"{self.address}: this role may not do that: {text} Nothing was changed. An administrator of the "
                    "workspace can give it rights: nirs-store shared grant ROLE reader|writer|admin."
                )
            case code if (code or "")[:2] == "28" or (not code and _HOPELESS.search(text)):
                return SharedStoreUnreachable(
                    f"{self.address}: PostgreSQL refused the connection, or this computer did: {text} Nothing was "
                    "changed. Correct the address, the user and password, or the certificates, and call again."
                )
            case "25006":
                return ReadOnlyStore(
                    f"{self.address}: the server takes no changes now: {text} Nothing was changed. Rows that are not "
                    "committed are kept in memory; call again when it does."
                )
            case "55P03":
                return StoreBusy(
                    f"{self.address}: another process, here or on another computer, has changed the workspace for "
                    "longer than this call may wait. Nothing was changed, and rows that are not committed are kept in "
                    "memory. Call again, or set a longer patience= in the address."
                )
            case "42P01" | "42883" | "3F000":
                return NotAWorkspace(
                    f"{self.address}: its tables or functions are not there (any more): {text} Nothing was changed. "
                    "Restore the database from its backup, or name the right one."
                )
            case _:
                return SharedStoreUnreachable(
                    f"{self.address}: PostgreSQL could not be reached, or failed: {text} What was committed "
                    "is safe there, and rows that are not are kept in memory. Check the server and the network, and "
                    "call again."
                )

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as is known."""
        return self._con is not None and not self._con.closed

    def drop(self) -> None:
        """Close the connection; the next work opens another."""
        with self._lock:
            con, self._con = self._con, None
            if con is not None:
                con.close()

    close = drop

    def after_fork_in_child(self) -> None:
        """Forget the parent's connection, which psycopg never closes from here."""
        self._lock = threading.RLock()
        if self._con is not None:
            _inherited.append(self._con)
        self._con = None
        self.on_connect = {}

    def _connect(self) -> _Heard:
        silence = min(_SILENCE, max(_SHORTEST_SILENCE, self.address.patience))
        params = {
            "connect_timeout": f"{min(10.0, max(2.0, silence)):.0f}",  # 0 would be for ever
            **_KEEPALIVE,
            "application_name": "nirs_store",
            **self.address.libpq(),
        }
        try:
            con = _Heard.connect(autocommit=True, **params)  # type: ignore[arg-type]
        except psycopg.Error as error:
            # libpq's words may repeat the parameters, but never a password.
            raise psycopg.OperationalError(str(error)) from None
        con.silence = silence
        return con

    def _hands_on(self, pid: int) -> bool:
        """Tell whether a pooler gives another client the connection that it has just given this one."""
        with self._connect() as con:
            con.silence = _SHORTEST_SILENCE
            try:
                return con.execute("SELECT pg_backend_pid()").fetchone() == (pid,)
            except psycopg.OperationalError:
                return False  # it makes the second client wait, so it keeps the first one's connection

    def _connected(self) -> Connection:
        if self._con is None or self._con.closed:
            self._con = None
            con = self._connect()
            try:
                self._check(con)
                for begin in list(self.on_connect.values()):
                    begin(con)
            except BaseException:
                con.close()
                raise
            self._con = con
        return self._con

    def _check(self, con: _Heard) -> None:
        row = con.execute(
            "SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('synchronous_commit'), "
            "current_setting('server_version_num')::int, clock_timestamp(), pg_encoding_to_char(encoding), "
            "set_config('lock_timeout', %s, false), set_config('tcp_keepalives_idle', %s, false), "
            # What waits for a lock sees what was committed meanwhile, also where the server's default is another.
            "set_config('default_transaction_isolation', 'read committed', false) "
            "FROM pg_database WHERE datname = current_database()",
            # A computer that vanished without a word is dead to the others after minutes, not after hours.
            [f"{con.silence * _LOCK_SHARE * 1000:.0f}", str(_KEEPALIVE["keepalives_idle"])],
        ).fetchone()
        if row is None:
            raise psycopg.OperationalError("the server does not say what it is")
        pid, recovering, durable, version, clock, encoding, *_ = row
        if version < _OLDEST:
            raise InvalidInput(
                f"{self.address} is on PostgreSQL {version // 10_000}; 14 or newer is needed. Nothing was opened."
            )
        if encoding != "UTF8":
            raise InvalidInput(
                f"{self.address} is in a database with the encoding {encoding}; make one with UTF8. Nothing was opened."
            )
        pooled = pid != con.info.backend_pid
        if pooled and (not self.address.pooler or self._hands_on(pid)):
            raise InvalidInput(
                f"{self.address} is reached through a pooler of connections. One that hands them on after each "
                "transaction (PgBouncer's pool_mode = transaction) loses the locks that say which sessions are "
                "alive. Nothing was opened. Name the server itself, or add pooler=session if the pooler keeps a "
                "connection for each client."
            )
        if recovering:
            raise psycopg.OperationalError(
                "the server is a standby, which lags behind and takes no commits; name the primary one"
            )
        if durable in ("off", "local"):
            con.execute("SET synchronous_commit = on")
        self._compare_clocks(clock)
        self._look_at_encryption(con)

    def _look_at_encryption(self, con: Connection) -> None:
        host = con.info.hostaddr
        mode = next((each.val for each in con.pgconn.info if each.keyword == b"sslmode"), None)
        if not host or is_loopback(host) or (con.pgconn.ssl_in_use and mode == b"verify-full"):
            return
        key = f"{self.address} encryption"
        if key not in _told:
            _told.add(key)
            found = (
                "is encrypted, but nothing proves that it is the right server"
                if con.pgconn.ssl_in_use
                else "is not encrypted: others on the network can read all data"
            )
            warnings.warn(
                f"The connection to {self.address} {found}. Add sslmode=verify-full and sslrootcert=FILE (or =system) "
                "to the address, or set PGSSLMODE and PGSSLROOTCERT.",
                stacklevel=6,
            )

    def _compare_clocks(self, clock: datetime) -> None:
        off = (datetime.now(UTC) - clock).total_seconds()
        if abs(off) > _CLOCK and str(self.address) not in _told:
            _told.add(str(self.address))
            warnings.warn(
                f"The clock of this computer is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} that of "
                f"{self.address}. Commits keep their order; the dates in them are this computer's.",
                stacklevel=6,
            )


def removed(address: Address) -> NotAWorkspace:
    """Return the error for a workspace that was there a moment ago."""
    return NotAWorkspace(f"{address} is not there any more: the workspace was removed. Nothing was changed.")


def schema_differs(address: Address, found: object, known: int) -> SchemaTooNew:
    """Return the error for a workspace that was migrated while it was open here."""
    return SchemaTooNew(
        f"{address} has schema version {found}, and this nirs_store writes {known}. Nothing was changed, and rows that "
        "are not committed are in memory. Upgrade nirs_store here to the version that the workspace was migrated with."
    )


def one(con: Connection, sql: str, params: Any) -> Any:
    """Run a statement whose answer is one row."""
    row = con.execute(sql, params).fetchone()
    if row is None:
        raise psycopg.OperationalError("the server returned no row")
    return row


def _may_pass(error: psycopg.Error) -> bool:
    """Tell whether it may help to try again: a refused connection has no code, only words."""
    if error.sqlstate:
        return error.sqlstate.startswith(_PASSING)
    return not _HOPELESS.search(str(error))


# Addresses for which a warning was made: of their clock, or of a connection that is not safe.
_told: set[str] = set()
# Connections of a parent: psycopg does not end them here, and neither does this list.
_inherited: list[Connection] = []
