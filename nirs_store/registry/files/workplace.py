"""Folders for files in the making: one a caller, below the store's own temporary folder, removed at the end."""

from __future__ import annotations

import shutil
from pathlib import Path

from nirs_store.blobs.durable import ensure_dir, write_error
from nirs_store.catalog.engine import Engine
from nirs_store.ids import is_id, new_id

__all__ = ["abandoned_workplaces", "remove_workplace", "workplace"]

_PREFIX = "work-"


def workplace(engine: Engine) -> Path:
    """Make a folder of this session's.

    Raises
    ------
    WriteFailed, ReadOnlyStore
    """
    engine.check_writable()
    # The session lives for others from here on, so that nobody takes the folder for abandoned.
    with engine.recording():
        pass
    folder = engine.layout.tmp / f"{_PREFIX}{engine.session_id}-{new_id()}"
    ensure_dir(folder)
    return folder


def remove_workplace(folder: Path) -> None:
    """Remove a folder with everything in it.

    Raises
    ------
    WriteFailed, ReadOnlyStore
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise write_error(folder, error) from error


def abandoned_workplaces(engine: Engine) -> list[Path]:
    """Folders of sessions that have ended."""
    found = [path for path in engine.layout.tmp.glob(f"{_PREFIX}*") if path.is_dir()]
    alive = set(engine.living_sessions())
    return sorted(path for path in found if _session_of(path) not in alive)


def _session_of(folder: Path) -> str | None:
    session = folder.name.removeprefix(_PREFIX)[:36]
    return session if is_id(session) else None
