"""One measurement in a process of its own: ``python -m benchmarks.worker W1 nirs_store full FOLDER``.

The last line of its output is a JSON object. ``check`` instead of a workload records three small pipelines, and
``read`` reads them back in another process, for the comparison of results.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.sizes import SIZES
from benchmarks.workloads import find
from benchmarks.workloads.ingest import record_all


def check(peer: str, folder: Path) -> list[str]:
    """Record the tiny fixture."""
    adapter = make(peer, folder)
    chains = record_all(adapter, fixture.load(fixture.TINY, 3))[1]
    adapter.close()
    return chains


def read(peer: str, folder: Path, chains: list[str]) -> dict[str, str]:
    """Digests of what a new process finds: scores, arrays, and what the chains predict."""
    adapter = make(peer, folder)
    scores, arrays = adapter.read_back(chains)
    found = {
        "scores": _digest([np.array(sorted(scores)).tobytes()]),
        "arrays": _digest(sorted(np.ascontiguousarray(a, dtype=np.float64).tobytes() for a in arrays)),
    }
    if peer != "floor":
        X = fixture.new_spectra(fixture.TINY)
        found["predictions"] = _digest([np.ravel(adapter.predict(chain, X)).tobytes() for chain in chains])
    adapter.close()
    return found


def _digest(pieces: list[bytes]) -> str:
    return hashlib.sha256(b"".join(pieces)).hexdigest()[:16]


def main(arguments: list[str]) -> None:
    """Do one measurement."""
    what, peer, size, folder, *rest = arguments
    if what == "check":
        answer: object = check(peer, Path(folder))
    elif what == "read":
        answer = read(peer, Path(folder), rest)
    else:
        answer = find(what)(peer, SIZES[size], Path(folder))
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
