"""Spectra of a file with their wavelengths, names and reference values."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.reading.cells import is_missing, parse_channel, parse_number
from nirs_store.reading.dialect import Unreadable
from nirs_store.reading.grid import find_channels
from nirs_store.reading.text import TextTable, describe, find_decimal, read_text, spectra_of, unit_by_range

__all__ = ["Source", "Spectra", "read_spectra"]

_TEXT = (".csv", ".tsv", ".txt", ".tab", ".dat", ".asc", ".prn", ".dpt")
_PARQUET = (".parquet", ".pq")
_IDS = (
    "id|sample|sample ?id|sample ?name|sample ?number|sample ?no\\.?|name|probe|proben?(nummer|name|nr\\.?)|prüfnummer|"
    "[eé]chantillon|muestra|nom|spectrum|spectrum ?name|file ?name"
)


class Source(NamedTuple):
    """A file, and the SHA-256 of its bytes."""

    path: Path
    sha256: str


@dataclass(frozen=True, eq=False, repr=False)
class Spectra:
    """Spectra of a file, one sample per row, with all that the file says about them.

    Attributes
    ----------
    X : ndarray of float64, shape (n, channels)
        In the order of the file.
    wavelengths : ndarray of float64, shape (channels,), or None
        None where the channels are only counted, or have no header.
    unit : str or None
        Unit of the wavelengths: "nm", "cm-1", or None where nothing tells.
    channel_names : tuple of str
        The channels as the file names them.
    labels : tuple of str
        Names of the other columns.
    references : polars.DataFrame
        The other columns, one row per sample: names, reference values, groups.
    ids : ndarray of shape (n,), or None
        Names of the samples: the column that was asked for, or that is called id, sample, name or alike.
    target, target_unit : str, tuple of str, or None
        What `y` holds, and its unit.
    y : ndarray of shape (n,) or (n, targets), or None
        Reference values, NaN where one is missing; text for the classes of a classification.
    groups : ndarray of shape (n,), or None
        Samples that belong together.
    instrument : dict
        What the lines above the table say, for example the serial number.
    source : Source
        Path and SHA-256 of the file.
    dialect : dict
        ``delimiter``, ``decimal`` and ``encoding`` of a text file; empty for Parquet.
    understood : str
        One line that says what was read, and how.
    places : tuple of str
        Where each sample is in the file, for messages.
    """

    X: NDArray[np.float64]
    wavelengths: NDArray[np.float64] | None
    unit: str | None
    channel_names: tuple[str, ...]
    references: pl.DataFrame
    source: Source
    understood: str
    places: tuple[str, ...]
    ids: NDArray[Any] | None = None
    target: str | tuple[str, ...] | None = None
    target_unit: str | tuple[str, ...] | None = None
    y: NDArray[Any] | None = None
    groups: NDArray[Any] | None = None
    instrument: Mapping[str, str] = field(default_factory=dict)
    dialect: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the columns that are not channels."""
        return tuple(self.references.columns)

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        return f"<Spectra of {self.source.path.name}: {self.understood}>"

    def __getitem__(self, rows: Any) -> Spectra:
        """Return some of the samples: by mask, slice, or row numbers."""
        chosen = np.atleast_1d(np.arange(len(self))[rows])

        def part(array: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if array is None else array[chosen]

        return replace(
            self,
            X=self.X[chosen],
            references=self.references[chosen.tolist()],
            places=tuple(self.places[row] for row in chosen),
            ids=part(self.ids),
            y=part(self.y),
            groups=part(self.groups),
            understood=f"{len(chosen)} of {self.understood}",
        )

    def column(self, name: str) -> pl.Series:
        """Return a column of labels, for example the target.

        Raises
        ------
        InvalidInput
            There is none of that name; the nearest is suggested.
        """
        if name in self.references.columns:
            return self.references[name]
        near = difflib.get_close_matches(name, self.labels, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(self.labels) or "none"
        raise InvalidInput(f"{self.source.path.name} has no column {name!r}.{hint} Labels in it: {known}.")

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of labels as numbers, NaN where a value is missing.

        Raises
        ------
        InvalidInput
            There is no such column, or a cell of it is not a number; it is shown with its line.
        """
        column = self.column(name)
        if column.dtype.is_numeric():
            return np.asarray(column.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)
        if column.dtype not in (pl.String, pl.Null):
            kind = "dates or times" if column.dtype.is_temporal() else f"the type {column.dtype}"
            raise InvalidInput(f"{self.source.path.name}: the column {name!r} holds {kind}, not numbers.")
        values = np.full(len(self), np.nan)
        for row, cell in enumerate(column.to_list()):
            number = None if cell is None else parse_number(cell, self.dialect.get("decimal", "."))
            if number is None and cell is not None and not is_missing(cell):
                raise InvalidInput(
                    f"{self.source.path.name}: the column {name!r} holds {cell[:40]!r} in sample {row + 1} "
                    f"({self.places[row]}), not a number. Write a number there, or leave the cell empty to leave "
                    "the sample out."
                )
            values[row] = np.nan if number is None else number
        return values


def read_spectra(
    path: str | Path,
    *,
    target: str | Sequence[str] | None = None,
    unit: str | Sequence[str] | None = None,
    groups: str | None = None,
    id_column: str | None = None,
    wavelength_unit: str | None = None,
    format: str | None = None,
    decimal: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    orientation: str | None = None,
    header: bool | None = None,
    channels: Sequence[str] | None = None,
) -> Spectra:
    r"""Read a file of spectra. What cannot be read for sure is refused with its line; nothing is left out silently.

    Parameters
    ----------
    path : path
        A text file (``.csv``, ``.tsv``, ``.txt``, ``.dat``, ``.asc``, ``.prn``, ``.dpt``, also with ``.gz``) or
        ``.parquet``. Columns named by a number are channels, the others are labels.
    target : str or sequence of str, optional
        The column, or columns, of reference values: they become ``y``.
    unit : str or sequence of str, optional
        Unit of the target, for tables and figures.
    groups : str, optional
        The column that says which samples belong together.
    id_column : str, optional
        The column that names the samples; by default one that is called id, sample, name or alike.
    wavelength_unit : {"nm", "cm-1"}, optional
        Unit of the wavelengths, where the file does not say it.
    format : {"text", "parquet"}, optional
        By default what the ending of the name says.
    decimal : {".", ","}, optional
        Decimal sign of a text file; by default what its numbers show.
    delimiter, encoding : str, optional
        Separator and encoding of a text file; by default what fits.
    orientation : {"rows", "columns"}, optional
        Whether a sample is a row or a column; by default where the wavelengths are.
    header : bool, optional
        Whether the first row of the table names the channels; needed where it may as well be a spectrum.
    channels : sequence of str, optional
        Names of the spectral columns, where these are not named by wavelength.

    Returns
    -------
    Spectra

    Raises
    ------
    InvalidInput
        There is no such file, it cannot be read for sure, or it has no such column.

    Examples
    --------
    >>> from pathlib import Path
    >>> folder = getfixture("tmp_path")
    >>> text = "id;moisture;9090,91 cm-1;9000,9 cm-1\nS1;12,5;0,512;0,498\n"
    >>> _ = (folder / "wheat.csv").write_text(text)
    >>> spectra = read_spectra(folder / "wheat.csv", target="moisture", unit="%")
    >>> spectra
    <Spectra of wheat.csv: 1 sample, 2 channels 9090.91 to 9000.9 cm-1, labels: id, moisture; separated by
    semicolons; decimal comma>
    >>> spectra.y, spectra.ids.tolist()
    (array([12.5]), ['S1'])
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InvalidInput(f"Spectra are read from a CSV or Parquet file; {path} {what}.")
    read = _reader(path, format)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        if read is _read_parquet:
            table, references = _read_parquet(path, channels)
        else:
            table = read_text(
                data,
                decimal=decimal,
                delimiter=delimiter,
                encoding=encoding,
                orientation=orientation,
                header=header,
                channels=channels,
            )
            references = pl.DataFrame(
                {name: _typed(cells, table.decimal) for name, cells in table.labels.items()}
            )
        _set_unit(table, wavelength_unit)
    except Unreadable as error:
        raise InvalidInput(f"{path.name}: {error}") from error
    spectra = Spectra(
        X=table.X,
        wavelengths=table.wavelengths,
        unit=table.unit,
        channel_names=tuple(table.channels),
        references=references,
        source=Source(path, hashlib.sha256(data).hexdigest()),
        understood=describe(table),
        places=tuple(table.places),
        instrument=table.metadata,
        dialect={}
        if read is _read_parquet
        else {"delimiter": table.delimiter, "decimal": table.decimal, "encoding": table.encoding},
    )
    ids = _ids(spectra, id_column)
    marks = None if groups is None else _groups(spectra, groups)
    several = target is not None and not isinstance(target, str)
    return replace(
        spectra,
        ids=ids,
        groups=marks,
        target=tuple(target) if target is not None and several else target,  # type: ignore[arg-type]
        target_unit=unit if unit is None or isinstance(unit, str) else tuple(unit),
        y=None if target is None else _targets(spectra, target),
    )


def _reader(path: Path, format: str | None) -> Callable[..., Any]:
    if format is not None:
        if format in ("text", "csv", "parquet"):
            return _read_parquet if format == "parquet" else read_text
        raise InvalidInput(f"format: expected 'text' or 'parquet', found {format!r}.")
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    if last == ".gz":
        last = suffixes[-2] if len(suffixes) > 1 else ""
    elif last in _PARQUET:
        return _read_parquet
    if last in _TEXT:
        return read_text
    known = ", ".join(_TEXT + _PARQUET)
    hint = (
        " Save the sheet as CSV."
        if last in (".xlsx", ".xls", ".ods")
        else " If it is text, say format='text'."
    )
    raise InvalidInput(f"{path} must end in one of {known}; found {path.suffix or 'no suffix'!r}.{hint}")


def _set_unit(table: TextTable, given: str | None) -> None:
    if given is None:
        return
    parsed = parse_channel(f"1000 {given}")
    if parsed is None or parsed[1] is None or parsed[0] != 1000:
        raise Unreadable(f"wavelength_unit: expected 'nm' or 'cm-1', found {given!r}.")
    if table.unit_from == "header" and table.unit not in (None, parsed[1]):
        raise Unreadable(f"wavelength_unit: {given!r} was given, but the header says {table.unit!r}.")
    table.unit, table.unit_from = parsed[1], "caller"


def _typed(cells: Sequence[str], decimal: str) -> pl.Series:
    """Turn cells into numbers where all are and none would lose a leading zero."""
    numbers = [None if is_missing(cell) else parse_number(cell, decimal) for cell in cells]
    words = any(number is None and not is_missing(cell) for number, cell in zip(numbers, cells, strict=True))
    if words or any(re.match(r"[+-]?0[0-9]", cell) for cell in cells):
        empty = ("", "na", "n/a", "nan", "#n/a")
        return pl.Series(
            [None if cell.lower() in empty and cell != "Na" else cell for cell in cells], dtype=pl.String
        )
    whole = all(number is None or (number.is_integer() and abs(number) < 2**53) for number in numbers)
    if whole and not any(re.search(r"[eE]", cell) or decimal in cell for cell in cells):
        return pl.Series([None if number is None else int(number) for number in numbers], dtype=pl.Int64)
    return pl.Series(numbers, dtype=pl.Float64)


def _read_parquet(path: Path, channels: Sequence[str] | None) -> tuple[TextTable, pl.DataFrame]:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"{path} cannot be read as Parquet: {error}") from error
    names = frame.columns
    if channels is None:
        places, values, unit = find_channels(names)
        channels = [names[place] for place in places]
    else:
        missing = [name for name in channels if name not in names]
        if missing:
            raise Unreadable(f"it has no column {missing[0]!r}.")
        values, unit = None, None
    if not frame.height:
        raise Unreadable("it has columns but no spectra.")
    spectra = frame.select(channels)
    rows = [f"row {row + 1}" for row in range(frame.height)]
    for name, kind in spectra.schema.items():
        if not (kind.is_numeric() or kind in (pl.String, pl.Null)):
            raise Unreadable(f"the column {name} is a channel and must hold numbers; found {kind}.")
    text = [name for name, kind in spectra.schema.items() if kind == pl.String]
    decimal = "."
    if text:
        cells = [[cell or "" for cell in row] for row in spectra.select(text).iter_rows()]
        run = range(len(text))
        decimal = find_decimal(cells, run, [], [], rows)
        parsed = spectra_of(cells, run, decimal, text, rows)
        spectra = spectra.with_columns(pl.Series(name, parsed[:, k]) for k, name in enumerate(text))
    X = np.ascontiguousarray(spectra.select(pl.all().cast(pl.Float64)).to_numpy())
    bad = np.argwhere(~np.isfinite(X))
    if bad.size:
        row, column = bad[0]
        raise Unreadable(
            f"it holds {len(bad)} missing or infinite values in the spectra; the first is sample {row + 1} at "
            f"{spectra.columns[column]}. Fill or leave out such samples first."
        )
    grid = np.array(values, dtype=np.float64) if values else None
    labels = frame.drop(channels)
    by_range = unit is None and grid is not None
    table = TextTable(
        X=X,
        channels=list(channels),
        wavelengths=grid,
        unit=unit_by_range(grid) if by_range else unit,
        unit_from="range" if by_range else "header",
        labels={name: [] for name in labels.columns},
        places=rows,
        decimal=decimal,
    )
    return table, labels


def _ids(spectra: Spectra, name: str | None) -> NDArray[Any] | None:
    if name is not None:
        column = spectra.column(name)
        if column.null_count():
            row = int(column.is_null().arg_true()[0])
            raise InvalidInput(
                f"{spectra.source.path.name}: id_column {name!r} is empty in sample {row + 1} ({spectra.places[row]})."
            )
        return _plain(column)
    for each in spectra.labels:
        if (
            re.fullmatch(_IDS, each.replace("_", " ").strip(), re.IGNORECASE)
            and not spectra.references[each].null_count()
        ):
            return _plain(spectra.references[each])
    return None


def _groups(spectra: Spectra, name: str) -> NDArray[Any]:
    column = spectra.column(name)
    if column.null_count():
        row = int(column.is_null().arg_true()[0])
        raise InvalidInput(
            f"{spectra.source.path.name}: the column of groups {name!r} is empty in sample {row + 1} "
            f"({spectra.places[row]}). Each sample needs a group."
        )
    return _plain(column)


def _targets(spectra: Spectra, target: str | Sequence[str]) -> NDArray[Any]:
    if not isinstance(target, str):
        if not target:
            raise InvalidInput("target: expected a column or several, found none.")
        return np.column_stack([spectra.numbers(name) for name in target])
    column = spectra.column(target)
    if column.dtype == pl.String:
        known = [cell for cell in column.to_list() if cell is not None and not is_missing(cell)]
        numeric = sum(parse_number(cell, spectra.dialect.get("decimal", ".")) is not None for cell in known)
        if numeric * 2 < len(known):
            return np.array(column.to_list(), dtype=object)  # classes
    return spectra.numbers(target)


def _plain(column: pl.Series) -> NDArray[Any]:
    """Return a column as numpy numbers or text."""
    return np.array(column.to_list()) if column.dtype == pl.String else np.asarray(column.to_numpy())
