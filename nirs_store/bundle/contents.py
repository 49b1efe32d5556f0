"""Everything about a bundle that can be known without loading an object from it.

The order matters: the directory is checked before anything is decompressed, sizes and hashes before anything
is interpreted, and what the pickles name is listed without running them. Loading comes after all of this,
elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nirs_store.bundle.container import (
    DEFAULT_LIMITS,
    Limits,
    Members,
    check_archive,
    dump_json,
    is_own_name,
    parse_object,
)
from nirs_store.bundle.manifest import CARD, MANIFEST, RECORD, BundleRecord, Manifest, parse_record
from nirs_store.bundle.nirs4all import DESCRIPTIONS, Outline, outline
from nirs_store.bundle.trust import PickleListing, list_pickle, merge_listings
from nirs_store.errors import BundleInvalid, BundleMissing
from nirs_store.ids import sha256_hex

# What of a chain is the model; ids, dates and the data it was made from differ from workspace to workspace.
_CONTENT = (
    "steps", "model_step_idx", "model_class", "preprocessings", "fold_strategy", "fold_artifacts",
    "shared_artifacts", "branch_path", "source_index", "fold_weights", "wavelengths",
)  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """A bundle that was read and checked, but not loaded."""

    path: Path
    manifest: Manifest
    record: BundleRecord | None
    outline: Outline | None
    payloads: Mapping[str, bytes]
    arrays: Mapping[str, bytes]
    hashes: Mapping[str, str]
    sizes: Mapping[str, int]
    limits: Limits = DEFAULT_LIMITS
    card: str | None = None

    @property
    def kind(self) -> str:
        """What the fitted objects are: "joblib" (pickles) or "skops"."""
        return self.record.kind if self.record else "joblib"

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes: what the export rearranged, or what looked strange when reading."""
        if self.record is not None:
            return self.record.version_1_0.notes
        return tuple(self.outline.notes) if self.outline else ()

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the objects and the chain that names them, whatever else travels with them."""
        # Exports of the same chain from two workspaces have the same one.
        objects = sorted({self.hashes[name] for name in self.payloads})
        chain = {} if self.record is None else {key: self.record.chain.get(key) for key in _CONTENT}
        if self.record is None:
            objects += [f"{name} {self.hashes[name]}" for name in sorted(self.payloads)]
        return sha256_hex(dump_json([self.kind, objects, chain]))

    @cached_property
    def pickles(self) -> PickleListing:
        """What the fitted objects name."""
        return merge_listings(list_pickle(value) for value in self.payloads.values())


def read_contents(path: Path, limits: Limits) -> Contents:
    """Read a bundle up to the point where loading would begin."""
    with _open(path, limits) as members:
        names = members.names
        if MANIFEST not in names:
            raise BundleInvalid(
                f"{path} is a ZIP file without {MANIFEST}, so it is not a .n4a bundle. "
                "If it was one, it was repacked without it; ask for the original."
            )
        raw = members.read(MANIFEST, limits.manifest_bytes)
        manifest = Manifest(parse_object(raw, MANIFEST), path)
        sizes = {name: members.size(name) for name in names}
        promised = manifest.get("members_listed_in")
        if RECORD in names:
            record = parse_record(members.read(RECORD, limits.json_bytes), path)
            data = _read_listed(path, members, record, {MANIFEST: raw}, limits.manifest_bytes)
            hashes = {member.name: member.sha256 for member in record.members}
            found = None
            payloads = {
                name: value for name, value in data.items() if name.startswith(("artifacts/", "blobs/"))
            }
            _check_kind(path, record.kind, {name: hashes[name] for name in payloads})
        elif promised is not None:
            raise BundleInvalid(
                f"{path}: its manifest says that {str(promised)[:80]!r} lists the members, but that is not there, so "
                "nothing can be verified. It was taken out or renamed; ask for the original."
            )
        else:
            record = None
            texts = {
                name: parse_object(members.read(name, limits.json_bytes), name)
                for name in DESCRIPTIONS
                if name in names
            }
            found = outline(manifest, names, texts, path)
            data = payloads = {name: members.read(name) for name in found.members}
            hashes = {name: sha256_hex(value) for name, value in data.items()}
            _check_integrity(path, manifest, sizes, hashes)
    arrays = {name: value for name, value in data.items() if name.startswith("arrays/")}
    card = data[CARD].decode("utf-8", "replace") if record is not None and CARD in data else None
    return Contents(path, manifest, record, found, payloads, arrays, hashes, sizes, limits, card)


@contextmanager
def _open(path: Path, limits: Limits) -> Iterator[Members]:
    if path.is_dir():
        raise BundleInvalid(f"{path} is a folder, not a bundle. Give the path of a .n4a file.")
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise BundleMissing(
            f"There is no bundle at {path}. Check the path; export_chain writes one."
        ) from None
    with stream:
        yield check_archive(stream, path, limits)


def _read_listed(
    path: Path, members: Members, record: BundleRecord, known: dict[str, bytes], card_bytes: int
) -> dict[str, bytes]:
    """Read every member and compare it with the list of ``nirs_store.json``."""
    listed = {member.name: member for member in record.members}
    if len(listed) != len(record.members):
        raise BundleInvalid(
            f"{path}: {RECORD} lists a member twice. Nothing was loaded; ask for a new export."
        )
    there = set(members.names) - {RECORD}
    if missing := sorted(listed.keys() - there):
        raise BundleInvalid(
            f"{path}: the member {missing[0]} is missing ({len(missing)} of {len(listed)}). Nothing was loaded; it "
            "was taken out or renamed. Copy or export the bundle again."
        )
    if strange := sorted(there - listed.keys()):
        raise BundleInvalid(
            f"{path}: the member {strange[0]!r} is not listed in {RECORD}. Nothing was loaded; it was "
            "added or renamed later. Ask for the original."
        )
    if odd := sorted(name for name in there if not is_own_name(name)):
        raise BundleInvalid(
            f"{path}: no bundle of this library has a member called {odd[0]!r}. Nothing was loaded."
        )
    found: dict[str, bytes] = {}
    for name, member in listed.items():
        if members.size(name) != member.size:
            raise BundleInvalid(
                f"{path}: the member {name} has {members.size(name):,} bytes, listed are {member.size:,}. "
                "Nothing was loaded; copy or export the bundle again."
            )
        data = known.get(name) or members.read(name, card_bytes if name == CARD else None)
        if sha256_hex(data) != member.sha256:
            raise BundleInvalid(
                f"{path}: the member {name} has the SHA-256 {sha256_hex(data)}, listed is {member.sha256[:64]!r}. It "
                "was damaged or exchanged. Nothing was loaded; copy or export the bundle again."
            )
        found[name] = data
    return found


def _check_kind(path: Path, kind: str, hashes: Mapping[str, str]) -> None:
    """Compare the names of objects with the kind of the bundle, and those that are hashes with the content."""
    for name, digest in hashes.items():
        if not name.endswith(f".{kind}"):
            raise BundleInvalid(
                f"{path} says that it is of the kind {kind!r}, and holds {name}. Nothing was loaded; ask for a new "
                "export."
            )
        if name.startswith("blobs/") and name[6:70] != digest:
            raise BundleInvalid(
                f"{path}: the member {name} is not named by its SHA-256. Nothing was loaded; ask for a new export."
            )


def _check_integrity(
    path: Path, manifest: Manifest, there: Collection[str], hashes: Mapping[str, str]
) -> None:
    """Compare a foreign bundle with the hashes that its manifest promises."""
    promised = manifest.integrity
    # In version 1.0 the names of the members alone say which steps there are: nothing misses one that is gone.
    if missing := sorted(promised.keys() - set(there)):
        raise BundleInvalid(
            f"{path}: the member {missing[0]!r}, which its manifest promises, is missing ({len(missing)} of "
            f"{len(promised)}). Nothing was loaded; it was taken out or renamed, and without it the predictions "
            "would be wrong. Copy or export the bundle again."
        )
    for name, digest in promised.items():
        if name in hashes and hashes[name] != digest:
            raise BundleInvalid(
                f"{path}: the member {name} has the SHA-256 {hashes[name]}, its manifest promises {digest[:64]!r}. "
                "It was damaged or exchanged. Nothing was loaded; copy or export the bundle again."
            )
