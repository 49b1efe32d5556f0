"""The least that anybody can do who keeps the same promises.

The same bytes are dumped (with the pickler written in C), hashed, written and synced with as many threads as help
(`THREADS`), and the rows of a pipeline go into DuckDB with one Arrow insert a table, in one synced commit a pipeline.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import joblib
import numpy as np
import pyarrow as pa
import xxhash

from benchmarks.adapters.base import Adapter

if TYPE_CHECKING:
    from benchmarks.fixture import Pipeline

THREADS = 4

_PREDICTIONS = pa.schema(
    [(name, pa.string()) for name in ("id", "pipeline", "fold", "partition", "scores")]
    + [(name, pa.float64()) for name in ("rmse", "mae", "r2")]
    + [(name, pa.string()) for name in ("y_true", "y_pred")]
)
_ARRAYS = pa.schema([("hash", pa.string()), ("data", pa.binary())])


class Floor(Adapter):
    name = "floor"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._blobs = folder / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(THREADS)
        self._known: set[str] = set()
        self._seen: set[str] = set()
        self._con = duckdb.connect(str(folder / "floor.duckdb"))
        self._con.execute(
            "CREATE TABLE IF NOT EXISTS predictions (id VARCHAR, pipeline VARCHAR, fold VARCHAR, "
            "partition VARCHAR, scores JSON, rmse DOUBLE, mae DOUBLE, r2 DOUBLE, y_true VARCHAR, y_pred VARCHAR)"
        )
        self._con.execute("CREATE TABLE IF NOT EXISTS arrays (hash VARCHAR, data BLOB)")

    def begin(self, name: str) -> str:
        return name

    def record(self, item: Pipeline) -> str:
        pending = []
        for obj in (item.scaler, *item.models):
            data = dump(obj)
            pending.append(self._pool.submit(self._write, data))
        rows, arrays = [], []
        for number, p in enumerate(item.predictions):
            keys = []
            for array in (p.y_true, p.y_pred):
                data = array.tobytes()
                key = xxhash.xxh3_128(data).hexdigest()
                if key not in self._seen:
                    self._seen.add(key)
                    arrays.append((key, data))
                keys.append(key)
            s = p.scores
            rows.append(
                (
                    *(f"{item.index}-{number}", str(item.index), str(p.fold), p.partition, json.dumps(s)),
                    *(s["rmse"], s["mae"], s["r2"], *keys),
                )
            )
        incoming = _table(rows, _PREDICTIONS)
        bytes_of = _table(arrays, _ARRAYS)
        for one in pending:
            one.result()
        self._con.execute("BEGIN")
        for table, batch in (("predictions", incoming), ("arrays", bytes_of)):
            self._con.register("batch", batch)
            self._con.execute(f"INSERT INTO {table} SELECT * FROM batch")  # noqa: S608
            self._con.unregister("batch")
        self._con.execute("COMMIT")
        return str(item.index)

    def end(self) -> None:
        self._con.execute("CHECKPOINT")

    def close(self) -> None:
        self._pool.shutdown()
        self._con.close()

    def read_back(self, chains: list[str]) -> tuple[list[float], list[np.ndarray]]:
        rows = self._con.execute(
            "SELECT p.rmse, a.data FROM predictions p JOIN arrays a ON a.hash = p.y_pred"
        ).fetchall()
        return [row[0] for row in rows], [np.frombuffer(row[1]) for row in rows]

    def save(self, obj: Any) -> None:
        """What W2 is compared with: `joblib.dump` to memory, and the hash."""
        buffer = io.BytesIO()
        joblib.dump(obj, buffer)
        hashlib.sha256(buffer.getvalue()).hexdigest()

    def _write(self, data: bytes) -> None:
        name = hashlib.sha256(data).hexdigest()
        if name in self._known:
            return
        self._known.add(name)
        write_synced(self._blobs / name, data)


def dump(obj: Any) -> bytes:
    """The quickest way to bytes that `joblib.load` opens, and the one that nirs_store takes for these models."""
    return pickle.dumps(obj, protocol=5)


def write_synced(path: Path, data: bytes) -> None:
    """Write and sync a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0))
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
