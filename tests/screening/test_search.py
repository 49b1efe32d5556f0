"""Searches of scikit-learn and Optuna: candidates, winners, nested cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, HalvingGridSearchCV, KFold, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import optuna_callback, record_search
from nirs_store.errors import InvalidInput, ReplayError, ShapeMismatch

INNER = KFold(4, shuffle=True, random_state=0)
RMSE = "neg_root_mean_squared_error"
GRID = {"n_components": [1, 2, 4, 6]}


def recorded(store, search, spectra, **options):
    X, y, grid = spectra
    return record_search(
        store, search, X, y, **{"dataset_name": "bands", "target": "sugar", "wavelengths": grid} | options
    )


def searches():
    pipeline = make_pipeline(StandardScaler(), PLSRegression())
    several = {"rmse": RMSE, "r2": "r2"}
    yield "grid", GridSearchCV(PLSRegression(), GRID, cv=INNER, scoring=RMSE)
    yield (
        "random",
        RandomizedSearchCV(Ridge(), {"alpha": [0.01, 0.1, 1, 10]}, n_iter=3, cv=INNER, random_state=1),
    )
    yield (
        "halving",
        HalvingGridSearchCV(PLSRegression(), GRID, cv=INNER, scoring=RMSE, random_state=1, min_resources=15),
    )
    yield (
        "several",
        GridSearchCV(pipeline, {"plsregression__n_components": [2, 4]}, cv=3, scoring=several, refit="r2"),
    )
    yield (
        "steps",
        GridSearchCV(pipeline, {"standardscaler": [StandardScaler(), "passthrough"]}, cv=INNER, scoring=RMSE),
    )
    yield "no refit", GridSearchCV(PLSRegression(), GRID, cv=INNER, scoring=RMSE, refit=False)


@pytest.mark.parametrize(("kind", "search"), list(searches()), ids=[kind for kind, _ in searches()])
def test_candidates_and_winner_are_those_of_the_search(store, spectra, kind, search):
    found = recorded(store, search, spectra)
    alone = clone(search).fit(*spectra[:2])
    suffix = "r2" if kind == "several" else "score"
    scores = alone.cv_results_[f"mean_test_{suffix}"]
    assert sorted(found.frame["score"].to_list()) == pytest.approx(sorted(scores.tolist()))
    assert found.frame["score"][0] == pytest.approx(scores[alone.best_index_])
    assert str(found.best_params) in (
        str(alone.best_params_),
        str(
            {k: repr(v) if not isinstance(v, (int, float, str)) else v for k, v in alone.best_params_.items()}
        ),
    )
    winner = clone(search.estimator).set_params(**clone(alone.best_params_, safe=False)).fit(*spectra[:2])
    np.testing.assert_allclose(
        store.replay_chain(found.chain_id, spectra[0]), winner.predict(spectra[0]).ravel()
    )
    assert found.frame["kept"].to_list() == [True] + [False] * (found.frame.height - 1)
    assert store.get_run(found.run_id)["status"] == "completed"
    assert store.check(read_data=True).ok
    if kind == "halving":
        assert found.frame["iter"].max() >= 1
        assert found.frame["n_resources"].n_unique() > 1


def test_a_mean_over_splits_is_not_called_an_rmsecv(store, spectra):
    found = recorded(store, GridSearchCV(PLSRegression(), GRID, cv=INNER, scoring=RMSE), spectra)
    assert found.scorer == f"mean over splits of {RMSE}"
    folds = found.result.scores.filter(partition="val").filter(fold_id="pooled")["rmse"]
    assert found.result.rmsecv == pytest.approx(folds[0])
    assert found.result.rmsecv != pytest.approx(-found.frame["score"][0], rel=1e-6)
    assert "rmsecv" not in found.frame.columns
    assert "optimistic" in repr(found)
    assert store.top_chains(10)["chain_id"].to_list() == [found.chain_id]
    lost = found.frame["chain_id"][-1]
    assert store.get_chain(lost)["metadata"]["search"]["split_scores"]
    with pytest.raises(ReplayError, match="keep='all'"):
        store.replay_chain(lost, spectra[0])


def test_a_fitted_search_is_not_fitted_again_and_others_data_are_refused(store, spectra, monkeypatch):
    X, y, _ = spectra
    search = GridSearchCV(PLSRegression(), GRID, cv=INNER, scoring=RMSE).fit(X, y)
    with monkeypatch.context() as patched:
        patched.setattr(GridSearchCV, "fit", lambda *_, **__: pytest.fail("fitted again"))
        found = recorded(store, search, spectra, keep=2)
    assert found.frame["kept"].sum() == 2
    assert store.replay_chain(found.frame["chain_id"][1], X).shape == (60,)
    with pytest.raises(ShapeMismatch, match="40 channels"):
        record_search(store, search, X[:, :30], y, dataset_name="bands")
    with pytest.raises(InvalidInput, match="search of scikit-learn"):
        recorded(store, PLSRegression(), spectra)
    assert store.list_runs().height == 1


def test_a_search_over_what_is_fitted_already_is_refused(store, spectra):
    frozen = FrozenEstimator(StandardScaler().fit(spectra[0]))
    pipeline = make_pipeline(StandardScaler(), Ridge())
    for search in (
        GridSearchCV(make_pipeline(frozen, Ridge()), {"ridge__alpha": [1.0]}, cv=INNER),
        GridSearchCV(pipeline, {"standardscaler": [StandardScaler(), frozen]}, cv=INNER),
    ):
        with pytest.raises(InvalidInput, match="fitted already"):
            recorded(store, search, spectra)


def test_nested_scores_are_those_of_the_outer_folds_and_winners_are_marked(store, spectra):
    X, y, _ = spectra
    outer = KFold(3, shuffle=True, random_state=5)
    search = GridSearchCV(PLSRegression(), GRID, cv=INNER, scoring=RMSE)
    found = recorded(store, search, spectra, cv=outer)
    predicted, won = np.empty(60), {}
    for number, (train, val) in enumerate(outer.split(X)):
        inside = clone(search).fit(X[train], y[train])
        predicted[val] = inside.predict(X[val]).ravel()
        won.setdefault(f"n_components={inside.best_params_['n_components']}", []).append(f"fold_{number}")
    assert found.nested
    assert found.result.rmsecv == pytest.approx(np.sqrt(np.mean((predicted - y) ** 2)), rel=1e-9)
    marked = {row["params"]: row["won"] for row in found.frame.iter_rows(named=True) if row["won"]}
    assert marked == {params: ", ".join(folds) for params, folds in won.items()}
    assert "nested" in repr(found)
    assert not found.frame["kept"].any()
    np.testing.assert_allclose(
        store.replay_chain(found.chain_id, X), clone(search).fit(X, y).predict(X).ravel()
    )


def test_groups_stay_together_in_the_search_too(store, spectra):
    X, y, _ = spectra
    groups = np.arange(60) // 3
    search = GridSearchCV(PLSRegression(), GRID, cv=GroupKFold(4), scoring=RMSE)
    found = recorded(store, search, spectra, groups=groups)
    alone = clone(search).fit(X, y, groups=groups)
    assert found.frame["score"][0] == pytest.approx(alone.best_score_)
    assert store.get_chain(found.chain_id)["metadata"]["n_groups"] == 20


def test_a_study_of_optuna_leaves_every_trial(store, spectra):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    X, y, _ = spectra

    def build(params):
        return PLSRegression(params["n"], scale=False)

    def objective(trial):
        n = trial.suggest_int("n", 1, 8)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise ZeroDivisionError
        errors = [build({"n": n}).fit(X[a], y[a]).predict(X[b]).ravel() - y[b] for a, b in INNER.split(X)]
        return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))

    study = optuna.create_study(study_name="pls", sampler=optuna.samplers.RandomSampler(seed=0))
    run_id = store.begin_run("tuning", {}, ["bands"])
    callback = optuna_callback(store, run_id, build, dataset_name="bands")
    study.optimize(objective, n_trials=6, callbacks=[callback], catch=(ZeroDivisionError,))
    before = len(store.get_chains_for_run(run_id))
    found = recorded(store, study, spectra, cv=INNER, build=build, run_id=run_id)
    store.complete_run(run_id, {})
    assert (before, len(store.get_chains_for_run(run_id))) == (4, 4)
    assert sorted(found.frame["state"].to_list()) == ["COMPLETE"] * 4 + ["FAIL", "PRUNED"]
    assert found.best_params == study.best_params
    assert found.result.rmsecv == pytest.approx(study.best_value)
    assert store.replay_chain(found.chain_id, X).shape == (60,)
    with pytest.raises(InvalidInput, match="build="):
        recorded(store, study, spectra)


def test_a_candidate_without_models_shows_its_scores_and_says_why_it_has_no_predictions(store, spectra):
    found = recorded(store, GridSearchCV(PLSRegression(), GRID, cv=INNER), spectra)
    assert found.scorer == "mean over splits of R2, the estimator's own score"
    assert store.trash.list().height == 0
    row = found.frame.row(-1, named=True)
    view = store.show_chain(row["chain_id"])
    assert f"score of the search {row['score']:.4g} (SD {row['score_sd']:.4g})" in repr(view)
    splits = store.get_chain(row["chain_id"])["metadata"]["search"]["split_scores"]
    page = view._repr_html_()
    assert ", ".join(f"{each:.4g}" for each in splits) in page
    assert "none stored" in page
    assert "cannot predict" in next(
        each.message for each in store.review(row["chain_id"]).findings if each.code == "R12"
    )
    for ask in (
        lambda: store.suggest_components(found.run_id),
        lambda: store.compare_errors(row["chain_id"], found.chain_id),
    ):
        with pytest.raises(InvalidInput, match=r"keep='all', or use store\.screen"):
            ask()
    labels = np.where(spectra[1] > np.median(spectra[1]), "high", "low")
    grid = GridSearchCV(LogisticRegression(), {"C": [1.0, 10.0]}, cv=3)
    assert recorded(store, grid, (spectra[0], labels, spectra[2])).scorer.startswith(
        "mean over splits of accuracy"
    )
