"""Names, notes, tags and environments of runs."""

from __future__ import annotations

import contextlib
import json
import platform
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.errors import InvalidInput, ReadOnlyStore, UnknownId
from nirs_store.store import WorkspaceStore

OLD = Path(__file__).parent / "compat" / "stores" / "schema-1.zip"


@pytest.fixture
def run_id(store: WorkspaceStore) -> str:
    """A finished run."""
    with store.run("first", {"a": 1}, ["corn"]) as run:
        run.summary["rmsecv"] = 0.5
    return run.run_id


def shown(store: WorkspaceStore, run_id: str) -> dict[str, Any]:
    run = store.get_run(run_id)
    assert run is not None
    return run


def test_name_note_and_tags_of_a_finished_run_change_and_nothing_else(
    store: WorkspaceStore, run_id: str
) -> None:
    before = shown(store, run_id)
    assert (before["note"], before["tags"]) == (None, [])
    store.rename_run(run_id, "second")
    store.annotate_run(run_id, "The lamp was new.\nµ")
    store.tag_run(run_id, "meat", "new lamp")
    after = shown(store, run_id)
    assert (after["name"], after["note"], after["tags"]) == (
        "second",
        "The lamp was new.\nµ",
        ["meat", "new lamp"],
    )
    edited = ("name", "note", "tags")
    assert {k: v for k, v in after.items() if k not in edited} == {
        k: v for k, v in before.items() if k not in edited
    }


def test_a_note_replaces_the_one_before(store: WorkspaceStore, run_id: str) -> None:
    store.annotate_run(run_id, "one")
    store.annotate_run(run_id, "two")
    assert shown(store, run_id)["note"] == "two"
    store.annotate_run(run_id, "")
    assert not shown(store, run_id)["note"]


def test_a_tag_stands_once_and_a_missing_one_is_passed_over(store: WorkspaceStore, run_id: str) -> None:
    store.tag_run(run_id, "meat", "meat")
    store.tag_run(run_id, " meat ", "lamp")
    assert sorted(shown(store, run_id)["tags"]) == ["lamp", "meat"]
    store.untag_run(run_id, "meat", "never")
    assert shown(store, run_id)["tags"] == ["lamp"]


def test_runs_are_listed_by_all_the_tags_asked_for(store: WorkspaceStore, run_id: str) -> None:
    other = store.begin_run("other", {}, [])
    store.tag_run(run_id, "meat", "lamp")
    store.tag_run(other, "meat", "meat loaf")

    def listed(tags: Any) -> list[str]:
        return store.list_runs(tags=tags)["run_id"].to_list()

    assert set(listed(["meat"])) == {run_id, other}
    assert listed("lamp") == listed(["lamp", "meat"]) == [run_id]
    assert listed(["lamp", "meat loaf"]) == listed(["mea"]) == listed(["%"]) == []
    assert len(listed([])) == 2
    row = store.list_runs(tags="lamp").row(0, named=True)
    assert json.loads(row["tags"]) == ["lamp", "meat"]


def test_a_second_store_edits_what_the_first_recorded(store: WorkspaceStore, folder: Path) -> None:
    running = store.begin_run("mine", {}, [])
    with WorkspaceStore(folder) as other:
        other.rename_run(running, "ours")
        other.annotate_run(running, "from elsewhere")
        other.tag_run(running, "two hands")
    store.tag_run(running, "first hand")
    store.complete_run(running, {"n": 1})
    run = shown(store, running)
    assert (run["name"], run["note"], run["status"]) == ("ours", "from elsewhere", "completed")
    assert set(run["tags"]) == {"two hands", "first hand"}


def test_edits_are_there_after_reopening(store: WorkspaceStore, folder: Path, run_id: str) -> None:
    store.annotate_run(run_id, "kept")
    store.tag_run(run_id, "kept")
    store.close()
    with WorkspaceStore(folder, read_only=True) as again:
        assert (shown(again, run_id)["note"], shown(again, run_id)["tags"]) == ("kept", ["kept"])
        with pytest.raises(ReadOnlyStore):
            again.annotate_run(run_id, "not here")


def test_a_deleted_or_unknown_run_cannot_be_edited(store: WorkspaceStore, folder: Path, run_id: str) -> None:
    with WorkspaceStore(folder) as other:
        shown(other, run_id)
        assert other.delete_run(run_id, now=True) > 0
    for edit in (store.rename_run, store.annotate_run, store.tag_run, store.untag_run):
        with pytest.raises(UnknownId):
            edit("nobody", "text")
        with contextlib.suppress(UnknownId):  # one that this store still knows is dropped when it is applied
            edit(run_id, "text")
    assert store.get_run(run_id) is None
    assert store.list_runs(tags="text").is_empty()


@pytest.mark.parametrize("tag", ["", "  ", "a,b", None, 7])
def test_what_is_no_tag_is_refused_and_changes_nothing(tag: Any, store: WorkspaceStore, run_id: str) -> None:
    with pytest.raises(InvalidInput):
        store.tag_run(run_id, "good", tag)
    assert shown(store, run_id)["tags"] == []


@pytest.mark.parametrize("text", [None, 7, b"bytes"])
def test_names_and_notes_are_text(text: Any, store: WorkspaceStore, run_id: str) -> None:
    for edit in (store.rename_run, store.annotate_run):
        with pytest.raises(InvalidInput):
            edit(run_id, text)
    assert (shown(store, run_id)["name"], shown(store, run_id)["note"]) == ("first", None)


def test_a_run_remembers_its_environment(store: WorkspaceStore, run_id: str) -> None:
    environment = shown(store, run_id)["environment"]
    assert environment["python"] == platform.python_version()
    assert environment["numpy"] == np.__version__
    assert "duckdb" in environment
    assert json.loads(store.list_runs()["environment"][0]) == environment


def test_a_store_of_the_first_schema_takes_notes_and_tags(tmp_path: Path) -> None:
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path)
    old = json.loads((tmp_path / "expected.json").read_text())["run_id"]
    with WorkspaceStore(tmp_path / "workspace") as store:
        before = shown(store, old)
        assert (before["environment"], before["note"], before["tags"]) == (None, None, [])
        assert store.list_runs(tags="old").is_empty()
        store.rename_run(old, "renamed")
        store.annotate_run(old, "from before")
        store.tag_run(old, "old")
    with WorkspaceStore(tmp_path / "workspace") as store:
        after = shown(store, old)
        assert (after["name"], after["note"], after["tags"]) == ("renamed", "from before", ["old"])
        assert (after["status"], after["config"]) == (before["status"], before["config"])
        assert store.list_runs(tags="old")["run_id"].to_list() == [old]
        assert store.sql("SELECT note FROM run_overview WHERE name = 'renamed'").item() == "from before"
