"""What a check asks of a catalog: a table of questions, each a query that gives one finding per row.

The catalog is read as it lies, with the rows of pending commits added to its tables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from nirs_store.db.apply import DRAGS, OWNERS
from nirs_store.db.journal import Segment, decode_array
from nirs_store.db.layout import Layout
from nirs_store.db.marks import LOST, ChangeCount
from nirs_store.db.schema import CATALOG_ALIAS, SCHEMA_VERSION
from nirs_store.db.sql import incoming, number
from nirs_store.errors import CatalogDamaged
from nirs_store.maintenance.findings import Finding, finding

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

# Who names arrays: a hash and an id each.
_ARRAY_USES = (
    f"(SELECT h, owner FROM (SELECT unnest([{', '.join(_ARRAYS)}]) AS h, prediction_id AS owner "
    "FROM {prediction_arrays} UNION ALL SELECT wavelengths, chain_id FROM {chains} UNION ALL "
    "SELECT unnest(json_extract_string(holds, '$.arrays[*]')), trash_id FROM {trash}) WHERE h IS NOT NULL)"
)
# The aliases as they point now.
_PRESENT = (
    "(SELECT * FROM {calibration_aliases} QUALIFY row_number() OVER (PARTITION BY name, alias ORDER BY number DESC) "
    "= 1)"
)
_LACKS_CHAIN = (
    "SELECT 'calibrations/' || v.name || '@v' || v.version, 'its chain ' || v.chain_id || ' is gone.' "
    "FROM {calibration_versions} v WHERE NOT EXISTS (SELECT 1 FROM {chains} c WHERE c.chain_id = v.chain_id) AND "
)
_IS_USED = f"EXISTS (SELECT 1 FROM {_PRESENT} p WHERE p.name = v.name AND p.version = v.version)"


class Question(NamedTuple):
    """A query that gives one finding per row: where, what is wrong, and, as a third column, the ids that it affects.

    `asked` is what cannot be told when damage leaves it without an answer.
    """

    asked: str
    kind: str
    sql: str
    remedy: str = ""


QUESTIONS = (
    Question(
        "deferred changes",
        "change_deferred",
        "SELECT 'deferred/' || id, replace(kind, '_', ' ') || ': the row to change has not come.' FROM deferred d "
        "WHERE NOT EXISTS (SELECT 1 FROM {runs} r WHERE r.run_id = d.id) "
        "AND NOT EXISTS (SELECT 1 FROM {pipelines} p WHERE p.pipeline_id = d.id)",
    ),
    Question(
        "dropped rows",
        "rows_dropped",
        "SELECT 'dropped/' || table_name, format('{{:,}}', sum(rows)::BIGINT) || ' rows of ' || table_name || "
        "' were dropped so far because what they belong to had been deleted.' "
        f"FROM dropped WHERE table_name <> '{LOST}' GROUP BY table_name",
    ),
    Question(
        "parents",
        "dangling_row",
        " UNION ALL ".join(
            f"SELECT '{child}/' || c.{key}, 'its {column} is ' || c.{column} || ', of which there is no row.' "
            f"FROM {{{child}}} c WHERE c.{column} IS NOT NULL AND NOT EXISTS "
            f"(SELECT 1 FROM {{{parent}}} p WHERE p.{parent_key} = c.{column})"
            for child, key, column, parent, parent_key in _RELATIONS
        ),
    ),
    Question(
        "calibrations",
        "calibration_broken",
        "SELECT 'calibrations/' || p.name || '@' || p.alias, 'it points to the version ' || p.version || "
        f"', which is gone.' FROM {_PRESENT} p WHERE p.version IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM {calibration_versions} v WHERE v.name = p.name AND v.version = p.version)",
    ),
    Question("calibrations", "calibration_broken", _LACKS_CHAIN + _IS_USED),
    Question("calibrations", "calibration_gone", f"{_LACKS_CHAIN}NOT {_IS_USED}"),
    Question(
        "calibrations",
        "calibration_broken",
        "SELECT 'calibrations/' || s.signature_id, 'the version ' || s.version_id || ' is gone.' FROM {signatures} s "
        "WHERE NOT EXISTS (SELECT 1 FROM {calibration_versions} v WHERE v.version_id = s.version_id)",
        "Bring store.duckdb back from a backup if the version is to be kept.",
    ),
    Question(
        "calibrations",
        "calibration_broken",
        "SELECT 'calibrations/' || m.correction_id, 'it is gone, and ' || count(*) || ' measurements were corrected "
        "by it.' FROM {measurements} m WHERE m.correction_id IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM {corrections} k WHERE k.correction_id = m.correction_id) GROUP BY m.correction_id",
        "Bring store.duckdb back from a backup: the uncorrected predictions are in the log.",
    ),
    Question(
        "calibrations",
        "calibration_broken",
        "SELECT 'calibrations/' || r.reference_id, 'the value that it corrects, ' || r.replaces || ', is gone.' "
        "FROM {sample_references} r WHERE r.replaces IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM {sample_references} o WHERE o.reference_id = r.replaces)",
        "Bring store.duckdb back from a backup if the history is to be kept.",
    ),
    Question(
        "arrays",
        "array_missing",
        "SELECT 'arrays/' || h, 'predictions or chains name this array, and there is no row of it.', "
        f"list(DISTINCT owner ORDER BY owner) FROM {_ARRAY_USES} u WHERE NOT EXISTS "
        "(SELECT 1 FROM {arrays} a WHERE a.array_hash = u.h) GROUP BY h",
    ),
)


class Holder(NamedTuple):
    """Who holds artifacts: its table and key, and a query for who holds which."""

    table: str
    key: str
    asked: str
    sql: str


# What a chain holds is in its steps.
HOLDERS = {
    "chain": Holder("chains", "chain_id", "chains", ""),
    "record": Holder(
        "artifact_records",
        "record_id",
        "records",
        "SELECT record_id, list(artifact_id ORDER BY artifact_id) FROM (SELECT record_id, artifact_id "
        "FROM {artifact_records} UNION SELECT l.record_id, l.artifact_id FROM {artifact_links} l "
        "JOIN {artifact_records} r USING (record_id)) GROUP BY record_id ORDER BY record_id",
    ),
    "file": Holder(
        "file_versions",
        "version_id",
        "files",
        "SELECT version_id, [artifact_id] FROM {file_versions} WHERE artifact_id IS NOT NULL ORDER BY 1",
    ),
    "evaluation": Holder(
        "evaluations",
        "evaluation_id",
        "evaluations",
        "SELECT evaluation_id, [episodes_id, samples_id] FROM {evaluations} "
        "WHERE coalesce(episodes_id, samples_id) IS NOT NULL ORDER BY 1",
    ),
    "dataset": Holder(
        "dataset_versions",
        "dataset_version_id",
        "data sets",
        "SELECT dataset_version_id, list_append(json_extract_string(spectra_ids, '$[*]'), samples_id) "
        "FROM {dataset_versions} ORDER BY 1",
    ),
}


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


class _Tables(dict[str, str]):
    """The tables that the text of a question names, each with its pending rows."""

    def __init__(self, waiting: set[str], lacking: set[str]) -> None:
        super().__init__()
        self._waiting, self._lacking = waiting, lacking

    def __missing__(self, table: str) -> str:
        columns = ", ".join(_ASKED[table])
        own = f"SELECT {columns} FROM {table}"
        if table in self._lacking:
            nothing = ", ".join(f"NULL::VARCHAR AS {column}" for column in _ASKED[table])
            own = f"SELECT {nothing} WHERE FALSE"
        if table not in self._waiting:
            return f"({own})"
        return f"({own} UNION ALL SELECT {columns} FROM waiting_{table})"


class Inspection:
    """Questions to a catalog that is open read-only, and to the commits that it has not got yet.

    Pending rows whose owner was deleted do not count: applying them would drop them. Each raises duckdb.Error where
    the catalog cannot be read.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, segments: Sequence[Segment]) -> None:
        self._con = con
        self._waiting: set[str] = set()
        self._lacking = self._older_than()
        self._tables = _Tables(self._waiting, self._lacking)
        if segments:
            applied = {str(row[0]) for row in self._rows("SELECT txid FROM applied")}
            self._lay_beside([segment for segment in segments if segment.txid not in applied])

    def _older_than(self) -> set[str]:
        """Tables that came after this catalog was made: an older one is checked as it is.

        DuckDB's list of tables takes ten times as long as any other question here, so it is not asked of a catalog
        of the present version; what that lacks, it has lost.
        """
        with contextlib.suppress(duckdb.Error):  # asking for the version reports the error
            if self.version() == SCHEMA_VERSION:
                return set()
        listed = "SELECT table_name FROM duckdb_tables() WHERE database_name = ?"
        return set(_ASKED) - {str(row[0]) for row in self._rows(listed, [CATALOG_ALIAS])}

    def _lay_beside(self, segments: list[Segment]) -> None:
        """Make a table of the pending rows of each, without those whose owner was deleted."""
        self._rows("CREATE TEMP TABLE gone AS SELECT id, kind FROM dead")
        for table, columns in _ASKED.items():
            parts = [s.tables[table].select(list(columns)) for s in segments if table in s.tables]
            if not parts:
                continue
            self._waiting.add(table)
            owners = [
                f"EXISTS (SELECT 1 FROM gone g WHERE g.id = i.{column} AND g.kind = '{kind}')"
                for column, kind in OWNERS.get(table, ())
                if column in columns
            ]
            dropped = " OR ".join(owners) or "FALSE"
            with incoming(self._con) as rows:
                rows.rows = pa.concat_tables(parts)
                self._rows(
                    f"CREATE TEMP TABLE waiting_{table} AS SELECT * FROM incoming i WHERE NOT ({dropped})"
                )
                if table in DRAGS:
                    drag = DRAGS[table]
                    self._rows(f"INSERT INTO gone SELECT i.{drag}, 'deleted' FROM incoming i WHERE {dropped}")

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._con.execute(sql, list(params)).fetchall()

    def _ask(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask a question whose tables are in braces."""
        return self._rows(sql.format_map(self._tables), params)

    def answer(self, question: Question) -> list[Finding]:
        """Return what a question of the table finds."""
        return [
            finding(question.kind, where, message, *affects, remedy=question.remedy)
            for where, message, *affects in self._ask(question.sql)
        ]

    def version(self) -> int:
        """Return schema version of the catalog."""
        return int(self._rows("SELECT value FROM nirs_store_meta WHERE key = 'schema_version'")[0][0])

    def counts(self) -> dict[str, int]:
        """Rows of each table that people record, pending ones included."""
        parts = (
            # A pending row may repeat one that is there: the same array, artifact or session.
            f"SELECT '{table}', count(DISTINCT {columns[0]}) FROM {{{table}}}"
            if table in self._waiting
            else f"SELECT '{table}', count(*) FROM {table}"
            for table, columns in _ASKED.items()
            if table in self._waiting or table not in self._lacking
        )
        return {str(table): int(count) for table, count in self._ask(" UNION ALL ".join(parts))}

    def lost(self, layout: Layout) -> int:
        """Return changes that the catalog lacks, noticed now or earlier."""
        ((noticed,),) = self._rows("SELECT sum(rows) FROM dropped WHERE table_name = ?", [LOST])
        return int(noticed or 0) + ChangeCount(layout).missing(self._con)

    def users_of_array(self, array_hash: str) -> list[str]:
        """Ids of the predictions and chains that name an array."""
        sql = f"SELECT DISTINCT owner FROM {_ARRAY_USES} WHERE h = ? ORDER BY owner"
        return [str(row[0]) for row in self._ask(sql, [array_hash])]

    def chains(self) -> list[ChainRow]:
        """All chains, ordered by id."""
        columns = ", ".join(ChainRow._fields)
        return [ChainRow(*row) for row in self._ask(f"SELECT {columns} FROM {{chains}} ORDER BY chain_id")]

    def blobs(self) -> list[BlobRow]:
        """All artifacts that have a row."""
        rows = self._ask(
            "SELECT artifact_id, first(artifact_path), first(content_hash), first(size_bytes) "
            "FROM {blobs} GROUP BY artifact_id ORDER BY artifact_id"
        )
        return [BlobRow(str(ident), str(path), str(digest), int(size)) for ident, path, digest, size in rows]

    def references(self) -> list[Reference]:
        """All references."""
        columns = ", ".join(Reference._fields)
        rows = self._ask(f"SELECT DISTINCT {columns} FROM {{artifact_refs}} ORDER BY ref_id")
        return [Reference(*map(str, row)) for row in rows]

    def held(self, kind: str) -> dict[str, list[str]]:
        """Artifacts by the holder of a kind that names them."""
        return {
            str(owner): [str(artifact) for artifact in artifacts if artifact is not None]
            for owner, artifacts in self._ask(HOLDERS[kind].sql)
        }

    def missing_sessions(self) -> list[str]:
        """Sessions that hold artifacts and have no row."""
        sql = (
            "SELECT DISTINCT owner_id FROM {artifact_refs} r WHERE owner_kind = 'session' "
            "AND NOT EXISTS (SELECT 1 FROM {sessions} s WHERE s.session_id = r.owner_id) ORDER BY owner_id"
        )
        return [str(row[0]) for row in self._ask(sql)]


# -- Reading a whole catalog: every column and index, so that DuckDB verifies every block, and every array.


def unreadable(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str, str | None]]:
    """Read every column and every index; DuckDB verifies the checksum of each block it reads.

    Tables that never had a row have no blocks and are passed over.
    """
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
    except (pa.ArrowException, OSError) as error:
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
