"""Reading what a caller gives as X: arrays, data frames, several sources, and their wavelengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.folds import step_number
from nirs_store.chains.grids import (
    Grid,
    advice,
    differ,
    disordered,
    flat_names,
    hidden_grid,
    in_unit,
    parse_header,
    same_grid,
)
from nirs_store.chains.plan import Names, ReplayPlan, require_columns, text_names
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.values import as_array, as_floats, column_names, is_frame, native

MODERATE = float(np.finfo(np.float32).max)
"""What a 32-bit number can hold."""


class Spectra(msgspec.Struct, eq=False):
    """Spectra on their way through a chain, in one block or with the sources apart."""

    parts: tuple[Any, ...]
    grids: tuple[Grid | None, ...]
    finite: bool = True
    moderate: bool = False
    _merged: Spectra | None = None

    def merged(self) -> Spectra:
        """Stack the sources side by side with ``np.hstack``, by number of the source."""
        if len(self.parts) == 1:
            return self
        if self._merged is None:
            known = [grid for grid in self.grids if grid is not None]
            grid = np.concatenate(known) if len(known) == len(self.grids) else None
            self._merged = Spectra((np.hstack(self.parts),), (grid,), self.finite, self.moderate)
        return self._merged


def read_spectra(
    plan: ReplayPlan,
    X: Any,
    wavelengths: Any = None,
    adapts: Callable[[], str] = str,
    fitted: Callable[[], Sequence[Names | None]] = tuple,
) -> Spectra:
    """Check the spectra of a caller against a plan. Arrays are passed on as they are, never written to."""
    blocks = _blocks(plan, X)
    labels = ["X"] if len(blocks) == 1 else [f"Source {source} of X" for source in blocks]
    stored = plan.wavelengths if len(blocks) == 1 else None
    tables = [
        read_table(block, label, plan.unit, stored)
        for block, label in zip(blocks.values(), labels, strict=True)
    ]
    arrays = tuple(array for array, _, _ in tables)
    rows = {len(array) for array in arrays}
    if len(rows) > 1:
        raise ShapeMismatch(
            f"The sources of X have different numbers of samples: {[len(a) for a in arrays]}."
        )
    given = _given(plan, wavelengths, list(blocks), arrays)
    for place, (label, (array, columns, names)) in enumerate(zip(labels, tables, strict=True)):
        given[place] = one_grid(columns, given[place], label)
        _fits(given[place], array, label)
        # Wavelengths in the header are compared as numbers, where the chain has a grid or takes any.
        if columns is not None and (plan.wavelengths is not None or adapts()):
            continue
        known = names is not None and _against_names(plan, names, label, place, len(blocks), fitted())
        if not known:
            require_order(names or ([] if columns is None else [f"{each:g}" for each in columns]), label)
    grids = _against_stored(plan, given, arrays, adapts)
    largest = [magnitude(array) for array in arrays]
    finite = all(map(math.isfinite, largest))
    return Spectra(arrays, grids, finite, finite and max(largest) <= MODERATE)


def _blocks(plan: ReplayPlan, X: Any) -> dict[int, Any]:
    """Part X into its sources; one block counts as the source the chain uses, or as source 0."""
    wanted = plan.sources
    X = native(X, "X")
    several = _several(X)
    if several is None:
        if len(wanted) > 1:
            raise ShapeMismatch(
                f"The chain treats {len(wanted)} sources apart {list(wanted)}, but X is one "
                f"{type(X).__name__}. Pass a list or a dict with one array for each source."
            )
        return {wanted[0] if wanted else plan.source_index or 0: X}
    if plan.source_index is not None:
        if plan.source_index not in several:
            raise ShapeMismatch(
                f"The chain uses source {plan.source_index}; X has the sources {list(several)}."
            )
        return {plan.source_index: several[plan.source_index]}
    if wanted and tuple(several) != wanted:
        raise ShapeMismatch(f"The chain was trained on the sources {list(wanted)}; X has {list(several)}.")
    return several


def table_of(plan: ReplayPlan, X: Any) -> NDArray[Any]:
    """Return the values of a caller's spectra as one table, in the caller's order of channels."""
    # Errors are those of `read_spectra`.
    blocks = [read_table(block, "X", plan.unit)[0] for block in _blocks(plan, X).values()]
    return blocks[0] if len(blocks) == 1 else np.hstack(blocks)


def _several(value: Any) -> dict[int, Any] | None:
    if isinstance(value, Mapping):
        if not value:
            raise InvalidInput("X is an empty dict; expected one array for each source.")
        numbered = {step_number(key, f"The source {key!r} of X"): native(item) for key, item in value.items()}
        if len(numbered) < len(value):
            raise InvalidInput(f"X names a source twice: {list(value)}.")
        return dict(sorted(numbered.items()))
    if isinstance(value, list | tuple) and value:
        items = [native(item) for item in value]
        if all(is_frame(item) or getattr(item, "ndim", None) == 2 for item in items):
            return dict(enumerate(items))
    return None


def read_table(
    value: Any, label: str, unit: str | None = None, stored: Grid | None = None
) -> tuple[NDArray[Any], Grid | None, Names | None]:
    """Read one table of spectra, its wavelengths where its columns name them, and names that are text."""
    # Names in another unit than `unit` are refused; in names of other words the `stored` wavelengths are looked for.
    # Errors are those of `read_spectra`.
    columns = names = None
    if is_frame(value):
        array, columns, names = _read_frame(value, label, unit, stored)
    else:
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise InvalidInput(f"{label} has masked values. Remove or impute them first.")
        array = _to_array(value, label)
    if array.ndim != 2:
        hint = " Reshape your data: a single spectrum is X.reshape(1, -1)." if array.ndim == 1 else ""
        raise ShapeMismatch(
            f"{label} must have the shape (n_samples, n_channels), found {array.shape}.{hint}"
        )
    if array.dtype.kind not in "fiub":
        array = _to_numbers(array, label)
    if not array.size:
        raise ShapeMismatch(f"{label} is empty: its shape is {array.shape}.")
    return array, columns, names


def _to_array(value: Any, label: str) -> NDArray[Any]:
    try:
        return as_array(value, label)
    except (TypeError, ValueError) as error:
        raise ShapeMismatch(f"{label} is not a table of numbers: {error}.") from error


def _to_numbers(array: NDArray[Any], label: str) -> NDArray[Any]:
    # Text that happens to look like numbers is a mistake upstream; only boxed numbers are unboxed.
    if array.dtype.kind == "O":
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    raise InvalidInput(f"{label} must hold real numbers, found values of the type {array.dtype}.")


def _read_frame(
    frame: Any, label: str, unit: str | None, stored: Grid | None
) -> tuple[NDArray[Any], Grid | None, Names | None]:
    names = flat_names(column_names(frame))
    numbers, _ = read_header(names, unit, label)
    strange = [str(name) for name, number in zip(names, numbers, strict=True) if number is None]
    # Where no name is a number the table is as good as an array; mixed ones hold something else too.
    if strange and len(strange) < len(names):
        shown = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
        raise InvalidInput(
            f"{label} has {len(strange)} of {len(names)} columns whose names are not wavelengths: {shown}. "
            "Keep only the spectral columns, named by wavelength; or pass an array, as with X.to_numpy()."
        )
    # A frame made from an array without names counts its columns; those are not wavelengths.
    counted = all(isinstance(name, int | np.integer) for name in names) and numbers == list(range(len(names)))
    # Row by row in memory, so that a frame and the array it shows give the same bits.
    array = np.ascontiguousarray(as_array(frame, label))
    if strange:
        return array, hidden_grid(names, stored), text_names(names)
    return array, None if counted else np.array(numbers, dtype=np.float64), text_names(names)


def read_header(names: Sequence[Any], unit: str | None, label: str) -> tuple[list[float | None], str | None]:
    """Read the names of columns as wavelengths in a unit, None for each that is none, and the unit that they
    name.
    """
    try:
        numbers, own = parse_header(names)
        return in_unit(numbers, own, unit), own
    except ValueError as error:
        raise ShapeMismatch(f"{label} {error}") from error


def _given(
    plan: ReplayPlan, wavelengths: Any, sources: Sequence[int], arrays: Sequence[NDArray[Any]]
) -> list[Grid | None]:
    if wavelengths is None:
        return [None] * len(arrays)
    if isinstance(wavelengths, Mapping):
        by_source = {
            step_number(key, f"The source {key!r} of wavelengths"): v for key, v in wavelengths.items()
        }
    elif isinstance(wavelengths, list | tuple) and all(np.ndim(item) == 1 for item in wavelengths):
        by_source = dict(enumerate(wavelengths))
    else:
        grid = as_grid(wavelengths, plan.unit)
        if len(arrays) == 1:
            return [grid]
        widths = [array.shape[1] for array in arrays]
        if grid.size != sum(widths):
            raise ShapeMismatch(
                f"Expected {sum(widths)} wavelengths for sources of {widths} channels, found {grid.size}."
            )
        return [*np.split(grid, np.cumsum(widths)[:-1])]
    missing = [source for source in sources if source not in by_source]
    if missing:
        raise ShapeMismatch(f"'wavelengths' has the sources {sorted(by_source)}; missing: {missing}.")
    return [as_grid(by_source[source], plan.unit) for source in sources]


def as_grid(value: Any, unit: str | None = None) -> Grid:
    """Read wavelengths given by a caller, as numbers or as text in the unit `unit`; errors as `read_spectra`."""
    array, _ = read_text(as_array(value, "'wavelengths'"), unit)
    try:
        grid = as_floats(array)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"'wavelengths' must be numbers, one for each channel: {error}.") from error
    if grid.ndim != 1 or not np.isfinite(grid).all():
        raise InvalidInput(f"'wavelengths' must be 1-D and finite, found an array of shape {grid.shape}.")
    return grid


def read_text(array: NDArray[Any], unit: str | None = None) -> tuple[NDArray[Any], str | None]:
    """Read wavelengths that are text ("1100 nm"), and their unit; give any other array back as it is."""
    if array.ndim == 1 and array.dtype.kind in "UOT" and all(isinstance(item, str) for item in array):
        numbers, own = read_header(array.tolist(), unit, "'wavelengths'")
        if None not in numbers:
            return np.array(numbers, dtype=np.float64), own
    return array, None


def one_grid(columns: Grid | None, given: Grid | None, label: str) -> Grid | None:
    """Take the wavelengths that the caller gives, else those of the header; refuse both if they differ."""
    if given is None or columns is None:
        return columns if given is None else given
    if not same_grid(columns, given):
        raise ShapeMismatch(
            f"The column names of {label} and 'wavelengths' differ: {differ(columns, given)}. "
            "Pass those that are right."
        )
    return given


def _fits(grid: Grid | None, array: NDArray[Any], label: str) -> None:
    if grid is not None and grid.size != array.shape[1]:
        raise ShapeMismatch(
            f"{label} has {array.shape[1]} channels, but 'wavelengths' has {grid.size} values."
        )


def _against_names(
    plan: ReplayPlan, names: Names, label: str, place: int, n_blocks: int, fitted: Sequence[Names | None]
) -> bool:
    """Compare text over the columns with what the calibration, and its first operator, knew; tell if either did."""
    # Several sources that are merged at once have no names of their own to be compared with.
    own = fitted[place] if len(fitted) == n_blocks else None
    known = [each for each in (plan.columns if n_blocks == 1 else None, own) if each is not None]
    for expected in known:
        require_columns(names, expected, label, "the calibration")
    return bool(known)


def require_order(names: Sequence[Any], label: str) -> None:
    """Refuse columns that are numbered in another order than they stand in, where only their places are known."""
    shown = disordered(names)
    if shown is not None:
        raise ShapeMismatch(
            f"The columns of {label} are numbered in another order than they stand in ({shown}, ...), and the channels "
            "of the calibration are known by their places only. Put the columns in the order of the calibration under "
            "ascending names; or pass an array, as with X.to_numpy(), where you know that it is in order."
        )


def _against_stored(
    plan: ReplayPlan, given: list[Grid | None], arrays: Sequence[NDArray[Any]], adapts: Callable[[], str]
) -> tuple[Grid | None, ...]:
    stored = plan.wavelengths
    if stored is None:
        return tuple(given)
    widths = [array.shape[1] for array in arrays]
    named = [grid for grid in given if grid is not None]
    free = adapts() if len(named) == len(given) else ""
    if stored.size != sum(widths):
        if free:
            return tuple(given)
        raise ShapeMismatch(
            f"The chain was trained on {stored.size} channels ({stored[0]:g} to {stored[-1]:g}), "
            f"X has {sum(widths)}. Give spectra on that grid."
        )
    parts = np.split(stored, np.cumsum(widths)[:-1]) if len(widths) > 1 else [stored]
    for grid, expected in zip(given, parts, strict=True):
        if grid is None or same_grid(grid, expected):
            continue
        if free == "optional" and same_grid(np.sort(grid), np.sort(expected)):
            raise ShapeMismatch(
                "X has the same wavelengths in another order than the spectra that the chain was trained on. "
                f"{advice(grid, expected)}"
            )
        if not free:
            raise ShapeMismatch(
                f"X is not on the grid that the chain was trained on: {differ(grid, expected)}. "
                f"{advice(grid, expected)}"
            )
    return tuple(part if grid is None else grid for grid, part in zip(given, parts, strict=True))


def magnitude(array: NDArray[Any]) -> float:
    """Return the largest absolute value of an array, 0 if it is empty, NaN where one of them is NaN."""
    if not array.size:
        return 0.0
    # NaN comes out of both, and stays in front of whatever it is compared with.
    return max(-float(array.min()), float(array.max()))


def read_for_chain(chain: Mapping[str, Any], read: Callable[..., Any]) -> tuple[Any, Any]:
    """Read spectra for a chain: returns the table, and X with the names of channels that the calibration knows.

    Parameters
    ----------
    chain
        With its metadata and wavelengths.
    read
        Takes ``channels`` (names of columns that are channels) and returns `nirs_store.reading.Spectra`.
    """
    import polars as pl

    from nirs_store.chains.plan import COLUMNS
    from nirs_store.reading.cells import parse_channel

    names = (chain.get("metadata") or {}).get(COLUMNS)
    if not names or chain.get("wavelengths") is not None:
        table = read()
        return table, table.X
    grid = [channel[0] for channel in map(parse_channel, names) if channel is not None]
    table = read() if len(grid) == len(names) else read(channels=names)
    known = (
        table.wavelengths is not None
        and len(grid) == table.X.shape[1]
        and np.allclose(table.wavelengths, grid)
    )
    return table, pl.DataFrame(table.X, schema=list(names if known else table.channel_names))
