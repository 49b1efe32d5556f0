"""Names of columns that are no wavelengths: what a calibration was fitted on, and whether a frame has the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from nirs_store.errors import ShapeMismatch

__all__ = ["COLUMNS", "Names", "require_columns", "text_names"]

Names = tuple[str, ...]
COLUMNS = "calibration_columns"
"""Where the metadata of a chain keep the names."""


def text_names(value: Any) -> Names | None:
    """Read a sequence of names; None where they are not text, all of them.

    Examples
    --------
    >>> text_names(["w0", "w1"]), text_names([0, 1]), text_names(None)
    (('w0', 'w1'), None, None)
    """
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    names = tuple(value)
    return names if names and all(isinstance(name, str) for name in names) else None


def require_columns(found: Names, expected: Names, label: str, known: str) -> None:
    """Refuse a frame whose columns are others than those known, or the same in another order.

    Parameters
    ----------
    found : tuple of str
        Names of the frame.
    expected : tuple of str
        Those that are known.
    label, known : str
        What either belongs to, for the message.

    Raises
    ------
    ShapeMismatch
        Names the first difference.
    """
    if _agree(found, expected):
        return
    if len(found) != len(expected):
        differ = f"there are {len(found)}, expected {len(expected)}"
    else:
        place = next(
            i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if _value(a) != _value(b)
        )
        differ = f"column {place} is {found[place]!r}, expected {expected[place]!r}"
    order = " They are the same in another order." if sorted(found) == sorted(expected) else ""
    raise ShapeMismatch(
        f"The columns of {label} are not those of {known}: {differ}.{order} Put the columns in that order, under "
        "those names; or pass an array, as with X.to_numpy(), where you know that it is in order."
    )


def _agree(found: Names, expected: Names) -> bool:
    # A frame made from an array without names counts its columns: that says nothing about what they are.
    if found == expected or _counted(found):
        return True
    if _counted(expected):
        return sorted(found) != sorted(expected)
    return [_value(name) for name in found] == [_value(name) for name in expected]


def _counted(names: Names) -> bool:
    """Tell whether names are those that polars, or pandas as text, give to columns that have none."""
    return any(
        all(name == f"{prefix}{number}" for number, name in enumerate(names, start))
        for prefix, start in (("", 0), ("column_", 0), ("column_", 1))
    )


def _value(name: str) -> float | str:
    """Give what a name says: "850.0" is the same wavelength as "850"."""
    try:
        return float(name)
    except ValueError:
        return name
