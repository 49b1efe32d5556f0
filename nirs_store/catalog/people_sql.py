"""SQL from a person: exactly one SELECT, parsed before it runs, in a read-only transaction.

A prefix check would not do: `execute("SELECT 1; DROP TABLE runs")` runs both statements, and
`COMMIT; …` leaves a read-only transaction. The connection has external access switched off and
its configuration locked, so a SELECT cannot read or write files either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import polars as pl

from nirs_store.catalog.access import Connection
from nirs_store.errors import InvalidInput

__all__ = ["check_select", "select"]


def check_select(query: str) -> duckdb.Statement:
    """Parse a query without running it.

    Raises
    ------
    InvalidInput
        It is not exactly one SELECT statement.
    """
    if not isinstance(query, str) or not query.strip():
        raise InvalidInput("query: expected one SELECT statement, found nothing.")
    con = duckdb.connect(":memory:")
    try:
        statements = con.extract_statements(query)
    except duckdb.Error as error:
        raise InvalidInput(f"query: cannot be parsed: {error}") from error
    finally:
        con.close()
    if len(statements) != 1:
        raise InvalidInput(
            f"query: expected exactly one SELECT statement, found {len(statements)} statements. "
            "Nothing was run."
        )
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise InvalidInput(
            f"query: expected a SELECT statement, found {str(kind).rsplit('.', 1)[-1]}. Nothing was run. "
            "The store is changed only through its own methods."
        )
    return statements[0]


def select(
    con: Connection, statement: duckdb.Statement, params: Sequence[Any] | Mapping[str, Any] | None
) -> pl.DataFrame:
    """Run a parsed SELECT in a read-only transaction; the result is whole when this returns."""
    con.execute("BEGIN TRANSACTION READ ONLY")
    try:
        # The statement as it was parsed, never its text a second time.
        relation = con.sql(statement, params=params)
        table: pl.DataFrame = relation.pl()
    except (duckdb.FatalException, duckdb.InternalException, duckdb.IOException):
        raise
    except duckdb.Error as error:
        raise InvalidInput(f"query: {error}") from error
    finally:
        con.execute("ROLLBACK")
    return table
