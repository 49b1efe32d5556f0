"""The two descriptions inside a bundle, as typed values.

``manifest.json`` belongs to version 1.0 of the format and is read by others too. ``nirs_store.json`` is this
library's own: every member with its size and SHA-256, the chain as it travels, the versions it was exported
with, scores and units, and spectra with the predictions they must give.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec

from nirs_store.bundle.container import clean, dump_json, parse_object
from nirs_store.errors import BundleInvalid, BundleTooNew

FORMAT_VERSION = "1.0"
RECORD_VERSION = 1
MANIFEST = "manifest.json"
RECORD = "nirs_store.json"
CARD = "card.md"

_VERSION = re.compile(r"\d{1,6}(?:\.\d{1,6}){0,2}")
_PACKAGES = ("numpy", "scipy", "scikit-learn", "joblib", "skops", "chemotools")

Role = Literal["description", "transformer", "y_transformer", "model", "blob", "probe", "card"]
Kind = Literal["joblib", "skops"]


class Manifest(Mapping[str, Any]):
    """``manifest.json``: a read-only mapping of its keys, with the ones that matter as attributes.

    Parameters
    ----------
    keys : mapping
        The parsed member.
    where : path
        Which bundle it came from, for messages.

    Raises
    ------
    BundleTooNew
        The format version is above 1.0.
    BundleInvalid
        A key that decides about the reading has a value that it cannot have.

    Examples
    --------
    >>> manifest = Manifest({"model_step_index": 3, "fold_strategy": "single_refit"})
    >>> manifest.format_version, manifest.model_step_index, manifest["fold_strategy"]
    ('1.0', 3, 'single_refit')
    """

    def __init__(self, keys: Mapping[str, Any], where: str | Path = "The bundle") -> None:
        self._keys = dict(keys)
        self.format_version = self._format_version(where)
        index = self._keys.get("model_step_index")
        if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
            raise BundleInvalid(
                f"{where}: model_step_index in {MANIFEST} must be a whole number from 0, found {index!r}. "
                "Without it, the member of the model is unknown; ask for a new export."
            )
        self.model_step_index: int | None = index

    def __getitem__(self, key: str) -> Any:
        return self._keys[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"Manifest({self._keys!r})"

    @property
    def integrity(self) -> dict[str, str]:
        """SHA-256 by member name, as far as the writer gave them (``artifact_integrity``)."""
        found = self._keys.get("artifact_integrity")
        if not isinstance(found, Mapping):
            return {}
        return {str(name): str(value).removeprefix("sha256:").lower() for name, value in found.items()}

    def _format_version(self, where: str | Path) -> str:
        text = str(self._keys.get("bundle_format_version", FORMAT_VERSION))
        if not _VERSION.fullmatch(text):
            raise BundleInvalid(
                f"{where}: bundle_format_version must be one to three numbers such as {FORMAT_VERSION!r}, "
                f"found {text[:80]!r}. Ask for a new export."
            )
        if _numbers(text) > _numbers(FORMAT_VERSION):
            raise BundleTooNew(
                f"{where} has format version {text}; this library reads up to {FORMAT_VERSION}. Nothing was "
                "loaded. Install a newer nirs_store, or ask for an export in version 1.0."
            )
        return text


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the archive: what it is called, what it must be, what it is for."""

    name: str
    size: int
    sha256: str
    role: Role


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Which chain was exported."""

    chain_id: str
    pipeline_id: str | None = None
    model_class: str = ""
    created_at: str | None = None


class VersionOne(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a reader of version 1.0 that knows nothing of this library predicts the same from the bundle."""

    expressible: bool
    notes: tuple[str, ...] = ()


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A few spectra and what the chain predicted for them when it was exported."""

    spectra: tuple[str, ...]
    expected: str
    sources: tuple[int, ...] = ()
    # Unset it leaves no trace, so that all other bundles keep their bytes.
    wavelengths: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class ChainStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the chain as it travels."""

    step_idx: int
    operator_class: str
    operator_type: str
    params: dict[str, Any]
    stateless: bool
    artifact_id: str | None = None
    artifact_ids: list[str] | None = None
    fold_artifact_ids: dict[str, list[str]] | None = None


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The chain as it travels; the artifact ids in it are the SHA-256 of members."""

    chain_id: str
    pipeline_id: str | None
    steps: list[ChainStep]
    model_step_idx: int
    model_class: str
    preprocessings: str
    fold_strategy: str
    fold_artifacts: dict[str, str]
    shared_artifacts: dict[str, dict[str, dict[str, list[str]]]]
    branch_path: list[int] | None
    source_index: int | None
    fold_weights: dict[str, float] | None
    wavelengths: list[float] | None
    metadata: dict[str, Any] | None
    created_at: str | None


class BundleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``nirs_store.json``: see the module."""

    record_version: int
    kind: Kind
    members: tuple[Member, ...]
    chain: dict[str, Any]
    origin: Origin
    version_1_0: VersionOne
    environment: dict[str, str]
    scores: dict[str, Any] = msgspec.field(default_factory=dict)
    units: dict[str, Any] = msgspec.field(default_factory=dict)
    probe: Probe | None = None
    card: str | None = None
    facts: dict[str, Any] = msgspec.field(default_factory=dict)
    # The member that holds the calibration's domain; unset it leaves no trace, as `Probe.wavelengths`.
    domain: str | msgspec.UnsetType = msgspec.UNSET


def parse_record(data: bytes, where: str | Path) -> BundleRecord:
    """Read ``nirs_store.json``."""
    found = parse_object(data, RECORD)
    number = found.get("record_version")
    if isinstance(number, int) and not isinstance(number, bool) and number > RECORD_VERSION:
        raise BundleTooNew(
            f"{where}: its {RECORD} has version {number}; this library reads up to {RECORD_VERSION}. Nothing was "
            "loaded. Install a newer nirs_store."
        )
    try:
        record = msgspec.convert(found, BundleRecord)
        # The chain stays a dict, as every other room takes it; its shape is still checked.
        msgspec.convert(record.chain, Chain)
    except msgspec.ValidationError as exc:
        raise BundleInvalid(
            f"{where}: its {RECORD} is not as it should be: {exc}. Nothing was loaded; ask for a new export."
        ) from exc
    return record


def stated(record: BundleRecord | None, name: str) -> dict[str, Any]:
    """Return what the writer said of environment, scores, units or facts; that is unchecked."""
    return dict(getattr(record, name)) if record else {}


def written_by(record: BundleRecord | None) -> str:
    """Name the program that wrote a bundle, as far as that is known."""
    return "nirs_store" if record else "another program"


def dump_record(record: BundleRecord) -> bytes:
    """Write ``nirs_store.json``; equal records give equal bytes."""
    return dump_json(clean(msgspec.to_builtins(record)))


def library_version() -> str:
    """Return the version of this library, or ``"0"`` where it runs from a folder that was never installed."""
    return _version("nirs-store") or "0"


def read_environment() -> dict[str, str]:
    """Return the versions that decide whether a pickle written here opens elsewhere."""
    found = {"python": platform.python_version(), "nirs_store": library_version()}
    return found | {package: known for package in _PACKAGES if (known := _version(package)) is not None}


def chain_from_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """Make of a chain in JSON values one as a store gives it: wavelengths an array, the date a datetime."""
    import numpy as np

    chain = dict(found)
    if chain.get("wavelengths") is not None:
        chain["wavelengths"] = np.asarray(chain["wavelengths"], dtype=np.float64)
    if isinstance(chain.get("created_at"), str):
        try:
            chain["created_at"] = datetime.fromisoformat(chain["created_at"])
        except ValueError:
            chain["created_at"] = None
    return chain


def _numbers(text: str) -> list[int]:
    parts = [int(part) for part in text.split(".")]
    return [*parts, 0, 0][:3]


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
