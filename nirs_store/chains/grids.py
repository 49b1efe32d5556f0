"""Wavelengths in headers, and whether two grids are the same.

Uses numpy and `nirs_store.reading.cells` only: scripts that predict on their own carry the source of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.reading.cells import parse_channel

Grid = NDArray[np.float64]

_POINTS = re.compile(r"\.[0-9]{3},")
_DIGITS = re.compile(r"[0-9]+(?:[.,][0-9]+)?")
_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)


def flat_names(names: Sequence[Any]) -> list[Any]:
    """Name each column by the lowest level of a header of several levels that tells the columns apart."""
    if not names or not all(isinstance(name, tuple) and name for name in names):
        return list(names)
    levels = list(zip(*names, strict=True))
    return list(next((level for level in reversed(levels) if len(set(level)) == len(names)), names))


def parse_header(names: Sequence[Any]) -> tuple[list[float | None], str | None]:
    """Read the names of columns as wavelengths, None for each that is none, and the unit that they name."""
    texts = [str(name) for name in names]
    # "9.090" is a number of four digits where "10.000,5" is next to it.
    decimal = "," if any(_POINTS.search(text) for text in texts) else None
    found = [parse_channel(text, decimal) or parse_channel(text) for text in texts]
    lettered = [text[:1].isalpha() for text in texts]
    named = [channel[0] for channel, letter in zip(found, lettered, strict=True) if channel and letter]
    # R writes X9090.91; but x0, x1, ... only counts the columns.
    if any(not 100 <= value < 1e5 for value in named):
        found = [None if letter else channel for channel, letter in zip(found, lettered, strict=True)]
    units = {channel[1] for channel in found if channel is not None} - {None}
    if len(units) > 1:
        raise ValueError("has columns in nm and others in cm-1. Keep the channels of one spectrum.")
    return [channel[0] if channel else None for channel in found], units.pop() if units else None


def in_unit(numbers: Sequence[float | None], found: str | None, expected: str | None) -> list[float | None]:
    """Return wavelengths that were read in nm or cm-1 in the unit of the calibration."""
    if found == "nm" and expected == "um":
        return [None if number is None else round(number / 1000, 9) for number in numbers]
    if found and expected and found != expected:
        raise ValueError(
            f"has wavelengths in {found}, those of the calibration are in {expected}. Convert them first, "
            f"{'1e4' if expected == 'um' else '1e7'} / wavelengths, and put the channels in the order of the "
            "calibration."
        )
    return list(numbers)


def hidden_grid(names: Sequence[Any], stored: Grid | None) -> Grid | None:
    """Find wavelengths in names with other words around them, as "scan1 850.0", to be compared with the stored ones."""
    found = [_DIGITS.findall(str(name)) for name in names]
    if stored is None or len(names) != stored.size or len({len(numbers) for numbers in found}) != 1:
        return None
    for place in range(len(found[0])):
        grid = np.array([float(numbers[place].replace(",", ".")) for numbers in found])
        if same_grid(np.sort(grid), np.sort(stored)):
            return grid
        steps = np.diff(grid)
        # Another grid; what rises one by one may as well be counted.
        ordered = np.all(steps > 0) or np.all(steps < 0)
        if ordered and (np.abs(steps) != 1).any() and grid.min() >= 100 and grid.max() < 1e5:
            return grid
    return None


def same_grid(found: Grid, expected: Grid) -> bool:
    """Tell whether two grids agree within 1 % of the spacing of the channels, or but for rounding."""
    # Headers are rounded: to some decimals, by at most a tenth of the spacing, or to 32 bits.
    if found.shape != expected.shape:
        return False
    apart, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    steps = np.abs(np.diff(expected))
    spacing = float(steps[steps > 0].min()) if steps.any() else 0.0
    if apart <= max(0.01 * spacing, 1e-9 * largest):
        return True
    if apart > 0.1 * spacing:
        return False
    decimals = min(_decimals(found), _decimals(expected))
    return apart <= max(0.5 * 10.0**-decimals * (1 + 1e-6), 1.2e-7 * largest)


def _decimals(grid: Grid) -> int:
    """Count the decimals that a grid is rounded to; 9 where it is not."""
    slack = 1e-9 * float(np.abs(grid).max())
    return next((d for d in range(9) if np.abs(grid - np.round(grid, d)).max() <= slack), 9)


def differ(found: Grid, expected: Grid) -> str:
    """Say where two grids that are not the same part."""
    if found.shape != expected.shape:
        return f"{found.size} values, expected {expected.size}"
    if same_grid(np.sort(found), np.sort(expected)):
        return "the same values in another order"
    channel = int(np.argmax(np.abs(found - expected)))
    pairs = ((f"{found[channel]:.{d}g}", f"{expected[channel]:.{d}g}") for d in range(6, 18))
    first, second = next(pair for pair in pairs if pair[0] != pair[1])
    return f"channel {channel} is at {first}, expected {second}"


def advice(found: Grid, expected: Grid) -> str:
    """Say what to do with spectra on a grid that is not the expected one."""
    if same_grid(found[::-1], expected):
        return "Reverse the channels first: X[:, ::-1] with wavelengths[::-1]."
    if same_grid(np.sort(found), np.sort(expected)):
        return "Put the channels in the order of the stored wavelengths first."
    way = other_unit(found, expected)
    if way is not None:
        return f"They are the same channels in another unit: convert the wavelengths first, {way}."
    return "Resample X to the stored wavelengths first."


_CONVERSIONS: tuple[tuple[str, Callable[[Grid], Grid]], ...] = (
    ("1e7 / wavelengths (nm to cm-1, or cm-1 to nm)", lambda grid: 1e7 / grid),
    ("1e4 / wavelengths (um to cm-1, or cm-1 to um)", lambda grid: 1e4 / grid),
    ("1000 * wavelengths (um to nm)", lambda grid: 1000 * grid),
    ("wavelengths / 1000 (nm to um)", lambda grid: grid / 1000),
)


def other_unit(found: Grid, expected: Grid) -> str | None:
    """Say how wavelengths become the expected ones, where they are the same in another unit (nm, cm-1, um)."""
    if found.shape != expected.shape or found.min() <= 0:
        return None
    # Rounded in one unit they are less well known in the other: half a channel will do for advice.
    slack = 0.5 * np.abs(np.gradient(expected)) if expected.size > 1 else 1e-3 * expected
    for way, convert in _CONVERSIONS:
        grid = convert(found)
        for turned, words in ((grid, way), (grid[::-1], f"{way}, and reverse the channels, X[:, ::-1]")):
            if (np.abs(turned - expected) <= slack).all():
                return words
    return None


def same_names(found: Sequence[str], expected: Sequence[str]) -> bool:
    """Tell whether a frame may have the columns that are expected, in their order."""
    # A frame made from an array without names counts its columns: that says nothing about what they are.
    if found == expected or _counted(found):
        return True
    if _counted(expected):
        return sorted(found) != sorted(expected)
    return [name_value(name) for name in found] == [name_value(name) for name in expected]


def disordered(names: Sequence[Any]) -> str | None:
    """Say how columns are numbered that do not stand in the order of their numbers; None where they do, or have none.

    Examples
    --------
    >>> disordered(["V2", "V1", "V0"]), disordered(["x1", "x10", "x2"]), disordered([2500, 2499, 2498])
    ('V2, V1, V0', 'x1, x10, x2', None)
    """
    found = [_NUMBERED.fullmatch(str(name)) for name in names]
    parts = [match.groups() for match in found if match is not None]
    if len(parts) < max(2, len(names)) or len({(before, after) for before, _, after in parts}) > 1:
        return None
    numbers = [int(number) for _, number, _ in parts]
    # Wavelengths may fall; what counts from 0 or 1 may not.
    falls = min(numbers) >= 100 and numbers == sorted(numbers, reverse=True)
    if falls or numbers == sorted(numbers) or len(set(numbers)) < len(numbers):
        return None
    place = next(k for k in range(1, len(numbers)) if numbers[k] < numbers[k - 1])
    start = 0 if place < 3 else place - 1
    return ("..., " if start else "") + ", ".join(str(name) for name in names[start : start + 3])


def _counted(names: Sequence[str]) -> bool:
    """Tell whether names are those that polars, or pandas as text, give to columns that have none."""
    return any(
        all(name == f"{prefix}{number}" for number, name in enumerate(names, start))
        for prefix, start in (("", 0), ("column_", 0), ("column_", 1))
    )


def name_value(name: str) -> float | str:
    """Return what a name says: "850.0" is the same wavelength as "850", and as "X850,0"."""
    channel = parse_channel(name)
    return name if channel is None else channel[0]
