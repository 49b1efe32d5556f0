"""Run several computers of one shared workspace, one step of one computer at a time.

Each is in a thread that stops before every statement to PostgreSQL and at every object. A seed decides what each does,
who is next, who is killed or cut off there, and when a deletion that was held back arrives: so a seed makes the same
interleaving each time, on a real server.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import psycopg
from memoryblobs import MemoryBlobs, Objects
from storekit import until

from nirs_store.blobs.store import BackgroundWriter
from nirs_store.db.recorder import BackgroundFlusher
from nirs_store.errors import NirsStoreError, SessionEnded, SharedStoreUnreachable
from nirs_store.shared import opening, pg

__all__ = ["Broken", "Bucket", "Stage", "play"]

_STUCK = 30.0
# Statements that wait for the lock of the head of the log, of the claims, or of the row of a holder.
_LOCKS = {
    "head": ("append(", "lock_head(", "reject("),
    "claims": ("claim(", "unclaim(", "lock_claims(", "end_holder("),
    "holders": ("begin_holder(", "end_holder("),
}
# No step is between these and the next statement.
_PASSED = ("BEGIN", "SET LOCAL", "SELECT pg_backend_pid")
_FAULTS = ("kill before", "kill after", "cut before", "cut after", "cut before", "cut after")


class Killed(BaseException):
    """The process of an actor was killed."""


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Actor:
    """One computer, and its current step."""

    name: str
    computer: Any = None
    at: str = ""
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    order: str = ""
    busy: bool = False
    dead: bool = False
    # For how many steps of the others it sleeps, so that they may end its session.
    sleeps: int = 0
    connections: list[psycopg.Connection[Any]] = field(default_factory=list)
    error: BaseException | None = None


class Cast(Protocol):
    """A kind of computers."""

    def open(self, stage: Stage, name: str) -> Any:
        """Start a computer, or restart a killed one."""

    def work(self, computer: Any, stage: Stage) -> tuple[str, Callable[[], None]]:
        """Choose the work of a computer in the next scene."""

    def leave(self, computer: Any) -> None:
        """Release resources of this process that a killed computer held."""

    def look(self, computers: Sequence[Any], stage: Stage) -> None:
        """Raise `Broken` if a promise is broken."""

    def compare(self, computers: Sequence[Any]) -> None:
        """Raise `Broken` if the computers differ."""


class Stage:
    """Decide which computer takes the next step; `trace` lists all decisions."""

    def __init__(self, seed: int, admin: psycopg.Connection[Any], faults: float) -> None:
        # Probability of a fault at a step.
        self.faults = faults
        # Owner of the connections that are made outside a scene.
        self.opens: Actor | None = None
        self.claims_are_locked = True
        self.dice = random.Random(seed)
        self.trace: list[str] = []
        self.actors: dict[int, Actor] = {}
        self.held: dict[str, psycopg.Connection[Any]] = {}
        self.objects: tuple[Objects, Objects] = ({}, {})
        # Deletions under way, which may arrive at any later step.
        self.late: list[list[str]] = []
        self._turn = threading.Semaphore(0)
        self._admin = admin

    # -- in the threads of actors ------------------------------------------------------------

    def me(self) -> Actor | None:
        return self.actors.get(threading.get_ident())

    def stop(self, where: str) -> str:
        """Wait until it is this actor's turn; return its fate after this step."""
        actor = self.me()
        if actor is None:
            return ""
        if actor.dead:
            raise Killed
        actor.at = where
        self._turn.release()
        actor.go.acquire()
        order, actor.order = actor.order, ""
        if actor.dead or order == "kill before":
            self._end(actor)
        return order

    def _end(self, actor: Actor) -> None:
        actor.dead = True
        self.cut(actor)
        raise Killed

    def after(self, order: str) -> None:
        actor = self.me()
        if actor is not None and order == "kill after":
            self._end(actor)

    def cut(self, actor: Actor) -> None:
        """End the connections of an actor, and wait until the server has noticed."""
        connections, actor.connections = actor.connections, []
        for con in connections:
            if con.closed:
                continue
            pid = con.info.backend_pid
            self.forget(con)
            psycopg.Connection.close(con)
            self._admin.execute("SELECT pg_terminate_backend(%s)", [pid])
            gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s"
            until(partial(self._has, gone, pid))

    def _has(self, sql: str, pid: int) -> bool:
        return self._admin.execute(sql, [pid]).fetchone() == (True,)

    def forget(self, con: psycopg.Connection[Any]) -> None:
        for what in [what for what, holder in self.held.items() if holder is con]:
            del self.held[what]

    # -- in the directing thread -------------------------------------------------------------

    def _waits(self, actor: Actor) -> bool:
        """Tell whether an actor's next statement would wait for another actor."""
        return any(
            self.held.get(what) not in (None, *actor.connections)
            for what, statements in _LOCKS.items()
            if any(f"nirs_store.{name}" in actor.at for name in statements)
        )

    def play(self, works: Sequence[tuple[Actor, Callable[[], None]]]) -> None:
        """Run the work of some actors, step by step."""
        for actor, work in works:
            actor.busy, actor.error = True, None
            threading.Thread(target=self._act, args=(actor, work), daemon=True).start()
            self._hear(actor)
        while going := [actor for actor, _ in works if actor.busy]:
            ready = [actor for actor in going if not self._waits(actor)]
            if not ready:
                raise Broken(f"all wait for each other: {[(a.name, a.at) for a in going]}, {self.held}")
            awake = [actor for actor in ready if not actor.sleeps]
            actor = self.dice.choice(awake or ready)
            for each in going:
                each.sleeps = max(0, each.sleeps - 1)
            fault = self.dice.choice(_FAULTS) if self.dice.random() < self.faults else ""
            actor.order = fault
            actor.sleeps = self.dice.randrange(60) if fault.startswith("cut") else 0
            self.trace.append(f"{actor.name}: {actor.at}{f' ({fault})' if fault else ''}")
            if self.late and self.dice.random() < 0.02:
                self.arrive(self.late.pop(self.dice.randrange(len(self.late))))
            actor.go.release()
            self._hear(actor)

    def end(self, actors: Sequence[Actor]) -> None:
        """End the actors that are still at a step."""
        for actor in actors:
            actor.dead = True
            while actor.busy:
                actor.go.release()
                if not self._turn.acquire(timeout=_STUCK):
                    return

    def _hear(self, actor: Actor) -> None:
        if not self._turn.acquire(timeout=_STUCK):
            raise Broken(f"{actor.name} does not come back from {actor.at}")

    def _act(self, actor: Actor, work: Callable[[], None]) -> None:
        self.actors[threading.get_ident()] = actor
        try:
            self.stop("begin")
            work()
        except BaseException as error:
            actor.error = error
        finally:
            del self.actors[threading.get_ident()]
            actor.busy = False
            self._turn.release()

    def arrive(self, keys: Sequence[str]) -> None:
        self.trace.append(f"arrives: {len(keys)}")
        for key in keys:
            self.objects[False].pop(key, None)


class Bucket(MemoryBlobs):
    """The bucket as seen by one computer."""

    def __init__(self, stage: Stage, root: Path, folder: Path) -> None:
        super().__init__(root, folder, folder)
        self._stage = stage
        self._places = stage.objects
        self.far = stage.dice.random() < 0.5

    def claim(self) -> None:
        pass

    def put(self, objects: Any, /) -> None:
        for key, source in objects.items():
            order = self._stage.stop(f"put {key[13:17]}{key[77:79]}")
            # Created if absent.
            if key not in self._places[False]:
                super().put({key: source})
            self._stage.after(order)

    def stat(self, key: str, /, *, trashed: bool = False) -> Any:
        if not trashed:
            self._stage.stop(f"look at {key[13:17]}{key[77:79]}")
        return super().stat(key, trashed=trashed)

    def remove(self, keys: Sequence[str], /) -> None:
        order = self._stage.stop(f"delete {len(keys)}")
        dice = self._stage.dice.random()
        if dice < 0.6:
            self._stage.arrive(keys)
        # Sent twice, or abandoned by a client that thinks it failed: it may arrive at any later time.
        if dice > 0.3:
            self._stage.late.append(list(keys))
        self._stage.after(order)


# -- a whole play ------------------------------------------------------------------------------------


@contextmanager
def on_stage(stage: Stage) -> Iterator[None]:
    """Stop each actor of this process whenever it contacts the server or the bucket."""

    class Watched(pg._Heard):
        @classmethod
        def connect(cls, *args: Any, **named: Any) -> Any:
            stage.stop("connect")
            made = super().connect(*args, **named)
            actor = stage.me() or stage.opens
            if actor is not None:
                actor.connections.append(made)
            return made

        def execute(self, query: Any, *args: Any, **named: Any) -> Any:
            actor = stage.me()
            if actor is None or str(query).startswith(_PASSED):
                return super().execute(query, *args, **named)
            order = stage.stop(" ".join(str(query).split()))
            if order == "cut before":
                stage.cut(actor)
                raise psycopg.OperationalError("the connection was cut")
            try:
                found = super().execute(query, *args, **named)
            finally:
                self._look(str(query))
            if order == "cut after":
                stage.cut(actor)
                raise psycopg.OperationalError("the connection was cut, and the answer lost")
            stage.after(order)
            return found

        def _look(self, query: str) -> None:
            if self.closed or self.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
                stage.forget(self)
            elif "lock_head" in query:
                stage.held["head"] = self
            elif "lock_claims" in query and stage.claims_are_locked:
                stage.held["claims"] = self
            elif "end_holder" in query:
                stage.held["holders"] = self

        def rollback(self) -> None:
            super().rollback()
            stage.forget(self)

        def close(self) -> None:
            super().close()
            stage.forget(self)

    def at_once(writer: BackgroundWriter, entry: Any) -> None:
        entry.state, entry.error = "queued", None
        try:
            writer._finish(entry, writer._attempt(entry))
        except Killed:
            writer._pending.clear()
            raise

    with ExitStack() as patches:
        patches.enter_context(patch.object(pg, "_Heard", Watched))
        patches.enter_context(patch.object(BackgroundWriter, "_start", at_once))
        patches.enter_context(patch.object(BackgroundFlusher, "wake", lambda keeper: None))

        def bucket(url: str, place: Any, owner: str | None = None) -> Bucket:
            return Bucket(stage, place.root, place.tmp)

        patches.enter_context(patch.object(opening, "backend_of", bucket))
        yield


def play(
    seed: int,
    scenes: int,
    database: str,
    cast: Cast,
    *,
    faults: float = 0.005,
    computers: int = 4,
    claims_are_locked: bool = True,
) -> Stage:
    """Play some scenes, in which each computer does one thing; raise `Broken` with the trace as a note."""
    with psycopg.connect(database, autocommit=True) as admin, ExitStack() as ends:
        stage = Stage(seed, admin, faults)
        stage.claims_are_locked = claims_are_locked
        ends.enter_context(on_stage(stage))
        actors = [Actor(name) for name in "abcdefgh"[:computers]]
        ends.callback(lambda: [_leave(stage, actor, cast) for actor in actors])
        ends.callback(lambda: stage.end(actors))
        try:
            for actor in actors:
                _open(stage, actor, cast)
            for number in range(scenes):
                works = [(actor, cast.work(actor.computer, stage)) for actor in actors]
                stage.trace.append(f"-- scene {number}: {', '.join(f'{a.name} {w[0]}' for a, w in works)}")
                stage.play([(actor, work) for actor, (_, work) in works])
                for actor in actors:
                    _judge(stage, actor, cast)
                cast.look([stage.dice.choice(actors).computer], stage)
            while stage.late:
                stage.arrive(stage.late.pop())
            cast.look([actor.computer for actor in actors], stage)
            cast.compare([actor.computer for actor in actors])
        except Broken as error:
            error.add_note("\n".join(stage.trace))
            raise
        return stage


def _judge(stage: Stage, actor: Actor, cast: Cast) -> None:
    """Restart a killed computer; accept typed errors."""
    error, actor.error = actor.error, None
    if isinstance(error, (Killed, SessionEnded, SharedStoreUnreachable)):
        stage.trace.append(f"{actor.name} begins again: {type(error).__name__}")
        _leave(stage, actor, cast)
        _open(stage, actor, cast)
    elif error is not None and not isinstance(error, NirsStoreError):
        raise Broken(f"{actor.name}: {error!r}") from error


def _leave(stage: Stage, actor: Actor, cast: Cast) -> None:
    computer, actor.computer = actor.computer, None
    stage.cut(actor)
    if computer is not None:
        # Nothing of it reaches the server: its process is gone.
        with suppress(Exception):
            cast.leave(computer)
    stage.cut(actor)


def _open(stage: Stage, actor: Actor, cast: Cast) -> None:
    actor.dead, stage.opens = False, actor
    try:
        actor.computer = cast.open(stage, actor.name)
    finally:
        stage.opens = None
