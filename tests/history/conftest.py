"""Workspaces in memory: these tests are about what is written, not about a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(empty: Path, memory: Path) -> Path:
    return Path(shutil.copytree(empty, memory / "workspace"))
