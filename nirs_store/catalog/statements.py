"""Statements that are parsed once.

Of a question to a few rows, DuckDB spends up to a third on the text. What is asked again and again is kept parsed;
it is bound and planned anew each time, so it says nothing about a catalog.
"""

from __future__ import annotations

from typing import Any

import duckdb

__all__ = ["execute", "parsed"]

# Texts are put together from fixed parts, so there are few; but nobody counts the combinations of filters.
_MOST = 512
_parsed: dict[str, duckdb.Statement] = {}


def parsed(con: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """One statement, parsed now or before; DuckDB copies it before it runs it.

    Raises
    ------
    duckdb.ParserException
    ValueError
        The text holds none, or several.
    """
    found = _parsed.get(sql)
    if found is None:
        (found,) = con.extract_statements(sql)
        if len(_parsed) >= _MOST:
            _parsed.clear()
        _parsed[sql] = found
    return found


def execute(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> duckdb.DuckDBPyConnection:
    """Run one statement, as the method of a connection does.

    Examples
    --------
    >>> con = duckdb.connect()
    >>> [execute(con, "SELECT ? + 1", [number]).fetchall()[0][0] for number in (1, 2)]
    [2, 3]
    """
    return con.execute(parsed(con, sql), params)
