"""Recording predictions and their arrays."""

from __future__ import annotations

from typing import Any

from nirs_store.catalog import queries
from nirs_store.catalog.arrays import encode_array
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.records import require, require_open_pipeline
from nirs_store.catalog.values import as_float, as_int, as_text, to_json
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.ids import new_id

__all__ = ["save_prediction", "save_prediction_arrays"]


def save_prediction(engine: Engine, pipeline_id: str, chain_id: str | None, values: dict[str, Any]) -> str:
    """Record one prediction row."""
    require_open_pipeline(engine, pipeline_id)
    if chain_id is not None:
        require(engine, "chain", chain_id)
    prediction_id = _prediction_id(engine, values.get("prediction_id"))
    row: dict[str, Any] = {
        "prediction_id": prediction_id,
        "pipeline_id": pipeline_id,
        "chain_id": chain_id,
        "created_at": now_naive(),
    }
    for name in (
        "dataset_name",
        "model_name",
        "model_class",
        "fold_id",
        "partition",
        "metric",
        "task_type",
        "preprocessings",
    ):
        value = values[name]
        row[name] = str(value) if name == "fold_id" and not isinstance(value, str) else as_text(value, name)
    for name in ("val_score", "test_score", "train_score", "exclusion_rate"):
        row[name] = as_float(values[name], name)
    for name in ("n_samples", "n_features", "branch_id", "exclusion_count"):
        row[name] = as_int(values[name], name)
    row["branch_name"] = (
        None if values["branch_name"] is None else as_text(values["branch_name"], "branch_name")
    )
    for name in ("scores", "best_params"):
        row[name] = to_json(values[name] if values[name] is not None else {}, name)
    with engine.recording() as buffer:
        buffer.add("predictions", row)
        engine.known.add(
            "prediction", prediction_id, {"pipeline_id": pipeline_id, "arrays": False, "n": row["n_samples"]}
        )
    return prediction_id


def _prediction_id(engine: Engine, given: Any) -> str:
    """A new id, or the caller's; one that is taken would have the whole commit set aside later."""
    if given is None:
        return new_id()
    prediction_id = as_text(given, "prediction_id")
    taken = engine.known.get("prediction", prediction_id)
    if taken is None:
        taken = engine.recorder.find("predictions", prediction_id)
    if taken is None:
        _, taken = engine.look_up(lambda con: queries.note_of(con, "prediction", prediction_id))
    if taken is not None or not prediction_id:
        raise InvalidInput(
            f"There is a prediction with the id {prediction_id!r} already (ids may not be empty either). "
            "Nothing was recorded."
        )
    return prediction_id


def save_prediction_arrays(
    engine: Engine,
    prediction_id: str,
    y_true: Any,
    y_pred: Any,
    y_proba: Any = None,
    sample_indices: Any = None,
    weights: Any = None,
) -> None:
    """Record the arrays of one prediction, once."""
    note = require(engine, "prediction", prediction_id)
    if note is not None and note.get("pipeline_id"):
        require_open_pipeline(engine, note["pipeline_id"])
    there = engine.recorder.find("prediction_arrays", prediction_id) is not None
    if there or (note is not None and note.get("arrays")):
        raise InvalidInput(f"Prediction {prediction_id} has its arrays already; nothing was changed.")
    given = {
        "y_true": y_true,
        "y_pred": y_pred,
        "y_proba": y_proba,
        "sample_indices": sample_indices,
        "weights": weights,
    }
    encoded = {name: encode_array(value, name) for name, value in given.items() if value is not None}
    lengths = {name: (array.shape[0] if array.ndim else -1) for name, (_, array) in encoded.items()}
    if -1 in lengths.values() or len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, (_, array) in encoded.items())
        raise ShapeMismatch(
            f"The arrays of prediction {prediction_id} must have one entry a sample, all the same number; found "
            f"{found}. Nothing was recorded."
        )
    with engine.recording() as buffer:
        row: dict[str, Any] = {
            "prediction_id": prediction_id,
            "pipeline_id": None if note is None else note.get("pipeline_id"),
        }
        for name, (stored, _) in encoded.items():
            row[name] = buffer.add_array(stored)
        buffer.add("prediction_arrays", row)
        engine.known.add("prediction", prediction_id, {**(note or {}), "arrays": True})
