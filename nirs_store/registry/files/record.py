"""Deciding what a put means now, and recording it: one lease, one transaction.

What has to be decided against the present state (the next number, whether production content would be replaced)
is decided where nobody can come in between. The blob gets its name before the row that holds it is committed,
and only once it is decided that there will be one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from nirs_store.catalog import file_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.artifacts import on_disk
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.lineage_rows import insert_links
from nirs_store.catalog.values import to_json
from nirs_store.errors import InvalidInput, OverwriteRefused, UnknownId
from nirs_store.ids import is_id, new_id
from nirs_store.registry.files.finding import require_version
from nirs_store.registry.files.intake import Stored
from nirs_store.registry.files.request import FileVersion, Request
from nirs_store.registry.files.words import PRODUCTION

__all__ = ["Item", "protected", "record", "record_group"]

_DONE = "completed"
# Announced, and not there yet.
_COMING = ("pending", "in_progress")
# What an announced version keeps when its content comes.
_KEPT = frozenset({"version_id", "name", "test_name", "version", "is_latest", "created_at", "updated_at"})


@dataclass
class Item:
    """One file to be recorded: what was asked, and its content, if it has any."""

    request: Request
    kind: str
    stored: Stored | None = None
    #: Of a group: a version id a member, and what the group's content hash is made of.
    members: Mapping[str, str] | None = None
    content_hash: str | None = None
    outcome: FileVersion | None = None


@dataclass
class _Changes:
    """What a transaction will write."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    filled: list[dict[str, Any]] = field(default_factory=list)
    placed: list[tuple[dict[str, Any], Stored]] = field(default_factory=list)
    healed: list[tuple[Stored, str]] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    held: list[tuple[str, str, str]] = field(default_factory=list)
    links: list[tuple[str, str, str]] = field(default_factory=list)
    blobs: list[dict[str, Any]] = field(default_factory=list)


def protected(head: Mapping[str, Any] | None) -> bool:
    """Whether what is there now may only be replaced with force."""
    return head is not None and head["mode"] == PRODUCTION and head["status"] == _DONE


def record(engine: Engine, items: Sequence[Item]) -> list[FileVersion]:
    """Record files in one transaction, all or none.

    Raises
    ------
    OverwriteRefused, UnknownFile, UnknownId, InvalidInput
        Nothing was recorded.
    """
    return engine.exclusive(lambda access: access.transact(lambda con: record_in(con, engine, items)))


def record_in(con: Connection, engine: Engine, items: Sequence[Item]) -> list[FileVersion]:
    """Record inside a transaction of `engine.exclusive`."""
    return _Recording(con, engine).record(items)


def record_group(
    engine: Engine, group: Item, members: Mapping[str, Item]
) -> tuple[FileVersion, list[FileVersion]]:
    """Record a group and its members in one transaction; gives the group, and members that are new.

    Raises
    ------
    As `record`.
    """

    def work(con: Connection) -> tuple[FileVersion, list[FileVersion]]:
        request = group.request
        head = file_rows.find_version(con, request.name, request.test_name, None)
        group.members = {}
        if protected(head) and not request.force and not _same_content(head or {}, group):
            _refuse(head, group)
        stored = record_in(con, engine, list(members.values()))
        group.members = {name: version.version_id for name, version in zip(members, stored, strict=True)}
        return record_in(con, engine, [group])[0], [version for version in stored if version.added]

    return engine.exclusive(lambda access: access.transact(work))


class _Recording:
    """One transaction."""

    def __init__(self, con: Connection, engine: Engine) -> None:
        self._con = con
        self._engine = engine
        self._now = now_naive()

    def record(self, items: Sequence[Item]) -> list[FileVersion]:
        con, changes = self._con, _Changes()
        heads = file_rows.latest_versions(con, list(dict.fromkeys(item.request.name for item in items)))
        retired = file_rows.retired(con)
        sources = self._sources([item.request for item in items])
        self._known("run", "run_id", items)
        self._known("processing", "processing_id", items)
        new: dict[str, dict[str, Any]] = {}
        outcomes: list[tuple[Mapping[str, Any], bool]] = []
        for item in items:
            key = file_rows.series_key(item.request.name, item.request.test_name)
            head = new.get(key) or heads.get(key)
            if head is not None and self._is_there(head, item, new.get(key) is head):
                links = [
                    (kind, sources[kind, source], head["version_id"]) for kind, source in item.request.sources
                ]
                self._refuse_cycles(head["version_id"], links)
                changes.links += links
                if item.stored is not None and item.stored.draft.digest == head["artifact_id"]:
                    # The same bytes: should those on the disk be damaged, this mends them.
                    changes.healed.append((item.stored, head["type"]))
                outcomes.append((head, False))
                continue
            if protected(head) and not item.request.force:
                _refuse(head, item)
            row = self._row(item, head, retired.get(key, 0))
            if head is not None and _is_announced(head) and key not in new:
                # What was announced has come: the version that stood for it gets its content.
                row |= {name: head[name] for name in ("version_id", "version", "created_at")}
                changes.filled.append(row)
            else:
                if head is not None and key in new:
                    head["is_latest"] = False
                elif head is not None:
                    changes.superseded.append(head["version_id"])
                changes.rows.append(row)
            new[key] = row
            if item.stored is not None:
                changes.placed.append((row, item.stored))
            links = [
                (kind, sources[kind, source], row["version_id"]) for kind, source in item.request.sources
            ]
            self._refuse_cycles(row["version_id"], links)
            changes.links += links
            outcomes.append((row, True))
        # Nothing is refused any more: only now do blobs get their names.
        self._place(changes)
        self._write(changes)
        return [FileVersion.of(row, added=added) for row, added in outcomes]

    # -- what is asked of the catalog --------------------------------------------------------------

    def _sources(self, requests: Sequence[Request]) -> dict[tuple[str, str], str]:
        """Ids of sources by what the caller wrote."""
        wanted = dict.fromkeys(pair for request in requests for pair in request.sources)
        found = {
            (kind, source): str(require_version(self._con, source, None, None)["version_id"])
            for kind, source in wanted
            if kind == "file" and not is_id(source)
        }
        by_kind: dict[str, list[str]] = {}
        for kind, source in wanted.keys() - found.keys():
            by_kind.setdefault(kind, []).append(source)
        for kind, ids in by_kind.items():
            there = file_rows.exists(self._con, kind, ids)
            for each in ids:
                if each not in there:
                    raise UnknownId(kind, each, "It was named as a source. Nothing was stored.")
                found[kind, each] = each
        return found

    def _known(self, kind: str, column: str, items: Sequence[Item]) -> None:
        ids = {item.request.texts[column] for item in items} - {None}
        missing = sorted(str(each) for each in ids) if ids else []
        if missing:
            there = file_rows.exists(self._con, kind, missing)
            for each in missing:
                if each not in there:
                    raise UnknownId(kind, each, "Nothing was stored.")

    def _refuse_cycles(self, version_id: str, links: Sequence[tuple[str, str, str]]) -> None:
        files = [source for kind, source, _ in links if kind == "file"]
        # A version that is new cannot be the source of anything yet.
        if files and (version_id in files or file_rows.descends_from(self._con, version_id, files)):
            raise InvalidInput(
                f"sources: {', '.join(files)} would be made from itself in the end (a cycle). Nothing was stored."
            )

    # -- what is written ---------------------------------------------------------------------------

    def _is_there(self, head: dict[str, Any], item: Item, fresh: bool) -> bool:
        """Tell whether the content is there as it is described now; adds what is said of it for the first time."""
        if not _same_content(head, item):
            return False
        request = item.request
        known = head["metadata"] or {}
        if any(known.get(key, value) != value for key, value in request.metadata.items()):
            return False
        if request.type != head["type"] or (request.mode == PRODUCTION) > (head["mode"] == PRODUCTION):
            return False
        tags = list(dict.fromkeys([*(head["tags"] or ()), *request.tags]))
        metadata = {**known, **request.metadata}
        values: dict[str, Any] = {}
        if tags != (head["tags"] or []):
            values["tags"] = tags
        if metadata != known:
            values["metadata"] = metadata
        if request.status is not None and request.status != head["status"]:
            values |= {"status": request.status, "message": request.message}
        values |= {
            name: text for name, text in request.texts.items() if text is not None and head.get(name) is None
        }
        if values and not fresh:
            plain = {
                name: to_json(v, name) if name in ("tags", "metadata") else v for name, v in values.items()
            }
            file_rows.change_version(self._con, head["version_id"], plain)
        elif values:
            return False
        head.update(values)
        return True

    def _row(self, item: Item, head: Mapping[str, Any] | None, retired: int) -> dict[str, Any]:
        request, stored = item.request, item.stored
        # Content that replaces production content is production content, unless its caller says otherwise.
        stays = protected(head) and not request.mode_said
        return {
            "version_id": new_id(),
            "name": request.name,
            "test_name": request.test_name,
            "version": max(retired, 0 if head is None else int(head["version"])) + 1,
            "is_latest": True,
            "type": request.type,
            "kind": item.kind,
            "status": request.status or _DONE,
            "mode": PRODUCTION if stays else request.mode,
            "coverage": request.coverage,
            "artifact_id": None,
            "content_hash": item.content_hash if stored is None else stored.content_hash,
            "size_bytes": 0 if stored is None else stored.size,
            "stored_bytes": 0 if stored is None else stored.draft.size,
            "compression": "none" if stored is None else stored.compression,
            "compression_note": None if stored is None else stored.note,
            "members": item.members,
            "tags": list(request.tags),
            "metadata": dict(request.metadata),
            "message": request.message,
            "session_id": self._engine.session_id,
            "created_at": self._now,
            "updated_at": self._now,
            **request.texts,
        }

    def _place(self, changes: _Changes) -> None:
        """Give the drafts their names among the blobs, and their rows."""
        kinds: dict[str, str] = {}
        unique: dict[str, Stored] = {}
        for row, stored in changes.placed:
            row["artifact_id"] = stored.draft.digest
            changes.held.append((row["version_id"], stored.draft.digest, row["type"]))
        for stored, kind in [*((stored, row["type"]) for row, stored in changes.placed), *changes.healed]:
            unique.setdefault(stored.draft.digest, stored)
            kinds.setdefault(stored.draft.digest, kind)
        if not unique:
            return
        # The same bytes may be there under another ending; there must be one file of them.
        paths = file_rows.blob_paths(self._con, unique)
        drafts = []
        for artifact_id, stored in unique.items():
            known = on_disk(self._engine.layout, artifact_id)
            path = known["artifact_path"] if known else paths.get(artifact_id, "")
            drafts.append((stored.draft, PurePosixPath(path).suffix.lstrip(".") or stored.ending))
        for info in self._engine.blobs.adopt(drafts):
            changes.blobs.append(
                {
                    "artifact_id": info.artifact_id,
                    "artifact_path": info.path,
                    "content_hash": info.artifact_id,
                    "operator_class": "",
                    "artifact_type": kinds[info.artifact_id],
                    "format": "bytes",
                    "size_bytes": info.size,
                    "created_at": self._now,
                }
            )

    def _write(self, changes: _Changes) -> None:
        con = self._con
        if changes.blobs:
            file_rows.insert_blobs(con, changes.blobs)
        file_rows.supersede(con, changes.superseded)
        file_rows.insert_rows(con, "file_versions", [_as_columns(row) for row in changes.rows])
        for row in changes.filled:
            values = _as_columns(row)
            file_rows.change_version(
                con, row["version_id"], {k: v for k, v in values.items() if k not in _KEPT}
            )
        file_rows.hold(con, changes.held)
        if changes.links:
            insert_links(con, file_rows.add_links(con, changes.links))


def _as_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(row)
    values["tags"] = to_json(row["tags"] or [], "tags")
    values["metadata"] = to_json(row["metadata"], "metadata") if row["metadata"] else None
    values["members"] = to_json(row["members"], "members")
    return values


def _is_announced(head: Mapping[str, Any]) -> bool:
    return head["status"] in _COMING and head["content_hash"] is None


def _same_content(head: Mapping[str, Any], item: Item) -> bool:
    if item.stored is None and item.members is None:
        described = (item.kind, dict(item.request.metadata), item.request.status or _DONE)
        return described == (head["kind"], head["metadata"] or {}, head["status"])
    digest = item.content_hash if item.stored is None else item.stored.content_hash
    # What failed is not there, whatever it holds.
    return bool(head["content_hash"] == digest and head["status"] != "failed")


def _refuse(head: Mapping[str, Any] | None, item: Item) -> None:
    assert head is not None
    what = "other content" if not _same_content(head, item) else "another description of it"
    raise OverwriteRefused(
        f"{item.request.name!r} is production content (version {head['version']} of {head['created_at']:%Y-%m-%d}), "
        f"and this is {what}. Nothing was changed. Give another name, or make a new version with force=True (on the "
        "command line: --force); the old one stays."
    )
