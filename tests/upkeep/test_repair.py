"""A repair plans first, moves and recounts, and neither deletes what was recorded nor invents anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from clikit import check
from storekit import begin
from upkeepkit import Sample, age, answers, overwrite, sql, tree

from nirs_store.blobs.local import aside_name
from nirs_store.datasets import load_tecator
from nirs_store.db.journal import new_txid
from nirs_store.errors import BlobMissing, InvalidInput, ReadOnlyStore
from nirs_store.ids import sha256_hex
from nirs_store.maintenance.repair import (
    RepairPlan,
    execute_repair,
    keep,
    plan_workspace_repair,
    repair_workspace,
    restore_catalog,
)
from nirs_store.store import WorkspaceStore

GONE = "0190aaaa-0000-7000-8000-000000000000"


def repaired(sample: Sample, **options: Any) -> RepairPlan:
    """Plan, see that nothing was touched, then carry out what was planned."""
    before = tree(sample.path)
    planned = plan_workspace_repair(sample.path, **options)
    assert tree(sample.path) == before
    repair_workspace(sample.path, planned)
    return planned


def quarantined(sample: Sample) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (sample.path / "quarantine").glob("*")}


def orphan(sample: Sample, content: bytes = b"orphan") -> Path:
    """A well named blob that no row names."""
    digest = sha256_hex(content)
    path = sample.path / "artifacts" / digest[:2] / f"{digest}.joblib"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


# -- nothing to do ---------------------------------------------------------------------------------


def test_a_healthy_store_needs_no_repair(sample: Sample) -> None:
    plan = repaired(sample)
    assert plan.empty
    assert str(plan) == "Nothing to repair."
    assert not (sample.path / "quarantine").exists()


def test_a_store_plans_what_is_planned_for_its_folder_and_changes_nothing(sample: Sample) -> None:
    age(orphan(sample))
    overwrite(sample.blob("refit"), b"bad")
    planned = plan_workspace_repair(sample.path)
    with WorkspaceStore(sample.path) as store:
        before = tree(sample.path)
        assert store.repair(dry_run=True) == planned
        assert tree(sample.path) == before
        assert not (sample.path / "quarantine").exists()
        assert store.repair() == planned
    assert len(quarantined(sample)) == 2


def test_a_read_only_store_plans_and_repairs_nothing(sample: Sample) -> None:
    sample.blob("scaler").unlink()
    with WorkspaceStore(sample.path, read_only=True) as store:
        assert len(store.repair(dry_run=True).kept) == 1
        with pytest.raises(ReadOnlyStore):
            store.repair()


# -- blobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"short", None])
def test_a_bad_blob_moves_to_quarantine_and_the_next_save_heals_it(
    sample: Sample, content: bytes | None
) -> None:
    good = sample.blob("refit").read_bytes()
    bad = bytes(len(good)) if content is None else content
    overwrite(sample.blob("refit"), bad)
    plan = repaired(sample)
    assert plan.bad_blobs == (sample.relative("refit"),)
    assert [finding.affects for finding in plan.kept] == [(sample.chains["refit"],)]
    assert quarantined(sample) == {sample.blob("refit").name: bad}
    assert not sample.blob("refit").exists()
    with WorkspaceStore(sample.path) as store:
        with pytest.raises(BlobMissing):
            store.load_artifact(sample.artifacts["refit"])
        again = store.save_artifact(good, "Ridge", "model", "bytes")  # the same bytes: the same artifact
        store.flush()
        assert again == sample.artifacts["refit"]
        store.replay_chain(sample.chains["refit"], load_tecator().X[:2])
        assert store.check(read_data=True).ok


def test_a_bad_file_that_the_user_registered_stays_where_it_is(sample: Sample) -> None:
    own = sample.path / "models" / "mine.bin"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    with WorkspaceStore(sample.path) as store:
        store.register_existing_artifact(
            "mine", "models/mine.bin", sha256_hex(b"mine"), "x", "model", "bytes", 4
        )
    own.write_bytes(b"edit")
    plan = repaired(sample)
    assert plan.empty
    assert [finding.kind for finding in plan.kept] == ["blob_corrupt"]
    assert own.read_bytes() == b"edit"


def test_what_was_healed_since_the_plan_stays(sample: Sample) -> None:
    good = sample.blob("refit").read_bytes()
    overwrite(sample.blob("refit"), bytes(len(good)))
    plan = plan_workspace_repair(sample.path)
    overwrite(sample.blob("refit"), good)
    repair_workspace(sample.path, plan)
    assert sample.blob("refit").read_bytes() == good
    assert quarantined(sample) == {}
    assert check(sample.path, read_data=True).ok


def test_a_missing_blob_is_listed_and_its_rows_are_kept(sample: Sample) -> None:
    sample.blob("scaler").unlink()
    plan = repaired(sample)
    assert plan.empty
    assert "Lost or left as it is (1)" in str(plan)
    assert sample.chains["folds"] in str(plan)
    with WorkspaceStore(sample.path) as store:
        assert store.get_artifact(sample.artifacts["scaler"]) is not None
        assert store.get_chain(sample.chains["folds"]) is not None


def test_old_orphans_move_to_quarantine_young_ones_and_strangers_stay(sample: Sample) -> None:
    old, young = orphan(sample, b"old"), orphan(sample, b"young")
    age(old)
    notes = sample.path / "artifacts" / "notes.txt"
    notes.write_text("mine")
    age(notes)
    plan = repaired(sample)
    assert plan.orphans == (old.relative_to(sample.path).as_posix(),)
    assert quarantined(sample) == {old.name: b"old"}
    assert young.exists()
    assert notes.exists()


def test_an_orphan_that_is_being_saved_again_stays(sample: Sample) -> None:
    with WorkspaceStore(sample.path) as store:
        key = store.save_artifact(b"again", "bytes", "model", "bytes")
        store.flush()
        (path,) = sample.path.glob(f"artifacts/??/{key}.*")
    sql(sample.path, "DELETE FROM artifact_refs WHERE artifact_id = '" + key + "'")
    sql(sample.path, "DELETE FROM blobs WHERE artifact_id = '" + key + "'")
    age(path)
    plan = plan_workspace_repair(sample.path)
    assert plan.orphans == (path.relative_to(sample.path).as_posix(),)
    with WorkspaceStore(sample.path) as saver:
        saver.save_artifact(b"again", "bytes", "model", "bytes")
        repair_workspace(sample.path, plan)  # claimed, its row still in the buffer
        assert path.exists()
        saver.flush()
        repair_workspace(sample.path, plan)  # named by a row
        assert path.exists()
    assert quarantined(sample) == {}
    assert check(sample.path, read_data=True).ok


def test_a_name_taken_in_quarantine_gets_a_number_and_nothing_is_replaced(sample: Sample) -> None:
    for content in (b"first", b"second", b"third"):
        overwrite(sample.blob("refit"), content)
        keep(sample.layout, sample.blob("refit"))
        sample.blob("refit").unlink()
        sample.blob("refit").write_bytes(b"")
    name = sample.blob("refit").name
    assert quarantined(sample) == {name: b"first", f"{name}.2": b"second", f"{name}.3": b"third"}


def test_without_hard_links_a_copy_is_kept(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("nirs_store.blobs.durable.os.link", refuse)
    overwrite(sample.blob("refit"), b"bad")
    keep(sample.layout, sample.blob("refit"))
    keep(sample.layout, sample.blob("refit"))
    name = sample.blob("refit").name
    assert quarantined(sample) == {name: b"bad", f"{name}.2": b"bad"}


def test_a_repair_that_dies_in_the_middle_loses_nothing(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = orphan(sample)
    age(path)
    overwrite(sample.blob("refit"), b"bad")
    plan = plan_workspace_repair(sample.path)
    with monkeypatch.context() as broken:
        broken.setattr("nirs_store.maintenance.repair.read_claims", _die)
        with pytest.raises(KeyboardInterrupt):
            repair_workspace(sample.path, plan)
    kept = set(quarantined(sample).values())
    assert kept == {b"orphan", b"bad"}
    repaired(sample)
    assert set(quarantined(sample).values()) == kept
    assert [finding.kind for finding in check(sample.path).errors] == ["blob_missing"]


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# -- rows ------------------------------------------------------------------------------------------


def test_references_are_recounted(sample: Sample) -> None:
    chain, key = sample.chains["folds"], sample.artifacts["scaler"]
    with WorkspaceStore(sample.path) as store:
        before = store.get_artifact(key)
    sql(
        sample.path,
        f"DELETE FROM artifact_refs WHERE owner_id = '{chain}' AND artifact_id = '{key}'",
        f"INSERT INTO artifact_refs SELECT * REPLACE ('r1' AS ref_id, '{GONE}' AS owner_id) FROM artifact_refs "
        f"WHERE artifact_id = '{key}' LIMIT 1",
    )
    plan = repaired(sample)
    assert plan.remove_references == ("r1",)
    assert plan.add_references == ((chain, key),)
    assert check(sample.path).ok
    with WorkspaceStore(sample.path) as store:
        assert store.get_artifact(key) == before
        store.delete_run(store.list_runs()["run_id"][-1], now=True)
        assert store.gc_artifacts(grace_seconds=0) == 0, "delete_run removed them"
        assert store.check(read_data=True).ok


def test_an_artifact_whose_file_is_there_gets_its_row_again(sample: Sample) -> None:
    key = sample.artifacts["fold_1"]
    sql(
        sample.path,
        f"DELETE FROM blobs WHERE artifact_id = '{key}'",
        f"DELETE FROM artifact_refs WHERE artifact_id = '{key}'",
    )
    age(sample.blob("fold_1"))
    plan = repaired(sample)
    assert plan.add_rows == (key,)
    assert plan.orphans == ()
    assert check(sample.path, read_data=True).ok
    with WorkspaceStore(sample.path) as store:
        row = store.get_artifact(key)
        assert row is not None
        assert (row["format"], row["ref_count"]) == ("joblib", 1)
        store.replay_chain(sample.chains["folds"], load_tecator().X[:2])


def test_a_file_that_does_not_fit_its_name_gets_no_row(sample: Sample) -> None:
    key = sample.artifacts["fold_1"]
    sql(sample.path, f"DELETE FROM blobs WHERE artifact_id = '{key}'")
    overwrite(sample.blob("fold_1"), b"other")
    plan = repaired(sample)
    assert plan.add_rows == ()
    assert [finding.kind for finding in plan.kept] == ["artifact_row_missing"]


def test_dangling_rows_and_lost_arrays_are_kept_and_listed(sample: Sample) -> None:
    ident = sample.predictions["folds"][0]
    sql(
        sample.path,
        f"UPDATE predictions SET chain_id = '{GONE}' WHERE prediction_id = '{ident}'",
        "DELETE FROM arrays WHERE array_hash IN (SELECT y_pred FROM prediction_arrays "
        f"WHERE prediction_id = '{ident}')",
    )
    plan = repaired(sample)
    assert plan.empty
    assert {finding.kind for finding in plan.kept} == {"dangling_row", "array_missing"}
    with WorkspaceStore(sample.path) as store:
        assert store.get_prediction(ident) is not None


# -- the journal and leftovers -----------------------------------------------------------------------


def test_damaged_commits_are_set_aside_and_the_others_applied(sample: Sample) -> None:
    torn = sample.segments()[-1]
    data = torn.read_bytes()[:-5]
    overwrite(torn, data)
    before = tree(sample.path)
    plan = plan_workspace_repair(sample.path)
    assert tree(sample.path) == before
    assert plan.reject_segments == (torn.name,)
    repair_workspace(sample.path, plan)
    assert (sample.layout.rejected / torn.name).read_bytes() == data
    assert [f.kind for f in check(sample.path).errors] == ["segment_rejected"]
    with pytest.warns(UserWarning, match="damaged: checksum mismatch"):
        store = WorkspaceStore(sample.path)
    assert store.get_chain(sample.chains["late"]) is not None
    store.close()


def test_a_commit_that_was_made_whole_since_the_plan_is_applied(sample: Sample) -> None:
    torn = sample.segments()[-1]
    data = torn.read_bytes()
    overwrite(torn, b"")
    plan = plan_workspace_repair(sample.path)
    overwrite(torn, data)
    repair_workspace(sample.path, plan)
    assert not list(sample.layout.rejected.iterdir())
    assert check(sample.path).ok


def test_leftovers_are_swept_and_what_a_dead_gc_set_aside_is_put_back(sample: Sample) -> None:
    old, young = sample.layout.tmp / "old.tmp", sample.layout.tmp / "young.tmp"
    for path in (old, young):
        path.write_bytes(b"x")
    age(old)
    dead = sample.layout.claims / new_txid()
    dead.write_bytes(b"")
    sample.blob("scaler").rename(sample.layout.aside / aside_name(sample.relative("scaler")))
    planned = plan_workspace_repair(sample.path)
    assert (planned.leftovers, planned.dead_claims) == (
        ("journal/tmp/old.tmp",),
        (f"journal/claims/{dead.name}",),
    )
    assert planned.settle_aside == (sample.relative("scaler"),)
    with WorkspaceStore(sample.path) as store:
        begin(store)
        execute_repair(store._engine, planned)
        assert len(list(sample.layout.claims.iterdir())) == 1, "the own claim stays"
    assert not old.exists()
    assert young.exists()
    assert sample.blob("scaler").exists()
    assert check(sample.path, read_data=True).ok


# -- the catalog -------------------------------------------------------------------------------------


@pytest.fixture
def migrated(sample: Sample) -> Sample:
    """A workspace with a copy from before a migration: it has the first run, and not the second."""
    shutil.copyfile(sample.layout.catalog, sample.layout.journal / "before-migration-v10.duckdb")
    (sample.layout.journal / "before-migration-v9.duckdb").write_bytes(b"an older one")
    return sample


@pytest.mark.parametrize("content", [b"garbage", None])
def test_a_catalog_that_cannot_be_opened_is_restored_on_request_only(
    migrated: Sample, healthy: dict[str, Any], content: bytes | None
) -> None:
    if content is None:
        migrated.layout.catalog.unlink()
    else:
        overwrite(migrated.layout.catalog, content)
        migrated.layout.wal.write_bytes(b"log")
    untouched = plan_workspace_repair(migrated.path)
    assert untouched.empty
    assert untouched.kept[0].kind in ("catalog_missing", "catalog_damaged")
    plan = plan_workspace_repair(migrated.path, restore_catalog=True)
    assert plan.restore_from == "journal/before-migration-v10.duckdb"
    assert "does not come back" in str(plan)
    repair_workspace(migrated.path, plan)
    kept = {} if content is None else {"store.duckdb": content, "store.duckdb.wal": b"log"}
    assert quarantined(migrated) == kept
    assert check(migrated.path, read_data=True).ok
    assert answers(migrated.path) == healthy, "the commits that waited were applied"


def test_an_open_store_restores_its_catalog(migrated: Sample) -> None:
    with WorkspaceStore(migrated.path) as store:
        overwrite(migrated.layout.catalog, b"garbage")
        assert store.repair(dry_run=True, restore_catalog=True).restore_from is not None
        store.repair(restore_catalog=True)
        assert store.list_runs().height == 2
        assert store.check(read_data=True).ok


def test_nothing_else_is_done_while_the_catalog_cannot_be_read(migrated: Sample) -> None:
    overwrite(migrated.layout.catalog, b"garbage")
    age(orphan(migrated))
    overwrite(migrated.blob("refit"), b"bad")
    plan = plan_workspace_repair(migrated.path)
    assert plan.empty
    assert {finding.kind for finding in plan.kept} == {"catalog_damaged", "blob_corrupt"}


def test_a_catalog_that_can_be_read_is_never_replaced(migrated: Sample) -> None:
    before = tree(migrated.path)
    assert plan_workspace_repair(migrated.path, restore_catalog=True).restore_from is None
    with pytest.raises(InvalidInput, match="can be read"):
        restore_catalog(migrated.layout, migrated.layout.journal / "before-migration-v10.duckdb", timeout=1.0)
    after = tree(migrated.path)
    assert {k: v for k, v in after.items() if k != "journal"} == {
        k: v for k, v in before.items() if k != "journal"
    }


def test_a_copy_that_cannot_be_read_is_not_used(migrated: Sample) -> None:
    overwrite(migrated.layout.journal / "before-migration-v10.duckdb", b"also garbage")
    overwrite(migrated.layout.catalog, b"garbage")
    assert plan_workspace_repair(migrated.path, restore_catalog=True).restore_from is None


def test_a_single_damaged_block_is_no_reason_to_touch_anything_else(migrated: Sample) -> None:
    """The store goes on answering from the blocks that are whole."""
    whole = migrated.layout.catalog.read_bytes()
    for at in range(len(whole) // 2, len(whole), 50_000):
        overwrite(migrated.layout.catalog, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        report = check(migrated.path, read_data=True)
        if report.of_kind("catalog_damaged"):
            break
    assert report.of_kind("catalog_damaged")
    assert plan_workspace_repair(migrated.path).empty
    assert plan_workspace_repair(migrated.path, restore_catalog=True).restore_from is not None


def test_a_plan_is_plain_data(sample: Sample) -> None:
    overwrite(sample.blob("refit"), b"bad")
    plan = plan_workspace_repair(sample.path)
    assert plan.to_dict()["bad_blobs"] == (sample.relative("refit"),)
    assert sample.relative("refit") in str(plan)


def test_the_catalog_is_open_nowhere_after_a_repair(sample: Sample) -> None:
    overwrite(sample.blob("refit"), b"bad")
    repair_workspace(sample.path, plan_workspace_repair(sample.path))
    duckdb.connect(str(sample.layout.catalog)).close()
