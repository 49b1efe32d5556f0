"""Locks of this process's memory, and what becomes of them when it forks.

A child has only the thread that forked. A lock that another thread held at that moment stays held in the child for
ever, so nobody may hold one then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

__all__ = ["call_in_children", "hold_while_forking"]


class _Lock(Protocol):
    def acquire(self) -> bool: ...

    def release(self) -> None: ...


def hold_while_forking(lock: _Lock) -> None:
    """Let a fork wait for whoever holds this lock of a module; parent and child go on with it free.

    Only for locks under which nothing else is waited for.
    """
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def call_in_children(renew: Callable[[], None]) -> None:
    """Call this in every child that is forked from now on, before it goes on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
