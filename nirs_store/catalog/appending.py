"""Commits that only add rows and complete pipelines, applied with hardly a question or a plan made anew.

Recording comes to little else. Planning an INSERT takes DuckDB three times as long as carrying it out when the rows
are few, so its plan is kept. What the catalog would have to be asked is known from what was asked and written since
it was opened: nobody else can have changed it meanwhile. And what is applied for one question is not committed for
it: the next one sees it all the same, and until then the journal holds it. It is committed when the catalog is let
go of, when it is changed in another way, or after so many commits. Until then rows of tables that no question has
read stay with their writer, and go in together: a loop that asks for the best after every pipeline reads one table of
eight, and an INSERT takes as long for one row as for a hundred.

Rows that are not known to be there are taken to be new. Where they are not, their key refuses them, and everything that
was not committed is applied once more in the usual way. Should one of these commits be set aside then, a question that
did not read that table may have seen other rows of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from nirs_store.catalog.audit_rows import TRAIL_COLUMNS, Trail, entries_of, trail_from
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.incoming import Incoming
from nirs_store.catalog.journal import Entry, Journal
from nirs_store.catalog.schema import column_names
from nirs_store.catalog.statements import execute
from nirs_store.catalog.transitions import finish_pipelines

__all__ = ["Appending", "References", "RowRefused", "note_applied"]

# Commits that wait for the end of the transaction: their rows are in memory, their files in the journal.
_MOST_COMMITS = 64
_MOST_BYTES = 8 << 20
# More keys than that are forgotten: each takes about 150 bytes.
_MOST_KEYS = 100_000

# What is wrong with a row, not with the machine.
_REFUSED = (duckdb.IntegrityError, duckdb.DataError, duckdb.InvalidInputException)

References = dict[str, list[str]]
"""The ids of the references that a session holds, by artifact."""


class RowRefused(Exception):
    """A row would not go in, most likely because its key is there; nothing that waited was committed."""


class _Facts(msgspec.Struct):
    """What a catalog holds, as far as appending has to know."""

    # Ids of the commits that were applied and not forgotten since.
    applied: set[str]
    trail: Trail
    # Whether a row may have lost its owner, or a change waits for its row.
    unsettled: bool
    # The references of the sessions that were asked for.
    references: dict[str, References] = msgspec.field(default_factory=dict)


class Appending:
    """What one opening of the catalog knows of it, and what it has applied and not committed."""

    def __init__(self) -> None:
        self._rows: Incoming | None = None
        self._facts: _Facts | None = None
        # Keys of rows that are there, by table.
        self._keys: dict[str, set[str]] = {}
        self._waiting: dict[str, Entry] = {}
        self._waiting_bytes = 0
        # Rows of these that are not in the transaction yet, by table; what is known counts them in.
        self._held: dict[str, list[pa.Table]] = {}
        self._begun = False

    # -- the transaction ---------------------------------------------------------------------

    @property
    def waiting(self) -> Mapping[str, Entry]:
        """Commits that were applied, each whole, and wait for the end of the transaction, by their ids."""
        return self._waiting

    def write(self, con: duckdb.DuckDBPyConnection, tables: Collection[str] | None = None) -> None:
        """Write the rows that are held of some tables, or of all, so that what is asked next sees them.

        Raises
        ------
        RowRefused
        """
        names = [name for name in self._held if tables is None or name in tables]
        if not names:
            return
        with self._writing(con) as incoming:
            for name in names:
                incoming.rows = pa.concat_tables(self._held[name])
                incoming.run(con, _insert(name))
                del self._held[name]

    @contextlib.contextmanager
    def _writing(self, con: duckdb.DuckDBPyConnection) -> Iterator[Incoming]:
        if self._rows is None:
            self._rows = Incoming("appended")
        incoming = self._rows
        incoming.register(con)
        incoming.know_plans(con)
        try:
            self._begin(con)
            yield incoming
        except BaseException as error:
            self.rollback(con)
            if isinstance(error, _REFUSED):
                raise RowRefused(str(error)) from error
            raise
        incoming.clear()

    def commit(self, con: duckdb.DuckDBPyConnection, journal: Journal) -> None:
        """Commit what waits, and take it out of the journal.

        Raises
        ------
        RowRefused
        """
        if not self._waiting:
            return
        self.write(con)
        try:
            self._begin(con)
            note_applied(con, list(self._waiting.values()))
            con.execute("COMMIT")
        except BaseException:
            self.rollback(con)
            raise
        entries = list(self._waiting.values())
        self._waiting, self._waiting_bytes, self._begun = {}, 0, False
        journal.remove(entries)

    def rollback(self, con: duckdb.DuckDBPyConnection) -> None:
        """Give up what waits: it is in the journal, and is applied again."""
        self.forget()
        self._held = {}
        self._waiting, self._waiting_bytes = {}, 0
        if self._begun:
            with contextlib.suppress(duckdb.Error):  # a statement that failed may have ended it itself
                con.execute("ROLLBACK")
            self._begun = False

    def _begin(self, con: duckdb.DuckDBPyConnection) -> None:
        if not self._begun:
            self._begun = True
            con.execute("BEGIN")

    def look_after(self, con: duckdb.DuckDBPyConnection) -> None:
        """After a question that failed: what waits is given up if the transaction failed with it."""
        if self._waiting:
            try:
                con.execute("SELECT 1").fetchall()
            except duckdb.Error:
                self.rollback(con)

    # -- what is known -----------------------------------------------------------------------

    def forget(self) -> None:
        """The catalog was or will be changed in another way: nothing is known of it any more."""
        self._facts = None
        self._keys.clear()
        # Its name may be gone, and plans that were made with it are made anew each time.
        self._rows = None

    def unsettle(self) -> None:
        """A chunk is applied in the usual way: what that may change is asked for again."""
        self._facts = None

    def applied(self, con: duckdb.DuckDBPyConnection) -> set[str]:
        """Ids of the commits that were applied and not forgotten since; the set itself, to be kept up."""
        return self._ask(con).applied

    def ready(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Whether rows can be appended now: nothing waits in the catalog that new rows could set going."""
        return not self._ask(con).unsettled

    def _ask(self, con: duckdb.DuckDBPyConnection) -> _Facts:
        if self._facts is None:
            ((applied, dead, deferred, *trail),) = execute(
                con,
                "SELECT (SELECT list(txid) FROM applied), (SELECT count(*) FROM dead), "
                f"(SELECT count(*) FROM deferred), {TRAIL_COLUMNS}",
            ).fetchall()
            self._facts = _Facts(
                {*(applied or ()), *self._waiting}, trail_from(*trail), bool(dead or deferred)
            )
        return self._facts

    def references(self, con: duckdb.DuckDBPyConnection, session_id: str) -> References:
        """The references that a session holds."""
        facts = self._ask(con)
        found = facts.references.get(session_id)
        if found is None:
            found = {}
            rows = execute(
                con,
                "SELECT artifact_id, ref_id FROM artifact_refs WHERE owner_kind = 'session' AND owner_id = ?",
                [session_id],
            ).fetchall()
            for artifact_id, ref_id in rows:
                found.setdefault(str(artifact_id), []).append(str(ref_id))
            facts.references[session_id] = found
        return found

    def only_new(self, con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> pa.Table:
        """Leave out rows whose key, the first column, is there already or came before among them.

        The catalog is asked the first time; from then on, what this opening has not written is taken to be new.
        """
        keys = rows.column(0).to_pylist()
        known = self._keys.get(table)
        if known is None:
            key = column_names(table)[0]
            sql = f"SELECT {key} FROM {table} WHERE {key} IN (SELECT unnest(?))"
            known = self._keys[table] = {str(row[0]) for row in execute(con, sql, [keys]).fetchall()}
        keep, fresh = [], set[str]()
        for place, ident in enumerate(keys):
            if ident not in known and ident not in fresh:
                fresh.add(ident)
                keep.append(place)
        return rows if len(keep) == len(keys) else rows.take(pa.array(keep, pa.int64()))

    # -- appending ---------------------------------------------------------------------------

    def append(
        self,
        con: duckdb.DuckDBPyConnection,
        journal: Journal,
        tables: Mapping[str, pa.Table],
        entries: Sequence[Entry],
        notes: Sequence[tuple[Any, str | None, Mapping[str, Any]]],
        ends: pa.Table,
    ) -> None:
        """Take the rows of some commits, entries of the audit trail, and the ends of pipelines that were written.

        Raises
        ------
        RowRefused
        """
        facts = self._ask(con)
        said, trail = entries_of(notes, facts.trail)
        if ends.num_rows:
            with self._writing(con) as incoming:
                finish_pipelines(con, incoming, ends)
        try:
            for name, rows in (*tables.items(), ("audit_entries", said)):
                if rows.num_rows:
                    self._held.setdefault(name, []).append(rows)
            facts.trail = trail
            facts.applied.update(entry.txid for entry in entries)
            self._remember(tables, facts.references)
            self._waiting_bytes += sum(table.nbytes for table in tables.values())
            self._waiting |= {entry.txid: entry for entry in entries}
        except BaseException:
            # Interrupted: nobody can say which of them are held.
            self.rollback(con)
            raise
        if len(self._waiting) >= _MOST_COMMITS or self._waiting_bytes >= _MOST_BYTES:
            self.commit(con, journal)

    def _remember(self, tables: Mapping[str, pa.Table], references: Mapping[str, References]) -> None:
        for name, known in self._keys.items():
            if name in tables:
                if len(known) > _MOST_KEYS:
                    known.clear()
                known.update(tables[name].column(0).to_pylist())
        if "artifact_refs" in tables:
            rows = tables["artifact_refs"].select(["owner_kind", "owner_id", "artifact_id", "ref_id"])
            for kind, owner_id, artifact_id, ref_id in zip(*rows.to_pydict().values(), strict=True):
                held = references.get(owner_id)
                if kind == "session" and held is not None:
                    held.setdefault(artifact_id, []).append(ref_id)


def note_applied(con: duckdb.DuckDBPyConnection, entries: Sequence[Entry]) -> None:
    """Note, in the transaction that writes their rows, that some commits were applied."""
    ids, numbers = [entry.txid for entry in entries], [entry.number for entry in entries]
    execute(con, "INSERT INTO applied SELECT unnest(?), unnest(?), ?", [ids, numbers, now_naive()])


@cache
def _insert(table: str) -> str:
    columns = ", ".join(column_names(table))
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM appended"
