"""Storing files: check all, write all drafts, then decide under the lock what each put means and record it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from nirs_store.audit.trail import attempting
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Row, Table
from nirs_store.errors import InvalidInput, OverwriteRefused, UnknownId
from nirs_store.files.content import Content, Stored, content_of, take_in
from nirs_store.files.names import (
    MODES,
    PRODUCTION,
    FileType,
    FileVersion,
    Request,
    check_request,
    check_word,
)
from nirs_store.files.output import read_value
from nirs_store.files.rows import (
    add_links,
    descends_from,
    find_version,
    latest_versions,
    require_version,
    series_key,
)
from nirs_store.files.runs import remove_scratch, scratch
from nirs_store.files.scope import Scope, note_versions, types_for
from nirs_store.ids import is_id, new_id, now_naive, sha256_hex
from nirs_store.records import named
from nirs_store.records.artifacts import adopt, hold
from nirs_store.records.links import Ref, existing
from nirs_store.records.lookup import whole_id
from nirs_store.records.notes import check_guard
from nirs_store.values import to_json

T = TypeVar("T")

_WRITERS = 4
_DONE = "completed"
# Announced, and not there yet.
_COMING = ("pending", "in_progress")
# What an announced version keeps when its content comes.
_KEPT = ("version_id", "name", "test_name", "version", "is_latest", "created_at")
# Metadata of content that is there already is added, where nothing was said before.
_FILLED = (
    "run_id", "model_id", "evaluation_id", "suite", "group_name", "episode", "module", "module_version",
    "processing_id",
)  # fmt: skip
_COMPUTED_FROM = "computed_from"

# A source, a name, and what is said of the file.
Wanted = tuple[Any, Any, Mapping[str, Any]]


@dataclass
class Item:
    """One file to be recorded: what was asked, and its content, if it has any."""

    request: Request
    kind: str
    stored: Stored | None = None
    #: Of a group: a version id for each member, and a hash over the members' content.
    members: Mapping[str, str] | None = None
    content_hash: str | None = None


# -- what `store.files` offers -------------------------------------------------------------------


def put(scope: Scope, wanted: Sequence[Wanted]) -> list[FileVersion]:
    """Store files in one transaction, all or none."""
    wanted = [(source, _name_of(source) if name is None else name, about) for source, name, about in wanted]
    subject = str(wanted[0][1]) if len(wanted) == 1 else None
    with attempting(scope.engine, "put", "file", subject), prepared(scope, wanted) as items:
        versions = transact(scope.engine, lambda con: record(con, scope.engine, items))
    forced = {"force": True} if any(item.request.force for item in items) else {}
    note_versions(scope.engine, "put", [vars(version) for version in versions if version.added], **forced)
    return versions


def put_many(scope: Scope, items: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> list[FileVersion]:
    """Store files that are described by dicts of the arguments of `Files.put`."""
    wanted = []
    for item in items:
        if not isinstance(item, Mapping):
            raise InvalidInput(f"items: expected dicts of arguments, found {item!r}. Nothing was stored.")
        said = {**about, **item}
        wanted.append((said.pop("source", None), said.pop("name", None), said))
    return put(scope, wanted)


@contextmanager
def create(scope: Scope, name: str, about: Mapping[str, Any]) -> Iterator[Path]:
    """Return a path, and store what the caller has written there at the end."""
    whole = scope.name(name)
    about = {"type": scope.defaults.get("type", "file"), **about}
    with attempting(scope.engine, "put", "file", whole):
        check(scope, whole, about)
    folder = scratch(scope.engine)
    try:
        path = folder / whole.rpartition("/")[2]
        yield path
        if not path.exists():
            raise InvalidInput(f"Nothing was written to {path}, so nothing was stored as {whole!r}.")
        put(scope, [(path, name, about)])
    finally:
        remove_scratch(folder)


def get_or_compute(
    scope: Scope, name: str, compute: Callable[[], Any], inputs: Any, about: Mapping[str, Any]
) -> Any:
    """Return what is stored under a name; compute and store it first where it is not there."""
    engine = scope.engine
    which = scope.which(name, None, about.get("test_name"))
    key = None if inputs is None else sha256_hex((to_json(inputs, "inputs") or "").encode())
    row = engine.query(lambda con: find_version(con, *which))
    if row is not None and row["content_hash"] and row["status"] == _DONE and not about.get("force"):
        if key is None or (row["metadata"] or {}).get(_COMPUTED_FROM) == key:
            return read_value(engine, row)
        if protected(row):
            with attempting(engine, "put", "file", which[0]):
                raise OverwriteRefused(
                    f"{which[0]!r} is production content that was computed from other inputs. Nothing was computed. "
                    "Give another name, or force=True for a new version."
                )
    if key is not None:
        about = {**about, "metadata": {**(about.get("metadata") or {}), _COMPUTED_FROM: key}}
    [version] = put(scope, [(compute(), name, about)])
    return read_value(engine, scope.row(version))


def should_overwrite(scope: Scope, name: str, force: bool, mode: str | None, test_name: str | None) -> bool:
    """Tell whether a put of other content under a name would be accepted."""
    if mode is not None:
        check_word(mode, "mode", MODES)
    if force:
        return True
    whole, _, test, _ = scope.which(name, None, test_name)
    return not protected(scope.engine.query(lambda con: find_version(con, whole, None, test)))


# -- preparing -----------------------------------------------------------------------------------


def _name_of(source: Any) -> str:
    """Return the name that a path has by itself."""
    if isinstance(source, (str, os.PathLike)) and (name := Path(os.fsdecode(source)).name):
        return name
    found = repr(source) if isinstance(source, str) else type(source).__name__
    raise InvalidInput(
        "name: expected one, as in 'fat/report.json': only a path has a name by itself, and the source is "
        f"{found}. Nothing was stored."
    )


def check(
    scope: Scope, name: object, about: Mapping[str, Any], types: dict[str, FileType] | None = None
) -> Request:
    """Check everything that can be checked without looking at versions; `types` collects those that are known."""
    types = {} if types is None else types
    said = scope.about(about)
    if said.get("run_id") is not None:
        said["run_id"] = whole_id(scope.engine, "run", said["run_id"])
    if said.get("type") not in types:
        types.update(types_for(scope.engine, said.get("type")))
    request = check_request(name, said, types)
    check_guard(scope.engine, request.described())
    return request


@contextmanager
def prepared(scope: Scope, wanted: Sequence[Wanted]) -> Iterator[list[Item]]:
    """Check all files, then write all drafts; drafts that got no name in the block are discarded."""
    scope.engine.check_writable()
    items: list[Item] = []
    full: list[tuple[Item, Content]] = []
    types: dict[str, FileType] = {}
    for source, name, about in wanted:
        request = check(scope, scope.new_name(name), about, types)
        content = content_of(source, request.name)
        items.append(Item(request, "metadata" if content is None else content.kind))
        if content is not None:
            full.append((items[-1], content))

    def write(pair: tuple[Item, Content]) -> None:
        item, content = pair
        item.stored = take_in(scope.engine.blobs, content, item.request.name, item.request.compression)

    try:
        if len(full) == 1:
            write(full[0])
        elif full:
            # A durable write waits mostly for the disk.
            with ThreadPoolExecutor(_WRITERS, thread_name_prefix="nirs-store-files") as pool:
                list(pool.map(write, full))
        yield items
    finally:
        for item in items:
            if item.stored is not None:
                item.stored.draft.discard()


# -- recording -----------------------------------------------------------------------------------


def transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run one transaction that may give blobs their names."""
    # Unlike `engine.change`, it waits for a gc that is still deleting files: they may be those that come now.
    return engine.exclusive(lambda access: access.transact(work))


def record(con: Connection, engine: Engine, items: Sequence[Item]) -> list[FileVersion]:
    """Decide for each item whether it is a new version, and record all of them in the caller's transaction."""
    now = now_naive()
    heads = latest_versions(con, {item.request.name for item in items})
    keys = {series_key(item.request.name, item.request.row["test_name"]) for item in items}
    retired = {row["series"]: row["version"] for row in Table(con, "file_retired").where(series=keys)}
    sources = _sources(con, items)
    for kind in ("run", "processing"):
        _require(
            con, kind, {item.request.row[f"{kind}_id"] for item in items} - {None}, "Nothing was stored."
        )
    new: dict[str, Row] = {}
    rows: list[Row] = []
    filled: list[Row] = []
    placed: list[tuple[Row, Stored, bool]] = []
    links: list[tuple[str, str, str]] = []
    outcomes: list[tuple[Row, bool]] = []
    superseded: list[str] = []
    for item in items:
        request, stored = item.request, item.stored
        key = series_key(request.name, request.row["test_name"])
        head = new.get(key) or heads.get(key)
        if head is not None and _is_there(con, head, item, fresh=key in new):
            row, added = head, False
        else:
            if protected(head) and not request.force:
                refuse_other_content(head, item)
            row, added = _row(engine, item, head, retired.get(key, 0), now), True
            if (
                head is not None
                and key not in new
                and head["status"] in _COMING
                and head["content_hash"] is None
            ):
                # The announced content has come: the version that stood for it gets its content.
                row |= {name: head[name] for name in _KEPT}
                filled.append(row)
            else:
                if key in new:
                    new[key]["is_latest"] = False
                elif head is not None:
                    superseded.append(head["version_id"])
                rows.append(row)
            new[key] = row
        # The same bytes again heal those on the disk, should they be damaged.
        if stored is not None and (added or stored.draft.digest == row["artifact_id"]):
            row["artifact_id"] = stored.draft.digest
            placed.append((row, stored, added))
        made_from = [(kind, sources[kind, source]) for kind, source in request.sources]
        _refuse_cycles(con, row["version_id"], [source for kind, source in made_from if kind == "file"])
        links += [(*source, row["version_id"]) for source in made_from]
        outcomes.append((row, added))
    # Nothing is refused any more: only now do blobs get their names.
    adopt(con, engine, [(stored.draft, stored.ending, row["type"]) for row, stored, _ in placed])
    hold(
        con,
        "file",
        [(row["version_id"], row["artifact_id"], row["type"]) for row, _, added in placed if added],
    )
    table = Table(con, "file_versions")
    if superseded:
        table.update({"is_latest": False}, version_id=superseded)
    table.insert(rows)
    for row in filled:
        table.update({name: row[name] for name in row if name not in _KEPT}, version_id=row["version_id"])
    if links:
        add_links(con, links)
    return [FileVersion.of(row, added=added) for row, added in outcomes]


def protected(head: Row | None) -> bool:
    """Tell whether what is there now may only be replaced with force."""
    return head is not None and head["mode"] == PRODUCTION and head["status"] == _DONE


def refuse_other_content(head: Row | None, item: Item) -> None:
    """Refuse to replace production content."""
    assert head is not None
    what = "another description of it" if _same_content(head, item) else "other content"
    raise OverwriteRefused(
        f"{item.request.name!r} is production content (version {head['version']} of {head['created_at']:%Y-%m-%d}), "
        f"and this is {what}. Nothing was changed. Give another name, or make a new version with force=True (on the "
        "command line: --force); the old one stays."
    )


def _same_content(head: Row, item: Item) -> bool:
    if item.stored is None and item.members is None:
        described = (item.kind, item.request.row["metadata"], item.request.row["status"] or _DONE)
        return described == (head["kind"], head["metadata"] or {}, head["status"])
    digest = item.content_hash if item.stored is None else item.stored.content_hash
    # What failed is not there, whatever it holds.
    return bool(head["content_hash"] == digest and head["status"] != "failed")


def _is_there(con: Connection, head: Row, item: Item, *, fresh: bool) -> bool:
    """Tell whether the content is there as it is described now; add what is said of it for the first time."""
    said, known = item.request.row, head["metadata"] or {}
    if (
        not _same_content(head, item)
        or any(known.get(key, value) != value for key, value in said["metadata"].items())
        or said["type"] != head["type"]
        or (said["mode"] == PRODUCTION) > (head["mode"] == PRODUCTION)
    ):
        return False
    values: dict[str, Any] = {
        name: said[name] for name in _FILLED if said[name] is not None and head.get(name) is None
    }
    tags = list(dict.fromkeys([*(head["tags"] or ()), *said["tags"]]))
    if tags != (head["tags"] or []):
        values["tags"] = tags
    if not said["metadata"].keys() <= known.keys():
        values["metadata"] = {**known, **said["metadata"]}
    if said["status"] not in (None, head["status"]):
        values |= {"status": said["status"], "message": said["message"]}
    if values and fresh:
        return False  # its row is not written yet
    if values:
        Table(con, "file_versions").update(
            {**values, "updated_at": now_naive()}, version_id=head["version_id"]
        )
        head.update(values)
    return True


def _row(engine: Engine, item: Item, head: Row | None, retired: int, now: datetime) -> Row:
    request, stored = item.request, item.stored
    row = {
        **request.row,
        "version_id": new_id(),
        "version": max(retired, 0 if head is None else int(head["version"])) + 1,
        "is_latest": True,
        "kind": item.kind,
        "status": request.row["status"] or _DONE,
        "artifact_id": None,
        "content_hash": item.content_hash if stored is None else stored.content_hash,
        "size_bytes": 0 if stored is None else stored.size,
        "stored_bytes": 0 if stored is None else stored.draft.size,
        "compression": "none" if stored is None else stored.compression,
        "compression_note": None if stored is None else stored.note,
        "members": item.members,
        "metadata": request.row["metadata"] or None,
        "session_id": engine.session_id,
        "created_at": now,
        "updated_at": now,
    }
    if protected(head) and not request.mode_said:
        # Content that replaces production content is production content, unless its caller says otherwise.
        row["mode"] = PRODUCTION
    return row


def _sources(con: Connection, items: Sequence[Item]) -> dict[tuple[str, str], str]:
    """Return the ids of sources by what the caller wrote."""
    found: dict[tuple[str, str], str] = {}
    for kind, source in dict.fromkeys(pair for item in items for pair in item.request.sources):
        found[kind, source] = source
        if kind == "file" and not is_id(source):
            found[kind, source] = str(require_version(con, source, None, None)["version_id"])
        elif kind == "chain" and named.is_name(source):
            found[kind, source] = str(named.find_version(con, source)["chain_id"])
    for kind in {kind for kind, _ in found}:
        ids = {
            each for (of, source), each in found.items() if of == kind and (source == each or kind == "chain")
        }
        _require(con, kind, ids, "It was named as a source. Nothing was stored.")
    return found


def _require(con: Connection, kind: str, ids: Iterable[Any], hint: str) -> None:
    wanted = {Ref(kind, each) for each in ids}
    missing = sorted(wanted - existing(con, wanted))
    if missing:
        raise UnknownId(*missing[0], hint)


def _refuse_cycles(con: Connection, version_id: str, files: Sequence[str]) -> None:
    if files and (version_id in files or descends_from(con, version_id, files)):
        raise InvalidInput(
            f"sources: {', '.join(files)} would be made from itself in the end (a cycle). Nothing was stored."
        )
