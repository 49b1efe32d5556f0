"""nirs_store: the place where a machine-learning training loop keeps its work.

One object, `WorkspaceStore`, owns one folder: runs, pipelines, chains, predictions with their
arrays, logs, and every fitted model once, under the hash of its bytes.

Names are loaded when they are first used, so that ``import nirs_store`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nirs_store.bundle.reader import Bundle, load_bundle
    from nirs_store.catalog.environment import capture_environment
    from nirs_store.chains.builder import ChainBuilder
    from nirs_store.chains.replay import replay_chain
    from nirs_store.chains.trace import ExecutionStep, ExecutionTrace, StepArtifacts
    from nirs_store.datasets import load_tecator
    from nirs_store.errors import NirsStoreError
    from nirs_store.library import PipelineLibrary
    from nirs_store.migration import MigrationReport, migrate_nirs4all
    from nirs_store.protocol import WorkspaceStoreProtocol
    from nirs_store.recording import (
        BranchRecorder,
        CrossValidationResult,
        record_cross_validation,
        record_stacking,
    )
    from nirs_store.registry import ArtifactLoader, ArtifactRegistry
    from nirs_store.store import WorkspaceStore
    from nirs_store.upkeep.backups import restore_backup

__version__ = "0.1.0"

__all__ = [
    "ArtifactLoader",
    "ArtifactRegistry",
    "BranchRecorder",
    "Bundle",
    "ChainBuilder",
    "CrossValidationResult",
    "ExecutionStep",
    "ExecutionTrace",
    "MigrationReport",
    "NirsStoreError",
    "PipelineLibrary",
    "StepArtifacts",
    "WorkspaceStore",
    "WorkspaceStoreProtocol",
    "__version__",
    "capture_environment",
    "load_bundle",
    "load_tecator",
    "migrate_nirs4all",
    "record_cross_validation",
    "record_stacking",
    "replay_chain",
    "restore_backup",
]

_HOME = {
    "ArtifactLoader": "registry",
    "ArtifactRegistry": "registry",
    "BranchRecorder": "recording",
    "Bundle": "bundle.reader",
    "ChainBuilder": "chains.builder",
    "CrossValidationResult": "recording",
    "ExecutionStep": "chains.trace",
    "ExecutionTrace": "chains.trace",
    "MigrationReport": "migration",
    "NirsStoreError": "errors",
    "PipelineLibrary": "library",
    "StepArtifacts": "chains.trace",
    "WorkspaceStore": "store",
    "WorkspaceStoreProtocol": "protocol",
    "capture_environment": "catalog.environment",
    "load_bundle": "bundle.reader",
    "load_tecator": "datasets",
    "migrate_nirs4all": "migration",
    "record_cross_validation": "recording",
    "record_stacking": "recording",
    "replay_chain": "chains.replay",
    "restore_backup": "upkeep.backups",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
