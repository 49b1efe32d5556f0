"""Tables of spectra from CSV and Parquet: numeric column names are wavelengths, the rest are labels."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl

__all__ = ["SpectraTable", "read_spectra", "split_table"]

_TEXT = (".csv", ".tsv", ".txt")
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, eq=False)
class SpectraTable:
    """Spectra with what stood beside them.

    Attributes
    ----------
    X
        Shape ``(n, channels)``, float64, in the order of the file.
    wavelengths
        Shape ``(channels,)``: the names of the spectral columns as numbers.
    labels
        The other columns, one row a spectrum.
    source
        The file, for messages.
    """

    X: NDArray[np.float64]
    wavelengths: NDArray[np.float64]
    labels: pl.DataFrame
    source: str

    def column(self, name: str) -> pl.Series:
        """Return a column of labels, for example the target.

        Raises
        ------
        InvalidInput
            There is none of that name; the nearest is suggested.
        """
        if name in self.labels.columns:
            return self.labels[name]
        near = difflib.get_close_matches(name, self.labels.columns, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(self.labels.columns) or "none"
        raise InvalidInput(f"{self.source} has no column {name!r}.{hint} Beside the spectra it has: {known}.")


def read_spectra(path: str | Path) -> SpectraTable:
    """Read a CSV or Parquet file of spectra, a sample a row.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, ``.txt`` (comma, semicolon or tab; with semicolons or tabs also decimal
        commas) or ``.parquet``.

    Returns
    -------
    SpectraTable

    Raises
    ------
    InvalidInput
        The file does not exist or cannot be parsed, no column name is a number, wavelengths occur
        twice or are out of order, or a spectrum has gaps or holds words.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InvalidInput(f"Spectra are read from a CSV or Parquet file; {path} {what}.")
    suffix = path.suffix.lower()
    if suffix in _PARQUET:
        try:
            frame = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InvalidInput(f"{path} cannot be read as Parquet: {error}") from error
    elif suffix in _TEXT:
        frame = _read_text(path)
    else:
        known = ", ".join(_TEXT + _PARQUET)
        raise InvalidInput(f"{path} must end in one of {known}; found {path.suffix or 'no suffix'!r}.")
    return split_table(frame, source=path.name)


def split_table(frame: pl.DataFrame, *, source: str = "the table") -> SpectraTable:
    """Part a frame into spectra (columns whose name is a number) and labels (the others).

    Raises
    ------
    InvalidInput
        As :func:`read_spectra`.
    """
    grid = {name: _number(name) for name in frame.columns}
    spectral = [name for name, number in grid.items() if number is not None]
    if not spectral:
        raise InvalidInput(_no_wavelengths(frame.columns, source))
    if frame.height == 0:
        raise InvalidInput(f"{source} has a header but no spectra below it.")
    wavelengths = np.array([grid[name] for name in spectral], dtype=np.float64)
    _check_grid(wavelengths, source)
    spectra = _numbers(frame.select(spectral), source)
    labels = frame.select([name for name in frame.columns if name not in set(spectral)])
    return SpectraTable(spectra, wavelengths, labels, source)


def _read_text(path: Path) -> pl.DataFrame:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            header, second = lines.readline(), lines.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not header.strip():
        raise InvalidInput(f"{path} is empty; the first line must name the columns.")
    separator = max(",;\t", key=lambda sign: (header.count(sign), -",;\t".index(sign)))
    if separator == "," and ";" in header:
        # "850,00;852,02": more commas than semicolons, because they are decimal.
        separator = ";"
    decimal_comma = separator != "," and any(
        _number(cell) is None and _number(cell.replace(",", ".", 1)) is not None
        for cell in [*_cells(header, separator), *_cells(second, separator)]
    )
    names = [cell.strip() for cell in _cells(header, separator)]
    if decimal_comma:
        dotted = [name.replace(",", ".", 1) for name in names]
        names = [name if _number(dot) is None else dot for name, dot in zip(names, dotted, strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"{path.name} names the column {twice[0]!r} twice; each name may stand once.")
    try:
        # As text: a sample called 007 must not become 7, and a bad cell is reported by its own words.
        frame = pl.read_csv(
            path, separator=separator, has_header=False, skip_rows=1, new_columns=names, infer_schema=False
        )
    except pl.exceptions.NoDataError:
        return pl.DataFrame({name: [] for name in names})
    except pl.exceptions.PolarsError as error:
        reason = str(error).split("Ensure")[0].strip()
        raise InvalidInput(
            f"{path} cannot be read as CSV with {len(names)} columns separated by {separator!r}: {reason}"
        ) from error
    return frame.select(
        _typed(frame[name].str.strip_chars(), decimal_comma, label=_number(name) is None) for name in names
    )


def _typed(column: pl.Series, decimal_comma: bool, *, label: bool) -> pl.Series:
    """Turn a column of text into numbers where every cell is one and no label would lose a leading zero."""
    text = column.set(column.str.to_lowercase().is_in(["", "na", "n/a", "nan"]), None)
    if label and bool(text.str.contains(r"^[+-]?0\d").any()):
        return text
    plain = text.str.replace(",", ".", literal=True) if decimal_comma else text
    for kind in (pl.Int64, pl.Float64):
        numbers = plain.cast(kind, strict=False)
        if numbers.null_count() == text.null_count():
            return numbers
    return text


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])


def _number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _check_grid(wavelengths: NDArray[np.float64], source: str) -> None:
    steps = np.diff(wavelengths)
    if np.any(steps == 0) or np.unique(wavelengths).size != wavelengths.size:
        values, counts = np.unique(wavelengths, return_counts=True)
        raise InvalidInput(f"{source} holds the wavelength {values[counts > 1][0]:g} twice.")
    if not (np.all(steps > 0) or np.all(steps < 0)):
        turn = int(np.flatnonzero(np.sign(steps) != np.sign(steps[0]))[0])
        raise InvalidInput(
            f"The wavelengths of {source} must rise or fall along the columns; after {wavelengths[turn]:g} "
            f"comes {wavelengths[turn + 1]:g}. Is the header line missing, or is a column of labels named "
            "by a number?"
        )


def _numbers(frame: pl.DataFrame, source: str) -> NDArray[np.float64]:
    for name, kind in frame.schema.items():
        if kind.is_numeric() or frame[name].null_count() == frame.height:
            continue
        words = frame[name].cast(pl.Float64, strict=False).is_null() if kind == pl.String else None
        row = 0 if words is None else int(words.arg_true()[0])
        raise InvalidInput(
            f"{source}, sample {row + 1}: the column {name} is a wavelength (its name is a number) and "
            f"must hold numbers; found {frame[name][row]!r}."
        )
    spectra = frame.select(pl.all().cast(pl.Float64)).to_numpy()
    bad = np.argwhere(~np.isfinite(spectra))
    if bad.size:
        row, column = bad[0]
        raise InvalidInput(
            f"{source} holds {len(bad)} missing or infinite values; the first is sample {row + 1} at "
            f"{frame.columns[column]}. Fill or leave out such samples first."
        )
    return np.ascontiguousarray(spectra)


def _no_wavelengths(columns: list[str], source: str) -> str:
    shown = ", ".join(columns[:6]) + (", ..." if len(columns) > 6 else "")
    message = f"{source} has no spectral columns: none is named by a number (its wavelength). Found: {shown}."
    prefixed = [name for name in columns if _number(name.lstrip("Xx_ ")) is not None]
    if prefixed:
        return f"{message} Rename {prefixed[0]!r} to {prefixed[0].lstrip('Xx_ ')!r} and so on."
    return f"{message} Name each spectral column by its wavelength, for example 850.00."
