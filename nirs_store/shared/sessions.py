"""Which store objects record into a shared workspace: one row for each, and a lock that ends with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import psycopg

from nirs_store.errors import NirsStoreError, SessionEnded, StoreClosed
from nirs_store.shared.log import SharedLog
from nirs_store.shared.pg import Connection, one
from nirs_store.values import storable

# A session takes its lock before its row can be seen, so a row without a lock is of a session that is dead.
_LOCKED = (
    "EXISTS (SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND (l.classid::bigint << 32 | l.objid::bigint) = h.lock_key)"
)
_ALIVE = f"SELECT h.holder FROM nirs_store.holders h WHERE h.ws = %s AND h.ended IS NULL AND {_LOCKED}"
# Objects that a gc deletes and notes at once.
_AT_ONCE = 100
_DEAD = f"SELECT h.holder FROM nirs_store.holders h WHERE h.ws = %s AND h.ended IS NULL AND NOT {_LOCKED}"


class SharedClaims:
    """The claims of a shared workspace; a `Claims`."""

    def __init__(self, log: SharedLog, backend: Removing) -> None:
        self.log = log
        self.server = log.server
        self.workspace_id = log.workspace_id
        self.generations: dict[str, int] = {}
        self.collector = SharedCollector(log, backend)

    def generation(self, digest: str, /) -> int:
        """Return what the newest claim of a blob said; in a direct change, which keeps keys as they are, ask again."""
        if self.log.is_changing():
            sql = "SELECT coalesce(max(generation) + 1, 0) FROM nirs_store.keys WHERE ws = %s AND token = %s"
            (self.generations[digest],) = self.log.ask(lambda con: one(con, sql, [self.workspace_id, digest]))
        return self.generations.get(digest, 0)

    def own(self, claim_id: str, /) -> SharedClaim:
        """Return the claims of one store object."""
        return SharedClaim(self, claim_id)

    def living(self) -> list[str]:
        """List the rows whose lock is held."""
        rows = self.log.ask(lambda con: con.execute(_ALIVE, [self.workspace_id]).fetchall())
        # One that ended and began again has a number behind its name.
        return sorted({str(row[0]).partition("+")[0] for row in rows})

    def read(self, *, remove_dead: bool) -> set[str]:
        """Read the claims of sessions that hold their lock; end the others, which then cannot commit any more."""
        ws = self.workspace_id

        def work(con: Connection) -> set[str]:
            if remove_dead:
                _end_dead(con, ws)
            sql = f"SELECT token FROM nirs_store.claims WHERE ws = %s AND holder IN ({_ALIVE})"
            return {str(row[0]) for row in con.execute(sql, [ws, ws]).fetchall()}

        return self.server.run(work)


def _end_dead(con: Connection, workspace_id: str) -> None:
    for (holder,) in con.execute(_DEAD, [workspace_id]).fetchall():
        con.execute("SELECT nirs_store.end_holder(%s, %s)", [workspace_id, holder])


class Removing(Protocol):
    """A place of blobs from which objects can be removed for good."""

    def remove(self, keys: Sequence[str], /) -> None:
        """Delete objects; one that is gone is passed over."""


class SharedCollector:
    """A gc of a shared workspace: one direct change condemns keys, and their objects are deleted after it."""

    def __init__(self, log: SharedLog, backend: Removing) -> None:
        self._log = log
        self._backend = backend

    def claimed(self) -> set[str]:
        """Lock the claims, end the dead, and list what is left; all in the transaction of the change."""
        ws = self._log.workspace_id

        def work(con: Connection) -> set[str]:
            con.execute("SELECT nirs_store.lock_claims()")
            _end_dead(con, ws)
            sql = "SELECT token FROM nirs_store.claims WHERE ws = %s"
            return {str(row[0]) for row in con.execute(sql, [ws]).fetchall()}

        return self._log.in_change(work)

    def condemn(self, tokens: Mapping[str, str], /) -> None:
        """Condemn keys with their tokens, in the transaction of the change."""
        rows = [(self._log.workspace_id, token, key) for key, token in sorted(tokens.items())]
        sql = "SELECT nirs_store.condemn(%s, %s, %s)"
        self._log.in_change(lambda con: [con.execute(sql, row) for row in rows])

    def remove(self) -> int:
        """Delete the objects of condemned keys, then note that they are gone; returns how many."""
        # Harmless to repeat: no key is used again.
        server, ws = self._log.server, self._log.workspace_id
        sql = "FROM nirs_store.keys WHERE ws = %s AND state = 'condemned'"
        rows = server.run(lambda con: con.execute(f"SELECT key {sql} ORDER BY key", [ws]).fetchall())
        keys = [str(key) for (key,) in rows]
        gone = f"SELECT nirs_store.key_gone(ws, token, generation) {sql} AND key = ANY(%s)"
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            self._backend.remove(some)
            params = [ws, some]
            server.run(lambda con, params=params: con.execute(gone, params))  # type: ignore[misc]
        return len(keys)


class SharedClaim:
    """The claims of one store object; a `Claim`.

    The lock belongs to the connection on which the store object commits: it is taken again with each new one.
    """

    def __init__(self, claims: SharedClaims, claim_id: str) -> None:
        self.claim_id = claim_id
        self._claims = claims
        self._holder, self._renewed = claim_id, 0
        # A number that fits the lock's two halves, chosen once.
        self._key = secrets.randbits(63)
        self._mutex = threading.Lock()
        self._begun = False
        self._ended = self._lost = False
        self._tokens: set[str] = set()

    @property
    def exists(self) -> bool:
        """Whether the row was made."""
        return self._begun

    def is_only_one(self) -> bool:
        """Never be sure: others may come at any moment."""
        return False

    def ensure(self) -> None:
        """Make the row, which is locked before others can see it."""
        with self._mutex:
            if self._begun:
                return
            if self._ended:
                raise StoreClosed
            server = self._claims.server
            # First: another thread may lose the connection and open a new one right after this one was locked.
            server.on_connect[self.claim_id] = self._begin
            try:
                server.run(self._begin, patience=server.address.patience)
            except BaseException:
                server.on_connect.pop(self.claim_id, None)
                raise
            self._begun = True
            self._claims.log.renewals[self.claim_id] = self._renew

    def _renew(self) -> bool:
        """Begin again under another name, and claim everything again; False where something was given up."""
        with self._mutex:
            if not self._begun or self._ended or self._lost:
                return False
            self._renewed += 1
            self._holder = f"{self.claim_id}+{self._renewed}"
            self._key = secrets.randbits(63)
            self._claims.server.run(self._begin, patience=self._claims.server.address.patience)
            before = {token: self._claims.generations.get(token, 0) for token in self._tokens}
            kept = [self._claim(token) == generation for token, generation in before.items()]
            # Rows that wait refer to what was given up: they stay refused, under the name that was ended.
            self._lost = not all(kept)
            if not self._lost:
                self._claims.log.holders[self.claim_id] = self._holder
            return not self._lost

    def _begin(self, con: Connection) -> None:
        # The lock comes before the row, also on a new connection: the old one may still hold it, and is ended.
        (locked,) = one(con, "SELECT pg_try_advisory_lock(%s)", [self._key])
        if not locked:
            con.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
                "AND (classid::bigint << 32 | objid::bigint) = %s AND pid <> pg_backend_pid()",
                [self._key],
            )
            con.execute("SELECT pg_advisory_lock(%s)", [self._key])
        here = storable(socket.gethostname())
        params = [self._claims.workspace_id, self._holder, self._key, here, os.getpid()]
        # One that was ended stays so: what it claims, commits or changes next is refused, and then it is renewed.
        con.execute("SELECT nirs_store.begin_holder(%s, %s, %s, %s, %s)", params)

    def add(self, token: str, /) -> None:
        """Claim a blob; on return every gc that decides later sees it."""
        self.ensure()
        with self._mutex:
            if self._ended:
                raise StoreClosed
            if token in self._tokens:
                return
            try:
                self._claim(token)
                return
            except SessionEnded as error:
                ended = error
        # Beginning again takes the mutex itself.
        if not self._renew():
            raise ended
        with self._mutex:
            self._claim(token)

    def _claim(self, token: str) -> int:
        params = [self._claims.workspace_id, self._holder, token]
        (generation,) = self._claims.server.run(
            lambda con: one(con, "SELECT nirs_store.claim(%s, %s, %s)", params),
            patience=self._claims.server.address.patience,
        )
        self._claims.generations[token] = generation
        self._tokens.add(token)
        return int(generation)

    def clear(self, keep: set[str], /) -> None:
        """Drop the claims that no row in the buffer needs."""
        with self._mutex:
            if not self._begun or not self._tokens - keep:
                return
            params = [self._claims.workspace_id, self._holder, sorted(keep)]
            try:
                self._claims.server.run(
                    lambda con: con.execute("SELECT nirs_store.unclaim(%s, %s, %s)", params)
                )
            except NirsStoreError:
                return  # the rows are committed; a claim that stays keeps a blob until the session's end, no more
            self._forget(self._tokens - keep)

    def _forget(self, tokens: set[str]) -> None:
        self._tokens = self._tokens - tokens
        for token in tokens:
            self._claims.generations.pop(token, None)

    def close(self) -> None:
        """End the session."""
        with self._mutex:
            self._ended = True
            if not self._begun:
                return
            self._begun = False
            self._forget(self._tokens)
            server = self._claims.server
            server.on_connect.pop(self.claim_id, None)
            self._claims.log.renewals.pop(self.claim_id, None)
            params = [self._claims.workspace_id, self._holder]
            # Without it, the lock ends with the connection, which is closed next, and the next gc finds it free.
            with contextlib.suppress(NirsStoreError, psycopg.Error):
                server.run(lambda con: con.execute("SELECT nirs_store.end_holder(%s, %s)", params))

    def abandon(self) -> None:
        """Forget everything in a forked child: the connection belongs to the parent."""
        self._mutex = threading.Lock()
        self._begun = False
        self._forget(self._tokens)
