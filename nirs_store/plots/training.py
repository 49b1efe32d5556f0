"""Training curves: values by step, one line for each pipeline."""

from __future__ import annotations

import numpy as np

from nirs_store.errors import InvalidInput, shortened
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import (
    SERIES,
    Figure,
    heading,
    legend_below,
    name_y,
    new_figure,
    tidy,
)

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
    figure = new_figure(7.0, 4.2 + 0.1 * len(curves))
    axes = figure.add_subplot()
    tidy(axes)
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
