"""Listing, searching, counting, statuses, processing runs, cleaning up."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nirs_store.errors import InvalidInput, OverwriteRefused
from nirs_store.files.runs import scratch
from nirs_store.store import WorkspaceStore


@pytest.fixture
def filled(store: WorkspaceStore) -> WorkspaceStore:
    put = store.files.put
    put(
        b"a" * 5000,
        "ensembl/GRCh37/meta/positions.tsv",
        type="splice_positions",
        tags=["final"],
        model_id="m1",
    )
    put(b"b", "ensembl/GRCh38/meta/positions.tsv", type="splice_positions", tags=["draft"], model_id="m2")
    put(
        b"c",
        "video/crash.mp4",
        type="video",
        tags=["final", "failure analysis"],
        metadata={"type": "Kollision ä"},
    )
    put(b"d", "video/[1].mp4", type="video", suite="base", coverage="full")
    return store


def names(frame: Any) -> list[str]:
    return [
        name.rpartition("/")[2] if name.startswith("video") else name.split("/")[1] for name in frame["name"]
    ]


def test_a_list_is_limited_by_pattern_tags_and_columns(filled: WorkspaceStore) -> None:
    found = filled.files.list
    assert names(found()) == ["GRCh37", "GRCh38", "[1].mp4", "crash.mp4"]
    assert names(found("*.tsv")) == ["GRCh37", "GRCh38"]
    assert names(found("ensembl/GRCh3[8]/*")) == ["GRCh38"]
    assert names(found("video/crash.mp4")) == ["crash.mp4"]
    assert names(found(tags="final")) == ["GRCh37", "crash.mp4"]
    assert names(found(tags=["final", "failure analysis"])) == ["crash.mp4"]
    assert names(found(tags="fail")) == []
    assert names(found(model_id=["m1", "m2"])) == ["GRCh37", "GRCh38"]
    assert names(found(type="VIDEO", mode="production")) == ["[1].mp4"]
    assert names(found(limit=1, offset=1)) == ["GRCh38"]
    assert names(filled.files.within("video").list("*.mp4")) == ["[1].mp4", "crash.mp4"]
    assert names(filled.files.within("video").list("crash.mp4")) == ["crash.mp4"]


def test_a_tag_is_compared_as_a_whole_whatever_is_in_it(store: WorkspaceStore) -> None:
    for number, tag in enumerate(('say "x"', ",", "x", "%", "a_b")):
        store.files.put(None, f"n{number}", type="log", tags=[tag, "other"])
    for number, tag in enumerate(('say "x"', ",", "x", "%", "a_b")):
        assert store.files.list(tags=tag)["name"].to_list() == [f"n{number}"]


def test_a_filter_that_is_unknown_or_misspelt_is_refused(filled: WorkspaceStore) -> None:
    for arguments, words in (
        ({"modle_id": "m"}, "'model_id'"),
        ({"status": "complet"}, "'completed'"),
        ({"type": "vidoe"}, "'video'"),
        ({"limit": -1}, "at least 0"),
    ):
        with pytest.raises(InvalidInput, match=words):
            filled.files.list(**arguments)


def test_search_looks_for_all_words_in_names_tags_and_metadata(filled: WorkspaceStore) -> None:
    search = filled.files.search
    assert names(search("positions GRCH38")) == ["GRCh38"]
    assert names(search("FAILURE")) == ["crash.mp4"]
    assert names(search("kollision Ä final")) == ["crash.mp4"]
    assert names(search("final", type="splice_positions")) == ["GRCh37"]
    assert names(search("nowhere")) == []
    with pytest.raises(InvalidInput):
        search("  ")


def test_a_summary_counts_files_and_bytes(filled: WorkspaceStore) -> None:
    found = filled.files.summary()
    assert (found.files, found.size_bytes) == (4, 5003)
    assert found.by_type == {"splice_positions": 2, "video": 2}
    assert found.by_mode == {"test": 3, "production": 1}
    assert found.stored_bytes < 1000
    assert "4" in str(found)
    assert "splice_positions" in found._repr_html_()
    assert filled.files.summary("video/*").files == 2


def test_everything_known_of_a_file_is_told(filled: WorkspaceStore) -> None:
    source = filled.files.find("video/crash.mp4")
    assert source is not None
    with filled.run("train") as run:
        pass
    filled.files.put(
        b"k", "k.csv", type="video_keypoints", sources=["video/crash.mp4", ("run", run.run_id)], run_id=run.run_id,
        group="g", episode="ep_042", module="deid", module_version="2.0.0",
    )  # fmt: skip
    filled.files.set_alias("k.csv", "good")
    known = filled.files.metadata("k.csv")
    assert [(each["kind"], each["id"]) for each in known["sources"]] == [
        ("file", source.version_id), ("run", run.run_id),
    ]  # fmt: skip
    assert known["aliases"] == ["good"]
    assert (known["group"], known["episode"], known["module"], known["module_version"]) == (
        "g",
        "ep_042",
        "deid",
        "2.0.0",
    )
    assert known["created_at"].tzinfo is not None
    assert filled.files.list(group="g", episode="ep_042", run_id=run.run_id).height == 1


def test_a_version_cannot_be_made_from_itself(store: WorkspaceStore) -> None:
    store.files.put(None, "a", type="log", status="pending")
    store.files.put(b"b", "b", type="log", sources=["a"])
    store.files.put(b"c", "c", type="log", sources=["b"])
    with pytest.raises(InvalidInput, match="cycle"):
        store.files.put(b"a", "a", type="log", sources=["c"])
    assert store.files.metadata("a")["status"] == "pending"


def test_files_are_exported_under_their_names(filled: WorkspaceStore, tmp_path: Path) -> None:
    done = filled.files.within("ensembl").export("*.tsv", tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in done] == [
        "GRCh37/meta/positions.tsv", "GRCh38/meta/positions.tsv",
    ]  # fmt: skip
    assert done[0].read_bytes() == b"a" * 5000


# -- types ---------------------------------------------------------------------------------------


@pytest.mark.everywhere
def test_a_type_is_declared_once_and_known_to_other_stores(store: WorkspaceStore) -> None:
    schema = {"type": "object", "required": ["lamp"], "properties": {"lamp": {"type": "integer"}}}
    store.files.declare_type("white_reference", "A white tile.", metadata_schema=schema)
    with WorkspaceStore(store.workspace_path) as other:
        with pytest.raises(InvalidInput, match="'lamp' is a required property"):
            other.files.put(b"1", "w", type="white_reference")
        other.files.put(b"1", "w", type="white-reference", metadata={"lamp": 2})
        assert other.files.list(type="white_reference").height == 1
        assert other.files.types()["white_reference"].built_in is False
    for name, bad in (("video", None), ("Not a word", None), ("x", {"type": "objekt"}), ("x", [1])):
        with pytest.raises(InvalidInput):
            store.files.declare_type(name, metadata_schema=bad)  # type: ignore[arg-type]


def test_a_schema_is_never_fetched_from_elsewhere(store: WorkspaceStore) -> None:
    store.files.declare_type("remote", metadata_schema={"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(InvalidInput, match="points to"):
        store.files.put(b"1", "w", type="remote")


# -- status and processing -----------------------------------------------------------------------


def test_a_status_is_set_with_its_message(store: WorkspaceStore) -> None:
    store.files.put(b"v", "v.mp4", type="video_raw")
    store.files.set_status("v.mp4", "FAILED", "no sound")
    assert store.files.list(status="failed")["message"].to_list() == ["no sound"]
    with pytest.raises(InvalidInput, match="'in_progress'"):
        store.files.set_status("v.mp4", "in progres")
    assert store.files.metadata("v.mp4")["status"] == "failed"


@pytest.mark.not_on("objects", "replicas", why="a processing run marks what its own store object makes")
def test_a_processing_run_marks_what_it_made(store: WorkspaceStore) -> None:
    with store.files.processing("deid", module="video", module_version="1.0", parameters={"blur": 3}) as run:
        scratch = run.temporary("frames/0.png")
        scratch.write_bytes(b"frame")
        run.put(b"k", "k.csv", type="video_keypoints")
        store.files.put(b"o", "o.mp4", type="video_deid")
    assert not scratch.exists()
    assert store.files.list(processing_id=run.processing_id)["module"].to_list() == ["video", "video"]
    store.files.put(b"later", "later", type="log")
    assert store.files.metadata("later")["processing_id"] is None
    (row,) = store.files.processing_runs().iter_rows(named=True)
    assert (row["status"], row["files"], row["parameters"]) == ("completed", 2, '{"blur":3}')
    assert row["ended_at"] >= row["started_at"]


@pytest.mark.not_on("objects", "replicas", why="a processing run marks what its own store object makes")
def test_an_exception_fails_what_was_in_progress_and_removes_temporary_files(store: WorkspaceStore) -> None:
    store.files.put(b"raw", "raw.mp4", type="video_raw")

    def process() -> None:
        with store.files.processing("deid") as run:
            run.temporary("x").write_bytes(b"x")
            run.put(b"done", "done.csv", type="video_keypoints")
            run.announce("deid.mp4", type="video_deid")
            store.files.set_status("raw.mp4", "in_progress")
            raise ZeroDivisionError("no frames")

    with pytest.raises(ZeroDivisionError):
        process()
    states = {
        row["name"]: (row["status"], row["message"]) for row in store.files.list().iter_rows(named=True)
    }
    failed = ("failed", "ZeroDivisionError: no frames")
    assert states == {"deid.mp4": failed, "done.csv": ("completed", None), "raw.mp4": failed}
    assert not list((store.workspace_path / "journal" / "tmp").iterdir())
    assert store.files.processing_runs()["message"].to_list() == ["ZeroDivisionError: no frames"]


def test_a_run_can_be_started_and_ended_by_calls(store: WorkspaceStore) -> None:
    run = store.files.processing("deid").start()
    with pytest.raises(InvalidInput, match="begun already"):
        run.start()
    run.end("failed", "by hand")
    with pytest.raises(InvalidInput, match="not under way"):
        run.end()
    with pytest.raises(InvalidInput):
        run.temporary("x")
    assert store.files.processing_runs()["status"].to_list() == ["failed"]


def test_the_run_of_a_program_that_died_shows_as_interrupted_and_its_leftovers_go(
    store: WorkspaceStore,
) -> None:
    other = WorkspaceStore(store.workspace_path)
    run = other.files.processing("deid").start()
    run.temporary("x").write_bytes(b"x")
    assert store.files.processing_runs()["status"].to_list() == ["in_progress"]
    assert store.files.cleanup(dry_run=True).workplaces == 0
    other._engine.abort()  # as a kill would: nothing is ended
    assert store.files.processing_runs()["status"].to_list() == ["interrupted"]
    own = scratch(store._engine)
    left = list((store.workspace_path / "journal" / "tmp").iterdir())
    assert len(left) == 2
    assert store.files.cleanup(dry_run=True).workplaces == 1
    assert store.files.cleanup().workplaces == 1
    assert own.exists(), "what a program that lives is working on stays"
    shutil.rmtree(own)


# -- cleaning up ---------------------------------------------------------------------------------


def test_cleaning_up_keeps_what_anything_needs(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = store.files
    files.put(b"raw", "raw", type="video_raw")
    files.put(b"production", "production", type="log", coverage="full")
    files.put(b"alias", "alias", type="log")
    files.set_alias("alias", "good")
    files.put_group("group", {"m": b"m"}, type="archive")
    files.set_alias("group", "good")
    files.put(b"old", "old", type="log")
    files.put(b"derived", "derived", type="log", sources=["raw"])
    files.set_alias("derived", "good")
    plan = files.cleanup(days_old=0, dry_run=True)
    assert [row["name"] for row in plan.versions] == ["old"]
    assert files.exists("old"), "a dry run changes nothing"
    result = files.cleanup(days_old=0)
    assert result.versions == plan.versions
    assert {name for name, _, _ in result.kept} == {
        "raw", "production", "alias", "group", "group/m", "derived",
    }  # fmt: skip
    assert result.blobs == 1
    assert files.list()["name"].to_list() == ["alias", "derived", "group", "group/m", "production", "raw"]
    assert store.check(read_data=True).ok
    files.remove_alias("derived", "good")
    assert {row["name"] for row in files.cleanup(days_old=0).versions} == {"raw", "derived"}
    assert len(files.cleanup(days_old=0, include_production=True)) == 1


def test_only_old_files_are_cleaned_up(store: WorkspaceStore) -> None:
    store.files.put(b"x", "x", type="log")
    assert len(store.files.cleanup(days_old=30)) == 0
    assert store.files.list(before=datetime.now(UTC) - timedelta(days=1)).is_empty()
    with pytest.raises(InvalidInput):
        store.files.cleanup(days_old=-1)


def test_old_tests_go_and_recent_ones_stay(store: WorkspaceStore) -> None:
    for number in range(4):
        store.files.put(b"%d" % number, "x", type="log", test_name=f"t{number}")
    store.files.put(b"again", "y", type="log", test_name="t0")
    store.files.put(b"all", "x", type="log", coverage="full")
    assert len(store.files.cleanup_old_tests(keep_recent=2, dry_run=True)) == 2
    store.files.cleanup_old_tests(keep_recent=2)
    assert set(store.files.list()["test_name"]) == {"t0", "t3", None}
    with pytest.raises(InvalidInput):
        store.files.cleanup_old_tests(keep_recent=-1)


@pytest.mark.not_on("replicas", why="each computer removes its own copies at its next gc")
def test_deleting_removes_blobs_that_nothing_else_holds(store: WorkspaceStore) -> None:
    store.files.put(b"shared", "a", type="log")
    store.files.put(b"shared", "b", type="log")
    assert store.files.delete("a", dry_run=True).blobs == 0
    assert store.files.delete("a").blobs == 0
    assert store.files.get("b") == b"shared"
    path = store.files.put(b"z" * 4000, "c", type="log", compression="gzip")
    copy = store.files.path("c")
    assert copy.exists()
    assert store.files.delete(path.version_id).blobs == 1
    assert not copy.exists(), "the unpacked copy goes with its content"
    store.files.put(b"p", "p", type="log", coverage="full")
    with pytest.raises(OverwriteRefused, match="production"):
        store.files.delete("p")
    assert store.files.delete("p", force=True).blobs == 1
    assert store.gc_artifacts(grace_seconds=0) == 0
    assert store.check(read_data=True).ok


def test_a_blob_of_a_file_survives_every_collection(store: WorkspaceStore) -> None:
    store.files.put(b"kept", "x", type="log")
    store.gc_artifacts(grace_seconds=0)
    store.vacuum()
    assert store.files.get("x") == b"kept"
    assert store.storage_report().kinds


@pytest.mark.everywhere
def test_a_lost_reference_and_a_lost_row_are_found_and_mended(store: WorkspaceStore) -> None:
    version = store.files.put(b"x", "x", type="log")
    store._engine.change(lambda con: con.execute("DELETE FROM artifact_refs"))
    assert [finding.kind for finding in store.check().findings] == ["reference_missing"]
    store.repair()
    assert store.check().ok
    assert (store.get_artifact(version.artifact_id or "") or {})["ref_count"] == 1
    store._engine.change(lambda con: con.execute("DELETE FROM blobs"))
    assert "artifact_row_missing" in [finding.kind for finding in store.check().findings]
    store.repair()
    assert store.files.get("x") == b"x"
    store._engine.change(lambda con: con.execute("DELETE FROM file_versions"))
    assert "reference_dangling" in [finding.kind for finding in store.check().findings]
    store.repair()
    assert store.gc_artifacts(grace_seconds=0) == 1
