"""Checking a workspace: everything is looked at, nothing is changed.

The lock is shared while rows and folder are compared, so no process applies the journal or collects
meanwhile; recording goes on. Blobs are hashed after the lock was given up, because that can take
long, and what looks bad is looked at again under it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from nirs_store.blobs.backend import BLOBS, BlobBackend, hash_blob, stat_blob
from nirs_store.blobs.plain import read_plain
from nirs_store.blobs.store import is_blob_key
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import ReplayPlan
from nirs_store.db.apply import applied_ids
from nirs_store.db.changes import has_trail, read_head, verify_chain
from nirs_store.db.connection import Options
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import (
    Entry,
    Journal,
    Rejection,
    Segment,
    SegmentDamaged,
    SegmentNewer,
    decode,
    is_commit_name,
    leftovers,
    read_entry,
)
from nirs_store.db.layout import Layout, as_folder, refuse_linked_folders
from nirs_store.db.lock import ClaimFolder, Claims, living
from nirs_store.db.log import Inbox
from nirs_store.db.marks import Presence
from nirs_store.db.schema import SCHEMA_VERSION, VIEWS, altered_views, foreign_objects, objects_of
from nirs_store.db.sql import interruptible
from nirs_store.errors import (
    CatalogDamaged,
    ForeignCatalog,
    NirsStoreError,
    NotAWorkspace,
    PathEscapes,
    SchemaTooNew,
    SharedStoreUnreachable,
    WriteFailed,
)
from nirs_store.maintenance.findings import CheckReport, Finding, finding
from nirs_store.maintenance.inspection import (
    HOLDERS,
    QUESTIONS,
    BlobRow,
    ChainRow,
    Inspection,
    Reference,
    altered_arrays,
    unreadable,
)
from nirs_store.values import as_seconds, from_json

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and those to read."""

_UNOPENED = (CatalogDamaged, ForeignCatalog, SchemaTooNew, WriteFailed)


def check_workspace(
    root: str | Path,
    *,
    read_data: bool = False,
    lock_timeout: float = 30.0,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a folder without opening it as a store: also one whose catalog is gone or damaged."""
    layout, timeout = Layout(as_folder(root, "root")), as_seconds(lock_timeout, "lock_timeout")
    return check(reader_of(layout), layout, read_data=read_data, timeout=timeout, progress=progress)


def reader_of(layout: Layout) -> Database:
    """Open the catalog of a folder that is not open as a store."""
    if not layout.catalog.exists() and not layout.journal.is_dir():
        raise NotAWorkspace(
            f"{layout.root} is not a workspace: it has neither store.duckdb nor journal/. Nothing was changed. "
            "Name another folder."
        )
    refuse_linked_folders(layout)
    presence = Presence(layout, writable=False, network=layout.on_network)
    presence.enter()
    presence.leave()
    log, claims = Journal(layout), ClaimFolder(layout)
    return Database(layout, log, claims, writable=False, options=Options(), on_idle=lambda: None)


def check(
    access: Database,
    layout: Layout,
    *,
    read_data: bool,
    timeout: float,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a workspace; see `check_workspace`."""
    findings: list[Finding] = []
    structure = Structure()
    with access.inspecting(timeout=timeout) as connect:
        seen = look_around(layout, access.claims)
        try:
            con = connect()
        except _UNOPENED as error:
            findings.append(_unopened(layout, error))
        else:
            with contextlib.suppress(duckdb.Error):  # reading its rows reports the error
                seen.leave_out(applied_ids(con))
            structure = interruptible(con, lambda con: _look_into(con, layout, seen, read_data=read_data))
        findings += seen.findings() + structure.findings
        if structure.blobs is not None:
            findings += _unknown_files(layout.blobs, structure.blobs, seen, besides=structure.restorable)
        expected = _expected_files(structure, seen)
        wrong, present = _look_at(layout.blobs, expected)
        findings += wrong
    if read_data:
        suspects = [file for file, _ in hash_files(layout.blobs, present, progress)]
        findings += _look_again(access, layout, suspects, timeout) if suspects else []
    counts = structure.counts | {
        "files": len(seen.files),
        "bytes": sum(file.size or 0 for file in expected),
        "segments": len(seen.segments) + len(seen.damaged) + len(seen.newer),
    }
    return CheckReport.of_findings(str(layout.root), read_data, findings, counts)


def _unopened(layout: Layout, error: Exception) -> Finding:
    if isinstance(error, ForeignCatalog) and not layout.journal.is_dir():
        raise error
    if isinstance(error, SchemaTooNew):
        return finding("schema_too_new", "store.duckdb", str(error))
    if not layout.catalog.exists():
        return finding("catalog_missing", "store.duckdb", "the catalog is gone.")
    return finding("catalog_damaged", "store.duckdb", str(error))


# -- What lies in a workspace's folder next to the catalog: blobs, claims, commits, leftovers.


LEFTOVER_AGE = 3600.0


@dataclass
class Surroundings:
    """One look at the folder."""

    files: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)
    alive: set[str] = field(default_factory=set)
    dead_claims: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    inbox: int = 0
    damaged: list[tuple[Entry, str]] = field(default_factory=list)
    newer: list[tuple[Entry, str]] = field(default_factory=list)
    rejected: list[tuple[Rejection, Segment | None]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    aside_strays: list[str] = field(default_factory=list)

    def leave_out(self, applied: set[str]) -> None:
        """Forget commits that the catalog holds: they lie in the journal until the next checkpoint."""
        self.segments = [segment for segment in self.segments if segment.txid not in applied]
        self.damaged = [found for found in self.damaged if found[0].txid not in applied]

    def findings(self) -> list[Finding]:
        """Return what is to be said about commits and leftovers."""
        found = []
        if self.segments:
            rows = sum(table.num_rows for segment in self.segments for table in segment.tables.values())
            words = (
                f"{len(self.segments)} commits with {rows:,} rows wait to be applied; the next query of a store that "
                "may write applies them."
            )
            found.append(finding("segments_pending", "journal/segments", words))
        if self.inbox:
            words = (
                f"{self.inbox} commits of stores that only record wait to be applied; the next query of a store that "
                "may write applies them."
            )
            found.append(finding("segments_pending", "inbox", words))
        for entry, reason in self.damaged:
            name, words = entry.path.name, f"a commit that cannot be applied: {reason}."
            found.append(finding("segment_damaged", f"journal/segments/{name}", words, subject=(name,)))
        for entry, reason in self.newer:
            words = f"a commit of a newer version of nirs_store: {reason}. Its rows were not looked at."
            found.append(finding("segment_newer", f"journal/segments/{entry.path.name}", words))
        for rejection, segment in self.rejected:
            lost = "" if segment is None else f" It holds {_rows_of(segment)}."
            words = f"a commit that could not be applied: {rejection.reason}.{lost}"
            affects = () if segment is None else _ids_of(segment)
            found.append(
                finding("segment_rejected", f"journal/rejected/{rejection.path.name}", words, affects)
            )
        if self.aside_strays:
            names = ", ".join(map(repr, self.aside_strays[:5]))
            words = f"{len(self.aside_strays)} files that are not pending deletion, left alone: {names}."
            remedy = "Look at them, and remove them."
            found.append(Finding("unknown_file", "warning", "journal/aside", words, (), remedy))
        if self.strays:
            names = ", ".join(self.strays[:5])
            words = f"{len(self.strays)} files that are not commits, left alone: {names}."
            found.append(finding("unknown_file", "journal/segments", words))
        for kind, paths, words in (
            ("leftover", self.leftovers, "an unfinished write, more than an hour old."),
            ("dead_claim", self.dead_claims, "the claims of a store that died."),
            ("aside", sorted(self.aside), "a gc that died had set this blob aside."),
        ):
            found += [finding(kind, path, words, subject=(path,)) for path in paths]
        return found


def look_around(layout: Layout, claims: Claims) -> Surroundings:
    """Look at everything besides the catalog. The lock is held, so no process applies or collects meanwhile."""
    seen = Surroundings()
    # A gc that is deciding holds the lock alone; what is in the trash now was left by one that died.
    seen.aside = set(layout.blobs.list("", trashed=True))
    seen.files = set(layout.blobs.list(BLOBS))
    for stray in layout.blobs.strays():
        if stray.startswith(BLOBS):
            seen.others.add(stray)
        else:
            seen.aside_strays.append(stray.rsplit("/", 1)[-1])
    seen.alive = set(living(layout))
    seen.claimed = claims.read(remove_dead=False)
    seen.dead_claims = [f"journal/claims/{name}" for name in _names(layout.claims) if name not in seen.alive]
    _read_commits(layout, seen)
    seen.leftovers = [path.relative_to(layout.root).as_posix() for path in leftovers(layout, seen.alive)]
    return seen


def read_segment(entry: Entry) -> Segment:
    """Decode a pending commit as applying does."""
    try:
        return read_entry(entry)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SegmentDamaged(f"it cannot be read: {error.strerror or error}") from error


def is_old(blobs: BlobBackend, key: str, now: float) -> bool:
    """Whether a blob was last written more than an hour ago."""
    found = blobs.stat(key)
    return found is not None and now - found.modified > LEFTOVER_AGE


def _read_commits(layout: Layout, seen: Surroundings) -> None:
    journal = Journal(layout)
    entries = journal.pending()
    seen.inbox = Inbox(layout).waiting()
    for entry in entries:
        try:
            seen.segments.append(read_segment(entry))
        except SegmentDamaged as error:
            seen.damaged.append((entry, str(error)))
        except SegmentNewer as error:
            seen.newer.append((entry, str(error)))
        except FileNotFoundError:
            continue
    for rejection in journal.rejections():
        try:
            segment = decode(read_plain(rejection.path))
        except (SegmentDamaged, SegmentNewer, OSError):
            segment = None
        seen.rejected.append((rejection, segment))
    known = {entry.path.name for entry in entries}
    # Numbers above the highest seen belong to commits that came while we looked.
    seen.strays = [n for n in _names(layout.segments) if n not in known and not is_commit_name(n)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _ids_of(segment: Segment) -> list[str]:
    return [
        str(value)
        for table, key in (("chains", "chain_id"), ("predictions", "prediction_id"))
        if table in segment.tables
        for value in segment.tables[table].column(key).to_pylist()
    ]


def _rows_of(segment: Segment) -> str:
    return ", ".join(f"{table.num_rows} {name.replace('_', ' ')}" for name, table in segment.tables.items())


# -- What the catalog says: whether its rows belong together, and, if asked, whether all of it can be read.


@dataclass
class Structure:
    """What the rows say."""

    findings: list[Finding] = field(default_factory=list)
    blobs: list[BlobRow] | None = None
    needed_by: dict[str, list[str]] = field(default_factory=dict)
    restorable: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, *found: Any, **more: Any) -> None:
        """Add a finding; see `finding`."""
        self.findings.append(finding(*found, **more))

    def ask(self, what: str, question: Callable[[], T]) -> T | None:
        """Ask; a question that damage leaves without an answer becomes a finding."""
        try:
            return question()
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            self.add("catalog_damaged", f"store.duckdb/{what}", f"the catalog cannot be read: {error}")
        except CatalogDamaged as error:
            self.add("catalog_damaged", f"store.duckdb/{what}", str(error))
        return None


def _look_into(con: Connection, layout: Layout, seen: Surroundings, *, read_data: bool) -> Structure:
    found = Structure()
    inspection = found.ask("pending rows", lambda: Inspection(con, seen.segments))
    if inspection is None:
        return found
    found.counts = found.ask("rows", inspection.counts) or {}
    for question in QUESTIONS:
        found.findings += found.ask(question.asked, partial(inspection.answer, question)) or []
    _artifacts(inspection, seen, found)
    found.findings += found.ask("audit trail", lambda: _audit_findings(con, layout)) or []
    lost = found.ask("lost changes", lambda: inspection.lost(layout))
    if lost:
        found.add(
            "changes_lost",
            "store.duckdb",
            f"at least {lost:,} changes that were made in the catalog are gone: its log was cut or removed, or the "
            "file was replaced by an older one. Commits that were in the journal were applied again.",
        )
    version = found.ask("nirs_store_meta", inspection.version)
    if version is not None and version < SCHEMA_VERSION:
        words = f"schema version {version}; opening the store for writing brings it to {SCHEMA_VERSION}."
        found.add("schema_old", "store.duckdb", words)
    found.findings += found.ask("objects", lambda: _others(con, version)) or []
    if layout.wal.exists():
        words = (
            "a process died with the catalog open and left DuckDB's log; the rows in it were counted here."
        )
        found.add("wal_present", layout.wal.name, words)
    if read_data:
        _read(con, seen, inspection, found)
    return found


def _audit_findings(con: Connection, layout: Layout) -> list[Finding]:
    """Verify the chain of hashes; an older catalog is checked as it is, and has no trail yet."""
    if not has_trail(con):
        return []
    head = read_head(layout)
    _, breaks = verify_chain(con, [] if head is None else [head])
    return [
        finding(
            "audit_broken", f"audit_entries/{each.number}", f"the audit trail does not hold: {each.reason}."
        )
        for each in breaks
    ]


def _others(con: Connection, version: int | None) -> list[Finding]:
    """Return what others have put into the catalog; what would act of it was refused at opening.

    Views of an older schema differ honestly, and are made again when the store is opened for writing.
    """
    objects = objects_of(con)
    words = "put there by another program. It is left alone, and kept by a vacuum, which then copies rows as they lie."
    found = [finding("foreign_object", f"store.duckdb/{each}", words) for each in foreign_objects(objects)]
    words = (
        "it selects something else than the view that nirs_store makes: queries that read it may be misled."
    )
    for name in altered_views(objects) if version == SCHEMA_VERSION else ():
        remedy = (
            f"Drop it with DuckDB (DROP VIEW {name}) and make it again: {VIEWS[name].split(' AS ')[0]} ..."
        )
        found.append(finding("view_altered", f"store.duckdb/view {name}", words, remedy=remedy))
    return found


def _read(con: Connection, seen: Surroundings, inspection: Inspection, found: Structure) -> None:
    for table, what, reason in found.ask("tables", lambda: list(unreadable(con))) or ():
        if reason is not None:
            found.add("catalog_damaged", f"store.duckdb/{table}", f"its {what} cannot be read: {reason}")
    for array_hash in found.ask("arrays", lambda: list(altered_arrays(con, seen.segments))) or ():
        users = found.ask("users of arrays", partial(inspection.users_of_array, array_hash))
        words = "its bytes no longer hash to its name."
        found.add("array_corrupt", f"arrays/{array_hash}", words, users or ())


# -- Whether artifacts and those that hold them belong together.


def _artifacts(inspection: Inspection, seen: Surroundings, found: Structure) -> None:
    found.blobs = found.ask("artifacts", inspection.blobs)
    references = found.ask("references", inspection.references)
    chains = found.ask("chains", inspection.chains)
    owners: dict[str, dict[str, list[str]]] = {}
    for kind, holder in HOLDERS.items():
        if kind == "chain":
            continue
        held = found.ask(holder.asked, partial(inspection.held, kind))
        if held is not None:
            owners[kind] = held
    if found.blobs is None or references is None or chains is None or len(owners) < len(HOLDERS) - 1:
        return
    owners["chain"] = {chain.chain_id: _named(chain, found) for chain in chains}
    for version, artifacts in owners["dataset"].items():
        for artifact_id in artifacts:
            found.needed_by.setdefault(artifact_id, []).append(version)
    known = {blob.artifact_id for blob in found.blobs}
    _missing_rows(owners, known, seen, found)
    _references(references, owners, known, found)
    for session_id in found.ask("sessions", inspection.missing_sessions) or ():
        if session_id not in seen.alive:
            words = "it holds artifacts, has no row and does not live; the next gc gives it an end."
            found.add("session_missing", f"sessions/{session_id}", words)


def _named(chain: ChainRow, found: Structure) -> list[str]:
    """Artifacts that a chain names; notes which of them its replay needs."""
    try:
        row = _decoded(chain)
        named = chain_artifact_ids(row["steps"], row["fold_artifacts"], row["shared_artifacts"])
    except (NirsStoreError, ValueError, TypeError) as error:
        words = f"its steps cannot be read: {error}"
        found.add("chain_unreadable", f"chains/{chain.chain_id}", words, (chain.chain_id,))
        return []
    try:
        # Where there is only a refit, a chain replays without the models of its folds.
        needed: Iterable[str] = ReplayPlan.from_chain(row).artifact_ids
    except NirsStoreError:
        needed = named  # a chain that never could replay needs whatever it names
    for artifact_id in dict.fromkeys(needed):
        found.needed_by.setdefault(artifact_id, []).append(chain.chain_id)
    return named


def _decoded(chain: ChainRow) -> dict[str, Any]:
    row = chain._asdict()
    for name in ("steps", "fold_artifacts", "shared_artifacts", "branch_path", "fold_weights"):
        row[name] = from_json(row[name])
    return row | {
        "fold_artifacts": row["fold_artifacts"] or {},
        "shared_artifacts": row["shared_artifacts"] or {},
    }


def _missing_rows(
    owners: dict[str, dict[str, list[str]]], known: set[str], seen: Surroundings, found: Structure
) -> None:
    missing: dict[str, list[tuple[str, str]]] = {}
    for kind in HOLDERS:
        for owner, ids in owners[kind].items():
            for artifact_id in ids:
                if artifact_id not in known:
                    missing.setdefault(artifact_id, []).append((kind, owner))
    files = {stem_of(path): path for path in sorted(seen.files | seen.aside)} if missing else {}
    for artifact_id, users in sorted(missing.items()):
        kinds = [kind for kind, _ in users]
        words = " and ".join(f"{kinds.count(kind)} {kind}s" for kind in HOLDERS if kind in kinds)
        words += f" name this artifact ({users[0][1]}), and there is no row of it"
        affects = found.needed_by.get(artifact_id, ())
        path = files.get(artifact_id)
        if path is None:
            found.add("artifact_missing", f"artifacts/{artifact_id}", f"{words}.", affects, (artifact_id,))
        else:
            found.restorable.add(path)
            words += ", but its file is there."
            found.add("artifact_row_missing", path, words, affects, (artifact_id, path))


def _references(
    references: list[Reference],
    owners: dict[str, dict[str, list[str]]],
    known: set[str],
    found: Structure,
) -> None:
    held: set[tuple[str, str, str]] = set()
    for ref in references:
        where, owner = f"artifact_refs/{ref.ref_id}", f"{ref.owner_kind} {ref.owner_id}"
        named = owners.get(ref.owner_kind)
        if named is not None:
            held.add((ref.owner_kind, ref.owner_id, ref.artifact_id))
            if ref.owner_id not in named:
                words = f"{owner}, which held artifact {ref.artifact_id}, is gone."
                found.add("reference_dangling", where, words, subject=(ref.ref_id,))
                continue
            if ref.artifact_id in named[ref.owner_id]:
                continue  # said of the artifact, when it has no row
        if ref.artifact_id not in known:
            words = f"the {owner} holds artifact {ref.artifact_id}, of which there is no row."
            found.add("reference_empty", where, words)
    for kind, holders in owners.items():
        for owner_id, ids in holders.items():
            for artifact_id in dict.fromkeys(ids):
                if (kind, owner_id, artifact_id) not in held:
                    where = f"{HOLDERS[kind].table}/{owner_id}"
                    words = f"it holds no reference to artifact {artifact_id}, which it names; a gc could remove that."
                    found.add("reference_missing", where, words, subject=(owner_id, artifact_id))


# -- Whether the files of artifacts are there, as long as they should be, and unaltered.


@dataclass(frozen=True)
class Expected:
    """A file that must be there."""

    artifact_id: str
    path: str
    content_hash: str
    size: int | None
    needed_by: tuple[str, ...]

    def finding(self, kind: str, message: str) -> Finding:
        """Say that something is wrong with it."""
        return finding(kind, self.path, message, self.needed_by, (self.artifact_id, self.path))


def stem_of(path: str) -> str:
    """Return a file's name without its ending: the hash, for a blob."""
    return path.rsplit("/", 1)[-1].split(".", 1)[0]


def _expected_files(structure: Structure, seen: Surroundings) -> list[Expected]:
    """Return the files that rows name; where no rows can be read, those whose name says what they hold."""
    if structure.blobs is None:
        paths = [path for path in sorted(seen.files | seen.aside) if is_blob_key(path)]
        return [Expected(stem_of(path), path, stem_of(path), None, ()) for path in paths]
    needed_by = structure.needed_by
    return [
        Expected(b.artifact_id, b.path, b.content_hash, b.size, tuple(needed_by.get(b.artifact_id, ())))
        for b in structure.blobs
    ]


def _look_at(blobs: BlobBackend, expected: Iterable[Expected]) -> tuple[list[Finding], list[Expected]]:
    """Look whether files are there and have their size, without reading them."""
    findings: list[Finding] = []
    present: list[Expected] = []
    # In an object store, one listing costs less than a request for each file.
    listed = dict(blobs.scan(BLOBS))
    for file in expected:
        try:
            there = listed.get(file.path) or stat_blob(blobs, file.path)
        except PathEscapes as error:
            findings.append(file.finding("blob_path", str(error)))
            continue
        if there is None:
            findings.append(file.finding("blob_missing", "the file is gone."))
        elif file.size is not None and there.size != file.size:
            words = f"expected {file.size:,} bytes, found {there.size:,}."
            findings.append(file.finding("blob_size", words))
        else:
            present.append(file)
    return findings, present


def hash_files(
    blobs: BlobBackend, expected: Sequence[Expected], progress: Progress | None = None
) -> list[tuple[Expected, Finding]]:
    """Read files whole and compare their hashes; gives those that do not fit, or cannot be read."""
    bad: list[tuple[Expected, Finding]] = []
    sizes = {file.path: file.size or 0 for file in expected}
    total, done = sum(sizes.values()), 0
    digests: dict[str, str | OSError] = {}
    for file in expected:
        if file.path not in digests:
            try:
                digests[file.path] = hash_blob(blobs, file.path)[0]
            except SharedStoreUnreachable:
                raise  # it says nothing about the blob
            except OSError as error:
                digests[file.path] = error
            done += sizes[file.path]
            if progress is not None:
                progress(done, total)
        digest = digests[file.path]
        if isinstance(digest, FileNotFoundError):
            bad.append((file, file.finding("blob_missing", "the file is gone.")))
        elif isinstance(digest, OSError):
            words = f"the file cannot be read: {digest.strerror or digest}."
            bad.append((file, file.finding("blob_unreadable", words)))
        elif digest != file.content_hash:
            words = f"expected the SHA-256 {file.content_hash}, found {digest}."
            bad.append((file, file.finding("blob_corrupt", words)))
    return bad


def _look_again(access: Database, layout: Layout, suspects: list[Expected], timeout: float) -> list[Finding]:
    """Keep what is still bad now: a gc may have removed the rest meanwhile, or a save healed it."""
    with access.inspecting(timeout=timeout) as connect:
        bad = hash_files(layout.blobs, suspects)
        try:
            rows = Inspection(connect(), look_around(layout, access.claims).segments).blobs()
        except (*_UNOPENED, duckdb.Error):
            return [each for _, each in bad]  # said already
        named = {row.artifact_id for row in rows}
    return [each for file, each in bad if file.artifact_id in named]


def _unknown_files(
    backend: BlobBackend, blobs: Sequence[BlobRow], seen: Surroundings, *, besides: set[str]
) -> list[Finding]:
    """Files among the blobs that no row names and no living store is saving, besides those named otherwise."""
    named = {blob.path for blob in blobs} | besides
    # Rejected commits still name theirs; they may be brought back.
    for _, segment in seen.rejected:
        if segment is not None and "blobs" in segment.tables:
            named.update(segment.tables["blobs"].column("artifact_path").to_pylist())
    found = []
    for path in sorted((seen.files | seen.aside) - named):
        if path in seen.claimed or stem_of(path) in seen.claimed:
            continue
        there = stat_blob(backend, path)
        if there is None:
            continue
        if is_blob_key(path):
            words = f"a blob of {there.size:,} bytes that no row names."
            found.append(finding("blob_orphan", path, words, subject=(path,)))
        else:
            found.append(
                finding("unknown_file", path, f"an unknown file of {there.size:,} bytes, left alone.")
            )
    words = "not a regular file, left alone."
    return found + [finding("unknown_file", path, words) for path in sorted(seen.others)]
