"""Take `Spectra` apart into what a cross-validation is given."""

from __future__ import annotations

from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra

__all__ = ["take_name", "take_spectra"]


def take_spectra(X: Any, y: Any, *named: Any) -> tuple[Any, dict[str, Any]]:
    """Take `Spectra` apart; what was given by name wins."""
    names = ("wavelengths", "wavelength_unit", "sample_ids", "groups", "target", "target_unit")
    given = dict(zip(names, named, strict=True))
    if isinstance(X, Spectra):
        several = isinstance(X.target, tuple)
        own = {
            "wavelengths": X.wavelengths,
            "wavelength_unit": X.unit,
            "sample_ids": X.ids,
            "groups": X.groups,
            "target": None if several else X.target,
            "target_unit": X.target_unit if isinstance(X.target_unit, str) else None,
        }
        given = {name: own[name] if value is None else value for name, value in given.items()}
        if y is None and X.y is not None:
            y = pl.DataFrame(X.y, schema=list(X.target)) if isinstance(X.target, tuple) else X.y
        if y is None:
            raise InvalidInput(
                f"{X.source.path.name}: no target was read. Name one with read_spectra(..., target=...), or pass y. "
                f"Labels in it: {', '.join(X.labels) or 'none'}."
            )
    if y is None:
        raise InvalidInput("y: expected measured values, one per sample; found None.")
    return y, given


def take_name(X: Any, dataset_name: Any) -> tuple[Any, str]:
    """Return the spectra as an array or frame, and the name of the data set: by default that of the file."""
    if isinstance(X, Spectra):
        X, dataset_name = X.X, dataset_name or X.source.path.stem
    if not isinstance(dataset_name, str) or not dataset_name.strip():
        raise InvalidInput(f"dataset_name: expected a name for these spectra; found {dataset_name!r}.")
    return X, dataset_name
