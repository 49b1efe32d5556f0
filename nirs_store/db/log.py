"""What the engine asks of its log of commits; the journal of a folder is one, a shared workspace has another."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import duckdb

from nirs_store.db.journal import Entry, Rejection


class Change(Protocol):
    """One direct change of the catalog under way."""

    def through(self, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """Give the connection that the change is made through."""

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
        """List the commits that were set aside so far."""

    def rejections_of(self, claim: str) -> list[Rejection]:
        """List those of one writer that appeared since the last call; cheap when there are none."""

    def changing(self, catch_up: Callable[[], None]) -> AbstractContextManager[Change]:
        """Give a frame for one direct change; `catch_up` applies what waits."""

    def sweep_tmp(self, alive: Container[str]) -> None:
        """Remove what killed programs left in the temporary folder."""

    def close(self) -> None:
        """End connections."""

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent."""
