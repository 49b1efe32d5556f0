"""Modules that are imported when they are first used.

A program that only records or predicts should not wait for modules that it never uses: polars alone takes a third of
the time. Annotations may name them: resolving one imports its module.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

__all__ = ["call_in_children", "hold_while_forking", "imported_from", "later", "polars"]


# -- Locks of this process's memory when it forks.


class _Lock(Protocol):
    def acquire(self) -> bool: ...

    def release(self) -> None: ...


def hold_while_forking(lock: _Lock) -> None:
    """Make a fork wait until this lock of a module is free; it is free in parent and child afterwards."""
    # Only for locks under which nothing else is waited for.
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def call_in_children(renew: Callable[[], None]) -> None:
    """Call this in every child that is forked from now on, before it goes on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


# -- Modules that are imported later.


class _Later(ModuleType):
    """A module that is imported when its first attribute is read."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        # Found here the next time.
        self.__dict__[name] = value
        return value


def later(name: str) -> ModuleType:
    """Return a module that is imported when its first attribute is read; only then can an `ImportError` come."""
    return _Later(name)


def imported_from(module: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that imports names from their homes when they are first used."""
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[module], name, value)
        return value

    return get


if TYPE_CHECKING:
    import polars
else:
    polars = later("polars")
