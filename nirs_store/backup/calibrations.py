"""Named calibrations in an archive: which rows leave with versions, and how they come into another workspace.

What comes in never changes what a name of this workspace means: versions of a name that is known here get the next
numbers, and aliases, rules and signatures come only with names and versions that are new here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from nirs_store.backup.measured import MEASURED, deleted_places
from nirs_store.backup.measured import merged as merge_measured
from nirs_store.db.database import Connection
from nirs_store.db.schema import TABLES, arrow_schema
from nirs_store.domain.scope import as_scope
from nirs_store.errors import ArchiveInvalid, InvalidInput, RecordingWarning
from nirs_store.records.named import ARCHIVED_NUMBER, as_rule, check_alias, check_name
from nirs_store.values import from_json, to_json

__all__ = ["merged", "select"]

# Numbers that leave room to count on.
_HIGHEST = 2**31 - 2**20
_TABLES = (
    "calibration_versions",
    "calibration_aliases",
    "calibration_rules",
    "calibration_retired",
    "signatures",
)
_BY_NAME = _TABLES[1:4]


def select(con: Connection, versions: Sequence[str]) -> dict[str, list[str]]:
    """Find the rows that leave with some versions: signatures, aliases that point to them, and rules of their names."""
    named = (
        "name IN (SELECT name FROM calibration_versions WHERE version_id IN (SELECT unnest($ids::VARCHAR[])))"
    )
    wanted = {
        "signatures": ("signature_id", "version_id IN (SELECT unnest($ids::VARCHAR[]))"),
        "calibration_aliases": (
            "alias_id",
            "(name, alias) IN (SELECT (p.name, p.alias) FROM (SELECT * FROM calibration_aliases QUALIFY row_number() "
            "OVER (PARTITION BY name, alias ORDER BY number DESC) = 1) p JOIN calibration_versions v ON "
            "v.name = p.name AND v.version = p.version WHERE v.version_id IN (SELECT unnest($ids::VARCHAR[])))",
        ),
        "calibration_rules": ("rule_id", named),
        "calibration_retired": ("name", named),
    }
    return {
        table: [
            str(row[0])
            for row in con.execute(
                f"SELECT {key} FROM {table} WHERE {where} ORDER BY {key}", {"ids": list(versions)}
            ).fetchall()
        ]
        for table, (key, where) in wanted.items()
    }


def merged(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the rows of an archive with those of calibrations as they fit into this workspace.

    Raises
    ------
    ArchiveInvalid
        A name or an alias that could not have been made here, or an alias that points to nothing.
    """
    found = dict(tables)
    if not any(table in found for table in (*_TABLES, *MEASURED)):
        return found
    rows = {table: found[table].to_pylist() if table in found else [] for table in _TABLES}
    here = dict(con.execute("SELECT version_id, version FROM calibration_versions").fetchall())
    newest = {
        str(row[0]): int(row[1])
        for row in con.execute(
            "SELECT name, max(version) FROM (SELECT name, version FROM calibration_versions UNION ALL "
            "SELECT name, version FROM calibration_retired UNION ALL SELECT name, 0 FROM calibration_aliases UNION ALL "
            "SELECT name, 0 FROM calibration_rules) GROUP BY name"
        ).fetchall()
    }
    _check(rows)
    known = set(newest)
    fresh = [row for row in rows["calibration_versions"] if row["version_id"] not in here]
    places = {row["version_id"]: (row["name"], row["version"]) for row in rows["calibration_versions"]}
    for row in sorted(fresh, key=lambda row: (row["name"], row["version"])):
        if row["name"] in newest:
            newest[row["name"]] += 1
            metadata = from_json(row["metadata"]) or {}
            row["metadata"] = to_json({ARCHIVED_NUMBER: row["version"]} | metadata, "metadata")
            row["version"] = newest[row["name"]]
    arriving = {row["version_id"] for row in fresh}
    kept = {
        "calibration_versions": rows["calibration_versions"],
        "signatures": [row for row in rows["signatures"] if row["version_id"] in arriving],
        **{table: [row for row in rows[table] if row["name"] not in known] for table in _BY_NAME},
    }
    numbers = {
        places[row["version_id"]]: here.get(row["version_id"], row["version"])
        for row in rows["calibration_versions"]
    }
    # What a version predicted that its workspace has deleted belongs to no version of this one: where the name is known
    # here its number may mean another version, so it gets one that no version has, nor ever will have.
    retired = {row["name"]: row["version"] for row in kept["calibration_retired"]}
    coming = {places[version_id] for version_id in arriving}
    for place, number in deleted_places(con, found, numbers).items():
        if number is None:
            name, number = place
            if name in known:
                number = newest[name] = newest[name] + 1
            retired[name] = max(retired.get(name, 0), number)
            coming.add(place)
        numbers[place] = number
    kept["calibration_retired"] = [{"name": name, "version": number} for name, number in retired.items()]
    corrected = merge_measured(con, found, numbers, coming)
    _tell(con, rows, kept, corrected)
    for table in _TABLES:
        if table in found or kept[table]:
            schema = found[table].schema if table in found else arrow_schema(table)
            found[table] = pa.Table.from_pylist(kept[table], schema=schema)
    return found


def _check(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """Refuse what this library would not have written."""
    for table in _TABLES:
        needed = [c.name for c in TABLES[table].columns if "NOT NULL" in c.sql or "KEY" in c.sql]
        if any(row.get(name) is None for row in rows[table] for name in needed):
            raise _invalid(f"has a row of {table} without {', '.join(needed)}")
    numbers = [(row["name"], row["version"]) for row in rows["calibration_versions"]]
    if len(set(numbers)) < len(numbers) or any(not 0 < number < _HIGHEST for _, number in numbers):
        raise _invalid("has a version of a calibration twice, or one of an impossible number")
    counted = [row["version"] for row in rows["calibration_retired"]]
    counted += [
        row["number"] for table in ("calibration_aliases", "calibration_rules") for row in rows[table]
    ]
    if any(not 0 < number < _HIGHEST for number in counted):
        raise _invalid("has an alias, a rule or a retired version of an impossible number")
    for table in ("calibration_versions", *_BY_NAME):
        for row in rows[table]:
            _same(check_name, row["name"])
            if "alias" in row:
                _same(check_alias, row["alias"])
    for row in rows["calibration_versions"]:
        plain = {column: _object(row[column], column) or {} for column in ("scope", "figures", "metadata")}
        try:
            as_scope(plain["scope"])
        except InvalidInput as error:
            raise _invalid(f"has a calibration with a scope that could not be given ({error})") from error
        parts = [plain["metadata"].get("contents") or {}, targets := plain["figures"].get("targets") or {}]
        parts += targets.values() if isinstance(targets, dict) else ()
        if not all(isinstance(part, dict) for part in parts):
            raise _invalid("has a calibration with figures or hashes of another form")
    for row in rows["calibration_rules"]:
        if (rule := _object(row["rule"], "rule")) is not None:
            try:
                as_rule(rule)
            except InvalidInput as error:
                raise _invalid(f"has a rule that could not be set ({error})") from error
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows["calibration_aliases"], key=lambda row: row["number"]):
        last[row["name"], row["alias"]] = row
    for (name, alias), row in last.items():
        if row["version"] is not None and (name, row["version"]) not in set(numbers):
            raise _invalid(f"has the alias {name}@{alias} of a version that it does not hold")


def _object(text: str | None, column: str) -> dict[str, Any] | None:
    try:
        plain = from_json(text)
    except ValueError as error:
        raise _invalid(f"has a calibration whose {column} is not JSON") from error
    if plain is not None and not isinstance(plain, dict):
        raise _invalid(f"has a calibration whose {column} is not an object")
    return plain


def _same(check: Callable[[Any], str], text: Any) -> None:
    try:
        kept = check(text)
    except InvalidInput as error:
        raise _invalid(f"has a calibration that could not be registered ({error})") from error
    if kept != text:
        raise _invalid(f"has the name {text!r} in another spelling than it is kept in")


def _invalid(words: str) -> ArchiveInvalid:
    return ArchiveInvalid(f"The archive {words}. Nothing was restored.")


def _tell(
    con: Connection,
    rows: Mapping[str, list[dict[str, Any]]],
    kept: Mapping[str, list[dict[str, Any]]],
    corrected: tuple[int, int],
) -> None:
    """Warn of what stays out and is not here, and of corrections that come in retired."""
    out, retired = corrected
    left: dict[str, int] = {"corrections": out} if out else {}
    if retired:
        warnings.warn(
            f"{retired} corrections of versions that this workspace has already came in as retired: they explain the "
            "measurements that were made with them, and correct nothing here.",
            RecordingWarning,
            stacklevel=2,
        )
    for table in ("calibration_aliases", "calibration_rules", "signatures"):
        key = TABLES[table].columns[0].name
        missing = {row[key] for row in rows[table]} - {row[key] for row in kept[table]}
        there = con.execute(
            f"SELECT {key} FROM {table} WHERE {key} IN (SELECT unnest(?::VARCHAR[]))", [sorted(missing)]
        ).fetchall()
        if len(missing) > len(there):
            left[table.removeprefix("calibration_")] = len(missing) - len(there)
    if left:
        words = ", ".join(f"{count} {what}" for what, count in left.items())
        warnings.warn(
            f"Left out of the archive: {words} of calibrations that this workspace has already. What its names mean "
            "was not changed.",
            RecordingWarning,
            stacklevel=2,
        )
