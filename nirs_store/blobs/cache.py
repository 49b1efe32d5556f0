"""A least-recently-used cache that is bounded in bytes, for loaded models."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar, overload

import msgspec

from nirs_store.errors import InvalidInput
from nirs_store.lazy import call_in_children

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")


class CacheStats(msgspec.Struct, frozen=True):
    """What a cache holds and how it has served."""

    hits: int
    misses: int
    bytes: int
    entries: int
    max_bytes: int


class ByteLRU(Generic[K, V]):
    """Thread-safe mapping that forgets what was not used for longest."""

    def __init__(self, max_bytes: int, max_entries: int | None = None) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._max_bytes = _not_negative("max_bytes", max_bytes)
        self._max_entries = None if max_entries is None else _not_negative("max_entries", max_entries)
        _alive.add(self)

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: D) -> V | D: ...

    def get(self, key: K, default: D | None = None) -> V | D | None:
        """Return the value of `key`, or `default`; a value None that was put is found like any other."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
                return default
            self._hits += 1
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Keep `value`, counted as `nbytes`; what is larger than the whole bound is not kept."""
        size = _not_negative("nbytes", nbytes)
        with self._lock:
            self._drop(key)
            if size > self._max_bytes:
                return
            self._entries[key] = (value, size)
            self._bytes += size
            self._shrink()

    def remove(self, key: K) -> bool:
        """Forget one key; tell whether it was there."""
        with self._lock:
            return self._drop(key)

    def clear(self) -> None:
        """Forget everything; hits and misses go on counting."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def resize(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Set new bounds and forget what no longer fits."""
        new_bytes = _not_negative("max_bytes", max_bytes)
        new_entries = None if max_entries is None else _not_negative("max_entries", max_entries)
        with self._lock:
            self._max_bytes, self._max_entries = new_bytes, new_entries
            self._shrink()

    def stats(self) -> CacheStats:
        """Count hits, misses, bytes and entries at this moment."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._bytes, len(self._entries), self._max_bytes)

    def after_fork_in_child(self) -> None:
        """Take a new lock: a thread that does not exist in this process may have held the old one."""
        self._lock = threading.Lock()
        self._bytes = sum(size for _, size in self._entries.values())

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._entries

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"ByteLRU({stats.entries} entries, {stats.bytes:,} of {stats.max_bytes:,} bytes)"

    def _drop(self, key: K) -> bool:
        found = self._entries.pop(key, None)
        if found is None:
            return False
        self._bytes -= found[1]
        return True

    def _shrink(self) -> None:
        limit = self._max_entries
        while self._entries and (
            self._bytes > self._max_bytes or (limit is not None and len(self._entries) > limit)
        ):
            _, (_, size) = self._entries.popitem(last=False)
            self._bytes -= size


_alive: weakref.WeakSet[ByteLRU[Any, Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_alive):
        cache.after_fork_in_child()


call_in_children(_after_fork_in_child)


def _not_negative(name: str, value: int) -> int:
    if value < 0:
        raise InvalidInput(f"{name} must be 0 or more; {value} was given.")
    return value
