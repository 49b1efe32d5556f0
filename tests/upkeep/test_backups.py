"""Backups: consistent while others write, incremental, verified, pruned, and restored to the same answers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import children
import pytest
from storekit import begin, blob_root, chain_of, predict, snapshot, whole_pipeline

from nirs_store import WorkspaceStore, restore_backup
from nirs_store.backup import backup as backup_making
from nirs_store.backup import backup as backups
from nirs_store.backup.folder import BackupFolder
from nirs_store.errors import BackupInvalid, BlobMissing, InvalidInput, ReadOnlyStore, StoreBusy, UnknownId
from nirs_store.values import as_duration


@pytest.fixture
def home(memory: Path) -> Path:
    """A folder in memory: these tests are about an order of steps, and copy whole catalogs."""
    return memory


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one run, to be copied: making one takes longer."""
    folder = tmp_path_factory.mktemp("recorded") / "ws"
    with WorkspaceStore(folder) as store:
        whole_pipeline(store, store.begin_run("first", {"a": 1}, []))
    return folder


@pytest.fixture
def store(recorded: Path, home: Path) -> Iterator[WorkspaceStore]:
    shutil.copytree(recorded, home / "ws")
    with WorkspaceStore(home / "ws") as opened:
        yield opened


def answers(store: WorkspaceStore) -> dict[str, Any]:
    """What a person can ask, as far as it does not depend on who is asking."""
    tables = (
        "runs",
        "pipelines",
        "chains",
        "predictions",
        "prediction_arrays",
        "arrays",
        "logs",
        "blobs",
        "evaluations",
    )
    found: dict[str, Any] = {table: store.sql(f"SELECT * FROM {table} ORDER BY 1").rows() for table in tables}
    found["top"] = store.top_predictions(10).drop("run_name", strict=False).rows()
    for (chain_id,) in store.sql("SELECT chain_id FROM chains").rows():
        found[chain_id] = repr(store.get_chain(chain_id))
    return found


def test_a_restored_backup_passes_the_check_and_answers_the_same(store: WorkspaceStore, home: Path) -> None:
    store.evaluations.record("m", "s", 0.5, episodes=[{"reward": 1.0}])
    (store.workspace_path / "library" / "templates").mkdir(parents=True)
    (store.workspace_path / "library" / "templates" / "mine.json").write_text("{}")
    expected = answers(store)
    made = store.backups.create(home / "bk")
    assert made is not None
    whole_pipeline(store, store.begin_run("after the backup", {}, []))
    restored = store.backups.restore(home / "bk", home / "again")
    assert restored.backup_id == made.backup_id
    with WorkspaceStore(home / "again") as other:
        report = other.check(read_data=True)
        assert report.findings == ()
        assert answers(other) == expected
        assert (other.workspace_path / "library" / "templates" / "mine.json").read_text() == "{}"
        whole_pipeline(other, other.begin_run("goes on", {}, []))
        assert other.gc_artifacts(grace_seconds=0) == 0


def test_only_new_blobs_are_copied(store: WorkspaceStore, home: Path) -> None:
    first = store.backups.create(home / "bk")
    whole_pipeline(store, store.begin_run("second", {}, []))
    second = store.backups.create(home / "bk")
    third = store.backups.create(home / "bk")
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.new_blobs, second.new_blobs, third.new_blobs) == (1, 1, 0)
    assert (first.parent_id, second.parent_id) == (None, first.backup_id)
    found = store.backups.list(home / "bk")
    assert found["backup_id"].to_list() == [first.backup_id, second.backup_id, third.backup_id]
    assert found["runs"].to_list() == [1, 2, 2]
    assert store.backups.list()["backup_id"].to_list() == found["backup_id"].to_list()
    blobs = [path for path in (home / "bk" / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 2
    restore_backup(home / "bk", home / "old", first.backup_id)
    with WorkspaceStore(home / "old") as old:
        assert old.list_runs()["name"].to_list() == ["first"]
        assert old.check(read_data=True).findings == ()


def test_a_backup_taken_while_another_process_records_is_consistent(
    store: WorkspaceStore, home: Path, crew: Callable[..., Any]
) -> None:
    child = crew(children.record_until_told, store.workspace_path)
    assert child.hear() == "recording"
    made = store.backups.create(home / "bk")
    child.tell()
    assert child.hear() > 2
    assert child.end() == 0
    assert made is not None
    restore_backup(home / "bk", home / "again")
    with WorkspaceStore(home / "again") as restored:
        report = restored.check(read_data=True)
        assert [finding for finding in report.findings if finding.severity != "info"] == []
        # A run that was completed has everything that was recorded into it.
        counted = restored.sql(
            "SELECT r.run_id, count(p.prediction_id) AS n FROM runs r LEFT JOIN pipelines l USING (run_id) "
            "LEFT JOIN predictions p USING (pipeline_id) WHERE r.status = 'completed' GROUP BY ALL"
        )
        assert set(counted["n"]) == {2}
        chain_id = restored.sql("SELECT max(chain_id) FROM chains").item()
        chain = restored.get_chain(chain_id)
        assert chain is not None
        assert restored.load_artifact(chain["fold_artifacts"]["fold_0"]) == [chain["pipeline_id"]]


def test_a_gc_between_catalog_and_blobs_takes_nothing_that_the_backup_needs(
    store: WorkspaceStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, pipeline_id = begin(store, "doomed")
    predict(store, pipeline_id, chain_of(store, pipeline_id))
    copy_files = backup_making._copy_files

    def delete_first(*args: Any) -> Any:
        # Through a store of its own, as another program would.
        with WorkspaceStore(store.workspace_path) as other:
            other.delete_run(run_id, now=True)
            other.gc_artifacts(grace_seconds=0)
        return copy_files(*args)

    monkeypatch.setattr(backup_making, "_copy_files", delete_first)
    made = store.backups.create(home / "bk")
    assert made is not None
    monkeypatch.undo()
    restore_backup(home / "bk", home / "again")
    with WorkspaceStore(home / "again") as restored:
        assert restored.get_run(run_id) is not None
        assert restored.check(read_data=True).findings == ()
    # The claims are given up again: what nobody holds can go now.
    store.gc_artifacts(grace_seconds=0)
    assert store.sql("SELECT count(*) FROM blobs").item() == 1


@pytest.mark.parametrize("place", [".", "backups", "a/b"])
def test_a_target_inside_the_workspace_is_refused(
    place: str, store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[dict[str, Any]] = []
    monkeypatch.setattr(backups, "note", lambda *args, **more: noted.append(more))
    store.list_runs()
    with pytest.raises(InvalidInput, match="inside the workspace"):
        store.backups.create(store.workspace_path / place)
    assert [each["success"] for each in noted] == [False]
    assert not (store.workspace_path / "backups").exists()
    assert not (store.workspace_path / "nirs_store-backups.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_link_into_the_workspace_is_inside_too(store: WorkspaceStore, home: Path) -> None:
    (store.workspace_path / "exports").mkdir()
    (home / "link").symlink_to(store.workspace_path / "exports")
    with pytest.raises(InvalidInput, match="inside the workspace"):
        store.backups.create(home / "link")


def test_a_folder_of_other_things_or_of_another_workspace_is_refused(
    store: WorkspaceStore, home: Path
) -> None:
    (home / "photos").mkdir()
    (home / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="holds no backups"):
        store.backups.create(home / "photos")
    store.backups.create(home / "bk")
    with WorkspaceStore(home / "other") as other, pytest.raises(InvalidInput, match="another workspace"):
        other.backups.create(home / "bk")
    assert [path.name for path in (home / "photos").iterdir()] == ["a.jpg"]
    with pytest.raises(BackupInvalid, match="not a folder of backups"):
        store.backups.list(home / "photos")


def test_one_is_made_only_when_the_last_is_older(store: WorkspaceStore, home: Path) -> None:
    assert store.backups.create(home / "bk", if_older_than="1h") is not None
    assert store.backups.create(home / "bk", if_older_than=timedelta(hours=1)) is None
    assert not store.backups.plan(home / "bk", if_older_than="1h").due
    assert store.backups.create(home / "bk", if_older_than=0) is not None
    assert store.backups.list(home / "bk").height == 2
    with pytest.raises(InvalidInput, match="'24h'"):
        store.backups.create(home / "bk", if_older_than="soon")
    assert as_duration("2w", "x") == timedelta(days=14)


def test_a_plan_copies_nothing(store: WorkspaceStore, home: Path) -> None:
    plan = store.backups.plan(home / "bk")
    assert (plan.due, plan.new_blobs) == (True, 1)
    assert not (home / "bk").exists()


def aged(home: Path, backup_id: str, days: float) -> None:
    """Make a backup look older."""
    path = BackupFolder(home / "bk").manifest(backup_id)
    told = json.loads(path.read_text())
    moment = backup_making.utcnow() - timedelta(days=days)
    path.write_text(json.dumps(told | {"created_at": moment.isoformat()}))


def test_backups_are_kept_by_number_and_by_age_and_the_newest_always(
    store: WorkspaceStore, home: Path
) -> None:
    ids = []
    for number in range(3):
        run_id = store.begin_run(f"run {number}", {}, [])
        whole_pipeline(store, run_id)
        made = store.backups.create(home / "bk")
        assert made is not None
        ids.append(made.backup_id)
        store.delete_run(run_id, now=True)
    for backup_id, days in zip(ids, (30, 20, 10), strict=True):
        aged(home, backup_id, days)
    before = snapshot(home / "bk")
    plan = store.backups.prune(home / "bk", keep_last=2, dry_run=True)
    assert plan.remove == (ids[0],)
    assert len(plan.blobs) == 1
    assert snapshot(home / "bk") == before
    assert store.backups.prune(home / "bk", max_age="25d", dry_run=True).remove == tuple(ids[:1])
    assert store.backups.prune(home / "bk", max_age="1d", dry_run=True).keep == (ids[2],)
    done = store.backups.prune(home / "bk", keep_last=2)
    assert done == plan
    assert store.backups.list(home / "bk")["backup_id"].to_list() == ids[1:]
    assert store.backups.list()["backup_id"].to_list() == ids[1:]
    for backup_id in ids[1:]:
        store.backups.verify(home / "bk", backup_id)
    with pytest.raises(InvalidInput, match="say at least one"):
        store.backups.prune(home / "bk")
    with pytest.raises(InvalidInput, match="at least 1"):
        store.backups.prune(home / "bk", keep_last=0)


@pytest.mark.parametrize(
    ("what", "how"), [("blobs", "flipped"), ("blobs", "gone"), ("catalogs", "flipped"), ("catalogs", "short")]
)
def test_a_damaged_backup_is_found_and_not_restored(
    what: str, how: str, store: WorkspaceStore, home: Path
) -> None:
    store.backups.create(home / "bk")
    (path,) = [path for path in (home / "bk" / what).rglob("*") if path.is_file()]
    path.chmod(0o644)
    if how == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data if how == "flipped" else data[:-1])
    with pytest.raises(BackupInvalid):
        store.backups.verify(home / "bk")
    with pytest.raises(BackupInvalid):
        restore_backup(home / "bk", home / "again")
    assert sorted(each.name for each in home.iterdir()) == ["bk", "ws"]


def test_a_blob_that_is_damaged_in_the_workspace_is_noticed(store: WorkspaceStore, home: Path) -> None:
    (blob,) = [path for path in blob_root(store).joinpath("artifacts").rglob("*") if path.is_file()]
    blob.chmod(0o644)
    blob.write_bytes(b"\0" * blob.stat().st_size)
    with pytest.raises(BackupInvalid, match="nirs-store check"):
        store.backups.create(home / "bk")
    assert store.backups.list(home / "bk").height == 0
    assert [path for path in (home / "bk").rglob("*") if path.is_file() and "blobs" in path.parts] == []


def test_a_lost_blob_is_said_and_may_be_left_out(store: WorkspaceStore, home: Path) -> None:
    (blob,) = [path for path in blob_root(store).joinpath("artifacts").rglob("*") if path.is_file()]
    blob.unlink()
    with pytest.raises(BlobMissing, match="allow_missing"):
        store.backups.create(home / "bk")
    assert store.backups.list(home / "bk").height == 0
    made = store.backups.create(home / "bk", allow_missing=True)
    assert made is not None
    assert made.n_blobs == 0
    restore_backup(home / "bk", home / "again")


def test_restoring_needs_an_empty_folder_elsewhere(store: WorkspaceStore, home: Path) -> None:
    store.backups.create(home / "bk")
    with pytest.raises(InvalidInput, match="not empty"):
        restore_backup(home / "bk", store.workspace_path)
    with pytest.raises(InvalidInput, match="inside the folder of backups"):
        restore_backup(home / "bk", home / "bk" / "again")
    with pytest.raises(UnknownId, match="backup"):
        restore_backup(home / "bk", home / "again", "nothing")
    with pytest.raises(BackupInvalid, match="not a folder of backups"):
        restore_backup(store.workspace_path, home / "again")
    (home / "empty").mkdir()
    restore_backup(home / "bk", home / "empty")
    assert WorkspaceStore(home / "empty", read_only=True).list_runs().height == 1


def test_one_at_a_time_works_in_a_folder_of_backups(store: WorkspaceStore, home: Path) -> None:
    store.backups.create(home / "bk")
    with BackupFolder(home / "bk").locked():
        with pytest.raises(StoreBusy, match="Another process"):
            store.backups.create(home / "bk")
        with pytest.raises(StoreBusy):
            store.backups.prune(home / "bk", keep_last=1)
    assert store.backups.list(home / "bk").height == 1


def test_a_backup_that_was_interrupted_is_none(
    store: WorkspaceStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backup_making, "_verify_new", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.backups.create(home / "bk")
    assert store.backups.list(home / "bk").height == 0
    assert list((home / "bk" / "catalogs").iterdir()) == []
    again = store.backups.create(home / "bk")
    assert again is not None
    assert again.new_blobs == 0
    store.backups.verify(home / "bk")


def test_a_read_only_store_makes_no_backup_and_lists_those_there_are(
    store: WorkspaceStore, home: Path
) -> None:
    store.backups.create(home / "bk")
    store.close()
    with WorkspaceStore(home / "ws", read_only=True) as reader:
        with pytest.raises(ReadOnlyStore):
            reader.backups.create(home / "bk")
        assert reader.backups.list(home / "bk").height == 1


def test_a_hostile_manifest_writes_nothing_outside(store: WorkspaceStore, home: Path) -> None:
    store.backups.create(home / "bk")
    (path,) = (home / "bk" / "backups").glob("*.json")
    told = json.loads(path.read_text())
    told["blobs"][0]["path"] = "../escaped"
    path.write_text(json.dumps(told))
    with pytest.raises(BackupInvalid):
        restore_backup(home / "bk", home / "again")
    assert not (home / "escaped").exists()
    assert not (home / "again").exists()


def test_the_catalog_is_copied_under_the_lock(
    store: WorkspaceStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may have the file open, this process included: its locks would go with the first close."""
    seen: list[tuple[str, bool]] = []
    copyfile = shutil.copyfile

    def look(source: Any, target: Any) -> Any:
        access = store._engine.access
        seen.append((str(access._catalog_lock.mode), access.con is None))
        return copyfile(source, target)

    monkeypatch.setattr(backup_making.shutil, "copyfile", look)
    store.backups.create(home / "bk")
    assert seen[0] == ("exclusive", True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_backups_archives_and_what_comes_back_keep_to_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with WorkspaceStore(tmp_path / "ws") as store:
            whole_pipeline(store, store.begin_run("first", {}, []))
            store.backups.create(tmp_path / "backups")
            store.archive(tmp_path / "all.tar.gz")
        restore_backup(tmp_path / "backups", tmp_path / "restored")
        with WorkspaceStore(tmp_path / "from archive") as store:
            store.restore_archive(tmp_path / "all.tar.gz")
    finally:
        os.umask(before)
    assert [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o077] == []
