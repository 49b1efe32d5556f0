"""Bundles: one chain in one file that predicts without the store it came from.

`export_chain` writes a ``.n4a`` archive of version 1.0 or one without pickles, `export_script` a Python script
that needs no library of ours. `inspect_bundle` looks into an archive, and `load_bundle` opens it, also one
that nirs4all wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.lazy import imported_from

if TYPE_CHECKING:
    from nirs_store.bundle.container import Limits
    from nirs_store.bundle.manifest import BundleRecord, Manifest
    from nirs_store.bundle.pack import ChainSource
    from nirs_store.bundle.reader import Bundle, Inspection, inspect_bundle, load_bundle
    from nirs_store.bundle.script import export_script
    from nirs_store.bundle.writer import export_chain

__all__ = [
    "Bundle",
    "BundleRecord",
    "ChainSource",
    "Inspection",
    "Limits",
    "Manifest",
    "export_chain",
    "export_script",
    "inspect_bundle",
    "load_bundle",
]


__getattr__ = imported_from(
    __name__,
    {
        "nirs_store.bundle.container": ("Limits",),
        "nirs_store.bundle.manifest": ("BundleRecord", "Manifest"),
        "nirs_store.bundle.pack": ("ChainSource",),
        "nirs_store.bundle.reader": ("Bundle", "Inspection", "inspect_bundle", "load_bundle"),
        "nirs_store.bundle.script": ("export_script",),
        "nirs_store.bundle.writer": ("export_chain",),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
