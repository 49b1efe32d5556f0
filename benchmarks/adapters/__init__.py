"""One adapter a peer; `make` imports only the one that is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path

from benchmarks.adapters.base import Adapter

PEERS = ("floor", "nirs_store", "plain", "mlflow", "nirs4all")
_MODULES = {
    "floor": "floor.Floor",
    "nirs_store": "ours.Ours",
    "plain": "plain.Plain",
    "mlflow": "mlflow_peer.MLflow",
    "nirs4all": "nirs4all_peer.Nirs4all",
}


def make_class(peer: str) -> type[Adapter]:
    """The class of a peer's adapter."""
    module, _, name = _MODULES[peer].partition(".")
    found: type[Adapter] = getattr(importlib.import_module(f"benchmarks.adapters.{module}"), name)
    return found


def make(peer: str, folder: Path) -> Adapter:
    """Open a peer on a folder."""
    return make_class(peer)(folder)
