"""What a caller says of a file, checked before anything is read or written; and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from nirs_store.catalog.file_rows import SOURCE_KINDS
from nirs_store.catalog.values import as_text, to_json, with_zone
from nirs_store.errors import InvalidInput
from nirs_store.registry.files.names import check_label, check_name
from nirs_store.registry.files.types import FileType, check_metadata, check_type_name
from nirs_store.registry.files.words import COMPRESSIONS, COVERAGES, MODES, STATUSES, check_word, mode_of

__all__ = ["FileVersion", "Request", "check_request", "tags_of"]

_TEXTS = (
    "run_id",
    "model_id",
    "evaluation_id",
    "suite",
    "episode",
    "module",
    "module_version",
    "processing_id",
)
_KNOWN = frozenset(
    (
        *_TEXTS, "type", "sources", "tags", "metadata", "compression", "mode", "coverage", "test_name", "group",
        "force", "status", "message",
    )
)  # fmt: skip


@dataclass(frozen=True)
class FileVersion:
    """One version of a stored file.

    Attributes
    ----------
    version_id : str
        Names this version for ever; taken wherever a name is.
    name, test_name : str
        Its series.
    version : int
    type, kind, status, mode : str
        `kind` is file, folder, bytes, json, table, group or metadata.
    size_bytes, stored_bytes : int
        Before and after compression.
    compression, compression_note : str
        What was done; the note says why a file was not compressed.
    content_hash : str or None
        SHA-256 of the content; None without content.
    artifact_id : str or None
        The blob.
    created_at : datetime
    added : bool
        False when the same content was there already.
    """

    version_id: str
    name: str
    test_name: str | None
    version: int
    type: str
    kind: str
    status: str
    mode: str
    size_bytes: int
    stored_bytes: int
    compression: str
    compression_note: str | None
    content_hash: str | None
    artifact_id: str | None
    created_at: datetime
    added: bool = True

    @classmethod
    def of(cls, row: Mapping[str, Any], *, added: bool = True) -> FileVersion:
        """Make it from a row of the catalog."""
        values = {
            each.name: row[each.name] for each in fields(cls) if each.name not in ("added", "created_at")
        }
        return cls(**values, created_at=with_zone(row["created_at"]), added=added)  # type: ignore[arg-type]

    def __str__(self) -> str:
        where = f" (test {self.test_name})" if self.test_name else ""
        note = f"; {self.compression_note}" if self.compression_note else ""
        return f"{self.name}{where} v{self.version}: {self.type}, {self.size_bytes:,} bytes, {self.compression}{note}"


@dataclass(frozen=True, slots=True)
class Request:
    """A file to be stored, as the caller described it; columns that are texts are in `texts`."""

    name: str
    test_name: str | None
    type: str
    mode: str
    mode_said: bool
    coverage: str | None
    status: str | None
    compression: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    metadata_text: str | None
    sources: tuple[tuple[str, str], ...]
    texts: Mapping[str, str | None]
    message: str | None
    force: bool


def check_request(name: object, about: Mapping[str, Any], types: Mapping[str, FileType]) -> Request:
    """Check everything that can be checked without looking at the catalog.

    Raises
    ------
    InvalidInput
    """
    unknown = about.keys() - _KNOWN
    if unknown:
        raise InvalidInput(f"Unknown arguments: {', '.join(sorted(unknown))}. Nothing was stored.")
    if about.get("type") is None:
        raise InvalidInput("type: expected what the file is, as in 'report'. Nothing was stored.")
    kind = check_type_name(about["type"], types)
    test_name = None if about.get("test_name") is None else check_label(about["test_name"], "test_name")
    coverage = None if about.get("coverage") is None else check_word(about["coverage"], "coverage", COVERAGES)
    mode = None if about.get("mode") is None else check_word(about["mode"], "mode", MODES)
    status = None if about.get("status") is None else check_word(about["status"], "status", STATUSES)
    metadata = about.get("metadata")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata: expected a dict, found {type(metadata).__name__}. Nothing was stored.")
    check_metadata(types[kind], metadata)
    texts = {key: None if about.get(key) is None else as_text(about[key], key) for key in _TEXTS}
    texts["group_name"] = None if about.get("group") is None else as_text(about["group"], "group")
    return Request(
        check_name(name),
        test_name,
        kind,
        mode_of(mode, coverage, test_name),
        mode is not None or coverage is not None,
        coverage,
        status,
        check_word(about.get("compression") or "auto", "compression", COMPRESSIONS),
        tags_of(about.get("tags") or ()),
        metadata,
        to_json(metadata, "metadata") if metadata else None,
        _sources(about.get("sources") or ()),
        texts,
        None if about.get("message") is None else as_text(about["message"], "message"),
        bool(about.get("force")),
    )


def told(request: Request) -> dict[str, Any]:
    """What is said of the content, by argument: the workspace's guard looks through it."""
    return {
        "name": request.name,
        "test_name": request.test_name,
        "tags": list(request.tags),
        "metadata": dict(request.metadata),
        "message": request.message,
        **request.texts,
    }


def tags_of(tags: object) -> tuple[str, ...]:
    """Give tags without repetition.

    Raises
    ------
    InvalidInput
        One is no text, or empty.
    """
    if isinstance(tags, str):
        tags = (tags,)
    if not isinstance(tags, Iterable):
        raise InvalidInput(f"tags: expected texts, found {type(tags).__name__}. Nothing was stored.")
    found = tuple(dict.fromkeys(as_text(tag, "tags") for tag in tags))
    if any(not tag.strip() or not tag.isprintable() for tag in found):
        raise InvalidInput(f"tags: a tag has at least one sign, and all can be printed; found {found!r}.")
    return found


def _sources(sources: object) -> tuple[tuple[str, str], ...]:
    """Read sources: a name, a version's id, a FileVersion, or a pair of kind and id."""
    if isinstance(sources, (str, FileVersion)) or not isinstance(sources, Sequence):
        sources = (sources,)
    found = []
    for source in sources:
        if isinstance(source, FileVersion):
            found.append(("file", source.version_id))
        elif isinstance(source, str):
            found.append(("file", as_text(source, "sources")))
        elif isinstance(source, Sequence) and len(source) == 2:
            found.append((check_word(source[0], "sources", SOURCE_KINDS), as_text(source[1], "sources")))
        else:
            raise InvalidInput(
                f"sources: expected names of files, ids of versions, or pairs as in ('chain', id); found {source!r}. "
                "Nothing was stored."
            )
    return tuple(dict.fromkeys(found))
