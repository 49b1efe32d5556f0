from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from nirs_store.chains.predictor import to_grid
from nirs_store.errors import ShapeMismatch

GRID = np.array([850.0, 852.0, 854.0])
FRAME = pl.DataFrame([[1.0, 2.0, 3.0]], schema=["850", "852", "854"], orient="row")


def test_columns_and_wavelengths_must_say_the_same() -> None:
    assert to_grid(GRID, FRAME, GRID).tolist() == to_grid(GRID, FRAME).tolist() == [[1.0, 2.0, 3.0]]
    with pytest.raises(ShapeMismatch, match=r"column names of X and 'wavelengths' differ.*another order"):
        to_grid(GRID, FRAME, GRID[::-1])


def test_wavelengths_name_the_channels_of_what_has_no_names_itself() -> None:
    turned = [[3.0, 2.0, 1.0]]
    for X in (turned, np.array(turned), pl.DataFrame(turned, schema=["a", "b", "c"], orient="row")):
        assert to_grid(GRID, X, GRID[::-1]).tolist() == [[1.0, 2.0, 3.0]]
