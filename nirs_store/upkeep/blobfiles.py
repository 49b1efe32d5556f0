"""Whether the files of artifacts are there, as long as they should be, and unaltered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nirs_store.blobs.paths import aside_name, check_hash, resolve_inside
from nirs_store.blobs.verified import hash_file
from nirs_store.catalog.inspection import BlobRow
from nirs_store.catalog.layout import Layout
from nirs_store.errors import InvalidInput, PathEscapes
from nirs_store.upkeep.findings import Finding
from nirs_store.upkeep.structure import stem_of
from nirs_store.upkeep.surroundings import Surroundings

__all__ = ["Expected", "Progress", "expected_files", "hash_files", "is_blob_name", "look_at", "unknown_files"]

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and those to read."""

_HEAL = (
    "Save the same object again, or bring the file back from a backup; `nirs-store repair` moves the bad one "
    "to quarantine/."
)
_BRING_BACK = "Save the same object again, or bring the file back from a backup."


@dataclass(frozen=True)
class Expected:
    """A file that must be there.

    Attributes
    ----------
    artifact_id, path, content_hash : str
        As its row says, or its name where there is no row.
    size : int or None
        Bytes; None where nothing says it.
    needed_by : tuple of str
        The chains that cannot replay without it.
    """

    artifact_id: str
    path: str
    content_hash: str
    size: int | None
    needed_by: tuple[str, ...]

    def finding(self, kind: str, message: str, remedy: str) -> Finding:
        """Say that something is wrong with it."""
        return Finding(
            kind, "error", self.path, message, self.needed_by, remedy, (self.artifact_id, self.path)
        )


def expected_files(
    blobs: Sequence[BlobRow] | None, needed_by: dict[str, list[str]], seen: Surroundings
) -> list[Expected]:
    """The files that rows name; where no rows can be had, those whose name says what they hold."""
    if blobs is None:
        return [
            Expected(stem_of(path), path, stem_of(path), None, ())
            for path in sorted(seen.files | seen.aside)
            if is_blob_name(path)
        ]
    return [
        Expected(b.artifact_id, b.path, b.content_hash, b.size, tuple(needed_by.get(b.artifact_id, ())))
        for b in blobs
    ]


def look_at(layout: Layout, expected: Iterable[Expected]) -> tuple[list[Finding], list[Expected]]:
    """Look whether files are there and have their size, without reading them.

    Returns
    -------
    findings, present
        What is wrong, and the files that are worth reading.
    """
    findings: list[Finding] = []
    present: list[Expected] = []
    for file in expected:
        try:
            place = _place(layout, file.path)
        except PathEscapes as error:
            findings.append(file.finding("blob_path", str(error), "Bring store.duckdb back from a backup."))
            continue
        if place is None:
            findings.append(file.finding("blob_missing", "the file is gone.", _BRING_BACK))
            continue
        size = os.path.getsize(place)
        if file.size is not None and size != file.size:
            message = f"expected {file.size:,} bytes, found {size:,}."
            findings.append(file.finding("blob_size", message, _HEAL))
        else:
            present.append(file)
    return findings, present


def hash_files(
    layout: Layout, expected: Sequence[Expected], progress: Progress | None = None
) -> list[tuple[Expected, Finding]]:
    """Read files whole and compare their hashes; gives those that do not fit, or cannot be read."""
    bad: list[tuple[Expected, Finding]] = []
    sizes = {file.path: file.size or 0 for file in expected}
    total, done = sum(sizes.values()), 0
    digests: dict[str, str | OSError | None] = {}
    for file in expected:
        if file.path not in digests:
            digests[file.path] = _digest(layout, file.path)
            done += sizes[file.path]
            if progress is not None:
                progress(done, total)
        digest = digests[file.path]
        if digest == file.content_hash:
            continue
        if digest is None:
            bad.append((file, file.finding("blob_missing", "the file is gone.", _BRING_BACK)))
        elif isinstance(digest, OSError):
            reason = f"the file cannot be read: {digest.strerror or digest}."
            bad.append(
                (
                    file,
                    file.finding("blob_unreadable", reason, "Give this user the right, or check the disk."),
                )
            )
        else:
            message = f"expected the SHA-256 {file.content_hash}, found {digest}."
            bad.append((file, file.finding("blob_corrupt", message, _HEAL)))
    return bad


def unknown_files(
    layout: Layout, blobs: Sequence[BlobRow], seen: Surroundings, *, besides: set[str]
) -> list[Finding]:
    """Files among the blobs that no row names and no living store is saving, besides those named otherwise."""
    named = {blob.path for blob in blobs} | besides
    # Commits set aside still name theirs; they may be brought back.
    for _, segment in seen.rejected:
        if segment is not None and "blobs" in segment.tables:
            named.update(segment.tables["blobs"].column("artifact_path").to_pylist())
    findings = []
    for path in sorted((seen.files | seen.aside) - named):
        if path in seen.claimed or stem_of(path) in seen.claimed:
            continue
        place = _place(layout, path)
        if place is None:
            continue
        size = os.path.getsize(place)
        if is_blob_name(path):
            message = f"a blob of {size:,} bytes that no row names."
            remedy = "`nirs-store repair` moves it to quarantine/ when it is older than an hour."
            findings.append(Finding("blob_orphan", "warning", path, message, (), remedy, (path,)))
        else:
            findings.append(_unknown(path, f"an unknown file of {size:,} bytes, left alone."))
    findings += [_unknown(path, "not a regular file, left alone.") for path in sorted(seen.others)]
    return findings


def is_blob_name(path: str) -> bool:
    """Whether a path has the form ``artifacts/ab/ab12….suffix``."""
    parts = path.split("/")
    try:
        check_hash(stem_of(path))
    except InvalidInput:
        return False
    return len(parts) == 3 and parts[0] == "artifacts" and parts[1] == parts[2][:2]


def _unknown(path: str, message: str) -> Finding:
    return Finding("unknown_file", "info", path, message)


def _place(layout: Layout, relative: str) -> Path | None:
    """Where a file is: in its own place, or set aside by a gc."""
    for place in (resolve_inside(layout.root, relative), layout.aside / aside_name(relative)):
        if place.is_file():
            return place
    return None


def _digest(layout: Layout, relative: str) -> str | OSError | None:
    place = _place(layout, relative)
    if place is None:
        return None
    try:
        return hash_file(place)[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
