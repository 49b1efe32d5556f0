"""A small recorded workspace to break, ways to look at every byte and every answer of it."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from storekit import prediction

from nirs_store.datasets import load_tecator
from nirs_store.db.connection import Options, attach
from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock
from nirs_store.ids import sha256_hex
from nirs_store.store import WorkspaceStore

SCALER = "sklearn.preprocessing.StandardScaler"
RIDGE = "sklearn.linear_model.Ridge"


@dataclass
class Sample:
    """A workspace whose first run is applied and whose second waits in the journal.

    Chains: "folds" (a scaler and two models), "refit" (the same scaler, a model of a fold, a refit),
    "late" (a scaler and a model, pending).
    """

    path: Path
    chains: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    predictions: dict[str, list[str]] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Its paths."""
        return Layout(self.path)

    def copy_to(self, path: Path) -> Sample:
        """The same, elsewhere."""
        shutil.copytree(self.path, path)
        return Sample(path, self.chains, self.artifacts, self.predictions)

    def blob(self, name: str) -> Path:
        """The file of an artifact."""
        key = self.artifacts[name]
        return self.path / "artifacts" / key[:2] / f"{key}.joblib"

    def relative(self, name: str) -> str:
        """That file below the workspace."""
        return self.blob(name).relative_to(self.path).as_posix()

    def needs(self, name: str) -> set[str]:
        """Chains that cannot replay without an artifact."""
        users = {
            "scaler": ("folds", "refit"), "fold_0": ("folds",), "fold_1": ("folds",), "beside": (),
            "refit": ("refit",), "late_scaler": ("late",), "late_model": ("late",),
        }  # fmt: skip
        return {self.chains[chain] for chain in users[name]}

    def segments(self) -> list[Path]:
        """Pending commits."""
        return sorted(self.layout.segments.iterdir())


def make_sample(path: Path) -> Sample:
    """Record the sample."""
    # Imported where a sample is made: the process that hands the tests out to others makes none.
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    sample = Sample(path)
    tecator = load_tecator()
    X, y = tecator.X[:40], tecator.fat[:40]
    scaler = StandardScaler().fit(X)
    scaled = scaler.transform(X)
    models = {name: Ridge(alpha).fit(scaled, y) for name, alpha in _ALPHAS.items()}
    with WorkspaceStore(path) as store:
        run_id = store.begin_run("first", {"seed": 1}, [{"name": "tecator"}])
        keys = sample.artifacts
        keys["scaler"] = store.save_artifact(scaler, SCALER, "transformer")
        keys |= {name: store.save_artifact(model, RIDGE, "model") for name, model in models.items()}
        folds = {"fold_0": keys["fold_0"], "fold_1": keys["fold_1"]}
        _pipeline(store, sample, run_id, "folds", folds, y, tecator.wavelengths)
        _pipeline(store, sample, run_id, "refit", {"fold_0": keys["beside"], "final": keys["refit"]}, y)
        failed = store.begin_pipeline(run_id, "failed", {}, [], "tecator", "")
        store.log_step(failed, 0, SCALER, "start", None, "about to fail", {"k": 1})
        store.fail_pipeline(failed, "as expected")
        store.complete_run(run_id, {"n": 2})
        store.list_runs()
    with leased(path), WorkspaceStore(path) as store:
        run_id = store.begin_run("second", {"seed": 2}, [{"name": "tecator"}])
        late = StandardScaler().fit(X[:20])
        keys["late_scaler"] = store.save_artifact(late, SCALER, "transformer")
        keys["late_model"] = store.save_artifact(Ridge(9.0).fit(late.transform(X), y), RIDGE, "model")
        folds = {"fold_0": keys["late_model"]}
        _pipeline(store, sample, run_id, "late", folds, y, scaler=keys["late_scaler"])
        store.complete_run(run_id, {})
    return sample


@contextmanager
def leased(path: Path) -> Iterator[None]:
    """Have the catalog alone, so that nobody applies the journal."""
    catalog_lock = CatalogLock(Layout(path), writable=True)
    catalog_lock.acquire(exclusive=True, timeout=5.0)
    try:
        yield
    finally:
        catalog_lock.release()


_ALPHAS = {"fold_0": 0.5, "fold_1": 1.0, "beside": 2.0, "refit": 4.0}


def _pipeline(
    store: WorkspaceStore,
    sample: Sample,
    run_id: str,
    name: str,
    folds: dict[str, str],
    y: np.ndarray,
    wavelengths: Any = None,
    scaler: str | None = None,
) -> None:
    scaler = scaler or sample.artifacts["scaler"]
    pipeline_id = store.begin_pipeline(run_id, name, {"n": 1}, [], "tecator", "hash")
    steps = [
        {"step_idx": 0, "operator_class": SCALER, "params": {}, "artifact_id": scaler},
        {"step_idx": 1, "operator_class": RIDGE, "params": {}},
    ]
    chain_id = store.save_chain(
        pipeline_id, steps, 1, RIDGE, "scaled", "per_fold", folds, {"0": scaler}, wavelengths=wavelengths
    )
    sample.chains[name] = chain_id
    for index, fold in enumerate(folds):
        values = prediction(fold_id=fold, dataset_name="tecator", val_score=0.5 + index)
        ident = store.save_prediction(pipeline_id, chain_id, **values)
        store.save_prediction_arrays(ident, y, y + index + ord(name[0]), sample_indices=np.arange(len(y)))
        sample.predictions.setdefault(name, []).append(ident)
    store.log_step(pipeline_id, 1, RIDGE, "end", 12, "fitted", {"fold": 0})
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 120)


def sql(path: Path, *statements: str, params: Sequence[Any] = ()) -> None:
    """Change a catalog behind the store's back."""
    con = attach(Layout(path).catalog, read_only=False, options=Options(), spill=None)
    try:
        for statement in statements:
            con.execute(statement, list(params))
        con.execute("CHECKPOINT store")
    finally:
        con.close()


def tree(path: Path) -> dict[str, tuple[str, int, int]]:
    """Every file and folder: hash of the bytes, mode, time of the last change."""
    found = {}
    for place in sorted(path.rglob("*")):
        stat = place.stat()
        digest = sha256_hex(place.read_bytes()) if place.is_file() else "folder"
        found[place.relative_to(path).as_posix()] = (digest, stat.st_mode, stat.st_mtime_ns)
    return found


def overwrite(path: Path, data: bytes) -> None:
    """Change a file's bytes, also those of a read-only one."""
    mode = path.stat().st_mode
    path.chmod(mode | 0o200)
    path.write_bytes(data)
    path.chmod(mode)


def age(path: Path, hours: float = 2.0) -> None:
    """Make a file look older."""
    moment = path.stat().st_mtime - hours * 3600
    os.utime(path, (moment, moment))


def answers(path: Path) -> dict[str, Any]:
    """Every answer that a store gives, with every array, every model's bytes and every replay."""
    X = load_tecator().X[40:44]
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with WorkspaceStore(path, create=False) as store:
            runs = store.list_runs()
            pipelines = store.list_pipelines()
            predictions = store.query_predictions()
            top = store.top_predictions(5)
            found["lists"] = [
                frame.rows() for frame in (runs, pipelines, predictions, top, store.top_chains())
            ]
            found["runs"] = [store.get_run(key) for key in runs["run_id"]]
            found["arrays"] = {
                key: {name: _plain(value) for name, value in arrays.items()}
                for key, arrays in store.get_prediction_arrays(predictions["prediction_id"].to_list()).items()
            }
            for key in pipelines["pipeline_id"]:
                found[key] = (store.get_pipeline(key), store.get_pipeline_log(key).rows())
                for chain in store.get_chains_for_pipeline(key)["chain_id"]:
                    record = store.get_chain(chain) or {}
                    found[chain] = ({name: _plain(value) for name, value in record.items()},)
                    found[chain] += (store.replay_chain(chain, X).tobytes(),)
            ids = store.sql("SELECT artifact_id FROM artifacts ORDER BY 1")["artifact_id"]
            found["artifacts"] = {key: (store.get_artifact(key), store.read_artifact(key)) for key in ids}
    # Recording goes through every index.
    with WorkspaceStore(path, create=False) as store, store.run("another") as run:
        with run.pipeline("p") as pipeline:
            store.log_step(pipeline.pipeline_id, 0, RIDGE, "end")
        assert store.get_run(run.run_id) is not None
    return found


def _plain(value: Any) -> Any:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
