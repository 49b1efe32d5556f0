"""The figures of a chain, from what was recorded: no fitted model is opened for any of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from nirs_store.errors import BlobCorrupt, BlobMissing, BlobUnreadable, InvalidInput, NirsStoreError
from nirs_store.plots._chain import chain_data
from nirs_store.plots._figure import axis_words, wavelength_words
from nirs_store.scores import regression_scores
from nirs_store.store import WorkspaceStore
from nirs_store.ui.figure import Figure
from nirs_store.ui.table import number_text

__all__ = ["ChainFigures", "short", "spectrum_figure"]

_SETS = (("calibration", "cal", "Calibration"), ("cv", "cv", "Cross-validation"), ("test", "test", "Test"))


def short(value: float) -> str:
    """Write a value with four significant figures."""
    return number_text(
        float(f"{value:.4g}"),
        None if 0 < abs(value) < 1e-4 else max(0, 3 - int(np.floor(np.log10(abs(value) or 1)))),
    )


class ChainFigures:
    """The figures of one chain; each is None where what it needs was not recorded."""

    def __init__(self, store: WorkspaceStore, chain_id: str) -> None:
        self.store, self.data = store, chain_data(store, chain_id)

    @cached_property
    def pairs(self) -> dict[str, tuple[Any, Any, list[str]]]:
        """Measured, predicted and names of the calibration, the cross-validation and the test."""
        data = self.data
        if not data.predictions or not data.is_regression:
            return {}
        found = {}
        for name, _, _ in _SETS:
            try:
                pair = data.pair(name)
            except (InvalidInput, ValueError):  # several targets, or labels: other figures are about those
                continue
            if pair is not None and len(pair[0]):
                names = data.sample_names(name) if name != "calibration" else []
                found[name] = (*pair, names if len(names) == len(pair[0]) else [])
        return found

    @cached_property
    def space(self) -> Any:
        """The latent space of the calibration, as the domain of the chain keeps it; None where it does not."""
        try:
            domain = self.store.domain(self.data.chain_id)
        except (
            BlobMissing,
            BlobCorrupt,
            BlobUnreadable,
        ):  # the health screen names it; other figures are shown
            return None
        return None if domain is None or not domain.spaces else domain.spaces[0]

    def predicted_vs_measured(self, width: int = 460) -> Figure | None:
        """Draw predicted against measured; None where no arrays are kept, or the chain classifies."""
        data = self.data
        pairs = self.pairs
        if not pairs:
            return None
        target = data.target or "value"
        axes = (axis_words(words, target, data.unit) for words in ("Measured", "Predicted"))
        figure = Figure("Predicted against measured", *axes, equal=True, width=width)
        for name, kind, words in _SETS:
            if name in pairs:
                measured, predicted, names = pairs[name]
                scores = regression_scores(measured, predicted)
                called = zip(names or [words] * len(measured), measured, predicted, strict=True)
                titles = [
                    f"{sample}\nmeasured {short(m)}\npredicted {short(p)}\nerror {short(p - m)}"
                    for sample, m, p in called
                ]
                marks: dict[str, Any] = {"marker": "triangle", "size": 4.2} if name == "test" else {}
                entry = f"{words}: RMSE {short(scores['rmse'])}, n {len(measured)}"
                figure.points(
                    measured, predicted, kind, label=entry, titles=titles, keys=names or None, **marks
                )
        return figure

    def residuals(self) -> Figure | None:
        """Draw predicted minus measured against measured, of out-of-fold and test samples."""
        data = self.data
        pairs = {name: pair for name, pair in self.pairs.items() if name != "calibration"}
        if not pairs:
            return None
        figure = Figure(
            "Residuals",
            axis_words("Measured", data.target or "value", data.unit),
            axis_words("Predicted − measured", "", data.unit),
        )
        figure.across(0.0, "line")
        for name, kind, words in _SETS:
            if name in pairs:
                measured, predicted, names = pairs[name]
                error = predicted - measured
                titles = [
                    f"{s}\nerror {short(e)}"
                    for s, e in zip(names or [words] * len(error), error, strict=True)
                ]
                marker = "triangle" if name == "test" else "circle"
                figure.points(
                    measured, error, kind, label=words, titles=titles, keys=names or None, marker=marker
                )
                if name == "cv" and len(error) > 2:
                    spread = 2 * float(error.std(ddof=1))
                    figure.across(float(error.mean()) + spread, "faint").across(
                        float(error.mean()) - spread, "faint", label="bias ± 2 SEP"
                    )
        return figure

    def rmsecv_vs_components(self) -> Figure | None:
        """Draw the RMSECV of the chain's family against the number of latent variables, with the rule's choice."""
        try:
            choice = self.store.suggest_components(self.data.chain_id)
        except NirsStoreError:  # no latent variables, or no arrays: there is nothing to choose
            return None
        if isinstance(choice, list) or choice.table.height < 3:
            return None
        table = choice.table.sort("components")
        numbers, values = table["components"].to_numpy(), table["rmsecv"].to_numpy()
        spread = table["se"].fill_null(0.0).to_numpy()
        words = axis_words("RMSECV", "", choice.unit)
        figure = Figure("RMSECV against latent variables", "Latent variables", words, whole_x=True, zero=True)
        known = numbers > 0 if numbers.size > 4 else numbers >= 0
        figure.band(numbers[known], (values - spread)[known], (values + spread)[known], "cv", label="± SE")
        figure.line(numbers[known], values[known], "cv")
        links = [f"/chains/{each}" if each else "" for each in table["chain_id"].to_list()]
        titles = [f"{n} LVs: RMSECV {short(v)}" for n, v in zip(numbers, values, strict=True)]
        figure.points(numbers, values, "cv", titles=titles, links=links, where=known)
        figure.upright(choice.components, "s1", label=f"chosen: {choice.components} (one SE)")
        own = self.data.n_components(load=False)
        if own is not None and own != choice.components:
            figure.upright(own, "line", label=f"this chain: {own}")
        return figure

    def fold_scores(self) -> Figure | None:
        """Draw the score of each fold on the samples that it left out."""
        data = self.data
        folds = data.fold_names() if data.predictions else []
        if len(folds) < 2:
            return None
        metric = data.score_name()
        values = [data.fold_score(fold, "val", metric) for fold in folds]
        words = "RMSE" if metric == "rmse" else metric.replace("_", " ")
        figure = Figure(
            f"{words} of each fold",
            "Fold",
            axis_words(words, "", data.unit if metric == "rmse" else ""),
            labels=folds if len(folds) <= 30 else (),
        )
        titles = [f"fold {f}: {short(v)}" for f, v in zip(folds, values, strict=True)]
        figure.bars(range(len(folds)), values, "cv", titles=titles)
        known = np.asarray(values)[np.isfinite(values)]
        if known.size:
            figure.across(float(known.mean()), "line", label=f"mean {short(float(known.mean()))}")
        return figure

    def score_plot(self) -> Figure | None:
        """Draw the calibration samples in the first two latent variables, as the chain's domain keeps them."""
        space = self.space
        if space is None or space.components < 2:
            return None
        scores = (space.scores - space.center) / space.spread
        figure = Figure("Calibration samples in the latent space", "LV 1 (SD)", "LV 2 (SD)")
        t2 = (scores**2).sum(axis=1)
        titles = [f"T² {short(float(each))}" for each in t2]
        figure.points(scores[:, 0], scores[:, 1], "cv", titles=titles)
        angle = np.linspace(0, 2 * np.pi, 120)
        figure.line(2.45 * np.cos(angle), 2.45 * np.sin(angle), "faint", label="95 % of a normal cloud")
        return figure

    def loadings(self) -> Figure | None:
        """Draw the first loadings over the axis of the spectra, where the model sees every channel."""
        space = self.space
        data = self.data
        grid = data.wavelengths
        if space is None:
            return None
        whole = grid is not None and grid.size == space.loadings.shape[0]
        axis = grid if whole and grid is not None else np.arange(space.loadings.shape[0])
        figure = spectrum_figure("Loadings", axis, data.wavelength_unit if whole else None, "Loading")
        for place in range(min(4, space.components)):
            figure.line(axis, space.loadings[:, place], f"s{place}", label=f"LV {place + 1}")
        return figure.across(0.0, "faint")

    def confusion(self) -> tuple[list[str], list[list[int]], int] | None:
        """Return the classes and how often each was predicted for each, out of fold; None for a regression."""
        data = self.data
        if not data.predictions or data.is_regression:
            return None
        parts = data.labels("val")
        if not parts:
            return None
        truth = [str(each) for true, _ in parts for each in true.tolist()]
        guess = [str(each) for _, found in parts for each in found.tolist()]
        classes: Sequence[str] = sorted({*truth, *guess}, key=lambda name: (len(name), name))[:40]
        place = {name: i for i, name in enumerate(classes)}
        counts = [[0] * len(classes) for _ in classes]
        for true, found in zip(truth, guess, strict=True):
            if true in place and found in place:
                counts[place[true]][place[found]] += 1
        return list(classes), counts, max((max(row) for row in counts), default=0)


def spectrum_figure(title: str, axis: Any, unit: str | None, y: str, **options: Any) -> Figure:
    """Return an empty figure over wavelengths; wavenumbers fall from left to right."""
    words = "Variable of the model" if unit is None else wavelength_words(unit, np.asarray(axis, float))
    return Figure(title, words, y, falling=words.startswith("Wavenumber"), **options)
