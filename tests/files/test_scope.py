"""A view shows, changes and removes what lies in it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, UnknownFile, UnknownId
from nirs_store.files.api import Files

PLACE = "ensembl/GRCh37/eval"


@pytest.fixture
def views(store: WorkspaceStore) -> dict[str, Files]:
    """Production, a named test, another one, and nameless test content, with files of the same names."""
    files = store.files
    made = {
        "production": files.within(PLACE, coverage="full_genome"),
        "test": files.within(PLACE, coverage="gene_subset", test_name="chr21"),
        "other": files.within(PLACE, mode="test", test_name="chr22"),
        "elsewhere": files.within("mane/eval", coverage="full_genome"),
    }
    for name, view in made.items():
        view.put(name.encode(), "positions.txt", type="log", tags=[name])
        view.put(name.encode(), f"{name}.txt", type="log")
    return made


QUESTIONS: dict[str, Callable[[Files], set[str]]] = {
    "list": lambda view: set(view.list()["version_id"]),
    "search": lambda view: set(view.search("txt")["version_id"]),
    "cleanup": lambda view: {
        row["version_id"] for row in view.cleanup(0, dry_run=True, include_production=True).versions
    },
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_view_answers_for_its_own_files(
    store: WorkspaceStore, views: dict[str, Files], question: str
) -> None:
    found = {name: QUESTIONS[question](view) for name, view in views.items()}
    every = set(store.files.list()["version_id"])
    assert {name: len(ids) for name, ids in found.items()} == dict.fromkeys(views, 2)
    assert set.union(*found.values()) == every
    assert sum(map(len, found.values())) == len(every)


def test_counts_checks_and_exports_are_those_of_the_view(views: dict[str, Files], tmp_path: Path) -> None:
    for name, view in views.items():
        assert (view.summary().files, view.validate().checked) == (2, 2)
        paths = view.export("*", tmp_path / name)
        assert {path.read_bytes() for path in paths} == {name.encode()}
        assert len(paths) == 2
        assert view.get("positions.txt") == name.encode()


@pytest.mark.parametrize("about", [{"model_id": "pls"}, {"suite": "fat"}, {"group": "g"}, {"episode": "e1"}])
def test_what_belongs_to_something_else_is_not_cleaned_away(
    store: WorkspaceStore, about: dict[str, str]
) -> None:
    mine, other = store.files.within("all", **about), store.files.within("all")
    mine.put(b"1", "mine.txt", type="log")
    kept = other.put(b"2", "other.txt", type="log", **dict.fromkeys(about, "another"))
    assert mine.list()["name"].to_list() == ["all/mine.txt"]
    for change in (
        lambda: mine.delete("other.txt"),
        lambda: mine.set_status(kept.version_id, "failed"),
        lambda: mine.set_alias("other.txt", "best"),
    ):
        with pytest.raises(UnknownFile, match="not part of this view"):
            change()
    mine.cleanup(0)
    assert other.list()["name"].to_list() == ["all/other.txt"]


def test_an_id_of_another_folder_is_not_deleted_through_a_view(store: WorkspaceStore) -> None:
    there = store.files.put(b"1", "b/x.txt", type="log")
    with pytest.raises(UnknownFile, match="not part of this view"):
        store.files.within("a").delete(there.version_id, force=True)
    assert store.files.exists("b/x.txt")


def test_production_and_nameless_test_content_of_one_name_are_told_apart(store: WorkspaceStore) -> None:
    production, trial = store.files.within("p", mode="production"), store.files.within("p", mode="test")
    trial.put(b"draft", "x.txt", type="log")
    with pytest.raises(UnknownFile, match="is test content"):
        production.get("x.txt")
    assert not production.exists("x.txt")
    production.put(b"final", "x.txt", type="log")
    trial.put(b"forced", "x.txt", type="log", force=True)
    assert (production.get("x.txt"), trial.get("x.txt")) == (b"final", b"forced")
    assert production.list()["version"].to_list() == [2]
    assert production.versions("x.txt")["version"].to_list() == [2]
    production.delete("x.txt", force=True)
    assert store.files.versions("p/x.txt")["mode"].to_list() == ["test", "test"]


@pytest.mark.parametrize(("keep", "left"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_old_tests_of_other_views_neither_count_nor_go(store: WorkspaceStore, keep: int, left: int) -> None:
    for k in range(3):
        for model in ("a", "b"):
            view = store.files.within(f"{model}/eval", coverage="chromosome", test_name=f"{model}{k}")
            view.put({"k": k}, "genes.json", type="sampled_genes")
    store.files.within("a/eval").cleanup_old_tests(keep)
    names = store.files.list()["test_name"].to_list()
    assert sorted(names) == sorted(["b0", "b1", "b2", *[f"a{k}" for k in range(3)][3 - left :]])


def test_a_production_view_has_no_old_tests(views: dict[str, Files]) -> None:
    assert len(views["production"].cleanup_old_tests(0)) == 0
    assert [row["test_name"] for row in views["test"].cleanup_old_tests(0).versions] == ["chr21", "chr21"]


@pytest.mark.parametrize(
    ("pattern", "filters"),
    [("*", {}), ("*", {"all_versions": True, "mode": "production"}), ("*", {"tags": []})],
)
def test_an_export_that_would_write_two_files_to_one_path_is_refused(
    store: WorkspaceStore, views: dict[str, Files], tmp_path: Path, pattern: str, filters: dict[str, Any]
) -> None:
    views["production"].put(b"newer", "positions.txt", type="log", force=True)
    with pytest.raises(InvalidInput, match="would both be written"):
        store.files.export(pattern, tmp_path / "out", **filters)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("a", "a/b"), ("Wheat.txt", "wheat.txt")])
def test_names_that_exclude_each_other_on_a_disk_are_refused_before_anything_is_written(
    store: WorkspaceStore, tmp_path: Path, names: tuple[str, str]
) -> None:
    for name in names:
        store.files.put(name.encode(), name, type="log")
    with pytest.raises(InvalidInput, match="Nothing was written"):
        store.files.export("*", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_view_says_its_mode(store: WorkspaceStore) -> None:
    said = {
        "mode='production'": store.files.within("a", coverage="full"),
        "mode='test'": store.files.within("a", test_name="t"),
        "Files('a')": store.files.within("a"),
    }
    assert all(text in repr(view) for text, view in said.items())
    assert [view.mode for view in said.values()] == ["production", "test", None]


def test_a_path_has_a_name_by_itself(store: WorkspaceStore, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    assert store.files.put(tmp_path / "report.json", type="report").name == "report.json"
    assert store.files.within("a").put(str(tmp_path / "report.json"), type="report").name == "a/report.json"
    assert store.files.put_many([{"source": tmp_path / "report.json"}], type="log")[0].name == "report.json"
    for source in (b"bytes", {"a": 1}, None, pl.DataFrame({"a": [1]}), "/"):
        with pytest.raises(InvalidInput, match=r"^name: expected one"):
            store.files.put(source, type="report")


def test_files_are_found_by_their_map(store: WorkspaceStore) -> None:
    store.files.put(b"1", "a", type="video", map_name="loop", metadata={"fps": 5})
    store.files.within("v", map_name="zigzag").put(b"2", "b", type="video")
    store.files.put(b"3", "c", type="video", metadata={"map_name": "loop"})
    assert store.files.list(map_name="loop")["name"].to_list() == ["a", "c"]
    assert store.files.list(map_name=["zigzag", "loop"]).height == 3
    assert store.files.metadata("a")["metadata"] == {"map_name": "loop", "fps": 5}


@pytest.mark.parametrize(
    ("labels", "column"),
    [
        (pl.Series("site", [1, 0]), "site"),
        (pl.Series([1, 0]), "label"),
        (pd.Series([1, 0], name="site"), "site"),
        (pd.Series([1, 0]), "label"),
        (np.array([1, 0]), "label"),
        ([1, 0.5], "label"),
    ],
)
def test_labels_may_be_one_column(store: WorkspaceStore, labels: Any, column: str) -> None:
    store.files.put_training_set("t", pl.DataFrame({"gc": [0.4, 0.6]}), labels)
    found = store.files.get_training_set("t").labels
    assert found.to_dict(as_series=False) == {column: list(labels)}
    with pytest.raises(InvalidInput, match="as many rows"):
        store.files.put_training_set("u", pl.DataFrame({"gc": [0.4]}), labels)


# -- what the users of other artifact managers expect ------------------------------------------------------


def test_old_files_of_evaluations_go_but_not_those_of_a_champion(store: WorkspaceStore) -> None:
    for model, score in (("first", 1.0), ("loser", 0.5), ("best", 2.0)):
        video = store.files.put(model.encode(), f"{model}.mp4", type="video", model_id=model)
        store.evaluations.record(model, "loop", score, files=[video.version_id], evaluation_id=model)
    assert len(store.files.cleanup(0)) == 0
    gone = store.files.cleanup(0, of_evaluations=True)
    assert [row["name"] for row in gone.versions] == ["loser.mp4"]
    assert store.evaluations.get("loser") is not None
    assert store.check().ok


def test_an_archive_of_one_model_holds_what_names_it(store: WorkspaceStore, tmp_path: Path) -> None:
    for model in ("a", "b"):
        store.files.put(model.encode(), f"{model}.txt", type="log", model_id=model)
        store.evaluations.record(model, "loop", 1.0, evaluation_id=f"of-{model}")
    made = store.archive(tmp_path / "a.zip", model_id="a")
    with WorkspaceStore(tmp_path / "new") as new:
        new.restore_archive(made.path)
        assert new.files.list()["name"].to_list() == ["a.txt"]
        assert new.evaluations.history()["evaluation_id"].to_list() == ["of-a"]
    for wrong, error in (({"model_id": "nobody"}, UnknownId), ({"model_id": "a", "runs": []}, InvalidInput)):
        with pytest.raises(error):
            store.archive(tmp_path / "x.zip", **wrong)
    assert not (tmp_path / "x.zip").exists()


def test_a_view_holds_the_store_that_nothing_else_holds(folder: Path, tmp_path: Path) -> None:
    assert WorkspaceStore(folder).files.within("a").put(b"1", "x", type="log").name == "a/x"
    assert WorkspaceStore(folder).files.list().height == 1
    assert WorkspaceStore(folder).backups.create(tmp_path / "backups") is not None
    assert WorkspaceStore(folder).audit.query("put").height == 1
    assert WorkspaceStore(folder).retention.pins().is_empty()
    version = WorkspaceStore(folder).files.list()["version_id"][0]
    assert WorkspaceStore(folder).lineage.links(("file", version)) is not None
