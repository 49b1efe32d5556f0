"""Measurements, references and corrections in an archive: which leave with versions, and how they come in elsewhere.

What comes in never changes a number that this workspace predicts: a correction comes only with a version that is new
here, and measurements follow their version to the number that it gets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from nirs_store.db.database import Connection
from nirs_store.db.schema import TABLES
from nirs_store.errors import ArchiveInvalid
from nirs_store.values import from_json

__all__ = ["MEASURED", "Numbers", "merged", "select"]

MEASURED = ("corrections", "measurements", "sample_references")
Numbers = Mapping[tuple[str, int], int]
"""The number here of each version of the archive, by its name and number there."""


def select(con: Connection, chains: Sequence[str], versions: Sequence[str]) -> dict[str, list[str]]:
    """Find what leaves with some chains and versions: what they predicted, and the references of these samples."""
    predicted = "SELECT {} FROM measurements WHERE chain_id IN (SELECT unnest($chains::VARCHAR[]))"
    wanted = {
        "corrections": (
            "SELECT c.correction_id FROM corrections c JOIN calibration_versions v ON v.name = c.calibration AND "
            "v.version = c.version WHERE v.version_id IN (SELECT unnest($versions::VARCHAR[])) ORDER BY 1"
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


def merged(
    con: Connection, tables: dict[str, pa.Table], numbers: Numbers, arriving: set[tuple[str, int]]
) -> int:
    """Fit the rows of `tables` into this workspace; returns how many corrections stay out.

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
    left = 0
    if "corrections" in tables:
        rows = tables["corrections"].to_pylist()
        here = {str(row[0]) for row in con.execute("SELECT correction_id FROM corrections").fetchall()}
        newest = dict(con.execute("SELECT calibration, max(number) FROM corrections GROUP BY ALL").fetchall())
        kept = []
        for row in sorted(rows, key=lambda row: (row["calibration"], row["number"])):
            place = (row["calibration"], row["version"])
            if row["correction_id"] not in here and place in arriving:
                if row["calibration"] in newest:
                    newest[row["calibration"]] += 1
                    row["number"] = newest[row["calibration"]]
                kept.append(row | {"version": numbers[place]})
            left += row["correction_id"] not in here and place not in arriving
        tables["corrections"] = pa.Table.from_pylist(kept, schema=tables["corrections"].schema)
    moved = {place: number for place, number in numbers.items() if place[1] != number}
    if "measurements" in tables and moved:
        table = tables["measurements"]
        names, versions = table["calibration"].to_pylist(), table["version"].to_pylist()
        now = [moved.get(place, place[1]) for place in zip(names, versions, strict=True)]
        at = table.schema.get_field_index("version")
        tables["measurements"] = table.set_column(at, table.schema.field(at), pa.array(now, pa.int32()))
    return left


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
