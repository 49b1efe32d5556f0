"""Named calibrations and their measurements in an archive: how they come into another workspace.

What comes in never changes what a name of this workspace means: versions of a name that is known here get the next
numbers, and aliases, rules and signatures come only with names and versions that are new here. Nor does it change a
number that this workspace predicts: a correction of a version that is here already comes in as retired, and
measurements follow their version to the number that it gets.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from nirs_store.db.database import Connection
from nirs_store.db.schema import TABLES, arrow_schema
from nirs_store.domain.scope import as_scope
from nirs_store.errors import ArchiveInvalid, InvalidInput, RecordingWarning
from nirs_store.ids import now_naive
from nirs_store.records.named import ARCHIVED_NUMBER, as_rule, check_alias, check_name
from nirs_store.values import from_json, to_json

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
_MEASURED = ("corrections", "measurements", "sample_references")
_HIGHEST_MEASURED = 2**30
_Numbers = Mapping[tuple[str, int], int]
"""The number here of each version of the archive, by its name and number there."""


def merged(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the rows of an archive with those of calibrations as they fit into this workspace."""
    found = dict(tables)
    if not any(table in found for table in (*_TABLES, *_MEASURED)):
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
    for place, number in _deleted_places(con, found, numbers).items():
        if number is None:
            name, number = place
            if name in known:
                number = newest[name] = newest[name] + 1
            retired[name] = max(retired.get(name, 0), number)
            coming.add(place)
        numbers[place] = number
    kept["calibration_retired"] = [{"name": name, "version": number} for name, number in retired.items()]
    corrected = _merge_measured(con, found, numbers, coming)
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


# -- Measurements, references and corrections.


def _deleted_places(
    con: Connection, tables: Mapping[str, pa.Table], numbers: _Numbers
) -> dict[tuple[str, int], int | None]:
    """Find versions with measurements that the archive lacks, and the number that their chain has here, if any."""
    # A chain is what predicted: a version of the name with that chain here, or measurements by it, are of this version.
    if "measurements" not in tables:
        return {}
    rows = tables["measurements"].select(["calibration", "version", "chain_id"])
    found: dict[tuple[str, int], int | None] = {}
    for row in rows.group_by(rows.column_names).aggregate([]).sort_by("chain_id").to_pylist():
        name, version, chain_id = row["calibration"], row["version"], row["chain_id"]
        if name is None or version is None or (name, version) in numbers or found.get((name, version)):
            continue
        if not 0 < version < _HIGHEST_MEASURED:
            raise _invalid("has a measurement by a version of an impossible number")
        here = con.execute(
            "SELECT version FROM (SELECT version, 0 AS place FROM calibration_versions WHERE name = $name AND "
            "chain_id = $chain UNION ALL SELECT version, 1 FROM measurements WHERE calibration = $name AND "
            "chain_id = $chain AND version IS NOT NULL) ORDER BY place, version LIMIT 1",
            {"name": name, "chain": chain_id},
        ).fetchall()
        found[name, version] = int(here[0][0]) if here else None
    return found


def _merge_measured(
    con: Connection, tables: dict[str, pa.Table], numbers: _Numbers, arriving: set[tuple[str, int]]
) -> tuple[int, int]:
    """Fit the rows of `tables` into this workspace; returns how many corrections stay out, or come in retired."""
    # `arriving` are the names and numbers, as in the archive, of the versions that are new here.
    _check_measured(tables)
    left = retired = 0
    if "corrections" in tables:
        rows = tables["corrections"].to_pylist()
        here = {str(row[0]) for row in con.execute("SELECT correction_id FROM corrections").fetchall()}
        newest = dict(con.execute("SELECT calibration, max(number) FROM corrections GROUP BY ALL").fetchall())
        kept = []
        for row in sorted(rows, key=lambda row: (row["calibration"], row["number"])):
            place = (row["calibration"], row["version"])
            if row["correction_id"] in here:
                continue
            if place not in numbers:
                left += 1
                continue
            if row["calibration"] in newest:
                newest[row["calibration"]] += 1
                row["number"] = newest[row["calibration"]]
            if place not in arriving and row["retired_at"] is None:
                # It must not correct what this workspace predicts, and measurements that come in name it.
                row["retired_at"] = now_naive()
                retired += 1
            kept.append(row | {"version": numbers[place]})
        tables["corrections"] = pa.Table.from_pylist(kept, schema=tables["corrections"].schema)
    moved = {place: number for place, number in numbers.items() if place[1] != number}
    if "measurements" in tables and moved:
        table = tables["measurements"]
        names, versions = table["calibration"].to_pylist(), table["version"].to_pylist()
        now = [moved.get(place, place[1]) for place in zip(names, versions, strict=True)]
        at = table.schema.get_field_index("version")
        tables["measurements"] = table.set_column(at, table.schema.field(at), pa.array(now, pa.int32()))
    return left, retired


def _check_measured(tables: Mapping[str, pa.Table]) -> None:
    for table in _MEASURED:
        if table not in tables:
            continue
        needed = [c.name for c in TABLES[table].columns if "NOT NULL" in c.sql or "KEY" in c.sql]
        gaps = [name for name in needed if tables[table][name].null_count]
        if gaps:
            raise _invalid(f"has a row of {table} without {gaps[0]}")
    for row in tables["corrections"].to_pylist() if "corrections" in tables else ():
        slope, bias = row["slope"], row["bias"]
        plain = slope is not None and bias is not None and math.isfinite(slope) and math.isfinite(bias)
        if (
            not plain
            or slope == 0
            or not 0 < row["number"] < _HIGHEST_MEASURED
            or not _is(row["samples"], list)
        ):
            raise _invalid("has a correction that could not be made")
        if not _is(row["metadata"], dict):
            raise _invalid("has a correction whose figures are not an object")
    for value in tables["sample_references"]["value"].to_pylist() if "sample_references" in tables else ():
        if value is not None and not math.isfinite(value):
            raise _invalid("has a reference that is not finite")


def _is(text: Any, kind: type) -> bool:
    try:
        plain = from_json(text)
    except ValueError:
        return False
    return plain is None or isinstance(plain, kind)
