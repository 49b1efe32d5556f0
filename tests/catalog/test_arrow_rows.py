"""Rows of a stranger: what unfolds, shares bytes or is of another kind is refused before it takes memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from storekit import begin, predict

from nirs_store.db.journal import SegmentDamaged, decode, encode
from nirs_store.db.schema import arrow_schema
from nirs_store.db.table import Unfolds, read_rows
from nirs_store.errors import CatalogDamaged
from nirs_store.store import WorkspaceStore

MUCH = 64 << 20
TEXT = pa.schema([("text", pa.string())])


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def logs(message: str) -> pa.Table:
    row = ("l", "p", 1, None, "start", None, message, None, "info", None)
    return pa.Table.from_struct_array(pa.array([row], pa.struct(list(arrow_schema("logs")))))


def segment(name: str, rows: bytes, count: int = 1) -> bytes:
    """Return a commit of one table, whose checksum is right."""
    pieces = encode({"logs": [("l", "p", 1, None, "start", None, "m", None, "info", None)]}, txid="t", claim="", session="", created="")  # fmt: skip
    header = pieces[2].replace(b'[["logs", 1, %d]]' % len(pieces[3]), b'[["%s", %d, %d]]' % (name.encode(), count, len(rows)))  # fmt: skip
    whole = b"".join([pieces[0], struct.pack("<I", len(header)), header, rows])
    return whole + xxhash.xxh3_128(whole).digest()


def test_the_segments_made_here_are_read_when_they_are_plain() -> None:
    assert decode(segment("logs", stream(logs("short")))).tables["logs"]["message"].to_pylist() == ["short"]


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("version", [pa.ipc.MetadataVersion.V4, pa.ipc.MetadataVersion.V5])
def test_a_commit_that_is_compressed_inside_is_refused_before_its_rows_are_read(
    codec: str, version: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = segment("logs", stream(logs("A" * MUCH), compression=codec, metadata_version=version))
    assert len(data) < MUCH // 100
    monkeypatch.setattr(pa.ipc, "read_record_batch", lambda *_: pytest.fail("it was unfolded"))
    with pytest.raises(SegmentDamaged, match=r"compressed|version"):
        decode(data)


NESTED = {
    "dictionary": pa.array(["A" * 1000] * 5).dictionary_encode(),
    "list": pa.array([[["A"]] * 5]),
    "struct": pa.array([{"a": {"b": 1}}]),
    "run ends": pa.RunEndEncodedArray.from_arrays([1 << 30], ["A" * 1000]),
    "view": pa.array(["A" * 1000], pa.string_view()),
    "nulls": pa.nulls(1 << 30),
    "union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(["a"])]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("kind", list(NESTED))
def test_columns_of_other_kinds_are_refused_by_their_type(kind: str) -> None:
    column = NESTED[kind]
    rows = logs("short")
    columns = [
        column.slice(0, 1) if name == "message" else rows[name].combine_chunks() for name in rows.column_names
    ]
    table = pa.table(dict(zip(rows.column_names, columns, strict=True)))
    with pytest.raises(SegmentDamaged, match=r"other columns|union"):
        decode(segment("logs", stream(table)))


@pytest.mark.parametrize("name", ["logs", "arrays", "metrics"])
def test_lengths_of_buffers_that_lie_are_refused(name: str) -> None:
    schema = arrow_schema(name)
    honest = pa.table({f.name: pa.nulls(3, f.type) for f in schema}, schema)
    data = stream(honest)
    place = data.index(struct.pack("<q", 3), data.index(b"\xff\xff\xff\xff", 4))
    for length in (1 << 20, 1 << 40, 1 << 62, -1):
        altered = data[:place] + struct.pack("<q", length) + data[place + 8 :]
        with pytest.raises(SegmentDamaged):
            decode(segment(name, altered, 3))


def test_a_stream_without_a_schema_is_refused() -> None:
    with pytest.raises(SegmentDamaged, match="no schema"):
        decode(segment("logs", b"\xff\xff\xff\xff\x00\x00\x00\x00"))


def accept(schema: pa.Schema) -> None:
    assert schema == TEXT


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_packed_rows_unfold_to_what_is_allowed_and_no_further(codec: str) -> None:
    table = pa.table({"text": ["A" * 1000] * 1000}, TEXT)
    data = pa.py_buffer(stream(table, compression=codec))
    assert read_rows(data, accept, most=1_100_000, packed=True).equals(table)
    for most in (10_000, 999_999):
        with pytest.raises(Unfolds, match="unfolds to more"):
            read_rows(data, accept, most=most, packed=True)
    with pytest.raises(Unfolds, match="compressed"):
        read_rows(data, accept, most=1 << 30)


def test_many_small_batches_are_added_up() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TEXT, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for _ in range(50):
            writer.write_batch(pa.record_batch([pa.array(["A" * 100_000])], schema=TEXT))
    with pytest.raises(Unfolds, match="unfolds to more"):
        read_rows(sink.getvalue(), accept, most=1_000_000, packed=True)


def test_a_size_that_a_compressed_buffer_lies_about_is_refused() -> None:
    data = stream(pa.table({"text": ["A" * 100_000]}, TEXT), compression="zstd")
    place = data.rindex(struct.pack("<q", 100_000))
    for said in (5, 1 << 40, -2):
        altered = data[:place] + struct.pack("<q", said) + data[place + 8 :]
        with pytest.raises((Unfolds, pa.ArrowException, OSError)):
            read_rows(pa.py_buffer(altered), accept, most=1_000_000, packed=True)


def test_dictionaries_and_rows_that_share_bytes_are_refused() -> None:
    words = pa.schema([("text", pa.dictionary(pa.int32(), pa.string()))])
    data = stream(pa.table({"text": pa.array(["A"]).dictionary_encode()}, words))
    with pytest.raises(Unfolds, match="dictionaries"):
        read_rows(pa.py_buffer(data), lambda schema: None, most=1 << 20)
    table = pa.table({"text": ["A" * 1000]}, TEXT)
    with pytest.raises(Unfolds, match="share"):
        read_rows(pa.py_buffer(stream(table)), accept, most=500)


@pytest.fixture
def deleted(tmp_path: Path) -> Path:
    with WorkspaceStore(tmp_path / "ws") as store:
        run_id, pipeline_id = begin(store)
        predict(store, pipeline_id)
        store.delete_run(run_id)
    return tmp_path / "ws"


def whole(name: str, rows: bytes) -> bytes:
    return stream(pa.table({"name": pa.array([name]), "rows": pa.array([rows], pa.large_binary())}))


KEYED = pa.table({"run_id": ["r"], "name": ["a"]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (whole("logs", stream(logs("A" * (MUCH * 2)), compression="zstd")), "unfolds"),
        (whole("runs; DROP TABLE runs; --", stream(KEYED)), "rows of 'runs; DROP"),
        (whole("runs", stream(KEYED.rename_columns(["run_id", "name FROM runs; DROP TABLE runs; --"]))), "columns"),
        (whole("runs", stream(KEYED.select(["name", "run_id"]))), "columns"),
        (whole("runs", stream(pa.table({"run_id": pa.array([["r"]])}))), "columns"),
        (stream(pa.table({"name": ["runs"]})), "columns"),
        (b"", "cannot be read"),
        (b"\xff" * 100, "cannot be read"),
    ],
    ids=["zstd", "table", "column", "order", "type", "outside", "empty", "noise"],
)  # fmt: skip
def test_the_trash_of_a_stranger_is_read_by_its_columns_and_bounded(
    deleted: Path, content: bytes, words: str
) -> None:
    with WorkspaceStore(deleted) as store:
        (identifier,) = store.trash.list()["trash_id"]
        store._engine.change(lambda con: con.execute("UPDATE trash SET content = ?", [content]).fetchall())
        with pytest.raises(CatalogDamaged, match=words):
            store.trash.restore(identifier)
        assert store.list_runs().height == 0
        assert store.trash.list().height == 1
