from __future__ import annotations

import threading
import tracemalloc
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from chemotools.scatter import StandardNormalVariate
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import (
    StandardScaler,
)

from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.replay import predict
from nirs_store.errors import InvalidInput, ReplayError, ShapeMismatch


def plan_of(steps: list[dict[str, Any]], **chain: Any) -> ReplayPlan:
    return ReplayPlan.from_chain({"steps": steps, "model_step_idx": 9, **chain})


def bits(found: np.ndarray, expected: np.ndarray) -> bool:
    return (
        found.shape == expected.shape
        and found.dtype == expected.dtype
        and found.tobytes() == expected.tobytes()
    )


def test_missing_values_are_refused_unless_the_operator_allows_them(tecator: Any, shelf: Any) -> None:
    scaler, model = StandardScaler().fit(tecator.X), PLSRegression(5).fit(tecator.X, tecator.fat)
    imputer, forest = SimpleImputer().fit(tecator.X), RandomForestRegressor(3, random_state=0)
    shelf.put(scaler=scaler, m=model, imputer=imputer, forest=forest.fit(tecator.X, tecator.fat))
    X = tecator.X.copy()
    X[[3, 7], 50] = np.nan
    with pytest.raises(InvalidInput, match=r"2 of 215 samples \(rows 3, 7\).*Step 9"):
        predict(plan_of([], fold_artifacts={"final": "m"}), X, shelf.load)
    with pytest.raises(InvalidInput, match="Step 9"):
        predict(
            plan_of([{"step_idx": 0, "artifact_id": "scaler"}], fold_artifacts={"final": "m"}), X, shelf.load
        )
    imputed = plan_of([{"step_idx": 0, "artifact_id": "imputer"}], fold_artifacts={"final": "m"})
    assert bits(predict(imputed, X, shelf.load), model.predict(imputer.transform(X)))
    alone = plan_of([], fold_artifacts={"final": "forest"})
    assert bits(predict(alone, X, shelf.load), forest.predict(X))


def test_infinities_are_refused(tecator: Any, shelf: Any) -> None:
    shelf.put(m=PLSRegression(2).fit(tecator.X, tecator.fat))
    X = tecator.X.copy()
    X[0, 0] = np.inf
    with pytest.raises(InvalidInput, match="NaN or infinities in 1 of 215"):
        predict(plan_of([], fold_artifacts={"final": "m"}), X, shelf.load)


def test_values_that_turn_nan_on_the_way_name_the_step(tecator: Any, shelf: Any) -> None:
    snv = StandardNormalVariate().fit(tecator.X)
    shelf.put(snv=snv, m=PLSRegression(2).fit(snv.transform(tecator.X), tecator.fat))
    X = tecator.X.copy()
    X[5] = 1.0
    plan = plan_of([{"step_idx": 0, "artifact_id": "snv"}], fold_artifacts={"final": "m"})
    with (
        np.errstate(invalid="ignore"),
        pytest.warns(UserWarning, match="SNV"),
        pytest.raises(InvalidInput, match=r"before Step 9.*\(rows 5\)"),
    ):
        predict(plan, X, shelf.load)


def test_a_wrong_number_of_channels_says_expected_and_found(tecator: Any, shelf: Any) -> None:
    shelf.put(scaler=StandardScaler().fit(tecator.X), m=PLSRegression(2).fit(tecator.X, tecator.fat))
    steps = [
        {"step_idx": 0, "operator_class": "sklearn.preprocessing.StandardScaler", "artifact_id": "scaler"}
    ]
    plan = plan_of(steps, fold_artifacts={"final": "m"})
    with pytest.raises(
        ShapeMismatch, match=r"Step 0 \(StandardScaler\) was fitted on 100 channels, but gets 99"
    ):
        predict(plan, tecator.X[:, 1:], shelf.load)


def test_what_an_operator_raises_is_reported_with_its_step_and_cause(shelf: Any) -> None:
    class Failing:
        def predict(self, X: Any) -> Any:
            raise KeyError("lamp")

    plan = plan_of([], fold_artifacts={"final": "m"}, model_class="lab.Failing")
    with pytest.raises(
        ReplayError, match=r"Step 9 \(Failing\) failed on input of shape \(2, 3\): KeyError"
    ) as caught:
        predict(plan, np.ones((2, 3)), lambda _: Failing())
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("error", [MemoryError(), ShapeMismatch("own words")])
@pytest.mark.parametrize("method", ["predict", "inverse_transform"])
def test_a_lack_of_memory_and_typed_errors_come_through_as_they_are(error: Exception, method: str) -> None:
    def fail(X: Any) -> Any:
        raise error

    objects = {"m": MagicMock(spec=["predict"]), "y": MagicMock(spec=["inverse_transform"])}
    objects["m"].predict.side_effect = fail if method == "predict" else lambda X: X[:, 0]
    objects["y"].inverse_transform.side_effect = fail
    steps = [{"step_idx": 0, "operator_type": "y_processing", "artifact_id": "y"}]
    with pytest.raises(type(error)) as caught:
        predict(plan_of(steps, fold_artifacts={"final": "m"}), np.ones((2, 3)), objects.__getitem__)
    assert caught.value is error


def test_an_error_of_loading_comes_through_as_it_is() -> None:
    def load(artifact_id: str) -> Any:
        raise FileNotFoundError(artifact_id)

    with pytest.raises(FileNotFoundError, match="m"):
        predict(plan_of([], fold_artifacts={"final": "m"}), np.ones((2, 3)), load)


def test_predictions_of_different_shapes_are_not_averaged(shelf: Any) -> None:
    X, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    shelf.put(
        flat=RandomForestRegressor(2).fit(X, y), column=PLSRegression(1).fit(X, np.column_stack([y, y]))
    )
    with pytest.raises(ReplayError, match="different shapes"):
        predict(plan_of([], fold_artifacts={0: "flat", 1: "column"}), X, shelf.load)


def test_many_threads_can_share_a_plan(tecator: Any, shelf: Any) -> None:
    scaler, model = StandardScaler().fit(tecator.X), PLSRegression(8).fit(tecator.X, tecator.fat)
    shelf.put(scaler=scaler, m=model)
    plan = plan_of([{"step_idx": 0, "artifact_id": "scaler"}], fold_artifacts={"final": "m"})
    expected = model.predict(scaler.transform(tecator.X))
    found: list[bool] = []

    def work() -> None:
        found.extend(bits(predict(plan, tecator.X, shelf.load), expected) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_what_is_known_about_an_operator_is_found_out_once(
    tecator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.chains import operators

    seen: list[str] = []
    inspected = operators._inspect
    monkeypatch.setattr(
        operators, "_inspect", lambda target: (seen.append(type(target).__name__), inspected(target))[1]
    )
    model = PLSRegression(2).fit(tecator.X, tecator.fat)
    plan = plan_of([], fold_artifacts={"final": "m"})
    for _ in range(3):
        predict(plan, tecator.X, lambda _: model)
    assert seen == ["PLSRegression"]


def test_a_plan_keeps_no_spectra_and_no_fitted_objects(tecator: Any) -> None:
    model = PLSRegression(20).fit(tecator.X, tecator.fat)
    plan = plan_of([], fold_artifacts={"final": "m"})
    predict(plan, tecator.X, lambda _: model)
    tracemalloc.start()
    for _ in range(20):
        predict(plan, tecator.X, lambda _: model)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 50_000
    assert not any(value is model for value in plan.memory.values())
