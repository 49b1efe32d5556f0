"""Bringing the work of another program into a workspace of this one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nirs_store.migration.carrying import migrate_nirs4all
    from nirs_store.migration.report import MigrationReport

__all__ = ["MigrationReport", "migrate_nirs4all"]

_HOME = {
    "MigrationReport": "nirs_store.migration.report",
    "migrate_nirs4all": "nirs_store.migration.carrying",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
