"""What must not be stored: keys of metadata and patterns of text, refused before anything is recorded."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from nirs_store.catalog.engine import Engine
from nirs_store.catalog.values import from_json, to_json
from nirs_store.errors import ForbiddenContent, InvalidInput

__all__ = [
    "GUARD",
    "Guard",
    "Violation",
    "as_setting",
    "check_guard",
    "current_guard",
    "guard_of",
    "plain_key",
]

GUARD = "guard"


class Violation(msgspec.Struct, frozen=True):
    """Where something forbidden was found; never what it was.

    Attributes
    ----------
    where : str
        The argument and the way to the value, e.g. ``config.subject.mrn``.
    rule : str
        The key or pattern that refuses it.
    """

    where: str
    rule: str


def plain_key(key: str) -> str:
    """A key without case and punctuation: ``Patient-ID``, ``patientId`` and ``patient_id`` are one."""
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
    """The workspace's guard; None where none is set."""
    setting = engine.workspace_settings.current().get(GUARD)
    return guard_of(setting) if setting else None


def guard_of(setting: Any) -> Guard:
    """The guard as it was kept."""
    kept = setting or {}
    return Guard(tuple(kept.get("keys") or ()), tuple(kept.get("patterns") or ()))


def check_guard(engine: Engine, values: Mapping[str, Any]) -> None:
    """Refuse arguments (by name) that hold what the workspace's guard forbids.

    Raises
    ------
    ForbiddenContent
        Says where and by which rule, and does not repeat the value. Nothing was recorded.
    """
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
    """The guard as it is kept."""
    _compiled(guard.patterns)
    return {"keys": list(guard.keys), "patterns": list(guard.patterns)}
