"""nirs4all 1.4.10: its workspace store (SQLite, Parquet, files), as its own training loop uses it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nirs4all.pipeline.bundle.loader import BundleLoader
from nirs4all.pipeline.storage.workspace_store import WorkspaceStore

from benchmarks.adapters.base import Adapter

if TYPE_CHECKING:
    from benchmarks.fixture import Pipeline

_SCALER = "sklearn.preprocessing.StandardScaler"
_MODEL = "sklearn.cross_decomposition.PLSRegression"


class Nirs4all(Adapter):
    name = "nirs4all"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = WorkspaceStore(folder)
        self._run = ""

    def begin(self, name: str) -> str:
        self._run = self.store.begin_run(name, {}, [{"name": "nir"}])
        return self._run

    def record(self, item: Pipeline) -> str:
        store = self.store
        pipeline = store.begin_pipeline(self._run, f"p{item.index}", {"n": item.index}, [], "nir", "0")
        scaler = store.save_artifact(item.scaler, _SCALER, "transformer", "joblib")
        models = [store.save_artifact(model, _MODEL, "model", "joblib") for model in item.models]
        chain = store.save_chain(
            pipeline,
            [
                {
                    "step_idx": 0,
                    "operator_class": _SCALER,
                    "params": {},
                    "artifact_id": scaler,
                    "stateless": False,
                },
                {
                    "step_idx": 1,
                    "operator_class": _MODEL,
                    "params": {},
                    "artifact_id": None,
                    "stateless": False,
                },
            ],
            1,
            _MODEL,
            "StandardScaler",
            "per_fold",
            {f"fold_{fold}": key for fold, key in enumerate(models)},
            {"0": [scaler]},
        )
        arrays = []
        for p in item.predictions:
            by = {
                name: p.scores["rmse"] if name == p.partition else None for name in ("val", "test", "train")
            }
            prediction = store.save_prediction(
                *(pipeline, chain, "nir", "PLSRegression", _MODEL, f"fold_{p.fold}", p.partition),
                *(by["val"], by["test"], by["train"], "rmse", "regression", len(p.y_true), 700),
                *(p.scores, {}, None, None, 0, 0.0),
            )
            arrays.append(
                {
                    "prediction_id": prediction,
                    "dataset_name": "nir",
                    "model_name": "PLSRegression",
                    "fold_id": f"fold_{p.fold}",
                    "partition": p.partition,
                    "metric": "rmse",
                    "val_score": by["val"],
                    "task_type": "regression",
                    "y_true": p.y_true,
                    "y_pred": p.y_pred,
                }
            )
        store.array_store.save_batch(arrays)
        best = min(p.scores["rmse"] for p in item.predictions)
        store.complete_pipeline(pipeline, best, best, "rmse", 1)
        return chain

    def end(self) -> None:
        self.store.complete_run(self._run, {})

    def close(self) -> None:
        self.store.close()

    def read_back(self, chains: list[str]) -> tuple[list[float], list[np.ndarray]]:
        frame = self.store.query_predictions()
        arrays = self.store.array_store.load_batch(frame["prediction_id"].to_list(), "nir")
        rows = frame.select("val_score", "test_score", "train_score").iter_rows()
        score = [min(v for v in row if v is not None) for row in rows]
        return score, [np.asarray(a["y_pred"]) for a in arrays.values()]

    def predict(self, chain: str, X: np.ndarray) -> np.ndarray:
        return self.store.replay_chain(chain, X)

    def save(self, obj: Any) -> None:
        self.store.save_artifact(obj, "sklearn.decomposition.PCA", "transformer", "joblib")

    def fill(self, columns: dict[str, list[Any]]) -> None:
        run, pipeline, chain, last = self.store.begin_run("many", {}, []), "", "", -1
        with self.store.transaction():
            for number, row in enumerate(zip(*columns.values(), strict=True)):
                index, dataset, model, fold, partition, val, test, train = row
                if index != last:
                    pipeline = self.store.begin_pipeline(run, f"p{index}", {}, [], dataset, "0")
                    chain = self.store.save_chain(pipeline, [], 0, model, "", "per_fold", {}, {})
                    last = index
                # A name of its own: rows with the same natural key would replace one another.
                self.store.save_prediction(
                    *(
                        pipeline,
                        chain,
                        dataset,
                        f"{model}-{number}",
                        model,
                        fold,
                        partition,
                        val,
                        test,
                        train,
                    ),
                    *("rmse", "regression", 500, 700, {"rmse": val}, {}, None, None, 0, 0.0),
                )
        self.store.complete_run(run, {})

    def top(self, n: int, dataset: str) -> list[float]:
        found: list[float] = self.store.top_predictions(n, dataset_name=dataset)["val_score"].to_list()
        return found

    def class_means(self) -> dict[str, tuple[float, float]]:
        # It has no question of this kind: all predictions are fetched and grouped here.
        import polars as pl

        frame = self.store.query_predictions().group_by("model_class")
        found = frame.agg(pl.col("val_score").mean().alias("m"), pl.col("val_score").std().alias("s"))
        return {row[0]: (row[1], row[2]) for row in found.iter_rows()}

    def export(self, chain: str, path: Path) -> Path:
        return Path(self.store.export_chain(chain, path.with_suffix(".n4a")))

    @staticmethod
    def predict_file(path: Path, X: np.ndarray) -> np.ndarray:
        return np.asarray(BundleLoader(path).predict(X))

    def clean(self, run: str) -> None:
        self.store.delete_run(run)
        self.store.gc_artifacts()
        self.store.compact_arrays()
        self.store.vacuum()

    def runs(self) -> int:
        return self.store.list_runs().height
