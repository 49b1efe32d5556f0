"""What tests of the store in several rooms share: something to record, other processes, broken disks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from nirs_store.blobs.backend import BLOBS
from nirs_store.db.journal import Journal, encode, new_txid
from nirs_store.db.layout import Layout
from nirs_store.db.schema import TABLES
from nirs_store.store import WorkspaceStore

Y_TRUE = np.array([1.0, 2.0, 3.0, 4.0])
ROOT = Path(__file__).parents[2]
# What cannot be the folder of a workspace.
NO_FOLDERS: list[Any] = [
    None, 5, b"bytes", "", "a\0b", os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9/below"), "x" * 256, "é" * 128,
    "deep/" * 1000, "~nobody-of-that-name/ws", "what?", "what?/below", *([] if os.name == "nt" else ["C:\\wheat"]),
]  # fmt: skip

# What names no folder, with a secret here and there.
ADDRESSES = (
    "s3://bucket/ws", "S3://bucket", "gs://b/w", "az://c/w", "abfss://c@a.dfs.core.windows.net/w", "https://host/ws",
    "postgresql://u:geheim@host/db", "postgresql+psycopg://host/db", "sqlite:///ws.db", "md:ws", "motherduck:ws",
    "file:///home/ann/ws", "hf://datasets/a/b", "  s3://bucket/ws", "s3:/bucket/ws", "ducklake:meta", "x-store://a",
)  # fmt: skip


# -- something to record -----------------------------------------------------------------------


def begin(store: WorkspaceStore, name: str = "run", dataset: str = "corn") -> tuple[str, str]:
    """A run with one pipeline; returns both ids."""
    run_id = store.begin_run(name, {"seed": 1}, [{"name": dataset}])
    return run_id, store.begin_pipeline(run_id, f"{name}-pls", {"n": 2}, [], dataset, "hash")


def chain_of(store: WorkspaceStore, pipeline_id: str, artifact_id: str | None = None, **extra: Any) -> str:
    """A chain of one model."""
    artifact_id = artifact_id or store.save_artifact([pipeline_id], "builtins.list", "model", "joblib")
    steps = [{"step_idx": 0, "operator_class": "builtins.list", "params": {}, "artifact_id": artifact_id}]
    folds = {"fold_0": artifact_id}
    return store.save_chain(pipeline_id, steps, 0, "builtins.list", "raw", "per_fold", folds, {}, **extra)


def prediction(**changes: Any) -> dict[str, Any]:
    """Arguments of `save_prediction` after pipeline and chain."""
    given: dict[str, Any] = {
        "dataset_name": "corn",
        "model_name": "PLS",
        "model_class": "sklearn.cross_decomposition.PLSRegression",
        "fold_id": "fold_0",
        "partition": "val",
        "val_score": 0.5,
        "test_score": None,
        "train_score": 0.25,
        "metric": "rmse",
        "task_type": "regression",
        "n_samples": 4,
        "n_features": 100,
        "scores": {"rmse": 0.5},
        "best_params": {"n_components": 2},
        "branch_id": None,
        "branch_name": None,
        "exclusion_count": 0,
        "exclusion_rate": 0.0,
    }
    return given | changes


def predict(store: WorkspaceStore, pipeline_id: str, chain_id: str | None = None, **changes: Any) -> str:
    """One prediction with its arrays."""
    prediction_id = store.save_prediction(pipeline_id, chain_id, **prediction(**changes))
    store.save_prediction_arrays(prediction_id, Y_TRUE, Y_TRUE + 0.5)
    return prediction_id


def whole_pipeline(store: WorkspaceStore, run_id: str, name: str = "pls", n: int = 2) -> str:
    """A completed pipeline with a chain and some predictions."""
    pipeline_id = store.begin_pipeline(run_id, name, {}, [], "corn", "hash")
    chain_id = chain_of(store, pipeline_id)
    for fold in range(n):
        predict(store, pipeline_id, chain_id, fold_id=f"fold_{fold}", val_score=float(fold))
    store.log_step(pipeline_id, 0, "builtins.list", "end", 5)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
    return pipeline_id


# -- looking at a workspace from outside ---------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"<folder>"
        for path in sorted(folder.rglob("*"))
    }


def sql(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask the catalog of a workspace that nobody has open."""
    with duckdb.connect(str(folder / "store.duckdb"), read_only=True) as con:
        return con.execute(query).fetchall()


def digests(con: duckdb.DuckDBPyConnection) -> dict[str, tuple[Any, ...]]:
    """What the tables hold that the commits alone decide, in whatever order their rows lie."""
    found = {}
    for name in TABLES:
        # When and in which groups commits were applied is a matter of each catalog.
        where = "WHERE key NOT IN ('change_count')" if name == "nirs_store_meta" else ""
        if name != "applied":
            columns = f"SELECT count(*), bit_xor(hash(t)), sum(hash(t)) FROM {name} t {where}"
            found[name] = con.execute(columns).fetchall()[0]
    return found


def segments(folder: Path) -> list[Path]:
    """Commits that wait."""
    return sorted((folder / "journal" / "segments").glob("*.seg"))


def commit_rows(folder: Path, rows: dict[str, list[tuple[Any, ...]]], claim: str = "") -> Path:
    """Commit rows as another process would, past all checks of the recording calls."""
    txid = new_txid()
    pieces = encode(rows, txid=txid, claim=claim, session="nobody", created="2026-01-01T00:00:00+00:00")
    entry, _ = Journal(Layout(folder)).append(pieces, txid)
    return entry.path


def blob_root(store: WorkspaceStore) -> Path:
    """The folder with the blobs of a workspace; of a folder, itself."""
    return Path(store._engine.layout.blobs.address("x")).parent


def blob_keys(store: WorkspaceStore) -> list[str]:
    """Keys of the blobs that are there, whatever their backend is."""
    return sorted(store._engine.layout.blobs.list(BLOBS))


def lose_blob(store: WorkspaceStore, artifact_id: str) -> None:
    """Have a blob vanish, as a disk or a person may."""
    store.flush()
    key = str((store.get_artifact(artifact_id) or {})["artifact_path"])
    store._engine.layout.blobs.trash([key])
    store._engine.layout.blobs.delete([key])


def trashed(store: WorkspaceStore) -> list[str]:
    """Keys of the blobs that a gc is deciding about, or left so when it died."""
    return sorted(store._engine.layout.blobs.list("", trashed=True))


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def let_go(store: WorkspaceStore) -> None:
    """Wait until a store has released its lingering connection."""
    until(lambda: not store._engine.access.lingering)


# -- broken disks --------------------------------------------------------------------------------


@contextmanager
def failing(monkeypatch: Any, call: str, *, below: Path, code: int = errno.ENOSPC) -> Iterator[list[str]]:
    """Have `os.<call>` fail for files below a folder; gives the list of what was refused."""
    refused: list[str] = []
    real = getattr(os, call)

    def broken(first: Any, *rest: Any, **named: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
        if str(name).startswith(str(below)):
            refused.append(str(name))
            raise OSError(code, os.strerror(code), str(name))
        return real(first, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        yield refused


# -- other processes -----------------------------------------------------------------------------


class Child:
    """A process that runs a function of this module or of `children`, and talks over a pipe.

    Children are forked from a server that has imported everything but started nothing: they start in
    milliseconds, and share no thread, lock or connection with the process that runs the tests.
    """

    def __init__(self, target: Callable[..., Any], *args: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["nirs_store.store", "nirs_store.maintenance.gc", "polars", "children"]
        )
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(theirs, target, args), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def hear(self, timeout: float = 60.0) -> Any:
        """What the child says next."""
        if not self._pipe.poll(timeout):
            raise AssertionError(f"the child said nothing for {timeout} s")
        kind, what = self._pipe.recv()
        if kind == "error":
            raise what
        return what

    def tell(self, what: Any = None) -> None:
        """Let the child go on."""
        self._pipe.send(what)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, timeout: float = 60.0) -> int:
        """Wait for its end; gives the exit code."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "the child did not end"
        return self.process.exitcode

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join(10)


class Talk:
    """The child's end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, what: Any = None) -> None:
        self._pipe.send(("said", what))

    def wait(self) -> Any:
        return self._pipe.recv()

    def told(self) -> bool:
        """Whether somebody has told this child to go on."""
        return self._pipe.poll()


def _run(pipe: Connection, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        pipe.send(("said", target(Talk(pipe), *args)))
    except BaseException as error:
        pipe.send(("error", error))
        raise


def python(code: str, *args: Any, timeout: float = 90.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, which ends as a user's does."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


class Counting:
    """A connection that keeps the texts of the statements it is given."""

    def __init__(self, con: Any) -> None:
        self.con = con
        self.asked: list[str] = []

    def execute(self, statement: Any, params: Any = None) -> Any:
        self.asked.append(getattr(statement, "query", statement))
        return self.con.execute(statement, params)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.con, name)
