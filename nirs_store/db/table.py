"""Read and write the rows of one table as dicts; JSON columns are plain data on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import duckdb
import pyarrow as pa

from nirs_store.db.schema import TABLES, arrow_schema, column_names
from nirs_store.db.sql import execute, incoming
from nirs_store.errors import InvalidInput
from nirs_store.values import as_float, as_int, as_long, as_text, from_json, to_json

Row = dict[str, Any]

# So many values are looked up in the index of a key; more are joined.
_FEW = 64


class Table:
    """The rows of a table, inside the caller's query or transaction.

    Conditions are given as ``column=value``: a list means any of its values, None means NULL.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, name: str) -> None:
        self._con, self._name, self._columns = con, name, column_names(name)

    def insert(
        self, rows: Sequence[Mapping[str, Any]], conflict: Literal["", "OR IGNORE", "OR REPLACE"] = ""
    ) -> None:
        """Insert rows in one statement; a missing column is NULL."""
        if not rows:
            return
        names, documents = self._columns, _documents(self._name)
        if unknown := {name for row in rows for name in row}.difference(names):
            raise KeyError(f"{self._name} has no columns {sorted(unknown)}")
        values = [[to_json(row.get(n), n) if n in documents else row.get(n) for n in names] for row in rows]
        into = f"INSERT {conflict} INTO {self._name}"
        if len(rows) == 1:
            execute(self._con, f"{into} VALUES ({', '.join('?' * len(names))})", values[0])
            return
        with incoming(self._con) as arriving:
            columns = dict(zip(names, zip(*values, strict=True), strict=True))
            arriving.rows = pa.table(columns, schema=arrow_schema(self._name))
            execute(self._con, f"{into} SELECT * FROM {arriving.name}")

    def where(self, order: str = "", limit: int | None = None, /, **equal: Any) -> list[Row]:
        """Return the rows that fit, in an order."""
        text, params = _condition(equal)
        text += f" ORDER BY {order}" if order else ""
        text += f" LIMIT {int(limit)}" if limit is not None else ""
        return fetch(self._con, f"SELECT {', '.join(self._columns)} FROM {self._name} WHERE {text}", params)

    def keys(self, **equal: Any) -> list[str]:
        """Return the keys of the rows that fit."""
        text, params = _condition(equal)
        return column(self._con, f"SELECT {self._columns[0]} FROM {self._name} WHERE {text}", params)

    def update(self, values: Mapping[str, Any], **equal: Any) -> list[str]:
        """Change columns of the rows that fit; returns their keys."""
        documents = _documents(self._name)
        text, params = _condition(equal)
        return column(
            self._con,
            f"UPDATE {self._name} SET {', '.join(f'{name} = ?' for name in values)} WHERE {text} "
            f"RETURNING {self._columns[0]}",
            [*(to_json(v, name) if name in documents else v for name, v in values.items()), *params],
        )

    def raise_number(self, name: str, number: int) -> None:
        """Note the highest number that was given for a name, in a table of these two."""
        value = self._columns[1]
        highest = f"SET {value} = greatest({value}, excluded.{value})"
        sql = f"INSERT INTO {self._name} VALUES (?, ?) ON CONFLICT DO UPDATE {highest}"
        execute(self._con, sql, [name, number])

    def delete(self, **equal: Any) -> list[Row]:
        """Delete the rows that fit, and return them."""
        text, params = _condition(equal)
        return fetch(self._con, f"DELETE FROM {self._name} WHERE {text} RETURNING *", params)


def fetch(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> list[Row]:
    """Run a query whole and return its rows; columns that come as JSON are decoded."""
    cursor = execute(con, sql, params if params is not None else [])
    columns = [(each[0], str(each[1]) == "JSON") for each in cursor.description or ()]
    return [
        {name: from_json(v) if is_json else v for (name, is_json), v in zip(columns, row, strict=True)}
        for row in cursor.fetchall()
    ]


def column(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> list[Any]:
    """Run a query whole and return its first column."""
    return [row[0] for row in execute(con, sql, params if params is not None else []).fetchall()]


def checked(table: str, values: Mapping[str, Any]) -> Row:
    """Return values as their columns take them, JSON as text; an error names the argument that does not fit."""
    checks = _checks(table)
    return {name: checks[name](value, name) for name, value in values.items()}


@cache
def _checks(table: str) -> dict[str, Callable[[Any, str], Any]]:
    return {each.name: _check_of(each.sql) for each in TABLES[table].columns}


def _check_of(sql: str) -> Callable[[Any, str], Any]:
    kind, required = sql.split()[0], "NOT NULL" in sql or "PRIMARY KEY" in sql
    checks: dict[str, Callable[[Any, str], Any]] = {
        "VARCHAR": as_text if required else _as_optional_text,
        "INTEGER": as_int,
        "BIGINT": as_long,
        "DOUBLE": as_float,
        "JSON": to_json,
    }
    check = checks.get(kind, lambda value, _: value)
    return _required(check) if required and kind in ("INTEGER", "BIGINT") else check


def _as_optional_text(value: Any, name: str) -> str | None:
    return None if value is None else as_text(value, name)


def _required(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def call(value: Any, name: str) -> Any:
        if value is None:
            raise InvalidInput(f"{name}: expected a whole number, found None. Nothing was recorded.")
        return check(value, name)

    return call


@cache
def _documents(table: str) -> frozenset[str]:
    return frozenset(each.name for each in TABLES[table].columns if each.sql.startswith("JSON"))


def _condition(equal: Mapping[str, Any]) -> tuple[str, list[Any]]:
    parts: list[str] = []
    params: list[Any] = []
    for name, value in equal.items():
        if value is None:
            parts.append(f"{name} IS NULL")
        elif not isinstance(value, (list, tuple, set, frozenset)):
            parts.append(f"{name} = ?")
            params.append(value)
        elif len(value) <= _FEW:
            parts.append(f"{name} IN ({', '.join('?' * len(value))})" if value else "FALSE")
            params += value
        else:
            parts.append(f"{name} IN (SELECT unnest(?::VARCHAR[]))")
            params.append(list(value))
    return " AND ".join(parts) or "TRUE", params
