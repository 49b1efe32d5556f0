"""Any configuration that JSON can hold comes back as it was; NaN comes back as None."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput
from nirs_store.values import from_json, to_json
from tests.model import ModelStore
from tests.model.materials import prediction
from tests.model.state import strict_json

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
CONFIGS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SHARED = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def without_nan(value: Any) -> Any:
    """What strict JSON makes of a value: NaN and the infinities are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return value


def same(found: Any, wanted: Any) -> bool:
    """Equal, with -0.0 and 0.0, and 1 and True, and 1 and 1.0 kept apart."""
    if type(found) is not type(wanted):
        return False
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    return repr(found) == repr(wanted)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path_factory.mktemp("workspace")) as store:
        yield store


@settings(deadline=None, max_examples=150)
@given(CONFIGS)
@example([float("nan"), float("inf"), -float("inf"), -0.0, 2**64 - 1, -(2**63), 5e-324])
@example({"": {"": []}, "\x00": "\x00\x7f\u2028\U0001f9ea", "a.b": 1, "a'b": '"'})
def test_any_config_survives_being_encoded(config: Any) -> None:
    text = to_json(config, "config")
    assert same(from_json(text), without_nan(config))
    if text is not None:
        json.loads(text, parse_constant=pytest.fail)


@settings(deadline=None, max_examples=60)
@given(CONFIGS)
def test_the_model_of_the_store_makes_the_same_of_it(config: Any) -> None:
    assert same(strict_json(config), without_nan(config))
    model = ModelStore()
    run = model.get_run(model.begin_run("run", config, []))
    assert run is not None
    assert same(run["config"], without_nan(config))


@SHARED
@given(config=CONFIGS, choices=st.lists(CONFIGS, max_size=3), summary=CONFIGS)
@example(config={"nan": float("nan")}, choices=["\x00", float("inf")], summary={"\x00": float("nan")})
def test_any_config_of_a_run_or_pipeline_survives_the_store(
    store: WorkspaceStore, config: Any, choices: list[Any], summary: Any
) -> None:
    run_id = store.begin_run("run", config, [{"name": "corn", "more": config}])
    pipeline_id = store.begin_pipeline(run_id, "pls", config, choices, "corn", "")
    store.complete_run(run_id, summary)
    run, pipeline = store.get_run(run_id), store.get_pipeline(pipeline_id)
    assert run is not None
    assert pipeline is not None
    assert run["status"] == "completed"
    assert same(run["config"], without_nan(config))
    assert same(run["datasets"], [{"name": "corn", "more": without_nan(config)}])
    assert same(run["summary"], without_nan(summary))
    assert same(pipeline["expanded_config"], without_nan(config))
    assert same(pipeline["generator_choices"], without_nan(choices))


@SHARED
@given(params=st.dictionaries(TEXT, CONFIGS, max_size=4))
def test_any_parameters_of_a_chain_prediction_or_log_survive_the_store(
    store: WorkspaceStore, params: dict[str, Any]
) -> None:
    pipeline_id = store.begin_pipeline(store.begin_run("run", None, []), "pls", None, [], "corn", "")
    artifact_id = store.save_artifact([1.0], "builtins.list", "model")
    step = {"step_idx": 1, "operator_class": "builtins.list", "operator_type": "model", "params": params}
    chain_id = store.save_chain(
        pipeline_id, [step], 1, "list", "", "per_fold", {"0": artifact_id}, {}, metadata=params
    )
    prediction_id = store.save_prediction(
        **prediction(pipeline_id, chain_id, scores=params, best_params=params)
    )
    store.log_step(pipeline_id, 1, "list", "end", details=params)
    chain, found = store.get_chain(chain_id), store.get_prediction(prediction_id)
    wanted = without_nan(params)
    assert chain is not None
    assert found is not None
    assert same(chain["steps"][0]["params"], wanted)
    assert same(chain["metadata"], wanted)
    assert same(found["scores"], wanted)
    assert same(found["best_params"], wanted)
    assert same(json.loads(store.get_pipeline_log(pipeline_id)["details"][0]), wanted)


def test_numpy_values_become_plain_ones() -> None:
    config = {
        "n": np.int64(3),
        "x": np.float32(0.5),
        "grid": np.arange(3),
        "nan": np.float64("nan"),
        "t": (1, 2),
    }
    assert from_json(to_json(config, "config")) == {
        "n": 3,
        "x": 0.5,
        "grid": [0, 1, 2],
        "nan": None,
        "t": [1, 2],
    }


@pytest.mark.parametrize("value", [object(), {1, 2} and {"a": object()}, "\ud800", [lambda: None]])
def test_what_json_cannot_hold_is_refused_and_named(store: WorkspaceStore, value: Any) -> None:
    before = store.list_runs().height
    with pytest.raises(InvalidInput, match="config"):
        store.begin_run("run", {"config": value}, [])
    assert store.list_runs().height == before
