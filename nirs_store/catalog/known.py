"""What this process knows to exist, so that recording need not ask the catalog."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

__all__ = ["KnownIds"]


class KnownIds:
    """The last ids of each kind that were made or looked up here, each with a note.

    Bounded, because a training loop makes millions; what fell out is looked up again.
    """

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._kinds: dict[str, OrderedDict[str, Any]] = {}
        # How often everything was forgotten; who keeps more of what is known here forgets it when this has changed.
        self.clears = 0
        self._lock = threading.Lock()

    def add(self, kind: str, identifier: str, note: Any = None) -> None:
        """Remember an id."""
        with self._lock:
            known = self._kinds.setdefault(kind, OrderedDict())
            known[identifier] = note
            known.move_to_end(identifier)
            if len(known) > self._limit:
                known.popitem(last=False)

    def get(self, kind: str, identifier: str, default: Any = None) -> Any:
        """The note of an id, or `default` when it is not known."""
        with self._lock:
            known = self._kinds.get(kind)
            return default if known is None else known.get(identifier, default)

    def __contains__(self, key: tuple[str, str]) -> bool:
        with self._lock:
            return key[1] in self._kinds.get(key[0], {})

    def forget(self, kind: str, identifier: str) -> None:
        """Forget an id."""
        with self._lock:
            self._kinds.get(kind, OrderedDict()).pop(identifier, None)

    def forget_noted(self, kind: str, key: str, value: Any) -> None:
        """Forget the ids of a kind whose note says `value` under `key`."""
        with self._lock:
            known = self._kinds.get(kind, OrderedDict())
            for identifier in [i for i, note in known.items() if note and note.get(key) == value]:
                del known[identifier]

    def clear(self) -> None:
        """Forget everything (after a deletion, when anything may be gone)."""
        with self._lock:
            self._kinds.clear()
            self.clears += 1

    def after_fork_in_child(self) -> None:
        """A lock held by another thread at the fork would never be freed."""
        self._lock = threading.Lock()
