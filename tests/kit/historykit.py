"""Rows of tables that other rooms write, with whatever those tables need beside what a test is about."""

from __future__ import annotations

from typing import Any

from nirs_store.db.schema import TABLES
from nirs_store.ids import now_naive

_DEFAULTS: dict[str, Any] = {"VARCHAR": "x", "INTEGER": 1, "BIGINT": 1, "BOOLEAN": True, "JSON": "{}"}


def put_row(con: Any, table: str, **values: Any) -> None:
    """Insert a row; columns that may not be NULL and are not given get something."""
    row = dict(values)
    for column in TABLES[table].columns:
        kind, *rest = column.sql.split()
        if rest and column.name not in row:
            row[column.name] = now_naive() if kind == "TIMESTAMP" else _DEFAULTS[kind]
    names = ", ".join(row)
    con.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' for _ in row)})", list(row.values()))
