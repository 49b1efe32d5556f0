"""One chain: what it does, how good it is, where it comes from, and its models as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.bundle.card import seeds
from nirs_store.errors import InvalidInput, NirsStoreError, UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import ChainData, chain_data
from nirs_store.plots._figure import axis_words
from nirs_store.scores import METRICS
from nirs_store.store import WorkspaceStore
from nirs_store.ui.chart import ChainFigures, over_channels
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Download, Request, Screen, View
from nirs_store.ui.table import Column, decimals_of, number_text, table_of

# Label, hint and decimals of each score, in this order; None for decimals where the score has the unit of the target.
_SCORES: dict[str, tuple[str, str, int | None]] = {
    "rmsecv": ("RMSECV", f"{METRICS['rmse'].formula} of the pooled out-of-fold predictions", None),
    "score_sd": ("± SD over the folds", "SD of the folds' scores", None),
    "repeat_sd": ("± SD over repeats", "", None),
    "rmsep": ("RMSEP", "the RMSE on test samples", None),
    "rmsec": ("RMSEC", "the RMSE on the calibration samples", None),
} | {
    name: (each.label[0].upper() + each.label[1:], each.formula, None if each.in_units else each.decimals + 1)
    for name, each in METRICS.items() if name != "rmse"
}  # fmt: skip
_ARTIFACTS = (
    Column("artifact_type", "Kind"), Column("operator_class", "Class"), Column("format", "Format"),
    Column("size_bytes", "Size", "bytes"), Column("ref_count", "Used by", "whole"), Column("artifact_id", "Id", "id"),
)  # fmt: skip
_DATA = ("chain_id", "pipeline_id", "run_id", "name", "run_name", "dataset_name", "metadata", "steps", "folds",
         "metric", "scores", "n_samples", "created_at", "wavelengths", "artifacts")  # fmt: skip


def chain_values(request: Request) -> dict[str, Any]:
    """Return what every part about one chain begins with."""
    store = request.store
    shown = store.show_chain(request.parts["chain_id"])
    return {"chain": shown, "unit": str(shown.metadata.get("target_unit") or "")}


#: Formats whose bytes run no code when they are opened; of others it is not known.
_HARMLESS = ("skops", "bytes")


def pickles_of(shown: Any) -> int:
    """Count the stored objects of a chain that may run code when they are opened."""
    return sum(each not in _HARMLESS for each in shown.artifacts["format"].to_list())


def ask_trust(request: Request, shown: Any) -> None:
    """Refuse to open pickles before the user has said that they may be."""
    count = pickles_of(shown)
    # A file is written by a command that says what it opens, not by a click.
    if count and not request.static and request.text("trust") != "1":
        raise InvalidInput(
            f"trust: {count} stored objects of this chain may be pickles, and a pickle runs code of the person who "
            "made it. Nothing was opened. If you trust everybody who could write into this workspace, tick the box and "
            "send it again."
        )


def show(request: Request) -> View:
    """Show a chain with its figures, scores and provenance."""
    store, values = request.store, chain_values(request)
    shown = values["chain"]
    run, pipeline = store.get_run(shown.run_id) or {}, store.get_pipeline(shown.pipeline_id) or {}
    drawn, shared = ChainFigures(store, shown.chain_id), decimals_of([shown.scores.get("rmsecv")])
    values |= {
        "figures": drawn.all(),
        "scores": [
            (label, number_text(shown.scores[name], shared if decimals is None else decimals), hint,
             values["unit"] if decimals is None else "")
            for name, (label, hint, decimals) in _SCORES.items() if name in shown.scores
        ],
        # In a file everything is there at once; on the page it comes a moment later.
        "review": _findings(store, shown.chain_id) if request.static else None,
        "confusion": drawn.confusion(),
        "artifacts": table_of(request, shown.artifacts, _ARTIFACTS, prefix="a_", size=200),
        "pickles": pickles_of(shown),
        "provenance": _provenance(store, shown, run, pipeline),
        "environment": run.get("environment") or {},
    }  # fmt: skip
    data = {name: getattr(shown, name) for name in _DATA}
    return View(
        "chain.html", shown.name, values, data=data | {n: values[n] for n in ("provenance", "figures")}
    )


def _provenance(
    store: WorkspaceStore, shown: Any, run: dict[str, Any], pipeline: dict[str, Any]
) -> dict[str, Any]:
    about, grid = shown.metadata, shown.wavelengths
    known = grid is not None and grid.size
    # Who began the run is told by the audit trail alone.
    begun = store.audit.query("begin_run", object_id=shown.run_id, limit=1)
    return {
        "Recorded": shown.created_at,
        "By": " at ".join(map(str, begun.select("user", "host").row(0))) if begun.height else None,
        "Data set": about.get("dataset") or shown.dataset_name,
        "Version of the data set": about.get("dataset_version_id"),
        "Rows of the data set": about.get("dataset_rows"),
        "Data set hash": pipeline.get("dataset_hash") or about.get("data_hash"),
        "Samples": about.get("n_samples"),
        "Channels": f"{grid.size}: {grid[0]:g} to {grid[-1]:g} {about.get('wavelength_unit') or ''}"
        if known
        else None,
        "Seeds": ", ".join(seeds(shown.steps)) or "none were set",
        "Commit": (run.get("environment") or {}).get("git-commit"),
        "Pipeline": shown.pipeline_id,
    }


def _findings(store: Any, chain_id: str) -> tuple[Any, ...]:
    try:
        return tuple(store.review(chain_id).findings)
    except InvalidInput:
        return ()


def review(request: Request) -> View:
    """Show what a reviewer would ask."""
    values = chain_values(request)
    found = _findings(request.store, values["chain"].chain_id)
    data = [vars(each) for each in found]
    return View("review.html", f"Review of {values['chain'].name}", values | {"review": found}, data=data)


def predictions(request: Request) -> View:
    """List what the chain predicted for each sample."""
    values = chain_values(request)
    partition = request.text("partition", "val")
    frame = request.store.chain_predictions(values["chain"].chain_id, partition)
    columns = [Column(name, {"y_true": "Measured", "y_pred": "Predicted"}.get(name, ""),
                      "number" if frame.schema[name].is_float() else "text") for name in frame.columns]  # fmt: skip
    if {"y_true", "y_pred"} <= set(frame.columns) and frame["y_pred"].dtype.is_float():
        frame = frame.with_columns(error=pl.col("y_pred") - pl.col("y_true"))
        columns.append(Column("error", kind="number"))
    table = table_of(request, frame, columns, size=100, name=f"predictions_{partition}")
    values |= {"table": table, "partition": partition}
    return View("predictions.html", f"Predictions of {values['chain'].name}", values, table=table)


def export(request: Request) -> Download:
    """Send the chain as a bundle or a script, or its predictions as Parquet."""
    store, shown = request.store, chain_values(request)["chain"]

    def bundle(form: str, **options: Any) -> tuple[str, Any]:
        return form, lambda path: store.export_chain(shown.chain_id, path, form, **options)

    def predicted(path: Path) -> None:
        store.export_predictions_parquet(path, include_arrays=True, chain_id=shown.chain_id)

    kinds = {"safe": bundle("n4a", safe=True), "n4a": bundle("n4a"), "script": bundle("n4a.py"),
             "predictions": ("parquet", predicted)}  # fmt: skip
    if request.text("kind") != "predictions":
        ask_trust(request, shown)
    return Download.chosen(request, f"{shown.metadata.get('target') or 'chain'}_{shown.chain_id[-8:]}", kinds)


def prediction(request: Request) -> View:
    """Lead from a prediction to its chain."""
    found = request.store.get_prediction(request.parts["prediction_id"])
    if found is None:
        raise UnknownId("prediction", request.parts["prediction_id"])
    link = f"/chains/{found['chain_id']}" if found["chain_id"] else ""
    return View("record.html", "Prediction", {"record": found, "link": link}, data=found)


# -- Inside a fitted model, only where it was asked for: coefficients, and what its calibration spectra say of it.

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


SCREENS = (
    Screen("/chains/{chain_id}", show, keeps=True),
    Screen("/chains/{chain_id}/review", review, keeps=True),
    Screen("/chains/{chain_id}/predictions", predictions, keeps=True),
    Screen("/chains/{chain_id}/export", export, method="POST"),
    Screen("/chains/{chain_id}/inside", inside, method="POST"),
    Screen("/predictions/{prediction_id}", prediction),
)
