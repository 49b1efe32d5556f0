"""Rows that arrive from elsewhere with ids and moments of their own: each once, however often it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from nirs_store.catalog.access import Connection
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import arrow_schema

__all__ = ["KEYS", "existing", "insert_missing", "known_ids", "stored_rows"]

KEYS = {
    "runs": "run_id",
    "pipelines": "pipeline_id",
    "chains": "chain_id",
    "predictions": "prediction_id",
    "arrays": "array_hash",
    "prediction_arrays": "prediction_id",
    "blobs": "artifact_id",
    "artifact_refs": "ref_id",
    "logs": "log_id",
}
# Rows that a person may have deleted since they arrived: those stay away.
_MAY_BE_DEAD = ("runs", "pipelines", "chains", "predictions", "prediction_arrays")


def insert_missing(con: Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert the rows whose key is neither there nor deleted, inside the caller's transaction.

    Returns
    -------
    int
        How many were inserted.
    """
    key = KEYS[table]
    unique = {row[key]: dict(row) for row in rows}
    if not unique:
        return 0
    schema = arrow_schema(table)
    columns = ", ".join(field.name for field in schema)
    alive = ""
    if table in _MAY_BE_DEAD:
        alive = f" AND NOT EXISTS (SELECT 1 FROM dead d WHERE d.id = i.{key} AND d.kind = 'deleted')"
    con.register("incoming", pa.Table.from_pylist(list(unique.values()), schema=schema))
    try:
        return number(
            con,
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM incoming i "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.{key} = i.{key}){alive}",
        )
    finally:
        # In a transaction that has failed this raises too, and would hide why it failed.
        with contextlib.suppress(duckdb.TransactionException):
            con.unregister("incoming")


def known_ids(con: Connection, table: str) -> set[str]:
    """Every key of a table."""
    return {str(row[0]) for row in con.execute(f"SELECT {KEYS[table]} FROM {table}").fetchall()}


def existing(con: Connection, table: str, ids: Sequence[str]) -> set[str]:
    """Those of some keys that a table has."""
    key = KEYS[table]
    sql = f"SELECT {key} FROM {table} WHERE {key} IN (SELECT unnest(?))"
    return {str(row[0]) for row in con.execute(sql, [list(ids)]).fetchall()}


def stored_rows(con: Connection, table: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows by key, as they are stored: JSON as text, moments without a zone."""
    key = KEYS[table]
    names = [field.name for field in arrow_schema(table)]
    sql = f"SELECT {', '.join(names)} FROM {table} WHERE {key} IN (SELECT unnest(?))"
    found = (dict(zip(names, row, strict=True)) for row in con.execute(sql, [list(ids)]).fetchall())
    return {str(row[key]): row for row in found}
