"""Instances of DuckDB that closed stores leave behind: used again for the same catalog, by one at a time, and few."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from storekit import begin

from nirs_store.db import connection
from nirs_store.db import connection as spare
from nirs_store.store import WorkspaceStore


@pytest.fixture(autouse=True)
def none_before() -> Iterator[None]:
    spare.clear()
    yield
    spare.clear()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for each instance that is made."""
    seen: list[str] = []
    real = connection._in_memory

    def counted(*args: Any) -> Any:
        seen.append("made")
        return real(*args)

    monkeypatch.setattr(connection, "_in_memory", counted)
    return seen


def test_a_folder_that_is_opened_again_and_again_needs_one_instance(folder: Path, made: list[str]) -> None:
    WorkspaceStore(folder).close()
    for count in range(1, 4):
        with WorkspaceStore(folder) as store:
            begin(store)
            assert store.list_runs().height == count
    assert made == ["made"]


def test_two_stores_of_a_folder_never_share_one(folder: Path, made: list[str]) -> None:
    WorkspaceStore(folder).close()
    with WorkspaceStore(folder) as one, WorkspaceStore(folder) as other:
        begin(one)
        assert other.list_runs().height == one.list_runs().height == 1
        assert len(made) == 2
    # Of both one is kept.
    assert len(spare._pool) == 1


def test_who_may_only_read_has_an_instance_of_its_own(folder: Path, made: list[str]) -> None:
    with WorkspaceStore(folder) as store:
        begin(store)
    with WorkspaceStore(folder, read_only=True) as reader:
        assert reader.list_runs().height == 1
    assert len(made) == 2


def test_few_are_kept_and_they_have_nothing_open(tmp_path: Path) -> None:
    for name in "abcd":
        with WorkspaceStore(tmp_path / name) as store:
            store.list_runs()
    assert len(spare._pool) == spare._MOST
    for name in "abcd":
        # Somebody else may open, and move, the file.
        duckdb.connect(str(tmp_path / name / "store.duckdb")).close()
        os.replace(tmp_path / name / "store.duckdb", tmp_path / name / "elsewhere.duckdb")


def test_a_catalog_that_was_replaced_meanwhile_is_read_anew(tmp_path: Path) -> None:
    for name, runs in (("a", 1), ("b", 2)):
        with WorkspaceStore(tmp_path / name) as store:
            for _ in range(runs):
                begin(store)
            assert store.list_runs().height == runs
    os.replace(tmp_path / "b" / "store.duckdb", tmp_path / "a" / "store.duckdb")
    with WorkspaceStore(tmp_path / "a") as store:
        assert store.list_runs().height == 2


def test_a_check_leaves_one_for_the_next_and_nothing_of_what_it_laid_beside(
    folder: Path, made: list[str]
) -> None:
    with WorkspaceStore(folder) as store:
        begin(store)
        store.list_runs()
        before = len(made)
        for _ in range(3):
            begin(store)
            store.flush()
            assert store.check(read_data=True).ok
    assert len(made) == before + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_leaves_none_in_the_child_nor_in_the_parent(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        begin(store)
    assert len(spare._pool) == 1
    child = os.fork()
    if child == 0:
        os._exit(len(spare._pool))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(spare._pool) == 0
    with WorkspaceStore(folder) as store:
        assert store.list_runs().height == 1
