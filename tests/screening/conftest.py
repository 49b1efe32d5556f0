from __future__ import annotations

import numpy as np
import pytest

from nirs_store import WorkspaceStore


@pytest.fixture
def store(tmp_path):
    with WorkspaceStore(tmp_path / "ws") as opened:
        yield opened


@pytest.fixture
def spectra():
    """Sixty spectra of forty channels, made of four bands, with scatter; one target."""
    random = np.random.default_rng(3)
    grid = np.linspace(1100, 2500, 40)
    bands = np.exp(-(((grid - np.array([1250, 1500, 1900, 2200])[:, None]) / 120) ** 2))
    amounts = random.uniform(0.5, 2.0, (60, 4))
    X = random.uniform(0.8, 1.2, (60, 1)) * (amounts @ bands) + random.normal(0, 0.01, (60, 40))
    return X, amounts[:, 1] * 4 + random.normal(0, 0.1, 60), grid
