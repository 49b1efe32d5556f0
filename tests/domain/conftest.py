"""Helpers of these tests, and a workspace with the four kinds of calibrations."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def bars() -> Any:
    """Return the module with data sets, models and rates."""
    spec = importlib.util.spec_from_file_location("domain_bars", Path(__file__).with_name("bars.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
