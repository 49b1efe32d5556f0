"""A chain that could never predict is refused when it is saved, not when somebody needs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput

X = np.arange(8.0).reshape(4, 2)
MODEL = [{"step_idx": 0, "operator_class": "LinearRegression", "params": {}}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path_factory.mktemp("saving") / "workspace") as opened:
        yield opened


@pytest.fixture
def pipeline_id(store: WorkspaceStore) -> str:
    return store.begin_pipeline(store.begin_run("r", {}, []), "p", {}, [], "corn", "")


def save(store: WorkspaceStore, pipeline_id: str, folds: tuple[str, ...] = ("0", "1"), **given: Any) -> str:
    models = {fold: LinearRegression().fit(X, X[:, 0] + n) for n, fold in enumerate(folds)}
    ids = {fold: store.save_artifact(model, "LinearRegression", "model") for fold, model in models.items()}
    chain: dict[str, Any] = {"steps": MODEL, "model_step_idx": 0, "fold_artifacts": ids, **given}
    if chain.pop("in_the_step", False):
        chain |= {"steps": [{**MODEL[0], "fold_artifact_ids": ids}], "fold_artifacts": {}}
    return store.save_chain(
        pipeline_id,
        model_class="LinearRegression",
        preprocessings="",
        fold_strategy="per_fold",
        shared_artifacts={},
        **chain,
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"fold_weights": {"0": -1.0, "1": 2.0}}, "fold_weights"),
        ({"fold_weights": {"0": float("nan"), "1": 1.0}}, "fold_weights"),
        ({"fold_weights": {"0": 0.0, "1": 0.0}}, "fold_weights"),
        ({"fold_weights": {"0": 1.0, "9": 1.0}}, "fold_weights"),
        ({"fold_weights": {"0": 1.0}}, "fold_weights"),
        ({"fold_weights": {"0": 1.0}, "in_the_step": True}, "fold_weights"),
        ({"fold_weights": {"0": 0.0, "1": 0.0, "final": 1.0}}, "fold_weights"),
        ({"fold_weights": {"first": 1.0}}, "fold_weights"),
        ({"source_index": -1}, "source_index"),
        ({"model_step_idx": -1}, "model_step_idx"),
        ({"steps": [{"operator_class": "LinearRegression", "params": {}}]}, "step_idx"),
        ({"steps": [{**MODEL[0], "step_idx": -1}]}, "step_idx"),
    ],
)
def test_numbers_and_weights_that_no_replay_takes_are_refused(
    store: WorkspaceStore, pipeline_id: str, given: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInput, match=named):
        save(store, pipeline_id, **given)
    assert store.get_chains_for_pipeline(pipeline_id).height == 0


@pytest.mark.parametrize(
    ("folds", "given"),
    [
        (("0", "1"), {"fold_weights": {"fold_0": 0.25, 1: 0.75}}),
        (("0", "1"), {"fold_weights": {"0": 0.25, "1": 0.75}, "in_the_step": True}),
        (("0", "1"), {"fold_weights": {}}),
        # A refit predicts alone: the weights are kept for the scores of the folds.
        (("0", "1", "final"), {"fold_weights": {"0": 1.0, "1": 2.0}}),
        (("0", "1"), {"source_index": 0}),
    ],
)
def test_what_a_replay_takes_is_saved(
    store: WorkspaceStore, pipeline_id: str, folds: tuple[str, ...], given: dict[str, Any]
) -> None:
    chain_id = save(store, pipeline_id, folds, **given)
    assert store.replay_chain(chain_id, X).shape == (4,)


def test_a_chain_without_steps_can_be_saved_as_its_builder_gives_it(
    store: WorkspaceStore, pipeline_id: str
) -> None:
    chain_id = save(store, pipeline_id, steps=[], fold_artifacts={})
    assert (store.get_chain(chain_id) or {})["steps"] == []
