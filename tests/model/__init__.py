"""Things to test a store with: a model of it in plain Python."""

from __future__ import annotations

from tests.model.model import ModelStore
from tests.model.state import Reference, named_artifacts

__all__ = ["ModelStore", "Reference", "named_artifacts"]
