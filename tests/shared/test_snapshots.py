"""Snapshots: a new computer starts from one, the log before it can be deleted, and its bytes are checked."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from storekit import begin, predict, whole_pipeline

from nirs_store.db.table import digests
from nirs_store.errors import ReplicaRefused
from nirs_store.shared import snapshots
from nirs_store.store import WorkspaceStore


def publish(store: WorkspaceStore) -> int:
    log: Any = store._engine.journal
    return snapshots.publish(store._engine, log, store._engine.layout.blobs)  # type: ignore[arg-type]


def truncate(store: WorkspaceStore) -> int:
    log: Any = store._engine.journal
    blobs: Any = store._engine.layout.blobs
    return snapshots.truncate(log.server, log.workspace_id, blobs, older_than_days=0)


def test_a_new_computer_starts_from_a_snapshot_and_an_old_one_too_when_the_log_is_gone(
    machine: Any, database: str
) -> None:
    one, old = machine("one"), machine("old")
    run_id, _ = begin(one)
    one.flush()
    old.list_runs()
    old.close()
    gone, _ = begin(one, "gone")
    whole_pipeline(one, run_id)
    one.begin_run("large", {"text": "x" * 400_000}, [])
    one.delete_run(gone, now=True)
    number = publish(one)
    one.begin_run("not in the snapshot", {}, [])
    assert truncate(one) == number
    assert truncate(one) == 0
    assert list(one._engine.layout.blobs.list("commits/")) == []
    _, pipeline_id = begin(one, "after")
    predict(one, pipeline_id)
    rows = one._engine.query(digests)
    for name in ("new", "old"):
        with machine(name) as store:
            assert store._engine.query(digests) == rows
    with psycopg.connect(database) as con:
        bodies = con.execute(
            "SELECT count(*) FROM nirs_store.log WHERE body IS NOT NULL AND n <= %s", [number]
        )
        assert bodies.fetchone() == (0,)


def test_a_commit_that_is_sent_again_after_the_log_was_truncated_is_still_one(machine: Any) -> None:
    one = machine("one")
    log: Any = one._engine.journal
    sent: list[Any] = []
    real = log.append
    log.append = lambda *args: sent.append(args) or real(*args)
    one.begin_run("once", {}, [])
    del log.append
    publish(one)
    truncate(one)
    log.append(*sent[0])
    assert one.list_runs().height == 1
    assert machine("new").list_runs().height == 1


def test_a_snapshot_that_was_replaced_in_the_bucket_is_refused_before_it_is_opened(
    machine: Any, database: str
) -> None:
    one = machine("one")
    begin(one)
    publish(one)
    blobs: Any = one._engine.layout.blobs
    (key,) = blobs.list("snapshots/")
    path = blobs.path(key)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ReplicaRefused, match="not the snapshot that was published"):
        machine("new")
    path.write_bytes(data)
    assert machine("new").list_runs().height == 1


def test_only_a_newer_snapshot_of_this_log_replaces_one(machine: Any, database: str) -> None:
    one = machine("one")
    begin(one)
    older = publish(one)
    begin(one, "more")
    publish(one)
    begin(one, "after")
    one.flush()
    told = "SELECT snapshot_n, snapshot_key FROM nirs_store.workspaces"
    put = "SELECT nirs_store.publish(ws, %s, %s, 'snapshots/other.zst', repeat('0', 64)) FROM nirs_store.workspaces"
    with psycopg.connect(database, autocommit=True) as con:
        there = con.execute(told).fetchone()
        txids = dict(con.execute("SELECT n, txid FROM nirs_store.log").fetchall())
        head = max(txids)
        for number, txid in ((older, txids[older]), (head, txids[older]), (head + 1, txids[head])):
            con.execute(put, [number, txid])
            assert con.execute(told).fetchone() == there
        con.execute(put, [head, txids[head]])
        assert con.execute(told).fetchone() == (head, "snapshots/other.zst")


def test_a_vacuum_is_one_computers_own_and_its_entry_everybodys(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    begin(one)
    one.vacuum()
    begin(other)
    rows = other._engine.query(digests)
    assert one._engine.query(digests) == rows
    assert other.audit.verify().ok


def test_a_computer_that_opens_a_workspace_with_a_long_log_publishes_a_snapshot(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    for name in "abc":
        one.begin_run(name, {}, [])
    monkeypatch.setattr(snapshots, "EVERY_COMMITS", 3)
    machine("two")
    assert len(list(one._engine.layout.blobs.list("snapshots/"))) == 1
    machine("three")
    assert len(list(one._engine.layout.blobs.list("snapshots/"))) == 1
