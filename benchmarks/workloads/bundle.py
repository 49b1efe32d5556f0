"""W5: one chain as a file for somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.clock import alternately, median, processes, timed
from benchmarks.paths import tree_bytes
from benchmarks.sizes import Size
from benchmarks.workloads.ingest import record_all

_LOAD = (
    "import sys, pathlib, numpy as np; from benchmarks.adapters import make_class; "
    "make_class(sys.argv[1]).predict_file(pathlib.Path(sys.argv[2]), np.load(sys.argv[3]))"
)


def bundle(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Export in turn with the plain dump of the same objects; then a fresh process loads and predicts."""
    import joblib

    item = fixture.load(size.shape, min(size.pipelines, 13))[-1]
    X = fixture.new_spectra(size.shape)
    spectra = folder / "X.npy"
    np.save(spectra, X)
    found: dict[str, float] = {}
    objects, loose = [item.scaler, *item.models], folder / "loose.joblib"
    for kind in ("joblib", "safe") if peer == "nirs_store" and size.safe else ("joblib",):
        adapter: Any = make(peer, folder / f"w5-{kind}")
        if kind == "safe":
            adapter.format = "skops"
        chain = record_all(adapter, [item])[1][0]
        target = folder / f"out-{kind}"
        # The first export of a process reads and checks the blobs.
        found[f"{kind}_first_ms"] = 1e3 * timed(lambda a=adapter, c=chain, t=target: a.export(c, t))
        ours, dump = alternately(
            size.repeats,
            lambda a=adapter, c=chain, t=target: a.export(c, t),
            lambda: joblib.dump(objects, loose),
        )
        path = adapter.export(chain, target)
        expected = np.ravel(adapter.predict(chain, X))
        if not np.allclose(np.ravel(adapter.predict_file(path, X)), expected, rtol=1e-12):
            raise SystemExit(f"{peer}: the bundle predicts other numbers")
        adapter.close()
        found |= {
            f"{kind}_export_ms": 1e3 * ours,
            # Each with the dump that it took turns with.
            "dump_ms" if kind == "joblib" else "safe_dump_ms": 1e3 * dump,
            f"{kind}_mb": (tree_bytes(path) if path.is_dir() else path.stat().st_size) / 1e6,
            f"{kind}_load_s": median(
                processes(min(3, size.starts), ["-c", _LOAD, peer, str(path), str(spectra)])
            ),
        }
    return found
