"""What the tables are described with: columns that DDL, Arrow batches and queries are all made from."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

__all__ = [
    "LONG",
    "Column",
    "Table",
    "create_statement",
    "document",
    "flag",
    "key",
    "moment",
    "number",
    "text",
    "whole",
    "whole64",
]


class Column(NamedTuple):
    """One column: its name, DuckDB type (with constraints) and Arrow type."""

    name: str
    sql: str
    arrow: pa.DataType


class Table(NamedTuple):
    """One table and the columns whose value names an owner (looked up among the tombstones)."""

    name: str
    columns: tuple[Column, ...]


TEXT = pa.string()
TIME = pa.timestamp("us")
INT = pa.int32()
LONG = pa.int64()
REAL = pa.float64()


def key(name: str) -> Column:
    """A text that identifies the row."""
    return Column(name, "VARCHAR PRIMARY KEY", TEXT)


def text(name: str, *, null: bool = False) -> Column:
    """A text."""
    return Column(name, "VARCHAR" if null else "VARCHAR NOT NULL", TEXT)


def document(name: str, *, null: bool = True) -> Column:
    """A JSON value."""
    return Column(name, "JSON" if null else "JSON NOT NULL", TEXT)


def moment(name: str, *, null: bool = True) -> Column:
    """A moment, in UTC."""
    return Column(name, "TIMESTAMP" if null else "TIMESTAMP NOT NULL", TIME)


def number(name: str) -> Column:
    """A number."""
    return Column(name, "DOUBLE", REAL)


def whole(name: str, *, null: bool = True) -> Column:
    """A whole number."""
    return Column(name, "INTEGER" if null else "INTEGER NOT NULL", INT)


def whole64(name: str) -> Column:
    """A whole number of 64 bits."""
    return Column(name, "BIGINT NOT NULL", LONG)


def flag(name: str) -> Column:
    """Yes or no."""
    return Column(name, "BOOLEAN NOT NULL", pa.bool_())


def create_statement(table: Table) -> str:
    """DDL of a table."""
    return f"CREATE TABLE {table.name} ({', '.join(f'{c.name} {c.sql}' for c in table.columns)})"
