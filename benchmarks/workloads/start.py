"""W8: what a start costs."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import fixture
from benchmarks.adapters import make
from benchmarks.clock import processes
from benchmarks.sizes import Size
from benchmarks.workloads.ingest import record_all

_IMPORTS = {
    "nirs_store": "import nirs_store",
    "plain": "import joblib, polars, sklearn",
    "mlflow": "import mlflow",
    "nirs4all": "import nirs4all",
}
_LIST = (
    "import sys, pathlib; from benchmarks.adapters import make; "
    "a = make(sys.argv[1], pathlib.Path(sys.argv[2])); assert a.runs() == 1; a.close()"
)


def start(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Import, help (where there is a command), and listing the runs of a store, as whole processes."""
    adapter = make(peer, folder / "w8")
    record_all(adapter, fixture.load(fixture.TINY, 1))
    adapter.close()
    commands = [["-c", "pass"], ["-c", _IMPORTS[peer]], ["-c", _LIST, peer, str(folder / "w8")]]
    if peer == "nirs_store":
        # As the installed command does it.
        commands.append(
            ["-c", "import sys; sys.argv = ['nirs-store', '--help']; from nirs_store.cli import main; main()"]
        )
    bare, imported, listed, *helped = processes(size.starts, *commands)
    found = {"bare_ms": 1e3 * bare, "import_ms": 1e3 * (imported - bare), "list_ms": 1e3 * listed}
    if helped:
        found["help_ms"] = 1e3 * (helped[0] - bare)
    print(f"{peer} starts measured", file=sys.stderr)
    return found
