"""A recorded workspace, once, and a copy for each test to break."""

from __future__ import annotations

from pathlib import Path

import pytest
from upkeepkit import Sample, make_sample


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Read-only for tests."""
    return make_sample(tmp_path_factory.mktemp("upkeep") / "ws")


@pytest.fixture
def sample(recorded: Sample, tmp_path: Path) -> Sample:
    """The recorded workspace, copied: break it as you like."""
    return recorded.copy_to(tmp_path / "ws")
