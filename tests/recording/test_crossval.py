"""What a cross-validation leaves in the store, on real spectra."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from chemotools.scatter import StandardNormalVariate
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, ShuffleSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import CrossValidationResult, load_bundle, record_cross_validation
from nirs_store.datasets import Tecator
from nirs_store.errors import SerializationError, ShapeMismatch, UnknownId
from tests.model import named_artifacts

FOLDS = KFold(4, shuffle=True, random_state=0)


def pls_pipeline() -> Any:
    return make_pipeline(StandardNormalVariate(), StandardScaler(), PLSRegression(8, scale=False))


def record(store: Any, estimator: Any, X: Any, y: Any, **options: Any) -> CrossValidationResult:
    return record_cross_validation(store, estimator, X, y, **{"cv": FOLDS, "dataset_name": "meat"} | options)


def arrays(store: Any, result: CrossValidationResult, fold_id: str, partition: str) -> dict[str, Any]:
    """The prediction of one fold and partition, with its arrays."""
    row = result.scores.filter(pl.col("fold_id") == fold_id, pl.col("partition") == partition)
    prediction: dict[str, Any] = store.get_prediction(row["prediction_id"].item(), load_arrays=True)
    return prediction


def apply_fold(store: Any, chain: dict[str, Any], fold: str, X: NDArray[Any]) -> NDArray[Any]:
    """Replay by hand: the fold's stored transformers in order, then its stored model."""
    for step in chain["steps"]:
        if step["operator_type"] == "transform":
            for artifact_id in step["fold_artifact_ids"][fold]:
                X = store.load_artifact(artifact_id).transform(X)
    return np.asarray(store.load_artifact(chain["fold_artifacts"][fold]).predict(X))


def test_rmsecv_is_that_of_scikit_learns_pooled_out_of_fold_predictions(store: Any, tecator: Tecator) -> None:
    result = record(store, pls_pipeline(), tecator.X, tecator.fat)
    expected = cross_val_predict(pls_pipeline(), tecator.X, tecator.fat, cv=FOLDS)
    assert result.rmsecv == pytest.approx(root_mean_squared_error(tecator.fat, expected), rel=1e-12)
    assert result.value == result.rmsecv
    pipeline = store.get_pipeline(result.pipeline_id)
    assert (pipeline["status"], pipeline["metric"]) == ("completed", "rmse")
    assert pipeline["best_val"] == result.rmsecv
    assert store.get_run(result.run_id)["status"] == "completed"
    assert store.get_run(result.run_id)["summary"]["best_val"] == result.rmsecv


def test_every_fold_predicts_its_own_rows_with_its_own_steps(store: Any, tecator: Tecator) -> None:
    result = record(store, pls_pipeline(), tecator.X, tecator.fat)
    chain = store.get_chain(result.chain_id)
    for index, (train, val) in enumerate(FOLDS.split(tecator.X)):
        fold = f"fold_{index}"
        fitted = clone(pls_pipeline()).fit(tecator.X[train], tecator.fat[train])
        for partition, rows in (("train", train), ("val", val)):
            stored = arrays(store, result, fold, partition)
            np.testing.assert_array_equal(stored["sample_indices"], rows)
            np.testing.assert_array_equal(stored["y_true"], tecator.fat[rows])
            np.testing.assert_allclose(stored["y_pred"], fitted.predict(tecator.X[rows]), rtol=1e-12)
            np.testing.assert_array_equal(stored["y_pred"], apply_fold(store, chain, fold, tecator.X[rows]))


def test_preprocessing_is_fitted_on_the_training_samples_only(model_store: Any, tecator: Tecator) -> None:
    result = record(model_store, make_pipeline(StandardScaler(), Ridge()), tecator.X, tecator.fat)
    step = model_store.get_chain(result.chain_id)["steps"][1]
    for index, (train, _) in enumerate(FOLDS.split(tecator.X)):
        scaler = model_store.load_artifact(step["fold_artifact_ids"][f"fold_{index}"][0])
        np.testing.assert_allclose(scaler.mean_, tecator.X[train].mean(axis=0))
    refit = model_store.load_artifact(step["fold_artifact_ids"]["final"][0])
    np.testing.assert_allclose(refit.mean_, tecator.X.mean(axis=0))


def test_identical_fitted_steps_are_one_blob_and_different_ones_are_not(
    model_store: Any, tecator: Tecator
) -> None:
    result = record(model_store, pls_pipeline(), tecator.X, tecator.fat)
    _, snv, scaler, _ = model_store.get_chain(result.chain_id)["steps"]
    assert set(snv["fold_artifact_ids"]) == {"fold_0", "fold_1", "fold_2", "fold_3", "final"}
    assert len({ids[0] for ids in snv["fold_artifact_ids"].values()}) == 1
    assert len({ids[0] for ids in scaler["fold_artifact_ids"].values()}) == 5


def test_the_chain_says_what_was_done_and_what_stands_on_what(store: Any, tecator: Tecator) -> None:
    result = record(
        store, pls_pipeline(), tecator.X, tecator.fat, wavelengths=tecator.wavelengths,
        target="fat", target_unit="%", wavelength_unit="nm",
    )  # fmt: skip
    chain = store.get_chain(result.chain_id)
    assert [step["operator_type"] for step in chain["steps"]] == [
        "splitter", "transform", "transform", "model",
    ]  # fmt: skip
    assert [step["step_idx"] for step in chain["steps"]] == [1, 2, 3, 4]
    assert chain["model_step_idx"] == 4
    assert chain["model_class"] == "sklearn.cross_decomposition.PLSRegression"
    assert chain["preprocessings"] == "SNV > StandardScaler"
    np.testing.assert_array_equal(chain["wavelengths"], tecator.wavelengths)
    metadata = chain["metadata"]
    assert metadata["preprocessing_chain"] == "SNV > StandardScaler > PLS(8, scale=False)"
    assert (metadata["target"], metadata["target_unit"], metadata["wavelength_unit"]) == ("fat", "%", "nm")
    assert metadata["cross_validation"]["rmsecv"] == result.rmsecv
    splitter_id = chain["steps"][0]["artifact_id"]
    assert store.load_artifact(splitter_id).get_n_splits() == 4
    assert store.get_artifact(splitter_id)["artifact_type"] == "splitter"
    model_id = chain["fold_artifacts"]["fold_2"]
    own = [step["fold_artifact_ids"]["fold_2"][0] for step in chain["steps"][1:3]]
    assert metadata["depends_on"][model_id] == [*own, splitter_id]


def test_logs_hold_start_and_end_of_every_step_with_its_duration(store: Any, tecator: Tecator) -> None:
    result = record(store, pls_pipeline(), tecator.X, tecator.fat)
    log = store.get_pipeline_log(result.pipeline_id)
    assert sorted(log.select("step_idx", "event").rows()) == [
        (step, event) for step in (1, 2, 3, 4) for event in ("end", "start")
    ]
    assert log.filter(pl.col("event") == "end")["duration_ms"].null_count() == 0
    assert store.get_run_log_summary(result.run_id)["log_count"].to_list() == [8]


def test_scores_of_rows_and_table_agree_and_carry_the_folds_other_scores(
    store: Any, tecator: Tecator
) -> None:
    result = record(store, Ridge(), tecator.X[:180], tecator.fat[:180],
                    X_test=tecator.X[180:], y_test=tecator.fat[180:])  # fmt: skip
    table = result.scores
    assert table["fold_id"].unique(maintain_order=True).to_list() == [
        "fold_0", "fold_1", "fold_2", "fold_3", "final", "pooled",
    ]  # fmt: skip
    assert len(result.prediction_ids) == 4 * 3 + 2
    row = arrays(store, result, "fold_1", "val")
    rmse = {
        part: table.filter(pl.col("fold_id") == "fold_1", pl.col("partition") == part)["rmse"].item()
        for part in ("train", "val", "test")
    }
    assert (row["train_score"], row["val_score"], row["test_score"]) == tuple(rmse.values())
    assert row["scores"]["rmse"] == rmse["val"]
    assert (row["model_name"], row["n_samples"], row["n_features"]) == ("Ridge(alpha=1.0)", 45, 100)
    assert row["best_params"]["alpha"] == 1.0


def test_the_refit_is_known_by_its_cross_validation_and_its_test(model_store: Any, tecator: Tecator) -> None:
    result = record(model_store, Ridge(), tecator.X[:180], tecator.fat[:180],
                    X_test=tecator.X[180:], y_test=tecator.fat[180:])  # fmt: skip
    predicted = Ridge().fit(tecator.X[:180], tecator.fat[:180]).predict(tecator.X[180:])
    rmsep = root_mean_squared_error(tecator.fat[180:], predicted)
    assert result.test_value == pytest.approx(rmsep)
    assert model_store.get_pipeline(result.pipeline_id)["best_test"] == result.test_value
    final = arrays(model_store, result, "final", "train")
    assert final["val_score"] == result.rmsecv
    np.testing.assert_array_equal(final["sample_indices"], np.arange(180))
    assert "RMSECV" in repr(result)
    assert "RMSEP" in repr(result)


def test_without_a_refit_the_test_value_is_that_of_the_averaged_folds(
    model_store: Any, tecator: Tecator
) -> None:
    result = record(model_store, Ridge(), tecator.X[:180], tecator.fat[:180], refit=False,
                    X_test=tecator.X[180:], y_test=tecator.fat[180:])  # fmt: skip
    chain = model_store.get_chain(result.chain_id)
    assert set(chain["fold_artifacts"]) == {"fold_0", "fold_1", "fold_2", "fold_3"}
    mean = np.mean(
        [apply_fold(model_store, chain, fold, tecator.X[180:]) for fold in chain["fold_artifacts"]], axis=0
    )
    assert result.test_value == pytest.approx(root_mean_squared_error(tecator.fat[180:], mean))
    assert result.scores["fold_id"].to_list()[-1] == "average"


def test_without_test_samples_there_is_no_test_value(model_store: Any, tecator: Tecator) -> None:
    result = record(model_store, Ridge(), tecator.X, tecator.fat)
    assert result.test_value is None
    assert model_store.get_pipeline(result.pipeline_id)["best_test"] is None


def test_groups_stay_together(model_store: Any, tecator: Tecator) -> None:
    groups = np.arange(215) // 3
    result = record(model_store, Ridge(), tecator.X, tecator.fat, cv=GroupKFold(5), groups=groups)
    for fold in range(5):
        train = arrays(model_store, result, f"fold_{fold}", "train")["sample_indices"]
        val = arrays(model_store, result, f"fold_{fold}", "val")["sample_indices"]
        assert not set(groups[train]) & set(groups[val])


def test_frames_give_their_column_names_as_wavelengths(model_store: Any, tecator: Tecator) -> None:
    pandas = pytest.importorskip("pandas")
    names = [f"{value:.2f}" for value in tecator.wavelengths]
    plain = record(model_store, Ridge(), tecator.X, tecator.fat)
    for X, y in (
        (pl.DataFrame(tecator.X, schema=names), pl.Series("fat", tecator.fat)),
        (pandas.DataFrame(tecator.X, columns=tecator.wavelengths), pandas.Series(tecator.fat)),
    ):
        result = record(model_store, Ridge(), X, y)
        grid = model_store.get_chain(result.chain_id)["wavelengths"]
        np.testing.assert_allclose(grid, tecator.wavelengths)
        assert result.rmsecv == pytest.approx(plain.rmsecv)


def test_columns_that_are_only_numbered_are_not_wavelengths(model_store: Any, tecator: Tecator) -> None:
    pandas = pytest.importorskip("pandas")
    result = record(model_store, Ridge(), pandas.DataFrame(tecator.X), tecator.fat)
    assert model_store.get_chain(result.chain_id)["wavelengths"] is None


def test_names_that_are_no_wavelengths_are_kept_and_compared_on_replay(
    workspace: Any, tecator: Tecator, tmp_path: Path
) -> None:
    names = [f"w{i}" for i in range(100)]
    frame = pl.DataFrame(tecator.X, schema=names)
    result = record(workspace, pls_pipeline(), frame, tecator.fat, X_test=frame, y_test=tecator.fat)
    assert workspace.get_chain(result.chain_id)["metadata"]["calibration_columns"] == names
    bundle = load_bundle(workspace.export_chain(result.chain_id, tmp_path / "w.n4a"), allow_pickle=True)
    expected = workspace.replay_chain(result.chain_id, tecator.X)
    for replay in (
        partial(workspace.replay_chain, result.chain_id),
        workspace.predictor(result.chain_id).predict,
        bundle.predict,
    ):
        np.testing.assert_array_equal(replay(frame), expected)
        np.testing.assert_array_equal(replay(pl.DataFrame(tecator.X)), expected)
        with pytest.raises(ShapeMismatch, match="column 0 is 'w99', expected 'w0'"):
            replay(frame.select(reversed(names)))


def test_arrays_and_wavelengths_leave_no_names(model_store: Any, tecator: Tecator) -> None:
    grid = pl.DataFrame(tecator.X, schema=[f"{value:.2f}" for value in tecator.wavelengths])
    for X in (tecator.X, grid):
        result = record(model_store, Ridge(), X, tecator.fat)
        assert "calibration_columns" not in model_store.get_chain(result.chain_id)["metadata"]


def test_several_targets_keep_their_shape(model_store: Any, tecator: Tecator) -> None:
    y = np.column_stack([tecator.fat, tecator.protein])
    result = record(model_store, PLSRegression(8), tecator.X, y)
    assert arrays(model_store, result, "fold_0", "val")["y_pred"].shape == (54, 2)
    expected = cross_val_predict(PLSRegression(8), tecator.X, y, cv=FOLDS)
    assert result.rmsecv == pytest.approx(root_mean_squared_error(y, expected))


def test_leave_one_out_and_partial_splits_can_be_recorded(model_store: Any, tecator: Tecator) -> None:
    X, y = tecator.X[:20], tecator.fat[:20]
    alone = record(model_store, Ridge(), X, y, cv=LeaveOneOut())
    assert alone.n_folds == alone.pooled["n"] == 20
    assert arrays(model_store, alone, "fold_3", "val")["scores"]["sep"] is None
    some = record(model_store, Ridge(), X, y, cv=ShuffleSplit(3, test_size=4, random_state=0))
    assert (some.pooled["n"], some.n_repeats) == (4, 3)
    given = record(model_store, Ridge(), X, y, cv=[(np.arange(10), np.arange(10, 20))])
    assert given.n_folds == 1
    assert np.isnan(given.fold_sd)


def test_the_input_is_never_changed(model_store: Any, tecator: Tecator) -> None:
    X, y = tecator.X.copy(), tecator.fat.copy()
    estimator = make_pipeline(StandardScaler(copy=False), PLSRegression(5, copy=False))
    result = record(model_store, estimator, X, y, X_test=X, y_test=y)
    np.testing.assert_array_equal(X, tecator.X)
    np.testing.assert_array_equal(y, tecator.fat)
    assert not hasattr(estimator[-1], "coef_")
    expected = cross_val_predict(make_pipeline(StandardScaler(), PLSRegression(5)), X, y, cv=FOLDS)
    assert result.rmsecv == pytest.approx(root_mean_squared_error(y, expected))


def test_several_pipelines_share_a_run_that_stays_open(store: Any, tecator: Tecator) -> None:
    run_id = store.begin_run("sizes", {}, [{"name": "meat"}])
    first = record(store, PLSRegression(4), tecator.X, tecator.fat, run_id=run_id, name="four")
    record(store, PLSRegression(6), tecator.X, tecator.fat, run_id=run_id)
    assert first.run_id == run_id
    assert store.get_run(run_id)["status"] == "running"
    assert store.list_pipelines(run_id)["name"].to_list() == ["PLS(6)", "four"]
    with pytest.raises(UnknownId):
        record(store, Ridge(), tecator.X, tecator.fat, run_id="01a1fdca-0000-7000-8000-000000000000")


def test_progress_counts_every_fit(model_store: Any, tecator: Tecator) -> None:
    seen: list[tuple[int, int]] = []
    record(model_store, Ridge(), tecator.X, tecator.fat, progress=lambda *pair: seen.append(pair))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_what_the_format_cannot_store_fails_and_another_format_can(store: Any, tecator: Tecator) -> None:
    from sklearn.preprocessing import FunctionTransformer

    estimator = make_pipeline(FunctionTransformer(lambda X: X * 2.0), Ridge())
    with pytest.raises(SerializationError):
        record(store, estimator, tecator.X, tecator.fat)
    result = record(store, estimator, tecator.X, tecator.fat, artifact_format="cloudpickle")
    chain = store.get_chain(result.chain_id)
    stored = arrays(store, result, "fold_0", "val")
    again = apply_fold(store, chain, "fold_0", tecator.X[stored["sample_indices"]])
    np.testing.assert_array_equal(stored["y_pred"], again)
    assert store.get_pipeline(result.pipeline_id)["expanded_config"]["not_rebuildable"] == ["steps"]


def test_the_recorded_configuration_builds_the_same_estimator_again(
    model_store: Any, tecator: Tecator
) -> None:
    from nirs_store.estimators import build_cv, build_estimator

    result = record(model_store, pls_pipeline(), tecator.X, tecator.fat)
    config = model_store.get_pipeline(result.pipeline_id)["expanded_config"]
    again = cross_val_predict(build_estimator(config), tecator.X, tecator.fat, cv=build_cv(config))
    assert root_mean_squared_error(tecator.fat, again) == pytest.approx(result.rmsecv)


def test_workers_write_the_blobs_and_the_result_is_the_same(workspace: Any, tecator: Tecator) -> None:
    alone = record(workspace, pls_pipeline(), tecator.X, tecator.fat)
    together = record(workspace, pls_pipeline(), tecator.X, tecator.fat, n_jobs=2)
    assert together.rmsecv == alone.rmsecv
    first, second = (workspace.get_chain(each.chain_id) for each in (alone, together))
    assert first["fold_artifacts"] == second["fold_artifacts"]
    assert first["steps"] == second["steps"]
    # The pool is up already: what a worker raises arrives here, and fails the pipeline.
    with pytest.raises(ValueError, match="n_components") as caught:
        record(workspace, PLSRegression(500), tecator.X, tecator.fat, n_jobs=2, name="too many")
    assert "fold_" in caught.value.__notes__[0]
    assert workspace.list_runs(status="failed")["name"].to_list() == ["too many"]


def test_a_replay_of_what_was_recorded_gives_the_refits_predictions(workspace: Any, tecator: Tecator) -> None:
    result = record(workspace, pls_pipeline(), tecator.X[:180], tecator.fat[:180],
                    X_test=tecator.X[180:], y_test=tecator.fat[180:])  # fmt: skip
    replayed = workspace.replay_chain(result.chain_id, tecator.X[180:])
    np.testing.assert_array_equal(replayed, arrays(workspace, result, "final", "test")["y_pred"])


def test_a_replay_without_refit_averages_the_folds(workspace: Any, tecator: Tecator) -> None:
    result = record(workspace, pls_pipeline(), tecator.X[:180], tecator.fat[:180], refit=False,
                    X_test=tecator.X[180:], y_test=tecator.fat[180:])  # fmt: skip
    replayed = workspace.replay_chain(result.chain_id, tecator.X[180:])
    assert root_mean_squared_error(tecator.fat[180:], replayed) == pytest.approx(result.test_value, rel=1e-12)


@pytest.mark.takes_over
def test_model_and_store_hold_the_same_blobs_with_the_same_references(
    model_store: Any, workspace: Any, tecator: Tecator
) -> None:
    counts = []
    for each in (model_store, workspace):
        result = record(each, pls_pipeline(), tecator.X, tecator.fat)
        with pytest.raises(ValueError, match="n_components"):
            record(each, PLSRegression(500), tecator.X, tecator.fat, run_id=result.run_id)
        chain = each.get_chain(result.chain_id)
        ids = named_artifacts(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
        counts.append({artifact_id: each.get_artifact(artifact_id)["ref_count"] for artifact_id in ids})
        # One run, two pipelines, their logs (one says what the failed one released), a chain, and nine
        # predictions with their arrays.
        assert each.delete_run(result.run_id, now=True) == 1 + 2 + (8 + 4 + 1) + 1 + 9 * 2
        assert all(each.get_artifact(artifact_id) is None for artifact_id in ids)
    assert counts[0] == counts[1]
    assert len(counts[0]) == 12
