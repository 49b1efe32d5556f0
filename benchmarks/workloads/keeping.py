"""W14: a data set is stored and read, in turn with the fastest way in which Polars writes the same matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.clock import alternately, median, peak_memory, timed
from benchmarks.sizes import Size
from nirs_store import WorkspaceStore

_CHANNELS = 700
_READ = 1000


def datasets(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Seconds to add spectra, and to write them with Polars; then to read scattered rows and to correct a reference."""
    random = np.random.default_rng(0)
    X = random.normal(size=(size.spectra, _CHANNELS)).astype(np.float32)
    names, y = [f"s{n}" for n in range(len(X))], X[:, 0].astype(np.float64)
    frame = pl.DataFrame(X, schema=[str(channel) for channel in range(_CHANNELS)])
    places = random.choice(len(X), min(_READ, len(X)), replace=False)
    found = {"spectra": float(len(X)), "matrix_mb": X.nbytes / 1e6}
    with WorkspaceStore(folder / "datasets") as store:
        added = iter(range(1000))

        def add() -> None:
            store.datasets.add(f"corn{next(added)}", X, references={"y": y}, ids=names)

        def arrow() -> None:
            frame.write_ipc(folder / "corn.arrow", compression="uncompressed")

        def parquet() -> None:
            frame.write_parquet(folder / "corn.parquet", compression="uncompressed")

        found["add_s"], ipc, other = alternately(3, add, arrow, parquet)
        found["polars_s"] = min(ipc, other)
        with peak_memory(found):
            add()
        reads = [timed(lambda: store.datasets.get("corn0", rows=places)) for _ in range(5)]
        if not np.array_equal(store.datasets.get("corn0", rows=places).X, X[places]):
            raise SystemExit("other spectra came back")
        found["rows_ms"] = 1e3 * median(reads)
        y[0] += 1
        found["correct_s"] = timed(lambda: store.datasets.add("corn0", X, references={"y": y}, ids=names))
    found["memory_mb"] = max(found["memory_mb"], 0.1)
    return found
