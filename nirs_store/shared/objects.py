"""The place of the bytes of a shared workspace: an object store, or a folder that all computers reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nirs_store.blobs.backend import BlobBackend
from nirs_store.blobs.bucket import Bucket, parse_place
from nirs_store.blobs.copies import Copies
from nirs_store.blobs.durable import ensure_dir, remove_files
from nirs_store.blobs.local import LocalFolder
from nirs_store.blobs.objects import Names, ObjectBlobs
from nirs_store.blobs.places import claim_folder, look_at_folder, owner_of_folder
from nirs_store.db.layout import Layout
from nirs_store.errors import SharedStoreUnreachable

__all__ = ["LogBodies", "ObjectBlobs", "SharedFolder", "backend_of"]

_FOLDERS = ("artifacts", "commits", "trash", "tmp")


class LogBodies:
    """Large commits, which are objects of their own; their rows in the log have key and hash."""

    def __init__(self, backend: BlobBackend) -> None:
        self._backend = backend

    def put(self, digest: str, body: bytes) -> str:
        """Put the bytes of a commit of this SHA-256, and return their key."""
        key = f"commits/{digest[:2]}/{digest}.seg"
        self._backend.put({key: body})
        return key

    def get(self, key: str, size: int) -> bytes:
        """Return the bytes of a commit; of an object that has more than the log says, none is read."""
        try:
            file, found = self._backend.open(key)
            with file:
                return file.read() if found.size == size else b""
        except SharedStoreUnreachable:
            raise
        except OSError as error:
            raise SharedStoreUnreachable(
                f"{self._backend.address(key)}, which is a commit, cannot be read: {error}. Nothing was applied."
            ) from error


class SharedFolder(LocalFolder):
    """A folder that all computers of a workspace reach; for blobs only, which need no locks."""

    def __init__(self, root: Path, *, scratch: Path, owner: str | None = None) -> None:
        super().__init__(root, trash=root / "trash", scratch=scratch)
        self._owner = owner

    def claim(self) -> None:
        """Make the folder this workspace's, unless it is another's."""
        if self._owner is not None:
            claim_folder(self._root, self._owner)
        for name in _FOLDERS:
            ensure_dir(self._root / name, shared=True)

    def owner_there(self) -> str | None:
        """Return the id of the workspace that the folder belongs to; None if nothing there names one."""
        return owner_of_folder(self._root)

    def look_at_owner(self) -> None:
        """Refuse a folder that is another workspace's, or is not mounted: what is put there would be lost."""
        if self._owner is not None:
            look_at_folder(self._root, self._owner)

    def remove(self, keys: Sequence[str], /) -> None:
        """Delete files for good: keys that are never used again."""
        remove_files([self.path(key) for key in keys])


def backend_of(url: str, place: Layout, *, owner: str | None = None) -> SharedFolder | ObjectBlobs:
    """Return the place that an address names; `place` is a folder of this computer, `owner` the workspace's id."""
    where = parse_place(url)
    if where.scheme == "file":
        root = Path(where.prefix)
        return SharedFolder(root, scratch=root / "tmp", owner=owner)
    return ObjectBlobs(
        Bucket(where),
        Names(place.aside, place.condemned),
        Copies(place.root / "cache"),
        root=place.root,
        scratch=place.tmp,
        owner=owner,
    )
