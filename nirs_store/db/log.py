"""What the engine asks of its log of commits, and the inbox of sessions that only record.

The journal of a folder is one log, a shared workspace has another.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import duckdb

from nirs_store.blobs.backend import BlobBackend
from nirs_store.blobs.store import BlobStore, blob_key
from nirs_store.db.journal import (
    Entry,
    Journal,
    Rejection,
    Segment,
    SegmentDamaged,
    SegmentNewer,
    inbox_commits,
    inbox_sessions,
    read_entry,
)
from nirs_store.db.layout import Layout, make_session
from nirs_store.db.lock import Claim, Collector
from nirs_store.errors import InvalidInput, WriteFailed, quoted
from nirs_store.ids import now_naive


class Change(Protocol):
    """One direct change of the catalog under way."""

    def through(self, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """Return the connection that the change is made through."""

    def commit(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the change for everybody, just before the catalog's own COMMIT."""

    @property
    def committed(self) -> bool:
        """Whether others have it, whatever becomes of this catalog's COMMIT."""


class CommitLog(Protocol):
    """Commits in one order, each applied to the catalog once; safe to use from many threads."""

    @property
    def whole(self) -> bool:
        """Whether it keeps all that was ever done, so that a catalog that lost something gets it again."""

    def settings_wait(self) -> bool:
        """Whether settings of the workspace wait to be applied, as far as they come by the log."""

    @property
    def behind(self) -> bool:
        """Whether more commits are known than were listed and applied."""

    def append(self, pieces: list[bytes], txid: str, alone: Callable[[], bool] = ..., /) -> tuple[Entry, int]:
        """Commit durably, once a txid; returns the entry and how many commits wait to be applied."""

    def alone_with(self, subject: str, /) -> AbstractContextManager[None]:
        """Keep other computers from this subject, so that what is looked up here still holds at the commit."""

    def opened(self, con: duckdb.DuckDBPyConnection) -> None:
        """Look at a catalog that was just opened; raises where it is not one of this log."""

    def closed(self) -> None:
        """Forget what is known of a catalog that was just closed: another process may apply commits to it."""

    def is_empty(self, besides: Container[str] = ()) -> bool:
        """Whether nothing waits, or nothing but some commits; of a catalog that is closed, whether it may be so."""

    def pending(self) -> Sequence[Entry]:
        """List the commits that wait, in order, without gaps."""

    def mark(self, con: duckdb.DuckDBPyConnection, entries: Sequence[Entry]) -> None:
        """Note in the catalog, inside the caller's transaction, that some commits are applied or rejected."""

    def applied(self, entries: Sequence[Entry]) -> None:
        """Hear that the transaction of `mark` was committed."""

    def remove(self, entries: list[Entry]) -> None:
        """Give up commits that the catalog holds by itself."""

    def sync(self) -> None:
        """Make what `remove` did durable."""

    def nbytes(self) -> int:
        """Sum the sizes of the commits that wait."""

    def reject(self, entry: Entry, *, reason: str, claim: str, at: str) -> Rejection:
        """Set a commit aside, with a note that says why."""

    def rejections(self) -> list[Rejection]:
        """List the commits that were rejected so far."""

    def rejections_of(self, claim: str) -> list[Rejection]:
        """List those of one writer that appeared since the last call; cheap when there are none."""

    def changing(self, catch_up: Callable[[], None]) -> AbstractContextManager[Change]:
        """Return a frame for one direct change; `catch_up` applies what waits."""

    def sweep_tmp(self, alive: Container[str]) -> None:
        """Remove what killed programs left in the temporary folder."""

    def close(self) -> None:
        """End connections."""

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent."""


# -- The inbox: what sessions that only record have put into a workspace, until a store that owns it takes that over.


_BATCH = 256
_PIECE = 1 << 20


# -- Recording into it.


class InboxLog(Journal):
    """The commits of one session; a `CommitLog`."""

    def append(
        self, pieces: list[bytes], txid: str, alone: Callable[[], bool] = lambda: False
    ) -> tuple[Entry, int]:
        """Commit one segment durably, also when the folder was taken over and removed meanwhile."""
        make_session(self._layout)
        return super().append(pieces, txid)


class InboxClaims:
    """The claims of sessions that only record: none are needed; a `Claims`."""

    collector: Collector | None = None

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def own(self, claim_id: str, /) -> Claim:
        """Return what a store object asks for a claim."""
        return _NoClaim(self._layout, claim_id)

    def living(self) -> list[str]:
        """List none."""
        return []

    def read(self, *, remove_dead: bool) -> set[str]:
        """List none."""
        return set()

    def generation(self, digest: str, /) -> int:
        """Use each key again."""
        return 0


class _NoClaim:
    def __init__(self, layout: Layout, claim_id: str) -> None:
        self._layout = layout
        self.claim_id = claim_id
        self.exists = False

    def is_only_one(self) -> bool:
        return False

    def ensure(self) -> None:
        if not self.exists:
            make_session(self._layout)
            self.exists = True

    def add(self, token: str, /) -> None:
        self.ensure()

    def clear(self, keep: set[str], /) -> None:
        pass

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


# -- Taking it over.


class Inbox:
    """Move those commits into the journal of the workspace; used with its lock held alone."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._blobs: BlobStore | None = None
        self._told: set[Path] = set()

    def waiting(self) -> int:
        """Count the commits that wait; a folder that cannot be read counts as one, so that a warning names it."""
        count = 0
        for session in inbox_sessions(self._layout):
            try:
                count += len(inbox_commits(session))
            except OSError:
                count += 1
        return count

    def take(self, log: CommitLog) -> None:
        """Move what waits into the journal, the blobs first; what is damaged is rejected, whole."""
        # The log of a shared workspace is elsewhere, and a replica has no inbox.
        if not isinstance(log, Journal):
            return
        for session in inbox_sessions(self._layout):
            try:
                self._take_session(log, session)
            except FileNotFoundError:
                continue  # another process has moved it; the next query looks again
            except PermissionError as error:
                self._tell(session.root, str(error))

    def _take_session(self, log: Journal, session: Layout) -> None:
        commits, ended = inbox_commits(session), False
        for start in range(0, len(commits), _BATCH):
            ready: list[Entry] = []
            for entry in commits[start : start + _BATCH]:
                segment = self._checked(log, session, entry)
                if segment is not None:
                    ready.append(entry)
                    ended = ended or _ends(segment, session.root.name)
            if ready and not log.receive(ready):
                return  # the commit with the highest number goes first
        if ended and not inbox_commits(session):
            # What it still wants to say, it says in a new folder.
            shutil.rmtree(session.root, ignore_errors=True)

    def _tell(self, path: Path, reason: str) -> None:
        """Warn once of something that has to wait."""
        if path not in self._told:
            self._told.add(path)
            warnings.warn(
                f"{path} waits in the inbox and is not part of the answers: {reason.rstrip('.')}. Upgrade nirs_store "
                "here if it is newer, or let its owner give the group the right to read and write it.",
                stacklevel=9,
            )

    def _checked(self, log: Journal, session: Layout, entry: Entry) -> Segment | None:
        """Read a commit and bring its blobs; None where it has to wait, or was rejected."""
        try:
            segment = read_entry(entry)
            if segment.delta is not None:
                raise SegmentDamaged("it is a direct change, where only rows are taken")
            self._bring_blobs(session.own_blobs, segment)
        except FileNotFoundError:
            return None
        except WriteFailed:
            raise  # the workspace itself cannot be written
        except (OSError, SegmentNewer) as error:
            self._tell(entry.path, str(error))
            return None
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            rejection = log.reject(entry, reason=str(error), claim="", at=now_naive().isoformat())
            warnings.warn(
                f"A commit in the inbox could not be applied and was moved to {rejection.path}: {error}",
                stacklevel=8,
            )
            return None
        return segment

    def _bring_blobs(self, there: BlobBackend, segment: Segment) -> None:
        if "blobs" not in segment.tables:
            return
        if self._blobs is None:
            self._blobs = BlobStore(self._layout.blobs)
        columns = ["artifact_id", "artifact_path", "content_hash", "size_bytes"]
        for row in segment.tables["blobs"].select(columns).to_pylist():
            ident, key, digest, size = (row[name] for name in columns)
            try:
                suffix = str(key).rpartition(".")[2]
                named = ident == digest and key == blob_key(digest, suffix)
            except InvalidInput:
                named = False
            if not named:
                raise SegmentDamaged(f"its artifact {quoted(ident)} is not named after its content")
            if not self._blobs.is_intact(key, digest, size):
                self._copy(there, key, digest, suffix)

    def _copy(self, there: BlobBackend, key: str, digest: str, suffix: str) -> None:
        assert self._blobs is not None
        if there.stat(key) is None:
            raise SegmentDamaged(f"the bytes of its artifact {digest} are not there")
        with there.open(key)[0] as source:
            draft = self._blobs.draft()
            try:
                while piece := source.read(_PIECE):
                    draft.write(piece)
                if draft.finish().digest != digest:
                    raise SegmentDamaged(f"the bytes of its artifact {digest} have another hash")
                self._blobs.adopt([(draft, suffix)])
            finally:
                draft.discard()


def _ends(segment: Segment, session_id: str) -> bool:
    changes = segment.tables.get("changes")
    rows = [] if changes is None else changes.select(["kind", "id"]).to_pylist()
    return {"kind": "end_session", "id": session_id} in rows
