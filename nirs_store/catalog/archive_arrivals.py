"""Rows that come in with an archive: by their keys, so that bringing them in twice changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from nirs_store.catalog.access import Connection
from nirs_store.catalog.archive_rows import ARCHIVED, key_of
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import column_names

__all__ = ["insert_rows", "new_rows"]

# Tables whose ids a tombstone may name: what comes back is alive again.
_MORTAL = ("runs", "pipelines", "chains", "predictions")
# What tells one series of versions of files from another.
_SERIES = tuple(name for name in ("name", "test_name") if name in column_names("file_versions"))


def new_rows(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """How many of some rows are not there yet, by table."""
    found: dict[str, int] = {}
    for table, rows in tables.items():
        key = key_of(table)
        con.register("incoming", rows.select([key]))
        try:
            found[table] = number(
                con,
                f"SELECT count(*) FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.{key} = i.{key})",
            )
        finally:
            con.unregister("incoming")
    return {table: count for table, count in found.items() if count}


def insert_rows(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """Insert the rows that are not there yet, inside the caller's transaction; gives their number by table."""
    added: dict[str, int] = {}
    for table in ARCHIVED:
        if table not in tables:
            continue
        key = key_of(table)
        con.register("incoming", tables[table])
        try:
            if table in _MORTAL:
                con.execute(f"DELETE FROM dead WHERE id IN (SELECT {key} FROM incoming)")
            names = [name for name in column_names(table) if name in tables[table].column_names]
            columns = ", ".join(names)
            source = _sources(table, names)
            added[table] = number(
                con, f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {source} ON CONFLICT DO NOTHING"
            )
        finally:
            con.unregister("incoming")
    if added.get("file_versions") and "is_latest" in column_names("file_versions"):
        series = ", ".join(_SERIES)
        con.execute(
            "UPDATE file_versions SET is_latest = (version = n.newest) FROM "
            f"(SELECT {series}, max(version) AS newest FROM file_versions GROUP BY {series}) n WHERE "
            + " AND ".join(f"file_versions.{name} IS NOT DISTINCT FROM n.{name}" for name in _SERIES)
            + " AND is_latest <> (version = n.newest)"
        )
    return {table: count for table, count in added.items() if count}


def _sources(table: str, names: Sequence[str]) -> str:
    """Where the rows of a table come from; numbers and aliases that are taken here make way."""
    if table == "file_versions":
        # The same name may have versions of its own here: what comes in gets the next numbers.
        others = ", ".join(f"i.{name}" for name in names if name != "version")
        series = ", ".join(_SERIES)
        same = " AND ".join(f"m.{name} IS NOT DISTINCT FROM i.{name}" for name in _SERIES)
        ours = ", ".join(f"i.{name}" for name in _SERIES)
        return (
            f"(SELECT {others}, CASE WHEN m.newest IS NULL THEN i.version ELSE m.newest + "
            f"row_number() OVER (PARTITION BY {ours} ORDER BY i.version) END AS version FROM incoming i "
            f"LEFT JOIN (SELECT {series}, max(version) AS newest FROM file_versions GROUP BY {series}) m ON {same} "
            "WHERE NOT EXISTS (SELECT 1 FROM file_versions t WHERE t.version_id = i.version_id))"
        )
    if table == "file_aliases":
        return (
            "(SELECT * FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM file_aliases t WHERE t.name = i.name "
            "AND t.alias = i.alias))"
        )
    return "incoming"
