"""Processing runs: what was made together, with temporary files that go at the end, also of a failure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nirs_store.catalog import processing_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.values import as_error, as_text, to_json
from nirs_store.errors import InvalidInput
from nirs_store.ids import new_id
from nirs_store.registry.audit import note
from nirs_store.registry.files.active import ActiveRun, activate, deactivate
from nirs_store.registry.files.auditing import attempting
from nirs_store.registry.files.names import check_name
from nirs_store.registry.files.request import FileVersion
from nirs_store.registry.files.words import check_word
from nirs_store.registry.files.workplace import remove_workplace, workplace

if TYPE_CHECKING:
    from nirs_store.registry.files.api import Files

__all__ = ["ProcessingRun"]

_ENDS = ("completed", "failed")


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
        self.name = as_text(name, "name")
        self.module, self.module_version = module, module_version
        self.status = "pending"
        self._parameters = parameters
        to_json(parameters, "parameters")
        self._engine = files._engine
        about = {"processing_id": self.processing_id, "module": module, "module_version": module_version}
        self._active = ActiveRun(
            self._engine, {key: value for key, value in about.items() if value is not None}
        )
        self._place: Path | None = None
        self.files = type(files)(self._engine, files._prefix, {**files._defaults, **self._active.defaults})

    def start(self) -> Self:
        """Record the beginning.

        Raises
        ------
        InvalidInput
            It has begun already.
        """
        if self.status != "pending":
            raise InvalidInput(f"The processing run {self.name!r} has begun already ({self.status}).")
        # The session lives for others from here on: a run whose session is gone shows as interrupted.
        with attempting(self._engine, "start_processing", self.processing_id), self._engine.recording():
            pass
        row = {
            "processing_id": self.processing_id,
            "name": self.name,
            "module": self.module,
            "module_version": self.module_version,
            "parameters": self._parameters,
            "session_id": self._engine.session_id,
        }

        def work(con: Connection) -> None:
            processing_rows.begin_processing(con, row)

        self._engine.change(work)
        self.status = "in_progress"
        activate(self._active)
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
        found = check_word(status, "status", _ENDS)
        if self.status != "in_progress":
            raise InvalidInput(f"The processing run {self.name!r} is not under way ({self.status}).")
        text = None if message is None else as_error(message)

        def work(con: Connection) -> list[str]:
            processing_rows.end_processing(con, self.processing_id, found, text)
            if found != "failed":
                return []
            why = text or f"The processing run {self.name!r} failed."
            return processing_rows.fail_versions(con, self.processing_id, self._active.touched, why)

        try:
            marked = self._engine.change(work)
            self.status = found
        finally:
            deactivate(self._active)
            if self._place is not None:
                remove_workplace(self._place)
                self._place = None
        failed = found == "failed"
        for version_id in marked:
            details = {"status": "failed", "processing_id": self.processing_id}
            note(self._engine, "set_status", "file", version_id, message=text, details=details)
        note(
            self._engine, "end_processing", "processing", self.processing_id, success=not failed, message=text,
            details={"name": self.name, "status": found, "marked": len(marked)},
        )  # fmt: skip

    def temporary(self, name: str = "scratch") -> Path:
        """Give a path for a temporary file or folder of this run; it is removed at the run's end."""
        if self.status != "in_progress":
            raise InvalidInput(f"The processing run {self.name!r} is not under way ({self.status}).")
        part = check_name(name)
        if self._place is None:
            self._place = workplace(self._engine)
        path = self._place / part
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
