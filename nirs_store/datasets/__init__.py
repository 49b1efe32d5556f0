"""Data sets: spectra with references, names and metadata, under a name with versions; and the Tecator spectra."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nirs_store.datasets.api import Datasets
    from nirs_store.datasets.tecator import Tecator, load_tecator
    from nirs_store.datasets.version import DatasetDiff, DatasetVersion

__all__ = ["DatasetDiff", "DatasetVersion", "Datasets", "Tecator", "load_tecator"]

_HOME = {
    "DatasetDiff": "version",
    "DatasetVersion": "version",
    "Datasets": "api",
    "Tecator": "tecator",
    "load_tecator": "tecator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
