"""Ids as people give them: whole, the eight characters of a table, the name of a run, or a result that has the id."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import column
from nirs_store.errors import CalibrationNotFound, InvalidInput, quoted
from nirs_store.ids import is_id
from nirs_store.records import queries
from nirs_store.records.named import find_version, is_name, named_like
from nirs_store.values import is_text

F = TypeVar("F", bound=Callable[..., Any])

_KINDS = {f"{kind}_id": kind for kind in ("run", "pipeline", "chain", "prediction", "artifact")}
_LEAST = 4
_SHOWN = 5
# Of an artifact the id is a hash, of everything else as `is_id` has it; both are hexadecimal.
_PART = re.compile(rf"[0-9a-fA-F-]{{{_LEAST},63}}")


def whole_id(engine: Engine, kind: str, given: Any) -> Any:
    """Return the whole id that was meant; what is not part of an id comes back as it was given."""
    if given is None or (isinstance(given, str) and is_id(given)):
        return given
    if not isinstance(given, str):
        if kind == "chain" and hasattr(given, "best"):
            return given.best()  # the board of a screening
        return getattr(given, f"{kind}_id", given)
    if kind == "chain" and is_text(given) and is_name(given):
        return engine.query(lambda con: find_version(con, given))["chain_id"]
    is_part = _PART.fullmatch(given) is not None
    if not is_text(given) or not (is_part or (kind in ("run", "chain") and given.strip())):
        return given
    found = engine.query(lambda con: _candidates(con, kind, given, is_part))
    if given in found or not found:
        return given
    if len(found) > 1:
        many = len(found) > _SHOWN
        raise InvalidInput(
            f"{kind}_id: {quoted(given)} fits {f'more than {_SHOWN}' if many else len(found)} {kind}s: "
            f"{', '.join(found[:_SHOWN])}{' and more' if many else ''}. Give more of the id."
        )
    return found[0]


def _candidates(con: Connection, kind: str, given: str, is_part: bool) -> list[str]:
    found: list[str] = []
    if is_part:
        for part in dict.fromkeys((given, given.lower())):
            found += queries.find_ids(con, part, [kind], _SHOWN + 1)["id"].to_list()
    if not found and kind == "run":
        sql = "SELECT run_id FROM runs WHERE name = ? ORDER BY run_id DESC LIMIT ?"
        found = column(con, sql, [given, _SHOWN + 1])
    if kind == "chain":
        found += named_like(con, given)
    return list(dict.fromkeys(found))


def whole_ids(method: F) -> F:
    """Decorate a method of something with an ``_engine``: its ids may be parts of ids, names of runs or results."""
    places = [
        (place, name) for place, name in enumerate(inspect.signature(method).parameters) if name in _KINDS
    ]

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = list(args)
        for place, name in places:
            if place <= len(given):
                given[place - 1] = whole_id(self._engine, _KINDS[name], given[place - 1])
            elif name in kwargs:
                kwargs[name] = whole_id(self._engine, _KINDS[name], kwargs[name])
        return method(self, *given, **kwargs)

    return cast(F, call)


def whole_ids_of(engine: Engine, kinds: Sequence[str], given: Sequence[Any]) -> list[Any]:
    """Return the whole ids of things of several kinds, tried in that order."""
    found = []
    for each in given:
        meant, unknown = each, None
        for kind in kinds:
            try:
                meant = whole_id(engine, kind, each)
            except CalibrationNotFound as error:
                unknown = error  # a run may have the name of a calibration
                continue
            if meant is not each and meant != each:
                break
        else:
            if unknown is not None:
                raise unknown
        found.append(meant)
    return found
