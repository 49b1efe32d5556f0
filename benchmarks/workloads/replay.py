"""W4: predicting new spectra with a stored chain."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.clock import alternately, processes
from benchmarks.sizes import Size
from benchmarks.workloads.ingest import record_all

# A whole process that predicts with a stored chain; and one that does the same without a store.
_STORED = (
    "import sys, pathlib, numpy as np; from benchmarks.adapters import make; "
    "a = make(sys.argv[1], pathlib.Path(sys.argv[2])); "
    "np.save(sys.argv[5], a.predict(sys.argv[3], np.load(sys.argv[4]))); a.close()"
)
_BARE = (
    "import sys, glob, numpy as np, joblib, sklearn.cross_decomposition, sklearn.preprocessing; "
    "s = joblib.load(sys.argv[1] + '/s.joblib'); "
    "m = [joblib.load(f) for f in sorted(glob.glob(sys.argv[1] + '/m*.joblib'))]; "
    "Z = s.transform(np.load(sys.argv[2])); np.save(sys.argv[3], np.mean([x.predict(Z) for x in m], axis=0))"
)


def replay(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Warm, in turn with the bare scikit-learn calls; and as whole processes."""
    import joblib

    items = fixture.load(size.shape, min(size.pipelines, 13))
    # Twelve latent variables: the middle of the fixture.
    item = items[-1]
    X = fixture.new_spectra(size.shape)
    adapter = make(peer, folder / "w4")
    chain = record_all(adapter, [item])[1][0]

    def bare() -> np.ndarray:
        Z = item.scaler.transform(X)
        return np.mean([model.predict(Z) for model in item.models], axis=0)

    if np.ravel(adapter.predict(chain, X)).tobytes() != np.ravel(bare()).tobytes():
        sys.exit(f"{peer} predicts other numbers than scikit-learn")
    warm, direct = alternately(10 * size.repeats, lambda: adapter.predict(chain, X), bare)
    adapter.close()
    loose = folder / "loose"
    loose.mkdir()
    joblib.dump(item.scaler, loose / "s.joblib")
    for fold, model in enumerate(item.models):
        joblib.dump(model, loose / f"m{fold}.joblib")
    np.save(folder / "X.npy", X)
    spectra, out = str(folder / "X.npy"), str(folder / "y.npy")
    cold, cold_bare = processes(
        size.starts,
        ["-c", _STORED, peer, str(folder / "w4"), chain, spectra, out],
        ["-c", _BARE, str(loose), spectra, out],
    )
    return {"warm_ms": 1e3 * warm, "warm_bare_ms": 1e3 * direct, "cold_s": cold, "cold_bare_s": cold_bare}
