from __future__ import annotations

import dataclasses
import pickle
import tracemalloc
import typing
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store import chains
from nirs_store.chains import folds, operators, plan, replay, spectra, trace
from nirs_store.chains.operators import _inspect
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.replay import predict, predict_proba, predicted_classes
from nirs_store.errors import InvalidInput, ReplayError


def chain(**changes: Any) -> dict[str, Any]:
    return {
        "chain_id": "c1",
        "steps": [
            {"step_idx": 0, "operator_class": "SNV", "artifact_id": "snv"},
            {"step_idx": 1, "operator_class": "PLSRegression", "artifact_id": None},
        ],
        "model_step_idx": 1,
        "model_class": "PLSRegression",
        "fold_artifacts": {"fold_0": "m0", "1": "m1"},
        "shared_artifacts": {},
        **changes,
    }


def steps(*middle: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"step_idx": 0, "artifact_id": "snv"}, *middle, {"step_idx": 9}]


def compile_with(*middle: dict[str, Any], **changes: Any) -> ReplayPlan:
    return ReplayPlan.from_chain(chain(steps=steps(*middle), model_step_idx=9, **changes))


def test_folds_take_part_in_the_order_of_their_number() -> None:
    plan = ReplayPlan.from_chain(chain(fold_artifacts={"fold_10": "k", "2": "c", 0: "a"}))
    assert plan.folds == ("fold_0", "fold_2", "fold_10")
    assert plan.artifact_ids == ["snv", "a", "c", "k"]


@pytest.mark.parametrize("refit", ["final", "fold_final", "refit"])
def test_a_refit_stands_alone(refit: str) -> None:
    plan = ReplayPlan.from_chain(chain(fold_artifacts={"0": "m0", refit: "m"}, fold_weights={"0": 1.0}))
    assert plan.folds == ("fold_final",)
    assert plan.artifact_ids == ["snv", "m"]
    assert plan.weights is None


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [{"step_idx": 0, "artifact_id": "snv"}, {"step_idx": 1, "artifact_id": "m"}]},
        {"steps": [{"step_idx": 0, "artifact_ids": ["snv"]}], "shared_artifacts": {"1": ["m"]}},
        {"steps": [{"step_idx": 1}, {"step_idx": 0}], "shared_artifacts": {0: "snv", 1: "m"}},
    ],
)
def test_a_chain_without_folds_has_one_model(changes: dict[str, Any]) -> None:
    plan = ReplayPlan.from_chain(chain(fold_artifacts={}, **changes))
    assert plan.folds == ()
    assert plan.artifact_ids == ["snv", "m"]


def test_one_model_must_be_one() -> None:
    with pytest.raises(ReplayError, match="names 2 artifacts and no folds"):
        ReplayPlan.from_chain(chain(fold_artifacts={}, shared_artifacts={"1": ["a", "b"]}))
    with pytest.raises(ReplayError, match="no fitted model"):
        ReplayPlan.from_chain(chain(fold_artifacts={}))


def test_a_step_without_artifact_is_an_error_that_names_it() -> None:
    with pytest.raises(ReplayError, match=r"Step 4 \(StandardScaler\) should have a fitted object"):
        compile_with(
            {"step_idx": 4, "operator_class": "StandardScaler", "artifact_id": None, "stateless": False}
        )
    with pytest.raises(ReplayError, match="Step 4"):
        compile_with({"step_idx": 4}, shared_artifacts={"4": []})


def test_artifacts_may_stand_in_the_step_or_beside_it_or_both() -> None:
    here = compile_with({"step_idx": 4, "artifact_ids": ["a", "b"]})
    beside = compile_with({"step_idx": 4}, shared_artifacts={"4": ["a", "b"]})
    both = compile_with({"step_idx": 4, "artifact_ids": ["a", "b"]}, shared_artifacts={4: ["a", "b"]})
    assert here == beside == both
    assert here.artifact_ids == ["snv", "a", "b", "m0", "m1"]


def test_a_step_and_shared_artifacts_that_disagree_are_an_error() -> None:
    with pytest.raises(ReplayError, match="must agree"):
        compile_with({"step_idx": 4, "artifact_ids": ["a", "b"]}, shared_artifacts={"4": ["b", "a"]})


def test_artifacts_of_a_step_that_does_not_exist_are_an_error() -> None:
    with pytest.raises(ReplayError, match="step 3, which is not among"):
        compile_with(shared_artifacts={"3": "scaler"})


def test_steps_apply_by_index_and_those_of_one_index_in_their_order() -> None:
    plan = compile_with(
        {"step_idx": 5, "artifact_id": "last"},
        {"step_idx": 4, "artifact_id": "x"},
        {"step_idx": 4, "artifact_id": "a"},
    )
    assert plan.artifact_ids == ["snv", "x", "a", "last", "m0", "m1"]


def test_operators_of_one_index_may_leave_their_artifacts_to_shared_artifacts() -> None:
    plan = compile_with({"step_idx": 4}, {"step_idx": 4}, shared_artifacts={"4": ["b", "a"]})
    assert plan.artifact_ids == ["snv", "b", "a", "m0", "m1"]
    with pytest.raises(ReplayError, match="does not say which artifact"):
        compile_with(
            {"step_idx": 4},
            {"step_idx": 4, "operator_type": "y_processing"},
            shared_artifacts={"4": ["b", "a"]},
        )


def test_splitters_other_models_and_later_steps_do_not_act() -> None:
    plan = ReplayPlan.from_chain(
        chain(
            steps=[
                {"step_idx": 0, "artifact_id": "snv"},
                {"step_idx": 1, "operator_type": "splitter", "artifact_id": "kfold"},
                {"step_idx": 2, "operator_class": "KFold", "stateless": True},
                {"step_idx": 3, "operator_type": "model", "artifact_id": "other"},
                {"step_idx": 4},
                {"step_idx": 5, "artifact_id": "later"},
            ],
            model_step_idx=4,
        )
    )
    assert plan.artifact_ids == ["snv", "m0", "m1"]


def test_a_step_of_unknown_type_is_an_error() -> None:
    with pytest.raises(ReplayError, match="type 'sample_augmentation'"):
        compile_with({"step_idx": 4, "operator_type": "sample_augmentation", "artifact_id": "a"})


def test_the_model_step_must_be_a_model() -> None:
    with pytest.raises(ReplayError, match="calls step 1 its model"):
        ReplayPlan.from_chain(chain(steps=[{"step_idx": 1, "operator_type": "transform"}]))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [{"step_idx": 1, "artifact_id": "snv"}, {"step_idx": 1}]},
        {"shared_artifacts": {"1": ["snv"]}},
        {
            "steps": [{"step_idx": 1, "artifact_id": "pls"}, {"step_idx": 1, "artifact_id": "ridge"}],
            "fold_artifacts": {},
        },
        {
            "steps": [{"step_idx": 1, "branch_path": [0], "artifact_id": "snv"}, {"step_idx": 1}],
            "branch_path": [0, 1],
        },
    ],
)
def test_an_object_beside_the_model_at_its_own_step_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ReplayError, match="belongs to the same step but is not one of its models"):
        ReplayPlan.from_chain(chain(**changes))


def test_the_model_step_may_name_a_model_besides_those_of_the_folds_and_other_branches_their_own() -> None:
    own = {"step_idx": 1, "artifact_id": "m of all", "branch_path": [0]}
    other = {"step_idx": 1, "artifact_id": "another", "branch_path": [1]}
    plan = ReplayPlan.from_chain(chain(steps=[own, other], branch_path=[0]))
    assert plan.artifact_ids == ["m0", "m1"]


def test_fitted_objects_of_folds_go_with_their_fold() -> None:
    own = {"step_idx": 4, "fold_artifact_ids": {0: ["s0"], "fold_1": "s1"}, "artifact_ids": ["s0", "s1"]}
    plan = compile_with(own, {"step_idx": 5, "artifact_id": "shared"})
    assert [[op.artifact_id for s in m.stages for op in s.operators] for m in plan.members] == [
        ["snv", "s0", "shared"],
        ["snv", "s1", "shared"],
    ]
    assert plan.n_shared == 1


def test_equal_steps_of_all_folds_are_shared() -> None:
    plan = compile_with({"step_idx": 4, "fold_artifact_ids": {"0": "same", "1": "same"}})
    assert plan.n_shared == 2


def test_a_fold_without_its_fitted_object_is_an_error() -> None:
    own = {"step_idx": 4, "operator_class": "MSC", "fold_artifact_ids": {"0": "s0"}}
    with pytest.raises(ReplayError, match=r"Step 4 \(MSC\) has no fitted object for fold_1"):
        compile_with(own)
    with pytest.raises(ReplayError, match="for fold_final"):
        compile_with(own, fold_artifacts={"final": "m"})


def test_a_fold_without_its_own_object_uses_the_shared_one() -> None:
    plan = compile_with({"step_idx": 4, "fold_artifact_ids": {"0": "s0"}, "artifact_id": "all"})
    assert plan.artifact_ids == ["snv", "s0", "m0", "all", "m1"]


def test_shared_target_steps_are_parted_from_those_of_the_folds() -> None:
    targets = {"operator_type": "y_processing"}
    plan = compile_with(
        {"step_idx": 2, "artifact_id": "log", **targets},
        {"step_idx": 3, "fold_artifact_ids": {"0": "y0", "1": "y1"}, **targets},
        {"step_idx": 4, "artifact_id": "last", **targets},
    )
    assert [op.artifact_id for op in plan.targets] == ["log"]
    assert [[op.artifact_id for op in m.targets] for m in plan.members] == [["y0", "last"], ["y1", "last"]]


def test_weights_must_fit_the_models() -> None:
    assert ReplayPlan.from_chain(chain(fold_weights={"0": 1, "final": 9, 1: 3})).weights == (1.0, 3.0)
    with pytest.raises(ReplayError, match="weights do not fit"):
        ReplayPlan.from_chain(chain(fold_weights={"0": 1.0}))
    with pytest.raises(ReplayError, match="weights do not fit"):
        ReplayPlan.from_chain(chain(fold_weights={"0": 1.0, "1": 1.0, "2": 1.0}))
    with pytest.raises(ReplayError, match="weight 0"):
        ReplayPlan.from_chain(chain(fold_weights={"0": 0, "1": 0, "final": 1}))


def test_steps_of_other_branches_do_not_act() -> None:
    left = {"step_idx": 4, "artifact_id": "left", "branch_path": [0]}
    right = {"step_idx": 4, "artifact_id": "right", "branch_path": [1]}
    plan = compile_with(left, right, branch_path=[1, 2], shared_artifacts={"4": ["right"]})
    assert plan.artifact_ids == ["snv", "right", "m0", "m1"]


def test_the_models_own_branch_counts_when_the_chain_names_none() -> None:
    entries = [{"step_idx": 0, "artifact_id": "a", "branch_path": [1]}, {"step_idx": 1, "branch_path": [1]}]
    assert ReplayPlan.from_chain(chain(steps=entries)).artifact_ids == ["a", "m0", "m1"]


def test_a_branched_step_before_an_unbranched_model_is_an_error() -> None:
    with pytest.raises(ReplayError, match="merged branches"):
        compile_with({"step_idx": 4, "artifact_id": "left", "branch_path": [0]})


def sources(**by_step: dict[str, list[str]]) -> dict[str, Any]:
    return {"_source_map": {key.removeprefix("s"): value for key, value in by_step.items()}}


def test_sources_have_their_own_operators() -> None:
    plan = ReplayPlan.from_chain(
        chain(
            steps=[{"step_idx": 0, "artifact_ids": ["a", "b"]}, {"step_idx": 1}],
            shared_artifacts={"0": ["a", "b"], **sources(s0={"1": ["b"], "0": ["a"]})},
        )
    )
    assert plan.sources == (0, 1)
    assert plan.artifact_ids == ["a", "b", "m0", "m1"]


def test_one_source_can_be_picked() -> None:
    plan = ReplayPlan.from_chain(
        chain(steps=[{"step_idx": 0}], source_index=1, shared_artifacts=sources(s0={"0": ["a"], "1": ["b"]}))
    )
    assert (plan.sources, plan.source_index, plan.artifact_ids) == ((), 1, ["b", "m0", "m1"])
    with pytest.raises(ReplayError, match="no artifacts for source 2"):
        ReplayPlan.from_chain(
            chain(steps=[{"step_idx": 0}], source_index=2, shared_artifacts=sources(s0={"0": ["a"]}))
        )


@pytest.mark.parametrize(
    ("middle", "shared", "named"),
    [
        ([{"step_idx": 4}], sources(s4={"0": ["a"], "1": ["b"]}), "already merged"),
        ([{"step_idx": 4, "fold_artifact_ids": {"0": "x"}}], sources(s4={"0": ["a"]}), "for each fold and"),
        ([{"step_idx": 4, "artifact_id": "x"}], sources(s4={"0": ["a"]}), "gives to no source"),
        ([{"step_idx": 4}, {"step_idx": 4}], sources(s4={"0": ["a"]}), "several operators and a source map"),
        ([{"step_idx": 4, "operator_type": "y_processing"}], sources(s4={"0": ["a"]}), "no sources"),
    ],
)
def test_source_maps_that_contradict_are_an_error(middle: Any, shared: Any, named: str) -> None:
    with pytest.raises(ReplayError, match=named):
        compile_with(*middle, shared_artifacts=shared)


def test_a_later_step_must_name_the_same_sources() -> None:
    both = sources(s0={"0": ["a"], "1": ["b"]}, s1={"0": ["c"]})
    with pytest.raises(ReplayError, match="an empty list passes"):
        ReplayPlan.from_chain(
            chain(steps=[{"step_idx": 0}, {"step_idx": 1}], model_step_idx=2, shared_artifacts=both)
        )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": None}, "'steps'"),
        ({"steps": ["snv"]}, r"steps\[0\]"),
        ({"steps": [{"artifact_id": "snv"}]}, r"steps\[0\]\['step_idx'\]"),
        ({"model_step_idx": None}, "model_step_idx"),
        ({"fold_artifacts": {"avg": "m"}}, "fold_artifacts"),
        ({"source_index": "nir"}, "source_index"),
        ({"branch_path": 3}, "branch_path"),
        ({"wavelengths": [[1.0]]}, "wavelengths"),
        ({"wavelengths": ["a"]}, "wavelengths"),
        ({"steps": [{"step_idx": 0, "artifact_id": "a", "params": [1]}]}, "params"),
    ],
)
def test_a_malformed_chain_is_refused_by_the_name_of_its_key(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        ReplayPlan.from_chain(chain(**changes))
    with pytest.raises(InvalidInput, match="must be a dict"):
        ReplayPlan.from_chain([])  # type: ignore[arg-type]


def test_a_plan_cannot_be_changed_and_shares_nothing_with_its_chain() -> None:
    grid = np.array([1.0, 2.0])
    params = {"ranges": [1]}
    source = chain(
        steps=[
            {"step_idx": 0, "operator_class": "a.B", "params": params, "stateless": True},
            {"step_idx": 1},
        ],
        wavelengths=grid,
    )
    plan = ReplayPlan.from_chain(source)
    grid[0] = 99.0
    params["ranges"].append(2)
    assert plan.wavelengths is not None
    assert plan.wavelengths.tolist() == [1.0, 2.0]
    assert plan.operators[0].params == {"ranges": [1]}
    assert plan.stateless_classes == ["a.B"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.chain_id = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        plan.wavelengths[0] = 0.0


def test_a_plan_is_a_value() -> None:
    first, second = ReplayPlan.from_chain(chain()), ReplayPlan.from_chain(chain())
    assert first == second
    assert hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first)) == first
    assert first != ReplayPlan.from_chain(chain(fold_artifacts={"0": "m0"}))


# -- what is known about operators, and kept with the plan -------------------------------------------


RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 100))
Y = X @ RNG.normal(size=100)
ALONE = {"steps": [], "model_step_idx": 9, "fold_artifacts": {"final": "m"}}


class NoEstimator:
    def predict(self, X: Any) -> Any:
        return X.sum(axis=1)


@pytest.mark.parametrize(
    ("fitted", "trusted"),
    [
        (StandardScaler(), True),
        (StandardScaler(copy=False), False),
        (make_pipeline(StandardScaler(), PLSRegression(1)), True),
        (make_pipeline(StandardScaler(copy=False), PLSRegression(1)), False),
        (FunctionTransformer(np.log1p), False),
        (make_pipeline(FunctionTransformer(np.log1p), PLSRegression(1)), False),
        (NoEstimator(), False),
        (FrozenEstimator(StandardScaler()), True),
        (FrozenEstimator(make_pipeline(StandardScaler(), Ridge())), True),
        (FrozenEstimator(make_pipeline(StandardScaler(copy=False), Ridge())), False),
        (FrozenEstimator(FrozenEstimator(StandardScaler(copy=False))), False),
        (make_pipeline(FrozenEstimator(StandardScaler(copy=False)), Ridge()), False),
        (FeatureUnion([("a", FrozenEstimator(FunctionTransformer(np.log1p)))]), False),
        (ColumnTransformer([("a", FrozenEstimator(StandardScaler(copy=False)), [0])]), False),
    ],
)
def test_only_scikit_learn_is_trusted_to_leave_its_input_alone(fitted: Any, trusted: bool) -> None:
    assert _inspect(fitted).leaves_input is trusted


def test_what_a_search_chose_counts_and_not_only_what_it_began_with() -> None:
    y = np.arange(6.0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()), {"standardscaler__copy": [False]}, cv=2
    ).fit(np.arange(12.0).reshape(6, 2), y)
    assert not _inspect(search).leaves_input


def test_a_frozen_pipeline_is_made_of_others() -> None:
    assert _inspect(FrozenEstimator(Ridge())).plain is False
    assert _inspect(make_pipeline(StandardScaler(), Ridge())).plain is False
    assert _inspect(Ridge()).plain is True


def test_what_is_known_about_an_operator_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    inspected = operators._inspect
    monkeypatch.setattr(
        operators, "_inspect", lambda target: (seen.append(type(target).__name__), inspected(target))[1]
    )
    model = PLSRegression(2).fit(X, Y)
    plan = ReplayPlan.from_chain(ALONE)
    for _ in range(3):
        predict(plan, X, lambda _: model)
    assert seen == ["PLSRegression"]


def test_a_plan_keeps_no_spectra_and_no_fitted_objects() -> None:
    model = PLSRegression(20).fit(X, Y)
    plan = ReplayPlan.from_chain(ALONE)
    predict(plan, X, lambda _: model)
    tracemalloc.start()
    for _ in range(20):
        predict(plan, X, lambda _: model)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 50_000
    assert not any(value is model for value in plan.memory.values())


def test_probabilities_and_labels_that_no_model_has_are_refused() -> None:
    labels = (Y > 0).astype(int)
    models = {
        "hard": RidgeClassifier().fit(X, labels),
        "several": MultiOutputClassifier(KNeighborsClassifier(1)).fit(X, np.column_stack([labels, labels])),
        "regressor": Ridge().fit(X, Y),
    }
    plans = {name: ReplayPlan.from_chain(ALONE | {"fold_artifacts": {0: name, 1: name}}) for name in models}
    for name, words in (
        ("hard", r"RidgeClassifier, which has no predict_proba\(\)"),
        ("several", "single output"),
        ("regressor", "Ridge, which has no predict_proba"),
    ):
        with pytest.raises(ReplayError, match=words):
            predict_proba(plans[name], X, models.__getitem__)
    with pytest.raises(ReplayError, match="without one array of classes"):
        predicted_classes(plans["regressor"], models.__getitem__)


# -- The package.


def test_every_public_name_is_found_and_nothing_else() -> None:
    for name in chains.__all__:
        assert getattr(chains, name).__name__ == name
    assert set(chains.__all__) <= set(dir(chains))
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = chains.unknown


@pytest.mark.parametrize("module", [folds, plan, replay, spectra, trace])
def test_annotations_resolve_to_real_objects(module: typing.Any) -> None:
    own = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
    assert own
    for found in own:
        if not callable(found) or found is replay.Load or typing.get_origin(found):
            continue
        typing.get_type_hints(found)
        for member in vars(found).values() if isinstance(found, type) else ():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if callable(function):
                typing.get_type_hints(function)
