"""Reading a whole store, and a whole model, into the same plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.ids import sha256_hex
from tests.model.partner import Player
from tests.model.queries import ARTIFACT, CHAIN, LOG, PIPELINE, PREDICTION, RUN
from tests.model.state import Row, State

__all__ = ["blob_files", "expected_of", "observed_of", "plain", "score_order"]

_JSON = {
    "config",
    "datasets",
    "summary",
    "expanded_config",
    "generator_choices",
    "scores",
    "best_params",
    "details",
}
# What a model cannot know: moments (whether there is one it does) and ids of log lines.
_MOMENTS = {"created_at", "completed_at"}
_UNKNOWN = {"log_id"}


def observed_of(store: Any, artifact_ids: Iterable[str]) -> dict[str, Any]:
    """Ask a store for everything; `artifact_ids` are those that it may have."""
    runs = store.list_runs(limit=1_000_000).to_dicts()
    pipelines = store.list_pipelines().to_dicts()
    predictions = store.query_predictions().to_dicts()
    ids = [row["pipeline_id"] for row in pipelines]
    chains = [name for key in ids for name in store.get_chains_for_pipeline(key)["chain_id"].to_list()]
    arrays = store.get_prediction_arrays([row["prediction_id"] for row in predictions])
    artifacts = {key: store.get_artifact(key) for key in artifact_ids}
    return {
        "order": _order(runs, pipelines, predictions),
        "runs": {row["run_id"]: _columns(row, RUN) for row in runs},
        "pipelines": {row["pipeline_id"]: _columns(row, PIPELINE) for row in pipelines},
        "chains": {key: _columns(store.get_chain(key), CHAIN) for key in chains},
        "predictions": {row["prediction_id"]: _columns(row, PREDICTION) for row in predictions},
        "arrays": {key: plain(value) for key, value in arrays.items()},
        "logs": {key: [_columns(row, LOG) for row in store.get_pipeline_log(key).to_dicts()] for key in ids},
        "sums": {
            row["run_id"]: [
                plain(line)
                for line in store.get_run_log_summary(row["run_id"]).sort("pipeline_id").to_dicts()
            ]
            for row in runs
        },
        "artifacts": {
            key: _columns(row, (*ARTIFACT, "ref_count")) for key, row in artifacts.items() if row is not None
        },
    }


def _columns(row: Row, names: tuple[str, ...]) -> Any:
    """What the model knows of a row; a store may have columns of its own besides."""
    return plain({name: row[name] for name in names})


def expected_of(state: State) -> dict[str, Any]:
    """Ask a model for everything."""
    model = Player(state, "")
    logs = sorted(state.logs, key=lambda row: int(row["_order"]))
    runs = _newest(state.runs)
    pipelines = _newest(state.pipelines)
    predictions = _newest(state.predictions)
    return {
        "order": _order(runs, pipelines, predictions),
        "runs": {key: plain(model.get_run(key)) for key in state.runs},
        "pipelines": {key: plain(model.get_pipeline(key)) for key in state.pipelines},
        "chains": {key: plain(model.get_chain(key)) for key in state.chains},
        "predictions": {key: plain(model.get_prediction(key)) for key in state.predictions},
        "arrays": {
            key: plain(
                {
                    name: value.get(name)
                    for name in ("y_true", "y_pred", "y_proba", "sample_indices", "weights")
                }
            )
            for key, value in state.arrays.items()
        },
        "logs": {
            key: [_columns(row, LOG) for row in logs if row["pipeline_id"] == key] for key in state.pipelines
        },
        "sums": {
            key: [
                plain(line)
                for line in sorted(
                    model.get_run_log_summary(key).to_dicts(), key=lambda row: row["pipeline_id"]
                )
            ]
            for key in state.runs
        },
        "artifacts": {key: plain(model.get_artifact(key)) for key in state.artifacts},
    }


def plain(value: Any, name: str = "") -> Any:
    """Make a value comparable: arrays by type, shape and bytes, NaN equal to itself, JSON decoded."""
    if isinstance(value, dict):
        return {key: plain(item, key) for key, item in value.items() if key not in _UNKNOWN}
    if name in _MOMENTS:
        return value is not None
    if name in _JSON and isinstance(value, str):
        return json.loads(value)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value


def score_order(rows: list[Row], column: str) -> list[Any]:
    """Scores of a ranking, in its order; which of two equal ones comes first is left open.

    Those without a score (None, NaN) are equal in that.
    """
    scores = [row[column] for row in rows]
    return [None if score is None or score != score else plain(score) for score in scores]


def blob_files(root: Path) -> dict[str, str]:
    """Give every file among the blobs with the hash of its bytes, by its path below the workspace."""
    return {
        path.relative_to(root).as_posix(): sha256_hex(path.read_bytes())
        for path in sorted((root / "artifacts").rglob("*"))
        if path.is_file()
    }


def _newest(rows: dict[str, Row]) -> list[Row]:
    return sorted(rows.values(), key=lambda row: -int(row["_order"]))


def _order(*tables: list[Row]) -> list[list[Any]]:
    keys = ("run_id", "pipeline_id", "prediction_id")
    return [[row[key] for row in rows] for key, rows in zip(keys, tables, strict=True)]
