"""What lies in a workspace's folder beside the catalog: blobs, claims, commits, leftovers.

Only looking. The order in which it looks makes it a consistent view beside running savers: files
first, then claims, then commits (and the catalog after all of them). A file whose saver has given
up its claim meanwhile was committed before, so its row is seen; one that is still being saved is
claimed.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from nirs_store.catalog.aside import aside_files
from nirs_store.catalog.journal import Entry, Journal, Rejection
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.segments import Segment, SegmentDamaged, decode
from nirs_store.catalog.sessions import living, read_claims
from nirs_store.upkeep.findings import Finding

__all__ = ["LEFTOVER_AGE", "Surroundings", "is_old", "look_around", "read_segment"]

LEFTOVER_AGE = 3600.0


@dataclass
class Surroundings:
    """One look at the folder.

    Attributes
    ----------
    files : set of str
        Regular files among the blobs, below the workspace.
    others : set of str
        What else is there: links, pipes.
    aside : set of str
        Blobs that a gc has set aside and not decided about, by the path they come from.
    claimed : set of str
        Ids and paths of blobs that living stores are saving.
    alive : set of str
        Ids of the living stores' sessions.
    dead_claims, leftovers : list of str
        Files of stores that died, and unfinished writes, below the workspace.
    segments : list of Segment
        Pending commits that can be applied, in order.
    damaged : list of (Entry, str)
        Pending commits that cannot, and why.
    rejected : list of (Rejection, Segment or None)
        Commits set aside earlier; None for those that cannot be decoded.
    strays : list of str
        Files in the folder of commits that are none.
    """

    files: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)
    alive: set[str] = field(default_factory=set)
    dead_claims: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    damaged: list[tuple[Entry, str]] = field(default_factory=list)
    rejected: list[tuple[Rejection, Segment | None]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """What is to be said about commits and leftovers."""
        return [*self._commits(), *self._remains()]

    def _commits(self) -> list[Finding]:
        found = []
        if self.segments:
            rows = sum(table.num_rows for segment in self.segments for table in segment.tables.values())
            found.append(
                Finding(
                    "segments_pending",
                    "info",
                    "journal/segments",
                    f"{len(self.segments)} commits with {rows:,} rows wait to be applied; the next query of a store "
                    "that may write applies them.",
                )
            )
        found += [
            Finding(
                "segment_damaged",
                "error",
                f"journal/segments/{entry.path.name}",
                f"a commit that cannot be applied: {reason}.",
                remedy="Bring the file back from a backup; `nirs-store repair` sets it aside.",
                subject=(entry.path.name,),
            )
            for entry, reason in self.damaged
        ]
        for rejection, segment in self.rejected:
            lost = "" if segment is None else f" It holds {_rows_of(segment)}."
            found.append(
                Finding(
                    "segment_rejected",
                    "error",
                    f"journal/rejected/{rejection.path.name}",
                    f"a commit that could not be applied: {rejection.reason}.{lost}",
                    affects=() if segment is None else _ids_of(segment),
                    remedy="Its rows are not in the catalog; record them again, or keep the file as evidence.",
                )
            )
        if self.strays:
            found.append(
                Finding(
                    "unknown_file",
                    "info",
                    "journal/segments",
                    f"{len(self.strays)} files that are no commits, left alone: {', '.join(self.strays[:5])}.",
                )
            )
        return found

    def _remains(self) -> list[Finding]:
        sweep = "`nirs-store repair` removes it."
        found = [
            Finding(
                "leftover", "warning", path, "an unfinished write, more than an hour old.", (), sweep, (path,)
            )
            for path in self.leftovers
        ]
        found += [
            Finding("dead_claim", "warning", path, "the claims of a store that died.", (), sweep, (path,))
            for path in self.dead_claims
        ]
        found += [
            Finding(
                "aside",
                "warning",
                path,
                "a gc that died had set this blob aside.",
                remedy="The next change of the store, or `nirs-store repair`, puts it back or removes it.",
                subject=(path,),
            )
            for path in sorted(self.aside)
        ]
        return found


def look_around(layout: Layout) -> Surroundings:
    """Look at everything beside the catalog. The lease is held, so nobody applies or collects meanwhile."""
    seen = Surroundings()
    # A gc that is deciding holds the lease alone; what is aside now was left by one that died.
    seen.aside = set(aside_files(layout))
    seen.files, seen.others = _blob_files(layout)
    seen.alive = set(living(layout))
    seen.claimed = read_claims(layout, remove_dead=False)
    seen.dead_claims = [f"journal/claims/{name}" for name in _names(layout.claims) if name not in seen.alive]
    _read_commits(layout, seen)
    seen.leftovers = [
        f"journal/tmp/{name}" for name in _names(layout.tmp) if is_old(layout.tmp / name, time.time())
    ]
    return seen


def read_segment(entry: Entry) -> Segment:
    """Decode a pending commit as applying does.

    Raises
    ------
    SegmentDamaged
        It would be rejected.
    FileNotFoundError
        It was applied meanwhile.
    """
    try:
        segment = decode(entry.path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SegmentDamaged(f"it cannot be read: {error.strerror or error}") from error
    if segment.txid != entry.txid:
        raise SegmentDamaged(f"its name says {entry.txid}, its header {segment.txid}")
    return segment


def is_old(path: Path, now: float) -> bool:
    """Whether a regular file was last written more than an hour ago."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and now - found.st_mtime > LEFTOVER_AGE


def _read_commits(layout: Layout, seen: Surroundings) -> None:
    journal = Journal(layout)
    entries = journal.pending()
    for entry in entries:
        try:
            seen.segments.append(read_segment(entry))
        except SegmentDamaged as error:
            seen.damaged.append((entry, str(error)))
        except FileNotFoundError:
            continue
    for rejection in journal.rejections():
        try:
            segment = decode(rejection.path.read_bytes())
        except (SegmentDamaged, OSError):
            segment = None
        seen.rejected.append((rejection, segment))
    known = {entry.path.name for entry in entries}
    # Numbers above the highest seen belong to commits that came while we looked.
    seen.strays = [n for n in _names(layout.segments) if n not in known and not n.endswith(".seg")]


def _blob_files(layout: Layout) -> tuple[set[str], set[str]]:
    files: set[str] = set()
    others: set[str] = set()
    for folder, _, names in os.walk(layout.artifacts):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(layout.root).as_posix()
            try:
                regular = stat.S_ISREG(os.lstat(path).st_mode)
            except FileNotFoundError:
                continue
            (files if regular else others).add(relative)
    return files, others


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _ids_of(segment: Segment) -> tuple[str, ...]:
    keys = (("chains", "chain_id"), ("predictions", "prediction_id"))
    return tuple(
        str(value)
        for table, key in keys
        if table in segment.tables
        for value in segment.tables[table].column(key).to_pylist()
    )


def _rows_of(segment: Segment) -> str:
    return ", ".join(f"{table.num_rows} {name.replace('_', ' ')}" for name, table in segment.tables.items())
