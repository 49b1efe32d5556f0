"""Heat map of a pivot: preprocessing against model, a score in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import ChainData, sibling_chains
from nirs_store.plots._figure import (
    COLOURS,
    Figure,
    Floats,
    heading,
    new_figure,
    number,
    score_label,
    side_labels,
    wrapped,
)
from nirs_store.protocol import ReadsRuns


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    values: ArrayLike,
    *,
    metric: str = "RMSECV",
    target: str = "",
    unit: str = "",
    lower_is_better: bool = True,
    title: str = "",
    note: str = "",
    deleted: ArrayLike | None = None,
) -> Figure:
    """Draw scores as a table of colored cells; the best cell is framed, empty ones are gray.

    Parameters
    ----------
    rows, columns
        Names along the sides, for example preprocessings and models.
    values
        Scores of shape ``(len(rows), len(columns))``; NaN where there is none.
    metric, target, unit, title
        Words for the color bar and the heading.
    note
        A line below the table.
    lower_is_better
        Which end of the scale is good; good is dark.
    deleted
        Truth values of the shape of `values`: cells of chains that are gone, of which the score is kept. They are
        hollow: white with a coloured frame.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        All cells are empty, or matplotlib is not installed.
    ShapeMismatch
        The table does not have as many rows and columns as names.

    Examples
    --------
    >>> from nirs_store.plots import heatmap
    >>> figure = heatmap(["raw", "SNV"], ["PLS(4)", "PLS(8)"], [[4.4, 3.0], [2.1, 2.0]], unit="%")
    >>> len(figure.axes[0].texts)
    4
    """
    table: Floats = np.asarray(values, dtype=np.float64)
    if table.shape != (len(rows), len(columns)):
        raise ShapeMismatch(
            f"values must have the shape ({len(rows)}, {len(columns)}), one row per name; found {table.shape}."
        )
    known = np.isfinite(table)
    if not known.any():
        raise InvalidInput("Nothing to draw: no cell of the table holds a score.")
    down, across = side_labels([str(name) for name in rows]), side_labels([str(name) for name in columns])
    left, below = _extent(down), _extent(across)
    # A table of hundreds is a picture of colors: cells shrink, and their numbers and some names go.
    wide, high = min(0.95, 24 / len(columns)), min(0.5, 16 / len(rows))
    crowded = 0.08 * below > wide
    figure = new_figure(
        max(2.6 + wide * len(columns) + 0.075 * max(left, 0.85 * below if crowded else 0), 4.5),
        max(1.5 + high * len(rows) + (0.05 * below if crowded else 0.0), 2.4),
    )
    axes = figure.add_subplot()
    axes.set_facecolor("#eeeeee")
    good, bad = _scale(table[known], lower_is_better)
    image = axes.imshow(
        np.ma.masked_invalid(table),
        cmap="Blues_r" if lower_is_better else "Blues",
        vmin=min(good, bad),
        vmax=max(good, bad),
        aspect="auto",
    )
    gone = np.zeros(table.shape, dtype=bool) if deleted is None else np.asarray(deleted, dtype=bool) & known
    size = min(9.0, 9 * wide / 0.55, 9 * high / 0.2)
    for edge in np.arange(0.5, len(columns) - 1):
        axes.axvline(edge, color="white", linewidth=1.5 if wide > 0.3 else 0.3)
    for edge in np.arange(0.5, len(rows) - 1):
        axes.axhline(edge, color="white", linewidth=1.5 if high > 0.2 else 0.3)
    for i, j in np.argwhere(gone):
        # A cell of the table's own color, with a white one inside.
        axes.bar(j, 0.72, 0.86, bottom=i - 0.36, color="white", edgecolor="#999999", linewidth=0.6)
    for i, j in np.argwhere(known) if size >= 6 else []:
        depth = (table[i, j] - bad) / (good - bad)
        colour = "white" if depth > 0.55 and not gone[i, j] else "#222222"
        words = number(table[i, j], good)
        axes.text(j, i, words, ha="center", va="center", fontsize=size, color=colour)
    masked = np.where(known, table, np.inf if lower_is_better else -np.inf)
    best = int(np.argmin(masked) if lower_is_better else np.argmax(masked))
    i, j = divmod(best, len(columns))
    axes.plot(
        [j - 0.5, j + 0.5, j + 0.5, j - 0.5, j - 0.5],
        [i - 0.5, i - 0.5, i + 0.5, i + 0.5, i - 0.5],
        color=COLOURS["test"],
        linewidth=2.2,
        clip_on=False,
        solid_joinstyle="miter",
    )
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    every, each = int(np.ceil(0.2 / wide)), int(np.ceil(0.16 / high))
    axes.set_xticks(range(0, len(columns), every), across[::every], **turned)
    axes.set_yticks(range(0, len(rows), each), down[::each])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    room = figure.get_figwidth() - 0.075 * left
    heading(axes, title or score_label(metric, target), max(20, int(11 * room)))
    if gone.any():
        note = f"{note} Hollow cells: deleted, score kept.".strip()
    if note:
        figure.supxlabel(
            wrapped(note, max(30, int(13 * figure.get_figwidth()))), fontsize=8, x=0.01, ha="left"
        )
    worst = float(table[known].max() if lower_is_better else table[known].min())
    saturated = not np.isclose(worst, bad) and (worst > bad) is lower_is_better
    extend = ("max" if lower_is_better else "min") if saturated else "neither"
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, aspect=30, extend=extend, format="{x:.10g}")
    bar.set_label(wrapped(score_label(metric, target, unit), 30), fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    return figure


def _extent(labels: Sequence[str]) -> int:
    return max(len(line) for label in labels for line in label.splitlines() or [""])


def _scale(scores: Floats, lower_is_better: bool) -> tuple[float, float]:
    """Return the ends of the color scale: the best score, and one well beyond the median."""
    # One hopeless cell would otherwise take all the colors and leave the good ones alike.
    good, worst = (scores.min(), scores.max()) if lower_is_better else (scores.max(), scores.min())
    reach = 3.0 * abs(float(np.median(scores)) - float(good))
    bad = good + np.copysign(min(reach or np.inf, abs(worst - good)), worst - good)
    if bad == good:
        bad = good + (1.0 if lower_is_better else -1.0)
    return float(good), float(bad)


def heatmap_frame(frame: Any, **words: Any) -> Figure:
    """Draw :func:`heatmap` of a pivot frame: the first column names the rows, the others are scores.

    Parameters
    ----------
    frame
        A polars or pandas data frame.
    **words
        The keyword arguments of :func:`heatmap`.

    Raises
    ------
    InvalidInput
        Fewer than two columns, or a score column that is not numbers.
    """
    names = [str(name) for name in frame.columns]
    if len(names) < 2:
        raise InvalidInput(f"A pivot has a column of names and at least one of scores; found {names}.")
    columns = []
    for name in names[1:]:
        try:
            columns.append(np.array([np.nan if cell is None else float(cell) for cell in frame[name]]))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"The column {name!r} of the pivot must hold numbers: {error}.") from error
    return heatmap([str(name) for name in frame[names[0]]], names[1:], np.column_stack(columns), **words)


def heatmap_cells(store: ReadsRuns, chain_id: str) -> pl.DataFrame:
    """Return the RMSECV of each preprocessing and model, over the chains of the run that `chain_id` belongs to.

    Only chains of the same target, unit, samples and splitter are in it; where several share a cell (a repeat with
    another seed, say), the value is their mean. Chains that a retention deleted are in it with the score that they
    had.

    Returns
    -------
    polars.DataFrame
        ``preprocessing, model, rmsecv, n_chains, deleted`` (whether all chains of the cell are gone).

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        No chain of the run keeps out-of-fold predictions of a regression.
    """
    return _cells(store, chain_id)[0]


def chain_heatmap(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`heatmap` of what `heatmap_cells` returns; a note says where a cell is a mean.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        No chain of the run keeps out-of-fold predictions of a regression.
    """
    frame, others, data = _cells(store, chain_id)
    rows = frame["preprocessing"].unique(maintain_order=True).to_list()
    columns = frame["model"].unique(maintain_order=True).to_list()
    table, gone = np.full((len(rows), len(columns)), np.nan), np.zeros((len(rows), len(columns)), dtype=bool)
    for row, column, rmsecv, _, deleted in frame.iter_rows():
        place = rows.index(row), columns.index(column)
        table[place], gone[place] = rmsecv, deleted
    most = int(frame["n_chains"].max())  # type: ignore[arg-type]
    notes = [f"A cell is the mean of up to {most} chains." if most > 1 else ""]
    notes += [f"{others} chains of other samples or splits are left out." if others else ""]
    return heatmap(
        rows,
        columns,
        table,
        target=data.target,
        unit=data.unit,
        note=" ".join(filter(None, notes)),
        deleted=gone,
    )


def _cells(store: ReadsRuns, chain_id: str) -> tuple[pl.DataFrame, int, ChainData]:
    siblings = sibling_chains(store, chain_id)
    data = next(each for each in siblings if each.chain_id == chain_id)
    cells: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    others = 0
    for sibling in siblings:
        if (sibling.samples, sibling.splitter[0]) != (data.samples, data.splitter[0]):
            others += 1
            continue
        rmsecv = sibling.pooled_rmse()
        if rmsecv is not None:
            key = (sibling.preprocessings or "raw", sibling.model_label())
            cells.setdefault(key, []).append((rmsecv, sibling.deleted))
    if not cells:
        raise InvalidInput(
            f"No chain in the run of {chain_id!r} keeps out-of-fold predictions of a regression."
        )
    rows = [
        (
            row,
            model,
            float(np.mean([value for value, _ in found])),
            len(found),
            all(gone for _, gone in found),
        )
        for (row, model), found in cells.items()
    ]
    schema = {
        "preprocessing": pl.String,
        "model": pl.String,
        "rmsecv": pl.Float64,
        "n_chains": pl.Int64,
        "deleted": pl.Boolean,
    }
    return pl.DataFrame(rows, schema, orient="row"), others, data
