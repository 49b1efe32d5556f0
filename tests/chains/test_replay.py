from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import polars as pl
import pytest
from chemotools.derivative import SavitzkyGolay
from chemotools.scatter import StandardNormalVariate
from sklearn import get_config
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor, RandomTreesEmbedding
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    Normalizer,
    PowerTransformer,
    StandardScaler,
)

from nirs_store import replay_chain
from nirs_store.chains.predictor import ChainPredictor
from nirs_store.errors import ReplayError, ShapeMismatch


def chain_of(shelf: Any, steps: list[dict[str, Any]], **more: Any) -> ChainPredictor:
    return ChainPredictor({"steps": steps, "model_step_idx": 9, **more}, shelf.load)


def bits(found: np.ndarray, expected: np.ndarray) -> bool:
    return (
        found.shape == expected.shape
        and found.dtype == expected.dtype
        and found.tobytes() == expected.tobytes()
    )


def folds(n: int, tecator: Any) -> list[np.ndarray]:
    return [train for train, _ in KFold(n, shuffle=True, random_state=0).split(tecator.X)]


def test_shared_steps_and_a_fold_ensemble_equal_scikit_learn_bit_for_bit(tecator: Any, shelf: Any) -> None:
    snv = StandardNormalVariate().fit(tecator.X)
    sg = SavitzkyGolay(window_length=11, polyorder=2, deriv=1).fit(tecator.X)
    scaler = StandardScaler().fit(sg.transform(snv.transform(tecator.X)))
    Z = scaler.transform(sg.transform(snv.transform(tecator.X)))
    models = [PLSRegression(8).fit(Z[train], tecator.fat[train]) for train in folds(5, tecator)]
    shelf.put(snv=snv, sg=sg, scaler=scaler, **{f"m{i}": model for i, model in enumerate(models)})
    chain = chain_of(
        shelf,
        [{"step_idx": 0, "artifact_id": "snv"}, {"step_idx": 1, "artifact_ids": ["sg", "scaler"]}],
        fold_artifacts={f"fold_{i}": f"m{i}" for i in range(5)},
        wavelengths=tecator.wavelengths,
    )
    expected = np.mean(np.stack([model.predict(Z) for model in models]), axis=0)
    assert bits(chain.predict(tecator.X), expected)
    assert shelf.changed() == []


def test_the_shared_prefix_is_computed_once(tecator: Any, shelf: Any) -> None:
    scaler = MagicMock(spec=["transform"])
    scaler.transform.side_effect = lambda X: X * 2
    model = MagicMock(spec=["predict"])
    model.predict.side_effect = lambda X: X[:, 0]
    shelf.loaded.update(s=scaler, **{f"m{i}": model for i in range(4)})
    chain = chain_of(
        shelf, [{"step_idx": 0, "artifact_id": "s"}], fold_artifacts={str(i): f"m{i}" for i in range(4)}
    )
    chain.predict(tecator.X)
    assert scaler.transform.call_count == 1
    assert model.predict.call_count == 4


def test_models_that_get_the_same_numbers_do_not_look_at_them_again(
    tecator: Any, shelf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put(**{f"m{i}": PLSRegression(3).fit(tecator.X, tecator.fat + i) for i in range(3)})
    chain = chain_of(shelf, [{"step_idx": 9}], fold_artifacts={f"fold_{i}": f"m{i}" for i in range(3)})
    trusted = []
    real = PLSRegression.predict

    def watched(self: Any, X: Any, copy: bool = True) -> Any:
        trusted.append(get_config()["assume_finite"])
        return real(self, X, copy)

    monkeypatch.setattr(PLSRegression, "predict", watched)
    chain.predict(tecator.X)
    assert trusted == [True, True, True]
    assert not get_config()["assume_finite"]


@pytest.mark.parametrize("steps", [1, 2])
def test_the_only_shared_step_does_not_look_at_the_numbers_again(
    tecator: Any, shelf: Any, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    scaler = StandardScaler().fit(tecator.X)
    shelf.put(**{f"s{i}": scaler for i in range(steps)}, m=PLSRegression(3).fit(tecator.X, tecator.fat))
    entries = [{"step_idx": i, "artifact_id": f"s{i}"} for i in range(steps)]
    trusted = []
    real = StandardScaler.transform

    def watched(self: Any, X: Any, copy: bool | None = None) -> Any:
        trusted.append(get_config()["assume_finite"])
        return real(self, X, copy)

    monkeypatch.setattr(StandardScaler, "transform", watched)
    chain_of(shelf, entries, fold_artifacts={"final": "m"}).predict(tecator.X)
    # What a first step makes may overflow, so the second looks for itself.
    assert trusted == ([True] if steps == 1 else [False, False])
    assert not get_config()["assume_finite"]


@pytest.mark.parametrize("first", ["none", "shared"])
def test_numbers_too_large_for_32_bits_are_refused_by_a_model_that_reads_such(
    tecator: Any, shelf: Any, first: str
) -> None:
    forest = RandomForestRegressor(3, random_state=0).fit(tecator.X, tecator.fat)
    shelf.put(s=FunctionTransformer().fit(tecator.X), m=forest)
    steps = [{"step_idx": 0, "artifact_id": "s"}] if first == "shared" else []
    broken = tecator.X.copy()
    broken[1, 2] = 1e300
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="too large"):
        forest.predict(broken)
    with np.errstate(over="ignore"), pytest.raises(ReplayError, match="too large"):
        chain_of(shelf, steps, fold_artifacts={"final": "m"}).predict(broken)


def test_a_step_that_reads_32_bit_numbers_is_not_given_larger_ones(tecator: Any, shelf: Any) -> None:
    embedding = RandomTreesEmbedding(3, random_state=0, sparse_output=False).fit(tecator.X)
    shelf.put(s=embedding, m=PLSRegression(2).fit(embedding.transform(tecator.X), tecator.fat))
    chain = chain_of(shelf, [{"step_idx": 0, "artifact_id": "s"}], fold_artifacts={"final": "m"})
    assert len(chain.predict(tecator.X)) == len(tecator.X)
    with np.errstate(over="ignore"), pytest.raises(ReplayError, match="too large"):
        chain.predict(np.where(np.arange(100) < 9, 1e39, tecator.X))


def test_a_model_made_of_others_looks_at_the_numbers_between_them(tecator: Any, shelf: Any) -> None:
    positive = np.abs(tecator.X) + 1.0
    shelf.put(
        model=make_pipeline(FunctionTransformer(np.log), KNeighborsRegressor(3)).fit(positive, tecator.fat)
    )
    chain = chain_of(shelf, [{"step_idx": 9}], fold_artifacts={"final": "model"})
    with np.errstate(invalid="ignore"), pytest.raises(ReplayError, match="NaN"):
        chain.predict(-positive)


def test_transformers_of_each_fold_equal_the_folds_pipelines(tecator: Any, shelf: Any) -> None:
    # Scaled principal components are orthonormal, and one latent variable exhausts them: leave them unscaled.
    pipelines = [
        make_pipeline(StandardScaler(), PCA(12), PLSRegression(6, scale=False)).fit(
            tecator.X[t], tecator.fat[t]
        )
        for t in folds(3, tecator)
    ]
    for i, pipeline in enumerate(pipelines):
        shelf.put(**{f"{name}{i}": part for name, (_, part) in zip("spm", pipeline.steps, strict=True)})
    chain = chain_of(
        shelf,
        [
            {"step_idx": 0, "fold_artifact_ids": {f"fold_{i}": [f"s{i}", f"p{i}"] for i in range(3)}},
        ],
        fold_artifacts={i: f"m{i}" for i in range(3)},
    )
    expected = np.mean(np.stack([pipeline.predict(tecator.X) for pipeline in pipelines]), axis=0)
    assert bits(chain.predict(tecator.X), expected)


def test_folds_are_averaged_in_the_order_of_their_number(shelf: Any) -> None:
    # Ten values whose sum depends on the order of the summands; text order would be 0, 1, 10, 2, ...
    constants = [1e16, 1.0, -1e16, 1.0, 3.0, 1e16, 1.0, -1e16, 0.1, 0.2, 0.3]
    shelf.put(**{f"m{i}": Constant(value) for i, value in enumerate(constants)})
    chain = chain_of(shelf, [], fold_artifacts={f"fold_{i}": f"m{i}" for i in reversed(range(11))})
    expected = np.mean(np.stack([np.full(4, value) for value in constants]), axis=0)
    assert bits(chain.predict(np.ones((4, 2))), expected)


class Constant:
    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.value)


def test_weighted_folds_are_a_weighted_mean(tecator: Any, shelf: Any) -> None:
    models = [PLSRegression(5).fit(tecator.X[t], tecator.fat[t]) for t in folds(3, tecator)]
    shelf.put(**{f"m{i}": model for i, model in enumerate(models)})
    chain = chain_of(
        shelf, [], fold_artifacts={i: f"m{i}" for i in range(3)}, fold_weights={"fold_0": 2, "1": 0.5, 2: 1}
    )
    stacked = np.stack([model.predict(tecator.X) for model in models])
    assert bits(chain.predict(tecator.X), np.average(stacked, axis=0, weights=[2, 0.5, 1]))


def test_a_refit_is_used_alone(tecator: Any, shelf: Any) -> None:
    refit = PLSRegression(5).fit(tecator.X, tecator.fat)
    shelf.put(m=refit)
    chain = chain_of(shelf, [], fold_artifacts={"0": "never asked for", "final": "m"})
    assert bits(chain.predict(tecator.X), refit.predict(tecator.X))


@pytest.mark.parametrize("n_targets", [1, 3])
def test_the_output_has_the_shape_that_the_estimator_gives(n_targets: int, tecator: Any, shelf: Any) -> None:
    y = np.column_stack([tecator.fat] * n_targets) + np.arange(n_targets)
    models = [PLSRegression(4).fit(tecator.X[t], y[t]) for t in folds(2, tecator)]
    shelf.put(m0=models[0], m1=models[1])
    both = chain_of(shelf, [], fold_artifacts={0: "m0", 1: "m1"}).predict(tecator.X)
    assert both.shape == models[0].predict(tecator.X).shape == (215, n_targets)


def test_targets_are_transformed_back_in_reverse_order_after_the_mean(tecator: Any, shelf: Any) -> None:
    log = FunctionTransformer(np.log1p, inverse_func=np.expm1).fit(tecator.fat.reshape(-1, 1))
    scaler = StandardScaler().fit(log.transform(tecator.fat.reshape(-1, 1)))
    y = scaler.transform(log.transform(tecator.fat.reshape(-1, 1))).ravel()
    models = [PLSRegression(6).fit(tecator.X[t], y[t]) for t in folds(2, tecator)]
    shelf.put(log=log, scaler=scaler, m0=models[0], m1=models[1])
    chain = chain_of(
        shelf,
        [
            {"step_idx": 0, "operator_type": "y_processing", "artifact_id": "log"},
            {"step_idx": 1, "operator_type": "y_processing", "artifact_id": "scaler"},
        ],
        fold_artifacts={0: "m0", 1: "m1"},
    )
    averaged = np.mean(np.stack([model.predict(tecator.X) for model in models]), axis=0).reshape(-1, 1)
    expected = log.inverse_transform(scaler.inverse_transform(averaged)).ravel()
    assert bits(chain.predict(tecator.X), expected)
    assert shelf.changed() == []


def test_targets_that_each_fold_transformed_are_transformed_back_before_the_mean(
    tecator: Any, shelf: Any
) -> None:
    predictions = []
    for i, train in enumerate(folds(2, tecator)):
        power = PowerTransformer().fit(tecator.fat[train].reshape(-1, 1))
        y = power.transform(tecator.fat[train].reshape(-1, 1)).ravel()
        model = PLSRegression(6).fit(tecator.X[train], y)
        shelf.put(**{f"y{i}": power, f"m{i}": model})
        predictions.append(power.inverse_transform(model.predict(tecator.X).reshape(-1, 1)).ravel())
    chain = chain_of(
        shelf,
        [{"step_idx": 0, "operator_type": "y_processing", "fold_artifact_ids": {"0": "y0", "1": "y1"}}],
        fold_artifacts={0: "m0", 1: "m1"},
    )
    assert bits(chain.predict(tecator.X), np.mean(np.stack(predictions), axis=0))


def test_two_dimensional_targets_stay_two_dimensional(tecator: Any, shelf: Any) -> None:
    y = np.column_stack([tecator.fat, 100 - tecator.fat])
    scaler = MinMaxScaler().fit(y)
    model = PLSRegression(5).fit(tecator.X, scaler.transform(y))
    shelf.put(scaler=scaler, m=model)
    chain = chain_of(
        shelf,
        [{"step_idx": 0, "operator_type": "y_processing", "artifact_id": "scaler"}],
        fold_artifacts={"final": "m"},
    )
    assert bits(chain.predict(tecator.X), scaler.inverse_transform(model.predict(tecator.X)))


def test_a_stack_whose_source_predicts_text_says_so(tecator: Any, shelf: Any) -> None:
    labels = np.where(tecator.fat > np.median(tecator.fat), "fat", "lean")
    shelf.put(knn=KNeighborsClassifier().fit(tecator.X, labels))
    shelf.put(final=Ridge().fit(tecator.X[:, :1], tecator.fat))
    base = {"steps": [], "model_step_idx": 1, "fold_artifacts": {"final": "knn"}, "shared_artifacts": {}}
    step = {"step_idx": 1, "operator_type": "meta_model", "sources": [{"chain": base}]}
    chain = chain_of(shelf, [step], model_step_idx=1, fold_artifacts={"final": "final"})
    with pytest.raises(ReplayError, match=r"predicts '(fat|lean)'"):
        chain.predict(tecator.X)


def test_feature_augmentation_stacks_each_transform_beside_the_spectra(tecator: Any, shelf: Any) -> None:
    snv, scaler = StandardNormalVariate().fit(tecator.X), StandardScaler().fit(tecator.X)
    wide = np.hstack([tecator.X, snv.transform(tecator.X), scaler.transform(tecator.X)])
    model = PLSRegression(6).fit(wide, tecator.fat)
    shelf.put(snv=snv, scaler=scaler, m=model)
    chain = chain_of(
        shelf,
        [{"step_idx": 0, "operator_type": "feature_augmentation", "artifact_ids": ["snv", "scaler"]}],
        fold_artifacts={"final": "m"},
    )
    assert bits(chain.predict(tecator.X), model.predict(wide))


def test_a_stateless_step_is_rebuilt_from_its_class(tecator: Any, shelf: Any) -> None:
    Z = Normalizer(norm="l1").transform(tecator.X)
    model = PLSRegression(6).fit(Z, tecator.fat)
    shelf.put(m=model)
    step = {
        "step_idx": 0,
        "operator_class": "sklearn.preprocessing.Normalizer",
        "params": {"norm": "l1"},
        "stateless": True,
    }
    chain = chain_of(shelf, [step], fold_artifacts={"final": "m"})
    assert bits(chain.predict(tecator.X), model.predict(Z))


def test_a_frame_gives_the_same_bits_as_its_array(tecator: Any, shelf: Any) -> None:
    model = PLSRegression(10).fit(tecator.X, tecator.fat)
    shelf.put(m=model)
    names = [f"{value:.2f}" for value in tecator.wavelengths]
    chain = chain_of(shelf, [], fold_artifacts={"final": "m"}, wavelengths=tecator.wavelengths)
    expected = model.predict(tecator.X)
    for frame in (pl.DataFrame(tecator.X, schema=names), pd.DataFrame(tecator.X, columns=names)):
        assert bits(chain.predict(frame), expected)


NAMED = pd.DataFrame(np.arange(15.0).reshape(5, 3) ** 0.5, columns=["w0", "w1", "w2"])
SCALE_THEN_FIT = [{"step_idx": 0, "artifact_id": "s"}]
BRANCHED = [
    {"step_idx": 0, "artifact_id": "s", "branch_path": [0]},
    {"step_idx": 1, "operator_type": "merge", "stateless": True, "branches": [[0], [1]]},
]


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.parametrize("steps", [[], SCALE_THEN_FIT, BRANCHED], ids=["model", "step", "branch"])
def test_a_frame_is_compared_with_the_columns_that_the_first_operator_was_fitted_on(
    steps: list[dict[str, Any]], shelf: Any
) -> None:
    y = np.arange(5.0)
    scaler = StandardScaler().fit(NAMED)
    wide = scaler.transform(NAMED)
    model = Ridge().fit(np.hstack([wide, NAMED]) if steps is BRANCHED else wide if steps else NAMED, y)
    shelf.put(s=scaler, m=model)
    chain = chain_of(shelf, steps, fold_artifacts={"final": "m"})
    expected = chain.predict(np.ascontiguousarray(NAMED))
    assert np.array_equal(chain.predict(NAMED), expected)
    assert np.array_equal(chain.predict(pd.DataFrame(NAMED.to_numpy())), expected)
    with pytest.raises(ShapeMismatch, match="column 0 is 'w2', expected 'w0'"):
        chain.predict(NAMED[["w2", "w1", "w0"]])


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_a_model_fitted_on_wavelengths_as_text_takes_them_however_they_are_written(shelf: Any) -> None:
    shelf.put(m=Ridge().fit(NAMED.set_axis(["850", "852", "854"], axis=1), np.arange(5.0)))
    chain = chain_of(shelf, [], fold_artifacts={"final": "m"})
    chain.predict(NAMED.set_axis(["850.0", "852.00", "854"], axis=1))
    with pytest.raises(ShapeMismatch, match="column 1 is '854', expected '852'"):
        chain.predict(NAMED.set_axis(["850.0", "854", "852"], axis=1))


@pytest.mark.parametrize("layout", ["C", "F", "strided", "float32"])
def test_the_layout_and_type_of_the_array_are_kept(layout: str, tecator: Any, shelf: Any) -> None:
    scaler = StandardScaler().fit(tecator.X)
    model = PLSRegression(10).fit(scaler.transform(tecator.X), tecator.fat)
    shelf.put(scaler=scaler, m=model)
    X = {
        "C": tecator.X,
        "F": np.asfortranarray(tecator.X),
        "strided": np.repeat(tecator.X, 2, axis=1)[:, ::2],
        "float32": tecator.X.astype(np.float32),
    }[layout]
    chain = chain_of(shelf, [{"step_idx": 0, "artifact_id": "scaler"}], fold_artifacts={"final": "m"})
    assert bits(chain.predict(X), model.predict(scaler.transform(X)))


def test_x_and_the_fitted_objects_never_change(tecator: Any, shelf: Any) -> None:
    first = StandardScaler().fit(tecator.X)
    in_place = StandardScaler(copy=False).fit(tecator.X.copy())
    pipeline = make_pipeline(StandardScaler(copy=False), PLSRegression(3)).fit(tecator.X.copy(), tecator.fat)
    scaled_y = StandardScaler(copy=False).fit(tecator.fat.reshape(-1, 1).copy())
    shelf.put(first=first, in_place=in_place, m=pipeline, y=scaled_y)
    shelf.put(model=PLSRegression(3).fit(np.hstack([tecator.X] * 2), tecator.fat))
    chain = chain_of(
        shelf,
        [
            {"step_idx": 0, "artifact_id": "in_place"},
            {"step_idx": 1, "artifact_id": "first"},
            {"step_idx": 2, "fold_artifact_ids": {"0": "in_place", "1": "in_place", "2": "first"}},
            {"step_idx": 3, "operator_type": "feature_augmentation", "artifact_id": "in_place"},
            {"step_idx": 4, "operator_type": "y_processing", "artifact_id": "y"},
        ],
        fold_artifacts={0: "model", 1: "model", 2: "model"},
    )
    X = tecator.X.copy()
    before = X.tobytes()
    once = chain.predict(X)
    assert X.tobytes() == before
    assert bits(chain.predict(X), once)
    Z = StandardScaler().fit(tecator.X).transform(in_place.transform(X.copy()))
    outputs = []
    for own in (in_place, in_place, first):
        own_Z = own.transform(Z.copy())
        outputs.append(shelf.loaded["model"].predict(np.hstack([own_Z, in_place.transform(own_Z.copy())])))
    expected = scaled_y.inverse_transform(np.mean(np.stack(outputs), axis=0).reshape(-1, 1)).ravel()
    assert bits(once, expected)
    chain_of(shelf, [], fold_artifacts={"final": "m"}).predict(X)
    assert X.tobytes() == before
    assert shelf.changed() == []


def test_replay_chain_asks_the_store_with_exactly_these_keywords() -> None:
    store = MagicMock()
    X, wavelengths = np.ones((2, 3)), np.arange(3.0)
    assert replay_chain(store, "c1", X) is store.replay_chain.return_value
    store.replay_chain.assert_called_once_with(chain_id="c1", X=X, wavelengths=None)
    replay_chain(store, "c1", X, wavelengths=wavelengths)
    assert store.replay_chain.call_args.kwargs["wavelengths"] is wavelengths
    assert store.replay_chain.call_args.args == ()
