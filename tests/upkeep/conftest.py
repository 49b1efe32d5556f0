"""A recorded workspace, once, and a copy for each test to break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from upkeepkit import Sample, answers, make_sample


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Read-only for tests."""
    return make_sample(tmp_path_factory.mktemp("upkeep") / "ws")


@pytest.fixture(scope="session")
def healthy(recorded: Sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every answer that the recorded workspace gives."""
    return answers(recorded.copy_to(tmp_path_factory.mktemp("healthy") / "ws").path)


@pytest.fixture
def sample(recorded: Sample, tmp_path: Path) -> Sample:
    """The recorded workspace, copied: break it as you like."""
    return recorded.copy_to(tmp_path / "ws")
