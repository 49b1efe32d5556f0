"""RMSECV against the number of latent variables: where to stop adding them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.plots._chain import ReadsChains, chain_data, sibling_chains
from nirs_store.plots._figure import SERIES, Figure, Floats, decimals, new_figure, score_label, tidy, vector

__all__ = ["chain_rmsecv_vs_components", "rmsecv_vs_components"]


def rmsecv_vs_components(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    target: str = "",
    unit: str = "",
    title: str = "",
    metric: str = "RMSECV",
) -> Figure:
    """Draw one curve for each preprocessing; a ring marks the lowest point of each.

    Parameters
    ----------
    series
        ``{name: (numbers of latent variables, RMSECV)}``, each of shape ``(k,)``, in any order;
        RMSECV in the unit of the target.
    target, unit
        Name and unit of what is predicted.
    title, metric
        Heading, and the name of the score on the axis.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        `series` is empty, values are missing, or matplotlib is not installed.
    ShapeMismatch
        A curve has more numbers of latent variables than scores, or fewer.

    Examples
    --------
    >>> from nirs_store.plots import rmsecv_vs_components
    >>> figure = rmsecv_vs_components({"raw": ([2, 4, 6], [5.0, 3.0, 3.2])}, target="fat", unit="%")
    >>> figure.axes[0].get_xlabel()
    'Number of latent variables'
    """
    if not series:
        raise InvalidInput("Nothing to draw: series must hold at least one curve.")
    figure = new_figure(7.0, 4.4)
    axes = figure.add_subplot()
    tidy(axes)
    all_numbers: set[int] = set()
    for index, (name, (components, scores)) in enumerate(series.items()):
        x, y = _curve(name, components, scores)
        all_numbers.update(int(value) for value in x)
        colour = SERIES[index % len(SERIES)]
        best = int(np.argmin(y))
        words = f"{name}: {y[best]:.{decimals(y[best])}f} at {int(x[best])}"
        axes.plot(x, y, "o-", color=colour, markersize=4.5, linewidth=1.6, label=words)
        axes.plot(x[best], y[best], "o", markersize=11, mfc="none", mec=colour, mew=1.3)
    if len(all_numbers) <= 25:
        axes.set_xticks(sorted(all_numbers))
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Number of latent variables")
    axes.set_ylabel(score_label(metric, target, unit))
    axes.set_title(title or score_label(metric, target), fontsize=11, loc="left")
    axes.legend(loc="best", frameon=False, fontsize=9, title="lowest", title_fontsize=9, alignment="left")
    return figure


def chain_rmsecv_vs_components(store: ReadsChains, chain_id: str) -> Figure:
    """Draw :func:`rmsecv_vs_components` over all chains of the run that `chain_id` belongs to.

    A curve joins the chains that differ in the number of latent variables only: same
    preprocessing, same model, same data set. Chains without latent variables are left out.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        No chain of the run has latent variables and stored out-of-fold predictions.
    """
    data = chain_data(store, chain_id)
    series: dict[str, dict[int, float]] = {}
    for sibling in sibling_chains(store, chain_id):
        count, rmsecv = sibling.n_components(load=False), sibling.pooled_rmse()
        if count is None or rmsecv is None:
            continue
        points = series.setdefault(sibling.preprocessings or "raw", {})
        points[count] = min(rmsecv, points.get(count, np.inf))
    if not series:
        raise InvalidInput(
            f"No chain in the run of {chain_id!r} has latent variables and out-of-fold predictions; "
            "record a PLS model first."
        )
    curves: dict[str, tuple[ArrayLike, ArrayLike]] = {
        name: (list(points), list(points.values())) for name, points in series.items()
    }
    return rmsecv_vs_components(curves, target=data.target, unit=data.unit)


def _curve(name: str, components: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    x, y = vector(f"{name}: numbers of latent variables", components), vector(f"{name}: scores", scores)
    if x.size != y.size:
        raise ShapeMismatch(f"{name}: {x.size} numbers of latent variables but {y.size} scores.")
    if not x.size:
        raise InvalidInput(f"{name}: a curve needs at least one point.")
    order = np.argsort(x, kind="stable")
    return x[order], y[order]
