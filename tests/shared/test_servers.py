"""Servers that die, stop, fill up, are restored, promoted, locked down or put behind a pooler."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from faultkit import Session, look
from sharedkit import PostgreSQL
from storekit import Child, begin, until, whole_pipeline

from nirs_store.db.table import digests
from nirs_store.errors import NirsStoreError, SharedStoreUnreachable
from nirs_store.shared import pg, pgschema
from nirs_store.store import WorkspaceStore


def processes(server: PostgreSQL) -> list[int]:
    """The postmaster and its children."""
    (first, *_) = (server.folder / "data" / "postmaster.pid").read_text().split()
    found = [int(first)]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if text.rpartition(")")[2].split()[1] == first:
            found.append(int(stat.parent.name))
    return found


def kill(server: PostgreSQL) -> None:
    """Kill the whole server as a power cut would."""
    pids = processes(server)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(state(pid) in ("", "Z") for pid in pids))
    # Zombies that no process collects look alive to the next server.
    for left in (server.folder / "data" / "postmaster.pid", *server.folder.glob(".s.PGSQL.*")):
        left.unlink()


def state(pid: int) -> str:
    """R, S, Z ... of a process, nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@contextmanager
def stopped(server: PostgreSQL) -> Iterator[None]:
    """A server that answers nothing, though its computer takes packets and connections."""
    os.kill(processes(server)[0], signal.SIGSTOP)  # which makes no more children
    pids = processes(server)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


DEATHS: dict[str, Callable[[PostgreSQL], None]] = {
    "killed": kill,
    "stop -m immediate": lambda server: server.stop("immediate"),
    "restarted": lambda server: server.stop("fast"),
}


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
def test_a_server_that_dies_between_any_two_steps_loses_nothing(
    machine: Any, server: PostgreSQL, death: str
) -> None:
    one, other, told = machine("one", retention=False), machine("other"), {}
    for number, broken in enumerate(Session.STEPS):
        session = Session(one, number)
        for step in Session.STEPS:
            if step == broken:
                DEATHS[death](server)
                back = threading.Timer(0.2, server.start)
                back.start()
                try:
                    session.take(step)
                except NirsStoreError:
                    assert step not in Session.RECORDING
                    back.join()
                    session.take(step)
                back.join()
            elif Session.STEPS.index(step) <= Session.STEPS.index(broken):
                session.take(step)
        told[number] = session.told
    look(other, told)
    assert one._engine.query(digests) == other._engine.query(digests)


def test_a_server_killed_in_the_middle_of_a_change_has_made_it_or_not(
    machine: Any, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    one.flush()
    real = psycopg.Connection.execute
    for when in ("before", "after"):
        hit: list[threading.Timer] = []

        def execute(con: Any, sql: Any, *args: Any, when: str = when, hit: Any = hit, **named: Any) -> Any:
            if sql != "COMMIT" or hit:
                return real(con, sql, *args, **named)
            hit.append(threading.Timer(0.2, server.start))
            result = real(con, sql, *args, **named) if when == "after" else None
            kill(server)
            hit[0].start()
            return real(con, "SELECT 1") if result is not None else real(con, sql, *args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(psycopg.Connection, "execute", execute)
            if when == "after":
                one.retention.pin(run_id, when)
            else:
                with pytest.raises(SharedStoreUnreachable):
                    one.retention.pin(run_id, when)
        hit[0].join()
        assert other.retention.pins()["reason"].to_list() == ([when] if when == "after" else [])
    assert one._engine.query(digests) == other._engine.query(digests)


@pytest.mark.slow
def test_a_server_that_is_stopped_is_named_and_goes_on_where_it_was(
    machine: Any, database: str, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg, "_SILENCE", 0.5)
    monkeypatch.setattr(pg, "_SHORTEST_SILENCE", 0.5)
    one, other = machine("one", "&patience=0", retention=False), machine("other")
    session = Session(one, 0)
    for step in Session.RECORDING:
        session.take(step)
    for call in (
        lambda: one.begin_run("kept", {}, []),
        one.list_runs,
        lambda: session.take("delete"),
        lambda: machine("new", "&patience=0", lock_timeout=0.1),
    ):
        with stopped(server), pytest.raises(SharedStoreUnreachable, match=r"127\.0\.0\.1.*safe"):
            call()
    # What the server was in the middle of when it was stopped may have been done when it woke.
    if session.told["old"] in one.list_runs()["run_id"].to_list():
        session.take("delete")
    session.told["delete"] = None
    session.take("gc")
    look(other, {0: session.told})
    assert other.list_runs()["name"].sort().to_list() == ["kept", "run 0"]


# -- a server without room or connections --------------------------------------------------------------


_FULL = """
CREATE FUNCTION nirs_store.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON nirs_store.log FOR EACH ROW EXECUTE FUNCTION nirs_store.full_disk();
"""


def test_rows_wait_until_the_server_has_room(machine: Any, database: str) -> None:
    one, other = machine("one", "&patience=0", retention=False), machine("other", "&patience=0")
    run_id, _ = begin(one)
    one.flush()
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(_FULL)
        with pytest.raises(SharedStoreUnreachable, match=r"No space left.*kept in memory"):
            one.begin_run("kept", {}, [])
        with pytest.raises(SharedStoreUnreachable, match="No space left"):
            other.retention.pin(run_id)
        assert machine("third").retention.pins().is_empty()
        admin.execute("DROP TRIGGER full_disk ON nirs_store.log")
    one.flush()
    other.retention.pin(run_id)
    assert sorted(other.list_runs()["name"]) == ["kept", "run"]


@pytest.mark.slow
def test_a_server_whose_disk_is_full_takes_the_rows_when_there_is_room(
    server: PostgreSQL, machine: Any, database: str, tmp_path: Path
) -> None:
    place = Path(tempfile.mkdtemp(prefix="small-"))
    if (
        os.name == "nt"
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", place], check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    name = f"full{os.getpid()}"
    try:
        if server.user:
            shutil.chown(place, server.user)
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE TABLESPACE {name} LOCATION '{place}'")
            admin.execute(f"CREATE DATABASE {name} TABLESPACE {name}")
        address = f"{server.url(name)}?workspace=corn&patience=1&replica="
        blobs = (tmp_path / "blobs").as_uri()
        with WorkspaceStore(f"{address}{tmp_path / 'one'}", blobs=blobs, retention=False) as one:
            run_id, _ = begin(one)
            one.flush()
            with suppress(OSError), (place / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass
            made = count()

            def record() -> None:
                while True:
                    whole_pipeline(one, run_id, f"p{next(made)}")

            with pytest.raises(SharedStoreUnreachable, match=r"No space left.*kept in memory"):
                record()
            number = next(made) - 1
            (place / "filler").unlink()
            one.flush()
        print(f"the disk was full after {number} pipelines")
        with WorkspaceStore(f"{address}{tmp_path / 'new'}") as new:
            names = new.list_pipelines()["name"].to_list()
            assert sorted(names) == sorted(["run-pls", *(f"p{each}" for each in range(number + 1))])
    finally:
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(f"DROP TABLESPACE IF EXISTS {name}")
        subprocess.run(["umount", place], check=False)


def test_a_server_without_a_free_connection_is_waited_for_and_then_named(
    machine: Any, server: PostgreSQL, database: str
) -> None:
    one = machine("one", retention=False)
    run_id, _ = begin(one)
    one.close()
    name = database.rpartition("/")[2]
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 1')
        admin.execute("CREATE ROLE crowd LOGIN")
    with psycopg.connect(database, autocommit=True) as con:
        pgschema.grant(con, "crowd", "admin")
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        # A connection that was closed counts until its process has ended.
        here = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
        until(lambda: admin.execute(here, [name]).fetchone() is None)
    place = database.replace("lab@", "crowd@")
    folder = one._engine.layout.root.parent
    with WorkspaceStore(
        f"{place}?workspace=corn&patience=0&replica={folder / 'a'}", retention=False
    ) as first:
        whole_pipeline(first, run_id, "first")
        with pytest.raises(SharedStoreUnreachable, match="too many connections"):
            WorkspaceStore(f"{place}?workspace=corn&patience=0&replica={folder / 'b'}")
        # A change needs a second one.
        with pytest.raises(SharedStoreUnreachable, match="too many connections"):
            first.retention.pin(run_id)
        whole_pipeline(first, run_id, "second")
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("DROP OWNED BY crowd")
        con.execute("DROP ROLE crowd")
    assert machine("new").list_pipelines().height == 3


def closed(store: WorkspaceStore) -> bool:
    with suppress(SharedStoreUnreachable):
        store.close()
        return True
    return False


def crowd(talk: Any, place: str, run_id: str, first: int, many: int) -> list[str]:
    """Open stores, one per thread; each records, and keeps its connection until told."""
    go_on = threading.Event()
    came = threading.Semaphore(0)

    def work(number: int) -> str:
        said, store = "recorded", None
        try:
            store = WorkspaceStore(place, retention=False, lock_timeout=600, threads=1)
            with store.transaction():
                pipeline_id = store.begin_pipeline(run_id, f"p{number}", {}, [], "corn", "hash")
                store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
        except SharedStoreUnreachable:
            said = "no connection"
        came.release()
        go_on.wait()
        if store is None:
            store = WorkspaceStore(
                place.replace("patience=2", "patience=300"), retention=False, lock_timeout=600
            )
            store.begin_pipeline(run_id, f"p{number}", {}, [], "corn", "hash")
        until(lambda: closed(store), 300)
        return said

    with ThreadPoolExecutor(many) as pool:
        found = [pool.submit(work, first + number) for number in range(many)]
        for _ in range(many):
            came.acquire()
        talk.say("all came")
        talk.wait()
        go_on.set()
        return [each.result() for each in found]


@pytest.mark.slow
def test_two_hundred_sessions_share_a_hundred_connections(
    machine: Any, database: str, tmp_path: Path
) -> None:
    one = machine("one", retention=False)
    run_id, _ = begin(one)
    one.close()
    children = [
        Child(
            crowd,
            f"{database}?workspace=corn&patience=2&replica={tmp_path / str(number)}",
            run_id,
            number * 50,
            50,
        )
        for number in range(4)
    ]
    try:
        for child in children:
            assert child.hear(600) == "all came"
        for child in children:
            child.tell()
        said = [word for child in children for word in child.hear(600)]
    finally:
        for child in children:
            child.kill()
    print(f"{said.count('recorded')} recorded at once, {said.count('no connection')} were told to wait")
    assert len(said) == 200
    assert set(said) == {"recorded", "no connection"}
    names = [name for name in machine("new").list_pipelines()["name"] if name.startswith("p")]
    assert sorted(names) == sorted(f"p{number}" for number in range(200))
