"""A workspace folder that others have filled: nothing is read or written through a link, and nothing waits for ever."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pytest
import xxhash
from sampling import covering
from storekit import begin, predict

from nirs_store.blobs.plain import blob_inside
from nirs_store.db import database, migrations
from nirs_store.db.journal import SegmentDamaged, decode, encode, new_txid
from nirs_store.db.layout import Layout
from nirs_store.db.schema import column_names
from nirs_store.errors import NirsStoreError, PathEscapes
from nirs_store.ids import new_id, now_naive
from nirs_store.maintenance.check import check_workspace
from nirs_store.store import WorkspaceStore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes and sockets of Unix")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "ws"
    with WorkspaceStore(folder) as store:
        _, pipeline_id = begin(store)
        predict(store, pipeline_id)
        store.save_artifact([pipeline_id], "builtins.list", "model", "joblib")
        store.list_runs()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ws"))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file of the user's, which stays as it is and where it is, and gets no neighbours."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "precious.txt").write_text("precious")
    os.utime(home / "precious.txt", (1e9, 1e9))
    yield home / "precious.txt"
    assert [path.name for path in home.iterdir()] == ["precious.txt"]
    assert (home / "precious.txt").read_text() == "precious"
    assert (home / "precious.txt").stat().st_mtime == 1e9


def use(folder: Path) -> None:
    """Do what touches everything: ask, record, collect, vacuum, check; refusals in words of the library are right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(NirsStoreError), WorkspaceStore(folder, lock_timeout=2) as store:
            store.list_runs()
            _, pipeline_id = begin(store, "mine")
            store.save_artifact([pipeline_id], "builtins.dict", "model", "joblib")
            store.delete_run(store.begin_run("gone", {}, []), now=True)
            store.gc_artifacts(grace_seconds=0)
            store.vacuum()
        with contextlib.suppress(NirsStoreError):
            check_workspace(folder, read_data=True)


def pipe(place: Path) -> None:
    os.mkfifo(place)


def sock(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.open(place.parent, os.O_RDONLY)
        try:
            os.chdir(here)
            opened.bind(place.name)
        finally:
            os.close(here)


def endless(place: Path) -> None:
    place.symlink_to("/dev/zero")


MACHINERY = (
    "journal/lock", "journal/wait", "journal/holder", "journal/change-count", "journal/reserve", "journal/untidied", "journal/settings.json",
    "journal/audit-head.json", "journal/claims/01a22a17-6e52-7775-92f3-3f94d1eba785", "journal/tmp/left.tmp",
    "journal/segments/000000000009-01a22a17-6e52-7775-92f3-3f94d1eba785.seg", "journal/rejected/note.json",
    "journal/aside/artifacts%2Fab%2Fabc.joblib",
)  # fmt: skip


def replace(place: Path, make: Callable[[Path], None]) -> None:
    place.unlink(missing_ok=True)
    make(place)


@pytest.mark.parametrize(("name", "dangling"), covering(MACHINERY, [False, True]))
def test_nothing_is_written_through_a_link(folder: Path, outside: Path, name: str, dangling: bool) -> None:
    replace(
        folder / name, lambda place: place.symlink_to(outside.with_name("new.txt") if dangling else outside)
    )
    use(folder)


@pytest.mark.parametrize(("name", "make"), covering(MACHINERY, [pipe, sock, endless, Path.mkdir]))
@pytest.mark.timeout(60)
def test_what_is_not_a_file_keeps_nobody_waiting(
    folder: Path, name: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    replace(folder / name, make)
    use(folder)


@pytest.mark.timeout(60)
def test_a_pipe_among_the_commits_is_set_aside_and_named(folder: Path) -> None:
    name = "000000000009-01a22a17-6e52-7775-92f3-3f94d1eba785.seg"
    os.mkfifo(folder / "journal" / "segments" / name)
    with WorkspaceStore(folder) as store, pytest.warns(UserWarning, match="pipe"):
        assert store.list_runs().height == 1
    (finding,) = check_workspace(folder).of_kind("segment_rejected")
    assert name in finding.where


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_blob_is_an_error_of_the_library(folder: Path) -> None:
    (blob,) = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    replace(blob, pipe)
    with WorkspaceStore(folder) as store, pytest.raises(NirsStoreError):
        store.load_artifact(blob.stem)
    assert not check_workspace(folder, read_data=True).ok


@pytest.mark.parametrize("name", [f.relative_to("/").as_posix() for f in Layout(Path("/")).folders])
def test_a_folder_of_the_workspace_that_leads_elsewhere_is_refused(
    folder: Path, outside: Path, name: str
) -> None:
    place = folder / name
    shutil.rmtree(place)
    place.symlink_to(outside.parent)
    for way in (WorkspaceStore, check_workspace):
        with pytest.raises(PathEscapes, match="link"):
            way(folder)


# -- paths in rows and names ---------------------------------------------------------------------


ESCAPES = (
    "../home/precious.txt", "artifacts/../../home/precious.txt", "{home}/precious.txt", "store.duckdb",
    "./store.duckdb", "STORE.DUCKDB", "journal/lock", "artifacts//../journal/lock", "way/precious.txt",
    "inner/lock", "C:/precious.txt", "..\\home\\precious.txt", "", ".", "journal",
)  # fmt: skip


@pytest.mark.parametrize(("path", "where"), covering(ESCAPES, ["row", "aside"]))
def test_a_stored_path_is_never_followed_out_of_the_blobs(
    folder: Path, outside: Path, path: str, where: str
) -> None:
    path = path.replace("{home}", str(outside.parent))
    (folder / "way").symlink_to(outside.parent)
    (folder / "inner").symlink_to(folder / "journal")
    with pytest.raises(PathEscapes):
        blob_inside(folder, path)
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute("UPDATE blobs SET artifact_path = ?, created_at = '2020-01-01'", [path])
        if where == "row":
            con.execute("DELETE FROM artifact_refs")
    if where == "aside" and path.strip("."):
        if path.endswith("precious.txt"):
            path = path.replace("precious", "new")
            with duckdb.connect(str(folder / "store.duckdb")) as con:
                con.execute("UPDATE blobs SET artifact_path = ?", [path])
        (folder / "journal" / "aside" / quote(path, safe="")).write_text("from the workspace")
    (artifact_id,) = duckdb_ids(folder)
    with WorkspaceStore(folder) as store:
        begin(store, "mine")
        assert store.list_runs().height == 2
        store.gc_artifacts(grace_seconds=0)
        if where == "aside":
            with pytest.raises(NirsStoreError):
                store.load_artifact(artifact_id)
    assert (folder / "store.duckdb").exists()
    assert (folder / "journal" / "lock").exists()
    if where == "aside" and path.strip("."):
        named = [
            finding.message
            for finding in check_workspace(folder).findings
            if finding.where == "journal/aside"
        ]
        assert named, "what lies there is said"


def duckdb_ids(folder: Path) -> list[str]:
    with duckdb.connect(str(folder / "store.duckdb"), read_only=True) as con:
        return [str(row[0]) for row in con.execute("SELECT artifact_id FROM blobs").fetchall()]


# -- commits that are not what they say ------------------------------------------------------------


TXID = "01a22a17-6e52-7775-92f3-3f94d1eba785"


def segment(
    change: Callable[[str, pa.Table], pa.Table | bytes], head: Callable[[dict], dict] = dict
) -> bytes:  # type: ignore[type-arg]
    """A commit of two runs in which one thing is wrong; its checksum is right."""
    run = dict.fromkeys(
        ("config", "datasets", "completed_at", "summary", "error", "environment", "note", "tags")
    )
    rows = [
        tuple({**run, "run_id": new_id(), "name": name, "status": "running", "created_at": now_naive()}.get(c) for c in column_names("runs"))
        for name in ("a", "b")
    ]  # fmt: skip
    data = b"".join(encode({"runs": rows}, txid=TXID, claim="c", session="s", created=""))
    (length,) = struct.unpack_from("<I", data, 8)
    header = json.loads(data[12 : 12 + length])
    table = pa.ipc.open_stream(data[12 + length : -16]).read_all()
    made = change("runs", table)
    if not isinstance(made, bytes):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, made.schema) as out:
            out.write_table(made)
        made = sink.getvalue().to_pybytes()
    header["tables"] = [["runs", 2, len(made)]]
    text = json.dumps(head(header)).encode()
    data = data[:8] + struct.pack("<I", len(text)) + text + made
    return data + xxhash.xxh3_128_digest(data)


def column(
    build: Callable[[pa.DataType], pa.Array], name: str = "name"
) -> Callable[[str, pa.Table], pa.Table]:
    def change(_: str, table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        made = build(table.schema.field(name).type)
        return table.set_column(place, pa.field(name, made.type), made)

    return change


def text(offsets: list[int], data: bytes) -> Callable[[pa.DataType], pa.Array]:
    def build(kind: pa.DataType) -> pa.Array:
        buffers = [None, pa.py_buffer(struct.pack(f"<{len(offsets)}i", *offsets)), pa.py_buffer(data)]
        return pa.Array.from_buffers(kind, 2, buffers)

    return build


def same(_: str, table: pa.Table) -> pa.Table:
    return table


WRONG: dict[str, Callable[[], bytes]] = {
    "offsets that fall": lambda: segment(column(text([0, 4, 2], b"abcd"))),
    "offsets below nothing": lambda: segment(column(text([0, -(2**20), 4], b"abcd"))),
    "offsets beyond the end": lambda: segment(column(text([0, 2**31 - 1, 4], b"abcd"))),
    "long offsets": lambda: segment(column(lambda _: pa.array(["a", "b"], pa.large_string()))),
    "text that is not UTF-8": lambda: segment(column(text([0, 1, 2], b"\xff\xfe"))),
    "other type": lambda: segment(column(lambda _: pa.array([1, 2]))),
    "dictionary": lambda: segment(column(lambda _: pa.array(["a", "b"]).dictionary_encode())),
    "list": lambda: segment(column(lambda _: pa.array([["a"], ["b"]]))),
    "column twice": lambda: segment(lambda _, table: table.append_column("name", table.column("name"))),
    "column missing": lambda: segment(lambda _, table: table.drop_columns(["name"])),
    "no rows where two were announced": lambda: segment(lambda _, table: table.slice(0, 0)),
    "stream that is none": lambda: segment(lambda *_: b"\xff" * 200),
    "header of lists": lambda: segment(same, lambda head: {**head, "claim": ["c"]}),
    "sizes below nothing": lambda: segment(same, lambda head: {**head, "tables": [["runs", 2, -1]]}),
    "sizes beyond the end": lambda: segment(same, lambda head: {**head, "tables": [["runs", 2, 10**9]]}),
    "sizes that are no numbers": lambda: segment(same, lambda head: {**head, "tables": [["runs", 2, "x"]]}),
    "table twice": lambda: segment(same, lambda head: {**head, "tables": head["tables"] * 2}),
    "header that is deep": lambda: _signed(b"[" * 100_000),
    "length beyond the end": lambda: _signed(b"{}", length=2**32 - 1),
    "other id than its name": lambda: segment(same, lambda head: {**head, "txid": new_txid()}),
}


def _signed(header: bytes, length: int | None = None) -> bytes:
    data = b"NIRSSEG1" + struct.pack("<I", len(header) if length is None else length) + header
    return data + xxhash.xxh3_128_digest(data)


def test_the_commit_that_is_changed_here_is_right_without_a_change() -> None:
    assert decode(segment(same)).tables["runs"].num_rows == 2


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_a_commit_that_is_not_what_it_says_is_set_aside(folder: Path, make: Callable[[], bytes]) -> None:
    data = make()
    if make is not WRONG["other id than its name"]:
        with pytest.raises(SegmentDamaged):
            decode(data)
    place = folder / "journal" / "segments" / f"000000000009-{TXID}.seg"
    place.write_bytes(data)
    assert [finding.kind for finding in check_workspace(folder).errors] == ["segment_damaged"]
    with WorkspaceStore(folder) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert store.list_runs().height == 1
        begin(store, "mine")
        assert store.list_runs().height == 2
    assert (folder / "journal" / "rejected" / place.name).read_bytes() == data
    assert not place.exists()


@pytest.mark.parametrize("digits", ["9" * 15, "9" * 16, "9" * 19, "9" * 40])
def test_a_number_above_all_numbers_takes_no_commit_with_it(folder: Path, digits: str) -> None:
    (folder / "journal" / "segments" / f"{digits}-{TXID}.seg").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with WorkspaceStore(folder) as store:
            store.list_runs()
            begin(store, "mine")
            assert sorted(store.list_runs()["name"]) == ["mine", "run"]
        with WorkspaceStore(folder) as store:
            begin(store, "more")
            assert store.list_runs().height == 3


# -- another program with the catalog open ---------------------------------------------------------


def test_a_catalog_held_elsewhere_is_not_tried_after_each_commit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def locked(*_: object, **__: object) -> None:
        tried.append(time.monotonic())
        raise migrations.CatalogLocked("in another program")

    with WorkspaceStore(folder) as store:
        run_id = store.begin_run("long", {}, [])
        store.flush()
        store._engine._flusher.stop()
        store._engine.access._give_up()
        monkeypatch.setattr(migrations, "open_catalog", locked)
        monkeypatch.setattr(database, "_PAUSE", 3600.0)
        for _ in range(20):
            store._engine.access.try_apply()
        assert len(tried) == 1
        monkeypatch.undo()
        store._engine.access._not_before = 0.0
        assert store.get_run(run_id) is not None
