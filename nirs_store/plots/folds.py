"""Fold stability: whether one fold carries the error of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import chain_data
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    Figure,
    Floats,
    heading,
    legend_below,
    name_y,
    new_axes,
    number,
    score_label,
    side_labels,
    vector,
)
from nirs_store.protocol import ReadsRuns


def fold_stability(
    folds: Sequence[str],
    validation: ArrayLike,
    *,
    train: ArrayLike | None = None,
    test: ArrayLike | None = None,
    pooled: float | None = None,
    metric: str = "RMSE",
    target: str = "",
    unit: str = "",
    title: str = "",
) -> Figure:
    """Draw the score of each fold: validation, and training and test where known.

    Parameters
    ----------
    folds
        Names of the folds, in order.
    validation, train, test
        One score per fold, shape ``(k,)``.
    pooled
        The score of the pooled out-of-fold predictions (RMSECV), drawn as a line; the band
        around the mean of the folds is one standard deviation wide on either side.
    metric, target, unit, title
        Words for axes and heading.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        No folds, values are missing, or matplotlib is not installed.
    ShapeMismatch
        A number of scores that is not the number of folds.

    Examples
    --------
    >>> from nirs_store.plots import fold_stability
    >>> figure = fold_stability(["0", "1", "2"], [2.1, 1.8, 2.6], pooled=2.2, target="fat", unit="%")
    >>> figure.axes[0].get_ylabel()
    'RMSE of fat (%)'
    """
    names = [str(name) for name in folds]
    if not names:
        raise InvalidInput("Nothing to draw: no folds were given.")
    marks = {"Validation": validation, "Training": train, "Test": test}
    style = {"Validation": ("o", "cv"), "Training": ("_", "calibration"), "Test": ("^", "test")}
    long = max(map(len, names)) > 4
    figure, axes = new_axes(float(np.clip(1.8 + 0.48 * len(names), 5.6, 14.0)), 5.0 if long else 4.2)
    axes.grid(False, axis="x")
    position = np.arange(len(names))
    top = 0.0
    size = float(np.clip(60 * 30 / len(names), 10, 60))
    for words, values in marks.items():
        if values is None:
            continue
        scores = vector(f"{words} scores", values)
        if scores.size != len(names):
            raise ShapeMismatch(f"{len(names)} folds but {scores.size} {words.lower()} scores.")
        marker, colour = style[words][0], COLOURS[style[words][1]]
        axes.scatter(
            position, scores, marker=marker, s=size, color=colour, linewidths=1.8, zorder=4, label=words
        )
        top = max(top, float(scores.max()))
        if words == "Validation" and scores.size > 1:
            mean, spread = float(scores.mean()), float(scores.std(ddof=1))
            axes.axhspan(mean - spread, mean + spread, color=colour, alpha=0.10, linewidth=0, zorder=1)
            axes.vlines(position, mean, scores, color=colour, alpha=0.35, linewidth=1.2, zorder=2)
            words = f"mean {number(mean)} ± {number(spread, mean)}"
            axes.axhline(mean, color=colour, linewidth=1.0, label=words, zorder=2)
            top = max(top, mean + spread)
    if pooled is not None:
        words = f"pooled {number(pooled)}"
        axes.axhline(pooled, color=COLOURS["line"], linewidth=1.2, linestyle=DASHES, label=words, zorder=3)
        top = max(top, pooled)
    # One name in so many where there are hundreds, as in leave-one-out.
    every = -(-len(names) // 30)
    turned: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(
        position[::every],
        side_labels(names[::every], 20),
        **turned,
    )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0.0, 1.12 * top or 1.0)
    axes.set_xlabel("Fold")
    name_y(axes, score_label(metric, target, unit))
    heading(axes, title or "Fold stability")
    legend_below(figure)
    return figure


def chain_fold_stability(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`fold_stability` of a chain: RMSE per fold for a regression, else the stored metric.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain has no predictions of validation samples.
    """
    data, frame = chain_data(store, chain_id), folds_frame(store, chain_id)
    regression, metric = data.is_regression, data.score_name()
    return fold_stability(
        frame["fold"].to_list(),
        frame["validation"].to_numpy(),
        train=_complete(frame["train"]),
        test=_complete(frame["test"]),
        pooled=data.pooled_rmse() if regression else None,
        metric=metric.upper() if regression else metric.replace("_", " "),
        target=data.target,
        unit=data.unit if regression else "",
        title=data.title,
    )


def folds_frame(store: ReadsRuns, chain_id: str) -> pl.DataFrame:
    """Return the score of each fold: RMSE for a regression, else the metric that was recorded.

    Returns
    -------
    polars.DataFrame
        ``fold, validation, train, test``; NaN where a score was not recorded.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain has no predictions of validation samples.
    """
    data = chain_data(store, chain_id)
    folds = data.fold_names()
    if not folds:
        raise InvalidInput(f"The chain {chain_id!r} has no predictions of the partition 'val'.")
    parts = {"validation": "val", "train": "train", "test": "test"}
    scores = {
        name: [data.fold_score(fold, partition, data.score_name()) for fold in folds]
        for name, partition in parts.items()
    }
    return pl.DataFrame({"fold": folds, **scores})


def _complete(scores: pl.Series) -> Floats | None:
    return scores.to_numpy() if scores.is_finite().all() else None
