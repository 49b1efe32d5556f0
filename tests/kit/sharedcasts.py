"""The computers of `sharedsteps`: whole stores with replicas, and small ones with two dicts instead of a catalog.

The small ones have the real claims, keys, log and changes over it: ten thousand interleavings of them take minutes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import psycopg
from sharedsteps import Broken, Bucket, Stage
from storekit import begin, chain_of

from nirs_store.blobs.store import blob_key
from nirs_store.db.layout import Layout
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.table import digests
from nirs_store.errors import ArtifactMissing, SessionEnded
from nirs_store.ids import new_id
from nirs_store.shared import log as log_module
from nirs_store.shared import pgschema
from nirs_store.shared.address import parse
from nirs_store.shared.log import SharedLog
from nirs_store.shared.pg import Server
from nirs_store.shared.replica import Position
from nirs_store.shared.sessions import SharedClaims
from nirs_store.store import WorkspaceStore

__all__ = ["SmallCast", "Stores"]


# -- small computers -----------------------------------------------------------------------------


class _Image:
    """The result of a small change, instead of images of rows."""

    def __init__(self, rows: dict[str, Any]) -> None:
        self._rows = rows

    def encode(self, con: Any, *, txid: str) -> bytes | None:
        return _body(self._rows, "", "") if any(self._rows.values()) else None

    def touches(self, table: str) -> bool:
        return False


def _body(rows: dict[str, Any], claim: str, session: str) -> bytes:
    header = json.dumps({"claim": claim, "session": session, "rows": rows}).encode()
    return b"\0" * 8 + struct.pack("<I", len(header)) + header


class Small:
    """One computer."""

    def __init__(self, server: Server, workspace_id: str, layout: Layout, bucket: Any) -> None:
        self.log = SharedLog(server, workspace_id, layout, cast("Any", None), "small")
        self.claims = SharedClaims(self.log, bucket)
        self.claim = self.claims.own(new_id())
        self.bucket = bucket
        # The catalog: keys of blobs by their tokens, and tokens by the ids of references.
        self.blobs: dict[str, str] = {}
        self.refs: dict[str, str] = {}
        self.log._position = Position(0, "")
        self.saved: tuple[str, str] | None = None

    def catch_up(self) -> None:
        for entry in self.log.pending():
            body = entry.read()
            (length,) = struct.unpack_from("<I", body, 8)
            self._apply(json.loads(body[12 : 12 + length])["rows"])
            self.log.applied([entry])

    def _apply(self, rows: dict[str, Any]) -> None:
        for token, key in rows.get("blobs", {}).items():
            self.blobs.setdefault(token, key)
        self.refs.update(rows.get("refs", {}))
        for ref in rows.get("dropped", []):
            self.refs.pop(ref, None)
        for token in rows.get("gone", []):
            self.blobs.pop(token, None)

    def record(self, rows: dict[str, Any]) -> None:
        body, txid = _body(rows, self.claim.claim_id, "session"), new_id()
        try:
            self.log.append([body], txid)
        except SessionEnded:
            # The rows wait in the buffer, and the next call sends them again.
            self.log.append([body], txid)
        self.claim.clear(set())

    def change(self, work: Callable[[], dict[str, Any]]) -> None:
        with self.log.changing(self.catch_up) as change:
            rows = work()
            change._capture = cast("Any", _Image(rows))
            change.commit(cast("Any", None))
            self._apply(rows)

    def _put(self, token: str) -> str:
        key = blob_key(token, "bin", self.claims.generation(token))
        if self.bucket.stat(key) is None:
            self.bucket.put({key: token.encode()})
        return key

    def save(self, *tokens: str) -> None:
        self.claim.ensure()
        keys = {}
        for token in tokens:
            self.claim.add(token)
            keys[token] = self._put(token)
            self.saved = token, keys[token]
        self.record({"blobs": keys, "refs": {new_id(): token for token in keys}})

    def again(self) -> None:
        """Refer to something saved before."""
        if self.saved is None:
            return
        token, key = self.saved
        self.claim.ensure()
        self.claim.add(token)
        if key != blob_key(token, "bin", self.claims.generation(token)) or self.bucket.stat(key) is None:
            self.saved = None
            raise ArtifactMissing("artifact", token, "")
        self.record({"blobs": {token: key}, "refs": {new_id(): token}})

    def adopt(self, token: str) -> None:
        """Save in the middle of a change, as files and data sets do."""
        self.change(lambda: {"blobs": {token: self._put(token)}, "refs": {new_id(): token}})

    def evaluate(self, token: str) -> None:
        """Save before a change that refers to it."""
        self.claim.ensure()
        self.claim.add(token)
        key = self._put(token)
        self.change(lambda: {"blobs": {token: key}, "refs": {new_id(): token}})
        self.claim.clear(set())

    def drop(self, share: float) -> None:
        """Delete references, and collect as a deletion does."""
        self.change(lambda: {"dropped": sorted(self.refs)[: round(len(self.refs) * share)]})
        self.collect()

    def collect(self) -> None:
        def work() -> dict[str, Any]:
            claimed, held = self.claims.collector.claimed(), set(self.refs.values())
            gone = {t: key for t, key in self.blobs.items() if t not in held and t not in claimed}
            self.claims.collector.condemn(gone)
            return {"gone": sorted(gone)}

        self.change(work)
        self.claims.collector.remove()

    def begin_again(self) -> None:
        self.claim.close()
        self.claim, self.saved = self.claims.own(new_id()), None


class SmallCast:
    """Small computers in their own workspace."""

    def __init__(self, database: str, folder: Path) -> None:
        self._address = parse(f"{database}?workspace=w{new_id()[-12:]}&patience=20", blobs="file:///none")
        self._folder = folder
        self._id = new_id()
        with psycopg.connect(database, autocommit=True) as con:
            pgschema.ensure(con)
            con.execute(
                "INSERT INTO nirs_store.workspaces (ws, name, schema_version, blobs_url) VALUES (%s, %s, %s, '')",
                [self._id, self._address.workspace, SCHEMA_VERSION],
            )

    def open(self, stage: Stage, name: str) -> Small:
        layout = Layout(self._folder / name)
        return Small(
            Server(self._address), self._id, layout, Bucket(stage, self._folder / name, self._folder)
        )

    def leave(self, computer: Small) -> None:
        computer.log.close()

    def work(self, computer: Small, stage: Stage) -> tuple[str, Callable[[], None]]:
        dice = stage.dice
        tokens, share = [f"{dice.randrange(2):064x}"], dice.random()
        both = [f"{number:064x}" for number in range(2)]
        calls: dict[str, tuple[int, Callable[[], None]]] = {
            "save": (4, lambda: computer.save(*tokens)),
            "save both": (2, lambda: computer.save(*both)),
            "again": (3, computer.again),
            "adopt": (2, lambda: computer.adopt(*tokens)),
            "evaluate": (2, lambda: computer.evaluate(*tokens)),
            "drop": (5, lambda: computer.drop(share)),
            "collect": (3, computer.collect),
            "begin again": (1, computer.begin_again),
        }
        name = dice.choices([*calls], [weight for weight, _ in calls.values()])[0]
        return name, calls[name][1]

    def look(self, computers: Sequence[Small], stage: Stage) -> None:
        for small in computers:
            small.catch_up()
            _promised([*small.blobs.values()], sorted(set(small.refs.values()) - small.blobs.keys()), stage)

    def compare(self, computers: Sequence[Small]) -> None:
        if len({str((sorted(c.blobs.items()), sorted(c.refs.items()))) for c in computers}) > 1:
            raise Broken("the catalogs differ")

    def __enter__(self) -> SmallCast:
        self._patch = patch.object(log_module, "write_position", lambda con, position: None)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


def _promised(paths: Sequence[str], dangling: Sequence[str], stage: Stage) -> None:
    if missing := sorted(path for path in paths if path not in stage.objects[False]):
        raise Broken(f"blobs are missing that rows name: {missing}")
    if dangling:
        raise Broken(f"references to artifacts without a row: {dangling}")


# -- whole stores ----------------------------------------------------------------------------------


class Stores:
    """Stores in their own workspace, each with a replica."""

    def __init__(self, database: str, folder: Path) -> None:
        self._place = f"{database}?workspace=w{new_id()[-12:]}&patience=20&replica={folder / new_id()[-12:]}"
        self._acknowledged: set[str] = set()
        self._deleted: set[str] = set()
        self._saved: dict[int, str] = {}

    def open(self, stage: Stage, name: str) -> WorkspaceStore:
        return WorkspaceStore(
            f"{self._place}{name}", blobs="file:///none", threads=1, retention=False, lock_timeout=60.0
        )

    def leave(self, computer: WorkspaceStore) -> None:
        computer._engine._claim._begun = False  # type: ignore[attr-defined]
        computer._engine.abort()

    def work(self, computer: WorkspaceStore, stage: Stage) -> tuple[str, Callable[[], None]]:
        number = stage.dice.randrange(3)
        calls: dict[str, tuple[int, Callable[[], None]]] = {
            "save": (4, lambda: self._save(computer, number)),
            "save at once": (4, lambda: self._save_at_once(computer, number)),
            "again": (3, lambda: self._again(computer, number)),
            "file": (3, lambda: self._file(computer, number)),
            "unfile": (2, lambda: self._unfile(computer, number)),
            "evaluate": (2, lambda: self._evaluate(computer, number)),
            "data set": (1, lambda: self._data_set(computer, number)),
            "delete": (5, lambda: self._delete(computer, number)),
            "collect": (4, lambda: self._collect(computer)),
        }
        name = stage.dice.choices([*calls], [weight for weight, _ in calls.values()])[0]
        return f"{name} {number}", calls[name][1]

    def _save(self, store: WorkspaceStore, number: int) -> None:
        run_id, pipeline_id = begin(store)
        saved = store.save_artifact([float(number)] * 20, "builtins.list", "model", "joblib")
        self._saved[id(store)] = saved
        chain_of(store, pipeline_id, saved)
        store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
        self._acknowledged.add(run_id)

    def _save_at_once(self, store: WorkspaceStore, number: int) -> None:
        before = set(self._acknowledged)
        try:
            with store.transaction():
                self._save(store, number)
        except BaseException:
            self._acknowledged &= before
            raise

    def _again(self, store: WorkspaceStore, number: int) -> None:
        """Refer to something saved before, which may be deleted."""
        if (saved := self._saved.get(id(store))) is not None:
            _, pipeline_id = begin(store)
            chain_of(store, pipeline_id, saved)
            store.flush()

    def _file(self, store: WorkspaceStore, number: int) -> None:
        store.files.put(b"%d" % number * 50, f"file/{number}", type="text_raw")

    def _unfile(self, store: WorkspaceStore, number: int) -> None:
        if names := sorted(set(store.files.list()["name"].to_list())):
            store.files.delete(names[number % len(names)])

    def _evaluate(self, store: WorkspaceStore, number: int) -> None:
        if number == 0 and (ids := store.evaluations.list()["evaluation_id"].to_list()):
            store.evaluations.delete(min(ids), now=True)
        else:
            episodes = [{"episode": n, "score": float(number)} for n in range(3)]
            store.evaluations.record("model", "suite", float(number), episodes=episodes)

    def _data_set(self, store: WorkspaceStore, number: int) -> None:
        names = store.datasets.list()
        if number == 0 and names.height:
            store.datasets.delete(f"{names['name'][0]}@v{names['version'][0]}", force=True)
        else:
            store.datasets.add("corn", [[float(number), n, 2.0] for n in range(4)])

    def _delete(self, store: WorkspaceStore, number: int) -> None:
        if runs := sorted(store.list_runs()["run_id"].to_list()):
            self._deleted.add(runs[number % len(runs)])
            store.delete_run(runs[number % len(runs)], now=True)

    def _collect(self, store: WorkspaceStore) -> None:
        store.gc_artifacts(grace_seconds=0)

    def look(self, computers: Sequence[WorkspaceStore], stage: Stage) -> None:
        def ask(con: Any) -> list[list[str]]:
            asked = (
                "SELECT artifact_path FROM blobs",
                "SELECT artifact_id FROM artifact_refs WHERE artifact_id NOT IN (SELECT artifact_id FROM blobs)",
                "SELECT run_id FROM runs",
            )
            return [[str(row[0]) for row in con.execute(sql).fetchall()] for sql in asked]

        for store in computers:
            paths, dangling, runs = store._engine.query(ask)
            _promised(paths, dangling, stage)
            if lost := self._acknowledged - {*runs} - self._deleted:
                raise Broken(f"acknowledged and lost: {lost}")

    def compare(self, computers: Sequence[WorkspaceStore]) -> None:
        if len({str(store._engine.query(digests)) for store in computers}) > 1:
            raise Broken("the replicas differ")
