"""Writing an archive: chosen rows, their lineage and their blobs in one file, complete or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import pyarrow as pa

from nirs_store.addresses import refuse_address, user_path
from nirs_store.backup.container import FORMAT, FORMAT_VERSION, MANIFEST, Manifest, Member, format_of, packer
from nirs_store.blobs.durable import fsync_dir, move_file, remove_file, write_error
from nirs_store.db.database import Connection
from nirs_store.db.journal import sweep_drafts
from nirs_store.db.schema import SCHEMA_VERSION, TABLES, arrow_schema
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import column
from nirs_store.errors import BlobCorrupt, InvalidInput, NirsStoreError, UnknownId
from nirs_store.ids import new_id, utcnow
from nirs_store.lazy import imported_from
from nirs_store.records.notes import note
from nirs_store.records.runs import environment
from nirs_store.values import as_text

# -- Rows that leave with an archive.


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
_BATCH = 1024
# As `series_key` in files/rows.py writes it.
_SERIES_KEY = "coalesce(test_name, '') || chr(10) || name"
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


def _in(name: str, table: str) -> str:
    """Write that a column names a chosen row of a table."""
    return f"{name} IN (SELECT unnest(${table}::VARCHAR[]))"


def _any_object(prefix: str) -> str:
    """Write that a kind and an id name a chosen object."""
    parts = (
        f"({prefix}_kind = '{kind}' AND {_in(f'{prefix}_id', table)})" for kind, table in _OBJECTS.items()
    )
    return f"({' OR '.join(parts)})"


def _arrays(arrays: str = "TRUE", chains: str = "TRUE") -> str:
    return (
        "array_hash IN (SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights]) FROM prediction_arrays "
        f"WHERE {arrays} UNION SELECT wavelengths FROM chains WHERE {chains})"
    )


_VERSION = _in("version_id", "calibration_versions")
_NAMED = f"name IN (SELECT name FROM calibration_versions WHERE {_VERSION})"
_MEASURED = f"FROM measurements WHERE {_in('chain_id', 'chains')}"
_FILED = f"FROM file_versions WHERE {_in('version_id', 'file_versions')}"
_OWNERS = (
    "chains", "artifact_records", "evaluations", "file_versions", "dataset_versions", "pipelines", "runs"
)  # fmt: skip
_THERE = "artifact_id IN (SELECT artifact_id FROM blobs)"

# What belongs to what was chosen, in the order in which it is found; `$table` stands for the keys chosen of a table.
_BELONGS = {
    "pipelines": _in("run_id", "runs"),
    **dict.fromkeys(
        ("chains", "predictions", "logs", "metrics", "artifact_records", "artifact_links"),
        _in("pipeline_id", "pipelines"),
    ),
    "prediction_arrays": _in("prediction_id", "predictions"),
    "arrays": _arrays(_in("prediction_id", "prediction_arrays"), _in("chain_id", "chains")),
    "evaluations": f"{_in('run_id', 'runs')} OR {_in('chain_id', 'chains')}",
    "champions": _in("evaluation_id", "evaluations"),
    "file_versions": f"{_in('run_id', 'runs')} OR {_in('evaluation_id', 'evaluations')}",
    "dataset_versions": "dataset_version_id IN (SELECT unnest([metadata ->> '$.dataset_version_id', "
    f"metadata ->> '$.dataset_test_version_id']) FROM chains WHERE {_in('chain_id', 'chains')})",
    "file_types": f"type IN (SELECT type {_FILED})",
    "dataset_retired": "name IN (SELECT name FROM dataset_versions WHERE "
    f"{_in('dataset_version_id', 'dataset_versions')})",
    "file_retired": f"series IN (SELECT {_SERIES_KEY} {_FILED})",
    "file_aliases": _in("version_id", "file_versions"),
    "processing_runs": f"processing_id IN (SELECT processing_id {_FILED})",
    "calibration_versions": _in("chain_id", "chains"),
    "signatures": _VERSION,
    "calibration_aliases": "(name, alias) IN (SELECT (p.name, p.alias) FROM (SELECT * FROM calibration_aliases QUALIFY "
    "row_number() OVER (PARTITION BY name, alias ORDER BY number DESC) = 1) p JOIN calibration_versions v ON "
    f"v.name = p.name AND v.version = p.version WHERE {_in('v.version_id', 'calibration_versions')})",
    "calibration_rules": _NAMED,
    "calibration_retired": _NAMED,
    # Those of deleted versions too, where measurements were made with them.
    "corrections": "EXISTS (SELECT 1 FROM calibration_versions v WHERE v.name = corrections.calibration "
    f"AND v.version = corrections.version AND {_in('v.version_id', 'calibration_versions')}) "
    f"OR correction_id IN (SELECT correction_id {_MEASURED})",
    "measurements": _in("chain_id", "chains"),
    "sample_references": f"sample_id IN (SELECT sample_id {_MEASURED})",
    "artifact_refs": f"owner_kind <> 'session' AND {_THERE} AND ({_in('pipeline_id', 'pipelines')} OR "
    f"{' OR '.join(_in('owner_id', table) for table in _OWNERS)})",
    "blobs": f"artifact_id IN (SELECT artifact_id FROM artifact_refs WHERE {_in('ref_id', 'artifact_refs')})",
    "lineage_links": f"{_any_object('source')} AND {_any_object('target')}",
    "pins": _any_object("object"),
}


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
    runs: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
    evaluations: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
) -> dict[str, list[str] | None]:
    """Choose rows: of runs, evaluations, files and data sets (patterns of names, or ids of versions); none named: all.

    Gives the keys of the rows of each table that go; None stands for the whole table. With a run go the data sets that
    its chains name.
    """
    if runs is None and files is None and evaluations is None and datasets is None:
        whole: dict[str, list[str] | None] = dict.fromkeys(ARCHIVED)
        # What only a session holds belongs to no pipeline yet. Nothing leaves that only the trash names.
        refs = _keys(con, "artifact_refs", f"owner_kind NOT IN ('session', 'trash') AND {_THERE}", {})
        blobs = _keys(con, "blobs", _BELONGS["blobs"], {"artifact_refs": refs})
        return whole | {"artifact_refs": refs, "blobs": blobs, "arrays": _keys(con, "arrays", _arrays(), {})}
    found = {
        "runs": _named(con, "run", "runs", runs or ()),
        "evaluations": _named(con, "evaluation", "evaluations", evaluations or ()),
        "file_versions": _patterns(con, "files", "file_versions", files or ()),
        "dataset_versions": _patterns(con, "datasets", "dataset_versions", datasets or ()),
    }
    for table, where in _BELONGS.items():
        found[table] = _union(found.get(table, ()), _keys(con, table, where, found))
        if table == "file_versions":
            found[table] = _with_members(con, found[table])
    return {table: found[table] for table in ARCHIVED}


def _keys(con: Connection, table: str, where: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """Find the keys of rows; the condition names its values as `$name`."""
    key = key_of(table)
    params = {name: list(values[name]) for name in re.findall(r"\$(\w+)", where)}
    return column(con, f"SELECT {key} FROM {table} WHERE {where} ORDER BY {key}", params)


def _named(con: Connection, kind: str, table: str, wanted: Sequence[str]) -> list[str]:
    if isinstance(wanted, str):
        raise InvalidInput(f"{table}: expected a list of ids, found one text. Nothing was done.")
    found = _keys(con, table, _in(key_of(table), "ids"), {"ids": wanted})
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
        keys = _keys(con, table, f"{key_of(table)} = $one[1] OR name GLOB $one[1]", {"one": [pattern]})
        if not keys:
            raise UnknownId(word.removesuffix("s"), pattern, "No name fits it either. Nothing was done.")
        found = _union(found, keys)
    return found


def _with_members(con: Connection, versions: list[str]) -> list[str]:
    """Return groups with their members, and the members of those."""
    found, new = versions, versions
    while new:
        members = column(
            con,
            "SELECT DISTINCT unnest(json_extract_string(members, '$.*')) FROM file_versions "
            "WHERE list_contains(?, version_id) AND members IS NOT NULL",
            [new],
        )
        named = [each for each in members if each not in set(found)]
        new = _keys(con, "file_versions", _in("version_id", "ids"), {"ids": named})
        found = _union(found, new)
    return found


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


# -- Writing them, with their blobs, into one file.


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


def of_model(engine: Engine, model_id: str) -> list[list[str]]:
    """Find what belongs to a model: runs, versions of files, evaluations."""
    asked = {"model": as_text(model_id, "model_id")}
    questions = (
        "SELECT p.run_id FROM chains c JOIN pipelines p USING (pipeline_id) WHERE c.chain_id = $model",
        "SELECT version_id FROM file_versions WHERE model_id = $model ORDER BY version_id",
        "SELECT evaluation_id FROM evaluations WHERE model_id = $model ORDER BY evaluation_id",
    )
    found = engine.query(lambda con: [column(con, sql, asked) for sql in questions])
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
) -> Archive | ArchivePlan:
    """Write an archive of a selection or of a model, or plan it; see `WorkspaceStore.archive`."""
    if model_id is not None:
        if any(given is not None for given in selection.values()):
            raise InvalidInput(
                "model_id: name it, or runs, files, evaluations and data sets; not both. Nothing was written."
            )
        found = of_model(engine, model_id)
        selection |= dict(zip(("runs", "files", "evaluations"), found, strict=True))
    refuse_address(path, "path")
    target = user_path(path).absolute()
    try:
        format = format_of(target)
        _check_target(engine, target, overwrite)
        if dry_run:
            return engine.query(lambda con: _plan(con, selection))
        made = _write(engine, target, format, selection, overwrite, progress)
    except NirsStoreError as error:
        if not dry_run:
            note(engine, "archive", message=str(error), success=False, details={"path": str(target)})
        raise
    note(engine, "archive", details={"path": str(target), "rows": made.rows, "blobs": made.blobs})
    return made


def _plan(con: Connection, selection: dict[str, Sequence[str] | None]) -> ArchivePlan:
    chosen = select(con, **selection)
    rows = {
        table: number(con, f"SELECT count(*) FROM {table}") if keys is None else len(keys)
        for table, keys in chosen.items()
    }
    sizes = {blob.content_hash: blob.size for blob in blob_files(con, chosen["blobs"])}
    return ArchivePlan(
        {table: count for table, count in rows.items() if count}, len(sizes), sum(sizes.values())
    )


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
                with packer(file, format) as add:
                    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
                    add(MANIFEST, len(text), io.BytesIO(text))
                    for member in manifest.members.values():
                        kind, _, name = member.member.partition("/")
                        place = Path(folder) / name if kind == "tables" else engine.blobs.path_of(blobs[name])
                        with place.open("rb") as source:
                            hashed = _Hashed(source, member, place)
                            add(member.member, member.size, cast(IO[bytes], hashed))
                            hashed.finish()
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
    blobs = blob_files(con, selection["blobs"])
    if engine.writable:
        held.enter_context(engine.recorder.claiming(*(blob.artifact_id for blob in blobs)))
    files = {blob.content_hash: blob for blob in blobs}
    tables: dict[str, Member] = {}
    for table, keys in selection.items():
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


# Its old home: pickles name it.
__getattr__ = imported_from(__name__, {"nirs_store.backup.staging": ("RestoredArchive",)})
