"""Where W1 spends its time: a clock around a few functions, which costs next to nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.clock import timed
from benchmarks.sizes import Size
from benchmarks.workloads.ingest import record_all


def anatomy(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Seconds of W1 by what they were spent on; what the calling thread did, and what went on beside it."""
    from nirs_store.blobs import serializers
    from nirs_store.blobs.store import BlobStore
    from nirs_store.db import database as opened
    from nirs_store.db import journal, recorder
    from nirs_store.records import artifacts, predictions

    items = fixture.load(size.shape, size.pipelines)
    spent: dict[str, float] = {}
    caller = threading.get_ident()

    def clock(owner: Any, name: str, label: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                own = label if threading.get_ident() == caller else f"beside_{label}"
                spent[own] = spent.get(own, 0.0) + time.perf_counter() - start

        setattr(owner, name, call)

    clock(serializers.Format, "dumps", "dump_s")
    clock(artifacts, "sha256_hex", "hash_s")
    clock(BlobStore, "_write", "write_blobs_s")
    clock(BlobStore, "wait", "wait_for_blobs_s")
    clock(recorder, "encode", "encode_segment_s")
    clock(journal.Journal, "append", "write_segment_s")
    for name in ("save_prediction", "save_prediction_arrays"):
        clock(predictions, name, "predictions_s")
    clock(opened, "apply_journal", "apply_s")
    adapter = make(peer, folder / "w1")
    found = {"total_s": timed(lambda: record_all(adapter, items))}
    found["close_s"] = timed(adapter.close)
    return {**found, **spent}
