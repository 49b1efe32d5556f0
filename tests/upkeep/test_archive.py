"""Archives: a selection leaves in one file, comes in once, and altered ones are refused before anything changes."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from storekit import begin, blob_keys, blob_root, chain_of, predict, snapshot, whole_pipeline

from nirs_store import WorkspaceStore
from nirs_store.backup import staging as archive_restore
from nirs_store.backup.container import Limits
from nirs_store.errors import ArchiveInvalid, InvalidInput, SchemaTooNew, UnknownId

FORMATS = ("tar.gz", "tar.zst", "zip")
TABLES = ("runs", "pipelines", "chains", "predictions", "prediction_arrays", "arrays", "logs", "evaluations")


class Source:
    """A workspace with two runs, the first with an evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with WorkspaceStore(folder) as store:
            self.first = store.begin_run("first", {"a": 1}, [])
            whole_pipeline(store, self.first)
            store.complete_run(self.first, {"n": 1})
            self.second = store.begin_run("second", {}, [])
            whole_pipeline(store, self.second, "other")
            self.evaluation = store.evaluations.record(
                "m", "s", 0.5, run_id=self.first, episodes=[{"reward": 1.0}, {"reward": 0.0}]
            )
            self.alone = store.evaluations.record("n", "s", 0.7)
            store.save_artifact("held by this session alone", "str", "model", "bytes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(tmp_path_factory.mktemp("source") / "ws")


@pytest.fixture(scope="module")
def packed(source: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first run, in each format."""
    folder = tmp_path_factory.mktemp("packed")
    with WorkspaceStore(source.folder) as store:
        for format in FORMATS:
            store.archive(folder / f"a.{format}", runs=[source.first])
    return {format: folder / f"a.{format}" for format in FORMATS}


@pytest.fixture
def target(memory: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(memory / "target") as store:
        yield store


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    """A workspace that refuses everything, and so can serve many tests."""
    with WorkspaceStore(tmp_path_factory.mktemp("untouched") / "ws") as store:
        yield store
        assert store.list_runs().height == 0


def rows(store: WorkspaceStore, table: str) -> list[Any]:
    return sorted(store.sql(f"SELECT * FROM {table}").rows(), key=repr)


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_brings_everything_and_only_once(
    format: str, source: Source, packed: dict[str, Path], target: WorkspaceStore
) -> None:
    planned = target.restore_archive(packed[format], dry_run=True)
    assert target.list_runs().height == 0
    restored = target.restore_archive(packed[format])
    assert restored.rows == planned.rows
    assert restored.blobs == planned.blobs == 2
    assert target.list_runs()["name"].to_list() == ["first"]
    assert target.check(read_data=True).findings == ()
    again = target.restore_archive(packed[format])
    assert (again.rows, again.blobs) == ({}, 0)


def test_a_run_arrives_with_all_that_belongs_to_it_as_it_was(
    source: Source, packed: dict[str, Path], target: WorkspaceStore
) -> None:
    target.restore_archive(packed["tar.zst"])
    with WorkspaceStore(source.folder) as store:
        assert target.get_run(source.first) == store.get_run(source.first)
        for table in ("pipelines", "chains", "predictions", "logs"):
            own = {row for row in rows(store, table) if "other" not in repr(row)}
            assert set(rows(target, table)) <= own
        assert target.evaluations.get(source.evaluation) == store.evaluations.get(source.evaluation)
        chain = target.sql("SELECT chain_id FROM chains")["chain_id"][0]
        prediction = target.query_predictions(chain_id=chain)["prediction_id"][0]
        mine, theirs = (s.get_prediction(prediction, load_arrays=True) for s in (target, store))
        assert repr(mine) == repr(theirs)
    table = target.evaluations.episodes(source.evaluation)
    assert table is not None
    assert table["reward"].to_list() == [1.0, 0.0]
    before = {table: rows(target, table) for table in (*TABLES, "artifact_refs", "blobs", "champions")}
    target.restore_archive(packed["zip"])
    assert {table: rows(target, table) for table in before} == before
    assert target.gc_artifacts(grace_seconds=0) == 0


def test_an_archive_merges_into_a_store_that_has_other_work(
    source: Source, packed: dict[str, Path], target: WorkspaceStore
) -> None:
    run_id, pipeline_id = begin(target, "own")
    predict(target, pipeline_id, chain_of(target, pipeline_id))
    target.restore_archive(packed["zip"])
    assert set(target.list_runs()["name"]) == {"own", "first"}
    assert target.get_run(run_id) is not None
    assert target.check(read_data=True).findings == ()


def test_everything_goes_but_what_only_a_session_holds(
    source: Source, target: WorkspaceStore, tmp_path: Path
) -> None:
    with WorkspaceStore(source.folder) as store:
        plan = store.archive(tmp_path / "all.zip", dry_run=True)
        assert not (tmp_path / "all.zip").exists()
        made = store.archive(tmp_path / "all.zip")
        assert (made.rows, made.blobs) == (plan.rows, plan.blobs)
        assert made.rows["runs"] == 2
        target.restore_archive(made.path)
        for table in TABLES:
            assert rows(target, table) == rows(store, table), table
        assert (
            target.sql("SELECT count(*) FROM blobs").item()
            == store.sql("SELECT count(*) FROM blobs").item() - 1
        )


def test_an_evaluation_may_go_alone(source: Source, target: WorkspaceStore, tmp_path: Path) -> None:
    with WorkspaceStore(source.folder) as store:
        store.archive(tmp_path / "e.tar.gz", evaluations=[source.alone])
    assert target.restore_archive(tmp_path / "e.tar.gz").rows == {"evaluations": 1, "champions": 1}
    assert target.evaluations.list()["evaluation_id"].to_list() == [source.alone]


def test_a_deleted_run_comes_back_from_its_archive(folder: Path, tmp_path: Path) -> None:
    with WorkspaceStore(folder) as store:
        run_id = store.begin_run("r", {}, [])
        pipeline_id = whole_pipeline(store, run_id)
        store.archive(tmp_path / "r.zip", runs=[run_id])
        store.delete_run(run_id, now=True)
        store.restore_archive(tmp_path / "r.zip")
        assert store.query_predictions(pipeline_id=pipeline_id).height == 2
        # What is recorded into it from now on is not taken for a straggler of the deleted run.
        assert whole_pipeline(store, run_id, "more") in store.list_pipelines(run_id)["pipeline_id"]
        assert store.check(read_data=True).findings == ()


def test_a_file_that_is_there_already_under_a_name_gets_the_next_numbers(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "one") as one, WorkspaceStore(tmp_path / "two") as two:
        p, q, x = (
            store.files.put(content, "a/b", type="report").version_id
            for store, content in ((one, b"p"), (one, b"q"), (two, b"x"))
        )
        one.archive(tmp_path / "f.zip", files=["a/*"])
        for _ in range(2):
            two.restore_archive(tmp_path / "f.zip")
        found = two.sql("SELECT version_id, version FROM file_versions ORDER BY version").rows()
        assert found == [(x, 1), (p, 2), (q, 3)]
        with pytest.raises(UnknownId, match="file"):
            one.archive(tmp_path / "g.zip", files=["nothing/*"])


# -- where it may be written ---------------------------------------------------------------------


def test_a_bad_target_or_selection_writes_nothing(source: Source, tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_bytes(b"mine")
    with WorkspaceStore(source.folder) as store:
        before = snapshot(tmp_path)
        for path, words in (
            (tmp_path / "a.rar", r"a\.rar.* is not supported; use \.tar\.gz, \.tar\.zst or \.zip"),
            (tmp_path / "none" / "a.zip", "no folder"),
            (tmp_path / "there.zip", "exists already"),
            (source.folder / "artifacts" / "a.zip", "own files"),
            (source.folder / "journal" / "a.zip", "own files"),
        ):
            with pytest.raises(InvalidInput, match=words):
                store.archive(path)
        with pytest.raises(UnknownId, match="run"):
            store.archive(tmp_path / "a.zip", runs=["nothing"])
        with pytest.raises(InvalidInput, match="list of ids"):
            store.archive(tmp_path / "a.zip", runs=source.first)
        assert snapshot(tmp_path) == before
        assert store.archive(tmp_path / "there.zip", overwrite=True).blobs == 3


# -- strangers -----------------------------------------------------------------------------------


def repacked(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Take a zip apart, change its members, and put it together again."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        change(manifest)
        members["manifest.json"] = json.dumps(manifest).encode()

    return edit


def first_blob(members: dict[str, bytes]) -> str:
    return next(name for name in members if name.startswith("blobs/"))


def flip(members: dict[str, bytes], name: str) -> None:
    data = bytearray(members[name])
    data[len(data) // 2] ^= 1
    members[name] = bytes(data)


ALTERED: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "a blob": lambda m: flip(m, first_blob(m)),
    "a table": lambda m: flip(m, "tables/runs.arrow"),
    "a member less": lambda m: m.pop(first_blob(m)),
    "a member more": lambda m: m.update({"blobs/" + "0" * 64: b"x"}),
    "a name that climbs": lambda m: m.update({"../../evil": b"x"}),
    "an absolute name": lambda m: m.update({"/etc/evil": b"x"}),
    "no manifest": lambda m: m.pop("manifest.json"),
    "a manifest that is none": lambda m: m.update({"manifest.json": b"[]"}),
    "another format": edited(lambda d: d.update(format="zoo")),
    "a table of the machinery": edited(lambda d: d["tables"].update(settings=d["tables"]["runs"])),
    "a wrong size": edited(lambda d: d["blobs"][0].update(size=d["blobs"][0]["size"] + 1)),
    "a blob that is not its hash": edited(lambda d: d["blobs"][0].update(sha256="0" * 64)),
    "negative sizes": edited(lambda d: d["blobs"][0].update(size=-1)),
    "more rows than there are": edited(lambda d: d["tables"]["runs"].update(rows=2)),
    "a blob that no member is": edited(lambda d: d["blobs"].pop()),
    "unknown fields": edited(lambda d: d.update(extra=1)),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_archive_is_refused_and_changes_nothing(
    what: str,
    packed: dict[str, Path],
    untouched: WorkspaceStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[dict[str, Any]] = []
    monkeypatch.setattr(archive_restore, "note", lambda *args, **more: noted.append(more))
    path = Path(shutil.copy(packed["zip"], tmp_path / "altered.zip"))
    repacked(path, ALTERED[what])
    untouched.list_runs()
    before = snapshot(blob_root(untouched) / "artifacts")
    with pytest.raises(ArchiveInvalid):
        untouched.restore_archive(path)
    assert untouched.list_runs().height == 0
    assert snapshot(blob_root(untouched) / "artifacts") == before
    assert list((untouched.workspace_path / "journal" / "tmp").iterdir()) == []
    assert not (tmp_path / "evil").exists()
    assert [each["success"] for each in noted] == [False]


def table_of(rows: pa.Table, **options: Any) -> bytes:
    """Write a table as an Arrow file, one row a batch."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(rows, max_chunksize=1)
    return sink.getvalue()


def with_messages(rows: pa.Table, column: pa.Array, **options: Any) -> bytes:
    place = rows.schema.get_field_index("message")
    return table_of(rows.set_column(place, pa.field("message", column.type), column), **options)


LONG = "A" * (30 << 20)
UNFOLDING: dict[str, Callable[[pa.Table], bytes]] = {
    "zstd": lambda rows: with_messages(rows, pa.array([LONG] * len(rows)), compression="zstd"),
    "lz4": lambda rows: with_messages(rows, pa.array([LONG] * len(rows)), compression="lz4"),
    "a dictionary": lambda rows: with_messages(rows, pa.array([LONG] * len(rows)).dictionary_encode()),
    "runs": lambda rows: with_messages(
        rows, pa.RunEndEncodedArray.from_arrays(pa.array([len(rows)], pa.int32()), pa.array([LONG]))
    ),
    "views": lambda rows: with_messages(rows, pa.array([LONG] * len(rows), pa.string_view())),
    "nothing but length": lambda rows: with_messages(rows, pa.nulls(len(rows))),
    "a list": lambda rows: with_messages(rows, pa.array([["x"]] * len(rows))),
    "no Arrow file": lambda rows: b"PAR1" + table_of(rows)[4:],
    "cut off": lambda rows: table_of(rows)[:400],
}


@pytest.mark.parametrize("how", UNFOLDING)
def test_a_table_that_unfolds_is_refused_before_it_takes_memory(
    how: str, packed: dict[str, Path], untouched: WorkspaceStore, tmp_path: Path
) -> None:
    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        entry = manifest["tables"]["logs"]
        rows = pa.ipc.open_file(members[entry["member"]]).read_all()
        data = members[entry["member"]] = UNFOLDING[how](rows)
        entry |= {"size": len(data), "sha256": sha256(data).hexdigest()}
        members["manifest.json"] = json.dumps(manifest).encode()

    path = Path(shutil.copy(packed["zip"], tmp_path / "altered.zip"))
    repacked(path, change)
    before = pa.default_memory_pool().max_memory()
    for dry_run in (True, False):
        with pytest.raises(ArchiveInvalid, match="'logs'"):
            untouched.restore_archive(path, dry_run=dry_run)
    # The highest that this process ever had: reading one row of what unfolds would raise it.
    assert pa.default_memory_pool().max_memory() - before < len(LONG)


def test_a_manifest_nested_without_end_is_refused(
    packed: dict[str, Path], untouched: WorkspaceStore, tmp_path: Path
) -> None:
    path = Path(shutil.copy(packed["zip"], tmp_path / "altered.zip"))
    repacked(path, lambda members: members.update({"manifest.json": b'{"format":' * 100_000}))
    with pytest.raises(ArchiveInvalid):
        untouched.restore_archive(path)


def test_a_newer_archive_is_refused(
    packed: dict[str, Path], untouched: WorkspaceStore, tmp_path: Path
) -> None:
    path = Path(shutil.copy(packed["zip"], tmp_path / "newer.zip"))
    repacked(path, edited(lambda d: d.update(schema_version=d["schema_version"] + 1)))
    with pytest.raises(SchemaTooNew, match="upgrade"):
        untouched.restore_archive(path)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_anywhere_is_found(
    format: str, packed: dict[str, Path], untouched: WorkspaceStore, tmp_path: Path
) -> None:
    data = packed[format].read_bytes()
    path = tmp_path / f"cut.{format}"
    for cut in (0, 3, len(data) // 3, len(data) - 4):
        path.write_bytes(data[:cut])
        with pytest.raises(ArchiveInvalid):
            untouched.restore_archive(path)
    for place in range(40, len(data) - 40, max(1, len(data) // 10)):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        # A byte that says nothing (a time in a header of a zip file) may differ; then all arrives as it was.
        try:
            assert untouched.restore_archive(path, dry_run=True).blobs == 2
        except ArchiveInvalid:
            continue
    assert untouched.list_runs().height == 0
    with pytest.raises(ArchiveInvalid, match="cannot be read"):
        untouched.restore_archive(tmp_path / "absent.zip")


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_links_devices_and_strange_headers_are_refused(
    packed: dict[str, Path], untouched: WorkspaceStore, tmp_path: Path
) -> None:
    link = tarfile.TarInfo("manifest.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ArchiveInvalid, match="not a plain file"):
        untouched.restore_archive(tar_of(tmp_path / "link.tar.gz", (link, b"")))
    long = tarfile.TarInfo("blobs/" + "0" * 300)
    with pytest.raises(ArchiveInvalid):
        untouched.restore_archive(tar_of(tmp_path / "long.tar.gz", (long, b"")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", ["a name twice", "a link", "a method", "overlap", "a prefix", "a comment"])
def test_a_zip_directory_that_readers_could_take_in_two_ways_is_refused(
    what: str, packed: dict[str, Path], untouched: WorkspaceStore, tmp_path: Path
) -> None:
    path = Path(shutil.copy(packed["zip"], tmp_path / "odd.zip"))
    with zipfile.ZipFile(path, "a") as archive:
        if what == "a name twice":
            archive.writestr("manifest.json", archive.read("manifest.json"))
        elif what in ("a link", "a method"):
            info = zipfile.ZipInfo("blobs/" + "0" * 64)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16 if what == "a link" else 0
            info.compress_type = zipfile.ZIP_LZMA if what == "a method" else zipfile.ZIP_STORED
            archive.writestr(info, b"/etc/passwd")
        elif what == "overlap":
            archive.infolist()[-1].header_offset = 0
            archive.writestr("blobs/" + "0" * 64, b"")
        elif what == "a comment":
            archive.comment = b"hello"
    if what == "a prefix":
        path.write_bytes(b"PK" + path.read_bytes())
    with pytest.raises(ArchiveInvalid, match="not an acceptable archive"):
        untouched.restore_archive(path)


@pytest.mark.parametrize("spoil", [False, True])
def test_an_archive_with_the_directory_of_large_files_is_read_and_bounded(
    spoil: bool,
    source: Source,
    target: WorkspaceStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, WorkspaceStore(source.folder) as store:
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
        store.archive(tmp_path / "large.zip", runs=[source.first])
    data = bytearray((tmp_path / "large.zip").read_bytes())
    assert data[-98:-94] == b"PK\x06\x06"
    if not spoil:
        assert target.restore_archive(tmp_path / "large.zip").blobs == 2
        return
    data[-98 + 24 : -98 + 32] = data[-98 + 32 : -98 + 40] = (5_000).to_bytes(8, "little")
    (tmp_path / "large.zip").write_bytes(data)
    with pytest.raises(ArchiveInvalid, match="not an acceptable archive: it promises 5,000 members"):
        target.restore_archive(tmp_path / "large.zip", limits=Limits(members=4_000))


def test_nothing_is_decompressed_beyond_what_was_promised(
    packed: dict[str, Path], target: WorkspaceStore, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(packed["tar.gz"]) as archive:
        content = archive.read()
    path.write_bytes(gzip.compress(content + b"\0" * (1 << 22), 9))
    with pytest.raises(ArchiveInvalid, match="more than its manifest says"):
        target.restore_archive(path)
    with zipfile.ZipFile(packed["zip"]) as archive_file:
        promised = sum(info.file_size for info in archive_file.infolist() if info.filename != "manifest.json")
    for limits, words in (
        (Limits(total_bytes=promised - 1), "promises"),
        (Limits(members=3), "promises"),
        (Limits(manifest_bytes=100), "manifest|more than"),
        (Limits(ratio=0.5, ratio_from=10), "no honest archive"),
    ):
        for format in FORMATS:
            with pytest.raises(ArchiveInvalid, match=words):
                target.restore_archive(packed[format], limits=limits)
    assert target.restore_archive(packed["zip"], limits=Limits(total_bytes=1 << 30)).blobs == 2


def test_a_merge_that_fails_leaves_no_file_and_no_row(
    packed: dict[str, Path], target: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.list_runs()
    before = blob_keys(target)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive_restore, "insert_rows", fail)
        with pytest.raises(KeyboardInterrupt):
            target.restore_archive(packed["zip"])
    assert blob_keys(target) == before
    assert target.list_runs().height == 0
    assert target.restore_archive(packed["zip"]).blobs == 2
