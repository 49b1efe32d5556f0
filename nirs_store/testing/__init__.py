"""Things to test a store with: a model of it in plain Python."""

from __future__ import annotations

from nirs_store.testing.model import ModelStore
from nirs_store.testing.state import Reference, named_artifacts

__all__ = ["ModelStore", "Reference", "named_artifacts"]
