"""What breaks between the computers: connections, servers, processes, replicas; nothing acknowledged is lost or doubled."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from faultkit import Wire, through
from storekit import begin, until, whole_pipeline

from nirs_store.db import database as database_module
from nirs_store.db.table import digests
from nirs_store.errors import InvalidInput, NirsStoreError, ReplicaRefused, SharedStoreUnreachable, StoreBusy
from nirs_store.shared import log as log_module
from nirs_store.shared import pg, pgschema
from nirs_store.shared.pg import Server
from nirs_store.store import WorkspaceStore


def test_a_commit_whose_answer_was_lost_is_made_once(
    machine: Any, database: str, wire: Wire, tmp_path: Path
) -> None:
    other = machine("other")
    with WorkspaceStore(through(database, wire, tmp_path / "cut")) as store:
        for number in range(3):
            store.begin_run(f"before {number}", {}, [])
            wire.cut_after = b"nirs_store.append"
            store.begin_run(f"cut {number}", {}, [])
        store.flush()
    assert wire.cuts == 3
    assert other.list_runs().height == 6
    with psycopg.connect(database) as con:
        assert con.execute("SELECT count(*) - count(DISTINCT txid) FROM nirs_store.log").fetchone() == (0,)


def test_recording_waits_for_a_server_that_comes_back(
    machine: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    one.begin_run("before", {}, [])
    server.stop()
    tries, real = [], pg._Heard.connect

    def connect(*args: Any, **params: Any) -> Any:
        tries.append(params)
        if len(tries) == 2:
            server.start()
        return real(*args, **params)

    with monkeypatch.context() as patch:
        patch.setattr(pg._Heard, "connect", connect)
        one.begin_run("meanwhile", {}, [])
    assert len(tries) == 2
    assert machine("other").list_runs()["name"].sort().to_list() == ["before", "meanwhile"]


def test_what_a_server_that_is_away_leaves_undone_is_kept_and_said(
    database: str, server: Any, machine: Any
) -> None:
    one = machine("one", "&patience=0")
    one.begin_run("before", {}, [])
    server.stop()
    try:
        with pytest.raises(SharedStoreUnreachable, match="kept in memory"):
            one.begin_run("meanwhile", {}, [])
        with pytest.raises(SharedStoreUnreachable):
            one.list_runs()
    finally:
        server.start()
    assert one.list_runs()["name"].sort().to_list() == ["before", "meanwhile"]


def test_a_change_that_others_have_is_made_though_this_catalog_could_not_write_it(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    real = database_module.interruptible

    class Full:
        def __init__(self, con: Any) -> None:
            self._con = con

        def __getattr__(self, name: str) -> Any:
            return getattr(self._con, name)

        def execute(self, sql: Any, params: Any = None) -> Any:
            change = one._engine.journal._change
            if sql == "COMMIT" and change is not None and change.committed:
                raise duckdb.IOException("No space left on device")
            return self._con.execute(sql, params)

    with monkeypatch.context() as patch:
        patch.setattr(database_module, "interruptible", lambda con, work: real(con, lambda c: work(Full(c))))
        one.retention.pin(run_id, "the paper")
    assert other.retention.pins()["reason"].to_list() == ["the paper"]
    assert one.retention.pins()["reason"].to_list() == ["the paper"]
    assert one._engine.query(digests) == other._engine.query(digests)


# -- replicas that are not what they should be -----------------------------------------------------


def test_a_server_that_was_restored_from_an_older_state_is_noticed(machine: Any, database: str) -> None:
    one, other = machine("one"), machine("other")
    for number in range(4):
        one.begin_run(str(number), {}, [])
    assert other.list_runs().height == 4
    for store in (one, other):
        store.close()
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("DELETE FROM nirs_store.log WHERE n > 2")
        con.execute("UPDATE nirs_store.workspaces SET head = 2")
    with pytest.raises(ReplicaRefused, match="restored from an older state"):
        machine("other").list_runs()
    # Another computer goes on, until the number is the same and the commit is not.
    new = machine("new")
    for number in range(4):
        new.begin_run(f"new {number}", {}, [])
    with pytest.raises(ReplicaRefused, match="another there"):
        machine("other").list_runs()
    assert new.list_runs().height == 6


def test_a_log_that_lacks_a_commit_is_not_applied_beyond_it(machine: Any, database: str) -> None:
    one, behind = machine("one"), machine("behind")
    one.begin_run("0", {}, [])
    assert behind.list_runs().height == 1
    for number in range(1, 4):
        one.begin_run(str(number), {}, [])
    with psycopg.connect(database, autocommit=True) as con:
        (lost,) = con.execute("SELECT head - 1 FROM nirs_store.workspaces").fetchone() or (0,)
        con.execute("DELETE FROM nirs_store.log WHERE n = %s", [lost])
    with pytest.raises(SharedStoreUnreachable, match=f"commit {lost} is not in the log"):
        behind.list_runs()
    assert behind._engine.journal._last < lost


def test_an_open_store_refuses_a_server_that_lost_commits_of_which_it_was_told(
    machine: Any, database: str
) -> None:
    one = machine("one")
    for number in range(4):
        one.begin_run(str(number), {}, [])
    one._engine._flusher.stop()
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("DELETE FROM nirs_store.log WHERE n > 2")
        con.execute("UPDATE nirs_store.workspaces SET head = 2")
    one._engine.journal.server.drop()
    with pytest.raises(ReplicaRefused, match="was told of"):
        one.begin_run("merged", {}, [])
    one._engine.abort()
    assert "merged" not in machine("new").list_runs()["name"].to_list()


def test_an_old_copy_of_a_replica_catches_up_and_a_deleted_one_is_made_again(
    machine: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one, other = machine("one"), machine("other")
    one.begin_run("first", {}, [])
    other.list_runs()
    place = other._engine.layout.root
    other.close()
    copy = tmp_path_factory.mktemp("copy") / "replica"
    shutil.copytree(place, copy)
    other = machine("other")
    one.begin_run("second", {}, [])
    assert other.list_runs().height == 2
    other.close()
    shutil.rmtree(place)
    shutil.copytree(copy, place)
    with machine("other") as other:
        assert other.list_runs().height == 2
    shutil.rmtree(place)
    assert machine("other").list_runs().height == 2


def test_a_folder_with_something_else_in_it_is_never_taken_for_a_replica(
    machine: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(ReplicaRefused, match="not empty"):
        machine("one", f"&replica={folder}")
    WorkspaceStore(tmp_path / "own").close()
    with pytest.raises(ReplicaRefused, match="not empty"):
        machine("one", f"&replica={tmp_path / 'own'}")
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]


def test_a_replica_whose_making_was_interrupted_is_made_and_two_at_once_make_one(
    machine: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.shared import replica as replica_module

    one = machine("one")
    one.begin_run("r", {}, [])
    place = f"{database}?workspace=corn&replica={tmp_path}"
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "replica.json.0123456789abcdef.tmp").write_bytes(b'{"work')
    with WorkspaceStore(f"{place}/killed") as store:
        assert store.list_runs().height == 1
    # Another process makes it between the look for the mark and the look into the folder.
    real = replica_module.read_mark

    def slow(layout: Any) -> Any:
        found = real(layout)
        monkeypatch.undo()
        WorkspaceStore(f"{place}/both").close()
        return found

    monkeypatch.setattr(replica_module, "read_mark", slow)
    with WorkspaceStore(f"{place}/both") as store:
        assert store.list_runs().height == 1


def test_a_replica_is_not_written_as_a_workspace_of_its_own(machine: Any) -> None:
    one = machine("one")
    place = one._engine.layout.root
    with pytest.raises(NirsStoreError, match="is a replica of a shared workspace"):
        WorkspaceStore(place)


def test_recording_in_the_middle_of_a_change_is_refused_and_does_not_wait_for_itself(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    begin(one)
    one.flush()
    other.flush()

    def work(con: Any) -> None:
        with one._engine.recording(commit=True) as buffer:
            buffer.add("runs", {"run_id": "r", "name": "n", "status": "running"})

    with pytest.raises(StoreBusy, match="wait for itself"):
        one._engine.change(work)
    one._engine.abort()
    assert other.list_runs().height == 1


def test_a_change_of_a_process_that_is_stopped_ends_and_one_that_works_for_long_does_not(
    machine: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    begin(one)
    one.flush()
    before = one._engine.query(digests)
    lasted = "SELECT now() - xact_start > 2 * %s::interval FROM pg_stat_activity WHERE pid = %s"

    def work(con: Any) -> None:
        con.execute("DELETE FROM runs")
        pid = one._engine.journal.changer._con.info.backend_pid
        with psycopg.connect(database, autocommit=True) as admin:
            # Until its transaction was ended, or has lasted for longer than a stopped one may.
            until(lambda: admin.execute(lasted, [allowed, pid]).fetchone() in (None, (pinged,)))

    allowed, pinged = "100ms", None
    monkeypatch.setattr(log_module, "_STOPPED_AFTER", allowed)
    with pytest.raises(SharedStoreUnreachable):
        one._engine.change(work)
    assert one._engine.query(digests) == other._engine.query(digests) == before
    # Longer: a busy machine may hold the process itself up for a moment.
    allowed, pinged = "1s", True
    monkeypatch.setattr(log_module, "_STOPPED_AFTER", allowed)
    monkeypatch.setattr(log_module, "_PING", 0.01)
    one._engine.change(work)
    assert other.list_runs().is_empty()


def test_a_server_process_that_is_not_the_one_connected_to_is_taken_for_a_pooler(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda info: 1))
        with pytest.raises(InvalidInput, match="pooler of connections"):
            machine("one")
        machine("one", "&pooler=session").begin_run("a pooler that keeps a connection per client", {}, [])


def test_a_clock_that_is_wrong_by_a_day_is_said_and_changes_no_order(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store import ids
    from nirs_store.shared import pg

    one = machine("one")
    run_id, _ = begin(one)
    one.flush()

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=1)

    with monkeypatch.context() as patch:
        patch.setattr(pg, "datetime", Tomorrow)
        patch.setattr(ids, "datetime", Tomorrow)
        with pytest.warns(UserWarning, match="86400 s ahead of"):
            ahead = machine("ahead")
        pipeline_id = ahead.begin_pipeline(run_id, "tomorrow", {}, [], "corn", "hash")
        ahead.flush()
    # A failed run ends what earlier commits began, whatever their clocks said.
    one.fail_run(run_id, "stopped")
    found = ahead.get_pipeline(pipeline_id)
    assert found is not None
    assert found["status"] == "failed"
    rows = one._engine.query(digests)
    assert ahead._engine.query(digests) == rows


def test_more_stores_than_the_server_has_connections_wait_for_each_other(
    machine: Any, server: Any, database: str
) -> None:
    one = machine("one")
    run_id, _ = begin(one)
    one.flush()
    with psycopg.connect(server.url("postgres"), autocommit=True) as con:
        con.execute(f'ALTER DATABASE "{database.rpartition("/")[2]}" CONNECTION LIMIT 3')
        con.execute("CREATE ROLE many LOGIN")
    with psycopg.connect(database, autocommit=True) as con:
        pgschema.grant(con, "many", "writer")
    place = database.replace("lab@", "many@")
    folder = one._engine.layout.root.parent

    def work(number: int) -> None:
        with WorkspaceStore(
            f"{place}?workspace=corn&replica={folder / f'many{number}'}", retention=False
        ) as store:
            whole_pipeline(store, run_id, str(number), n=1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert one.list_pipelines().height == 7


def test_an_unknown_database_or_role_is_said_at_once(database: str, server: Any) -> None:
    for place in (server.url("nowhere"), database.replace("lab@", "nobody@")):
        with pytest.raises(SharedStoreUnreachable, match="does not exist"):
            WorkspaceStore(f"{place}?workspace=corn&patience=1000", create=False, lock_timeout=1000)


def test_a_session_counts_as_alive_when_its_connection_is_lost_right_after_it_began(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    server = one._engine.claims.server
    real = Server.run

    def run(self: Server, work: Any, **options: Any) -> Any:
        found = real(self, work, **options)
        if self is server and work.__name__ == "_begin":
            monkeypatch.undo()
            server.drop()
            server.run(lambda con: con.execute("SELECT 1"))  # another thread, which comes first
        return found

    monkeypatch.setattr(Server, "run", run)
    begin(one)
    one.flush()
    assert one._engine._claim.claim_id in other._engine.claims.living()


def test_a_change_is_made_while_the_interpreter_ends_and_starts_no_threads(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    one.flush()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "nirs_store change":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    one.retention.pin(run_id, "the paper")
    other.retention.pin(run_id, "the other paper")
    assert one.retention.pins().height == 1


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"workspace_id": 7}', b"null", b"\xff", b'{"x": ' * 50_000]
)
def test_a_replica_whose_file_cannot_be_read_is_refused_and_left(machine: Any, text: bytes) -> None:
    with machine("one") as one:
        begin(one)
        place, file = one._engine.settings.shared, one._engine.layout.replica
    file.write_bytes(text)
    for fresh in (True, False):
        with pytest.raises(ReplicaRefused, match=r"replica\.json cannot be read"):
            WorkspaceStore(place, fresh=fresh)
    assert file.read_bytes() == text
