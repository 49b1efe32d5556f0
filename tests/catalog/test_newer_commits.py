"""A newer version has committed what this one cannot read: the commit stays in the journal, and nothing goes on without it."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from storekit import begin, segments, whole_pipeline

from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.errors import SchemaTooNew, SegmentRejected
from nirs_store.maintenance.check import check_workspace
from nirs_store.store import WorkspaceStore

Tables = dict[str, pa.Table]


def rewrite(
    path: Path, alter: Callable[[dict[str, Any], Tables], object], magic: bytes = b"NIRSSEG1"
) -> None:
    """Write a commit as a newer version would have, by the page on what lies in a workspace."""
    data = path.read_bytes()
    start = 12 + struct.unpack_from("<I", data, 8)[0]
    header, tables = json.loads(data[12:start]), {}
    for name, _, size in header["tables"]:
        tables[name] = pa.ipc.open_stream(data[start : start + size]).read_all()
        start += size
    alter(header, tables)
    streams = []
    for table in tables.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        streams.append(sink.getvalue().to_pybytes())
    header["tables"] = [
        [name, table.num_rows, len(stream)]
        for (name, table), stream in zip(tables.items(), streams, strict=True)
    ]
    text = json.dumps(header).encode()
    body = b"".join([magic, struct.pack("<I", len(text)), text, *streams])
    path.write_bytes(body + xxhash.xxh3_128(body).digest())


def add_column(name: str, header: dict[str, Any], tables: Tables) -> None:
    tables[name] = tables[name].append_column("purpose", pa.nulls(tables[name].num_rows, pa.string()))


def add_kind(header: dict[str, Any], tables: Tables) -> None:
    table = tables["changes"]
    kinds = pa.array(["pause_run"] * table.num_rows, pa.string())
    tables["changes"] = table.set_column(1, table.schema.field("kind"), kinds)


NEWER: dict[str, tuple[Callable[[dict[str, Any], Tables], object], bytes]] = {
    "a column of runs": (lambda header, tables: add_column("runs", header, tables), b"NIRSSEG1"),
    "a column of logs": (lambda header, tables: add_column("logs", header, tables), b"NIRSSEG1"),
    "a table": (lambda header, tables: tables.update(moods=pa.table({"mood": ["good"]})), b"NIRSSEG1"),
    "a kind of change": (add_kind, b"NIRSSEG1"),
    "a format": (lambda header, tables: header.update(format=2), b"NIRSSEG1"),
    "a schema": (lambda header, tables: header.update(schema=SCHEMA_VERSION + 1), b"NIRSSEG1"),
    "a magic number": (lambda header, tables: None, b"NIRSSEG2"),
}


@pytest.fixture(params=NEWER)
def newer(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A commit of a newer version between two of this one."""
    with WorkspaceStore(folder) as store:
        run_id = begin(store)[0]
    writer = WorkspaceStore(folder)
    writer.begin_run("before", {}, [])
    with writer.transaction():
        whole_pipeline(writer, writer.begin_run("newer", {}, []))
    path = segments(folder)[-1]
    writer.begin_run("after", {}, [])
    writer._engine.abort()
    rewrite(path, *NEWER[request.param])
    assert run_id
    return path


def test_it_stays_where_it_is_and_whatever_would_go_on_without_it_is_refused(
    newer: Path, folder: Path
) -> None:
    data, blobs = newer.read_bytes(), sorted((folder / "artifacts").rglob("*.joblib"))
    store = WorkspaceStore(folder)
    for call in (
        store.list_runs,
        lambda: store.collect_garbage(grace_seconds=0.0),
        store.vacuum,
        lambda: store.sql("SELECT 1 AS one"),
    ):
        with pytest.raises(SchemaTooNew, match="Upgrade nirs_store"):
            call()
    # Recording asks nobody.
    store.begin_run("recorded all the same", {}, [])
    store.close()
    assert newer.read_bytes() == data
    assert sorted((folder / "artifacts").rglob("*.joblib")) == blobs
    assert list((folder / "journal" / "rejected").iterdir()) == []
    assert [f.kind for f in check_workspace(folder).findings if f.kind.startswith("segment_")] == [
        "segment_newer"
    ]
    with warnings.catch_warnings(record=True) as said, WorkspaceStore(folder, read_only=True) as reader:
        warnings.simplefilter("always")
        assert reader.list_runs().height == 1
    assert any("not part of the answers" in str(warning.message) for warning in said)
    # The newer version applies it.
    newer.unlink()
    with WorkspaceStore(folder) as store:
        assert sorted(store.list_runs()["name"]) == ["after", "before", "recorded all the same", "run"]


def test_damage_is_not_taken_for_a_newer_version(store: WorkspaceStore, folder: Path) -> None:
    store.begin_run("r", {}, [])
    (path,) = segments(folder)
    path.write_bytes(path.read_bytes().replace(b"NIRSSEG1", b"NIRSSEG2"))
    with pytest.warns(UserWarning, match="could not be applied"):
        assert store.list_runs().is_empty()
    with pytest.raises(SegmentRejected):
        store.flush()
