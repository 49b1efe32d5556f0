"""Reading one file of spectra: the table of a text file, a sheet or Parquet, or an instrument's format."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.addresses import user_path
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.reading.cells import is_missing, parse_number, parse_unit
from nirs_store.reading.dialect import Unreadable, find_decimal, in_doubt
from nirs_store.reading.grid import find_channels
from nirs_store.reading.measured import Measured
from nirs_store.reading.readers import HEAD, TABLES, Reader, call_reader, choose_reader
from nirs_store.reading.spectra import Source, Spectra, is_id
from nirs_store.reading.summaries import find_summaries, tell_left
from nirs_store.reading.tables import parquet_frame
from nirs_store.reading.text import TextTable, describe, read_text, spectra_of, unit_by_range


def read_one(path: Path, options: Mapping[str, Any]) -> Spectra:
    """Read one file by the reader that fits."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InvalidInput(f"Spectra are read from files; {path} {what}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from error
    reader = choose_reader(path, data[:HEAD], options.get("format"))
    own = ("format", "wavelength_unit", "id_column")
    rest = {name: value for name, value in options.items() if name not in own}
    source = Source(path, hashlib.sha256(data).hexdigest())
    try:
        if reader.name in TABLES:
            return _read_table(
                reader, source, data, rest, options.get("wavelength_unit"), options.get("id_column")
            )
        found = call_reader(reader, path, data, rest)
        if isinstance(found, Spectra):
            return found if found.sources else replace(found, source=source, sources=(source,))
        if not isinstance(found, Measured):
            raise Unreadable(
                f"the reader {reader.name!r} returned {type(found).__name__}, not Spectra or Measured."
            )
        return spectra_from(found, source, reader.title, options.get("wavelength_unit"))
    except Unreadable as error:
        raise InvalidInput(f"{path.name}: {error}") from error


def spectra_from(
    measured: Measured, source: Source | str | Path, title: str = "", wavelength_unit: str | None = None
) -> Spectra:
    """Make `Spectra` of what a reader found; a single spectrum is named after its file."""
    if not isinstance(source, Source):
        path = user_path(source)
        source = Source(path, hashlib.sha256(path.read_bytes()).hexdigest())
    X = np.asarray(measured.X, dtype=np.float64)
    if X.ndim != 2 or not X.size:
        raise Unreadable(f"X must have rows and columns; found the shape {X.shape}.")
    grid = None if measured.wavelengths is None else np.asarray(measured.wavelengths, dtype=np.float64)
    ids = [sample_name(source.path)] if measured.ids is None and len(X) == 1 else measured.ids
    ids = [str(k + 1) for k in range(len(X))] if ids is None else list(ids)
    wrong = [name for name, values in {**measured.labels, "ids": ids}.items() if len(values) != len(X)]
    if wrong or (grid is not None and grid.shape != X.shape[1:]):
        raise Unreadable(f"{wrong[0] if wrong else 'wavelengths'} must fit X of the shape {X.shape}.")
    names = [str(k + 1) for k in range(X.shape[1])] if grid is None else [format(w, ".10g") for w in grid]
    labels = {"id": ids} | {name: list(values) for name, values in measured.labels.items() if name != "id"}
    table = TextTable(
        X=np.ascontiguousarray(X),
        channels=names,
        wavelengths=grid,
        unit=measured.unit,
        unit_from="header",
        labels={name: [] for name in labels},
        places=[f"spectrum {k + 1}" for k in range(len(X))],
        notes=[*filter(None, (measured.signal, title)), *measured.notes],
    )
    _set_unit(table, wavelength_unit)
    instrument = dict(measured.instrument) | ({"signal": measured.signal} if measured.signal else {})
    return _spectra(table, pl.DataFrame(labels), source, instrument, {})


def sample_name(path: Path) -> str:
    """Return the name of a sample after its file: without the ending, unless that is a number, as with OPUS."""
    return path.name if re.fullmatch(r"\.\d+", path.suffix) else path.stem


def _spectra(
    table: TextTable,
    references: pl.DataFrame,
    source: Source,
    instrument: Mapping[str, str],
    dialect: Mapping[str, str],
) -> Spectra:
    return Spectra(
        X=table.X,
        wavelengths=table.wavelengths,
        unit=table.unit,
        channel_names=tuple(table.channels),
        references=references,
        source=source,
        understood=describe(table),
        places=tuple(table.places),
        instrument=instrument,
        dialect=dialect,
        sources=(source,),
    )


def _read_table(
    reader: Reader,
    source: Source,
    data: bytes,
    options: Mapping[str, Any],
    wavelength_unit: str | None,
    id_column: str | None,
) -> Spectra:
    for name in ("block",) if reader.name == "excel" else ("sheet", "block"):
        if options.get(name) is not None:
            raise Unreadable(f"{name}= does not go with {reader.title}.")
    if reader.name == "parquet":
        table, references = _read_parquet(source.path, options.get("channels"))
        _set_unit(table, wavelength_unit)
        return _spectra(table, references, source, table.metadata, {})
    given = {name: options.get(name) for name in ("decimal", "orientation", "header", "channels")}
    if reader.name == "excel":
        from nirs_store.reading.tables import sheet_as_text

        data, sheet = sheet_as_text(data, options.get("sheet"), options.get("decimal"))
        try:
            table = read_text(data, delimiter="\t", encoding="utf-8", **given)
        except Unreadable as error:
            raise Unreadable(f"sheet {sheet!r}: {_rows(str(error))}") from error
        table.delimiter, table.places = ",", [_rows(place) for place in table.places]
        table.notes = [*map(_rows, table.notes), f"Excel sheet {sheet!r}"]
        dialect: dict[str, str] = {}
    else:
        table = read_text(data, delimiter=options.get("delimiter"), encoding=options.get("encoding"), **given)
        dialect = {"delimiter": table.delimiter, "decimal": table.decimal, "encoding": table.encoding}
    _set_unit(table, wavelength_unit)
    decimal_given = given["decimal"] is not None
    columns = {
        name: typed(cells, table.decimal, decimal_given, ids=name == id_column or is_id(name))
        for name, cells in table.labels.items()
    }
    return _spectra(table, pl.DataFrame(columns), source, table.metadata, dialect)


def _rows(words: str) -> str:
    return re.sub(r"\bline (\d)", r"row \1", words)


def _set_unit(table: TextTable, given: str | None) -> None:
    if given is None:
        return
    parsed = parse_unit(given)
    if parsed not in ("nm", "cm-1"):
        raise Unreadable(f"wavelength_unit: expected 'nm' or 'cm-1', found {given!r}.")
    if table.unit_from == "header" and table.unit not in (None, parsed):
        raise Unreadable(f"wavelength_unit: {given!r} was given, but the header says {table.unit!r}.")
    table.unit, table.unit_from = parsed, "caller"


def typed(cells: Sequence[str], decimal: str, decimal_given: bool, ids: bool = False) -> pl.Series:
    """Turn cells into numbers where all are for sure, and none would lose a leading zero or a part of a name."""
    numbers = [None if is_missing(cell) else parse_number(cell, decimal) for cell in cells]
    words = any(number is None and not is_missing(cell) for number, cell in zip(numbers, cells, strict=True))
    lossy = any(
        re.match(r"[+-]?0[0-9]", cell)
        or (ids and not cell.isdigit())
        or (cell.isdigit() and int(cell) >= 2**53)
        for cell in cells
        if not is_missing(cell)
    )
    if words or lossy or (not decimal_given and in_doubt(cells, decimal)):
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
        frame = parquet_frame(path)
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
    labels, notes = frame.drop(channels), []
    words = [["" if cell is None else str(cell) for cell in row] for row in labels.iter_rows()]
    left = find_summaries(X, words, rows)
    if left:
        notes.append(tell_left(left, rows))
        kept = [k for k in range(len(X)) if k not in left]
        X, labels, rows = X[kept], labels[kept], [rows[k] for k in kept]
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
        notes=notes,
    )
    return table, labels
