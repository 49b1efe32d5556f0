"""Chains of every kind on real spectra, kept in memory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The helpers beside this file, under a name that no other folder of tests uses."""
    spec = importlib.util.spec_from_file_location("bundle_kit", Path(__file__).with_name("helpers.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def world(kit: ModuleType) -> Any:
    """A shelf with chains of every kind, and new spectra; not to be changed."""
    return kit.World()


@pytest.fixture
def spectra(world: Any) -> np.ndarray:
    """Spectra that no model has seen."""
    found: np.ndarray = world.new
    return found


@pytest.fixture
def plain(world: Any, tmp_path: Path) -> Path:
    """A bundle of three folds behind SNV and a derivative, with a probe."""
    from nirs_store.bundle import export_chain

    return export_chain(
        world.shelf, world.chains["folds"], tmp_path / "plain", probe=world.new[:4], scores={"rmsecv": 2.0}
    )


@pytest.fixture
def toy(kit: ModuleType, tmp_path: Path) -> Any:
    """A shelf of its own with one small chain, for tests that damage it."""
    return kit.toy_shelf()
