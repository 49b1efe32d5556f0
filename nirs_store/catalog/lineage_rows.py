"""Rows of lineage: what was made from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.schema import column_names

__all__ = ["insert_links"]


def insert_links(con: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert links inside the caller's transaction; columns that are not given are NULL."""
    names = column_names("lineage_links")
    places = ", ".join("?" for _ in names)
    for row in rows:
        con.execute(f"INSERT INTO lineage_links VALUES ({places})", [row.get(name) for name in names])
