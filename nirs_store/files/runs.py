"""Processing runs: what was made together, with temporary files that go at the end, also of a failure."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nirs_store.audit.trail import attempting
from nirs_store.blobs.durable import ensure_dir, write_error
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.errors import InvalidInput
from nirs_store.files.names import FileVersion, check_name, check_word
from nirs_store.files.rows import fail_versions
from nirs_store.files.scope import ACTIVE, ActiveRun
from nirs_store.ids import is_id, new_id, now_naive
from nirs_store.records.notes import note
from nirs_store.values import as_error, as_name, to_json

if TYPE_CHECKING:
    from nirs_store.files.api import Files

# -- Scratch folders for files in the making, below the store's own temporary folder -------------

_PREFIX = "work-"


def scratch(engine: Engine) -> Path:
    """Make a folder of this session's."""
    engine.check_writable()
    # Recording makes the session live for others, so that none of them takes the folder for abandoned.
    with engine.recording():
        pass
    folder = engine.layout.tmp / f"{_PREFIX}{engine.session_id}-{new_id()}"
    ensure_dir(folder)
    return folder


def remove_scratch(folder: Path) -> None:
    """Remove a folder with everything in it."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise write_error(folder, error) from error


def abandoned(engine: Engine) -> list[Path]:
    """Return the folders of sessions that have ended."""
    found = [path for path in engine.layout.tmp.glob(f"{_PREFIX}*") if path.is_dir()]
    # Asked after the folders were listed: a session lives before it makes its first.
    alive = set(engine.living_sessions())
    sessions = {path: path.name.removeprefix(_PREFIX)[:36] for path in found}
    return sorted(path for path, session in sessions.items() if not is_id(session) or session not in alive)


def remove_abandoned(engine: Engine) -> int:
    """Remove the folders of sessions that have ended; returns how many."""
    engine.check_writable()
    folders = abandoned(engine)
    for folder in folders:
        remove_scratch(folder)
    return len(folders)


class ProcessingRun:
    """One run of a program that makes files; made by `Files.processing`.

    As a context manager it ends completed, or on an exception failed: what it had announced or set to
    in_progress is marked failed with the exception's text, and its temporary files are removed in any case.
    Whatever `store.files` is asked to put in the meantime, in the same thread, belongs to the run.

    Attributes
    ----------
    processing_id : str
    name, module, module_version : str
    status : str
        pending before its start.
    """

    def __init__(
        self,
        files: Files,
        name: str,
        module: str | None,
        module_version: str | None,
        parameters: Mapping[str, Any] | None,
    ) -> None:
        self.processing_id = new_id()
        self.name = as_name(name, "name")
        self.module, self.module_version = module, module_version
        self.status = "pending"
        self._parameters = parameters
        to_json(parameters, "parameters")
        about = {"processing_id": self.processing_id, "module": module, "module_version": module_version}
        about = {key: value for key, value in about.items() if value is not None}
        scope = files._scope
        self._engine = scope.engine
        self._active = ActiveRun(self._engine, dict(about))
        self._scratch: Path | None = None
        self.files = type(files)(self._engine, scope.prefix, {**scope.defaults, **about}, store=files._store)

    def start(self) -> Self:
        """Record the beginning.

        Raises
        ------
        InvalidInput
            It has begun already.
        """
        if self.status != "pending":
            raise InvalidInput(f"The processing run {self.name!r} has begun already ({self.status}).")
        row = {
            "processing_id": self.processing_id,
            "name": self.name,
            "status": "in_progress",
            "module": self.module,
            "module_version": self.module_version,
            "parameters": self._parameters,
            "session_id": self._engine.session_id,
            "started_at": now_naive(),
        }
        with attempting(self._engine, "start_processing", "processing", self.processing_id):
            # The session lives for others from here on: a run whose session is gone shows as interrupted.
            with self._engine.recording():
                pass
            self._engine.change(lambda con: Table(con, "processing_runs").insert([row]))
        self.status = "in_progress"
        ACTIVE.set((*ACTIVE.get(), self._active))
        note(self._engine, "start_processing", "processing", self.processing_id, details={"name": self.name})
        return self

    def end(self, status: str = "completed", message: str | None = None) -> None:
        """Record the end, and remove the temporary files.

        Parameters
        ----------
        status : {"completed", "failed"}
            When failed, what is still pending or in progress is marked failed too.
        message : str, optional

        Raises
        ------
        InvalidInput
            It has not begun, or has ended.
        """
        found = check_word(status, "status", ("completed", "failed"))
        self._require_under_way()
        failed = found == "failed"
        text = None if message is None else as_error(message)

        def work(con: Connection) -> list[str]:
            values = {"status": found, "message": text, "ended_at": now_naive()}
            Table(con, "processing_runs").update(values, processing_id=self.processing_id)
            why = text or f"The processing run {self.name!r} failed."
            return fail_versions(con, self.processing_id, self._active.touched, why) if failed else []

        try:
            marked = self._engine.change(work)
            self.status = found
        finally:
            # Runs may end in any order.
            ACTIVE.set(tuple(run for run in ACTIVE.get() if run is not self._active))
            if self._scratch is not None:
                remove_scratch(self._scratch)
                self._scratch = None
        for version_id in marked:
            details = {"status": "failed", "processing_id": self.processing_id}
            note(self._engine, "set_status", "file", version_id, message=text, details=details)
        note(
            self._engine, "end_processing", "processing", self.processing_id, success=not failed, message=text,
            details={"name": self.name, "status": found, "marked": len(marked)},
        )  # fmt: skip

    def temporary(self, name: str = "scratch") -> Path:
        """Return a path for a temporary file or folder of this run; it is removed at the run's end."""
        self._require_under_way()
        part = check_name(name)
        if self._scratch is None:
            self._scratch = scratch(self._engine)
        path = self._scratch / part
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def announce(self, name: str, *, type: str, **about: Any) -> FileVersion:
        """Say that a file will come: a version in progress, which the next `put` of its name completes."""
        return self.files.put(None, name, type=type, **{"status": "in_progress", **about})

    def put(self, source: Any, name: str, *, type: str, **about: Any) -> FileVersion:
        """Store a file of this run; see `Files.put`."""
        return self.files.put(source, name, type=type, **about)

    def set_status(self, name: str, status: str, message: str | None = None, **which: Any) -> None:
        """Say how far a file is; see `Files.set_status`."""
        self.files.set_status(name, status, message, **which)

    def _require_under_way(self) -> None:
        if self.status != "in_progress":
            raise InvalidInput(f"The processing run {self.name!r} is not under way ({self.status}).")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status != "in_progress":
            return  # ended by a call
        if error is None:
            self.end()
        else:
            self.end("failed", f"{error.__class__.__name__}: {error}")

    def __repr__(self) -> str:
        return f"<ProcessingRun {self.name!r}: {self.status}; {self.processing_id}>"
