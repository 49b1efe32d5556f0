"""Measurements, references and corrections in an archive: which leave with versions, and how they come in elsewhere.

What comes in never changes a number that this workspace predicts: a correction of a version that is here already comes
in as retired, and measurements follow their version to the number that it gets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from nirs_store.db.database import Connection
from nirs_store.db.schema import TABLES
from nirs_store.errors import ArchiveInvalid
from nirs_store.ids import now_naive
from nirs_store.values import from_json

__all__ = ["MEASURED", "Numbers", "deleted_places", "merged", "select"]

MEASURED = ("corrections", "measurements", "sample_references")
Numbers = Mapping[tuple[str, int], int]
"""The number here of each version of the archive, by its name and number there."""
# Numbers that leave room to count on.
_HIGHEST = 2**30


def select(con: Connection, chains: Sequence[str], versions: Sequence[str]) -> dict[str, list[str]]:
    """Find what leaves with some chains and versions: what they predicted, and the references of these samples."""
    predicted = "SELECT {} FROM measurements WHERE chain_id IN (SELECT unnest($chains::VARCHAR[]))"
    wanted = {
        "corrections": (
            "SELECT correction_id FROM corrections c WHERE EXISTS (SELECT 1 FROM calibration_versions v WHERE "
            "v.name = c.calibration AND v.version = c.version AND v.version_id IN (SELECT "
            # Those of deleted versions too, where measurements were made with them.
            f"unnest($versions::VARCHAR[]))) OR correction_id IN ({predicted.format('correction_id')}) ORDER BY 1"
        ),
        "measurements": predicted.format("measurement_id") + " ORDER BY 1",
        "sample_references": (
            "SELECT reference_id FROM sample_references WHERE sample_id IN "
            f"({predicted.format('sample_id')}) ORDER BY 1"
        ),
    }
    values = {"chains": list(chains), "versions": list(versions)}
    return {
        table: [
            str(row[0])
            for row in con.execute(sql, {k: v for k, v in values.items() if f"${k}" in sql}).fetchall()
        ]
        for table, sql in wanted.items()
    }


def deleted_places(
    con: Connection, tables: Mapping[str, pa.Table], numbers: Numbers
) -> dict[tuple[str, int], int | None]:
    """Find versions with measurements that the archive lacks, and the number that their chain has here, if any.

    A chain is what predicted: a version of the name with that chain here, or measurements by it, are of this version.
    """
    if "measurements" not in tables:
        return {}
    rows = tables["measurements"].select(["calibration", "version", "chain_id"])
    found: dict[tuple[str, int], int | None] = {}
    for row in rows.group_by(rows.column_names).aggregate([]).sort_by("chain_id").to_pylist():
        name, version, chain_id = row["calibration"], row["version"], row["chain_id"]
        if name is None or version is None or (name, version) in numbers or found.get((name, version)):
            continue
        if not 0 < version < _HIGHEST:
            raise ArchiveInvalid(
                "The archive has a measurement by a version of an impossible number. Nothing was restored."
            )
        here = con.execute(
            "SELECT version FROM (SELECT version, 0 AS place FROM calibration_versions WHERE name = $name AND "
            "chain_id = $chain UNION ALL SELECT version, 1 FROM measurements WHERE calibration = $name AND "
            "chain_id = $chain AND version IS NOT NULL) ORDER BY place, version LIMIT 1",
            {"name": name, "chain": chain_id},
        ).fetchall()
        found[name, version] = int(here[0][0]) if here else None
    return found


def merged(
    con: Connection, tables: dict[str, pa.Table], numbers: Numbers, arriving: set[tuple[str, int]]
) -> tuple[int, int]:
    """Fit the rows of `tables` into this workspace; returns how many corrections stay out, or come in retired.

    Parameters
    ----------
    arriving
        Names and numbers, as in the archive, of the versions that are new here.

    Raises
    ------
    ArchiveInvalid
        Something that this library would not have written.
    """
    _check(tables)
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


def _check(tables: Mapping[str, pa.Table]) -> None:
    for table in MEASURED:
        if table not in tables:
            continue
        needed = [c.name for c in TABLES[table].columns if "NOT NULL" in c.sql or "KEY" in c.sql]
        gaps = [name for name in needed if tables[table][name].null_count]
        if gaps:
            raise ArchiveInvalid(f"The archive has a row of {table} without {gaps[0]}. Nothing was restored.")
    for row in tables["corrections"].to_pylist() if "corrections" in tables else ():
        slope, bias = row["slope"], row["bias"]
        plain = slope is not None and bias is not None and math.isfinite(slope) and math.isfinite(bias)
        if not plain or slope == 0 or not 0 < row["number"] < 2**30 or not _is(row["samples"], list):
            raise ArchiveInvalid("The archive has a correction that could not be made. Nothing was restored.")
        if not _is(row["metadata"], dict):
            raise ArchiveInvalid(
                "The archive has a correction whose figures are not an object. Nothing was restored."
            )
    for value in tables["sample_references"]["value"].to_pylist() if "sample_references" in tables else ():
        if value is not None and not math.isfinite(value):
            raise ArchiveInvalid("The archive has a reference that is not finite. Nothing was restored.")


def _is(text: Any, kind: type) -> bool:
    try:
        plain = from_json(text)
    except ValueError:
        return False
    return plain is None or isinstance(plain, kind)
