"""The artifact layer: fitted objects by their place in a pipeline, their dependencies, and cleaning up.

All of it is a view on one workspace: what is registered is an artifact of the store, and what a chain names is
found here. `ArtifactRegistry` records and finds, `ArtifactLoader` loads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nirs_store.registry.cache import LRUCache
    from nirs_store.registry.graph import DependencyGraph
    from nirs_store.registry.guard import PATIENT_KEYS
    from nirs_store.registry.ids import ChainNode, generate_artifact_id, parse_artifact_id
    from nirs_store.registry.loader import ArtifactLoader
    from nirs_store.registry.policies import (
        RetentionPolicy,
        keep_all,
        keep_champions,
        keep_recent,
        keep_top_k,
        limit,
    )
    from nirs_store.registry.registry import ArtifactRegistry
    from nirs_store.registry.types import ArtifactRecord, ArtifactType, MetaModelConfig

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
    "PATIENT_KEYS": "guard",
    "ArtifactLoader": "loader",
    "ArtifactRecord": "types",
    "ArtifactRegistry": "registry",
    "ArtifactType": "types",
    "ChainNode": "ids",
    "DependencyGraph": "graph",
    "LRUCache": "cache",
    "MetaModelConfig": "types",
    "RetentionPolicy": "policies",
    "keep_all": "policies",
    "keep_champions": "policies",
    "keep_recent": "policies",
    "keep_top_k": "policies",
    "limit": "policies",
    "generate_artifact_id": "ids",
    "parse_artifact_id": "ids",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
