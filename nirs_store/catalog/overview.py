"""Questions behind what a notebook and a terminal show of a store, its runs and chains."""

from __future__ import annotations

from collections.abc import Sequence

from nirs_store.catalog.access import Connection
from nirs_store.catalog.queries import frame
from nirs_store.lazily import polars as pl

__all__ = ["artifacts_of", "counts", "pipeline_counts", "prediction_rows", "targets_of"]


def counts(con: Connection) -> dict[str, int]:
    """How much of everything the catalog holds."""
    tables = ("runs", "pipelines", "chains", "predictions")
    each = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
    blobs = "count(*) AS artifacts, coalesce(sum(size_bytes), 0)::BIGINT AS artifact_bytes"
    return frame(con, f"SELECT {each}, {blobs} FROM blobs").row(0, named=True)


def artifacts_of(con: Connection, artifact_ids: Sequence[str]) -> pl.DataFrame:
    """What is known of some artifacts, by type and id."""
    return frame(
        con,
        "SELECT artifact_id, artifact_type, operator_class, format, size_bytes, ref_count FROM artifacts "
        "WHERE artifact_id IN (SELECT unnest(?)) ORDER BY artifact_type, artifact_id",
        [list(artifact_ids)],
    )


def prediction_rows(con: Connection, chain_id: str, partition: str) -> pl.DataFrame:
    """Predictions of a chain about one partition, folds by number and the refit last."""
    return frame(
        con,
        "SELECT prediction_id, fold_id FROM predictions WHERE chain_id = ? AND partition = ? ORDER BY "
        "TRY_CAST(regexp_extract(fold_id, '[0-9]+$') AS INTEGER) NULLS LAST, fold_id, prediction_id",
        [chain_id, partition],
    )


def pipeline_counts(con: Connection, run_ids: Sequence[str]) -> dict[str, int]:
    """How many pipelines runs have; those without any are left out."""
    rows = con.execute(
        "SELECT run_id, count(*) FROM pipelines WHERE run_id IN (SELECT unnest(?)) GROUP BY run_id",
        [list(run_ids)],
    ).fetchall()
    return {str(run_id): int(n) for run_id, n in rows}


def targets_of(con: Connection, chain_ids: Sequence[str]) -> pl.DataFrame:
    """What chains predict, and in which unit, as their metadata say."""
    return frame(
        con,
        "SELECT chain_id, metadata ->> 'target' AS target, metadata ->> 'target_unit' AS unit "
        "FROM chains WHERE chain_id IN (SELECT unnest(?))",
        [list(chain_ids)],
    )
