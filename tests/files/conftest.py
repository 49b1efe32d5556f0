"""A workspace in memory: these tests are about what is stored, not about a disk."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(memory: Path) -> Path:
    return memory / "workspace"
