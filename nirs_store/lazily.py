"""Modules that are imported when something is first asked of them.

A program that only records or predicts should not wait for those it never uses: polars alone is a third of what
it would wait for. Annotations name them all the same: to resolve one is to ask.
"""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nirs_store.room import with_room

__all__ = ["later", "polars"]


class _Later(ModuleType):
    """Stands for a module, and imports it at the first question."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(with_room(partial(importlib.import_module, self.__name__)), name)
        # Found here the next time.
        self.__dict__[name] = value
        return value


def later(name: str) -> ModuleType:
    """Stand for a module by its full name; an `ImportError` comes with the first question.

    Examples
    --------
    >>> calendar = later("calendar")
    >>> calendar.isleap(2024)
    True
    """
    return _Later(name)


if TYPE_CHECKING:
    import polars
else:
    polars = later("polars")
