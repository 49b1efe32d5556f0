"""What a deletion of stored files asks and changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.file_rows import retire, rows, series_key

__all__ = ["aliased", "dependents", "forget", "named_hashes", "pinned", "series_of", "test_names", "versions"]

_COLUMNS = (
    "version_id, name, test_name, version, is_latest, type, kind, status, mode, artifact_id, content_hash, "
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


def test_names(con: Connection) -> list[str]:
    """Names of tests, the one that stored something last first."""
    found = con.execute(
        "SELECT test_name FROM file_versions WHERE test_name IS NOT NULL GROUP BY test_name "
        "ORDER BY max(created_at) DESC, test_name"
    ).fetchall()
    return [str(row[0]) for row in found]


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
    """What needs a version: groups that hold it, and whatever was made from it; kind and id, by version."""
    found: dict[str, list[tuple[str, str]]] = {}
    for version_id, kind, user in con.execute(
        "SELECT unnest(json_extract_string(members, '$.*')), 'group', version_id FROM file_versions "
        "WHERE members IS NOT NULL UNION ALL "
        "SELECT source_id, target_kind, target_id FROM lineage_links WHERE source_kind = 'file'"
    ).fetchall():
        found.setdefault(str(version_id), []).append((str(kind), str(user)))
    return found


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
