from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from nirs_store.chains.predictor import ChainPredictor
from nirs_store.errors import ShapeMismatch


@pytest.fixture
def parts(tecator: Any) -> list[np.ndarray]:
    return [tecator.X[:, :60], tecator.X[:, 60:]]


def chain_of(shelf: Any, steps: list[dict[str, Any]], shared: dict[str, Any], **more: Any) -> ChainPredictor:
    chain = {
        "steps": steps,
        "shared_artifacts": shared,
        "model_step_idx": 9,
        "fold_artifacts": {"final": "m"},
        **more,
    }
    return ChainPredictor(chain, shelf.load)


def test_sources_are_transformed_apart_and_merged_for_the_model(parts: Any, tecator: Any, shelf: Any) -> None:
    left, right = StandardScaler().fit(parts[0]), MinMaxScaler().fit(parts[1])
    wide = np.hstack([left.transform(parts[0]), right.transform(parts[1])])
    model = PLSRegression(5).fit(wide, tecator.fat)
    shelf.put(left=left, right=right, m=model)
    chain = chain_of(shelf, [{"step_idx": 0}], {"_source_map": {"0": {"1": ["right"], "0": ["left"]}}})
    expected = model.predict(wide).tobytes()
    assert chain.predict(parts).tobytes() == expected
    assert chain.predict({"1": parts[1], 0: parts[0]}).tobytes() == expected


def test_sources_are_merged_at_the_first_step_without_a_source_map(
    parts: Any, tecator: Any, shelf: Any
) -> None:
    left, right = StandardScaler().fit(parts[0]), MinMaxScaler().fit(parts[1])
    wide = np.hstack([left.transform(parts[0]), right.transform(parts[1])])
    both = StandardScaler().fit(wide)
    models = [PLSRegression(k).fit(both.transform(wide), tecator.fat) for k in (3, 6)]
    shelf.put(left=left, right=right, both=both, m0=models[0], m1=models[1])
    chain = chain_of(
        shelf,
        [{"step_idx": 0}, {"step_idx": 1, "artifact_id": "both"}],
        {"_source_map": {0: {0: ["left"], 1: ["right"]}}},
        fold_artifacts={0: "m0", 1: "m1"},
    )
    expected = np.mean(np.stack([model.predict(both.transform(wide)) for model in models]), axis=0)
    assert chain.predict(parts).tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_the_columns_of_each_source_are_compared_with_those_of_its_own_operator(
    parts: Any, tecator: Any, shelf: Any
) -> None:
    frames = [
        pd.DataFrame(part, columns=[f"{letter}{i}" for i in range(part.shape[1])])
        for letter, part in zip("ab", parts, strict=True)
    ]
    left, right = StandardScaler().fit(frames[0]), MinMaxScaler().fit(frames[1])
    wide = np.hstack([left.transform(frames[0]), right.transform(frames[1])])
    shelf.put(left=left, right=right, m=PLSRegression(5).fit(wide, tecator.fat))
    chain = chain_of(shelf, [{"step_idx": 0}], {"_source_map": {"0": {"0": ["left"], "1": ["right"]}}})
    assert np.array_equal(chain.predict(frames), chain.predict(parts))
    with pytest.raises(ShapeMismatch, match=r"Source 1 of X are not those .* column 0 is 'b39'"):
        chain.predict([frames[0], frames[1].iloc[:, ::-1]])


def test_sources_without_any_source_map_are_merged_at_once(parts: Any, tecator: Any, shelf: Any) -> None:
    scaler = StandardScaler().fit(tecator.X)
    model = PLSRegression(5).fit(scaler.transform(tecator.X), tecator.fat)
    shelf.put(scaler=scaler, m=model)
    chain = chain_of(shelf, [{"step_idx": 0}], {"0": "scaler"}, wavelengths=tecator.wavelengths)
    assert np.array_equal(chain.predict(parts), chain.predict(tecator.X))


def test_an_empty_list_passes_a_source_on(parts: Any, tecator: Any, shelf: Any) -> None:
    right = StandardScaler().fit(parts[1])
    wide = np.hstack([parts[0], right.transform(parts[1])])
    model = PLSRegression(5).fit(wide, tecator.fat)
    shelf.put(right=right, m=model)
    chain = chain_of(shelf, [{"step_idx": 0}], {"_source_map": {"0": {"0": [], "1": ["right"]}}})
    assert chain.predict(parts).tobytes() == model.predict(wide).tobytes()


def test_each_source_is_augmented_by_its_own_transforms(parts: Any, tecator: Any, shelf: Any) -> None:
    left, right = StandardScaler().fit(parts[0]), MinMaxScaler().fit(parts[1])
    wide = np.hstack([parts[0], left.transform(parts[0]), parts[1], right.transform(parts[1])])
    model = PLSRegression(5).fit(wide, tecator.fat)
    shelf.put(left=left, right=right, m=model)
    chain = chain_of(
        shelf,
        [{"step_idx": 0, "operator_type": "feature_augmentation"}],
        {"_source_map": {"0": {"0": ["left"], "1": ["right"]}}},
    )
    assert chain.predict(parts).tobytes() == model.predict(wide).tobytes()


def test_one_source_is_used_alone(parts: Any, tecator: Any, shelf: Any) -> None:
    left, right = StandardScaler().fit(parts[0]), MinMaxScaler().fit(parts[1])
    model = PLSRegression(5).fit(right.transform(parts[1]), tecator.fat)
    shelf.put(left=left, right=right, m=model)
    chain = chain_of(
        shelf, [{"step_idx": 0}], {"_source_map": {"0": {"0": ["left"], "1": ["right"]}}}, source_index=1
    )
    expected = model.predict(right.transform(parts[1])).tobytes()
    assert chain.predict(parts).tobytes() == expected
    assert chain.predict(parts[1]).tobytes() == expected
    assert shelf.asked["left"] == 0


def test_exchanged_sources_are_refused(parts: Any, tecator: Any, shelf: Any) -> None:
    shelf.put(left=StandardScaler().fit(parts[0]), right=StandardScaler().fit(parts[1]), m=PLSRegression())
    chain = chain_of(shelf, [{"step_idx": 0}], {"_source_map": {"0": {"0": ["left"], "1": ["right"]}}})
    with pytest.raises(ShapeMismatch, match="fitted on 60 channels, but gets 40"):
        chain.predict(parts[::-1])


def test_wavelengths_of_a_source_reach_its_operator(parts: Any, tecator: Any, shelf: Any) -> None:
    class First:
        def transform(self, X: Any, wavelengths: Any) -> Any:
            return np.full((len(X), 1), wavelengths[0])

    class Merged:
        def predict(self, X: Any, wavelengths: Any) -> Any:
            return np.column_stack([X, np.full(len(X), len(wavelengths))])

    shelf.loaded.update(a=First(), m=Merged())
    chain = chain_of(shelf, [{"step_idx": 0}], {"_source_map": {"0": {"0": ["a"], "1": ["a"]}}})
    grids = [tecator.wavelengths[:60], tecator.wavelengths[60:]]
    assert chain.predict(parts, wavelengths=grids)[0].tolist() == [grids[0][0], grids[1][0], 100.0]
