"""A disk without a free byte: questions are answered, and what is deleted makes room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from storekit import begin, chain_of, let_go, prediction, segments, snapshot, whole_pipeline

from nirs_store.db import layout as reserve
from nirs_store.errors import WriteFailed
from nirs_store.store import WorkspaceStore


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB, in memory."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a file system of a few megabytes can be mounted by root on Linux only")
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    """Take every byte."""
    for name, size in (("filler", 65536), ("rest", 1)):
        descriptor = os.open(place / name, os.O_CREAT | os.O_WRONLY)
        try:
            while os.write(descriptor, b"\0" * size):
                pass
        except OSError:
            pass
        finally:
            os.close(descriptor)


def record_until_full(store: WorkspaceStore, arrays: Any) -> Iterator[str]:
    """Runs that were recorded whole."""
    while True:
        try:
            run_id = store.begin_run("r", {}, [])
            pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "corn", "h")
            with store.transaction():
                made = store.save_prediction(pipeline_id, None, **prediction())
                store.save_prediction_arrays(made, *arrays)
            store.complete_run(run_id, {})
        except WriteFailed:
            return
        yield run_id


def fill_all_but(place: Path, left: int) -> None:
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_bsize
    (place / "filler").write_bytes(bytes(free - left))


@pytest.mark.parametrize("waiting", [False, True], ids=["at rest", "commits wait"])
def test_on_a_full_disk_everything_is_answered_and_deletion_and_gc_make_room(
    small_disk: Path, waiting: bool
) -> None:
    folder = small_disk / "workspace"
    store = WorkspaceStore(folder)
    run_id, _ = begin(store)
    kept = whole_pipeline(store, run_id)
    doomed, last = begin(store, "doomed")[0], begin(store, "last")
    doomed_pipeline = store.begin_pipeline(doomed, "p", {}, [], "corn", "h")
    big = store.save_artifact(np.random.default_rng(1).bytes(4 << 20), "builtins.bytes", "other", "bytes")
    chain_of(store, doomed_pipeline, big)
    whole_pipeline(store, last[0])
    store.list_runs()
    let_go(store)
    if waiting:
        kept = whole_pipeline(store, run_id)
        assert segments(folder)
    fill(small_disk)
    with WorkspaceStore(folder, read_only=True) as reader:
        assert reader.list_runs().height == 3 if not waiting else True
    assert kept in store.list_pipelines(run_id)["pipeline_id"].to_list()
    assert store.top_predictions(3).height > 0
    assert store.delete_run(doomed, delete_artifacts=False, now=True) > 0
    assert store.gc_artifacts(grace_seconds=0.0) == 1
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize > 3 << 20
    assert store.delete_run(last[0], now=True) > 0
    assert store.list_runs()["run_id"].to_list() == [run_id]
    assert store.check(read_data=True).errors == ()
    # There is room again, and recording goes on.
    more = whole_pipeline(store, run_id)
    assert more in store.list_pipelines()["pipeline_id"].to_list()
    store.close()


@pytest.mark.parametrize(
    "values",
    [pytest.param(200, id="small commits", marks=pytest.mark.slow), pytest.param(20_000, id="large commits")],
)
def test_a_disk_that_commits_have_filled_is_looked_at_and_cleaned_up(small_disk: Path, values: int) -> None:
    """Nobody asked meanwhile, so that all of them wait, and together they need more than there is."""
    folder = small_disk / "workspace"
    arrays = np.random.default_rng(1).random((2, values))
    with WorkspaceStore(folder) as store:
        store.begin_run("first", {}, [])
        store.list_runs()
    store = WorkspaceStore(folder)
    store._engine._flusher.stop()  # which would apply some of them
    if values < 1000:
        fill_all_but(small_disk, 4 << 20)
    recorded = list(record_until_full(store, arrays))
    store._engine.abort()
    assert len(segments(folder)) > 50
    store = WorkspaceStore(folder)
    assert set(recorded) <= set(store.list_runs(limit=10_000)["run_id"])
    for run_id in recorded[:3]:
        assert store.delete_run(run_id, now=True) > 0
    store.collect_garbage(grace_seconds=0.0)
    store.close()
    assert segments(folder) == []
    with WorkspaceStore(folder) as store:
        left = set(store.list_runs(limit=10_000)["run_id"])
        assert set(recorded[3:]) <= left
        assert not left & set(recorded[:3])
        for run_id in left:
            store.delete_run(run_id, now=True)
        store.collect_garbage(grace_seconds=0.0)
    # What was deleted makes room, though what was there has never been in the file.
    assert not (folder / "store.duckdb.wal").exists()
    with WorkspaceStore(folder) as store:
        assert store.check(read_data=True).errors == ()


def test_recording_does_not_take_what_is_kept_back(small_disk: Path) -> None:
    folder = small_disk / "workspace"
    store = WorkspaceStore(folder)
    begin(store)
    store.list_runs()
    let_go(store)
    fill(small_disk)
    with pytest.raises(WriteFailed):
        store.begin_run("no room", {}, [])
    assert (folder / "journal" / "reserve").stat().st_size == reserve.RESERVE_BYTES
    (small_disk / "filler").unlink()
    # What was refused is in the buffer still, and goes with the next commit.
    assert sorted(store.list_runs()["name"]) == ["no room", "run"]
    store.close()


# -- when it is given back and when it is kept -----------------------------------------------------


def has(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(reserve.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_space_is_kept_back_only_where_there_is_plenty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = folder / "journal" / "reserve"
    has(monkeypatch, 3 << 20)
    with WorkspaceStore(folder) as store:
        begin(store)
        store.list_runs()
    assert not kept.exists()
    has(monkeypatch, 1 << 30)
    with WorkspaceStore(folder) as store:
        begin(store)
        store.list_runs()
    assert kept.stat().st_size == reserve.RESERVE_BYTES


def test_it_is_given_back_when_next_to_nothing_is_left_and_kept_again_later(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = folder / "journal" / "reserve"
    run_id, _ = begin(store)
    store.list_runs()
    let_go(store)
    assert kept.exists()
    has(monkeypatch, 1 << 20)
    store.delete_run(run_id, now=True)
    let_go(store)
    assert not kept.exists()
    has(monkeypatch, 1 << 30)
    begin(store)
    store.list_runs()
    let_go(store)
    assert kept.exists()


def test_who_may_only_read_leaves_it_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkspaceStore(folder) as store:
        begin(store)
        store.list_runs()
    before: dict[str, Any] = snapshot(folder)
    has(monkeypatch, 0)
    with WorkspaceStore(folder, read_only=True) as reader:
        assert reader.list_runs().height == 1
    assert snapshot(folder) == before
