from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from sklearn.preprocessing import FunctionTransformer

from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.predictor import ChainPredictor
from nirs_store.chains.trace import ChainBuilder, ExecutionStep, ExecutionTrace, StepArtifacts
from nirs_store.errors import ReplayError


def transform(index: int, *ids: str, **more: Any) -> ExecutionStep:
    return ExecutionStep(
        index, more.pop("kind", "transform"), "Scaler", artifacts=StepArtifacts(list(ids)), **more
    )


def model(index: int, folds: dict[Any, str], **more: Any) -> ExecutionStep:
    held = StepArtifacts(list(folds.values()), fold_artifact_ids=folds)
    return ExecutionStep(index, "model", "PLSRegression", artifacts=held, **more)


class Whole:
    def predict(self, X: Any) -> Any:
        return X


def replayed_with(chain: dict[str, Any]) -> list[str]:
    """Name the artifacts that a replay of the chain loads."""
    loaded: list[str] = []
    ChainPredictor(chain, loaded.append)
    return list(dict.fromkeys(loaded))


def save_chain(
    pipeline_id: str, steps: list[Any], model_step_idx: int, model_class: str, preprocessings: str,
    fold_strategy: str, fold_artifacts: dict[str, Any], shared_artifacts: dict[str, Any],
    branch_path: list[int] | None = None, source_index: int | None = None, *,
    fold_weights: dict[str, float] | None = None,
) -> None:  # fmt: skip
    """Have the signature of the store's method."""


def test_a_chain_has_the_arguments_of_save_chain() -> None:
    trace = ExecutionTrace(steps=[transform(1, "a"), model(2, {0: "m0", "1": "m1"})], model_step_index=2)
    chain = ChainBuilder(trace).build()
    inspect.signature(save_chain).bind("pipeline", **chain)
    assert "pipeline_id" not in chain
    assert "fold_weights" not in chain
    assert chain["model_step_idx"] == 2
    assert chain["model_class"] == "PLSRegression"
    assert chain["fold_strategy"] == "per_fold"
    assert chain["fold_artifacts"] == {"fold_0": "m0", "fold_1": "m1"}
    assert chain["shared_artifacts"] == {"1": ["a"]}
    assert chain["branch_path"] is None
    assert [step["step_idx"] for step in chain["steps"]] == [1, 2]


def test_what_is_built_can_be_replayed() -> None:
    trace = ExecutionTrace(
        steps=[
            transform(1, "snv"),
            ExecutionStep(2, "splitter", "sklearn.model_selection.KFold"),
            transform(3, "y_scaler", kind="y_processing"),
            model(4, {"0": "m0", "final": "m"}),
        ],
        model_step_index=4,
    )
    assert replayed_with(ChainBuilder(trace).build()) == ["snv", "m", "y_scaler"]


def test_skipped_steps_and_steps_after_the_model_are_dropped() -> None:
    trace = ExecutionTrace(
        steps=[
            transform(1, "a"),
            transform(2, "b", execution_mode="skip"),
            model(3, {0: "m"}),
            transform(4, "c"),
        ]
    )
    chain = ChainBuilder(trace).build()
    assert [step["step_idx"] for step in chain["steps"]] == [1, 3]
    assert chain["shared_artifacts"] == {"1": ["a"]}


def test_each_model_gets_a_chain_without_the_other_models() -> None:
    trace = ExecutionTrace(
        steps=[transform(1, "a"), model(2, {0: "x"}), model(3, {0: "z"})], model_step_index=2
    )
    chains = ChainBuilder(trace).build_all()
    assert [chain["model_step_idx"] for chain in chains] == [2, 3]
    assert [step["step_idx"] for step in chains[1]["steps"]] == [1, 3]
    assert ChainBuilder(trace).build() == chains[0]


def test_without_a_model_step_index_the_last_model_is_built() -> None:
    trace = ExecutionTrace(steps=[model(2, {0: "x"}), model(3, {0: "z"})])
    assert ChainBuilder(trace).build()["fold_artifacts"] == {"fold_0": "z"}


@pytest.mark.parametrize("steps", [[], [transform(1, "a")], [model(1, {0: "m"}, execution_mode="skip")]])
def test_a_trace_without_a_model_gives_an_empty_chain(steps: list[ExecutionStep]) -> None:
    chain = ChainBuilder(ExecutionTrace(steps=steps)).build()
    inspect.signature(save_chain).bind("pipeline", **chain)
    assert chain["steps"] == []
    assert chain["fold_artifacts"] == chain["shared_artifacts"] == {}
    assert ChainBuilder(ExecutionTrace(steps=steps)).build_all() == []
    with pytest.raises(ReplayError, match="no fitted model"):
        replayed_with(chain)


def test_a_model_without_folds_is_shared() -> None:
    step = ExecutionStep(2, "model", "PLS", artifacts=StepArtifacts(primary_artifact_id="m"))
    chain = ChainBuilder(ExecutionTrace(steps=[transform(1, "a"), step])).build()
    assert chain["fold_strategy"] == "shared"
    assert replayed_with(chain) == ["a", "m"]


def test_the_traces_model_is_recognised_without_a_type() -> None:
    step = ExecutionStep(2, "", "PLS", artifacts=StepArtifacts(["m"]))
    assert ChainBuilder(ExecutionTrace(steps=[step], model_step_index=2)).build()["model_class"] == "PLS"
    by_folds = ExecutionStep(2, "", "PLS", artifacts=StepArtifacts(fold_artifact_ids={0: "m"}))
    assert ChainBuilder(ExecutionTrace(steps=[by_folds])).build()["fold_artifacts"] == {"fold_0": "m"}


def test_weights_are_passed_on_for_the_traces_model_only() -> None:
    trace = ExecutionTrace(
        steps=[model(1, {0: "a", 1: "b"}), model(2, {0: "c", 1: "d"})],
        model_step_index=2,
        fold_weights={0: 1.0, "1": 3.0},
    )
    first, second = ChainBuilder(trace).build_all()
    assert "fold_weights" not in first
    assert second["fold_weights"] == {"fold_0": 1.0, "fold_1": 3.0}


def test_a_single_models_weights_need_no_model_step_index() -> None:
    trace = ExecutionTrace(steps=[model(1, {0: "a"})], fold_weights={0: 1.0})
    assert ChainBuilder(trace).build()["fold_weights"] == {"fold_0": 1.0}
    trace.add_step(model(2, {0: "b"}))
    assert all("fold_weights" not in chain for chain in ChainBuilder(trace).build_all())


def branched() -> ExecutionTrace:
    return ExecutionTrace(
        steps=[
            transform(1, "common"),
            transform(2, "left", branch_path=[0]),
            transform(2, "right", branch_path=[1]),
            transform(3, "deep", branch_path=[1, 0]),
            model(4, {0: "m_left"}, branch_path=[0]),
            model(4, {0: "m_right"}, branch_path=[1]),
            model(4, {0: "m_deep"}, branch_path=[1, 0]),
        ]
    )


def test_branches_are_kept_apart() -> None:
    left, right, deep = ChainBuilder(branched()).build_all()
    assert left["shared_artifacts"] == {"1": ["common"], "2": ["left"]}
    assert right["shared_artifacts"] == {"1": ["common"], "2": ["right"]}
    assert deep["shared_artifacts"] == {"1": ["common"], "2": ["right"], "3": ["deep"]}
    assert deep["branch_path"] == [1, 0]
    assert [step["artifact_ids"] for step in left["steps"]] == [["common"], ["left"], ["m_left"]]
    assert replayed_with(deep) == ["common", "right", "deep", "m_deep"]
    assert replayed_with(left) == ["common", "left", "m_left"]


def test_artifacts_filed_by_branch_are_sorted_out_one_by_one() -> None:
    held = StepArtifacts(["a", "b", "c"], by_branch={(0,): ["a"], (1,): ["b"], (): ["c"]})
    step = ExecutionStep(1, "transform", "Scaler", artifacts=held)
    trace = ExecutionTrace(steps=[step, model(2, {0: "m"}, branch_path=[1])])
    assert ChainBuilder(trace).build()["shared_artifacts"] == {"1": ["b", "c"]}


def test_a_model_on_merged_branches_is_built_but_not_replayed() -> None:
    trace = branched()
    trace.add_step(model(5, {0: "merged"}))
    chain = ChainBuilder(trace).build_all()[-1]
    assert chain["shared_artifacts"] == {"1": ["common"]}
    named = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    assert {"left", "right", "deep"} <= set(named)
    with pytest.raises(ReplayError, match="merged branches"):
        replayed_with(chain)


def test_several_sources_are_written_to_the_source_map() -> None:
    held = StepArtifacts(["a", "b"], by_source={1: ["b"], 0: ["a"]})
    step = ExecutionStep(1, "transform", "Scaler", artifacts=held)
    chain = ChainBuilder(ExecutionTrace(steps=[step, model(2, {0: "m"})])).build()
    assert chain["shared_artifacts"] == {"1": ["a", "b"], "_source_map": {"1": {"0": ["a"], "1": ["b"]}}}
    objects = {"a": FunctionTransformer(np.negative), "b": FunctionTransformer(np.square), "m": Whole()}
    sources = [np.array([[1.0, 2.0]]), np.array([[3.0]])]
    assert ChainPredictor(chain, objects.__getitem__).predict(sources).tolist() == [[-1.0, -2.0, 9.0]]


def test_one_source_needs_no_source_map() -> None:
    held = StepArtifacts(["a"], by_source={0: ["a"]})
    step = ExecutionStep(1, "transform", "Scaler", artifacts=held)
    chain = ChainBuilder(ExecutionTrace(steps=[step, model(2, {0: "m"})])).build()
    assert chain["shared_artifacts"] == {"1": ["a"]}


def test_the_source_that_a_model_uses_is_passed_on() -> None:
    trace = ExecutionTrace(steps=[model(1, {0: "m"}, metadata={"source_index": 1})])
    assert ChainBuilder(trace).build()["source_index"] == 1


def test_a_transformer_fitted_in_each_fold_stays_with_its_fold() -> None:
    held = StepArtifacts(["s0", "s1"], fold_artifact_ids={0: "s0", 1: "s1"})
    step = ExecutionStep(1, "transform", "Scaler", artifacts=held)
    chain = ChainBuilder(ExecutionTrace(steps=[step, model(2, {0: "m0", 1: "m1"})])).build()
    assert chain["shared_artifacts"] == {}
    assert replayed_with(chain) == ["s0", "m0", "s1", "m1"]


def test_a_step_that_left_nothing_is_stateless_but_a_target_step_never_is() -> None:
    snv = ExecutionStep(1, "transform", "SNV")
    target = ExecutionStep(2, "y_processing", "StandardScaler")
    chain = ChainBuilder(ExecutionTrace(steps=[snv, target, model(3, {0: "m"})])).build()
    assert [step["stateless"] for step in chain["steps"]] == [True, False, False]


def test_the_registry_fills_in_branch_and_class() -> None:
    records = {
        "left": SimpleNamespace(branch_path=[0], class_name="SNV"),
        "right": SimpleNamespace(branch_path=[1], class_name="MSC"),
    }
    steps = [ExecutionStep(1, "transform", artifacts=StepArtifacts(["left", "right", "unknown"]))]
    trace = ExecutionTrace(steps=[*steps, model(2, {0: "m"}, branch_path=[1])])
    chain = ChainBuilder(trace, SimpleNamespace(resolve=records.get)).build()
    assert chain["shared_artifacts"] == {"1": ["right", "unknown"]}
    assert chain["steps"][0]["operator_class"] == "MSC"


@pytest.mark.parametrize("registry", [None, object(), MagicMock()])
def test_a_registry_that_knows_nothing_changes_nothing(registry: Any) -> None:
    trace = ExecutionTrace(steps=[transform(1, "a"), model(2, {0: "m"})])
    assert ChainBuilder(trace, registry).build() == ChainBuilder(trace).build()


def test_a_stacked_model_is_built_but_not_replayed() -> None:
    step = ExecutionStep(3, "meta_model", "Ridge", artifacts=StepArtifacts(["meta"]))
    trace = ExecutionTrace(steps=[model(2, {0: "m"}), step], model_step_index=3)
    chain = ChainBuilder(trace).build()
    assert chain["model_class"] == "Ridge"
    with pytest.raises(ReplayError, match="stacked"):
        replayed_with(chain)
