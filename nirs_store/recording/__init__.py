"""Cross-validate a scikit-learn estimator into a store."""

from __future__ import annotations

from nirs_store.protocol import RecordingStore
from nirs_store.recording.branching import BranchRecorder
from nirs_store.recording.crossval import record_cross_validation
from nirs_store.recording.result import CrossValidationResult
from nirs_store.recording.stacking import record_stacking

__all__ = [
    "BranchRecorder",
    "CrossValidationResult",
    "RecordingStore",
    "record_cross_validation",
    "record_stacking",
]
