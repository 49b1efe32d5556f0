"""Let nirs4all write a small workspace and bundles, with the answers it gave, into one archive.

Run with a Python that has nirs4all, never with the one that runs the tests; the archive is never rewritten:

    python -m venv their-env
    their-env/bin/pip install nirs4all==1.4.10
    their-env/bin/python tests/compat/make_nirs4all.py tests/compat/nirs4all/1.4.10.zip

Version 0.7.1 (the oldest of the DuckDB generation on PyPI) is written by the same script.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import nirs4all
import numpy as np
from nirs4all.operators.transforms import StandardNormalVariate
from nirs4all.pipeline.storage.workspace_store import WorkspaceStore
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import MinMaxScaler, StandardScaler

DATA = Path(__file__).parents[2] / "nirs_store" / "data" / "tecator.csv"
NEW = nirs4all.__version__.split(".")[0] != "0"


def spectra() -> tuple[np.ndarray, np.ndarray]:
    """Every fifth channel of every third sample: (72, 20) and fat (72,)."""
    rows = np.loadtxt(DATA, delimiter=",", skiprows=1)
    return rows[:, 4:][::3, ::5], rows[:, 2][::3]


def train(workspace: Path, bundles: Path) -> None:
    """Run pipelines of scikit-learn's steps, and one with a step of nirs4all's own."""
    X, y = spectra()
    pls = {"model": PLSRegression(n_components=3)}
    runs: dict[str, tuple[list[Any], np.ndarray]] = {
        "plain": ([StandardScaler(), KFold(n_splits=3), pls], y),
        "targets": (
            [StandardScaler(), MinMaxScaler(), KFold(n_splits=3), {"y_processing": MinMaxScaler()}, pls],
            y,
        ),
        "classes": (
            [StandardScaler(), StratifiedKFold(n_splits=3), {"model": LogisticRegression(max_iter=500)}],
            np.digitize(y, [10, 25]),
        ),
        "snv": ([StandardNormalVariate(), KFold(n_splits=3), pls], y),
    }
    engines = ("legacy", "default") if NEW else ("only",)
    for engine in engines:
        for name, (steps, target) in runs.items():
            options = {"engine": engine} if engine == "legacy" else {}
            result = nirs4all.run(
                pipeline=steps, dataset=(X, target, {"train": 54}), workspace_path=workspace,
                name=f"{name} {engine}", verbose=0, **options,
            )  # fmt: skip
            if NEW:
                result.export(bundles / f"{engine}-{name}.n4a")


def record_by_hand(workspace: Path) -> None:
    """What trainings here do not leave behind: failures, open runs, labels, several targets, projects."""
    with closing(WorkspaceStore(workspace)) as store:
        store.fail_run(store.begin_run("broken", {"alpha": 0.5}, [{"name": "dataset"}]), "it broke")
        run_id = store.begin_run("by hand", {}, [{"name": "other"}])
        store.begin_pipeline(store.begin_run("open", {}, []), "p", {"steps": []}, [], "other", "h")
        pipeline_id = store.begin_pipeline(run_id, "p", {"steps": []}, [{"a": 1}], "other", "h")
        model = store.save_artifact({"not": "a model"}, "builtins.dict", "model", "cloudpickle")
        chain_id = store.save_chain(
            pipeline_id, [{"step_idx": 0, "operator_class": "X", "params": {}, "artifact_id": model, "stateless": False}],
            0, "X", "", "per_fold", {"fold_0": model}, {}, branch_path=[1, 0], source_index=0,
        )  # fmt: skip
        for fold, task in (("0", "classification"), ("1", "regression")):
            store.save_prediction(
                pipeline_id, chain_id, "other", "m", "X", fold, "val", 0.25, None, float("nan"), "rmse", task,
                3, 2, {"val": {"rmse": 0.25}}, {"k": 1}, 1, "left", 2, 0.5, "SNV", prediction_id=f"by-hand-{fold}",
            )  # fmt: skip
        store.log_step(pipeline_id, 0, "X", "warning", 5, "careful", {"n": 1}, "warning")
        if NEW:
            common = {
                "dataset_name": "other",
                "model_name": "m",
                "partition": "val",
                "metric": "rmse",
                "val_score": 0.25,
            }
            store.array_store.save_batch([
                {**common, "prediction_id": "by-hand-0", "fold_id": "0", "task_type": "classification",
                 "y_true": np.array(["a", "b", "ä"]), "y_pred": np.array(["a", "a", "ä"]),
                 "y_proba": np.full((3, 2), 0.5), "sample_indices": np.arange(3)},
                {**common, "prediction_id": "by-hand-1", "fold_id": "1", "task_type": "regression",
                 "y_true": np.arange(6.0).reshape(3, 2), "y_pred": np.ones((3, 2)),
                 "sample_indices": np.arange(3), "weights": np.array([0.5, 1.0, 2.0]),
                 "sample_metadata": {"name": ["x", "y", "z"]}},
            ])  # fmt: skip
            store.set_run_project(run_id, store.create_project("Meat", "of all kinds"))
        else:
            store.save_prediction_arrays(
                "by-hand-1", np.arange(3.0), np.ones(3), None, np.arange(3), np.array([0.5, 1.0, 2.0])
            )
        store.complete_pipeline(pipeline_id, 0.25, float("nan"), "rmse", 7)
        store.complete_run(run_id, {"best": 0.25})


def answers(workspace: Path, bundles: Path) -> dict[str, Any]:
    """What nirs4all itself predicts with its chains and its bundles."""
    X, _ = spectra()
    replayed: dict[str, Any] = {}
    with closing(WorkspaceStore(workspace)) as store:
        for pipeline in store.list_pipelines().iter_rows(named=True):
            for row in store.get_chains_for_pipeline(pipeline["pipeline_id"]).iter_rows(named=True):
                try:
                    found = np.asarray(store.replay_chain(row["chain_id"], X))
                    replayed[row["chain_id"]] = found.tolist()
                except Exception as error:
                    replayed[row["chain_id"]] = f"{type(error).__name__}: {error}"
                if NEW and len(json.loads(str(row["fold_artifacts"]))) == 3:
                    store.export_chain(row["chain_id"], bundles / f"store-{row['chain_id'][:8]}.n4a")
    opened: dict[str, Any] = {}
    if NEW:
        from nirs4all.pipeline.bundle import BundleLoader

        for path in sorted(bundles.glob("*.n4a")):
            opened[path.name] = np.asarray(BundleLoader(path).predict(X)).tolist()
    return {"version": nirs4all.__version__, "X": X.tolist(), "replayed": replayed, "bundles": opened}


def main() -> None:
    """Build the archive that the command line names."""
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        # nirs4all writes some paths into its rows: keep those of this machine out.
        os.chdir(name)
        workspace, bundles = Path("workspace"), Path("bundles")
        bundles.mkdir()
        train(workspace, bundles)
        record_by_hand(workspace)
        Path("expected.json").write_text(json.dumps(answers(workspace, bundles)))
        shutil.rmtree(workspace / "logs", ignore_errors=True)
        for path in [
            *workspace.glob("native_results/*/*.parquet"),
            *workspace.glob("native_results/*/artifacts/*"),
        ]:
            path.unlink()
        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(p for p in Path().rglob("*") if p.is_file()):
                archive.write(path, path.as_posix())


if __name__ == "__main__":
    main()
