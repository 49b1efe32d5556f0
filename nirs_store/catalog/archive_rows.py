"""Rows that leave with an archive.

What is archived is closed: whatever a chosen run, file or evaluation owns or needs goes with it, and every
blob with the rows that hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from nirs_store.catalog.access import Connection
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import TABLES, arrow_schema, column_names
from nirs_store.errors import InvalidInput, UnknownId

__all__ = [
    "ARCHIVED",
    "BlobFile",
    "Selection",
    "blob_files",
    "counts",
    "key_of",
    "select",
    "workspace_id",
    "write_table",
]

# Parents first: the order in which rows are inserted.
_ORDER = (
    "runs",
    "pipelines",
    "chains",
    "predictions",
    "arrays",
    "prediction_arrays",
    "blobs",
    "artifact_refs",
    "artifact_records",
    "artifact_links",
    "logs",
    "processing_runs",
    "evaluations",
    "champions",
    "file_types",
    "file_versions",
    "file_aliases",
    "lineage_links",
    "pins",
)
ARCHIVED = tuple(table for table in _ORDER if table in TABLES)
_BATCH = 1024
_THERE = "artifact_id IN (SELECT artifact_id FROM blobs)"
_OBJECTS = {
    "run": "runs",
    "pipeline": "pipelines",
    "chain": "chains",
    "prediction": "predictions",
    "file": "file_versions",
    "evaluation": "evaluations",
    "processing": "processing_runs",
    "artifact": "blobs",
}


@dataclass
class Selection:
    """Keys of the rows of each table that go; None stands for the whole table."""

    keys: dict[str, list[str] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class BlobFile:
    """A blob's file."""

    artifact_id: str
    path: str
    content_hash: str
    size: int


def key_of(table: str) -> str:
    """Name of a table's key."""
    return TABLES[table].columns[0].name


def workspace_id(con: Connection) -> str:
    """Id that the catalog was given when it was made."""
    rows = con.execute("SELECT value FROM nirs_store_meta WHERE key = 'workspace_id'").fetchall()
    return str(rows[0][0]) if rows else ""


def select(
    con: Connection,
    *,
    runs: Sequence[str] | None,
    files: Sequence[str] | None,
    evaluations: Sequence[str] | None,
) -> Selection:
    """Choose the rows of some runs, files (patterns of names, or ids of versions) and evaluations; None thrice: all.

    Raises
    ------
    UnknownId
        Something that was named is not there.
    """
    chosen = Selection()
    if runs is None and files is None and evaluations is None:
        chosen.keys = dict.fromkeys(ARCHIVED)
        # What only a session holds is not somebody's yet.
        chosen.keys["artifact_refs"] = _keys(
            con, "artifact_refs", f"owner_kind <> 'session' AND {_THERE}", {}
        )
        chosen.keys["blobs"] = _held(con, chosen.keys["artifact_refs"] or [])
        return chosen
    found: dict[str, list[str]] = {}
    found["runs"] = _named(con, "run", "runs", runs or ())
    found["pipelines"] = _keys(con, "pipelines", "list_contains($runs, run_id)", found, "runs")
    for table in ("chains", "predictions", "logs", "artifact_records", "artifact_links"):
        found[table] = _keys(con, table, "list_contains($pipelines, pipeline_id)", found, "pipelines")
    found["prediction_arrays"] = _keys(
        con, "prediction_arrays", "list_contains($predictions, prediction_id)", found, "predictions"
    )
    found["arrays"] = _arrays(con, found)
    named = _named(con, "evaluation", "evaluations", evaluations or ())
    of_runs = _keys(
        con,
        "evaluations",
        "list_contains($runs, run_id) OR list_contains($chains, chain_id)",
        found,
        "runs",
        "chains",
    )
    found["evaluations"] = _union(named, of_runs)
    found["champions"] = _keys(
        con, "champions", "list_contains($evaluations, evaluation_id)", found, "evaluations"
    )
    of_others = _keys(
        con,
        "file_versions",
        "list_contains($runs, run_id) OR list_contains($evaluations, evaluation_id)",
        found,
        "runs",
        "evaluations",
    )
    found["file_versions"] = _with_members(con, _union(_files(con, files or ()), of_others))
    found["file_types"] = []
    if "file_types" in ARCHIVED:
        found["file_types"] = _keys(
            con,
            "file_types",
            "type IN (SELECT type FROM file_versions WHERE list_contains($file_versions, version_id))",
            found,
            "file_versions",
        )
    found["file_aliases"] = _keys(
        con, "file_aliases", "list_contains($file_versions, version_id)", found, "file_versions"
    )
    found["processing_runs"] = _keys(
        con,
        "processing_runs",
        "processing_id IN (SELECT processing_id FROM file_versions WHERE list_contains($file_versions, version_id))",
        found,
        "file_versions",
    )
    found["artifact_refs"] = _keys(
        con,
        "artifact_refs",
        "owner_kind <> 'session' AND (list_contains($owners, owner_id) OR list_contains($pipelines, pipeline_id)) "
        f"AND {_THERE}",
        {
            "owners": [
                each
                for table in (
                    "chains",
                    "artifact_records",
                    "evaluations",
                    "file_versions",
                    "pipelines",
                    "runs",
                )
                for each in found[table]
            ],
            "pipelines": found["pipelines"],
        },
        "owners",
        "pipelines",
    )
    found["blobs"] = _held(con, found["artifact_refs"])
    objects = [f"{kind} {each}" for kind, table in _OBJECTS.items() for each in found[table]]
    there = {"objects": objects}
    found["lineage_links"] = _keys(
        con,
        "lineage_links",
        "list_contains($objects, source_kind || ' ' || source_id) AND "
        "list_contains($objects, target_kind || ' ' || target_id)",
        there,
        "objects",
    )
    found["pins"] = _keys(
        con, "pins", "list_contains($objects, object_kind || ' ' || object_id)", there, "objects"
    )
    chosen.keys = {table: found[table] for table in ARCHIVED}
    return chosen


def _keys(
    con: Connection, table: str, where: str, values: Mapping[str, Sequence[str]], *names: str
) -> list[str]:
    key = key_of(table)
    params = {name: list(values[name]) for name in names}
    rows = con.execute(f"SELECT {key} FROM {table} WHERE {where} ORDER BY {key}", params).fetchall()
    return [str(row[0]) for row in rows]


def _named(con: Connection, kind: str, table: str, wanted: Sequence[str]) -> list[str]:
    if isinstance(wanted, str):
        raise InvalidInput(f"{table}: expected a list of ids, found one text. Nothing was done.")
    found = _keys(con, table, f"list_contains($ids, {key_of(table)})", {"ids": list(wanted)}, "ids")
    for each in wanted:
        if each not in found:
            raise UnknownId(kind, each, "Nothing was done.")
    return found


def _files(con: Connection, patterns: Sequence[str]) -> list[str]:
    if isinstance(patterns, str):
        raise InvalidInput(
            "files: expected a list of names, patterns or ids, found one text. Nothing was done."
        )
    found: list[str] = []
    for pattern in patterns:
        keys = _keys(
            con, "file_versions", "version_id = $one[1] OR name GLOB $one[1]", {"one": [pattern]}, "one"
        )
        if not keys:
            raise UnknownId("file", pattern, "No name fits it either. Nothing was done.")
        found = _union(found, keys)
    return found


def _with_members(con: Connection, versions: list[str]) -> list[str]:
    """Groups with their members, and the members of those."""
    if "members" not in column_names("file_versions"):
        return versions
    found, new = versions, versions
    while new:
        rows = con.execute(
            "SELECT DISTINCT unnest(json_extract_string(members, '$.*')) FROM file_versions "
            "WHERE list_contains(?, version_id) AND members IS NOT NULL",
            [new],
        ).fetchall()
        named = [str(row[0]) for row in rows if str(row[0]) not in set(found)]
        new = _keys(con, "file_versions", "list_contains($ids, version_id)", {"ids": named}, "ids")
        found = _union(found, new)
    return found


def _arrays(con: Connection, found: Mapping[str, Sequence[str]]) -> list[str]:
    rows = con.execute(
        "SELECT DISTINCT h FROM (SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights]) AS h "
        "FROM prediction_arrays WHERE list_contains($predictions, prediction_id) UNION ALL "
        "SELECT wavelengths FROM chains WHERE list_contains($chains, chain_id)) WHERE h IS NOT NULL ORDER BY h",
        {"predictions": list(found["prediction_arrays"]), "chains": list(found["chains"])},
    ).fetchall()
    return [str(row[0]) for row in rows]


def _held(con: Connection, refs: Sequence[str]) -> list[str]:
    rows = con.execute(
        "SELECT DISTINCT artifact_id FROM artifact_refs WHERE ref_id IN (SELECT unnest(?)) ORDER BY 1",
        [list(refs)],
    ).fetchall()
    return [str(row[0]) for row in rows]


def _union(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _which(table: str, keys: list[str] | None) -> tuple[str, list[list[str]]]:
    return ("", []) if keys is None else (f" WHERE {key_of(table)} IN (SELECT unnest(?))", [keys])


def blob_files(con: Connection, keys: list[str] | None) -> list[BlobFile]:
    """Where the files of blobs are, of all or of some."""
    where, params = _which("blobs", keys)
    rows = con.execute(
        f"SELECT artifact_id, artifact_path, content_hash, size_bytes FROM blobs{where} ORDER BY artifact_id",
        params,
    ).fetchall()
    return [BlobFile(str(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in rows]


def write_table(con: Connection, table: str, keys: list[str] | None, path: Path) -> int:
    """Write rows into an Arrow file, a batch at a time; gives their number."""
    where, params = _which(table, keys)
    # JSON is text with a label, which an archive has no use for.
    columns = ", ".join(
        f"{c.name}::VARCHAR AS {c.name}" if c.sql.startswith("JSON") else c.name
        for c in TABLES[table].columns
    )
    schema = arrow_schema(table)
    rows = 0
    sql = f"SELECT {columns} FROM {table}{where} ORDER BY {key_of(table)}"
    reader = con.sql(sql, params=params).to_arrow_reader(_BATCH)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
            rows += batch.num_rows
    return rows


def counts(con: Connection) -> dict[str, int]:
    """Rows of every table that an archive may hold."""
    return {table: number(con, f"SELECT count(*) FROM {table}") for table in ARCHIVED}
