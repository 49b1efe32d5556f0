"""nirs_store: the place where a machine-learning training loop keeps its work.

One object, `WorkspaceStore`, owns one folder: runs, pipelines, chains, predictions with their
arrays, logs, and every fitted model once, under the hash of its bytes.

Names are loaded when they are first used, so that ``import nirs_store`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.lazy import imported_from

if TYPE_CHECKING:
    from nirs_store.artifacts.loader import ArtifactLoader
    from nirs_store.artifacts.registry import ArtifactRegistry
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


__getattr__ = imported_from(
    __name__,
    {
        "nirs_store.backup.backup": ("restore_backup",),
        "nirs_store.bundle.reader": ("Bundle", "load_bundle"),
        "nirs_store.chains.replay": ("replay_chain",),
        "nirs_store.chains.trace": ("ChainBuilder", "ExecutionStep", "ExecutionTrace", "StepArtifacts"),
        "nirs_store.datasets": ("load_tecator",),
        "nirs_store.errors": ("NirsStoreError",),
        "nirs_store.library": ("PipelineLibrary",),
        "nirs_store.migration": ("MigrationReport", "migrate_nirs4all"),
        "nirs_store.protocol": ("WorkspaceStoreProtocol",),
        "nirs_store.reading": ("Spectra", "read_spectra"),
        "nirs_store.recording": (
            "BranchRecorder",
            "CrossValidationResult",
            "record_cross_validation",
            "record_stacking",
        ),
        "nirs_store.records.runs": ("capture_environment",),
        "nirs_store.registry": ("ArtifactLoader", "ArtifactRegistry"),
        "nirs_store.screening": ("optuna_callback", "record_search"),
        "nirs_store.selection": ("KennardStoneSplit", "kennard_stone"),
        "nirs_store.store": ("WorkspaceStore",),
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
