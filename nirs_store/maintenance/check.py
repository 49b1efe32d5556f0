"""Checking a workspace: everything is looked at, nothing is changed.

The lease is shared while rows and folder are compared, so nobody applies the journal or collects
meanwhile; recording goes on. Blobs are hashed after the lease was given up, because that can take
long, and what looks bad is looked at again under it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import duckdb
import pyarrow as pa

from nirs_store.blobs.backend import BLOBS, BlobBackend, hash_blob, stat_blob
from nirs_store.blobs.plain import read_plain
from nirs_store.blobs.store import is_blob_key
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import ReplayPlan
from nirs_store.db.apply import DRAGS, OWNERS, applied_ids
from nirs_store.db.audit_chain import has_trail, read_head, verify_chain
from nirs_store.db.change_count import LOST, ChangeCount
from nirs_store.db.claims import living, read_claims
from nirs_store.db.connection import Options
from nirs_store.db.database import Connection, Database
from nirs_store.db.interrupts import interruptible
from nirs_store.db.journal import (
    Entry,
    Journal,
    Rejection,
    Segment,
    SegmentDamaged,
    SegmentNewer,
    decode,
    decode_array,
    is_commit_name,
    leftovers,
    read_entry,
)
from nirs_store.db.layout import Layout, as_folder, refuse_linked_folders
from nirs_store.db.objects import altered_views, foreign_objects, objects_of
from nirs_store.db.schema import CATALOG_ALIAS, SCHEMA_VERSION, VIEWS
from nirs_store.db.sql import number
from nirs_store.errors import (
    CatalogDamaged,
    ForeignCatalog,
    NirsStoreError,
    NotAWorkspace,
    PathEscapes,
    SchemaTooNew,
    WriteFailed,
)
from nirs_store.values import as_seconds, from_json

__all__ = [
    "LEFTOVER_AGE",
    "SEVERITIES",
    "BlobRow",
    "ChainRow",
    "CheckReport",
    "Dangling",
    "Expected",
    "Finding",
    "Inspection",
    "Progress",
    "Reference",
    "Severity",
    "Structure",
    "Surroundings",
    "altered_arrays",
    "audit_findings",
    "catalog_damaged",
    "check",
    "check_workspace",
    "examine",
    "expected_files",
    "hash_files",
    "is_old",
    "look_around",
    "look_at",
    "read_segment",
    "reader_of",
    "stem_of",
    "unknown_files",
    "unreadable",
]


# -- What `check` asks: the catalog as it lies, with the rows of pending commits beside it.


_ARRAYS = ("y_true", "y_pred", "y_proba", "sample_indices", "weights")

# The columns that are asked for; the bytes of arrays stay where they are.
_ASKED: dict[str, tuple[str, ...]] = {
    "sessions": ("session_id",),
    "runs": ("run_id",),
    "pipelines": ("pipeline_id", "run_id"),
    "chains": (
        "chain_id", "pipeline_id", "steps", "model_step_idx", "fold_artifacts", "shared_artifacts",
        "branch_path", "source_index", "fold_weights", "wavelengths",
    ),
    "predictions": ("prediction_id", "pipeline_id", "chain_id"),
    "arrays": ("array_hash",),
    "prediction_arrays": ("prediction_id", "pipeline_id", *_ARRAYS),
    "blobs": ("artifact_id", "artifact_path", "content_hash", "size_bytes"),
    "artifact_refs": ("ref_id", "artifact_id", "owner_kind", "owner_id", "pipeline_id"),
    "artifact_records": ("record_id", "pipeline_id", "artifact_id"),
    "artifact_links": ("link_id", "record_id", "artifact_id", "pipeline_id"),
    "logs": ("log_id", "pipeline_id"),
    "metrics": ("metric_id", "pipeline_id"),
    "trash": ("trash_id", "holds"),
    "file_versions": ("version_id", "artifact_id"),
    "evaluations": ("evaluation_id", "episodes_id", "samples_id"),
    "dataset_versions": ("dataset_version_id", "spectra_ids", "samples_id"),
    "calibration_versions": ("version_id", "name", "version", "chain_id"),
    "calibration_aliases": ("alias_id", "name", "alias", "number", "version"),
    "signatures": ("signature_id", "version_id"),
    "measurements": ("measurement_id", "correction_id"),
    "corrections": ("correction_id",),
    "sample_references": ("reference_id", "replaces"),
}  # fmt: skip

# child, its key, the column that names the parent, the parent, the parent's key
_RELATIONS = (
    ("pipelines", "pipeline_id", "run_id", "runs", "run_id"),
    ("chains", "chain_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("predictions", "prediction_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("predictions", "prediction_id", "chain_id", "chains", "chain_id"),
    ("prediction_arrays", "prediction_id", "prediction_id", "predictions", "prediction_id"),
    ("logs", "log_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("metrics", "metric_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("artifact_records", "record_id", "pipeline_id", "pipelines", "pipeline_id"),
    ("artifact_links", "link_id", "record_id", "artifact_records", "record_id"),
)


class Dangling(NamedTuple):
    """A row whose parent is not there."""

    table: str
    key: str
    column: str
    parent: str


class ChainRow(NamedTuple):
    """What tells which artifacts a chain needs; JSON columns as text."""

    chain_id: str
    steps: str
    model_step_idx: int
    fold_artifacts: str | None
    shared_artifacts: str | None
    branch_path: str | None
    source_index: int | None
    fold_weights: str | None


class BlobRow(NamedTuple):
    """An artifact and its file."""

    artifact_id: str
    path: str
    content_hash: str
    size: int


class Reference(NamedTuple):
    """Who holds an artifact."""

    ref_id: str
    artifact_id: str
    owner_kind: str
    owner_id: str


class Inspection:
    """Questions to a catalog that is open read-only, and to the commits that it has not got yet.

    Pending rows whose owner was deleted do not count: applying them would drop them.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, segments: Sequence[Segment]) -> None:
        self._con = con
        self._waiting: set[str] = set()
        self._lacking = self._older_than()
        if segments:
            applied = {str(row[0]) for row in self._rows("SELECT txid FROM applied")}
            self._lay_beside([segment for segment in segments if segment.txid not in applied])

    def _older_than(self) -> set[str]:
        """Tables that came after this catalog was made: an older one is checked as it is.

        DuckDB's list of tables takes ten times as long as any other question here, so it is not asked of a catalog
        of the present version; what that lacks, it has lost.
        """
        with contextlib.suppress(CatalogDamaged):  # said by whoever asks for the version itself
            if self.version() == SCHEMA_VERSION:
                return set()
        listed = "SELECT table_name FROM duckdb_tables() WHERE database_name = ?"
        return set(_ASKED) - {str(row[0]) for row in self._rows(listed, [CATALOG_ALIAS])}

    def _lay_beside(self, segments: list[Segment]) -> None:
        deleted = bool(self._rows("SELECT 1 FROM dead LIMIT 1"))
        if deleted:
            self._rows("CREATE TEMP TABLE gone AS SELECT id, kind FROM dead")
        for table, columns in _ASKED.items():
            parts = [s.tables[table].select(list(columns)) for s in segments if table in s.tables]
            if not parts:
                continue
            self._waiting.add(table)
            if not deleted:
                self._con.register(f"waiting_{table}", pa.concat_tables(parts))
                continue
            self._con.register("incoming", pa.concat_tables(parts))
            try:
                dropped = " OR ".join(
                    f"EXISTS (SELECT 1 FROM gone g WHERE g.id = i.{column} AND g.kind = '{kind}')"
                    for column, kind in OWNERS.get(table, ())
                    if column in columns
                )
                dropped = dropped or "FALSE"
                drag = DRAGS.get(table)
                self._rows(
                    f"CREATE TEMP TABLE waiting_{table} AS SELECT * FROM incoming i WHERE NOT ({dropped})"
                )
                if drag is not None:
                    self._rows(f"INSERT INTO gone SELECT i.{drag}, 'deleted' FROM incoming i WHERE {dropped}")
            finally:
                self._con.unregister("incoming")

    def _all(self, table: str) -> str:
        """Return a table with its pending rows."""
        columns = ", ".join(_ASKED[table])
        own = f"SELECT {columns} FROM {table}"
        if table in self._lacking:
            nothing = ", ".join(f"NULL::VARCHAR AS {column}" for column in _ASKED[table])
            own = f"SELECT {nothing} WHERE FALSE"
        if table not in self._waiting:
            return f"({own})"
        return f"({own} UNION ALL SELECT {columns} FROM waiting_{table})"

    def _rows(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        try:
            return self._con.execute(sql, params if params is not None else []).fetchall()
        except duckdb.Error as error:
            raise CatalogDamaged(f"the catalog cannot be read: {error}") from error

    def version(self) -> int:
        """Return schema version of the catalog."""
        return int(self._rows("SELECT value FROM nirs_store_meta WHERE key = 'schema_version'")[0][0])

    # -- counts --------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Rows of each table that people record, pending ones included."""
        parts = (
            # A pending row may repeat one that is there: the same array, artifact or session.
            f"SELECT '{table}', count(DISTINCT {columns[0]}) FROM {self._all(table)}"
            if table in self._waiting
            else f"SELECT '{table}', count(*) FROM {table}"
            for table, columns in _ASKED.items()
            if table in self._waiting or table not in self._lacking
        )
        return {str(table): int(count) for table, count in self._rows(" UNION ALL ".join(parts))}

    def dropped(self) -> dict[str, int]:
        """Rows dropped so far because what they belong to was deleted, by table."""
        rows = self._rows(
            "SELECT table_name, sum(rows) FROM dropped WHERE table_name <> ? GROUP BY ALL ORDER BY ALL",
            [LOST],
        )
        return {str(table): int(count) for table, count in rows}

    def lost(self, layout: Layout) -> int:
        """Return changes that the catalog lacks, noticed now or earlier."""
        ((noticed,),) = self._rows("SELECT sum(rows) FROM dropped WHERE table_name = ?", [LOST])
        return int(noticed or 0) + ChangeCount(layout).missing(self._con)

    def deferred(self) -> list[tuple[str, str]]:
        """Return changes whose row never came: what was to be done, and to which id."""
        return [
            (str(kind), str(ident))
            for kind, ident in self._rows(
                "SELECT kind, id FROM deferred d WHERE "
                f"NOT EXISTS (SELECT 1 FROM {self._all('runs')} r WHERE r.run_id = d.id) AND "
                f"NOT EXISTS (SELECT 1 FROM {self._all('pipelines')} p WHERE p.pipeline_id = d.id) "
                "ORDER BY number, position"
            )
        ]

    # -- rows that belong together -------------------------------------------------------------

    def dangling(self) -> list[Dangling]:
        """Rows whose parent is neither in the catalog nor pending."""
        parts = (
            f"SELECT '{child}', c.{key}, '{column}', c.{column} FROM {self._all(child)} c "
            f"WHERE c.{column} IS NOT NULL AND NOT EXISTS "
            f"(SELECT 1 FROM {self._all(parent)} p WHERE p.{parent_key} = c.{column})"
            for child, key, column, parent, parent_key in _RELATIONS
        )
        return [Dangling(*map(str, row)) for row in self._rows(" UNION ALL ".join(parts) + " ORDER BY ALL")]

    def broken_calibrations(self) -> list[tuple[str, str, str]]:
        """Versions without their chain, aliases and signatures without their version: what, which, why."""
        versions, aliases = self._all("calibration_versions"), self._all("calibration_aliases")
        rows = self._rows(
            f"WITH present AS (SELECT * FROM {aliases} QUALIFY row_number() OVER (PARTITION BY name, alias ORDER BY "
            "number DESC) = 1) "
            "SELECT 'alias', p.name || '@' || p.alias, 'it points to the version ' || p.version || ', which is gone.' "
            f"FROM present p WHERE p.version IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {versions} v WHERE "
            "v.name = p.name AND v.version = p.version) UNION ALL "
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM present p WHERE p.name = v.name AND p.version = v.version) "
            "THEN 'alias' ELSE 'version' END, v.name || '@v' || v.version, 'its chain ' || v.chain_id || ' is gone.' "
            f"FROM {versions} v WHERE NOT EXISTS (SELECT 1 FROM {self._all('chains')} c WHERE c.chain_id = v.chain_id) "
            "UNION ALL SELECT 'signature', s.signature_id, 'the version ' || s.version_id || ' is gone.' "
            f"FROM {self._all('signatures')} s WHERE NOT EXISTS (SELECT 1 FROM {versions} v WHERE "
            "v.version_id = s.version_id) UNION ALL SELECT 'correction', m.correction_id, 'it is gone, and ' || "
            f"count(*) || ' measurements were corrected by it.' FROM {self._all('measurements')} m WHERE "
            f"m.correction_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {self._all('corrections')} k WHERE "
            "k.correction_id = m.correction_id) GROUP BY m.correction_id UNION ALL SELECT 'reference', "
            f"r.reference_id, 'the value that it corrects, ' || r.replaces || ', is gone.' FROM "
            f"{self._all('sample_references')} r WHERE r.replaces IS NOT NULL AND NOT EXISTS (SELECT 1 FROM "
            f"{self._all('sample_references')} o WHERE o.reference_id = r.replaces) ORDER BY ALL"
        )
        return [(str(row[0]), str(row[1]), str(row[2])) for row in rows]

    def missing_arrays(self) -> list[str]:
        """Hashes that predictions or chains name and no row of `arrays` has."""
        return [
            str(row[0])
            for row in self._rows(
                f"SELECT DISTINCT h FROM {self._array_uses()} u WHERE NOT EXISTS "
                f"(SELECT 1 FROM {self._all('arrays')} a WHERE a.array_hash = u.h) ORDER BY h"
            )
        ]

    def users_of_array(self, array_hash: str) -> list[str]:
        """Ids of the predictions and chains that name an array."""
        return [
            str(row[0])
            for row in self._rows(
                f"SELECT DISTINCT owner FROM {self._array_uses()} WHERE h = ? ORDER BY owner",
                [array_hash],
            )
        ]

    def _array_uses(self) -> str:
        names = ", ".join(_ARRAYS)
        return (
            f"(SELECT h, owner FROM (SELECT unnest([{names}]) AS h, prediction_id AS owner "
            f"FROM {self._all('prediction_arrays')} UNION ALL "
            f"SELECT wavelengths, chain_id FROM {self._all('chains')} UNION ALL "
            f"SELECT unnest(json_extract_string(holds, '$.arrays[*]')), trash_id FROM {self._all('trash')}) "
            "WHERE h IS NOT NULL)"
        )

    # -- artifacts -----------------------------------------------------------------------------

    def chains(self) -> Iterator[ChainRow]:
        """All chains, ordered by id."""
        columns = ", ".join(ChainRow._fields)
        for row in self._rows(f"SELECT {columns} FROM {self._all('chains')} ORDER BY chain_id"):
            yield ChainRow(*row)

    def blobs(self) -> list[BlobRow]:
        """All artifacts that have a row."""
        return [
            BlobRow(str(ident), str(path), str(digest), int(size))
            for ident, path, digest, size in self._rows(
                "SELECT artifact_id, first(artifact_path), first(content_hash), first(size_bytes) "
                f"FROM {self._all('blobs')} GROUP BY artifact_id ORDER BY artifact_id"
            )
        ]

    def references(self) -> list[Reference]:
        """All references."""
        return [
            Reference(*map(str, row))
            for row in self._rows(
                "SELECT DISTINCT ref_id, artifact_id, owner_kind, owner_id "
                f"FROM {self._all('artifact_refs')} ORDER BY ref_id"
            )
        ]

    def recorded(self) -> dict[str, list[str]]:
        """Artifacts that records of the artifact layer hold: their own, and those that they need."""
        found: dict[str, list[str]] = {}
        for record, artifact in self._rows(
            f"SELECT record_id, artifact_id FROM {self._all('artifact_records')} UNION "
            f"SELECT l.record_id, l.artifact_id FROM {self._all('artifact_links')} l "
            f"JOIN {self._all('artifact_records')} r USING (record_id) ORDER BY ALL"
        ):
            found.setdefault(str(record), []).append(str(artifact))
        return found

    def filed(self) -> dict[str, list[str]]:
        """Artifacts that versions of files hold."""
        return {
            str(version): [str(artifact)]
            for version, artifact in self._rows(
                f"SELECT version_id, artifact_id FROM {self._all('file_versions')} "
                "WHERE artifact_id IS NOT NULL ORDER BY version_id"
            )
        }

    def evaluated(self) -> dict[str, list[str]]:
        """Tables of episodes and samples that evaluations hold."""
        return {
            str(row[0]): [str(artifact) for artifact in row[1:] if artifact is not None]
            for row in self._rows(
                f"SELECT evaluation_id, episodes_id, samples_id FROM {self._all('evaluations')} "
                "WHERE coalesce(episodes_id, samples_id) IS NOT NULL ORDER BY evaluation_id"
            )
        }

    def stored_spectra(self) -> dict[str, list[str]]:
        """Files of spectra and samples that versions of data sets hold."""
        return {
            str(version): [str(artifact) for artifact in artifacts]
            for version, artifacts in self._rows(
                "SELECT dataset_version_id, list_append(json_extract_string(spectra_ids, '$[*]'), samples_id) "
                f"FROM {self._all('dataset_versions')} ORDER BY dataset_version_id"
            )
        }

    def missing_sessions(self) -> list[str]:
        """Sessions that hold artifacts and have no row."""
        return [
            str(row[0])
            for row in self._rows(
                f"SELECT DISTINCT owner_id FROM {self._all('artifact_refs')} r WHERE owner_kind = 'session' "
                f"AND NOT EXISTS (SELECT 1 FROM {self._all('sessions')} s WHERE s.session_id = r.owner_id) "
                "ORDER BY owner_id"
            )
        ]


# -- Reading a whole catalog: every column and index, so that DuckDB verifies every block, and every array.


def unreadable(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str, str | None]]:
    """Read every column and every index; DuckDB verifies the checksum of each block it reads.

    Tables that never had a row have no blocks and are passed over.
    """
    try:
        columns = con.execute(
            "SELECT c.table_name, c.column_name FROM duckdb_columns() c JOIN duckdb_tables() t USING (table_oid, "
            "database_name) WHERE database_name = ? AND c.schema_name = 'main' AND NOT c.internal "
            "AND t.estimated_size > 0 "
            "ORDER BY c.table_name, c.column_index",
            [CATALOG_ALIAS],
        ).fetchall()
        keys = con.execute(
            "SELECT table_name, constraint_column_names[1] FROM duckdb_constraints() WHERE database_name = ? "
            "AND schema_name = 'main' AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') "
            "AND len(constraint_column_names) = 1 ORDER BY ALL",
            [CATALOG_ALIAS],
        ).fetchall()
    except duckdb.Error as error:
        raise CatalogDamaged(f"the catalog cannot be read: {error}") from error
    by_table: dict[str, list[str]] = {}
    for table, column in columns:
        by_table.setdefault(str(table), []).append(str(column))
    for table, names in by_table.items():
        # All columns at once, and one by one only to tell which of them it is.
        if _unread(con, table, names) is None:
            yield table, "columns", None
            continue
        for name in names:
            yield table, f"column {name}", _unread(con, table, [name])
    for table, column in keys:
        if str(table) not in by_table:
            continue
        try:
            yield str(table), "index", _differs(con, _name(str(table)), _name(str(column)))
        except duckdb.Error as error:
            yield str(table), "index", str(error)


def _unread(con: duckdb.DuckDBPyConnection, table: str, columns: list[str]) -> str | None:
    hashed = ", ".join(f"bit_xor(hash({_name(column)}))" for column in columns)
    try:
        con.execute(f"SELECT {hashed} FROM {_name(table)}").fetchall()
    except duckdb.Error as error:
        return str(error)
    return None


def _differs(con: duckdb.DuckDBPyConnection, table: str, key: str) -> str | None:
    """Walk a whole index: lookups and inserts use blocks that no scan of the table ever reads."""
    ((rows, least),) = con.execute(f"SELECT count(*), min({key}) FROM {table}").fetchall()
    if not rows:
        return None
    # Everything above the smallest key, and that one: DuckDB answers both from the index (see
    # `Options.whole_indexes`), where `>=` would be found to hold for every row and scanned.
    found = number(con, f"SELECT count({key}) FROM {table} WHERE {key} = ?", [least])
    found += number(con, f"SELECT count({key}) FROM {table} WHERE {key} > ?", [least])
    return None if found == rows else f"it finds {found} of {rows} rows"


def altered_arrays(con: duckdb.DuckDBPyConnection, segments: Sequence[Segment]) -> Iterator[str]:
    """Hash every array again, also those of pending commits; yields the hashes that no longer fit."""
    try:
        for batch in con.sql("SELECT array_hash, dtype, shape, data FROM arrays").to_arrow_reader(512):
            yield from _altered(batch)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise CatalogDamaged(f"the catalog cannot be read: {error}") from error
    for segment in segments:
        if "arrays" in segment.tables:
            for batch in segment.tables["arrays"].to_batches():
                yield from _altered(batch)


def _altered(batch: pa.RecordBatch) -> Iterator[str]:
    for array_hash, dtype, shape, data in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        try:
            decode_array(array_hash, dtype, shape, data)
        except CatalogDamaged:
            yield array_hash


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


# -- What a check found, as plain values.


Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first. An error means that something recorded cannot be had or may be lost; a warning that something
should be cleaned up; an info is a fact."""

_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    kind : str
        A stable name, e.g. "blob_corrupt".
    severity : {"error", "warning", "info"}
        See `SEVERITIES`.
    where : str
        The file below the workspace, or the row as ``table/id``.
    message : str
        What was expected and what was found.
    affects : tuple of str
        Ids of the chains that cannot replay, and of the predictions and data sets that cannot be read, because of it.
    remedy : str
        What to do; empty for a fact.
    subject : tuple of str
        The ids that a repair works on.
    """

    kind: str
    severity: Severity
    where: str
    message: str
    affects: tuple[str, ...] = ()
    remedy: str = ""
    subject: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.severity}: {self.where}: {self.message}"
        if self.affects:
            shown = ", ".join(self.affects[:_SHOWN])
            more = f" and {len(self.affects) - _SHOWN} more" if len(self.affects) > _SHOWN else ""
            text += f"\n    affects {shown}{more}"
        return f"{text}\n    {self.remedy}" if self.remedy else text


@dataclass(frozen=True)
class CheckReport:
    """What a check found, worst first.

    Attributes
    ----------
    workspace : str
        The folder.
    read_data : bool
        Whether every byte was read, or only the structure looked at.
    findings : tuple of Finding
        Empty for a store without any peculiarity.
    counts : dict of str to int
        What was looked at: rows by table (pending commits included), ``files`` and ``bytes`` of blobs,
        ``segments``.
    """

    workspace: str
    read_data: bool
    findings: tuple[Finding, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_findings(
        cls, workspace: str, read_data: bool, findings: Iterable[Finding], counts: Mapping[str, int]
    ) -> CheckReport:
        """Make a report: worst first, the same finding once."""
        unique = {(f.kind, f.where, f.subject): f for f in findings}
        ordered = sorted(unique.values(), key=lambda f: (SEVERITIES.index(f.severity), f.kind, f.where))
        return cls(workspace, read_data, tuple(ordered), dict(counts))

    @property
    def ok(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return all(finding.severity == "info" for finding in self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def affected(self) -> tuple[str, ...]:
        """Ids of all chains, predictions and versions of data sets that something found affects."""
        return tuple(sorted({ident for finding in self.findings for ident in finding.affects}))

    def of_kind(self, *kinds: str) -> tuple[Finding, ...]:
        """Return the findings of some kinds."""
        return tuple(finding for finding in self.findings if finding.kind in kinds)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "workspace": self.workspace,
            "read_data": self.read_data,
            "ok": self.ok,
            "counts": dict(self.counts),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = []
        left = Counter(finding.kind for finding in self.findings)
        shown: Counter[str] = Counter()
        for finding in self.findings:
            shown[finding.kind] += 1
            left[finding.kind] -= 1
            if shown[finding.kind] <= _SHOWN:
                lines.append(str(finding))
            if shown[finding.kind] == _SHOWN and left[finding.kind]:
                lines.append(f"{finding.severity}: {left[finding.kind]} more of this kind ({finding.kind})")
        return "\n".join([*lines, self._summary()])

    def _summary(self) -> str:
        looked = ", ".join(
            f"{self.counts[name]:,} {name}"
            for name in ("runs", "chains", "predictions", "files", "segments")
            if name in self.counts
        )
        depth = "every byte read" if self.read_data else "structure only; --read-data reads every byte"
        errors, warnings = len(self.errors), len(self.warnings)
        verdict = "No damage found" if self.ok else f"{errors} errors, {warnings} warnings"
        return f"{verdict} ({looked}; {depth})." if looked else f"{verdict} ({depth})."


# -- What a check says of the audit trail: entries that were altered, replaced or removed.


_REMEDY = (
    "Compare with an export of the trail that is kept elsewhere. `nirs-store audit head` takes the trail as it "
    "is now for the one to go on from."
)


def audit_findings(con: duckdb.DuckDBPyConnection, layout: Layout) -> list[Finding]:
    """Verify the chain of hashes in a catalog that is open for looking."""
    head = read_head(layout)
    try:
        # An older catalog is checked as it is, and has no trail yet.
        if not has_trail(con):
            return []
        _, breaks = verify_chain(con, [] if head is None else [head])
    except duckdb.Error as error:
        raise CatalogDamaged(f"the audit trail cannot be read: {error}") from error
    return [
        Finding(
            "audit_broken",
            "error",
            f"audit_entries/{found.number}",
            f"the audit trail does not hold: {found.reason}.",
            remedy=_REMEDY,
        )
        for found in breaks
    ]


# -- What lies in a workspace's folder beside the catalog: blobs, claims, commits, leftovers.


LEFTOVER_AGE = 3600.0


@dataclass
class Surroundings:
    """One look at the folder."""

    files: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)
    alive: set[str] = field(default_factory=set)
    dead_claims: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    damaged: list[tuple[Entry, str]] = field(default_factory=list)
    newer: list[tuple[Entry, str]] = field(default_factory=list)
    rejected: list[tuple[Rejection, Segment | None]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    aside_strays: list[str] = field(default_factory=list)

    def leave_out(self, applied: set[str]) -> None:
        """Forget commits that the catalog holds: they lie in the journal until the next checkpoint."""
        self.segments = [segment for segment in self.segments if segment.txid not in applied]
        self.damaged = [found for found in self.damaged if found[0].txid not in applied]

    def findings(self) -> list[Finding]:
        """Return what is to be said about commits and leftovers."""
        return [*self._commits(), *self._remains()]

    def _commits(self) -> list[Finding]:
        found = []
        if self.segments:
            rows = sum(table.num_rows for segment in self.segments for table in segment.tables.values())
            found.append(
                Finding(
                    "segments_pending",
                    "info",
                    "journal/segments",
                    f"{len(self.segments)} commits with {rows:,} rows wait to be applied; the next query of a store "
                    "that may write applies them.",
                )
            )
        found += [
            Finding(
                "segment_damaged",
                "error",
                f"journal/segments/{entry.path.name}",
                f"a commit that cannot be applied: {reason}.",
                remedy="Bring the file back from a backup; `nirs-store repair` rejects it.",
                subject=(entry.path.name,),
            )
            for entry, reason in self.damaged
        ]
        found += [
            Finding(
                "segment_newer",
                "warning",
                f"journal/segments/{entry.path.name}",
                f"a commit of a newer version of nirs_store: {reason}. Its rows were not looked at.",
                remedy="Upgrade nirs_store here, or ask the store with the newer version, which applies it.",
            )
            for entry, reason in self.newer
        ]
        for rejection, segment in self.rejected:
            lost = "" if segment is None else f" It holds {_rows_of(segment)}."
            found.append(
                Finding(
                    "segment_rejected",
                    "error",
                    f"journal/rejected/{rejection.path.name}",
                    f"a commit that could not be applied: {rejection.reason}.{lost}",
                    affects=() if segment is None else _ids_of(segment),
                    remedy="Its rows are not in the catalog; record them again, or keep the file as evidence.",
                )
            )
        if self.aside_strays:
            found.append(
                Finding(
                    "unknown_file",
                    "warning",
                    "journal/aside",
                    f"{len(self.aside_strays)} files that are not pending deletion, left alone: "
                    f"{', '.join(map(repr, self.aside_strays[:5]))}.",
                    remedy="Look at them, and remove them.",
                )
            )
        if self.strays:
            found.append(
                Finding(
                    "unknown_file",
                    "info",
                    "journal/segments",
                    f"{len(self.strays)} files that are not commits, left alone: {', '.join(self.strays[:5])}.",
                )
            )
        return found

    def _remains(self) -> list[Finding]:
        sweep = "`nirs-store repair` removes it."
        found = [
            Finding(
                "leftover", "warning", path, "an unfinished write, more than an hour old.", (), sweep, (path,)
            )
            for path in self.leftovers
        ]
        found += [
            Finding("dead_claim", "warning", path, "the claims of a store that died.", (), sweep, (path,))
            for path in self.dead_claims
        ]
        found += [
            Finding(
                "aside",
                "warning",
                path,
                "a gc that died had set this blob aside.",
                remedy="The next change of the store, or `nirs-store repair`, puts it back or removes it.",
                subject=(path,),
            )
            for path in sorted(self.aside)
        ]
        return found


def look_around(layout: Layout) -> Surroundings:
    """Look at everything beside the catalog. The lease is held, so nobody applies or collects meanwhile."""
    seen = Surroundings()
    # A gc that is deciding holds the lease alone; what is aside now was left by one that died.
    seen.aside = set(layout.blobs.list("", trashed=True))
    seen.files = set(layout.blobs.list(BLOBS))
    for stray in layout.blobs.strays():
        if stray.startswith(BLOBS):
            seen.others.add(stray)
        else:
            seen.aside_strays.append(stray.rsplit("/", 1)[-1])
    seen.alive = set(living(layout))
    seen.claimed = read_claims(layout, remove_dead=False)
    seen.dead_claims = [f"journal/claims/{name}" for name in _names(layout.claims) if name not in seen.alive]
    _read_commits(layout, seen)
    seen.leftovers = [path.relative_to(layout.root).as_posix() for path in leftovers(layout, seen.alive)]
    return seen


def read_segment(entry: Entry) -> Segment:
    """Decode a pending commit as applying does."""
    try:
        return read_entry(entry)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SegmentDamaged(f"it cannot be read: {error.strerror or error}") from error


def is_old(blobs: BlobBackend, key: str, now: float) -> bool:
    """Whether a blob was last written more than an hour ago."""
    found = blobs.stat(key)
    return found is not None and now - found.modified > LEFTOVER_AGE


def _read_commits(layout: Layout, seen: Surroundings) -> None:
    journal = Journal(layout)
    entries = journal.pending()
    for entry in entries:
        try:
            seen.segments.append(read_segment(entry))
        except SegmentDamaged as error:
            seen.damaged.append((entry, str(error)))
        except SegmentNewer as error:
            seen.newer.append((entry, str(error)))
        except FileNotFoundError:
            continue
    for rejection in journal.rejections():
        try:
            segment = decode(read_plain(rejection.path))
        except (SegmentDamaged, SegmentNewer, OSError):
            segment = None
        seen.rejected.append((rejection, segment))
    known = {entry.path.name for entry in entries}
    # Numbers above the highest seen belong to commits that came while we looked.
    seen.strays = [n for n in _names(layout.segments) if n not in known and not is_commit_name(n)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _ids_of(segment: Segment) -> tuple[str, ...]:
    keys = (("chains", "chain_id"), ("predictions", "prediction_id"))
    return tuple(
        str(value)
        for table, key in keys
        if table in segment.tables
        for value in segment.tables[table].column(key).to_pylist()
    )


def _rows_of(segment: Segment) -> str:
    return ", ".join(f"{table.num_rows} {name.replace('_', ' ')}" for name, table in segment.tables.items())


# -- Whether the rows of a catalog belong together: parents, arrays, artifacts, references.


T = TypeVar("T")

_ARE_LOST = (
    "`nirs-store repair` lists what is lost; bring store.duckdb back from a backup, or record it again."
)
_REPAIR = "`nirs-store repair` puts this right."
# Who holds artifacts, and the table of it.
_OWNED_IN = {
    "chain": "chains",
    "record": "artifact_records",
    "file": "file_versions",
    "evaluation": "evaluations",
    "dataset": "dataset_versions",
}
_SAVE_AGAIN = "Save the same object again, or bring its file back from a backup."


@dataclass
class Structure:
    """What the rows say."""

    findings: list[Finding] = field(default_factory=list)
    blobs: list[BlobRow] | None = None
    needed_by: dict[str, list[str]] = field(default_factory=dict)
    restorable: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def ask(self, what: str, question: Callable[[], T]) -> T | None:
        """Ask; a question that damage leaves without an answer becomes a finding."""
        try:
            return question()
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            self.findings.append(catalog_damaged(what, f"the catalog cannot be read: {error}"))
            return None
        except CatalogDamaged as error:
            self.findings.append(catalog_damaged(what, str(error)))
            return None


def catalog_damaged(what: str, reason: str) -> Finding:
    """Report a part of the catalog that cannot be read."""
    return Finding(
        "catalog_damaged",
        "error",
        f"store.duckdb/{what}",
        reason,
        remedy="Bring store.duckdb back from a backup, or, when a migration kept a copy, use "
        "`nirs-store repair --restore-catalog`.",
    )


def examine(inspection: Inspection, seen: Surroundings) -> Structure:
    """Compare every row with those that it names and that name it."""
    found = Structure()
    found.counts = found.ask("rows", inspection.counts) or {}
    _changes(inspection, found)
    for row in found.ask("parents", inspection.dangling) or ():
        found.findings.append(
            Finding(
                "dangling_row",
                "warning",
                f"{row.table}/{row.key}",
                f"its {row.column} is {row.parent}, of which there is no row.",
                remedy="Its commit may still come, if the program that records it lives. The row is kept.",
            )
        )
    for what, which, why in found.ask("calibrations", inspection.broken_calibrations) or ():
        remedy = {
            "alias": "Restore the run from the trash or from a backup, or move the alias to a version that is whole.",
            "version": "It stays as a record; restore the run from the trash or from a backup to use it again.",
            "signature": "Bring store.duckdb back from a backup if the version is to be kept.",
            "correction": "Bring store.duckdb back from a backup: the uncorrected predictions are in the log.",
            "reference": "Bring store.duckdb back from a backup if the history is to be kept.",
        }[what]
        gone = what == "version"
        kind = "calibration_gone" if gone else "calibration_broken"
        found.findings.append(
            Finding(kind, "info" if gone else "error", f"calibrations/{which}", why, remedy=remedy)
        )
    for array_hash in found.ask("arrays", inspection.missing_arrays) or ():
        users = found.ask("users of arrays", partial(inspection.users_of_array, array_hash))
        found.findings.append(
            Finding(
                "array_missing",
                "error",
                f"arrays/{array_hash}",
                "predictions or chains name this array, and there is no row of it.",
                affects=tuple(users or ()),
                remedy=_ARE_LOST,
            )
        )
    _artifacts(inspection, seen, found)
    return found


def _changes(inspection: Inspection, found: Structure) -> None:
    for kind, ident in found.ask("deferred changes", inspection.deferred) or ():
        found.findings.append(
            Finding(
                "change_deferred",
                "warning",
                f"deferred/{ident}",
                f"{kind.replace('_', ' ')}: the row to change has not come.",
                remedy="Its commit may still come, if the program that records it lives.",
            )
        )
    for table, count in (found.ask("dropped rows", inspection.dropped) or {}).items():
        found.findings.append(
            Finding(
                "rows_dropped",
                "info",
                f"dropped/{table}",
                f"{count:,} rows of {table} were dropped so far because what they belong to had been deleted.",
            )
        )


# -- artifacts and their references ------------------------------------------------------------


def _artifacts(inspection: Inspection, seen: Surroundings, found: Structure) -> None:
    found.blobs = found.ask("artifacts", inspection.blobs)
    references = found.ask("references", inspection.references)
    chains = found.ask("chains", lambda: list(inspection.chains()))
    recorded = found.ask("records", inspection.recorded)
    filed = found.ask("files", inspection.filed)
    evaluated = found.ask("evaluations", inspection.evaluated)
    spectra = found.ask("data sets", inspection.stored_spectra)
    if found.blobs is None or references is None or chains is None:
        return
    if recorded is None or filed is None or evaluated is None or spectra is None:
        return
    named = {chain.chain_id: _named(chain, found) for chain in chains}
    for version, held in spectra.items():
        for artifact_id in held:
            found.needed_by.setdefault(artifact_id, []).append(version)
    known = {blob.artifact_id for blob in found.blobs}
    owners = {"chain": named, "record": recorded, "file": filed, "evaluation": evaluated, "dataset": spectra}
    found.findings += _missing_rows(owners, known, seen, found)
    found.findings += _references(references, owners, known)
    for session_id in found.ask("sessions", inspection.missing_sessions) or ():
        if session_id not in seen.alive:
            found.findings.append(
                Finding(
                    "session_missing",
                    "info",
                    f"sessions/{session_id}",
                    "it holds artifacts, has no row and does not live; the next gc gives it an end.",
                )
            )


def _named(chain: ChainRow, found: Structure) -> list[str]:
    """Artifacts that a chain names; notes which of them its replay needs."""
    try:
        row = _decoded(chain)
        named = chain_artifact_ids(row["steps"], row["fold_artifacts"], row["shared_artifacts"])
    except (NirsStoreError, ValueError, TypeError) as error:
        found.findings.append(
            Finding(
                "chain_unreadable",
                "error",
                f"chains/{chain.chain_id}",
                f"its steps cannot be read: {error}",
                affects=(chain.chain_id,),
                remedy=_ARE_LOST,
            )
        )
        return []
    try:
        # Where a refit stands alone, a chain replays without the models of its folds.
        needed: Iterable[str] = ReplayPlan.from_chain(row).artifact_ids
    except NirsStoreError:
        needed = named  # a chain that never could replay needs whatever it names
    for artifact_id in dict.fromkeys(needed):
        found.needed_by.setdefault(artifact_id, []).append(chain.chain_id)
    return named


def _decoded(chain: ChainRow) -> dict[str, Any]:
    row = chain._asdict()
    for name in ("steps", "fold_artifacts", "shared_artifacts", "branch_path", "fold_weights"):
        row[name] = from_json(row[name])
    return row | {
        "fold_artifacts": row["fold_artifacts"] or {},
        "shared_artifacts": row["shared_artifacts"] or {},
    }


def _missing_rows(
    named: dict[str, dict[str, list[str]]], known: set[str], seen: Surroundings, found: Structure
) -> list[Finding]:
    owners: dict[str, list[tuple[str, str]]] = {}
    for kind, holders in named.items():
        for owner, ids in holders.items():
            for artifact_id in ids:
                if artifact_id not in known:
                    owners.setdefault(artifact_id, []).append((kind, owner))
    files = {stem_of(path): path for path in sorted(seen.files | seen.aside)} if owners else {}
    findings = []
    for artifact_id, users in sorted(owners.items()):
        path = files.get(artifact_id)
        if path is not None:
            found.restorable.add(path)
        kinds = [kind for kind, _ in users]
        counted = [f"{kinds.count(kind)} {kind}s" for kind in _OWNED_IN if kind in kinds]
        words = " and ".join(counted)
        message = f"{words} name this artifact ({users[0][1]}), and there is no row of it"
        findings.append(
            Finding(
                "artifact_missing" if path is None else "artifact_row_missing",
                "error",
                f"artifacts/{artifact_id}" if path is None else path,
                f"{message}." if path is None else f"{message}, but its file is there.",
                affects=tuple(found.needed_by.get(artifact_id, ())),
                remedy=_SAVE_AGAIN if path is None else _REPAIR,
                subject=(artifact_id,) if path is None else (artifact_id, path),
            )
        )
    return findings


def _references(
    references: list[Reference], owners: dict[str, dict[str, list[str]]], known: set[str]
) -> list[Finding]:
    findings = []
    held: set[tuple[str, str, str]] = set()
    for ref in references:
        named = owners.get(ref.owner_kind)
        if named is not None:
            held.add((ref.owner_kind, ref.owner_id, ref.artifact_id))
            if ref.owner_id not in named:
                findings.append(
                    Finding(
                        "reference_dangling",
                        "warning",
                        f"artifact_refs/{ref.ref_id}",
                        f"{ref.owner_kind} {ref.owner_id}, which held artifact {ref.artifact_id}, is gone.",
                        remedy=_REPAIR,
                        subject=(ref.ref_id,),
                    )
                )
                continue
            if ref.artifact_id in named[ref.owner_id]:
                continue  # said of the artifact, when it has no row
        if ref.artifact_id not in known:
            findings.append(
                Finding(
                    "reference_empty",
                    "warning",
                    f"artifact_refs/{ref.ref_id}",
                    f"the {ref.owner_kind} {ref.owner_id} holds artifact {ref.artifact_id}, of which there is no row.",
                    remedy=_SAVE_AGAIN,
                )
            )
    for kind, named in owners.items():
        for owner_id, ids in named.items():
            for artifact_id in dict.fromkeys(ids):
                if (kind, owner_id, artifact_id) not in held:
                    findings.append(
                        Finding(
                            "reference_missing",
                            "warning",
                            f"{_OWNED_IN[kind]}/{owner_id}",
                            f"it holds no reference to artifact {artifact_id}, which it names; a gc could remove that.",
                            remedy=_REPAIR,
                            subject=(owner_id, artifact_id),
                        )
                    )
    return findings


def stem_of(path: str) -> str:
    """Return a file's name without its ending: the hash, for a blob."""
    return path.rsplit("/", 1)[-1].split(".", 1)[0]


# -- Whether the files of artifacts are there, as long as they should be, and unaltered.


Progress = Callable[[int, int], None]
"""Called with the bytes read so far and those to read."""

_HEAL = (
    "Save the same object again, or bring the file back from a backup; `nirs-store repair` moves the bad one "
    "to quarantine/."
)
_BRING_BACK = "Save the same object again, or bring the file back from a backup."


@dataclass(frozen=True)
class Expected:
    """A file that must be there."""

    artifact_id: str
    path: str
    content_hash: str
    size: int | None
    needed_by: tuple[str, ...]

    def finding(self, kind: str, message: str, remedy: str) -> Finding:
        """Say that something is wrong with it."""
        return Finding(
            kind, "error", self.path, message, self.needed_by, remedy, (self.artifact_id, self.path)
        )


def expected_files(
    blobs: Sequence[BlobRow] | None, needed_by: dict[str, list[str]], seen: Surroundings
) -> list[Expected]:
    """Return the files that rows name; where no rows can be had, those whose name says what they hold."""
    if blobs is None:
        return [
            Expected(stem_of(path), path, stem_of(path), None, ())
            for path in sorted(seen.files | seen.aside)
            if is_blob_key(path)
        ]
    return [
        Expected(b.artifact_id, b.path, b.content_hash, b.size, tuple(needed_by.get(b.artifact_id, ())))
        for b in blobs
    ]


def look_at(blobs: BlobBackend, expected: Iterable[Expected]) -> tuple[list[Finding], list[Expected]]:
    """Look whether files are there and have their size, without reading them."""
    findings: list[Finding] = []
    present: list[Expected] = []
    for file in expected:
        try:
            there = stat_blob(blobs, file.path)
        except PathEscapes as error:
            findings.append(file.finding("blob_path", str(error), "Bring store.duckdb back from a backup."))
            continue
        if there is None:
            findings.append(file.finding("blob_missing", "the file is gone.", _BRING_BACK))
        elif file.size is not None and there.size != file.size:
            message = f"expected {file.size:,} bytes, found {there.size:,}."
            findings.append(file.finding("blob_size", message, _HEAL))
        else:
            present.append(file)
    return findings, present


def hash_files(
    blobs: BlobBackend, expected: Sequence[Expected], progress: Progress | None = None
) -> list[tuple[Expected, Finding]]:
    """Read files whole and compare their hashes; gives those that do not fit, or cannot be read."""
    bad: list[tuple[Expected, Finding]] = []
    sizes = {file.path: file.size or 0 for file in expected}
    total, done = sum(sizes.values()), 0
    digests: dict[str, str | OSError | None] = {}
    for file in expected:
        if file.path not in digests:
            digests[file.path] = _digest(blobs, file.path)
            done += sizes[file.path]
            if progress is not None:
                progress(done, total)
        digest = digests[file.path]
        if digest == file.content_hash:
            continue
        if digest is None:
            bad.append((file, file.finding("blob_missing", "the file is gone.", _BRING_BACK)))
        elif isinstance(digest, OSError):
            reason = f"the file cannot be read: {digest.strerror or digest}."
            bad.append(
                (
                    file,
                    file.finding("blob_unreadable", reason, "Give this user the right, or check the disk."),
                )
            )
        else:
            message = f"expected the SHA-256 {file.content_hash}, found {digest}."
            bad.append((file, file.finding("blob_corrupt", message, _HEAL)))
    return bad


def unknown_files(
    backend: BlobBackend, blobs: Sequence[BlobRow], seen: Surroundings, *, besides: set[str]
) -> list[Finding]:
    """Files among the blobs that no row names and no living store is saving, besides those named otherwise."""
    named = {blob.path for blob in blobs} | besides
    # Commits set aside still name theirs; they may be brought back.
    for _, segment in seen.rejected:
        if segment is not None and "blobs" in segment.tables:
            named.update(segment.tables["blobs"].column("artifact_path").to_pylist())
    findings = []
    for path in sorted((seen.files | seen.aside) - named):
        if path in seen.claimed or stem_of(path) in seen.claimed:
            continue
        there = stat_blob(backend, path)
        if there is None:
            continue
        if is_blob_key(path):
            message = f"a blob of {there.size:,} bytes that no row names."
            remedy = "`nirs-store repair` moves it to quarantine/ when it is older than an hour."
            findings.append(Finding("blob_orphan", "warning", path, message, (), remedy, (path,)))
        else:
            findings.append(_unknown(path, f"an unknown file of {there.size:,} bytes, left alone."))
    findings += [_unknown(path, "not a regular file, left alone.") for path in sorted(seen.others)]
    return findings


def _unknown(path: str, message: str) -> Finding:
    return Finding("unknown_file", "info", path, message)


def _digest(blobs: BlobBackend, key: str) -> str | OSError | None:
    try:
        return hash_blob(blobs, key)[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        return error


_RESTORE = "Bring it back from a backup, or, when a migration kept a copy, use `nirs-store repair --restore-catalog`."


def check_workspace(
    root: str | Path,
    *,
    read_data: bool = False,
    lock_timeout: float = 30.0,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a folder without opening it as a store: also one whose catalog is gone or damaged."""
    layout, timeout = Layout(as_folder(root, "root")), as_seconds(lock_timeout, "lock_timeout")
    return check(reader_of(layout), layout, read_data=read_data, timeout=timeout, progress=progress)


def reader_of(layout: Layout) -> Database:
    """Open the catalog of a folder that is not open as a store."""
    if not layout.catalog.exists() and not layout.journal.is_dir():
        raise NotAWorkspace(
            f"{layout.root} is not a workspace: it has neither store.duckdb nor journal/. Nothing was changed. "
            "Name another folder."
        )
    refuse_linked_folders(layout)
    return Database(layout, Journal(layout), writable=False, options=Options(), on_idle=lambda: None)


def check(
    access: Database,
    layout: Layout,
    *,
    read_data: bool,
    timeout: float,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a workspace; see `check_workspace`."""
    findings: list[Finding] = []
    with access.inspecting(timeout=timeout) as connect:
        seen = look_around(layout)
        con = None
        try:
            con = connect()
            with contextlib.suppress(duckdb.Error):  # said by whoever reads its rows
                seen.leave_out(applied_ids(con))
        except (CatalogDamaged, ForeignCatalog, SchemaTooNew, WriteFailed) as error:
            findings.append(_unopened(layout, error))
        findings[:0] = seen.findings()
        structure = Structure()
        if con is not None:
            structure = interruptible(con, lambda con: _look_into(con, layout, seen, read_data=read_data))
        findings += structure.findings
        if structure.blobs is not None:
            findings += unknown_files(layout.blobs, structure.blobs, seen, besides=structure.restorable)
        expected = expected_files(structure.blobs, structure.needed_by, seen)
        wrong, present = look_at(layout.blobs, expected)
        findings += wrong
    if read_data:
        suspects = [file for file, _ in hash_files(layout.blobs, present, progress)]
        findings += _look_again(access, layout, suspects, timeout) if suspects else []
    counts = structure.counts | {
        "files": len(seen.files),
        "bytes": sum(file.size or 0 for file in expected),
        "segments": len(seen.segments) + len(seen.damaged) + len(seen.newer),
    }
    return CheckReport.of_findings(str(layout.root), read_data, findings, counts)


def _unopened(layout: Layout, error: Exception) -> Finding:
    if isinstance(error, ForeignCatalog) and not layout.journal.is_dir():
        raise error
    if isinstance(error, SchemaTooNew):
        return Finding("schema_too_new", "error", "store.duckdb", str(error), (), "Upgrade nirs_store.")
    if not layout.catalog.exists():
        return Finding("catalog_missing", "error", "store.duckdb", "the catalog is gone.", (), _RESTORE)
    return Finding("catalog_damaged", "error", "store.duckdb", str(error), (), _RESTORE)


def _look_into(con: Connection, layout: Layout, seen: Surroundings, *, read_data: bool) -> Structure:
    first = Structure()
    inspection = first.ask("pending rows", lambda: Inspection(con, seen.segments))
    if inspection is None:
        return first
    found = examine(inspection, seen)
    found.findings += found.ask("audit trail", lambda: audit_findings(con, layout)) or []
    lost = found.ask("lost changes", lambda: inspection.lost(layout))
    if lost:
        found.findings.append(
            Finding(
                "changes_lost",
                "warning",
                "store.duckdb",
                f"at least {lost:,} changes that were made in the catalog are gone: its log was cut or removed, or the "
                "file was replaced by an older one. Commits that were in the journal were applied again.",
                remedy="Compare with a backup: deletions, files, evaluations and settings may be missing.",
            )
        )
    version = found.ask("nirs_store_meta", inspection.version)
    if version is not None and version < SCHEMA_VERSION:
        words = f"schema version {version}; opening the store for writing brings it to {SCHEMA_VERSION}."
        found.findings.append(Finding("schema_old", "info", "store.duckdb", words))
    found.findings += found.ask("objects", lambda: _others(con, version)) or []
    if layout.wal.exists():
        found.findings.append(
            Finding(
                "wal_present",
                "warning",
                layout.wal.name,
                "a process died with the catalog open and left DuckDB's log; the rows in it were counted here.",
                remedy="The next query of a store that may write takes it in. Keep both files together.",
            )
        )
    if read_data:
        _read(con, seen, inspection, found)
    return found


def _others(con: Connection, version: int | None) -> list[Finding]:
    """Return what others have put into the catalog; what would act of it was refused at opening.

    Views of an older schema differ honestly, and are made again when the store is opened for writing.
    """
    objects = objects_of(con)
    found = [
        Finding(
            "foreign_object",
            "info",
            f"store.duckdb/{each}",
            "put there by another program. It is left alone, and kept by a vacuum, which then copies rows as they lie.",
        )
        for each in foreign_objects(objects)
    ]
    found += [
        Finding(
            "view_altered",
            "warning",
            f"store.duckdb/view {name}",
            "it selects something else than the view that nirs_store makes: queries that read it may be misled.",
            remedy=f"Drop it with DuckDB (DROP VIEW {name}) and make it again: {VIEWS[name].split(' AS ')[0]} ...",
        )
        for name in (altered_views(objects) if version == SCHEMA_VERSION else ())
    ]
    return found


def _read(con: Connection, seen: Surroundings, inspection: Inspection, found: Structure) -> None:
    for table, what, reason in found.ask("tables", lambda: list(unreadable(con))) or ():
        if reason is not None:
            found.findings.append(catalog_damaged(table, f"its {what} cannot be read: {reason}"))
    for array_hash in found.ask("arrays", lambda: list(altered_arrays(con, seen.segments))) or ():
        users = found.ask("users of arrays", partial(inspection.users_of_array, array_hash))
        found.findings.append(
            Finding(
                "array_corrupt",
                "error",
                f"arrays/{array_hash}",
                "its bytes no longer hash to its name.",
                affects=tuple(users or ()),
                remedy="Bring store.duckdb back from a backup, or record the predictions again.",
            )
        )


def _look_again(access: Database, layout: Layout, suspects: list[Expected], timeout: float) -> list[Finding]:
    """Keep what is still bad now: a gc may have removed the rest meanwhile, or a save healed it."""
    with access.inspecting(timeout=timeout) as connect:
        bad = hash_files(layout.blobs, suspects)
        try:
            rows = Inspection(connect(), look_around(layout).segments).blobs()
        except (CatalogDamaged, ForeignCatalog, SchemaTooNew, WriteFailed):
            return [finding for _, finding in bad]  # said already
        named = {row.artifact_id for row in rows}
    return [finding for file, finding in bad if file.artifact_id in named]
