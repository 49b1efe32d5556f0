"""Chains: the steps that lead from a spectrum to a prediction, and their replay.

`ExecutionTrace` and its parts say what a training did, `ChainBuilder` makes a chain of it,
`ReplayPlan` is that chain checked and ready, and `predict` applies it to new spectra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nirs_store.chains.builder import ChainBuilder
    from nirs_store.chains.folds import chain_artifact_ids, fold_key
    from nirs_store.chains.plan import ReplayPlan
    from nirs_store.chains.predictor import ChainPredictor
    from nirs_store.chains.replay import predict, predict_proba, predicted_classes, replay_chain
    from nirs_store.chains.trace import ExecutionStep, ExecutionTrace, StepArtifacts

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
    "ChainBuilder": "builder",
    "ChainPredictor": "predictor",
    "ExecutionStep": "trace",
    "ExecutionTrace": "trace",
    "ReplayPlan": "plan",
    "StepArtifacts": "trace",
    "chain_artifact_ids": "folds",
    "fold_key": "folds",
    "predict": "replay",
    "predict_proba": "replay",
    "predicted_classes": "replay",
    "replay_chain": "replay",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
