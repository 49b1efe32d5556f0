"""Spectra of a file with their wavelengths, names and reference values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput, did_you_mean
from nirs_store.lazy import polars as pl
from nirs_store.reading.cells import is_missing, parse_number
from nirs_store.reading.dialect import in_doubt, number_like

_IDS = (
    "id|sample|sample ?id|sample ?name|sample ?number|sample ?no\\.?|name|probe|proben?(nummer|name|nr\\.?)|prüfnummer|"
    "[eé]chantillon|muestra|nom|spectrum|spectrum ?name|file ?name"
)


class Source(NamedTuple):
    """A file, and the SHA-256 of its bytes."""

    path: Path
    sha256: str


class DatasetRows(NamedTuple):
    """Samples of a stored data set: its id, its name with the version, and their rows in it."""

    dataset_version_id: str
    name: str
    rows: NDArray[np.int64]
    n_samples: int

    @property
    def ranges(self) -> list[list[int]] | None:
        """Return the row numbers, in their order, as ``[start, stop]`` pairs; None where they are all, in order."""
        rows = self.rows
        if np.array_equal(rows, np.arange(self.n_samples)):
            return None
        starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1)
        stops = np.append(starts[1:], rows.size)
        return [[int(rows[a]), int(rows[b - 1]) + 1] for a, b in zip(starts, stops, strict=True)]


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
        What the file says of the instrument and the measurement, for example the serial number; ``signal`` says what
        the values are: absorbance, reflectance, transmittance or others.
    source : Source
        Path and SHA-256 of the file; of several, the folder and the SHA-256 of their hashes.
    sources : tuple of Source
        All files that were read, that of the reference values as well.
    dialect : dict
        ``delimiter``, ``decimal`` and ``encoding`` of a text file; empty for other formats.
    understood : str
        One line that says what was read, and how.
    places : tuple of str
        Where each sample is in the file, for messages.
    dataset : DatasetRows or None
        The stored data set that `store.datasets.get` took them from; their values have its dtype then.
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
    sources: tuple[Source, ...] = ()
    dataset: DatasetRows | None = None

    @property
    def signal(self) -> str | None:
        """Return what the values are, for example "absorbance"; None where nothing says so."""
        return self.instrument.get("signal")

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
            dataset=self.dataset and self.dataset._replace(rows=self.dataset.rows[chosen]),
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
        hint = did_you_mean(name, self.labels)
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
        cells = column.to_list()
        doubt = in_doubt(cells, self.dialect.get("decimal", "."))
        if doubt is not None:
            raise InvalidInput(
                f"{self.source.path.name}: the column {name!r} holds {doubt!r}, which may be a decimal number or "
                "thousands. Say which: decimal=',' or decimal='.' (--decimal), or write it in the way of the spectra."
            )
        values = np.full(len(self), np.nan)
        for row, cell in enumerate(cells):
            number = None if cell is None else parse_number(cell, self.dialect.get("decimal", "."))
            if number is None and cell is not None and not is_missing(cell):
                raise InvalidInput(
                    f"{self.source.path.name}: the column {name!r} holds {cell[:40]!r} in sample {row + 1} "
                    f"({self.places[row]}), not a number. Write a number there, or leave the cell empty to leave "
                    "the sample out."
                )
            values[row] = np.nan if number is None else number
        return values

    def keep(self, store: Any, name: str | None = None) -> str:
        """Store the files that were read, byte for byte, with what was understood; return the id of the version.

        Parameters
        ----------
        store : WorkspaceStore
        name : str, optional
            By default the name of the file or folder.

        Returns
        -------
        str
            Id of a file version, for `store.files` and as a source of lineage. Several files are one group.

        Raises
        ------
        InvalidInput
            A file is not what it was when it was read.
        """
        contents: dict[str, bytes] = {}
        for source in self.sources or (self.source,):
            try:
                data = source.path.read_bytes()
            except OSError as error:
                raise InvalidInput(
                    f"{source.path} cannot be read any more: {error.strerror or error}."
                ) from error
            if hashlib.sha256(data).hexdigest() != source.sha256:
                raise InvalidInput(
                    f"{source.path} has changed since it was read. Read it again, then keep it."
                )
            member = source.path.name
            while member in contents:
                member = f"{len(contents)}-{member}"
            contents[member] = data
        about = {
            "type": "spectra",
            "metadata": {
                "understood": self.understood,
                "instrument": dict(self.instrument),
                "sha256": self.source.sha256,
            },
        }
        name = name or self.source.path.resolve().name
        if len(contents) == 1:
            return str(store.files.put(next(iter(contents.values())), name, **about).version_id)
        return str(store.files.put_group(name, contents, **about).version_id)


def check_names(word: str, names: Any) -> tuple[str, ...]:
    """Return names of columns, from a list or an array of numpy, pandas or polars, if each is there once."""
    to_list = getattr(names, "tolist", getattr(names, "to_list", None))
    listed = names if to_list is None else to_list()
    if (
        isinstance(listed, str)
        or not isinstance(listed, Sequence)
        or not all(isinstance(n, str) for n in listed)
    ):
        raise InvalidInput(f"{word}: expected names of columns in a list, found {names!r:.60}.")
    if not listed or len(set(listed)) < len(listed):
        raise InvalidInput(f"{word}: expected names of columns, each once, found {list(listed)!r:.60}.")
    return tuple(listed)


def is_id(name: str) -> bool:
    """Tell a column that is called as names of samples are."""
    return re.fullmatch(_IDS, name.replace("_", " ").strip(), re.IGNORECASE) is not None


def id_name(spectra: Spectra) -> str | None:
    """Return the first column that is called as names of samples are, and has no gaps."""
    table = spectra.references
    return next((each for each in table.columns if is_id(each) and not table[each].null_count()), None)


def targets_of(spectra: Spectra, target: str | Sequence[str], units: Mapping[str, str]) -> Spectra:
    """Return the spectra with columns as their target; the units are by column."""
    if isinstance(target, str):
        unit: Any = units.get(target)
        return replace(spectra, target=target, target_unit=unit, y=values_of(spectra, target))
    names = check_names("target", target)
    given = tuple(units.get(name, "") for name in names)
    return replace(
        spectra, target=names, target_unit=given if any(given) else None, y=values_of(spectra, names)
    )


def values_of(spectra: Spectra, target: str | Sequence[str]) -> NDArray[Any]:
    """Return one or several columns as reference values; text stays where they are classes."""
    if not isinstance(target, str):
        return np.column_stack([spectra.numbers(name) for name in target])
    column = spectra.column(target)
    if column.dtype == pl.String:
        known = [cell for cell in column.to_list() if cell is not None and not is_missing(cell)]
        numeric = sum(number_like(re.sub(r"^[<>~\u2264\u2265\u2248]=? *|[ %]+$", "", cell)) for cell in known)
        if numeric * 2 < len(known):
            return np.array(column.to_list(), dtype=object)  # classes
    return spectra.numbers(target)


def plain(column: pl.Series) -> NDArray[Any]:
    """Return a column as numpy numbers or text."""
    return np.array(column.to_list()) if column.dtype == pl.String else np.asarray(column.to_numpy())
