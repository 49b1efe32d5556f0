"""Writing an archive: chosen rows, their lineage and their blobs in one file, complete or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa

from nirs_store.addresses import refuse_address, user_path
from nirs_store.audit.trail import note
from nirs_store.backup import calibrations, measured
from nirs_store.backup.container import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    Limits,
    Manifest,
    Member,
    Members,
    format_of,
    open_members,
    packer,
)
from nirs_store.blobs.durable import (
    ensure_dir,
    fsync_dir,
    make_read_only,
    move_file,
    remove_file,
    sync_file,
    write_error,
)
from nirs_store.blobs.store import blob_key, check_suffix
from nirs_store.db.arrow_rows import Unfolds, read_rows, same_kind
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import decode_array, sweep_drafts, with_targets
from nirs_store.db.schema import SCHEMA_VERSION, TABLES, arrow_schema, column_names
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.errors import (
    BlobCorrupt,
    CatalogDamaged,
    InvalidInput,
    NirsStoreError,
    SchemaTooNew,
    UnknownId,
    WriteFailed,
)
from nirs_store.ids import new_id, utcnow
from nirs_store.records.runs import environment
from nirs_store.values import as_text

__all__ = [
    "ARCHIVED",
    "Archive",
    "ArchivePlan",
    "BlobFile",
    "Progress",
    "RestoredArchive",
    "Selection",
    "archive",
    "blob_files",
    "counts",
    "extract",
    "insert_rows",
    "key_of",
    "new_rows",
    "parse_manifest",
    "plan_archive",
    "read_manifest",
    "read_tables",
    "restore_archive",
    "rows_of",
    "select",
    "workspace_id",
    "write_table",
]


# -- Rows that leave with an archive.


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
    "metrics",
    "processing_runs",
    "evaluations",
    "champions",
    "dataset_versions",
    "dataset_retired",
    "file_types",
    "file_versions",
    "file_retired",
    "file_aliases",
    "calibration_versions",
    "calibration_aliases",
    "calibration_rules",
    "calibration_retired",
    "signatures",
    "corrections",
    "measurements",
    "sample_references",
    "lineage_links",
    "pins",
)
ARCHIVED = tuple(table for table in _ORDER if table in TABLES)
_BATCH = 1024
# As `series_key` in files/rows.py writes it.
_SERIES_KEY = "coalesce(test_name, '') || chr(10) || name"
_RETIRED = ("dataset_retired", "file_retired", "calibration_retired")
_MAGIC = b"ARROW1\0\0"
_NAMED_ARRAYS = (
    "SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights]) FROM prediction_arrays "
    "UNION SELECT wavelengths FROM chains"
)
_THERE = "artifact_id IN (SELECT artifact_id FROM blobs)"
_OBJECTS = {
    "run": "runs",
    "pipeline": "pipelines",
    "chain": "chains",
    "prediction": "predictions",
    "file": "file_versions",
    "dataset": "dataset_versions",
    "evaluation": "evaluations",
    "processing": "processing_runs",
    "artifact": "blobs",
    "calibration": "calibration_versions",
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
    datasets: Sequence[str] | None = None,
) -> Selection:
    """Choose rows: of runs, evaluations, files and data sets (patterns of names, or ids of versions); none named: all.

    With a run go the data sets that its chains name.
    """
    chosen = Selection()
    if runs is None and files is None and evaluations is None and datasets is None:
        chosen.keys = dict.fromkeys(ARCHIVED)
        # What only a session holds is not somebody's yet.
        chosen.keys["artifact_refs"] = _keys(
            con, "artifact_refs", f"owner_kind NOT IN ('session', 'trash') AND {_THERE}", {}
        )
        chosen.keys["blobs"] = _held(con, chosen.keys["artifact_refs"] or [])
        # Neither leaves what only the trash names.
        chosen.keys["arrays"] = _keys(con, "arrays", f"array_hash IN ({_NAMED_ARRAYS})", {})
        return chosen
    found: dict[str, list[str]] = {}
    found["runs"] = _named(con, "run", "runs", runs or ())
    found["pipelines"] = _keys(con, "pipelines", "list_contains($runs, run_id)", found, "runs")
    for table in ("chains", "predictions", "logs", "metrics", "artifact_records", "artifact_links"):
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
    found["file_versions"] = _with_members(
        con, _union(_patterns(con, "files", "file_versions", files or ()), of_others)
    )
    of_chains = _keys(
        con,
        "dataset_versions",
        "dataset_version_id IN (SELECT unnest([metadata ->> '$.dataset_version_id', "
        "metadata ->> '$.dataset_test_version_id']) FROM chains WHERE list_contains($chains, chain_id))",
        found,
        "chains",
    )
    found["dataset_versions"] = _union(
        _patterns(con, "datasets", "dataset_versions", datasets or ()), of_chains
    )
    found["file_types"] = []
    if "file_types" in ARCHIVED:
        found["file_types"] = _keys(
            con,
            "file_types",
            "type IN (SELECT type FROM file_versions WHERE list_contains($file_versions, version_id))",
            found,
            "file_versions",
        )
    found["dataset_retired"] = _keys(
        con,
        "dataset_retired",
        "name IN (SELECT name FROM dataset_versions WHERE list_contains($dataset_versions, dataset_version_id))",
        found,
        "dataset_versions",
    )
    found["file_retired"] = _keys(
        con,
        "file_retired",
        f"series IN (SELECT {_SERIES_KEY} FROM file_versions WHERE list_contains($file_versions, version_id))",
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
    found["calibration_versions"] = _keys(
        con, "calibration_versions", "list_contains($chains, chain_id)", found, "chains"
    )
    found |= calibrations.select(con, found["calibration_versions"])
    found |= measured.select(con, found["chains"], found["calibration_versions"])
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
                    "dataset_versions",
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


def _patterns(con: Connection, word: str, table: str, patterns: Sequence[str]) -> list[str]:
    """Find versions by patterns of their names, or by their ids."""
    if isinstance(patterns, str):
        raise InvalidInput(
            f"{word}: expected a list of names, patterns or ids, found one text. Nothing was done."
        )
    found: list[str] = []
    for pattern in patterns:
        keys = _keys(con, table, f"{key_of(table)} = $one[1] OR name GLOB $one[1]", {"one": [pattern]}, "one")
        if not keys:
            raise UnknownId(word.removesuffix("s"), pattern, "No name fits it either. Nothing was done.")
        found = _union(found, keys)
    return found


def _with_members(con: Connection, versions: list[str]) -> list[str]:
    """Return groups with their members, and the members of those."""
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


# -- Rows that come in with an archive: by their keys, so that bringing them in twice changes nothing.


# Tables whose ids a tombstone may name: what comes back is alive again.
_MORTAL = ("runs", "pipelines", "chains", "predictions")
# What tells one series of versions of files from another.
_SERIES = tuple(name for name in ("name", "test_name") if name in column_names("file_versions"))


def new_rows(con: Connection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """How many of some rows are not there yet, by table."""
    found: dict[str, int] = {}
    tables = calibrations.merged(con, tables)
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
    tables = calibrations.merged(con, tables)
    for table in ARCHIVED:
        if table not in tables:
            continue
        key = key_of(table)
        rows = with_targets(tables[table]) if table == "chains" else tables[table]
        con.register("incoming", rows)
        try:
            if table in _MORTAL:
                con.execute(f"DELETE FROM dead WHERE id IN (SELECT {key} FROM incoming)")
            names = [name for name in column_names(table) if name in rows.column_names]
            columns = ", ".join(names)
            source = _sources(table, names)
            # Without an index there is no conflict: `_sources` leaves out what is there.
            clash = "" if table == "measurements" else " ON CONFLICT DO NOTHING"
            if table in _RETIRED:
                clash = " ON CONFLICT DO UPDATE SET version = excluded.version"
            added[table] = number(
                con, f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {source}{clash}"
            )
        finally:
            con.unregister("incoming")
    if added.get("file_versions") and "is_latest" in column_names("file_versions"):
        series = ", ".join(_SERIES)
        con.execute(
            "UPDATE file_versions SET is_latest = (version = n.newest) FROM "
            f"(SELECT {series}, max(version) AS newest FROM file_versions GROUP BY {series}) n WHERE "
            + " AND ".join(f"file_versions.{name} IS NOT DISTINCT FROM n.{name}" for name in _SERIES)
            + " AND is_latest <> (version = n.newest)"
        )
    return {table: count for table, count in added.items() if count}


def _sources(table: str, names: Sequence[str]) -> str:
    """Where the rows of a table come from; numbers and aliases that are taken here make way."""
    if table == "file_versions":
        # The same name may have versions of its own here: what comes in gets the next numbers.
        others = ", ".join(f"i.{name}" for name in names if name != "version")
        series = ", ".join(_SERIES)
        same = " AND ".join(f"m.{name} IS NOT DISTINCT FROM i.{name}" for name in _SERIES)
        ours = ", ".join(f"i.{name}" for name in _SERIES)
        return (
            f"(SELECT {others}, CASE WHEN m.newest IS NULL THEN i.version ELSE m.newest + "
            f"row_number() OVER (PARTITION BY {ours} ORDER BY i.version) END AS version FROM incoming i "
            f"LEFT JOIN (SELECT {series}, max(version) AS newest FROM (SELECT {series}, version FROM file_versions "
            "UNION ALL SELECT split_part(series, chr(10), 2), nullif(split_part(series, chr(10), 1), ''), version FROM "
            f"file_retired) GROUP BY {series}) m ON {same} "
            "WHERE NOT EXISTS (SELECT 1 FROM file_versions t WHERE t.version_id = i.version_id))"
        )
    if table == "dataset_versions":
        others = ", ".join(f"i.{name}" for name in names if name != "version")
        return (
            f"(SELECT {others}, CASE WHEN m.newest IS NULL THEN i.version ELSE m.newest + "
            "row_number() OVER (PARTITION BY i.name ORDER BY i.version) END AS version FROM incoming i LEFT JOIN "
            "(SELECT name, max(version) AS newest FROM (SELECT name, version FROM dataset_versions UNION ALL "
            "SELECT name, version FROM dataset_retired) GROUP BY name) m ON m.name = i.name "
            "WHERE NOT EXISTS (SELECT 1 FROM dataset_versions t WHERE t.dataset_version_id = i.dataset_version_id))"
        )
    if table in _RETIRED:
        # A number that either workspace has given away is never given again.
        key = key_of(table)
        return (
            f"(SELECT * FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.{key} = i.{key} AND "
            "t.version >= i.version))"
        )
    if table == "measurements":
        return (
            "(SELECT * FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM measurements t WHERE "
            "t.measurement_id = i.measurement_id) QUALIFY row_number() OVER (PARTITION BY i.measurement_id) = 1)"
        )
    if table == "file_aliases":
        return (
            "(SELECT * FROM incoming i WHERE NOT EXISTS (SELECT 1 FROM file_aliases t WHERE t.name = i.name "
            "AND t.alias = i.alias))"
        )
    return "incoming"


Progress = Callable[[int, int], None]
"""Called with the bytes done so far and those to do."""


@dataclass(frozen=True)
class ArchivePlan:
    """What an archive holds: rows by table, blobs and their bytes."""

    rows: dict[str, int]
    blobs: int
    blob_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Archive:
    """An archive that was written: its file and size, rows by table, blobs and their bytes."""

    path: Path
    size: int
    rows: dict[str, int]
    blobs: int
    blob_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "path": str(self.path)}


def of_model(engine: Engine, model_id: str) -> tuple[list[str], list[str], list[str]]:
    """Find what belongs to a model: runs, versions of files, evaluations."""
    asked = {"model": as_text(model_id, "model_id")}

    def ask(con: Connection) -> tuple[list[str], list[str], list[str]]:
        of_chain = (
            "SELECT p.run_id FROM chains c JOIN pipelines p USING (pipeline_id) WHERE c.chain_id = $model"
        )
        files = "SELECT version_id FROM file_versions WHERE model_id = $model ORDER BY version_id"
        evaluations = "SELECT evaluation_id FROM evaluations WHERE model_id = $model ORDER BY evaluation_id"
        found = [
            [str(row[0]) for row in con.execute(sql, asked).fetchall()]
            for sql in (of_chain, files, evaluations)
        ]
        return found[0], found[1], found[2]

    found = engine.query(ask)
    if not any(found):
        raise UnknownId("model", model_id, "No file, evaluation or chain names it. Nothing was written.")
    return found


def archive_or_plan(
    engine: Engine,
    path: str | Path,
    *,
    model_id: str | None,
    dry_run: bool,
    progress: Progress | None,
    overwrite: bool,
    **selection: Sequence[str] | None,
) -> Any:
    """Write an archive of a selection or of a model, or plan it; see `WorkspaceStore.archive`."""
    if model_id is not None:
        if any(given is not None for given in selection.values()):
            raise InvalidInput(
                "model_id: name it, or runs, files, evaluations and data sets; not both. Nothing was written."
            )
        found = of_model(engine, model_id)
        selection = dict(zip(("runs", "files", "evaluations"), found, strict=True))
    if dry_run:
        return plan_archive(engine, path, overwrite=overwrite, **selection)
    return archive(engine, path, overwrite=overwrite, progress=progress, **selection)


def plan_archive(
    engine: Engine,
    path: str | Path,
    *,
    runs: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
    evaluations: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    overwrite: bool = False,
) -> ArchivePlan:
    """Look what an archive would hold, and whether it could be written there; writes nothing."""
    refuse_address(path, "path")
    target = user_path(path).absolute()
    format_of(target)
    _check_target(engine, target, overwrite)

    def ask(con: Connection) -> ArchivePlan:
        chosen = select(con, runs=runs, files=files, evaluations=evaluations, datasets=datasets)
        whole = counts(con)
        rows = {table: whole[table] if keys is None else len(keys) for table, keys in chosen.keys.items()}
        blobs = blob_files(con, chosen.keys["blobs"])
        sizes = {blob.content_hash: blob.size for blob in blobs}
        return ArchivePlan({t: n for t, n in rows.items() if n}, len(sizes), sum(sizes.values()))

    return engine.query(ask)


def archive(
    engine: Engine,
    path: str | Path,
    *,
    runs: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
    evaluations: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Archive:
    """Write an archive; see `WorkspaceStore.archive`."""
    refuse_address(path, "path")
    target = user_path(path).absolute()
    chosen = {"runs": runs, "files": files, "evaluations": evaluations, "datasets": datasets}
    try:
        format = format_of(target)
        _check_target(engine, target, overwrite)
        made = _write(engine, target, format, chosen, overwrite, progress)
    except NirsStoreError as error:
        note(engine, "archive", message=str(error), success=False, details={"path": str(target)})
        raise
    note(engine, "archive", details={"path": str(target), "rows": made.rows, "blobs": made.blobs})
    return made


def _check_target(engine: Engine, target: Path, overwrite: bool) -> None:
    if engine.layout.holds(target.parent.resolve() / target.name):
        raise InvalidInput(
            f"path: {target} lies among the store's own files. Nothing was written; name another."
        )
    if not target.parent.is_dir():
        raise InvalidInput(f"path: there is no folder {target.parent}. Nothing was written; make it first.")
    if target.exists() and (not overwrite or target.is_dir()):
        raise InvalidInput(
            f"path: {target} exists already and was left as it is. Name another, or overwrite it with "
            "overwrite=True (on the command line: --overwrite)."
        )


def _write(
    engine: Engine,
    target: Path,
    format: str,
    chosen: dict[str, Sequence[str] | None],
    overwrite: bool,
    progress: Progress | None,
) -> Archive:
    if engine.writable:
        # The session's row comes before any claim of its.
        with engine.recording():
            pass
    sweep_drafts(target)
    draft = target.with_name(f"{target.name[:80]}.{new_id()}.tmp")
    try:
        with (
            ExitStack() as held,
            tempfile.TemporaryDirectory(
                prefix=f".{target.name[:80]}.{new_id()}", suffix=".tmp", dir=target.parent
            ) as folder,
        ):
            manifest, blobs = engine.query(lambda con: _read_rows(con, engine, chosen, Path(folder), held))
            total, done = manifest.total_bytes, 0
            with draft.open("xb") as file:
                with packer(file, format) as packed:
                    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
                    _add(packed.add, MANIFEST, len(text), _Text(text))
                    for member in manifest.members.values():
                        kind, _, name = member.member.partition("/")
                        place = Path(folder) / name if kind == "tables" else engine.blobs.path_of(blobs[name])
                        with place.open("rb") as source:
                            _add(packed.add, member.member, member.size, _Hashed(source, member, place))
                        done += member.size
                        if progress is not None:
                            progress(done, total)
                file.flush()
                os.fsync(file.fileno())
        if engine.writable:
            engine.recorder.release_claims()
        if target.exists() and not overwrite:
            raise InvalidInput(
                f"path: {target} was created by another process meanwhile and was not changed."
            )
        size = draft.stat().st_size
        move_file(draft, target)
        fsync_dir(target.parent)
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(target, error) from error
    finally:
        remove_file(draft, missing_ok=True)
    rows = {table: member.rows for table, member in manifest.tables.items()}
    return Archive(target, size, rows, len(manifest.blobs), sum(blob.size for blob in manifest.blobs))


def _read_rows(
    con: Connection,
    engine: Engine,
    chosen: dict[str, Sequence[str] | None],
    folder: Path,
    held: ExitStack,
) -> tuple[Manifest, dict[str, str]]:
    """Write the tables and claim the blobs, in one look at the catalog: no gc comes between."""
    selection = select(con, **chosen)
    blobs = blob_files(con, selection.keys["blobs"])
    if engine.writable:
        held.enter_context(engine.recorder.claiming(*(blob.artifact_id for blob in blobs)))
    files = {blob.content_hash: blob for blob in blobs}
    tables: dict[str, Member] = {}
    for table, keys in selection.keys.items():
        place = folder / f"{table}.arrow"
        rows = write_table(con, table, keys, place)
        if rows:
            with place.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            tables[table] = Member(f"tables/{table}.arrow", place.stat().st_size, digest, rows)
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        schema_version=SCHEMA_VERSION,
        nirs_store=environment().get("nirs-store", ""),
        created_at=utcnow().isoformat(),
        workspace_id=workspace_id(con),
        selection={name: None if ids is None else list(ids) for name, ids in chosen.items()},
        tables=tables,
        blobs=[Member(f"blobs/{digest}", blob.size, digest) for digest, blob in sorted(files.items())],
    )
    return manifest, {digest: blob.path for digest, blob in files.items()}


def _add(add: Callable[[str, int, IO[bytes]], None], name: str, size: int, source: Any) -> None:
    add(name, size, source)
    source.finish()


class _Text:
    """Bytes in memory as a source."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read(self, size: int = -1) -> bytes:
        piece = self._data if size < 0 else self._data[:size]
        self._data = self._data[len(piece) :]
        return bytes(piece)

    def finish(self) -> None:
        """Nothing is left to check."""


class _Hashed:
    """A file as a source that is compared with its hash when all of it was read."""

    def __init__(self, file: IO[bytes], member: Member, place: Path) -> None:
        self._file = file
        self._member = member
        self._place = place
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._digest.update(piece)
        return piece

    def finish(self) -> None:
        """Raise where the file is not what its row says."""
        if self._digest.hexdigest() != self._member.sha256 or self._file.read(1):
            raise BlobCorrupt(
                f"{self._place} is not what its row says. No archive was written; run `nirs-store check --read-data`."
            )


# -- Verifying an archive: every member against the manifest, and the rows against each other and the blobs.


_PIECE = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")


def read_manifest(path: str | Path, *, limits: Limits | None = None) -> Manifest:
    """Read what an archive says of itself, without verifying the rest."""
    bounds = limits or Limits()
    with open_members(user_path(path), bounds) as members:
        for name, size, content in members:
            return parse_manifest(members, name, size, content, bounds)
        raise members.invalid("is empty")


def parse_manifest(members: Members, name: str, size: int, content: IO[bytes], limits: Limits) -> Manifest:
    """Read the first member, and refuse what it promises beyond the limits."""
    if name != MANIFEST or size > limits.manifest_bytes:
        raise members.invalid("does not begin with a manifest of an allowed size")
    try:
        found = msgspec.json.decode(content.read(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise members.invalid(f"has a manifest that cannot be read ({error})") from error
    if found.format != FORMAT:
        raise members.invalid(f"is of the format {found.format[:60]!r}")
    if found.format_version > FORMAT_VERSION or found.schema_version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{members.path} was made by nirs_store {found.nirs_store} (archive version {found.format_version}, schema "
            f"{found.schema_version}); this one reads up to {FORMAT_VERSION} and {SCHEMA_VERSION}. Nothing was "
            "restored; upgrade nirs_store."
        )
    listed = found.members
    if len(listed) != len(found.tables) + len(found.blobs):
        raise members.invalid("names a member twice")
    for table, member in found.tables.items():
        if table not in ARCHIVED or member.member != f"tables/{table}.arrow":
            raise members.invalid(f"has a table {table[:60]!r} that an archive cannot hold")
    for member in found.blobs:
        if member.member != f"blobs/{member.sha256}":
            raise members.invalid(f"has a blob {member.member[:80]!r} whose name is not its hash")
    if any(member.size < 0 or _HASH.fullmatch(member.sha256) is None for member in listed.values()):
        raise members.invalid("has a manifest with impossible sizes or hashes")
    total, packed = found.total_bytes, members.path.stat().st_size
    if len(listed) > limits.members or total > limits.total_bytes:
        raise members.invalid(
            f"promises {len(listed):,} members and {total:,} bytes, more than the {limits.members:,} and "
            f"{limits.total_bytes:,} allowed"
        )
    if total > limits.ratio_from and total > limits.ratio * packed:
        raise members.invalid(f"promises {total:,} bytes out of {packed:,}, which no honest archive holds")
    return found


def extract(path: Path, folder: Path, limits: Limits, progress: Progress | None) -> Manifest:
    """Verify every member against the manifest while it is written into the staging folder."""
    with open_members(path, limits) as members:
        manifest: Manifest | None = None
        missing: dict[str, Member] = {}
        done = total = 0
        for name, size, content in members:
            if manifest is None:
                manifest = parse_manifest(members, name, size, content, limits)
                missing, total = manifest.members, manifest.total_bytes
                _check_space(folder, total)
                continue
            expected = missing.pop(name, None)
            if expected is None:
                raise members.invalid(
                    f"has a member {name!r} that its manifest does not name, or has it twice"
                )
            if size != expected.size:
                raise members.invalid(f"has a member {name!r} of {size:,} bytes instead of {expected.size:,}")
            _copy(members, content, folder / name.partition("/")[2], expected.size, expected.sha256, name)
            done += size
            if progress is not None:
                progress(done, total)
        if manifest is None:
            raise members.invalid("is empty")
        if missing:
            raise members.invalid(f"lacks {len(missing)} of its members, among them {sorted(missing)[0]!r}")
    return manifest


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteFailed(
            f"The archive holds {needed:,} bytes and {folder} has {free:,} free. Nothing was restored; free space."
        )


def _piece(members: Members, content: IO[bytes]) -> bytes:
    try:
        return content.read(_PIECE)
    except OSError as error:  # also a checksum of gzip that does not fit
        raise members.invalid(f"cannot be read ({error})") from error


def _copy(members: Members, content: IO[bytes], target: Path, size: int, digest: str, name: str) -> None:
    hashed, written = hashlib.sha256(), 0
    try:
        with target.open("xb") as file:
            while piece := _piece(members, content):
                written += len(piece)
                if written > size:
                    break
                hashed.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(target, error) from error
    if written != size or hashed.hexdigest() != digest:
        raise members.invalid(f"was altered: {name!r} does not have the hash that its manifest says")


def read_tables(path: Path, manifest: Manifest, folder: Path, opened: ExitStack) -> dict[str, pa.Table]:
    """Return the rows, mapped from the staging folder, checked as far as they can be without the catalog."""
    members = Members(path, Limits())
    tables: dict[str, pa.Table] = {}
    for table, member in manifest.tables.items():
        try:
            source = opened.enter_context(pa.memory_map(str(folder / f"{table}.arrow")))
            schema = arrow_schema(table)
            if bytes(source.read(len(_MAGIC))) != _MAGIC:
                raise Unfolds("it does not begin as an Arrow file")
            rows = read_rows(source, partial(_check_columns, schema), most=member.size)
            if rows.num_rows != member.rows:
                raise members.invalid(f"has a table {table!r} of other rows than it says")
            rows = rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))
        except (pa.ArrowException, OSError, Unfolds) as error:
            if isinstance(error, NirsStoreError):
                raise
            raise members.invalid(f"has a table {table!r} that cannot be read ({error})") from error
        key = key_of(table)
        if key not in rows.column_names or len(set(rows[key].to_pylist())) != rows.num_rows:
            raise members.invalid(f"has a table {table!r} with a row twice")
        tables[table] = rows
    _check_arrays(members, tables)
    _check_blobs(members, manifest, tables)
    _check_datasets(members, tables)
    for table in ("dataset_retired", "file_retired"):
        if any(row["version"] is None or not 0 < row["version"] < 2**30 for row in rows_of(tables, table)):
            raise members.invalid(f"has a row of {table} with an impossible number")
    return tables


def _check_columns(expected: pa.Schema, found: pa.Schema) -> None:
    for column in found:
        if column.name not in expected.names:
            raise Unfolds(f"it has a column {column.name[:60]!r} that is not known")
        if not same_kind(column.type, expected.field(column.name).type):
            raise Unfolds(f"its column {column.name!r} is of the type {str(column.type)[:60]}")


def _check_arrays(members: Members, tables: Mapping[str, pa.Table]) -> None:
    # An array under a false hash would stand in the way of the true one.
    if "arrays" not in tables:
        return
    for batch in tables["arrays"].to_batches(512):
        for row in batch.to_pylist():
            try:
                decode_array(row["array_hash"], row["dtype"], row["shape"], row["data"])
            except (CatalogDamaged, ValueError, TypeError) as error:
                raise members.invalid(
                    f"has an array {row['array_hash'][:64]!r} that is not its hash"
                ) from error


def _check_blobs(members: Members, manifest: Manifest, tables: Mapping[str, pa.Table]) -> None:
    there = {member.sha256: member.size for member in manifest.blobs}
    known = set()
    for row in rows_of(tables, "blobs"):
        if there.get(row["content_hash"]) != row["size_bytes"]:
            raise members.invalid(f"names an artifact {row['artifact_id'][:64]!r} that it does not hold")
        if _HASH.fullmatch(row["artifact_id"]) and row["artifact_id"] != row["content_hash"]:
            raise members.invalid(f"names an artifact {row['artifact_id']!r} that is not its hash")
        known.add(row["artifact_id"])
    for row in rows_of(tables, "artifact_refs"):
        if row["artifact_id"] not in known or row["owner_kind"] in ("session", "trash"):
            raise members.invalid(
                f"has a reference to an artifact {row['artifact_id'][:64]!r} that it does not hold"
            )


def _check_datasets(members: Members, tables: Mapping[str, pa.Table]) -> None:
    """Refuse versions of data sets whose columns this library would not have written."""
    held: dict[str, set[str]] = {}
    for ref in rows_of(tables, "artifact_refs"):
        if ref["owner_kind"] == "dataset":
            held.setdefault(ref["owner_id"], set()).add(ref["artifact_id"])
    for row in rows_of(tables, "dataset_versions"):
        try:
            named = {*msgspec.json.decode(row["spectra_ids"], type=list[str]), row["samples_id"]}
            msgspec.json.decode(row["labels"], type=list[str])
            for name in ("instrument", "selection", "metadata"):
                msgspec.json.decode(row[name] or "{}", type=dict[str, Any])
            counts = (row["version"], row["n_samples"], row["n_channels"])
            fits = named == held.get(row["dataset_version_id"]) and min(counts) > 0
        except (msgspec.DecodeError, TypeError, KeyError):
            fits = False
        if not fits:
            raise members.invalid(f"has a data set {str(row.get('name'))[:60]!r} that cannot be read")


def rows_of(tables: Mapping[str, pa.Table], table: str) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts; none where the archive lacks it."""
    found: list[dict[str, Any]] = tables[table].to_pylist() if table in tables else []
    return found


# -- Bringing an archive into a workspace: everything is verified first, then blobs, then rows in one transaction.


@dataclass(frozen=True)
class RestoredArchive:
    """What an archive added.

    Attributes
    ----------
    path : Path
    rows : dict of str to int
        New rows by table; empty when everything was there already.
    blobs, blob_bytes : int
        New files and their bytes.
    dry_run : bool
        True where nothing was changed, and this is what would be added.
    """

    path: Path
    rows: dict[str, int]
    blobs: int
    blob_bytes: int
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Placed:
    """Where the file of a blob goes."""

    content_hash: str
    relative: str
    size: int
    # Whether no row of this workspace named the file before.
    is_new: bool


def restore_archive(
    engine: Engine,
    path: str | Path,
    *,
    dry_run: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> RestoredArchive:
    """Bring an archive in; see `WorkspaceStore.restore_archive`."""
    refuse_address(path, "path")
    source = user_path(path).absolute()
    engine.check_writable()
    try:
        with _staging(engine) as folder, ExitStack() as opened:
            manifest = extract(source, folder, limits or Limits(), progress)
            tables = read_tables(source, manifest, folder, opened)
            if dry_run:
                return engine.query(lambda con: _plan(con, engine, source, tables))
            restored = engine.exclusive(lambda access: _merge(access, engine, source, folder, tables))
    except NirsStoreError as error:
        note(engine, "restore_archive", message=str(error), success=False, details={"path": str(source)})
        raise
    engine.known.clear()
    note(engine, "restore_archive", details=restored.to_dict())
    return restored


@contextmanager
def _staging(engine: Engine) -> Iterator[Path]:
    """Return a folder on the file system of the blobs, so that a verified file is moved into place in one step."""
    # The session lives for others from here on, so that nobody takes the folder for abandoned.
    with engine.recording():
        pass
    folder = engine.layout.tmp / f"archive-{engine.session_id}-{new_id()}"
    ensure_dir(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- merging -----------------------------------------------------------------------------------


def _placing(
    con: Connection, engine: Engine, tables: dict[str, pa.Table]
) -> tuple[dict[str, pa.Table], list[_Placed]]:
    """Where each blob goes, and its rows with that path; what is there whole is not written again."""
    rows = rows_of(tables, "blobs")
    if not rows:
        return tables, []
    here = {b.artifact_id: b for b in blob_files(con, [row["artifact_id"] for row in rows])}
    needed: dict[str, _Placed] = {}
    for row in rows:
        known = here.get(row["artifact_id"])
        if known is not None and known.content_hash != row["content_hash"]:
            raise InvalidInput(
                f"Artifact {row['artifact_id']} names other content in this workspace. Nothing was restored."
            )
        # A stranger's path is never used; only the ending is taken over.
        suffix = check_suffix(Path(row["artifact_path"]).suffix)
        relative = blob_key(row["content_hash"], suffix) if known is None else known.path
        row["artifact_path"] = relative
        there = engine.layout.blobs.stat(relative)
        if there is None or there.size != row["size_bytes"]:
            needed[relative] = _Placed(row["content_hash"], relative, row["size_bytes"], known is None)
    moved = pa.Table.from_pylist(rows, schema=tables["blobs"].schema)
    return {**tables, "blobs": moved}, list(needed.values())


def _plan(con: Connection, engine: Engine, path: Path, tables: dict[str, pa.Table]) -> RestoredArchive:
    _, placed = _placing(con, engine, tables)
    added = new_rows(con, tables)
    return RestoredArchive(path, added, len(placed), sum(each.size for each in placed), dry_run=True)


def _merge(
    access: Database, engine: Engine, path: Path, folder: Path, tables: dict[str, pa.Table]
) -> RestoredArchive:
    """Blobs into place, then the rows; under the lease, so that no gc sees the one without the other."""
    placed: list[_Placed] = []

    def write(con: Connection) -> dict[str, int]:
        with_paths, needed = _placing(con, engine, tables)
        placed.extend(needed)
        _put(engine, folder, needed)
        return insert_rows(con, with_paths)

    try:
        added = access.transact(write)
    except BaseException:
        # The rows did not come; files that no row names would only be found by a check.
        new = [each.relative for each in placed if each.is_new]
        engine.layout.blobs.trash(new)
        engine.layout.blobs.delete(new)
        raise
    return RestoredArchive(path, added, len(placed), sum(each.size for each in placed))


def _put(engine: Engine, folder: Path, needed: Sequence[_Placed]) -> None:
    files: dict[str, Path] = {}
    try:
        for each in needed:
            source = folder / each.content_hash
            if source in files.values():  # two artifacts have the same bytes under two endings
                source = Path(shutil.copyfile(source, source.with_suffix(f".{len(files)}")))
                sync_file(source)
            make_read_only(source)
            files[each.relative] = source
    except OSError as error:
        raise write_error(folder, error) from error
    engine.layout.blobs.put(files)
    for each in needed:
        engine.blobs.forget(each.content_hash)
