"""Rows of nirs4all as rows of this library: runs, pipelines, predictions, logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.ids import naive
from nirs_store.values import as_error, as_float, as_int, as_long, to_json

Row = Mapping[str, Any]

_STATUSES = ("running", "completed", "failed")
_LEVELS = ("debug", "info", "warning", "error", "critical")

# Columns that have a place here. All others are reported where they hold something.
CARRIED = {
    table: frozenset(names.split())
    for table, names in {
        "runs": "run_id name config datasets status created_at completed_at summary error project_id",
        "pipelines": "pipeline_id run_id name expanded_config generator_choices dataset_name dataset_hash status "
        "created_at completed_at best_val best_test metric duration_ms error",
        "predictions": "prediction_id pipeline_id chain_id dataset_name model_name model_class fold_id partition "
        "val_score test_score train_score metric task_type n_samples n_features scores best_params preprocessings "
        "branch_id branch_name exclusion_count exclusion_rate created_at",
        "logs": "log_id pipeline_id step_idx operator_class event duration_ms message details level created_at",
    }.items()
}


class Unusable(Exception):
    """A row, or a part of one, that cannot be brought over; the reason is the argument."""


def identifier(value: Any) -> str:
    """Return an id unchanged, so that a second migration finds what the first one brought."""
    if not isinstance(value, str) or not value or "\x00" in value or len(value) > 512:
        raise Unusable(f"its id is {value!r}")
    return value


def json_value(value: Any) -> Any:
    """Decode a JSON column; NaN, which Python writes there, becomes None when it is stored again."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Unusable("its JSON cannot be read") from error


def moment(value: Any) -> datetime | None:
    """Return a moment of either catalog, without a zone; SQLite keeps text."""
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return naive(value)
    try:
        return naive(datetime.fromisoformat(str(value)))
    except ValueError as error:
        raise Unusable("its time cannot be read") from error


def run_row(row: Row, session_id: str, projects: Mapping[str, str], generation: str) -> dict[str, Any]:
    """Return a run; the project that it belongs to becomes a tag."""
    datasets = json_value(row.get("datasets"))
    project = projects.get(str(row.get("project_id")))
    return {
        "run_id": identifier(row["run_id"]),
        "name": _text(row.get("name")),
        "config": _json(row.get("config")),
        "datasets": to_json(datasets if isinstance(datasets, list) else [], "datasets"),
        **_ending(row),
        "summary": _json(row.get("summary")),
        "session_id": session_id,
        "environment": to_json({"migrated_from": f"nirs4all ({generation})"}, "environment"),
        "tags": to_json([f"project {project.replace(',', ' ')}"], "tags") if project else None,
    }


def pipeline_row(row: Row, session_id: str) -> dict[str, Any]:
    """Return a pipeline."""
    return {
        "pipeline_id": identifier(row["pipeline_id"]),
        "run_id": identifier(row["run_id"]),
        "name": _text(row.get("name")),
        "expanded_config": _json(row.get("expanded_config")),
        "generator_choices": _json(row.get("generator_choices")),
        "dataset_name": _text(row.get("dataset_name")),
        "dataset_hash": _optional(row.get("dataset_hash")),
        **_ending(row),
        **_numbers(row, as_float, "best_val", "best_test"),
        **_numbers(row, as_long, "duration_ms"),
        "metric": _optional(row.get("metric")),
        "session_id": session_id,
    }


def prediction_row(row: Row) -> dict[str, Any]:
    """Return a prediction's row, without its arrays."""
    chain_id = row.get("chain_id")
    return {
        "prediction_id": identifier(row["prediction_id"]),
        "pipeline_id": identifier(row["pipeline_id"]),
        "chain_id": identifier(chain_id) if chain_id else None,
        **{
            name: _text(row.get(name))
            for name in (
                "dataset_name", "model_name", "model_class", "fold_id", "partition", "metric", "task_type",
                "preprocessings",
            )
        },
        **_numbers(row, as_float, "val_score", "test_score", "train_score", "exclusion_rate"),
        **_numbers(row, as_int, "n_samples", "n_features", "branch_id", "exclusion_count"),
        "branch_name": _optional(row.get("branch_name")),
        "scores": _json(row.get("scores")) or "{}",
        "best_params": _json(row.get("best_params")) or "{}",
        "created_at": _created(row),
    }  # fmt: skip


def log_row(row: Row) -> dict[str, Any]:
    """Return a line of a pipeline's log."""
    level = str(row.get("level") or "info").lower()
    return {
        "log_id": identifier(row["log_id"]),
        "pipeline_id": identifier(row["pipeline_id"]),
        "operator_class": _optional(row.get("operator_class")),
        "event": _text(row.get("event")),
        "message": _optional(row.get("message")),
        "details": _json(row.get("details")),
        "level": level if level in _LEVELS else "info",
        **_numbers(row, as_long, "duration_ms"),
        "step_idx": _numbers(row, as_int, "step_idx")["step_idx"] or 0,
        "created_at": _created(row),
    }


def _ending(row: Row) -> dict[str, Any]:
    """Status, moments and error: what this library does not know of counts as failed, and says so."""
    status, error = str(row.get("status") or "running"), _optional(row.get("error"))
    if status not in _STATUSES:
        status, error = "failed", f"its status in nirs4all was {status!r}" + (f": {error}" if error else "")
    return {
        "status": status,
        "created_at": _created(row),
        "completed_at": moment(row.get("completed_at")),
        "error": error,
    }


def _created(row: Row) -> datetime:
    # A column that may not be empty here; nirs4all fills it by default.
    return moment(row.get("created_at")) or naive(datetime.fromtimestamp(0, UTC))


def _json(value: Any) -> str | None:
    try:
        return to_json(json_value(value), "value")
    except InvalidInput as error:
        raise Unusable("its JSON cannot be stored") from error


def _text(value: Any) -> str:
    return "" if value is None else as_error(value)


def _optional(value: Any) -> str | None:
    return None if value is None else as_error(value)


def _numbers(row: Row, convert: Any, *names: str) -> dict[str, Any]:
    try:
        return {name: convert(row.get(name), name) for name in names}
    except InvalidInput as error:
        raise Unusable("it holds a number that does not fit") from error
