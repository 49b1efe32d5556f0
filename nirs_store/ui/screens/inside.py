"""Inside a fitted model, only where it was asked for: coefficients, and what its calibration spectra say of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from nirs_store.errors import NirsStoreError
from nirs_store.plots._chain import ChainData, chain_data
from nirs_store.plots._figure import axis_words
from nirs_store.ui import chart
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.screens.chain import ask_trust, chain_values

__all__ = ["SCREENS", "inside"]

_DRAWN = 80


def inside(request: Request) -> View:
    """Open the fitted objects, which may be pickles, and draw what is in them."""
    values = chain_values(request)
    ask_trust(request, values["chain"])
    chain_id = values["chain"].chain_id
    data = chain_data(request.store, chain_id)
    figures: list[Figure] = []
    notes: list[str] = []
    try:
        figures.append(_coefficients(data))
    except NirsStoreError as error:
        notes.append(str(error))
    try:
        spectra = request.store.datasets.of_chain(chain_id)
    except NirsStoreError as error:
        notes.append(f"The calibration spectra are not at hand: {error}")
    else:
        for draw in (_steps, _distances):
            try:
                figures += draw(request, data, spectra)
            except NirsStoreError as error:
                notes.append(str(error))
    return View(
        "inside.html", f"Inside {values['chain'].name}", values | {"figures": figures, "notes": notes}
    )


def _coefficients(data: ChainData) -> Figure:
    vectors = data.regression_vectors()
    first = next(iter(vectors.values()))
    grid = data.wavelengths
    fits = first.on_channels and grid is not None and grid.size == first.values.size
    axis = grid if fits and grid is not None else np.arange(first.values.size)
    words = axis_words("Coefficient", "", f"{data.unit} per unit" if first.of_target and data.unit else "")
    figure = chart.spectrum_figure("Coefficients", axis, data.wavelength_unit if fits else None, words)
    for fold, vector in vectors.items():
        if fold != "final" and vector.values.size == first.values.size:
            figure.line(axis, vector.values, "faint", title=f"fold {fold}")
    best = vectors.get("final", first)
    return figure.line(axis, best.values, "cv", label="refit" if "final" in vectors else "first fold").across(
        0.0, "line"
    )


def _steps(request: Request, data: ChainData, spectra: Any) -> list[Figure]:
    """Draw the calibration spectra before the first step and after each."""
    some = np.linspace(0, len(spectra.X) - 1, min(len(spectra.X), _DRAWN)).astype(int)
    figures = []
    for name, block in data.stages(np.asarray(spectra.X, float)[some]):
        grid = data.wavelengths if data.wavelengths is not None else spectra.wavelengths
        fits = grid is not None and len(grid) == block.shape[1]
        axis = grid if fits else np.arange(block.shape[1])
        words = "Spectra" if name == "raw" else f"After {name}"
        figure = chart.spectrum_figure(words, axis, data.wavelength_unit if fits else None, "Signal")
        for row, signal in zip(some.tolist(), block, strict=True):
            figure.line(axis, signal, "thin", title=_name(spectra, row))
        figures.append(figure)
    return figures


def _distances(request: Request, data: ChainData, spectra: Any) -> list[Figure]:
    found = request.store.diagnose(data.chain_id, spectra)
    samples = found.samples
    names = [str(each) for each in samples["sample"].to_list()]
    flags = samples["flags"].to_list()
    titles = [
        f"{name}\n{', '.join(words)}" if words else name for name, words in zip(names, flags, strict=True)
    ]
    figure = Figure("Calibration samples: T² and Q", "Hotelling T²", "Q residual")
    flagged = np.array([bool(words) for words in flags])
    for mask, kind, words in ((~flagged, "cv", "samples"), (flagged, "limit", "flagged")):
        figure.points(samples["t2"], samples["q"], kind, label=words, titles=titles, keys=names, where=mask)
    figure.upright(found.limits["t2"], label=f"limit, α = {found.limits['alpha']:g}")
    if found.limits["q"] is not None:
        figure.across(found.limits["q"])
    return [figure]


def _name(spectra: Any, row: int) -> str:
    ids = getattr(spectra, "ids", None)
    return str(row + 1) if ids is None else str(ids[row])


SCREENS = (Screen("/chains/{chain_id}/inside", inside, method="POST"),)
