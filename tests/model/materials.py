"""Small fitted objects, spectra and calls to drive a store with."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Material", "arrays_of_a_prediction", "materials", "prediction", "spectra"]

CHANNELS = 4


class Material(NamedTuple):
    """A fitted object with what is recorded of it."""

    fitted: Any
    operator_class: str
    artifact_type: str


def spectra(seed: int, samples: int = 5) -> NDArray[np.float64]:
    """Make random spectra of shape (samples, 4)."""
    return np.random.default_rng(seed).normal(size=(samples, CHANNELS))


@functools.cache
def materials() -> tuple[Material, ...]:
    """Three scalers (0 to 2), four linear models (3 to 6); the last two of each have equal contents."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    scaler, ridge = "sklearn.preprocessing.StandardScaler", "sklearn.linear_model.Ridge"
    scalers = [Material(StandardScaler().fit(spectra(seed)), scaler, "transformer") for seed in (1, 2, 2)]
    models = [
        Material(Ridge(alpha=alpha).fit(spectra(3), spectra(4)[:, 0]), ridge, "model")
        for alpha in (0.1, 1.0, 2.0, 2.0)
    ]
    return (*scalers, *models)


def prediction(pipeline_id: str, chain_id: str | None, **changes: Any) -> dict[str, Any]:
    """Make the arguments of `save_prediction`."""
    row: dict[str, Any] = {
        "pipeline_id": pipeline_id, "chain_id": chain_id, "dataset_name": "corn", "model_name": "Ridge",
        "model_class": "sklearn.linear_model.Ridge", "fold_id": "fold_0", "partition": "val",
        "val_score": 1.0, "test_score": None, "train_score": 0.5, "metric": "rmse", "task_type": "regression",
        "n_samples": 3, "n_features": CHANNELS, "scores": {"rmse": 1.0}, "best_params": {"alpha": 1.0},
        "branch_id": None, "branch_name": None, "exclusion_count": 0, "exclusion_rate": 0.0,
        "preprocessings": "", "prediction_id": None,
    }  # fmt: skip
    return row | changes


def arrays_of_a_prediction(kind: int) -> dict[str, Any]:
    """Make the arrays of a prediction: of several types and shapes, some equal to those of others."""
    y = np.array([1.5, np.nan, -0.0, np.inf])
    return (
        {"y_true": y, "y_pred": y + 0.25},
        {"y_true": y, "y_pred": y, "sample_indices": np.arange(4), "weights": np.ones(4, np.float32)},
        {"y_true": np.array(["a", "ö"]), "y_pred": np.array(["a", "a"]), "y_proba": np.eye(2, 3)},
        {"y_true": np.empty((0, 2)), "y_pred": None},
        {"y_true": None, "y_pred": np.arange(6, dtype=np.int16).reshape(3, 2)[:, ::-1]},
    )[kind % 5]
