"""The script that a chemometrician would write: joblib files and one Parquet table. It syncs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from benchmarks.adapters.base import Adapter

if TYPE_CHECKING:
    from benchmarks.fixture import Pipeline


class Plain(Adapter):
    name = "plain"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._run = ""
        self._rows: list[dict[str, Any]] = []
        self._saved = 0

    def begin(self, name: str) -> str:
        self._run = name
        self._rows = []
        (self.folder / name).mkdir(parents=True)
        return name

    def record(self, item: Pipeline) -> str:
        folder = self.folder / self._run / f"p{item.index:05d}"
        folder.mkdir()
        joblib.dump(item.scaler, folder / "scaler.joblib")
        for fold, model in enumerate(item.models):
            joblib.dump(model, folder / f"fold_{fold}.joblib")
        for p in item.predictions:
            self._rows.append(
                {
                    "pipeline": item.index,
                    "fold": p.fold,
                    "partition": p.partition,
                    **p.scores,
                    "y_true": p.y_true,
                    "y_pred": p.y_pred,
                }
            )
        return str(folder.relative_to(self.folder))

    def end(self) -> None:
        import polars as pl

        pl.DataFrame(self._rows).write_parquet(self.folder / self._run / "predictions.parquet")

    def read_back(self, chains: list[str]) -> tuple[list[float], list[np.ndarray]]:
        import polars as pl

        frame = pl.concat([pl.read_parquet(path) for path in self.folder.glob("*/predictions.parquet")])
        return frame["rmse"].to_list(), [np.asarray(v) for v in frame["y_pred"].to_list()]

    def predict(self, chain: str, X: np.ndarray) -> np.ndarray:
        folder = self.folder / chain
        Z = joblib.load(folder / "scaler.joblib").transform(X)
        return np.mean([joblib.load(p).predict(Z) for p in sorted(folder.glob("fold_*.joblib"))], axis=0)

    def save(self, obj: Any) -> None:
        joblib.dump(obj, self.folder / f"{self._saved}.joblib")
        self._saved += 1

    def fill(self, columns: dict[str, list[Any]]) -> None:
        import polars as pl

        pl.DataFrame(columns).write_parquet(self.folder / "all.parquet")

    def top(self, n: int, dataset: str) -> list[float]:
        import polars as pl

        rows = pl.scan_parquet(self.folder / "all.parquet").filter(
            (pl.col("dataset") == dataset) & (pl.col("partition") == "val")
        )
        found: list[float] = rows.sort("val").head(n).collect()["val"].to_list()
        return found

    def class_means(self) -> dict[str, tuple[float, float]]:
        import polars as pl

        rows = pl.scan_parquet(self.folder / "all.parquet").group_by("model")
        frame = rows.agg(mean=pl.col("val").mean(), std=pl.col("val").std()).collect()
        return {row[0]: (row[1], row[2]) for row in frame.iter_rows()}

    def export(self, chain: str, path: Path) -> Path:
        folder = self.folder / chain
        objects = [joblib.load(folder / "scaler.joblib")]
        objects += [joblib.load(p) for p in sorted(folder.glob("fold_*.joblib"))]
        joblib.dump(objects, path)
        return path

    @staticmethod
    def predict_file(path: Path, X: np.ndarray) -> np.ndarray:
        scaler, *models = joblib.load(path)
        Z = scaler.transform(X)
        return np.mean([model.predict(Z) for model in models], axis=0)

    def clean(self, run: str) -> None:
        shutil.rmtree(self.folder / run)

    def runs(self) -> int:
        return sum(1 for path in self.folder.iterdir() if path.is_dir())
