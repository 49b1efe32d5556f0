"""Predict by dropping a file: values, intervals, flags, and the spectra over the band of the calibration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nirs_store.errors import InvalidInput, NirsStoreError, UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import axis_words
from nirs_store.scores import regression_scores
from nirs_store.store import WorkspaceStore
from nirs_store.ui.chart import over_channels, short
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Redirect, Request, Screen, View
from nirs_store.ui.screens.chain import ask_trust, chain_values
from nirs_store.ui.table import Column, table_of

_MOST_ROWS, _DRAWN = 100_000, 120
#: Of the files once they are unpacked, which is twice what may be sent.
_MOST_BYTES = 128 << 20
_CALM = "domain not known"
_HIDDEN = {"h": "Leverage", "gh": "GH", "nh": "NH"}


@dataclass
class _Result:
    """What a file gave; kept in memory, so that its address can be reloaded and downloaded from."""

    chain_id: str
    source: str
    understood: str
    frame: pl.DataFrame
    figures: list[Figure]
    notes: list[str]
    level: float


def predict(request: Request) -> Redirect:
    """Read the files that were sent and predict them."""
    from nirs_store.chains.spectra import read_for_chain
    from nirs_store.reading import read_spectra
    from nirs_store.reading.dialect import at_most
    from nirs_store.reading.spectra import id_name

    store, chain = request.store, chain_values(request)["chain"]
    ask_trust(request, chain)
    if not request.files:
        raise InvalidInput("spectra: expected at least one file, found none.")
    options = {name: value for name, value in request.options("decimal", "orientation").items() if value}
    paths: Any = [each.path for each in request.files] if len(request.files) > 1 else request.files[0].path
    record = store.get_chain(chain.chain_id)
    if record is None:
        raise UnknownId("chain", chain.chain_id)
    # All files together: each is read before the next one.
    with at_most(_MOST_BYTES // len(request.files)):
        table, X = read_for_chain(record, lambda **more: read_spectra(paths, **options, **more))
    n = len(table.X)
    if n > _MOST_ROWS:
        raise InvalidInput(f"The file has {n:,} spectra; the page predicts at most {_MOST_ROWS:,} at once.")
    level, alpha, column = request.level("level", 0.90), request.level("alpha", 0.05), id_name(table)
    ids = [*map(str, range(1, n + 1))] if column is None else table.references[column].to_list()
    found = store.predict(
        chain.chain_id, X, table.wavelengths, level=level, alpha=alpha, sample_ids=ids, on_outlier="ignore"
    )
    domain = store.domain(chain.chain_id)
    refused = domain.facts.get("refused") if domain is not None else None
    frame, notes = _joined(table, found, chain.metadata, column)
    figures = [
        *_predictions(chain, frame), *_distances(frame, domain, alpha),
        *_spectra(store, chain, table, X, domain, [str(each) for each in ids]),
    ]  # fmt: skip
    notes = [f"No interval: {refused}.", *notes] if refused else notes
    names = ", ".join(each.name for each in request.files)
    drawn = [each for each in figures if each]
    result = _Result(chain.chain_id, names, table.understood, frame, drawn, notes, level)
    return Redirect(f"/predicted/{request.kept.put('predicted', result)}")


def _joined(
    table: Any, found: pl.DataFrame, metadata: dict[str, Any], column: str | None
) -> tuple[pl.DataFrame, list[str]]:
    """Put the labels of the file before the predictions, one row per sample and target; compare where one is known."""
    width, labels = found.height // max(len(table.X), 1), table.references
    if table.labels and width > 1:
        labels = labels.select(pl.all().repeat_by(width).explode())
    if column is not None:
        labels = labels.drop(column)
    labels = labels.rename({name: f"{name} (file)" for name in labels.columns if name in found.columns})
    frame = labels.hstack(found.get_columns()) if labels.width else found
    target = str(metadata.get("target") or "")
    if width != 1 or target not in labels.columns:
        return frame, []
    both = frame.select(pl.col(target), pl.col("prediction"))
    if all(kind.is_numeric() for kind in both.dtypes):
        both = both.filter(pl.all_horizontal(pl.all().is_finite()))
        if both.height >= 2:
            scores = regression_scores(both[target].to_numpy(), both["prediction"].to_numpy())
            unit = f" {metadata['target_unit']}" if metadata.get("target_unit") else ""
            words = (
                f"RMSEP {short(scores['rmse'])}{unit}, bias (predicted - measured) {short(scores['bias'])}, "
            )
            words += f"R² {scores['r2']:.3f}, n {both.height}"
            return frame, [f"Against the column {target!r} of the file: {words}."]
    return frame, []


def _names(frame: pl.DataFrame) -> list[str]:
    return [str(each) for each in frame["sample"].to_list()] if "sample" in frame.columns else []


def _predictions(chain: Any, frame: pl.DataFrame) -> Iterator[Figure]:
    if not frame["prediction"].dtype.is_numeric() or not frame.height:
        return
    unit, names = str(chain.metadata.get("target_unit") or ""), _names(frame)
    words = axis_words(str(chain.metadata.get("target") or "Predicted"), "", unit)
    figure = Figure("Predictions", "Sample, as in the file", words)
    place, values, flagged = np.arange(1, frame.height + 1), frame["prediction"].to_numpy(), _flagged(frame)
    if "lower" in frame.columns and not frame["lower"].is_null().all():
        figure.spans(place, frame["lower"].to_numpy(), frame["upper"].to_numpy(), "cal", label="interval")
    titles = [f"{n}\n{short(v)}{' ' + unit if unit else ''}" for n, v in zip(names, values, strict=True)]
    parts = (~flagged, "cv", "predicted"), (flagged, "limit", "flagged")
    yield figure.groups(place, values, parts, titles=titles, keys=names)


def _distances(frame: pl.DataFrame, domain: Any, alpha: float) -> Iterator[Figure]:
    if {"t2", "q"} <= set(frame.columns) and frame["t2"].dtype.is_float() and not frame["t2"].is_nan().all():
        figure = Figure("Distance from the calibration", "Hotelling T²", "Q residual")
        figure.points(frame["t2"], frame["q"], "cv", titles=_names(frame), keys=_names(frame))
        limits = domain.limits(alpha) if domain is not None else {}
        if limits.get("t2"):
            figure.upright(limits["t2"], label="limit").across(limits["q"])
        yield figure


def _flagged(frame: pl.DataFrame) -> np.ndarray:
    return np.array([bool(words) and words != [_CALM] for words in frame["flags"].to_list()], dtype=bool)


def _spectra(
    store: WorkspaceStore, chain: Any, table: Any, X: Any, domain: Any, ids: list[str]
) -> Iterator[Figure]:
    """Draw the spectra as they were sent, and as the model sees them over the band of its calibration."""
    n, channels = table.X.shape
    some = np.unique(np.linspace(0, n - 1, min(n, _DRAWN)).astype(int)).tolist() if n else []

    def drawn(title: str, size: int, grid: Any, y: str, rows: Any, band: Any) -> Figure:
        figure, axis = over_channels(title, size, grid, chain.metadata.get("wavelength_unit"), y)
        if band is not None:
            figure.band(axis, band.min(axis=0), band.max(axis=0), "cal", label="range of the calibration")
        for row in some:
            figure.line(axis, rows[row], "thin", title=ids[row])
        return figure

    grid, band = table.wavelengths, None
    # Most chains are not recorded from a stored data set.
    with contextlib.suppress(NirsStoreError):
        known = store.datasets.of_chain(chain.chain_id)
        own = known.wavelengths if known.wavelengths is not None else np.arange(known.X.shape[1])
        seen = grid if grid is not None else np.arange(channels)
        band = known.X if np.shape(own) == np.shape(seen) and np.allclose(own, seen) else None
    yield drawn("Spectra of the file", channels, grid, "Signal", table.X, band)
    space = domain.spaces[0] if domain is not None and domain.spaces else None
    if space is None or domain.before or not some:
        return
    # Of several sources or targets, the spectra as sent are shown alone.
    with contextlib.suppress(NirsStoreError):
        seen = store.transform(chain.chain_id, X, table.wavelengths)
        if seen.shape[1] == space.mean.size:
            calibration = (space.scores @ space.loadings.T) * space.scale + space.mean
            words = "As the model sees them", "After the preprocessing"
            yield drawn(words[0], seen.shape[1], chain.wavelengths, words[1], seen, calibration)


def predicted(request: Request) -> View:
    """Show what a file gave."""
    result: _Result | None = request.kept.get("predicted", request.parts["key"])
    if result is None:
        why = "The last 16 results are kept while the page runs; drop the file again."
        raise UnknownId("prediction", request.parts["key"], why)
    chain, frame = request.store.show_chain(result.chain_id), result.frame
    words, kinds = _HIDDEN | {"t2": "T²", "q": "Q"}, {"flags": "list"}
    columns = [
        Column(name, words.get(name, ""), "number" if frame.schema[name].is_float() else kinds.get(name, "text"),
               hidden=name in _HIDDEN)
        for name in sorted(frame.columns, key=lambda name: name != "sample")
    ]  # fmt: skip
    table = table_of(request, frame, columns, size=25, name="predicted")
    values = {"table": table, "result": result, "chain": chain, "flagged": int(_flagged(frame).sum())}
    return View("predicted.html", f"Predicted: {result.source}", values, table=table)


SCREENS = (
    Screen("/chains/{chain_id}/predict", predict, method="POST"),
    Screen("/predicted/{key}", predicted),
)
