"""Rows of nirs4all as rows of this library: runs, pipelines, predictions, logs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.ids import naive
from nirs_store.values import as_error, as_float, as_int, as_long, to_json

Row = Mapping[str, Any]

_STATUSES = ("running", "completed", "failed")
_LEVELS = ("debug", "info", "warning", "error", "critical")


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


def _json(value: Any) -> str | None:
    try:
        return to_json(json_value(value), "value")
    except InvalidInput as error:
        raise Unusable("its JSON cannot be stored") from error


def _json_object(value: Any) -> str:
    return _json(value) or "{}"


def _text(value: Any) -> str:
    return "" if value is None else as_error(value)


def _optional(value: Any) -> str | None:
    return None if value is None else as_error(value)


def _fitting(convert: Callable[[Any, str], Any], value: Any) -> Any:
    try:
        return convert(value, "value")
    except InvalidInput as error:
        raise Unusable("it holds a number that does not fit") from error


_float, _int, _long = (partial(_fitting, convert) for convert in (as_float, as_int, as_long))

# Columns that have a place here as they are, and what makes of a value there one of ours.
_SAME: dict[str, dict[str, Callable[[Any], Any]]] = {
    "runs": {"run_id": identifier, "name": _text, "config": _json, "summary": _json},
    "pipelines": {
        **dict.fromkeys(("pipeline_id", "run_id"), identifier),
        **dict.fromkeys(("name", "dataset_name"), _text),
        **dict.fromkeys(("expanded_config", "generator_choices"), _json),
        **dict.fromkeys(("dataset_hash", "metric"), _optional),
        **dict.fromkeys(("best_val", "best_test"), _float),
        "duration_ms": _long,
    },
    "predictions": {
        **dict.fromkeys(("prediction_id", "pipeline_id"), identifier),
        "chain_id": lambda value: identifier(value) if value else None,
        **dict.fromkeys(("dataset_name", "model_name", "model_class", "fold_id", "partition"), _text),
        **dict.fromkeys(("metric", "task_type", "preprocessings"), _text),
        **dict.fromkeys(("val_score", "test_score", "train_score", "exclusion_rate"), _float),
        **dict.fromkeys(("n_samples", "n_features", "branch_id", "exclusion_count"), _int),
        "branch_name": _optional,
        **dict.fromkeys(("scores", "best_params"), _json_object),
    },
    "logs": {
        **dict.fromkeys(("log_id", "pipeline_id"), identifier),
        **dict.fromkeys(("operator_class", "message"), _optional),
        "event": _text,
        "details": _json,
        "duration_ms": _long,
    },
}
_ENDING = frozenset({"status", "completed_at", "error"})
# All others are reported where they hold something.
CARRIED = {
    table: {*columns, "created_at", *further}
    for (table, columns), further in zip(
        _SAME.items(),
        ({*_ENDING, "datasets", "project_id"}, _ENDING, (), ("level", "step_idx")),
        strict=True,
    )
}


def run_row(row: Row, session_id: str, projects: Mapping[str, str], generation: str) -> dict[str, Any]:
    """Return a run; the project that it belongs to becomes a tag."""
    datasets = json_value(row.get("datasets"))
    project = projects.get(str(row.get("project_id")))
    return {
        **_same("runs", row),
        "datasets": to_json(datasets if isinstance(datasets, list) else [], "datasets"),
        **_ending(row),
        "session_id": session_id,
        "environment": to_json({"migrated_from": f"nirs4all ({generation})"}, "environment"),
        "tags": to_json([f"project {project.replace(',', ' ')}"], "tags") if project else None,
    }


def pipeline_row(row: Row, session_id: str) -> dict[str, Any]:
    """Return a pipeline."""
    return {**_same("pipelines", row), **_ending(row), "session_id": session_id}


def prediction_row(row: Row) -> dict[str, Any]:
    """Return a prediction's row, without its arrays."""
    return _same("predictions", row)


def log_row(row: Row) -> dict[str, Any]:
    """Return a line of a pipeline's log."""
    level = str(row.get("level") or "info").lower()
    return {
        **_same("logs", row),
        "level": level if level in _LEVELS else "info",
        "step_idx": _int(row.get("step_idx")) or 0,
    }


def _same(table: str, row: Row) -> dict[str, Any]:
    found = {name: convert(row.get(name)) for name, convert in _SAME[table].items()}
    # A column that may not be empty here; nirs4all fills it by default.
    found["created_at"] = moment(row.get("created_at")) or naive(datetime.fromtimestamp(0, UTC))
    return found


def _ending(row: Row) -> dict[str, Any]:
    """Status, moment and error: what this library does not know of counts as failed, and says so."""
    status, error = str(row.get("status") or "running"), _optional(row.get("error"))
    if status not in _STATUSES:
        status, error = "failed", f"its status in nirs4all was {status!r}" + (f": {error}" if error else "")
    return {"status": status, "completed_at": moment(row.get("completed_at")), "error": error}
