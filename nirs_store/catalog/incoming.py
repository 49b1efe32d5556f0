"""Arrow rows that statements read as a table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb
import pyarrow as pa

from nirs_store.catalog.statements import execute

__all__ = ["Incoming", "incoming"]

_ARRIVING = "arriving"


class Incoming:
    """What one connection makes of rows: a name that is registered once, and statements that it knows.

    Registering and taking back a table costs as much as inserting a few rows, because DuckDB makes a view and drops
    it; so does planning a statement anew.

    Examples
    --------
    >>> con = duckdb.connect()
    >>> arriving = Incoming()
    >>> arriving.register(con)
    >>> for values in ([1, 2], [3]):
    ...     arriving.rows = pa.table({"a": values})
    ...     arriving.run(con, "SELECT sum(a) FROM arriving").fetchall()
    [(3,)]
    [(3,)]
    """

    def __init__(self, name: str = _ARRIVING) -> None:
        self.name = name
        self._registered = False
        # Statements that were run over rows of which columns, and what the prepared ones are called.
        self._known: dict[tuple[str, pa.Schema], str | None] = {}
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

    def run(self, con: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyConnection:
        """Execute a statement without parameters.

        The second time it is prepared, and from then on takes about half the time. What is run once on a connection
        would lose by it.
        """
        # DuckDB refuses rows of other columns than those that a statement was prepared for.
        key = (sql, self.rows.schema)
        if key not in self._known:
            self._known[key] = None
            return execute(con, sql)
        name = self._known[key] or self._prepare(con, sql)
        return execute(con, f"EXECUTE {name}")

    def know_plans(self, con: duckdb.DuckDBPyConnection) -> None:
        """Plan the statements that were run once and are not prepared: INSERTs of nothing but rows.

        Without the optimizer, which cannot make them better: with it, DuckDB plans anew each time whatever reads a
        view.
        """
        unknown = [key for key, name in self._known.items() if name is None]
        if not unknown:
            return
        execute(con, "SET SESSION enable_optimizer = false")
        try:
            for sql, schema in unknown:
                self.rows = schema.empty_table()
                self._prepare(con, sql)
        finally:
            execute(con, "SET SESSION enable_optimizer = true")
            self.clear()

    def _prepare(self, con: duckdb.DuckDBPyConnection, sql: str) -> str:
        name = f"{self.name}_{len([name for name in self._known.values() if name])}"
        con.execute(f"PREPARE {name} AS {sql}")
        self._known[sql, self.rows.schema] = name
        return name


# Made of nothing, because pyarrow imports pandas for a list of values.
_NOTHING = pa.Table.from_arrays([pa.Array.from_buffers(pa.int8(), 0, [None, None])], names=["nothing"])


@contextlib.contextmanager
def incoming(con: duckdb.DuckDBPyConnection) -> Iterator[Incoming]:
    """Rows under a name of their own for as long as the block runs, inside a transaction or not."""
    rows = Incoming("incoming")
    rows.register(con)
    try:
        yield rows
    finally:
        # In a transaction that has failed this raises too, and would hide what was wrong.
        with contextlib.suppress(duckdb.TransactionException):
            con.unregister(rows.name)
