"""MLflow 3.17.2 with SQLite and a local folder: a parent run, a child run a pipeline, files as artifacts."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

# Said before the import: nothing is sent anywhere, nothing is drawn.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import joblib
import numpy as np
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from benchmarks.adapters.base import Adapter

if TYPE_CHECKING:
    from benchmarks.fixture import Pipeline


class MLflow(Adapter):
    name = "mlflow"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self._uri)
        found = self.client.get_experiment_by_name("bench")
        self._experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment("bench", artifact_location=(folder / "artifacts").as_uri())
        )
        self._run = ""

    def begin(self, name: str) -> str:
        self._run = self.client.create_run(self._experiment, run_name=name).info.run_id
        return self._run

    def record(self, item: Pipeline) -> str:
        tags = {"mlflow.parentRunId": self._run, "dataset": "nir"}
        run = self.client.create_run(self._experiment, tags=tags, run_name=f"p{item.index}").info.run_id
        now = int(time.time() * 1000)
        metrics = [
            Metric(f"{p.partition}_{name}_{p.fold}", value, now, 0)
            for p in item.predictions
            for name, value in p.scores.items()
        ]
        self.client.log_batch(run, metrics, [Param("n", str(item.index))], [RunTag("model", "PLSRegression")])
        with TemporaryDirectory(dir=self.folder) as place:
            joblib.dump(item.scaler, Path(place) / "scaler.joblib")
            for fold, model in enumerate(item.models):
                joblib.dump(model, Path(place) / f"fold_{fold}.joblib")
            arrays = {}
            for p in item.predictions:
                arrays[f"{p.fold}_{p.partition}_true"] = p.y_true
                arrays[f"{p.fold}_{p.partition}_pred"] = p.y_pred
            np.savez(Path(place) / "arrays.npz", **arrays)
            self.client.log_artifacts(run, place)
        self.client.set_terminated(run)
        return str(run)

    def end(self) -> None:
        self.client.set_terminated(self._run)

    def close(self) -> None:
        """Nothing is held open."""

    def _place(self, run: str) -> Path:
        return self.folder / "artifacts" / run / "artifacts"

    def read_back(self, chains: list[str]) -> tuple[list[float], list[np.ndarray]]:
        scores: list[float] = []
        arrays: list[np.ndarray] = []
        for run in chains:
            metrics = self.client.get_run(run).data.metrics
            scores += [value for name, value in metrics.items() if "_rmse_" in name]
            with np.load(self._place(run) / "arrays.npz") as found:
                arrays += [found[name] for name in found.files if name.endswith("_pred")]
        return scores, arrays

    def predict(self, chain: str, X: np.ndarray) -> np.ndarray:
        place = Path(self.client.download_artifacts(chain, ""))
        return self.predict_file(place, X)

    def save(self, obj: Any) -> None:
        with TemporaryDirectory(dir=self.folder) as place:
            joblib.dump(obj, Path(place) / f"{uuid.uuid4().hex}.joblib")
            self.client.log_artifacts(self._run, place)

    def fill(self, columns: dict[str, list[Any]]) -> None:
        # A run a prediction, put into its tables directly: its own calls take about 10 ms each.
        rows = list(zip(*columns.values(), strict=True))
        ids = [uuid.uuid4().hex for _ in rows]
        with sqlite3.connect(self.folder / "mlflow.db") as con:
            con.executemany(
                "INSERT INTO runs (run_uuid, name, user_id, source_type, source_name, "
                "entry_point_name, source_version, status, start_time, end_time, lifecycle_stage, "
                "experiment_id, artifact_uri) VALUES (?, ?, '', 'LOCAL', '', '', '', 'FINISHED', 1, 2, "
                "'active', ?, '')",
                [(i, f"r{n}", int(self._experiment)) for n, i in enumerate(ids)],
            )
            for name, column in (("val", 5), ("test", 6), ("train", 7)):
                values = [(name, row[column], i) for i, row in zip(ids, rows, strict=True)]
                con.executemany(
                    "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, 1, ?, 0, 0)",
                    values,
                )
                con.executemany(
                    "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
                    "VALUES (?, ?, 1, 0, 0, ?)",
                    values,
                )
            for name, column in (("dataset", 1), ("model", 2), ("fold", 3), ("partition", 4)):
                con.executemany(
                    "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                    [(name, row[column], i) for i, row in zip(ids, rows, strict=True)],
                )
        con.close()

    def top(self, n: int, dataset: str) -> list[float]:
        found = self.client.search_runs(
            [self._experiment],
            f"tags.dataset = '{dataset}' and tags.partition = 'val'",
            order_by=["metrics.val ASC"],
            max_results=n,
        )
        return [run.data.metrics["val"] for run in found]

    def class_means(self) -> dict[str, tuple[float, float]]:
        # It has no question of this kind: all runs are fetched, a page at a time, and grouped here.
        groups: dict[str, list[float]] = {}
        token = None
        while True:
            page = self.client.search_runs([self._experiment], max_results=50_000, page_token=token)
            for run in page:
                if "model" in run.data.tags and "val" in run.data.metrics:
                    groups.setdefault(run.data.tags["model"], []).append(run.data.metrics["val"])
            token = page.token
            if not token:
                break
        return {name: (float(np.mean(v)), float(np.std(v, ddof=1))) for name, v in groups.items()}

    def export(self, chain: str, path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(chain, "", str(path)))

    @staticmethod
    def predict_file(path: Path, X: np.ndarray) -> np.ndarray:
        Z = joblib.load(path / "scaler.joblib").transform(X)
        return np.mean([joblib.load(p).predict(Z) for p in sorted(path.glob("fold_*.joblib"))], axis=0)

    def clean(self, run: str) -> None:
        children = self.client.search_runs(
            [self._experiment], f"tags.mlflow.parentRunId = '{run}'", max_results=50_000
        )
        for child in (run, *(found.info.run_id for found in children)):
            self.client.delete_run(child)
        # `mlflow gc`: what it does, in this process.
        self._purge()
        with sqlite3.connect(self.folder / "mlflow.db", isolation_level=None) as con:
            con.execute("VACUUM")
        con.close()

    def _purge(self) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(self._uri, (self.folder / "artifacts").as_uri())
        for run in store._get_deleted_runs():
            shutil.rmtree(self._place(run), ignore_errors=True)
            store._hard_delete_run(run)

    def runs(self) -> int:
        found = self.client.search_runs([self._experiment], "", max_results=50_000)
        return sum(1 for run in found if "mlflow.parentRunId" not in run.data.tags)
