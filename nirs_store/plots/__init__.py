"""Figures of a calibration, each a :class:`matplotlib.figure.Figure` that nothing else holds on to.

Every figure takes plain arrays or a frame; its ``chain_...`` twin takes a store and a chain id and
reads what it needs. :func:`save_figure` writes any of them to a file. matplotlib is imported when
the first figure is drawn (``pip install "nirs_store[plot]"``).
"""

from __future__ import annotations

from nirs_store.plots._figure import save_figure
from nirs_store.plots.classes import (
    chain_confusion_matrix,
    chain_errors_vs_components,
    confusion_frame,
    confusion_matrix,
    errors_frame,
    errors_vs_components,
)
from nirs_store.plots.coefficients import chain_pls_coefficients, coefficients_frame, pls_coefficients
from nirs_store.plots.components import (
    chain_rmsecv_vs_components,
    component_choice,
    components_frame,
    rmsecv_vs_components,
)
from nirs_store.plots.control import control_chart, control_frame
from nirs_store.plots.diagnosis import (
    channel_importance,
    explained_variance,
    influence,
    loadings,
    normal_residuals,
    permutation,
    scores,
    t2_q,
)
from nirs_store.plots.evaluations import (
    comparison_matrix,
    leaderboard_intervals,
    pareto_front,
    robustness_curves,
    score_trend,
    training_curves,
)
from nirs_store.plots.folds import chain_fold_stability, fold_stability, folds_frame
from nirs_store.plots.intervals import prediction_intervals
from nirs_store.plots.kinds import KINDS, chain_figure, chain_figure_data
from nirs_store.plots.pivot_map import chain_heatmap, heatmap, heatmap_cells, heatmap_frame
from nirs_store.plots.residual import chain_residuals, residuals
from nirs_store.plots.scatter import chain_predicted_vs_measured, predicted_frame, predicted_vs_measured
from nirs_store.plots.spectra import chain_spectra_by_step, raw_spectra, spectra_by_step, spectra_frame

__all__ = [
    "KINDS",
    "chain_confusion_matrix",
    "chain_errors_vs_components",
    "chain_figure",
    "chain_figure_data",
    "chain_fold_stability",
    "chain_heatmap",
    "chain_pls_coefficients",
    "chain_predicted_vs_measured",
    "chain_residuals",
    "chain_rmsecv_vs_components",
    "chain_spectra_by_step",
    "channel_importance",
    "coefficients_frame",
    "comparison_matrix",
    "component_choice",
    "components_frame",
    "confusion_frame",
    "confusion_matrix",
    "control_chart",
    "control_frame",
    "errors_frame",
    "errors_vs_components",
    "explained_variance",
    "fold_stability",
    "folds_frame",
    "heatmap",
    "heatmap_cells",
    "heatmap_frame",
    "influence",
    "leaderboard_intervals",
    "loadings",
    "normal_residuals",
    "pareto_front",
    "permutation",
    "pls_coefficients",
    "predicted_frame",
    "predicted_vs_measured",
    "prediction_intervals",
    "raw_spectra",
    "residuals",
    "rmsecv_vs_components",
    "robustness_curves",
    "save_figure",
    "score_trend",
    "scores",
    "spectra_by_step",
    "spectra_frame",
    "t2_q",
    "training_curves",
]
