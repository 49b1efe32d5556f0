"""Noting what was done: one entry an operation, on its way to the audit trail.

A note travels in the same commit as what it is about, among the changes; so recording costs a few microseconds
more and still waits for nobody. What is done inside a transaction of the catalog is noted in that transaction.
A refused attempt is noted beside any transaction that is being given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.audit_rows import AUDIT, append_notes, payload_of
from nirs_store.catalog.buffer import Buffer, now_naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.guard import current_guard
from nirs_store.catalog.incoming import incoming
from nirs_store.catalog.values import as_error, from_json, to_json
from nirs_store.errors import NirsStoreError

__all__ = ["add_note", "auditing", "note", "note_failure", "short_error"]

_LONGEST = 500


def auditing(engine: Engine) -> bool:
    """Whether this store notes what it does."""
    if not engine.settings.audit:
        return False
    found = engine.workspace_settings.current().get("audit")
    return not found or bool(found.get("enabled", True))


def add_note(
    engine: Engine,
    buffer: Buffer,
    operation: str,
    object_kind: str | None = None,
    object_id: str | None = None,
    *,
    success: bool = True,
    message: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add a note to rows that are about to be recorded: it is committed with them, or not at all."""
    if auditing(engine):
        buffer.change(AUDIT, object_id or "", payload_of(operation, object_kind, success, message, details))


def note(
    engine: Engine,
    operation: str,
    object_kind: str | None = None,
    object_id: str | None = None,
    *,
    success: bool = True,
    message: str | None = None,
    details: Mapping[str, Any] | None = None,
    con: Connection | None = None,
    always: bool = False,
) -> None:
    """Note an operation; see `nirs_store.registry.audit.note`."""
    if engine.closed or not engine.writable or not (always or auditing(engine)):
        return
    if not success:
        guard = current_guard(engine)
        said = [message or "", object_id or ""]
        if guard is not None and next(guard.violations(said, "message"), None) is not None:
            # An error repeats what was given; what the guard refuses must not come in this way.
            message, object_id = "withheld: it holds what the guard refuses", None
    payload = payload_of(operation, object_kind, success, message, details)
    if always:
        payload["always"] = True
    if con is not None:
        # As it would come out of the journal.
        with incoming(con) as rows:
            append_notes(con, rows, [(now_naive(), object_id, from_json(to_json(payload, "details")))])
        return
    if success:
        with engine.recording() as buffer:
            buffer.change(AUDIT, object_id or "", payload)
        return
    engine.record_beside(lambda buffer: buffer.change(AUDIT, object_id or "", payload))


def note_failure(
    engine: Engine,
    error: BaseException,
    operation: str,
    object_kind: str | None = None,
    object_id: object = None,
) -> None:
    """Note that an operation was refused or failed, once an error."""
    if error.__dict__.get("audited"):
        return
    error.__dict__["audited"] = True
    identifier = object_id if isinstance(object_id, str) else None
    message = short_error(error)
    code = error.code if isinstance(error, NirsStoreError) else type(error).__name__
    note(
        engine,
        operation,
        object_kind,
        as_error(identifier)[:_LONGEST] if identifier else None,
        success=False,
        message=message,
        details={"error": code},
    )


def short_error(error: object) -> str:
    """The line of an error that says what it is."""
    lines = [line for line in as_error(error).splitlines() if line.strip()]
    text = (lines[-1] if lines else "").strip()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
