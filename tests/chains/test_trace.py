from __future__ import annotations

import json
from enum import Enum

import pytest

from nirs_store.chains.trace import ExecutionStep, ExecutionTrace, StepArtifacts
from nirs_store.errors import InvalidInput


class Mode(str, Enum):  # noqa: UP042  (str() of it is the member's name, as in older programs)
    SKIP = "skip"


def full_trace() -> ExecutionTrace:
    trace = ExecutionTrace(
        trace_id="t1",
        pipeline_uid="p1",
        created_at="2026-01-01T00:00:00+00:00",
        fold_weights={"fold_0": 0.25, "fold_1": 0.75},
        model_step_index=2,
        preprocessing_chain="SNV",
        metadata={"n_steps": 2, "ranges": [[1, 2]]},
    )
    held = StepArtifacts(metadata={"types": {"snv": "transformer"}})
    held.add_artifact("snv_a", is_primary=True, chain_path="s1.SNV", branch_path=[0, 1], source_index=0)
    held.add_artifact("snv_b", branch_path=[], source_index=1)
    trace.add_step(
        ExecutionStep(
            1,
            "transform",
            "chemotools.scatter.StandardNormalVariate",
            {"axis": 1},
            artifacts=held,
            branch_path=[0, 1],
            branch_name="left",
            duration_ms=1.5,
            metadata={"note": "x"},
            input_chain_path="",
            output_chain_paths=["s1.SNV"],
            source_count=2,
            produces_branches=True,
            substep_index=0,
            input_shape=(215, 100),
            output_shape=(215, 100),
            input_features_shape=[(215, 1, 100)],
            output_features_shape=[(215, 1, 100)],
        )
    )
    model = ExecutionStep(2, "model", "sklearn.cross_decomposition.PLSRegression")
    model.artifacts.add_fold_artifact("0", "pls_0")
    model.artifacts.add_fold_artifact("final", "refit", chain_path="s2.PLS", branch_path=[0, 1])
    trace.add_step(model)
    return trace


def test_a_trace_comes_back_from_json_as_it_was() -> None:
    trace = full_trace()
    text = json.dumps(trace.to_dict(), allow_nan=False)
    assert ExecutionTrace.from_dict(json.loads(text)) == trace


def test_the_dict_has_the_keys_of_a_bundles_trace() -> None:
    data = full_trace().to_dict()
    assert set(data) == {
        "trace_id", "pipeline_uid", "created_at", "steps", "model_step_index", "fold_weights",
        "preprocessing_chain", "metadata",
    }  # fmt: skip
    assert {
        "step_index", "operator_type", "operator_class", "operator_config", "execution_mode", "artifacts",
        "branch_path", "branch_name", "duration_ms", "metadata", "input_chain_path", "output_chain_paths",
        "source_count", "produces_branches", "substep_index", "input_shape",
    } <= set(data["steps"][0])  # fmt: skip
    assert set(data["steps"][0]["artifacts"]) == {
        "artifact_ids", "primary_artifact_id", "fold_artifact_ids", "primary_artifacts", "by_branch",
        "by_source", "by_chain", "metadata",
    }  # fmt: skip


def test_artifacts_are_filed_under_chain_branch_source_and_fold() -> None:
    held = full_trace().steps[0].artifacts
    assert held.artifact_ids == ["snv_a", "snv_b"]
    assert held.primary_artifact_id == "snv_a"
    assert held.primary_artifacts == held.by_chain == {"s1.SNV": "snv_a"}
    assert held.by_branch == {(0, 1): ["snv_a"], (): ["snv_b"]}
    assert held.by_source == {0: ["snv_a"], 1: ["snv_b"]}
    model = full_trace().steps[1].artifacts
    assert model.fold_artifact_ids == {"fold_0": "pls_0", "fold_final": "refit"}
    assert model.artifact_ids == ["pls_0", "refit"]


def test_the_dict_shares_nothing_with_the_trace() -> None:
    trace = full_trace()
    data = trace.to_dict()
    data["metadata"]["ranges"][0].append(3)
    data["steps"][0]["artifacts"]["artifact_ids"].append("other")
    again = ExecutionTrace.from_dict(data)
    data["steps"][0]["operator_config"]["axis"] = 0
    assert trace.metadata["ranges"] == [[1, 2]]
    assert trace.steps[0].artifacts.artifact_ids == ["snv_a", "snv_b"]
    assert again.steps[0].operator_config == {"axis": 1}


def test_missing_keys_get_their_default_and_unknown_ones_are_ignored() -> None:
    trace = ExecutionTrace.from_dict(
        {
            "steps": [{"step_index": "3", "artifacts": None, "input_shape": None, "future": 1}],
            "fold_weights": None,
        }
    )
    assert trace.steps == [ExecutionStep(3)]
    assert trace.trace_id
    assert trace.created_at.endswith("+00:00")
    assert trace.get_step(3) is trace.steps[0]
    assert trace.get_step(4) is None
    trace.set_model_step(3, {"0": 1.0})
    assert (trace.model_step_index, trace.fold_weights) == (3, {"0": 1.0})


def test_an_execution_mode_from_an_enumeration_is_stored_as_its_text() -> None:
    assert ExecutionStep(1, execution_mode=Mode.SKIP).to_dict()["execution_mode"] == "skip"


def test_two_traces_made_without_names_differ() -> None:
    assert ExecutionTrace().trace_id != ExecutionTrace().trace_id


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ([], "trace as a dict"),
        ({"steps": {"1": {}}}, "'steps'"),
        ({"steps": [3]}, "step of the trace"),
        ({"steps": [{"operator_class": "SNV"}]}, "'step_index'"),
        ({"steps": [{"step_index": "one"}]}, "step_index"),
        ({"steps": [{"step_index": 1, "artifacts": ["a"]}]}, "artifacts as a dict"),
        ({"steps": [{"step_index": 1, "artifacts": {"by_branch": ["a"]}}]}, "by_branch must be a dict"),
        ({"steps": [{"step_index": 1, "artifacts": {"by_branch": {"left": ["a"]}}}]}, "left"),
        ({"steps": [{"step_index": 1, "artifacts": {"by_source": {"nir": ["a"]}}}]}, "by_source"),
        ({"steps": [{"step_index": 1, "artifacts": {"fold_artifact_ids": {"avg": "a"}}}]}, "'avg'"),
        ({"fold_weights": {"0": "heavy"}}, "fold_weights"),
        ({"model_step_index": -2}, "model_step_index"),
    ],
)
def test_a_malformed_trace_is_refused_by_the_name_of_its_key(data: object, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        ExecutionTrace.from_dict(data)  # type: ignore[arg-type]
