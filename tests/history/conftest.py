"""Workspaces in memory: these tests are about what is written, not about a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(workspace_kind: str, empty: Path, memory: Path) -> Path:
    path = memory / "workspace"
    return path if workspace_kind in ("shared", "replicas") else Path(shutil.copytree(empty, path))
