"""The audit trail: what was changed, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.catalog.engine import Engine

__all__ = ["note"]


def note(
    engine: Engine,
    operation: str,
    object_kind: str | None = None,
    object_id: str | None = None,
    *,
    success: bool = True,
    message: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Note a change, or a refused attempt to change."""
