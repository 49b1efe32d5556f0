"""Settings of a workspace: kept in the catalog, and mirrored in a file that recording calls can look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb

from nirs_store.blobs.durable import remove_file, write_file
from nirs_store.blobs.plain import read_plain
from nirs_store.db.layout import Layout
from nirs_store.db.table import Table
from nirs_store.errors import CatalogDamaged
from nirs_store.ids import now_naive


def read_settings(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """All settings by name."""
    return {row["key"]: row["value"] for row in Table(con, "settings").where("key")}


def put_setting(con: duckdb.DuckDBPyConnection, name: str, value: Any) -> None:
    """Set one setting inside the caller's transaction."""
    Table(con, "settings").insert([{"key": name, "value": value, "changed_at": now_naive()}], "OR REPLACE")


def drop_setting(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Go back to the default inside the caller's transaction."""
    Table(con, "settings").delete(key=name)


class SettingsMirror:
    """The file beside the catalog, read again when it has changed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stamp: tuple[int, int, int] | None = None
        self._values: dict[str, Any] = {}

    def current(self) -> Mapping[str, Any]:
        """Return the settings as they are now, whichever process set them."""
        try:
            found = self._layout.settings.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._values = self._read()
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._values = None, {}
        return self._values

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(read_plain(self._layout.settings))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            values = error
        if not isinstance(values, dict):
            raise CatalogDamaged(
                f"{self._layout.settings} cannot be read, so the guard rules are unknown. Nothing was "
                "recorded. Remove the file and run any query: the catalog then restores it."
            )
        return values

    def reconcile(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the file say what the catalog says; the lease is held."""
        values = read_settings(con)
        try:
            same = dict(self.current()) == values
        except CatalogDamaged:
            same = False
        if same:
            return
        if values:
            write_file(self._layout.settings, json.dumps(values, indent=1).encode())
        else:
            remove_file(self._layout.settings, missing_ok=True)
        self._stamp = None
