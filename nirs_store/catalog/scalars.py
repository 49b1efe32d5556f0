"""The single number of a query, fetched whole.

A result that is left unfinished, as after ``fetchone``, makes the connection's next statement fail.
"""

from __future__ import annotations

from typing import Any

import duckdb

from nirs_store.catalog.statements import execute

__all__ = ["number"]


def number(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> int:
    """First value of the first row as a whole number; also the count of rows that a DELETE reports."""
    rows = execute(con, sql, params if params is not None else []).fetchall()
    return int(rows[0][0]) if rows else 0
