"""The operations that are swept, and the workspaces they work on.

Each operation gets a store and a function `ack`; it calls `ack` with what the store has just said is done.
What an acknowledgement means is written in `fault_audit`.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.store import WorkspaceStore

__all__ = ["BASES", "OPERATIONS", "Operation", "prepare"]

Ack = Callable[..., None]
_SPECTRA = np.random.default_rng(7).normal(size=(12, 8))
_TARGET = _SPECTRA @ np.arange(8.0)
_OLD_STORE = Path(__file__).parents[1] / "compat" / "stores" / "schema-1.zip"


@dataclass(frozen=True)
class Operation:
    """One operation: on which workspace, with which store, what it does."""

    name: str
    base: str
    run: Callable[[WorkspaceStore, dict[str, Any], Ack], None]
    durability: str = "pipeline"
    # Which threads make system calls worth a sweep of their own.
    threads: tuple[str, ...] = ("main",)
    options: dict[str, Any] = field(default_factory=dict)


# -- recording -------------------------------------------------------------------------------------


def _chain(store: WorkspaceStore, pipeline_id: str, shared: str, seed: int) -> str:
    # The zygote has imported it; whoever only starts operations need not.
    from sklearn.cross_decomposition import PLSRegression

    model = PLSRegression(2).fit(_SPECTRA, _TARGET + seed)
    model_id = store.save_artifact(model, "sklearn.cross_decomposition.PLSRegression", "model")
    return _chain_of(store, pipeline_id, shared, model_id)


def _chain_of(store: WorkspaceStore, pipeline_id: str, shared: str, model_id: str) -> str:
    steps = [
        {"step_idx": 0, "operator_class": "sklearn.preprocessing.StandardScaler", "params": {},
         "artifact_id": shared},
        {"step_idx": 1, "operator_class": "sklearn.cross_decomposition.PLSRegression", "params": {},
         "operator_type": "model"},
    ]  # fmt: skip
    return store.save_chain(
        pipeline_id, steps, 1, "sklearn.cross_decomposition.PLSRegression", "SS", "per_fold",
        {"fold_0": model_id}, {"0": shared}, wavelengths=np.linspace(1000, 1070, 8),
    )  # fmt: skip


def _scaler(store: WorkspaceStore) -> str:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(_SPECTRA)
    return store.save_artifact(scaler, "sklearn.preprocessing.StandardScaler", "transformer")


def _prediction(store: WorkspaceStore, pipeline_id: str, chain_id: str | None, fold: int) -> str:
    return store.save_prediction(
        pipeline_id, chain_id, "corn", "PLS", "sklearn.cross_decomposition.PLSRegression", f"fold_{fold}",
        "val", 0.5, None, 0.25, "rmse", "regression", 12, 8, {"rmse": 0.5}, {"n_components": 2}, None, None,
        0, 0.0,
    )  # fmt: skip


def _arrays(store: WorkspaceStore, prediction_id: str) -> list[float]:
    predicted = np.random.default_rng(len(prediction_id) + time.time_ns() % 1000).normal(size=12)
    store.save_prediction_arrays(prediction_id, _TARGET, predicted, sample_indices=np.arange(12))
    return predicted.tolist()


def _whole_pipeline(store: WorkspaceStore, run_id: str, name: str, seed: int) -> tuple[str, str]:
    pipeline_id = store.begin_pipeline(run_id, name, {"n": seed}, [], "corn", "hash")
    chain_id = _chain(store, pipeline_id, _scaler(store), seed)
    for fold in range(2):
        _arrays(store, _prediction(store, pipeline_id, chain_id, fold))
    store.log_step(pipeline_id, 0, "sklearn.preprocessing.StandardScaler", "end", 5)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
    return pipeline_id, chain_id


# -- what is swept ---------------------------------------------------------------------------------


def _save_artifact(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    for _ in range(2):
        data = os.urandom(3000)
        ack("artifact", store.save_artifact(data, "builtins.bytes", "other", "bytes"), data.hex())


def _save_chain(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    run_id = store.begin_run("chains", {}, [])
    ack("run", run_id)
    pipeline_id = store.begin_pipeline(run_id, "one", {}, [], "corn", "hash")
    ack("row", "pipelines", pipeline_id)
    shared = _scaler(store)
    ack("row", "blobs", shared)
    ack("chain", _chain(store, pipeline_id, shared, time.time_ns() % 1000))


def _predictions(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    for fold in (7, 8):
        prediction_id = _prediction(store, facts["open_pipeline"], None, fold)
        ack("row", "predictions", prediction_id)
        ack("arrays", prediction_id, _arrays(store, prediction_id))


def _complete_pipeline(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    run_id = store.begin_run("whole", {}, [{"name": "corn"}])
    ack("run", run_id)
    for number in range(2):
        pipeline_id, chain_id = _whole_pipeline(store, run_id, f"swept-{number}", time.time_ns() % 1000)
        ack("pipeline", pipeline_id)
        ack("chain", chain_id)
    store.complete_run(run_id, {"best": 0.5})
    ack("completed", run_id)


def _delete_run(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    store.delete_run(facts["doomed_run"], now=True)
    ack("deleted", facts["doomed_run"])


def _trash(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    run_id = facts["doomed_run"]
    ack("kept", run_id)
    store.delete_run(run_id)
    store.gc_artifacts(grace_seconds=0.0)
    store.trash.restore(run_id)
    ack("run", run_id)


def _set_alias(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    version = store.calibrations.register("fat", facts["kept_chain"])
    ack("version", version.label)
    store.calibrations.set_alias("fat", "production", version)
    ack("alias", "fat@production", version.version)


def _log(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    for _ in range(2):
        names = [os.urandom(8).hex() for _ in _SPECTRA]
        store.predict(facts["kept_chain"], _SPECTRA, sample_ids=names, log=True, on_outlier="ignore")
        ack("logged", names)
        store.references.add(names[0], [1.0, 2.0])
        ack("referred", names[0])


def _datasets(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    spectra, name = _SPECTRA + time.time_ns() % 1000, f"corn {time.time_ns()}"
    for grown in (spectra[:8], spectra):
        version = store.datasets.add(name, grown, ids=range(len(grown)))
        ack("dataset", version.reference, version.content_hash, grown.tolist())
    chosen = store.datasets.select(version, "test", rows=[1, 9])
    ack("dataset", chosen.reference, chosen.content_hash, spectra[[1, 9]].tolist())
    ack("letting go", f"{name}@v1")
    store.datasets.delete(f"{name}@v1")
    ack("let go", name)


def _gc(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    store.gc_artifacts(grace_seconds=0.0)
    ack("collected", facts["orphans"])


def _vacuum(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    store.vacuum()
    ack("done")


def _export(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    target = store.workspace_path / "shared" / f"model-{os.getpid()}-{time.time_ns()}.n4a"
    store.export_chain(facts["kept_chain"], target, probe=_SPECTRA)
    ack("exported", str(target))


def _ask(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    store.list_runs()
    ack("done")


def _ask_and_linger(store: WorkspaceStore, facts: dict[str, Any], ack: Ack) -> None:
    store.list_runs()
    ack("done")
    # The background thread checkpoints and closes the catalog.
    deadline = time.monotonic() + 5
    while store._engine.lingering and time.monotonic() < deadline:
        time.sleep(0.01)


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("save_artifact", "usual", _save_artifact, "call", ("main", "blobs")),
        Operation("save_chain", "usual", _save_chain, "call", ("main", "blobs")),
        Operation("predictions", "usual", _predictions, "call"),
        Operation("complete_pipeline", "usual", _complete_pipeline, threads=("main", "blobs")),
        Operation("delete_run", "usual", _delete_run),
        Operation("trash", "usual", _trash),
        Operation("set_alias", "usual", _set_alias),
        Operation("log", "usual", _log),
        Operation("datasets", "usual", _datasets),
        Operation("gc", "usual", _gc),
        Operation("vacuum", "usual", _vacuum),
        Operation("export_chain", "usual", _export),
        Operation("migrate", "old", _ask),
        Operation("apply", "waiting", _ask_and_linger, threads=("main", "keeper")),
        Operation("create", "nothing", _complete_pipeline),
        Operation("inbox", "usual", _complete_pipeline, threads=("main", "blobs"), options={"inbox": True}),
        Operation("take_inbox", "arrived", _ask_and_linger, threads=("main", "keeper")),
    )
}


# -- workspaces ------------------------------------------------------------------------------------


def _in_service(store: WorkspaceStore, facts: dict[str, Any]) -> None:
    """Leave a row in the tables that most operations have no business with: they must not lose it."""

    def ignore(*what: Any) -> None:
        return

    _set_alias(store, facts, ignore)
    _log(store, facts, ignore)
    _datasets(store, facts, ignore)
    store.files.put({"reward": 1}, "episode.json", type="episode_data")


def _usual(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"X": _SPECTRA.tolist()}
    with WorkspaceStore(folder) as store:
        kept = store.begin_run("kept", {}, [{"name": "corn"}])
        _, facts["kept_chain"] = _whole_pipeline(store, kept, "kept", 1)
        store.complete_run(kept, {})
        facts["predicted"] = np.asarray(store.replay_chain(facts["kept_chain"], _SPECTRA)).tolist()
        _in_service(store, facts)
        facts["doomed_run"] = store.begin_run("doomed", {}, [])
        for seed in (2, 3):
            _whole_pipeline(store, facts["doomed_run"], f"doomed-{seed}", seed)
        store.complete_run(facts["doomed_run"], {})
        open_run = store.begin_run("open", {}, [])
        facts["open_pipeline"] = store.begin_pipeline(open_run, "open", {}, [], "corn", "hash")
        facts["orphans"] = [
            store.save_artifact(text * 500, "builtins.bytes", "other", "bytes") for text in (b"one", b"two")
        ]
    return facts


def _waiting(folder: Path) -> dict[str, Any]:
    facts = _usual(folder)
    store = WorkspaceStore(folder)
    run_id = store.begin_run("waiting", {}, [])
    facts["waiting"] = [_whole_pipeline(store, run_id, f"waiting-{n}", 10 + n)[0] for n in range(3)]
    store.complete_run(run_id, {})
    # Nobody closes it: the process that prepares ends, and the commits wait in the journal.
    facts["_kept_alive"] = id(store)
    _left_open.append(store)
    return facts


def _arrived(folder: Path) -> dict[str, Any]:
    facts = _usual(folder)
    with WorkspaceStore(folder, inbox=True) as store:
        run_id = store.begin_run("arrived", {}, [])
        facts["waiting"] = [_whole_pipeline(store, run_id, f"waiting-{n}", 10 + n)[0] for n in range(3)]
        store.complete_run(run_id, {})
    return facts


_left_open: list[WorkspaceStore] = []


def _old(folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(_OLD_STORE) as archive:
        for name in archive.namelist():
            if name.startswith("workspace/"):
                archive.extract(name, folder.parent)
        expected: dict[str, Any] = json.loads(archive.read("expected.json"))
    os.rename(folder.parent / "workspace", folder)
    return {"kept_chain": expected["chain_id"], "X": expected["X"], "predicted": expected["predicted"]}


def _nothing(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    return {}


BASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "usual": _usual,
    "waiting": _waiting,
    "arrived": _arrived,
    "old": _old,
    "nothing": _nothing,
}


def prepare(base: str, folder: Path) -> dict[str, Any]:
    """Make a workspace and return what is known of it."""
    return BASES[base](folder)
