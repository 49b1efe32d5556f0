"""Each branch's objects are recorded apart, and each chain replays what was fitted on its way, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

from nirs_store import BranchRecorder, WorkspaceStore, load_bundle, load_tecator
from nirs_store.errors import InvalidInput, ReplayError

MEAT = load_tecator()
LEFT, RIGHT = (np.ascontiguousarray(part) for part in (MEAT.X[:, :50:3], MEAT.X[:, 50::3]))
FAT = MEAT.fat
SOURCES = {0: LEFT, 1: RIGHT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def store(folder: Path) -> Iterator[WorkspaceStore]:
    """One for each test: they look at everything in it, or remove it."""
    with WorkspaceStore(folder) as opened:
        yield opened


@pytest.fixture
def recorder(store: WorkspaceStore) -> BranchRecorder:
    run_id = store.begin_run("branches", {}, [{"name": "meat"}])
    return BranchRecorder(store, store.begin_pipeline(run_id, "p", {}, [], "meat", ""))


def scaled(sources: dict[int, np.ndarray], fitted: dict[int, Any]) -> np.ndarray:
    return np.hstack([fitted[source].transform(X) for source, X in sources.items()])


def test_three_branches_of_two_sources_replay_and_travel_each_on_its_own(
    store: WorkspaceStore, recorder: BranchRecorder, tmp_path: Path
) -> None:
    chains, expected, fitted_in = [], [], []
    for number, scaler in enumerate([StandardScaler, MinMaxScaler, MaxAbsScaler]):
        with recorder.branch(number):
            fitted = {source: scaler().fit(X) for source, X in SOURCES.items()}
            recorder.step(fitted)
            Z = scaled(SOURCES, fitted)
            models = {fold: Ridge(0.1 + number).fit(Z[fold::2], FAT[fold::2]) for fold in range(2)}
            chains.append(recorder.model(models))
            expected.append(np.mean([model.predict(Z) for model in models.values()], axis=0))
            fitted_in.append(fitted)
    for number, chain in enumerate(chains):
        np.testing.assert_array_equal(store.replay_chain(chain, SOURCES), expected[number])
        bundle = load_bundle(store.export_chain(chain, tmp_path / f"b{number}"), allow_pickle=True)
        np.testing.assert_array_equal(bundle.predict(SOURCES), expected[number])
    assert len({tuple(np.round(each, 9)) for each in expected}) == 3
    found = store.artifacts.records()
    assert [(r.branch_path, r.source_index, r.fold_id) for r in found] == [
        ([b], s, f) for b in range(3) for s, f in ((0, None), (1, None), (None, "0"), (None, "1"))
    ]
    for number in range(3):
        loaded = store.loader.load_for_step(2 * number + 1, branch_path=[number], source_index=1)
        assert [type(obj) for _, obj in loaded] == [type(fitted_in[number][1])]
        model = store.artifacts.get_fold_models(branch_path=[number])[0]
        needs = store.artifacts.resolve_dependencies(model.artifact_id)
        assert [(r.branch_path, r.source_index) for r in needs] == [([number], 0), ([number], 1)]
    assert store.check(read_data=True).findings == ()


def test_branches_within_branches_are_told_apart(store: WorkspaceStore, recorder: BranchRecorder) -> None:
    scaler = StandardScaler().fit(LEFT)
    recorder.step(scaler)
    chains: dict[tuple[int, int], tuple[str, np.ndarray]] = {}
    for outer in range(2):
        with recorder.branch(outer):
            pca = PCA(4 + outer, random_state=0).fit(scaler.transform(LEFT))
            recorder.step(pca)
            Z = pca.transform(scaler.transform(LEFT))
            for inner in range(2):
                with recorder.branch(inner):
                    assert recorder.branch_path == [outer, inner]
                    model = Ridge(1.0 + inner).fit(Z, FAT)
                    chains[outer, inner] = recorder.model(model), model.predict(Z)
    assert recorder.branch_path == []
    for (outer, inner), (chain, expected) in chains.items():
        np.testing.assert_array_equal(store.replay_chain(chain, LEFT), expected)
        stored = store.get_chain(chain)
        assert stored["branch_path"] == [outer, inner]
        assert [step.get("branch_path", []) for step in stored["steps"]] == [[], [outer], [outer, inner]]


def test_merged_branches_replay_and_travel(
    store: WorkspaceStore, recorder: BranchRecorder, tmp_path: Path
) -> None:
    first = StandardScaler().fit(LEFT)
    recorder.step(first)
    Z = first.transform(LEFT)
    with recorder.branch(0):
        a = PCA(3, random_state=0).fit(Z)
        recorder.step(a)
    with recorder.branch(1):
        b = MinMaxScaler().fit(Z)
        recorder.step(b)
        with recorder.branch(0):
            c = PCA(2, random_state=0).fit(b.transform(Z))
            recorder.step(c)
        with recorder.branch(1):
            d = MaxAbsScaler().fit(b.transform(Z))
            recorder.step(d)
        recorder.merge(branches=[[1, 1], [1, 0]])
    recorder.merge()
    inner = np.hstack([d.transform(b.transform(Z)), c.transform(b.transform(Z))])
    both = np.hstack([a.transform(Z), inner])
    last = StandardScaler().fit(both)
    recorder.step(last)
    model = Ridge().fit(last.transform(both), FAT)
    chain = recorder.model(model)
    expected = model.predict(last.transform(both))
    np.testing.assert_array_equal(store.replay_chain(chain, LEFT), expected)
    bundle = load_bundle(store.export_chain(chain, tmp_path / "merged", probe=LEFT[:3]), allow_pickle=True)
    np.testing.assert_array_equal(bundle.predict(LEFT), expected)
    safe = load_bundle(store.export_chain(chain, tmp_path / "safe", safe=True))
    np.testing.assert_array_equal(safe.predict(LEFT), expected)
    record = store.artifacts.find_artifact_by_custom_name("nothing")
    assert record is None
    needs = store.artifacts.resolve_dependencies(store.artifacts.records()[-1].artifact_id)
    assert [r.branch_path for r in needs] == [[], [0], [1], [1, 0], [1, 1], []]
    assert store.check(read_data=True).findings == ()


@pytest.mark.parametrize("branches", [None, [[0], [1]]])
def test_a_branch_without_a_step_passes_its_input_on(
    store: WorkspaceStore, recorder: BranchRecorder, branches: list[list[int]] | None
) -> None:
    scaler = StandardScaler().fit(LEFT)
    with recorder.branch(0):
        recorder.step(scaler)
    with recorder.branch(1):
        pass
    recorder.merge(branches)
    Z = np.hstack([scaler.transform(LEFT), LEFT])
    model = Ridge().fit(Z, FAT)
    chain = recorder.model(model)
    np.testing.assert_array_equal(store.replay_chain(chain, LEFT), model.predict(Z))
    assert store.predictor(chain).n_features_in_ == LEFT.shape[1]


def test_a_second_merge_takes_the_branches_entered_since_the_first(
    store: WorkspaceStore, recorder: BranchRecorder
) -> None:
    first, second = StandardScaler().fit(LEFT), PCA(3, random_state=0)
    with recorder.branch(0):
        recorder.step(first)
    with recorder.branch(1):
        pass
    recorder.merge()
    Z = np.hstack([first.transform(LEFT), LEFT])
    with recorder.branch(2):
        pass
    with recorder.branch(3):
        recorder.step(second.fit(Z))
    with pytest.raises(InvalidInput, match=r"merged already: \[\[0\]\]"):
        recorder.merge([[0], [3]])
    recorder.merge()
    with pytest.raises(InvalidInput, match="since the last merge"):
        recorder.merge()
    both = np.hstack([Z, second.transform(Z)])
    model = Ridge().fit(both, FAT)
    chain = recorder.model(model)
    np.testing.assert_array_equal(store.replay_chain(chain, LEFT), model.predict(both))


def test_sources_kept_apart_within_branches_are_merged_in_the_stored_order(
    store: WorkspaceStore, recorder: BranchRecorder, tmp_path: Path
) -> None:
    parts = []
    for number, scaler in enumerate([StandardScaler, MinMaxScaler]):
        with recorder.branch(number):
            fitted = {source: scaler().fit(X) for source, X in SOURCES.items()}
            recorder.step(fitted)
            parts.append(scaled(SOURCES, fitted))
    recorder.merge(branches=[[1], [0]])
    Z = np.hstack(parts[::-1])
    model = Ridge().fit(Z, FAT)
    chain = recorder.model(model)
    np.testing.assert_array_equal(store.replay_chain(chain, SOURCES), model.predict(Z))
    bundle = load_bundle(store.export_chain(chain, tmp_path / "m"), allow_pickle=True)
    np.testing.assert_array_equal(bundle.predict(SOURCES), model.predict(Z))


def test_branched_steps_without_a_merge_are_refused_not_left_out(
    store: WorkspaceStore, recorder: BranchRecorder
) -> None:
    with recorder.branch(0):
        scaler = StandardScaler().fit(LEFT)
        recorder.step(scaler)
    chain = recorder.model(Ridge().fit(LEFT, FAT))
    assert [step["operator_type"] for step in store.get_chain(chain)["steps"]] == ["model"]
    with pytest.raises(InvalidInput, match=r"never entered.*\[5\]"):
        recorder.merge(branches=[[0], [5]])
    steps = [{"step_idx": 1, "operator_class": "merge", "operator_type": "merge"}, {"step_idx": 2}]
    model = store.save_artifact(Ridge().fit(LEFT, FAT), "Ridge", "model")
    (pipeline_id,) = store.list_pipelines(store.list_runs()["run_id"].item())["pipeline_id"]
    alone = store.save_chain(pipeline_id, steps, 2, "Ridge", "", "single", {"final": model}, {})
    with pytest.raises(ReplayError, match="no step before it"):
        store.replay_chain(alone, LEFT)
    with pytest.raises(InvalidInput, match="number from 0"), recorder.branch(-1):
        pass
