"""Bundles: one chain in one file that predicts without the store it came from.

`export_chain` writes a ``.n4a`` archive of version 1.0 or one without pickles, `export_script` a Python script
that needs no library of ours. `inspect_bundle` looks into an archive, and `load_bundle` opens it, also one
that nirs4all wrote.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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

_HOME = {
    "Bundle": "nirs_store.bundle.reader",
    "BundleRecord": "nirs_store.bundle.manifest",
    "ChainSource": "nirs_store.bundle.pack",
    "Inspection": "nirs_store.bundle.reader",
    "Limits": "nirs_store.bundle.container",
    "Manifest": "nirs_store.bundle.manifest",
    "export_chain": "nirs_store.bundle.writer",
    "export_script": "nirs_store.bundle.script",
    "inspect_bundle": "nirs_store.bundle.reader",
    "load_bundle": "nirs_store.bundle.reader",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
