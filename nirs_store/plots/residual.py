"""Residuals: whether the error of a calibration depends on what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.plots._chain import chain_data
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    Figure,
    heading,
    label,
    legend_below,
    name_points,
    name_y,
    new_figure,
    number,
    paired,
    point_style,
    tidy,
)
from nirs_store.protocol import ReadsRuns
from nirs_store.scores import regression_scores


def residuals(
    measured: ArrayLike,
    predicted: ArrayLike,
    *,
    target: str = "",
    unit: str = "",
    title: str = "",
    set_name: str = "Cross-validation",
    names: Sequence[Any] | None = None,
) -> Figure:
    """Draw predicted minus measured over the predicted value, with their distribution at the side.

    The solid line is the bias, and the dashed lines are two SEP above and below it: about one sample in twenty is
    outside if the errors are normal.

    Parameters
    ----------
    measured, predicted
        Values of shape ``(n,)`` or ``(n, 1)`` in the unit of the target.
    target, unit
        Name and unit of what is predicted, for the axes.
    title, set_name
        Heading, and the name of the set of samples for the legend.
    names
        Names of the samples, written at points beyond 2 SEP.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        Values are missing or not numbers, or matplotlib is not installed.
    ShapeMismatch
        Measured and predicted differ in length.

    Examples
    --------
    >>> from nirs_store.plots import residuals
    >>> figure = residuals([1.0, 2.0, 3.0], [1.1, 1.9, 3.2], target="fat", unit="%")
    >>> figure.axes[0].get_ylabel()
    'Predicted − measured (%)'
    """
    truth, guess = paired(set_name, (measured, predicted))
    error = guess - truth
    scores = regression_scores(truth, guess)
    bias, sep = float(scores["bias"]), float(scores["sep"])
    figure = new_figure(7.4, 4.2)
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(4.6, 1.0))
    for part in (axes, side):
        tidy(part)
        part.axhline(0.0, color=COLOURS["faint"], linewidth=1.0, zorder=1)
        words = f"bias {number(bias, sep, sign='+')}" if part is axes else None
        part.axhline(bias, color=COLOURS["line"], linewidth=1.2, zorder=2, label=words)
        for sign in (-2.0, 2.0):
            words = f"bias ± 2 SEP, SEP {number(sep)}" if part is axes and sign > 0 else None
            level = bias + sign * sep
            part.axhline(level, color=COLOURS["line"], linewidth=0.9, linestyle=DASHES, zorder=2, label=words)
    outside = np.abs(error - bias) > 2.0 * sep
    for mask, colour, words in (
        (~outside, COLOURS["cv"], f"{set_name}, n = {error.size}"),
        (outside, COLOURS["test"], f"beyond 2 SEP: {int(outside.sum())}"),
    ):
        axes.scatter(
            guess[mask], error[mask], zorder=3, color=colour, label=words, **point_style(int(mask.sum()))
        )
    reach = 1.12 * max(float(np.abs(error).max()), abs(bias) + 2.0 * sep) or 1.0
    axes.set_ylim(-reach, reach)
    axes.set_xlabel(label("Predicted", target or "value", unit))
    name_y(axes, label("Predicted − measured", "", unit))
    heading(axes, title or label("Residuals of", target or "the prediction"))
    legend_below(figure)
    bins = int(np.clip(np.sqrt(error.size) * 1.6, 5, 30))
    side.hist(error, bins=bins, orientation="horizontal", color=COLOURS["cv"], alpha=0.55)
    side.set_xlabel("Samples")
    side.locator_params(axis="x", nbins=3, integer=True)
    if names is not None:
        name_points(axes, guess, error, outside, names)
    return figure


def chain_residuals(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`residuals` of a chain's pooled out-of-fold predictions (else its test set's).

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain classifies, or none of its predictions keeps its arrays.
    """
    data = chain_data(store, chain_id)
    for name, words in (("cv", "Cross-validation"), ("test", "Test"), ("calibration", "Calibration")):
        pair = data.pair(name)
        if pair is not None:
            names = data.sample_names(name) if name != "calibration" else None
            words_of = {"target": data.target, "unit": data.unit, "title": data.title, "set_name": words}
            return residuals(*pair, names=names or None, **words_of)
    raise data.no_arrays()
