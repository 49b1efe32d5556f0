"""One real store object beside its model: what it was told, and what the model knows of it."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.ids import new_id
from tests.model.model import ModelStore
from tests.model.state import Row, State

__all__ = ["Call", "Need", "Partner", "Player", "Verdict"]

Verdict = Literal["yes", "no", "maybe"]
"""Whether a call must be accepted, must be refused, or may be either (what it names is gone, and the
store object cannot know it yet)."""


class Need(NamedTuple):
    """Something that a call names and that has to exist."""

    kind: str
    identifier: str
    accepting: bool = False
    """It is a pipeline that must still take rows."""


@dataclass(frozen=True)
class Call:
    """A recording call that a store accepted."""

    name: str
    session: str
    order: int
    result: str | None
    arguments: dict[str, Any]
    artifacts: frozenset[str] = frozenset()


class Player(ModelStore):
    """The model of one store object on a state that several share; ids are given by the real one."""

    def __init__(self, state: State, session: str, call: Call | None = None) -> None:
        self._state = state
        self._session = session
        self._closed = False
        self._clock = lambda: datetime.now(UTC)
        self._order = itertools.count(0 if call is None else call.order)
        self._given = None if call is None or call.name == "save_artifact" else call.result

    def _new_id(self) -> str:
        return self._given or new_id()

    def play(self, call: Call, saved: dict[str, Row]) -> None:
        """Do what an accepted call means when its rows are committed, possibly late."""
        for artifact_id in sorted(call.artifacts):
            # A reference travels with its artifact's row, in case that was collected meanwhile.
            self._state.artifacts.setdefault(artifact_id, saved[artifact_id])
        try:
            result = getattr(self, call.name)(**call.arguments)
        except (UnknownId, InvalidInput):
            # What it belongs to was deleted or rolled back: the row is dropped. A chain has taken over
            # its artifacts nevertheless.
            if call.name == "save_chain":
                for artifact_id in call.artifacts:
                    self._take_over(artifact_id)
        else:
            if call.result is not None and result != call.result:
                raise AssertionError(f"{call.name} gave {call.result} in the store, {result} in the model")


@dataclass
class Partner:
    """One open store object, and what the model knows of it."""

    store: Any
    session: str
    pending: list[Call] = field(default_factory=list)
    """Accepted, not acknowledged as durable."""
    block: list[Call] | None = None
    """Accepted inside the transaction under way."""
    transaction: AbstractContextManager[Any] | None = None
    touched: set[str] = field(default_factory=set)
    """Ids that this object made or used: it may believe in them for longer than they exist."""
    ended: dict[str, str] = field(default_factory=dict)
    """Pipelines that this object completed or failed itself, so it must know."""
    ended_in_block: dict[str, str] = field(default_factory=dict)
    forgetful: bool = False
    """It deleted something inside the transaction, and looks anew at what it believed."""
    claims: set[str] = field(default_factory=set)
    doubts: set[str] = field(default_factory=set)
    """What a refused call may have claimed: nobody can tell whether it came that far."""
    """Artifacts that no gc may take, because a row that names them is on its way."""

    def made(self, identifier: str) -> bool:
        """Whether an accepted call that is not durable yet made this id."""
        return any(call.result == identifier for call in (*self.pending, *(self.block or ())))
