"""Chains: the steps that lead from a spectrum to a prediction, and their replay.

`ExecutionTrace` and its parts say what a training did, `ChainBuilder` makes a chain of it,
`ReplayPlan` is that chain checked and ready, and `predict` applies it to new spectra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.lazy import imported_from

if TYPE_CHECKING:
    from nirs_store.chains.folds import chain_artifact_ids, fold_key
    from nirs_store.chains.plan import ReplayPlan
    from nirs_store.chains.predictor import ChainPredictor
    from nirs_store.chains.replay import predict, predict_proba, predicted_classes, replay_chain
    from nirs_store.chains.trace import ChainBuilder, ExecutionStep, ExecutionTrace, StepArtifacts

__all__ = [
    "ChainBuilder",
    "ChainPredictor",
    "ExecutionStep",
    "ExecutionTrace",
    "ReplayPlan",
    "StepArtifacts",
    "chain_artifact_ids",
    "fold_key",
    "predict",
    "predict_proba",
    "predicted_classes",
    "replay_chain",
]


__getattr__ = imported_from(
    __name__,
    {
        "nirs_store.chains.folds": ("chain_artifact_ids", "fold_key"),
        "nirs_store.chains.plan": ("ReplayPlan",),
        "nirs_store.chains.predictor": ("ChainPredictor",),
        "nirs_store.chains.replay": ("predict", "predict_proba", "predicted_classes", "replay_chain"),
        "nirs_store.chains.trace": ("ChainBuilder", "ExecutionStep", "ExecutionTrace", "StepArtifacts"),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
