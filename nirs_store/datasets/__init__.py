"""Data sets: spectra with references, names and metadata, under a name with versions; and the Tecator spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.lazy import imported_from

if TYPE_CHECKING:
    from nirs_store.datasets.api import Datasets
    from nirs_store.datasets.tecator import Tecator, load_tecator
    from nirs_store.datasets.version import DatasetDiff, DatasetVersion

__all__ = ["DatasetDiff", "DatasetVersion", "Datasets", "Tecator", "load_tecator"]


__getattr__ = imported_from(
    __name__,
    {
        "nirs_store.datasets.api": ("Datasets",),
        "nirs_store.datasets.tecator": ("Tecator", "load_tecator"),
        "nirs_store.datasets.version": ("DatasetDiff", "DatasetVersion"),
    },
)
