"""The artifact layer: fitted objects by their place in a pipeline, their dependencies, and cleaning up.

All of it is a view on one workspace: what is registered is an artifact of the store, and what a chain names is
found here. `ArtifactRegistry` records and finds, `ArtifactLoader` loads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nirs_store.artifacts.graph import DependencyGraph
    from nirs_store.artifacts.loader import ArtifactLoader, LRUCache
    from nirs_store.artifacts.registry import ArtifactRegistry
    from nirs_store.artifacts.types import (
        ArtifactRecord,
        ArtifactType,
        ChainNode,
        MetaModelConfig,
        generate_artifact_id,
        parse_artifact_id,
    )
    from nirs_store.audit.guard import PATIENT_KEYS
    from nirs_store.history.policy import (
        RetentionPolicy,
        keep_all,
        keep_champions,
        keep_recent,
        keep_top_k,
        limit,
    )

__all__ = [
    "PATIENT_KEYS",
    "ArtifactLoader",
    "ArtifactRecord",
    "ArtifactRegistry",
    "ArtifactType",
    "ChainNode",
    "DependencyGraph",
    "LRUCache",
    "MetaModelConfig",
    "RetentionPolicy",
    "generate_artifact_id",
    "keep_all",
    "keep_champions",
    "keep_recent",
    "keep_top_k",
    "limit",
    "parse_artifact_id",
]

_HOME = {
    "PATIENT_KEYS": "nirs_store.audit.guard",
    "ArtifactLoader": "nirs_store.artifacts.loader",
    "ArtifactRecord": "nirs_store.artifacts.types",
    "ArtifactRegistry": "nirs_store.artifacts.registry",
    "ArtifactType": "nirs_store.artifacts.types",
    "ChainNode": "nirs_store.artifacts.types",
    "DependencyGraph": "nirs_store.artifacts.graph",
    "LRUCache": "nirs_store.artifacts.loader",
    "MetaModelConfig": "nirs_store.artifacts.types",
    "RetentionPolicy": "nirs_store.history.policy",
    "keep_all": "nirs_store.history.policy",
    "keep_champions": "nirs_store.history.policy",
    "keep_recent": "nirs_store.history.policy",
    "keep_top_k": "nirs_store.history.policy",
    "limit": "nirs_store.history.policy",
    "generate_artifact_id": "nirs_store.artifacts.types",
    "parse_artifact_id": "nirs_store.artifacts.types",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
