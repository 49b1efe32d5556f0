"""Figures: what is drawn, in which words, and what is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from nirs_store import WorkspaceStore, load_tecator, plots, record_cross_validation
from nirs_store.errors import InvalidInput, ReadOnlyStore, ShapeMismatch, UnknownId, WriteFailed
from nirs_store.scores import regression_scores

TECATOR = load_tecator()
ROWS = slice(0, 60)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkspaceStore, dict[str, Any]]]:
    """A workspace with PLS of two sizes, a model without refit, one without coefficients and a classifier."""
    X, y = TECATOR.X[ROWS], TECATOR.fat[ROWS]
    words: dict[str, Any] = {
        "cv": KFold(3, shuffle=True, random_state=0),
        "wavelengths": TECATOR.wavelengths,
        "dataset_name": "tecator",
        "target": "fat",
        "target_unit": "%",
    }
    aside = {"X_test": TECATOR.X[60:80], "y_test": TECATOR.fat[60:80]}
    with WorkspaceStore(tmp_path_factory.mktemp("plots") / "ws") as store:
        run = store.begin_run("plots", {}, [{"name": "tecator"}])
        chains = {
            "pls3": record_cross_validation(
                store, make_pipeline(StandardScaler(), PLSRegression(3)), X, y, run_id=run, **words, **aside
            ),
            "pls5": record_cross_validation(
                store, make_pipeline(StandardScaler(), PLSRegression(5)), X, y, run_id=run, **words, **aside
            ),
            "folds": record_cross_validation(
                store, PLSRegression(4), X, y, run_id=run, refit=False, **words, **aside
            ),
            "svr": record_cross_validation(store, SVR(), X, y, run_id=run, **words),
            "lda": record_cross_validation(
                store,
                LinearDiscriminantAnalysis(),
                X[:, ::10],
                np.where(y > 20, "fat", "lean"),
                cv=3,
                dataset_name="lean",
            ),
        }
        yield store, chains


def box_of(figure: Any) -> str:
    return str(figure.axes[0].texts[0].get_text())


# -- predicted against measured ------------------------------------------------------------------


def test_predicted_vs_measured_has_equal_axes_and_the_one_to_one_line() -> None:
    axes = plots.predicted_vs_measured(cv=([1, 2, 30], [2, 2, 29]), target="fat", unit="%").axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_aspect() == 1.0
    line = axes.lines[0]
    assert list(line.get_xdata()) == list(line.get_ydata()) == list(axes.get_xlim())


def test_predicted_vs_measured_names_the_target_and_its_unit_on_both_axes() -> None:
    axes = plots.predicted_vs_measured(cv=([1, 2], [2, 2]), target="fat", unit="%").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Measured fat (%)", "Predicted fat (%)")


def test_predicted_vs_measured_draws_every_sample_of_every_set() -> None:
    axes = plots.predicted_vs_measured(
        calibration=([1, 2, 3], [1, 2, 3]), cv=([1, 2, 3], [1, 2, 4]), test=([5, 6], [5, 7])
    ).axes[0]
    assert [len(marks.get_offsets()) for marks in axes.collections] == [3, 3, 2]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "1:1",
        "Calibration",
        "Cross-validation",
        "Test",
    ]


def test_the_box_holds_the_scores_of_each_set_and_the_latent_variables() -> None:
    y = np.array([1.0, 2.0, 3.0, 5.0])
    yhat = np.array([1.5, 2.0, 2.5, 5.5])
    box = box_of(
        plots.predicted_vs_measured(calibration=(y, y + 0.25), cv=(y, yhat), test=(y, yhat), n_components=7)
    )
    scores = regression_scores(y, yhat)
    cv = next(line for line in box.splitlines() if line.startswith("RMSECV")).split()
    assert cv == [
        "RMSECV",
        f"{scores['rmse']:.3f}",
        "4",
        f"{scores['bias']:.3f}",
        f"{scores['sep']:.3f}",
        f"{scores['r2']:.3f}",
        f"{scores['rpd']:.1f}",
    ]
    assert [line.split()[0] for line in box.splitlines()[1:]] == ["RMSEC", "RMSECV", "RMSEP", "LVs", "bias:"]
    assert box.endswith("bias: predicted − measured")
    assert box.splitlines()[-2].split() == ["LVs", "7"]


def test_the_bias_of_a_least_squares_fit_is_shown_as_zero() -> None:
    y = np.arange(10.0)
    box = box_of(plots.predicted_vs_measured(calibration=(y, y + 1e-15 + 0.3 * np.tile([1, -1], 5))))
    assert "e-" not in box


@pytest.mark.parametrize(
    ("pair", "error", "words"),
    [
        (([1, 2], [1, 2, 3]), ShapeMismatch, "2 measured but 3 predicted"),
        (([1, np.nan], [1, 2]), InvalidInput, "missing or infinite"),
        ((["lean", "fat"], ["lean", "fat"]), InvalidInput, "must be numbers"),
        (([[1, 2], [3, 4]], [[1, 2], [3, 4]]), ShapeMismatch, "Choose one target"),
        (([1], [1]), InvalidInput, "at least 2 samples"),
    ],
)
def test_pairs_that_cannot_be_drawn_are_refused(pair: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plots.predicted_vs_measured(cv=pair)


def test_a_figure_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Nothing to draw"):
        plots.predicted_vs_measured()


# -- the other figures, from plain values ----------------------------------------------------------


def test_residuals_mark_what_lies_beyond_two_sep_of_the_bias() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=100)
    error = rng.normal(scale=0.1, size=100)
    figure = plots.residuals(y, y + error, target="fat", unit="%")
    within, beyond = figure.axes[0].collections
    scores = regression_scores(y, y + error)
    expected = np.abs(error - scores["bias"]) > 2 * scores["sep"]
    assert len(beyond.get_offsets()) == expected.sum() > 0
    assert len(within.get_offsets()) == 100 - expected.sum()
    assert np.allclose(np.sort(beyond.get_offsets()[:, 1]), np.sort(error[expected]))


def test_the_lowest_rmsecv_is_ringed_and_points_are_sorted() -> None:
    axes = plots.rmsecv_vs_components({"SNV": ([8, 2, 4], [2.0, 5.0, 1.5])}).axes[0]
    curve, ring = axes.lines
    assert list(curve.get_xdata()) == [2, 4, 8]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([4], [1.5])
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["SNV: 1.50 at 4"]


def test_a_curve_needs_as_many_scores_as_sizes() -> None:
    with pytest.raises(ShapeMismatch, match="SNV: 2 numbers of latent variables but 1 scores"):
        plots.rmsecv_vs_components({"SNV": ([2, 4], [5.0])})
    with pytest.raises(InvalidInput, match="at least one curve"):
        plots.rmsecv_vs_components({})


def test_fold_stability_shows_each_fold_and_the_pooled_score() -> None:
    figure = plots.fold_stability(["0", "1", "2"], [1.0, 2.0, 3.0], train=[0.5] * 3, pooled=2.1)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "Validation",
        "mean 2.00 ± 1.00",
        "Training",
        "pooled 2.10",
    ]


def test_fold_stability_wants_a_score_a_fold() -> None:
    with pytest.raises(ShapeMismatch, match="2 folds but 1 validation"):
        plots.fold_stability(["0", "1"], [1.0])
    with pytest.raises(InvalidInput, match="no folds"):
        plots.fold_stability([], [])


@pytest.mark.parametrize(("lower", "best"), [(True, (1, 1)), (False, (0, 0))])
def test_the_heat_map_frames_the_best_cell(lower: bool, best: tuple[int, int]) -> None:
    axes = plots.heatmap(["raw", "SNV"], ["a", "b"], [[4.0, np.nan], [2.5, 2.0]], lower_is_better=lower).axes[
        0
    ]
    frame = axes.lines[-1]
    row, column = best
    assert (min(frame.get_xdata()), min(frame.get_ydata())) == (column - 0.5, row - 0.5)
    assert sorted(text.get_text() for text in axes.texts) == ["2.00", "2.50", "4.00"]


def test_one_hopeless_cell_does_not_take_all_the_colours() -> None:
    axes = plots.heatmap(["r"], ["a", "b", "c", "d"], [[2.0, 2.2, 2.4, 90.0]]).axes[0]
    assert axes.images[0].get_clim() == pytest.approx((2.0, 2.9))


def test_a_pivot_frame_is_drawn_with_its_names(recorded: Any) -> None:
    frame = pl.DataFrame({"preprocessings": ["raw", "SNV"], "PLS": [4.0, 2.0], "SVR": [None, 1.0]})
    axes = plots.heatmap_frame(frame, metric="RMSECV", target="fat", unit="%").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["raw", "SNV"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["PLS", "SVR"]
    assert axes.get_title(loc="left") == "RMSECV of fat"
    pandas = frame.to_pandas()
    assert len(plots.heatmap_frame(pandas).axes[0].texts) == 3


def test_a_pivot_frame_of_words_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'model' of the pivot must hold numbers"):
        plots.heatmap_frame(pl.DataFrame({"rows": ["raw"], "model": ["PLS"]}))
    with pytest.raises(InvalidInput, match="at least one of scores"):
        plots.heatmap_frame(pl.DataFrame({"rows": ["raw"]}))
    with pytest.raises(InvalidInput, match="no cell"):
        plots.heatmap(["raw"], ["PLS"], [[np.nan]])
    with pytest.raises(ShapeMismatch, match=r"shape \(1, 2\)"):
        plots.heatmap(["raw"], ["PLS", "SVR"], [[1.0]])


def test_spectra_are_drawn_over_wavelength_coloured_by_value() -> None:
    X = TECATOR.X[:7]
    figure = plots.spectra_by_step(
        [("raw", X), ("cut", X[:, :50])],
        wavelengths=TECATOR.wavelengths,
        values=np.arange(7.0),
        target="fat",
        unit="%",
    )
    raw, cut, bar = figure.axes
    assert np.allclose(np.array(raw.collections[0].get_segments())[:, :, 0], TECATOR.wavelengths)
    assert np.allclose(np.array(raw.collections[0].get_segments())[:, :, 1], X)
    assert (cut.get_xlabel(), bar.get_ylabel()) == ("Channel", "fat (%)")
    assert len({tuple(colour) for colour in raw.collections[0].get_colors()}) == 7


def test_wavenumbers_are_not_called_wavelengths() -> None:
    figure = plots.spectra_by_step(
        [("raw", np.eye(3))], wavelengths=[9000, 8000, 7000], wavelength_unit="cm-1"
    )
    assert figure.axes[0].get_xlabel() == "Wavenumber (cm⁻¹)"


def test_stages_with_other_numbers_of_spectra_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="SNV: expected 2 spectra"):
        plots.spectra_by_step([("raw", np.ones((2, 3))), ("SNV", np.ones((3, 3)))])
    with pytest.raises(ShapeMismatch, match="2 spectra but 3 values"):
        plots.spectra_by_step([("raw", np.ones((2, 3)))], values=[1, 2, 3])
    with pytest.raises(InvalidInput, match="at least one"):
        plots.spectra_by_step([])


def test_coefficients_are_drawn_with_the_range_of_the_folds() -> None:
    figure = plots.pls_coefficients(
        [[0.0, 1.0]], wavelengths=[900, 910], folds=[[0, 2], [-1, 1]], target="fat", unit="%"
    )
    axes = figure.axes[0]
    assert list(axes.lines[1].get_ydata()) == [0.0, 1.0]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (-1.0, 2.0)
    assert axes.get_ylabel() == "Coefficient (% fat per unit of signal)"
    with pytest.raises(ShapeMismatch, match="2 coefficients but 3 wavelengths"):
        plots.pls_coefficients([0.0, 1.0], wavelengths=[1, 2, 3])
    with pytest.raises(ShapeMismatch, match="A fold must have 2 coefficients"):
        plots.pls_coefficients([0.0, 1.0], folds=[[1, 2, 3]])


# -- the same figures of a stored chain --------------------------------------------------------------


def test_a_chain_is_drawn_with_what_was_recorded(recorded: Any) -> None:
    store, chains = recorded
    result = chains["pls5"]
    figure = plots.chain_predicted_vs_measured(store, result.chain_id)
    box = {line.split()[0]: line.split()[1] for line in box_of(figure).splitlines()[1:]}
    assert box["RMSECV"] == f"{result.rmsecv:.3f}"
    assert box["RMSEP"] == f"{result.test_value:.3f}"
    assert box["LVs"] == "5"
    final = result.scores.filter((pl.col("fold_id") == "final") & (pl.col("partition") == "train"))
    assert box["RMSEC"] == f"{final['rmse'][0]:.3f}"
    axes = figure.axes[0]
    assert [len(marks.get_offsets()) for marks in axes.collections] == [60, 60, 20]
    assert axes.get_xlabel() == "Measured fat (%)"
    assert axes.get_title(loc="left") == "StandardScaler > PLS(5)"


def test_without_a_refit_the_folds_are_averaged_for_each_sample(recorded: Any) -> None:
    store, chains = recorded
    result = chains["folds"]
    axes = plots.chain_predicted_vs_measured(store, result.chain_id).axes[0]
    assert [len(marks.get_offsets()) for marks in axes.collections] == [60, 60, 20]
    drawn = axes.collections[2].get_offsets()
    replayed = store.replay_chain(result.chain_id, TECATOR.X[60:80])
    assert np.allclose(drawn[:, 1], replayed)


def test_residuals_of_a_chain_are_the_out_of_fold_ones(recorded: Any) -> None:
    store, chains = recorded
    figure = plots.chain_residuals(store, chains["pls5"].chain_id)
    errors = np.concatenate([marks.get_offsets()[:, 1] for marks in figure.axes[0].collections])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(chains["pls5"].rmsecv)


def test_chains_of_a_run_give_the_curves_and_the_heat_map(recorded: Any) -> None:
    store, chains = recorded
    axes = plots.chain_rmsecv_vs_components(store, chains["svr"].chain_id).axes[0]
    curves = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    scaled = next(line for name, line in curves.items() if name.startswith("StandardScaler"))
    assert list(scaled.get_xdata()) == [3, 5]
    assert list(scaled.get_ydata()) == pytest.approx([chains["pls3"].rmsecv, chains["pls5"].rmsecv])
    axes = plots.chain_heatmap(store, chains["pls3"].chain_id).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["StandardScaler", "raw"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["PLS(3)", "PLS(5)", "PLS(4)", "SVR"]


def test_fold_stability_of_a_chain_agrees_with_its_score_table(recorded: Any) -> None:
    store, chains = recorded
    result = chains["pls5"]
    axes = plots.chain_fold_stability(store, result.chain_id).axes[0]
    expected = result.scores.filter((pl.col("partition") == "val") & (pl.col("fold_id") != "pooled"))["rmse"]
    assert axes.collections[0].get_offsets()[:, 1].tolist() == pytest.approx(expected.to_list())


def test_a_classifier_has_fold_stability_but_no_predicted_against_measured(recorded: Any) -> None:
    store, chains = recorded
    result = chains["lda"]
    figure = plots.chain_fold_stability(store, result.chain_id)
    assert figure.axes[0].get_ylabel() == "balanced accuracy"
    with pytest.raises(InvalidInput, match="classifies"):
        plots.chain_predicted_vs_measured(store, result.chain_id)


def test_spectra_of_a_chain_end_as_its_model_sees_them(recorded: Any) -> None:
    store, chains = recorded
    figure = plots.chain_spectra_by_step(store, chains["pls5"].chain_id, TECATOR.X[:5])
    seen = np.array(figure.axes[1].collections[0].get_segments())[:, :, 1]
    scaler = StandardScaler().fit(TECATOR.X[ROWS])
    assert np.allclose(seen, scaler.transform(TECATOR.X[:5]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["raw", "StandardScaler"]
    with pytest.raises(ShapeMismatch, match="fitted on 100 channels"):
        plots.chain_spectra_by_step(store, chains["pls5"].chain_id, TECATOR.X[:5, :50])


def test_coefficients_of_a_chain_are_those_of_the_refit(recorded: Any) -> None:
    store, chains = recorded
    axes = plots.chain_pls_coefficients(store, chains["pls5"].chain_id).axes[0]
    refit = make_pipeline(StandardScaler(), PLSRegression(5)).fit(TECATOR.X[ROWS], TECATOR.fat[ROWS])
    assert np.allclose(axes.lines[1].get_ydata(), refit[-1].coef_[0])
    assert np.allclose(axes.lines[1].get_xdata(), TECATOR.wavelengths)
    legend = axes.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["range of 3 folds", "refit"]
    with pytest.raises(InvalidInput, match=r"SVR.*has no coefficients"):
        plots.chain_pls_coefficients(store, chains["svr"].chain_id)


def test_an_unknown_chain_is_named(recorded: Any) -> None:
    with pytest.raises(UnknownId, match="'nowhere'"):
        plots.chain_residuals(recorded[0], "nowhere")


# -- files and matplotlib ------------------------------------------------------------------------------


def test_figures_are_saved_in_the_format_of_the_suffix(tmp_path: Path) -> None:
    figure = plots.residuals([1, 2, 3], [1, 2, 4])
    assert plots.save_figure(figure, tmp_path / "new" / "a").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in plots.save_figure(figure, tmp_path / "a.svg").read_bytes()
    with pytest.raises(InvalidInput, match=r"\.docx"):
        plots.save_figure(figure, tmp_path / "a.docx")


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys; from nirs_store import plots; assert 'matplotlib' not in sys.modules; "
        "plots.residuals([1, 2, 3], [1, 2, 4]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(plots.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InvalidInput, match=r'pip install "nirs_store\[plot\]"'):
        plots.residuals([1, 2, 3], [1, 2, 4])


@pytest.mark.parametrize("name", [name for name in plots.__all__ if name != "KINDS"])
def test_annotations_resolve_and_docstrings_say_what_is_raised(name: str) -> None:
    function = getattr(plots, name)
    assert get_type_hints(function)
    assert "Raises" in (function.__doc__ or "")


def test_a_figure_that_the_system_refuses_to_write_raises_errors_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = plots.predicted_vs_measured(test=(TECATOR.fat[:9], TECATOR.fat[:9]))
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed):
        plots.save_figure(figure, tmp_path / "file" / "a.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(figure, "savefig", refuse)
    with pytest.raises(ReadOnlyStore, match=r"a\.png could not be written"):
        plots.save_figure(figure, tmp_path / "a.png")
