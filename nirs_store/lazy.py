"""Modules that are imported when something is first asked of them.

A program that only records or predicts should not wait for those it never uses: polars alone is a third of what
it would wait for. Annotations name them all the same: to resolve one is to ask.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

__all__ = ["call_in_children", "hold_while_forking", "imported_from", "later", "polars", "with_room"]


# -- Locks of this process's memory, and what becomes of them when it forks.


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


# -- Room on the stack for calls that import a library.


T = TypeVar("T")

# Values that a frame has room for, of 8 bytes each: with what belongs to it, half of a megabyte is allotted, of which
# hardly two fifths stay for others; memory that nobody touches costs nothing.
_VALUES = 40_000


def with_room(call: Callable[[], T]) -> T:
    """Call a function that may import something large."""
    return call()


if sys.implementation.name == "cpython":
    with_room.__code__ = with_room.__code__.replace(co_stacksize=_VALUES)


class _Later(ModuleType):
    """Stands for a module, and imports it at the first question."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(with_room(partial(importlib.import_module, self.__name__)), name)
        # Found here the next time.
        self.__dict__[name] = value
        return value


def later(name: str) -> ModuleType:
    """Stand for a module by its full name; an `ImportError` comes with the first question."""
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
