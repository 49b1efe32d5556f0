"""The cache of the loader under the names that older programs use."""

from __future__ import annotations

from typing import Any

from nirs_store.blobs.cache import ByteLRU

__all__ = ["DEFAULT_BYTES", "LRUCache"]

DEFAULT_BYTES = 256 << 20


class LRUCache:
    """What was used last, bounded in entries and in bytes. A cached None counts as a miss.

    Parameters
    ----------
    max_size : int, optional
        Entries; None for any number.
    max_bytes : int
        Sum of the sizes told to `put`.
    cache : ByteLRU, optional
        Keep things there, beside what others keep.

    Examples
    --------
    >>> cache = LRUCache(max_size=1)
    >>> cache.put("a", 1)
    >>> cache.put("b", 2)
    >>> cache.get("a"), cache.get("b"), cache.stats()["hits"]
    (None, 2, 1)
    """

    def __init__(
        self,
        max_size: int | None = 100,
        max_bytes: int = DEFAULT_BYTES,
        cache: ByteLRU[str, Any] | None = None,
    ) -> None:
        self._cache = ByteLRU[str, Any](max_bytes, max_size) if cache is None else cache
        self.max_size = max_size if cache is None else None

    def get(self, key: str) -> Any:
        """Give a value, or None."""
        return self._cache.get(key)

    def put(self, key: str, value: Any, nbytes: int = 0) -> None:
        """Keep a value, counted as `nbytes`."""
        if value is not None:
            self._cache.put(key, value, nbytes)

    def contains(self, key: str) -> bool:
        """Tell whether a key is there; no hit and no miss."""
        return key in self._cache

    def remove(self, key: str) -> bool:
        """Forget a key; tell whether it was there."""
        return self._cache.remove(key)

    def clear(self) -> None:
        """Forget everything; hits and misses go on counting."""
        self._cache.clear()

    def size(self) -> int:
        """Entries now."""
        return len(self._cache)

    def resize(self, max_size: int | None, max_bytes: int | None = None) -> None:
        """Set new bounds; what was not used for longest goes first."""
        bound = self._cache.stats().max_bytes if max_bytes is None else max_bytes
        self._cache.resize(bound, max_size)
        self.max_size = max_size

    def stats(self) -> dict[str, Any]:
        """Give size, max_size, bytes, max_bytes, hits, misses and hit_rate."""
        found = self._cache.stats()
        asked = found.hits + found.misses
        return {
            "size": found.entries,
            "max_size": self.max_size,
            "bytes": found.bytes,
            "max_bytes": found.max_bytes,
            "hits": found.hits,
            "misses": found.misses,
            "hit_rate": found.hits / asked if asked else 0.0,
        }
