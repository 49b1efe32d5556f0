"""nirs_store: the place where a machine-learning training loop keeps its work.

One object, `WorkspaceStore`, owns one folder: runs, pipelines, chains, predictions with their
arrays, logs, and every fitted model once, under the hash of its bytes.

Names are loaded when they are first used, so that ``import nirs_store`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nirs_store.backup.backup import restore_backup
    from nirs_store.bundle.reader import Bundle, load_bundle
    from nirs_store.chains.replay import replay_chain
    from nirs_store.chains.trace import ChainBuilder, ExecutionStep, ExecutionTrace, StepArtifacts
    from nirs_store.datasets import load_tecator
    from nirs_store.errors import NirsStoreError
    from nirs_store.library import PipelineLibrary
    from nirs_store.migration import MigrationReport, migrate_nirs4all
    from nirs_store.protocol import WorkspaceStoreProtocol
    from nirs_store.reading import Spectra, read_spectra
    from nirs_store.recording import (
        BranchRecorder,
        CrossValidationResult,
        record_cross_validation,
        record_stacking,
    )
    from nirs_store.records.runs import capture_environment
    from nirs_store.registry import ArtifactLoader, ArtifactRegistry
    from nirs_store.screening import optuna_callback, record_search
    from nirs_store.selection import KennardStoneSplit, kennard_stone
    from nirs_store.store import WorkspaceStore

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
    "KennardStoneSplit",
    "MigrationReport",
    "NirsStoreError",
    "PipelineLibrary",
    "Spectra",
    "StepArtifacts",
    "WorkspaceStore",
    "WorkspaceStoreProtocol",
    "__version__",
    "capture_environment",
    "kennard_stone",
    "load_bundle",
    "load_tecator",
    "migrate_nirs4all",
    "optuna_callback",
    "read_spectra",
    "record_cross_validation",
    "record_search",
    "record_stacking",
    "replay_chain",
    "restore_backup",
]

_HOME = {
    "ArtifactLoader": "nirs_store.registry",
    "ArtifactRegistry": "nirs_store.registry",
    "BranchRecorder": "nirs_store.recording",
    "Bundle": "nirs_store.bundle.reader",
    "ChainBuilder": "nirs_store.chains.trace",
    "CrossValidationResult": "nirs_store.recording",
    "ExecutionStep": "nirs_store.chains.trace",
    "ExecutionTrace": "nirs_store.chains.trace",
    "KennardStoneSplit": "nirs_store.selection",
    "MigrationReport": "nirs_store.migration",
    "NirsStoreError": "nirs_store.errors",
    "PipelineLibrary": "nirs_store.library",
    "Spectra": "nirs_store.reading",
    "StepArtifacts": "nirs_store.chains.trace",
    "WorkspaceStore": "nirs_store.store",
    "WorkspaceStoreProtocol": "nirs_store.protocol",
    "capture_environment": "nirs_store.records.runs",
    "kennard_stone": "nirs_store.selection",
    "load_bundle": "nirs_store.bundle.reader",
    "load_tecator": "nirs_store.datasets",
    "migrate_nirs4all": "nirs_store.migration",
    "read_spectra": "nirs_store.reading",
    "record_cross_validation": "nirs_store.recording",
    "optuna_callback": "nirs_store.screening",
    "record_search": "nirs_store.screening",
    "record_stacking": "nirs_store.recording",
    "replay_chain": "nirs_store.chains.replay",
    "restore_backup": "nirs_store.backup.backup",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
