"""Where a workspace has its blobs when not in its own folder: remembered in ``blobs.json``, without secrets."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Any

import msgspec

from nirs_store.blobs.backend import BLOBS, BlobBackend
from nirs_store.blobs.bucket import Bucket, Place, parse_place
from nirs_store.blobs.copies import Copies, cache_folder
from nirs_store.blobs.durable import ensure_dir, fsync_dir, rename_if_absent, write_error, write_file
from nirs_store.blobs.local import LocalFolder
from nirs_store.blobs.objects import OWNER, Names, ObjectBlobs, Owner
from nirs_store.blobs.plain import read_plain
from nirs_store.errors import CatalogDamaged, InvalidInput, SharedStoreUnreachable
from nirs_store.ids import new_id


class WorkspacePlaces(msgspec.Struct, frozen=True):
    """The folders and files of a workspace that matter here."""

    root: Path
    file: Path
    """Where the place is remembered."""
    artifacts: Path
    trash: Path
    condemned: Path
    scratch: Path


class _Remembered(msgspec.Struct, frozen=True):
    blobs: str
    id: str
    file: int
    """Number of this very file, which a copy of the folder does not have."""


def settle_place(value: Any, places: WorkspacePlaces, *, writable: bool, fresh: bool) -> None:
    """Have a workspace keep its blobs where a caller says; one that keeps them elsewhere is refused.

    Raises
    ------
    InvalidInput
        Not an address, or not where this workspace has its blobs.
    CatalogDamaged
        The workspace has no catalog (`fresh`), but blobs there.
    SharedStoreUnreachable
        The place does not answer, or belongs to another workspace.
    """
    place = parse_place(value)
    known = _read(places)
    moved = known is not None and known.blobs != str(place)
    if known is not None and moved and not (writable and _owner_at(place, places) == known.id):
        raise InvalidInput(
            f"{places.root} keeps its blobs in {known.blobs}, not in {place}. Nothing was changed. To move them, copy "
            f"all that is there, with {OWNER}, and open the workspace with the new address."
        )
    if known is None:
        _refuse_filled(places, place)
    if not writable:
        if known is None:
            raise InvalidInput(
                f"{places.root} keeps its blobs in its own folder, not in {place}. Nothing was changed."
            )
        return
    # Before anything is written: packages, credentials, the network, and whose objects are there.
    if known is None and place.scheme == "file":
        refuse_workspace(Path(place.prefix))
    # Another process may be making this very workspace.
    if known is None and _owner_at(place, places) is not None and _read(places) is None:
        raise SharedStoreUnreachable(
            f"{place.short} holds the blobs of another workspace. Nothing was changed. Choose another prefix."
        )
    number, new = _number(places.file), known is None or fresh
    if known is None or moved or known.file != number:
        known = _remember(places, place, known)
    # Later, a place without the mark is one that was emptied, or is not mounted: marked again it would be believed.
    (_claim if new else _look)(place, known.id, places)
    # An empty catalog would hide that the real one was lost.
    lost = fresh and any(True for _ in backend_at(place, known.id, places).list(BLOBS))
    if lost and not (places.root / "store.duckdb").exists():
        raise CatalogDamaged(
            f"{places.root} has blobs in {place.short}, but no store.duckdb: the catalog was lost or moved. Nothing "
            "was changed. Restore store.duckdb from a backup or from a copy kept in journal/, or name another folder."
        )


def remembered_backend(places: WorkspacePlaces) -> BlobBackend:
    """Return the place that a workspace remembers; it is reached when first needed."""
    known = _read(places)
    if known is None:
        return LocalFolder(places.root, trash=places.trash, scratch=places.scratch)
    if known.file != _number(places.file):
        raise InvalidInput(
            f"{places.root} is a copy of a workspace that keeps its blobs in {known.blobs}, or was moved. If two used "
            "it, each would delete what only the other needs. Nothing was changed. When the other folder is gone, open "
            f"this one once with WorkspaceStore({str(places.root)!r}, blobs={known.blobs!r}); otherwise restore a "
            "backup."
        )
    place = parse_place(known.blobs)
    if place.scheme == "file":
        look_at_folder(Path(place.prefix), known.id)
    return backend_at(place, known.id, places)


def backend_at(place: Place, owner: str, places: WorkspacePlaces) -> BlobBackend:
    """Return the backend for a place."""
    if place.scheme == "file":
        folder = Path(place.prefix)
        return LocalFolder(folder, trash=folder / "journal" / "aside", scratch=folder / "journal" / "tmp")
    return ObjectBlobs(
        Bucket(place),
        Names(places.trash, places.condemned),
        Copies(cache_folder(owner)),
        root=places.root,
        scratch=places.scratch,
        owner=owner,
    )


def _refuse_filled(places: WorkspacePlaces, place: Place) -> None:
    try:
        filled = any(entry.is_file() for entry in places.artifacts.rglob("*"))
    except OSError:
        filled = False
    if filled:
        raise InvalidInput(
            f"{places.root} keeps its blobs in its own folder, and has some already. Nothing was changed. To have them "
            f"in {place.short}, make a new workspace there and merge an archive of this one into it."
        )


def _owner_at(place: Place, places: WorkspacePlaces) -> str | None:
    backend = backend_at(place, "", places)
    if isinstance(backend, ObjectBlobs):
        return backend.owner_there()
    return owner_of_folder(Path(place.prefix))


def owner_of_folder(folder: Path) -> str | None:
    """Read to which workspace a folder for blobs belongs; None if nothing there says so."""
    try:
        return _read_owner(folder)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError):
        return ""


def _read_owner(folder: Path) -> str:
    return msgspec.json.decode(read_plain(folder / OWNER), type=Owner).id


def _claim(place: Place, owner: str, places: WorkspacePlaces) -> None:
    if place.scheme != "file":
        backend = backend_at(place, owner, places)
        assert isinstance(backend, ObjectBlobs)
        backend.claim()
        return
    folder = Path(place.prefix)
    claim_folder(folder, owner)
    for name in ("artifacts", "journal/aside", "journal/tmp"):
        ensure_dir(folder / name, shared=True)


def _look(place: Place, owner: str, places: WorkspacePlaces) -> None:
    backend = backend_at(place, owner, places)
    if isinstance(backend, ObjectBlobs):
        backend.look_at_owner()
    else:
        look_at_folder(Path(place.prefix), owner)


def refuse_workspace(folder: Path) -> None:
    """Refuse the folder of a workspace as a place for the blobs of another one."""
    if os.path.lexists(folder / "store.duckdb"):
        raise InvalidInput(
            f"blobs: {folder} is a workspace itself; a garbage collection there would delete blobs of this one. "
            "Nothing was changed. Name a folder for blobs only."
        )


def claim_folder(folder: Path, owner: str) -> None:
    """Make a folder for blobs this workspace's, unless it is another's."""
    refuse_workspace(folder)
    if not (folder / OWNER).exists():
        ensure_dir(folder, shared=True)
        # Another process may be quicker, and is looked at.
        with contextlib.suppress(InvalidInput):
            write_file(folder / OWNER, msgspec.json.encode(Owner(owner)), replace=False)
    look_at_folder(folder, owner)


def look_at_folder(folder: Path, owner: str) -> None:
    """Refuse a folder that is not, or no longer, this workspace's."""
    try:
        found = _read_owner(folder)
    except (OSError, msgspec.MsgspecError) as error:
        raise SharedStoreUnreachable(
            f"{folder}, where this workspace has its blobs, has no {OWNER} that can be read ({type(error).__name__}). "
            "Nothing was changed, and nothing counts as lost. Mount the folder, or bring it back."
        ) from error
    if found != owner:
        raise SharedStoreUnreachable(
            f"{folder} holds the blobs of another workspace. Nothing was changed. Choose another folder for this one."
        )


def _read(places: WorkspacePlaces) -> _Remembered | None:
    try:
        found = msgspec.json.decode(read_plain(places.file), type=_Remembered)
        # It names a folder of the cache.
        uuid.UUID(found.id)
        return found
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise CatalogDamaged(
            f"{places.file}, which says where the blobs are, cannot be read ({type(error).__name__}). Nothing was "
            "changed. Bring it back from a backup of the folder."
        ) from error


def _number(file: Path) -> int:
    try:
        return os.stat(file).st_ino
    except FileNotFoundError:
        return 0


def _remember(places: WorkspacePlaces, place: Place, known: _Remembered | None) -> _Remembered:
    """Write where the blobs are; two processes that do so at once agree on one."""
    ensure_dir(places.root)
    draft = places.root / f".blobs-{new_id()}.tmp"
    try:
        # The number is known once there is a file, and renaming keeps it.
        draft.touch()
        made = _Remembered(str(place), new_id() if known is None else known.id, os.stat(draft).st_ino)
        with open(draft, "r+b") as file:
            file.write(msgspec.json.format(msgspec.json.encode(made)))
            file.flush()
            os.fsync(file.fileno())
        if known is None:
            rename_if_absent(draft, places.file)
        else:
            os.replace(draft, places.file)
        fsync_dir(places.root)
    except FileExistsError:
        other = _read(places)
        if other is None or other.blobs != str(place):
            raise InvalidInput(
                f"{places.root} was made by another process in this moment, with other blobs. Nothing was changed."
            ) from None
        made = other
    except OSError as error:
        raise write_error(places.file, error) from error
    finally:
        draft.unlink(missing_ok=True)
    return made
