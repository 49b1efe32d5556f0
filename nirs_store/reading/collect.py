"""Several files as one `Spectra`, reference values from a table of their own, conversion, and keeping the originals."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.addresses import user_path
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.reading.decimals import find_decimal
from nirs_store.reading.dialect import Unreadable, decode, split_rows
from nirs_store.reading.measured import name_signal, to_signal
from nirs_store.reading.parquet import parquet_frame
from nirs_store.reading.readers import BUILT_IN, HEAD, choose_reader
from nirs_store.reading.single import read_one, typed
from nirs_store.reading.spectra import Source, Spectra, id_name, is_id

__all__ = ["convert", "join_references", "keep", "read_all", "read_labels"]

_SHOWN = 5


def read_all(
    path: str | Path | Sequence[str | Path], options: Mapping[str, Any], references: str | Path | None = None
) -> Spectra:
    """Read a file, or all files of a folder, pattern or list as one."""
    if not isinstance(path, str | Path):
        paths = [user_path(each) for each in path]
        if not paths:
            raise InvalidInput("path: expected a file or several, found an empty list.")
        return _joined(paths, options, _common(paths), [])
    single = user_path(path)
    if single.is_dir():
        paths, left = _in_folder(single, options, references)
        return _joined(paths, options, single, left)
    if not single.exists() and glob.has_magic(str(single)):
        paths = sorted(Path(each) for each in glob.glob(str(single)) if Path(each).is_file())  # noqa: PTH207
        if not paths:
            raise InvalidInput(f"No file fits the pattern {str(path)!r}.")
        return _joined(paths, options, _common(paths), [])
    return read_one(single, options)


def _common(paths: Sequence[Path]) -> Path:
    return paths[0] if len(paths) == 1 else paths[0].parent


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
        kinds[each] = options.get("format") is not None or BUILT_IN.get(reader.name) not in _tables()
    chosen = [each for each, instrument in kinds.items() if instrument] or list(kinds)
    left += [each.name for each in kinds if each not in chosen]
    if not chosen:
        raise InvalidInput(f"{folder} holds no file of spectra{_names(': ', sorted(left))}.")
    return chosen, sorted(left)


def _tables() -> tuple[Any, ...]:
    return tuple(BUILT_IN[name] for name in ("text", "parquet", "excel"))


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
    same = {
        key: value
        for key, value in first.instrument.items()
        if all(part.instrument.get(key) == value for part in parts)
    }
    differing = [
        key for key in dict.fromkeys(k for part in parts for k in part.instrument) if key not in same
    ]
    for key in differing:
        if key not in references.columns:
            cells = [value for part in parts for value in [part.instrument.get(key)] * len(part)]
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
    from nirs_store.reading.single import sample_name

    names = [sample_name(path) for path in paths]
    if len(set(names)) < len(names):
        names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [path.as_posix() for path in paths]
    return names


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
    decimal: str | None = None,
    encoding: str | None = None,
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


def read_labels(path: Path, decimal: str | None = None, encoding: str | None = None) -> pl.DataFrame:
    """Read a CSV, Excel or Parquet table of reference values; names of samples stay text.

    Raises
    ------
    InvalidInput
        It cannot be read for sure.
    """
    return _table(path, "sample_id", decimal, encoding)[0]


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
            from nirs_store.reading.excel import sheet_as_text

            data, delimiter, encoding = sheet_as_text(data, decimal=decimal)[0], "\t", "utf-8"
        text, _ = decode(data, encoding)
        rows, _ = split_rows(text, delimiter)
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
    plain = {None if each is None else each.removesuffix(" (%)") for each in (named, known)}
    if named is not None and known not in (None, "raw", "percent") and len(plain) > 1:
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


def keep(spectra: Spectra, store: Any, name: str | None) -> str:
    """Store the files that were read; several as one group."""
    contents: dict[str, bytes] = {}
    for source in spectra.sources or (spectra.source,):
        try:
            data = source.path.read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"{source.path} cannot be read any more: {error.strerror or error}."
            ) from error
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise InvalidInput(f"{source.path} has changed since it was read. Read it again, then keep it.")
        member = source.path.name
        while member in contents:
            member = f"{len(contents)}-{member}"
        contents[member] = data
    about = {
        "type": "spectra",
        "metadata": {
            "understood": spectra.understood,
            "instrument": dict(spectra.instrument),
            "sha256": spectra.source.sha256,
        },
    }
    name = name or spectra.source.path.resolve().name
    if len(contents) == 1:
        return str(store.files.put(next(iter(contents.values())), name, **about).version_id)
    return str(store.files.put_group(name, contents, **about).version_id)
