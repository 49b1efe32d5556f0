"""Spectra, colored by a reference or a group, and before and after each preprocessing step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.display import printable
from nirs_store.errors import InvalidInput, ShapeMismatch, shortened
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import chain_data
from nirs_store.plots._figure import (
    COLOURS,
    SERIES,
    Figure,
    Floats,
    colour_bar,
    heading,
    label,
    legend_below,
    name_wavelengths,
    new_axes,
    new_figure,
    tidy,
    vector,
    wrapped,
)
from nirs_store.protocol import ReadsRuns

_MOST_LINES = 300


def raw_spectra(
    X: Any,
    *,
    wavelengths: ArrayLike | None = None,
    wavelength_unit: str | None = None,
    values: ArrayLike | None = None,
    groups: Sequence[Any] | None = None,
    colour_by: str | None = None,
    target: str = "",
    unit: str = "",
    title: str = "",
) -> Figure:
    """Draw spectra, colored by a reference value or by a group; wavenumbers fall from left to right.

    Parameters
    ----------
    X
        Array of shape ``(n, channels)``, or the result of `read_spectra`, which includes wavelengths, unit, reference
        values and groups. NaN leaves a gap.
    wavelengths
        Shape ``(channels,)``; the channel number when not known.
    wavelength_unit
        ``"nm"``, ``"cm-1"``, ``"um"`` in any spelling; ``""`` where it is not known.
    values
        Numbers of shape ``(n,)`` that color the lines; NaN is gray.
    groups
        Words of shape ``(n,)`` that color the lines; the eight largest groups have a color.
    colour_by
        A target or another column of the result of `read_spectra`; numbers count as values, words as groups.
    target, unit, title
        Words for the colors and the heading.

    Returns
    -------
    matplotlib.figure.Figure
        At most 300 spectra are drawn, evenly chosen; the heading says so.

    Raises
    ------
    InvalidInput
        No spectrum, no such column, or matplotlib is not installed.
    ShapeMismatch
        Lengths that differ.

    Examples
    --------
    >>> import numpy as np
    >>> from nirs_store.plots import raw_spectra
    >>> grid = [6000, 5000, 4000]
    >>> figure = raw_spectra(np.ones((4, 3)), wavelengths=grid, wavelength_unit="cm-1", groups=list("abab"))
    >>> figure.axes[0].get_xlabel(), bool(figure.axes[0].xaxis.get_inverted())
    ('Wavenumber (cm⁻¹)', True)
    """
    if hasattr(X, "references"):
        read, X = X, X.X
        wavelengths = read.wavelengths if wavelengths is None else wavelengths
        wavelength_unit = (read.unit or "") if wavelength_unit is None else wavelength_unit
        if values is None and groups is None:
            values, groups, target, unit = _colours_of(read, colour_by, target, unit)
    elif colour_by is not None:
        raise InvalidInput("colour_by: an array has no columns; give values or groups.")
    lines = np.asarray(X, dtype=np.float64)
    if lines.ndim != 2 or not lines.size:
        raise InvalidInput(f"Nothing to draw: expected spectra, one per row; found the shape {lines.shape}.")
    grid = None if wavelengths is None else vector("wavelengths", wavelengths)
    if grid is not None and grid.size != lines.shape[1]:
        raise ShapeMismatch(f"{lines.shape[1]} channels but {grid.size} wavelengths.")
    count = len(lines)
    shown = _shown(count)
    figure, axes = new_axes(7.4, 4.2)
    colours, mapping, legend = (
        _line_colours(values, count, shown)
        if groups is None or values is not None
        else _group_colours(groups, count, shown)
    )
    x = np.arange(lines.shape[1], dtype=np.float64) if grid is None else grid
    _draw_lines(axes, x, lines[shown], colours)
    axes.set_ylabel("Signal")
    if grid is None:
        axes.set_xlabel("Channel")
        axes.locator_params(axis="x", integer=True)
    else:
        name_wavelengths(axes, "nm" if wavelength_unit is None else wavelength_unit, grid)
    if mapping is not None:
        colour_bar(figure, mapping, axes, label("", target or "value", unit))
    if legend:
        for words, colour in legend.items():
            axes.plot([], [], color=colour, linewidth=2, label=words)
        legend_below(figure, None if mapping is not None else target or None)
    drawn = f"{count} spectra" if shown.size == count else f"{shown.size} of {count} spectra"
    heading(axes, f"{title} ({drawn})" if title else drawn)
    return figure


def spectra_by_step(
    stages: Sequence[tuple[str, ArrayLike]],
    *,
    wavelengths: ArrayLike | None = None,
    wavelength_unit: str = "nm",
    values: ArrayLike | None = None,
    target: str = "",
    unit: str = "",
    title: str = "",
) -> Figure:
    """Draw spectra in one panel per step, from the raw spectra to the model's input.

    Parameters
    ----------
    stages
        ``(name, spectra)`` in order, each of shape ``(n, channels)``. A stage with another number
        of channels than `wavelengths` is drawn over the channel number.
    wavelengths
        Shape ``(channels,)``, in `wavelength_unit`.
    wavelength_unit
        ``"nm"``, ``"cm-1"``, ``"um"`` in any spelling; ``""`` where it is not known.
    values
        Measured values of shape ``(n,)``: colors the spectra, with a color bar.
    target, unit, title
        Words for the color bar and the heading.

    Returns
    -------
    matplotlib.figure.Figure
        At most 300 spectra are drawn, evenly chosen.

    Raises
    ------
    InvalidInput
        No stage, or matplotlib is not installed.
    ShapeMismatch
        Stages with different numbers of samples.

    Examples
    --------
    >>> import numpy as np
    >>> from nirs_store.plots import spectra_by_step
    >>> raw = np.random.default_rng(0).random((5, 20))
    >>> figure = spectra_by_step([("raw", raw), ("centred", raw - raw.mean(0))])
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['raw', 'centred']
    """
    if not stages:
        raise InvalidInput("Nothing to draw: stages must hold at least one (name, spectra).")
    arrays = [(name, np.atleast_2d(np.asarray(spectra, dtype=np.float64))) for name, spectra in stages]
    count = arrays[0][1].shape[0]
    for name, spectra in arrays:
        if spectra.ndim != 2 or spectra.shape[0] != count:
            raise ShapeMismatch(
                f"{name}: expected {count} spectra, a row each; found the shape {spectra.shape}."
            )
    grid = None if wavelengths is None else vector("wavelengths", wavelengths)
    if not count:
        raise InvalidInput(f"Nothing to draw: {arrays[0][0]} has no spectrum.")
    shown = _shown(count)
    colours, mapping, legend = _line_colours(values, count, shown)
    figure = new_figure(7.4, 0.7 + 2.2 * len(arrays))
    panels = figure.subplots(len(arrays), 1, squeeze=False)[:, 0]
    for axes, (name, spectra) in zip(panels, arrays, strict=True):
        tidy(axes)
        known = grid is not None and grid.size == spectra.shape[1]
        x = grid if grid is not None and known else np.arange(spectra.shape[1], dtype=np.float64)
        _draw_lines(axes, x, spectra[shown], colours)
        axes.set_title(wrapped(name, 60 if mapping is not None else 75), fontsize=10, loc="left")
        axes.set_ylabel("Signal" if axes is not panels[0] else "Spectrum")
        if known:
            name_wavelengths(axes, wavelength_unit, grid)
        if not known or axes is not panels[-1]:
            axes.set_xlabel("" if known else "Channel")
    if mapping is not None:
        colour_bar(figure, mapping, list(panels), label("", target or "value", unit))
    for words, colour in legend.items():
        panels[0].plot([], [], color=colour, linewidth=2, label=words)
    if legend:
        legend_below(figure)
    if title:
        figure.suptitle(wrapped(title, 75), fontsize=11, x=0.01, ha="left")
    return figure


def chain_spectra_by_step(
    store: ReadsRuns,
    chain_id: str,
    X: ArrayLike,
    *,
    wavelengths: ArrayLike | None = None,
    values: ArrayLike | None = None,
) -> Figure:
    """Draw :func:`spectra_by_step` of `X` through the preprocessing of a stored chain.

    Fitted steps are those of the refit, or of the first fold where there is no refit.

    Parameters
    ----------
    store, chain_id
        Workspace and chain.
    X
        Raw spectra of shape ``(n, channels)``; the workspace keeps models, not spectra.
    wavelengths
        Shape ``(channels,)``; the chain's own when not given.
    values
        Measured values that color the lines.

    Raises
    ------
    UnknownId
        No chain has that id.
    ShapeMismatch
        `X` does not have the channels the chain was fitted to.
    """
    data = chain_data(store, chain_id)
    grid = data.wavelengths if wavelengths is None else vector("wavelengths", wavelengths)
    return spectra_by_step(
        data.stages(np.asarray(X, dtype=np.float64)),
        wavelengths=grid,
        wavelength_unit=data.wavelength_unit,
        values=values,
        target=data.target,
        unit=data.unit,
        title=data.title,
    )


def spectra_frame(
    stages: Sequence[tuple[str, ArrayLike]], *, wavelengths: ArrayLike | None = None
) -> pl.DataFrame:
    """Return the spectra of :func:`spectra_by_step` as one long frame.

    Returns
    -------
    polars.DataFrame
        ``step, sample`` (row number), ``channel``, ``wavelength`` (null where a step has other channels), ``value``.

    Raises
    ------
    InvalidInput
        The wavelengths are not numbers.
    """
    grid = None if wavelengths is None else vector("wavelengths", wavelengths)
    parts = []
    for name, spectra in stages:
        lines = np.atleast_2d(np.asarray(spectra, dtype=np.float64))
        samples, channels = lines.shape
        known = grid is not None and grid.size == channels
        place = pl.Series(np.tile(grid, samples)) if grid is not None and known else pl.lit(None, pl.Float64)
        table = {
            "sample": np.repeat(np.arange(samples), channels),
            "channel": np.tile(np.arange(channels), samples),
            "value": lines.ravel(),
        }
        parts.append(
            pl.DataFrame(table).select(
                pl.lit(name).alias("step"), "sample", "channel", place.alias("wavelength"), "value"
            )
        )
    return pl.concat(parts)


def _shown(count: int) -> np.ndarray[Any, Any]:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_LINES)).astype(int))


def _draw_lines(axes: Any, x: Floats, lines: Floats, colours: Any) -> None:
    """Draw one line per spectrum over sorted positions."""
    from matplotlib.collections import LineCollection

    order = np.argsort(x, kind="stable")
    if isinstance(colours, list):
        # The groups without a color lie below the others.
        ranked = sorted(range(len(lines)), key=lambda i: colours[i] != COLOURS["faint"])
        lines, colours = lines[ranked], [colours[i] for i in ranked]
    alpha = float(np.clip(25.0 / max(len(lines), 1), 0.35, 0.9))
    segments = np.stack([np.broadcast_to(x[order], lines.shape), lines[:, order]], axis=-1)
    axes.add_collection(LineCollection(list(segments), colors=colours, linewidths=0.8, alpha=alpha))
    axes.autoscale_view()
    axes.margins(x=0.0)
    if lines.shape[1] == 1:
        # A line of one point cannot be seen.
        axes.scatter(segments[:, 0, 0], segments[:, 0, 1], c=colours, s=16, alpha=0.8)


def _colours_of(
    read: Any, colour_by: str | None, target: str, unit: str
) -> tuple[ArrayLike | None, Sequence[Any] | None, str, str]:
    """Return values or groups of what `read_spectra` returned, and what they are called."""
    targets = [read.target] if isinstance(read.target, str) else list(read.target or ())
    units = [read.target_unit] if isinstance(read.target_unit, str | None) else list(read.target_unit)
    y = None if read.y is None else np.asarray(read.y).reshape(len(read.X), -1)
    if colour_by is None and y is None and read.groups is not None:
        return None, list(read.groups), target or "group", ""
    chosen = colour_by if colour_by is not None else (targets[0] if targets else None)
    if chosen is None:
        return None, None, target, unit
    if chosen in targets and y is not None:
        column: Any = y[:, targets.index(chosen)]
        known = units[targets.index(chosen)] if len(units) == len(targets) else None
    elif chosen in read.references.columns:
        column, known = read.references[chosen].to_numpy(), None
    else:
        names = ", ".join(read.references.columns) or "none"
        raise InvalidInput(f"colour_by: no column {chosen!r}; the columns are: {names}.")
    if np.asarray(column).dtype.kind in "fiub":
        return column, None, target or chosen, unit or known or ""
    return None, list(column), target or chosen, ""


def _line_colours(
    values: ArrayLike | None, count: int, shown: np.ndarray[Any, Any]
) -> tuple[Any, Any, dict[str, str]]:
    """Return the colors of the lines that are shown, and what a color bar and a legend need to explain them."""
    if values is None:
        return COLOURS["cv"], None, {}
    try:
        numbers = np.asarray(values, dtype=np.float64).reshape(len(np.asarray(values)), -1)
    except (TypeError, ValueError) as error:
        raise InvalidInput("values must be numbers; give words as groups.") from error
    if numbers.shape != (count, 1):
        found = f"{len(numbers)} values" if numbers.shape[1] == 1 else f"values of the shape {numbers.shape}"
        raise ShapeMismatch(f"{count} spectra but {found} to color them by.")
    known = np.isfinite(numbers[:, 0])
    if not known.any():
        raise InvalidInput(f"values: all {count} are missing; draw the spectra without them.")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgba

    mapping = ScalarMappable(Normalize(numbers[known].min(), numbers[known].max()), cmap="viridis")
    colours = mapping.to_rgba(np.where(known, numbers[:, 0], numbers[known].min())[shown])
    colours[~known[shown]] = to_rgba(COLOURS["faint"])
    left = int((~known).sum())
    return colours, mapping, {f"no reference value: {left}": COLOURS["faint"]} if left else {}


def _group_colours(
    groups: Sequence[Any], count: int, shown: np.ndarray[Any, Any]
) -> tuple[Any, Any, dict[str, str]]:
    """Give the largest groups a color each, and the others grey."""
    names = [str(each) for each in groups]
    if len(names) != count:
        raise ShapeMismatch(f"{count} spectra but {len(names)} groups.")
    sizes = {name: names.count(name) for name in dict.fromkeys(names)}
    ranked = sorted(sizes, key=lambda name: -sizes[name])[: len(SERIES)]
    kept = [name for name in sizes if name in ranked]
    colours = dict(zip(kept, SERIES, strict=False))
    legend = {f"{shortened(printable(name), 24)} ({sizes[name]})": colours[name] for name in kept}
    if len(sizes) > len(kept):
        others = sum(size for name, size in sizes.items() if name not in colours)
        legend[f"{len(sizes) - len(kept)} other groups ({others})"] = COLOURS["faint"]
    return [colours.get(names[i], COLOURS["faint"]) for i in shown], None, legend
