"""Fold stability: whether one fold carries the error of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.plots._chain import ReadsChains, chain_data
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    Figure,
    heading,
    new_figure,
    number,
    score_label,
    side_labels,
    tidy,
    vector,
)

__all__ = ["chain_fold_stability", "fold_stability"]


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
        A score a fold, shape ``(k,)``.
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
    figure = new_figure(float(np.clip(1.8 + 0.48 * len(names), 5.6, 14.0)), 4.2)
    axes = figure.add_subplot()
    tidy(axes)
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
    long = max(map(len, names)) > 4
    turned: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(
        position[::every],
        side_labels(names[::every], 20),
        **turned,
    )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0.0, 1.12 * top or 1.0)
    axes.set_xlabel("Fold")
    axes.set_ylabel(score_label(metric, target, unit))
    heading(axes, title or "Fold stability")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def chain_fold_stability(store: ReadsChains, chain_id: str) -> Figure:
    """Draw :func:`fold_stability` of a chain: RMSE a fold for a regression, else the stored metric.

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
    metric = data.score_name()
    regression = data.is_regression
    return fold_stability(
        folds,
        [data.fold_score(fold, "val", metric) for fold in folds],
        train=_complete([data.fold_score(fold, "train", metric) for fold in folds]),
        test=_complete([data.fold_score(fold, "test", metric) for fold in folds]),
        pooled=data.pooled_rmse() if regression else None,
        metric=metric.upper() if regression else metric.replace("_", " "),
        target=data.target,
        unit=data.unit if regression else "",
        title=data.title,
    )


def _complete(scores: list[float]) -> list[float] | None:
    return scores if np.isfinite(scores).all() else None
