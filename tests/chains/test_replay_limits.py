from __future__ import annotations

import threading
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

from nirs_store.chains.predictor import ChainPredictor
from nirs_store.errors import InvalidInput, ReplayError, ShapeMismatch


def chain_of(load: Any, steps: list[dict[str, Any]], **more: Any) -> ChainPredictor:
    return ChainPredictor({"steps": steps, "model_step_idx": 9, **more}, load)


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
        chain_of(shelf.load, [], fold_artifacts={"final": "m"}).predict(X)
    with pytest.raises(InvalidInput, match="Step 9"):
        chain_of(
            shelf.load, [{"step_idx": 0, "artifact_id": "scaler"}], fold_artifacts={"final": "m"}
        ).predict(X)
    imputed = chain_of(shelf.load, [{"step_idx": 0, "artifact_id": "imputer"}], fold_artifacts={"final": "m"})
    assert bits(imputed.predict(X), model.predict(imputer.transform(X)))
    alone = chain_of(shelf.load, [], fold_artifacts={"final": "forest"})
    assert bits(alone.predict(X), forest.predict(X))


def test_infinities_are_refused(tecator: Any, shelf: Any) -> None:
    shelf.put(m=PLSRegression(2).fit(tecator.X, tecator.fat))
    X = tecator.X.copy()
    X[0, 0] = np.inf
    with pytest.raises(InvalidInput, match="NaN or infinities in 1 of 215"):
        chain_of(shelf.load, [], fold_artifacts={"final": "m"}).predict(X)


def test_values_that_turn_nan_on_the_way_name_the_step(tecator: Any, shelf: Any) -> None:
    snv = StandardNormalVariate().fit(tecator.X)
    shelf.put(snv=snv, m=PLSRegression(2).fit(snv.transform(tecator.X), tecator.fat))
    X = tecator.X.copy()
    X[5] = 1.0
    chain = chain_of(shelf.load, [{"step_idx": 0, "artifact_id": "snv"}], fold_artifacts={"final": "m"})
    with (
        np.errstate(invalid="ignore"),
        pytest.warns(UserWarning, match="SNV"),
        pytest.raises(InvalidInput, match=r"before Step 9.*\(rows 5\)"),
    ):
        chain.predict(X)


def test_a_wrong_number_of_channels_says_expected_and_found(tecator: Any, shelf: Any) -> None:
    shelf.put(scaler=StandardScaler().fit(tecator.X), m=PLSRegression(2).fit(tecator.X, tecator.fat))
    steps = [
        {"step_idx": 0, "operator_class": "sklearn.preprocessing.StandardScaler", "artifact_id": "scaler"}
    ]
    chain = chain_of(shelf.load, steps, fold_artifacts={"final": "m"})
    with pytest.raises(
        ShapeMismatch, match=r"Step 0 \(StandardScaler\) was fitted on 100 channels, but gets 99"
    ):
        chain.predict(tecator.X[:, 1:])


def test_what_an_operator_raises_is_reported_with_its_step_and_cause(shelf: Any) -> None:
    class Failing:
        def predict(self, X: Any) -> Any:
            raise KeyError("lamp")

    chain = chain_of(lambda _: Failing(), [], fold_artifacts={"final": "m"}, model_class="lab.Failing")
    with pytest.raises(
        ReplayError, match=r"Step 9 \(Failing\) failed on input of shape \(2, 3\): KeyError"
    ) as caught:
        chain.predict(np.ones((2, 3)))
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
        chain_of(objects.__getitem__, steps, fold_artifacts={"final": "m"}).predict(np.ones((2, 3)))
    assert caught.value is error


def test_an_error_of_loading_comes_through_as_it_is() -> None:
    def load(artifact_id: str) -> Any:
        raise FileNotFoundError(artifact_id)

    with pytest.raises(FileNotFoundError, match="m"):
        chain_of(load, [], fold_artifacts={"final": "m"}).predict(np.ones((2, 3)))


def test_predictions_of_different_shapes_are_not_averaged(shelf: Any) -> None:
    X, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    shelf.put(
        flat=RandomForestRegressor(2).fit(X, y), column=PLSRegression(1).fit(X, np.column_stack([y, y]))
    )
    with pytest.raises(ReplayError, match="different shapes"):
        chain_of(shelf.load, [], fold_artifacts={0: "flat", 1: "column"}).predict(X)


def test_many_threads_can_share_a_chain(tecator: Any, shelf: Any) -> None:
    scaler, model = StandardScaler().fit(tecator.X), PLSRegression(8).fit(tecator.X, tecator.fat)
    shelf.put(scaler=scaler, m=model)
    chain = chain_of(shelf.load, [{"step_idx": 0, "artifact_id": "scaler"}], fold_artifacts={"final": "m"})
    expected = model.predict(scaler.transform(tecator.X))
    found: list[bool] = []

    def work() -> None:
        found.extend(bits(chain.predict(tecator.X), expected) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40
