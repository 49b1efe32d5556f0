"""SQL from a person: exactly one SELECT, parsed before it runs, in a read-only transaction.

A prefix check would not do: `execute("SELECT 1; DROP TABLE runs")` runs both statements, and
`COMMIT; …` leaves a read-only transaction. The connection has external access switched off and
its configuration locked, so a SELECT cannot read or write files either, nor see Python variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.sql import TimeOver, TooManyBytes, TooManyRows, to_frame, within
from nirs_store.errors import InvalidInput, quoted
from nirs_store.lazy import polars as pl
from nirs_store.values import as_seconds, is_text

# Not the query's fault: the holder of the connection must know.
_MACHINE = (duckdb.FatalException, duckdb.InternalException, duckdb.IOException)
# How DuckDB begins the same where a result is read batch by batch: Arrow makes an OSError of every error then.
_MACHINE_WORDS = ("FATAL Error", "INTERNAL Error", "IO Error")
# Days from 1970 of the first and the last day that Python knows.
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
_A_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
# What data frames lack, or would show as bytes of DuckDB's own or without a part of it.
_FOREIGN = {"bignum", "bit", "interval", "time with time zone", "uhugeint", "union", "varint", "variant"}
# Data frames hold so many digits.
_MOST_DIGITS = 38
_UNCHANGED = "Nothing was run. The store is changed only through its own methods."
_NO_MEMORY = "query: it needs more memory than there is, and was stopped. Ask for fewer or shorter values."


class Limits(NamedTuple):
    """How long a query may take, and how many rows and bytes it may return; None for any."""

    seconds: float | None
    rows: int | None
    bytes: int | None = None


def query(
    engine: Engine, text: Any, params: Any, timeout: Any = None, max_rows: Any = None, max_bytes: Any = None
) -> pl.DataFrame:
    """Query the catalog for a person; see `WorkspaceStore.sql`."""
    text, params = check_text(text), check_params(params)
    limits = check_limits(timeout, max_rows, max_bytes)
    return engine.query(lambda con: select(con, parse(con, text), params, limits))


def check_limits(timeout: Any, max_rows: Any, max_bytes: Any = None) -> Limits:
    """Take the limits of a query as a caller gives them."""
    seconds = None if timeout is None else as_seconds(timeout, "timeout")
    for name, most in (("max_rows", max_rows), ("max_bytes", max_bytes)):
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise InvalidInput(f"{name}: expected a whole number from 1 on, or None for all, found {most!r}.")
    return Limits(seconds, max_rows, max_bytes)


def check_text(query: Any) -> str:
    """Refuse what is not a query at all, before the catalog is asked for."""
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


def select(
    con: Connection,
    statement: duckdb.Statement,
    params: Sequence[Any] | Mapping[str, Any] | None,
    limits: Limits,
) -> pl.DataFrame:
    """Run a parsed SELECT in a read-only transaction; the result is whole when this returns."""
    con.execute("BEGIN TRANSACTION READ ONLY")
    try:
        # The statement as it was parsed, never its text a second time.
        return within(
            con,
            lambda: to_frame(
                _checked(con.sql(statement, params=params)),
                most=limits.rows,
                most_bytes=limits.bytes,
                check=_check_values,
            ),
            limits.seconds,
        )
    except TooManyRows as error:
        raise InvalidInput(
            f"query: it has more than {limits.rows:,} rows, and was stopped. Add conditions, a LIMIT or a GROUP BY, or "
            "allow more (max_rows; None for all)."
        ) from error
    except TooManyBytes as error:
        raise InvalidInput(
            f"query: its result takes more than {limits.bytes:,} bytes, and was stopped. Ask for fewer or shorter "
            "values, or allow more (max_bytes; None for all)."
        ) from error
    except TimeOver as error:
        raise InvalidInput(
            f"query: it took longer than {limits.seconds:g} s, and was stopped. Ask for less, or allow more time "
            "(timeout; None for as long as it takes)."
        ) from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise InvalidInput(_NO_MEMORY) from error
    except _MACHINE:
        raise
    except OSError as error:
        if str(error).startswith(_MACHINE_WORDS):
            raise
        raise InvalidInput(
            _NO_MEMORY if str(error).startswith("Out of Memory") else f"query: {error}"
        ) from error
    except duckdb.Error as error:
        if "read-only" in str(error):
            raise InvalidInput(f"query: a SELECT that changes the store is refused. {_UNCHANGED}") from error
        raise InvalidInput(f"query: {error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(
            f"query: a column has a type that data frames lack: {error} Cast it, e.g. column::VARCHAR."
        ) from error
    finally:
        con.execute("ROLLBACK")


def _checked(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Refuse columns that a data frame cannot hold, before the query runs."""
    names = relation.columns
    for place, (name, kind) in enumerate(zip(names, relation.types, strict=True)):
        if name in names[:place]:
            raise InvalidInput(
                f"query: two columns are named {quoted(name)}. Name one of them otherwise: ... AS other."
            )
        found = _foreign(kind)
        if found is not None:
            raise InvalidInput(
                f"query: the column {quoted(name)} holds {found}, a type that data frames lack. Cast it, e.g. to text: "
                "column::VARCHAR."
            )
    return relation


def _foreign(kind: Any) -> str | None:
    """Return the type within a type that no data frame has."""
    if kind.id in _FOREIGN:
        return str(kind.id).upper()
    try:
        inner = kind.children
    except duckdb.Error:  # how DuckDB says that a type has none
        return None
    # Of an array the length is among them, of an ENUM its words.
    return next(
        (found for _, each in inner if isinstance(each, type(kind)) and (found := _foreign(each))), None
    )


def _check_values(values: pa.Array) -> None:
    """Refuse values that a data frame would hold as others, or that end the program when they are shown."""
    kind = values.type
    if pa.types.is_struct(kind):
        inner = values.flatten()
    elif pa.types.is_map(kind):
        inner = [values.keys, values.items]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = [values.flatten()]
    else:
        inner = []
    for each in inner:
        _check_values(each)
    if pa.types.is_timestamp(kind):
        low, high = _FIRST_DAY * _A_DAY[kind.unit], (_LAST_DAY + 1) * _A_DAY[kind.unit] - 1
        numbers = values.view(pa.int64())
    elif pa.types.is_date32(kind):
        low, high, numbers = _FIRST_DAY, _LAST_DAY, values.view(pa.int32())
    elif pa.types.is_time64(kind):
        low, high, numbers = 0, _A_DAY[kind.unit] - 1, values.view(pa.int64())
    elif pa.types.is_decimal(kind) and kind.precision >= _MOST_DIGITS and not kind.scale:
        high, numbers = 10**_MOST_DIGITS - 1, values
        low = -high
    else:
        return
    import pyarrow.compute as pc  # only where a query has such values

    found = pc.min_max(numbers).as_py()
    if found["min"] is not None and not low <= found["min"] <= found["max"] <= high:
        what = (
            f"a number has more than {_MOST_DIGITS} digits"
            if pa.types.is_decimal(kind)
            else "a time of day is 24:00"
            if pa.types.is_time64(kind)
            else "a time lies outside of the years 1 to 9999, such as infinity"
        )
        raise InvalidInput(f"query: {what}. Leave it out, or cast it to text: column::VARCHAR.")
