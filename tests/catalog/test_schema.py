"""The tables are the documented ones, and DDL, Arrow batches and rows agree about them."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from nirs_store.db.schema import SEGMENT_TABLES, TABLES, arrow_schema, column_names, create_statements

DOCUMENTED = {
    "runs": "run_id name config datasets status created_at completed_at summary error",
    "pipelines": "pipeline_id run_id name expanded_config generator_choices dataset_name dataset_hash status "
    "created_at completed_at best_val best_test metric duration_ms error",
    "chains": "chain_id pipeline_id steps model_step_idx model_class preprocessings fold_strategy fold_artifacts "
    "shared_artifacts branch_path source_index created_at",
    "predictions": "prediction_id pipeline_id chain_id dataset_name model_name model_class fold_id partition "
    "val_score test_score train_score metric task_type n_samples n_features scores best_params preprocessings "
    "branch_id branch_name exclusion_count exclusion_rate created_at",
    "prediction_arrays": "prediction_id y_true y_pred y_proba sample_indices weights",
    "logs": "log_id pipeline_id step_idx operator_class event duration_ms message details level created_at",
}


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    for statement in create_statements():
        con.execute(statement)
    return con


@pytest.mark.parametrize("table", DOCUMENTED)
def test_a_table_has_the_documented_columns(table: str) -> None:
    assert set(DOCUMENTED[table].split()) <= set(column_names(table))


def test_artifacts_can_be_asked_like_a_table_and_count_their_references(
    con: duckdb.DuckDBPyConnection,
) -> None:
    con.execute("INSERT INTO blobs VALUES ('a', 'p', 'h', 'C', 'model', 'joblib', 3, now()::TIMESTAMP)")
    for ref in ("r1", "r2"):
        con.execute(
            "INSERT INTO artifact_refs (ref_id, artifact_id, owner_kind, owner_id, created_at) "
            "VALUES (?, 'a', 'session', 's', now()::TIMESTAMP)",
            [ref],
        )
    described = con.execute("DESCRIBE artifacts").fetchall()
    assert [row[0] for row in described] == [
        "artifact_id", "artifact_path", "content_hash", "operator_class", "artifact_type", "format",
        "size_bytes", "ref_count", "created_at",
    ]  # fmt: skip
    assert con.execute("SELECT ref_count FROM artifacts").fetchall() == [(2,)]


def test_no_foreign_key_is_declared_because_it_would_forbid_deleting_a_run_at_once(
    con: duckdb.DuckDBPyConnection,
) -> None:
    kinds = con.execute("SELECT DISTINCT constraint_type FROM duckdb_constraints()").fetchall()
    assert ("FOREIGN KEY",) not in kinds


def test_arrays_are_blobs_because_lists_are_rewritten_whole(con: duckdb.DuckDBPyConnection) -> None:
    types = {row[0]: row[1] for row in con.execute("DESCRIBE arrays").fetchall()}
    assert types["data"] == "BLOB"
    lists = con.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE data_type LIKE '%[]' AND NOT internal"
    ).fetchall()
    assert lists == []


@pytest.mark.parametrize("table", [name for name in SEGMENT_TABLES if name in TABLES])
def test_an_empty_arrow_batch_of_a_table_can_be_inserted(table: str, con: duckdb.DuckDBPyConnection) -> None:
    con.register("incoming", arrow_schema(table).empty_table())
    names = ", ".join(column_names(table))
    con.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM incoming")
    assert isinstance(arrow_schema(table), pa.Schema)


def test_parents_travel_before_their_children() -> None:
    order = list(SEGMENT_TABLES)
    for parent, child in (("runs", "pipelines"), ("pipelines", "chains"), ("chains", "predictions"),
                          ("predictions", "prediction_arrays"), ("blobs", "artifact_refs"),
                          ("artifact_refs", "takeovers")):  # fmt: skip
        assert order.index(parent) < order.index(child)
