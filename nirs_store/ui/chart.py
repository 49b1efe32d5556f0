"""The figures of a chain, from what was recorded: no fitted model is opened for any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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

_SETS = (("calibration", "cal", "Calibration"), ("cv", "cv", "Cross-validation"), ("test", "test", "Test"))


def short(value: float) -> str:
    """Write a value with four significant figures."""
    decimals = None if 0 < abs(value) < 1e-4 else max(0, 3 - int(np.floor(np.log10(abs(value) or 1))))
    return number_text(float(f"{value:.4g}"), decimals)


class ChainFigures:
    """The figures of one chain; each is None where what it needs was not recorded."""

    def __init__(self, store: WorkspaceStore, chain_id: str) -> None:
        self.store, self.data = store, chain_data(store, chain_id)

    def all(self) -> list[Figure]:
        """Return the figures that can be drawn, in the order of the page."""
        found = (self.predicted_vs_measured(), self.residuals(), self.rmsecv_vs_components(), self.fold_scores(),
                 self.score_plot(), self.loadings())  # fmt: skip
        return [each for each in found if each]

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

    def _known(self) -> Iterator[tuple[str, str, str, Any, Any, dict[str, Any]]]:
        """Return each set with its kind and words, what was measured and predicted, and how its points are drawn."""
        for name, kind, words in _SETS:
            if name in self.pairs:
                measured, predicted, names = self.pairs[name]
                called = zip(names or [words] * len(measured), measured, predicted, strict=True)
                titles = [
                    f"{sample}\nmeasured {short(m)}\npredicted {short(p)}\nerror {short(p - m)}"
                    for sample, m, p in called
                ]
                marks = {"marker": "triangle", "size": 4.2} if name == "test" else {}
                yield (
                    name,
                    kind,
                    words,
                    measured,
                    predicted,
                    {"titles": titles, "keys": names or None, **marks},
                )

    def predicted_vs_measured(self, width: int = 460) -> Figure | None:
        """Draw predicted against measured; None where no arrays are kept, or the chain classifies."""
        axes = (
            axis_words(words, self.data.target or "value", self.data.unit)
            for words in ("Measured", "Predicted")
        )
        figure = Figure("Predicted against measured", *axes, equal=True, width=width)
        for _, kind, words, measured, predicted, marks in self._known():
            rmse = short(regression_scores(measured, predicted)["rmse"])
            figure.points(
                measured, predicted, kind, label=f"{words}: RMSE {rmse}, n {len(measured)}", **marks
            )
        return figure if self.pairs else None

    def residuals(self) -> Figure | None:
        """Draw predicted minus measured against measured, of out-of-fold and test samples."""
        data = self.data
        axes = (
            axis_words("Measured", data.target or "value", data.unit),
            axis_words("Predicted − measured", "", data.unit),
        )
        figure = Figure("Residuals", *axes).across(0.0, "line")
        for name, kind, words, measured, predicted, marks in self._known():
            if name == "calibration":
                continue
            error = predicted - measured
            figure.points(measured, error, kind, label=words, **marks)
            if name == "cv" and len(error) > 2:
                middle, spread = float(error.mean()), 2 * float(error.std(ddof=1))
                figure.across(middle + spread, "faint").across(middle - spread, "faint", label="bias ± 2 SEP")
        return figure if self.pairs.keys() - {"calibration"} else None

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
        words, unit = ("RMSE", data.unit) if metric == "rmse" else (metric.replace("_", " "), "")
        values = np.array([data.fold_score(fold, "val", metric) for fold in folds], float)
        shown = folds if len(folds) <= 30 else ()
        figure = Figure(f"{words} of each fold", "Fold", axis_words(words, "", unit), labels=shown)
        titles = [f"fold {f}: {short(v)}" for f, v in zip(folds, values, strict=True)]
        figure.bars(range(len(folds)), values, "cv", titles=titles)
        known = values[np.isfinite(values)]
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
        titles = [f"T² {short(float(each))}" for each in (scores**2).sum(axis=1)]
        figure.points(scores[:, 0], scores[:, 1], "cv", titles=titles)
        angle = np.linspace(0, 2 * np.pi, 120)
        return figure.line(
            2.45 * np.cos(angle), 2.45 * np.sin(angle), "faint", label="95 % of a normal cloud"
        )

    def loadings(self) -> Figure | None:
        """Draw the first loadings over the axis of the spectra, where the model sees every channel."""
        space, data = self.space, self.data
        if space is None:
            return None
        figure, axis = over_channels("Loadings", space.loadings.shape[0], data.wavelengths, data.wavelength_unit,
                                     "Loading")  # fmt: skip
        for place in range(min(4, space.components)):
            figure.line(axis, space.loadings[:, place], f"s{place}", label=f"LV {place + 1}")
        return figure.across(0.0, "faint")

    def confusion(self) -> tuple[list[str], list[list[int]], int] | None:
        """Return the classes and how often each was predicted for each, out of fold; None for a regression."""
        data = self.data
        parts = data.labels("val") if data.predictions and not data.is_regression else []
        if not parts:
            return None
        truth = [str(each) for true, _ in parts for each in true.tolist()]
        guess = [str(each) for _, found in parts for each in found.tolist()]
        classes = sorted({*truth, *guess}, key=lambda name: (len(name), name))[:40]
        pairs = Counter(zip(truth, guess, strict=True))
        counts = [[pairs[true, found] for found in classes] for true in classes]
        return classes, counts, max(map(max, counts), default=0)


def over_channels(
    title: str, size: int, grid: Any, unit: str | None, y: str, **options: Any
) -> tuple[Figure, Any]:
    """Return an empty figure over wavelengths, and its axis: numbers of variables where the wavelengths do not fit."""
    # Wavenumbers fall from left to right.
    fits = grid is not None and len(grid) == size
    axis = np.asarray(grid if fits else np.arange(size), float)
    words = wavelength_words(unit or "", axis) if fits else "Variable of the model"
    return Figure(title, words, y, falling=words.startswith("Wavenumber"), **options), axis
