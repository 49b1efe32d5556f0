"""The artifact layer: fitted objects by their place in a pipeline, their dependencies, and cleaning up.

All of it is a view on one workspace: what is registered is an artifact of the store, and what a chain names is
found here. `ArtifactRegistry` records and finds, `ArtifactLoader` loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.lazy import imported_from

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


__getattr__ = imported_from(
    __name__,
    {
        "nirs_store.artifacts.graph": ("DependencyGraph",),
        "nirs_store.artifacts.loader": ("ArtifactLoader", "LRUCache"),
        "nirs_store.artifacts.registry": ("ArtifactRegistry",),
        "nirs_store.artifacts.types": (
            "ArtifactRecord",
            "ArtifactType",
            "ChainNode",
            "MetaModelConfig",
            "generate_artifact_id",
            "parse_artifact_id",
        ),
        "nirs_store.audit.guard": ("PATIENT_KEYS",),
        "nirs_store.history.policy": (
            "RetentionPolicy",
            "keep_all",
            "keep_champions",
            "keep_recent",
            "keep_top_k",
            "limit",
        ),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
