"""Rows that leave with an archive, and rows that come in with one.

What is archived is closed: whatever a chosen run, file or evaluation owns or needs goes with it, and every
blob with the rows that hold it. Rows come in by their keys, so that bringing them in twice changes nothing.
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
    "insert_rows",
    "key_of",
    "new_rows",
    "select",
    "workspace_id",
    "write_table",
]

# Parents first: the order in which rows are inserted.
ARCHIVED = (
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
    "file_versions",
    "file_aliases",
    "lineage_links",
    "pins",
)
_BATCH = 1024
_THERE = "artifact_id IN (SELECT artifact_id FROM blobs)"
# Tables whose ids a tombstone may name: what comes back is alive again.
_MORTAL = ("runs", "pipelines", "chains", "predictions")
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
    found["file_versions"] = _union(_files(con, files or ()), of_others)
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


def new_rows(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """How many of some rows are not there yet, by table."""
    found: dict[str, int] = {}
    for table, rows in tables.items():
        key = key_of(table)
        con.register("incoming", rows.select([key]))
        try:
            found[table] = number(
                con,
                f"SELECT count(*) FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.{key} = i.{key})",
            )
        finally:
            con.unregister("incoming")
    return {table: count for table, count in found.items() if count}


def insert_rows(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """Insert the rows that are not there yet, inside the caller's transaction; gives their number by table."""
    added: dict[str, int] = {}
    for table in ARCHIVED:
        if table not in tables:
            continue
        key = key_of(table)
        con.register("incoming", tables[table])
        try:
            if table in _MORTAL:
                con.execute(f"DELETE FROM dead WHERE id IN (SELECT {key} FROM incoming)")
            names = [name for name in column_names(table) if name in tables[table].column_names]
            columns = ", ".join(names)
            source = _sources(table, names)
            added[table] = number(
                con, f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {source} ON CONFLICT DO NOTHING"
            )
        finally:
            con.unregister("incoming")
    return {table: count for table, count in added.items() if count}


def _sources(table: str, names: Sequence[str]) -> str:
    """Where the rows of a table come from; numbers and aliases that are taken here make way."""
    if table == "file_versions":
        # The same name may have versions of its own here: what comes in gets the next numbers.
        others = ", ".join(f"i.{name}" for name in names if name != "version")
        return (
            f"(SELECT {others}, CASE WHEN m.newest IS NULL THEN i.version ELSE m.newest + "
            "row_number() OVER (PARTITION BY i.name ORDER BY i.version) END AS version FROM incoming i "
            "LEFT JOIN (SELECT name, max(version) AS newest FROM file_versions GROUP BY name) m ON m.name = i.name "
            "WHERE NOT EXISTS (SELECT 1 FROM file_versions t WHERE t.version_id = i.version_id))"
        )
    if table == "file_aliases":
        return (
            "(SELECT * FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM file_aliases t WHERE t.name = i.name "
            "AND t.alias = i.alias))"
        )
    return "incoming"
