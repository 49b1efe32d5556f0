"""Check and repair of a shared workspace: a replica is built again, and a blob comes back from a copy."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from storekit import Y_TRUE, begin, chain_of

from nirs_store.cli._app import app
from nirs_store.db.table import digests
from nirs_store.errors import NirsStoreError, ReadOnlyStore, ReplicaRefused
from nirs_store.maintenance import shared as shared_care
from nirs_store.store import WorkspaceStore

X = np.arange(12.0).reshape(4, 3) ** 1.5


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output


def record(store: WorkspaceStore, name: str) -> tuple[str, Any]:
    """Record a chain with a model; returns it, and what it predicts."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(X, Y_TRUE * len(name))
    _, pipeline_id = begin(store, name)
    artifact_id = store.save_artifact(model, "sklearn.linear_model.LinearRegression", "model", "joblib")
    return chain_of(store, pipeline_id, artifact_id), model.predict(X)


def alter(folder: Path, sql: str) -> None:
    """Change the catalog of a replica behind everybody's back."""
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute(sql)


@pytest.fixture
def lab(machine: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a replica of a workspace with two runs, closed, and its address."""
    with machine("one") as store:
        record(store, "first")
        record(store, "second")
        store.list_runs()
        place, folder = store._engine.settings.shared, store.workspace_path
    words = dict(place.server)
    return folder, (
        f"postgresql://lab@127.0.0.1:{words['port']}/{words['dbname']}?workspace=corn&replica={folder}&patience=20"
    )


DAMAGES = {
    "another row": lambda folder: alter(folder, "UPDATE runs SET name = 'forged' WHERE name = 'first'"),
    "a row too few": lambda folder: alter(
        folder, "DELETE FROM chains WHERE chain_id = (SELECT min(chain_id) FROM chains)"
    ),
    "not a database": lambda folder: (folder / "store.duckdb").write_bytes(b"not a database" * 999),
    "cut off": lambda folder: (folder / "store.duckdb").write_bytes(
        (folder / "store.duckdb").read_bytes()[:9000]
    ),
    "no position": lambda folder: alter(folder, "DELETE FROM nirs_store_meta WHERE key = 'position'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_replica_that_differs_from_the_log_is_built_again(
    lab: tuple[Path, str], machine: Any, damage: str
) -> None:
    folder, place = lab
    assert "Nothing to repair" in run("repair", "-w", place, "--yes")
    run("check", "-w", place, "--read-data")
    DAMAGES[damage](folder)
    before = (folder / "store.duckdb").read_bytes()
    said = run("check", "-w", place, "--read-data", code=4)
    assert "nirs-store repair" in said
    assert damage != "not a database" or "backup" not in said
    assert "Build the replica" in run("repair", "-w", place, "--dry-run")
    if damage in ("not a database", "cut off"):
        assert (folder / "store.duckdb").read_bytes() == before
    assert "Done" in run("repair", "-w", place, "--yes")
    assert "No damage found" in run("check", "-w", place, "--read-data")
    assert "Nothing to repair" in run("repair", "-w", place, "--yes")
    assert machine("one")._engine.query(digests) == machine("new")._engine.query(digests)
    assert sorted(folder.parent.glob("*.rebuilt")) == sorted(folder.glob("set-aside")) == []


def test_a_replica_with_fewer_changes_than_were_noted_has_lost_none(lab: tuple[Path, str]) -> None:
    # As one that was built again, which applied the same commits in fewer transactions.
    folder, place = lab
    (folder / "journal" / "change-count").write_text("999")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "No damage found" in run("check", "-w", place)


def test_an_open_store_goes_on_with_the_replica_that_was_built(lab: tuple[Path, str], machine: Any) -> None:
    folder, _ = lab
    alter(folder, "UPDATE runs SET name = 'forged' WHERE name = 'first'")
    store = machine("one")
    assert "forged" in store.list_runs()["name"].to_list()
    assert store.repair(dry_run=True).rebuild is not None
    assert store.repair().rebuild is not None
    assert sorted(store.list_runs()["name"]) == ["first", "second"]
    record(store, "third")
    assert machine("new").list_runs().height == 3


def test_computers_compare_what_they_hold_at_the_same_commit(lab: tuple[Path, str], machine: Any) -> None:
    folder, _ = lab
    two = machine("two")
    assert two.check().errors == ()
    alter(folder, "UPDATE runs SET name = 'forged' WHERE name = 'first'")
    (found,) = machine("one").check().errors
    assert found.kind == "replica_differs"
    assert str(two.workspace_path) in found.message


def test_a_replica_beyond_the_log_is_kept_when_another_is_built(
    lab: tuple[Path, str], machine: Any, database: str
) -> None:
    folder, place = lab
    with psycopg.connect(database, autocommit=True) as con:
        # As a server that was restored from an older state.
        con.execute("DELETE FROM nirs_store.log WHERE n = (SELECT head FROM nirs_store.workspaces)")
        con.execute("UPDATE nirs_store.workspaces SET head = head - 1")
    with pytest.raises(ReplicaRefused, match="nirs-store repair"):
        machine("one")
    assert "Done" in run("repair", "-w", place, "--yes")
    (kept,) = folder.glob("set-aside-*/store.duckdb")
    with duckdb.connect(str(kept), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    assert "No damage found" in run("check", "-w", place)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [1, 2])
def test_an_interrupted_repair_leaves_a_replica_that_opens(
    lab: tuple[Path, str], machine: Any, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    folder, place = lab
    alter(folder, "UPDATE runs SET name = 'forged' WHERE name = 'first'")
    real, calls = shared_care.put_in_place, []

    def put_in_place(draft: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == stopped:
            raise KeyboardInterrupt
        real(draft, target)

    with monkeypatch.context() as patch:
        patch.setattr(shared_care, "put_in_place", put_in_place)
        with machine("other") as other, pytest.raises(KeyboardInterrupt):
            shared_care.repair(machine("one")._engine.settings, dry_run=False)
        other.close()
    assert machine("one").list_runs().height == 2
    run("repair", "-w", place, "--yes")
    assert sorted(machine("one").list_runs()["name"]) == ["first", "second"]


def test_a_replica_that_arrives_with_other_rows_is_refused_and_the_one_before_is_kept(
    lab: tuple[Path, str], machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = lab
    alter(folder, "UPDATE runs SET name = 'before' WHERE name = 'first'")
    real = shared_care.put_in_place

    def put_in_place(draft: Path, target: Path) -> None:
        real(draft, target)
        if target == folder / "store.duckdb":
            alter(folder, "UPDATE runs SET name = 'broken' WHERE name = 'second'")

    with monkeypatch.context() as patch:
        patch.setattr(shared_care, "put_in_place", put_in_place)
        with pytest.raises(NirsStoreError, match="does not have the rows"):
            machine("one").repair()
    with duckdb.connect(str(folder / "set-aside" / "store.duckdb"), read_only=True) as con:
        assert con.execute("SELECT name FROM runs ORDER BY 1").fetchall() == [("before",), ("second",)]
    assert machine("one").repair().rebuild is not None
    assert sorted(machine("one").list_runs()["name"]) == ["first", "second"]


@pytest.mark.slow
def test_lost_blobs_come_back_from_the_copies_of_this_computer(
    database: str, bucket: str, tmp_path: Path
) -> None:
    import obstore
    from obstore.store import S3Store

    place = f"{database}?workspace=corn&replica={tmp_path / 'one'}"
    with WorkspaceStore(place, blobs=bucket) as store:
        chains = [record(store, name) for name in ("first", "second", "the third")]
        for chain_id, expected in chains[:2]:
            np.testing.assert_array_equal(store.replay_chain(chain_id, X), expected)
        keys = [
            store.sql(
                "SELECT artifact_path FROM artifacts JOIN artifact_refs USING (artifact_id) WHERE owner_id = ?",
                [chain],
            ).item()
            for chain, _ in chains
        ]
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    objects = S3Store(name, prefix=prefix, client_options={"allow_http": True})
    size = obstore.head(objects, keys[1])["size"]
    obstore.delete(objects, keys[0])
    obstore.put(objects, keys[1], b"x" * size)
    obstore.delete(objects, keys[2])
    # A computer without copies names them, and does nothing.
    other = f"{database}?workspace=corn&replica={tmp_path / 'two'}"
    said = run("repair", "-w", other, "--yes")
    assert "Put blobs back" not in said
    assert all(key in said for key in keys)
    # What is in the cache is compared with its hash first.
    assert "Put blobs back from the copies on this computer (2)" in run("repair", "-w", place, "--dry-run")
    said = run("repair", "-w", place, "--yes")
    assert keys[2] in said
    shutil.rmtree(tmp_path / "one" / "cache")
    with WorkspaceStore(place) as store:
        for chain_id, expected in chains[:2]:
            np.testing.assert_array_equal(store.replay_chain(chain_id, X), expected)
        assert [each.where for each in store.check(read_data=True).errors] == [keys[2]]


def test_a_repair_leaves_alone_what_another_computer_has_saved_and_not_committed(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machine("one"), machine("two")
    record(one, "first")
    _, pipeline_id = begin(two, "second")
    with two.transaction():
        artifact_id = two.save_artifact({"slope": 2.0}, "dict", "model")
        monkeypatch.setattr("nirs_store.maintenance.check.LEFTOVER_AGE", -1.0)
        assert one.check().ok
        assert one.repair().empty
        chain_of(two, pipeline_id, artifact_id)
    assert one.load_artifact(artifact_id) == {"slope": 2.0}


def test_a_repair_says_of_a_blob_without_a_row_what_a_check_says(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    record(one, "first")
    one._engine.layout.blobs.put({f"artifacts/ab/{'ab' * 32}.joblib": b"x"})
    assert one.repair(dry_run=True).kept == one.check().findings == ()
    monkeypatch.setattr("nirs_store.maintenance.check.LEFTOVER_AGE", -1.0)
    assert one.repair(dry_run=True).kept == one.check().findings
    assert [(each.kind, each.remedy) for each in one.check().findings] == [
        ("blob_orphan", "`nirs-store gc` removes it.")
    ]


def test_a_store_that_only_reads_repairs_nothing(machine: Any) -> None:
    with machine("one") as store:
        record(store, "first")
    with machine("one", read_only=True) as store:
        assert store.repair(dry_run=True).empty
        with pytest.raises(ReadOnlyStore):
            store.repair()
