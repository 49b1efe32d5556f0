"""Servers that were restored, promoted, locked down or put behind a pooler, and commits of other versions."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import xxhash
from faultkit import Session, Wire, look, through
from sharedkit import PostgreSQL
from storekit import begin, sql, until, whole_pipeline

from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.table import digests
from nirs_store.errors import (
    InvalidInput,
    MigrationNeeded,
    NirsStoreError,
    NotAWorkspace,
    ReadOnlyStore,
    ReplicaRefused,
    SchemaTooNew,
    SharedStoreUnreachable,
)
from nirs_store.store import WorkspaceStore

# -- locked down, removed ------------------------------------------------------------------------------


LOCKS: dict[str, tuple[str, str, type[NirsStoreError], str]] = {
    "read-only": (
        "ALTER DATABASE {db} SET default_transaction_read_only = on",
        "ALTER DATABASE {db} RESET default_transaction_read_only",
        ReadOnlyStore,
        "takes no changes now",
    ),
    "workspace removed": (
        "ALTER TABLE nirs_store.workspaces RENAME TO w; CREATE TABLE nirs_store.workspaces (LIKE nirs_store.w)",
        "DROP TABLE nirs_store.workspaces; ALTER TABLE nirs_store.w RENAME TO workspaces",
        NotAWorkspace,
        "no workspace|not there any more",
    ),
    "schema dropped": (
        "ALTER SCHEMA nirs_store RENAME TO dropped",
        "ALTER SCHEMA dropped RENAME TO nirs_store",
        NotAWorkspace,
        "no workspace|not there",
    ),
    "no connections": (
        "ALTER DATABASE {db} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {db} ALLOW_CONNECTIONS true",
        SharedStoreUnreachable,
        "not currently accepting connections",
    ),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_server_that_is_locked_down_is_named_and_the_rows_are_kept(
    machine: Any, server: PostgreSQL, database: str, lock: str
) -> None:
    close, reopen, error, words = LOCKS[lock]
    name = database.rpartition("/")[2]
    one = machine("one", "&patience=0", retention=False)
    session = Session(one, 0)
    for step in Session.RECORDING:
        session.take(step)
    before = one._engine.query(digests)

    def say(sql: str) -> None:
        # In the database of the workspace where it is open.
        where = server.url("postgres") if "DATABASE" in sql else database
        with psycopg.connect(where, autocommit=True) as admin:
            admin.execute(sql.format(db=name))
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s "
                "AND pid <> pg_backend_pid()",
                [name],
            )

    say(close)
    try:
        for call in (
            lambda: one.begin_run("kept", {}, []),
            lambda: session.take("delete"),
            lambda: (
                WorkspaceStore(one._engine.settings.shared, lock_timeout=0.1, create=False).list_runs()
                if lock != "read-only"
                else one.flush()
            ),
        ):
            with pytest.raises(error, match=words):
                call()
    finally:
        say(reopen)
    one.flush()
    other = machine("other")
    assert other.list_runs()["name"].sort().to_list() == ["kept", "old 0", "run 0"]
    assert other._engine.query(digests)["predictions"] == before["predictions"]
    session.take("delete")
    look(other, {0: session.told})


def test_a_workspace_that_was_removed_and_made_again_is_another_one(machine: Any, database: str) -> None:
    one = machine("one", "&patience=0", retention=False)
    begin(one)
    one.flush()
    assert one.list_runs().height == 1
    with psycopg.connect(database, autocommit=True) as admin:
        for table in ("log", "workspaces", "holders", "claims"):
            admin.execute(f"DELETE FROM nirs_store.{table}")
    more = (one._engine.layout.root.parent / "more").as_uri()
    again = machine("again", blobs=more)
    again.begin_run("new", {}, [])
    for call in (lambda: one.begin_run("old", {}, []), one.list_runs, lambda: machine("one", blobs=more)):
        with pytest.raises((NotAWorkspace, ReplicaRefused), match=r"not there any more|another workspace"):
            call()
    one._engine.abort()
    assert again.list_runs()["name"].to_list() == ["new"]


def test_a_wrong_password_is_said_at_once_and_not_repeated(
    machine: Any, server: PostgreSQL, database: str, tmp_path: Path
) -> None:
    machine("one").begin_run("r", {}, [])
    rules = server.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS guarded")
        admin.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        try:
            rules.write_text(f"host all guarded all scram-sha-256\n{before}")
            admin.execute("SELECT pg_reload_conf()")
            place = database.replace("lab@", "guarded:wrong-secret@")
            with pytest.raises(SharedStoreUnreachable, match="password authentication failed") as caught:
                WorkspaceStore(f"{place}?workspace=corn&replica={tmp_path / 'r'}", lock_timeout=1000)
            assert "wrong-secret" not in str(caught.value)
            # No rights at all: nothing of the workspace is shown, and it is said.
            place = database.replace("lab@", "guarded:right@")
            with pytest.raises(ReadOnlyStore, match="permission denied"):
                WorkspaceStore(f"{place}?workspace=corn&replica={tmp_path / 'r'}", create=False)
        finally:
            rules.write_text(before)
            admin.execute("SELECT pg_reload_conf()")
            admin.execute("DROP ROLE guarded")


# -- restored, promoted ---------------------------------------------------------------------------------


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
        return found


def answers(number: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", number)):
        return True
    return False


class Standby(PostgreSQL):
    """A copy of a server, which follows it."""

    def __init__(self, primary: PostgreSQL) -> None:
        self.programs, self.user, self.durable = primary.programs, primary.user, False
        self.folder = Path(tempfile.mkdtemp(prefix="standby-"))
        self.port = port()
        if self.user:
            shutil.chown(self.folder, self.user)
        self.run(
            "pg_basebackup", "-R", "-c", "fast", "-D", f"{self.folder}/data", "-d", primary.url("postgres")
        )
        self.start()

    def at(self, database: str) -> str:
        return self.url(database.rpartition("/")[2])

    def wait_for(self, primary: PostgreSQL) -> None:
        """Have everything that the primary has."""
        with psycopg.connect(primary.url("postgres")) as con:
            (place,) = con.execute("SELECT pg_current_wal_lsn()").fetchone() or ("",)
        with psycopg.connect(self.url("postgres"), autocommit=True) as con:
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            until(lambda: con.execute(replayed, [place]).fetchone() == (True,))

    def promote(self) -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-w", "promote")


@pytest.fixture
def standby(server: PostgreSQL) -> Iterator[Standby]:
    made = Standby(server)
    yield made
    with suppress(AssertionError):
        made.stop()
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.mark.slow
def test_a_standby_is_refused_and_one_that_was_promoted_in_time_goes_on(
    machine: Any, database: str, server: PostgreSQL, standby: Standby, wire: Wire, tmp_path: Path
) -> None:
    other = machine("other")
    store = WorkspaceStore(through(database, wire, tmp_path / "one"), retention=False)
    session = Session(store, 0)
    for step in Session.RECORDING:
        session.take(step)
    standby.wait_for(server)
    other.close()
    with pytest.raises(SharedStoreUnreachable, match="standby"):
        WorkspaceStore(f"{standby.at(database)}?workspace=corn&patience=0&replica={tmp_path / 'r'}")
    # A session that waits for the primary gets the new one.
    standby.promote()
    wire.target = standby.port
    wire.cut_at = (1, "before")
    store.begin_run("after", {}, [])
    for step in Session.STEPS[len(Session.RECORDING) :]:
        session.take(step)
    new = WorkspaceStore(f"{standby.at(database)}?workspace=corn&replica={tmp_path / 'new'}")
    look(new, {0: session.told})
    assert new._engine.query(digests) == store._engine.query(digests)
    for each in (new, store):
        each.close()


@pytest.mark.slow
@pytest.mark.parametrize("more", [0, 1, 5])
def test_a_standby_that_lagged_is_not_gone_on_with(
    machine: Any, database: str, server: PostgreSQL, standby: Standby, wire: Wire, tmp_path: Path, more: int
) -> None:
    def opened(name: str) -> WorkspaceStore:
        return WorkspaceStore(through(database, wire, tmp_path / name), retention=False)

    machine("first").close()
    recorder, asker, changer = opened("recorder"), opened("asker"), opened("changer")
    run_id, _ = begin(recorder)
    recorder.flush()
    standby.wait_for(server)
    # It is away for a while, and the primary ends before it has come back.
    standby.stop("fast")
    whole_pipeline(recorder, run_id, "lost")
    assert asker.list_pipelines().height == changer.list_pipelines().height == 2
    with (standby.folder / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write("primary_conninfo = ''\n")
    standby.start()
    standby.promote()
    new = WorkspaceStore(f"{standby.at(database)}?workspace=corn&replica={tmp_path / 'new'}", retention=False)
    for number in range(more):
        new.begin_run(f"new {number}", {}, [])
    rows = new._engine.query(digests)
    wire.target = standby.port
    for store, call in (
        (recorder, lambda: recorder.begin_run("more", {}, [])),
        (asker, asker.list_runs),
        (changer, lambda: changer.retention.pin(run_id)),
    ):
        store._engine.journal.server.drop()
        store._engine.journal.changer.drop()
        with pytest.raises(ReplicaRefused, match="restored from an older state"):
            call()
        store._engine.abort()
    assert new._engine.query(digests) == rows
    new.close()


# -- commits of other versions ----------------------------------------------------------------------------


def sealed(body: bytes) -> bytes:
    """Give bytes their checksum again."""
    return body[:-16] + xxhash.xxh3_128(body[:-16]).digest()


def with_header(body: bytes, **changes: Any) -> bytes:
    (length,) = struct.unpack_from("<I", body, 8)
    header = json.dumps({**json.loads(body[12 : 12 + length]), **changes}).encode()
    return sealed(body[:8] + struct.pack("<I", len(header)) + header + body[12 + length :])


NEWER: dict[str, Callable[[bytes], bytes]] = {
    "schema": lambda body: with_header(body, schema=SCHEMA_VERSION + 1),
    "format": lambda body: with_header(body, format=9),
    "magic": lambda body: sealed(body[:7] + b"9" + body[8:]),
    "table": lambda body: with_header(
        body, tables=[["unheard", 0, 0, 0, 0] if b"DLT" in body[:8] else ["unheard", 0, 0]]
    ),
}


@pytest.mark.parametrize("kind", ["rows", "delta"])
@pytest.mark.parametrize("what", NEWER)
def test_a_commit_of_a_newer_version_stops_questions_and_changes_and_nothing_else(
    machine: Any, database: str, monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    one, other = machine("one", retention=False), machine("other")
    run_id, _ = begin(one)
    one.flush()
    other.list_runs()
    log = one._engine.journal
    real = log._row

    def newer(txid: str, *args: Any, **named: Any) -> Any:
        *first, body = args
        return real(txid, *first, NEWER[what](body), **named)

    with monkeypatch.context() as patch:
        patch.setattr(log, "_row", newer)
        if kind == "rows":
            one.begin_run("newer", {}, [])
        else:
            one.retention.pin(run_id, "newer")
    with psycopg.connect(database) as con:
        (head,) = con.execute("SELECT head FROM nirs_store.workspaces").fetchone() or (0,)
    for call in (other.list_runs, lambda: other.retention.pin(run_id), lambda: machine("new").list_runs()):
        with pytest.raises(SchemaTooNew, match="Upgrade nirs_store"):
            call()
    with psycopg.connect(database) as con:
        assert con.execute("SELECT head FROM nirs_store.workspaces").fetchone() == (head,)
    other.begin_run("recording goes on", {}, [])
    # Nothing was applied, and nothing is rejected: a newer version finds it where it was.
    with psycopg.connect(database) as con:
        assert con.execute("SELECT count(*) FROM nirs_store.rejected").fetchone() == (0,)
    other._engine.abort()
    assert sql(other._engine.layout.root, "SELECT count(*) FROM runs") == [(1,)]


def test_a_commit_of_an_older_version_is_read(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = machine("one"), machine("other")
    begin(one)
    one.flush()
    log = one._engine.journal
    real = log._row

    def older(txid: str, kind: str, session: str, claim: str, body: bytes, **named: Any) -> Any:
        return real(txid, kind, session, claim, with_header(body, schema=3), **named)

    with monkeypatch.context() as patch:
        patch.setattr(log, "_row", older)
        one.begin_run("older", {}, [])
    assert other.list_runs()["name"].sort().to_list() == ["older", "run"]


@pytest.mark.parametrize("step", [1, -1])
def test_a_workspace_migrated_by_another_version_refuses_to_open_commit_and_change(
    machine: Any, database: str, step: int
) -> None:
    one = machine("one", "&patience=0", retention=False)
    run_id, _ = begin(one)
    one.flush()
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("UPDATE nirs_store.workspaces SET schema_version = schema_version + %s", [step])
        for call in (
            lambda: one.begin_run("kept", {}, []),
            lambda: one.retention.pin(run_id),
            lambda: machine("other"),
        ):
            with pytest.raises((SchemaTooNew, MigrationNeeded), match=r"Nothing was (committed|changed)"):
                call()
        assert admin.execute("SELECT count(*) FROM nirs_store.log WHERE kind = 'delta'").fetchone() == (0,)
        admin.execute("UPDATE nirs_store.workspaces SET schema_version = schema_version - %s", [step])
        admin.execute("UPDATE nirs_store.meta SET version = version + 1")
        with pytest.raises(SchemaTooNew, match="Upgrade nirs_store"):
            machine("third")
        admin.execute("UPDATE nirs_store.meta SET version = version - 1")
    one.flush()
    assert one.list_runs().height == 2


# -- poolers ------------------------------------------------------------------------------------------------


@pytest.fixture
def pooler(server: PostgreSQL, request: pytest.FixtureRequest) -> Iterator[int]:
    """PgBouncer in some mode; gives its port."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed here")
    folder = Path(tempfile.mkdtemp(prefix="pooler-"))
    found = port()
    (folder / "users").write_text('"lab" "none"\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {found}\nauth_type = trust\nauth_file = {folder}/users\npool_mode = {request.param}\n"
        "default_pool_size = 10\nunix_socket_dir =\n"
    )
    if server.user:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, server.user)
    as_user = ["runuser", "-u", server.user, "--"] if server.user else []
    running = subprocess.Popen([*as_user, program, "-q", folder / "ini"], stderr=subprocess.DEVNULL)
    until(lambda: answers(found))
    yield found
    running.terminate()
    running.wait()
    shutil.rmtree(folder)


@pytest.mark.parametrize("pooler", ["transaction", "statement", "session"], indirect=True)
def test_a_pooler_is_refused(
    machine: Any, database: str, server: PostgreSQL, pooler: int, tmp_path: Path
) -> None:
    machine("one").begin_run("r", {}, [])
    place = database.replace(f":{server.port}", f":{pooler}")
    with pytest.raises(InvalidInput, match="pooler of connections"):
        WorkspaceStore(f"{place}?workspace=corn&replica={tmp_path / 'r'}")


@pytest.mark.parametrize("pooler", ["transaction", "session"], indirect=True)
def test_a_pooler_is_taken_at_its_word_only_where_it_keeps_it(
    machine: Any,
    database: str,
    server: PostgreSQL,
    pooler: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    other = machine("other")
    place = database.replace(f":{server.port}", f":{pooler}")
    address = f"{place}?workspace=corn&pooler=session&replica="
    if "transaction" in request.node.name:
        with pytest.raises(InvalidInput, match="transaction"):
            WorkspaceStore(f"{address}{tmp_path / 'a'}")
        return
    with (
        WorkspaceStore(f"{address}{tmp_path / 'a'}", retention=False) as first,
        WorkspaceStore(f"{address}{tmp_path / 'b'}", retention=False) as second,
    ):
        sessions = [Session(first, 0), Session(second, 1)]
        for step in Session.STEPS:
            for session in sessions:
                session.take(step)
        look(other, {session.number: session.told for session in sessions})
