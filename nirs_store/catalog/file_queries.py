"""Questions about stored files: lists, words, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.file_rows import rows
from nirs_store.catalog.queries import frame
from nirs_store.catalog.values import to_json
from nirs_store.lazily import polars as pl

__all__ = [
    "FILTERS",
    "condition",
    "counts",
    "list_files",
    "list_processing",
    "list_sql",
    "sources_of",
    "versions_of",
]

#: Columns that a list can be limited by, as callers name them.
FILTERS = {
    name: name
    for name in (
        "type", "kind", "status", "mode", "coverage", "test_name", "model_id", "evaluation_id", "suite", "episode",
        "module", "module_version", "run_id", "processing_id", "compression", "version_id",
    )
} | {"group": "group_name"}  # fmt: skip
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
) -> tuple[str, dict[str, Any]]:
    """Put together a WHERE clause, cheapest parts first, and its parameters."""
    parts: list[str] = [] if all_versions else ["is_latest"]
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
    """Counts and bytes of what fits, in all and by type, status, mode and compression."""
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
    """What a version was made from."""
    return rows(
        con,
        "SELECT l.source_kind AS kind, l.source_id AS id, l.link_type, v.name, v.version FROM lineage_links l "
        "LEFT JOIN file_versions v ON l.source_kind = 'file' AND v.version_id = l.source_id "
        "WHERE l.target_kind = 'file' AND l.target_id = ? ORDER BY l.link_id",
        [version_id],
    )


def list_processing(con: Connection, name: str | None, alive: Sequence[str]) -> pl.DataFrame:
    """Processing runs, newest first; one whose session died shows as interrupted."""
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
