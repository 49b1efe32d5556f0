"""Chains: the steps that lead from a spectrum to a prediction, and their replay.

`ExecutionTrace` and its parts say what a training did, `ChainBuilder` makes a chain of it,
`ReplayPlan` is that chain checked and ready, and `predict` applies it to new spectra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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

_HOME = {
    "ChainBuilder": "nirs_store.chains.trace",
    "ChainPredictor": "nirs_store.chains.predictor",
    "ExecutionStep": "nirs_store.chains.trace",
    "ExecutionTrace": "nirs_store.chains.trace",
    "ReplayPlan": "nirs_store.chains.plan",
    "StepArtifacts": "nirs_store.chains.trace",
    "chain_artifact_ids": "nirs_store.chains.folds",
    "fold_key": "nirs_store.chains.folds",
    "predict": "nirs_store.chains.replay",
    "predict_proba": "nirs_store.chains.replay",
    "predicted_classes": "nirs_store.chains.replay",
    "replay_chain": "nirs_store.chains.replay",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
