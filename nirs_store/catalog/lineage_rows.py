"""Rows of typed links between objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nirs_store.catalog.access import Connection

__all__ = ["insert_links"]


def insert_links(con: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert links inside the caller's transaction; each row is a dict of the table's columns."""
