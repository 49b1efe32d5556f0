"""Run a sample of a sweep by default, and mark the rest `slow`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest


def covering(*axes: Iterable[Any]) -> list[Any]:
    """Return every combination as parameters; those that do not run by default are `slow`.

    The default combinations contain each value of each axis at least once.
    """
    values = [list(axis) for axis in axes]
    quick = {tuple(turn % len(axis) for axis in values) for turn in range(max(map(len, values)))}
    return [
        pytest.param(
            *(axis[place] for axis, place in zip(values, places, strict=True)),
            marks=() if places in quick else pytest.mark.slow,
        )
        for places in itertools.product(*(range(len(axis)) for axis in values))
    ]
