"""Predicted against measured: the figure a calibration is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import chain_data
from nirs_store.plots._figure import (
    COLOURS,
    Axes,
    Figure,
    Floats,
    heading,
    label,
    name_points,
    name_y,
    new_axes,
    number,
    paired,
    point_style,
)
from nirs_store.protocol import ReadsRuns
from nirs_store.scores import regression_scores

_SETS = {
    "calibration": ("RMSEC", "Calibration", "o", 18.0),
    "cv": ("RMSECV", "Cross-validation", "o", 20.0),
    "test": ("RMSEP", "Test", "^", 34.0),
}


def predicted_vs_measured(
    *,
    calibration: tuple[ArrayLike, ArrayLike] | None = None,
    cv: tuple[ArrayLike, ArrayLike] | None = None,
    test: tuple[ArrayLike, ArrayLike] | None = None,
    target: str = "",
    unit: str = "",
    n_components: int | None = None,
    title: str = "",
    names: Mapping[str, Sequence[Any]] | None = None,
) -> Figure:
    """Draw predicted against measured values on equal axes with the 1:1 line and a box of scores.

    Parameters
    ----------
    calibration, cv, test
        Pairs ``(measured, predicted)``, each of shape ``(n,)`` or ``(n, 1)``, in the unit of the
        target: the samples a model was fitted to, the pooled out-of-fold predictions, and
        held-out samples. At least one is needed.
    target, unit
        Name and unit of what is predicted, for the axes.
    n_components
        Number of latent variables (LVs), shown in the box.
    title
        Written above the figure, for example the preprocessing and the model.
    names
        Names of the samples of ``"cv"`` and ``"test"``; those farther than 2 SEP from the mean error are written
        at their points.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        No pair was given, values are missing or not numbers, or matplotlib is not installed.
    ShapeMismatch
        Measured and predicted differ in length.

    Notes
    -----
    RMSE, bias, SEP, R2 and RPD are those of :func:`nirs_store.scores.regression_scores`.

    Examples
    --------
    >>> from nirs_store.plots import predicted_vs_measured
    >>> figure = predicted_vs_measured(cv=([1.0, 2.0, 3.0], [1.1, 1.9, 3.2]), target="fat", unit="%")
    >>> figure.axes[0].get_xlabel()
    'Measured fat (%)'
    """
    given = {"calibration": calibration, "cv": cv, "test": test}
    pairs = {name: paired(_SETS[name][1], pair) for name, pair in given.items() if pair is not None}
    if not pairs:
        raise InvalidInput("Nothing to draw: give calibration=, cv= or test= as (measured, predicted).")
    figure, axes = new_axes(6.2, 6.4)
    low, high = _limits(list(pairs.values()))
    axes.plot([low, high], [low, high], color=COLOURS["line"], linewidth=1.0, zorder=1, label="1:1")
    for order, (name, (measured, predicted)) in enumerate(pairs.items(), start=2):
        _, words, marker, size = _SETS[name]
        hollow = name == "calibration"
        axes.scatter(
            measured,
            predicted,
            marker=marker,
            zorder=order,
            label=words,
            facecolors="none" if hollow else COLOURS[name],
            **point_style(measured.size, size)
            | ({"edgecolors": COLOURS[name], "linewidths": 0.9} if hollow else {}),
        )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlabel(label("Measured", target or "value", unit))
    name_y(axes, label("Predicted", target or "value", unit))
    heading(axes, title)
    axes.legend(loc="lower right", frameon=False, fontsize=9, handletextpad=0.4)
    _box(axes, pairs, n_components)
    named = [name for name in pairs if names is not None and name != "calibration" and name in names]
    if names is not None and named:
        errors = [pairs[name][1] - pairs[name][0] for name in named]
        # Those of all sets together, so that no name covers one of another set.
        name_points(
            axes,
            np.concatenate([pairs[name][0] for name in named]),
            np.concatenate([pairs[name][1] for name in named]),
            np.concatenate([np.abs(e - e.mean()) > 2 * e.std(ddof=1) for e in errors]),
            [each for name in named for each in names[name]],
        )
    return figure


def chain_predicted_vs_measured(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`predicted_vs_measured` for a chain of a workspace.

    Calibration and test marks are the refit's (without one, the mean over the fold models);
    cross-validation marks are the pooled out-of-fold predictions.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain classifies, or none of its predictions keeps its arrays.
    """
    data = chain_data(store, chain_id)
    return predicted_vs_measured(
        calibration=data.pair("calibration"),
        cv=data.pair("cv"),
        test=data.pair("test"),
        target=data.target,
        unit=data.unit,
        n_components=data.n_components(),
        title=data.title,
        names={name: found for name in ("cv", "test") if (found := data.sample_names(name))},
    )


def predicted_frame(store: ReadsRuns, chain_id: str) -> pl.DataFrame:
    """Return what :func:`chain_predicted_vs_measured` draws, one row per sample and set.

    Returns
    -------
    polars.DataFrame
        ``set`` ("calibration", "cv", "test"), ``sample`` (name or row number, null where not stored), ``measured,
        predicted, residual`` (predicted minus measured).

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain classifies, or none of its predictions keeps its arrays.
    """
    data = chain_data(store, chain_id)
    parts = []
    for name in _SETS:
        pair = data.pair(name)
        if pair is None:
            continue
        names: list[Any] = data.sample_names(name) if name != "calibration" else []
        table = {"measured": pair[0], "predicted": pair[1], "residual": pair[1] - pair[0]}
        known = pl.Series("sample", names if len(names) == pair[0].size else [None] * pair[0].size, pl.String)
        parts.append(pl.DataFrame(table).select(pl.lit(name).alias("set"), known, *table))
    if not parts:
        raise data.no_arrays()
    return pl.concat(parts)


def _limits(pairs: list[tuple[Floats, Floats]]) -> tuple[float, float]:
    values = np.concatenate([part for pair in pairs for part in pair])
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low or abs(high) or 1.0)
    return low - margin, high + margin


def _box(axes: Axes, pairs: dict[str, tuple[Floats, Floats]], n_components: int | None) -> None:
    rows = [f"{'':16}{'n':>6}{'bias':>11}{'SEP':>11}{'R²':>7}{'RPD':>6}"]
    for name, (measured, predicted) in pairs.items():
        scores = regression_scores(measured, predicted)
        rmse = float(scores["rmse"])
        error, bias, sep = (_short(float(scores[key]), rmse) for key in ("rmse", "bias", "sep"))
        words = f"{_SETS[name][0]:<7}{error:>9}{int(scores['n']):>6}{bias:>11}{sep:>11}"
        rows.append(f"{words}{scores['r2']:>7.3f}{scores['rpd']:>6.1f}")
    if n_components is not None:
        rows.append(f"LVs    {n_components:>8}")
    rows.append("bias: predicted − measured")
    axes.text(
        0.025,
        0.975,
        "\n".join(rows),
        transform=axes.transAxes,
        va="top",
        ha="left",
        family="monospace",
        fontsize=7.5,
        linespacing=1.45,
        zorder=10,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "#cccccc", "alpha": 0.92},
    )


def _short(value: float, rmse: float) -> str:
    """Three decimals below ten, four significant figures above: what fits nine characters."""
    if not np.isfinite(value):
        return "-"
    if rmse >= 1e5:
        return number(value, 1e6)
    if abs(value) >= 10:
        return f"{value:.4g}"
    # A least-squares fit has a bias of 1e-15 on its own samples: that is zero, not a number to read.
    return f"{value:.2e}" if 0 < rmse < 0.01 and abs(value) > 1e-6 * rmse else f"{value + 0.0:.3f}"
