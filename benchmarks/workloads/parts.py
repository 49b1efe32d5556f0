"""What W1 is made of: its parts one by one, serial and threaded; this is where the floor's thread count is from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import fixture
from benchmarks.adapters.floor import dump, write_synced
from benchmarks.clock import timed
from benchmarks.sizes import Size


def parts(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Seconds to dump, hash, write, and write and sync all models of W1; the last with 1 to 8 threads."""
    items = fixture.load(size.shape, size.pipelines)
    models = [model for item in items for model in item.models]
    data: list[bytes] = []
    found = {"dump_s": timed(lambda: data.extend(map(dump, models)))}
    found["payload_mb"] = sum(map(len, data)) / 1e6
    found["sha256_s"] = timed(lambda: [hashlib.sha256(one).digest() for one in data])
    found["write_s"] = timed(lambda: _write_all(folder / "unsynced", data, 1, _write))
    for threads in (1, 2, 4, 8):
        place = folder / f"synced{threads}"
        found[f"hash_sync_{threads}_s"] = timed(partial(_write_all, place, data, threads, _hash_and_sync))
    return found


def _write_all(place: Path, data: list[bytes], threads: int, write: Callable[[Path, bytes], None]) -> None:
    place.mkdir()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, [place / str(i) for i in range(len(data))], data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _hash_and_sync(path: Path, data: bytes) -> None:
    hashlib.sha256(data).digest()
    write_synced(path, data)
