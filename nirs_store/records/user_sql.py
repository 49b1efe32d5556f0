"""SQL from a person: exactly one SELECT, parsed before it runs, in a read-only transaction.

A prefix check would not do: `execute("SELECT 1; DROP TABLE runs")` runs both statements, and
`COMMIT; …` leaves a read-only transaction. The connection has external access switched off and
its configuration locked, so a SELECT cannot read or write files either, nor see Python variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import duckdb

from nirs_store.db.database import Connection
from nirs_store.db.interrupts import TimeOver, within
from nirs_store.db.sql import TooManyRows, to_frame
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.values import as_seconds, is_text

__all__ = ["NO_LIMITS", "Limits", "ask", "check_limits", "check_params", "check_text", "parse", "select"]

# Not the query's fault: whoever holds the connection must know.
_MACHINE = (duckdb.FatalException, duckdb.InternalException, duckdb.IOException)
_UNCHANGED = "Nothing was run. The store is changed only through its own methods."


class Limits(NamedTuple):
    """How long a query may take, and how many rows it may give; None for any."""

    seconds: float | None
    rows: int | None


NO_LIMITS = Limits(None, None)


def check_limits(timeout: Any, max_rows: Any) -> Limits:
    """Take the limits of a query as a caller gives them."""
    seconds = None if timeout is None else as_seconds(timeout, "timeout")
    if max_rows is not None and (isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1):
        raise InvalidInput(
            f"max_rows: expected a whole number from 1 on, or None for all, found {max_rows!r}."
        )
    return Limits(seconds, max_rows)


def check_text(query: Any) -> str:
    """Refuse what is no query at all, before the catalog is asked for."""
    if not is_text(query) or not query.strip():
        raise InvalidInput(f"query: expected the text of one SELECT statement, found {query!r}.")
    return str(query)


def parse(con: Connection, query: str) -> duckdb.Statement:
    """Parse a query without running it."""
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
    """Return the values of a query's parameters, in a form that DuckDB takes."""
    if params is None or isinstance(params, Mapping):
        return params
    if isinstance(params, Sequence) and not isinstance(params, (str, bytes)):
        return list(params)
    raise InvalidInput(
        f"params: expected a list of values for ?, or a mapping for $name, found {type(params).__name__} "
        f"{params!r}. Nothing was run."
    )


def ask(
    con: Connection,
    query: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    limits: Limits = NO_LIMITS,
) -> pl.DataFrame:
    """Parse and run one SELECT."""
    return select(con, parse(con, query), params, limits)


def select(
    con: Connection,
    statement: duckdb.Statement,
    params: Sequence[Any] | Mapping[str, Any] | None,
    limits: Limits = NO_LIMITS,
) -> pl.DataFrame:
    """Run a parsed SELECT in a read-only transaction; the result is whole when this returns."""
    con.execute("BEGIN TRANSACTION READ ONLY")
    try:
        # The statement as it was parsed, never its text a second time.
        return within(
            con, lambda: to_frame(con.sql(statement, params=params), most=limits.rows), limits.seconds
        )
    except TooManyRows as error:
        raise InvalidInput(
            f"query: it has more than {limits.rows:,} rows, and was stopped. Add conditions, a LIMIT or a GROUP BY, or "
            "allow more (max_rows; None for all)."
        ) from error
    except TimeOver as error:
        raise InvalidInput(
            f"query: it took longer than {limits.seconds:g} s, and was stopped. Ask for less, or allow more time "
            "(timeout; None for as long as it takes)."
        ) from error
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
