"""What every figure shares: the lazy matplotlib, colors, labels, checks of the input, saving.

Figures are made from :class:`matplotlib.figure.Figure` directly. pyplot keeps every figure of
a process alive and picks a window system on import; a server, a worker and a test want neither.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nirs_store.addresses import user_path
from nirs_store.blobs.durable import write_error
from nirs_store.display import printable, with_unit
from nirs_store.errors import InvalidInput, ShapeMismatch, shortened
from nirs_store.reading.cells import FARTHEST_NM, parse_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:
    # Importing matplotlib for the sake of an annotation would cost 0.3 s and make it mandatory.
    Axes = Any
    Figure = Any

Floats = NDArray[np.float64]

#: Okabe and Ito's palette: told apart by color-blind readers and on a grey print.
COLOURS = {
    "calibration": "#8c8c8c",
    "cv": "#0072B2",
    "test": "#D55E00",
    "line": "#222222",
    "faint": "#c8c8c8",
}
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c6d31")

DASHES = (0, (5, 4))
_TICKS = "{x:.10g}"

_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".eps", ".ps")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, laid out so that no label is cut."""
    try:
        figure_class = import_module("matplotlib.figure").Figure
    except ModuleNotFoundError as missing:
        raise InvalidInput(
            f"Figures need matplotlib, which is not installed ({missing}). "
            'Install it with: pip install "nirs_store[plot]"'
        ) from missing
    figure: Figure = figure_class(figsize=(width, height), dpi=120, layout="constrained")
    return figure


def new_axes(width: float, height: float, *, dates: bool = False) -> tuple[Figure, Axes]:
    """Return a figure of that size with one tidy pair of axes."""
    figure = new_figure(width, height)
    axes: Axes = figure.add_subplot()
    tidy(axes, dates=dates)
    return figure, axes


def tidy(axes: Axes, *, dates: bool = False) -> None:
    """Take away what carries no information: two spines and heavy ticks; add a light grid."""
    # Ticks are written in full (``2e-06``): the exponent that matplotlib writes above an axis collides with the
    # heading.
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#666666")
    axes.tick_params(colors="#444444", labelsize=9)
    axes.grid(True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(_TICKS)
    if not dates:
        axes.xaxis.set_major_formatter(_TICKS)
        # Long numbers, such as 1000000, need more room than matplotlib leaves them.
        axes.locator_params(axis="x", nbins=7)


def heading(axes: Axes, text: str, width: int | None = None) -> None:
    """Write the heading of a figure, broken into lines where it is wider than the axes."""
    figure: Any = axes.figure
    axes.set_title(wrapped(text, width or int(9.3 * figure.get_figwidth() - 4)), fontsize=11, loc="left")


def name_y(axes: Axes, text: str) -> None:
    """Name the y axis, broken into lines where the name is longer than the axis."""
    figure: Any = axes.figure
    axes.set_ylabel(wrapped(text, int(10 * figure.get_figheight())))


def legend_below(figure: Figure, title: str | None = None) -> None:
    """Put the legend below the axes, where it covers nothing, in as many columns as there is room for."""
    longest = max(
        (len(words) for axes in figure.axes for words in axes.get_legend_handles_labels()[1]), default=0
    )
    columns = int(np.clip(13 * figure.get_figwidth() / (longest + 7), 1, 3)) if longest else 1
    legend = figure.legend(
        loc="outside lower left", ncols=columns, frameon=False, fontsize=9, title=title, title_fontsize=9,
        alignment="left",
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_text(wrapped(text.get_text(), int(11 * figure.get_figwidth())))


def colour_bar(figure: Figure, mapping: Any, axes: Any, words: str) -> Any:
    """Add a color bar with its label."""
    bar: Any = figure.colorbar(mapping, ax=axes, pad=0.02, aspect=35, format=_TICKS)
    bar.set_label(wrapped(words, min(40, int(10 * figure.get_figheight()))), fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
    return bar


def point_style(count: int, size: float = 22.0) -> dict[str, Any]:
    """Return size, edge and opacity of points; thousands of them are small and let others shine through."""
    if count <= 300:
        return {"s": size, "edgecolors": "white", "linewidths": 0.5, "alpha": 0.9}
    return {"s": max(size * (300 / count) ** 0.5, 8.0), "linewidths": 0.0, "alpha": 0.55}


def scatter_over(axes: Axes, x: Any, y: Any, over: NDArray[np.bool_], colour: str, words: str) -> None:
    """Draw points; those beyond a limit have a color of their own, and `words` in the legend."""
    groups = (
        (~over, COLOURS[colour], f"n = {int((~over).sum())}"),
        (over, COLOURS["test"], f"{words}: {int(over.sum())}"),
    )
    for mask, shade, name in groups:
        if mask.any():
            style = point_style(int(mask.sum()), 24)
            axes.scatter(x[mask], y[mask], color=shade, zorder=3, label=name, **style)


def label(what: str, target: str = "", unit: str = "") -> str:
    """Join a word, a quantity and its unit: ``Measured fat (%)``."""
    return wrapped(axis_words(what, target, unit), 60)


def axis_words(what: str, target: str = "", unit: str = "") -> str:
    """Join them in one line, as they are: what is not drawn by matplotlib needs no line breaks and no escapes."""
    return with_unit(" ".join(part for part in (what, target) if part), unit)


def score_label(metric: str, target: str = "", unit: str = "") -> str:
    """Word a score of a quantity: ``RMSECV of fat (%)``."""
    return label(f"{metric} of" if target else metric, target, unit)


def wrapped(text: str, width: int) -> str:
    """Break a heading into lines of at most so many characters, and cut what would fill more than three."""
    text = printable(text.replace("\n", " "))
    return plain("\n".join(textwrap.wrap(shortened(text, 3 * width), width)) or text)


def plain(text: str) -> str:
    """Escape dollar signs, between which matplotlib would read, or refuse, mathematics."""
    return re.sub(r"(?<!\\)\$", r"\$", text)


def side_labels(names: Sequence[str], longest: int = 36) -> list[str]:
    """Shorten names in the middle for the side of a figure; those that would become alike stay longer."""
    clean = [printable(name) for name in names]
    for length in (longest, 2 * longest, 4 * longest):
        cut = [shortened(name, length) for name in clean]
        if len(set(cut)) == len(set(clean)):
            return [plain("\n".join(textwrap.wrap(name, longest)) or name) for name in cut]
    return [plain(f"{number} {shortened(name, longest)}") for number, name in enumerate(clean, start=1)]


def name_points(
    axes: Axes,
    x: ArrayLike,
    y: ArrayLike,
    which: NDArray[np.bool_],
    names: Sequence[Any],
    most: int = 8,
    avoid: Floats | None = None,
) -> None:
    """Write names at the points farthest out, where they cover neither each other nor points."""
    # Call it last: it lays the figure out to know where the points are. `avoid` has other places to keep free, (k, 2).
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    places = np.flatnonzero(np.asarray(which, dtype=bool) & np.isfinite(xs) & np.isfinite(ys))
    if not places.size:
        return
    if places.size > most:
        far = sum(np.abs(v - np.nanmedian(v)) / (np.nanmax(v) - np.nanmin(v) or 1.0) for v in (xs, ys))
        places = places[np.argsort(-np.asarray(far)[places], kind="stable")][:most]
    figure: Any = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    scale = figure.dpi / 72
    # All in points from here on: offsets of a label are in points, whatever the resolution of the file.
    # The points that get a name count several times: a name must not hide one of them.
    spots = np.vstack([np.column_stack([xs, ys]), *[np.column_stack([xs, ys])[places]] * 6])
    dots = axes.transData.transform(spots if avoid is None else np.vstack([spots, avoid]))
    dots = dots[np.isfinite(dots).all(axis=1)] / scale
    inside = np.asarray(axes.get_window_extent(renderer).extents) / scale
    taken = [
        np.asarray(each.get_window_extent(renderer).extents) / scale
        for each in (axes.get_legend(), *axes.texts)
        if each is not None
    ]
    for i in places.tolist():
        words = axes.annotate(
            plain(shortened(printable(str(names[i])), 16)),
            (xs[i], ys[i]),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color="#333333",
            zorder=5,
        )
        box = words.get_window_extent(renderer)
        size = np.array([box.width, box.height]) / scale
        point = axes.transData.transform((xs[i], ys[i])) / scale
        offset, placed = _best_place(point, size, dots, taken, inside)
        words.set_position((float(offset[0]), float(offset[1])))
        taken.append(placed)
        near = np.clip(point, placed[:2], placed[2:])
        if np.hypot(*(near - point)) > 10:
            end = axes.transData.inverted().transform(near * scale)
            axes.plot([xs[i], end[0]], [ys[i], end[1]], color="#999999", linewidth=0.6, zorder=2.5)
            dots = np.vstack([dots, _between(point, near)])


def _best_place(
    point: Floats, size: Floats, dots: Floats, taken: Sequence[Floats], inside: Floats
) -> tuple[Floats, Floats]:
    """Find the offset of a label's middle that covers least: labels, then the edge, points, and the way there."""
    best: tuple[float, Floats, Floats] | None = None
    for gap in (5.0, 12.0, 22.0, 34.0, 48.0, 64.0, 82.0, 102.0):
        for turn in np.pi * np.array([0, 1, 0.25, 0.75, 1.75, 1.25, 0.5, 1.5, 0.12, 0.88, 1.12, 1.88]):
            way = np.array([np.cos(turn), np.sin(turn)])
            offset = way * (gap + size / 2)
            low, high = point + offset - size / 2, point + offset + size / 2
            box = np.concatenate([low, high])
            covered = sum(
                max(0.0, min(high[0] + 1, other[2]) - max(low[0] - 1, other[0]))
                * max(0.0, min(high[1] + 1, other[3]) - max(low[1] - 1, other[1]))
                for other in taken
            )
            cut = np.maximum(inside[:2] - low, 0).sum() + np.maximum(high - inside[2:], 0).sum()
            hidden = int(((dots > low - 2) & (dots < high + 2)).all(axis=1).sum())
            way_there = _between(point, np.clip(point, low, high)) if gap > 10 else dots[:0]
            crossed = sum(
                int(((way_there > other[:2]) & (way_there < other[2:])).all(axis=1).sum()) for other in taken
            )
            cost = 1000.0 * covered + 300.0 * cut + 20.0 * crossed + 8.0 * hidden + 0.5 * gap
            if best is None or cost < best[0]:
                best = (cost, offset, box)
        if best is not None and best[0] <= 0.5 * gap:
            break
    assert best is not None
    return best[1], best[2]


def _between(start: Floats, end: Floats) -> Floats:
    """Return points on a line, one every three points of length."""
    count = max(2, int(np.hypot(*(end - start)) / 3))
    return start + np.linspace(0.1, 1, count)[:, None] * (end - start)


def short_dates(axes: Any) -> None:
    """Write dates as short as their range allows."""
    dates: Any = import_module("matplotlib.dates")
    locator = dates.AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def decimals(value: float, digits: int = 3) -> int:
    """Return how many decimals show `digits` significant figures of `value`, at most six."""
    if not np.isfinite(value) or value == 0:
        return digits - 1
    return int(np.clip(digits - 1 - np.floor(np.log10(abs(value))), 0, 6))


def number(value: float, like: float | None = None, digits: int = 3, *, sign: str = "") -> str:
    """Write a number with so many significant figures of itself, or with as many decimals as `like` needs."""
    size = abs(value if like is None else like)
    if np.isfinite(size) and size and not 1e-4 <= size < 1e6:
        # A bias of 1e-15 next to an error of 1e-6 is zero.
        return f"{value if abs(value) > 1e-6 * size else 0.0:{sign}.{digits - 1}e}"
    places = decimals(size, digits)
    # Rounded first, so that a small negative value is not written as -0.
    return f"{round(value, places) + 0.0:{sign}.{places}f}"


def name_wavelengths(axes: Axes, unit: str, grid: Floats | None = None) -> None:
    """Name the axis of a spectrum; wavenumbers fall from left to right, as spectroscopists draw them."""
    words = wavelength_words(unit, grid)
    axes.set_xlabel(words)
    if words.startswith("Wavenumber"):
        axes.xaxis.set_inverted(True)


def wavelength_words(unit: str, grid: Floats | None = None) -> str:
    """Word the axis of a spectrum; wavenumbers are not wavelengths, and no near-infrared grid in nm is beyond 3500."""
    known = parse_unit(unit)
    if known == "cm-1":
        return "Wavenumber (cm⁻¹)"
    if not unit or (known == "nm" and grid is not None and grid.max() > FARTHEST_NM):
        return "Wavelength or wavenumber"
    return f"Wavelength ({'µm' if known == 'um' else known or unit})"


def vector(name: str, values: ArrayLike) -> Floats:
    """Return `values` as a finite float vector; ``(n, 1)`` counts as one, ``(n, 2)`` does not."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be numbers; found {_sample(values)}.") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeMismatch(
            f"{name} must be one column of numbers; found the shape {array.shape}. Choose one target column."
        )
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise InvalidInput(f"{name} holds {count} missing or infinite values; leave those samples out first.")
    return array


def paired(name: str, pair: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    """Return (measured, predicted) as vectors of one length, at least two samples."""
    measured, predicted = vector(f"{name}: measured", pair[0]), vector(f"{name}: predicted", pair[1])
    if measured.size != predicted.size:
        raise ShapeMismatch(
            f"{name}: {measured.size} measured but {predicted.size} predicted values; they belong in pairs."
        )
    if measured.size < 2:
        raise InvalidInput(f"{name}: a figure needs at least 2 samples; found {measured.size}.")
    return measured, predicted


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 160) -> Path:
    """Save a figure in the format of the suffix; ``.png`` if there is none.

    Parameters
    ----------
    figure
        A figure from a function of :mod:`nirs_store.plots`.
    path
        The file to write; missing folders are created.
    dpi
        Pixels per inch of a bitmap.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    InvalidInput
        The suffix is not a format that can be written.
    WriteFailed, ReadOnlyStore
        The system does not allow writing there.
    """
    target = user_path(path)
    if not target.suffix:
        target = target.with_suffix(".png")
    if target.suffix.lower() not in _SUFFIXES:
        raise InvalidInput(f"Cannot save a figure as {target.suffix!r}; known: {', '.join(_SUFFIXES)}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=dpi)
    except OSError as error:
        raise write_error(target, error) from error
    return target


def _sample(values: Any) -> str:
    items = list(values)[:3] if isinstance(values, Iterable) else [values]
    return ", ".join(repr(item) for item in items)
