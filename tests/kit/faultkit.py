"""Run one session of a shared workspace step by step, disturb it in two ways, and check the result."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from storekit import Talk, chain_of, predict

from nirs_store.errors import NirsStoreError
from nirs_store.history.policy import keep_recent
from nirs_store.store import WorkspaceStore

# -- a session ---------------------------------------------------------------------------------------


class Session:
    """One user's work in steps; `told` maps each step that returned to its result."""

    RECORDING = ("begin", "save", "complete", "old")
    STEPS = (*RECORDING, "delete", "gc", "setting", "ask")

    def __init__(self, store: WorkspaceStore, number: int) -> None:
        self.store, self.number = store, number
        self.told: dict[str, Any] = {}

    def take(self, step: str) -> Any:
        """Take a step and return its result."""
        self.told[step] = getattr(self, f"_{step}")()
        return self.told[step]

    def _begin(self) -> str:
        return self.store.begin_run(f"run {self.number}", {}, [{"name": "corn"}])

    def _pipeline(self, run_id: str, name: str, *contents: Any) -> str:
        pipeline_id = self.store.begin_pipeline(run_id, f"{name} {self.number}", {}, [], "corn", "hash")
        for content in contents:
            artifact_id = self.store.save_artifact(content, "builtins.list", "model", "joblib")
            chain_id = chain_of(self.store, pipeline_id, artifact_id)
        for fold in range(2):
            predict(self.store, pipeline_id, chain_id, fold_id=f"fold_{fold}")
        return pipeline_id

    def _save(self) -> str:
        # One blob of its own, and one that all sessions save.
        return self._pipeline(self.told["begin"], "pipeline", ["own", self.number], ["shared"])

    def _complete(self) -> str:
        self.store.complete_pipeline(self.told["save"], 0.5, None, "rmse", 5)
        self.store.flush()
        return str(self.told["save"])

    def _old(self) -> str:
        run_id = self.store.begin_run(f"old {self.number}", {}, [])
        # Each session saves this and deletes it again: its key gets another generation each time.
        pipeline_id = self._pipeline(run_id, "old pipeline", ["old"])
        self.store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
        self.store.flush()
        return run_id

    def _delete(self) -> str:
        self.store.delete_run(self.told["old"], now=True)
        return str(self.told["old"])

    def _gc(self) -> int:
        return self.store.gc_artifacts(grace_seconds=0)

    def _setting(self) -> int:
        self.store.retention.set(keep_recent(1000 + self.number, on="run"))
        return self.number

    def _ask(self) -> int:
        return self.store.list_runs().height


def play(talk: Talk, place: str, number: int, statement: int, when: str) -> None:
    """Open, take every step, report its result and close; die before or after the given statement."""

    def die(con: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with at_statement(statement, when, die) as count:
        store = WorkspaceStore(place, retention=False)
        session = Session(store, number)
        for step in Session.STEPS:
            session.take(step)
            talk.say((step, session.told[step]))
        store.close()
        talk.say(("end", count()))


def disturbed(store: WorkspaceStore, number: int) -> dict[str, Any]:
    """Take all steps; recording must succeed at once, a change or a query at the second attempt at the latest."""
    session = Session(store, number)
    for step in Session.STEPS:
        try:
            session.take(step)
        except NirsStoreError:
            assert step not in Session.RECORDING
            session.take(step)
    return session.told


def look(store: WorkspaceStore, sessions: Mapping[int, Mapping[str, Any]]) -> None:
    """Compare a workspace with the results that sessions got: everything is there, nothing in part, nothing twice."""

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return store._engine.query(lambda con: con.execute(sql).fetchall())

    found = rows("SELECT name, run_id FROM runs")
    runs = dict(found)
    assert len(runs) == len(found), f"a run is there twice: {found}"
    done = {
        pipeline: (chains, predictions, arrays)
        for pipeline, chains, predictions, arrays in rows(
            "SELECT p.pipeline_id, (SELECT count(*) FROM chains c WHERE c.pipeline_id = p.pipeline_id), "
            "(SELECT count(*) FROM predictions q WHERE q.pipeline_id = p.pipeline_id), "
            "(SELECT count(*) FROM predictions q JOIN prediction_arrays a USING (prediction_id) "
            "WHERE q.pipeline_id = p.pipeline_id) FROM pipelines p WHERE p.status = 'completed'"
        )
    }
    names = [name for (name,) in rows("SELECT name FROM pipelines")]
    assert len(names) == len(set(names)), "a pipeline is there twice"
    for number, told in sessions.items():
        if "begin" in told:
            assert runs[f"run {number}"] == told["begin"]
        if "complete" in told:
            assert done[told["complete"]] == (2, 2, 2)
        if "delete" in told:
            assert f"old {number}" not in runs
    assert set(done.values()) <= {(2, 2, 2), (1, 2, 2)}, "a commit is there in part"
    for table, parent, key in (
        ("pipelines", "runs", "run_id"),
        ("chains", "pipelines", "pipeline_id"),
        ("predictions", "pipelines", "pipeline_id"),
        ("prediction_arrays", "predictions", "prediction_id"),
    ):
        lost = rows(f"SELECT count(*) FROM {table} WHERE {key} NOT IN (SELECT {key} FROM {parent})")
        assert lost == [(0,)], f"{table} without {parent}"
    for (artifact_id,) in rows("SELECT artifact_id FROM blobs"):
        assert store.load_artifact(artifact_id)[0] in ("own", "shared", "old")
    settings = [told["setting"] for told in sessions.values() if "setting" in told]
    if settings:
        (rule,) = store.retention.policy.rules
        assert rule.count is not None
        assert max(settings) <= rule.count - 1000 <= max(sessions)
    assert store.check().errors == ()


# -- statements ----------------------------------------------------------------------------------------


@contextmanager
def at_statement(number: int, when: str, act: Callable[[Any], None]) -> Iterator[Callable[[], int]]:
    """Call `act` before or after the n-th statement of this process; yield a function that returns their count."""
    real, counter, last = psycopg.Connection.execute, itertools.count(1), [0]

    def execute(self: Any, *args: Any, **named: Any) -> Any:
        mine = last[0] = next(counter)
        if mine == number and when == "before":
            act(self)
        result = real(self, *args, **named)
        if mine == number and when == "after":
            act(self)
        return result

    psycopg.Connection.execute = execute  # type: ignore[method-assign]
    try:
        yield lambda: last[0]
    finally:
        psycopg.Connection.execute = real  # type: ignore[method-assign]


# -- the wire ------------------------------------------------------------------------------------------


class Wire:
    """A proxy to a server that counts packets, cuts connections, and loses packets.

    It cuts once, before, within or after the n-th packet from now. With "deaf" it passes that packet on, and then loses
    all others of this connection without closing it.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.cut_after: bytes | None = None
        self.how = "after"
        self.cut_at: tuple[int, str] | None = None
        self.sent = self.cuts = 0
        self._hole = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self, yes: bool = True) -> None:
        """Lose all packets; connections that sent one meanwhile stay open and never get an answer."""
        self._hole.set() if yes else self._hole.clear()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            dead = threading.Event()
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target, sends in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass_on, args=(source, target, sends, dead), daemon=True
                ).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, sends: bool, dead: threading.Event
    ) -> None:
        try:
            while data := source.recv(1 << 16):
                if self._hole.is_set():
                    dead.set()
                if dead.is_set():
                    continue
                where = self._where_to_cut(data) if sends else None
                if where == "before":
                    return
                if where == "deaf":
                    dead.set()
                target.sendall(data[: len(data) // 2] if where == "within" else data)
                if where in ("within", "after"):
                    return
        except OSError:
            pass
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _where_to_cut(self, data: bytes) -> str | None:
        self.sent += 1
        where = None
        if self.cut_after is not None and self.cut_after in data:
            self.cut_after, where = None, self.how
        elif self.cut_at is not None:
            left, when = self.cut_at
            self.cut_at = (left - 1, when) if left > 1 else None
            where = when if left == 1 else None
        self.cuts += where is not None
        return where


def through(database: str, wire: Wire, folder: Path, patience: float = 20) -> str:
    """Return the address of the workspace through a proxy."""
    host, _, rest = database.partition("127.0.0.1:")
    name = rest.partition("/")[2]
    return f"{host}127.0.0.1:{wire.port}/{name}?workspace=corn&replica={folder}&patience={patience}"
