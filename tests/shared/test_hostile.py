"""Commits, snapshots and replicas that a hostile writer, bucket or user made: refused in words, nothing outside."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
import xxhash
import zstandard
from storekit import begin, whole_pipeline

from nirs_store.db import schema as objects
from nirs_store.db.journal import new_txid
from nirs_store.db.schema import arrow_schema
from nirs_store.db.table import encode_images
from nirs_store.errors import ForeignCatalog, NirsStoreError, ReplicaRefused, SharedStoreUnreachable
from nirs_store.shared import snapshots
from nirs_store.shared.opening import parts_of
from nirs_store.store import WorkspaceStore

APPEND = "SELECT nirs_store.append(ws, %s, %s, '', '', schema_version, 'x', %s, %s, %s, %s, false) FROM nirs_store.workspaces"


def append(
    database: str,
    body: bytes | None,
    txid: str,
    *,
    kind: str = "delta",
    size: int | None = None,
    key: str | None = None,
    digest: str | None = None,
) -> None:
    """Commit as a writer may who has a library of its own."""
    data = body or b""
    values = [
        txid,
        kind,
        len(data) if size is None else size,
        body,
        key,
        digest or hashlib.sha256(data).hexdigest(),
    ]
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(APPEND, values)


def sealed(header: bytes, *streams: bytes, magic: bytes = b"NIRSDLT1") -> bytes:
    body = b"".join([magic, struct.pack("<I", len(header)), header, *streams])
    return body + xxhash.xxh3_128(body).digest()


def header(txid: str, tables: Any) -> bytes:
    said = {
        "format": 1,
        "schema": 6,
        "txid": txid,
        "claim": "",
        "session": "",
        "created": "x",
        "tables": tables,
    }
    return json.dumps(said).encode()


def keys(table: str, *values: Any) -> pa.Table:
    return pa.table({"key": pa.array(values, arrow_schema(table).field(0).type)})


def rows(table: str, *found: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(found), schema=arrow_schema(table))


def meta(key: str, *named: str) -> Callable[[str], bytes]:
    image = keys("nirs_store_meta", *named), rows("nirs_store_meta", {"key": key, "value": "999"})
    return lambda txid: encode_images({"nirs_store_meta": image}, txid=txid)


def compressed(txid: str) -> bytes:
    table = keys("runs", *["x"] * 100_000)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    stream = sink.getvalue().to_pybytes()
    return sealed(header(txid, [["runs", 100_000, len(stream), 0, 1]]), stream, b"x")


BODIES: dict[str, Callable[[str], bytes]] = {
    "noise": lambda txid: b"\x00" * 64,
    "a longer header than the body": lambda txid: sealed(b"")[:8] + b"\xff" * 40,
    "a header that is not UTF-8": lambda txid: sealed(b"\xff\xfe\xfd" * 20),
    "a deep header": lambda txid: sealed(b"[" * 100_000),
    "a table of this replica": lambda txid: sealed(header(txid, [["applied", 1, 1, 0, 1]]), b"xx"),
    "a header of another shape": lambda txid: sealed(header(txid, {"runs": 1})),
    "another txid": lambda txid: encode_images({"runs": (keys("runs", "x"), rows("runs"))}, txid=new_txid()),
    "the position": meta("position", "position"),
    "the workspace": meta("workspace_id", "workspace_id"),
    "the schema version": meta("schema_version", "schema_version"),
    "a row that is not named": meta("schema_version", "harmless"),
    "compressed rows": compressed,
}


@pytest.fixture
def filled(machine: Any) -> WorkspaceStore:
    store: WorkspaceStore = machine("one")
    run_id, _ = begin(store, "honest")
    whole_pipeline(store, run_id)
    store.flush()
    store.list_runs()
    return store


def test_commits_that_make_no_sense_are_rejected_and_those_after_them_applied(
    filled: WorkspaceStore, machine: Any, database: str
) -> None:
    for make in BODIES.values():
        txid = new_txid()
        append(database, make(txid), txid)
    filled.begin_run("after", {}, [])
    for store in (filled, machine("new")):
        with pytest.warns(UserWarning, match="could not be applied"):
            assert sorted(store.list_runs()["name"]) == ["after", "honest"]
        assert len(store.sql("SELECT * FROM nirs_store_meta")) == 5
    assert len(filled._engine.journal.rejections()) == len(BODIES)


def test_a_change_that_fits_no_replica_is_named_and_can_be_rejected(
    filled: WorkspaceStore, machine: Any, database: str
) -> None:
    txid = new_txid()
    twice = rows("runs", *[{"run_id": "x", "name": "x", "status": "running"}] * 2)
    append(database, encode_images({"runs": (keys("runs", "x"), twice)}, txid=txid), txid)
    with pytest.raises(ReplicaRefused, match="does not fit this replica"):
        filled.list_runs()
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(
            "SELECT nirs_store.reject(ws, n, txid, '', 'hostile', 'admin') FROM nirs_store.log WHERE txid = %s",
            [txid],
        )
    for name in ("one", "new"):
        with pytest.warns(UserWarning, match="hostile"):
            assert machine(name).list_runs()["name"].to_list() == ["honest"]


def test_rows_that_lead_out_of_the_workspace_load_and_write_nothing(
    filled: WorkspaceStore, machine: Any, database: str
) -> None:
    new = machine("new")
    (row,) = filled._engine.query(
        lambda con: con.sql("SELECT * FROM blobs LIMIT 1").to_arrow_table().to_pylist()
    )
    key = next(iter(arrow_schema("blobs")))
    for path in ("../../evil.joblib", "/etc/passwd", "artifacts/../../evil.joblib", "artifacts//x"):
        txid = new_txid()
        image = keys("blobs", row[key.name]), rows("blobs", {**row, "artifact_path": path})
        append(database, encode_images({"blobs": image}, txid=txid), txid)
        new.list_runs()
        before = sorted(os.walk(filled.workspace_path.parent))
        with pytest.raises(NirsStoreError):
            new.load_artifact(row["artifact_id"])
        assert sorted(os.walk(filled.workspace_path.parent)) == before


def test_the_server_takes_no_commit_that_is_not_what_it_says(filled: WorkspaceStore, database: str) -> None:
    for more in (
        {"kind": "other"},
        {"kind": ""},
        {"digest": "0" * 64},
        {"digest": "no hash"},
        {"size": 10**12},
        {"size": -1},
        {"key": "commits/00/x.seg"},
        {"body": None, "size": 64, "key": "../../etc/passwd", "digest": "0" * 64},
        {"body": None, "size": 64},
        {"txid": "../../../tmp/evil"},
        {"body": b"x" * 2_000_000},
    ):
        values: dict[str, Any] = {"body": b"x" * 64, "txid": new_txid(), **more}
        with pytest.raises(psycopg.Error, match="not a commit"):
            append(database, **values)
    assert filled.list_runs().height == 1


def test_a_large_commit_whose_object_grew_is_not_read(
    filled: WorkspaceStore, machine: Any, database: str
) -> None:
    filled.begin_run("large", {"text": "x" * 400_000}, [])
    filled.flush()
    _, blobs = parts_of(filled._engine)
    (key,) = blobs.list("commits/")
    path = blobs.path(key)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(50 << 30)  # it takes no room, and would all the memory
    with pytest.raises(SharedStoreUnreachable, match="not those that were committed"):
        machine("new").list_runs()


def publish(store: WorkspaceStore, database: str, data: bytes, *, packed: bool = False) -> None:
    """Put a snapshot in place as one who may write both the bucket and the server."""
    body = data if packed else zstandard.compress(data)
    digest = hashlib.sha256(body).hexdigest()
    key = f"snapshots/{digest[:2]}/{digest}.zst"
    store._engine.layout.blobs.put({key: body})
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(
            "UPDATE nirs_store.workspaces SET snapshot_n = head, snapshot_key = %s, snapshot_sha256 = %s",
            [key, digest],
        )


def test_a_snapshot_that_acts_is_refused_even_where_the_server_vouches_for_it(
    filled: WorkspaceStore, machine: Any, database: str, tmp_path: Path
) -> None:
    log, blobs = parts_of(filled._engine)
    snapshots.publish(filled._engine, log, blobs)
    honest = (filled.workspace_path / "store.duckdb").read_bytes()
    for number, statement in enumerate(
        (
            "CREATE MACRO count(x) AS 7",
            "DROP TABLE logs; CREATE VIEW logs AS SELECT content AS log_id FROM read_text('/etc/passwd')",
            "ALTER TABLE logs ALTER message SET DEFAULT concat(now(), '')",
        )
    ):
        copy = tmp_path / f"{number}.duckdb"
        copy.write_bytes(honest)
        with duckdb.connect(str(copy)) as con:
            con.execute(statement)
        publish(filled, database, copy.read_bytes())
        with pytest.raises(ForeignCatalog):
            machine(f"new{number}").list_runs()


def test_a_snapshot_that_unfolds_to_gigabytes_fills_no_disk(
    filled: WorkspaceStore, machine: Any, database: str
) -> None:
    packer = zstandard.ZstdCompressor(1).compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(40)) + packer.flush()
    publish(filled, database, bomb, packed=True)
    with pytest.raises(ReplicaRefused, match="unfolds to more"):
        machine("new")


def test_a_snapshot_is_looked_at_also_where_another_file_had_its_number(
    filled: WorkspaceStore, machine: Any, database: str
) -> None:
    log, blobs = parts_of(filled._engine)
    snapshots.publish(filled._engine, log, blobs)
    with machine("new") as new:
        path = new.workspace_path / "store.duckdb"
        objects.remember(path)
        place = new._engine.layout
        snapshots.set_aside(place, wait=5)
        snapshots.start_from(log.server, log.workspace_id, blobs, place, wait=5)
        assert str(path) not in objects._seen


@pytest.mark.skipif(os.name == "nt", reason="folders have no such rights")
def test_a_replica_is_this_users_alone(
    filled: WorkspaceStore, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = filled.workspace_path
    filled.close()
    folder.chmod(0o777)
    machine("one").close()
    assert folder.stat().st_mode & 0o777 == 0o700
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    before = sorted(os.walk(folder))
    with pytest.raises(ReplicaRefused, match="belongs to another user"):
        machine("one")
    assert sorted(os.walk(folder)) == before


@pytest.mark.skipif(os.name == "nt", reason="folders have no such rights")
def test_a_folder_that_is_no_replica_keeps_its_rights(machine: Any, database: str, tmp_path: Path) -> None:
    machine("one").close()
    folder = tmp_path / "spectra"
    folder.mkdir(mode=0o755)
    (folder / "corn.csv").touch()
    with pytest.raises(ReplicaRefused, match="Nothing was changed"):
        machine("two", f"replica={folder}")
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
@pytest.mark.parametrize("name", ["store.duckdb", "replica.json"])
def test_links_in_a_replica_are_not_followed(
    filled: WorkspaceStore, machine: Any, tmp_path: Path, name: str
) -> None:
    inside = filled.workspace_path / name
    filled.close()
    outside = tmp_path / name
    inside.rename(outside)
    inside.symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(NirsStoreError, match="Nothing was changed"):
        machine("one").list_runs()
    assert outside.read_bytes() == before
