"""Predict by dropping a file: values, intervals, flags, and the spectra over the band of the calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nirs_store.errors import InvalidInput, NirsStoreError, UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import axis_words
from nirs_store.scores import regression_scores
from nirs_store.ui import chart
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Redirect, Request, Screen, View
from nirs_store.ui.screens.chain import ask_trust, chain_values
from nirs_store.ui.table import Column, table_of

__all__ = ["SCREENS"]

_MOST_ROWS, _DRAWN = 100_000, 120
#: Of the files once they are unpacked, which is twice what may be sent.
_MOST_BYTES = 128 << 20
_CALM = "domain not known"


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

    chain = chain_values(request)["chain"]
    ask_trust(request, chain)
    if not request.files:
        raise InvalidInput("spectra: expected at least one file, found none.")
    options: dict[str, Any] = {
        name: request.text(name) for name in ("decimal", "orientation") if request.text(name)
    }
    paths: Any = [each.path for each in request.files] if len(request.files) > 1 else request.files[0].path
    record = request.store.get_chain(chain.chain_id)
    if record is None:
        raise UnknownId("chain", chain.chain_id)
    # All files together: each is read before the next one.
    with at_most(_MOST_BYTES // len(request.files)):
        table, X = read_for_chain(record, lambda **more: read_spectra(paths, **options, **more))
    if len(table.X) > _MOST_ROWS:
        raise InvalidInput(
            f"The file has {len(table.X):,} spectra; the page predicts at most {_MOST_ROWS:,} at once."
        )
    level, alpha = request.level("level", 0.90), request.level("alpha", 0.05)
    column = id_name(table)
    ids = (
        [str(number) for number in range(1, len(table.X) + 1)]
        if column is None
        else table.references[column].to_list()
    )
    found = request.store.predict(
        chain.chain_id, X, table.wavelengths, level=level, alpha=alpha, sample_ids=ids, on_outlier="ignore"
    )
    domain = request.store.domain(chain.chain_id)
    notes = (
        [f"No interval: {domain.facts['refused']}."]
        if domain is not None and domain.facts.get("refused")
        else []
    )
    frame, more = _joined(table, found, chain.metadata, column)
    names = ", ".join(each.name for each in request.files)
    figures = _figures(request, chain, table, X, frame, domain, alpha, ids)
    result = _Result(chain.chain_id, names, table.understood, frame, figures, notes + more, level)
    return Redirect(f"/predicted/{request.kept.put('predicted', result)}")


def _joined(
    table: Any, found: pl.DataFrame, metadata: dict[str, Any], column: str | None
) -> tuple[pl.DataFrame, list[str]]:
    """Put the labels of the file before the predictions, one row per sample and target."""
    width = found.height // max(len(table.X), 1)
    labels = (
        table.references.select(pl.all().repeat_by(width).explode())
        if table.labels and width > 1
        else table.references
    )
    if column is not None:
        labels = labels.drop(column)
    taken = set(found.columns)
    labels = labels.rename({name: f"{name} (file)" for name in labels.columns if name in taken})
    frame = labels.hstack(found.get_columns()) if labels.width else found
    target = str(metadata.get("target") or "")
    if (
        width == 1
        and target in labels.columns
        and labels[target].dtype.is_numeric()
        and found["prediction"].dtype.is_numeric()
    ):
        both = frame.filter(pl.col(target).is_finite() & pl.col("prediction").is_finite())
        if both.height >= 2:
            scores = regression_scores(both[target].to_numpy(), both["prediction"].to_numpy())
            unit = f" {metadata['target_unit']}" if metadata.get("target_unit") else ""
            words = f"RMSEP {chart.short(scores['rmse'])}{unit}, bias (predicted - measured) "
            words += f"{chart.short(scores['bias'])}, R² {scores['r2']:.3f}, n {both.height}"
            return frame, [f"Against the column {target!r} of the file: {words}."]
    return frame, []


def _figures(
    request: Request, chain: Any, table: Any, X: Any, frame: pl.DataFrame, domain: Any, alpha: float, ids: list[Any]
) -> list[Figure]:  # fmt: skip
    names = [str(each) for each in frame["sample"].to_list()] if "sample" in frame.columns else []
    figures = []
    unit = str(chain.metadata.get("target_unit") or "")
    if frame["prediction"].dtype.is_numeric() and frame.height:
        values = frame["prediction"].to_numpy()
        words = axis_words(str(chain.metadata.get("target") or "Predicted"), "", unit)
        figure = Figure("Predictions", "Sample, as in the file", words)
        place = np.arange(1, len(values) + 1)
        if "lower" in frame.columns and not frame["lower"].is_null().all():
            figure.spans(place, frame["lower"].to_numpy(), frame["upper"].to_numpy(), "cal", label="interval")
        flagged = _flagged(frame)
        titles = [
            f"{n}\n{chart.short(v)}{' ' + unit if unit else ''}" for n, v in zip(names, values, strict=True)
        ]
        for mask, kind, words in ((~flagged, "cv", "predicted"), (flagged, "limit", "flagged")):
            figure.points(place, values, kind, label=words, titles=titles, keys=names, where=mask)
        figures.append(figure)
    if {"t2", "q"} <= set(frame.columns) and frame["t2"].dtype.is_float() and not frame["t2"].is_nan().all():
        figure = Figure("Distance from the calibration", "Hotelling T²", "Q residual")
        figure.points(frame["t2"], frame["q"], "cv", titles=names, keys=names)
        limits = domain.limits(alpha) if domain is not None else {}
        if limits.get("t2"):
            figure.upright(limits["t2"], label="limit").across(limits["q"])
        figures.append(figure)
    figures += _spectra(request, chain, table, X, domain, [str(each) for each in ids])
    return [each for each in figures if each]


def _flagged(frame: pl.DataFrame) -> np.ndarray:
    return np.array([bool(words) and words != [_CALM] for words in frame["flags"].to_list()], dtype=bool)


def _spectra(request: Request, chain: Any, table: Any, X: Any, domain: Any, ids: list[str]) -> list[Figure]:
    """Draw the spectra as they were sent, and as the model sees them over the band of its calibration."""
    n = len(table.X)
    some = np.unique(np.linspace(0, n - 1, min(n, _DRAWN)).astype(int)).tolist() if n else []
    grid = table.wavelengths if table.wavelengths is not None else np.arange(table.X.shape[1])
    unit = str(chain.metadata.get("wavelength_unit") or "") if table.wavelengths is not None else None
    sent = chart.spectrum_figure("Spectra of the file", grid, unit, "Signal")
    known = _calibration(request, chain)
    if (
        known is not None
        and np.shape(known.wavelengths) == np.shape(grid)
        and np.allclose(known.wavelengths, grid)
    ):
        sent.band(grid, known.X.min(axis=0), known.X.max(axis=0), "cal", label="range of the calibration")
    for row in some:
        sent.line(grid, table.X[row], "thin", title=ids[row])
    figures = [sent]
    space = domain.spaces[0] if domain is not None and domain.spaces else None
    if space is None or domain.before or not some:
        return figures
    try:
        seen = request.store.transform(chain.chain_id, X, table.wavelengths)
    except NirsStoreError:  # several sources or targets: the spectra as sent are shown alone
        return figures
    if seen.shape[1] != space.mean.size:
        return figures
    calibration = (space.scores @ space.loadings.T) * space.scale + space.mean
    own = chain.wavelengths
    fits = own is not None and own.size == space.mean.size
    axis = own if fits else np.arange(space.mean.size)
    model = chart.spectrum_figure(
        "As the model sees them", axis, unit if fits else None, "After the preprocessing"
    )
    model.band(
        axis, calibration.min(axis=0), calibration.max(axis=0), "cal", label="range of the calibration"
    )
    for row in some:
        model.line(axis, seen[row], "thin", title=ids[row])
    return [*figures, model]


def _calibration(request: Request, chain: Any) -> Any:
    try:
        return request.store.datasets.of_chain(chain.chain_id)
    except NirsStoreError:  # most chains are not recorded from a stored data set
        return None


def predicted(request: Request) -> View:
    """Show what a file gave."""
    result: _Result | None = request.kept.get("predicted", request.parts["key"])
    if result is None:
        raise UnknownId(
            "prediction",
            request.parts["key"],
            "The last 16 results are kept while the page runs; drop the file again.",
        )
    chain = request.store.show_chain(result.chain_id)
    frame = result.frame
    hidden = {"h": "Leverage", "gh": "GH", "nh": "NH"}
    words, kinds = hidden | {"t2": "T²", "q": "Q"}, {"flags": "list"}
    columns = [
        Column(name, words.get(name, ""), "number" if frame.schema[name].is_float() else kinds.get(name, "text"),
               hidden=name in hidden)
        for name in sorted(frame.columns, key=lambda name: name != "sample")
    ]  # fmt: skip
    table = table_of(request, frame, columns, size=25, name="predicted")
    count = int(_flagged(frame).sum())
    values = {"table": table, "result": result, "chain": chain, "flagged": count}
    return View("predicted.html", f"Predicted: {result.source}", values, table=table)


SCREENS = (
    Screen("/chains/{chain_id}/predict", predict, method="POST"),
    Screen("/predicted/{key}", predicted),
)
