"""Naming things of a store: what a caller may write where something of any kind is meant."""

from __future__ import annotations

from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.audit_queries import check_kind
from nirs_store.catalog.lineage_rows import KINDS, Ref, existing, kinds_of
from nirs_store.catalog.values import as_text
from nirs_store.errors import InvalidInput, UnknownId

__all__ = ["Ref", "find_ref"]


def find_ref(con: Connection, given: Any) -> Ref:
    """What is meant: ``("chain", id)``, ``"chain:<id>"``, or an id alone.

    Raises
    ------
    InvalidInput
        An unknown kind (the nearest is named), or an id that several kinds of things have.
    UnknownId
    """
    if isinstance(given, str):
        kind, colon, identifier = given.partition(":")
        if not colon:
            return _by_id(con, given)
        ref = Ref(check_kind(kind), identifier)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        ref = Ref(check_kind(given[0]), as_text(given[1], "id"))
    else:
        raise InvalidInput(
            f"Expected ('kind', 'id'), 'kind:id' or an id, found {type(given).__name__}. Nothing was changed."
        )
    if ref.kind not in KINDS:
        raise InvalidInput(f"{ref.kind}: expected one of {', '.join(KINDS)}. Nothing was changed.")
    if not ref.id or ref not in existing(con, [ref]):
        raise UnknownId(ref.kind, ref.id, "Nothing was changed.")
    return ref


def _by_id(con: Connection, identifier: str) -> Ref:
    kinds = kinds_of(con, as_text(identifier, "id"))
    if not kinds:
        raise UnknownId("object", identifier, "Nothing was changed. Write 'kind:id' for a bundle outside.")
    # An artifact's file has its hash for an id too; whoever gives an id alone means the first kind.
    return Ref(kinds[0], identifier)
