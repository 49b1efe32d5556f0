"""Control chart of a calibration in service: reference minus predicted over time, with limits and EWMA."""

from __future__ import annotations

from typing import Any

import numpy as np

from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    Figure,
    heading,
    label,
    legend_below,
    name_points,
    name_y,
    new_axes,
    number,
    scatter_over,
    short_dates,
)


def control_frame(
    frame: pl.DataFrame,
    *,
    center: float | None = None,
    sep: float | None = None,
    lam: float | None = None,
) -> pl.DataFrame:
    """Return the limits and the EWMA of a control chart, one row per point, in the order of time.

    Parameters
    ----------
    frame
        Columns ``time`` (dates or numbers) and ``value`` (reference minus predicted, in the unit of the target). Points
        without a finite value are left out. Columns ``center``, ``sep`` and ``lam`` are used where the parameters are
        None, so that limits can change with the version of a calibration; others are kept.
    center
        What the values should lie around; 0 when neither is given.
    sep
        Standard error of prediction.
    lam
        Weight of the newest point in the EWMA, above 0 and at most 1; 0.4 when neither is given.

    Returns
    -------
    polars.DataFrame
        The columns of `frame`, and ``center, sep, lam, ewma, ewma_low, ewma_high`` and ``signal``: "beyond 3 SEP",
        "beyond 2 SEP", "EWMA", or empty. A value beyond 3 SEP is called that, even where the EWMA is out as well.

    Raises
    ------
    InvalidInput
        A column is missing, no SEP is known, a number cannot be used, or no point is left.

    Notes
    -----
    ewma(i) = lam value(i) + (1 - lam) ewma(i-1), ewma(0) = center, with the limits
    center ± 3 SEP sqrt(lam / (2 - lam) (1 - (1 - lam)^(2i))): Montgomery, Introduction to Statistical Quality Control,
    and NIST/SEMATECH e-Handbook 6.3.2.4 (which prints the limits for large i). It starts again where the center, the
    SEP or lam changes.
    """
    missing = [name for name in ("time", "value") if name not in frame.columns]
    if missing:
        raise InvalidInput(f"frame: it lacks the columns {', '.join(missing)}; expected time and value.")
    if not frame["value"].dtype.is_numeric():
        raise InvalidInput(f"frame: the column value must hold numbers; found {frame['value'].dtype}.")
    shown = frame.filter(pl.col("value").cast(pl.Float64).is_finite() & pl.col("time").is_not_null())
    if not shown.height:
        raise InvalidInput(f"Nothing to draw: none of {frame.height} points has a time and a finite value.")
    given = {"center": center, "sep": sep, "lam": lam}
    defaults = {"center": 0.0, "sep": None, "lam": 0.4}
    for name, value in given.items():
        chosen = defaults[name] if value is None and name not in frame.columns else value
        if chosen is not None:
            shown = shown.with_columns(pl.lit(float(chosen)).alias(name))
    if "sep" not in shown.columns:
        raise InvalidInput("sep: expected the standard error of prediction, as a number or a column.")
    for name, good, words in (
        ("center", pl.col("center").is_finite(), "a finite number"),
        ("sep", pl.col("sep").is_finite() & (pl.col("sep") > 0), "a number above 0"),
        ("lam", (pl.col("lam") > 0) & (pl.col("lam") <= 1), "a number above 0 and at most 1"),
    ):
        wrong = shown.filter(~good.fill_null(False))
        if wrong.height:
            raise InvalidInput(f"{name}: expected {words}; found {wrong[name][0]!r}.")
    shown = shown.sort("time", maintain_order=True).with_columns(
        pl.col("value", "center", "sep", "lam").cast(pl.Float64)
    )
    middle, spread, weight, values = (shown[name].to_numpy() for name in ("center", "sep", "lam", "value"))
    ewma, reach = np.empty(values.size), np.empty(values.size)
    last, age = 0.0, 0
    for i, value in enumerate(values):
        now = (middle[i], spread[i], weight[i])
        if i == 0 or now != (middle[i - 1], spread[i - 1], weight[i - 1]):
            last, age = middle[i], 0
        age += 1
        last = ewma[i] = weight[i] * value + (1 - weight[i]) * last
        reach[i] = 3 * spread[i] * np.sqrt(weight[i] / (2 - weight[i]) * (1 - (1 - weight[i]) ** (2 * age)))
    far = np.abs(values - middle) / spread
    signal = np.select(
        [far > 3, np.abs(ewma - middle) > reach, far > 2], ["beyond 3 SEP", "EWMA", "beyond 2 SEP"], ""
    )
    return shown.with_columns(
        ewma=ewma, ewma_low=middle - reach, ewma_high=middle + reach, signal=pl.Series(signal.tolist())
    )


def control_chart(
    frame: Any,
    *,
    center: float | None = None,
    sep: float | None = None,
    lam: float | None = None,
    target: str = "",
    unit: str = "",
    title: str = "",
) -> Figure:
    """Draw reference minus predicted over time, with ±2 and ±3 SEP, the EWMA and its limits.

    Points beyond 3 SEP are orange; they carry their names where the frame has a column ``sample``. A ring marks each
    point at which the EWMA is beyond its limits.

    Parameters
    ----------
    frame, center, sep, lam
        As for `control_frame`, which returns what is drawn; or what ``store.calibrations.monitor`` returned, which
        brings its limits and its EWMA, and words for the axis and the heading.
    target, unit, title
        Words for the axis and the heading.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        As for `control_frame`; or matplotlib is not installed.

    Examples
    --------
    >>> import polars as pl
    >>> from nirs_store.plots import control_chart
    >>> points = pl.DataFrame({"time": [1, 2, 3], "value": [0.1, -0.2, 0.9]})
    >>> figure = control_chart(points, sep=0.25, target="fat", unit="%")
    >>> figure.axes[0].get_ylabel()
    'Reference − predicted fat (%)'
    """
    if hasattr(frame, "chart"):
        if (center, sep, lam) != (None, None, None):
            raise InvalidInput("center, sep, lam: a monitoring brings its own; give them with a frame only.")
        target, unit, title = target or frame.target or "", unit or frame.unit or "", title or frame.label
        frame, shown = frame.chart, _monitored(frame.chart)
    else:
        shown = control_frame(frame, center=center, sep=sep, lam=lam)
    dates = shown["time"].dtype.is_temporal()
    when: Any = np.array(shown["time"].to_list()) if dates else shown["time"].to_numpy()
    values, middle, spread = (shown[name].to_numpy() for name in ("value", "center", "sep"))
    beyond = np.abs(values - middle) > 3 * spread
    out = ((shown["ewma"] > shown["ewma_high"]) | (shown["ewma"] < shown["ewma_low"])).to_numpy()
    figure, axes = new_axes(8.0, 4.4, dates=dates)
    line = COLOURS["line"]
    axes.plot(when, middle, color=line, linewidth=0.9, drawstyle="steps-post")
    limits: tuple[tuple[int, Any, float], ...] = ((2, "dotted", 0.9), (3, DASHES, 1.1))
    for times, style, width in limits:
        for sign in (1, -1):
            words = f"± {times} SEP" + (f", SEP {number(spread[-1])}" if times == 3 else "")
            if not np.isfinite(spread).any():
                words = f"± {times} SEP: not known"
            axes.plot(
                when,
                middle + sign * times * spread,
                color=line,
                linestyle=style,
                linewidth=width,
                drawstyle="steps-post",
                label=words if sign > 0 else None,
            )
    axes.fill_between(
        when,
        shown["ewma_low"].to_numpy(),
        shown["ewma_high"].to_numpy(),
        color=COLOURS["cv"],
        alpha=0.12,
        linewidth=0,
        step="post",
        label="limits of the EWMA",
    )
    scatter_over(axes, when, values, beyond, "calibration", "beyond 3 SEP")
    ewma = shown["ewma"].to_numpy()
    words = f"EWMA, λ = {shown['lam'][-1]:g}" if "lam" in shown.columns else "EWMA"
    axes.plot(when, ewma, color=COLOURS["cv"], linewidth=1.5, zorder=4, label=words)
    if out.any():
        axes.plot(
            when[out], ewma[out], "o", mfc="none", mec="#CC79A7", markersize=7 if values.size <= 300 else 3, zorder=5,
            label=f"EWMA beyond its limits: {int(out.sum())}",
        )  # fmt: skip
    left = frame.height - shown.height
    if left:
        axes.plot([], [], " ", label=f"not drawn, no value: {left}")
    name_y(axes, label("Reference − predicted", target, unit))
    axes.set_xlabel("" if dates else "Time")
    heading(axes, title or label("Control chart", f"of {target}" if target else ""))
    legend_below(figure)
    if dates:
        short_dates(axes)
    if "sample" in shown.columns and beyond.any():
        axis: Any = axes.xaxis
        where = axis.convert_units(when) if dates else when
        name_points(axes, where, values, beyond, shown["sample"].to_list())
    return figure


def _monitored(chart: pl.DataFrame) -> pl.DataFrame:
    """Lay the chart of a monitoring out as `control_frame` does; an unknown SEP is NaN."""
    if not chart.height:
        raise InvalidInput("Nothing to draw: no sample of this monitoring has a reference value.")
    action, reach = (
        pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in ("action", "ewma_limit")
    )
    return chart.select(
        pl.col("measured_at").alias("time"),
        pl.col("difference").alias("value"),
        pl.col("sample_id").alias("sample"),
        pl.lit(0.0).alias("center"),
        (action / 3).alias("sep"),
        "ewma",
        (-reach).alias("ewma_low"),
        reach.alias("ewma_high"),
    )
