"""A process that has imported everything, started nothing, and forks a child for each request.

A child is ready in milliseconds and shares no thread, lock or connection with anything; the audit's child is
therefore as good as a fresh process. Children talk over a socket: `send` is none of the calls that are swept.

Requests are lines of JSON on standard input; the child connects to the socket that its request names.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
# Arrow's own allocator asks the system for each piece.
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

_PTRACER = 0x59616D61  # PR_SET_PTRACER: let strace attach where only parents may
# Imports that the library puts off: in a child that may open no file they would fail for no fault of the store.
_LATE = (
    "nirs_store.maintenance.deletion",
    "nirs_store.maintenance.gc",
    "nirs_store.artifacts.registry",
    "nirs_store.history.retention",
    "nirs_store.bundle.transfer",
    "nirs_store.bundle.transfer",
    "nirs_store.bundle",
    "nirs_store.bundle.writer",
    "nirs_store.bundle.reader",
    "nirs_store.bundle.pack",
    "nirs_store.chains.replay",
    "sklearn.cross_decomposition",
    "joblib",
    "pandas",
    "polars",
    "tempfile",
    "importlib.metadata",
)


class Line:
    """One end of a conversation in lines of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def send(self, what: Any) -> None:
        self._connection.sendall(json.dumps(what).encode() + b"\n")

    def receive(self) -> Any:
        """The next thing said; None at the end."""
        while b"\n" not in self._rest:
            try:
                piece = self._connection.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not piece:
                return None
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def close(self) -> None:
        self._connection.close()


def _prepare(request: dict[str, Any], line: Line) -> None:
    from fault_audit import picture
    from fault_ops import prepare

    from nirs_store.store import WorkspaceStore

    folder = Path(request["workspace"])
    facts = prepare(request["base"], folder)
    before: dict[str, dict[str, str]] = {}
    if facts:
        look = folder.with_name(folder.name + "-look")
        import shutil

        # Looked at in a copy: the workspace keeps what waits in its journal.
        shutil.copytree(folder, look)
        with WorkspaceStore(look) as store:
            before = picture(store)
        shutil.rmtree(look)
    line.send({"facts": facts, "before": before})


def _operate(request: dict[str, Any], line: Line) -> None:
    from fault_ops import OPERATIONS

    from nirs_store.blobs import store as writer
    from nirs_store.db import database
    from nirs_store.errors import NirsStoreError
    from nirs_store.store import WorkspaceStore

    # Which call is number n of its thread must not depend on which of several threads was free.
    writer.THREADS = 1
    _one_duckdb_thread()
    operation = OPERATIONS[request["operation"]]
    main = request["thread"] == "main"
    if "keeper" not in operation.threads:
        # On a busy machine the keeper would otherwise come first, now and then, and close the catalog.
        database.LINGER = 3600.0

    def ack(*what: Any) -> None:
        line.send({"ack": what})

    def open_store() -> WorkspaceStore:
        return WorkspaceStore(
            request["workspace"], durability=operation.durability, lock_timeout=5.0, **operation.options
        )

    def ready(tid: int) -> None:
        processors = sorted(os.sched_getaffinity(0))
        cpu = processors[os.getpid() % len(processors)]
        os.sched_setaffinity(tid, {cpu})
        line.send({"pid": os.getpid(), "tid": tid, "cpu": cpu})
        line.receive()

    store: WorkspaceStore | None = None
    if main:
        _make_ahead(Path(request["workspace"]))
        ready(threading.get_native_id())
    else:
        store = open_store()
        ready(_thread(store, request["thread"]))
    errors = []
    for _ in range(2):  # again after an error, as its message says
        try:
            if store is None:
                store = open_store()
            operation.run(store, request["facts"], ack)
            store.close()
            break
        except Exception as error:
            typed = isinstance(error, NirsStoreError)
            text = "" if typed else traceback.format_exc()
            errors.append({"type": type(error).__name__, "typed": typed, "text": f"{error}\n{text}"})
    line.send({"end": errors})


# Instances of DuckDB that were made ahead, by their settings.
_ahead: dict[str, Any] = {}


def _one_duckdb_thread() -> None:
    """Have DuckDB write in the thread that asks it to."""
    import duckdb

    real = duckdb.connect

    def connect(*args: Any, config: dict[str, Any] | None = None, **named: Any) -> Any:
        config = {"threads": 1, "async_threads": 0, **(config or {})}
        made = _ahead.pop(repr((args, config, named)), None)
        return real(*args, config=config, **named) if made is None else made

    duckdb.connect = connect  # type: ignore[assignment]


def _make_ahead(workspace: Path) -> None:
    """Make the instance that the store will ask for: hundreds of system calls, none of them on a file of it."""
    import duckdb

    from nirs_store.db.connection import Options, _in_memory
    from nirs_store.db.layout import Layout

    real = duckdb.connect

    def keep(*args: Any, config: dict[str, Any], **named: Any) -> Any:
        made = real(*args, config=config, **named)
        _ahead[repr((args, {"threads": 1, "async_threads": 0, **config}, named))] = made
        return made

    duckdb.connect = keep  # type: ignore[assignment]
    try:
        _in_memory(Options(), Layout(workspace).tmp)
    finally:
        duckdb.connect = real


def _thread(store: Any, which: str) -> int:
    """Start one of a store's threads ahead of time, and say which it is."""
    if which == "keeper":
        store._engine._flusher.wake()
        return int(store._engine._flusher._thread.native_id)
    pool = ThreadPoolExecutor(1, thread_name_prefix="nirs-store-blobs")
    store._engine.blobs._writer._pool = pool
    return pool.submit(threading.get_native_id).result()


def _audit(request: dict[str, Any], line: Line) -> None:
    from fault_audit import audit
    from fault_ops import OPERATIONS

    from nirs_store.store import WorkspaceStore

    operation = OPERATIONS[request["operation"]]
    acks: list[list[Any]] = list(request["acks"])
    facts = request["facts"]
    step = "opening"
    found: dict[str, list[str]] = {"lost": [], "half": [], "repeat": []}
    try:
        with WorkspaceStore(request["workspace"], durability=operation.durability, lock_timeout=5.0) as store:
            step = "looking"
            found |= audit(store, facts, request["before"], acks)
            step = "again"
            if request["repeat"]:
                operation.run(store, facts, lambda *what: acks.append(list(what)))
                again = audit(store, facts, request["before"], acks)
                known = {*found["lost"], *found["half"]}
                found["repeat"] = [text for text in again["lost"] + again["half"] if text not in known]
                if request["operation"] in ("gc", "delete_run", "trash"):
                    # Until then a blob that a killed gc set aside is read from there.
                    left = sorted(path.name for path in store._engine.layout.aside.iterdir())
                    found["repeat"] += [f"left in aside/: {name}" for name in left]
                errors = store.check(read_data=True).errors
                found["repeat"] += [f"check: {error.message}" for error in errors]
            step = "closing"
    except Exception:
        found["half" if step in ("opening", "looking") else "repeat"].append(
            f"{step}: {traceback.format_exc()}"
        )
    line.send(found)


_KINDS = {"prepare": _prepare, "operate": _operate, "audit": _audit}


def _child(request: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(request["socket"])
    warnings.simplefilter("ignore")
    _KINDS[request["kind"]](request, Line(connection))
    connection.close()


def _first_calls() -> None:
    import numpy as np
    import pyarrow as pa
    from sklearn.preprocessing import StandardScaler

    StandardScaler().fit_transform(np.eye(3))
    pa.array(["a"])


def main() -> None:
    """Import everything, say so, then fork a child for each line."""
    import importlib

    for name in ("fault_ops", "fault_audit", *_LATE):
        importlib.import_module(name)
    from nirs_store.records.runs import environment

    # What imports, or looks installed packages up, once a process and in hundreds of system calls.
    environment()
    _first_calls()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for text in sys.stdin:
        if os.fork() == 0:
            try:
                _child(json.loads(text))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)


if __name__ == "__main__":
    main()
