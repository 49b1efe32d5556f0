"""GC: what nothing holds goes, what anybody holds stays, and the plan is what is done."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import children
import duckdb
import pytest
from storekit import begin, blob_keys, chain_of, let_go, predict, prediction, sql, trashed

from nirs_store.db import lock as claims_module
from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock
from nirs_store.errors import ArtifactMissing, InvalidInput, WriteFailed
from nirs_store.ids import now_naive
from nirs_store.maintenance import gc as garbage
from nirs_store.maintenance import gc as gc_module
from nirs_store.store import WorkspaceStore

pytestmark = pytest.mark.usefixtures("each_backend")


def blobs(store: WorkspaceStore) -> list[str]:
    return sorted(Path(key).stem for key in blob_keys(store))


def orphan(store: WorkspaceStore, name: str) -> str:
    """An artifact that nothing holds."""
    run_id, pipeline_id = begin(store, name)
    artifact_id = store.save_artifact({name: list(range(50))}, "dict", "model")
    chain_of(store, pipeline_id, artifact_id)
    store.delete_run(run_id, delete_artifacts=False, now=True)
    return artifact_id


def kept(store: WorkspaceStore) -> str:
    artifact_id = store.save_artifact({"kept": 1}, "dict", "model")
    chain_of(store, begin(store, "kept")[1], artifact_id)
    return artifact_id


def test_what_nothing_holds_goes_and_the_plan_says_so_before(store: WorkspaceStore, folder: Path) -> None:
    held, gone = kept(store), [orphan(store, "a"), orphan(store, "b")]
    store.flush()
    let_go(store)
    there = store._engine.layout.blobs
    before = {key: there.stat(key) for key in blob_keys(store)}
    plan = store.gc_artifacts(dry_run=True)
    assert {key: there.stat(key) for key in blob_keys(store)} == before
    assert sorted(a.artifact_id for a in plan.artifacts) == sorted(gone)
    assert len(plan.files) == 2
    assert plan.bytes == sum(before[path].size for path in plan.files)
    assert "2 files" in str(plan)
    assert plan.to_dict()["artifacts"][0]["artifact_id"] in gone
    assert store.gc_artifacts() == 2
    assert blobs(store) == [held]
    assert store.gc_artifacts() == 0
    assert store.load_artifact(held) == {"kept": 1}
    assert [store.get_artifact(each) for each in gone] == [None, None]
    let_go(store)
    assert sql(folder, "SELECT count(*) FROM blobs") == [(1,)]
    assert trashed(store) == []


def test_a_file_that_another_artifact_also_names_stays(store: WorkspaceStore, folder: Path) -> None:
    artifact_id = orphan(store, "a")
    [key] = [key for key in blob_keys(store) if artifact_id in key]
    size = len(store.read_artifact(artifact_id))
    store.register_existing_artifact("named by hand", key, artifact_id, "C", "model", "joblib", size)
    plan = store.gc_artifacts(dry_run=True)
    assert ([a.artifact_id for a in plan.artifacts], plan.files) == ([artifact_id], ())
    assert store.gc_artifacts() == 0
    assert store.load_artifact("named by hand") == {"a": list(range(50))}
    assert store.get_artifact(artifact_id) is None


def test_a_chain_that_is_saved_after_its_row_went_but_its_file_stayed_has_a_row_again(
    store: WorkspaceStore, folder: Path
) -> None:
    artifact_id = orphan(store, "a")
    [key] = [key for key in blob_keys(store) if artifact_id in key]
    size = len(store.read_artifact(artifact_id))
    store.register_existing_artifact("named by hand", key, artifact_id, "C", "model", "joblib", size)
    with WorkspaceStore(folder) as other:
        assert other.load_artifact(artifact_id)
        store.gc_artifacts()
        chain_of(other, begin(other)[1], artifact_id)
        other.flush()
    assert store.load_artifact(artifact_id) == {"a": list(range(50))}
    assert (store.get_artifact(artifact_id) or {})["ref_count"] == 1


def test_files_that_no_row_names_are_reported_and_left_alone(
    local_blobs: None, store: WorkspaceStore, folder: Path
) -> None:
    strange = folder / "artifacts" / "ab" / "notes.txt"
    strange.parent.mkdir(exist_ok=True)
    strange.write_text("mine")
    assert store.gc_artifacts(dry_run=True).unknown_files == ("artifacts/ab/notes.txt",)
    assert "1 unknown files" in str(store.gc_artifacts(dry_run=True))
    assert store.gc_artifacts() == 0
    assert strange.read_text() == "mine"


def test_what_a_living_session_saved_stays_however_short_the_grace(
    store: WorkspaceStore, folder: Path
) -> None:
    with WorkspaceStore(folder) as other:
        artifact_id = other.save_artifact({"a": 1}, "dict", "model")
        other.flush()
        assert store.gc_artifacts(dry_run=True, grace_seconds=0).artifacts == ()
        assert store.gc_artifacts(grace_seconds=0) == 0
        assert other.load_artifact(artifact_id) == {"a": 1}
    # It has ended; the grace period runs from now.
    assert store.gc_artifacts() == 0
    assert store.gc_artifacts(grace_seconds=0) == 1


def test_the_grace_period_counts_from_the_end_of_the_session(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkspaceStore(folder) as other:
        other.save_artifact({"a": 1}, "dict", "model")
    assert store.gc_artifacts() == 0
    now = now_naive()
    monkeypatch.setattr(garbage, "now_naive", lambda: now + timedelta(seconds=3500))
    assert store.gc_artifacts() == 0
    monkeypatch.setattr(garbage, "now_naive", lambda: now + timedelta(seconds=3700))
    plan = store.gc_artifacts(dry_run=True)
    assert (len(plan.files), len(plan.expired_references)) == (1, 1)
    assert store.gc_artifacts() == 1


def test_a_session_that_was_killed_has_its_grace_from_when_that_is_first_seen(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = crew(children.record_and_wait, folder)
    _, _, artifact_id = child.hear()
    child.signal(signal.SIGKILL)
    child.end()
    assert store.gc_artifacts() == 0
    assert store.load_artifact(artifact_id) == {"held": True}
    now = now_naive()
    monkeypatch.setattr(garbage, "now_naive", lambda: now + timedelta(seconds=3700))
    assert store.gc_artifacts() == 1


def test_references_of_a_session_whose_own_row_was_lost_end_too(store: WorkspaceStore, folder: Path) -> None:
    with WorkspaceStore(folder) as other:
        other.save_artifact({"a": 1}, "dict", "model")
    store._engine.change(lambda con: con.execute("DELETE FROM sessions"))
    assert store.gc_artifacts() == 0
    assert store.gc_artifacts(grace_seconds=0) == 1


def test_a_session_that_begins_while_a_gc_looks_around_is_not_given_an_end(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[WorkspaceStore, str]] = []
    real = store._engine.living_sessions

    def living() -> list[str]:
        alive = real()
        if not made:
            other = WorkspaceStore(folder)
            made.append((other, other.save_artifact({"young": 1}, "dict", "model")))
            other.flush()
        return alive

    monkeypatch.setattr(store._engine, "living_sessions", living)
    orphan(store, "a")
    assert store.gc_artifacts(grace_seconds=0) == 1
    other, artifact_id = made[0]
    assert store.gc_artifacts(grace_seconds=0) == 0
    assert other.load_artifact(artifact_id) == {"young": 1}
    ended = store._engine.query(
        lambda con: con.execute(
            "SELECT ended_at FROM sessions WHERE session_id = ?", [other._engine.session_id]
        ).fetchall()
    )
    assert ended == [(None,)]
    other.close()


@pytest.mark.parametrize("grace", [float("inf"), 1e11, 1e12, 1e20])
def test_a_grace_period_may_be_longer_than_the_calendar(store: WorkspaceStore, grace: float) -> None:
    store.save_artifact({"a": 1}, "dict", "model")
    with WorkspaceStore(store.workspace_path) as other:
        assert other.gc_artifacts(dry_run=True, grace_seconds=grace).artifacts == ()
        assert other.gc_artifacts(grace_seconds=grace) == 0
        assert other.files.cleanup(days_old=grace, dry_run=True).versions == ()


@pytest.mark.parametrize("grace", [-1, float("nan"), "1", None])
def test_a_grace_period_that_makes_no_sense_is_refused(store: WorkspaceStore, grace: Any) -> None:
    for dry_run in (True, False):
        with pytest.raises(InvalidInput, match="grace_seconds"):
            store.gc_artifacts(dry_run=dry_run, grace_seconds=grace)  # type: ignore[call-overload]


def test_arrays_that_nothing_names_go_too(store: WorkspaceStore, folder: Path) -> None:
    _, pipeline_id = begin(store)
    predict(store, pipeline_id)
    late = store.save_prediction(pipeline_id, None, **prediction())
    store.save_prediction_arrays(late, [5.0], [6.0])
    store.list_runs()
    store._engine.change(
        lambda con: con.execute("DELETE FROM prediction_arrays WHERE prediction_id = ?", [late])
    )
    plan = store.gc_artifacts(dry_run=True)
    assert (plan.unused_arrays, plan.unused_array_bytes) == (2, 16)
    store.gc_artifacts()
    let_go(store)
    assert sql(folder, "SELECT count(*) FROM arrays") == [(2,)]


# -- savers and gc at the same time ------------------------------------------------------------------


def test_a_blob_whose_row_is_still_to_come_is_not_taken(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any]
) -> None:
    child = crew(children.save_between_blob_and_row, folder)
    artifact_id = child.hear()
    assert store.gc_artifacts(grace_seconds=0) == 0
    assert blobs(store) == [artifact_id]
    child.tell()
    assert child.hear() == artifact_id
    child.end()
    assert store.load_artifact(artifact_id)["x"].shape == (50,)


def test_a_saver_that_meets_the_same_content_that_a_gc_is_about_to_remove_keeps_it(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saver finds the file and writes nothing; its claim must stop the gc that has it on its list."""
    import numpy as np

    run_id, pipeline_id = begin(store)
    first = store.save_artifact({"x": np.arange(50.0)}, "dict", "model")
    chain_of(store, pipeline_id, first)
    store.delete_run(run_id, delete_artifacts=False, now=True)
    child = crew(children.save_between_blob_and_row, folder)
    assert child.hear() == first
    assert len(store.gc_artifacts(dry_run=True).files) == 1
    assert store.gc_artifacts() == 0
    assert blobs(store) == [first]
    child.tell()
    child.hear()
    child.end()
    assert store.load_artifact(first)["x"].shape == (50,)


def test_a_saver_that_comes_when_the_file_is_aside_writes_it_anew(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact_id = orphan(store, "a")
    saved: list[str] = []
    real = claims_module.read_claims

    def after_the_claims_were_read(*args: Any, **named: Any) -> set[str]:
        claimed = real(*args, **named)
        with WorkspaceStore(folder) as other:
            saved.append(other.save_artifact({"a": list(range(50))}, "dict", "model"))
            other.flush()
        return claimed

    monkeypatch.setattr(claims_module, "read_claims", after_the_claims_were_read)
    store.gc_artifacts()
    assert saved == [artifact_id]
    assert store.load_artifact(artifact_id) == {"a": list(range(50))}
    assert (store.get_artifact(artifact_id) or {})["ref_count"] == 1


def test_a_chain_that_names_a_blob_which_a_gc_has_just_taken_is_refused_and_not_left_dangling(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact_id = orphan(store, "a")
    outcome: list[BaseException | str] = []
    with WorkspaceStore(folder) as other:
        other.load_artifact(artifact_id)
        _, pipeline_id = begin(other, "late")
        real = claims_module.read_claims

        def after_the_claims_were_read(*args: Any, **named: Any) -> set[str]:
            claimed = real(*args, **named)
            try:
                outcome.append(chain_of(other, pipeline_id, artifact_id))
            except ArtifactMissing as error:
                outcome.append(error)
            return claimed

        monkeypatch.setattr(claims_module, "read_claims", after_the_claims_were_read)
        store.gc_artifacts()
    assert [type(each) for each in outcome] == [ArtifactMissing]
    assert store.get_chains_for_pipeline(pipeline_id).is_empty()
    assert blobs(store) == []


def stop_without_the_lock(child: Any, folder: Path) -> None:
    """Stop a child that has no hold on the lease, not even a shared one that lingers: that is another promise."""
    catalog_lock = CatalogLock(Layout(folder), writable=True)
    for _ in range(30):
        child.signal(signal.SIGSTOP)
        if catalog_lock.try_acquire():
            catalog_lock.release()
            return
        child.signal(signal.SIGCONT)
        time.sleep(0.2)
    pytest.fail("the child held the lease each time")


@pytest.mark.parametrize("frozen", ["between blob and row", "between artifact and chain"])
def test_a_saver_that_is_stopped_for_longer_than_the_grace_period_finds_everything(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any], frozen: str
) -> None:
    target = children.save_between_blob_and_row if "row" in frozen else children.save_then_chain
    child = crew(target, folder)
    artifact_id = child.hear()
    stop_without_the_lock(child, folder)
    for _ in range(2):
        assert store.gc_artifacts(grace_seconds=0) == 0
    child.signal(signal.SIGCONT)
    child.tell()
    child.hear()
    child.end()
    assert store.load_artifact(artifact_id)
    assert (store.get_artifact(artifact_id) or {})["ref_count"] == 1


def test_a_gc_in_another_process_and_this_one_agree(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any]
) -> None:
    held = kept(store)
    for name in "abc":
        orphan(store, name)
    others = [crew(children.collect_garbage, folder, 0.0) for _ in range(2)]
    removed = store.gc_artifacts() + sum(child.hear() for child in others)
    assert removed == 3
    assert blobs(store) == [held]


# -- a gc that does not come to its end --------------------------------------------------------------


def test_a_gc_that_breaks_after_it_set_files_aside_loses_nothing(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact_id = orphan(store, "a")

    def broken(*_: Any) -> list[str]:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(garbage, "delete_unreferenced", broken)
        with pytest.raises(WriteFailed):
            store.gc_artifacts()
    assert trashed(store) != []
    assert store.load_artifact(artifact_id) == {"a": list(range(50))}
    store.begin_run("next", {}, [])
    store.list_runs()
    assert trashed(store) == []
    assert blobs(store) == [artifact_id]
    assert store.gc_artifacts() == 1


def test_a_gc_that_dies_before_it_removed_the_files_is_finished_by_the_next_one(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(store, "a")

    class Killed(BaseException):
        pass

    def die(*_: Any) -> tuple[int, int]:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(gc_module, "settle_trash", die)
        with pytest.raises(Killed):
            store.gc_artifacts()
    assert blobs(store) == []
    assert len(trashed(store)) == 1
    store.begin_run("next", {}, [])
    store.list_runs()
    assert trashed(store) == []


def test_blobs_of_failed_and_interrupted_work_are_found_by_a_later_gc(
    store: WorkspaceStore, folder: Path
) -> None:
    with WorkspaceStore(folder) as other:
        _, pipeline_id = begin(other)
        other.save_artifact({"own": 1}, "dict", "model", pipeline_id=pipeline_id)
        chain_of(other, pipeline_id)
        other.fail_pipeline(pipeline_id, "x")
    assert store.gc_artifacts() == 2
    assert blobs(store) == []
