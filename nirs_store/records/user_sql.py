"""SQL from a person: exactly one SELECT, parsed before it runs, in a read-only transaction.

A prefix check would not do: `execute("SELECT 1; DROP TABLE runs")` runs both statements, and
`COMMIT; …` leaves a read-only transaction. The connection has external access switched off and
its configuration locked, so a SELECT cannot read or write files either, nor see Python variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from nirs_store.db.database import Connection
from nirs_store.db.sql import to_frame
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.values import is_text

__all__ = ["ask", "check_params", "check_text", "parse", "select"]

# Not the query's fault: whoever holds the connection must know.
_MACHINE = (duckdb.FatalException, duckdb.InternalException, duckdb.IOException)
_UNCHANGED = "Nothing was run. The store is changed only through its own methods."


def check_text(query: Any) -> str:
    """Refuse what is no query at all, before the catalog is asked for.

    Raises
    ------
    InvalidInput
    """
    if not is_text(query) or not query.strip():
        raise InvalidInput(f"query: expected the text of one SELECT statement, found {query!r}.")
    return str(query)


def parse(con: Connection, query: str) -> duckdb.Statement:
    """Parse a query without running it.

    Raises
    ------
    InvalidInput
        It is not exactly one SELECT statement.
    """
    try:
        statements = con.extract_statements(query)
    except _MACHINE:
        raise
    except duckdb.Error as error:
        raise InvalidInput(f"query: cannot be parsed: {error}") from error
    if len(statements) != 1:
        raise InvalidInput(
            f"query: expected exactly one SELECT statement, found {len(statements)} statements. "
            "Nothing was run."
        )
    kind = _kind(statements[0])
    if kind != "SELECT":
        raise InvalidInput(f"query: expected a SELECT statement, found {kind}. {_UNCHANGED}")
    return statements[0]


def _kind(statement: duckdb.Statement) -> str:
    try:
        return str(statement.type).rsplit(".", 1)[-1]
    except ValueError:  # DuckDB's Python package has no name for some rare statements
        return "another statement"


def check_params(params: Any) -> Sequence[Any] | Mapping[str, Any] | None:
    """The values of a query's parameters, in a form that DuckDB takes.

    Raises
    ------
    InvalidInput
        A text or a single value, where a list or a mapping of values belongs.
    """
    if params is None or isinstance(params, Mapping):
        return params
    if isinstance(params, Sequence) and not isinstance(params, (str, bytes)):
        return list(params)
    raise InvalidInput(
        f"params: expected a list of values for ?, or a mapping for $name, found {type(params).__name__} "
        f"{params!r}. Nothing was run."
    )


def ask(con: Connection, query: str, params: Sequence[Any] | Mapping[str, Any] | None) -> pl.DataFrame:
    """Parse and run one SELECT.

    Raises
    ------
    InvalidInput
        It is something else, and was not run; or what DuckDB says is wrong with it.
    """
    return select(con, parse(con, query), params)


def select(
    con: Connection, statement: duckdb.Statement, params: Sequence[Any] | Mapping[str, Any] | None
) -> pl.DataFrame:
    """Run a parsed SELECT in a read-only transaction; the result is whole when this returns."""
    con.execute("BEGIN TRANSACTION READ ONLY")
    try:
        # The statement as it was parsed, never its text a second time.
        return to_frame(con.sql(statement, params=params))
    except _MACHINE:
        raise
    except duckdb.Error as error:
        if "read-only" in str(error):
            raise InvalidInput(f"query: a SELECT that changes the store is refused. {_UNCHANGED}") from error
        raise InvalidInput(f"query: {error}") from error
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(
            f"query: a column has a type that data frames lack: {error} Cast it, e.g. column::VARCHAR."
        ) from error
    finally:
        con.execute("ROLLBACK")
