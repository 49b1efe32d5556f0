"""The program of the storage guide, unchanged but for the import line, on real spectra."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from nirs_store import ChainBuilder, PipelineLibrary, WorkspaceStore, load_bundle, load_tecator, replay_chain

pytestmark = pytest.mark.usefixtures("each_backend")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def test_the_guides_program_runs_from_recording_to_cleaning_up(workspace: Path, tmp_path: Path) -> None:
    spectra = load_tecator()
    X, y = spectra.X, spectra.fat
    store = WorkspaceStore(Path(workspace))

    run_id = store.begin_run("experiment_1", config={"seed": 0}, datasets=[{"name": "wheat"}])
    pipeline_id = store.begin_pipeline(
        run_id,
        name="0001_pls",
        expanded_config={"steps": ["scale", "pls"]},
        generator_choices=[],
        dataset_name="wheat",
        dataset_hash="abc",
    )

    scaler = StandardScaler().fit(X)
    id1 = store.save_artifact(scaler, "StandardScaler", "transformer", "joblib")
    id2 = store.save_artifact(scaler, "StandardScaler", "transformer", "joblib")
    assert id1 == id2
    models, folds = {}, []
    for index, (train, _) in enumerate(KFold(5).split(X)):
        model = PLSRegression(10).fit(scaler.transform(X[train]), y[train])
        folds.append(model)
        models[f"fold_{index}"] = store.save_artifact(
            obj=model,
            operator_class="sklearn.cross_decomposition.PLSRegression",
            artifact_type="model",
            format="joblib",
        )
    chain_id = store.save_chain(
        pipeline_id,
        steps=[
            {
                "step_idx": 0,
                "operator_class": "sklearn.preprocessing.StandardScaler",
                "params": {},
                "artifact_id": id1,
                "stateless": False,
            },
            {
                "step_idx": 1,
                "operator_class": "sklearn.cross_decomposition.PLSRegression",
                "params": {"n_components": 10},
                "stateless": False,
            },
        ],
        model_step_idx=1,
        model_class="sklearn.cross_decomposition.PLSRegression",
        preprocessings="StandardScaler",
        fold_strategy="per_fold",
        fold_artifacts=models,
        shared_artifacts={"0": id1},
    )
    pred_id = store.save_prediction(
        pipeline_id,
        chain_id,
        dataset_name="wheat",
        model_name="PLS",
        model_class="PLSRegression",
        fold_id="fold_0",
        partition="val",
        val_score=2.9,
        test_score=None,
        train_score=2.1,
        metric="rmse",
        task_type="regression",
        n_samples=43,
        n_features=100,
        scores={"rmse": 2.9},
        best_params={},
        branch_id=None,
        branch_name=None,
        exclusion_count=0,
        exclusion_rate=0.0,
    )
    store.save_prediction_arrays(pred_id, y_true=y[:43], y_pred=y[:43] + 1.0)
    store.complete_pipeline(pipeline_id, best_val=2.9, best_test=3.0, metric="rmse", duration_ms=120)
    store.complete_run(run_id, summary={"total_pipelines": 5})

    top = store.top_predictions(n=5, metric="val_score")
    preds = store.query_predictions(dataset_name="wheat", partition="val")
    runs = store.list_runs(status="completed")
    assert top["prediction_id"].to_list() == preds["prediction_id"].to_list() == [pred_id]
    assert runs["run_id"].to_list() == [run_id]

    X_new = X[100:120]
    y_pred = store.replay_chain(chain_id, X_new)
    by_hand = np.mean([m.predict(scaler.transform(X_new)) for m in folds], axis=0)
    np.testing.assert_array_equal(y_pred, by_hand)
    np.testing.assert_array_equal(replay_chain(store, chain_id, X_new), by_hand)
    np.testing.assert_array_equal(
        store.replay_chain(chain_id, X_new, wavelengths=spectra.wavelengths), by_hand
    )

    loaded = joblib.load(store.get_artifact_path(models["fold_0"]))
    np.testing.assert_array_equal(loaded.coef_, store.load_artifact(models["fold_0"]).coef_)

    exports = tmp_path / "exports"
    bundle = store.export_chain(chain_id, exports / "model.n4a")
    np.testing.assert_array_equal(load_bundle(bundle, allow_pickle=True).predict(X_new), by_hand)
    assert store.export_pipeline_config(pipeline_id, exports / "config.json").exists()
    assert "experiment_1" in store.export_run(run_id, exports / "run.yaml").read_text()
    table = store.export_predictions_parquet(
        exports / "results.parquet", dataset_name="wheat", partition="val"
    )
    assert pl.read_parquet(table).height == 1

    rows_deleted = store.delete_run(run_id, now=True)
    assert rows_deleted == 5
    removed = store.gc_artifacts()
    assert removed == 0, "the second save of the scaler is held while this session lives"
    store.vacuum()
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="WorkspaceStore is closed"):
        store.list_runs()


def test_the_guides_library_calls_run(workspace: Path) -> None:
    library = PipelineLibrary(workspace)
    library.save_template(
        pipeline_config={"steps": [{"class": "sklearn.cross_decomposition.PLSRegression"}]},
        name="baseline_pls",
        category="regression",
        description="PLS baseline with SNV preprocessing",
        tags=["nirs", "pls"],
    )
    names = [template["name"] for template in library.list_templates(category="regression")]
    assert names == ["baseline_pls"]
    assert library.load_template("baseline_pls")["steps"]


def test_a_chain_builder_feeds_save_chain(workspace: Path) -> None:
    from nirs_store import ExecutionStep, ExecutionTrace, StepArtifacts

    spectra = load_tecator()
    scaler = StandardScaler().fit(spectra.X)
    model = PLSRegression(5).fit(scaler.transform(spectra.X), spectra.fat)
    with WorkspaceStore(workspace) as store, store.run("traced") as run, run.pipeline("p") as pipeline:
        scaler_id = store.save_artifact(scaler, "sklearn.preprocessing.StandardScaler", "transformer")
        model_id = store.save_artifact(model, "sklearn.cross_decomposition.PLSRegression", "model")
        trace = ExecutionTrace(
            trace_id="t",
            pipeline_uid=pipeline.pipeline_id,
            steps=[
                ExecutionStep(
                    step_index=1,
                    operator_type="transform",
                    operator_class="sklearn.preprocessing.StandardScaler",
                    artifacts=StepArtifacts(artifact_ids=[scaler_id], primary_artifact_id=scaler_id),
                ),
                ExecutionStep(
                    step_index=2,
                    operator_type="model",
                    operator_class="sklearn.cross_decomposition.PLSRegression",
                    artifacts=StepArtifacts(artifact_ids=[model_id], fold_artifact_ids={"0": model_id}),
                ),
            ],
            model_step_index=2,
        )
        chain_id = store.save_chain(pipeline_id=pipeline.pipeline_id, **ChainBuilder(trace).build())
        np.testing.assert_array_equal(
            store.replay_chain(chain_id, spectra.X), model.predict(scaler.transform(spectra.X))
        )
