"""The journal: a folder of immutable commits that wait to be applied to the catalog.

A commit is one file, written aside, synced and renamed into ``segments/``; the rename is the
commit. Numbers give the order: one above the highest that the writer can see, so a commit that
follows from another always has the higher number, and no clock takes part.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Container
from pathlib import Path

import msgspec

from nirs_store.blobs.durable import fsync_dir, remove_file, write_error, write_file
from nirs_store.catalog.layout import Layout
from nirs_store.ids import new_id

__all__ = ["Entry", "Journal", "Rejection"]

_NAME = re.compile(r"^(\d{12,})-([0-9a-f-]{36})\.seg$")
_TMP_AGE = 3600.0
_SETTLED = 1.0
_JOINED = 1 << 20
# Of so many commits their writer knows that they were its own, also when damage hides it.
_REMEMBERED = 65_536


class Entry(msgspec.Struct, frozen=True, order=True):
    """One segment file."""

    number: int
    txid: str
    path: Path


class Rejection(msgspec.Struct, frozen=True):
    """A segment that could not be applied, as its note beside it says."""

    txid: str
    claim: str
    reason: str
    path: Path


class Journal:
    """The segments of one workspace."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._last = 0
        self._rejected_seen: float | None = None
        self._told: set[str] = set()
        self._own: deque[str] = deque(maxlen=_REMEMBERED)

    def append(self, pieces: list[bytes], txid: str) -> tuple[Entry, int]:
        """Commit one segment durably; returns its entry and how many segments now wait."""
        numbers = [int(match[1]) for match in map(_NAME.match, self._names()) if match]
        self._last = max(self._last, *numbers, 0) + 1
        entry = self._entry(self._last, txid)
        self._own.append(txid)
        # One call to the system instead of one a table: while it lasts, other threads of this process hold it up.
        small = sum(map(len, pieces)) <= _JOINED
        write_file(entry.path, b"".join(pieces) if small else pieces, tmp_dir=self._layout.tmp)
        return entry, len(numbers) + 1

    def pending(self) -> list[Entry]:
        """Segments to apply, in order, without gaps that a concurrent writer could still fill.

        One listing of a folder is no snapshot: it can show a later file and miss an earlier
        one. Whatever the second listing has up to the highest number of the first is complete.
        """
        first = self._list_once()
        if not first:
            return []
        highest = first[-1].number
        return [entry for entry in self._list_once() if entry.number <= highest]

    def is_empty(self, besides: Container[str] = ()) -> bool:
        """Whether nothing waits, or nothing but some commits that are known by their ids."""
        return all(match[2] in besides for match in map(_NAME.match, self._names()) if match)

    def nbytes(self) -> int:
        """Sum of the sizes of the segments that wait."""
        total = 0
        for entry in self._list_once():
            with contextlib.suppress(OSError):  # somebody has just applied it
                total += entry.path.stat().st_size
        return total

    def remove(self, entries: list[Entry]) -> None:
        """Unlink applied segments and sync the folder."""
        if entries:
            # Their rows may be in a log that DuckDB has just made: it syncs what it writes, not the file's name.
            fsync_dir(self._layout.root)
        for entry in entries:
            remove_file(entry.path, missing_ok=True)
        if entries:
            fsync_dir(self._layout.segments)

    def sync(self) -> None:
        """Make earlier unlinks durable."""
        fsync_dir(self._layout.segments)

    def reject(self, entry: Entry, *, reason: str, claim: str, at: str) -> Rejection:
        """Set a segment aside, with a note that says why. The segment itself is kept."""
        target = self._layout.rejected / entry.path.name
        note = {"txid": entry.txid, "claim": claim, "reason": reason, "at": at}
        write_file(target.with_suffix(".json"), json.dumps(note, indent=1).encode(), tmp_dir=self._layout.tmp)
        os.replace(entry.path, target)
        fsync_dir(self._layout.rejected)
        fsync_dir(self._layout.segments)
        return Rejection(entry.txid, claim, reason, target)

    def rejections(self) -> list[Rejection]:
        """All segments set aside so far."""
        found = []
        try:
            notes = sorted(self._layout.rejected.glob("*.json"))
        except OSError as error:
            raise write_error(self._layout.rejected, error) from error
        for note in notes:
            try:
                data = json.loads(note.read_text())
            except (OSError, ValueError):
                data = {}
            path = note.with_suffix(".seg")
            found.append(
                Rejection(
                    str(data.get("txid", note.stem)),
                    str(data.get("claim", "")),
                    str(data.get("reason", "its note cannot be read")),
                    path,
                )
            )
        return found

    def rejections_of(self, claim: str) -> list[Rejection]:
        """Rejections of one writer's commits that appeared since the last call; cheap when none."""
        try:
            changed = self._layout.rejected.stat().st_mtime
        except OSError:
            return []
        if changed == self._rejected_seen:
            return []
        own = [
            r
            for r in self.rejections()
            if r.txid not in self._told and (r.claim == claim or r.txid in self._own)
        ]
        self._told.update(r.txid for r in own)
        # A folder's time is coarse: while it is young, another note could come without changing it.
        self._rejected_seen = changed if time.time() - changed > _SETTLED else None
        return own

    def after_fork_in_child(self) -> None:
        """What was committed until now is the parent's to hear of."""
        self._own.clear()

    def sweep_tmp(self) -> None:
        """Remove unfinished writes older than an hour."""
        limit = time.time() - _TMP_AGE
        for path in self._layout.tmp.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < limit and path.is_file():
                    remove_file(path, missing_ok=True)

    def _entry(self, number: int, txid: str) -> Entry:
        return Entry(number, txid, self._layout.segments / f"{number:012d}-{txid}.seg")

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._layout.segments)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise write_error(self._layout.segments, error) from error

    def _list_once(self) -> list[Entry]:
        entries = []
        for name in self._names():
            match = _NAME.match(name)
            if match:
                entries.append(Entry(int(match[1]), match[2], self._layout.segments / name))
        entries.sort()
        return entries


def new_txid() -> str:
    """An id for one commit."""
    return new_id()
