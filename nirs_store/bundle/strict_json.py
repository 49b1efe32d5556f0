"""JSON as the members of a bundle may hold it: bounded, without NaN, and with each key once.

The parser of the standard library takes the last of two equal keys, knows ``NaN``, and recurses as deep as
the text says; two readers of one file could then disagree on what it means.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from nirs_store.errors import BundleInvalid

__all__ = ["MAX_DEPTH", "clean", "dump_json", "parse_json", "parse_object"]

MAX_DEPTH = 50
_MAX_INT = 2**53  # what every JSON reader can hold exactly
_MAX_DIGITS = 40
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)


def parse_json(data: bytes, member: str, max_depth: int = MAX_DEPTH) -> Any:
    """Parse the bytes of a member.

    Raises
    ------
    BundleInvalid
        Not UTF-8, not JSON, nested deeper than `max_depth`, a key twice, NaN or Infinity, or an integer above 2**53.
    """

    def refuse(what: str) -> BundleInvalid:
        return BundleInvalid(
            f"The member {member} is not acceptable JSON: {what}. The bundle was damaged, or written by a "
            "program that does not keep to the format; ask for a new export."
        )

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            keys = [key for key, _ in items]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise refuse(f"the key {twice[0]!r} stands there twice")
        return found

    def integer(text: str) -> int:
        if len(text) > _MAX_DIGITS or abs(int(text)) > _MAX_INT:
            raise refuse("it holds an integer above 2**53")
        return int(text)

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise refuse("it holds a number that is too large")
        return value

    def constant(text: str) -> Any:
        raise refuse(f"it holds {text}, which JSON does not know")

    if _depth(data) > max_depth:
        raise refuse(f"it is nested deeper than {max_depth} levels")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=number,
            parse_constant=constant,
        )
    except BundleInvalid:
        raise
    except ValueError as exc:  # JSONDecodeError and UnicodeDecodeError are both of this kind
        raise refuse(str(exc)) from exc


def parse_object(data: bytes, member: str, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Parse the bytes of a member that must be a JSON object; errors as for `parse_json`."""
    value = parse_json(data, member, max_depth)
    if not isinstance(value, dict):
        raise BundleInvalid(
            f"The member {member} should hold a JSON object, and holds a {type(value).__name__}. "
            "The bundle was not written to the format; ask for a new export."
        )
    return value


def dump_json(value: Any) -> bytes:
    """Write a cleaned value so that equal content gives equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n"


def clean(value: Any) -> Any:
    """Turn a value into what strict JSON holds: NaN becomes null, arrays lists, other objects their repr."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((clean(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, int):
        return int(value) if abs(value) <= _MAX_INT else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return clean(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return repr(value)


def _depth(data: bytes) -> int:
    """Count nesting without recursion; brackets inside strings do not count."""
    depth = deepest = 0
    for token in _TOKENS.finditer(data):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest
