"""What is recorded: spectra, fitted models and predictions, made once and kept.

Everything follows from a seed. Models are fitted before any clock starts, and every peer loads the same file.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paths import CACHE

FOLDS = 5
PARTITIONS = ("train", "val", "test")
_VERSION = 2


@dataclass(frozen=True)
class Prediction:
    """What one model predicts for one set of spectra."""

    fold: int
    partition: str
    y_true: np.ndarray
    y_pred: np.ndarray
    scores: dict[str, float]


@dataclass(frozen=True)
class Pipeline:
    """One candidate: a scaler shared by all, a model a fold, fifteen predictions."""

    index: int
    scaler: Any
    models: list[Any]
    predictions: list[Prediction]


@dataclass(frozen=True)
class Shape:
    """Sizes of a fixture."""

    name: str
    fit_rows: int
    rows: int
    channels: int
    components: int


# 400 x 700 a fold: about 358 kB a pickled model, on the average over 2 to 21 latent variables.
FULL = Shape("full", 500, 500, 700, 20)
# About 30 kB a model.
SMALL = Shape("small", 200, 500, 400, 1)
TINY = Shape("tiny", 50, 40, 60, 3)
SHAPES = {shape.name: shape for shape in (FULL, SMALL, TINY)}


def spectra(rows: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make spectra of broad Gaussian bands with offset, slope and noise, and the property behind them.

    Returns
    -------
    X : array of shape (rows, channels), float64
    y : array of shape (rows,)
    """
    rng = np.random.default_rng(seed)
    axis = np.linspace(0.0, 1.0, channels)
    centres = np.random.default_rng(1).uniform(0.05, 0.95, 12)
    bands = np.exp(-0.5 * ((axis - centres[:, None]) / 0.08) ** 2)
    amounts = rng.gamma(2.0, 1.0, (rows, len(centres)))
    X = amounts @ bands
    X += rng.normal(0, 0.5, (rows, 1)) + rng.normal(0, 0.5, (rows, 1)) * axis
    X += rng.normal(0, 0.01, X.shape)
    return X, amounts[:, 0] + 0.5 * amounts[:, 3] + rng.normal(0, 0.05, rows)


def load(shape: Shape, pipelines: int) -> list[Pipeline]:
    """All pipelines of a fixture; fitted at the first call, read from a file after that.

    The small shape fits twenty pipelines; further ones differ from those in the intercept only, which is
    enough to make every pickle unique.
    """
    import joblib

    fitted = min(pipelines, 20) if shape is SMALL else pipelines
    path = CACHE / f"fixture-{_VERSION}-{shape.name}-{fitted}.joblib"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        joblib.dump([_plain(item) for item in _fit(shape, fitted)], draft)
        draft.replace(path)
    base = [_whole(item) for item in joblib.load(path)]
    return [base[i] if i < fitted else _varied(base[i % fitted], i) for i in range(pipelines)]


def _plain(item: Pipeline) -> tuple[Any, ...]:
    # No classes of this package in the file: what it holds must not depend on them.
    rows = [(p.fold, p.partition, p.y_true, p.y_pred, p.scores) for p in item.predictions]
    return item.index, item.scaler, item.models, rows


def _whole(data: tuple[Any, ...]) -> Pipeline:
    index, scaler, models, rows = data
    return Pipeline(index, scaler, models, [Prediction(*row) for row in rows])


def _varied(item: Pipeline, index: int) -> Pipeline:
    models = []
    for model in item.models:
        other = copy.copy(model)
        other.intercept_ = model.intercept_ + index * 1e-9
        models.append(other)
    rows = [
        Prediction(p.fold, p.partition, p.y_true, p.y_pred + index * 1e-9, p.scores) for p in item.predictions
    ]
    return Pipeline(index, item.scaler, models, rows)


def _fit(shape: Shape, pipelines: int) -> Iterator[Pipeline]:
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.preprocessing import StandardScaler

    X, y = spectra(shape.fit_rows, shape.channels, 2)
    scaler = StandardScaler().fit(X)
    Z = scaler.transform(X)
    sets = {name: spectra(shape.rows, shape.channels, 3 + k) for k, name in enumerate(PARTITIONS)}
    scaled = {name: scaler.transform(data[0]) for name, data in sets.items()}
    rng = np.random.default_rng(9)
    for i in range(pipelines):
        target = y + rng.normal(0, 0.02, len(y))
        models, rows = [], []
        for fold in range(FOLDS):
            keep = np.arange(len(y)) % FOLDS != fold
            model = PLSRegression(2 + i % shape.components, scale=False).fit(Z[keep], target[keep])
            models.append(model)
            for name in PARTITIONS:
                y_true, y_pred = sets[name][1], np.ravel(model.predict(scaled[name]))
                rows.append(Prediction(fold, name, y_true, y_pred, scores(y_true, y_pred)))
        yield Pipeline(i, scaler, models, rows)


def scores(y_true: np.ndarray, y_pred: np.ndarray) -> dict[str, float]:
    """RMSE, MAE and R² of one prediction."""
    residual = y_pred - y_true
    return {
        "rmse": float(np.sqrt(np.mean(residual**2))),
        "mae": float(np.mean(np.abs(residual))),
        "r2": float(1 - np.sum(residual**2) / np.sum((y_true - y_true.mean()) ** 2)),
    }


def transformer() -> Any:
    """A fitted transformer of about 1 MB."""
    from sklearn.decomposition import PCA

    X, _ = spectra(400, 700, 21)
    return PCA(n_components=190, random_state=0).fit(X)


def new_spectra(shape: Shape, rows: int = 100) -> np.ndarray:
    """Spectra that no model has seen."""
    return spectra(rows, shape.channels, 77)[0]


def leaderboard(rows: int) -> dict[str, list[Any]]:
    """Columns of W3: predictions of 10 data sets and 8 model classes, 100 a pipeline."""
    rng = np.random.default_rng(5)
    score = rng.gamma(4.0, 0.1, rows)
    return {
        "pipeline": [i // 100 for i in range(rows)],
        "dataset": [f"set{(i // 100) % 10}" for i in range(rows)],
        "model": [f"Model{(i // 7) % 8}" for i in range(rows)],
        "fold": [f"fold_{i % 5}" for i in range(rows)],
        "partition": [PARTITIONS[i % 3] for i in range(rows)],
        "val": score.tolist(),
        "test": (score * 1.1).tolist(),
        "train": (score * 0.9).tolist(),
    }


def scratch(parent: Path | None = None) -> Path:
    """A fresh folder on the file system of the fixtures."""
    import tempfile

    base = parent or CACHE / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=base))
