"""Modes, versions, aliases, groups: what a name means, and what may replace it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nirs_store.errors import BlobCorrupt, InvalidInput, OverwriteRefused, UnknownFile, WriteFailed
from nirs_store.store import WorkspaceStore


def numbers(store: WorkspaceStore, name: str, **which: Any) -> list[int]:
    return store.files.versions(name, **which)["version"].to_list()


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_coverage_decides_the_mode_unless_it_is_said(store: WorkspaceStore) -> None:
    for number, (coverage, mode, expected) in enumerate(
        (
            ("full", None, "production"),
            ("full_genome", None, "production"),
            ("chromosome", None, "test"),
            ("gene_subset", None, "test"),
            (None, None, "test"),
            ("full", "test", "test"),
            ("gene_subset", "production", "production"),
        )
    ):
        version = store.files.put(None, f"{number}", type="log", coverage=coverage, mode=mode)
        assert version.mode == expected


def test_production_content_is_replaced_with_force_only_and_the_old_version_stays(
    store: WorkspaceStore,
) -> None:
    store.files.put(b"one", "x", type="log", coverage="full")
    for mode in (None, "test", "production"):
        with pytest.raises(OverwriteRefused, match=r"version 1 .* other content"):
            store.files.put(b"two", "x", type="log", mode=mode)
    assert store.files.get("x") == b"one"
    forced = store.files.put(b"two", "x", type="log", force=True)
    assert (forced.version, forced.mode) == (2, "production"), "forcing once does not end the protection"
    with pytest.raises(FileExistsError):
        store.files.put(b"three", "x", type="log")
    assert store.files.get("x", version="v1") == b"one"
    assert store.files.get("x") == store.files.get("x", version="latest") == b"two"


def test_the_same_production_content_may_be_put_again(store: WorkspaceStore) -> None:
    first = store.files.put(b"one", "x", type="log", coverage="full", tags=["a"], metadata={"n": 1})
    again = store.files.put(b"one", "x", type="log", tags=["b"], metadata={"m": 2})
    assert (again.version_id, again.added) == (first.version_id, False)
    known = store.files.metadata("x")
    assert (known["tags"], known["metadata"], known["mode"]) == (["a", "b"], {"n": 1, "m": 2}, "production")
    with pytest.raises(OverwriteRefused, match="another description"):
        store.files.put(b"one", "x", type="log", metadata={"n": 9})
    assert store.files.metadata("x")["metadata"]["n"] == 1


def test_should_overwrite_answers_as_the_table_says(store: WorkspaceStore) -> None:
    should = store.files.should_overwrite
    assert should("new")
    store.files.put(b"x", "test", type="log", mode="test")
    assert should("test")
    store.files.put(b"x", "production", type="log", mode="production")
    assert not should("production")
    assert not should("production", mode="test")
    assert should("production", force=True)
    assert should("production", test_name="trial"), "a test of its own is a file of its own"


def test_test_content_is_replaced_and_older_versions_are_collected(store: WorkspaceStore) -> None:
    for text in (b"1", b"2", b"3"):
        store.files.put(text, "x", type="log")
    assert store.files.get("x") == b"3"
    assert store.files.list("x").height == 1
    assert len(store.files.cleanup_old_tests(keep_recent=1)) == 2
    assert numbers(store, "x") == [3]
    assert store.check(read_data=True).ok


def test_tests_are_kept_apart_by_their_names(store: WorkspaceStore) -> None:
    store.files.put(b"all", "m/x", type="log", coverage="full")
    for name in ("one", "two"):
        store.files.put(name.encode(), "m/x", type="log", coverage="gene_subset", test_name=name)
    assert store.files.get("m/x") == b"all"
    assert store.files.get("m/x", test_name="two") == b"two"
    assert store.files.list("m/*", test_name="one").height == 1
    trial = store.files.within("m", test_name="one")
    assert trial.get("x") == b"one"
    assert trial.list().height == 1
    with pytest.raises(UnknownFile, match="of test 'three'"):
        store.files.get("m/x", test_name="three")


@pytest.mark.everywhere
def test_a_number_is_never_given_twice(store: WorkspaceStore) -> None:
    for text in (b"1", b"2", b"3"):
        store.files.put(text, "x", type="log")
    store.files.delete("x", version=3)
    assert store.files.get("x") == b"2"
    assert store.files.put(b"4", "x", type="log").version == 4
    store.files.delete("x")
    assert not store.files.exists("x")
    assert store.files.put(b"5", "x", type="log").version == 5


@pytest.mark.everywhere
def test_an_alias_means_one_version_until_it_is_moved(store: WorkspaceStore) -> None:
    for text in (b"1", b"2"):
        store.files.put(text, "x", type="log")
    store.files.set_alias("x", "champion", 1)
    assert store.files.get("x", version="champion") == b"1"
    store.files.set_alias("x", "champion")
    assert store.files.aliases("x") == {"champion": 2}
    assert store.files.versions("x")["aliases"].to_list() == [["champion"], []]
    store.files.remove_alias("x", "champion")
    with pytest.raises(UnknownFile, match="no alias 'champion'"):
        store.files.get("x", version="champion")
    with pytest.raises(UnknownFile):
        store.files.remove_alias("x", "champion")


def test_moving_an_alias_is_audited_with_what_it_meant_before(store: WorkspaceStore) -> None:
    for text in (b"1", b"2"):
        store.files.put(text, "x", type="log")
    store.files.set_alias("x", "champion", 1)
    store.files.set_alias("x", "champion", 2)
    noted = json.loads(store.audit.query("set_alias")["details"][-1])
    assert noted == {"name": "x", "alias": "champion", "before": 1, "now": 2}


def test_an_alias_never_looks_like_a_version(store: WorkspaceStore) -> None:
    store.files.put(b"1", "x", type="log")
    for alias in ("v3", "V3", "3", "latest", "LATEST", "v1.0", "1_2", "", "a b", "a/b"):
        with pytest.raises(InvalidInput):
            store.files.set_alias("x", alias)
    assert store.files.aliases("x") == {}


def test_a_version_is_named_by_number_word_or_id(store: WorkspaceStore) -> None:
    first = store.files.put(b"1", "x", type="log")
    store.files.put(b"2", "x", type="log")
    for version in (1, "v1", "V1", "1", "v01"):
        assert store.files.get("x", version=version) == b"1"
    assert store.files.get(first.version_id) == b"1"
    for version in (0, -1, "v0", "1.5", "", True, 1.0):
        with pytest.raises(InvalidInput):
            store.files.get("x", version=version)  # type: ignore[arg-type]
    with pytest.raises(UnknownFile, match="has no version 7"):
        store.files.get("x", version=7)
    store.files.put(b"p", "positions.tsv", type="log")
    with pytest.raises(UnknownFile, match=r"Did you mean 'positions\.tsv'"):
        store.files.get("position.tsv")
    with pytest.raises(UnknownFile, match="No version of a file has the id"):
        store.files.get("0190aaaa-0000-7000-8000-000000000000")


def test_what_was_announced_gets_its_content(store: WorkspaceStore) -> None:
    coming = store.files.put(None, "x", type="log", status="in_progress", coverage="full")
    done = store.files.put(b"content", "x", type="log", coverage="full")
    assert (done.version_id, done.version, done.status) == (coming.version_id, 1, "completed")
    assert store.files.get("x") == b"content"
    assert numbers(store, "x") == [1]
    assert store.check(read_data=True).ok
    with pytest.raises(OverwriteRefused):
        store.files.put(b"other", "x", type="log")


def test_failed_production_content_may_be_replaced(store: WorkspaceStore) -> None:
    store.files.put(b"half", "x", type="log", coverage="full")
    store.files.set_status("x", "failed", "no space")
    assert store.files.put(b"half", "x", type="log", coverage="full").version == 2


# -- groups --------------------------------------------------------------------------------------


def test_a_group_has_versions_of_its_own(store: WorkspaceStore, tmp_path: Path) -> None:
    files = {"model.pt": b"one", "config.json": {"lr": 0.1}}
    first = store.files.put_group("models", files, type="model_checkpoint")
    assert not store.files.put_group("models", files, type="model_checkpoint").added
    second = store.files.put_group("models", {**files, "model.pt": b"two"}, type="model_checkpoint")
    assert (first.version, second.version) == (1, 2)
    assert numbers(store, "models/config.json") == [1], "a member that did not change is not stored again"
    assert store.files.get("models", version=1) == {"model.pt": b"one", "config.json": {"lr": 0.1}}
    target = store.files.get("models", tmp_path / "out", version="v2")
    assert (target / "model.pt").read_bytes() == b"two"
    assert store.files.metadata("models/config.json")["type"] == "configuration"
    assert store.files.validate().ok


def test_a_production_group_is_protected_as_a_whole(store: WorkspaceStore) -> None:
    store.files.put_group("g", {"a": b"1"}, type="archive", coverage="full")
    with pytest.raises(OverwriteRefused):
        store.files.put_group("g", {"a": b"1", "b": b"2"}, type="archive", coverage="full")
    assert not store.files.exists("g/b")
    assert (
        store.files.put_group(
            "g", {"a": b"1", "b": b"2"}, type="archive", coverage="full", force=True
        ).version
        == 2
    )


def test_a_group_holds_its_members(store: WorkspaceStore) -> None:
    store.files.put_group("g", {"a": b"1"}, type="archive")
    store.files.put(b"newer", "g/a", type="archive")
    with pytest.raises(OverwriteRefused, match="group"):
        store.files.delete("g/a", version=1)
    assert len(store.files.cleanup_old_tests(keep_recent=0)) == 0
    assert store.files.get("g") == {"a": b"1"}
    store.files.delete("g")
    assert len(store.files.delete("g/a")) == 2


def test_a_training_set_comes_back_as_frames(store: WorkspaceStore) -> None:
    features, labels = pl.DataFrame({"x": [1.0, 2.0]}), pl.DataFrame({"y": [0, 1]})
    store.files.put_training_set("training_data", features, labels, {"genes": 2})
    found = store.files.get_training_set("training_data", version="v1")
    assert found.features.equals(features)
    assert found.labels.equals(labels)
    assert found.metadata == {"genes": 2}
    assert store.files.metadata("training_data/feature_matrix.parquet")["type"] == "feature_matrix"
    with pytest.raises(InvalidInput, match="as many rows"):
        store.files.put_training_set("training_data", features, labels.head(1))
    store.files.put_group("other", {"a": b"1"}, type="archive")
    with pytest.raises(InvalidInput, match="not a training set"):
        store.files.get_training_set("other")


def test_a_folder_becomes_a_group(store: WorkspaceStore) -> None:
    with store.files.create_group("models", type="model_checkpoint") as path:
        (path / "deep").mkdir()
        (path / "deep" / "w.pt").write_bytes(b"w")
    assert store.files.get("models") == {"deep/w.pt": b"w"}
    with (
        pytest.raises(InvalidInput, match="empty"),
        store.files.create_group("none", type="model_checkpoint"),
    ):
        pass


def test_a_group_comes_out_as_a_folder_whole_or_not_at_all(store: WorkspaceStore, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_bytes(b"notes")
    members = {"a.bin": b"a" * 600, "deep/b.bin": os.urandom(700), "notes": tmp_path / "source"}
    store.files.put_group("m", members, type="model_checkpoint")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "other.txt").write_bytes(b"stays")
    (tmp_path / "there" / "a.bin").write_bytes(b"old")
    (tmp_path / "empty").mkdir()
    before = everything(tmp_path)

    blob = store.get_artifact_path(store.files.metadata("m/deep/b.bin")["artifact_id"])
    intact = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
    for output in ("new", "deep/new", "empty", "there"):
        with pytest.raises(BlobCorrupt):
            store.files.get("m", tmp_path / output)
        left = {name: data for name, data in everything(tmp_path).items() if name != "deep"}
        assert left == before, output

    blob.write_bytes(intact)
    for output in ("new", "deep/newer", "empty", "there"):
        assert store.files.get("m", tmp_path / output) == tmp_path / output
        found = everything(tmp_path / output)
        assert found.pop("other.txt", None) == (b"stays" if output == "there" else None)
        assert found == {
            "a.bin": b"a" * 600, "deep": None, "deep/b.bin": intact, "notes": None, "notes/notes.txt": b"notes",
        }  # fmt: skip
    with pytest.raises(InvalidInput, match="exists already"):
        store.files.get("m", tmp_path / "there")


def test_a_group_that_the_system_stops_half_way_leaves_no_new_member(
    store: WorkspaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.files.put_group("m", {"a.bin": b"a", "b.bin": b"b"}, type="model_checkpoint")
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "b.bin":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteFailed):
        store.files.get("m", tmp_path)
    assert not everything(tmp_path)


# -- two at once ---------------------------------------------------------------------------------


def test_two_stores_never_make_the_same_version(store: WorkspaceStore) -> None:
    def put_five(word: str) -> None:
        with WorkspaceStore(store.workspace_path) as own:
            for number in range(5):
                own.files.put(f"{word}{number}".encode(), "x", type="log")

    with ThreadPoolExecutor() as pool:
        list(pool.map(put_five, "ab"))
    assert numbers(store, "x") == list(range(10, 0, -1))
    assert store.files.versions("x")["is_latest"].to_list() == [True] + [False] * 9
