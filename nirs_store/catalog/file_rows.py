"""Rows of stored files: finding what a name means now, adding versions, aliases, types, processing runs.

All of it inside the caller's transaction, which holds the lease: what is looked up here still holds when the
rows that depend on it are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from nirs_store.catalog.access import Connection
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.schema import arrow_schema, column_names
from nirs_store.catalog.values import from_json, to_json
from nirs_store.ids import new_id

__all__ = [
    "SOURCE_KINDS",
    "add_links",
    "aliases_of",
    "blob_paths",
    "by_ids",
    "change_version",
    "declare_type",
    "declared_types",
    "descends_from",
    "drop_alias",
    "exists",
    "find_version",
    "hold",
    "insert_blobs",
    "insert_rows",
    "latest_versions",
    "nearest_names",
    "put_alias",
    "retire",
    "retired",
    "series_key",
    "supersede",
]

Row = dict[str, Any]
_JSON = ("members", "tags", "metadata", "parameters", "metadata_schema")
_FEW = 64
_ALL = ", ".join(column_names("file_versions"))
# kind of an object that a file can be made from: its table and key
_KINDS = {
    "file": ("file_versions", "version_id"),
    "chain": ("chains", "chain_id"),
    "artifact": ("blobs", "artifact_id"),
    "prediction": ("predictions", "prediction_id"),
    "run": ("runs", "run_id"),
    "pipeline": ("pipelines", "pipeline_id"),
    "evaluation": ("evaluations", "evaluation_id"),
    "processing": ("processing_runs", "processing_id"),
}
SOURCE_KINDS = (*_KINDS, "bundle")


def rows(con: Connection, sql: str, params: Any = None) -> list[Row]:
    """Fetch a query whole, as dicts with JSON columns decoded."""
    cursor = con.execute(sql, params if params is not None else [])
    names = [column[0] for column in cursor.description or ()]
    return [
        {name: from_json(value) if name in _JSON else value for name, value in zip(names, row, strict=True)}
        for row in cursor.fetchall()
    ]


def series_key(name: str, test_name: str | None) -> str:
    """Name a series of versions in one text; neither part can hold a line break."""
    return f"{test_name or ''}\n{name}"


# -- finding -------------------------------------------------------------------------------------


def latest_versions(con: Connection, names: Sequence[str]) -> dict[str, Row]:
    """Newest versions of all series of some names, by series key."""
    if len(names) == 1:
        found = rows(con, f"SELECT {_ALL} FROM file_versions WHERE is_latest AND name = ?", [names[0]])
    else:
        # Only the names are read of all rows; a join over all columns would read those too.
        con.register("sought", pa.table({"name": pa.array(names, pa.string())}))
        try:
            sql = "SELECT version_id FROM file_versions SEMI JOIN sought USING (name) WHERE is_latest"
            there = [str(row[0]) for row in con.execute(sql).fetchall()]
        finally:
            con.unregister("sought")
        found = list(by_ids(con, there).values()) if there else []
    return {series_key(row["name"], row["test_name"]): row for row in found}


def retired(con: Connection) -> dict[str, int]:
    """Highest number of a deleted version, by series key."""
    return {
        str(series): int(n)
        for series, n in con.execute("SELECT series, version FROM file_retired").fetchall()
    }


def find_version(con: Connection, name: str, test_name: str | None, version: int | str | None) -> Row | None:
    """The version of a series by its number, by an alias, or the newest."""
    where = "name = $name AND test_name IS NOT DISTINCT FROM $test"
    params: dict[str, Any] = {"name": name, "test": test_name}
    if version is None:
        where += " AND is_latest"
    else:
        params["version"] = version
        where += (
            " AND version = $version"
            if isinstance(version, int)
            else " AND version_id IN (SELECT version_id FROM file_aliases WHERE name = $name AND test_name IS NOT "
            "DISTINCT FROM $test AND alias = $version)"
        )
    found = rows(con, f"SELECT {_ALL} FROM file_versions WHERE {where}", params)
    return found[0] if found else None


def by_ids(con: Connection, version_ids: Iterable[str]) -> dict[str, Row]:
    """Versions by their ids."""
    wanted = list(version_ids)
    # A few are looked up in the index; many are joined.
    few = ", ".join("?" for _ in wanted) if len(wanted) <= _FEW else "SELECT unnest(?::VARCHAR[])"
    params: list[Any] = wanted if len(wanted) <= _FEW else [wanted]
    found = (
        rows(con, f"SELECT {_ALL} FROM file_versions WHERE version_id IN ({few})", params) if wanted else []
    )
    return {row["version_id"]: row for row in found}


def exists(con: Connection, kind: str, ids: Iterable[str]) -> set[str]:
    """Which of some ids are there; all, of a kind that has no table."""
    wanted = list(ids)
    if kind not in _KINDS:
        return set(wanted)
    table, key = _KINDS[kind]
    found = con.execute(f"SELECT {key} FROM {table} WHERE {key} IN (SELECT unnest(?::VARCHAR[]))", [wanted])
    return {str(row[0]) for row in found.fetchall()}


def blob_paths(con: Connection, artifact_ids: Iterable[str]) -> dict[str, str]:
    """Files of artifacts by their ids."""
    found = con.execute(
        "SELECT artifact_id, artifact_path FROM blobs WHERE artifact_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(artifact_ids)],
    ).fetchall()
    return {str(artifact_id): str(path) for artifact_id, path in found}


def nearest_names(con: Connection, name: str, test_name: str | None) -> list[str]:
    """Names that look like one that is not there."""
    found = con.execute(
        "SELECT name FROM file_versions WHERE is_latest AND test_name IS NOT DISTINCT FROM ? AND "
        "jaro_winkler_similarity(name, ?) > 0.8 ORDER BY jaro_winkler_similarity(name, ?) DESC, name LIMIT 3",
        [test_name, name, name],
    ).fetchall()
    return [str(row[0]) for row in found]


# -- changing ------------------------------------------------------------------------------------


def insert_rows(con: Connection, table: str, values: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows in one statement; JSON columns are given as text, missing columns are NULL."""
    if not values:
        return
    names = column_names(table)
    if len(values) == 1:
        places = ", ".join("?" for _ in names)
        con.execute(f"INSERT INTO {table} VALUES ({places})", [values[0].get(name) for name in names])
        return
    columns = {name: [row.get(name) for row in values] for name in names}
    con.register("incoming", pa.table(columns, schema=arrow_schema(table)))
    try:
        con.execute(f"INSERT INTO {table} SELECT * FROM incoming")
    finally:
        con.unregister("incoming")


def insert_blobs(con: Connection, values: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of blobs; one that is there already stays."""
    names = column_names("blobs")
    con.register(
        "incoming", pa.table({n: [v.get(n) for v in values] for n in names}, schema=arrow_schema("blobs"))
    )
    try:
        con.execute("INSERT INTO blobs SELECT * FROM incoming ON CONFLICT DO NOTHING")
    finally:
        con.unregister("incoming")


def hold(con: Connection, held: Sequence[tuple[str, str, str]]) -> None:
    """Let versions hold their blobs: version, artifact and type of each."""
    now = now_naive()
    insert_rows(
        con,
        "artifact_refs",
        [
            {
                "ref_id": new_id(),
                "artifact_id": artifact_id,
                "owner_kind": "file",
                "owner_id": version_id,
                "artifact_type": kind,
                "created_at": now,
            }
            for version_id, artifact_id, kind in held
        ],
    )


def supersede(con: Connection, version_ids: Sequence[str]) -> None:
    """Say of versions that they are not the newest any more."""
    if version_ids:
        con.execute(
            "UPDATE file_versions SET is_latest = FALSE WHERE version_id IN (SELECT unnest(?::VARCHAR[]))",
            [list(version_ids)],
        )


def change_version(con: Connection, version_id: str, values: Mapping[str, Any]) -> None:
    """Change columns of one version; JSON columns are given as text."""
    names = [name for name in column_names("file_versions") if name in values]
    assignments = ", ".join(f"{name} = ?" for name in (*names, "updated_at"))
    con.execute(
        f"UPDATE file_versions SET {assignments} WHERE version_id = ?",
        [*(values[name] for name in names), now_naive(), version_id],
    )


def retire(con: Connection, series: str, version: int) -> None:
    """Remember the number of a deleted version."""
    con.execute(
        "INSERT INTO file_retired VALUES (?, ?) ON CONFLICT DO UPDATE "
        "SET version = greatest(version, excluded.version)",
        [series, version],
    )


def add_links(con: Connection, links: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Make rows of lineage of those links (source kind, source id, version) that are not there yet."""
    targets = list({target for _, _, target in links})
    known = {
        (str(kind), str(source), str(target))
        for kind, source, target in con.execute(
            "SELECT source_kind, source_id, target_id FROM lineage_links WHERE target_kind = 'file' AND "
            "link_type = 'derived_from' AND target_id IN (SELECT unnest(?::VARCHAR[]))",
            [targets],
        ).fetchall()
    }
    now = now_naive()
    return [
        {
            "link_id": new_id(),
            "source_kind": kind,
            "source_id": source,
            "target_kind": "file",
            "target_id": target,
            "link_type": "derived_from",
            "created_at": now,
        }
        for kind, source, target in dict.fromkeys(links)
        if (kind, source, target) not in known
    ]


def descends_from(con: Connection, version_id: str, sources: Sequence[str]) -> list[str]:
    """Which of some versions are made, directly or not, from a version."""
    found = con.execute(
        """
        WITH RECURSIVE below(id) AS (
            SELECT $root UNION
            SELECT l.target_id FROM lineage_links l JOIN below b ON l.source_kind = 'file' AND l.source_id = b.id
            WHERE l.target_kind = 'file')
        SELECT id FROM below WHERE list_contains($sources, id)
        """,
        {"root": version_id, "sources": list(sources)},
    ).fetchall()
    return [str(row[0]) for row in found]


# -- aliases and types ---------------------------------------------------------------------------


def aliases_of(con: Connection, name: str, test_name: str | None) -> list[Row]:
    """Aliases of a series with the version each means."""
    return rows(
        con,
        "SELECT a.alias, v.version, a.version_id, a.made_at FROM file_aliases a JOIN file_versions v "
        "USING (version_id) WHERE a.name = ? AND a.test_name IS NOT DISTINCT FROM ? ORDER BY a.alias",
        [name, test_name],
    )


def put_alias(con: Connection, name: str, test_name: str | None, alias: str, version_id: str) -> None:
    """Let an alias mean a version, whatever it meant before."""
    drop_alias(con, name, test_name, alias)
    con.execute(
        "INSERT INTO file_aliases VALUES (?, ?, ?, ?, ?, ?)",
        [new_id(), name, test_name, alias, version_id, now_naive()],
    )


def drop_alias(con: Connection, name: str, test_name: str | None, alias: str) -> str | None:
    """Remove an alias; gives the version that it meant."""
    found = con.execute(
        "DELETE FROM file_aliases WHERE name = ? AND test_name IS NOT DISTINCT FROM ? AND alias = ? "
        "RETURNING version_id",
        [name, test_name, alias],
    ).fetchall()
    return str(found[0][0]) if found else None


def declared_types(con: Connection) -> list[Row]:
    """Types that were declared in this workspace."""
    return rows(con, "SELECT type, description, metadata_schema FROM file_types ORDER BY type")


def declare_type(con: Connection, name: str, description: str, schema: Mapping[str, Any] | None) -> None:
    """Add a type, or change what is said of it."""
    con.execute(
        "INSERT INTO file_types VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET description = excluded.description, "
        "metadata_schema = excluded.metadata_schema",
        [name, description, to_json(schema, "metadata_schema"), now_naive()],
    )
