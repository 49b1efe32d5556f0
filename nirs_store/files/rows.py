"""Rows of stored files: what a name means now, what a list asks for, what a deletion takes away.

Everything runs inside the caller's transaction, which holds the lock: what is looked up here still holds when the
rows that depend on it are written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.table import Row, Table, column, fetch
from nirs_store.errors import UnknownFile
from nirs_store.files.names import BUILT_IN, FileType
from nirs_store.ids import is_id, new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records.queries import frame
from nirs_store.values import to_json

Where = tuple[str, dict[str, Any]]


# -- finding -------------------------------------------------------------------------------------


def series_key(name: str, test_name: str | None) -> str:
    """Name a series of versions in one text; neither part can hold a line break."""
    return f"{test_name or ''}\n{name}"


def latest_versions(con: Connection, names: Collection[str]) -> dict[str, Row]:
    """Return the newest versions of all series of some names, by series key."""
    wanted: dict[str, Any] = {"name": names}
    if len(names) > 1:
        # Only the names of all rows are read; a condition on all columns would read those too.
        sql = "SELECT version_id FROM file_versions WHERE is_latest AND name IN (SELECT unnest(?::VARCHAR[]))"
        wanted = {"version_id": column(con, sql, [list(names)])}
    found = Table(con, "file_versions").where(is_latest=True, **wanted)
    return {series_key(row["name"], row["test_name"]): row for row in found}


def find_version(
    con: Connection, name: str, version: int | str | None, test_name: str | None, mode: str | None = None
) -> Row | None:
    """Return the version of a series by its number, by an alias, or the newest; with a mode, only of that mode."""
    series = {"name": name, "test_name": test_name}
    wanted: dict[str, Any] = dict(series) if mode is None else {**series, "mode": mode}
    if isinstance(version, int):
        wanted["version"] = version
    elif version is not None:
        aliases = Table(con, "file_aliases").where(**series, alias=version)
        wanted["version_id"] = [each["version_id"] for each in aliases]
    elif mode is None:
        # Production and nameless test content share a series: the newest of a mode need not be its latest.
        wanted["is_latest"] = True
    return next(iter(Table(con, "file_versions").where("version DESC", 1, **wanted)), None)


def require_version(
    con: Connection, name: str, version: int | str | None, test_name: str | None, mode: str | None = None
) -> Row:
    """Return a version by its name (of one mode, if one is given) or its id."""
    if is_id(name):
        by_id = Table(con, "file_versions").where(version_id=name)
        if not by_id:
            raise UnknownFile(name, f"No version of a file has the id {name!r} in this workspace.")
        return by_id[0]
    found = find_version(con, name, version, test_name, mode)
    if found is not None:
        return found
    what = f"{name!r} of test {test_name!r}" if test_name else repr(name)
    other = None if mode is None else find_version(con, name, version, test_name)
    if other is not None:
        raise UnknownFile(
            name,
            f"{what} is {other['mode']} content, and this is a view of {mode} content. "
            "Ask store.files for it, or a view of that mode.",
        )
    if version is not None and find_version(con, name, None, test_name) is not None:
        aliases = ", ".join(each["alias"] for each in aliases_of(con, name, test_name))
        wanted = f"version {version}" if isinstance(version, int) else f"alias {version!r}"
        raise UnknownFile(
            name,
            f"{what} has no {wanted}. It has the aliases {aliases}."
            if aliases
            else f"{what} has no {wanted}, and no aliases. `nirs-store files versions` lists what it has.",
        )
    near = column(
        con,
        "SELECT name FROM file_versions WHERE is_latest AND test_name IS NOT DISTINCT FROM ? AND "
        "jaro_winkler_similarity(name, ?) > 0.8 ORDER BY jaro_winkler_similarity(name, ?) DESC, name LIMIT 1",
        [test_name, name, name],
    )
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownFile(name, f"No file is stored as {what} in this workspace.{hint}")


def aliases_of(con: Connection, name: str, test_name: str | None) -> list[Row]:
    """Return the aliases of a series with the version that each means."""
    return fetch(
        con,
        "SELECT a.alias, v.version, a.version_id FROM file_aliases a JOIN file_versions v "
        "USING (version_id) WHERE a.name = ? AND a.test_name IS NOT DISTINCT FROM ? ORDER BY a.alias",
        [name, test_name],
    )


def all_types(con: Connection) -> dict[str, FileType]:
    """Return the types that come with the library and those declared in this workspace."""
    declared = {
        row["type"]: FileType(row["type"], row["description"], row["metadata_schema"], built_in=False)
        for row in Table(con, "file_types").where("type")
    }
    return {**BUILT_IN, **declared}


# -- lists and counts ----------------------------------------------------------------------------

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
_GLOB = frozenset("*?[")


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
) -> Where:
    """Put together a WHERE clause, cheapest parts first, and its parameters."""
    # With `newest_of_mode` the newest version is that of the mode in `filters`, even if the other mode has a newer one.
    parts: list[str] = []
    params: dict[str, Any] = {}

    def add(text: str, **values: Any) -> None:
        parts.append(text)
        params.update(values)

    if newest_of_mode and not all_versions:
        add(
            "version_id IN (SELECT arg_max(version_id, version) FROM file_versions WHERE mode = $mode "
            "GROUP BY name, test_name)"
        )
    elif not all_versions:
        add("is_latest")
    for name, value in filters.items():
        if isinstance(value, (list, tuple)):
            add(f"{FILTERS[name]} IN (SELECT unnest(${name}::VARCHAR[]))", **{name: list(value)})
        elif value is not None:
            add(f"{FILTERS[name]} = ${name}", **{name: value})
    for name, comparison, time in (("since", ">=", since), ("before", "<", before)):
        if time is not None:
            add(f"created_at {comparison} ${name}", **{name: time})
    if pattern is not None and not _GLOB & set(pattern):
        add("name = $pattern", pattern=prefix + pattern)
    else:
        if prefix:
            add("starts_with(name, $prefix)", prefix=prefix)
        if pattern not in (None, "*"):
            literal = "".join(f"[{each}]" if each in _GLOB else each for each in prefix)
            add("name GLOB $pattern", pattern=literal + str(pattern))
    for i, tag in enumerate(tags):
        # A tag's JSON text is looked for first; only rows that have it are asked whether it is a whole tag.
        add(
            f"CASE WHEN contains(tags::VARCHAR, $text{i}) THEN list_contains(tags::VARCHAR[], $tag{i}) ELSE FALSE END",
            **{f"text{i}": to_json(tag, "tags"), f"tag{i}": tag},
        )
    for i, word in enumerate(words):
        add(
            f"(contains(lower(name), $word{i}) OR contains(lower(tags::VARCHAR), $json{i}) "
            f"OR contains(lower(metadata::VARCHAR), $json{i}))",
            **{f"word{i}": word.lower(), f"json{i}": (to_json(word.lower(), "words") or "")[1:-1]},
        )
    return " AND ".join(parts) or "TRUE", params


def list_sql(where: str) -> str:
    """Return the query of a list."""
    return f"SELECT {_LISTED} FROM file_versions WHERE {where} ORDER BY name, test_name NULLS FIRST, version"


def list_files(con: Connection, where: Where, limit: int | None, offset: int) -> pl.DataFrame:
    """Return the versions that fit, by name; `tags` and `metadata` are JSON texts."""
    text, params = where
    page: dict[str, Any] = {}
    if limit is not None or offset:
        page = {"limit": limit if limit is not None else 1 << 62, "offset": offset}
    return frame(con, list_sql(text) + (" LIMIT $limit OFFSET $offset" if page else ""), params | page)


def versions(con: Connection, where: Where) -> list[Row]:
    """Return the versions that fit as rows without tags and metadata, oldest first."""
    columns = "* EXCLUDE (tags, metadata)"
    sql = f"SELECT {columns} FROM file_versions WHERE {where[0]} ORDER BY created_at, version_id"
    return fetch(con, sql, where[1])


def versions_of(con: Connection, name: str, test_name: str | None) -> pl.DataFrame:
    """Return all versions of a series, newest first, with their aliases."""
    return frame(
        con,
        "SELECT v.version, v.version_id, v.is_latest, coalesce(a.aliases, []) AS aliases, v.type, v.kind, v.status, "
        "v.mode, v.coverage, v.size_bytes, v.stored_bytes, v.compression, v.content_hash, v.message, v.created_at "
        "FROM file_versions v LEFT JOIN (SELECT version_id, list(alias ORDER BY alias) AS aliases FROM file_aliases "
        "GROUP BY version_id) a USING (version_id) WHERE v.name = $name AND v.test_name IS NOT DISTINCT FROM $test "
        "ORDER BY v.version DESC",
        {"name": name, "test": test_name},
    )


def counts(con: Connection, where: Where) -> tuple[list[Row], Row]:
    """Return files and bytes by type, status, mode, compression and test; and bytes on the disk and times in all."""
    text, params = where
    grouped = fetch(
        con,
        "SELECT type, status, mode, compression, test_name, count(*) AS files, sum(size_bytes)::BIGINT AS bytes "
        f"FROM file_versions WHERE {text} GROUP BY ALL ORDER BY ALL",
        params,
    )
    whole = fetch(
        con,
        f"WITH fitting AS (SELECT artifact_id, created_at FROM file_versions WHERE {text}) "
        "SELECT min(created_at) AS first, max(created_at) AS last, (SELECT coalesce(sum(size_bytes), 0)::BIGINT "
        "FROM blobs WHERE artifact_id IN (SELECT artifact_id FROM fitting)) AS stored FROM fitting",
        params,
    )
    return grouped, whole[0]


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


# -- lineage -------------------------------------------------------------------------------------


def sources_of(con: Connection, version_id: str) -> list[Row]:
    """Return what a version was made from."""
    return fetch(
        con,
        "SELECT l.source_kind AS kind, l.source_id AS id, l.link_type, v.name, v.version FROM lineage_links l "
        "LEFT JOIN file_versions v ON l.source_kind = 'file' AND v.version_id = l.source_id "
        "WHERE l.target_kind = 'file' AND l.target_id = ? ORDER BY l.link_id",
        [version_id],
    )


def add_links(con: Connection, links: Sequence[tuple[str, str, str]]) -> None:
    """Record those links (source kind, source id, version) that are not there yet."""
    kinds = {"target_kind": "file", "link_type": "derived_from"}
    there = Table(con, "lineage_links").where(target_id=list({target for *_, target in links}), **kinds)
    known = {(row["source_kind"], row["source_id"], row["target_id"]) for row in there}
    now = now_naive()
    Table(con, "lineage_links").insert(
        [
            {
                "link_id": new_id(),
                "source_kind": kind,
                "source_id": source,
                "target_id": target,
                "created_at": now,
            }
            | kinds
            for kind, source, target in dict.fromkeys(links)
            if (kind, source, target) not in known
        ],
    )


def descends_from(con: Connection, version_id: str, sources: Sequence[str]) -> bool:
    """Tell whether one of some versions is made, directly or not, from a version."""
    sql = """
        WITH RECURSIVE below(id) AS (
            SELECT $root UNION
            SELECT l.target_id FROM lineage_links l JOIN below b ON l.source_kind = 'file' AND l.source_id = b.id
            WHERE l.target_kind = 'file')
        SELECT id FROM below WHERE list_contains($sources, id)
        """
    return bool(column(con, sql, {"root": version_id, "sources": list(sources)}))


def dependents(con: Connection) -> dict[str, list[tuple[str, str]]]:
    """Return what needs each version: groups that hold it, and what was made from it, as (kind, id)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in fetch(
        con,
        "SELECT unnest(json_extract_string(members, '$.*')) AS id, 'group' AS kind, version_id AS user_id "
        "FROM file_versions WHERE members IS NOT NULL UNION ALL "
        "SELECT source_id, target_kind, target_id FROM lineage_links WHERE source_kind = 'file'",
    ):
        found.setdefault(row["id"], []).append((row["kind"], row["user_id"]))
    return found


# -- deleting, and marking as failed -------------------------------------------------------------


def delete_versions(con: Connection, gone: Sequence[Row]) -> set[str]:
    """Delete versions with their aliases and references; returns the hashes of contents that no version has now."""
    # The newest version that is left of a series is marked so, and the numbers that go are never given again.
    ids = [row["version_id"] for row in gone]
    highest: dict[str, int] = {}
    for row in gone:
        key = series_key(row["name"], row["test_name"])
        highest[key] = max(highest.get(key, 0), int(row["version"]))
    Table(con, "file_aliases").delete(version_id=ids)
    Table(con, "artifact_refs").delete(owner_kind="file", owner_id=ids)
    Table(con, "file_versions").delete(version_id=ids)
    for key, number in highest.items():
        Table(con, "file_retired").raise_number(key, number)
    con.execute(
        """
        UPDATE file_versions SET is_latest = TRUE WHERE NOT is_latest AND version_id IN (
            SELECT arg_max(version_id, version) FROM file_versions WHERE name IN (SELECT unnest(?::VARCHAR[]))
            GROUP BY name, test_name HAVING NOT bool_or(is_latest))
        """,
        [list({row["name"] for row in gone if row["is_latest"]})],
    )
    return unnamed(con, {row["content_hash"] for row in gone} - {None})


def unnamed(con: Connection, hashes: set[str]) -> set[str]:
    """Return the hashes of contents that no version has."""
    sql = (
        "SELECT DISTINCT content_hash FROM file_versions WHERE content_hash IN (SELECT unnest(?::VARCHAR[]))"
    )
    return hashes - set(column(con, sql, [list(hashes)]))


def fail_versions(con: Connection, processing_id: str, touched: Iterable[str], message: str) -> list[str]:
    """Mark as failed what a run made or touched and that is not finished; returns the versions."""
    return column(
        con,
        "UPDATE file_versions SET status = 'failed', message = $message, updated_at = $now "
        "WHERE status IN ('pending', 'in_progress') AND (processing_id = $id OR list_contains($touched, version_id)) "
        "RETURNING version_id",
        {"message": message, "now": now_naive(), "id": processing_id, "touched": list(touched)},
    )
