"""What `store.datasets` returns: a version of a data set, and how two of them differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from nirs_store.display import block, byte_text, field_table
from nirs_store.errors import InvalidInput, quoted
from nirs_store.ids import is_id
from nirs_store.lazy import polars as pl
from nirs_store.values import as_name, with_zone

_LONGEST = 200
_VERSION = re.compile(r"v?([1-9][0-9]{0,9})")


def check_name(name: object) -> str:
    """Return the name of a data set, or refuse what could not be told from a reference or an id."""
    text = as_name(name, "name")
    if len(text) > _LONGEST or "@" in text or not text.isprintable() or text != text.strip() or is_id(text):
        raise InvalidInput(
            f"name: expected at most {_LONGEST} printable characters without '@' (which comes before a version, as in "
            f"'corn@v2'), and no id; found {quoted(text)}. Nothing was stored."
        )
    return text


def parse_reference(reference: str) -> tuple[str, int | None]:
    """Split ``corn@v2`` into name and number; the number is None for the newest."""
    name, at, version = reference.rpartition("@")
    if not at or version == "latest":
        return (name if at else reference), None
    found = _VERSION.fullmatch(version)
    if found is None:
        raise InvalidInput(f"Expected a data set such as 'corn' or 'corn@v2'; found {quoted(reference)}.")
    return name, int(found[1])


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a data set.

    Attributes
    ----------
    dataset_version_id : str
    name : str
    version : int
        From 1; the number of a deleted version is not given again.
    kind : {"added", "selection"}
        Whether its spectra were brought in, or chosen from another version.
    parent_id : str or None
        The version before it, or the one that a selection chose from.
    n_samples, n_channels : int
    dtype : str
        Of the stored spectra, for example ``"float32"``.
    unit : str or None
        Unit of the wavelengths.
    first_wavelength, last_wavelength : float or None
    labels : tuple of str
        Names of the references and other columns.
    content_hash : str
        SHA-256 of all spectra, names, groups and references: the same content has the same hash in every workspace.
    size_bytes : int
        Bytes that this version brought; what it shares with others is theirs.
    instrument, metadata : dict
    selection : dict or None
        How a selection was made.
    note : str or None
    created_at : datetime
    added : bool
        False where `add` found the same content as the newest version of the name, and returned that.
    """

    dataset_version_id: str
    name: str
    version: int
    kind: str
    parent_id: str | None
    n_samples: int
    n_channels: int
    dtype: str
    unit: str | None
    first_wavelength: float | None
    last_wavelength: float | None
    labels: tuple[str, ...]
    content_hash: str
    size_bytes: int
    instrument: dict[str, Any]
    selection: dict[str, Any] | None
    metadata: dict[str, Any]
    note: str | None
    created_at: datetime
    added: bool = True

    @classmethod
    def of(cls, row: Mapping[str, Any], *, added: bool = True) -> DatasetVersion:
        """Make the value of a decoded row."""
        values = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        return cls(
            **{
                **values,
                "labels": tuple(row["labels"] or ()),
                "instrument": row["instrument"] or {},
                "metadata": row["metadata"] or {},
                "created_at": with_zone(row["created_at"]),
                "added": added,
            }
        )

    @property
    def reference(self) -> str:
        """Return the name with the version, as every method takes it: ``corn@v2``."""
        return f"{self.name}@v{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"reference": self.reference, **asdict(self), "created_at": self.created_at.isoformat()}

    def __str__(self) -> str:
        return self.reference

    def __repr__(self) -> str:
        return f"<DatasetVersion {self.reference}: {self.contents}>"

    @property
    def grid_text(self) -> str:
        """Say how many channels there are, and from where to where: ``700, 1100 to 2498 nm``."""
        if self.first_wavelength is None:
            return f"{self.n_channels:,}"
        return f"{self.n_channels:,}, {self.first_wavelength:g} to {self.last_wavelength:g} {self.unit or ''}".rstrip()

    @property
    def contents(self) -> str:
        """Say in a line what is in it."""
        samples = "1 sample" if self.n_samples == 1 else f"{self.n_samples:,} samples"
        count, _, grid = self.grid_text.partition(", ")
        return f"{samples}, {count} channels{f' {grid}' if grid else ''}, {self.dtype}"

    def _repr_html_(self) -> str:
        facts = {
            "contents": self.contents,
            "columns": ", ".join(self.labels),
            "kind": self.kind,
            "brought": byte_text(self.size_bytes),
            "note": self.note,
            "created": f"{self.created_at:%Y-%m-%d %H:%M}",
        }
        return block(self.reference, field_table(facts))


@dataclass(frozen=True)
class DatasetDiff:
    """How a version of a data set differs from another.

    Samples are told by their names, replicates by their order; where the two have no names, by their spectra.

    Attributes
    ----------
    before, after : str
        References of the versions.
    added, removed : tuple
        Samples that only one of them has.
    changed : tuple
        Samples whose spectra differ.
    corrected : polars.DataFrame
        One row per value that differs: ``sample``, ``column``, ``before``, ``after`` (as text).
    columns_added, columns_removed : tuple of str
    grid_changed : bool
        Whether the wavelengths or their unit differ.
    """

    before: str
    after: str
    added: tuple[Any, ...]
    removed: tuple[Any, ...]
    changed: tuple[Any, ...]
    corrected: pl.DataFrame
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()
    grid_changed: bool = field(default=False)

    def __bool__(self) -> bool:
        """Tell whether there is any difference."""
        lists = (self.added, self.removed, self.changed, self.columns_added, self.columns_removed)
        return any(lists) or self.corrected.height > 0 or self.grid_changed

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        lists = {name: list(value) for name, value in plain.items() if isinstance(value, tuple)}
        return {**plain, **lists, "corrected": self.corrected.to_dicts()}

    def __repr__(self) -> str:
        parts = [
            f"{len(found):,} {word}"
            for word, found in (("added", self.added), ("removed", self.removed), ("changed", self.changed))
            if found
        ]
        if self.corrected.height:
            n = self.corrected.height
            parts.append("1 reference corrected" if n == 1 else f"{n:,} references corrected")
        if self.columns_added or self.columns_removed:
            parts.append("other columns")
        if self.grid_changed:
            parts.append("other wavelengths")
        return f"<{self.before} to {self.after}: {', '.join(parts) or 'no difference'}>"
