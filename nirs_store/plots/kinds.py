"""Every figure of a chain by name, and the data frame that it shows.

``store.plot`` and ``store.plot_data`` call these, and so do the command line and the web page.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nirs_store.chains.one_target import column, one_target, place_of
from nirs_store.choosing import suggest_components
from nirs_store.errors import InvalidInput, did_you_mean
from nirs_store.lazy import polars as pl
from nirs_store.plots import diagnosis as diagnostic
from nirs_store.plots._chain import chain_data
from nirs_store.plots._figure import Figure
from nirs_store.plots.classes import (
    chain_confusion_matrix,
    chain_errors_vs_components,
    confusion_frame,
    errors_frame,
)
from nirs_store.plots.coefficients import chain_pls_coefficients, coefficients_frame
from nirs_store.plots.components import chain_rmsecv_vs_components, component_choice, components_frame
from nirs_store.plots.evaluations import training_curves
from nirs_store.plots.folds import chain_fold_stability, folds_frame
from nirs_store.plots.intervals import prediction_intervals
from nirs_store.plots.pivot_map import chain_heatmap, heatmap_cells
from nirs_store.plots.residual import chain_residuals
from nirs_store.plots.scatter import chain_predicted_vs_measured, predicted_frame
from nirs_store.plots.spectra import chain_spectra_by_step, raw_spectra, spectra_frame


class Kind(NamedTuple):
    """A figure: what it shows, whether it needs spectra, how it is drawn, and what its data are."""

    about: str
    spectra: bool
    draw: Callable[..., Figure]
    data: Callable[..., pl.DataFrame]


def chain_figure(
    store: Any, kind: str, chain_id: str, X: Any = None, y: Any = None, **options: Any
) -> Figure:
    """Draw a figure of a chain by its name; see `WorkspaceStore.plot`.

    Raises
    ------
    InvalidInput
        No such figure, or it needs spectra.
    """
    found = _kind(kind, X)
    if found.spectra:
        return found.draw(store, chain_id, X, y, **options)
    return found.draw(one_target(store, options.get("target")), chain_id)


def chain_figure_data(
    store: Any, kind: str, chain_id: str, X: Any = None, y: Any = None, **options: Any
) -> pl.DataFrame:
    """Return what a figure of a chain shows; see `WorkspaceStore.plot_data`.

    Raises
    ------
    InvalidInput
        No such figure, or it needs spectra.
    """
    found = _kind(kind, X)
    if found.spectra:
        return found.data(store, chain_id, X, y, **options)
    return found.data(one_target(store, options.get("target")), chain_id)


def _kind(name: str, X: Any) -> Kind:
    if name not in KINDS:
        raise InvalidInput(f"No figure {name!r}.{did_you_mean(name, KINDS)} Figures: {', '.join(KINDS)}.")
    found = KINDS[name]
    if found.spectra and X is None:
        raise InvalidInput(f"The figure {name!r} needs spectra, X: a chain keeps models, not spectra.")
    if X is not None and not found.spectra:
        raise InvalidInput(f"The figure {name!r} shows what was recorded with the chain; leave out X.")
    return found


def _residual_rows(store: Any, chain_id: str) -> pl.DataFrame:
    found = predicted_frame(store, chain_id)
    drawn = next(name for name in ("cv", "test", "calibration") if name in found["set"].unique().to_list())
    return found.filter(pl.col("set") == drawn)


def _permutation_rows(store: Any, chain_id: str, X: Any, y: Any = None, **options: Any) -> pl.DataFrame:
    test = store.permutation_test(chain_id, X, y, **options)
    return pl.DataFrame(
        {
            "rmsecv": np.append(test.rmsecv, test.permuted),
            "shuffled": np.arange(test.permuted.size + 1) > 0,
        }
    )


def _draw_permutation(store: Any, chain_id: str, X: Any, y: Any = None, **options: Any) -> Figure:
    data = chain_data(one_target(store, options.get("target")), chain_id)
    test = store.permutation_test(chain_id, X, y, **options)
    return diagnostic.permutation(test, unit=data.unit, title=f"Permutation test of {data.title}")


def _intervals(
    store: Any, chain_id: str, X: Any, y: Any = None, *, target: str | None = None, **options: Any
) -> pl.DataFrame:
    """Predict, and put the measured values at the side where they are known."""
    found: pl.DataFrame = store.predict(chain_id, X, **{"on_outlier": "ignore", **options})
    measured = y if y is not None else getattr(X, "y", None)
    values = None if measured is None else np.asarray(measured)
    if target is not None and "target" in found.columns:
        name = chain_data(one_target(store, target), chain_id).target
        several = found["target"].n_unique()
        found = found.filter(pl.col("target") == name)
        if values is not None and values.size == several * found.height:
            values = column(values, place_of(one_target(store, target).get_chain(chain_id)))
    if values is not None and values.dtype.kind in "fiu" and values.size == found.height:
        # Of several targets there is one row per sample and target, in the order of the values.
        found = found.with_columns(measured=pl.Series(values.ravel().astype(np.float64)))
    elif y is not None:
        raise InvalidInput(f"y: expected {found.height} numbers, found the shape {np.shape(y)}.")
    return found


def _draw_intervals(
    store: Any, chain_id: str, X: Any, y: Any = None, *, target: str | None = None, **options: Any
) -> Figure:
    found = _intervals(store, chain_id, X, y, target=target, **options)
    data = chain_data(one_target(store, target), chain_id)
    measured = found["measured"].to_numpy() if "measured" in found.columns else None
    if measured is not None and not np.isfinite(measured).any():
        measured = None
    return prediction_intervals(
        found, measured=measured, target=data.target, unit=data.unit, title=data.title
    )


def _draw_raw(store: Any, chain_id: str, X: Any, y: Any = None, **options: Any) -> Figure:
    data = chain_data(store, chain_id)
    known: dict[str, Any] = {"values": y}
    if y is not None:
        known |= {"target": data.target, "unit": data.unit}
    if not hasattr(X, "references"):
        known |= {"wavelengths": data.wavelengths, "wavelength_unit": data.wavelength_unit}
    return raw_spectra(X, **{**known, **options})


def _raw_rows(store: Any, chain_id: str, X: Any, y: Any = None, **options: Any) -> pl.DataFrame:
    grid = (
        getattr(X, "wavelengths", None)
        if hasattr(X, "references")
        else chain_data(store, chain_id).wavelengths
    )
    return spectra_frame([("raw", getattr(X, "X", X))], wavelengths=options.get("wavelengths", grid))


def _plain_spectra(X: Any) -> Any:
    return X.X if hasattr(X, "references") else X


def _draw_steps(
    store: Any, chain_id: str, X: Any, y: Any = None, *, target: str | int | None = None, **options: Any
) -> Figure:
    store = one_target(store, target)
    values = y if y is not None else options.pop("values", None)
    if values is not None and target is not None:
        values = column(values, place_of(store.get_chain(chain_id) or {}))
    return chain_spectra_by_step(store, chain_id, _plain_spectra(X), values=values, **options)


def _step_rows(store: Any, chain_id: str, X: Any, y: Any = None, **options: Any) -> pl.DataFrame:
    data = chain_data(store, chain_id)
    grid = options.get("wavelengths", data.wavelengths)
    return spectra_frame(data.stages(np.asarray(_plain_spectra(X), dtype=np.float64)), wavelengths=grid)


def _choice(store: Any, chain_id: str) -> Any:
    return suggest_components(store, chain_id)


def _metrics(store: Any, chain_id: str) -> pl.DataFrame:
    found: pl.DataFrame = store.get_metrics(chain_data(store, chain_id).chain["pipeline_id"])
    return found


def _diagnosed(show: Callable[..., Any], store: Any, chain_id: str, X: Any, y: Any, **options: Any) -> Any:
    """Diagnose, and draw or return the part that `show` takes; options of the figure go to it."""
    own = set(inspect.signature(show).parameters) & {"components"}
    words = {name: options.pop(name) for name in list(options) if name in own}
    return show(store.diagnose(chain_id, X, y, **options), **words)


def _diagnosis(about: str, draw: Callable[..., Figure], frame: str) -> Kind:
    def data(found: Any) -> pl.DataFrame:
        rows: pl.DataFrame = getattr(found, frame)
        return rows

    return Kind(about, True, partial(_diagnosed, draw), partial(_diagnosed, data))


def _weights(found: Any, components: Any = None) -> Figure:
    return diagnostic.loadings(found, "weights", components)


def _selectivity(found: Any) -> Figure:
    return diagnostic.channel_importance(found, "selectivity_ratio")


KINDS: dict[str, Kind] = {
    "predicted": Kind(
        "predicted against measured: calibration, cross-validation, test",
        False, chain_predicted_vs_measured, predicted_frame,
    ),
    "residuals": Kind("predicted minus measured", False, chain_residuals, _residual_rows),
    "components": Kind(
        "RMSECV against the number of latent variables, over the chains of the run",
        False, chain_rmsecv_vs_components, components_frame,
    ),
    "choice": Kind(
        "RMSECV with standard errors, and the number that the one-SE rule chooses", False,
        lambda store, chain_id: component_choice(_choice(store, chain_id)),
        lambda store, chain_id: _choice(store, chain_id).table,
    ),
    "errors": Kind(
        "RMSEC, RMSECV and RMSEP against the number of latent variables",
        False, chain_errors_vs_components, errors_frame,
    ),
    "folds": Kind("the score of each fold", False, chain_fold_stability, folds_frame),
    "heatmap": Kind(
        "RMSECV by preprocessing and model, over the chains of the run", False, chain_heatmap, heatmap_cells
    ),
    "coefficients": Kind(
        "regression coefficients over wavelength", False, chain_pls_coefficients, coefficients_frame
    ),
    "confusion": Kind(
        "classes: true against predicted, out of fold", False, chain_confusion_matrix, confusion_frame
    ),
    "training": Kind(
        "training curves of the chain's pipeline", False,
        lambda store, chain_id: training_curves(_metrics(store, chain_id)), _metrics,
    ),
    "spectra": Kind("spectra before and after each preprocessing step", True, _draw_steps, _step_rows),
    "raw": Kind("spectra colored by a reference value or a group", True, _draw_raw, _raw_rows),
    "intervals": Kind("predictions with their intervals; flagged samples", True, _draw_intervals, _intervals),
    "t2-q": _diagnosis("Q against Hotelling's T², with limits", diagnostic.t2_q, "samples"),
    "influence": _diagnosis("studentized residual against leverage", diagnostic.influence, "samples"),
    "scores": _diagnosis("two score vectors with the ellipse", diagnostic.scores, "scores"),
    "loadings": _diagnosis("loadings over wavelength", diagnostic.loadings, "channels"),
    "weights": _diagnosis("weights of a PLS over wavelength", _weights, "channels"),
    "vip": _diagnosis("VIP over wavelength", diagnostic.channel_importance, "channels"),
    "selectivity": _diagnosis("selectivity ratio over wavelength", _selectivity, "channels"),
    "explained": _diagnosis(
        "explained variance of X and y", diagnostic.explained_variance, "explained"
    ),
    "normal": _diagnosis("normal plot of the residuals", diagnostic.normal_residuals, "samples"),
    "permutation": Kind(
        "RMSECV with shuffled reference values", True, _draw_permutation, _permutation_rows
    ),
}  # fmt: skip
