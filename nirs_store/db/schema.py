"""The tables: one list of columns that DDL, Arrow batches and queries are all made from.

Nothing but this file and the migrations holds DDL. There are no foreign keys (DuckDB cannot
delete a parent and its children in one transaction when one is declared); `check` looks for
dangling references instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import pyarrow as pa

__all__ = [
    "ADDED_COLUMNS",
    "BLOCK_SIZE",
    "CATALOG_ALIAS",
    "CHANGE_KINDS",
    "DATASET_TABLES",
    "EVALUATION_TABLES",
    "FILE_TABLES",
    "HISTORY_TABLES",
    "LONG",
    "ROW_GROUP_SIZE",
    "SCHEMA_VERSION",
    "SEGMENT_TABLES",
    "SERVICE_TABLES",
    "TABLES",
    "TRASH_TABLES",
    "VIEWS",
    "Column",
    "Table",
    "arrow_schema",
    "column_names",
    "create_statement",
    "create_statements",
    "document",
    "flag",
    "key",
    "moment",
    "number",
    "text",
    "whole",
    "whole64",
]


# -- What the tables are described with: columns that DDL, Arrow batches and queries are all made from.


class Column(NamedTuple):
    """One column: its name, DuckDB type (with constraints) and Arrow type."""

    name: str
    sql: str
    arrow: pa.DataType


class Table(NamedTuple):
    """One table and the columns whose value names an owner (looked up among the tombstones)."""

    name: str
    columns: tuple[Column, ...]


TEXT = pa.string()
TIME = pa.timestamp("us")
INT = pa.int32()
LONG = pa.int64()
REAL = pa.float64()


def key(name: str) -> Column:
    """Return a text that identifies the row."""
    return Column(name, "VARCHAR PRIMARY KEY", TEXT)


def text(name: str, *, null: bool = False) -> Column:
    """Return a text."""
    return Column(name, "VARCHAR" if null else "VARCHAR NOT NULL", TEXT)


def document(name: str, *, null: bool = True) -> Column:
    """Return a JSON value."""
    return Column(name, "JSON" if null else "JSON NOT NULL", TEXT)


def moment(name: str, *, null: bool = True) -> Column:
    """Return a moment, in UTC."""
    return Column(name, "TIMESTAMP" if null else "TIMESTAMP NOT NULL", TIME)


def number(name: str) -> Column:
    """Return a number."""
    return Column(name, "DOUBLE", REAL)


def whole(name: str, *, null: bool = True) -> Column:
    """Return a whole number."""
    return Column(name, "INTEGER" if null else "INTEGER NOT NULL", INT)


def whole64(name: str) -> Column:
    """Return a whole number of 64 bits."""
    return Column(name, "BIGINT NOT NULL", LONG)


def flag(name: str) -> Column:
    """Yes or no."""
    return Column(name, "BOOLEAN NOT NULL", pa.bool_())


def create_statement(table: Table) -> str:
    """DDL of a table."""
    return f"CREATE TABLE {table.name} ({', '.join(f'{c.name} {c.sql}' for c in table.columns)})"


# -- Tables of files of any kind: their versions, aliases and processing runs.


FILE_TABLES: tuple[Table, ...] = (
    # A row a version. A name is one series of versions, and one more for each test; `is_latest` marks the newest
    # of a series, so that listing what is there today is one scan.
    Table(
        "file_versions",
        (
            key("version_id"),
            text("name"),
            text("test_name", null=True),
            whole("version", null=False),
            flag("is_latest"),
            text("type"),
            text("kind"),
            text("status"),
            text("mode"),
            text("coverage", null=True),
            text("model_id", null=True),
            text("evaluation_id", null=True),
            text("suite", null=True),
            text("group_name", null=True),
            text("episode", null=True),
            text("module", null=True),
            text("module_version", null=True),
            text("run_id", null=True),
            text("processing_id", null=True),
            text("artifact_id", null=True),
            text("content_hash", null=True),
            whole64("size_bytes"),
            whole64("stored_bytes"),
            text("compression"),
            text("compression_note", null=True),
            # Of a group: its members, a version id a name.
            document("members"),
            document("tags"),
            document("metadata"),
            text("message", null=True),
            text("session_id", null=True),
            moment("created_at", null=False),
            moment("updated_at", null=False),
        ),
    ),
    Table(
        "file_aliases",
        (
            key("alias_id"),
            text("name"),
            text("test_name", null=True),
            text("alias"),
            text("version_id"),
            moment("made_at", null=False),
        ),
    ),
    # The highest number that a deleted version of a series had: numbers are never given twice.
    Table("file_retired", (key("series"), whole("version", null=False))),
    # Types that somebody declared here, beside those that come with the library.
    Table(
        "file_types",
        (key("type"), text("description"), document("metadata_schema"), moment("made_at", null=False)),
    ),
    Table(
        "processing_runs",
        (
            key("processing_id"),
            text("name"),
            text("status"),
            text("module", null=True),
            text("module_version", null=True),
            document("parameters"),
            text("message", null=True),
            text("session_id", null=True),
            moment("started_at", null=False),
            moment("ended_at"),
        ),
    ),
)


# -- Tables of what became of things: typed links, the audit trail, settings of the workspace, pins.


HISTORY_TABLES: tuple[Table, ...] = (
    Table(
        "lineage_links",
        (
            key("link_id"),
            text("source_kind"),
            text("source_id"),
            text("target_kind"),
            text("target_id"),
            text("link_type"),
            document("metadata"),
            moment("created_at", null=False),
        ),
    ),
    # Append-only; each entry holds the hash of the one before it. Its number is its name: no index, which
    # every application of the journal would have to keep up.
    Table(
        "audit_entries",
        (
            whole64("number"),
            moment("made_at", null=False),
            text("user_name"),
            text("host"),
            whole("pid", null=False),
            text("operation"),
            text("object_kind", null=True),
            text("object_id", null=True),
            Column("success", "BOOLEAN NOT NULL", pa.bool_()),
            text("message", null=True),
            document("details"),
            text("previous_hash"),
            text("entry_hash"),
        ),
    ),
    Table("settings", (key("key"), document("value"), moment("changed_at", null=False))),
    Table(
        "pins",
        (
            key("pin_id"),
            text("object_kind"),
            text("object_id"),
            text("reason", null=True),
            moment("made_at", null=False),
        ),
    ),
)


# -- Tables of evaluations, of the champions they made, and of backups.


EVALUATION_TABLES: tuple[Table, ...] = (
    Table(
        "evaluations",
        (
            key("evaluation_id"),
            text("model_id"),
            text("suite"),
            text("chain_id", null=True),
            text("run_id", null=True),
            text("status"),
            text("metric"),
            text("better"),
            document("scores", null=False),
            number("success_rate"),
            whole("n_episodes"),
            whole("n_samples"),
            # Parquet blobs, held by a reference of the evaluation.
            text("episodes_id", null=True),
            text("samples_id", null=True),
            document("files"),
            document("tags"),
            document("metadata"),
            document("environment"),
            text("message", null=True),
            moment("created_at", null=False),
        ),
    ),
    Table(
        "champions",
        (
            key("champion_id"),
            text("suite"),
            text("metric"),
            # A row a change: who holds a rank now is its newest row.
            text("model_id"),
            text("evaluation_id"),
            whole("rank", null=False),
            number("value"),
            text("previous_id", null=True),
            document("improvements"),
            text("chosen_by"),
            text("note", null=True),
            moment("made_at", null=False),
        ),
    ),
    Table(
        "backups",
        (
            key("backup_id"),
            text("path"),
            text("parent_id", null=True),
            whole64("size_bytes"),
            whole("n_blobs", null=False),
            text("catalog_hash"),
            text("status"),
            document("details"),
            moment("created_at", null=False),
        ),
    ),
)

# -- Tables of what was deleted, and of what is known of chains that were.


TRASH_TABLES: tuple[Table, ...] = (
    # A row for each deletion that can be undone. References of the owner kind "trash" hold its artifacts, and
    # `holds` names the runs, pipelines, chains, predictions and arrays that the rows in `content` are about.
    Table(
        "trash",
        (
            key("trash_id"),
            text("kind"),
            text("object_id"),
            text("name", null=True),
            text("operation"),
            document("counts", null=False),
            document("holds", null=False),
            whole64("size_bytes"),
            Column("content", "BLOB NOT NULL", pa.binary()),
            moment("deleted_at", null=False),
        ),
    ),
    # What a search still says of a chain that is gone.
    Table(
        "past_chains",
        (
            key("chain_id"),
            text("trash_id", null=True),
            text("operation"),
            text("pipeline_id"),
            text("pipeline_name", null=True),
            text("run_id", null=True),
            text("run_name", null=True),
            document("tags"),
            text("dataset_name", null=True),
            text("preprocessings"),
            text("model_name", null=True),
            text("model_class"),
            document("steps", null=False),
            text("target", null=True),
            text("target_unit", null=True),
            whole("components"),
            text("task", null=True),
            text("metric", null=True),
            number("score"),
            number("score_sd"),
            Column("n_samples", "BIGINT", LONG),
            moment("created_at", null=False),
            moment("deleted_at", null=False),
        ),
    ),
)

# -- Tables of calibrations in service: names and their versions, what was measured with them, the laboratory's values.


SERVICE_TABLES: tuple[Table, ...] = (
    Table(
        "calibration_versions",
        (
            key("version_id"),
            text("name"),
            whole("version", null=False),
            text("chain_id"),
            text("dataset_version_id", null=True),
            text("correction_id", null=True),
            # Where it may be used: matrix, range, instruments, wavelengths.
            document("scope", null=False),
            # Figures of merit at registration.
            document("figures", null=False),
            # What the version is made of, by content: the hash of a chain, its artifacts and its domain.
            text("content_hash"),
            text("author"),
            text("note", null=True),
            document("metadata"),
            moment("created_at", null=False),
        ),
    ),
    # A row a change, so the history is the table: the highest number of an alias counts, whatever clocks say, and
    # without a version the alias is gone.
    Table(
        "calibration_aliases",
        (
            key("alias_id"),
            text("name"),
            text("alias"),
            whole("number", null=False),
            whole("version"),
            whole("previous"),
            text("set_by"),
            text("reason", null=True),
            moment("set_at", null=False),
        ),
    ),
    # A row a change as well; without a rule there is none any more.
    Table(
        "calibration_rules",
        (
            key("rule_id"),
            text("name"),
            text("alias"),
            whole("number", null=False),
            document("rule"),
            text("set_by"),
            moment("set_at", null=False),
        ),
    ),
    # The highest number that a deleted version of a name had: numbers are never given twice.
    Table("calibration_retired", (key("name"), whole("version", null=False))),
    Table(
        "signatures",
        (
            key("signature_id"),
            text("version_id"),
            text("signer"),
            text("meaning"),
            text("note", null=True),
            text("content_hash"),
            text("audit_head"),
            moment("signed_at", null=False),
            text("algorithm", null=True),
            text("key_id", null=True),
            text("signature", null=True),
        ),
    ),
    Table(
        "corrections",
        (
            key("correction_id"),
            text("calibration"),
            # What it belongs to: another version is never corrected by it.
            whole("version", null=False),
            whole("number", null=False),
            number("slope"),
            number("bias"),
            document("samples"),
            text("reason", null=True),
            text("author"),
            document("metadata"),
            moment("created_at", null=False),
            moment("retired_at"),
        ),
    ),
    # A row a sample and target. Labels of a classifier are no numbers. No index, which every application of the
    # journal would have to keep up: a commit is applied once, so an id comes once.
    Table(
        "measurements",
        (
            text("measurement_id"),
            text("batch_id"),
            text("calibration", null=True),
            whole("version"),
            text("chain_id"),
            text("correction_id", null=True),
            text("role"),
            text("sample_id", null=True),
            text("target", null=True),
            number("raw"),
            number("prediction"),
            text("label", null=True),
            number("lower"),
            number("upper"),
            document("flags"),
            text("instrument", null=True),
            text("operator", null=True),
            text("spectrum_hash", null=True),
            Column("spectrum", "BLOB USING COMPRESSION zstd", pa.binary()),
            text("bundle", null=True),
            document("metadata"),
            moment("measured_at", null=False),
            moment("logged_at", null=False),
        ),
    ),
    Table(
        "sample_references",
        (
            key("reference_id"),
            text("sample_id"),
            text("target", null=True),
            # NULL: withdrawn, as `replaces` says.
            number("value"),
            text("label", null=True),
            text("unit", null=True),
            text("lab", null=True),
            text("method", null=True),
            moment("measured_at"),
            text("note", null=True),
            # The row that this one corrects: both stay.
            text("replaces", null=True),
            moment("added_at", null=False),
            text("added_by", null=True),
        ),
    ),
)


# -- Tables of data sets: spectra with references under a name with versions.


DATASET_TABLES: tuple[Table, ...] = (
    # A row per version. Its spectra are rows of one or more blobs, its samples are a table in a blob of their own:
    # a version that corrects a reference or chooses some samples shares the spectra of another.
    Table(
        "dataset_versions",
        (
            key("dataset_version_id"),
            text("name"),
            whole("version", null=False),
            text("kind"),
            text("parent_id", null=True),
            whole("n_samples", null=False),
            whole("n_channels", null=False),
            text("dtype"),
            text("unit", null=True),
            number("first_wavelength"),
            number("last_wavelength"),
            document("labels", null=False),
            document("spectra_ids", null=False),
            text("samples_id"),
            text("content_hash"),
            # Bytes that this version brought; what it shares with others is theirs.
            whole64("size_bytes"),
            document("instrument"),
            document("selection"),
            document("metadata"),
            text("note", null=True),
            text("session_id", null=True),
            moment("created_at", null=False),
        ),
    ),
    # The highest number that a deleted version of a name had: numbers are never given twice.
    Table("dataset_retired", (key("name"), whole("version", null=False))),
)

SCHEMA_VERSION = 6
CATALOG_ALIAS = "store"
# DuckDB reuses the space of deleted rows a row group at a time, so the default of 122,880 never
# gives any back to a catalog of this size; below 8,192 scans of a million rows slow down visibly.
ROW_GROUP_SIZE = 8192
# Every table and index begins a block of its own and a checkpoint rewrites whole ones: with DuckDB's 262,144 a
# catalog of 200 pipelines is larger by half. Below 32,768 a million rows open more slowly.
BLOCK_SIZE = 32_768


TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        Table("nirs_store_meta", (key("key"), text("value"))),
        Table(
            "sessions",
            (
                key("session_id"),
                text("host"),
                whole("pid"),
                moment("started_at", null=False),
                moment("ended_at"),
            ),
        ),
        Table(
            "runs",
            (
                key("run_id"),
                text("name"),
                document("config"),
                document("datasets"),
                text("status"),
                moment("created_at", null=False),
                moment("completed_at"),
                document("summary"),
                text("error", null=True),
                text("session_id", null=True),
                document("environment"),
                text("note", null=True),
                document("tags"),
            ),
        ),
        Table(
            "pipelines",
            (
                key("pipeline_id"),
                text("run_id"),
                text("name"),
                document("expanded_config"),
                document("generator_choices"),
                text("dataset_name"),
                text("dataset_hash", null=True),
                text("status"),
                moment("created_at", null=False),
                moment("completed_at"),
                number("best_val"),
                number("best_test"),
                text("metric", null=True),
                Column("duration_ms", "BIGINT", LONG),
                text("error", null=True),
                text("session_id", null=True),
            ),
        ),
        Table(
            "chains",
            (
                key("chain_id"),
                text("pipeline_id"),
                document("steps", null=False),
                whole("model_step_idx", null=False),
                text("model_class"),
                text("preprocessings"),
                text("fold_strategy"),
                document("fold_artifacts"),
                document("shared_artifacts"),
                document("branch_path"),
                whole("source_index"),
                document("fold_weights"),
                text("wavelengths", null=True),
                document("metadata"),
                moment("created_at", null=False),
                # What the chain predicts, as its metadata say: scores of two targets are never compared.
                text("target", null=True),
                text("target_unit", null=True),
            ),
        ),
        Table(
            "predictions",
            (
                key("prediction_id"),
                text("pipeline_id"),
                text("chain_id", null=True),
                text("dataset_name"),
                text("model_name"),
                text("model_class"),
                text("fold_id"),
                text("partition"),
                number("val_score"),
                number("test_score"),
                number("train_score"),
                text("metric"),
                text("task_type"),
                whole("n_samples"),
                whole("n_features"),
                document("scores"),
                document("best_params"),
                text("preprocessings"),
                whole("branch_id"),
                text("branch_name", null=True),
                whole("exclusion_count"),
                number("exclusion_rate"),
                moment("created_at", null=False),
            ),
        ),
        Table(
            "arrays",
            (
                key("array_hash"),
                text("dtype"),
                text("shape"),
                # What DuckDB would choose by itself takes four times as long to find out that it gains nothing on
                # floating-point numbers, and leaves labels more than twice as large.
                Column("data", "BLOB USING COMPRESSION zstd NOT NULL", pa.binary()),
            ),
        ),
        Table(
            "prediction_arrays",
            (
                key("prediction_id"),
                text("pipeline_id", null=True),
                text("y_true", null=True),
                text("y_pred", null=True),
                text("y_proba", null=True),
                text("sample_indices", null=True),
                text("weights", null=True),
            ),
        ),
        Table(
            "blobs",
            (
                key("artifact_id"),
                text("artifact_path"),
                text("content_hash"),
                text("operator_class"),
                text("artifact_type"),
                text("format"),
                whole64("size_bytes"),
                moment("created_at", null=False),
            ),
        ),
        Table(
            "artifact_refs",
            (
                key("ref_id"),
                text("artifact_id"),
                text("owner_kind"),
                text("owner_id"),
                text("pipeline_id", null=True),
                text("operator_class", null=True),
                text("artifact_type", null=True),
                moment("created_at", null=False),
            ),
        ),
        # What the artifact layer says of a fitted object: where in a pipeline it belongs, and what it needs.
        Table(
            "artifact_records",
            (
                key("record_id"),
                text("artifact_id"),
                text("pipeline_id"),
                text("chain_path"),
                document("branch_path"),
                whole("source_index"),
                whole("step_index"),
                whole("substep_index"),
                text("fold_id", null=True),
                text("artifact_type"),
                text("class_name"),
                text("custom_name", null=True),
                document("params"),
                document("feature_columns"),
                text("input_data_hash", null=True),
                text("dataset_hash", null=True),
                text("library_version"),
                moment("created_at", null=False),
            ),
        ),
        Table(
            "artifact_links",
            (
                key("link_id"),
                text("record_id"),
                text("pipeline_id"),
                text("kind"),
                whole("position", null=False),
                text("target_id"),
                text("artifact_id"),
                whole("feature_index"),
            ),
        ),
        Table(
            "logs",
            (
                key("log_id"),
                text("pipeline_id"),
                whole("step_idx", null=False),
                text("operator_class", null=True),
                text("event"),
                Column("duration_ms", "BIGINT", LONG),
                text("message", null=True),
                document("details"),
                text("level"),
                moment("created_at", null=False),
            ),
        ),
        # Training curves: a row holds the points of one call, or those that one commit brought of a curve, as 64-bit
        # whole numbers and floats, lowest byte first. Lists would be rewritten whole at each checkpoint.
        Table(
            "metrics",
            (
                key("metric_id"),
                text("pipeline_id"),
                text("name"),
                whole64("n_points"),
                Column("steps", "BLOB USING COMPRESSION zstd NOT NULL", pa.binary()),
                Column("step_values", "BLOB USING COMPRESSION zstd NOT NULL", pa.binary()),
                moment("logged_at", null=False),
            ),
        ),
        # What the journal needs to be applied exactly once, and what it could not place.
        Table("applied", (key("txid"), whole64("number"), moment("applied_at", null=False))),
        Table("dead", (text("id"), text("kind"), moment("died_at", null=False))),
        Table(
            "deferred",
            (
                key("change_id"),
                whole64("number"),
                whole("position", null=False),
                text("kind"),
                text("id"),
                moment("made_at", null=False),
                document("payload"),
            ),
        ),
        Table(
            "dropped",
            (text("txid"), text("table_name"), whole64("rows"), moment("made_at", null=False)),
        ),
        *FILE_TABLES,
        *HISTORY_TABLES,
        *EVALUATION_TABLES,
        *TRASH_TABLES,
        *SERVICE_TABLES,
        *DATASET_TABLES,
    )
}

# Streams that travel in a segment but are not tables of their own.
CHANGES = Table(
    "changes",
    (text("change_id"), text("kind"), text("id"), moment("made_at"), document("payload")),
)
# What they may be; an unknown kind is a newer version's.
CHANGE_KINDS = frozenset(
    {"complete_pipeline", "fail_pipeline", "complete_run", "fail_run", "edit_run", "end_session", "audit"}
)
TAKEOVERS = Table("takeovers", (text("takeover_id"), text("session_id"), text("artifact_id")))
SEGMENT_TABLES: dict[str, Table] = {
    # Parents first: the order in which a segment's rows are inserted.
    **{
        name: TABLES[name]
        for name in (
            "sessions",
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
            "measurements",
            "sample_references",
        )
    },
    "takeovers": TAKEOVERS,
    "changes": CHANGES,
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
