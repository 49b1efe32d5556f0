"""polars, imported when something is first asked of it.

It takes a third of what a program that only predicts waits for. Annotations name it all the same: to resolve
one is to ask.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["polars"]


class _Later(ModuleType):
    """Stands for a module, and imports it at the first question."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        # Found here the next time.
        self.__dict__[name] = value
        return value


if TYPE_CHECKING:
    import polars
else:
    polars = _Later("polars")
