"""RMSECV against the number of latent variables: where to stop adding them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nirs_store.choosing import ComponentChoice
from nirs_store.errors import InvalidInput, ShapeMismatch, shortened
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import chain_data, sibling_chains
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    SERIES,
    Figure,
    Floats,
    heading,
    legend_below,
    name_y,
    new_axes,
    number,
    score_label,
    vector,
)
from nirs_store.protocol import ReadsRuns


def rmsecv_vs_components(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    target: str = "",
    unit: str = "",
    title: str = "",
    metric: str = "RMSECV",
    bands: Mapping[str, ArrayLike] | None = None,
    marks: Mapping[str, int] | None = None,
    deleted: Mapping[str, Collection[int]] | None = None,
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
    bands
        Standard deviations over repeats, by the names of `series`, each of shape ``(k,)``; NaN if unknown.
    marks
        Numbers of latent variables that a rule chose, by the names of `series`; a diamond marks each.
    deleted
        Numbers of latent variables of deleted chains whose scores are kept, by the names of `series`; their points are
        hollow.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        `series` is empty, values are missing, or matplotlib is not installed.
    ShapeMismatch
        A curve has a different number of latent variables and scores.

    Examples
    --------
    >>> from nirs_store.plots import rmsecv_vs_components
    >>> figure = rmsecv_vs_components({"raw": ([2, 4, 6], [5.0, 3.0, 3.2])}, target="fat", unit="%")
    >>> figure.axes[0].get_xlabel()
    'Number of latent variables'
    """
    if not series:
        raise InvalidInput("Nothing to draw: series must hold at least one curve.")
    figure, axes = new_axes(7.0, 4.4 + 0.1 * min(len(series), 60))
    all_numbers: set[int] = set()
    hollow = False
    for index, (name, (components, scores)) in enumerate(series.items()):
        x, y, order = _curve(name, components, scores)
        all_numbers.update(int(value) for value in x)
        colour = SERIES[index % len(SERIES)]
        best = int(np.argmin(y))
        words = f"{shortened(name, 60)}: {number(y[best])} at {int(x[best])}"
        if bands is not None and name in bands:
            spread = np.nan_to_num(np.asarray(bands[name], dtype=np.float64).ravel()[order])
            axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, linewidth=0)
            words += f" ± {number(spread[best], y[best])}"
        axes.plot(x, y, "o-", color=colour, markersize=4.5, linewidth=1.6, label=words)
        gone = np.isin(x, list((deleted or {}).get(name, ())))
        if gone.any():
            axes.plot(x[gone], y[gone], "o", color=colour, mfc="white", markersize=5, linestyle="none")
            hollow = True
        axes.plot(x[best], y[best], "o", markersize=11, mfc="none", mec=colour, mew=1.3)
        if marks is not None and name in marks:
            chosen = np.flatnonzero(x == marks[name])
            axes.plot(x[chosen], y[chosen], "D", markersize=8, color=colour)
    if hollow:
        line = COLOURS["line"]
        axes.plot([], [], "o", color=line, mfc="white", markersize=5, label="hollow: deleted, score kept")
    if len(all_numbers) <= 25:
        axes.set_xticks(sorted(all_numbers))
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Number of latent variables")
    name_y(axes, score_label(metric, target, unit))
    heading(axes, title or score_label(metric, target))
    legend_below(figure, "lowest mean ± SD over repeats" if bands else "lowest")
    return figure


def chain_rmsecv_vs_components(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`rmsecv_vs_components` of what `components_frame` returns.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        No chain of the run has latent variables and stored out-of-fold predictions.
    """
    frame = components_frame(store, chain_id)
    data = chain_data(store, chain_id)
    curves: dict[str, tuple[ArrayLike, ArrayLike]] = {}
    bands: dict[str, ArrayLike] = {}
    deleted: dict[str, list[int]] = {}
    for (name,), points in frame.group_by("curve", maintain_order=True):
        curves[str(name)] = (points["components"].to_list(), points["rmsecv"].to_list())
        deleted[str(name)] = points.filter("deleted")["components"].to_list()
        if points["sd"].is_finite().any():
            bands[str(name)] = points["sd"].to_numpy()
    return rmsecv_vs_components(curves, target=data.target, unit=data.unit, bands=bands, deleted=deleted)


def components_frame(store: ReadsRuns, chain_id: str) -> pl.DataFrame:
    """Return RMSECV by the number of latent variables, over the chains of the run that `chain_id` belongs to.

    A curve joins the chains that differ in the number of latent variables only: same target, samples,
    splitter, preprocessing and parameters of the model. Where each of them was cross-validated with the
    same seeds, the curve is their mean and a band shows the standard deviation; else each seed has a curve.
    Chains of another target, unit or data set, and those without latent variables, are left out. Chains that a
    retention deleted are in it with the score that they had.

    Returns
    -------
    polars.DataFrame
        ``curve, components, rmsecv, sd`` (over seeds or repeats, else NaN), ``n_chains, deleted`` (whether all chains
        of the point are gone).

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        No chain of the run has latent variables and stored out-of-fold predictions.
    """
    families: dict[_Family, _Seeds] = {}
    for sibling in sibling_chains(store, chain_id):
        count, rmsecv = sibling.n_components(load=False), sibling.pooled_rmse()
        if count is None or rmsecv is None:
            continue
        splitter, seed = sibling.splitter
        model = re.sub(r"\(\d+(, |\))", r"(\1", sibling.model_label()).replace("(, ", "(").removesuffix("()")
        family = _Family(sibling.preprocessings or "raw", model, splitter, sibling.samples, sibling.recipe())
        points = families.setdefault(family, {}).setdefault(seed, {})
        points.setdefault(count, []).append(_Point(rmsecv, sibling.repeat_sd(), sibling.deleted))
    if not families:
        raise InvalidInput(
            f"No chain in the run of {chain_id!r} has latent variables and out-of-fold predictions; "
            "record a PLS model first."
        )
    rows = []
    for name, seeds in _named(families).items():
        for label, points in _curves(name, seeds).items():
            for count in sorted(points):
                values = [point.rmsecv for point in points[count]]
                rows.append(
                    (
                        label,
                        count,
                        float(np.mean(values)),
                        _spread(points[count]),
                        len(values),
                        all(point.deleted for point in points[count]),
                    )
                )
    schema = {
        "curve": pl.String,
        "components": pl.Int64,
        "rmsecv": pl.Float64,
        "sd": pl.Float64,
        "n_chains": pl.Int64,
        "deleted": pl.Boolean,
    }
    return pl.DataFrame(rows, schema, orient="row")


def component_choice(choice: ComponentChoice) -> Figure:
    """Draw what a rule chose: RMSECV with one standard error on either side, the lowest and the chosen number.

    Parameters
    ----------
    choice
        What ``store.suggest_components`` returned.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        matplotlib is not installed.
    """
    table = choice.table
    numbers, rmsecv, se = (table[name].to_numpy() for name in ("components", "rmsecv", "se"))
    best = int(np.argmin(rmsecv))
    figure, axes = new_axes(7.0, 4.2)
    bars: dict[str, Any] = {
        "color": COLOURS["cv"],
        "ecolor": COLOURS["faint"],
        "elinewidth": 2,
        "markersize": 4.5,
    }
    axes.errorbar(numbers, rmsecv, yerr=se, fmt="o-", label="RMSECV ± SE", **bars)
    axes.axhline(rmsecv[best], color=COLOURS["calibration"], linewidth=0.9, linestyle=DASHES)
    axes.plot(
        numbers[best], rmsecv[best], "o", markersize=11, mfc="none", mec=COLOURS["line"],
        label=f"lowest: {number(float(rmsecv[best]))} at {numbers[best]}",
    )  # fmt: skip
    axes.axvline(
        choice.components, color=COLOURS["test"], linewidth=1.3,
        label=f"{choice.rule}: {number(choice.rmsecv, float(rmsecv[best]))} at {choice.components}",
    )  # fmt: skip
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Number of latent variables (0 is the mean)")
    name_y(axes, score_label("RMSECV", choice.target, choice.unit))
    heading(axes, choice.preprocessings or "no preprocessing")
    legend_below(figure)
    return figure


class _Family(NamedTuple):
    """What the chains of a curve have in common; the first fields name it where they tell it from the others."""

    preprocessing: str
    model: str
    splitter: str
    samples: str
    recipe: str


class _Point(NamedTuple):
    """RMSECV of a chain, its standard deviation over the repeats, and whether the chain is gone."""

    rmsecv: float
    sd: float | None
    deleted: bool


_Points = dict[int, list[_Point]]
"""Chains by their number of latent variables."""
_Seeds = dict[str, _Points]


def _named(families: Mapping[_Family, _Seeds]) -> dict[str, _Seeds]:
    """Name each family by its preprocessing, and by as much more as it takes to tell it from the others."""
    named: dict[str, _Seeds] = {}
    for family, seeds in families.items():
        name = family.preprocessing
        alike = [other for other in families if other.preprocessing == family.preprocessing]
        for field in ("model", "splitter"):
            if len({getattr(other, field) for other in alike}) > 1:
                name += f" · {getattr(family, field)}"
                alike = [other for other in alike if getattr(other, field) == getattr(family, field)]
        if len({other.samples for other in alike}) > 1:
            name += f" · samples {family.samples[:6] or 'unknown'}"
            alike = [other for other in alike if other.samples == family.samples]
        named[name if len(alike) == 1 else f"{name} · {alike.index(family) + 1}"] = seeds
    return named


def _curves(name: str, seeds: _Seeds) -> dict[str, _Points]:
    """Join the seeds of a family where each has all numbers of latent variables; else keep them apart."""
    if len(seeds) == 1:
        return {name: next(iter(seeds.values()))}
    if len({frozenset(points) for points in seeds.values()}) > 1:
        return {f"{name} · seed {seed}": points for seed, points in seeds.items()}
    numbers = next(iter(seeds.values()))
    joined = {n: [value for points in seeds.values() for value in points[n]] for n in numbers}
    return {f"{name} (mean of {len(seeds)} seeds)": joined}


def _spread(points: list[_Point]) -> float:
    """Return the standard deviation over seeds, else over the repeats of one chain; NaN where there is neither."""
    if len(points) > 1:
        return float(np.std([point.rmsecv for point in points], ddof=1))
    return np.nan if points[0].sd is None else points[0].sd


def _curve(name: str, components: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, NDArray[np.intp]]:
    x, y = vector(f"{name}: numbers of latent variables", components), vector(f"{name}: scores", scores)
    if x.size != y.size:
        raise ShapeMismatch(f"{name}: {x.size} numbers of latent variables but {y.size} scores.")
    if not x.size:
        raise InvalidInput(f"{name}: a curve needs at least one point.")
    order = np.argsort(x, kind="stable")
    return x[order], y[order], order
