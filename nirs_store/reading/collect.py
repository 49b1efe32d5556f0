"""Read spectra of one file or several, with reference values from a table of their own, and convert them."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.addresses import user_path
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.reading.dialect import Unreadable, decode, find_decimal, split_rows, table_delimiter
from nirs_store.reading.measured import name_signal, to_signal
from nirs_store.reading.readers import HEAD, TABLES, choose_reader
from nirs_store.reading.single import read_one, sample_name, typed
from nirs_store.reading.spectra import Source, Spectra, check_names, id_name, is_id, plain, values_of
from nirs_store.reading.tables import parquet_frame

_SHOWN = 5


def read_spectra(
    path: str | Path | Sequence[str | Path],
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
    sheet: str | int | None = None,
    block: str | None = None,
    references: str | Path | None = None,
    signal: str | None = None,
    to: str | None = None,
) -> Spectra:
    r"""Read a file of spectra. Refuse ambiguous content and name its line; leave nothing out silently.

    Parameters
    ----------
    path : path, or sequence of paths
        A text file (``.csv``, ``.tsv``, ``.txt``, ``.dat``, ``.asc``, ``.prn``, ``.dpt``, also with ``.gz``),
        ``.parquet`` or Excel (``.xlsx``): columns named by a number are channels, the others are labels. Or an
        instrument's file: JCAMP-DX (``.jdx``, ``.dx``), Galactic SPC (``.spc``), Bruker OPUS (``.0``, ...), ASD
        FieldSpec (``.asd``), or what other packages add. Several files on one grid (a list, a folder, a pattern such
        as ``"field/*.0"``) become one; the samples are named after them.
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
    format : {"text", "parquet", "excel", "jcamp", "spc", "opus", "asd"} or that of another package, optional
        By default, recognized by the first bytes or the extension.
    decimal : {".", ","}, optional
        Decimal sign of a text file; by default inferred from its numbers.
    delimiter, encoding : str, optional
        Separator and encoding of a text file; inferred by default.
    orientation : {"rows", "columns"}, optional
        Whether a sample is a row or a column; by default inferred from the place of the wavelengths.
    header : bool, optional
        Whether the first row of the table names the channels; needed if that row could be a spectrum.
    channels : sequence of str, optional
        Names of the spectral columns, where these are not named by wavelength.
    sheet : str or int, optional
        The sheet of a workbook, by name or number; needed if several sheets have content.
    block : str, optional
        Which spectrum of an OPUS file ("AB", "RE", "ScSm", ...), or which block of a JCAMP-DX file (its title).
    references : path, optional
        A CSV, Excel or Parquet table of reference values whose first column, or one called id or sample, names the
        samples as `ids` does. Its columns join the others.
    signal : str, optional
        Kind of the values, if the file does not say it: "absorbance", "reflectance", "transmittance (%)", ...
    to : {"absorbance", "reflectance", "transmittance"}, optional
        Convert the values: absorbance is -log10 of reflectance or transmittance. By default they stay as they are.

    Returns
    -------
    Spectra

    Raises
    ------
    InvalidInput
        There is no such file, it is ambiguous, or it has no such column.

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
    channels = None if channels is None else check_names("channels", channels)
    columns = target if target is None or isinstance(target, str) else check_names("target", target)
    options = {
        "format": format,
        "id_column": id_column,
        "wavelength_unit": wavelength_unit,
        "decimal": decimal,
        "delimiter": delimiter,
        "encoding": encoding,
        "orientation": orientation,
        "header": header,
        "channels": channels,
        "sheet": sheet,
        "block": block,
        "to": to,
    }
    spectra = read_all(path, options, references)
    if references is not None:
        spectra = join_references(spectra, user_path(references), id_column, decimal, encoding)
    if signal is not None or to is not None:
        spectra = convert(spectra, signal, to)
    ids: NDArray[Any] | None = None
    marks: NDArray[Any] | None = None
    if id_column is not None:
        ids = _filled(spectra, id_column, f"id_column {id_column!r}")
    elif (named := id_name(spectra)) is not None:
        ids = plain(spectra.references[named])
    if groups is not None:
        marks = _filled(spectra, groups, f"the column of groups {groups!r}", " Each sample needs a group.")
    return replace(
        spectra,
        ids=ids,
        groups=marks,
        target=columns,
        target_unit=unit if unit is None or isinstance(unit, str) else tuple(unit),
        y=None if columns is None else values_of(spectra, columns),
    )


def _filled(spectra: Spectra, name: str, words: str, advice: str = "") -> NDArray[Any]:
    """Return a column that has a value for each sample."""
    column = spectra.column(name)
    if column.null_count():
        row = int(column.is_null().arg_true()[0])
        raise InvalidInput(
            f"{spectra.source.path.name}: {words} is empty in sample {row + 1} ({spectra.places[row]}).{advice}"
        )
    return plain(column)


def read_all(
    path: str | Path | Sequence[str | Path], options: Mapping[str, Any], references: str | Path | None = None
) -> Spectra:
    """Read a file, or all files of a folder, pattern or list as one."""
    if isinstance(path, str | Path):
        single = user_path(path)
        if single.is_dir():
            paths, left = _in_folder(single, options, references)
            return _joined(paths, options, single, left)
        if single.exists() or not glob.has_magic(str(single)):
            return read_one(single, options)
        paths = sorted(Path(each) for each in glob.glob(str(single)) if Path(each).is_file())  # noqa: PTH207
        nothing = f"No file fits the pattern {str(path)!r}."
    else:
        paths = [user_path(each) for each in path]
        nothing = "path: expected a file or several, found an empty list."
    if not paths:
        raise InvalidInput(nothing)
    return _joined(paths, options, paths[0] if len(paths) == 1 else paths[0].parent, [])


def _in_folder(
    folder: Path, options: Mapping[str, Any], references: str | Path | None
) -> tuple[list[Path], list[str]]:
    """List the instrument files of a folder, else its tables; what else is there is left out and named."""
    files = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    if references is not None:
        files = [each for each in files if each.resolve() != user_path(references).resolve()]
    kinds: dict[Path, bool] = {}
    left = []
    for each in files:
        with each.open("rb") as file:
            head = file.read(HEAD)
        try:
            reader = choose_reader(each, head, options.get("format"))
        except InvalidInput:
            left.append(each.name)
            continue
        kinds[each] = options.get("format") is not None or reader.name not in TABLES
    chosen = [each for each, instrument in kinds.items() if instrument] or list(kinds)
    left += [each.name for each in kinds if each not in chosen]
    if not chosen:
        raise InvalidInput(f"{folder} holds no file of spectra{_names(': ', sorted(left))}.")
    return chosen, sorted(left)


def _names(before: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return before + ", ".join(names[:_SHOWN]) + more


def _joined(paths: Sequence[Path], options: Mapping[str, Any], place: Path, left: Sequence[str]) -> Spectra:
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise InvalidInput(f"path: {twice[0]} is given twice.")
    parts = [read_one(path, options) for path in paths]
    first = parts[0]
    for part in parts[1:]:
        _check_same(first, part)
    frames = []
    for part, name in zip(parts, _sample_names(paths), strict=True):
        own = part.references.drop("id") if "id" in part.labels else part.references
        ids = [name]
        if len(part) > 1:
            given = part.references["id"].to_list() if "id" in part.labels else range(1, len(part) + 1)
            ids = [f"{name}:{each}" for each in given]
        frames.append(own.insert_column(0, pl.Series("id", ids)))
    try:
        references = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"The labels of the files do not fit together: {error}") from error
    same: dict[str, str] = {}
    for key in dict.fromkeys(key for part in parts for key in part.instrument):
        of_parts = [part.instrument.get(key) for part in parts]
        if of_parts[0] is not None and set(of_parts) == {of_parts[0]}:
            same[key] = of_parts[0]
        elif key not in references.columns:
            cells = [value for value, part in zip(of_parts, parts, strict=True) for _ in range(len(part))]
            references = references.with_columns(pl.Series(key, cells, dtype=pl.String))
    sources = tuple(source for part in parts for source in part.sources)
    total = hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest()
    words = first.understood
    if len(parts) > 1:
        n, p = sum(map(len, parts)), first.X.shape[1]
        about = words.split("; ")
        grid = about[0].split(", labels: ")[0].split(" channel", 1)[1].removeprefix("s" * (p != 1))
        shown = ", ".join(references.columns[:8]) + (", ..." if len(references.columns) > 8 else "")
        notes = [each for each in about[1:] if all(each in part.understood for part in parts)]
        head = f"{n} samples of {len(parts)} files, {p} channel{'s' * (p != 1)}{grid}, labels: {shown}"
        for part in parts:
            left_out = [x for x in part.understood.split("; ") if "left out" in x and x not in notes]
            notes += [f"{part.source.path.name}: {each}" for each in left_out]
        words = "; ".join([head, *notes])
    if left:
        words += "; " + _names(f"{len(left)} other file{'s' * (len(left) != 1)} left out: ", left)
    return replace(
        first,
        X=np.vstack([part.X for part in parts]),
        references=references,
        places=tuple(
            f"{path.name}, {at}" for path, part in zip(paths, parts, strict=True) for at in part.places
        ),
        source=Source(place, total) if len(sources) > 1 else sources[0],
        sources=sources,
        instrument=same,
        understood=words,
    )


def _sample_names(paths: Sequence[Path]) -> list[str]:
    ways = ([sample_name(path) for path in paths], [path.name for path in paths])
    return next((names for names in ways if len(set(names)) == len(names)), [p.as_posix() for p in paths])


def _check_same(first: Spectra, other: Spectra) -> None:
    """Refuse a file whose grid, unit or signal is not that of the first."""
    name, base = other.source.path.name, first.source.path.name

    def grid(spectra: Spectra) -> str:
        if spectra.wavelengths is None:
            return f"{spectra.X.shape[1]} channels without wavelengths"
        low, high = spectra.wavelengths[0], spectra.wavelengths[-1]
        return f"{spectra.X.shape[1]} channels {low:.8g} to {high:.8g} {spectra.unit or ''}".rstrip()

    a, b = first.wavelengths, other.wavelengths
    same = (a is None) == (b is None) and first.X.shape[1] == other.X.shape[1] and first.unit == other.unit
    if same and a is not None and b is not None:
        step = np.abs(np.diff(a)).min() if len(a) > 1 else abs(a[0])
        same = bool(np.abs(a - b).max() <= 1e-3 * step)
    if not same:
        raise InvalidInput(
            f"{name} has another grid than {base}: {grid(other)}, not {grid(first)}. Read files of one grid together; "
            "bring the others to it first."
        )
    if first.signal != other.signal:
        raise InvalidInput(
            f"{name} holds {other.signal}, but {base} {first.signal}. Read them apart, or convert."
        )


def join_references(
    spectra: Spectra,
    path: Path,
    id_column: str | None,
    decimal: str | None,
    encoding: str | None,
) -> Spectra:
    """Add the columns of a table of reference values by the names of the samples."""
    name = id_column if id_column in spectra.labels else id_name(spectra)
    if name is None:
        raise InvalidInput(
            f"{spectra.source.path.name} does not name its samples. Say which column does: id_column=..."
        )
    table, source, key = _table(path, name, decimal, encoding)
    keys = [None if cell is None else str(cell).strip() for cell in table[key].to_list()]
    twice = [each for each, count in Counter(keys).items() if each is not None and count > 1]
    if twice:
        raise InvalidInput(f"{path.name} has several rows for {_names('', twice)} in the column {key!r}.")
    rows = {each: row for row, each in enumerate(keys) if each is not None}
    ids = [str(each) for each in spectra.references[name].to_list()]
    # A lab writes the sample's name with or without the ending of its file.
    endings = Counter(Path(each).stem for each in ids)
    bare = {Path(each).stem: row for each, row in rows.items() if each not in ids}
    found = [
        rows.get(each, rows.get(Path(each).stem) if endings[Path(each).stem] == 1 else None) for each in ids
    ]
    found = [bare.get(each) if row is None else row for each, row in zip(ids, found, strict=True)]
    missing = [each for each, row in zip(ids, found, strict=True) if row is None]
    if len(missing) == len(ids):
        raise InvalidInput(
            f"No sample is in {path.name}: its column {key!r} holds {_names('', list(rows))}; the samples are "
            f"{_names('', ids)}."
        )
    others = table.drop(key)
    taken = [column for column in others.columns if column in spectra.labels]
    if taken:
        raise InvalidInput(
            f"{path.name} has a column {taken[0]!r}, which the spectra have as well. Rename it."
        )
    unknown = [each for each in rows if rows[each] not in found]
    notes = [f"references of {path.name}: {len(ids) - len(missing)} of {len(ids)} samples"]
    if missing:
        notes.append(_names("none for ", missing))
    if unknown:
        notes.append(_names("no spectrum of ", unknown))
    added = others[[row if row is not None else 0 for row in found]]
    gone = pl.Series([row is None for row in found])
    added = added.with_columns(pl.when(gone).then(None).otherwise(pl.col(c)).alias(c) for c in added.columns)
    return replace(
        spectra,
        references=spectra.references.hstack(added),
        sources=(*spectra.sources, source),
        understood="; ".join([spectra.understood, *notes]),
        dialect=spectra.dialect or ({"decimal": decimal} if decimal else {}),
    )


def read_labels(path: Path) -> pl.DataFrame:
    """Read a CSV, Excel or Parquet table of reference values; names of samples stay text."""
    return _table(path, "sample_id", None, None)[0]


def _key(columns: Sequence[str], name: str) -> str:
    """Choose the column of a table that names the samples."""
    return next((each for each in columns if each == name or is_id(each)), columns[0])


def _table(
    path: Path, name: str, decimal: str | None, encoding: str | None
) -> tuple[pl.DataFrame, Source, str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"references: {path} cannot be read: {error.strerror or error}.") from error
    source = Source(path, hashlib.sha256(data).hexdigest())
    try:
        kind = choose_reader(path, data[:HEAD], None).name
        if kind == "parquet":
            table = parquet_frame(path)
            return table, source, _key(table.columns, name)
        delimiter = None
        if kind == "excel":
            from nirs_store.reading.tables import sheet_as_text

            data, delimiter, encoding = sheet_as_text(data, decimal=decimal)[0], "\t", "utf-8"
        text, _ = decode(data, encoding)
        rows, _ = split_rows(text, delimiter or table_delimiter(text))
        rows = [row for row in rows if any(row.cells)]
        if len(rows) < 2:
            raise Unreadable("it has no rows below its header.")
        header = rows[0].cells
        while header and not header[-1]:
            header = header[:-1]
        if not all(header) or len(set(header)) < len(header):
            raise Unreadable("its first row must name the columns, each by another name.")
        cells = []
        for row in rows[1:]:
            if any(row.cells[len(header) :]):
                raise Unreadable(
                    f"line {row.line} has more cells than the header has columns ({len(header)})."
                )
            cells.append([*row.cells[: len(header)], *[""] * (len(header) - len(row.cells))])
        places = [f"line {row.line}" for row in rows[1:]]
        key = _key(header, name)
        others = [k for k, each in enumerate(header) if each != key]
        sign = decimal or find_decimal(cells, range(0), others, [], places)
        columns = {
            each: typed([row[k] for row in cells], sign, decimal is not None) for k, each in enumerate(header)
        }
        # The names of samples stay text: "007" is not a number.
        columns[key] = pl.Series([row[header.index(key)] or None for row in cells], dtype=pl.String)
        return pl.DataFrame(columns), source, key
    except Unreadable as error:
        raise InvalidInput(f"references: {path.name}: {error}") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"references: {path.name} cannot be read: {error}") from error


def convert(spectra: Spectra, signal: str | None, to: str | None) -> Spectra:
    """Name the signal as the caller does, and convert the values."""
    named = None if signal is None else name_signal(signal)
    known = spectra.signal
    kinds = {each.removesuffix(" (%)") for each in (named, known) if each is not None}
    if named is not None and known not in (None, "raw", "percent") and len(kinds) > 1:
        raise InvalidInput(f"signal: {signal!r} was given, but {spectra.source.path.name} says {known!r}.")
    kind = named or known
    words, X = spectra.understood, spectra.X
    if to is not None:
        try:
            X = to_signal(X, kind, to, stated=named is not None)
        except Unreadable as error:
            raise InvalidInput(f"{spectra.source.path.name}: {error}") from error
        words += f"; {kind} converted to {to}" if kind != to else ""
        kind = to
    return replace(
        spectra,
        X=X,
        understood=words,
        instrument=dict(spectra.instrument) | ({"signal": kind} if kind else {}),
    )
