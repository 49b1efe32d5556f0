"""Confusion matrices, RMSE curves, and names at points far out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression

from nirs_store import WorkspaceStore, load_tecator, plots, record_cross_validation
from nirs_store.errors import InvalidInput, ShapeMismatch

MEAT = load_tecator()


def test_the_confusion_matrix_of_a_chain_counts_its_out_of_fold_labels(tmp_path: Path) -> None:
    labels = np.where(MEAT.fat[:60] > 18, "fat", "lean")
    with WorkspaceStore(tmp_path / "ws") as store:
        result = record_cross_validation(
            store, LogisticRegression(), MEAT.X[:60, ::10], labels, cv=3, dataset_name="meat"
        )
        drawn = plots.chain_confusion_matrix(store, result.chain_id)
        number = record_cross_validation(
            store, PLSRegression(2), MEAT.X[:60, ::10], MEAT.fat[:60], cv=3, dataset_name="meat"
        )
        with pytest.raises(InvalidInput, match="numbers"):
            plots.chain_confusion_matrix(store, number.chain_id)
    counts = np.array([int(text.get_text()) for text in drawn.axes[0].texts]).reshape(2, 2)
    assert counts.sum() == 60
    assert counts.sum(axis=1).tolist() == [(labels == "fat").sum(), (labels == "lean").sum()]
    assert np.trace(counts) / 60 == pytest.approx(result.pooled["accuracy"])


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        plots.confusion_matrix(["a"], ["a", "b"])
    with pytest.raises(InvalidInput, match="not among"):
        plots.confusion_matrix(["a"], ["b"], classes=["a"])
    with pytest.raises(InvalidInput, match="no labels"):
        plots.confusion_matrix([], [])


def test_three_errors_are_drawn_over_the_components() -> None:
    drawn = plots.errors_vs_components(
        {"RMSEC": ([3, 1, 2], [1, 3, 2]), "RMSECV": ([1, 2, 3], [3, 2.5, 2.6])}
    )
    assert drawn.axes[0].lines[0].get_ydata().tolist() == [3, 2, 1]
    with pytest.raises(InvalidInput, match="RMSEX"):
        plots.errors_vs_components({"RMSEX": ([1], [1])})


def test_samples_beyond_two_sep_carry_their_names(tmp_path: Path) -> None:
    fat = MEAT.fat[:60].copy()
    fat[7] += 60
    with WorkspaceStore(tmp_path / "ws") as store:
        chain = record_cross_validation(
            store, PLSRegression(3), MEAT.X[:60, ::10], fat, cv=3, dataset_name="meat",
            sample_ids=[f"cup {i}" for i in range(60)],
        ).chain_id  # fmt: skip
        for draw in (plots.chain_predicted_vs_measured, plots.chain_residuals):
            texts = [text.get_text() for text in draw(store, chain).axes[0].texts]
            assert "cup 7" in texts
            assert "cup 20" not in texts


@pytest.mark.parametrize("unit", ["cm-1", "nm"])
def test_wavenumbers_fall_from_left_to_right_and_wavelengths_rise(unit: str) -> None:
    grid = np.linspace(4000, 9000, 5) if unit == "cm-1" else np.linspace(1100, 2400, 5)
    lines = plots.pls_coefficients(np.arange(5.0), wavelengths=grid, wavelength_unit=unit)
    spectra = plots.spectra_by_step(
        [("raw", np.ones((3, 5))), ("less", np.ones((3, 4)))], wavelengths=grid, wavelength_unit=unit
    )
    for axes in (lines.axes[0], spectra.axes[0]):
        low, high = axes.get_xlim()
        assert (low > high) == (unit == "cm-1")
    assert [axes.get_xlabel() for axes in spectra.axes] == ["", "Channel"]
