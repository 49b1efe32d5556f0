"""Reading files of spectra: one reader for Python, the command line and the script of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.lazy import imported_from

if TYPE_CHECKING:
    from nirs_store.reading.collect import read_spectra
    from nirs_store.reading.measured import Measured
    from nirs_store.reading.readers import Reader, list_readers
    from nirs_store.reading.single import spectra_from
    from nirs_store.reading.spectra import Source, Spectra

__all__ = ["Measured", "Reader", "Source", "Spectra", "list_readers", "read_spectra", "spectra_from"]


__getattr__ = imported_from(
    __name__,
    {
        "nirs_store.reading.collect": ("read_spectra",),
        "nirs_store.reading.measured": ("Measured",),
        "nirs_store.reading.readers": ("Reader", "list_readers"),
        "nirs_store.reading.single": ("spectra_from",),
        "nirs_store.reading.spectra": ("Source", "Spectra"),
    },
)
