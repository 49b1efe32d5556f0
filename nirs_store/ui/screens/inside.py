"""Inside a fitted model, only where it was asked for: coefficients, and what its calibration spectra say of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nirs_store.errors import NirsStoreError
from nirs_store.plots._chain import ChainData, chain_data
from nirs_store.plots._figure import axis_words
from nirs_store.ui.chart import over_channels
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.screens.chain import ask_trust, chain_values

_DRAWN = 80


def inside(request: Request) -> View:
    """Open the fitted objects, which may be pickles, and draw what is in them."""
    values, figures, notes = chain_values(request), list[Figure](), list[str]()
    ask_trust(request, values["chain"])
    data = chain_data(request.store, values["chain"].chain_id)
    spectra = None
    try:
        spectra = request.store.datasets.of_chain(data.chain_id)
    except NirsStoreError as error:
        notes.append(f"The calibration spectra are not at hand: {error}")
    for draw in (_coefficients, _steps, _distances) if spectra is not None else (_coefficients,):
        try:
            figures += draw(request, data, spectra)
        except NirsStoreError as error:
            notes.append(str(error))
    title = f"Inside {values['chain'].name}"
    return View("inside.html", title, values | {"figures": figures, "notes": notes})


def _coefficients(request: Request, data: ChainData, _: Any) -> Iterator[Figure]:
    vectors = data.regression_vectors()
    first = next(iter(vectors.values()))
    words = axis_words("Coefficient", "", f"{data.unit} per unit" if first.of_target and data.unit else "")
    grid, size = data.wavelengths if first.on_channels else None, first.values.size
    figure, axis = over_channels("Coefficients", size, grid, data.wavelength_unit, words)
    for fold, vector in vectors.items():
        if fold != "final" and vector.values.size == size:
            figure.line(axis, vector.values, "faint", title=f"fold {fold}")
    best = vectors.get("final", first)
    figure.line(axis, best.values, "cv", label="refit" if "final" in vectors else "first fold")
    yield figure.across(0.0, "line")


def _steps(request: Request, data: ChainData, spectra: Any) -> Iterator[Figure]:
    """Draw the calibration spectra before the first step and after each."""
    some = np.linspace(0, len(spectra.X) - 1, min(len(spectra.X), _DRAWN)).astype(int)
    grid = data.wavelengths if data.wavelengths is not None else spectra.wavelengths
    ids = getattr(spectra, "ids", None)
    for name, block in data.stages(np.asarray(spectra.X, float)[some]):
        words = "Spectra" if name == "raw" else f"After {name}"
        figure, axis = over_channels(words, block.shape[1], grid, data.wavelength_unit, "Signal")
        for row, signal in zip(some.tolist(), block, strict=True):
            figure.line(axis, signal, "thin", title=str(row + 1 if ids is None else ids[row]))
        yield figure


def _distances(request: Request, data: ChainData, spectra: Any) -> Iterator[Figure]:
    found = request.store.diagnose(data.chain_id, spectra)
    samples = found.samples
    names, flags = [str(each) for each in samples["sample"].to_list()], samples["flags"].to_list()
    titles = ["\n".join([name, *([", ".join(words)] if words else [])])
              for name, words in zip(names, flags, strict=True)]  # fmt: skip
    flagged = np.array([bool(words) for words in flags], dtype=bool)
    figure = Figure("Calibration samples: T² and Q", "Hotelling T²", "Q residual")
    parts = (~flagged, "cv", "samples"), (flagged, "limit", "flagged")
    figure.groups(samples["t2"], samples["q"], parts, titles=titles, keys=names)
    figure.upright(found.limits["t2"], label=f"limit, α = {found.limits['alpha']:g}")
    yield figure if found.limits["q"] is None else figure.across(found.limits["q"])


SCREENS = (Screen("/chains/{chain_id}/inside", inside, method="POST"),)
