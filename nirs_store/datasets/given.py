"""Take what a caller gives as a data set: arrays, a data frame, or what `read_spectra` returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nirs_store.chains.grids import flat_names
from nirs_store.datasets.matrix import checked_matrix
from nirs_store.datasets.samples import Header
from nirs_store.errors import InvalidInput, ShapeMismatch, quoted
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra
from nirs_store.reading.cells import parse_unit
from nirs_store.reading.dialect import Unreadable
from nirs_store.reading.grid import find_channels
from nirs_store.values import (
    as_array,
    as_floats,
    as_text,
    check_index,
    column_names,
    index_names,
    is_frame,
    native,
)


@dataclass
class Given:
    """Spectra with what belongs to them, not checked against each other yet."""

    X: NDArray[Any]
    wavelengths: NDArray[np.float64] | None = None
    unit: str | None = None
    channel_names: list[str] | None = None
    ids: pl.Series | None = None
    groups: pl.Series | None = None
    references: pl.DataFrame = field(default_factory=lambda: pl.DataFrame())
    instrument: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def header(self) -> Header:
        """Return what holds for all samples."""
        return Header(
            self.X.dtype.str.lstrip("<|"),
            int(self.X.shape[1]),
            None if self.wavelengths is None else self.wavelengths.tolist(),
            self.unit,
            self.channel_names,
            self.instrument,
            self.units,
        )


def take(
    X: Any,
    references: Any,
    ids: Any,
    groups: Any,
    wavelengths: Any,
    unit: str | None,
    instrument: Mapping[str, str] | None,
    units: Mapping[str, str] | None,
) -> Given:
    """Read the arguments of `Datasets.add`; what was given by name wins."""
    single = (
        {f"references[{name!r}]": each for name, each in references.items()}
        if type(references) is dict
        else {}
    )
    check_index(X=X, references=references, ids=ids, groups=groups, **single)
    found = _of_spectra(X) if isinstance(X, Spectra) else _of_table(native(X, "X"), ids, groups)
    found.X = checked_matrix(found.X)
    n, channels = found.X.shape
    for word, value in (("ids", ids), ("groups", groups)):
        if isinstance(value, str) and isinstance(X, Spectra):
            value = X.column(value)
        if value is not None and not isinstance(value, str):
            setattr(found, word, _names(value, word, n))
    if references is not None:
        more = _references(references, n)
        kept = [column for column in found.references.get_columns() if column.name not in more.columns]
        found.references = pl.DataFrame([*kept, *more.get_columns()])
    if found.references.width and found.references.height != n:
        raise ShapeMismatch(
            f"references: expected {n} rows, one per spectrum; found {found.references.height}. Nothing was stored."
        )
    found.references = pl.DataFrame([_plain_column(found.references[c]) for c in found.references.columns])
    _refuse_infinite(found)
    if wavelengths is not None:
        found.wavelengths = _grid(wavelengths, channels)
    if unit is not None:
        found.unit = parse_unit(as_text(unit, "unit"))
        if found.unit is None:
            raise InvalidInput(f"unit: expected nm, cm-1 or um, found {quoted(unit)}. Nothing was stored.")
    found.instrument |= _texts(instrument, "instrument")
    found.units |= _texts(units, "units")
    strange = [name for name in found.units if name not in found.references.columns]
    if strange:
        raise InvalidInput(
            f"units: there is no column {quoted(strange[0])}; the columns are "
            f"{', '.join(found.references.columns) or 'none'}. Nothing was stored."
        )
    return found


def _of_spectra(spectra: Spectra) -> Given:
    targets = spectra.target if isinstance(spectra.target, tuple) else (spectra.target,)
    units = (
        spectra.target_unit
        if isinstance(spectra.target_unit, tuple)
        else (spectra.target_unit,) * len(targets)
    )
    n = len(spectra)
    given = Given(
        X=spectra.X,
        wavelengths=None if spectra.wavelengths is None else _grid(spectra.wavelengths, spectra.X.shape[1]),
        unit=spectra.unit,
        channel_names=list(spectra.channel_names)
        if spectra.wavelengths is None and spectra.channel_names
        else None,
        ids=None if spectra.ids is None else _names(spectra.ids, "ids", n),
        groups=None if spectra.groups is None else _names(spectra.groups, "groups", n),
        references=spectra.references,
        instrument={str(key): str(value) for key, value in spectra.instrument.items()},
        units={str(t): u for t, u in zip(targets, units, strict=True) if t and u},
    )
    # The values of the target are numbers; its column may be the text of the file.
    if spectra.y is not None and spectra.target is not None:
        values = spectra.y if spectra.y.ndim == 2 else spectra.y.reshape(-1, 1)
        columns = [pl.Series(str(name), values[:, place]) for place, name in enumerate(targets)]
        given.references = (
            given.references.with_columns(columns) if given.references.width else pl.DataFrame(columns)
        )
    if spectra.dataset is None:
        sources = spectra.sources or (spectra.source,)
        given.metadata = {
            "sources": [{"file": each.path.name, "sha256": each.sha256} for each in sources[:100]]
        }
    return given


def _of_table(X: Any, ids: Any, groups: Any) -> Given:
    if X is None or isinstance(X, (str, bytes)):
        raise InvalidInput(
            f"X: expected spectra as an array or data frame, or what read_spectra returned; found {quoted(X)}. Nothing "
            "was stored."
        )
    if not is_frame(X):
        for word, value in (("ids", ids), ("groups", groups)):
            if isinstance(value, str):
                raise InvalidInput(
                    f"{word}={value!r} names a column, but X is not a data frame. Nothing was stored. Pass the values."
                )
        if hasattr(X, "toarray"):
            raise InvalidInput(
                "X is a sparse matrix; spectra are dense. Nothing was stored. Pass X.toarray()."
            )
        return Given(_numbers(X))
    names = flat_names(column_names(X))
    texts = [str(name) for name in names]
    for word, value in (("ids", ids), ("groups", groups)):
        if isinstance(value, str) and value not in texts:
            raise InvalidInput(f"{word}: X has no column {value!r}. Nothing was stored.")
    if len(set(texts)) < len(texts):
        raise InvalidInput("X has two columns of one name. Nothing was stored. Rename one of them.")
    n = len(X)
    counted = names == list(range(len(names)))
    try:
        channels = None if counted else find_channels(texts)
    except Unreadable as error:
        raise InvalidInput(f"X: {error} Nothing was stored.") from error
    run = list(range(len(names)))
    if channels is not None:
        run = [place for place in channels.places if texts[place] not in (ids, groups)]
    others = set(range(len(names))) - set(run)
    spectra = X.select([X.columns[k] for k in run]) if isinstance(X, pl.DataFrame) else X.iloc[:, run]
    columns = {texts[place]: _column(X, place) for place in sorted(others)}
    asked = {"ids": ids, "groups": groups}
    taken = {word: columns.get(name) if isinstance(name, str) else None for word, name in asked.items()}
    labels = index_names(X) if taken["ids"] is None else None
    values = None if channels is None else channels.values
    return Given(
        X=_numbers(spectra),
        wavelengths=None if values is None else np.array(values, dtype=np.float64),
        unit=None if channels is None else channels.unit,
        channel_names=None if values is not None or counted else [texts[place] for place in run],
        ids=_names(taken["ids"] if labels is None else labels, "ids", n)
        if taken["ids"] is not None or labels is not None
        else None,
        groups=None if taken["groups"] is None else _names(taken["groups"], "groups", n),
        references=pl.DataFrame([_series(name, column) for name, column in columns.items()]),
    )


def _column(frame: Any, place: int) -> Any:
    """Return a column of a frame of polars or pandas."""
    return frame.to_series(place) if isinstance(frame, pl.DataFrame) else frame.iloc[:, place]


def _numbers(X: Any) -> NDArray[Any]:
    array = as_array(X, "X")
    if array.dtype == object:
        try:
            return as_floats(array)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"X must hold numbers: {error}. Nothing was stored.") from error
    return array


def _names(values: Any, word: str, n: int) -> pl.Series:
    """Read names or groups: text or whole numbers, one per sample, none missing."""
    # A list is not sent through numpy, which would make one long text type of it.
    plain = isinstance(values, (list, tuple, range, Iterator))
    cells = list(values) if plain else as_array(values, word).tolist()
    if not isinstance(cells, list) or len(cells) != n:
        found = len(cells) if isinstance(cells, list) else "a single value"
        raise ShapeMismatch(
            f"{word}: expected {n} values, one per spectrum; found {found}. Nothing was stored."
        )
    kinds = {type(cell) for cell in cells}
    if any(issubclass(kind, np.generic) for kind in kinds):
        cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in cells]
        kinds = {type(cell) for cell in cells}
    if kinds == {int}:
        try:
            return pl.Series(word, cells, dtype=pl.Int64)
        except (OverflowError, TypeError, pl.exceptions.PolarsError):
            kinds, cells = {str}, [str(cell) for cell in cells]
    if kinds != {str}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InvalidInput(
            f"{word}: expected text or whole numbers, one kind, none missing; found {found}. Nothing was stored."
        )
    try:
        names = pl.Series(word, cells, dtype=pl.String)
    except (UnicodeEncodeError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"{word}: a name is not valid Unicode text. Nothing was stored.") from error
    seen = names.str.strip_chars().str.len_chars()
    bad = names.filter((seen == 0) | (names.str.len_chars() > 1000) | names.str.contains("\0", literal=True))
    if bad.len():
        raise InvalidInput(
            f"{word}: expected names of 1 to 1,000 characters that can be seen; found {quoted(bad[0])}. Nothing was "
            "stored."
        )
    return names


def _references(values: Any, n: int) -> pl.DataFrame:
    table = native(values, "references")
    if is_frame(table):
        names = [str(name) for name in flat_names(column_names(table))]
        if len(set(names)) < len(names):
            raise InvalidInput(
                "references: two columns have one name. Nothing was stored. Rename one of them."
            )
        columns = {name: _column(table, place) for place, name in enumerate(names)}
    elif isinstance(table, Mapping):
        columns = {as_text(name, "references"): column for name, column in table.items()}
    else:
        raise InvalidInput(
            "references: expected a data frame or a mapping of names to values, as in {'moisture': y}; found "
            f"{type(values).__name__}. Nothing was stored."
        )
    made = [_series(name, column) for name, column in columns.items()]
    wrong = next((column for column in made if column.len() != n), None)
    if wrong is not None:
        raise ShapeMismatch(
            f"references: {quoted(wrong.name)} has {wrong.len()} values for {n} spectra. Nothing was stored."
        )
    return pl.DataFrame(made)


def _series(name: str, values: Any) -> pl.Series:
    if not name.strip():
        raise InvalidInput("references: a column has no name. Nothing was stored. Name it.")
    if isinstance(values, pl.Series):
        return values.alias(name)
    if type(values).__module__.partition(".")[0] == "pandas":
        try:
            return pl.Series(name, pl.from_pandas(values, nan_to_null=True))
        except (TypeError, ValueError, OverflowError, pa.ArrowException, pl.exceptions.PolarsError):
            pass  # objects of several kinds are looked at one by one
    array = as_array(values, name)
    if array.ndim != 1:
        raise ShapeMismatch(
            f"references: {quoted(name)} has the shape {array.shape}, not one value per spectrum."
        )
    try:
        if array.dtype != object:
            return pl.Series(name, array if array.dtype.kind in "biufM" else array.tolist())
        # pandas marks what is missing with a float among text.
        cells = [None if cell is None or cell != cell else cell for cell in array.tolist()]
        return pl.Series(name, cells)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(
            f"references: {quoted(name)} cannot be stored: {error}. Nothing was stored."
        ) from error


def _plain_column(column: pl.Series) -> pl.Series:
    """Return a column in one of the types that are stored; NaN is what is missing."""
    kind = column.dtype
    if kind.is_float() or kind.is_decimal() or kind == pl.Null:
        return column.cast(pl.Float64).fill_nan(None)
    if kind.is_integer():
        try:
            return column.cast(pl.Int64)
        except pl.exceptions.PolarsError:
            return column.cast(pl.Float64)
    if isinstance(kind, pl.Datetime):
        return (
            column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
            if kind.time_zone
            else column.dt.cast_time_unit("us")
        )
    if kind in (pl.String, pl.Boolean, pl.Date):
        return column
    if kind in (pl.Categorical, pl.Enum, pl.Time, pl.Duration):
        return column.cast(pl.String) if kind != pl.Duration else column.dt.to_string()
    raise InvalidInput(
        f"references: {quoted(column.name)} is of the type {kind}; expected numbers, text, dates or yes and no. "
        "Nothing was stored."
    )


def _refuse_infinite(given: Given) -> None:
    for column in given.references.get_columns():
        if not column.dtype.is_float() or not column.is_infinite().any():
            continue
        row = int(column.is_infinite().arg_true()[0])
        name = "" if given.ids is None else f" of the sample {quoted(given.ids[row])}"
        raise InvalidInput(
            f"references: {quoted(column.name)}{name} is {column[row]} in row {row} (counted from 0). Nothing was "
            "stored. Give a number, or NaN where the value is missing."
        )


def _grid(values: Any, channels: int) -> NDArray[np.float64]:
    try:
        grid = as_floats(as_array(values, "wavelengths"))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"wavelengths: expected numbers; {error}. Nothing was stored.") from error
    if grid.shape != (channels,) or not np.isfinite(grid).all():
        raise ShapeMismatch(
            f"wavelengths: expected {channels} finite values, one per channel of X; found the shape {grid.shape}. "
            "Nothing was stored."
        )
    return grid


def _texts(values: Mapping[str, str] | None, word: str) -> dict[str, str]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidInput(
            f"{word}: expected a mapping of texts, found {type(values).__name__}. Nothing was stored."
        )
    return {as_text(key, word): as_text(str(value), word) for key, value in values.items()}


def rows_of(frame: pl.DataFrame, sought: Sequence[Any] | Any, column: str) -> NDArray[np.int64]:
    """Find the rows of samples by name, in the order of the names; replicates all count."""
    cells = [
        str(each)
        for each in ([sought] if isinstance(sought, (str, int)) else as_array(sought, "ids").tolist())
    ]
    table = frame.select(pl.col(column).cast(pl.String).alias("name")).with_row_index("row")
    wanted = pl.DataFrame({"name": pl.Series(cells, dtype=pl.String)}).unique(maintain_order=True)
    found = wanted.join(table, on="name", how="left", maintain_order="left_right")
    lost = found.filter(pl.col("row").is_null())["name"].to_list()
    if lost:
        raise InvalidInput(
            f"ids: no sample is called {quoted(lost[0])}{f', nor {len(lost) - 1} others' if len(lost) > 1 else ''}. "
            "Nothing was changed."
        )
    return found["row"].cast(pl.Int64).to_numpy()
