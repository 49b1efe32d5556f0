"""Rewriting one chain of nirs4all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nirs_store.chains import ReplayPlan
from nirs_store.errors import ReplayError
from nirs_store.migration.chains import chain_row
from nirs_store.migration.rows import Unusable

CONFIGURED = [
    "sklearn.preprocessing._data.StandardScaler",
    {"class": "sklearn.model_selection._split.KFold", "params": {"n_splits": 3}},
    {"y_processing": "sklearn.preprocessing._data.MinMaxScaler"},
    {"model": {"class": "sklearn.cross_decomposition._pls.PLSRegression", "params": {"n_components": 3}}},
]


class Files:
    """Artifacts whose hash is their name, but for those that are lost."""

    def __init__(self, *lost: str, whole: tuple[str, ...] = ()) -> None:
        self.lost = lost
        self.whole = whole

    def resolve(self, artifact_id: str) -> str | None:
        return None if artifact_id in self.lost else f"sha of {artifact_id}"

    def unwrap(self, artifact_id: str) -> dict[str, str] | None:
        return None

    def facts(self, artifact_id: str) -> tuple[str, str]:
        return "", ""

    def preprocesses(self, artifact_id: str) -> bool:
        return artifact_id in self.whole


def row(**changes: Any) -> dict[str, Any]:
    steps = [
        {"step_idx": 1, "operator_class": "StandardScaler", "artifact_ids": ["s"], "stateless": False},
        {"step_idx": 2, "operator_class": "KFold", "artifact_ids": [], "stateless": True},
        {"step_idx": 3, "operator_class": "MinMaxScaler", "artifact_ids": ["y"], "stateless": False},
        {"step_idx": 4, "operator_class": "PLSRegression", "artifact_ids": ["a", "b"], "stateless": False},
    ]
    found = {
        "chain_id": "c",
        "pipeline_id": "p",
        "steps": steps,
        "model_step_idx": 4,
        "model_class": "PLSRegression",
        "fold_artifacts": {"fold_0": "a", "fold_1": "b"},
        "shared_artifacts": {"1": ["s"], "3": ["y"]},
        "cv_val_score": 2.5,
        "task_type": "regression",
        **changes,
    }
    return {
        name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in found.items()
    }


def plan_of(written: dict[str, Any]) -> ReplayPlan:
    texts = ("steps", "fold_artifacts", "shared_artifacts")
    return ReplayPlan.from_chain({**written, **{name: json.loads(written[name]) for name in texts}})


def test_steps_say_what_they_are_and_name_their_classes_in_full() -> None:
    chain = chain_row(row(), CONFIGURED, Files())
    steps = json.loads(chain.row["steps"])
    assert [step["operator_type"] for step in steps] == ["transform", "splitter", "y_processing", "model"]
    assert steps[0]["operator_class"] == "sklearn.preprocessing._data.StandardScaler"
    assert steps[3]["params"] == {"n_components": 3}
    plan = plan_of(chain.row)
    assert plan.artifact_ids == ["sha of s", "sha of a", "sha of b", "sha of y"]
    assert [target.artifact_id for target in plan.targets] == ["sha of y"]
    assert chain.artifacts == {f"sha of {name}": name for name in "syab"}
    metadata = json.loads(chain.row["metadata"])
    assert metadata["task_type"] == "regression"
    assert metadata["nirs4all"]["cv_val_score"] == 2.5


@pytest.mark.parametrize("lost", ["s", "a", "y"])
def test_a_chain_without_one_of_its_artifacts_cannot_be_replayed(lost: str) -> None:
    chain = chain_row(row(), CONFIGURED, Files(lost))
    assert chain.lost == [lost]
    with pytest.raises(ReplayError):
        plan_of(chain.row)


def test_an_intact_refit_predicts_without_the_folds() -> None:
    folds = {"fold_0": "a", "fold_final": "f"}
    chain = chain_row(row(fold_artifacts=folds), CONFIGURED, Files("a"))
    assert plan_of(chain.row).folds == ("fold_final",)
    chain = chain_row(row(fold_artifacts=folds), CONFIGURED, Files("f"))
    with pytest.raises(ReplayError):
        plan_of(chain.row)


def test_models_that_apply_steps_themselves_are_not_given_transformed_spectra() -> None:
    chain = chain_row(row(), CONFIGURED, Files(whole=("a",)))
    with pytest.raises(ReplayError, match="inside the model"):
        plan_of(chain.row)


def test_a_transformer_with_the_number_of_the_model_is_never_left_out() -> None:
    """As a branch has it; models of other folds beside a refit are no such thing."""

    class Branch(Files):
        def facts(self, artifact_id: str) -> tuple[str, str]:
            return ("sklearn.StandardScaler" if artifact_id == "s" else "sklearn.PLSRegression"), ""

    steps = [
        {
            "step_idx": 4,
            "operator_class": "PLSRegression",
            "artifact_ids": ["s", "a", "b"],
            "stateless": False,
        }
    ]
    chain = chain_row(row(steps=steps, shared_artifacts={}), CONFIGURED, Branch())
    assert chain.unknown == ["nirs4all branch"]
    with pytest.raises(ReplayError):
        plan_of(chain.row)
    steps[0]["artifact_ids"] = ["a", "b", "c"]
    chain = chain_row(row(steps=steps, shared_artifacts={}), CONFIGURED, Branch())
    assert chain.unknown == []
    assert plan_of(chain.row).folds == ("fold_0", "fold_1")


def test_a_kind_of_step_that_was_not_tried_is_refused_by_name() -> None:
    configured = [{"feature_augmentation": ["a"]}, *CONFIGURED[1:]]
    chain = chain_row(row(), configured, Files())
    with pytest.raises(ReplayError, match="feature_augmentation"):
        plan_of(chain.row)


@pytest.mark.parametrize(
    "broken",
    [{"steps": "nothing"}, {"steps": [1]}, {"fold_artifacts": {"avg": "a"}}, {"model_step_idx": None}],
)
def test_what_no_chain_can_have_is_unusable(broken: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        chain_row(row(**broken), CONFIGURED, Files())
