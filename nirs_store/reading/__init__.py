"""Reading files of spectra: one reader for Python, the command line and the script of a bundle."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nirs_store.reading.collect import read_spectra
    from nirs_store.reading.measured import Measured
    from nirs_store.reading.readers import Reader, list_readers
    from nirs_store.reading.single import spectra_from
    from nirs_store.reading.spectra import Source, Spectra

__all__ = ["Measured", "Reader", "Source", "Spectra", "list_readers", "read_spectra", "spectra_from"]

# Imported when first asked for: most of the package needs only the reading of cells.
_HOMES = {
    "Measured": "measured",
    "Reader": "readers",
    "list_readers": "readers",
    "spectra_from": "single",
    "Source": "spectra",
    "Spectra": "spectra",
    "read_spectra": "collect",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
