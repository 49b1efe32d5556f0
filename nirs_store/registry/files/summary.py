"""Counts and bytes of stored files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nirs_store.catalog.values import with_zone
from nirs_store.display import block, byte_text, field_table

__all__ = ["FileSummary", "summarised"]


@dataclass(frozen=True)
class FileSummary:
    """What is stored: counts and bytes.

    Attributes
    ----------
    files : int
    size_bytes, stored_bytes : int
        Before compression; on the disk, where nothing is stored twice.
    by_type, by_status, by_mode, by_compression : dict of str to int
        Files.
    bytes_by_type : dict of str to int
        Before compression.
    tests : dict of str to int
        Files of each test.
    first, last : datetime or None
        When the oldest and the newest were stored.
    """

    files: int
    size_bytes: int
    stored_bytes: int
    by_type: dict[str, int]
    by_status: dict[str, int]
    by_mode: dict[str, int]
    by_compression: dict[str, int]
    bytes_by_type: dict[str, int]
    tests: dict[str, int]
    first: datetime | None
    last: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return dict(vars(self))

    def _lines(self) -> dict[str, object]:
        def words(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{count:,} {name}" for name, count in counts.items())

        return {
            "files": f"{self.files:,}",
            "size": f"{byte_text(self.size_bytes)}, on the disk {byte_text(self.stored_bytes)}",
            "types": words(self.by_type),
            "status": words(self.by_status),
            "modes": words(self.by_mode),
            "compression": words(self.by_compression),
            "tests": words(self.tests),
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:12}{text}" for name, text in self._lines().items() if text)

    def _repr_html_(self) -> str:
        return block("Files", field_table({name: text for name, text in self._lines().items() if text}))


def summarised(found: Mapping[str, Any]) -> FileSummary:
    """Put together what the catalog counted."""
    grouped = found["grouped"]

    def by(column: str, what: str = "files") -> dict[str, int]:
        totals: dict[str, int] = {}
        for row in grouped:
            if row[column] is not None:
                totals[row[column]] = totals.get(row[column], 0) + int(row[what])
        return dict(sorted(totals.items(), key=lambda pair: (-pair[1], pair[0])))

    return FileSummary(
        sum(row["files"] for row in grouped),
        sum(row["bytes"] for row in grouped),
        int(found["bytes"]),
        by("type"),
        by("status"),
        by("mode"),
        by("compression"),
        by("type", "bytes"),
        by("test_name"),
        with_zone(found["first"]),
        with_zone(found["last"]),
    )
