"""Noting what was done: one entry per operation, on its way to the audit trail.

A note travels in the same commit as what it is about, among the changes; so recording costs a few microseconds
more and still waits for no process. A change inside a transaction of the catalog is noted in that transaction.
A refused attempt is noted outside any transaction that is being given up.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from nirs_store.db.changes import AUDIT, append_notes, payload_of
from nirs_store.db.database import Connection
from nirs_store.db.recorder import Buffer
from nirs_store.db.session import Engine
from nirs_store.db.sql import incoming
from nirs_store.errors import ForbiddenContent, InvalidInput, NirsStoreError, shortened
from nirs_store.ids import now_naive
from nirs_store.values import as_error, from_json, to_json

# -- What must not be stored: keys of metadata and patterns of text, refused before anything is recorded.


GUARD = "guard"


class Violation(msgspec.Struct, frozen=True):
    """Where something forbidden was found; never what it was."""

    where: str
    rule: str


def plain_key(key: str) -> str:
    """Normalize a key: ``Patient-ID``, ``patientId`` and ``patient_id`` are one."""
    return "".join(sign for sign in key.casefold() if sign.isalnum())


class Guard(msgspec.Struct, frozen=True):
    """Forbidden keys (compared by `plain_key`) and regular expressions (searched in every text and number)."""

    keys: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def violations(self, value: Any, where: str) -> Iterator[Violation]:
        """Look through a value of plain data."""
        refused = {plain_key(key): key for key in self.keys}
        yield from self._look(value, where, refused, _compiled(self.patterns))

    def _look(
        self, value: Any, where: str, keys: Mapping[str, str], patterns: tuple[re.Pattern[str], ...]
    ) -> Iterator[Violation]:
        if isinstance(value, dict):
            for name, item in value.items():
                if plain_key(str(name)) in keys:
                    yield Violation(f"{where}.{name}", f"key {keys[plain_key(str(name))]!r}")
                    continue
                hit = _hit(patterns, str(name))
                if hit:
                    # The name is what matched, so it is not repeated.
                    yield Violation(f"{where}, the name of a key", hit)
                yield from self._look(item, f"{where}[…]" if hit else f"{where}.{name}", keys, patterns)
        elif isinstance(value, list):
            for place, item in enumerate(value):
                yield from self._look(item, f"{where}[{place}]", keys, patterns)
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            hit = _hit(patterns, str(value))
            if hit:
                yield Violation(where, hit)


@functools.lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    found = []
    for pattern in patterns:
        try:
            found.append(re.compile(pattern))
        except re.error as error:
            raise InvalidInput(
                f"patterns: {pattern!r} is not a regular expression: {error}. Nothing was changed."
            ) from error
    return tuple(found)


def _hit(patterns: tuple[re.Pattern[str], ...], text: str) -> str | None:
    found = next((pattern for pattern in patterns if pattern.search(text)), None)
    return None if found is None else f"pattern {found.pattern!r}"


def current_guard(engine: Engine) -> Guard | None:
    """Return the workspace's guard; None where none is set."""
    setting = engine.rules().get(GUARD)
    return guard_of(setting) if setting else None


def guard_of(setting: Any) -> Guard:
    """Return the guard as it was kept."""
    kept = setting or {}
    return Guard(tuple(kept.get("keys") or ()), tuple(kept.get("patterns") or ()))


def check_guard(engine: Engine, values: Mapping[str, Any]) -> None:
    """Refuse arguments (by name) that hold what the workspace's guard forbids."""
    guard = current_guard(engine)
    if guard is None:
        return
    for name, value in values.items():
        if value is None:
            continue
        plain = from_json(to_json(value, name))
        found = next(guard.violations(plain, name), None)
        if found is not None:
            raise ForbiddenContent(
                f"{found.where}: the guard of this workspace refuses it ({found.rule}). Nothing was recorded. Take "
                "it out, or use an id that says nothing about a person; 'nirs-store audit guard' lists the rules."
            )


def as_setting(guard: Guard) -> dict[str, Any]:
    """Return the guard as it is kept."""
    _compiled(guard.patterns)
    return {"keys": list(guard.keys), "patterns": list(guard.patterns)}


_LONGEST = 500


def auditing(engine: Engine, *, ask: bool = False) -> bool:
    """Whether this store notes what it does; see `Engine.rules`."""
    if not engine.settings.audit:
        return False
    found = engine.rules(ask=ask).get("audit")
    return not found or bool(found.get("enabled", True))


def note_read(
    engine: Engine, operation: str, object_kind: str, object_id: str, details: Mapping[str, Any] | None = None
) -> None:
    """Note that something was read, where the workspace asks for that."""
    # Reads must stay cheap: one look at the settings, which are kept in memory.
    if engine.settings.audit and (engine.rules().get("audit") or {}).get("reads"):
        note(engine, operation, object_kind, object_id, details=details)


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
    """Note an operation; see `nirs_store.audit.trail.note`."""
    if engine.closed or not engine.writable or not (always or auditing(engine)):
        return
    if not success:
        guard = current_guard(engine)
        texts = [message or "", object_id or ""]
        if guard is not None and next(guard.violations(texts, "message"), None) is not None:
            # An error repeats what was given; what the guard refuses must not come in this way.
            message, object_id = "withheld: it holds what the guard refuses", None
        # Both repeat what was given, which may be megabytes.
        message = message and shortened(message, _LONGEST)
        object_id = object_id and shortened(object_id, _LONGEST)
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
        as_error(identifier) if identifier else None,
        success=False,
        message=message,
        details={"error": code},
    )


def short_error(error: object) -> str:
    """Return the line of an error that says what it is."""
    lines = [line for line in as_error(error).splitlines() if line.strip()]
    text = (lines[-1] if lines else "").strip()
    return shortened(text, _LONGEST)
