"""Screening: what is recorded, kept, chosen, and continued."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store import WorkspaceStore, plots, read_spectra, record_cross_validation
from nirs_store.errors import InvalidInput, RecordingWarning, ReplayError, ShapeMismatch, UnknownId

screening = importlib.import_module("nirs_store.screening.screen")  # the package has a function of that name
CV = KFold(5, shuffle=True, random_state=1)


def screened(store, spectra, **options):
    X, y, grid = spectra
    given = {
        "preprocess": ["raw", "autoscale"],
        "components": range(1, 9),
        "cv": CV,
        "dataset_name": "bands",
        "target": "sugar",
        "target_unit": "%",
        "wavelengths": grid,
    }
    return store.screen(X, y, **(given | options))


def test_every_candidate_has_the_scores_of_a_cross_validation_of_its_own(store, spectra):
    board = screened(store, spectra)
    assert board.frame.height == 16
    assert board.frame["rmsecv"].is_sorted()
    row = board.rows[3]
    steps = PLSRegression(row.components, scale=False)
    if row.preprocessing == "autoscale":
        from sklearn.pipeline import make_pipeline

        steps = make_pipeline(StandardScaler(), steps)
    alone = record_cross_validation(store, steps, *spectra[:2], cv=CV, dataset_name="bands")
    found = board.frame.row(3, named=True)
    for name, value in (("rmsecv", alone.rmsecv), ("fold_sd", alone.fold_sd), ("bias", alone.pooled["bias"])):
        assert found[name] == pytest.approx(value, rel=1e-9)
    ranked = store.top_chains(50, run_id=board.run_id)
    assert ranked.height == 16
    assert ranked["rmsecv"].to_list() == pytest.approx(board.frame["rmsecv"].to_list())


def test_the_best_is_kept_and_replays_to_the_bit_the_others_say_why_not(store, spectra):
    board = screened(store, spectra)
    best = board.best()
    assert board.frame["kept"].sum() == 1
    assert best == store.suggest_components(best, "one_se").chain_id
    rows = store.query_predictions(chain_id=best, partition="train").filter(pl.col("fold_id") == "final")
    stored = store.get_prediction(rows["prediction_id"][0], load_arrays=True)
    np.testing.assert_array_equal(store.replay_chain(best, spectra[0]), stored["y_pred"])
    assert store.diagnose(best, spectra[0]).samples.height == 60
    other = board.frame.filter(~pl.col("kept"))["chain_id"][0]
    for use in (store.replay_chain, store.diagnose):
        with pytest.raises(ReplayError, match=r"not its fitted model.*board\.keep"):
            use(other, spectra[0])
    with pytest.raises(ReplayError, match="cannot predict"):
        store.export_chain(other, store.workspace_path / "x.n4a")
    kept = board.keep(other)
    assert store.replay_chain(kept, spectra[0]).shape == (60,)
    assert board.keep(other) == board.keep(kept) == kept
    assert store.get_chain(other) is None
    assert store.check(read_data=True).ok
    assert board.frame.height == 16
    with pytest.raises(UnknownId):
        board.keep(17)


def test_figures_and_rules_take_candidates_without_models(store, spectra):
    board = screened(store, spectra)
    figure = board.plot()
    assert [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()] == [
        *dict.fromkeys(row.preprocessing for row in board.rows)
    ]
    assert sum(line.get_marker() == "D" for line in figure.axes[0].lines) == 2
    scored = next(row.chain_id for row in board.rows if not row.kept)
    plots.chain_predicted_vs_measured(store, scored)
    plots.chain_rmsecv_vs_components(store, scored)
    assert len(store.suggest_components(board.run_id)) == 2
    assert board.choose("min") is board.rows[0]
    with pytest.raises(InvalidInput, match="one_se"):
        board.best("onese")
    assert "16 candidates for sugar (%), 1 kept" in repr(board)
    assert "<table>" in board._repr_html_()


@pytest.mark.parametrize(("keep", "count"), [("all", 4), (3, 3), ("best", 1)])
def test_as_many_are_kept_as_asked(store, spectra, keep, count):
    board = screened(store, spectra, components=[2, 4], keep=keep, keep_folds=False)
    assert board.frame["kept"].sum() == count
    for row in board.rows:
        chain = store.get_chain(row.chain_id)
        assert list(chain["fold_artifacts"]) == (["final"] if row.kept else [])
        assert store.query_predictions(chain_id=row.chain_id, partition="val").height == 5
        if row.kept:
            assert store.replay_chain(row.chain_id, spectra[0]).shape == (60,)
    again = screened(store, spectra, components=[2, 4], keep="all")
    assert again.run_id == board.run_id
    assert again.frame["kept"].all()


def test_an_estimator_is_named_without_the_number_it_came_with_and_k_is_k(store, spectra):
    board = screened(
        store, spectra, model=PLSRegression(2, scale=False), keep=1, rule="min", preprocess="raw"
    )
    assert set(board.frame["model"]) == {"PLS(scale=False)"}
    board = screened(store, spectra, keep=1, rule="one_se", resume=False)
    assert board.choose("one_se").rank > 1
    assert board.frame.filter("kept")["rank"].to_list() == [1]


def test_workers_find_the_same(store, spectra):
    alone = screened(store, spectra, model=["pls", Ridge(0.1)], resume=False)
    with_workers = screened(store, spectra, model=["pls", Ridge(0.1)], resume=False, n_jobs=2)
    assert alone.run_id != with_workers.run_id
    assert alone.frame.drop("chain_id").equals(with_workers.frame.drop("chain_id"))
    assert alone.frame.filter(model="Ridge(alpha=0.1)")["components"].to_list() == [None, None]


def test_a_screening_that_was_killed_goes_on_with_what_is_missing(tmp_path, spectra, monkeypatch):
    X, y, _ = spectra
    np.savez(tmp_path / "data.npz", X=X, y=y)
    code = f"""
        import importlib, os, signal
        import numpy as np
        from sklearn.model_selection import KFold
        from nirs_store import WorkspaceStore

        def tell(done, total, best):
            if done == 6:
                os.kill(os.getpid(), {int(getattr(signal, "SIGKILL", signal.SIGTERM))})

        if __name__ == "__main__":
            importlib.import_module("nirs_store.screening.screen")._COMMIT_SECONDS = 0
            data = np.load({str(tmp_path / "data.npz")!r})
            with WorkspaceStore({str(tmp_path / "ws")!r}) as store:
                store.screen(data["X"], data["y"], preprocess=["raw", "center", "autoscale"], components=[1, 2, 3],
                             cv=KFold(4), dataset_name="bands", progress=tell)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert ended.returncode not in (0, 1), ended.stderr
    fitted = []
    own = screening.fit_group
    monkeypatch.setattr(
        screening, "fit_group", lambda *given: (fitted.append(given[1].preprocessing), own(*given))[1]
    )
    options = {
        "preprocess": ["raw", "center", "autoscale"],
        "components": [1, 2, 3],
        "cv": KFold(4),
        "dataset_name": "bands",
    }
    with WorkspaceStore(tmp_path / "ws") as store:
        assert store.list_runs()["status"].to_list() == ["interrupted"]
        board = store.screen(X, y, **options)
        assert fitted == ["autoscale"] * 4
        assert board.frame.height == 9
        assert store.list_runs()["status"].to_list() == ["completed"]
        again = store.screen(X, y, **options)
        assert (len(fitted), again.run_id) == (4, board.run_id)
        assert again.frame.equals(board.frame)
        other = store.screen(X, y + 1e-12, **options)
        assert (len(fitted), other.run_id == board.run_id) == (16, False)
        store.screen(X, y, resume=False, **options)
        assert len(fitted) == 28
        assert {finding.severity for finding in store.check().findings} <= {"info", "warning"}


def test_ctrl_c_leaves_what_is_recorded_for_the_next_call(store, spectra, monkeypatch):
    def stop(done, total, best):
        raise KeyboardInterrupt

    monkeypatch.setattr(screening, "_COMMIT_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        screened(store, spectra, progress=stop)
    told = []
    board = screened(store, spectra, progress=lambda *words: told.append(words))
    assert [words[:2] for words in told] == [(8, 16), (16, 16)]
    assert told[-1][2]["preprocessing"] == "autoscale"
    assert board.frame.height == 16
    assert store.list_runs().height == 1


def test_code_that_cannot_be_described_is_fitted_again(store, spectra):
    options = {"preprocess": {"log": FunctionTransformer(lambda X: X * 2)}, "components": [2]}
    first = screened(store, spectra, **options, artifact_format="cloudpickle")
    assert screened(store, spectra, **options, artifact_format="cloudpickle").run_id != first.run_id


class Broken(Ridge):
    def fit(self, X, y, sample_weight=None):
        raise ZeroDivisionError("no luck")


def test_a_candidate_that_fails_is_named_and_the_others_go_on(store, spectra):
    with pytest.warns(RecordingWarning, match="no luck"):
        board = screened(
            store, spectra, model={"pls": "pls", "broken": Broken()}, preprocess="raw", components=[1, 2]
        )
    assert board.frame.height == 2
    assert board.failed == {"raw, broken": "no luck"}
    assert "failed: raw, broken: no luck" in repr(board)
    assert store.list_pipelines(board.run_id).filter(status="failed").height == 1
    with pytest.warns(RecordingWarning, match="no luck"), pytest.raises(InvalidInput, match="No candidate"):
        screened(store, spectra, model=Broken(), components=None)
    assert store.list_runs()["status"][0] == "failed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": [50]}, "smallest fold"),
        ({"components": [2, 50], "model": PLSRegression()}, "smallest fold"),
        ({"components": [0, 1]}, "whole numbers"),
        ({"model": Ridge()}, "no number of components"),
        ({"model": [PLSRegression(2), PLSRegression(3)]}, "given twice"),
        ({"model": "plsr"}, "Did you mean 'pls'"),
        ({"model": PLSRegression}, "estimator"),
        ({"model": ["pls", LogisticRegression()]}, "found both"),
        ({"preprocess": "snvv"}, "Did you mean 'snv'"),
        ({"keep": "some"}, "keep"),
        ({"rule": "best"}, "rule"),
        ({"dataset_name": " "}, "dataset_name"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"metric": "rsme"}, "Did you mean 'rmse'"),
    ],
)
def test_bad_input_records_nothing(store, spectra, options, words):
    with pytest.raises(InvalidInput, match=words):
        screened(store, spectra, **options)
    assert store.list_runs().height == 0


def test_several_targets_and_classes_are_ranked_by_their_score(store, spectra):
    X, y, grid = spectra
    board = screened(store, (X, np.column_stack([y, -y]), grid), components=[1, 2, 3])
    assert store.replay_chain(board.best(), X).shape == (60, 2)
    assert board.best() == board.rows[0].chain_id
    classes = np.where(y > np.median(y), "high", "low")
    board = screened(store, (X, classes, grid), model=LogisticRegression(), components=None)
    assert board.frame.columns == [
        "rank", "preprocessing", "model", "components", "balanced_accuracy", "fold_sd", "n", "kept", "chain_id",
    ]  # fmt: skip
    assert board.frame["balanced_accuracy"].is_sorted(descending=True)
    assert set(store.replay_chain(board.best(), X)) == {"high", "low"}
    with pytest.raises(InvalidInput, match="Nothing to draw"):
        board.plot()


def test_a_file_of_spectra_brings_along_everything(store, spectra, tmp_path):
    X, y, grid = spectra
    names = [f"S{row // 2:02d}" for row in range(60)]
    frame = pl.DataFrame({"id": [f"r{row}" for row in range(60)], "lot": names, "sugar": y}).hstack(
        pl.DataFrame(X, schema=[f"{value:.2f}" for value in grid])
    )
    frame.write_csv(tmp_path / "beet.csv")
    file = read_spectra(tmp_path / "beet.csv", target="sugar", unit="%", groups="lot")
    board = store.screen(file, components=[2, 4], cv=GroupKFold(5))
    chain = store.get_chain(board.best())
    assert (chain["target"], chain["target_unit"], chain["metadata"]["n_groups"]) == ("sugar", "%", 30)
    assert store.list_runs()["name"][0] == "Screening of sugar"
    assert store.top_chains(1)["dataset_name"][0] == "beet"
    assert store.diagnose(board.best(), file).samples.height == 60
    with pytest.warns(RecordingWarning, match="GroupKFold"):
        store.screen(file, components=[2], cv=KFold(5))
    with pytest.raises(InvalidInput, match="no target"):
        store.screen(read_spectra(tmp_path / "beet.csv"), components=[2], cv=3)


def test_an_unseeded_shuffle_splits_once_for_candidates_and_what_is_kept(store, spectra):
    board = screened(store, spectra, cv=KFold(5, shuffle=True), components=[3], preprocess="raw")
    value = board.rows[0].value
    scored_again = store.top_chains(1, run_id=board.run_id)["rmsecv"][0]
    assert board.rows[0].kept
    assert value == pytest.approx(scored_again, rel=1e-12)


def test_a_crash_between_keeping_and_deleting_shows_the_candidate_once(store, spectra, monkeypatch):
    def crash(self, chain_id, **_):
        raise OSError("power")

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "delete_chain", crash)
        with pytest.raises(OSError, match="power"):
            screened(store, spectra)
    board = screened(store, spectra)
    assert board.frame.height == 16
    assert board.frame["kept"].sum() == 1
    models = [chain["metadata"]["screening"]["kept"] for chain in store.get_chains_for_run(board.run_id)]
    assert sum(models) == 1


def test_keep_folds_of_a_cross_validation_of_its_own(store, spectra):
    X, y, _ = spectra
    slim = record_cross_validation(
        store, PLSRegression(4), X, y, cv=CV, dataset_name="slim", keep_folds=False
    )
    full = record_cross_validation(store, PLSRegression(4), X, y, cv=CV, dataset_name="full")
    assert slim.scores.drop("prediction_id").equals(full.scores.drop("prediction_id"))
    assert list(store.get_chain(slim.chain_id)["fold_artifacts"]) == ["final"]
    np.testing.assert_array_equal(store.replay_chain(slim.chain_id, X), store.replay_chain(full.chain_id, X))
    with pytest.raises(InvalidInput, match="refit=True"):
        record_cross_validation(
            store, PLSRegression(4), X, y, cv=CV, dataset_name="x", keep_folds=False, refit=False
        )


def test_the_refit_of_what_is_kept_predicts_a_test_set(store, spectra):
    X, y, grid = spectra
    board = screened(store, (X[:45], y[:45], grid), X_test=X[45:], y_test=y[45:], keep=2)
    kept = board.frame.filter("kept")
    assert kept.height == 2
    assert board.frame.filter(~pl.col("kept"))["rmsep"].null_count() == 14
    for row in kept.iter_rows(named=True):
        error = store.replay_chain(row["chain_id"], X[45:]) - y[45:]
        assert row["rmsep"] == pytest.approx(np.sqrt((error**2).mean()))
    chosen = board.keep(9)
    assert board.frame.filter(chain_id=chosen)["rmsep"][0] > 0
    # Another test set is another screening; none has no such column.
    assert screened(store, (X[:45], y[:45], grid), X_test=X[50:], y_test=y[50:]).run_id != board.run_id
    assert "rmsep" not in screened(store, (X[:45], y[:45], grid)).frame.columns
    labels = np.where(y > np.median(y), "high", "low")
    options = {"model": LogisticRegression(), "components": None, "X_test": X[45:], "y_test": labels[45:]}
    board = screened(store, (X[:45], labels[:45], grid), **options)
    assert 0 <= board.frame.filter("kept")["test_balanced_accuracy"][0] <= 1
    with pytest.raises(InvalidInput, match="come together"):
        screened(store, spectra, X_test=X)


def test_a_file_as_test_set_must_have_the_grid_and_the_target(store, spectra, tmp_path):
    X, y, grid = spectra

    def file(name, rows, wavelengths):
        frame = pl.DataFrame({"id": [f"r{row}" for row in range(60)], "sugar": y, "starch": y + 1}).hstack(
            pl.DataFrame(X, schema=[f"{value:.2f}" for value in wavelengths])
        )
        frame[rows].write_csv(tmp_path / name)
        return tmp_path / name

    beet = read_spectra(file("beet.csv", slice(0, 45), grid), target=["sugar", "starch"], unit="%")
    held = file("held.csv", slice(45, 60), grid)
    options = {"components": [2, 3], "cv": 3}
    with pytest.raises(InvalidInput, match="target"):
        store.screen(beet, X_test=read_spectra(held, target="sugar"), **options)
    other = read_spectra(file("other.csv", slice(45, 60), grid + 100), target=["sugar", "starch"])
    with pytest.raises(InvalidInput, match="wavelengths of the calibration"):
        store.screen(beet, X_test=other, **options)
    assert store.list_runs().height == 0
    held = read_spectra(held, target=["sugar", "starch"])
    board = store.screen(beet, X_test=held, **options)
    assert "2 candidates for sugar, starch (%), means of the targets" in repr(board)
    assert "se" not in board.frame.columns
    with pytest.raises(InvalidInput, match="one target; found 2"):
        store.diagnose(board, beet)
    one = store.screen(read_spectra(tmp_path / "beet.csv", target="starch"), **options)
    assert store.diagnose(one, beet).samples["measured"].to_list() == beet.y[:, 1].tolist()
    error = store.replay_chain(board.best(), held.X) - held.y
    rmsep = np.sqrt((error**2).mean(axis=0)).mean()
    assert board.frame.filter("kept")["rmsep"][0] == pytest.approx(rmsep)
    with pytest.warns(RecordingWarning, match="15 of its samples"):
        store.screen(
            beet, X_test=read_spectra(file("same.csv", slice(20, 35), grid), target=beet.target), **options
        )


def test_a_board_stands_for_its_run_and_its_best_chain(store, spectra):
    board = screened(store, spectra)
    assert store.trash.list().height == 0  # what replaces candidates is no deletion of the user
    assert store.show_run(board).run_id == board.run_id
    assert store.show_chain(board).chain_id == board.best()
    np.testing.assert_array_equal(
        store.replay_chain(board, spectra[0]), store.replay_chain(board.best(), spectra[0])
    )
    choices = store.suggest_components(board)
    assert sorted(each.preprocessings or "raw" for each in choices) == ["StandardScaler", "raw"]
    alone = record_cross_validation(
        store, PLSRegression(2, scale=False), *spectra[:2], cv=CV, dataset_name="bands"
    )
    with pytest.raises(InvalidInput, match="two numbers of latent variables"):
        store.suggest_components(alone)  # taken as its chain


def test_spectra_of_a_file_are_predicted_and_transformed_as_they_are(store, spectra, tmp_path):
    X, y, grid = spectra
    pl.DataFrame({"sugar": y}).hstack(pl.DataFrame(X, schema=[f"{value:.4f}" for value in grid])).write_csv(
        tmp_path / "beet.csv"
    )
    file = read_spectra(tmp_path / "beet.csv", target="sugar")
    board = store.screen(file, preprocess="autoscale", components=[2], cv=3)
    np.testing.assert_array_equal(store.replay_chain(board, file), store.replay_chain(board, file.X))
    np.testing.assert_array_equal(
        store.predictor(board.best()).predict(file), store.replay_chain(board, file.X)
    )
    np.testing.assert_allclose(store.transform(board, file), StandardScaler().fit_transform(file.X))
    other = pl.DataFrame({"sugar": y}).hstack(pl.DataFrame(X, schema=[f"{value + 5:.4f}" for value in grid]))
    other.write_csv(tmp_path / "other.csv")
    with pytest.raises(ShapeMismatch, match="grid"):
        store.replay_chain(board, read_spectra(tmp_path / "other.csv"))
