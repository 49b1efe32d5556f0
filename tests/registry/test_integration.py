"""Whole ways through the artifact layer, on real spectra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import (
    ArtifactLoader,
    ArtifactRegistry,
    ChainBuilder,
    ExecutionStep,
    ExecutionTrace,
    StepArtifacts,
    WorkspaceStore,
    record_cross_validation,
)
from nirs_store.errors import UnknownId

SCALER, PLS = "sklearn.preprocessing.StandardScaler", "sklearn.cross_decomposition.PLSRegression"
CV = KFold(3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    folder = tmp_path_factory.mktemp("flows") / "workspace"
    with WorkspaceStore(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(store: WorkspaceStore, meat: Any) -> list[Any]:
    """The same pipeline, recorded twice."""
    model = make_pipeline(StandardScaler(), PLSRegression(4, scale=False))
    return [record_cross_validation(store, model, *meat, cv=CV, dataset_name="meat") for _ in range(2)]


def test_training_and_predicting_through_registry_trace_and_loader(store: WorkspaceStore, meat: Any) -> None:
    X, y = meat
    with store.run("by hand", datasets=["meat"]) as run, run.pipeline("pls", dataset_name="meat") as pipeline:
        registry = ArtifactRegistry(store, "meat", pipeline.pipeline_id)
        trace = ExecutionTrace(model_step_index=2)
        scaler = StandardScaler().fit(X)
        first = registry.register_with_chain(scaler, "s1.StandardScaler", "transformer", 1)
        trace.add_step(ExecutionStep(1, "transform", SCALER, artifacts=StepArtifacts([first.artifact_id])))
        held = StepArtifacts()
        for fold, (train, _) in enumerate(CV.split(X)):
            model = PLSRegression(3).fit(scaler.transform(X[train]), y[train])
            made = registry.register_with_chain(
                model, "s1.StandardScaler>s2.PLSRegression", "model", 2, fold_id=fold,
                depends_on=[first.artifact_id],
            )  # fmt: skip
            held.add_fold_artifact(fold, made.artifact_id)
        trace.add_step(ExecutionStep(2, "model", PLS, artifacts=held))
        chain_id = store.save_chain(pipeline.pipeline_id, **ChainBuilder(trace, registry).build())
    with ArtifactLoader(store, "meat", pipeline_id=pipeline.pipeline_id) as loader:
        [(_, transformer)] = loader.load_for_step(1)
        by_hand = np.mean(
            [m.predict(transformer.transform(X)) for _, m in loader.load_fold_models(2)], axis=0
        )
    np.testing.assert_array_equal(store.replay_chain(chain_id, X), by_hand)
    assert len(registry.records()) == 4


def test_a_second_run_of_the_same_pipeline_needs_no_file_of_its_own(
    store: WorkspaceStore, runs: list[Any]
) -> None:
    first, second = (store.artifacts.records(run.pipeline_id) for run in runs)
    assert [r.content_hash for r in first] == [r.content_hash for r in second]
    assert {r.artifact_id for r in first}.isdisjoint(r.artifact_id for r in second)
    stats = ArtifactRegistry(store, "meat").get_stats()
    assert stats["deduplication_ratio"] >= 0.45


def test_fold_models_of_a_cross_validation_are_found_and_averaged(
    store: WorkspaceStore, runs: list[Any], meat: Any
) -> None:
    loader = ArtifactLoader(store, pipeline_id=runs[0].pipeline_id)
    models = dict(loader.load_fold_models())
    assert sorted(models) == [0, 1, 2]
    frame = store.chain_predictions(runs[0].chain_id).sort("sample")
    for fold, (_, val) in enumerate(CV.split(meat[0])):
        [record] = [r for r in loader.registry.get_fold_models() if r.fold_id == str(fold)]
        scaler = loader.load_with_dependencies(record.artifact_id)
        # The splitter and the fold's own scaler come before the model.
        Z = list(scaler.values())[-2].transform(meat[0][val])
        np.testing.assert_allclose(models[fold].predict(Z), frame["y_pred"].to_numpy()[val], rtol=1e-12)


def test_cleaning_up_after_one_of_two_runs_keeps_what_the_other_needs(
    store: WorkspaceStore, runs: list[Any], meat: Any
) -> None:
    expected = store.replay_chain(runs[1].chain_id, meat[0])
    assert store.artifacts.delete_pipeline_artifacts(runs[0].pipeline_id, delete_files=True) > 0
    assert store.artifacts.find_orphaned_artifacts(grace_seconds=0) == []
    store._forget()
    np.testing.assert_array_equal(store.replay_chain(runs[1].chain_id, meat[0]), expected)
    assert store.artifacts.delete_pipeline_artifacts(runs[1].pipeline_id) > 0
    # Its models are in memory yet, but the chain is gone.
    with pytest.raises(UnknownId, match=runs[1].chain_id):
        store.replay_chain(runs[1].chain_id, meat[0])
    orphans = store.artifacts.find_orphaned_artifacts()
    # Four models, three scalers, the domain and the splitter; the scaler of the refit is the one of the run by hand.
    assert len(orphans) == 9
    assert store.artifacts.delete_orphaned_artifacts(dry_run=False)[0] == orphans
    assert [f for f in store.check(read_data=True).findings if f.severity != "info"] == []
