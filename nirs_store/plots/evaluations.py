"""Figures of evaluations: a leaderboard with intervals, comparisons, Pareto front, robustness, trend.

Each takes the frame that the question of the same name in `store.evaluations` gives.
"""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

import numpy as np

from nirs_store.display import printable
from nirs_store.errors import InvalidInput, shortened
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    SERIES,
    Figure,
    heading,
    legend_below,
    name_points,
    name_y,
    new_axes,
    new_figure,
    plain,
    short_dates,
    side_labels,
    wrapped,
)

_MOST_ROWS = 60
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")


def _need(frame: pl.DataFrame, columns: set[str], question: str) -> None:
    missing = columns - set(frame.columns)
    if missing or not frame.height:
        raise InvalidInput(
            f"Nothing to draw: expected the frame of {question}, which has the columns {', '.join(sorted(columns))}; "
            f"found {frame.height} rows of {', '.join(frame.columns) or 'nothing'}."
        )


def leaderboard_intervals(board: pl.DataFrame, *, title: str = "") -> Figure:
    """Draw a leaderboard: one point per model with its confidence interval, the best on top.

    Parameters
    ----------
    board
        Result of `store.evaluations.leaderboard`.
    title
        Heading; the metric by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        The frame is not a leaderboard, no model has a value, or matplotlib is not installed.

    Examples
    --------
    >>> import polars as pl
    >>> from nirs_store.plots import leaderboard_intervals
    >>> board = pl.DataFrame({"model_id": ["b", "a"], "metric": "score", "value": [0.9, 0.8],
    ...     "ci_low": [0.85, None], "ci_high": [0.93, None], "champion": [True, False]})
    >>> [text.get_text() for text in leaderboard_intervals(board).axes[0].get_yticklabels()]
    ['b', 'a']
    """
    _need(board, {"model_id", "metric", "value", "ci_low", "ci_high", "champion"}, "leaderboard")
    shown = board.filter(pl.col("value").is_not_null() & pl.col("value").is_not_nan())
    _need(shown, {"value"}, "leaderboard with values")
    rows = list(shown.head(_MOST_ROWS).iter_rows(named=True))
    names = side_labels([row["model_id"] for row in rows])
    cut = f"the best {len(rows)} of {shown.height}" if shown.height > len(rows) else ""
    words = wrapped(" · ".join(filter(None, (title, cut))), 40)
    figure, axes = new_axes(
        4.6 + 0.065 * max(map(len, names)), 1.2 + 0.34 * len(rows) + 0.18 * words.count("\n")
    )
    for place, row in enumerate(rows):
        colour = COLOURS["test"] if row["champion"] else COLOURS["cv"]
        if row["ci_low"] is not None:
            axes.plot([row["ci_low"], row["ci_high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["value"], place, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(plain(str(rows[0]["metric"])))
    axes.set_title(words, fontsize=11, loc="left")
    return figure


def comparison_matrix(comparison: Any, *, alpha: float | None = None, title: str = "") -> Figure:
    """Draw the corrected p values of every pair of models; significant ones are dark.

    Parameters
    ----------
    comparison
        What `store.evaluations.compare` gave.
    alpha
        Below which a difference counts; that of the comparison by default.
    title
        Heading; test and correction by default.

    Raises
    ------
    InvalidInput
        Something else was given, or matplotlib is not installed.
    """
    if not hasattr(comparison, "matrix") or not hasattr(comparison, "alpha"):
        raise InvalidInput(f"comparison: expected what `compare` gives, found {type(comparison).__name__}.")
    bound = comparison.alpha if alpha is None else alpha
    table = comparison.matrix()
    names = side_labels([str(name) for name in table["model"]], 30)
    values = np.array(
        [
            [math.nan if cell is None else float(cell) for cell in table[column]]
            for column in table.columns[1:]
        ]
    ).T
    longest = max(len(line) for name in names for line in name.splitlines())
    wide, high = min(0.8, 20 / len(names)), min(0.5, 14 / len(names))
    size = min(9.0, 9 * wide / 0.55)
    figure = new_figure(2.2 + wide * len(names) + 0.065 * longest, 1.6 + high * len(names) + 0.04 * longest)
    axes = figure.add_subplot()
    axes.set_facecolor("#eeeeee")
    known = np.isfinite(values)
    axes.imshow(
        np.ma.masked_invalid(np.where(values < bound, 1.0, 0.0) + np.where(known, 0.0, math.nan)),
        cmap="Blues",
        vmin=-0.2,
        vmax=1.4,
        aspect="auto",
    )
    for i, j in np.argwhere(known) if size >= 4.5 else []:
        text = f"{values[i, j]:.3f}" if values[i, j] >= 0.001 else "<0.001"
        colour = "white" if values[i, j] < bound else "#222222"
        axes.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=size)
    axes.spines[:].set_visible(False)
    words = f"p of {comparison.metric}: {comparison.test}, corrected ({comparison.correction})"
    heading(axes, title or words, max(24, int(10 * wide * len(names))))
    return figure


def pareto_front(points: pl.DataFrame, *, title: str = "") -> Figure:
    """Draw the first two objectives of each model; those that no other beats in both are joined.

    Parameters
    ----------
    points
        What `store.evaluations.pareto` gave.

    Raises
    ------
    InvalidInput
        Another frame, or matplotlib is not installed.
    """
    _need(points, {"model_id", "on_front"}, "pareto")
    names = [n for n in points.columns if n not in ("model_id", "evaluation_id", "on_front", "dominated_by")][
        :2
    ]
    if len(names) < 2:
        raise InvalidInput(f"A front needs two objectives; found {names}.")
    x, y = names
    shown = points.drop_nulls([x, y])
    _need(shown, {x, y}, "pareto with values")
    figure, axes = new_axes(5.6, 4.2)
    front = shown.filter(pl.col("on_front")).sort(x)
    axes.plot(front[x].to_list(), front[y].to_list(), color=COLOURS["faint"], linestyle=DASHES)
    for part, colour in ((False, COLOURS["calibration"]), (True, COLOURS["test"])):
        own = shown.filter(pl.col("on_front") == part)
        axes.plot(own[x].to_list(), own[y].to_list(), "o", color=colour, linestyle="none")
    axes.set_xlabel(plain(x))
    name_y(axes, y)
    heading(axes, title)
    ids = shown["model_id"].to_list()
    on_front = shown["on_front"].to_numpy()
    # Those on the front have a name, and where there is room the others too.
    named = np.ones(len(ids), dtype=bool) if len(ids) <= 12 else on_front
    name_points(axes, shown[x].to_numpy(), shown[y].to_numpy(), named, ids, most=12)
    return figure


def robustness_curves(curves: pl.DataFrame, *, title: str = "") -> Figure:
    """Draw a metric against a disturbance: one line per model, with its interval as a band.

    Parameters
    ----------
    curves
        Result of `store.evaluations.robustness`.

    Raises
    ------
    InvalidInput
        Another frame, or matplotlib is not installed.
    """
    _need(curves, {"model_id", "metric", "value", "ci_low", "ci_high", "change"}, "robustness")
    level = curves.columns[1]
    figure, axes = new_axes(6.2, 4.0)
    models = curves["model_id"].unique(maintain_order=True)
    for model, colour, marker in zip(models, cycle(SERIES), cycle(_MARKERS), strict=False):
        own = curves.filter((pl.col("model_id") == model) & pl.col("value").is_not_null())
        words = plain(shortened(printable(str(model)), 40))
        axes.plot(own[level].to_list(), own["value"].to_list(), marker=marker, color=colour, label=words)
        band = own.drop_nulls(["ci_low", "ci_high"])
        axes.fill_between(
            band[level].to_list(),
            band["ci_low"].to_list(),
            band["ci_high"].to_list(),
            color=colour,
            alpha=0.15,
        )
    axes.set_xlabel(plain(level))
    name_y(axes, str(curves["metric"][0]))
    heading(axes, title)
    legend_below(figure)
    return figure


def score_trend(trend: pl.DataFrame, *, title: str = "") -> Figure:
    """Draw recorded values over time, the best so far as steps, and the fitted line.

    Parameters
    ----------
    trend
        What `store.evaluations.trend` gave.

    Raises
    ------
    InvalidInput
        Another frame, or matplotlib is not installed.
    """
    _need(trend, {"created_at", "model_id", "metric", "value", "best_so_far", "fitted"}, "trend")
    figure, axes = new_axes(7.0, 3.8, dates=True)
    when: Any = trend["created_at"].to_list()
    axes.step(when, trend["best_so_far"].to_list(), where="post", color=COLOURS["faint"], label="best so far")
    models = trend["model_id"].unique(maintain_order=True)
    for model, colour, marker in zip(models, cycle(SERIES), cycle(_MARKERS), strict=False):
        own = trend.filter((pl.col("model_id") == model) & pl.col("value").is_not_null())
        moments: Any = own["created_at"].to_list()
        words = plain(shortened(printable(str(model)), 40))
        axes.plot(moments, own["value"].to_list(), marker, color=colour, label=words)
    if trend["fitted"].null_count() < trend.height:
        axes.plot(
            when, trend["fitted"].to_list(), color=COLOURS["line"], linestyle=DASHES, label="Theil-Sen line"
        )
    name_y(axes, str(trend["metric"][0]))
    heading(axes, title)
    legend_below(figure)
    short_dates(axes)
    return figure


# -- Training curves: values by step, one line for each pipeline.

_NEEDED = ("pipeline_id", "name", "step", "value")
_MOST = 20
_DASHES = ("-", "--", ":", "-.")


def training_curves(frame: pl.DataFrame, *, title: str = "", log: bool | None = None) -> Figure:
    """Draw curves over the steps: one color per pipeline, one dash pattern per name.

    Parameters
    ----------
    frame
        What `WorkspaceStore.get_metrics` returns. Points that are NaN or infinite leave a gap.
    title
        Heading.
    log
        Whether the values have a logarithmic axis; by default where all are positive and span more than a hundredfold.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        A column is missing, there is no point, there are more than 20 curves, or matplotlib is not installed.

    Examples
    --------
    >>> import polars as pl
    >>> from nirs_store.plots import training_curves
    >>> points = {"pipeline_id": ["a", "a"], "name": ["loss", "loss"], "step": [1, 2], "value": [0.9, 0.4]}
    >>> training_curves(pl.DataFrame(points)).axes[0].get_ylabel()
    'loss'
    """
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise InvalidInput(
            f"frame: it lacks the columns {', '.join(missing)}. Give what get_metrics returns."
        )
    curves = frame.partition_by("pipeline_id", "name", maintain_order=True, as_dict=True)
    if not curves:
        raise InvalidInput("There are no training curves to draw; log_metric and log_metrics record them.")
    if len(curves) > _MOST:
        raise InvalidInput(f"frame: expected 1 to {_MOST} curves, found {len(curves)}.")
    pipelines = list(dict.fromkeys(str(key[0]) for key in curves))
    names = list(dict.fromkeys(str(key[1]) for key in curves))
    called = _called(frame, pipelines)
    figure, axes = new_axes(7.0, 4.2 + 0.1 * len(curves))
    known: list[np.ndarray] = []
    for (pipeline, name), points in curves.items():
        value = points["value"].to_numpy().astype(np.float64)
        value = np.where(np.isfinite(value), value, np.nan)
        known.append(value[np.isfinite(value)])
        words = [called[str(pipeline)]] if len(pipelines) > 1 else []
        axes.plot(
            points["step"].to_numpy(),
            value,
            color=SERIES[pipelines.index(str(pipeline)) % len(SERIES)],
            linestyle=_DASHES[names.index(str(name)) % len(_DASHES)],
            marker="o" if points.height == 1 else "",
            linewidth=1.4,
            label=shortened(" · ".join([*words, *([str(name)] if len(names) > 1 else [])]), 60) or str(name),
        )
    values = np.concatenate(known)
    if log is None:
        log = bool(values.size and values.min() > 0 and values.max() > 100 * values.min())
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("Step")
    name_y(axes, ", ".join(names) if len(names) < 4 else "Value")
    heading(axes, title or "Training curves")
    if len(curves) > 1:
        legend_below(figure)
    return figure


def _called(frame: pl.DataFrame, pipelines: list[str]) -> dict[str, str]:
    """Name pipelines by their names, and by the end of their ids where several have one name."""
    if "pipeline" not in frame.columns:
        return {each: each[-8:] for each in pipelines}
    pairs = dict(frame.select("pipeline_id", "pipeline").unique().rows())
    alike = list(pairs.values())
    return {
        each: f"{pairs[each]} {each[-8:]}" if alike.count(pairs[each]) > 1 else str(pairs[each] or each[-8:])
        for each in pipelines
    }
