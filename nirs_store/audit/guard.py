"""The guard of a workspace: what must not be stored in metadata, notes and tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nirs_store.db.database import Connection, Database
from nirs_store.db.marks import drop_setting, put_setting, read_settings
from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput
from nirs_store.records.notes import (
    GUARD,
    Guard,
    Violation,
    as_setting,
    current_guard,
    guard_of,
    note,
    plain_key,
)
from nirs_store.values import from_json, to_json

PATIENT_KEYS = (
    "patient_id", "patient_name", "patient", "first_name", "last_name", "full_name", "mrn",
    "medical_record_number", "ssn", "social_security_number", "date_of_birth", "birth_date", "dob", "address",
    "phone", "phone_number", "email", "insurance_number",
)  # fmt: skip
"""Keys under which people are identified; a beginning for `GuardRules.forbid`, not a promise."""


def store_setting(
    engine: Engine, name: str, change: Callable[[Any], Any], operation: str, details: dict[str, Any]
) -> None:
    """Change a setting (None is its default), in the catalog and where recording calls look, and note it."""

    def work(access: Database) -> None:
        def put(con: Connection) -> None:
            value = change(read_settings(con).get(name))
            if value is None:
                drop_setting(con, name)
            else:
                put_setting(con, name, value)
            note(engine, operation, "workspace", details=details, con=con, always=name == "audit")

        access.transact(put)
        # Still under the lock, so that two processes cannot write them in different orders.
        access.settle(engine.workspace_settings.reconcile)

    engine.exclusive(work)


class GuardRules:
    r"""Rules of what must not be stored; they hold for every process that records into the workspace.

    Checked are the name, config, data sets, summary, note and tags of runs, the configuration of pipelines, the
    metadata of chains, logs, links, pins, and whatever else calls `check`. Keys are compared without case and
    punctuation, at any depth; patterns are regular expressions, searched in every text and number.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> from nirs_store.errors import ForbiddenContent
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     store.audit.guard.forbid(keys=["mrn"], patterns=[r"\b\d{3}-\d{2}-\d{4}\b"])
    ...     try:
    ...         run = store.begin_run("milk", {"subject": {"MRN": "12345"}}, [])
    ...     except ForbiddenContent as error:
    ...         print(str(error)[:69])
    ...     store.audit.query(success=False)["operation"].to_list()
    config.subject.MRN: the guard of this workspace refuses it (key 'mrn'
    ['begin_run']
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _now(self) -> Guard:
        return current_guard(self._engine) or Guard()

    @property
    def keys(self) -> tuple[str, ...]:
        """Forbidden keys."""
        return self._now().keys

    @property
    def patterns(self) -> tuple[str, ...]:
        """Forbidden patterns."""
        return self._now().patterns

    def forbid(self, *, keys: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        """Add rules; what is stored already stays.

        Raises
        ------
        InvalidInput
            A pattern that is not a regular expression, an empty key. Nothing was changed.
        """
        more = _forbidden(keys, patterns)
        self._set(lambda now: _with(now, more), {"forbid": as_setting(more)})

    def allow(self, *, keys: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        """Remove rules; skip those that do not exist."""
        less = _rules(keys, patterns)
        self._set(
            lambda now: _without(now, less),
            {"allow": {"keys": list(less.keys), "patterns": list(less.patterns)}},
        )

    def plan(
        self,
        *,
        forbid_keys: Iterable[str] = (),
        forbid_patterns: Iterable[str] = (),
        allow_keys: Iterable[str] = (),
        allow_patterns: Iterable[str] = (),
    ) -> dict[str, list[str]]:
        """Return the rules as they would be after `forbid` and then `allow`; changes nothing.

        Returns
        -------
        dict of str to list of str
            ``keys`` and ``patterns``.

        Raises
        ------
        InvalidInput
            As `forbid`.
        """
        more, less = _forbidden(forbid_keys, forbid_patterns), _rules(allow_keys, allow_patterns)
        return as_setting(_without(_with(self._now(), more), less))

    def clear(self) -> None:
        """Remove all rules."""
        self._set(lambda now: Guard(), {"allow": "everything"})

    def violations(self, value: Any, name: str = "value") -> list[Violation]:
        """List what the rules refuse in plain data; changes nothing, raises nothing."""
        return list(self._now().violations(from_json(to_json(value, name)), name))

    def _set(self, change: Callable[[Guard], Guard], details: dict[str, Any]) -> None:
        def merged(setting: Any) -> Any:
            guard = change(guard_of(setting))
            return as_setting(guard) if guard.keys or guard.patterns else None

        store_setting(self._engine, GUARD, merged, "set_guard", details)

    def __repr__(self) -> str:
        now = self._now()
        return f"<guard: {len(now.keys)} forbidden keys, {len(now.patterns)} forbidden patterns>"


def _rules(keys: Iterable[str], patterns: Iterable[str]) -> Guard:
    return Guard(_texts(keys, "keys"), _texts(patterns, "patterns"))


def _forbidden(keys: Iterable[str], patterns: Iterable[str]) -> Guard:
    """Check new rules: keys that say something, patterns that can be searched."""
    more = _rules(keys, patterns)
    empty = [key for key in more.keys if not plain_key(key)]
    if empty:
        raise InvalidInput(f"keys: expected names with letters or digits, found {empty[0]!r}.")
    as_setting(more)
    return more


def _with(now: Guard, more: Guard) -> Guard:
    keys, patterns = ((*now.keys, *more.keys), (*now.patterns, *more.patterns))
    return Guard(tuple(dict.fromkeys(keys)), tuple(dict.fromkeys(patterns)))


def _without(now: Guard, less: Guard) -> Guard:
    plain = {plain_key(key) for key in less.keys}
    return Guard(
        tuple(key for key in now.keys if plain_key(key) not in plain),
        tuple(pattern for pattern in now.patterns if pattern not in less.patterns),
    )


def _texts(values: Iterable[str], name: str) -> tuple[str, ...]:
    given = () if isinstance(values, str) else tuple(values)
    if isinstance(values, str) or not all(isinstance(value, str) for value in given):
        raise InvalidInput(f"{name}: expected a list of texts. Nothing was changed.")
    return given
