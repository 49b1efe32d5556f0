"""What the room hands out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nirs_store import bundle as room
from nirs_store.bundle import ChainSource


def test_every_public_name_is_there() -> None:
    assert all(getattr(room, name) is not None for name in room.__all__)
    assert dir(room) == sorted(room.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        room.nothing  # noqa: B018


def test_importing_the_room_is_light() -> None:
    heavy = "{'sklearn', 'numpy', 'polars', 'duckdb', 'skops'}"
    code = f"import nirs_store.bundle, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_dictionary_with_three_methods_is_a_source(toy: object) -> None:
    assert isinstance(toy, ChainSource)
    assert not isinstance({}, ChainSource)
