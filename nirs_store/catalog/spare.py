"""DuckDB instances of stores that were closed, kept for whoever opens the same catalog next in this process.

Making an instance takes ten times as long as opening the catalog's file in it, and a program that opens, asks and
closes in a loop would make one each time. A spare instance has no file open, and can reach none but that catalog's.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable

import duckdb

from nirs_store.forks import hold_while_forking

__all__ = ["clear", "keep", "take"]

# An idle instance takes 4 MB and some sleeping threads.
_MOST = 2

_spare: OrderedDict[Hashable, duckdb.DuckDBPyConnection] = OrderedDict()
# A store may be collected, and so closed, wherever something is allocated: also in here.
_lock = threading.RLock()


def take(key: Hashable) -> duckdb.DuckDBPyConnection | None:
    """Get the spare instance that was made with these settings for this catalog; nobody else gets it."""
    with _lock:
        return _spare.pop(key, None)


def keep(key: Hashable, instance: duckdb.DuckDBPyConnection) -> None:
    """Keep an instance, in which nothing is attached, in place of an older one."""
    with _lock:
        # Two stores of one catalog may be closed, one after the other.
        dropped = [_spare.pop(key)] if key in _spare else []
        _spare[key] = instance
        while len(_spare) > _MOST:
            dropped.append(_spare.popitem(last=False)[1])
    for other in dropped:
        other.close()


def clear() -> None:
    """Close them all: a child would wait for threads that it has not got."""
    with _lock:
        dropped = list(_spare.values())
        _spare.clear()
    for instance in dropped:
        instance.close()


atexit.register(clear)
# Before a fork the last that was registered comes first: cleared, and then held.
hold_while_forking(_lock)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=clear)
