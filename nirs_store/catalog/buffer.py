"""Rows that were recorded but not committed yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from nirs_store.catalog.arrays import StoredArray
from nirs_store.catalog.audit_rows import AUDIT
from nirs_store.catalog.schema import column_names
from nirs_store.catalog.values import to_json
from nirs_store.ids import new_id, utcnow

__all__ = ["Buffer", "naive", "now_naive"]

# What a row of plain columns costs, roughly; only arrays and JSON are counted exactly.
_ROW_BYTES = 200


def naive(moment: datetime) -> datetime:
    """UTC without the zone: what a TIMESTAMP column takes."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def now_naive() -> datetime:
    """The present moment for a TIMESTAMP column."""
    return naive(utcnow())


class Buffer:
    """Rows a table, in the order in which they were recorded."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.nbytes = 0
        self.blobs: set[str] = set()
        self._arrays: set[str] = set()

    def __bool__(self) -> bool:
        return any(self.rows.values())

    @property
    def only_notes(self) -> bool:
        """Whether there is nothing but entries for the audit trail."""
        kind = column_names("changes").index("kind")
        changes = self.rows.get("changes", [])
        return sum(map(len, self.rows.values())) == len(changes) and all(c[kind] == AUDIT for c in changes)

    def add(self, table: str, values: Mapping[str, Any]) -> None:
        """Add one row; columns that are not given are NULL."""
        names = column_names(table)
        get = values.get
        row = tuple([get(name) for name in names])
        # What was given and not taken would be lost without a word.
        if len(row) - row.count(None) < len(values) and not values.keys() <= set(names):
            raise KeyError(f"{table} has no columns {sorted(values.keys() - set(names))}")
        self.rows[table].append(row)
        self.nbytes += _ROW_BYTES

    def add_array(self, row: StoredArray) -> str:
        """Add an array once a commit. Each commit carries the bytes of what it names.

        Whether the catalog has them already cannot be known here: another process may delete
        the last prediction that uses them before this commit is applied.
        """
        if row[0] not in self._arrays:
            self._arrays.add(row[0])
            self.rows["arrays"].append(row)
            self.nbytes += len(row[3])
        return row[0]

    def change(self, kind: str, identifier: str, payload: Mapping[str, Any] | None = None) -> None:
        """Add a change of a row's state."""
        text = to_json(payload, kind)
        self.add(
            "changes",
            {"change_id": new_id(), "kind": kind, "id": identifier, "made_at": now_naive(), "payload": text},
        )

    def absorb(self, other: Buffer, tables: Iterable[str] | None = None) -> None:
        """Append another buffer's rows, of all tables or of some."""
        for name in tables if tables is not None else other.rows:
            if name == "arrays":
                for row in other.rows[name]:
                    self.add_array(row)
            elif name in other.rows:
                self.rows[name].extend(other.rows[name])
        self.nbytes += other.nbytes
        self.blobs |= other.blobs
