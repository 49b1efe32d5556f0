"""Naming things of any kind on the command line."""

from __future__ import annotations

from nirs_store.cli._workspace import KINDS, find
from nirs_store.errors import UnknownId
from nirs_store.store import WorkspaceStore

__all__ = ["thing"]


def thing(store: WorkspaceStore, text: str) -> tuple[str, str] | str:
    """Return what `text` names: ``kind:id``, an id, or a part of the id of what a run records.

    Raises
    ------
    UnknownId, InvalidInput
        Nothing has that id; several have it; there is no such kind.
    """
    kind, colon, identifier = text.partition(":")
    if colon:
        if kind in KINDS:
            found = find(store, identifier, [kind])
            return found.kind, found.identifier
        return text
    try:
        found = find(store, text)
    except UnknownId:
        return text  # a file, an evaluation, a bundle: the store knows
    return found.kind, found.identifier
