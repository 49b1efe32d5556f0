"""What verifying the audit trail found, and the heads that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nirs_store.catalog.audit_rows import Break, Head
from nirs_store.catalog.layout import Layout
from nirs_store.errors import InvalidInput
from nirs_store.upkeep.audittrail import read_head

__all__ = ["AuditReport", "as_head", "kept_heads"]


@dataclass(frozen=True)
class AuditReport:
    """What verifying the trail found.

    Attributes
    ----------
    entries : int
    head : Head
        The last entry.
    breaks : tuple of Break
        Entries that were altered, replaced or removed; the first twenty.
    """

    entries: int
    head: Head
    breaks: tuple[Break, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the trail is whole."""
        return not self.breaks

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "ok": self.ok,
            "entries": self.entries,
            "head": self.head._asdict(),
            "breaks": [found._asdict() for found in self.breaks],
        }

    def __str__(self) -> str:
        if self.ok:
            return f"The audit trail is whole: {self.entries:,} entries, head {self.head.entry_hash[:12]}."
        lines = [f"entry {found.number}: {found.reason}" for found in self.breaks]
        return "\n".join(
            [*lines, f"The audit trail is broken in {len(lines)} places ({self.entries:,} entries)."]
        )


def kept_heads(layout: Layout) -> list[Head]:
    """The head that was handed out last, as the workspace keeps it."""
    head = read_head(layout)
    return [] if head is None else [head]


def as_head(given: Any) -> Head:
    """Take what `Audit.head` gave, also as it comes back from JSON.

    Raises
    ------
    InvalidInput
    """
    try:
        if isinstance(given, Mapping):
            return Head(int(given["number"]), str(given["entry_hash"]))
        number, digest = given
        return Head(int(number), str(digest))
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidInput(
            f"head: expected what head() gave (number and entry_hash), found {given!r}."
        ) from error
