"""Deleting many files while the store goes on: nobody else comes in between, and nothing is left."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from storekit import begin, python

from nirs_store.blobs.durable import remove_files
from nirs_store.db import database as removal
from nirs_store.db.database import aside_files
from nirs_store.errors import StoreBusy, WriteFailed
from nirs_store.store import WorkspaceStore

MANY = 40


def doomed_run(store: WorkspaceStore) -> str:
    """A run that alone needs many artifacts."""
    run_id, pipeline_id = begin(store, "doomed")
    models = [store.save_artifact({"model": n}, "dict", "model") for n in range(MANY)]
    step = {"step_idx": 0, "operator_class": "M", "params": {}}
    store.save_chain(
        *(pipeline_id, [step], 0, "M", "", "per_fold"), {f"fold_{n}": key for n, key in enumerate(models)}, {}
    )
    return run_id


def blobs(folder: Path) -> list[Path]:
    return list((folder / "artifacts").rglob("*.joblib"))


@contextmanager
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Deleting beside the store begins when the event is set."""
    gate = threading.Event()

    def later(paths: Sequence[Path]) -> tuple[int, int]:
        assert gate.wait(60.0)
        return remove_files(paths)

    monkeypatch.setattr(removal, "remove_files", later)
    try:
        yield gate
    finally:
        gate.set()


def test_the_files_of_a_deleted_run_are_gone_when_the_store_is_closed(
    store: WorkspaceStore, folder: Path
) -> None:
    store.delete_run(doomed_run(store), now=True)
    assert blobs(folder) == []
    store.close()
    assert aside_files(store._engine.layout) == []


def test_the_store_goes_on_and_nobody_else_has_the_catalog_until_the_files_are_gone(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = doomed_run(store)
    with held_back(monkeypatch) as gate, WorkspaceStore(folder, lock_timeout=0.3) as other:
        store.delete_run(run_id, now=True)
        assert len(aside_files(store._engine.layout)) == MANY
        # Longer than the catalog lingers after a question.
        with pytest.raises(StoreBusy):
            other.list_runs()
    assert gate.is_set()
    with WorkspaceStore(folder) as other:
        assert other.list_runs().height == 0
    assert aside_files(store._engine.layout) == []


def test_a_gc_beside_it_neither_counts_those_files_nor_calls_them_unknown(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = doomed_run(store)
    with held_back(monkeypatch):
        store.delete_run(run_id, now=True)
        assert store.gc_artifacts(dry_run=True).unknown_files == ()
        assert store.gc_artifacts() == 0
        assert len(aside_files(store._engine.layout)) == MANY


def test_what_is_saved_anew_meanwhile_stays(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = doomed_run(store)
    with held_back(monkeypatch):
        store.delete_run(run_id, now=True)
        artifact_id = store.save_artifact({"model": 7}, "dict", "model")
        assert store.load_artifact(artifact_id) == {"model": 7}
    store.close()
    with WorkspaceStore(folder) as again:
        assert again.load_artifact(artifact_id) == {"model": 7}
        assert again.check().findings == ()


def test_files_of_the_same_names_are_set_aside_when_the_first_have_gone(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = doomed_run(store)
    with held_back(monkeypatch) as gate:
        store.delete_run(run_id, now=True)
        again = doomed_run(store)
        seen = []
        real = store._engine.access.await_removal

        def waiting() -> None:
            if not gate.is_set():
                seen.append((len(aside_files(store._engine.layout)), len(blobs(folder))))
                gate.set()
            real()

        monkeypatch.setattr(store._engine.access, "await_removal", waiting)
        store.delete_run(again, now=True)
        assert seen == [(MANY, MANY)]
    store.close()
    assert aside_files(store._engine.layout) == []


def test_a_vacuum_works_beside_it_and_returns_when_the_files_are_gone(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = doomed_run(store)
    access = store._engine.access
    rewrite, wait = access.rewrite, access.await_removal
    beside = []
    with held_back(monkeypatch) as gate:
        store.delete_run(run_id, now=True)

        def rewriting(finish: Any) -> None:
            rewrite(finish)
            beside.append(len(aside_files(store._engine.layout)))

        def waiting() -> None:
            if beside:
                gate.set()
            wait()

        monkeypatch.setattr(access, "rewrite", rewriting)
        monkeypatch.setattr(access, "await_removal", waiting)
        store.vacuum()
        assert beside == [MANY]
        assert aside_files(store._engine.layout) == []


def test_a_program_that_ends_without_closing_leaves_no_files(tmp_path: Path) -> None:
    code = """
        import sys
        from nirs_store import WorkspaceStore
        store = WorkspaceStore(sys.argv[1])
        run_id = store.begin_run("doomed", {}, [])
        pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "corn", "hash")
        models = [store.save_artifact({"model": n}, "dict", "model") for n in range(40)]
        step = {"step_idx": 0, "operator_class": "M", "params": {}}
        folds = {f"fold_{n}": key for n, key in enumerate(models)}
        store.save_chain(pipeline_id, [step], 0, "M", "", "per_fold", folds, {})
        from nirs_store.db import database as removal
        import threading, time
        real = removal.remove_files
        def late(paths):
            threading.main_thread().join()
            return real(paths)
        removal.remove_files = late
        store.delete_run(run_id, now=True)
    """
    done = python(textwrap.dedent(code), tmp_path / "ws")
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "ws" / "journal" / "aside").iterdir()) == []


def test_files_that_could_not_be_deleted_are_told_and_deleted_by_whoever_comes_next(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = removal.remove_files

    def refused(paths: Sequence[Path]) -> tuple[int, int]:
        if threading.current_thread() is threading.main_thread():  # settling, not the removal
            return real(paths)
        raise WriteFailed("the disk says no.")

    run_id = doomed_run(store)
    monkeypatch.setattr(removal, "remove_files", refused)
    store.delete_run(run_id, now=True)
    assert len(aside_files(store._engine.layout)) == MANY
    with pytest.warns(UserWarning, match="could not be deleted.*the disk says no"):
        store.vacuum()
    assert store.gc_artifacts() == 0
    assert aside_files(store._engine.layout) == []
    assert store.check().findings == ()
