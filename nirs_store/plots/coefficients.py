"""PLS regression coefficients over wavelength: which bands a calibration uses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import ChainData, chain_data
from nirs_store.plots._figure import (
    COLOURS,
    Figure,
    Floats,
    heading,
    legend_below,
    name_wavelengths,
    name_y,
    new_axes,
    vector,
)
from nirs_store.protocol import ReadsRuns


def pls_coefficients(
    coefficients: ArrayLike,
    *,
    wavelengths: ArrayLike | None = None,
    wavelength_unit: str = "nm",
    folds: ArrayLike | None = None,
    line_name: str = "refit",
    target: str = "",
    unit: str = "",
    title: str = "",
) -> Figure:
    """Draw regression coefficients over wavelength, with their spread over the folds.

    Parameters
    ----------
    coefficients
        Shape ``(channels,)`` or ``(1, channels)``: unit of the target per unit of (preprocessed) signal.
    wavelengths
        Shape ``(channels,)`` in `wavelength_unit`; by default the channel number.
    wavelength_unit
        ``"nm"``, ``"cm-1"``, ``"um"`` in any spelling; ``""`` where it is not known.
    folds
        Coefficients of the fold models, shape ``(k, channels)``: drawn as a band from the lowest
        to the highest. Where the band crosses zero, the folds disagree on the sign.
    line_name, target, unit, title
        Words for the line where there is a band, for the axis and the heading.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        Values are missing, or matplotlib is not installed.
    ShapeMismatch
        Numbers of channels that differ.

    Examples
    --------
    >>> from nirs_store.plots import pls_coefficients
    >>> figure = pls_coefficients([0.1, -0.4, 0.2], wavelengths=[900, 910, 920], target="fat")
    >>> figure.axes[0].get_xlabel()
    'Wavelength (nm)'
    """
    array = np.asarray(coefficients, dtype=np.float64)
    line = vector("coefficients", array[0] if array.ndim == 2 and array.shape[0] == 1 else array)
    if wavelengths is None:
        x = np.arange(line.size, dtype=np.float64)
    else:
        x = vector("wavelengths", wavelengths)
    if x.size != line.size:
        raise ShapeMismatch(f"{line.size} coefficients but {x.size} wavelengths.")
    figure, axes = new_axes(7.4, 3.8)
    axes.axhline(0.0, color=COLOURS["line"], linewidth=0.8)
    if folds is not None:
        band = np.atleast_2d(np.asarray(folds, dtype=np.float64))
        if band.shape[1:] != line.shape:
            raise ShapeMismatch(f"A fold must have {line.size} coefficients; found the shape {band.shape}.")
        words_of_band = f"range of {len(band)} folds"
        low, high = band.min(axis=0), band.max(axis=0)
        axes.fill_between(x, low, high, color=COLOURS["cv"], alpha=0.2, linewidth=0, label=words_of_band)
    axes.plot(x, line, color=COLOURS["cv"], linewidth=1.6, label=line_name)
    axes.margins(x=0.0)
    if wavelengths is None:
        axes.set_xlabel("Channel")
        axes.locator_params(axis="x", integer=True)
    else:
        name_wavelengths(axes, wavelength_unit, x)
    name_y(axes, _coefficient_words(target, unit))
    heading(axes, title or "Regression coefficients")
    if folds is not None:
        legend_below(figure)
    return figure


def chain_pls_coefficients(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`pls_coefficients` of a chain's linear model (PLS, ridge, ...).

    Each coefficient is drawn over its own channel, even if a step before the model selects or reorders channels; a
    channel that a step drops has 0. If a step makes new variables (PCA), the refit is drawn over the number of the
    variable. A scaled target is taken into account.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The model has no coefficients; or each fold made its own variables, and there is no refit.
    """
    data = chain_data(store, chain_id)
    found = _lines(data)
    figure = pls_coefficients(
        found.line,
        wavelengths=data.wavelengths if found.on_channels else None,
        wavelength_unit=data.wavelength_unit,
        folds=np.stack(found.own) if len(found.own) > 1 else None,
        line_name="refit" if found.refitted else "mean of the folds",
        target=data.target,
        unit=data.unit,
        title=data.title,
    )
    if not found.on_channels:
        figure.axes[0].set_xlabel("Variable of the model (not a channel)")
    if not found.of_target:
        figure.axes[0].set_ylabel("Coefficient (processed target)" if data.is_regression else "Coefficient")
    return figure


def coefficients_frame(store: ReadsRuns, chain_id: str) -> pl.DataFrame:
    """Return what :func:`chain_pls_coefficients` draws, one row per channel (or variable of the model).

    Returns
    -------
    polars.DataFrame
        ``channel`` (from 0), ``wavelength`` where known, ``coefficient``, and ``low`` and ``high`` over the folds
        where there are at least two.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        As for :func:`chain_pls_coefficients`.
    """
    data = chain_data(store, chain_id)
    found = _lines(data)
    columns: dict[str, Any] = {"channel": np.arange(found.line.size)}
    if found.on_channels and data.wavelengths is not None:
        columns["wavelength"] = data.wavelengths
    columns["coefficient"] = found.line
    if len(found.own) > 1:
        columns |= {"low": np.min(found.own, axis=0), "high": np.max(found.own, axis=0)}
    return pl.DataFrame(columns)


class _Lines(NamedTuple):
    """Coefficients of the refit or the mean of the folds, those of the folds, and what they belong to."""

    line: Floats
    own: list[Floats]
    refitted: bool
    on_channels: bool
    of_target: bool


def _lines(data: ChainData) -> _Lines:
    vectors = data.regression_vectors()
    on_channels = all(each.on_channels for each in vectors.values())
    of_target = all(each.of_target for each in vectors.values())
    final = vectors.pop("final", None)
    own = [each.values for each in vectors.values()] if on_channels else []
    if final is None and not own:
        raise InvalidInput(
            f"The steps of chain {data.chain_id!r} make variables of their own in each fold, so their coefficients "
            "have no common axis. Record the chain with a refit (refit=True)."
        )
    line = final.values if final is not None else np.mean(own, axis=0)
    return _Lines(line, own, final is not None, on_channels, of_target)


def _coefficient_words(target: str, unit: str) -> str:
    quantity = " ".join(part for part in (unit, target) if part)
    return f"Coefficient ({quantity} per unit of signal)" if quantity else "Coefficient"
