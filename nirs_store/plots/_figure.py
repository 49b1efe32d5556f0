"""What every figure shares: the lazy matplotlib, colours, labels, checks of the input, saving.

Figures are made from :class:`matplotlib.figure.Figure` directly. pyplot keeps every figure of
a process alive and picks a window system on import; a server, a worker and a test want neither.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nirs_store.addresses import user_path
from nirs_store.blobs.durable import write_error
from nirs_store.display import printable
from nirs_store.errors import InvalidInput, ShapeMismatch, shortened
from nirs_store.reading.cells import FARTHEST_NM, parse_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    # Importing matplotlib for the sake of an annotation would cost 0.3 s and make it mandatory.
    Axes = Any
    Figure = Any

__all__ = [
    "COLOURS",
    "DASHES",
    "SERIES",
    "Axes",
    "Figure",
    "Floats",
    "decimals",
    "label",
    "name_points",
    "name_wavelengths",
    "new_figure",
    "paired",
    "save_figure",
    "score_label",
    "side_labels",
    "tidy",
    "vector",
    "wavelength_words",
    "wrapped",
]

Floats = NDArray[np.float64]

#: Okabe and Ito's palette: told apart by colour-blind readers and on a grey print.
COLOURS = {
    "calibration": "#8c8c8c",
    "cv": "#0072B2",
    "test": "#D55E00",
    "line": "#222222",
    "faint": "#c8c8c8",
}
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c6d31")

DASHES = (0, (5, 4))
_MOST_NAMES = 8

_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".eps", ".ps")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, laid out so that no label is cut.

    Raises
    ------
    InvalidInput
        matplotlib is not installed.
    """
    try:
        figure_class = import_module("matplotlib.figure").Figure
    except ModuleNotFoundError as missing:
        raise InvalidInput(
            f"Figures need matplotlib, which is not installed ({missing}). "
            'Install it with: pip install "nirs_store[plot]"'
        ) from missing
    figure: Figure = figure_class(figsize=(width, height), dpi=120, layout="constrained")
    return figure


def tidy(axes: Axes) -> None:
    """Take away what carries no information: two spines and heavy ticks; add a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#666666")
    axes.tick_params(colors="#444444", labelsize=9)
    axes.grid(True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def label(what: str, target: str = "", unit: str = "") -> str:
    """Join a word, a quantity and its unit: ``Measured fat (%)``."""
    words = " ".join(part for part in (what, target) if part)
    return f"{words} ({unit})" if unit else words


def score_label(metric: str, target: str = "", unit: str = "") -> str:
    """Word a score of a quantity: ``RMSECV of fat (%)``."""
    return label(f"{metric} of" if target else metric, target, unit)


def wrapped(text: str, width: int) -> str:
    """Break a heading into lines of at most so many characters, and cut what would fill more than three."""
    text = printable(text)
    return "\n".join(textwrap.wrap(shortened(text, 3 * width), width)) or text


def side_labels(names: Sequence[str], longest: int = 36) -> list[str]:
    """Shorten names in the middle for the side of a figure; those that would become alike stay longer."""
    clean = [printable(name) for name in names]
    for length in (longest, 2 * longest, 4 * longest):
        cut = [shortened(name, length) for name in clean]
        if len(set(cut)) == len(set(clean)):
            return ["\n".join(textwrap.wrap(name, longest)) or name for name in cut]
    return [f"{number} {shortened(name, longest)}" for number, name in enumerate(clean, start=1)]


def name_points(
    axes: Axes, x: ArrayLike, y: ArrayLike, which: NDArray[np.bool_], names: Sequence[str]
) -> None:
    """Write names at the points farthest out, at most eight."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    places = np.flatnonzero(which)
    if places.size > _MOST_NAMES:
        far = sum(np.abs(v - np.median(v)) / (np.ptp(v) or 1.0) for v in (xs, ys))
        places = places[np.argsort(-np.asarray(far)[places])][:_MOST_NAMES]
    for i in places.tolist():
        words = shortened(printable(str(names[i])), 16)
        left = xs[i] > (xs.min() + xs.max()) / 2
        axes.annotate(
            words,
            (xs[i], ys[i]),
            xytext=(-5 if left else 5, 3),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=7.5,
            color="#333333",
        )


def decimals(value: float, digits: int = 3) -> int:
    """Return how many decimals show `digits` significant figures of `value`, at most six."""
    if not np.isfinite(value) or value == 0:
        return digits - 1
    return int(np.clip(digits - 1 - np.floor(np.log10(abs(value))), 0, 6))


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
    """Save a figure; the suffix says the format, ``.png`` when there is none.

    Parameters
    ----------
    figure
        What a function of :mod:`nirs_store.plots` returned.
    path
        Where to; folders in between are made.
    dpi
        Pixels per inch of a bitmap.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    InvalidInput
        The suffix is no format that can be written.
    WriteFailed, ReadOnlyStore
        The system refuses to write there.
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
