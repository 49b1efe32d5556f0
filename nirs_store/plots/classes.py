"""The confusion matrix of a classification, and RMSEC, RMSECV and RMSEP over the number of latent variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.plots._chain import ChainData, chain_data, sibling_chains
from nirs_store.plots._figure import (
    COLOURS,
    DASHES,
    Figure,
    colour_bar,
    heading,
    legend_below,
    name_y,
    new_axes,
    new_figure,
    score_label,
    side_labels,
    vector,
)
from nirs_store.protocol import ReadsRuns


def confusion_matrix(
    true: ArrayLike, predicted: ArrayLike, *, classes: Sequence[Any] | None = None, title: str = ""
) -> Figure:
    """Draw how many samples of each class were predicted as each class; shades are shares of the true class.

    Parameters
    ----------
    true, predicted
        Labels, shape ``(n,)``.
    classes
        Order of the classes; sorted when None.
    title
        Written above the figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ShapeMismatch
        The two differ in length.
    InvalidInput
        There are no samples, or a label that `classes` lacks.

    Examples
    --------
    >>> from nirs_store.plots import confusion_matrix
    >>> figure = confusion_matrix(["a", "a", "b"], ["a", "b", "b"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1', '1', '0', '1']
    """
    truth, guess = np.asarray(true).ravel(), np.asarray(predicted).ravel()
    if truth.size != guess.size:
        raise ShapeMismatch(f"{truth.size} true but {guess.size} predicted labels; they belong in pairs.")
    if not truth.size:
        raise InvalidInput("Nothing to draw: no labels were given.")
    known = (
        list(dict.fromkeys(classes))
        if classes is not None
        else sorted({*truth.tolist(), *guess.tolist()}, key=str)
    )
    place = {label: index for index, label in enumerate(known)}
    missing = sorted({str(each) for each in (*truth.tolist(), *guess.tolist()) if each not in place})
    if missing:
        raise InvalidInput(f"classes: the labels {missing[:5]} are not among {[str(k) for k in known[:8]]}.")
    counts = np.zeros((len(known), len(known)), dtype=int)
    np.add.at(counts, ([place[t] for t in truth.tolist()], [place[g] for g in guess.tolist()]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = side_labels([str(each) for each in known], 20)
    longest = max(map(len, names))
    size = float(np.clip(2.6 + 0.55 * len(known), 4.4, 9))
    figure = new_figure(size + 1.2 + 0.06 * longest, size + 0.05 * longest)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = float(np.clip(9 * 16 / len(known), 4, 9))
    turned: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(known)), names, **(turned if max(map(len, names)) > 4 else {}))
    axes.set_yticks(range(len(known)), names)
    axes.tick_params(labelsize=small, length=0)
    axes.spines[:].set_visible(False)
    for row in range(len(known)):
        for column in range(len(known)):
            dark = shares[row, column] > 0.55
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", fontsize=small,
                color="white" if dark else COLOURS["line"],
            )  # fmt: skip
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True")
    heading(axes, title or "Confusion matrix", max(28, int(9 * size)))
    colour_bar(figure, image, axes, "share of the true class")
    return figure


def chain_confusion_matrix(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`confusion_matrix` of a chain's pooled out-of-fold predictions (else its test set's).

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain predicts numbers, or none of its predictions keeps its labels.
    """
    data = chain_data(store, chain_id)
    true, predicted = _labels(data)
    return confusion_matrix(true, predicted, classes=data.metadata.get("classes"), title=data.title)


def confusion_frame(store: ReadsRuns, chain_id: str) -> pl.DataFrame:
    """Return what :func:`chain_confusion_matrix` draws: ``true, predicted, count``, one row per pair that occurs.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain predicts numbers, or none of its predictions keeps its labels.
    """
    true, predicted = _labels(chain_data(store, chain_id))
    pairs = pl.DataFrame({"true": true.tolist(), "predicted": predicted.tolist()}, strict=False)
    return pairs.group_by("true", "predicted").agg(count=pl.len()).sort("true", "predicted")


def errors_frame(store: ReadsRuns, chain_id: str) -> pl.DataFrame:
    """Return RMSEC, RMSECV and RMSEP of the chains of the run that differ in the number of latent variables only.

    Returns
    -------
    polars.DataFrame
        ``components, error`` ("RMSEC", "RMSECV", "RMSEP"), ``value`` in the unit of the target; repeats are averaged.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain classifies or has no latent variables, or no predictions are stored.
    """
    siblings = sibling_chains(store, chain_id)
    own = next(each for each in siblings if each.chain_id == chain_id)
    alike = [
        each
        for each in siblings
        if not each.deleted
        and (each.samples, each.splitter[0], each.recipe()) == (own.samples, own.splitter[0], own.recipe())
    ]
    rows = []
    for each in alike:
        count = each.n_components(load=False)
        if count is None:
            raise InvalidInput(f"The chain {chain_id!r} ({own.model_class}) has no latent variables.")
        for error, name in (("RMSEC", "calibration"), ("RMSECV", "cv"), ("RMSEP", "test")):
            pair = each.pair(name)
            if pair is not None:
                rows.append((count, error, float(np.sqrt(np.mean((pair[1] - pair[0]) ** 2)))))
    if not rows:
        raise own.no_arrays()
    schema = {"components": pl.Int64, "error": pl.String, "value": pl.Float64}
    found = pl.DataFrame(rows, schema, orient="row")
    return found.group_by("components", "error").agg(pl.col("value").mean()).sort("error", "components")


def chain_errors_vs_components(store: ReadsRuns, chain_id: str) -> Figure:
    """Draw :func:`errors_vs_components` of what `errors_frame` returns.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chain classifies or has no latent variables, or no predictions are stored.
    """
    data, frame = chain_data(store, chain_id), errors_frame(store, chain_id)
    series = {
        str(name): (rows["components"].to_numpy(), rows["value"].to_numpy())
        for (name,), rows in frame.group_by("error", maintain_order=True)
    }
    title = data.preprocessings or "no preprocessing"
    return errors_vs_components(series, target=data.target, unit=data.unit, title=title)


def _labels(data: ChainData) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the true and the predicted labels of a chain, pooled over the folds."""
    if data.is_regression:
        raise InvalidInput(f"The chain {data.chain_id!r} predicts numbers; draw predicted against measured.")
    pairs = data.labels("val") or data.labels("test")
    if not pairs:
        raise data.no_arrays()
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def errors_vs_components(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]], *, target: str = "", unit: str = "", title: str = ""
) -> Figure:
    """Draw RMSEC, RMSECV and RMSEP over the number of latent variables.

    Where RMSEC goes on falling and the other two rise, further latent variables fit noise.

    Parameters
    ----------
    series
        ``{"RMSEC": (numbers, values), "RMSECV": ..., "RMSEP": ...}``; any of them may be missing.
    target, unit, title
        Words for the axis and the heading.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        An unknown or no curve, or matplotlib is not installed.
    ShapeMismatch
        A curve has more numbers than values, or fewer.
    """
    styles = {"RMSEC": COLOURS["calibration"], "RMSECV": COLOURS["cv"], "RMSEP": COLOURS["test"]}
    unknown = sorted(set(series) - set(styles))
    if unknown or not series:
        raise InvalidInput(
            f"series: expected some of {', '.join(styles)}; found {', '.join(unknown) or 'none'}."
        )
    figure, axes = new_axes(6.8, 4.2)
    for name, (numbers, values) in series.items():
        x, y = vector(f"{name}: numbers of latent variables", numbers), vector(f"{name}: values", values)
        if x.shape != y.shape:
            raise ShapeMismatch(f"{name}: {x.size} numbers of latent variables but {y.size} values.")
        order = np.argsort(x)
        line = DASHES if name == "RMSEC" else "-"
        axes.plot(
            x[order], y[order], marker="o", markersize=4, linestyle=line, color=styles[name], label=name
        )
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Number of latent variables")
    name_y(axes, score_label("RMSE", target, unit))
    heading(axes, title or score_label("RMSE", target))
    legend_below(figure)
    return figure
