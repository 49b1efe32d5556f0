"""A replica whose folder vanishes, grows old, is used by others, or is another's: rebuilt or refused, never merged."""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from storekit import begin, failing

from nirs_store.db.table import digests
from nirs_store.errors import NirsStoreError, ReplicaRefused, StoreBusy
from nirs_store.store import WorkspaceStore

pytestmark = pytest.mark.slow


def place(database: str, folder: Path, workspace: str = "corn") -> str:
    return f"{database}?workspace={workspace}&replica={folder}"


def test_a_replica_of_another_workspace_that_was_put_there_is_refused(
    machine: Any, database: str, tmp_path: Path
) -> None:
    begin(machine("one"), "corn")
    blobs = (tmp_path / "wheat-blobs").as_uri()
    with WorkspaceStore(place(database, tmp_path / "wheat", "wheat"), blobs=blobs) as wheat:
        begin(wheat, "wheat")
    with pytest.raises(ReplicaRefused, match="another workspace"):
        WorkspaceStore(place(database, tmp_path / "wheat"))
    # Only its catalog, in a folder that says that it is this one's.
    with WorkspaceStore(place(database, tmp_path / "corn")) as corn:
        corn.list_runs()
    shutil.copy(tmp_path / "wheat" / "store.duckdb", tmp_path / "corn" / "store.duckdb")
    with pytest.raises(ReplicaRefused, match="another workspace"):
        WorkspaceStore(place(database, tmp_path / "corn")).list_runs()
    shutil.rmtree(tmp_path / "corn")
    with WorkspaceStore(place(database, tmp_path / "corn")) as corn:
        assert corn.list_runs()["name"].to_list() == ["corn"]


def test_an_older_catalog_catches_up_also_with_changes(machine: Any, database: str, tmp_path: Path) -> None:
    one = machine("one")
    first, _ = begin(one, "first")
    one.flush()
    folder = tmp_path / "replica"
    with WorkspaceStore(place(database, folder)) as store:
        store.list_runs()
    shutil.copy(folder / "store.duckdb", tmp_path / "older")
    second, _ = begin(one, "second")
    one.retention.pin(second, "the paper")
    one.delete_run(first, now=True)
    with WorkspaceStore(place(database, folder)) as store:
        store.list_runs()
    shutil.copy(tmp_path / "older", folder / "store.duckdb")
    (folder / "store.duckdb.wal").unlink(missing_ok=True)
    with WorkspaceStore(place(database, folder)) as store:
        assert store._engine.query(digests) == one._engine.query(digests)
        assert store.list_runs()["run_id"].to_list() == [second]


def test_a_replica_that_plain_duckdb_has_open_is_busy_and_recording_goes_on(
    machine: Any, database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "replica"
    one = machine("one")
    begin(one, "first")
    one.flush()
    with WorkspaceStore(place(database, folder), lock_timeout=0.2) as store:
        store.list_runs()
    with (
        duckdb.connect(str(folder / "store.duckdb")),
        WorkspaceStore(place(database, folder), lock_timeout=0.2) as store,
    ):
        with pytest.raises(StoreBusy):
            store.list_runs()
        begin(store, "second")
        store.flush()
        assert sorted(one.list_runs()["name"]) == ["first", "second"]
    with WorkspaceStore(place(database, folder)) as store:
        assert store._engine.query(digests) == one._engine.query(digests)


def test_a_replica_that_is_deleted_while_it_is_open_is_made_again(
    machine: Any, database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "replica"
    one = machine("one")
    begin(one, "first")
    one.flush()
    store = WorkspaceStore(place(database, folder))
    store.list_runs()
    store._engine.access.before_fork()
    store._engine.access.after_fork_in_parent()
    shutil.rmtree(folder)
    said = ["first"]
    with suppress(NirsStoreError):
        begin(store, "second")
        store.flush()
        said.append("second")
        store.list_runs()
    store._engine.abort()
    with WorkspaceStore(place(database, folder)) as again:
        assert set(said) <= set(again.list_runs()["name"])
        assert again._engine.query(digests) == one._engine.query(digests)


@pytest.mark.parametrize("call", ["write", "replace", "fsync"])
def test_on_a_full_disk_a_replica_stays_whole(
    machine: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    folder = tmp_path / "replica"
    one = machine("one")
    for number in range(3):
        begin(one, str(number))
    one.flush()
    said = ["0", "1", "2"]
    with (
        failing(monkeypatch, call, below=folder, code=errno.ENOSPC) as refused,
        suppress(NirsStoreError),
        WorkspaceStore(place(database, folder)) as store,
    ):
        begin(store, "full")
        store.flush()
        said.append("full")
        store.list_runs()
    assert refused
    with WorkspaceStore(place(database, folder)) as store:
        assert set(said) <= set(store.list_runs()["name"])
        assert store._engine.query(digests) == one._engine.query(digests)
