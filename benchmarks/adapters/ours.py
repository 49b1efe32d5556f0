"""nirs_store with the plain calls of its documents: no special call for many rows at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.adapters.base import Adapter
from nirs_store import WorkspaceStore

if TYPE_CHECKING:
    from benchmarks.fixture import Pipeline

_SCALER = "sklearn.preprocessing.StandardScaler"
_MODEL = "sklearn.cross_decomposition.PLSRegression"


class Ours(Adapter):
    name = "nirs_store"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = WorkspaceStore(folder)
        self._run = ""
        self.format = "joblib"

    def begin(self, name: str) -> str:
        self._run = self.store.begin_run(name, {}, [{"name": "nir"}])
        return self._run

    def record(self, item: Pipeline) -> str:
        store = self.store
        pipeline = store.begin_pipeline(self._run, f"p{item.index}", {"n": item.index}, [], "nir", "0")
        scaler = store.save_artifact(item.scaler, _SCALER, "transformer", self.format)
        models = [store.save_artifact(model, _MODEL, "model", self.format) for model in item.models]
        chain = store.save_chain(
            pipeline,
            [
                {"step_idx": 0, "operator_class": _SCALER, "params": {}, "artifact_id": scaler},
                {"step_idx": 1, "operator_class": _MODEL, "params": {}, "operator_type": "model"},
            ],
            1,
            _MODEL,
            "StandardScaler",
            "per_fold",
            {f"fold_{fold}": key for fold, key in enumerate(models)},
            {"0": [scaler]},
        )
        best = min(p.scores["rmse"] for p in item.predictions)
        for p in item.predictions:
            by = {
                name: p.scores["rmse"] if name == p.partition else None for name in ("val", "test", "train")
            }
            prediction = store.save_prediction(
                *(pipeline, chain, "nir", "PLSRegression", _MODEL, f"fold_{p.fold}", p.partition),
                *(by["val"], by["test"], by["train"], "rmse", "regression", len(p.y_true), 700),
                *(p.scores, {}, None, None, 0, 0.0),
            )
            store.save_prediction_arrays(prediction, p.y_true, p.y_pred)
        store.complete_pipeline(pipeline, best, best, "rmse", 1)
        return chain

    def end(self) -> None:
        self.store.complete_run(self._run, {})

    def close(self) -> None:
        self.store.close()

    def read_back(self, chains: list[str]) -> tuple[list[float], list[np.ndarray]]:
        frame = self.store.query_predictions()
        arrays = self.store.get_prediction_arrays(frame["prediction_id"].to_list())
        found = [a["y_pred"] for a in arrays.values()]
        score = [
            min(v for v in row if v is not None)
            for row in frame.select("val_score", "test_score", "train_score").iter_rows()
        ]
        return score, [a for a in found if a is not None]

    def predict(self, chain: str, X: np.ndarray) -> np.ndarray:
        return self.store.replay_chain(chain, X)

    def save(self, obj: Any) -> None:
        self.store.save_artifact(obj, "sklearn.decomposition.PCA", "transformer")

    def fill(self, columns: dict[str, list[Any]]) -> None:
        run, pipeline, last = self.store.begin_run("many", {}, []), "", -1
        rows = zip(*columns.values(), strict=True)
        for index, dataset, model, fold, partition, val, test, train in rows:
            if index != last:
                pipeline, last = self.store.begin_pipeline(run, f"p{index}", {}, [], dataset, "0"), index
            self.store.save_prediction(
                *(
                    pipeline,
                    None,
                    dataset,
                    model,
                    model,
                    fold,
                    partition,
                    val,
                    test,
                    train,
                    "rmse",
                    "regression",
                ),
                *(500, 700, {"rmse": val}, {}, None, None, 0, 0.0),
            )
        self.store.complete_run(run, {})

    def top(self, n: int, dataset: str) -> list[float]:
        found: list[float] = self.store.top_predictions(n, dataset_name=dataset)["val_score"].to_list()
        return found

    def class_means(self) -> dict[str, tuple[float, float]]:
        frame = self.store.aggregate_predictions("model_class")
        return {row["model_class"]: (row["mean"], row["std"]) for row in frame.iter_rows(named=True)}

    def export(self, chain: str, path: Path) -> Path:
        return self.store.export_chain(chain, path.with_suffix(".n4a"), safe=self.format == "skops")

    @staticmethod
    def predict_file(path: Path, X: np.ndarray) -> np.ndarray:
        from nirs_store import load_bundle  # with scikit-learn, which nobody needs who only asks

        return load_bundle(path, allow_pickle="safe" not in path.name).predict(X)

    def clean(self, run: str) -> None:
        self.store.delete_run(run, now=True)
        self.store.gc_artifacts()
        self.store.vacuum()

    def runs(self) -> int:
        return self.store.list_runs().height
