"""Answers without the server: this computer's replica as it is, and the blobs that are on this computer."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import NoReturn

import duckdb

from nirs_store.blobs.backend import BlobStat
from nirs_store.blobs.bucket import parse_place
from nirs_store.blobs.copies import Copies
from nirs_store.blobs.durable import Buffer
from nirs_store.blobs.store import token_of
from nirs_store.db.journal import Entry, Rejection
from nirs_store.db.layout import Layout, replica_as_of
from nirs_store.db.session import Engine, Parts, Settings
from nirs_store.db.sql import execute
from nirs_store.errors import InvalidInput, NotAWorkspace, ReplicaRefused, SharedStoreUnreachable
from nirs_store.shared.address import Address, replicas_folder
from nirs_store.shared.log import SharedLog
from nirs_store.shared.objects import LogBodies, SharedFolder
from nirs_store.shared.pg import Server
from nirs_store.shared.replica import Mark, read_mark, read_position
from nirs_store.shared.sessions import SharedClaims


def open_offline(settings: Settings) -> Engine:
    """Open this computer's replica of a shared workspace, asking neither its server nor its object store."""
    address: Address = settings.shared
    folder, mark = _replica_of(address)
    place = Layout(folder)
    if not place.catalog.exists():
        raise NotAWorkspace(
            f"{address}: this computer has no replica of it yet, so the server has to be asked. Nothing was "
            "made. Open it once without fresh=False (--offline)."
        )
    blobs = _blobs(address.blobs or mark.blobs, place)
    layout = Layout(folder, blobs)
    server = Server(address)
    log = OfflineLog(server, mark.workspace_id, layout, LogBodies(blobs), "")
    claims = _Claims(log, blobs)
    engine = Engine.open(
        replace(settings, root=folder, create=False, read_only=True), Parts(layout, log, claims)
    )
    claims.engine = engine
    if settings.session_id is None:
        position = engine.query(lambda con: read_position(con, mark.workspace_id, layout))
        when = replica_as_of(layout)
        warnings.warn(
            f"{address} is open without its server (fresh=False): answers come from this computer's replica, which "
            f"has the commits up to number {position.number} and was up to date {_age(when)}. Later commits are "
            "missing, and nothing can be recorded.",
            stacklevel=5,
        )
    return engine


def _age(when: datetime | None) -> str:
    if when is None:
        return "at an unknown time"
    minutes = max(0, int((datetime.now().astimezone() - when).total_seconds() // 60))
    for unit, size in (("day", 1440), ("hour", 60), ("minute", 1)):
        if (count := minutes // size) > 0:
            return f"{count} {unit}{'s' if count > 1 else ''} ago ({when:%Y-%m-%d %H:%M})"
    return f"less than a minute ago ({when:%Y-%m-%d %H:%M})"


def _replica_of(address: Address) -> tuple[Path, Mark]:
    """Find the replica by what its folder says; only the server knows the id of a workspace by its name."""
    there: dict[Path, Mark] = {}
    if address.replica is not None:
        if (mark := read_mark(Layout(address.replica))) is not None:
            there[address.replica] = mark
    else:
        base, wanted = replicas_folder(), _without_user(str(address))
        for path in sorted(base.iterdir()) if base.is_dir() else ():
            with contextlib.suppress(ReplicaRefused):  # it may be the replica of any workspace
                mark = read_mark(Layout(path))
                if mark is not None and _without_user(mark.address) == wanted:
                    there[path] = mark
    if len(there) > 1:
        raise InvalidInput(
            f"{address}: this computer has several replicas under that address: {', '.join(map(str, there))}. Nothing "
            "was opened. Name one with replica=... in the address."
        )
    if not there:
        raise NotAWorkspace(
            f"{address}: this computer has no replica of it, so the server has to be asked. Nothing was "
            "made. Open it once without fresh=False (--offline), or name the folder of the replica with replica=... in "
            "the address."
        )
    return next(iter(there.items()))


def _without_user(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def _blobs(url: str, place: Layout) -> SharedFolder | LocalBlobs:
    where = parse_place(url) if url else None
    if where is not None and where.scheme == "file" and Path(where.prefix).is_dir():
        return SharedFolder(Path(where.prefix), scratch=place.tmp)
    return LocalBlobs(place, url or "the object store of the workspace")


class LocalBlobs:
    """The copies of blobs on this computer; a `BlobBackend` that raises for all others."""

    far = False

    def __init__(self, place: Layout, url: str) -> None:
        self.scratch = place.tmp
        self._copies = Copies(place.root / "cache")
        self._url = url.partition("?")[0].rstrip("/")

    def open(
        self, key: str, /, *, trashed: bool = False, fresh: bool = False
    ) -> tuple[BufferedIOBase, BlobStat]:
        """Open a copy, whose bytes are compared with their hash."""
        digest = self._digest(key)
        path = self._copies.folder / digest
        size = path.stat().st_size if path.is_file() else -1
        file = self._copies.find(digest, size)
        if file is None:
            self._away(key)
        return file, BlobStat(size, os.fstat(file.fileno()).st_mtime, digest)

    def stat(self, key: str, /, *, trashed: bool = False) -> BlobStat:
        """Look at a copy."""
        file, found = self.open(key)
        file.close()
        return found

    def path(self, key: str, /, *, trashed: bool = False) -> Path:
        """Return the path of a copy."""
        self.stat(key)
        return self._copies.lend(self._digest(key))

    def address(self, key: str, /) -> str:
        """Say where the object is."""
        return f"{self._url}/{key}"

    def list(self, prefix: str, /, *, trashed: bool = False) -> Iterator[str]:
        """Refuse: the copies are not all blobs."""
        self._away(prefix)

    def scan(self, prefix: str, /) -> Iterator[tuple[str, BlobStat]]:
        """Refuse: the copies are not all blobs."""
        self._away(prefix)

    def strays(self) -> Sequence[str]:
        """Refuse: the object store is not asked."""
        self._away("")

    def put(self, objects: Mapping[str, Buffer | Path], /) -> None:
        """Refuse."""
        self._away(next(iter(objects), ""))

    def sync(self, key: str, /) -> None:
        """Refuse."""
        self._away(key)

    def trash(self, keys: Sequence[str], /) -> None:
        """Refuse."""
        self._away("")

    restore = remove = trash

    def delete(self, keys: Sequence[str], /) -> tuple[int, int]:
        """Refuse."""
        self._away("")

    def _digest(self, key: str) -> str:
        digest, _ = token_of(key)
        return digest if digest != key else self._away(key)

    def _away(self, key: str) -> NoReturn:
        raise SharedStoreUnreachable(
            f"{self.address(key)} has no copy on this computer, and the workspace is open without its server "
            "(fresh=False). Nothing was changed. Open it without fresh=False (--offline) when they answer."
        )


class OfflineLog(SharedLog):
    """The log of a shared workspace whose server is not asked: nothing waits, and nothing is committed."""

    def opened(self, con: duckdb.DuckDBPyConnection) -> None:
        """Read the position, and see that the replica is of this workspace."""
        self._position = read_position(con, self.workspace_id, self._layout)

    def closed(self) -> None:
        """Forget it."""
        self._position = None

    def is_empty(self, besides: Container[str] = ()) -> bool:
        """Know of nothing more."""
        return True

    def settings_wait(self) -> bool:
        """Know of none."""
        return False

    def pending(self) -> Sequence[Entry]:
        """Know of nothing more."""
        return []

    def rejections(self) -> list[Rejection]:
        """Know of none."""
        return []


class _Claims(SharedClaims):
    """Claims without the server: sessions that have not ended in the replica count as living."""

    engine: Engine | None = None

    def living(self) -> list[str]:
        """Ask the replica."""
        if self.engine is None:
            return []
        sql = "SELECT session_id FROM sessions WHERE ended_at IS NULL"
        return [
            str(row[0])
            for row in self.engine.access.query(lambda con: execute(con, sql).fetchall(), timeout=30.0)
        ]

    def read(self, *, remove_dead: bool) -> set[str]:
        """Know of none; nothing is collected without the server."""
        return set()
