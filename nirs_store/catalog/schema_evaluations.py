"""Tables of evaluations, of the champions they made, and of backups."""

from __future__ import annotations

from nirs_store.catalog.columns import Table, document, key, moment, number, text, whole, whole64

__all__ = ["EVALUATION_TABLES"]

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
