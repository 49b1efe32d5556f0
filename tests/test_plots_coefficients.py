"""Coefficients over the channels they belong to, in units of the target, whatever the steps before the model do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from chemotools.derivative import SavitzkyGolay
from chemotools.scatter import StandardNormalVariate
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_regression
from sklearn.linear_model import PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, Normalizer, StandardScaler

from nirs_store import WorkspaceStore, plots, record_cross_validation
from nirs_store.datasets import load_tecator
from nirs_store.errors import InvalidInput

mpl.use("Agg")
MEAT = load_tecator()
X, Y, GRID = MEAT.X[:60], MEAT.fat[:60], MEAT.wavelengths
RNG = np.random.default_rng(4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path_factory.mktemp("coefficients") / "ws") as store:
        yield store


def drawn(store: WorkspaceStore, model: Any, **options: Any) -> Any:
    words: dict[str, Any] = {
        "cv": 3,
        "dataset_name": "d",
        "wavelengths": GRID,
        "target": "fat",
        "target_unit": "%",
    }
    result = record_cross_validation(store, model, X, Y, **(words | {"wavelength_unit": "nm"} | options))
    return plots.chain_pls_coefficients(store, result.chain_id).axes[0]


def over(axes: Any) -> dict[float, float]:
    line = axes.lines[-1]
    return dict(zip(np.round(line.get_xdata(), 6), line.get_ydata(), strict=True))


def swap(X: Any) -> Any:
    return X[:, np.r_[1:100:2, 0:100:2]]


def turned(X: Any) -> Any:
    return np.roll(X, 20, axis=1) - X.mean(axis=1, keepdims=True)


def rotated(X: Any) -> Any:
    return X @ np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0]


def smoothed(X: Any) -> Any:
    return np.apply_along_axis(np.convolve, 1, X, np.array([-1.0, 0.0, 1.0]), "same")


SHUFFLED = RNG.permutation(100)
PLACES: dict[str, tuple[Any, Any]] = {
    "kept": (make_pipeline(StandardScaler(), MinMaxScaler()), np.arange(100)),
    "corrected": (make_pipeline(StandardNormalVariate(), SavitzkyGolay(15, 2, 1), Normalizer()), np.arange(100)),
    "derived by a function": (FunctionTransformer(smoothed), np.arange(100)),
    "reversed": (FunctionTransformer(np.fliplr), np.arange(99, -1, -1)),
    "by a function": (make_pipeline(StandardScaler(), FunctionTransformer(swap)), np.r_[1:100:2, 0:100:2]),
    "shuffled": (ColumnTransformer([("all", StandardScaler(), SHUFFLED.tolist())]), SHUFFLED),
    "some": (ColumnTransformer([("a", "passthrough", [40, 7]), ("b", MinMaxScaler(), [90, 3])]), np.array([40, 7, 90, 3])),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLACES)
def test_a_coefficient_stands_over_its_own_channel(kind: str, store: WorkspaceStore) -> None:
    steps, places = PLACES[kind]
    model = make_pipeline(steps, PLSRegression(2))
    axes = drawn(store, model)
    expected = np.zeros(100)
    expected[places] = model.fit(X, Y)[-1].coef_.ravel()
    assert axes.get_xlabel() == "Wavelength (nm)"
    found = over(axes)
    np.testing.assert_allclose([found[each] for each in np.round(GRID, 6)], expected, atol=1e-9)


def test_folds_that_select_other_channels_have_a_common_axis(store: WorkspaceStore) -> None:
    axes = drawn(store, make_pipeline(SelectKBest(f_regression, k=9), PLSRegression(2)), refit=False)
    found = np.array(list(over(axes).values()))
    assert len(found) == 100
    assert 9 <= np.count_nonzero(found) < 30


MIXED: dict[str, Any] = {
    "PCA": PCA(5),
    "rotated": FunctionTransformer(rotated),
    "side by side": make_union(StandardScaler(), SavitzkyGolay(15, 2, 1)),
    "twice": ColumnTransformer([("a", StandardScaler(), slice(0, 50)), ("b", MinMaxScaler(), slice(0, 50))]),
    "turned and centred": FunctionTransformer(turned),
    "differences": FunctionTransformer(np.diff, kw_args={"axis": 1}),
    "sums": FunctionTransformer(np.cumsum, kw_args={"axis": 1}),
}


@pytest.mark.parametrize("kind", MIXED)
def test_other_variables_are_not_drawn_over_wavelengths(kind: str, store: WorkspaceStore) -> None:
    model = make_pipeline(MIXED[kind], Ridge())
    axes = drawn(store, model)
    assert axes.get_xlabel() == "Variable of the model (not a channel)"
    np.testing.assert_allclose(list(over(axes).values()), np.ravel(model.fit(X, Y)[-1].coef_))
    with pytest.raises(InvalidInput, match="variables of their own in each fold"):
        drawn(store, model, refit=False)


@pytest.mark.parametrize(
    ("scaler", "factor"),
    [
        (StandardScaler(), lambda: Y.std()),
        (MinMaxScaler((-1, 3)), lambda: np.ptp(Y) / 4),
        (
            make_pipeline(FunctionTransformer(lambda y: y / 7, lambda y: y * 7), StandardScaler()),
            lambda: Y.std(),
        ),
    ],
    ids=["standard", "range", "two"],
)
def test_a_scaled_target_is_undone(scaler: Any, factor: Any, store: WorkspaceStore) -> None:
    axes = drawn(store, PLSRegression(4), y_processing=scaler, artifact_format="cloudpickle")
    expected = PLSRegression(4).fit(X, Y / factor()).coef_[0] * factor()
    np.testing.assert_allclose(list(over(axes).values()), expected, rtol=1e-6)
    assert axes.get_ylabel() == "Coefficient (% fat per unit of signal)"


@pytest.mark.parametrize("kind", ["logarithm", "link"])
def test_coefficients_of_something_else_than_the_target_say_so(kind: str, store: WorkspaceStore) -> None:
    model = PoissonRegressor() if kind == "link" else PLSRegression(2)
    log = None if kind == "link" else FunctionTransformer(np.log1p, np.expm1)
    assert drawn(store, model, y_processing=log).get_ylabel() == "Coefficient (processed target)"


@pytest.mark.parametrize(
    ("grid", "unit", "words"),
    [
        (np.linspace(9091, 4003, 100), None, "Wavelength or wavenumber"),
        (np.linspace(1.1, 2.5, 100), None, "Wavelength or wavenumber"),
        (np.linspace(1.1, 2.5, 100), "µm", "Wavelength (µm)"),
        (np.linspace(1100, 2500, 100), None, "Wavelength (nm)"),
        (np.linspace(1100, 2500, 100), "Nanometers", "Wavelength (nm)"),
        *((np.linspace(9091, 4003, 100), unit, "Wavenumber (cm⁻¹)") for unit in ("cm^-1", "cm^{-1}", "1/cm", "cm⁻¹")),
    ],
)  # fmt: skip
def test_the_axis_says_what_the_grid_is(
    grid: Any, unit: str | None, words: str, store: WorkspaceStore
) -> None:
    assert drawn(store, PLSRegression(2), wavelengths=grid, wavelength_unit=unit).get_xlabel() == words


def test_wavenumbers_are_not_called_nm_by_those_who_say_nothing() -> None:
    axes = plots.pls_coefficients([0.1, 0.2], wavelengths=[9000, 4000]).axes[0]
    assert axes.get_xlabel() == "Wavelength or wavenumber"


def test_the_channels_of_a_diagnosis_have_their_own_wavelengths(store: WorkspaceStore) -> None:
    options: dict[str, Any] = {"cv": 3, "dataset_name": "d", "wavelengths": GRID}
    for kind in ("shuffled", "some"):
        steps, places = PLACES[kind]
        chain = record_cross_validation(
            store, make_pipeline(steps, PLSRegression(2)), X, Y, **options
        ).chain_id
        assert store.diagnose(chain, X, Y).channels["wavelength"].to_list() == GRID[places].tolist()
    chain = record_cross_validation(
        store, make_pipeline(MIXED["turned and centred"], PLSRegression(2)), X, Y, **options
    )
    assert "wavelength" not in store.diagnose(chain.chain_id, X, Y).channels.columns
