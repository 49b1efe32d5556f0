"""A backend of blobs that keeps them in memory: whatever works on it needs no path of an artifact."""

from __future__ import annotations

import errno
import io
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from nirs_store.blobs.backend import BlobStat
from nirs_store.blobs.durable import Buffer
from nirs_store.blobs.plain import blob_inside
from nirs_store.db.layout import Layout

Objects = dict[str, tuple[bytes, BlobStat]]


class MemoryBlobs:
    """The blobs of one workspace, for all stores of this process; as a bucket has them, there are no folders."""

    far = False

    def __init__(self, root: Path, scratch: Path, copies: Path) -> None:
        self.scratch = scratch
        # Where programs find the bytes as files.
        self._copies = copies
        self._root = root
        self._lock = threading.Lock()
        # Objects, and those in the trash; each put makes a new state.
        self._places: tuple[Objects, Objects] = ({}, {})
        self._states = 0

    def put(self, objects: Mapping[str, Buffer | Path], /) -> None:
        for key, source in objects.items():
            data = source.read_bytes() if isinstance(source, Path) else bytes(source)
            with self._lock:
                self._states += 1
                self._places[False][self._checked(key)] = (
                    data,
                    BlobStat(len(data), time.time(), self._states),
                )
            if isinstance(source, Path):
                source.unlink()

    def open(
        self, key: str, /, *, trashed: bool = False, fresh: bool = False
    ) -> tuple[io.BufferedIOBase, BlobStat]:
        data, found = self._get(key, trashed)
        return io.BytesIO(data), found

    def stat(self, key: str, /, *, trashed: bool = False) -> BlobStat | None:
        with self._lock:
            there = self._places[trashed].get(self._checked(key))
        return None if there is None else there[1]

    def list(self, prefix: str, /, *, trashed: bool = False) -> Iterator[str]:
        with self._lock:
            keys = [*self._places[trashed]]
        return (key for key in keys if key.startswith(prefix))

    def scan(self, prefix: str, /) -> Iterator[tuple[str, BlobStat]]:
        return ((key, found) for key in self.list(prefix) if (found := self.stat(key)) is not None)

    def sync(self, key: str, /) -> None:
        self._checked(key)

    def trash(self, keys: Sequence[str], /) -> None:
        self._move(keys, *self._places)

    def restore(self, keys: Sequence[str], /) -> None:
        there, waiting = self._places
        with self._lock:
            for key in keys:
                if key in there:
                    waiting.pop(key, None)
        self._move(keys, waiting, there)

    def delete(self, keys: Sequence[str], /) -> tuple[int, int]:
        with self._lock:
            gone = [there for key in keys if (there := self._places[True].pop(key, None))]
        return len(gone), sum(found.size for _, found in gone)

    def path(self, key: str, /, *, trashed: bool = False) -> Path:
        data, found = self._get(key, trashed)
        copy = self._copies / f"{id(self)}-{found.state}-{Path(key).name}"
        if not copy.exists():
            copy.write_bytes(data)
            copy.chmod(0o444)
        return copy

    def address(self, key: str, /) -> str:
        return f"memory://{self._root.name}/{key}"

    def strays(self) -> Sequence[str]:
        return ()

    def _get(self, key: str, trashed: bool) -> tuple[bytes, BlobStat]:
        with self._lock:
            there = self._places[trashed].get(self._checked(key))
        if there is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", self.address(key))
        return there

    def _move(self, keys: Sequence[str], source: Objects, target: Objects) -> None:
        with self._lock:
            for key in keys:
                if (there := source.pop(self._checked(key), None)) is not None:
                    target[key] = there

    def _checked(self, key: str) -> str:
        # A row's key must mean the same in every backend, so what leads out of the workspace is refused here too.
        blob_inside(self._root, key)
        return key


@contextmanager
def blobs_in_memory() -> Iterator[None]:
    """Have every workspace that is opened in the block keep its blobs in memory."""
    opened: dict[Path, MemoryBlobs] = {}
    lock = threading.Lock()

    def blobs(layout: Layout) -> MemoryBlobs:
        with lock:
            if layout.root not in opened:
                opened[layout.root] = MemoryBlobs(layout.root, layout.tmp, Path(copies))
            return opened[layout.root]

    with (
        tempfile.TemporaryDirectory(prefix="nirs-store-blobs-") as copies,
        patch.object(Layout, "blobs", property(blobs)),
    ):
        yield
