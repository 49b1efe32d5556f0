"""Arrow rows that the statements of a transaction read as the table ``incoming``."""

from __future__ import annotations

import contextlib
from typing import Any

import duckdb
import pyarrow as pa

__all__ = ["Incoming"]


class Incoming:
    """A name that is registered once, and whose rows are changed from statement to statement.

    Registering and taking back a table costs as much as inserting a few rows: DuckDB makes a view and drops it.

    Examples
    --------
    >>> con = duckdb.connect()
    >>> with Incoming(con) as incoming:
    ...     incoming.rows = pa.table({"a": [1, 2]})
    ...     con.execute("SELECT sum(a) FROM incoming").fetchall()
    ...     incoming.rows = pa.table({"b": ["x"]})
    ...     con.execute("SELECT b FROM incoming").fetchall()
    [(3,)]
    [('x',)]
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con
        self.rows = pa.table({"nothing": pa.array([], pa.int8())})

    def __enter__(self) -> Incoming:
        self._con.register("incoming", self)
        return self

    def __exit__(self, *_: object) -> None:
        # In a transaction that has failed this raises too, and would hide what was wrong.
        with contextlib.suppress(duckdb.TransactionException):
            self._con.unregister("incoming")

    # What DuckDB asks anything for that gives Arrow rows; the schema anew with every statement.

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.rows.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        return self.rows.schema.__arrow_c_schema__()
