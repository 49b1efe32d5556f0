"""T2, Q, leverage and their limits against chemotools, scikit-learn and computations by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.svm import SVR

from nirs_store import load_tecator
from nirs_store.diagnosing.importance import explained_variance, selectivity_ratio, studentised_residuals, vip
from nirs_store.domain.latent import latent_of, q_limit, t2_limit
from nirs_store.errors import InvalidInput, ShapeMismatch

outliers = pytest.importorskip("chemotools.outliers")


@pytest.fixture(scope="module")
def meat() -> Any:
    return load_tecator()


@pytest.fixture(scope="module", params=[False, True], ids=["centred", "scaled"])
def pls(request: pytest.FixtureRequest, meat: Any) -> PLSRegression:
    return PLSRegression(6, scale=request.param).fit(meat.X[:150], meat.fat[:150])


def test_the_scores_of_a_pls_are_its_own(pls: PLSRegression, meat: Any) -> None:
    latent = latent_of(pls)
    assert np.allclose(latent.scores(meat.X), pls.transform(meat.X), rtol=1e-9, atol=1e-9)
    assert (latent.n, latent.n_components, latent.kind) == (150, 6, "PLS")


def test_t2_and_q_are_those_of_chemotools(meat: Any) -> None:
    pls = PLSRegression(6, scale=False).fit(meat.X[:150], meat.fat[:150])
    latent = latent_of(pls)
    theirs = outliers.HotellingT2(pls).fit(meat.X[:150])
    # chemotools 0.5 divides by the variance with n where the formula of the limit has n - 1.
    assert np.allclose(latent.t2(meat.X), theirs.predict_residuals(meat.X) * 149 / 150, rtol=1e-8)
    q = outliers.QResiduals(pls, method="jackson-mudholkar").fit(meat.X[:150])
    assert np.allclose(latent.q(meat.X), q.predict_residuals(meat.X), rtol=1e-6)
    assert q_limit(latent.residuals(meat.X[:150]))[1] == "Jackson-Mudholkar"


def test_the_leverage_of_the_calibration_is_the_diagonal_of_the_hat_matrix(pls: Any, meat: Any) -> None:
    T = np.column_stack([np.ones(150), pls.x_scores_])
    hat = np.einsum("ij,jk,ik->i", T, np.linalg.inv(T.T @ T), T)
    leverage = latent_of(pls).leverage(meat.X[:150])
    assert np.allclose(leverage, hat, rtol=1e-8)
    assert leverage.sum() == pytest.approx(7)


def test_a_single_spectrum_gives_what_it_gives_in_a_batch(pls: Any, meat: Any) -> None:
    latent = latent_of(pls)
    for figure in (latent.t2, latent.q, latent.leverage):
        assert np.concatenate([figure(meat.X[[i]]) for i in range(150, 160)]) == pytest.approx(
            figure(meat.X)[150:160], rel=1e-9
        )


def test_principal_component_regression_uses_its_pca_whitened_or_not(meat: Any) -> None:
    plain, white = (PCA(5, whiten=whiten).fit(meat.X) for whiten in (False, True))
    found = [
        latent_of(LinearRegression().fit(p.transform(meat.X), meat.fat), [p]).t2(meat.X)
        for p in (plain, white)
    ]
    by_hand = (white.transform(meat.X) ** 2).sum(axis=1)
    assert np.allclose(found[0], by_hand)
    assert np.allclose(found[1], by_hand)


def test_any_other_model_needs_its_calibration_and_gets_a_pca(meat: Any) -> None:
    model = SVR().fit(meat.X, meat.fat)
    with pytest.raises(InvalidInput, match="calibration"):
        latent_of(model)
    latent = latent_of(model, calibration=meat.X)
    share = 1 - latent.q(meat.X).sum() / ((meat.X - meat.X.mean(axis=0)) ** 2).sum()
    fewer = PCA(latent.n_components - 1).fit(meat.X) if latent.n_components > 1 else None
    assert share >= 0.99
    assert fewer is None or fewer.explained_variance_ratio_.sum() < 0.99


def test_spectra_of_other_channels_are_refused(pls: Any, meat: Any) -> None:
    with pytest.raises(ShapeMismatch, match="100 channels"):
        latent_of(pls).t2(meat.X[:, :99])


def test_the_limit_of_t2_is_that_of_the_formula_and_grows_to_chi2() -> None:
    # F(0.95; 3, 47) = 2.8024 (tables); 3 (2500 - 1) / (50 * 47) = 3.19021.
    assert t2_limit(50, 3) == pytest.approx(3.19021 * 2.8024, rel=1e-3)
    assert t2_limit(100_000, 2) == pytest.approx(5.9915, rel=1e-3)
    with pytest.raises(InvalidInput):
        t2_limit(5, 5)


def test_about_alpha_of_normal_spectra_lie_above_the_limits() -> None:
    rng = np.random.default_rng(0)
    mix, noise = rng.normal(size=(3, 40)), 0.05
    draw = lambda n: rng.normal(size=(n, 3)) * [3, 2, 1] @ mix + noise * rng.normal(size=(n, 40))  # noqa: E731
    latent = latent_of(SVR(), [PCA(3).fit(train := draw(400))])
    new = draw(20_000)
    assert (latent.t2(new) > t2_limit(400, 3)).mean() == pytest.approx(0.05, abs=0.012)
    limit, method = q_limit(latent.residuals(train))
    assert method == "Jackson-Mudholkar"
    assert (latent.q(new) > limit).mean() == pytest.approx(0.05, abs=0.015)


def test_vip_and_selectivity_ratio_are_those_of_chemotools(meat: Any) -> None:
    features = pytest.importorskip("chemotools.feature_selection")
    pls = PLSRegression(5, scale=False).fit(meat.X, meat.fat)
    assert np.allclose(vip(pls), features.VIPSelector(pls).fit(meat.X).feature_scores_, rtol=1e-6)
    assert (vip(pls) ** 2).mean() == pytest.approx(1)
    theirs = features.SRSelector(pls).fit(meat.X - meat.X.mean(axis=0)).feature_scores_  # it does not centre
    assert np.allclose(selectivity_ratio(pls.coef_, meat.X), theirs, rtol=1e-5)


def test_explained_variance_ends_at_what_the_model_explains(pls: Any, meat: Any) -> None:
    x, y = explained_variance(pls, meat.X[:150], meat.fat[:150])
    assert np.all(np.diff(x) > 0)
    assert np.all(np.diff(y) > 0)
    assert y[-1] == pytest.approx(pls.score(meat.X[:150], meat.fat[:150]), rel=1e-8)


def test_studentised_residuals_of_a_regression_on_scores(meat: Any) -> None:
    pls = PLSRegression(4, scale=False).fit(meat.X, meat.fat)
    r, h = pls.predict(meat.X).ravel() - meat.fat, latent_of(pls).leverage(meat.X)
    s = np.sqrt((r**2).sum() / (len(r) - 5))
    assert np.allclose(studentised_residuals(r, h, 4), r / (s * np.sqrt(1 - h)))
    assert np.isnan(studentised_residuals([1.0, 2.0], [0.5, 0.5], 1)).all()
