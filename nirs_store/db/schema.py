"""The tables: one text of DDL that Arrow batches and queries are made from too.

Nothing but this file and the migrations holds DDL. There are no foreign keys (DuckDB cannot
delete a parent and its children in one transaction when one is declared); `check` looks for
dangling references instead. The second half looks for what others have put into a catalog file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from nirs_store.errors import ForeignCatalog

SCHEMA_VERSION = 6
CATALOG_ALIAS = "store"
# DuckDB reuses the space of deleted rows a row group at a time, so the default of 122,880 never
# gives any back to a catalog of this size; below 8,192 scans of a million rows slow down visibly.
ROW_GROUP_SIZE = 8192
# Every table and index begins a block of its own and a checkpoint rewrites whole ones: with DuckDB's 262,144 a
# catalog of 200 pipelines is larger by half. Below 32,768 a million rows open more slowly.
BLOCK_SIZE = 32_768


class Column(NamedTuple):
    """One column: its name, DuckDB type (with constraints) and Arrow type."""

    name: str
    sql: str
    arrow: pa.DataType


class Table(NamedTuple):
    """One table and its columns; the first one identifies a row."""

    name: str
    columns: tuple[Column, ...]


_ARROW = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "TIMESTAMP": pa.timestamp("us"),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "BLOB": pa.binary(),
}


def _tables(ddl: str) -> dict[str, Table]:
    """Read CREATE TABLE statements; no type in them holds a comma."""
    found = {}
    for name, inner in re.findall(r"CREATE TABLE (\w+) \((.*?)\);", re.sub(r"--.*", "", ddl), re.DOTALL):
        parts = (" ".join(part.split()).split(" ", 1) for part in inner.split(","))
        found[name] = Table(name, tuple(Column(c, sql, _ARROW[sql.split(" ")[0]]) for c, sql in parts))
    return found


def create_statement(table: Table) -> str:
    """DDL of a table."""
    return f"CREATE TABLE {table.name} ({', '.join(f'{c.name} {c.sql}' for c in table.columns)})"


TABLES = _tables("""
CREATE TABLE nirs_store_meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE sessions (
    session_id VARCHAR PRIMARY KEY, host VARCHAR NOT NULL, pid INTEGER, started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP
);
CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, config JSON, datasets JSON, status VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL, completed_at TIMESTAMP, summary JSON, error VARCHAR, session_id VARCHAR,
    environment JSON, note VARCHAR, tags JSON
);
CREATE TABLE pipelines (
    pipeline_id VARCHAR PRIMARY KEY, run_id VARCHAR NOT NULL, name VARCHAR NOT NULL, expanded_config JSON,
    generator_choices JSON, dataset_name VARCHAR NOT NULL, dataset_hash VARCHAR, status VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL, completed_at TIMESTAMP, best_val DOUBLE, best_test DOUBLE, metric VARCHAR,
    duration_ms BIGINT, error VARCHAR, session_id VARCHAR
);
CREATE TABLE chains (
    chain_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL, steps JSON NOT NULL, model_step_idx INTEGER NOT NULL,
    model_class VARCHAR NOT NULL, preprocessings VARCHAR NOT NULL, fold_strategy VARCHAR NOT NULL,
    fold_artifacts JSON, shared_artifacts JSON, branch_path JSON, source_index INTEGER, fold_weights JSON,
    wavelengths VARCHAR, metadata JSON, created_at TIMESTAMP NOT NULL, target VARCHAR, target_unit VARCHAR
);
CREATE TABLE predictions (
    prediction_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL, chain_id VARCHAR, dataset_name VARCHAR NOT NULL,
    model_name VARCHAR NOT NULL, model_class VARCHAR NOT NULL, fold_id VARCHAR NOT NULL, partition VARCHAR NOT NULL,
    val_score DOUBLE, test_score DOUBLE, train_score DOUBLE, metric VARCHAR NOT NULL, task_type VARCHAR NOT NULL,
    n_samples INTEGER, n_features INTEGER, scores JSON, best_params JSON, preprocessings VARCHAR NOT NULL,
    branch_id INTEGER, branch_name VARCHAR, exclusion_count INTEGER, exclusion_rate DOUBLE,
    created_at TIMESTAMP NOT NULL
);
-- What DuckDB would choose to compress `data` takes four times as long to find out that it gains nothing on floating
-- point numbers, and leaves labels more than twice as large.
CREATE TABLE arrays (
    array_hash VARCHAR PRIMARY KEY, dtype VARCHAR NOT NULL, shape VARCHAR NOT NULL,
    data BLOB USING COMPRESSION zstd NOT NULL
);
CREATE TABLE prediction_arrays (
    prediction_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR, y_true VARCHAR, y_pred VARCHAR, y_proba VARCHAR,
    sample_indices VARCHAR, weights VARCHAR
);
CREATE TABLE blobs (
    artifact_id VARCHAR PRIMARY KEY, artifact_path VARCHAR NOT NULL, content_hash VARCHAR NOT NULL,
    operator_class VARCHAR NOT NULL, artifact_type VARCHAR NOT NULL, format VARCHAR NOT NULL,
    size_bytes BIGINT NOT NULL, created_at TIMESTAMP NOT NULL
);
CREATE TABLE artifact_refs (
    ref_id VARCHAR PRIMARY KEY, artifact_id VARCHAR NOT NULL, owner_kind VARCHAR NOT NULL, owner_id VARCHAR NOT NULL,
    pipeline_id VARCHAR, operator_class VARCHAR, artifact_type VARCHAR, created_at TIMESTAMP NOT NULL
);
-- What the artifact layer says of a fitted object: where in a pipeline it belongs, and what it needs.
CREATE TABLE artifact_records (
    record_id VARCHAR PRIMARY KEY, artifact_id VARCHAR NOT NULL, pipeline_id VARCHAR NOT NULL,
    chain_path VARCHAR NOT NULL, branch_path JSON, source_index INTEGER, step_index INTEGER, substep_index INTEGER,
    fold_id VARCHAR, artifact_type VARCHAR NOT NULL, class_name VARCHAR NOT NULL, custom_name VARCHAR, params JSON,
    feature_columns JSON, input_data_hash VARCHAR, dataset_hash VARCHAR, library_version VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);
CREATE TABLE artifact_links (
    link_id VARCHAR PRIMARY KEY, record_id VARCHAR NOT NULL, pipeline_id VARCHAR NOT NULL, kind VARCHAR NOT NULL,
    position INTEGER NOT NULL, target_id VARCHAR NOT NULL, artifact_id VARCHAR NOT NULL, feature_index INTEGER
);
CREATE TABLE logs (
    log_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL, step_idx INTEGER NOT NULL, operator_class VARCHAR,
    event VARCHAR NOT NULL, duration_ms BIGINT, message VARCHAR, details JSON, level VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);
-- Training curves: a row holds the points of one call, or those that one commit brought of a curve, as 64-bit
-- whole numbers and floats, lowest byte first. Lists would be rewritten whole at each checkpoint.
CREATE TABLE metrics (
    metric_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL, name VARCHAR NOT NULL, n_points BIGINT NOT NULL,
    steps BLOB USING COMPRESSION zstd NOT NULL, step_values BLOB USING COMPRESSION zstd NOT NULL,
    logged_at TIMESTAMP NOT NULL
);
-- What the journal needs to be applied exactly once, and what it could not place.
CREATE TABLE applied (txid VARCHAR PRIMARY KEY, number BIGINT NOT NULL, applied_at TIMESTAMP NOT NULL);
CREATE TABLE dead (id VARCHAR NOT NULL, kind VARCHAR NOT NULL, died_at TIMESTAMP NOT NULL);
CREATE TABLE deferred (
    change_id VARCHAR PRIMARY KEY, number BIGINT NOT NULL, position INTEGER NOT NULL, kind VARCHAR NOT NULL,
    id VARCHAR NOT NULL, made_at TIMESTAMP NOT NULL, payload JSON
);
CREATE TABLE dropped (
    txid VARCHAR NOT NULL, table_name VARCHAR NOT NULL, rows BIGINT NOT NULL, made_at TIMESTAMP NOT NULL
);
-- Files of any kind. A name is one series of versions, and one more for each test; `is_latest` marks the newest of a
-- series, so that listing what is there today is one scan. `members` of a group: a version id a name.
CREATE TABLE file_versions (
    version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, version INTEGER NOT NULL,
    is_latest BOOLEAN NOT NULL, type VARCHAR NOT NULL, kind VARCHAR NOT NULL, status VARCHAR NOT NULL,
    mode VARCHAR NOT NULL, coverage VARCHAR, model_id VARCHAR, evaluation_id VARCHAR, suite VARCHAR,
    group_name VARCHAR, episode VARCHAR, module VARCHAR, module_version VARCHAR, run_id VARCHAR,
    processing_id VARCHAR, artifact_id VARCHAR, content_hash VARCHAR, size_bytes BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL, compression VARCHAR NOT NULL, compression_note VARCHAR, members JSON, tags JSON,
    metadata JSON, message VARCHAR, session_id VARCHAR, created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL
);
CREATE TABLE file_aliases (
    alias_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, alias VARCHAR NOT NULL,
    version_id VARCHAR NOT NULL, made_at TIMESTAMP NOT NULL
);
-- The highest number that a deleted version of a series had: numbers are never given twice.
CREATE TABLE file_retired (series VARCHAR PRIMARY KEY, version INTEGER NOT NULL);
-- Types that somebody declared here, next to those that come with the library.
CREATE TABLE file_types (
    type VARCHAR PRIMARY KEY, description VARCHAR NOT NULL, metadata_schema JSON, made_at TIMESTAMP NOT NULL
);
CREATE TABLE processing_runs (
    processing_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, status VARCHAR NOT NULL, module VARCHAR,
    module_version VARCHAR, parameters JSON, message VARCHAR, session_id VARCHAR, started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP
);
-- What became of things: typed links, the audit trail, settings of the workspace, pins.
CREATE TABLE lineage_links (
    link_id VARCHAR PRIMARY KEY, source_kind VARCHAR NOT NULL, source_id VARCHAR NOT NULL,
    target_kind VARCHAR NOT NULL, target_id VARCHAR NOT NULL, link_type VARCHAR NOT NULL, metadata JSON,
    created_at TIMESTAMP NOT NULL
);
-- Append-only; each entry holds the hash of the one before it. Its number is its name: no index, which every
-- application of the journal would have to keep up.
CREATE TABLE audit_entries (
    number BIGINT NOT NULL, made_at TIMESTAMP NOT NULL, user_name VARCHAR NOT NULL, host VARCHAR NOT NULL,
    pid INTEGER NOT NULL, operation VARCHAR NOT NULL, object_kind VARCHAR, object_id VARCHAR,
    success BOOLEAN NOT NULL, message VARCHAR, details JSON, previous_hash VARCHAR NOT NULL,
    entry_hash VARCHAR NOT NULL
);
CREATE TABLE settings (key VARCHAR PRIMARY KEY, value JSON, changed_at TIMESTAMP NOT NULL);
CREATE TABLE pins (
    pin_id VARCHAR PRIMARY KEY, object_kind VARCHAR NOT NULL, object_id VARCHAR NOT NULL, reason VARCHAR,
    made_at TIMESTAMP NOT NULL
);
-- Evaluations; `episodes_id` and `samples_id` are Parquet blobs, held by a reference of the evaluation.
CREATE TABLE evaluations (
    evaluation_id VARCHAR PRIMARY KEY, model_id VARCHAR NOT NULL, suite VARCHAR NOT NULL, chain_id VARCHAR,
    run_id VARCHAR, status VARCHAR NOT NULL, metric VARCHAR NOT NULL, better VARCHAR NOT NULL, scores JSON NOT NULL,
    success_rate DOUBLE, n_episodes INTEGER, n_samples INTEGER, episodes_id VARCHAR, samples_id VARCHAR, files JSON,
    tags JSON, metadata JSON, environment JSON, message VARCHAR, created_at TIMESTAMP NOT NULL
);
-- A row a change: who holds a rank now is its newest row.
CREATE TABLE champions (
    champion_id VARCHAR PRIMARY KEY, suite VARCHAR NOT NULL, metric VARCHAR NOT NULL, model_id VARCHAR NOT NULL,
    evaluation_id VARCHAR NOT NULL, rank INTEGER NOT NULL, value DOUBLE, previous_id VARCHAR, improvements JSON,
    chosen_by VARCHAR NOT NULL, note VARCHAR, made_at TIMESTAMP NOT NULL
);
CREATE TABLE backups (
    backup_id VARCHAR PRIMARY KEY, path VARCHAR NOT NULL, parent_id VARCHAR, size_bytes BIGINT NOT NULL,
    n_blobs INTEGER NOT NULL, catalog_hash VARCHAR NOT NULL, status VARCHAR NOT NULL, details JSON,
    created_at TIMESTAMP NOT NULL
);
-- A row for each deletion that can be undone. References of the owner kind 'trash' hold its artifacts, and `holds`
-- names the runs, pipelines, chains, predictions and arrays that the rows in `content` are about.
CREATE TABLE trash (
    trash_id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, object_id VARCHAR NOT NULL, name VARCHAR,
    operation VARCHAR NOT NULL, counts JSON NOT NULL, holds JSON NOT NULL, size_bytes BIGINT NOT NULL,
    content BLOB NOT NULL, deleted_at TIMESTAMP NOT NULL
);
-- What a search still says of a chain that is gone.
CREATE TABLE past_chains (
    chain_id VARCHAR PRIMARY KEY, trash_id VARCHAR, operation VARCHAR NOT NULL, pipeline_id VARCHAR NOT NULL,
    pipeline_name VARCHAR, run_id VARCHAR, run_name VARCHAR, tags JSON, dataset_name VARCHAR,
    preprocessings VARCHAR NOT NULL, model_name VARCHAR, model_class VARCHAR NOT NULL, steps JSON NOT NULL,
    target VARCHAR, target_unit VARCHAR, components INTEGER, task VARCHAR, metric VARCHAR, score DOUBLE,
    score_sd DOUBLE, n_samples BIGINT, created_at TIMESTAMP NOT NULL, deleted_at TIMESTAMP NOT NULL
);
-- Calibrations in service. `scope` says where one may be used: matrix, range, instruments, wavelengths; `figures` are
-- the figures of merit at registration; `content_hash` covers the chain, its artifacts and its domain.
CREATE TABLE calibration_versions (
    version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, version INTEGER NOT NULL, chain_id VARCHAR NOT NULL,
    dataset_version_id VARCHAR, correction_id VARCHAR, scope JSON NOT NULL, figures JSON NOT NULL,
    content_hash VARCHAR NOT NULL, author VARCHAR NOT NULL, note VARCHAR, metadata JSON, created_at TIMESTAMP NOT NULL
);
-- A row a change, so the history is the table: the highest number of an alias counts, whatever clocks say, and
-- without a version the alias is gone.
CREATE TABLE calibration_aliases (
    alias_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, alias VARCHAR NOT NULL, number INTEGER NOT NULL,
    version INTEGER, previous INTEGER, set_by VARCHAR NOT NULL, reason VARCHAR, set_at TIMESTAMP NOT NULL
);
-- A row a change as well; without a rule there is none any more.
CREATE TABLE calibration_rules (
    rule_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, alias VARCHAR NOT NULL, number INTEGER NOT NULL, rule JSON,
    set_by VARCHAR NOT NULL, set_at TIMESTAMP NOT NULL
);
-- The highest number that a deleted version of a name had.
CREATE TABLE calibration_retired (name VARCHAR PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE signatures (
    signature_id VARCHAR PRIMARY KEY, version_id VARCHAR NOT NULL, signer VARCHAR NOT NULL, meaning VARCHAR NOT NULL,
    note VARCHAR, content_hash VARCHAR NOT NULL, audit_head VARCHAR NOT NULL, signed_at TIMESTAMP NOT NULL,
    algorithm VARCHAR, key_id VARCHAR, signature VARCHAR
);
-- A correction belongs to one version; another version is never corrected by it.
CREATE TABLE corrections (
    correction_id VARCHAR PRIMARY KEY, calibration VARCHAR NOT NULL, version INTEGER NOT NULL,
    number INTEGER NOT NULL, slope DOUBLE, bias DOUBLE, samples JSON, reason VARCHAR, author VARCHAR NOT NULL,
    metadata JSON, created_at TIMESTAMP NOT NULL, retired_at TIMESTAMP
);
-- One row per sample and target. Labels are not numbers. No index, which every application of the journal
-- would have to keep up: a commit is applied once, so an id comes once.
CREATE TABLE measurements (
    measurement_id VARCHAR NOT NULL, batch_id VARCHAR NOT NULL, calibration VARCHAR, version INTEGER,
    chain_id VARCHAR NOT NULL, correction_id VARCHAR, role VARCHAR NOT NULL, sample_id VARCHAR, target VARCHAR,
    raw DOUBLE, prediction DOUBLE, label VARCHAR, lower DOUBLE, upper DOUBLE, flags JSON, instrument VARCHAR,
    operator VARCHAR, spectrum_hash VARCHAR, spectrum BLOB USING COMPRESSION zstd, bundle VARCHAR, metadata JSON,
    measured_at TIMESTAMP NOT NULL, logged_at TIMESTAMP NOT NULL
);
-- Values of the laboratory. NULL: withdrawn, as `replaces` says, which names the row that this one corrects: both stay.
CREATE TABLE sample_references (
    reference_id VARCHAR PRIMARY KEY, sample_id VARCHAR NOT NULL, target VARCHAR, value DOUBLE, label VARCHAR,
    unit VARCHAR, lab VARCHAR, method VARCHAR, measured_at TIMESTAMP, note VARCHAR, replaces VARCHAR,
    added_at TIMESTAMP NOT NULL, added_by VARCHAR
);
-- Spectra with references under a name with versions. The spectra of a version are rows of one or more blobs, its
-- samples are a table in a blob of their own: a version that corrects a reference or chooses some samples shares the
-- spectra of another. `size_bytes` are those that this version brought.
CREATE TABLE dataset_versions (
    dataset_version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, version INTEGER NOT NULL, kind VARCHAR NOT NULL,
    parent_id VARCHAR, n_samples INTEGER NOT NULL, n_channels INTEGER NOT NULL, dtype VARCHAR NOT NULL, unit VARCHAR,
    first_wavelength DOUBLE, last_wavelength DOUBLE, labels JSON NOT NULL, spectra_ids JSON NOT NULL,
    samples_id VARCHAR NOT NULL, content_hash VARCHAR NOT NULL, size_bytes BIGINT NOT NULL, instrument JSON,
    selection JSON, metadata JSON, note VARCHAR, session_id VARCHAR, created_at TIMESTAMP NOT NULL
);
-- The highest number that a deleted version of a name had.
CREATE TABLE dataset_retired (name VARCHAR PRIMARY KEY, version INTEGER NOT NULL);
""")

# Streams that travel in a segment but are not tables of their own.
_STREAMS = _tables("""
CREATE TABLE changes (change_id VARCHAR, kind VARCHAR, id VARCHAR, made_at TIMESTAMP, payload JSON);
CREATE TABLE takeovers (takeover_id VARCHAR, session_id VARCHAR, artifact_id VARCHAR);
""")
# What they may be; an unknown kind is a newer version's.
CHANGE_KINDS = frozenset(
    {"complete_pipeline", "fail_pipeline", "complete_run", "fail_run", "edit_run", "end_session", "audit"}
)
# Parents first: the order in which a segment's rows are inserted.
_COMMITTED = (
    "sessions runs pipelines chains predictions arrays prediction_arrays blobs artifact_refs "
    "artifact_records artifact_links logs metrics measurements sample_references"
)
SEGMENT_TABLES: dict[str, Table] = {
    **{name: TABLES[name] for name in _COMMITTED.split()},
    "takeovers": _STREAMS["takeovers"],
    "changes": _STREAMS["changes"],
}

# Columns that segments of an older library lack: NULL there, or filled from what they say elsewhere.
ADDED_COLUMNS: dict[str, frozenset[str]] = {
    "runs": frozenset({"environment", "note", "tags"}),
    "chains": frozenset({"target", "target_unit"}),
}

# `artifacts` is what people ask for: ref_count is counted, never stored, so it cannot drift.
VIEWS: dict[str, str] = {
    "artifacts": (
        "CREATE VIEW artifacts AS SELECT b.artifact_id, b.artifact_path, b.content_hash, "
        "b.operator_class, b.artifact_type, b.format, b.size_bytes, "
        "coalesce(r.n, 0)::INTEGER AS ref_count, b.created_at FROM blobs b LEFT JOIN "
        "(SELECT artifact_id, count(*) AS n FROM artifact_refs GROUP BY artifact_id) r "
        "USING (artifact_id)"
    ),
    # Names instead of ids: what a person joins by hand otherwise.
    "scores": (
        "CREATE VIEW scores AS SELECT r.name AS run, l.name AS pipeline, p.dataset_name AS dataset, "
        "p.preprocessings, p.model_name AS model, p.model_class, p.fold_id AS fold, p.partition, p.metric, "
        "p.val_score, p.test_score, p.train_score, p.n_samples, p.task_type, p.created_at, r.run_id, "
        "p.pipeline_id, p.chain_id, p.prediction_id, c.target, c.target_unit FROM predictions p "
        "LEFT JOIN pipelines l USING (pipeline_id) LEFT JOIN runs r USING (run_id) "
        "LEFT JOIN chains c USING (chain_id)"
    ),
    "models": (
        "CREATE VIEW models AS SELECT r.name AS run, l.name AS pipeline, l.dataset_name AS dataset, "
        "c.preprocessings, c.model_class, c.fold_strategy, l.best_val, l.best_test, l.metric, c.created_at, "
        "r.run_id, c.pipeline_id, c.chain_id, c.target, c.target_unit FROM chains c "
        "LEFT JOIN pipelines l USING (pipeline_id) LEFT JOIN runs r USING (run_id)"
    ),
    "run_overview": (
        "CREATE VIEW run_overview AS SELECT r.run_id, r.name, r.status, r.created_at, r.completed_at, r.note, "
        "r.tags, (SELECT count(*) FROM pipelines l WHERE l.run_id = r.run_id) AS pipelines, "
        "(SELECT count(*) FROM chains c JOIN pipelines l USING (pipeline_id) WHERE l.run_id = r.run_id) AS chains, "
        "(SELECT count(*) FROM predictions p JOIN pipelines l USING (pipeline_id) WHERE l.run_id = r.run_id) "
        "AS predictions FROM runs r"
    ),
    "log_lines": (
        "CREATE VIEW log_lines AS SELECT r.name AS run, l.name AS pipeline, g.step_idx, g.operator_class, "
        "g.event, g.duration_ms, g.level, g.message, g.details, g.created_at, r.run_id, g.pipeline_id, g.log_id "
        "FROM logs g LEFT JOIN pipelines l USING (pipeline_id) LEFT JOIN runs r USING (run_id)"
    ),
}


@cache
def column_names(table: str) -> tuple[str, ...]:
    """Names of a table's columns, in order."""
    return tuple(c.name for c in (SEGMENT_TABLES.get(table) or TABLES[table]).columns)


@cache
def arrow_schema(table: str) -> pa.Schema:
    """Arrow schema of a table's rows."""
    columns = (SEGMENT_TABLES.get(table) or TABLES[table]).columns
    return pa.schema([(c.name, c.arrow) for c in columns])


def create_statements(tables: Iterable[str] = TABLES) -> list[str]:
    """Statements that create an empty catalog of the current version, or these of its tables; and the views."""
    return [*(create_statement(TABLES[table]) for table in tables), *VIEWS.values()]


# -- What lies in a catalog file: this library's tables and views, and what others have put there.


OLD_ALIAS = "old"
"""What a catalog is called while it is copied into a new one."""

META = "nirs_store_meta"
_MAIN = "main"
# Names that would stand for two things wherever this library writes catalog.table.
_AMBIGUOUS = frozenset({CATALOG_ALIAS, OLD_ALIAS, "memory", "system", "temp"})
_SHOWN = 5
# How a column's bytes are packed says nothing about what it does.
_COMPRESSION = re.compile(r" USING COMPRESSION \w+")


class Object(NamedTuple):
    """One thing in a catalog."""

    kind: str
    schema: str
    name: str
    # The table that a trigger or an index belongs to.
    table: str | None
    sql: str | None

    def __str__(self) -> str:
        name = self.name if self.schema == _MAIN else f"{self.schema}.{self.name}"
        return f"{self.kind} {name}" + (f" on {self.table}" if self.table else "")


# Every name in full: a catalog may have macros that are called as these functions are.
_OBJECTS = """
    SELECT 'table', schema_name, table_name, NULL, sql FROM system.main.duckdb_tables()
        WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'view', schema_name, view_name, NULL, sql FROM system.main.duckdb_views()
        WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'index', schema_name, index_name, table_name, sql FROM system.main.duckdb_indexes()
        WHERE database_name = $name
    UNION ALL SELECT 'sequence', schema_name, sequence_name, NULL, sql FROM system.main.duckdb_sequences()
        WHERE database_name = $name
    UNION ALL SELECT 'trigger', schema_name, trigger_name, table_name, sql FROM system.main.duckdb_triggers()
        WHERE database_name = $name
    UNION ALL SELECT 'schema', schema_name, schema_name, NULL, NULL FROM system.main.duckdb_schemas()
        WHERE database_name = $name AND NOT internal AND schema_name <> 'main'
    UNION ALL SELECT 'type', schema_name, type_name, NULL, NULL FROM system.main.duckdb_types()
        WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'macro', schema_name, function_name, NULL, NULL FROM system.main.duckdb_functions()
        WHERE database_name = $name AND NOT internal
"""


def quoted(identifier: str) -> str:
    """Write a name as SQL takes it, whatever it holds."""
    return '"' + identifier.replace('"', '""') + '"'


def objects_of(con: duckdb.DuckDBPyConnection, alias: str = CATALOG_ALIAS) -> list[Object]:
    """All things in an attached catalog; nothing of it is run."""
    # DuckDB does not tell names by their case.
    rows = con.execute(_OBJECTS, {"name": alias}).fetchall()
    return sorted(
        {
            Object(kind, schema.lower(), name.lower(), table and table.lower(), sql)
            for kind, schema, name, table, sql in rows
        },
        key=lambda each: (each.kind, each.schema, each.name),
    )


def refuse_false_meta(objects: list[Object], path: Path) -> None:
    """Refuse a catalog that would say with code whose it is."""
    false = [each for each in objects if each.name == META and each.schema == _MAIN and each.kind != "table"]
    false += [
        each
        for each in objects
        if each.name == META and each.kind == "table" and _difference(each) is not None
    ]
    if false:
        _refuse(path, [f"{each}, not the table of that name" for each in false])


def refuse_altered(con: duckdb.DuckDBPyConnection, objects: list[Object], path: Path) -> None:
    """Refuse a catalog in which something of others would act when this library reads or writes."""
    found = [words for each in objects if (words := _objection(each)) is not None]
    names = {each.name for each in objects if each.kind in ("macro", "type")}
    if names:
        own = {
            str(row[0])
            for row in con.execute(
                "SELECT function_name FROM system.main.duckdb_functions() WHERE internal UNION "
                "SELECT type_name FROM system.main.duckdb_types() WHERE internal"
            ).fetchall()
        }
        lower = {name.lower() for name in own}
        found += [
            f"{each} takes the place of DuckDB's"
            for each in objects
            if each.kind in ("macro", "type") and each.name.lower() in lower
        ]
    if found:
        _refuse(path, found)


def _refuse(path: Path, found: list[str]) -> None:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ForeignCatalog(
        f"{path} holds what nirs_store has not put there, and what would act when it is used: "
        f"{'; '.join(found[:_SHOWN])}{more}. It was left as it is. If you know who made it, remove it with DuckDB "
        "(DROP ...); otherwise do not use this workspace."
    )


def _objection(each: Object) -> str | None:
    """Say what an object would do, if it would do something."""
    if each.kind == "trigger":
        return str(each)
    if each.kind == "schema":
        return (
            f"{each} has a name that DuckDB could take for the catalog's" if each.name in _AMBIGUOUS else None
        )
    if each.schema != _MAIN:
        return None
    if each.kind == "index":
        return str(each) if each.table in TABLES else None
    if each.name in TABLES and each.kind in ("table", "view"):
        if each.kind == "view":
            return f"{each} in the place of a table"
        reason = _difference(each)
        return None if reason is None else f"{each} {reason}"
    if each.name in VIEWS and each.kind == "table":
        return f"{each} in the place of a view"
    return None


def _difference(table: Object) -> str | None:
    """Say how a table differs from this library's: an older one may lack columns, others may have plain ones more."""
    expected, found = _columns_of(TABLES[table.name].columns), _split(table.sql or "")
    for text in sorted(found - expected):
        words = text.split(" ")
        if words[0].lower() in {column.name for column in TABLES[table.name].columns}:
            return f"has the column {text}"
        # Nothing but a type, whatever it is: no default, no rule, nothing that is worked out.
        if len(words) > 2 or "(" in text:
            return f"has {text}"
    return None


def _columns_of(columns: tuple[Column, ...]) -> set[str]:
    return {_COMPRESSION.sub("", f"{column.name} {column.sql}") for column in columns}


def _split(sql: str) -> set[str]:
    """Columns and rules of a CREATE TABLE as DuckDB writes it, without quotes.

    A name that holds a quote, a comma or a bracket is cut in another way than it was meant, and fits nothing then.
    """
    inner = sql[sql.find("(") + 1 : sql.rfind(")")].replace('"', "")
    parts, depth, start = [], 0, 0
    for place, character in enumerate(inner):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(inner[start:place])
            start = place + 1
    return {_COMPRESSION.sub("", part.strip()) for part in (*parts, inner[start:])}


def foreign_objects(objects: list[Object]) -> list[Object]:
    """Return what others have put into a catalog and nothing sets going."""
    own = {*TABLES, *VIEWS}
    return [
        each
        for each in objects
        if not (each.schema == _MAIN and each.kind in ("table", "view") and each.name in own)
        or (each.kind == "table" and _split(each.sql or "") - _columns_of(TABLES[each.name].columns))
    ]


def altered_views(objects: list[Object]) -> list[str]:
    """Names of this library's views that select something else than they should."""
    views = {each.name: each.sql for each in objects if each.kind == "view" and each.schema == _MAIN}
    return [name for name, sql in _views().items() if name in views and views[name] != sql]


@cache
def _views() -> dict[str, str]:
    """Return the views as this DuckDB writes them."""
    with duckdb.connect(":memory:", config={"threads": 1}) as con:
        con.execute("; ".join(create_statements()))
        rows = con.execute("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal").fetchall()
    return {str(name): str(sql) for name, sql in rows}


# Catalogs that were looked at in this process: path, file. Looking takes 20 ms, opening 1 ms.
_seen: dict[str, tuple[int, int]] = {}


def was_inspected(path: Path) -> bool:
    """Whether this very file was looked at, and found to hold nothing that acts."""
    found = os.stat(path)
    return _seen.get(str(path)) == (found.st_dev, found.st_ino)


def remember(path: Path) -> None:
    """Look at this file no more: who may write into it now could change its rows as well."""
    found = os.stat(path)
    _seen[str(path)] = (found.st_dev, found.st_ino)


def forget(path: Path) -> None:
    """Look again: another file comes into its place."""
    _seen.pop(str(path), None)
