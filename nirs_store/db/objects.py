"""What lies in a catalog file: this library's tables and views, and what others have put there.

A catalog from elsewhere can hold code: a trigger on a table, a default that is a call, a macro named as a function of
DuckDB. Opening looks for all of it before a statement runs that could set it going, and refuses. Tables and views of
others that only lie there are let be: `check` names them and `vacuum` keeps them.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import duckdb

from nirs_store.db.schema import CATALOG_ALIAS, TABLES, VIEWS, Column, create_statements
from nirs_store.errors import ForeignCatalog

OLD_ALIAS = "old"
"""What a catalog is called while it is copied into a new one."""

META = "nirs_store_meta"
_MAIN = "main"
# Names that would stand for two things wherever this library writes catalog.table.
_AMBIGUOUS = frozenset({CATALOG_ALIAS, OLD_ALIAS, "memory", "system", "temp"})
_SHOWN = 5
# How a column's bytes are packed says nothing about what it does.
_COMPRESSION = re.compile(r" USING COMPRESSION \w+")


class Object(NamedTuple):
    """One thing in a catalog."""

    kind: str
    schema: str
    name: str
    # The table that a trigger or an index belongs to.
    table: str | None
    sql: str | None

    def __str__(self) -> str:
        name = self.name if self.schema == _MAIN else f"{self.schema}.{self.name}"
        return f"{self.kind} {name}" + (f" on {self.table}" if self.table else "")


# Every name in full: a catalog may have macros that are called as these functions are.
_OBJECTS = """
    SELECT 'table', schema_name, table_name, NULL, sql FROM system.main.duckdb_tables()
        WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'view', schema_name, view_name, NULL, sql FROM system.main.duckdb_views()
        WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'index', schema_name, index_name, table_name, sql FROM system.main.duckdb_indexes()
        WHERE database_name = $name
    UNION ALL SELECT 'sequence', schema_name, sequence_name, NULL, sql FROM system.main.duckdb_sequences()
        WHERE database_name = $name
    UNION ALL SELECT 'trigger', schema_name, trigger_name, table_name, sql FROM system.main.duckdb_triggers()
        WHERE database_name = $name
    UNION ALL SELECT 'schema', schema_name, schema_name, NULL, NULL FROM system.main.duckdb_schemas()
        WHERE database_name = $name AND NOT internal AND schema_name <> 'main'
    UNION ALL SELECT 'type', schema_name, type_name, NULL, NULL FROM system.main.duckdb_types()
        WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'macro', schema_name, function_name, NULL, NULL FROM system.main.duckdb_functions()
        WHERE database_name = $name AND NOT internal
"""


def quoted(identifier: str) -> str:
    """Write a name as SQL takes it, whatever it holds."""
    return '"' + identifier.replace('"', '""') + '"'


def objects_of(con: duckdb.DuckDBPyConnection, alias: str = CATALOG_ALIAS) -> list[Object]:
    """All things in an attached catalog; nothing of it is run."""
    # DuckDB does not tell names by their case.
    rows = con.execute(_OBJECTS, {"name": alias}).fetchall()
    return sorted(
        {
            Object(kind, schema.lower(), name.lower(), table and table.lower(), sql)
            for kind, schema, name, table, sql in rows
        },
        key=lambda each: (each.kind, each.schema, each.name),
    )


def refuse_false_meta(objects: list[Object], path: Path) -> None:
    """Refuse a catalog that would say with code whose it is."""
    false = [each for each in objects if each.name == META and each.schema == _MAIN and each.kind != "table"]
    false += [
        each
        for each in objects
        if each.name == META and each.kind == "table" and _difference(each) is not None
    ]
    if false:
        _refuse(path, [f"{each}, not the table of that name" for each in false])


def refuse_altered(con: duckdb.DuckDBPyConnection, objects: list[Object], path: Path) -> None:
    """Refuse a catalog in which something of others would act when this library reads or writes."""
    found = [words for each in objects if (words := _objection(each)) is not None]
    names = {each.name for each in objects if each.kind in ("macro", "type")}
    if names:
        own = {
            str(row[0])
            for row in con.execute(
                "SELECT function_name FROM system.main.duckdb_functions() WHERE internal UNION "
                "SELECT type_name FROM system.main.duckdb_types() WHERE internal"
            ).fetchall()
        }
        lower = {name.lower() for name in own}
        found += [
            f"{each} takes the place of DuckDB's"
            for each in objects
            if each.kind in ("macro", "type") and each.name.lower() in lower
        ]
    if found:
        _refuse(path, found)


def _refuse(path: Path, found: list[str]) -> None:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ForeignCatalog(
        f"{path} holds what nirs_store has not put there, and what would act when it is used: "
        f"{'; '.join(found[:_SHOWN])}{more}. It was left as it is. If you know who made it, remove it with DuckDB "
        "(DROP ...); otherwise do not use this workspace."
    )


def _objection(each: Object) -> str | None:
    """Say what an object would do, if it would do something."""
    if each.kind == "trigger":
        return str(each)
    if each.kind == "schema":
        return (
            f"{each} has a name that DuckDB could take for the catalog's" if each.name in _AMBIGUOUS else None
        )
    if each.schema != _MAIN:
        return None
    if each.kind == "index":
        return str(each) if each.table in TABLES else None
    if each.name in TABLES and each.kind in ("table", "view"):
        if each.kind == "view":
            return f"{each} in the place of a table"
        reason = _difference(each)
        return None if reason is None else f"{each} {reason}"
    if each.name in VIEWS and each.kind == "table":
        return f"{each} in the place of a view"
    return None


def _difference(table: Object) -> str | None:
    """Say how a table differs from this library's: an older one may lack columns, others may have plain ones more."""
    expected, found = _columns_of(TABLES[table.name].columns), _split(table.sql or "")
    for text in sorted(found - expected):
        words = text.split(" ")
        if words[0].lower() in {column.name for column in TABLES[table.name].columns}:
            return f"has the column {text}"
        # Nothing but a type, whatever it is: no default, no rule, nothing that is worked out.
        if len(words) > 2 or "(" in text:
            return f"has {text}"
    return None


def _columns_of(columns: tuple[Column, ...]) -> set[str]:
    return {_COMPRESSION.sub("", f"{column.name} {column.sql}") for column in columns}


def _split(sql: str) -> set[str]:
    """Columns and rules of a CREATE TABLE as DuckDB writes it, without quotes.

    A name that holds a quote, a comma or a bracket is cut in another way than it was meant, and fits nothing then.
    """
    inner = sql[sql.find("(") + 1 : sql.rfind(")")].replace('"', "")
    parts, depth, start = [], 0, 0
    for place, character in enumerate(inner):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(inner[start:place])
            start = place + 1
    return {_COMPRESSION.sub("", part.strip()) for part in (*parts, inner[start:])}


def foreign_objects(objects: list[Object]) -> list[Object]:
    """Return what others have put into a catalog and nothing sets going."""
    own = {*TABLES, *VIEWS}
    return [
        each
        for each in objects
        if not (each.schema == _MAIN and each.kind in ("table", "view") and each.name in own)
        or (each.kind == "table" and _split(each.sql or "") - _columns_of(TABLES[each.name].columns))
    ]


def altered_views(objects: list[Object]) -> list[str]:
    """Names of this library's views that select something else than they should."""
    views = {each.name: each.sql for each in objects if each.kind == "view" and each.schema == _MAIN}
    return [name for name, sql in _views().items() if name in views and views[name] != sql]


@cache
def _views() -> dict[str, str]:
    """Return the views as this DuckDB writes them."""
    with duckdb.connect(":memory:", config={"threads": 1}) as con:
        con.execute("; ".join(create_statements()))
        rows = con.execute("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal").fetchall()
    return {str(name): str(sql) for name, sql in rows}


# Catalogs that were looked at in this process: path, file. Looking takes 20 ms, opening 1 ms.
_seen: dict[str, tuple[int, int]] = {}


def was_inspected(path: Path) -> bool:
    """Whether this very file was looked at, and found to hold nothing that acts."""
    found = os.stat(path)
    return _seen.get(str(path)) == (found.st_dev, found.st_ino)


def remember(path: Path) -> None:
    """Look at this file no more: who may write into it now could change its rows as well."""
    found = os.stat(path)
    _seen[str(path)] = (found.st_dev, found.st_ino)


def forget(path: Path) -> None:
    """Look again: another file comes into its place."""
    _seen.pop(str(path), None)
