"""Figures of a diagnosis: T2 against Q, scores, loadings, explained variance, VIP, influence, normal plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput
from nirs_store.lazy import later
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    SERIES,
    Axes,
    Figure,
    Floats,
    colour_bar,
    heading,
    label,
    legend_below,
    name_points,
    name_wavelengths,
    name_y,
    new_axes,
    point_style,
    scatter_over,
)

if TYPE_CHECKING:
    from nirs_store import diagnosing
else:
    # It loads scikit-learn, which only these figures need.
    diagnosing = later("nirs_store.diagnosing")


def t2_q(diagnosis: diagnosing.Diagnosis) -> Figure:
    """Draw Q against Hotelling's T2, each with its limit; flagged samples are labeled with their names.

    Parameters
    ----------
    diagnosis
        What ``store.diagnose`` returned.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        matplotlib is not installed.

    Examples
    --------
    >>> from nirs_store import plots
    >>> plots.t2_q  # doctest: +ELLIPSIS
    <function t2_q at ...>
    """
    samples, limits = diagnosis.samples, diagnosis.limits
    t2, q = samples["t2"].to_numpy(), samples["q"].to_numpy()
    over = t2 > limits["t2"]
    if limits["q"] is not None:
        over |= q > limits["q"]
    axes = _cloud(t2, q, over)
    _limit(axes, limits["t2"], vertical=True, words=f"limit of T², α = {limits['alpha']:g}")
    if limits["q"] is not None:
        _limit(axes, limits["q"], vertical=False, words=f"limit of Q ({limits['q_method']})")
    if min(t2.min(), q.min()) > 0 and (t2.max() > 100 * np.median(t2) or q.max() > 100 * np.median(q)):
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(f"Hotelling's T² ({diagnosis.n_components} latent variables)")
    axes.set_ylabel("Q (squared residual)")
    return _finished(axes, diagnosis, (t2, q, over))


def influence(diagnosis: diagnosing.Diagnosis) -> Figure:
    """Draw the studentized residual of y against leverage, with the conventional limits.

    Raises
    ------
    InvalidInput
        The diagnosis has no reference values, or no residuals of the calibration to compare them with.
    """
    residual, leverage = _studentised(diagnosis), diagnosis.samples["leverage"].to_numpy()
    limits = diagnosis.limits
    over = (np.abs(residual) > limits["studentised"]) | (leverage > limits["leverage"])
    axes = _cloud(leverage, residual, over)
    axes.axhline(0.0, color=COLOURS["faint"], linewidth=1.0, zorder=1)
    _limit(axes, limits["leverage"], vertical=True, words="3 (A + 1) / n")
    for sign in (1, -1):
        words = f"± {limits['studentised']:g}" if sign > 0 else ""
        _limit(axes, sign * limits["studentised"], vertical=False, words=words)
    axes.set_xlabel("Leverage")
    axes.set_ylabel("Studentized residual\n(predicted − measured)")
    return _finished(axes, diagnosis, (leverage, residual, over))


def scores(diagnosis: diagnosing.Diagnosis, components: tuple[int, int] = (1, 2)) -> Figure:
    """Draw two score vectors against each other, colored by y, with the ellipse of the T2 limit.

    Parameters
    ----------
    components
        Two latent variables, counted from 1.

    Raises
    ------
    InvalidInput
        The model has fewer latent variables.
    """
    a, b = components
    if not (1 <= a <= diagnosis.n_components and 1 <= b <= diagnosis.n_components and a != b):
        raise InvalidInput(
            f"components: expected two of 1 to {diagnosis.n_components}; found {components}. "
            "A model of one latent variable has no score plot."
        )
    from nirs_store.domain.latent import t2_limit

    frame, samples = diagnosis.scores, diagnosis.samples
    x, y = frame[f"t{a}"].to_numpy(), frame[f"t{b}"].to_numpy()
    centre, spread = diagnosis.score_center_and_spread(a, b)
    reach = float(np.sqrt(t2_limit(diagnosis.n_calibration, 2, diagnosis.limits["alpha"])))
    outside = (((np.column_stack([x, y]) - centre) / spread) ** 2).sum(axis=1) > reach**2
    figure, axes = new_axes(6.6, 5.2)
    style = point_style(x.size, 24)
    measured = samples["measured"].to_numpy() if "measured" in samples.columns else np.full(x.size, np.nan)
    known = np.isfinite(measured)
    if known.any():
        cloud = axes.scatter(x[known], y[known], c=measured[known], cmap="viridis", zorder=3, **style)
        colour_bar(figure, cloud, axes, label("", diagnosis.target or "measured value", diagnosis.unit))
    if not known.all():
        words = f"no reference value: {int((~known).sum())}" if known.any() else None
        colour = COLOURS["calibration"] if known.any() else COLOURS["cv"]
        axes.scatter(x[~known], y[~known], color=colour, zorder=3, label=words, **style)
    turn = np.linspace(0, 2 * np.pi, 200)
    ellipse = centre + reach * spread * np.column_stack([np.cos(turn), np.sin(turn)])
    share = 100 * (1 - diagnosis.limits["alpha"])
    axes.plot(*ellipse.T, color=COLOURS["line"], linestyle=DASHES, linewidth=1, label=f"{share:g} % ellipse")
    axes.set_xlabel(f"t{a}")
    axes.set_ylabel(f"t{b}")
    return _finished(axes, diagnosis, (x, y, outside))


def loadings(
    diagnosis: diagnosing.Diagnosis,
    what: Literal["loadings", "weights"] = "loadings",
    components: Sequence[int] | None = None,
) -> Figure:
    """Draw loadings or weights over wavelength; wavenumbers fall from left to right.

    Parameters
    ----------
    what
        ``"loadings"`` (p), or for a PLS ``"weights"`` (w).
    components
        Latent variables counted from 1; the first four when None.

    Raises
    ------
    InvalidInput
        The model has no weights, or not that many latent variables.
    """
    letter = {"loadings": "p", "weights": "w"}.get(what)
    chosen = list(components or range(1, min(4, diagnosis.n_components) + 1))
    frame = diagnosis.channels
    missing = [f"{letter}{a}" for a in chosen if f"{letter}{a}" not in frame.columns]
    if letter is None or missing:
        raise InvalidInput(f"{what}: this chain has no {', '.join(missing) or what}.")
    axes = _spectrum_axes(diagnosis)
    x = _position(diagnosis)
    axes.axhline(0.0, color=COLOURS["faint"], linewidth=1.0)
    for place, a in enumerate(chosen):
        axes.plot(
            x,
            frame[f"{letter}{a}"].to_numpy(),
            color=SERIES[place % len(SERIES)],
            linewidth=1.4,
            label=f"{letter}{a}",
        )
    axes.set_ylabel(what.capitalize())
    return _finished(axes, diagnosis)


def channel_importance(
    diagnosis: diagnosing.Diagnosis, what: Literal["vip", "selectivity_ratio"] = "vip"
) -> Figure:
    """Draw VIP (with its line at 1) or the selectivity ratio over wavelength.

    Raises
    ------
    InvalidInput
        The chain is not a PLS; or the selectivity ratio is asked for and X was not the calibration set.
    """
    if what not in diagnosis.channels.columns:
        raise InvalidInput(
            f"{what}: expected a PLS chain of one target, diagnosed with its calibration spectra."
        )
    axes = _spectrum_axes(diagnosis)
    axes.plot(_position(diagnosis), diagnosis.channels[what].to_numpy(), color=COLOURS["cv"], linewidth=1.5)
    if what == "vip":
        axes.axhline(1.0, color=COLOURS["line"], linewidth=0.9, linestyle=DASHES)
    axes.set_ylim(bottom=0)
    axes.set_ylabel({"vip": "VIP", "selectivity_ratio": "Selectivity ratio"}[what])
    return _finished(axes, diagnosis)


def explained_variance(diagnosis: diagnosing.Diagnosis) -> Figure:
    """Draw the share of the variance of X and y that the first latent variables explain together.

    Raises
    ------
    InvalidInput
        matplotlib is not installed.
    """
    frame = diagnosis.explained
    _, axes = new_axes(6.0, 3.8)
    for name, colour in (("x", COLOURS["cv"]), ("y", COLOURS["test"])):
        words = "X" if name == "x" else diagnosis.target or "y"
        axes.plot(
            frame["components"].to_numpy(),
            100 * frame[name].to_numpy(),
            "o-",
            color=colour,
            label=words,
            markersize=4,
        )
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(0, 103)
    axes.set_xlabel("Latent variables")
    axes.set_ylabel("Explained variance (%)")
    return _finished(axes, diagnosis)


def normal_residuals(diagnosis: diagnosing.Diagnosis) -> Figure:
    """Draw the ordered residuals against the quantiles of a normal distribution.

    Points on the line come from a normal distribution; ends that bend away are heavy tails or outliers. Plotting
    positions are (i - 3/8) / (n + 1/4), Blom (1958).

    Raises
    ------
    InvalidInput
        matplotlib is not installed.
    """
    from scipy.stats import norm

    if "residual" not in diagnosis.samples.columns:
        raise InvalidInput("normal_residuals: diagnose with y, so that there are residuals.")
    known = diagnosis.samples.filter(pl.col("residual").is_finite())
    if known.height < 3:
        raise InvalidInput(f"normal_residuals: expected at least 3 residuals; found {known.height}.")
    residual = known["residual"].to_numpy()
    order = np.argsort(residual, kind="stable")
    quantiles = norm.ppf((np.arange(1, residual.size + 1) - 0.375) / (residual.size + 0.25))
    _, axes = new_axes(5.6, 4.4)
    spread = residual.std(ddof=1)
    axes.plot(
        quantiles, residual.mean() + spread * quantiles, color=COLOURS["line"], linestyle=DASHES, linewidth=1
    )
    axes.scatter(quantiles, residual[order], color=COLOURS["cv"], zorder=3, **point_style(residual.size, 20))
    far = np.abs(residual[order] - residual.mean()) > 2 * spread
    axes.set_xlabel("Normal quantile")
    name_y(axes, label("Predicted − measured", "", diagnosis.unit))
    return _finished(axes, diagnosis, (quantiles, residual[order], far), known["sample"][order].to_list())


def permutation(test: diagnosing.PermutationTest, *, unit: str = "", title: str = "") -> Figure:
    """Draw the RMSECV of shuffled reference values as a histogram, and that of the true ones as a line.

    Parameters
    ----------
    test
        What ``store.permutation_test`` returned.
    unit, title
        Unit of y, and heading.

    Raises
    ------
    InvalidInput
        matplotlib is not installed.
    """
    figure, axes = new_axes(6.0, 3.8)
    bins = int(np.clip(np.sqrt(test.permuted.size) * 1.6, 5, 40))
    words = f"{test.permuted.size} shuffled"
    axes.hist(test.permuted, bins=bins, color=COLOURS["calibration"], alpha=0.7, label=words)
    axes.axvline(test.rmsecv, color=COLOURS["test"], linewidth=1.6, label=f"true y (p = {test.p:.2g})")
    axes.set_xlim(left=0)
    axes.set_xlabel(label("RMSECV", "", unit))
    axes.set_ylabel("Shuffles")
    heading(axes, title or "Permutation test")
    legend_below(figure)
    return figure


def _studentised(diagnosis: diagnosing.Diagnosis) -> Floats:
    samples = diagnosis.samples
    if "studentised" not in samples.columns or samples["studentised"].is_nan().all():
        raise InvalidInput(
            "influence: diagnose with y, of a chain that keeps the predictions of its calibration."
        )
    return samples["studentised"].to_numpy()


def _cloud(x: Floats, y: Floats, over: NDArray[np.bool_]) -> Axes:
    _, axes = new_axes(6.4, 4.6)
    scatter_over(axes, x, y, over, "cv", "beyond a limit")
    return axes


def _limit(axes: Axes, value: float, *, vertical: bool, words: str) -> None:
    draw: Any = axes.axvline if vertical else axes.axhline
    draw(
        value,
        color=COLOURS["line"],
        linewidth=1.0,
        linestyle=DASHES if vertical else "dotted",
        label=words or None,
        zorder=2,
    )


def _position(diagnosis: diagnosing.Diagnosis) -> Floats:
    frame = diagnosis.channels
    return frame["wavelength" if "wavelength" in frame.columns else "channel"].to_numpy().astype(np.float64)


def _spectrum_axes(diagnosis: diagnosing.Diagnosis) -> Axes:
    _, axes = new_axes(7.4, 3.8)
    if "wavelength" in diagnosis.channels.columns:
        name_wavelengths(axes, diagnosis.wavelength_unit or "")
    else:
        axes.set_xlabel("Channel after preprocessing")
    axes.margins(x=0.01)
    return axes


def _finished(
    axes: Axes,
    diagnosis: diagnosing.Diagnosis,
    named: tuple[Floats, Floats, NDArray[np.bool_]] | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """Write the heading and the legend, and then the names of the points that `named` marks."""
    heading(axes, diagnosis.title)
    figure: Any = axes.figure
    handles, _ = axes.get_legend_handles_labels()
    if handles and axes.get_legend() is None:
        legend_below(figure)
    if named is not None:
        name_points(axes, *named, diagnosis.samples["sample"].to_list() if names is None else names)
    drawn: Figure = figure
    return drawn
