"""Rows of stored files: finding what a name means now, adding versions, aliases, types, processing runs.

All of it inside the caller's transaction, which holds the lease: what is looked up here still holds when the
rows that depend on it are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from nirs_store.db.database import Connection
from nirs_store.db.schema import arrow_schema, column_names
from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput, OverwriteRefused, UnknownFile, UnknownId
from nirs_store.files.content import Stored
from nirs_store.files.names import _KINDS, PRODUCTION, FileVersion, Request
from nirs_store.ids import is_id, new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records.artifacts import on_disk
from nirs_store.records.links import insert_links
from nirs_store.records.queries import frame
from nirs_store.values import from_json, to_json

__all__ = [
    "FILTERS",
    "Item",
    "add_links",
    "aliased",
    "aliases_of",
    "begin_processing",
    "blob_paths",
    "by_ids",
    "change_version",
    "condition",
    "counts",
    "declare_type",
    "declared_types",
    "dependents",
    "descends_from",
    "drop_alias",
    "end_processing",
    "evaluations_without_champion",
    "exists",
    "fail_versions",
    "find_version",
    "forget",
    "hold",
    "insert_blobs",
    "insert_rows",
    "latest_versions",
    "list_files",
    "list_processing",
    "list_sql",
    "named_hashes",
    "nearest_names",
    "pinned",
    "protected",
    "put_alias",
    "record",
    "record_group",
    "require_version",
    "retire",
    "retired_file_rows",
    "series_key",
    "series_of",
    "sources_of",
    "supersede",
    "versions",
    "versions_of",
]

Row = dict[str, Any]
_JSON = ("members", "tags", "metadata", "parameters", "metadata_schema")
_FEW = 64
_ALL = ", ".join(column_names("file_versions"))


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


def retired_file_rows(con: Connection) -> dict[str, int]:
    """Highest number of a deleted version, by series key."""
    return {
        str(series): int(n)
        for series, n in con.execute("SELECT series, version FROM file_retired").fetchall()
    }


def find_version(
    con: Connection,
    name: str,
    test_name: str | None,
    version: int | str | None,
    mode: str | None = None,
) -> Row | None:
    """Return the version of a series by its number, by an alias, or the newest; with a mode, only of that mode."""
    where = "name = $name AND test_name IS NOT DISTINCT FROM $test"
    params: dict[str, Any] = {"name": name, "test": test_name}
    if mode is not None:
        params["mode"] = mode
        where += " AND mode = $mode"
    if version is None:
        # Production and nameless test content share a series: the newest of a mode need not be its latest.
        where += " AND is_latest" if mode is None else " ORDER BY version DESC LIMIT 1"
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


# -- Questions about stored files: lists, words, counts.


#: Columns that a list can be limited by, as callers name them.
FILTERS = {
    name: name
    for name in (
        "type", "kind", "status", "mode", "coverage", "test_name", "model_id", "evaluation_id", "suite", "episode",
        "module", "module_version", "run_id", "processing_id", "compression", "version_id",
    )
} | {"group": "group_name", "map_name": "json_extract_string(metadata, '$.map_name')"}  # fmt: skip
_LISTED = (
    "version_id, name, version, type, kind, status, mode, coverage, test_name, model_id, evaluation_id, suite, "
    'group_name AS "group", episode, module, module_version, run_id, processing_id, size_bytes, stored_bytes, '
    "compression, tags, metadata, message, content_hash, artifact_id, created_at"
)
_GLOB_SIGNS = frozenset("*?[")


def condition(
    pattern: str | None,
    filters: Mapping[str, Any],
    *,
    tags: Sequence[str] = (),
    words: Sequence[str] = (),
    all_versions: bool = False,
    prefix: str = "",
    since: Any = None,
    before: Any = None,
    newest_of_mode: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Put together a WHERE clause, cheapest parts first, and its parameters.

    With `newest_of_mode` the newest version is that of the mode in `filters`, even if the other mode has a newer one.
    """
    parts: list[str] = [] if all_versions else ["is_latest"]
    if newest_of_mode and not all_versions:
        parts = [
            "version_id IN (SELECT arg_max(version_id, version) FROM file_versions WHERE mode = $mode "
            "GROUP BY name, test_name)"
        ]
    params: dict[str, Any] = {}
    for name, value in filters.items():
        if value is None:
            continue
        column = FILTERS[name]
        if isinstance(value, (list, tuple)):
            parts.append(f"{column} IN (SELECT unnest(${name}::VARCHAR[]))")
            params[name] = list(value)
        else:
            parts.append(f"{column} = ${name}")
            params[name] = value
    for name, sign, moment in (("since", ">=", since), ("before", "<", before)):
        if moment is not None:
            parts.append(f"created_at {sign} ${name}")
            params[name] = moment
    if pattern is not None and not _GLOB_SIGNS & set(pattern):
        parts.append("name = $pattern")
        params["pattern"] = prefix + pattern
    elif prefix or pattern is not None:
        if prefix:
            parts.append("starts_with(name, $prefix)")
            params["prefix"] = prefix
        if pattern is not None and pattern != "*":
            parts.append("name GLOB $pattern")
            params["pattern"] = (
                "".join(f"[{sign}]" if sign in _GLOB_SIGNS else sign for sign in prefix) + pattern
            )
    for position, tag in enumerate(tags):
        # A tag's JSON text is looked for first; that it is a whole tag is asked of what has it.
        params |= {f"text{position}": to_json(tag, "tags"), f"tag{position}": tag}
        parts.append(
            f"CASE WHEN contains(tags::VARCHAR, $text{position}) "
            f"THEN list_contains(tags::VARCHAR[], $tag{position}) ELSE FALSE END"
        )
    for position, word in enumerate(words):
        params[f"word{position}"] = word.lower()
        params[f"json{position}"] = (to_json(word.lower(), "words") or "")[1:-1]
        parts.append(
            f"(contains(lower(name), $word{position}) OR contains(lower(tags::VARCHAR), $json{position}) "
            f"OR contains(lower(metadata::VARCHAR), $json{position}))"
        )
    return " AND ".join(parts) or "TRUE", params


def list_files(
    con: Connection, where: tuple[str, dict[str, Any]], limit: int | None, offset: int
) -> pl.DataFrame:
    """Versions that fit, by name; `tags` and `metadata` are JSON texts."""
    text, params = where
    page = "" if limit is None and not offset else " LIMIT $limit OFFSET $offset"
    extra = {} if not page else {"limit": limit if limit is not None else 1 << 62, "offset": offset}
    return frame(con, list_sql(text) + page, {**params, **extra})


def list_sql(where: str) -> str:
    """Put together the query of a list."""
    return f"SELECT {_LISTED} FROM file_versions WHERE {where} ORDER BY name, test_name NULLS FIRST, version"


def versions_of(con: Connection, name: str, test_name: str | None) -> pl.DataFrame:
    """All versions of a series, newest first, with their aliases."""
    return frame(
        con,
        "SELECT v.version, v.version_id, v.is_latest, coalesce(a.aliases, []) AS aliases, v.type, v.kind, v.status, "
        "v.mode, v.coverage, v.size_bytes, v.stored_bytes, v.compression, v.content_hash, v.message, v.created_at "
        "FROM file_versions v LEFT JOIN (SELECT version_id, list(alias ORDER BY alias) AS aliases FROM file_aliases "
        "GROUP BY version_id) a USING (version_id) WHERE v.name = $name AND v.test_name IS NOT DISTINCT FROM $test "
        "ORDER BY v.version DESC",
        {"name": name, "test": test_name},
    )


def counts(con: Connection, where: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return counts and bytes of what fits, in all and by type, status, mode and compression."""
    text, params = where
    columns = ("type", "status", "mode", "compression", "test_name")
    grouped = rows(
        con,
        f"SELECT {', '.join(columns)}, count(*) AS files, sum(size_bytes)::BIGINT AS bytes, "
        f"sum(stored_bytes)::BIGINT AS stored FROM file_versions WHERE {text} GROUP BY ALL ORDER BY ALL",
        params,
    )
    distinct = rows(
        con,
        "SELECT count(*) AS blobs, coalesce(sum(b.size_bytes), 0)::BIGINT AS bytes FROM blobs b WHERE b.artifact_id IN "
        f"(SELECT artifact_id FROM file_versions WHERE {text})",
        params,
    )[0]
    span = rows(
        con,
        f"SELECT min(created_at) AS first, max(created_at) AS last FROM file_versions WHERE {text}",
        params,
    )[0]
    return {"grouped": grouped, **distinct, **span}


def sources_of(con: Connection, version_id: str) -> list[dict[str, Any]]:
    """Return what a version was made from."""
    return rows(
        con,
        "SELECT l.source_kind AS kind, l.source_id AS id, l.link_type, v.name, v.version FROM lineage_links l "
        "LEFT JOIN file_versions v ON l.source_kind = 'file' AND v.version_id = l.source_id "
        "WHERE l.target_kind = 'file' AND l.target_id = ? ORDER BY l.link_id",
        [version_id],
    )


def list_processing(con: Connection, name: str | None, alive: Sequence[str]) -> pl.DataFrame:
    """Return processing runs, newest first; one whose session died shows as interrupted."""
    return frame(
        con,
        "SELECT p.processing_id, p.name, CASE WHEN p.status = 'in_progress' AND "
        "NOT list_contains($alive, p.session_id) THEN 'interrupted' ELSE p.status END AS status, p.module, "
        "p.module_version, p.parameters, p.message, "
        "(SELECT count(*) FROM file_versions v WHERE v.processing_id = p.processing_id) AS files, p.started_at, "
        "p.ended_at FROM processing_runs p WHERE $name IS NULL OR p.name = $name "
        "ORDER BY p.started_at DESC, p.processing_id DESC",
        {"name": name, "alive": list(alive)},
    )


# -- What a deletion of stored files asks and changes.


_COLUMNS = (
    "version_id, name, test_name, version, is_latest, type, kind, status, mode, coverage, model_id, evaluation_id, "
    "suite, group_name, episode, artifact_id, content_hash, "
    "size_bytes, stored_bytes, session_id, created_at"
)


def versions(con: Connection, where: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Versions that fit, oldest first."""
    text, params = where
    return rows(
        con, f"SELECT {_COLUMNS} FROM file_versions WHERE {text} ORDER BY created_at, version_id", params
    )


def series_of(con: Connection, name: str, test_name: str | None) -> list[dict[str, Any]]:
    """All versions of one series, oldest first."""
    text = "name = $name AND test_name IS NOT DISTINCT FROM $test"
    return versions(con, (text, {"name": name, "test": test_name}))


def aliased(con: Connection) -> dict[str, str]:
    """Versions that an alias means, with one of their aliases."""
    found = con.execute("SELECT version_id, min(alias) FROM file_aliases GROUP BY version_id").fetchall()
    return {str(version_id): str(alias) for version_id, alias in found}


def pinned(con: Connection) -> set[str]:
    """Versions that somebody pinned."""
    return {
        str(r[0]) for r in con.execute("SELECT object_id FROM pins WHERE object_kind = 'file'").fetchall()
    }


def dependents(con: Connection) -> dict[str, list[tuple[str, str]]]:
    """Return what needs a version: groups that hold it, and whatever was made from it; kind and id, by version."""
    found: dict[str, list[tuple[str, str]]] = {}
    for version_id, kind, user in con.execute(
        "SELECT unnest(json_extract_string(members, '$.*')), 'group', version_id FROM file_versions "
        "WHERE members IS NOT NULL UNION ALL "
        "SELECT source_id, target_kind, target_id FROM lineage_links WHERE source_kind = 'file'"
    ).fetchall():
        found.setdefault(str(version_id), []).append((str(kind), str(user)))
    return found


def evaluations_without_champion(con: Connection) -> frozenset[str]:
    """Return evaluations that never made a champion, and whose model is none."""
    found = con.execute(
        "SELECT evaluation_id FROM evaluations WHERE model_id NOT IN (SELECT model_id FROM champions) AND "
        "evaluation_id NOT IN (SELECT evaluation_id FROM champions WHERE evaluation_id IS NOT NULL)"
    ).fetchall()
    return frozenset(str(row[0]) for row in found)


def forget(con: Connection, gone: Sequence[dict[str, Any]]) -> None:
    """Delete versions with their aliases and references; what is now the newest of a series is marked so."""
    ids = [row["version_id"] for row in gone]
    highest: dict[str, int] = {}
    for row in gone:
        key = series_key(row["name"], row["test_name"])
        highest[key] = max(highest.get(key, 0), int(row["version"]))
    con.execute("DELETE FROM file_aliases WHERE version_id IN (SELECT unnest(?::VARCHAR[]))", [ids])
    con.execute(
        "DELETE FROM artifact_refs WHERE owner_kind = 'file' AND owner_id IN (SELECT unnest(?::VARCHAR[]))",
        [ids],
    )
    con.execute("DELETE FROM file_versions WHERE version_id IN (SELECT unnest(?::VARCHAR[]))", [ids])
    for key, number in highest.items():
        retire(con, key, number)
    names = list({row["name"] for row in gone if row["is_latest"]})
    con.execute(
        """
        UPDATE file_versions SET is_latest = TRUE WHERE NOT is_latest AND version_id IN (
            SELECT arg_max(version_id, version) FROM file_versions WHERE name IN (SELECT unnest(?::VARCHAR[]))
            GROUP BY name, test_name HAVING NOT bool_or(is_latest))
        """,
        [names],
    )


def named_hashes(con: Connection, hashes: Iterable[str]) -> set[str]:
    """Which contents some version still has."""
    found = con.execute(
        "SELECT DISTINCT content_hash FROM file_versions WHERE content_hash IN (SELECT unnest(?::VARCHAR[]))",
        [list(hashes)],
    ).fetchall()
    return {str(row[0]) for row in found}


# -- Rows of processing runs.


def begin_processing(con: Connection, values: dict[str, Any]) -> None:
    """Record the beginning of a processing run."""
    row = {
        **values,
        "status": "in_progress",
        "parameters": to_json(values.get("parameters"), "parameters"),
        "started_at": now_naive(),
    }
    insert_rows(con, "processing_runs", [row])


def end_processing(con: Connection, processing_id: str, status: str, message: str | None) -> None:
    """Record its end."""
    con.execute(
        "UPDATE processing_runs SET status = ?, message = ?, ended_at = ? WHERE processing_id = ?",
        [status, message, now_naive(), processing_id],
    )


def fail_versions(con: Connection, processing_id: str, touched: Iterable[str], message: str) -> list[str]:
    """Mark as failed what a run made or touched and that is not finished; gives the versions."""
    found = con.execute(
        "UPDATE file_versions SET status = 'failed', message = $message, updated_at = $now "
        "WHERE status IN ('pending', 'in_progress') AND (processing_id = $id OR list_contains($touched, version_id)) "
        "RETURNING version_id",
        {"message": message, "now": now_naive(), "id": processing_id, "touched": list(touched)},
    ).fetchall()
    return [str(row[0]) for row in found]


# -- Finding the version that a name, a number, an alias or an id means.


def require_version(
    con: Connection,
    name: str,
    version: int | str | None,
    test_name: str | None,
    mode: str | None = None,
) -> dict[str, Any]:
    """Give the row of a version, by its name (of one mode, if one is given) or its id."""
    if is_id(name):
        found = by_ids(con, [name]).get(name)
        if found is None:
            raise UnknownFile(name, f"No version of a file has the id {name!r} in this workspace.")
        return found
    row = find_version(con, name, test_name, version, mode)
    if row is not None:
        return row
    of_test = f" of test {test_name!r}" if test_name else ""
    other = None if mode is None else find_version(con, name, test_name, version)
    if other is not None:
        raise UnknownFile(
            name,
            f"{name!r}{of_test} is {other['mode']} content, and this is a view of {mode} content. "
            "Ask store.files for it, or a view of that mode.",
        )
    if version is not None and find_version(con, name, test_name, None) is not None:
        aliases = ", ".join(each["alias"] for each in aliases_of(con, name, test_name))
        wanted = f"version {version}" if isinstance(version, int) else f"alias {version!r}"
        raise UnknownFile(
            name,
            f"{name!r}{of_test} has no {wanted}. It has the aliases {aliases}."
            if aliases
            else f"{name!r}{of_test} has no {wanted}, and no aliases. `nirs-store files versions` lists what it has.",
        )
    others = nearest_names(con, name, test_name)
    hint = f" Did you mean {others[0]!r}?" if others else ""
    raise UnknownFile(name, f"No file is stored as {name!r}{of_test} in this workspace.{hint}")


# -- Deciding what a put means now, and recording it: one lease, one transaction.


_DONE = "completed"
# Announced, and not there yet.
_COMING = ("pending", "in_progress")
# What an announced version keeps when its content comes.
_KEPT = frozenset({"version_id", "name", "test_name", "version", "is_latest", "created_at", "updated_at"})


@dataclass
class Item:
    """One file to be recorded: what was asked, and its content, if it has any."""

    request: Request
    kind: str
    stored: Stored | None = None
    #: Of a group: a version id a member, and what the group's content hash is made of.
    members: Mapping[str, str] | None = None
    content_hash: str | None = None
    outcome: FileVersion | None = None


@dataclass
class _Changes:
    """What a transaction will write."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    filled: list[dict[str, Any]] = field(default_factory=list)
    placed: list[tuple[dict[str, Any], Stored]] = field(default_factory=list)
    healed: list[tuple[Stored, str]] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    held: list[tuple[str, str, str]] = field(default_factory=list)
    links: list[tuple[str, str, str]] = field(default_factory=list)
    blobs: list[dict[str, Any]] = field(default_factory=list)


def protected(head: Mapping[str, Any] | None) -> bool:
    """Whether what is there now may only be replaced with force."""
    return head is not None and head["mode"] == PRODUCTION and head["status"] == _DONE


def record(engine: Engine, items: Sequence[Item]) -> list[FileVersion]:
    """Record files in one transaction, all or none."""
    return engine.exclusive(lambda access: access.transact(lambda con: record_in(con, engine, items)))


def record_in(con: Connection, engine: Engine, items: Sequence[Item]) -> list[FileVersion]:
    """Record inside a transaction of `engine.exclusive`."""
    return _Recording(con, engine).record(items)


def record_group(
    engine: Engine, group: Item, members: Mapping[str, Item]
) -> tuple[FileVersion, list[FileVersion]]:
    """Record a group and its members in one transaction; gives the group, and members that are new."""

    def work(con: Connection) -> tuple[FileVersion, list[FileVersion]]:
        request = group.request
        head = find_version(con, request.name, request.test_name, None)
        group.members = {}
        if protected(head) and not request.force and not _same_content(head or {}, group):
            _refuse(head, group)
        stored = record_in(con, engine, list(members.values()))
        group.members = {name: version.version_id for name, version in zip(members, stored, strict=True)}
        return record_in(con, engine, [group])[0], [version for version in stored if version.added]

    return engine.exclusive(lambda access: access.transact(work))


class _Recording:
    """One transaction."""

    def __init__(self, con: Connection, engine: Engine) -> None:
        self._con = con
        self._engine = engine
        self._now = now_naive()

    def record(self, items: Sequence[Item]) -> list[FileVersion]:
        con, changes = self._con, _Changes()
        heads = latest_versions(con, list(dict.fromkeys(item.request.name for item in items)))
        retired = retired_file_rows(con)
        sources = self._sources([item.request for item in items])
        self._known("run", "run_id", items)
        self._known("processing", "processing_id", items)
        new: dict[str, dict[str, Any]] = {}
        outcomes: list[tuple[Mapping[str, Any], bool]] = []
        for item in items:
            key = series_key(item.request.name, item.request.test_name)
            head = new.get(key) or heads.get(key)
            if head is not None and self._is_there(head, item, new.get(key) is head):
                links = [
                    (kind, sources[kind, source], head["version_id"]) for kind, source in item.request.sources
                ]
                self._refuse_cycles(head["version_id"], links)
                changes.links += links
                if item.stored is not None and item.stored.draft.digest == head["artifact_id"]:
                    # The same bytes: should those on the disk be damaged, this mends them.
                    changes.healed.append((item.stored, head["type"]))
                outcomes.append((head, False))
                continue
            if protected(head) and not item.request.force:
                _refuse(head, item)
            row = self._row(item, head, retired.get(key, 0))
            if head is not None and _is_announced(head) and key not in new:
                # What was announced has come: the version that stood for it gets its content.
                row |= {name: head[name] for name in ("version_id", "version", "created_at")}
                changes.filled.append(row)
            else:
                if head is not None and key in new:
                    head["is_latest"] = False
                elif head is not None:
                    changes.superseded.append(head["version_id"])
                changes.rows.append(row)
            new[key] = row
            if item.stored is not None:
                changes.placed.append((row, item.stored))
            links = [
                (kind, sources[kind, source], row["version_id"]) for kind, source in item.request.sources
            ]
            self._refuse_cycles(row["version_id"], links)
            changes.links += links
            outcomes.append((row, True))
        # Nothing is refused any more: only now do blobs get their names.
        self._place(changes)
        self._write(changes)
        return [FileVersion.of(row, added=added) for row, added in outcomes]

    # -- what is asked of the catalog --------------------------------------------------------------

    def _sources(self, requests: Sequence[Request]) -> dict[tuple[str, str], str]:
        """Ids of sources by what the caller wrote."""
        wanted = dict.fromkeys(pair for request in requests for pair in request.sources)
        found = {
            (kind, source): str(require_version(self._con, source, None, None)["version_id"])
            for kind, source in wanted
            if kind == "file" and not is_id(source)
        }
        by_kind: dict[str, list[str]] = {}
        for kind, source in wanted.keys() - found.keys():
            by_kind.setdefault(kind, []).append(source)
        for kind, ids in by_kind.items():
            there = exists(self._con, kind, ids)
            for each in ids:
                if each not in there:
                    raise UnknownId(kind, each, "It was named as a source. Nothing was stored.")
                found[kind, each] = each
        return found

    def _known(self, kind: str, column: str, items: Sequence[Item]) -> None:
        ids = {item.request.texts[column] for item in items} - {None}
        missing = sorted(str(each) for each in ids) if ids else []
        if missing:
            there = exists(self._con, kind, missing)
            for each in missing:
                if each not in there:
                    raise UnknownId(kind, each, "Nothing was stored.")

    def _refuse_cycles(self, version_id: str, links: Sequence[tuple[str, str, str]]) -> None:
        files = [source for kind, source, _ in links if kind == "file"]
        # A version that is new cannot be the source of anything yet.
        if files and (version_id in files or descends_from(self._con, version_id, files)):
            raise InvalidInput(
                f"sources: {', '.join(files)} would be made from itself in the end (a cycle). Nothing was stored."
            )

    # -- what is written ---------------------------------------------------------------------------

    def _is_there(self, head: dict[str, Any], item: Item, fresh: bool) -> bool:
        """Tell whether the content is there as it is described now; adds what is said of it for the first time."""
        if not _same_content(head, item):
            return False
        request = item.request
        known = head["metadata"] or {}
        if any(known.get(key, value) != value for key, value in request.metadata.items()):
            return False
        if request.type != head["type"] or (request.mode == PRODUCTION) > (head["mode"] == PRODUCTION):
            return False
        tags = list(dict.fromkeys([*(head["tags"] or ()), *request.tags]))
        metadata = {**known, **request.metadata}
        values: dict[str, Any] = {}
        if tags != (head["tags"] or []):
            values["tags"] = tags
        if metadata != known:
            values["metadata"] = metadata
        if request.status is not None and request.status != head["status"]:
            values |= {"status": request.status, "message": request.message}
        values |= {
            name: text for name, text in request.texts.items() if text is not None and head.get(name) is None
        }
        if values and not fresh:
            plain = {
                name: to_json(v, name) if name in ("tags", "metadata") else v for name, v in values.items()
            }
            change_version(self._con, head["version_id"], plain)
        elif values:
            return False
        head.update(values)
        return True

    def _row(self, item: Item, head: Mapping[str, Any] | None, retired: int) -> dict[str, Any]:
        request, stored = item.request, item.stored
        # Content that replaces production content is production content, unless its caller says otherwise.
        stays = protected(head) and not request.mode_said
        return {
            "version_id": new_id(),
            "name": request.name,
            "test_name": request.test_name,
            "version": max(retired, 0 if head is None else int(head["version"])) + 1,
            "is_latest": True,
            "type": request.type,
            "kind": item.kind,
            "status": request.status or _DONE,
            "mode": PRODUCTION if stays else request.mode,
            "coverage": request.coverage,
            "artifact_id": None,
            "content_hash": item.content_hash if stored is None else stored.content_hash,
            "size_bytes": 0 if stored is None else stored.size,
            "stored_bytes": 0 if stored is None else stored.draft.size,
            "compression": "none" if stored is None else stored.compression,
            "compression_note": None if stored is None else stored.note,
            "members": item.members,
            "tags": list(request.tags),
            "metadata": dict(request.metadata),
            "message": request.message,
            "session_id": self._engine.session_id,
            "created_at": self._now,
            "updated_at": self._now,
            **request.texts,
        }

    def _place(self, changes: _Changes) -> None:
        """Give the drafts their names among the blobs, and their rows."""
        kinds: dict[str, str] = {}
        unique: dict[str, Stored] = {}
        for row, stored in changes.placed:
            row["artifact_id"] = stored.draft.digest
            changes.held.append((row["version_id"], stored.draft.digest, row["type"]))
        for stored, kind in [*((stored, row["type"]) for row, stored in changes.placed), *changes.healed]:
            unique.setdefault(stored.draft.digest, stored)
            kinds.setdefault(stored.draft.digest, kind)
        if not unique:
            return
        # The same bytes may be there under another ending; there must be one file of them.
        paths = blob_paths(self._con, unique)
        drafts = []
        for artifact_id, stored in unique.items():
            known = on_disk(self._engine.layout, artifact_id)
            path = known["artifact_path"] if known else paths.get(artifact_id, "")
            drafts.append((stored.draft, PurePosixPath(path).suffix.lstrip(".") or stored.ending))
        for info in self._engine.blobs.adopt(drafts):
            changes.blobs.append(
                {
                    "artifact_id": info.artifact_id,
                    "artifact_path": info.path,
                    "content_hash": info.artifact_id,
                    "operator_class": "",
                    "artifact_type": kinds[info.artifact_id],
                    "format": "bytes",
                    "size_bytes": info.size,
                    "created_at": self._now,
                }
            )

    def _write(self, changes: _Changes) -> None:
        con = self._con
        if changes.blobs:
            insert_blobs(con, changes.blobs)
        supersede(con, changes.superseded)
        insert_rows(con, "file_versions", [_as_columns(row) for row in changes.rows])
        for row in changes.filled:
            values = _as_columns(row)
            change_version(con, row["version_id"], {k: v for k, v in values.items() if k not in _KEPT})
        hold(con, changes.held)
        if changes.links:
            insert_links(con, add_links(con, changes.links))


def _as_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(row)
    values["tags"] = to_json(row["tags"] or [], "tags")
    values["metadata"] = to_json(row["metadata"], "metadata") if row["metadata"] else None
    values["members"] = to_json(row["members"], "members")
    return values


def _is_announced(head: Mapping[str, Any]) -> bool:
    return head["status"] in _COMING and head["content_hash"] is None


def _same_content(head: Mapping[str, Any], item: Item) -> bool:
    if item.stored is None and item.members is None:
        described = (item.kind, dict(item.request.metadata), item.request.status or _DONE)
        return described == (head["kind"], head["metadata"] or {}, head["status"])
    digest = item.content_hash if item.stored is None else item.stored.content_hash
    # What failed is not there, whatever it holds.
    return bool(head["content_hash"] == digest and head["status"] != "failed")


def _refuse(head: Mapping[str, Any] | None, item: Item) -> None:
    assert head is not None
    what = "other content" if not _same_content(head, item) else "another description of it"
    raise OverwriteRefused(
        f"{item.request.name!r} is production content (version {head['version']} of {head['created_at']:%Y-%m-%d}), "
        f"and this is {what}. Nothing was changed. Give another name, or make a new version with force=True (on the "
        "command line: --force); the old one stays."
    )
