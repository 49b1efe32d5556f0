"""Predictions with their intervals: how sure each number is, and which samples are flagged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import (
    COLOURS,
    Figure,
    heading,
    label,
    legend_below,
    name_points,
    name_y,
    new_axes,
    point_style,
    side_labels,
)

_NEEDED = ("sample", "prediction", "lower", "upper", "flags")
_UNKNOWN = "domain not known"


def prediction_intervals(
    frame: pl.DataFrame,
    *,
    measured: ArrayLike | None = None,
    target: str = "",
    unit: str = "",
    title: str = "",
) -> Figure:
    """Draw predictions with bars from lower to upper, against the sample or the measured value.

    Flagged samples are orange and labeled with their names.

    Parameters
    ----------
    frame
        Result of `WorkspaceStore.predict`, or of a predictor with ``details=True``.
    measured
        Measured values of shape ``(n,)``, one for each row; NaN if there is none. The predictions are drawn against
        them, with the 1:1 line.
    target
        Name of the target; if the frame has several, the one to draw.
    unit, title
        Unit of the target, and heading.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        The frame is of another kind, it has no samples, classes instead of numbers, several targets without `target`,
        or no measured value; or matplotlib is not installed.
    ShapeMismatch
        `measured` has another length.

    Examples
    --------
    >>> import polars as pl
    >>> from nirs_store.plots import prediction_intervals
    >>> frame = pl.DataFrame({"sample": ["a", "b"], "prediction": [4.0, 9.0], "lower": [3.5, 8.5],
    ...     "upper": [4.5, 9.5], "flags": [[], ["outside"]]})
    >>> figure = prediction_intervals(frame, target="fat", unit="%")
    >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
    ['a', 'b']
    """
    shown = _rows(frame, target)
    y = shown["prediction"].to_numpy().astype(np.float64)
    x = np.arange(y.size, dtype=np.float64) if measured is None else _measured(measured, y.size)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise InvalidInput("Nothing to draw: no sample has both a measured and a predicted value.")
    lower, upper = (shown[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("lower", "upper"))
    flags = [[word for word in words or () if word != _UNKNOWN] for words in shown["flags"].to_list()]
    flagged = np.array([bool(words) for words in flags])
    square = measured is not None
    figure, axes = new_axes(6.2, 6.4) if square else new_axes(7.4, 4.4)
    thin = 1.4 if y.size <= 300 else 0.5
    for mask, colour, words in (
        (known & ~flagged, COLOURS["cv"], f"n = {int((known & ~flagged).sum())}"),
        (known & flagged, COLOURS["test"], f"flagged: {int((known & flagged).sum())}"),
    ):
        if mask.any():
            axes.vlines(x[mask], lower[mask], upper[mask], color=colour, alpha=0.55, linewidth=thin, zorder=2)
            axes.scatter(
                x[mask], y[mask], color=colour, zorder=3, label=words, **point_style(int(mask.sum()), 24)
            )
    for count, words in (
        (int((known & ~(np.isfinite(lower) & np.isfinite(upper))).sum()), "no interval"),
        (int((~known).sum()), "not drawn, no value"),
    ):
        if count:
            axes.plot([], [], " ", label=f"{words}: {count}")
    names = [str(name) for name in shown["sample"]]
    if square:
        drawn = np.concatenate([x[known], y[known], lower[known], upper[known]])
        low, high = np.nanmin(drawn), np.nanmax(drawn)
        margin = 0.04 * (high - low or abs(high) or 1.0)
        ends = (float(low - margin), float(high + margin))
        axes.plot(ends, ends, color=COLOURS["line"], linewidth=1.0, zorder=1, label="1:1")
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.set_aspect("equal", adjustable="box")
        axes.set_xlabel(label("Measured", target or "value", unit))
    elif y.size <= 30:
        words_of = side_labels(names, 20)
        turned: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        crowded = sum(len(each) + 2 for each in words_of) > 80
        axes.set_xticks(x, words_of, **(turned if crowded else {}))
        axes.grid(False, axis="x")
        axes.set_xlim(-0.6, y.size - 0.4)
    else:
        axes.set_xlabel("Sample, in the order of the frame")
        axes.margins(x=0.02)
    name_y(axes, label("Predicted", target or "value", unit))
    heading(axes, title or label("Predictions with intervals", f"of {target}" if target else ""))
    legend_below(figure)
    if square or y.size > 30:
        bars = [lower + share * (upper - lower) for share in (0.0, 0.25, 0.75, 1.0)]
        name_points(axes, x, y, flagged, names, avoid=np.column_stack([np.tile(x, 4), np.concatenate(bars)]))
    return figure


def _rows(frame: pl.DataFrame, target: str) -> pl.DataFrame:
    """Check the frame and return the rows of one target."""
    missing = [name for name in _NEEDED if name not in frame.columns]
    if "set" in frame.columns or (not missing and not frame["prediction"].dtype.is_numeric()):
        raise InvalidInput("frame: these are classes, which have no interval; look at the column 'set'.")
    if missing:
        raise InvalidInput(
            f"frame: it lacks the columns {', '.join(missing)}. Give what store.predict returns."
        )
    if "target" in frame.columns:
        targets = frame["target"].unique(maintain_order=True).to_list()
        if target in targets:
            frame = frame.filter(pl.col("target") == target)
        elif len(targets) > 1:
            raise InvalidInput(
                f"target: the frame has {', '.join(map(str, targets))}; name the one to draw, found {target!r}."
            )
    if not frame.height:
        raise InvalidInput("Nothing to draw: the frame has no sample.")
    return frame


def _measured(values: ArrayLike, count: int) -> Any:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput("measured: expected numbers, NaN where there is none.") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        raise ShapeMismatch(
            f"measured: expected {count} values, one per sample; found the shape {array.shape}."
        )
    return array
