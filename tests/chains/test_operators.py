from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store.chains.predictor import ChainPredictor
from nirs_store.errors import InvalidInput, ReplayError, ShapeMismatch

X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
GRID = np.array([10.0, 20.0, 30.0])


@pytest.fixture(scope="module")
def toys() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("chain_toys", Path(__file__).with_name("toys.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chain_toys"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chain_toys"]


class Sum:
    def predict(self, X: Any) -> Any:
        return X.sum(axis=1)


def run(operator: Any, wavelengths: Any = None, model: Any = None, **chain: Any) -> np.ndarray:
    row = {"steps": [{"step_idx": 0, "artifact_id": "op"}], "model_step_idx": 1, "fold_artifacts": {0: "m"}}
    fitted = ChainPredictor(row | chain, {"op": operator, "m": model or Sum()}.__getitem__)
    return np.asarray(fitted.predict(X, wavelengths))


def test_wavelengths_reach_an_operator_that_takes_them(toys: Any) -> None:
    assert run(toys.Shift(by=1.0)).tolist() == [9.0, 18.0]
    assert run(toys.Shift(), wavelengths=GRID).tolist() == [36.0, 45.0]
    assert run(toys.Shift(), wavelengths=GRID.tolist()).tolist() == [36.0, 45.0]
    assert run(toys.Shift(), model=toys.WavelengthModel(), wavelengths=GRID).tolist() == [20.0, 20.0]


def test_a_mixin_without_its_base_class_is_usable() -> None:
    class Lab(TransformerMixin):  # type: ignore[misc]
        def transform(self, X: Any, wavelengths: Any = None) -> Any:
            return X if wavelengths is None else X * 2

    assert run(Lab()).tolist() == [6.0, 15.0]
    assert run(Lab(), wavelengths=GRID).tolist() == [12.0, 30.0]


def test_the_stored_grid_is_used_when_none_is_given(toys: Any) -> None:
    chain = {
        "steps": [{"step_idx": 0, "artifact_id": "op"}],
        "model_step_idx": 1,
        "fold_artifacts": {0: "m"},
        "wavelengths": GRID,
    }
    load = {"op": toys.Shift(), "m": Sum()}.__getitem__
    assert ChainPredictor(chain, load).predict(X).tolist() == [36.0, 45.0]


def test_an_operator_that_needs_wavelengths_says_so(toys: Any) -> None:
    with pytest.raises(InvalidInput, match="pass wavelengths="):
        run(toys.Greedy())


def test_an_operator_that_works_in_place_gets_a_copy(toys: Any) -> None:
    before = X.copy()
    assert run(toys.Greedy(), wavelengths=GRID).tolist() == (X * GRID).sum(axis=1).tolist()
    assert run(toys.InPlace()).tolist() == [3.0, 12.0]
    assert np.array_equal(X, before)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_copy_has_the_layout_of_the_original(order: Any) -> None:
    class Layout:
        def predict(self, X: Any) -> Any:
            return np.full(len(X), "C" if X.flags.c_contiguous else "F")

    chain = {"steps": [], "model_step_idx": 0, "fold_artifacts": {0: "m"}}
    assert set(ChainPredictor(chain, lambda _: Layout()).predict(np.array(X, order=order))) == {order}


def test_a_resampler_takes_spectra_on_another_grid(toys: Any) -> None:
    chain = {
        "steps": [{"step_idx": 0, "artifact_id": "op"}],
        "model_step_idx": 1,
        "fold_artifacts": {0: "m"},
        "wavelengths": [10.0, 15.0, 20.0, 30.0],
    }
    load = {"op": toys.Resampler([10.0, 15.0, 20.0, 30.0]), "m": Sum()}.__getitem__
    found = ChainPredictor(chain, load).predict(X, GRID)
    assert found.tolist() == [7.5, 19.5]
    plain = {"op": toys.InPlace(), "m": Sum()}
    with pytest.raises(ShapeMismatch, match="trained on 4 channels"):
        ChainPredictor(chain, plain.__getitem__).predict(X, GRID)


@pytest.mark.parametrize("as_model", [False, True], ids=["step", "model"])
def test_what_only_accepts_wavelengths_gets_the_channels_in_the_order_of_the_calibration(
    as_model: bool, toys: Any
) -> None:
    class Slope:
        def transform(self, X: Any, wavelengths: Any = None) -> Any:
            return np.gradient(X, wavelengths, axis=1)

        def predict(self, X: Any, wavelengths: Any = None) -> Any:
            return self.transform(X, wavelengths)[:, 0]

    chain = {
        "steps": [] if as_model else [{"step_idx": 0, "artifact_id": "op"}],
        "model_step_idx": 1,
        "fold_artifacts": {0: "op" if as_model else "m"},
        "wavelengths": GRID,
    }
    fitted = ChainPredictor(chain, {"op": Slope(), "m": Sum()}.__getitem__)
    fitted.predict(X, wavelengths=GRID)
    # Another grid is still its own affair, as is that of an operator which cannot do without.
    fitted.predict(X, wavelengths=GRID + 3.0)
    fitted.predict(X[:, :2], wavelengths=GRID[:2])
    with pytest.raises(ShapeMismatch, match="same wavelengths in another order"):
        fitted.predict(X[:, ::-1], wavelengths=GRID[::-1])


def test_a_resampler_takes_channels_in_any_order(toys: Any) -> None:
    class Sorting(toys.Resampler):  # type: ignore[misc, name-defined]
        def transform(self, X: Any, wavelengths: Any) -> Any:
            order = np.argsort(wavelengths)
            return super().transform(X[:, order], wavelengths[order])

    operator = Sorting(GRID)
    chain = {
        "steps": [{"step_idx": 0, "artifact_id": "op"}],
        "model_step_idx": 1,
        "fold_artifacts": {0: "m"},
        "wavelengths": GRID,
    }
    turned = ChainPredictor(chain, {"op": operator, "m": Sum()}.__getitem__)
    found = turned.predict(X[:, ::-1], wavelengths=GRID[::-1])
    assert found.tolist() == [6.0, 15.0]


def test_the_result_is_the_callers_own(toys: Any) -> None:
    keeping = toys.Remembering(2)
    found = run(toys.InPlace(), model=keeping)
    found += 99.0
    assert keeping.kept.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("result", [3.0, [1.0, 2.0], np.zeros(2)])
def test_a_transform_must_give_a_table(toys: Any, result: Any) -> None:
    with pytest.raises(ReplayError, match="did not give a table"):
        run(toys.Odd(result))


@pytest.mark.parametrize("result", [3.0, np.zeros(3)])
def test_a_prediction_must_have_one_row_for_each_sample(toys: Any, result: Any) -> None:
    with pytest.raises(ReplayError, match="for 2 samples"):
        run(toys.InPlace(), model=toys.Odd(result))


def test_an_object_without_the_method_is_an_error() -> None:
    with pytest.raises(ReplayError, match=r"Step 0 is a Sum, which has no transform\(\)"):
        run(Sum())


def test_targets_need_an_inverse() -> None:
    steps = [{"step_idx": 0, "operator_type": "y_processing", "artifact_id": "op"}]
    with pytest.raises(ReplayError, match=r"no inverse_transform\(\)"):
        run(Sum(), steps=steps)
    with pytest.raises(
        ReplayError, match=r"could not transform predictions of shape \(2,\) back: NotFittedError"
    ):
        run(StandardScaler(), steps=steps)


def stateless(name: str, **params: Any) -> list[dict[str, Any]]:
    return [{"step_idx": 0, "operator_class": name, "params": params, "stateless": True}]


def test_a_stateless_class_is_rebuilt_with_its_parameters(toys: Any) -> None:
    assert run(None, steps=stateless("chain_toys.Shift", by=2.0)).tolist() == [12.0, 21.0]


@pytest.mark.parametrize(
    "name",
    ["this.x", "antigravity.x", "idlelib.idle.Shell", "sklearn.__main__.X", "chain_odd.Shift", "..this.x"],
)
def test_no_module_is_imported_because_a_stored_chain_names_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chain_odd.py").write_text(
        f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Shift: transform = print\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name.rpartition(".")[0], raising=False)
    before = set(sys.modules)
    with pytest.raises(ReplayError, match="nothing was imported"):
        run(None, steps=stateless(name))
    assert set(sys.modules) == before
    assert not (tmp_path / "canary").exists()


def test_a_module_that_the_user_trusts_by_name_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "class Shift:\n    def transform(self, X):\n        return X + 5.0\n"
    (tmp_path / "chain_named.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    trusted = tmp_path / "trusted.txt"
    monkeypatch.setattr("nirs_store.blobs.trusted.configuration_file", lambda: trusted)
    with pytest.raises(ReplayError, match="nothing was imported"):
        run(None, steps=stateless("chain_named.Shift"))
    trusted.write_text("chain_named.Shift\n")
    assert run(None, steps=stateless("chain_named.Shift")).shape


def test_a_folder_of_pickles_is_never_named_by_stored_text(toys: Any) -> None:
    with pytest.raises(ReplayError, match="memory names a folder"):
        run(None, steps=stateless("sklearn.pipeline.Pipeline", steps=[], memory="cache"))


@pytest.mark.parametrize(
    ("name", "params", "named"),
    [
        ("SNV", {}, "'SNV' is not the full name of a class"),
        ("", {}, "'' is not the full name of a class"),
        ("no_such_package.SNV", {}, "not imported in this process"),
        ("sklearn.preprocessing.NoSuchScaler", {}, "cannot be imported"),
        ("chain_toys.NotATransformer", {}, r"not a class with a transform\(\)"),
        ("os.system", {"command": "true"}, r"not a class with a transform\(\)"),
        ("subprocess.Popen", {"args": ["true"]}, r"not a class with a transform\(\)"),
        ("chain_toys.Shift", {"unknown": 1}, "cannot be made with"),
        ("sklearn.preprocessing.StandardScaler", {}, "NotFittedError.*rebuilt as stateless"),
    ],
)
def test_a_stateless_class_that_cannot_be_used_is_an_error(
    toys: Any, name: str, params: dict[str, Any], named: str
) -> None:
    with pytest.raises(ReplayError, match=named):
        run(None, steps=stateless(name, **params))
    assert toys.NotATransformer.made == 0


def test_a_frozen_estimator_that_works_in_place_gets_a_copy() -> None:
    y = np.array([1.0, 2.0])
    frozen = FrozenEstimator(make_pipeline(StandardScaler(copy=False), Ridge()).fit(X.copy(), y))
    chain = ChainPredictor({"steps": [], "model_step_idx": 0, "fold_artifacts": {0: "m"}}, lambda _: frozen)
    given = X.copy()
    first = chain.predict(given)
    assert np.array_equal(given, X)
    assert np.array_equal(chain.predict(given), first)
