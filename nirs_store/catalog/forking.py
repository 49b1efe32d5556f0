"""What happens to open stores when the process forks."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["forget", "watch"]


class _Forkable(Protocol):
    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None: ...


_watched: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def watch(engine: _Forkable) -> None:
    """Hold this one still during a fork, and detach it in the child."""
    _watched.add(engine)


def forget(engine: _Forkable) -> None:
    """Leave it alone from now on."""
    _watched.discard(engine)


# The engines held still by the fork under way in this thread; another thread may open one, or fork too.
_forking = threading.local()


def _before_fork() -> None:
    _forking.engines = list(_watched)
    for engine in _forking.engines:
        engine.before_fork()


def _after_in_parent() -> None:
    engines, _forking.engines = _forking.engines, []
    for engine in engines:
        engine.after_fork_in_parent()


def _after_in_child() -> None:
    _forking.engines = []
    for engine in list(_watched):
        engine.after_fork_in_child()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
