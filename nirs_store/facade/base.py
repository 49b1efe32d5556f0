"""What all methods of a store work with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nirs_store.blobs.cache import ByteLRU
from nirs_store.catalog.engine import Engine
from nirs_store.chains.plan import ReplayPlan
from nirs_store.lazily import later
from nirs_store.registry.moments import retention_is_due

if TYPE_CHECKING:
    from nirs_store import outgoing
    from nirs_store.registry import loader, registry
else:
    outgoing = later("nirs_store.outgoing")
    loader = later("nirs_store.registry.loader")
    registry = later("nirs_store.registry.registry")

__all__ = ["Facade", "Planned"]

Planned = tuple[ReplayPlan, Mapping[str, str]]
"""A compiled chain, and what its artifacts held then whose ids are a caller's own (see `content_key`)."""


class Facade:
    """The open engine, and what replay and exports keep in memory."""

    _engine: Engine
    _objects: ByteLRU[str, Any]
    _plans: ByteLRU[str, Planned]
    _planned_at: int = 0
    _exported: ByteLRU[str, outgoing.Remembered]
    _registry: registry.ArtifactRegistry | None = None
    _loader: loader.ArtifactLoader | None = None

    def _keep_to_policy(self, moment: str) -> None:
        """Carry out the workspace's retention if it asks for that now."""
        if retention_is_due(self._engine, moment):
            from nirs_store.registry.retention import Retention

            Retention(self._engine, self._forget).carry_out(moment)

    def _forget(self) -> None:
        """After a deletion anything that was cached may be gone."""
        self._engine.known.clear()
        self._plans.clear()
        self._exported.clear()
        self._objects.clear()
        if self._loader is not None:
            self._loader.clear_cache()
