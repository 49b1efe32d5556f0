"""Samples with reference values, in the forms that people have them, and whether two sets of them go together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.grids import advice, differ, same_grid
from nirs_store.chains.plan import Names, require_columns
from nirs_store.display import counted
from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch, quoted
from nirs_store.ids import spectrum_hashes
from nirs_store.values import as_array


@dataclass(frozen=True, eq=False)
class Samples:
    """Spectra with reference values, and what else is known of them: names, groups, wavelengths, instrument."""

    X: NDArray[Any]
    y: NDArray[np.float64]
    ids: tuple[str, ...] | None
    wavelengths: Any = None
    groups: NDArray[Any] | None = None
    unit: str | None = None
    instrument: Mapping[str, str] = field(default_factory=dict)
    columns: Names | None = None


def as_samples(
    store: Any, given: Any, target: str | None, name: str, groups: Any = None, groups_name: str = "groups"
) -> Samples:
    """Read ``(X, y)``, ``(X, y, sample_ids)``, a `Spectra` with its target, or the name of a data set."""
    from nirs_store.datasets.version import DatasetVersion
    from nirs_store.reading import Spectra
    from nirs_store.recording.inputs import check_data

    wavelengths = unit = None
    instrument: Mapping[str, str] = {}
    if isinstance(given, (str, DatasetVersion)):
        given = store.datasets.get(given, target=target)
    if isinstance(given, Spectra):
        y = given.y if given.y is not None else (given.numbers(target) if target in given.labels else None)
        X, ids, instrument = given.X, given.ids, given.instrument
        wavelengths, unit = given.wavelengths, given.unit
        if groups is None:
            groups = given.groups
        elif isinstance(groups, str):
            groups = given.column(groups)
    elif isinstance(given, tuple) and len(given) in (2, 3):
        X, y, ids = (*given, None)[:3]
    else:
        raise InvalidInput(
            f"{name}: expected (X, y), (X, y, sample_ids), spectra of a file, or the name of a data set; found "
            f"{type(given).__name__}. Nothing was changed."
        )
    if y is None:
        raise InvalidInput(f"{name}: expected reference values; found none. Nothing was changed.")
    if isinstance(groups, str):
        raise InvalidInput(
            f"{groups_name}: {quoted(groups)} names a column, but {name} are arrays. Nothing was changed. Give one "
            "label per sample."
        )
    shape = as_array(X, name).shape
    try:
        values = np.asarray(as_array(y, name), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{name}: expected numbers as reference values: {error}. Nothing was changed."
        ) from error
    if len(shape) != 2 or values.shape != shape[:1]:
        raise ShapeMismatch(
            f"{name}: expected spectra and one value for each; found {shape} and {values.shape}. Nothing was changed."
        )
    known = np.isfinite(values)
    if not known.any():
        raise InvalidInput(f"{name}: expected reference values; all are missing. Nothing was changed.")
    try:
        data = check_data(
            X, np.where(known, values, 0.0), wavelengths=wavelengths, sample_ids=ids, task_type="regression",
            no_missing="",
        )  # fmt: skip
    except (InvalidInput, ShapeMismatch) as error:
        raise type(error)(f"{name}: {error} Nothing was changed.") from error
    return Samples(
        data.X[known],
        values[known],
        None if data.sample_ids is None else tuple(str(each) for each in data.sample_ids[known].tolist()),
        data.wavelengths,
        _labels(groups, known, groups_name),
        unit or data.unit,
        instrument,
        data.columns,
    )


def _labels(groups: Any, known: NDArray[np.bool_], name: str) -> NDArray[Any] | None:
    """Return the groups of the samples with a reference as text, so that two sets can be compared."""
    from nirs_store.recording.groups import read_groups

    if groups is None:
        return None
    try:
        labels = read_groups(groups, known.size)
    except (InvalidInput, ShapeMismatch) as error:
        raise type(error)(f"{name}: {str(error).removeprefix('groups: ')} Nothing was changed.") from error
    assert labels is not None
    if labels.dtype.kind == "f" and np.all(labels == np.round(labels)):
        labels = labels.astype(np.int64)  # 3 and 3.0 are one group
    return labels.astype(str)[known]


def check_channels(samples: Samples, word: str, width: int, grid: Any, columns: Names | None = None) -> None:
    """Refuse spectra that do not have the channels of the calibration."""
    if samples.X.shape[1] != width:
        raise ShapeMismatch(
            f"{word}: expected {counted(width, 'channel')} as in the calibration; found {samples.X.shape[1]}. "
            "Nothing was changed."
        )
    if columns is not None and samples.columns is not None:
        require_columns(samples.columns, columns, word, "the calibration")
    if grid is None or samples.wavelengths is None:
        return
    found, expected = np.asarray(samples.wavelengths, dtype=float), np.asarray(grid, dtype=float)
    if not same_grid(found, expected):
        raise InvalidInput(
            f"{word}: their wavelengths are not those of the calibration: {differ(found, expected)}. Nothing was "
            f"changed. {advice(found, expected)}"
        )


def refuse_known(old: Samples, new: Samples) -> None:
    """Refuse new samples that are old ones."""
    known = set(spectrum_hashes(old.X))
    same = [row for row, each in enumerate(spectrum_hashes(new.X)) if each in known]
    if same:
        rows = ", ".join(new.ids[row] if new.ids else str(row) for row in same[:10])
        word = ("sample" if new.ids else "row") + ("s" if len(same) > 1 else "")
        which = f"{word} {rows}{', ...' if len(same) > 10 else ''}"
        raise InvalidInput(
            f"new_samples: {counted(len(same), 'spectrum', 'spectra')} of the calibration itself ({which}). Nothing "
            "was changed. Leave them out: they would count twice, and once in the fold that validates them."
        )


def common_groups(
    version: str, old: Samples, new: Samples, recorded: Any
) -> tuple[NDArray[Any] | None, bool]:
    """Return the groups of all samples, and whether the version kept those of the old ones together as well."""
    # `recorded` is the number of groups that the version was recorded with, or None.
    parts = {"old_samples": old, "new_samples": new}
    bare = [word for word, each in parts.items() if each.groups is None]
    if recorded is not None and bare:
        ways = {"old_samples": "old_groups=", "new_samples": "groups="}
        raise InvalidInput(
            f"{version} was recorded with groups; {' and '.join(bare)} have none. Nothing was changed: "
            f"replicates could be on both sides of a fold. Give {' and '.join(ways[word] for word in bare)}, one "
            "label per sample; a sample without replicates has a label of its own."
        )
    if len(bare) == 2:
        return None, True
    there = None if old.groups is None else len(set(old.groups.tolist()))
    if recorded is not None and there != recorded:
        raise InvalidInput(
            f"old_groups: {version} was recorded with {counted(recorded, 'group')}; the old samples have {there}. "
            "Nothing was changed. Give those of the recording: old_groups=, one label per sample."
        )
    if recorded is None:
        told = (
            f"{version} was recorded without groups. The update keeps each group of the samples in one fold"
        )
        if old.groups is not None:
            told += ", so its errors cannot be compared with those of the version on the old samples"
        warnings.warn(f"{told}.", RecordingWarning, stacklevel=4)
    whole = [
        np.array([f"({word} {row})" for row in range(len(each.y))]) if each.groups is None else each.groups
        for word, each in parts.items()
    ]
    return np.concatenate(whole), recorded is not None or old.groups is None


def seen(samples: Samples, other: Samples, *, by_name: bool = False) -> NDArray[np.bool_]:
    """Tell which samples share a spectrum or a group, or a name if asked, with others."""
    hashes = set(spectrum_hashes(other.X))
    found = np.array([each in hashes for each in spectrum_hashes(samples.X)], dtype=bool)
    if samples.groups is not None and other.groups is not None:
        found |= np.isin(samples.groups, other.groups)
    if by_name and samples.ids is not None and other.ids is not None:
        found |= np.isin(samples.ids, other.ids)
    return found
