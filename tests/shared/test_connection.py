"""Connections that are cut, slow, or silent, at every packet; what was acknowledged is there, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from faultkit import Session, Wire, disturbed, look, through
from storekit import begin, whole_pipeline

from nirs_store.db.table import digests
from nirs_store.errors import SharedStoreUnreachable, StoreBusy
from nirs_store.shared import pg
from nirs_store.store import WorkspaceStore


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may be silent for half a second only."""
    monkeypatch.setattr(pg, "_SILENCE", 0.5)
    monkeypatch.setattr(pg, "_SHORTEST_SILENCE", 0.5)


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([(44, "within"), (60, "after")], id="some"),
        pytest.param(
            list(product(range(1, 1000), ["before", "within", "after", "deaf"])),
            id="all",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_connection_cut_at_any_packet_costs_a_second_attempt_at_most(
    machine: Any,
    database: str,
    wire: Wire,
    tmp_path: Path,
    impatient: None,
    points: Iterable[tuple[int, str]],
) -> None:
    other = machine("other")
    told: dict[int, Any] = {}
    place = through(database, wire, tmp_path / "cut")
    for packet, how in points:
        number = len(told)
        wire.cut_at, before = (packet, how), wire.cuts
        with WorkspaceStore(place, retention=False) as store:
            told[number] = disturbed(store, number)
        wire.cut_at = None
        look(other, told)
        if wire.cuts == before:
            break
    print(f"{wire.cuts} cuts, {packet} packets")
    rows = other._engine.query(digests)
    with WorkspaceStore(place) as store:
        assert store._engine.query(digests) == rows
    assert machine("new")._engine.query(digests) == rows


@pytest.mark.parametrize("how", ["before", "within", "after", "deaf"])
def test_a_change_cut_around_its_commit_is_made_once_or_said_not_to_be(
    machine: Any, database: str, wire: Wire, tmp_path: Path, impatient: None, how: str
) -> None:
    other = machine("other")
    run_id, _ = begin(other)
    other.flush()
    with WorkspaceStore(through(database, wire, tmp_path / "cut")) as store:
        wire.cut_after, wire.how = b"COMMIT", how
        if how in ("after", "deaf"):
            store.retention.pin(run_id, "the paper")
        else:
            with pytest.raises(SharedStoreUnreachable, match="PostgreSQL could not be reached"):
                store.retention.pin(run_id, "the paper")
            assert other.retention.pins().is_empty()
            store.retention.pin(run_id, "the paper")
        assert wire.cuts == 1
        rows = store._engine.query(digests)
        assert other.retention.pins()["reason"].to_list() == ["the paper"]
        assert other._engine.query(digests) == rows


# -- no answers ------------------------------------------------------------------------------------


CALLS: dict[str, Callable[[WorkspaceStore, Session], Any]] = {
    "record": lambda store, session: store.begin_run("kept", {}, []),
    "save": lambda store, session: store.save_artifact(["x"], "builtins.list", "model", "joblib"),
    "ask": lambda store, session: store.list_runs(),
    "delete": lambda store, session: store.delete_run(session.told["old"], now=True),
    "collect": lambda store, session: store.gc_artifacts(grace_seconds=0),
    "set": lambda store, session: session.take("setting"),
}


@pytest.mark.parametrize(
    "call", ["record", *(pytest.param(call, marks=pytest.mark.slow) for call in CALLS if call != "record")]
)
def test_a_network_that_swallows_everything_ends_each_call_with_words(
    machine: Any, database: str, wire: Wire, tmp_path: Path, impatient: None, call: str
) -> None:
    other = machine("other")
    store = WorkspaceStore(through(database, wire, tmp_path / "hole", patience=0), retention=False)
    session = Session(store, 0)
    for step in Session.RECORDING:
        session.take(step)
    before = other._engine.query(digests)
    wire.swallow()
    with pytest.raises(SharedStoreUnreachable, match=rf"127\.0\.0\.1:{wire.port}.*safe") as caught:
        CALLS[call](store, session)
    assert "kept in memory" in str(caught.value) or "whole or absent" in str(caught.value)
    with pytest.raises(SharedStoreUnreachable):
        WorkspaceStore(through(database, wire, tmp_path / "second", patience=0), lock_timeout=0.1)
    wire.swallow(False)
    assert other._engine.query(digests) == before
    # The rows that were kept are committed, once; the session goes on where it was.
    session.take("delete")
    session.take("gc")
    session.take("setting")
    store.close()
    look(other, {0: session.told})
    assert other.list_runs()["name"].to_list().count("kept") == (call == "record")


def test_a_session_whose_connection_went_silent_takes_its_lock_back(
    machine: Any, database: str, wire: Wire, tmp_path: Path, impatient: None
) -> None:
    other = machine("other")
    with WorkspaceStore(through(database, wire, tmp_path / "deaf"), retention=False) as store:
        run_id, _ = begin(store)
        artifact_id = store.save_artifact(["held"], "builtins.list", "model", "joblib")
        # The server still takes the old connection for alive, which holds the lock of this session.
        wire.cut_at, wire.how = (1, "deaf"), "deaf"
        store.flush()
        assert wire.cuts == 1
        assert other.gc_artifacts(grace_seconds=0) == 0
        assert other.load_artifact(artifact_id) == ["held"]
        whole_pipeline(store, run_id)
    assert other.list_pipelines().height == 2


def test_a_change_that_lasts_longer_than_a_commit_may_wait_is_busy_and_not_unreachable(
    machine: Any, database: str, impatient: None
) -> None:
    one, hasty, patient = machine("one"), machine("hasty", "&patience=0"), machine("patient")
    for store in (one, hasty, patient):
        begin(store)
        store.flush()

    def work(con: Any) -> None:
        con.execute("DELETE FROM pipelines")
        with pytest.raises(StoreBusy, match="kept in memory"):
            hasty.begin_run("hasty", {}, [])
        with pytest.raises(StoreBusy, match="patience="):
            hasty.retention.pin("run")

    one._engine.change(work)
    hasty.flush()
    assert one.list_runs()["name"].to_list().count("hasty") == 1
    assert patient.list_pipelines().is_empty()


# -- round trips -------------------------------------------------------------------------------------


TRIPS: dict[str, tuple[int, Callable[[WorkspaceStore, str, int], Any]]] = {
    # How often a call waits for the server, at most.
    "commit of a run": (1, lambda store, run_id, number: store.begin_run(f"r{number}", {}, [])),
    # The claim of the model, the commit, and the claim again, which is given up.
    "pipeline with a new model": (3, lambda store, run_id, number: _pipeline(store, run_id, number)),
    "query, nothing new": (1, lambda store, run_id, number: store._engine.query(lambda con: None)),
    "direct change": (7, lambda store, run_id, number: store.retention.pin(("run", run_id), str(number))),
}


def _pipeline(store: WorkspaceStore, run_id: str, number: int) -> None:
    with store.transaction():
        pipeline_id = store.begin_pipeline(run_id, f"p{number}", {}, [], "corn", "hash")
        store.save_artifact([number], "builtins.list", "model", "joblib")
        store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)


def test_each_call_waits_for_the_server_a_known_number_of_times(
    machine: Any, database: str, wire: Wire, tmp_path: Path
) -> None:
    machine("other")
    with WorkspaceStore(through(database, wire, tmp_path / "far"), retention=False) as store:
        run_id, _ = begin(store)
        store.flush()
        store.list_runs()
        for name, (most, call) in TRIPS.items():
            found = []
            for number in range(9):
                sent = wire.sent
                call(store, run_id, number)
                found.append(wire.sent - sent)
            # A thread of the store may look for settings in between, each second.
            assert 1 <= min(found) <= most, name
