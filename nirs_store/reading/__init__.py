"""Reading files of spectra: one reader for Python, the command line and the script of a bundle."""

from __future__ import annotations

from nirs_store.reading.spectra import Source, Spectra, read_spectra

__all__ = ["Source", "Spectra", "read_spectra"]
