"""DuckDB's log, or the file of the catalog, is cut, removed or replaced: commits come back, and what is lost is told."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from storekit import begin, let_go, python, segments, whole_pipeline

from nirs_store.db.layout import Layout
from nirs_store.errors import CatalogDamaged
from nirs_store.maintenance.check import check_workspace
from nirs_store.store import WorkspaceStore

RUNS = 4
CODE = """
import os, sys
from storekit import whole_pipeline
from nirs_store import WorkspaceStore
from nirs_store.db import database
database.LINGER = 600.0
store = WorkspaceStore(sys.argv[1])
for number in range(4):
    whole_pipeline(store, store.begin_run(f"r{number}", {}, []))
    store.list_runs()
    if number == int(sys.argv[2]):
        store.delete_run(store.begin_run("deleted", {}, []))
os._exit(9)
"""


def killed(folder: Path, *, changed_after: int) -> Path:
    """A workspace whose process was killed before a checkpoint, with a direct change after so many runs (-1: none)."""
    done = python(CODE, folder, changed_after)
    assert done.returncode == 9, done.stderr
    assert Layout(folder).wal.stat().st_size > 0
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killed(tmp_path_factory.mktemp("recorded") / "workspace", changed_after=-1)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killed(tmp_path_factory.mktemp("changed") / "workspace", changed_after=2)


@pytest.fixture
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def cut(part: float) -> Callable[[Path], None]:
    def spoil(log: Path) -> None:
        data = log.read_bytes()
        log.write_bytes(data[: int(part * len(data))])

    return spoil


LOGS: dict[str, Callable[[Path], object]] = {
    "untouched": lambda log: None,
    "removed": lambda log: log.unlink(),
    **{f"cut at {part}": cut(part) for part in (0.0, 0.01, 0.3, 0.5, 0.77, 0.999)},
}


def errors(store: WorkspaceStore) -> list[str]:
    return [found.kind for found in store.check().findings if found.severity == "error"]


@pytest.mark.parametrize("spoil", LOGS.values(), ids=LOGS.keys())
def test_commits_come_back_from_the_journal_once_and_nothing_is_said(
    recorded: Path, folder: Path, silent: None, spoil: Callable[[Path], object]
) -> None:
    shutil.copytree(recorded, folder)
    spoil(Layout(folder).wal)
    for _ in range(2):
        with WorkspaceStore(folder) as store:
            assert store.list_runs().height == RUNS
            assert store.list_pipelines()["status"].to_list() == ["completed"] * RUNS
            assert store.query_predictions().height == 2 * RUNS
            assert errors(store) == []
            assert store.audit.verify().ok
        assert segments(folder) == []


@pytest.mark.parametrize("spoil", ["removed", "cut at 0.01", "cut at 0.5"])
def test_a_change_that_no_journal_holds_is_missed_aloud_and_found_by_every_check_from_then_on(
    changed: Path, folder: Path, spoil: str
) -> None:
    shutil.copytree(changed, folder)
    LOGS[spoil](Layout(folder).wal)
    assert "changes_lost" in [found.kind for found in check_workspace(folder).findings]
    with (
        pytest.warns(UserWarning, match="read-only here"),
        pytest.warns(UserWarning, match="lacks at least"),
        WorkspaceStore(folder, read_only=True) as reader,
    ):
        reader.list_runs()
    with pytest.warns(UserWarning, match="lacks at least"), WorkspaceStore(folder) as store:
        assert {f"r{number}" for number in range(RUNS)} <= set(store.list_runs()["name"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with WorkspaceStore(folder) as store:
            store.delete_run(begin(store)[0], now=True)
            assert errors(store) == []
            assert "changes_lost" in [found.kind for found in store.check().findings]
            store.vacuum()
    assert "changes_lost" in [found.kind for found in check_workspace(folder).findings]


def test_an_older_copy_of_the_catalog_is_noticed(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.duckdb"
    with WorkspaceStore(folder) as store:
        whole_pipeline(store, begin(store)[0])
        store.list_runs()
        let_go(store)
        shutil.copy(folder / "store.duckdb", old)
        whole_pipeline(store, begin(store, "later")[0])
    shutil.copy(old, folder / "store.duckdb")
    with pytest.warns(UserWarning, match="replaced by an older one"):
        store = WorkspaceStore(folder)
    with store:
        assert store.list_runs().height == 1
        assert "changes_lost" in [found.kind for found in store.check().findings]


def test_a_log_that_cannot_be_read_is_refused_with_a_way_out(
    recorded: Path, folder: Path, silent: None
) -> None:
    shutil.copytree(recorded, folder)
    log = Layout(folder).wal
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with pytest.raises(CatalogDamaged, match="Move the log out"):
        WorkspaceStore(folder)
    log.rename(folder.parent / "log")
    with WorkspaceStore(folder) as store:
        assert store.list_runs().height == RUNS


def test_what_is_whole_is_never_called_lost(changed: Path, folder: Path, silent: None) -> None:
    shutil.copytree(changed, folder)
    with WorkspaceStore(folder) as store:
        whole_pipeline(store, begin(store)[0])
        store.query_predictions()
        store.delete_run(begin(store)[0], now=True)
        store.collect_garbage(grace_seconds=0.0)
        store.vacuum()
        whole_pipeline(store, begin(store)[0])
    with WorkspaceStore(folder) as store:
        assert "changes_lost" not in [found.kind for found in store.check().findings]


@pytest.mark.parametrize("value", ["", "none", "-5", "1e3", "9" * 18, "9" * 5000])
def test_a_count_that_makes_no_sense_sets_no_commit_aside(folder: Path, silent: None, value: str) -> None:
    with WorkspaceStore(folder) as store:
        store.delete_run(begin(store)[0], now=True)
        store._engine.change(
            lambda con: con.execute(
                "UPDATE nirs_store_meta SET value = ? WHERE key = 'change_count'", [value]
            )
        )
    (folder / "journal" / "change-count").write_text(value)
    for name in ("a", "b"):
        with WorkspaceStore(folder) as store:
            store.begin_run(name, {}, [])
            assert name in store.list_runs()["name"]
    assert list((folder / "journal" / "rejected").iterdir()) == []


def test_so_many_commits_are_applied_and_kept_and_no_more(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.db import database

    monkeypatch.setattr(database, "LINGER", 600.0)
    monkeypatch.setattr(database, "_KEPT_SEGMENTS", 6)
    kept = []
    for number in range(20):
        store.begin_run(str(number), {}, [])
        assert store.list_runs().height == number + 1
        kept.append(len(segments(folder)))
    assert max(kept) == 5
    assert kept.count(0) == 3
