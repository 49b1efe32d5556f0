"""Putting files and getting them again: what may be put, what comes back, what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from storekit import blob_root

from nirs_store.errors import (
    BlobCorrupt,
    InvalidInput,
    PathEscapes,
    ReadOnlyStore,
    SourceMissing,
    UnknownFile,
    UnknownId,
)
from nirs_store.files import content
from nirs_store.store import WorkspaceStore

TEXT = b"position\tscore\n" + b"".join(b"%d\t0.5\n" % n for n in range(3000))
FRAME = pl.DataFrame({"gene": ["BRCA1", "TP53"], "score": [0.25, 0.75]})


def blobs(store: WorkspaceStore) -> list[Path]:
    return [path for path in (blob_root(store) / "artifacts").rglob("*") if path.is_file()]


def drafts(store: WorkspaceStore) -> list[Path]:
    return list((store.workspace_path / "journal" / "tmp").iterdir())


def wholly_intact(store: WorkspaceStore) -> bool:
    return store.check(read_data=True).ok and store.files.validate().ok


def test_a_file_comes_back_byte_for_byte_however_it_was_compressed(
    store: WorkspaceStore, tmp_path: Path
) -> None:
    source = tmp_path / "positions.tsv"
    source.write_bytes(TEXT)
    for compression in ("auto", "none", "gzip", "zip", "tar.gz", "zstd"):
        name = f"eval/{compression}.tsv"
        version = store.files.put(source, name, type="splice_positions", compression=compression)
        assert version.content_hash == hashlib.sha256(TEXT).hexdigest()
        assert version.compression == ("zstd" if compression == "auto" else compression)
        assert (version.stored_bytes < len(TEXT) / 2) == (compression != "none")
        assert store.files.get(name) == TEXT
        assert store.files.get(name, tmp_path / "back.tsv").read_bytes() == TEXT
        with store.files.open(name) as stream:
            assert stream.read(8) + stream.read() == TEXT
        with store.files.open(name, "r") as lines:
            assert next(iter(lines)) == "position\tscore\n"
        assert store.files.path(name).read_bytes() == TEXT
    assert wholly_intact(store)
    assert not drafts(store)


def test_a_folder_comes_back_with_everything_in_it(store: WorkspaceStore, tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "weights" / "deep").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "config.json").write_text("{}")
    (source / "weights" / "deep" / "w.bin").write_bytes(bytes(range(256)) * 50)
    for compression in ("none", "gzip", "zip", "tar.gz", "zstd"):
        name = f"models/{compression}"
        version = store.files.put(source, name, type="model_checkpoint", compression=compression)
        back = store.files.get(name, tmp_path / compression)
        assert sorted(p.relative_to(back).as_posix() for p in back.rglob("*")) == [
            "config.json", "empty", "weights", "weights/deep", "weights/deep/w.bin",
        ]  # fmt: skip
        assert (back / "weights/deep/w.bin").read_bytes() == bytes(range(256)) * 50
        again = store.files.put(back, name, type="model_checkpoint", compression="zstd")
        assert not again.added, "the same files are the same content, whatever the compression"
        assert again.version_id == version.version_id
        with pytest.raises(InvalidInput, match="exists already"):
            store.files.get(name, back)
    assert wholly_intact(store)


def test_what_is_stored_can_be_opened_by_any_program(store: WorkspaceStore) -> None:
    def blob(compression: str) -> bytes:
        version = store.files.put(TEXT, f"{compression}.txt", type="log", compression=compression)
        return store.read_artifact(version.artifact_id or "")

    assert gzip.decompress(blob("gzip")) == TEXT
    assert zipfile.ZipFile(io.BytesIO(blob("zip"))).read("content") == TEXT
    with tarfile.open(fileobj=io.BytesIO(blob("tar.gz"))) as archive:
        member = archive.extractfile("content")
        assert member is not None
        assert member.read() == TEXT
    assert blob("none") == TEXT


@pytest.mark.everywhere
def test_the_same_content_gives_the_same_blob(store: WorkspaceStore) -> None:
    for number, compression in enumerate(("gzip", "zip", "tar.gz", "zstd"), 1):
        for name in (f"{compression}/a.txt", f"{compression}/b.txt"):
            store.files.put(TEXT, name, type="log", compression=compression)
        assert len(blobs(store)) == number


def test_a_value_comes_back_as_it_was_put(store: WorkspaceStore) -> None:
    values: tuple[tuple[Any, str, str], ...] = (
        ({"rmse": 0.4, "folds": [1, 2]}, "report.json", "json"),
        (b"\x00\xff", "raw.bin", "bytes"),
        (FRAME, "t.parquet", "table"),
        (FRAME, "t.csv", "table"),
        (FRAME, "t.tsv", "table"),
        (FRAME, "no_ending", "table"),
    )
    for value, name, kind in values:
        assert store.files.put(value, name, type="file").kind == kind
        found = store.files.get(name)
        if isinstance(value, pl.DataFrame):
            assert_frame_equal(found, value)
        else:
            assert found == value


def test_a_table_is_written_as_its_name_ends(store: WorkspaceStore) -> None:
    store.files.put(FRAME, "t.tsv", type="predictions", compression="none")
    assert store.files.path("t.tsv").read_text() == "gene\tscore\nBRCA1\t0.25\nTP53\t0.75\n"
    with pytest.raises(InvalidInput, match=r"\.xlsx"):
        store.files.put(FRAME, "t.xlsx", type="predictions")


def test_a_pandas_frame_and_its_index_are_stored(store: WorkspaceStore) -> None:
    frame = pd.DataFrame({"fat": [1.5, 2.5]}, index=pd.Index(["a", "b"], name="sample"))
    store.files.put(frame, "t.parquet", type="dataset")
    assert store.files.get("t.parquet").to_dicts() == [
        {"sample": "a", "fat": 1.5},
        {"sample": "b", "fat": 2.5},
    ]


def test_metadata_are_enough(store: WorkspaceStore) -> None:
    spans = {"phi_segments": [{"start": 45.2, "end": 46.8, "type": "name"}], "total_segments": 1}
    version = store.files.put(None, "phi.json", type="AUDIO_PHI_INTERVALS", metadata=spans)
    assert (version.kind, version.size_bytes, version.content_hash) == ("metadata", 0, None)
    assert store.files.get("phi.json") == spans
    assert not store.files.put(None, "phi.json", type="audio_phi_intervals", metadata=spans).added
    with pytest.raises(InvalidInput, match="metadata only"):
        store.files.path("phi.json")


def test_auto_tries_and_says_why_it_does_not_compress(store: WorkspaceStore) -> None:
    noise = store.files.put(os.urandom(100_000), "noise.bin", type="file")
    assert noise.compression == "none"
    assert "100% only" in (noise.compression_note or "")
    assert "too small" in (store.files.put(b"abc", "small.bin", type="file").compression_note or "")


def test_a_compression_that_fails_falls_back_to_none_and_says_so(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no window")

    monkeypatch.setattr(content, "encoding", broken)
    with pytest.warns(UserWarning, match="stored uncompressed: zstd failed"):
        version = store.files.put(TEXT, "x.txt", type="log", compression="zstd")
    assert version.compression == "none"
    assert "zstd failed (no window)" in (version.compression_note or "")
    assert store.files.get("x.txt") == TEXT
    assert not drafts(store)


def test_auto_takes_back_a_compression_that_did_not_help(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "compressed_size", lambda sample: 1)
    version = store.files.put(os.urandom(50_000), "noise.bin", type="file")
    assert version.compression == "none"
    assert "did not shrink" in (version.compression_note or "")


def test_content_in_many_pieces_comes_back(store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nirs_store.files.content.PIECE", 1000)
    monkeypatch.setattr("nirs_store.files.output.PIECE", 777)
    for compression in content.SUFFIXES:
        store.files.put(TEXT, "x.txt", type="log", compression=compression, metadata={"how": compression})
        assert store.files.get("x.txt") == TEXT


# -- code that writes itself ---------------------------------------------------------------------


def test_a_file_that_its_caller_writes_is_stored_at_the_end(store: WorkspaceStore) -> None:
    with store.files.create("models/net.pt", type="model_checkpoint", tags=["best"]) as path:
        assert path.name == "net.pt"
        path.write_bytes(b"weights")
    assert store.files.get("models/net.pt") == b"weights"
    with store.files.create("models/folder") as path:
        path.mkdir()
        (path / "a").write_bytes(b"a")
    known = store.files.metadata("models/folder")
    assert (known["kind"], known["type"]) == ("folder", "file")
    assert not drafts(store)


def test_nothing_is_stored_when_the_caller_fails_or_writes_nothing(store: WorkspaceStore) -> None:
    def fail() -> None:
        with store.files.create("x.pt", type="model") as path:
            path.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(InvalidInput, match="Nothing was written"), store.files.create("x.pt", type="model"):
        pass
    assert not store.files.exists("x.pt")
    assert not drafts(store)
    assert not blobs(store)


def test_a_result_is_computed_once(store: WorkspaceStore) -> None:
    calls: list[int] = []

    def compute() -> pl.DataFrame:
        calls.append(1)
        return FRAME

    for _ in range(3):
        assert_frame_equal(
            store.files.get_or_compute("features.parquet", compute, inputs={"window": 5}), FRAME
        )
    assert len(calls) == 1
    store.files.get_or_compute("features.parquet", compute, inputs={"window": 7})
    assert len(calls) == 2


# -- many ----------------------------------------------------------------------------------------


@pytest.mark.everywhere
def test_many_files_are_one_transaction(store: WorkspaceStore) -> None:
    items = [{"source": b"%d" % n, "name": f"e/{n}.txt", "episode": str(n)} for n in range(40)]
    versions = store.files.put_many(items, type="episode_data", model_id="m1")
    assert [version.name for version in versions] == [f"e/{n}.txt" for n in range(40)]
    assert store.files.list("e/*", model_id="m1").height == 40
    assert store.files.get("e/17.txt") == b"17"
    bad = [
        {"source": b"new", "name": "e/new.txt"},
        {"source": b"x", "name": "e/y.txt", "sources": ["nowhere"]},
    ]
    with pytest.raises(UnknownFile):
        store.files.put_many(bad, type="episode_data")
    assert not store.files.exists("e/new.txt")
    assert wholly_intact(store)
    assert len(blobs(store)) == 40
    assert not drafts(store)


def test_a_put_within_a_transaction_of_rows_stands_for_itself(store: WorkspaceStore) -> None:
    with store.transaction():
        store.begin_run("r", {}, [])
        store.files.put(b"x", "x", type="log")
        with store.files.create("y") as path:
            path.write_bytes(b"y")
    assert store.files.get("x") + store.files.get("y") == b"xy"
    assert store.list_runs().height == 1
    assert store.check(read_data=True).ok


def test_one_name_twice_in_one_call_is_two_versions(store: WorkspaceStore) -> None:
    store.files.put_many([{"source": text, "name": "x"} for text in (b"1", b"2", b"2")], type="log")
    assert store.files.versions("x").select("version", "is_latest").rows() == [(2, True), (1, False)]
    assert store.files.get("x") == b"2"


def test_a_pandas_frame_that_is_no_table_is_refused_with_the_column(store: WorkspaceStore) -> None:
    for frame, words in (
        (
            pd.DataFrame({"gc": [0.5, 0.4], "site": [1, "x"]}),
            r"several types: 'site' \(int, str\)\. Nothing was",
        ),
        (pd.DataFrame({"z": [1j]}), "Nothing was stored"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "unique"),
        (pd.DataFrame({"a": [1]}, index=pd.Index([1], name="a")), "overlap"),
        (pd.DataFrame({"n": [2**70]}), "too large"),
    ):
        for name in ("t.parquet", "t.csv"):
            with pytest.raises(InvalidInput, match=words):
                store.files.put(frame, name, type="predictions")
    with pytest.raises(InvalidInput, match="several types"):
        store.files.put_training_set("t", pd.DataFrame({"site": [1, "x"]}), FRAME)
    assert store.files.list().is_empty()
    assert not drafts(store)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("text", "b.bin", "'b.bin' v1 is not text: byte 2 is 0xff"),
        ("json", "b.bin", "'b.bin' v1 is not JSON"),
        ("table", "b.bin", r"'b.bin' v1 is not a table: expected a name that ends with \.parquet"),
        ("table", "b.parquet", "'b.parquet' v1 is not a parquet table"),
        ("table", "b.csv", "'b.csv' v1 is not a csv table"),
    ],
)
def test_a_file_is_not_read_as_what_it_is_not(
    store: WorkspaceStore, kind: str, name: str, words: str
) -> None:
    data = b"a\n\xff\n"
    store.files.put(data, name, type="log")
    with pytest.raises(InvalidInput, match=words) as caught:
        store.files.get(name, kind=kind)
    assert "stored" not in str(caught.value)
    assert str(caught.value).endswith("It is unchanged; read it with kind='bytes'.")
    assert store.files.get(name, kind="bytes") == data


# -- bad input -----------------------------------------------------------------------------------


def test_a_name_that_leaves_the_store_is_refused(store: WorkspaceStore) -> None:
    for name in (
        "/etc/passwd", "../up", "a/../../b", "a\\b", "C:/x", "a//b", "./x", "~/x", "a/", "x\ny", "x\u2028y"
    ):  # fmt: skip
        with pytest.raises(PathEscapes):
            store.files.put(b"x", name, type="log")
    assert not blobs(store)


BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"source": "no-such-file.mp4"}, SourceMissing, "does not exist"),
    ({"source": object()}, InvalidInput, "expected a path"),
    ({"type": "vidoe_raw"}, InvalidInput, "'video_raw'"),
    ({"status": "complete"}, InvalidInput, "'completed'"),
    ({"mode": "prodution"}, InvalidInput, "'production'"),
    ({"coverage": "chromosom"}, InvalidInput, "'chromosome'"),
    ({"compression": "gzpi"}, InvalidInput, "'gzip'"),
    ({"metadata": [1]}, InvalidInput, "expected a dict"),
    ({"tags": [""]}, InvalidInput, "non-empty printable"),
    ({"run_id": "nobody"}, UnknownId, "No run"),
    ({"sources": [("chain", "nobody")]}, UnknownId, "No chain"),
    ({"sources": ["nobody"]}, UnknownFile, "nobody"),
    ({"test_name": "t", "mode": "production"}, InvalidInput, "test_name"),
    ({"type": "video_keypoints", "metadata": {"people_detected": "two"}}, InvalidInput, "people_detected"),
)


def test_bad_input_is_refused_with_a_typed_error_and_changes_nothing(store: WorkspaceStore) -> None:
    for arguments, error, words in BAD:
        with pytest.raises(error, match=words):
            store.files.put(**{"source": b"content", "name": "x", "type": "log", **arguments})
    assert store.files.list(all_versions=True).is_empty()
    assert not blobs(store)
    assert not drafts(store)


def test_what_is_refused_is_audited(store: WorkspaceStore) -> None:
    for arguments, error, _ in BAD:
        with pytest.raises(error):
            store.files.put(**{"source": b"content", "name": "x", "type": "log", **arguments})
    version = store.files.put(b"content", "x", type="log")
    noted = store.audit.query("put").select("object_kind", "object_id", "success").rows()
    assert noted == [("file", "x", False)] * len(BAD) + [("file", version.version_id, True)]


def test_a_missing_source_is_a_file_not_found(store: WorkspaceStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.files.put(Path("missing_file.mp4"), "x.mp4", type="video_raw")


def test_a_folder_with_links_is_refused(store: WorkspaceStore, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "link").symlink_to("/etc/hostname")
    with pytest.raises(InvalidInput, match="symbolic link"):
        store.files.put(tmp_path / "f", "f", type="file")


def test_a_file_that_grows_while_it_is_read_is_refused(
    store: WorkspaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "growing.log"
    source.write_bytes(TEXT)
    trial = content._by_trial

    def grow(found: Any) -> Any:
        with source.open("ab") as file:
            file.write(b"more")
        return trial(found)

    monkeypatch.setattr(content, "_by_trial", grow)
    with pytest.raises(InvalidInput, match="changed while it was read"):
        store.files.put(source, "growing.log", type="log")
    assert not blobs(store)
    assert not drafts(store)


def test_damaged_content_is_never_handed_out(store: WorkspaceStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "back"
    for compression in ("none", "gzip", "zip", "tar.gz", "zstd"):
        for source in (tmp_path / "file", tmp_path / "folder"):
            text = TEXT + f"{compression} {source.name}".encode()
            (source / "x.txt" if source.is_dir() else source).write_bytes(text)
            name = f"{source.name}-{compression}"
            version = store.files.put(source, name, type="log", compression=compression)
            blob = store.get_artifact_path(version.artifact_id or "")
            data = bytearray(blob.read_bytes())
            data[data.find(b"1500\t0.5") if compression == "none" else len(data) // 2] ^= 1
            blob.chmod(0o644)
            blob.write_bytes(data)
            with pytest.raises(BlobCorrupt):
                store.files.get(name, target)
            assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
            if source.is_file():
                with pytest.raises(BlobCorrupt):
                    store.files.get(name)
                with pytest.raises(BlobCorrupt):
                    store.files.open(name)
            (problem,) = store.files.validate().problems
            assert (problem["name"], problem["problem"]) == (name, "damaged")
            with pytest.raises(BlobCorrupt):
                store.files.path(name)
            store.files.put(source, name, type="log", compression=compression)
            assert store.files.validate().ok, "putting the same file again heals it"


def test_a_read_only_store_gives_and_takes_nothing(store: WorkspaceStore) -> None:
    store.files.put(TEXT, "x.txt", type="log", compression="none")
    with WorkspaceStore(store.workspace_path, read_only=True) as reader:
        assert reader.files.get("x.txt") == TEXT
        with pytest.raises(ReadOnlyStore):
            reader.files.put(b"y", "y.txt", type="log")
        with pytest.raises(ReadOnlyStore):
            reader.files.delete("x.txt")


def test_memory_does_not_grow_with_the_file(store: WorkspaceStore, tmp_path: Path) -> None:
    source = tmp_path / "large.bin"
    with source.open("wb") as file:
        for number in range(24):
            file.write(bytes([number]) * (1 << 20))
    for compression in ("none", "zstd"):
        store.files.put(b"warm" * 1000, "warm", type="file", compression=compression)
        tracemalloc.start()
        try:
            store.files.put(source, f"{compression}.bin", type="file", compression=compression)
            store.files.get(f"{compression}.bin", tmp_path / "back.bin")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 << 20
    assert store.files.metadata("none.bin")["size_bytes"] == 24 << 20


def test_a_bar_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with content.showing("storing x", 1 << 30) as advance:
        advance(1 << 29)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with content.showing("storing [x]", 1 << 30) as advance:
        advance(1 << 29)
    assert "storing [x]" in capsys.readouterr().err
