"""What a migration found, carried over, left behind and verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nirs_store.display import block, field_table, table

_EXAMPLES = 3


@dataclass
class Counts:
    """Rows of one kind.

    Attributes
    ----------
    found : int
        In the source.
    added : int
        Brought over by this migration; in a dry run, those that one would bring.
    present : int
        There already, from an earlier migration.
    left_out : int
        Not brought over; the reasons are in `MigrationReport.left_out`.
    verified : int
        Read back and compared with the source, value by value, or by SHA-256.
    """

    found: int = 0
    added: int = 0
    present: int = 0
    left_out: int = 0
    verified: int = 0


@dataclass
class Left:
    """Something that could not be brought over."""

    kind: str
    reason: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Notes:
    """Collects what is left behind, by kind and reason."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, str], Left] = {}

    def add(self, kind: str, reason: str, example: str = "", count: int = 1) -> None:
        """Note that something of a kind is left behind."""
        left = self._left.setdefault((kind, reason), Left(kind, reason))
        left.count += count
        if example and len(left.examples) < _EXAMPLES and example not in left.examples:
            left.examples.append(example)

    def all(self) -> list[Left]:
        """Everything noted, in the order of first mention."""
        return list(self._left.values())


@dataclass
class MigrationReport:
    """What a migration did.

    Attributes
    ----------
    source, target : str
        The folders.
    generation : str
        How the source keeps its rows and arrays.
    dry_run : bool
        Whether nothing was written.
    counts : dict
        `Counts` by kind: runs, pipelines, artifacts, chains, predictions, arrays, logs.
    left_out : list of Left
        The objects left out, and why.
    differences : list of str
        Rows that are in the target, but not as the source has them now.
    """

    source: str
    target: str
    generation: str
    dry_run: bool
    counts: dict[str, Counts] = field(default_factory=dict)
    left_out: list[Left] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Whether everything that is in the target was found to be as in the source."""
        arrived = (c.verified == c.added + c.present for c in self.counts.values())
        return not self.dry_run and not self.differences and all(arrived)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {**asdict(self), "verified": self.verified}

    def __repr__(self) -> str:
        added = sum(c.added for c in self.counts.values())
        state = "dry run" if self.dry_run else "verified" if self.verified else "NOT verified"
        return f"<MigrationReport: {added} rows from {self.source!r}, {len(self.left_out)} notes, {state}>"

    def _repr_html_(self) -> str:
        rows = [(name, *asdict(counts).values()) for name, counts in self.counts.items()]
        notes = [(left.kind, left.count, left.reason, ", ".join(left.examples)) for left in self.left_out]
        facts: Mapping[str, Any] = {
            "source": self.source,
            "target": self.target,
            "kept as": self.generation,
            "verified": self.verified,
        }
        return block(
            "Migration",
            field_table(facts),
            table(("", "found", "added", "present", "left out", "verified"), rows),
            table(("not brought over", "", "why", "such as"), notes) if notes else "",
            table(("differs from the source",), [(text,) for text in self.differences])
            if self.differences
            else "",
        )
