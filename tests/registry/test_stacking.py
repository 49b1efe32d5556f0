"""A stack is trained on what its bases predicted for samples they had not seen, and lives as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import StackingRegressor, VotingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import (
    BranchRecorder,
    WorkspaceStore,
    load_bundle,
    load_tecator,
    record_cross_validation,
    record_stacking,
)
from nirs_store.bundle.reader import inspect_bundle
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId

MEAT = load_tecator()
X, Y = np.ascontiguousarray(MEAT.X[:, ::5]), MEAT.fat
FOLDS = KFold(3, shuffle=True, random_state=0)
BASES = (make_pipeline(StandardScaler(), PLSRegression(5)), Ridge(0.01))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    folder = tmp_path_factory.mktemp("stacks") / "workspace"
    with WorkspaceStore(folder) as opened:
        yield opened


def record(store: WorkspaceStore, model: Any, y: Any = Y, **more: Any) -> Any:
    return record_cross_validation(store, model, X, y, cv=FOLDS, **{"dataset_name": "meat", **more})


@pytest.fixture(scope="module")
def bases(store: WorkspaceStore) -> list[Any]:
    """One with a refit, one that averages its folds."""
    return [record(store, BASES[0]), record(store, BASES[1], refit=False)]


@pytest.fixture(scope="module")
def stack(store: WorkspaceStore, bases: list[Any]) -> Any:
    return record_stacking(store, [b.chain_id for b in bases], Ridge(), X, Y, cv=FOLDS, target="fat")


def test_it_learns_from_the_out_of_fold_predictions_and_replays_its_bases(
    store: WorkspaceStore, bases: list[Any], stack: Any
) -> None:
    table = np.column_stack([cross_val_predict(model, X, Y, cv=FOLDS) for model in BASES])
    by_hand = Ridge().fit(table, Y)
    stored = store.load_artifact(store.get_chain(stack.chain_id)["fold_artifacts"]["final"])
    np.testing.assert_allclose(stored.coef_, by_hand.coef_, rtol=1e-9)
    columns = np.column_stack([store.replay_chain(base.chain_id, X) for base in bases])
    np.testing.assert_array_equal(store.replay_chain(stack.chain_id, X), stored.predict(columns))
    expected = cross_val_predict(Ridge(), table, Y, cv=FOLDS)
    assert stack.value == pytest.approx(np.sqrt(np.mean((expected - Y) ** 2)), rel=1e-9)
    assert store.top_chains(10)["chain_id"].to_list().count(stack.chain_id) == 1
    assert store.check(read_data=True).findings == ()


def test_the_meta_model_names_its_sources_in_order(
    store: WorkspaceStore, bases: list[Any], stack: Any
) -> None:
    [meta] = [r for r in store.artifacts.records(stack.pipeline_id) if r.is_meta_model]
    assert meta.meta_config.feature_columns == ["PLSRegression_pred", "Ridge_pred"]
    assert [s["feature_index"] for s in meta.meta_config.source_models] == [0, 1, 1, 1]
    model, sources, columns = store.loader.load_meta_model_with_sources(meta.artifact_id)
    assert [type(each).__name__ for _, each in sources] == ["PLSRegression", "Ridge", "Ridge", "Ridge"]
    assert columns == meta.meta_config.feature_columns
    assert isinstance(model, Ridge)
    assert len(store.loader.load_meta_model_for_prediction(meta.artifact_id)[1]) == 4
    needs = store.artifacts.resolve_dependencies(meta.artifact_id)
    assert {r.pipeline_id for r in needs} == {base.pipeline_id for base in bases}
    with pytest.raises(InvalidInput, match="not a meta-model"):
        store.loader.load_meta_model_with_sources(needs[0].artifact_id)


@pytest.mark.not_on("objects", "replicas", why="it listens to one store object")
@pytest.mark.parametrize("by", ["replay_chain", "predictor"])
def test_a_first_replay_asks_twice_however_many_models_it_loads_and_a_second_one_nothing(
    by: str, store: WorkspaceStore, bases: list[Any], stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chain_id in (bases[1].chain_id, stack.chain_id):
        with WorkspaceStore(store.workspace_path) as other:
            asked: list[Any] = []
            ask = other._engine.query

            def listening(question: Any, asked: list[Any] = asked, ask: Any = ask, **more: Any) -> Any:
                asked.append(question)
                return ask(question, **more)

            monkeypatch.setattr(other._engine, "query", listening)
            first = (
                other.predictor(chain_id).predict
                if by == "predictor"
                else partial(other.replay_chain, chain_id)
            )
            predicted = first(X)
            # The chain, and the artifacts of all its models; a predictor also takes along the domain where there is one.
            made = len(asked)
            assert made in ((2, 3) if by == "predictor" else (2,))
            np.testing.assert_array_equal(first(X), predicted)
            assert len(asked) == made


def test_all_base_models_travel(store: WorkspaceStore, stack: Any, tmp_path: Path) -> None:
    path = store.export_chain(stack.chain_id, tmp_path / "stack", probe=X[:4])
    bundle = load_bundle(path, allow_pickle=True)
    np.testing.assert_array_equal(bundle.predict(X), store.replay_chain(stack.chain_id, X))
    # The final model, a scaler and a PLS, three folds; nothing that its replay does not need.
    assert sum(m.role == "blob" for m in bundle.record.members) == 6
    card = inspect_bundle(path).card
    assert "fed with the predictions of 2 models: (1) each channel centered" in card
    store.artifacts.export_to_manifest(tmp_path / "out", stack.pipeline_id, with_files=True)
    with WorkspaceStore(tmp_path / "other") as other:
        made = other.artifacts.import_from_manifest(tmp_path / "out")
        [meta] = [r for r in made if r.is_meta_model]
        model, sources, _ = other.loader.load_meta_model_with_sources(meta.artifact_id)
        assert len(sources) == 4
        assert isinstance(model, Ridge)


@pytest.mark.parametrize("passthrough", [False, True])
def test_a_stack_takes_the_channels_of_its_bases(
    store: WorkspaceStore, bases: list[Any], tmp_path: Path, passthrough: bool
) -> None:
    made = record_stacking(
        store, [b.chain_id for b in bases], Ridge(), X, Y, cv=FOLDS, passthrough=passthrough
    )
    predictor = store.predictor(made.chain_id)
    assert predictor.n_features_in_ == X.shape[1]
    # The export makes up spectra as wide as that, to compare what travels.
    safe = load_bundle(store.export_chain(made.chain_id, tmp_path / "stack", safe=True))
    np.testing.assert_array_equal(safe.predict(X), predictor.predict(X))


@pytest.mark.parametrize("safe", [False, True])
def test_a_stack_is_imported_with_its_types_and_exported_again(
    store: WorkspaceStore, stack: Any, tmp_path: Path, safe: bool
) -> None:
    path = store.export_chain(stack.chain_id, tmp_path / "stack", probe=X[:4], safe=safe)
    with WorkspaceStore(tmp_path / "other") as other:
        imported = other.import_bundle(path, allow_pickle=not safe)
        np.testing.assert_array_equal(
            other.replay_chain(imported.chain_id, X), store.replay_chain(stack.chain_id, X)
        )
        types = Counter(other.sql("SELECT artifact_type FROM artifacts")["artifact_type"].to_list())
        assert types == {"meta_model": 1, "model": 4, "transformer": 1}
        again = other.export_chain(imported.chain_id, tmp_path / "again", probe=X[:4], safe=safe)
        assert other.import_bundle(again, allow_pickle=not safe) == replace(imported, added=False)


def test_a_source_cannot_vanish_without_force_and_the_stack_survives_it(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "w") as store:
        base = record(store, Ridge(0.1))
        stack = record_stacking(store, [base.chain_id], Ridge(), X, Y)
        expected = store.replay_chain(stack.chain_id, X)
        for attempt in (
            lambda: store.delete_run(base.run_id, now=True),
            lambda: store.artifacts.delete_pipeline_artifacts(base.pipeline_id),
        ):
            with pytest.raises(InvalidInput, match=r"fed by.*force=True"):
                attempt()
        assert store.get_chain(base.chain_id) is not None
        assert store.delete_run(base.run_id, dry_run=True).needed_by
        assert store.delete_run(base.run_id, force=True, now=True) > 0
        store.gc_artifacts(grace_seconds=0)
        np.testing.assert_array_equal(store.replay_chain(stack.chain_id, X), expected)
        assert [f for f in store.check(read_data=True).findings if f.severity != "info"] == []
        assert store.delete_run(stack.run_id, now=True) > 0
        assert store.list_runs().is_empty()


def test_every_sample_needs_a_prediction_under_its_own_name(store: WorkspaceStore, bases: list[Any]) -> None:
    ids = [b.chain_id for b in bases]
    before = store.list_runs().height
    partial = record_cross_validation(
        store, Ridge(), X[:200], Y[:200], cv=FOLDS, dataset_name="meat", run_id=bases[0].run_id
    )
    for chains, more, words in [
        ([partial.chain_id], {}, r"15 of 215 samples have no out-of-fold.*200"),
        (ids, {"sample_ids": [f"s{k}" for k in range(215)]}, "215 of 215"),
        (ids, {"sample_ids": ["same"] * 215}, "share a name"),
        (ids, {"feature_columns": ["a"]}, "expected 2 different names"),
        ([ids[0], ids[0]], {}, "different chains"),
        ([], {}, "at least one"),
    ]:
        with pytest.raises(InvalidInput, match=words):
            record_stacking(store, chains, Ridge(), X, Y, **more)
    with pytest.raises(InvalidInput, match="y is not what chain"):
        record_stacking(store, ids, Ridge(), X, Y[::-1])
    with pytest.raises(UnknownId):
        record_stacking(store, ["nothing"], Ridge(), X, Y)
    assert store.list_runs().height == before


def test_names_decide_not_the_order_of_the_rows(store: WorkspaceStore) -> None:
    names = [f"s{k}" for k in range(215)]
    base = record(store, Ridge(0.5), sample_ids=names)
    turned = np.random.default_rng(0).permutation(215)
    plain = record_stacking(store, [base.chain_id], Ridge(), X, Y, sample_ids=names)
    mixed = record_stacking(
        store, [base.chain_id], Ridge(), X[turned], Y[turned], sample_ids=[names[k] for k in turned]
    )
    a, b = (
        store.load_artifact(store.get_chain(s.chain_id)["fold_artifacts"]["final"]) for s in (plain, mixed)
    )
    np.testing.assert_allclose(a.coef_, b.coef_, rtol=1e-9)


def test_sources_of_another_branch_are_refused(store: WorkspaceStore) -> None:
    run_id = store.begin_run("branches", {}, [{"name": "meat"}])
    pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "meat", "")
    recorder = BranchRecorder(store, pipeline_id)
    with recorder.branch(0), recorder.branch(2):
        model = Ridge(0.3).fit(X, Y)
        chain = recorder.model(model)
    key = store.save_prediction(pipeline_id, chain, "meat", "m", "Ridge", "fold_0", "val", 1.0, None, None,
                                "rmse", "regression", 215, 20, {}, {}, None, None, 0, 0.0)  # fmt: skip
    store.save_prediction_arrays(key, Y, model.predict(X))
    with pytest.raises(InvalidInput, match="without sample_indices"):
        record_stacking(store, [chain], Ridge(), X, Y)
    for wrong in ([0, 1], [1], [0]):
        with pytest.raises(InvalidInput, match=r"on branch .* its source .* on \[0, 2\]"):
            record_stacking(store, [chain], Ridge(), X, Y, branch_path=wrong)


def test_classifiers_are_stacked_by_their_probabilities(store: WorkspaceStore, tmp_path: Path) -> None:
    labels = np.where(Y > 15, "fat", "lean")
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200)) for c in (0.1, 1.0)]
    chains = [record(store, model, labels, dataset_name="kinds").chain_id for model in models]
    stack = record_stacking(store, chains, LogisticRegression(), X, labels, passthrough=False)
    assert stack.pooled["balanced_accuracy"] > 0.8
    assert set(store.replay_chain(stack.chain_id, X)) == {"fat", "lean"}
    facts = store.get_chain(stack.chain_id)["metadata"]
    assert facts["feature_columns"][:2] == ["LogisticRegression_pred_0_fat", "LogisticRegression_pred_0_lean"]
    bundle = load_bundle(store.export_chain(stack.chain_id, tmp_path / "c"), allow_pickle=True)
    np.testing.assert_array_equal(bundle.predict(X), store.replay_chain(stack.chain_id, X))
    with pytest.raises(InvalidInput, match="classes"):
        record_stacking(store, chains, Ridge(), X, Y)


def test_the_final_estimator_may_get_the_spectra_as_well_and_stacks_may_be_stacked(
    store: WorkspaceStore, bases: list[Any], stack: Any
) -> None:
    wide = record_stacking(store, [bases[0].chain_id], Ridge(10.0), X, Y, passthrough=True)
    model = store.load_artifact(store.get_chain(wide.chain_id)["fold_artifacts"]["final"])
    table = np.hstack([store.replay_chain(bases[0].chain_id, X)[:, None], X])
    np.testing.assert_array_equal(store.replay_chain(wide.chain_id, X), model.predict(table))
    tower = record_stacking(store, [stack.chain_id, wide.chain_id], Ridge(), X, Y)
    assert store.replay_chain(tower.chain_id, X).shape == (215,)


@pytest.mark.parametrize(
    "ensemble",
    [StackingRegressor([("a", Ridge(0.1)), ("b", PLSRegression(3))], Ridge(), cv=3), VotingRegressor([("a", Ridge(0.1)), ("b", Ridge(10.0))])],
    ids=["StackingRegressor", "VotingRegressor"],
)  # fmt: skip
def test_scikit_learns_own_ensembles_are_one_estimator(store: WorkspaceStore, ensemble: Any) -> None:
    result = record(store, ensemble)
    refit = store.load_artifact(store.get_chain(result.chain_id)["fold_artifacts"]["final"])
    np.testing.assert_array_equal(store.replay_chain(result.chain_id, X), refit.predict(X))
    assert [r.artifact_type for r in store.artifacts.records(result.pipeline_id)].count("model") == 4


def frame(*columns: str) -> pl.DataFrame:
    return pl.DataFrame(X, schema=list(columns))


NAMES = [f"w{i}" for i in range(X.shape[1])]


def test_a_stack_knows_the_names_of_its_bases_columns(store: WorkspaceStore) -> None:
    named, bare = (
        record_cross_validation(store, Ridge(alpha), each, Y, cv=FOLDS, dataset_name="meat").chain_id
        for alpha, each in ((1.0, frame(*NAMES)), (2.0, X))
    )
    for sources, more in (([named, bare], {}), ([bare, named], {"passthrough": True})):
        made = record_stacking(store, sources, Ridge(), X, Y, cv=FOLDS, **more)
        expected = store.replay_chain(made.chain_id, X)
        np.testing.assert_array_equal(store.replay_chain(made.chain_id, frame(*NAMES)), expected)
        with pytest.raises(ShapeMismatch, match="column 0 is 'w19', expected 'w0'"):
            store.replay_chain(made.chain_id, frame(*NAMES).select(reversed(NAMES)))


def test_bases_on_columns_in_another_order_do_not_stand_side_by_side(store: WorkspaceStore) -> None:
    bases = [
        record_cross_validation(store, Ridge(), each, Y, cv=FOLDS, dataset_name="meat").chain_id
        for each in (X, frame(*NAMES), frame(*reversed(NAMES)))
    ]
    with pytest.raises(InvalidInput, match="columns of different names or order"):
        record_stacking(store, bases, Ridge(), X, Y, cv=FOLDS)


def test_spectra_that_are_passed_through_are_in_the_order_of_the_bases(store: WorkspaceStore) -> None:
    grid = MEAT.wavelengths[::5]
    header = [f"{value:.2f}" for value in grid]
    for names, more in ((header, {"wavelengths": grid}), (NAMES, {})):
        given = X if more else frame(*NAMES)
        base = record_cross_validation(store, Ridge(), given, Y, cv=FOLDS, dataset_name="meat", **more)
        stacking = partial(record_stacking, store, [base.chain_id], Ridge(), y=Y, cv=FOLDS)
        stacking(X=frame(*names), passthrough=True)
        turned = frame(*names).select(reversed(names))
        runs = store.list_runs().height
        with pytest.raises(ShapeMismatch, match="in another order"):
            stacking(X=turned, passthrough=True)
        assert store.list_runs().height == runs
        # Without it the spectra are no part of what is learned.
        stacking(X=turned)
