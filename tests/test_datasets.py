"""The spectra that ship with the package."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import numpy as np

from nirs_store.datasets import load_tecator


def test_tecator_has_its_shapes_types_and_units() -> None:
    tecator = load_tecator()
    assert tecator.X.shape == (215, 100)
    assert tecator.X.dtype == np.float64
    assert tecator.X.flags.c_contiguous
    assert tecator.wavelengths.shape == (100,)
    assert (tecator.wavelengths[0], tecator.wavelengths[-1]) == (850.0, 1050.0)
    assert np.all(np.diff(tecator.wavelengths) > 0)
    assert list(tecator.y) == ["water", "fat", "protein"]
    assert all(target.shape == (215,) and target.dtype == np.float64 for target in tecator.y.values())
    assert tecator.sample_names[:2] == ("1", "2")
    assert len(tecator.sample_names) == 215


def test_tecator_columns_are_not_mixed_up() -> None:
    tecator = load_tecator()
    # First sample of the published table.
    assert (tecator.water[0], tecator.fat[0], tecator.protein[0]) == (60.5, 22.5, 16.7)
    assert tecator.X[0, 0] == 2.61776
    # Water, fat and protein are nearly all there is in meat.
    total = tecator.water + tecator.fat + tecator.protein
    assert 90 < total.min() < total.max() < 102


def test_every_call_gives_new_arrays() -> None:
    first = load_tecator()
    first.X[:] = 0
    first.y["fat"][:] = 0
    second = load_tecator()
    assert second.X.min() > 0
    assert second.fat.max() > 49


def test_the_file_is_the_published_one_byte_for_byte() -> None:
    data = (files("nirs_store") / "data" / "tecator.csv").read_bytes()
    assert hashlib.sha256(data).hexdigest() == (
        "a0eab007a7798e5c10ddc9f5522853d023944993f913bc4b504af347f9c84c3f"
    )
