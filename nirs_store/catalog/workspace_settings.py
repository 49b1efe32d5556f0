"""Settings of a workspace: kept in the catalog, and mirrored in a file that recording calls can look at.

Recording waits for nobody, so it cannot ask the catalog whether something may be recorded. The mirror is
written under the lease, after the row; what a crash left between the two is put right by whoever opens the
catalog next. A workspace without settings has no such file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb

from nirs_store.blobs.durable import remove_file, write_file
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.layout import Layout
from nirs_store.errors import CatalogDamaged

__all__ = ["SettingsMirror", "drop_setting", "put_setting", "read_settings"]


def read_settings(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """All settings by name."""
    rows = con.execute("SELECT key, value FROM settings ORDER BY key").fetchall()
    return {str(key): json.loads(value) for key, value in rows}


def put_setting(con: duckdb.DuckDBPyConnection, name: str, value: Any) -> None:
    """Set one setting inside the caller's transaction."""
    con.execute(
        "INSERT INTO settings VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, "
        "changed_at = excluded.changed_at",
        [name, json.dumps(value), now_naive()],
    )


def drop_setting(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Go back to the default inside the caller's transaction."""
    con.execute("DELETE FROM settings WHERE key = ?", [name])


class SettingsMirror:
    """The file beside the catalog, read again when it has changed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stamp: tuple[int, int, int] | None = None
        self._values: dict[str, Any] = {}

    def current(self) -> Mapping[str, Any]:
        """The settings as they are now, whichever process set them.

        Raises
        ------
        CatalogDamaged
            The file is not what this library writes: what may be recorded is not known.
        """
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
            values = json.loads(self._layout.settings.read_bytes())
        except ValueError as error:
            values = error
        if not isinstance(values, dict):
            raise CatalogDamaged(
                f"{self._layout.settings} cannot be read, so it is not known what may be recorded. Nothing was "
                "recorded. Remove the file and ask the store anything: it is made anew from the catalog."
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
