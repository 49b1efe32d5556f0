"""Bundles: one chain in one file that predicts without the store it came from.

`export_chain` writes a ``.n4a`` archive of version 1.0 or one without pickles, `export_script` a Python script
that needs no library of ours. `inspect_bundle` looks into an archive, and `load_bundle` opens it, also one
that nirs4all wrote.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nirs_store.bundle.inspection import Inspection, inspect_bundle
    from nirs_store.bundle.limits import Limits
    from nirs_store.bundle.manifest import BundleRecord, Manifest
    from nirs_store.bundle.reader import Bundle, load_bundle
    from nirs_store.bundle.script import export_script
    from nirs_store.bundle.source import ChainSource
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

_HOME = {
    "Bundle": "reader",
    "BundleRecord": "manifest",
    "ChainSource": "source",
    "Inspection": "inspection",
    "Limits": "limits",
    "Manifest": "manifest",
    "export_chain": "writer",
    "export_script": "script",
    "inspect_bundle": "inspection",
    "load_bundle": "reader",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
