"""What a cross-validation that fails on its way leaves behind."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from chemotools.scatter import StandardNormalVariate
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from nirs_store import CrossValidationResult, record_cross_validation
from nirs_store.datasets import Tecator


def record(store: Any, estimator: Any, X: Any, y: Any, **options: Any) -> CrossValidationResult:
    return record_cross_validation(store, estimator, X, y, cv=4, dataset_name="meat", **options)


def test_a_failing_fit_rolls_the_pipeline_back_and_is_raised(store: Any, tecator: Tecator) -> None:
    estimator = make_pipeline(StandardNormalVariate(), PLSRegression(500))
    with pytest.raises(ValueError, match="n_components") as caught:
        record(store, estimator, tecator.X, tecator.fat)
    assert "fold_0" in caught.value.__notes__[0]
    run_id = store.list_runs()["run_id"].item()
    assert store.get_run(run_id)["status"] == "failed"
    pipeline = store.get_pipeline(store.list_pipelines(run_id)["pipeline_id"].item())
    assert pipeline["status"] == "failed"
    assert "Traceback" in pipeline["error"]
    assert "n_components" in pipeline["error"]
    log = store.get_pipeline_log(pipeline["pipeline_id"])
    assert log.filter(pl.col("level") == "error")["message"].str.contains("n_components").all()
    assert store.query_predictions().is_empty()
    assert store.get_chains_for_pipeline(pipeline["pipeline_id"]).is_empty()


def test_a_failure_leaves_a_run_of_the_callers_open(model_store: Any, tecator: Tecator) -> None:
    run_id = model_store.begin_run("sizes", {}, [])
    with pytest.raises(ValueError, match="n_components"):
        record(model_store, PLSRegression(500), tecator.X, tecator.fat, run_id=run_id)
    assert model_store.get_run(run_id)["status"] == "running"
    assert model_store.list_pipelines(run_id)["status"].to_list() == ["failed"]


def test_an_interruption_fails_the_pipeline_too(model_store: Any, tecator: Tecator) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(model_store, Ridge(), tecator.X, tecator.fat, progress=stop)
    assert model_store.list_runs(status="failed").height == 1
    assert model_store.gc_artifacts() > 0
    assert not model_store._state.artifacts


def test_an_error_while_failing_does_not_hide_the_first(model_store: Any, tecator: Tecator) -> None:
    def stop(done: int, total: int) -> None:
        model_store.close()
        raise RuntimeError("the first")

    with pytest.raises(RuntimeError, match="the first") as caught:
        record(model_store, Ridge(), tecator.X, tecator.fat, progress=stop)
    assert any("could not be marked failed" in note for note in caught.value.__notes__)
