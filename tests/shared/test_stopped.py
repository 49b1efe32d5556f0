"""Processes that are stopped beyond all time-outs, and wake again: others go on meanwhile, and nothing is done twice."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from storekit import Talk, begin, chain_of

from nirs_store.db.table import digests
from nirs_store.errors import NirsStoreError, SessionEnded
from nirs_store.store import WorkspaceStore

pytestmark = pytest.mark.slow


def changer(talk: Talk, place: str) -> None:
    """Stand still in the middle of a change, while the head is held."""
    from nirs_store.shared import log

    log._STOPPED_AFTER = "1s"
    with WorkspaceStore(place) as store:
        run_id = store.list_runs()["run_id"][0]

        def work(con: Any) -> None:
            con.execute("UPDATE runs SET name = 'changed' WHERE run_id = ?", [run_id])
            talk.say("holds the head")
            talk.wait()

        try:
            store._engine.change(work)
        except NirsStoreError as error:
            talk.say(type(error).__name__)
        talk.wait()
        store._engine.change(lambda con: con.execute("UPDATE runs SET name = 'changed later'"))


def puller(talk: Talk, place: str) -> None:
    """Stand still while the server sends commits, and the head is held."""
    from nirs_store.shared import log

    log._STOPPED_AFTER = "1s"
    with WorkspaceStore(place) as store:

        def work(con: Any) -> None:
            def pull(server: Any) -> None:
                # More than lies in the buffers of a connection; nothing of it is read.
                server.pgconn.send_query(b"SELECT repeat('x', 60000000)")

            store._engine.journal.in_change(pull)  # type: ignore[attr-defined]
            talk.say("pulls")
            talk.wait()
            con.execute("UPDATE runs SET name = 'changed'")

        try:
            store._engine.change(work)
        except NirsStoreError as error:
            talk.say(type(error).__name__)
        talk.wait()


def saver(talk: Talk, place: str) -> None:
    """Stand still between a claim and the commit that refers to it."""
    with WorkspaceStore(place) as store:
        _, pipeline_id = begin(store, "of the saver")
        store.flush()
        said = "committed"
        try:
            with store.transaction():
                chain_of(store, pipeline_id, store.save_artifact([1.0], "builtins.list", "model", "joblib"))
                talk.say("has claimed")
                talk.wait()
        except SessionEnded:
            said = "ended"
            store._engine.abort()
        talk.say(said)
        talk.wait()
    with WorkspaceStore(place) as store:
        if said == "ended":
            chain_of(store, pipeline_id, store.save_artifact([1.0], "builtins.list", "model", "joblib"))


def collector(talk: Talk, place: str) -> None:
    """Stand still when keys are given up, and their objects are still there."""
    with WorkspaceStore(place, retention=False) as store:
        backend: Any = store._engine.layout.blobs
        remove = backend.remove

        def slowly(keys: Any) -> None:
            backend.remove = remove
            talk.say("has decided")
            talk.wait()
            remove(keys)

        backend.remove = slowly
        store.gc_artifacts(grace_seconds=0)
        talk.say("has deleted")
        talk.wait()


def place_of(machine: Any, database: str, tmp_path: Path) -> tuple[WorkspaceStore, str]:
    one = machine("one")
    begin(one, "first")
    one.flush()
    return one, f"{database}?workspace=corn&replica={tmp_path / 'stopped'}&patience=20"


def goes_on(child: Any, store: WorkspaceStore, place: str) -> None:
    """Let it come to its end, and compare its replica."""
    child.tell()
    child.hear()
    assert child.end() == 0
    with WorkspaceStore(place) as other:
        assert other._engine.query(digests) == store._engine.query(digests)


def test_a_changer_that_is_stopped_lets_others_go_on_and_changes_nothing(
    machine: Any, database: str, tmp_path: Path, crew: Any
) -> None:
    one, place = place_of(machine, database, tmp_path)
    child = crew(changer, place)
    assert child.hear() == "holds the head"
    child.signal(signal.SIGSTOP)
    # It waits for the head, until the server ends the change of the one that is stopped.
    one.begin_run("meanwhile", {}, [])
    child.signal(signal.SIGCONT)
    child.tell()
    assert child.hear() == "SharedStoreUnreachable"
    assert sorted(one.list_runs()["name"].to_list()) == ["first", "meanwhile"]
    goes_on(child, one, place)
    assert set(one.list_runs()["name"].to_list()) == {"changed later"}


def test_a_changer_that_is_stopped_while_it_pulls_lets_others_go_on(
    machine: Any, database: str, tmp_path: Path, crew: Any
) -> None:
    one, place = place_of(machine, database, tmp_path)
    child = crew(puller, place)
    assert child.hear() == "pulls"
    one.begin_run("meanwhile", {}, [])
    child.tell()
    assert child.hear() == "SharedStoreUnreachable"
    assert sorted(one.list_runs()["name"].to_list()) == ["first", "meanwhile"]
    goes_on(child, one, place)


@pytest.mark.parametrize("cut", [False, True], ids=["connected", "taken for dead"])
def test_a_saver_that_is_stopped_commits_what_is_there_or_says_that_it_was_given_up(
    machine: Any, database: str, tmp_path: Path, crew: Any, cut: bool
) -> None:
    one, place = place_of(machine, database, tmp_path)
    run_id, pipeline_id = begin(one, "before")
    chain_of(one, pipeline_id, one.save_artifact([1.0], "builtins.list", "model", "joblib"))
    one.flush()
    child = crew(saver, place)
    assert child.hear() == "has claimed"
    child.signal(signal.SIGSTOP)
    if cut:
        with psycopg.connect(database, autocommit=True) as con:
            con.execute(
                "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN nirs_store.holders h ON "
                "(l.classid::bigint << 32 | l.objid::bigint) = h.lock_key WHERE h.pid = %s",
                [child.pid],
            )
    one.delete_run(run_id, now=True)
    one.gc_artifacts(grace_seconds=0)
    assert len([*one._engine.layout.blobs.list("artifacts/")]) == (0 if cut else 1)
    child.signal(signal.SIGCONT)
    child.tell()
    assert child.hear() == ("ended" if cut else "committed")
    goes_on(child, one, place)
    (key,) = one._engine.layout.blobs.list("artifacts/")
    assert ("~1." in key) is cut


def test_a_collector_that_is_stopped_deletes_nothing_that_was_saved_meanwhile(
    machine: Any, database: str, tmp_path: Path, crew: Any
) -> None:
    one, place = place_of(machine, database, tmp_path)
    run_id, pipeline_id = begin(one, "before")
    chain_of(one, pipeline_id, one.save_artifact([1.0], "builtins.list", "model", "joblib"))
    one.flush()
    one.delete_run(run_id, delete_artifacts=False, now=True)
    # Its session still refers to it.
    one.close()
    child = crew(collector, place)
    assert child.hear() == "has decided"
    child.signal(signal.SIGSTOP)
    one = machine("one")
    _, pipeline_id = begin(one, "meanwhile")
    saved = one.save_artifact([1.0], "builtins.list", "model", "joblib")
    chain_of(one, pipeline_id, saved)
    one.gc_artifacts(grace_seconds=0)
    child.signal(signal.SIGCONT)
    child.tell()
    assert child.hear() == "has deleted"
    goes_on(child, one, place)
    assert one.load_artifact(saved) == [1.0]
    (key,) = one._engine.layout.blobs.list("artifacts/")
    assert "~1." in key
