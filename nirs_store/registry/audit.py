"""The audit trail."""

from __future__ import annotations

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
    details: Any = None,
) -> None:
    """Write down that something was changed, or that a change was refused."""
