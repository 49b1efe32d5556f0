"""Small files next to the catalog: its settings, how many changes it should hold, whose computer it is on."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from nirs_store.blobs.durable import (
    ensure_dir,
    fsync_dir,
    remove_file,
    rename_if_absent,
    write_error,
    write_file,
)
from nirs_store.blobs.plain import open_plain, read_plain, replace_plain
from nirs_store.db.layout import Layout
from nirs_store.db.lock import open_lock_file, try_lock, unlock
from nirs_store.db.sql import execute
from nirs_store.db.table import Table
from nirs_store.errors import CatalogDamaged, WorkspaceElsewhere
from nirs_store.ids import new_id, now_naive

# -- How many changes the catalog should hold: a number in it, and the same number in a file next to it.


LOST = "store.duckdb"
"""What the table `dropped` names where changes of the catalog were lost."""
_MOST = 10**17


class ChangeCount:
    """The count of one workspace; every transaction that writes the catalog is one change."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.change_count
        self._replica = layout.replica

    def advance(self, con: duckdb.DuckDBPyConnection) -> None:
        """Count one more, inside the caller's transaction."""
        execute(
            con,
            "INSERT INTO nirs_store_meta VALUES ('change_count', '1') "
            # Whatever the value is: an error would be taken for one of the commit that is being applied.
            "ON CONFLICT DO UPDATE SET value = "
            f"(least(coalesce(TRY_CAST(value AS BIGINT), 0), {_MOST}) + 1)::VARCHAR",
        )

    def publish(self, con: duckdb.DuckDBPyConnection) -> None:
        """Note that all changes until now must be found from now on: the journal does not hold them."""
        # A kill in the middle leaves a number that is too small, or none: then less is noticed, and nothing wrong said.
        with contextlib.suppress(OSError):
            replace_plain(self._path, str(self._counted(con)).encode())

    def missing(self, con: duckdb.DuckDBPyConnection) -> int:
        """How many changes the catalog lacks."""
        # A replica that is behind, also one that was built again, applies what it lacks from the log.
        if self._replica.exists():
            return 0
        return max(0, self._published() - self._counted(con))

    def accept(self, con: duckdb.DuckDBPyConnection, missing: int) -> None:
        """Note in the catalog, in a transaction of its own, that it lacks some, so that they are noticed once."""
        con.execute("BEGIN")
        try:
            con.execute("INSERT INTO dropped VALUES ('', ?, ?, ?)", [LOST, missing, now_naive()])
            con.execute(
                "INSERT INTO nirs_store_meta VALUES ('change_count', ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value",
                [str(self._published())],
            )
            con.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # the failing statement may have ended it itself
                con.execute("ROLLBACK")
            raise

    def _counted(self, con: duckdb.DuckDBPyConnection) -> int:
        rows = execute(con, "SELECT value FROM nirs_store_meta WHERE key = 'change_count'").fetchall()
        return _number(str(rows[0][0])) if rows else 0

    def _published(self) -> int:
        try:
            return _number(read_plain(self._path).decode())
        except (OSError, ValueError):
            return 0


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < len(str(_MOST)) else 0


def warn_of_missing(layout: Layout, missing: int) -> None:
    """Warn that a catalog lacks so many changes."""
    warnings.warn(
        f"{layout.catalog} lacks at least {missing} changes that were made in it: its log ({layout.wal.name}) was cut "
        "or removed, or the file was replaced by an older one. Commits that are still in the journal are applied "
        "again; deletions, files, evaluations and settings since then are lost. Compare with a backup; `nirs-store "
        "check` says what no longer fits.",
        stacklevel=7,
    )


# -- Which computer uses a workspace on a network file system: it leaves its name in ``journal/machine``.


_PATIENCE = 1.0
_POLL = 0.005


@functools.cache
def this_computer() -> dict[str, str]:
    """Name this computer: its host name, and ids of its installation and of its present start where there are any."""
    return {
        "host": socket.gethostname(),
        "machine": _text("/etc/machine-id"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def _is_here(found: dict[str, Any]) -> bool:
    """Tell whether a file names this computer."""
    here = this_computer()
    # Containers of one computer have a start in common, and one kernel keeps their locks.
    if here["boot"] and found.get("boot") == here["boot"]:
        return True
    # After a restart. Computers made from one image may have an id in common, but hardly their names as well.
    return found.get("host") == here["host"] and found.get("machine", "") == here["machine"]


class Presence:
    """The name that one store object leaves for its computer, from its opening to its end."""

    # The file is locked in common by all stores of this computer; the last one can lock it alone at its end.

    def __init__(self, layout: Layout, *, writable: bool, network: bool) -> None:
        self._layout = layout
        self._writable = writable
        self._network = network
        self._path = layout.machine
        self._fd: int | None = None
        self._mutex = threading.Lock()

    def enter(self, *, take_over: bool = False) -> None:
        """Leave the name of this computer, or raise `WorkspaceElsewhere`; a reader leaves none."""
        with self._mutex:
            self._enter(take_over=take_over)

    def check(self) -> None:
        """Look again: another computer may have taken over. Costs nothing on a local file system."""
        if not self._network:
            return
        with self._mutex:
            # Read, not only looked at: opening a file is what makes a network file system ask its server.
            found = _read(self._path)
            if self._fd is None or not found or not (_is_here(found) and _is_file_of(self._fd, self._path)):
                self._let_go()
                self._enter()

    def leave(self) -> None:
        """Remove the name if no other store of this computer is open."""
        with self._mutex:
            fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            with contextlib.suppress(
                OSError
            ):  # a name that stays keeps out other computers, as after a crash
                unlock(fd, network=True)
                if (
                    self._writable
                    and try_lock(fd, exclusive=True, network=True)
                    and _is_file_of(fd, self._path)
                ):
                    locked, fd = fd, None
                    _remove(locked, self._path)
        finally:
            if fd is not None:
                os.close(fd)

    def abandon(self) -> None:
        """Close the file in a forked child, which looks again at its next call."""
        self._mutex = threading.Lock()
        self._let_go()

    def _let_go(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _enter(self, *, take_over: bool = False) -> None:
        deadline = time.monotonic() + _PATIENCE
        try:
            while True:
                entered = self._try(deadline, take_over=take_over)
                if entered:
                    return
                # Only the name that the user has seen.
                take_over = take_over and entered is False
                time.sleep(_POLL)
        except WorkspaceElsewhere:
            raise
        except OSError as error:
            raise write_error(self._path, error) from error

    def _try(self, deadline: float, *, take_over: bool) -> bool | None:
        """Make one attempt; False when another process is coming or leaving, None when the other name is gone now."""
        if not self._network and not (os.path.lexists(self._path) and _is_own(self._path)):
            return True
        if self._network and self._writable and not os.path.lexists(self._path):
            self._leave_name()
        try:
            fd = open_lock_file(self._path, create=False, writable=os.access(self._path, os.W_OK))
        except FileNotFoundError:
            return not self._writable
        keep = False
        try:
            late = time.monotonic() > deadline
            found = _read(self._path) or {}
            if _is_here(found):
                locked = try_lock(fd, exclusive=False, network=True)
                keep = locked and self._network and _is_file_of(fd, self._path)
                if keep:
                    self._fd = fd
                elif late:
                    raise self._elsewhere(found, "Another process here has had its name locked for too long.")
                return keep or not self._network
            if not take_over:
                raise self._elsewhere(found, _REMEDY)
            if not try_lock(fd, exclusive=True, network=True):
                if late:
                    raise self._elsewhere(
                        found, "A store is still open there, so it cannot be taken over. " + _REMEDY
                    )
                return False
            if _is_file_of(fd, self._path):
                keep = True
                _remove(fd, self._path)
            return None
        finally:
            if not keep:
                os.close(fd)

    def _leave_name(self) -> None:
        ensure_dir(self._layout.tmp, shared=True)
        draft = self._layout.tmp / f"machine-{new_id()}"
        fd = open_plain(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            # Its own number tells the file from one in a copy of the folder.
            name = {**this_computer(), "since": datetime.now(UTC).isoformat(), "file": os.fstat(fd).st_ino}
            os.write(fd, json.dumps(name).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            rename_if_absent(draft, self._path)
        except FileExistsError:
            remove_file(draft, missing_ok=True)
        fsync_dir(self._path.parent)

    def _elsewhere(self, found: dict[str, Any], remedy: str) -> WorkspaceElsewhere:
        host = found.get("host")
        since = None
        with contextlib.suppress(ValueError):
            since = datetime.fromisoformat(str(found.get("since")))
        who = (
            f"the computer {host!r} uses it"
            if isinstance(host, str)
            else "a computer that left no name uses it"
        )
        when = "" if since is None else f" since {since:%Y-%m-%d %H:%M} UTC"
        return WorkspaceElsewhere(
            f"{self._layout.root} is on a network file system, and {who}{when}. Nothing was changed. {remedy}",
            host=host if isinstance(host, str) else None,
            since=since,
        )


_REMEDY = (
    "Close its stores there. If that computer crashed or is gone, and you have looked, open it here with "
    "take_over=True, or run `nirs-store take-over`. To record from here meanwhile, open it with inbox=True."
)


def _remove(fd: int, path: Path) -> None:
    """Remove the file, which the caller has locked alone, and close it: Windows refuses while it is open."""
    if sys.platform != "win32":
        os.unlink(path)
    os.close(fd)
    if sys.platform == "win32":
        os.unlink(path)
    fsync_dir(path.parent)


def _read(path: Path) -> dict[str, Any] | None:
    """Read the file; None where there is none, nothing known where it says nothing."""
    try:
        found = json.loads(read_plain(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_file_of(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _is_own(path: Path) -> bool:
    """Tell a folder that others see over a network from a copy of it on a local disk."""
    with contextlib.suppress(OSError):
        return (_read(path) or {}).get("file") == os.lstat(path).st_ino
    return False


def read_settings(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """All settings by name."""
    return {row["key"]: row["value"] for row in Table(con, "settings").where("key")}


def put_setting(con: duckdb.DuckDBPyConnection, name: str, value: Any) -> None:
    """Set one setting inside the caller's transaction."""
    Table(con, "settings").insert([{"key": name, "value": value, "changed_at": now_naive()}], "OR REPLACE")


def drop_setting(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Go back to the default inside the caller's transaction."""
    Table(con, "settings").delete(key=name)


class SettingsMirror:
    """The file next to the catalog, read again when it has changed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stamp: tuple[int, int, int] | None = None
        self._values: dict[str, Any] = {}

    def current(self) -> Mapping[str, Any]:
        """Return the settings as they are now, whichever process set them."""
        try:
            found = self._layout.settings.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._values = self._read()
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._values = None, {}
        return self._values

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(read_plain(self._layout.settings))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            values = error
        if not isinstance(values, dict):
            raise CatalogDamaged(
                f"{self._layout.settings} cannot be read, so the guard rules are unknown. Nothing was "
                "recorded. Remove the file and run any query: the catalog then restores it."
            )
        return values

    def reconcile(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the file say what the catalog says; the lock is held."""
        values = read_settings(con)
        try:
            same = dict(self.current()) == values
        except CatalogDamaged:
            same = False
        if same:
            return
        if values:
            write_file(self._layout.settings, json.dumps(values, indent=1).encode())
        else:
            remove_file(self._layout.settings, missing_ok=True)
        self._stamp = None
