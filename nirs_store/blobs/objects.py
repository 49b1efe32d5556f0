"""Blobs in an object store, which cannot rename: the trash is a list of names, and names have generations.

A deletion that was sent may arrive an hour later, when a laptop wakes or a proxy tries again. So a name that was
condemned once is never used again: the next object of its key has the next generation.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import msgspec

from nirs_store.blobs.backend import BLOBS, BlobStat
from nirs_store.blobs.bucket import PIECE, WHOLE, Bucket
from nirs_store.blobs.copies import Copies
from nirs_store.blobs.durable import Buffer, at_once, fsync_dir, remove_file, write_error
from nirs_store.blobs.plain import blob_inside, hash_file
from nirs_store.errors import PathEscapes, SharedStoreUnreachable

if TYPE_CHECKING:
    from obstore import ObjectMeta

# Names the workspace that a prefix belongs to; its '!' keeps it apart from the names of keys.
OWNER = "!workspace.json"
_THREADS = 8
_CHANGED_OFTEN = 5
# So long the trash is left alone after an object store did not answer.
_REST = 60.0
_ONE_BLOB = re.compile(r"artifacts/[0-9a-f]{2}/[0-9a-f]{64}\.")
# A key that is made of a hash.
_HASHED = re.compile(r"artifacts/[0-9a-f]{2}/([0-9a-f]{64})(?:~[0-9]{1,6})?\.[a-z0-9_-]+")


# -- Names of objects.


def name_of(key: str, generation: int = 0) -> str:
    """Return the name of an object: its key, in characters that every object store takes, and its generation.

    Examples
    --------
    >>> name_of("artifacts/ab/ab12.joblib"), name_of("models/by hand=.bin", 2)
    ('artifacts/ab/ab12.joblib', 'models/by=20hand=3D.bin!2')
    """
    parts = (quote(part, safe="").replace("%", "=") for part in key.split("/"))
    return "/".join(parts) + (f"!{generation}" if generation else "")


def key_of(name: str) -> tuple[str, int] | None:
    """Return key and generation of an object's name; None for a name that no key has."""
    written, sign, generation = name.partition("!")
    if sign and not re.fullmatch(r"[1-9][0-9]{0,8}", generation):
        return None
    try:
        key = unquote(written.replace("%", "%25").replace("=", "%"), errors="strict")
    except UnicodeDecodeError:
        return None
    number = int(generation or 0)
    return (key, number) if name_of(key, number) == name else None


class Waiting(msgspec.Struct, frozen=True):
    """An object in the trash."""

    generation: int
    size: int


_MARK = re.compile(r"(.+)\+(\d{1,9})")
_LINE = re.compile(r"([+-]) (\S+) (\d{1,9}) \.")


class _Condemned(NamedTuple):
    """The list of condemned names as it was read."""

    file: tuple[int, int] = (0, 0)
    """Number and length of the file."""
    highest: Mapping[str, int] = MappingProxyType({})
    """The highest condemned generation of each key."""
    unconfirmed: Mapping[tuple[str, int], None] = MappingProxyType({})


class Names:
    """What the folder of a workspace knows of names: a file for each object in the trash, and a list of the condemned.

    The generation of a key is the lowest that neither waits in the trash nor was condemned. All processes of one
    computer see a change of it at once. A replica has neither files nor a list: the keys of a shared workspace name
    their generation, and its server knows which.
    """

    def __init__(self, trash: Path, condemned: Path) -> None:
        self._trash = trash
        self._list = condemned
        self._known = _Condemned()

    def generation(self, key: str, /) -> int:
        """Look at the list and the files."""
        number = self._first(key)
        while os.path.lexists(self._mark(key, number)):
            number += 1
        return number

    def waiting(self, key: str, /) -> Waiting | None:
        """Look at the file before the first that is missing."""
        first, next_one = self._first(key), self.generation(key)
        if next_one == first:
            return None
        try:
            size = int(self._mark(key, next_one - 1).read_text("ascii") or 0)
        except FileNotFoundError:
            return None
        except ValueError:
            size = 0
        return Waiting(next_one - 1, size)

    def all_waiting(self) -> Mapping[str, Waiting]:
        """List the files."""
        keys = {key for key, _ in filter(None, map(_parse_mark, self._marks()))}
        found = ((key, self.waiting(key)) for key in keys)
        return {key: each for key, each in found if each is not None}

    def strays(self) -> list[str]:
        """Name files in the folder that are nothing of this."""
        return sorted(name for name in self._marks() if _parse_mark(name) is None)

    def set_aside(self, objects: Mapping[str, Waiting], /) -> None:
        """Write the files."""
        for key, each in objects.items():
            mark = self._mark(key, each.generation)
            try:
                mark.write_bytes(str(each.size).encode())
            except OSError as error:
                raise write_error(mark, error) from error
        _sync(self._trash)

    def put_back(self, keys: Sequence[str], /) -> None:
        """Remove the last file of each key."""
        for key in keys:
            there = self.waiting(key)
            if there is not None:
                remove_file(self._mark(key, there.generation), missing_ok=True)
        _sync(self._trash)

    def condemn(self, keys: Sequence[str], /) -> None:
        """Write them into the list, then remove the files."""
        objects = []
        for key in keys:
            objects += [(key, number) for number in range(self._first(key), self.generation(key))]
        self._append("+", objects)
        # A generation counts as condemned now, whether its file is there or not.
        for key, number in objects:
            remove_file(self._mark(key, number), missing_ok=True)
        _sync(self._trash)

    def condemned(self) -> Sequence[tuple[str, int]]:
        """Return the objects on the list that are not confirmed."""
        return list(self._look().unconfirmed)

    def confirm(self, objects: Sequence[tuple[str, int]], /) -> None:
        """Write them into the list again."""
        self._append("-", objects)

    def _first(self, key: str) -> int:
        return self._look().highest.get(key, -1) + 1

    def _look(self) -> _Condemned:
        """Read what was added to the list; a line without its end was not finished, and nothing was deleted for it."""
        known = self._known
        try:
            found = os.stat(self._list)
        except FileNotFoundError:
            return known
        if known.file == (found.st_ino, found.st_size):
            return known
        highest: dict[str, int] = {}
        unconfirmed: dict[tuple[str, int], None] = {}
        for line in self._list.read_text("ascii", errors="replace").splitlines():
            if (match := _LINE.fullmatch(line)) is None:
                continue
            key, number = unquote(match[2]), int(match[3])
            if match[1] == "+":
                highest[key] = max(number, highest.get(key, -1))
                unconfirmed[key, number] = None
            else:
                unconfirmed.pop((key, number), None)
        # Whole at once, and returned: what another thread read earlier must not be mixed with this, or replace it
        # before it is used. A name that counts as free while it is being deleted would lose the next object.
        self._known = known = _Condemned((found.st_ino, found.st_size), highest, unconfirmed)
        return known

    def _append(self, sign: str, objects: Sequence[tuple[str, int]]) -> None:
        if not objects:
            return
        lines = "".join(f"{sign} {quote(key, safe='/')} {number} .\n" for key, number in objects)
        try:
            with open(self._list, "ab") as file:
                # After the beginning of a line that a killed program left.
                file.write(b"\n" + lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self._list, error) from error
        _sync(self._list.parent)

    def _mark(self, key: str, generation: int) -> Path:
        return self._trash / f"{quote(key, safe='')}+{generation}"

    def _marks(self) -> list[str]:
        try:
            return os.listdir(self._trash)
        except FileNotFoundError:
            return []


def _parse_mark(name: str) -> tuple[str, int] | None:
    match = _MARK.fullmatch(name)
    if match is None or quote(unquote(match[1]), safe="") != match[1]:
        return None
    return unquote(match[1]), int(match[2])


def _sync(folder: Path) -> None:
    try:
        fsync_dir(folder)
    except OSError as error:
        raise write_error(folder, error) from error


# -- The backend.


class Owner(msgspec.Struct, frozen=True):
    """The workspace that a prefix belongs to."""

    id: str


S = TypeVar("S")
T = TypeVar("T")


class ObjectBlobs:
    """The blobs of one workspace below a prefix of an object store; a `BlobBackend`.

    `root` is the workspace's folder, by which keys are checked; no blob is in it. `owner` is its id,
    which an object below the prefix must name, or None if the caller has checked it.
    """

    far = True

    def __init__(
        self,
        bucket: Bucket,
        names: Names,
        copies: Copies,
        *,
        root: Path,
        scratch: Path,
        owner: str | None,
    ) -> None:
        self._bucket = bucket
        self._names = names
        self._copies = copies
        self._root = root
        self._owner = owner
        self._owned = False
        self._resting = 0.0
        self.scratch = scratch

    def __repr__(self) -> str:
        return f"ObjectBlobs({self._bucket.place.short!r})"

    def claim(self) -> None:
        """Make the prefix this workspace's, unless it is another's."""
        if self._owner is not None:
            self._bucket.create(OWNER, msgspec.json.encode(Owner(self._owner)))
            self.look_at_owner()

    def owner_there(self) -> str | None:
        """Return the id of the workspace that the prefix belongs to; None if no object names one."""
        head = self._bucket.head(OWNER)
        data = None if head is None else self._bucket.get(OWNER, 0, min(head["size"], 4096), None)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=Owner).id
        except msgspec.MsgspecError:
            return ""

    def look_at_owner(self, *, again: bool = False) -> None:
        """Refuse a place that is not, or no longer, this workspace's: what is missing there would count as lost."""
        if self._owner is None or (self._owned and not again):
            return
        place, found = self._bucket.place.short, self.owner_there()
        if found is None:
            raise SharedStoreUnreachable(
                f"{place} has no {OWNER}, so it is not, or no longer, where this workspace has its blobs. Nothing was "
                "changed, and nothing counts as lost. Bring the bucket back, or correct the address."
            )
        if found != self._owner:
            raise SharedStoreUnreachable(
                f"{place} holds the blobs of another workspace. Nothing was changed. Choose another prefix."
            )
        self._owned = True

    # -- putting -----------------------------------------------------------------------------

    def put(self, objects: Mapping[str, Buffer | Path], /) -> None:
        """Create objects; where one is there already, its bytes decide whether it stays."""
        for key in objects:
            self._checked(key)
        self.look_at_owner()
        _each(lambda item: self._put(*item), objects.items())

    def _put(self, key: str, source: Buffer | Path) -> None:
        while True:
            generation = self._names.generation(key)
            self._put_named(name_of(key, generation), source)
            # A gc may have set the name aside meanwhile: then the key has the next one.
            if generation == self._names.generation(key):
                break
        if isinstance(source, Path):
            source.unlink(missing_ok=True)

    def _put_named(self, name: str, source: Buffer | Path) -> None:
        if not isinstance(source, Path):
            self._put_whole(name, source)
        elif (size := source.stat().st_size) <= WHOLE:
            self._put_whole(name, source.read_bytes())
        elif not self._holds(name, size, lambda: hash_file(source)):
            self._bucket.replace(name, source)

    def _put_whole(self, name: str, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        # Large ones go in parts, which no object store does "if absent"; who puts this name puts the same bytes.
        if len(view) <= WHOLE and self._bucket.create(name, view):
            return
        # An unclear answer was tried again and found its own object, or another process was quicker; or it is damaged.
        if not self._holds(name, len(view), lambda: hashlib.sha256(view).hexdigest()):
            self._bucket.replace(name, view)

    def _holds(self, name: str, size: int, digest: Callable[[], str]) -> bool:
        """Tell whether an object has these bytes already, by its size and then by reading it."""
        meta = self._bucket.head(name)
        if meta is None or meta["size"] != size:
            return False
        draft = self._copies.draft()
        try:
            return self._download(name, meta, draft) == digest()
        finally:
            remove_file(draft, missing_ok=True)

    def sync(self, key: str, /) -> None:
        """Do nothing: an object is durable before its put is answered."""
        self._checked(key)

    # -- looking -----------------------------------------------------------------------------

    def open(
        self, key: str, /, *, trashed: bool = False, fresh: bool = False
    ) -> tuple[BufferedIOBase, BlobStat]:
        """Open a copy of an object, which is fetched unless a local one is whole."""
        file, meta, _ = self._fetch(key, trashed=trashed, fresh=fresh)
        return file, _stat_of(meta)

    def stat(self, key: str, /, *, trashed: bool = False) -> BlobStat | None:
        """Ask for an object's size and tag."""
        name = self._name(key, trashed=trashed)
        meta = None if name is None else self._bucket.head(name)
        return None if meta is None else _stat_of(meta)

    def list(self, prefix: str, /, *, trashed: bool = False) -> Iterator[str]:
        """List what is in the trash, or the objects in their places; others are passed over."""
        if trashed:
            return (key for key in self._names.all_waiting() if key.startswith(prefix))
        return (key for key, _, placed in self._walk(prefix) if placed)

    def scan(self, prefix: str, /) -> Iterator[tuple[str, BlobStat]]:
        """Take sizes and tags from the listing."""
        return ((key, _stat_of(meta)) for key, meta, placed in self._walk(prefix) if placed)

    def strays(self) -> Sequence[str]:
        """Name objects that are nothing of ours, or that a deletion should have removed, and strange files."""
        there = [key for key, _, placed in self._walk(BLOBS) if not placed]
        return sorted(there) + [f"journal/aside/{name}" for name in self._names.strays()]

    def path(self, key: str, /, *, trashed: bool = False) -> Path:
        """Return the path of a local copy, which stays for an hour."""
        file, _, digest = self._fetch(key, trashed=trashed)
        file.close()
        return self._copies.lend(digest)

    def address(self, key: str, /) -> str:
        """Return the address of an object."""
        return self._bucket.address(name_of(key))

    def _walk(self, prefix: str) -> Iterator[tuple[str, ObjectMeta, bool]]:
        """List objects: key, meta, and whether it is the object of that key; other names come as they are."""
        # A bucket may have been emptied since it was looked at, and then all would count as lost. Who looks for one
        # blob is about to save it, and would wait two answers longer for each.
        if _ONE_BLOB.fullmatch(prefix) is None:
            self.look_at_owner(again=True)
        waiting = self._names.all_waiting()
        for meta in self._bucket.list(name_of(prefix)):
            found = key_of(meta["path"])
            if found is None or not self._is_inside(found[0]):
                yield meta["path"], meta, False
                continue
            key, generation = found
            if generation == self._names.generation(key):
                yield key, meta, True
            elif key not in waiting or generation > waiting[key].generation:
                yield meta["path"], meta, False

    def _fetch(
        self, key: str, *, trashed: bool, fresh: bool = False
    ) -> tuple[BufferedIOBase, ObjectMeta, str]:
        own = _HASHED.fullmatch(key)
        for _ in range(_CHANGED_OFTEN):
            name = self._name(key, trashed=trashed)
            meta = None if name is None else self._bucket.head(name)
            if name is None or meta is None:
                self.look_at_owner(again=True)
                if name != self._name(key, trashed=trashed):
                    continue  # a gc moved it to the trash, or back, in between
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.address(key))
            if own and not fresh and (file := self._copies.find(own[1], meta["size"])) is not None:
                return file, meta, own[1]
            draft = self._copies.draft()
            try:
                digest = self._download(name, meta, draft)
                if own and digest not in (None, own[1]):
                    # Bytes may change on the way; what is the same twice is what the object has.
                    digest = self._download(name, meta, draft)
                if digest is not None:
                    return self._copies.add(draft, digest), meta, digest
            finally:
                remove_file(draft, missing_ok=True)
        raise SharedStoreUnreachable(
            f"{self.address(key)} changes while it is read. Nothing was changed here. Find out who writes to it."
        )

    def _download(self, name: str, meta: ObjectMeta, draft: Path) -> str | None:
        """Fetch an object piece by piece into a file; its hash, or None when it is no longer the one it was."""
        size, done, found = meta["size"], 0, hashlib.sha256()
        free = shutil.disk_usage(draft.parent).free
        if size > free:
            raise OSError(
                errno.ENOSPC,
                f"its {size:,} bytes do not fit on this computer, where {free:,} are free",
                self._bucket.address(name),
            )
        with open(draft, "wb", opener=_for_this_user) as file:
            while done < size or not size:
                piece = self._bucket.get(name, done, min(done + PIECE, size), meta["e_tag"])
                if piece is None:
                    return None
                file.write(piece)
                found.update(piece)
                done += len(piece)
                if not size:
                    break
        return found.hexdigest()

    # -- the trash ---------------------------------------------------------------------------

    def trash(self, keys: Sequence[str], /) -> None:
        """Write names of objects down as waiting; the objects stay where they are."""
        for key in keys:
            self._checked(key)
        self.look_at_owner()

        def look(key: str) -> tuple[str, Waiting] | None:
            generation = self._names.generation(key)
            meta = self._bucket.head(name_of(key, generation))
            return None if meta is None else (key, Waiting(generation, meta["size"]))

        self._names.set_aside(dict(filter(None, _each(look, keys))))

    def restore(self, keys: Sequence[str], /) -> None:
        """Take names out of the trash, or condemn them where the key was put again meanwhile."""
        waiting = self._names.all_waiting()
        there = [key for key in keys if key in waiting]
        found = self._if_reachable(lambda: _each(self.stat, there))
        if found is None:
            return  # until it can be asked they wait in the trash, where readers find them
        again = [key for key, each in zip(there, found, strict=True) if each is not None]
        self._names.put_back([key for key in there if key not in again])
        if again:
            self.delete(again)

    def delete(self, keys: Sequence[str], /) -> tuple[int, int]:
        """Condemn names, then delete their objects, with those that an earlier call could not delete."""
        waiting = self._names.all_waiting()
        there = [key for key in keys if key in waiting]
        self._names.condemn(there)
        left = list(self._names.condemned())
        if left and self._if_reachable(lambda: self._remove(left)) is None:
            warnings.warn(
                f"{len(left)} objects in {self._bucket.place.short} are no longer needed and could not be deleted: it "
                "does not answer. Nothing is lost; the next garbage collection deletes them.",
                stacklevel=6,
            )
        return len(there), sum(waiting[key].size for key in there)

    def remove(self, keys: Sequence[str], /) -> None:
        """Delete objects from their places for good; for keys that are never used again."""
        for key in keys:
            self._checked(key)
        self.look_at_owner()
        self._bucket.delete([name_of(key) for key in keys])

    def _remove(self, objects: Sequence[tuple[str, int]]) -> bool:
        self.look_at_owner()
        self._bucket.delete([name_of(key, number) for key, number in objects])
        self._names.confirm(objects)
        return True

    def _if_reachable(self, call: Callable[[], T]) -> T | None:
        """Do what belongs to every turn with the catalog, which must not fail or wait because of the object store."""
        if time.monotonic() < self._resting:
            return None
        try:
            return call()
        except SharedStoreUnreachable:
            self._resting = time.monotonic() + _REST
            return None

    # -- names -------------------------------------------------------------------------------

    def _name(self, key: str, *, trashed: bool) -> str | None:
        self._checked(key)
        if not trashed:
            return name_of(key, self._names.generation(key))
        waiting = self._names.waiting(key)
        return None if waiting is None else name_of(key, waiting.generation)

    def _checked(self, key: str) -> None:
        # A row's key must mean the same in every backend, so what leads out of the workspace is refused here too.
        if _HASHED.fullmatch(key) is None:
            blob_inside(self._root, key)

    def _is_inside(self, key: str) -> bool:
        try:
            self._checked(key)
        except PathEscapes:
            return False
        return True


def _stat_of(meta: ObjectMeta) -> BlobStat:
    state = (meta["path"], meta["e_tag"], meta["version"], meta["size"])
    return BlobStat(meta["size"], meta["last_modified"].timestamp(), state if meta["e_tag"] else None)


def _for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _each(call: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Call for each item, several at a time: each waits for an answer."""
    return at_once(call, list(items), _THREADS)
