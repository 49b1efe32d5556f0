"""Spectra before and after each preprocessing step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.plots._chain import ReadsChains, chain_data
from nirs_store.plots._figure import COLOURS, Figure, label, name_wavelengths, new_figure, tidy, vector

__all__ = ["chain_spectra_by_step", "spectra_by_step"]

_MOST_LINES = 300


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
    """Draw spectra in one panel a stage, from the raw ones to those the model sees.

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
        Measured values of shape ``(n,)``: colours the spectra, with a colour bar.
    target, unit, title
        Words for the colour bar and the heading.

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
    shown = np.unique(np.linspace(0, count - 1, min(count, _MOST_LINES)).astype(int))
    colours, mapping = _line_colours(values, count, shown)
    figure = new_figure(7.4, 0.7 + 2.2 * len(arrays))
    panels = figure.subplots(len(arrays), 1, squeeze=False)[:, 0]
    alpha = float(np.clip(12.0 / max(shown.size, 1), 0.25, 0.9))
    from_collections = _line_collection()
    for axes, (name, spectra) in zip(panels, arrays, strict=True):
        tidy(axes)
        known = grid is not None and grid.size == spectra.shape[1]
        x = grid if grid is not None and known else np.arange(spectra.shape[1], dtype=np.float64)
        segments = np.stack([np.broadcast_to(x, (shown.size, x.size)), spectra[shown]], axis=-1)
        axes.add_collection(from_collections(segments, colors=colours, linewidths=0.8, alpha=alpha))
        axes.autoscale_view()
        axes.margins(x=0.0)
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_ylabel("Signal" if axes is not panels[0] else "Spectrum")
        if known:
            name_wavelengths(axes, wavelength_unit, grid)
        if not known or axes is not panels[-1]:
            axes.set_xlabel("" if known else "Channel")
    if mapping is not None:
        bar = figure.colorbar(mapping, ax=list(panels), pad=0.015, aspect=40)
        bar.set_label(label("", target or "value", unit), fontsize=9)
        bar.ax.tick_params(labelsize=8, length=2)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def chain_spectra_by_step(
    store: ReadsChains,
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
        Measured values that colour the lines.

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


def _line_collection() -> Any:
    from matplotlib.collections import LineCollection

    return LineCollection


def _line_colours(values: ArrayLike | None, count: int, shown: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Return the colours of the lines that are shown and what a colour bar needs to explain them."""
    if values is None:
        return COLOURS["cv"], None
    numbers = vector("values", values)
    if numbers.size != count:
        raise ShapeMismatch(f"{count} spectra but {numbers.size} values to color them by.")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mapping = ScalarMappable(Normalize(float(numbers.min()), float(numbers.max())), cmap="viridis")
    return mapping.to_rgba(numbers[shown]), mapping
