"""`diagnose` and `transform` of stored chains: the numbers of the model that scikit-learn fitted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.diagnosing.diagnose import diagnose
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId

MEAT = load_tecator()
X, Y = MEAT.X[:120], MEAT.fat[:120]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path_factory.mktemp("diagnosing") / "ws") as opened:
        yield opened


@pytest.fixture(scope="module")
def record(store: WorkspaceStore) -> Any:
    def made(model: Any, y: Any = Y, **options: Any) -> str:
        grid = {"wavelengths": MEAT.wavelengths, "wavelength_unit": "nm"}
        options = {"cv": 3, "dataset_name": "meat", "target": "fat", "target_unit": "%"} | grid | options
        return record_cross_validation(store, model, X, y, **options).chain_id

    return made


def test_a_pls_after_preprocessing_is_diagnosed_at_its_input(store: WorkspaceStore, record: Any) -> None:
    chain = record(make_pipeline(StandardScaler(), PLSRegression(5)))
    scaler = StandardScaler().fit(X)
    pls = PLSRegression(5).fit(scaler.transform(X), Y)
    assert np.array_equal(store.transform(chain, MEAT.X), scaler.transform(MEAT.X))
    found = diagnose(store, chain, X, Y, sample_ids=[f"S{i}" for i in range(120)])
    assert found.is_calibration
    assert found.space == "PLS"
    assert np.allclose(found.scores.drop("sample").to_numpy(), pls.x_scores_)
    residual = pls.predict(scaler.transform(X)).ravel() - Y
    assert np.allclose(found.samples["residual"], residual)
    assert found.samples["leverage"].sum() == pytest.approx(6)
    assert found.explained["y"][-1] == pytest.approx(1 - (residual**2).sum() / ((Y - Y.mean()) ** 2).sum())
    assert set(found.channels.columns) >= {
        "wavelength",
        "p1",
        "w5",
        "vip",
        "coefficient",
        "selectivity_ratio",
    }


def test_odd_spectra_and_a_wrong_reference_are_named(store: WorkspaceStore, record: Any) -> None:
    chain = record(PLSRegression(5, scale=False))
    new, y = MEAT.X[120:130].copy(), MEAT.fat[120:130].copy()
    new[3] = np.random.default_rng(0).normal(3, 0.3, 100)
    y[5] += 40
    found = diagnose(store, chain, new, y, calibration=X, sample_ids=[f"N{i}" for i in range(10)])
    flags = dict(zip(found.samples["sample"], found.samples["flags"].to_list(), strict=True))
    assert {"high T2", "high Q"} <= set(flags["N3"])
    assert flags["N5"] == ["large residual"]
    assert not found.is_calibration
    assert found.limits["q_method"] == "Jackson-Mudholkar"
    assert "N3" in repr(found)
    assert "N5" in repr(found)


def test_without_the_calibration_the_limit_of_q_is_not_known(store: WorkspaceStore, record: Any) -> None:
    found = diagnose(store, record(PLSRegression(4)), MEAT.X[120:140], MEAT.fat[120:140])
    assert found.limits["q"] is None
    assert "not known" in found.limits["q_method"]
    assert not any("high Q" in flags for flags in found.samples["flags"])
    assert found.samples["studentised"].is_finite().all()


def test_principal_component_regression_is_diagnosed_before_its_pca(
    store: WorkspaceStore, record: Any
) -> None:
    chain = record(make_pipeline(StandardScaler(), PCA(4), LinearRegression()))
    found = diagnose(store, chain, X, Y)
    scaled = StandardScaler().fit_transform(X)
    pca = PCA(4).fit(scaled)
    rest = scaled - pca.inverse_transform(pca.transform(scaled))
    assert found.space == "PCA step"
    assert found.n_components == 4
    assert np.allclose(found.samples["q"], (rest**2).sum(axis=1))


def test_a_model_without_latent_variables_needs_its_calibration(store: WorkspaceStore, record: Any) -> None:
    chain = record(make_pipeline(StandardScaler(), SVR()))
    with pytest.raises(InvalidInput, match="calibration"):
        diagnose(store, chain, MEAT.X[120:])
    found = diagnose(store, chain, MEAT.X[120:], calibration=X)
    assert found.space.startswith("PCA of")
    assert found.n_calibration == 120
    assert diagnose(store, chain, X, Y).samples["t2"].mean() == pytest.approx(
        found.n_components * 119 / 120, rel=1e-6
    )


def test_a_classifier_is_diagnosed_without_y(store: WorkspaceStore, record: Any) -> None:
    labels = np.where(Y > 18, "fat", "lean")
    chain = record(make_pipeline(PCA(3), LogisticRegression()), labels, target="class", target_unit=None)
    assert "residual" not in diagnose(store, chain, X).samples.columns
    with pytest.raises((InvalidInput, ValueError)):
        diagnose(store, chain, X, Y)


def test_bad_input_is_refused(store: WorkspaceStore, record: Any) -> None:
    chain = record(PLSRegression(3))
    with pytest.raises(UnknownId):
        diagnose(store, "no such chain", X)
    with pytest.raises(ShapeMismatch):
        diagnose(store, chain, X[:, :99])
    with pytest.raises(ShapeMismatch, match="one value"):
        diagnose(store, chain, X, Y[:-1])
    with pytest.raises(ShapeMismatch, match="fitted on 120"):
        diagnose(store, chain, MEAT.X[120:], calibration=X[:50])
    with pytest.raises(InvalidInput, match="alpha"):
        diagnose(store, chain, X, alpha=5)


@pytest.mark.parametrize("unit", ["%", "mg/kg"])
def test_every_figure_of_a_diagnosis_is_drawn(store: WorkspaceStore, record: Any, unit: str) -> None:
    plots = pytest.importorskip("nirs_store.plots")
    grid = 1e7 / MEAT.wavelengths
    chain = record(
        PLSRegression(4, scale=False), Y * 1e-6, target_unit=unit, wavelengths=grid, wavelength_unit="cm-1"
    )
    found = store.diagnose(chain, X, Y * 1e-6, wavelengths=grid)
    assert plots.t2_q(found).axes[0].get_xlabel().startswith("Hotelling")
    low, high = plots.loadings(found).axes[0].get_xlim()
    assert low > high  # wavenumbers fall from left to right
    assert plots.explained_variance(found).axes[0].get_lines()
    assert plots.scores(found, (2, 1)).axes[0].get_xlabel() == "t2"
    for draw in (
        plots.influence,
        plots.normal_residuals,
        plots.channel_importance,
        lambda f: plots.loadings(f, "weights", [4]),
        lambda f: plots.channel_importance(f, "selectivity_ratio"),
    ):
        assert draw(found).axes[0].get_title(loc="left")
    with pytest.raises(InvalidInput, match="components"):
        plots.scores(found, (1, 5))
    with pytest.raises(InvalidInput, match="p9"):
        plots.loadings(found, components=[9])


def test_a_permutation_test_tells_a_model_from_chance(store: WorkspaceStore, record: Any) -> None:
    plots = pytest.importorskip("nirs_store.plots")
    chain = record(make_pipeline(StandardScaler(), PLSRegression(3)))
    found = store.permutation_test(chain, X[:60, ::5], Y[:60], n_permutations=19)
    assert found.p == pytest.approx(0.05)
    assert found.rmsecv < found.permuted.min()
    noise = np.random.default_rng(0).normal(size=60)
    assert store.permutation_test(chain, X[:60, ::5], noise, n_permutations=19).p > 0.1
    assert plots.permutation(found).axes[0].patches
    with pytest.raises(InvalidInput, match="measured values"):
        store.permutation_test(chain, X)


def test_coefficients_are_a_table_of_refit_and_folds_over_wavelength(
    store: WorkspaceStore, record: Any
) -> None:
    chain = record(make_pipeline(StandardScaler(), PLSRegression(4)))
    found = store.coefficients(chain)
    assert found.columns == ["wavelength", "channel", "coefficient", "fold_0", "fold_1", "fold_2"]
    assert np.array_equal(found["wavelength"], MEAT.wavelengths)
    scaler = StandardScaler().fit(X)
    pls = PLSRegression(4).fit(scaler.transform(X), Y)
    assert np.allclose(found["coefficient"], pls.coef_[0])
    # The prediction changes by the coefficient where one channel of the model's input changes by 1.
    step = np.zeros((1, 100))
    step[0, 7] = scaler.scale_[7]
    change = store.replay_chain(chain, X[:1] + step) - store.replay_chain(chain, X[:1])
    assert change[0] == pytest.approx(found["coefficient"][7])
    refit = store.coefficients(record(PLSRegression(4), keep_folds=False))
    assert refit.columns == ["wavelength", "channel", "coefficient"]
    folds = store.coefficients(record(PLSRegression(4), refit=False))
    assert folds.columns == ["wavelength", "channel", "fold_0", "fold_1", "fold_2"]


@pytest.mark.parametrize("y_processing", [None, StandardScaler()])
def test_each_of_several_targets_has_coefficients_in_its_unit(
    store: WorkspaceStore, record: Any, y_processing: Any
) -> None:
    both = pl.DataFrame({"fat": Y, "water": 80 - 0.7 * Y + np.sin(np.arange(120.0))})
    chain = record(
        PLSRegression(4, scale=False), both, target=None, target_unit=None, y_processing=y_processing
    )
    found = store.coefficients(chain)
    step = np.zeros((1, 100))
    step[0, 7] = 1e-3
    change = (store.replay_chain(chain, X[:1] + step) - store.replay_chain(chain, X[:1]))[0] / 1e-3
    assert found["coefficient_fat"][7] == pytest.approx(change[0], rel=1e-6)
    assert found["coefficient_water"][7] == pytest.approx(change[1], rel=1e-6)
    assert {"fold_0_fat", "fold_2_water"} < set(found.columns)


def test_targets_without_names_are_counted_and_classes_named(store: WorkspaceStore, record: Any) -> None:
    named = {"target": None, "target_unit": None}
    found = store.coefficients(record(PLSRegression(3), np.column_stack([Y, -Y]), **named))
    np.testing.assert_allclose(found["coefficient_1"], -found["coefficient_0"])
    labels = np.array(["low", "mid", "high"])[np.digitize(Y, [10, 20])]
    found = store.coefficients(record(LogisticRegression(max_iter=500), labels, **named))
    assert {"coefficient_high", "coefficient_low", "fold_2_mid"} < set(found.columns)


def test_coefficients_of_components_are_counted_and_what_has_none_says_so(
    store: WorkspaceStore, record: Any
) -> None:
    found = store.coefficients(record(make_pipeline(PCA(6), LinearRegression())))
    assert found.columns == ["variable", "coefficient"]
    assert found.height == 6
    with pytest.raises(InvalidInput, match="no coefficients"):
        store.coefficients(record(RandomForestRegressor(3)))
    with pytest.raises(InvalidInput, match="make variables of their own"):
        store.coefficients(record(make_pipeline(PCA(6), LinearRegression()), refit=False))
    with pytest.raises(UnknownId):
        store.coefficients("nothing")


def test_the_permutation_test_pools_the_errors_and_keeps_replicates_together(
    store: WorkspaceStore, record: Any
) -> None:
    chain = record(PLSRegression(3, scale=False))
    sample = np.repeat(np.arange(30), 3)
    spectra = X[sample] + np.random.default_rng(0).normal(0, 1e-4, (90, X.shape[1]))
    found = store.permutation_test(chain, spectra, Y[sample], groups=sample, n_permutations=19)
    out = cross_val_predict(
        PLSRegression(3, scale=False), spectra, Y[sample], cv=GroupKFold(5), groups=sample
    ).ravel()
    assert found.rmsecv == pytest.approx(np.sqrt(((out - Y[sample]) ** 2).mean()))
    # Shuffled within a sample, the values would stay what they are, and p would be 1.
    assert found.p == pytest.approx(0.05)
    assert np.unique(found.permuted).size > 10
    again = store.permutation_test(
        chain, spectra, Y[sample] + np.arange(90) / 1e6, groups=sample, n_permutations=4
    )
    assert again.permuted == pytest.approx(np.full(4, again.rmsecv), rel=1e-3)
    with pytest.raises(ShapeMismatch, match="groups"):
        store.permutation_test(chain, spectra, Y[sample], groups=sample[:5])


def test_explained_y_is_in_the_unit_of_a_transformed_target(store: WorkspaceStore, record: Any) -> None:
    plain = record(PLSRegression(4, scale=False))
    scaled = record(PLSRegression(4, scale=False), y_processing=StandardScaler())
    expected = diagnose(store, plain, X, Y).explained
    assert diagnose(store, scaled, X, Y).explained["y"].to_numpy() == pytest.approx(expected["y"].to_numpy())


def test_a_chain_without_refit_is_diagnosed_without_the_limit_of_q(
    store: WorkspaceStore, record: Any
) -> None:
    chain = record(PLSRegression(3), refit=False)
    found = diagnose(store, chain, X, Y)
    assert not found.is_calibration
    assert found.limits["q"] is None
    assert "no refit" in found.limits["q_method"]
    with pytest.raises(ShapeMismatch, match="no refit"):
        diagnose(store, chain, X, Y, calibration=X)


def test_whole_numbers_are_recognized_as_the_calibration(store: WorkspaceStore, record: Any) -> None:
    whole = np.rint(Y).astype(int)
    chain = record(PLSRegression(3), y=whole)
    assert diagnose(store, chain, X, whole).is_calibration
    assert diagnose(store, chain, X, whole.tolist()).is_calibration
    assert not diagnose(store, chain, X, whole + 1).is_calibration


def test_a_constant_y_gives_no_importance_and_no_warning(store: WorkspaceStore, record: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = record(PLSRegression(2, scale=False), y=np.full(120, 3.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagnose(store, chain, X, np.full(120, 3.0))
        assert found.channels["vip"].is_nan().all()
        assert found.channels["selectivity_ratio"].is_nan().all()
        assert found.explained["y"].is_nan().all()
    assert "R07" not in store.review(chain).checked


def test_a_diagnosis_is_whole_after_its_store_was_closed(tmp_path: Any) -> None:
    model = make_pipeline(StandardScaler(), PLSRegression(3))
    with WorkspaceStore(tmp_path / "ws") as closed:
        chain = record_cross_validation(
            closed,
            model,
            X,
            Y,
            cv=3,
            dataset_name="meat",
            wavelengths=MEAT.wavelengths,
            y_processing=StandardScaler(),
        ).chain_id
        found, early = (closed.diagnose(chain, X, Y) for _ in range(2))
        expected, explained = early.channels, early.explained
    assert "wavelength" in found.channels.columns
    assert found.channels.equals(expected)
    assert found.explained.equals(explained)
