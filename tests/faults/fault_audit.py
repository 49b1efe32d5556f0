"""Looking at a workspace after a fault, as a fresh process does: what is lost, what is half."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.bundle import load_bundle
from nirs_store.db.database import Connection
from nirs_store.db.schema import TABLES
from nirs_store.errors import NirsStoreError, UnknownDataset
from nirs_store.store import WorkspaceStore

__all__ = ["audit", "picture"]

Picture = dict[str, dict[str, str]]
_OF_A_RUN = ("pipelines", "chains", "predictions", "prediction_arrays", "logs")
# Tables whose rows nothing that is swept changes, except those of the run that goes.
_PICTURED = (
    *("runs", *_OF_A_RUN, "audit_entries", "file_versions", "calibration_versions", "calibration_aliases"),
    *("measurements", "sample_references", "dataset_versions", "dataset_retired"),
)
# Each names rows that point at nothing.
_DANGLING = {
    "pipelines without run": "SELECT pipeline_id FROM pipelines WHERE run_id NOT IN (SELECT run_id FROM runs)",
    "chains without pipeline": "SELECT chain_id FROM chains WHERE pipeline_id NOT IN "
    "(SELECT pipeline_id FROM pipelines)",
    "predictions without pipeline": "SELECT prediction_id FROM predictions WHERE pipeline_id NOT IN "
    "(SELECT pipeline_id FROM pipelines)",
    "predictions without chain": "SELECT prediction_id FROM predictions WHERE chain_id IS NOT NULL AND "
    "chain_id NOT IN (SELECT chain_id FROM chains)",
    "arrays without prediction": "SELECT prediction_id FROM prediction_arrays WHERE prediction_id NOT IN "
    "(SELECT prediction_id FROM predictions)",
    "array names without array": "SELECT h FROM (SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights])"
    " AS h FROM prediction_arrays UNION SELECT wavelengths FROM chains) WHERE h IS NOT NULL AND h NOT IN "
    "(SELECT array_hash FROM arrays)",
    "references to no artifact": "SELECT ref_id FROM artifact_refs WHERE artifact_id NOT IN "
    "(SELECT artifact_id FROM blobs)",
    "references of no pipeline": "SELECT ref_id FROM artifact_refs WHERE owner_kind = 'chain' AND owner_id NOT IN "
    "(SELECT chain_id FROM chains)",
    "aliases of no version": "SELECT alias_id FROM calibration_aliases WHERE version IS NOT NULL AND (name, version) "
    "NOT IN (SELECT (name, version) FROM calibration_versions)",
    "aliases and their audit": "SELECT n FROM (SELECT (SELECT count(*) FROM calibration_aliases) - (SELECT count(*) "
    "FROM audit_entries WHERE operation = 'set_alias' AND success) AS n) WHERE n <> 0",
    "data sets without their files": "SELECT dataset_version_id FROM dataset_versions v WHERE "
    "(SELECT count(*) FROM artifact_refs WHERE owner_id = dataset_version_id) <> json_array_length(spectra_ids) + 1",
    "files of no data set": "SELECT ref_id FROM artifact_refs WHERE owner_kind = 'dataset' AND owner_id NOT IN "
    "(SELECT dataset_version_id FROM dataset_versions)",
    "halves of a logged prediction": "SELECT batch_id FROM measurements GROUP BY batch_id HAVING count(*) <> 12 OR "
    "count(DISTINCT measurement_id) <> 12",
    "one of two replicates": "SELECT sample_id FROM sample_references GROUP BY sample_id HAVING count(*) <> 2",
    "rows applied twice": "SELECT txid FROM applied GROUP BY txid HAVING count(*) > 1",
}


def picture(store: WorkspaceStore) -> Picture:
    """Every row of the tables that a user sees, by its key."""

    def ask(con: Connection) -> Picture:
        found: Picture = {}
        for table in _PICTURED:
            names = [c.name for c in TABLES[table].columns if c.name not in ("environment", "note", "tags")]
            # Each copy of an old workspace has a migration of its own.
            which = "WHERE operation <> 'migrate'" if table == "audit_entries" else ""
            rows = con.execute(f"SELECT {', '.join(names)} FROM {table} {which}").fetchall()
            found[table] = {str(row[0]): repr(row) for row in rows}
            if len(found[table]) != len(rows):
                raise AssertionError(f"{table} has a key twice")
        return found

    return store._engine.query(ask)


def audit(
    store: WorkspaceStore, facts: dict[str, Any], before: Picture, acks: list[list[Any]]
) -> dict[str, list[str]]:
    """What is wrong: lists of sentences under "lost" and "half"."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        now = picture(store)
        dangling = store._engine.query(
            lambda con: {name: con.execute(query).fetchall() for name, query in _DANGLING.items()}
        )
        blobs = store._engine.query(lambda con: con.execute("SELECT artifact_id FROM blobs").fetchall())
    half = [f"{name}: {rows}" for name, rows in dangling.items() if rows]
    half += [str(warning.message) for warning in said if "could not be applied" in str(warning.message)]
    layout = store._engine.layout
    half += [f"set aside: {path.name}" for path in sorted(layout.rejected.glob("*.json"))]
    lost = []
    for (artifact_id,) in blobs:
        try:
            store.read_artifact(artifact_id)
        except (OSError, KeyError) as error:
            lost.append(f"blob {artifact_id[:8]}: {error}")
    half += _units(store, facts, before, now)
    lost += _missing(facts, before, now)
    going = {what[0] for kind, *what in acks if kind == "letting go"}
    for kind, *what in acks:
        if kind == "dataset" and what[0] in going:
            continue
        lost += [f"acknowledged {kind}: {problem}" for problem in _ACKS[kind](store, now, *what)]
    lost += _replays(store, facts)
    for path in sorted(layout.root.glob("shared/*.n4a")):
        try:
            load_bundle(path, allow_pickle=True)
        except (OSError, ValueError, NirsStoreError) as error:
            half.append(f"{path.name}: {error}")
    return {"lost": lost, "half": half}


def _doomed(facts: dict[str, Any], before: Picture) -> dict[str, set[str]]:
    """Keys of the rows that belong to the run that may go."""
    run_id = facts.get("doomed_run")
    if run_id is None:
        return {}
    pipelines = {key for key, row in before["pipelines"].items() if run_id in row}
    keys: dict[str, set[str]] = {"runs": {run_id}}
    for table in _OF_A_RUN:
        keys[table] = {key for key, row in before[table].items() if any(p in row for p in pipelines)}
    return keys


def _missing(facts: dict[str, Any], before: Picture, now: Picture) -> list[str]:
    """Rows from before the operation that are gone or changed."""
    doomed = _doomed(facts, before)
    gone = []
    for table, rows in before.items():
        for key, row in rows.items():
            if key in doomed.get(table, ()):
                continue
            if now[table].get(key) != row:
                gone.append(f"{table} {key}: was {row[:150]}, is {str(now[table].get(key))[:150]}")
    return gone


def _units(store: WorkspaceStore, facts: dict[str, Any], before: Picture, now: Picture) -> list[str]:
    """Runs and pipelines of which a part is there."""
    half = []
    doomed = _doomed(facts, before)
    there = {table: len(keys & now[table].keys()) for table, keys in doomed.items()}
    whole = {table: len(keys) for table, keys in doomed.items()}
    if any(there.values()) and there != whole:
        half.append(f"the deleted run is there in part: {there} of {whole}")
    rows = store._engine.query(
        lambda con: con.execute(
            """
            SELECT p.pipeline_id, p.name, (SELECT count(*) FROM chains c WHERE c.pipeline_id = p.pipeline_id),
                (SELECT count(*) FROM predictions r WHERE r.pipeline_id = p.pipeline_id),
                (SELECT count(*) FROM prediction_arrays a WHERE a.pipeline_id = p.pipeline_id),
                (SELECT count(*) FROM logs g WHERE g.pipeline_id = p.pipeline_id)
            FROM pipelines p WHERE p.status = 'completed'
              AND (p.name LIKE 'swept%' OR p.name LIKE 'waiting%' OR p.name LIKE 'doomed%' OR p.name = 'kept')
            """
        ).fetchall()
    )
    half += [f"pipeline {row} is completed but not whole" for row in rows if tuple(row[2:]) != (1, 2, 2, 1)]
    return half


def _replays(store: WorkspaceStore, facts: dict[str, Any]) -> list[str]:
    if "kept_chain" not in facts:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a frozen model says by which scikit-learn it was fitted
        found = np.asarray(store.replay_chain(facts["kept_chain"], np.array(facts["X"])))
    same = np.allclose(found, np.array(facts["predicted"]), rtol=1e-9)
    return [] if same else ["the kept chain predicts other numbers"]


# -- what an acknowledgement promises ---------------------------------------------------------------


def _row(store: WorkspaceStore, now: Picture, table: str, key: str) -> list[str]:
    if table == "blobs":
        return [] if store.get_artifact(key) is not None else [f"artifact {key} is gone"]
    return [] if key in now[table] else [f"{key} is not in {table}"]


def _run(store: WorkspaceStore, now: Picture, run_id: str) -> list[str]:
    return _row(store, now, "runs", run_id)


def _artifact(store: WorkspaceStore, now: Picture, artifact_id: str, data: str) -> list[str]:
    if store.get_artifact(artifact_id) is None:
        return [f"artifact {artifact_id} has no row"]
    return [] if store.read_artifact(artifact_id).hex() == data else ["other bytes"]


def _chain(store: WorkspaceStore, now: Picture, chain_id: str) -> list[str]:
    if chain_id not in now["chains"]:
        return [f"chain {chain_id} is not there"]
    store.replay_chain(chain_id, np.zeros((2, 8)))
    return []


def _arrays(store: WorkspaceStore, now: Picture, prediction_id: str, predicted: list[float]) -> list[str]:
    found = store.get_prediction(prediction_id, load_arrays=True)
    if found is None or found.get("y_pred") is None:
        return [f"prediction {prediction_id} has no arrays"]
    return [] if found["y_pred"].tolist() == predicted else ["other numbers"]


def _completed(table: str) -> Any:
    def look(store: WorkspaceStore, now: Picture, key: str) -> list[str]:
        row = now[table].get(key)
        return [] if row is not None and "'completed'" in row else [f"{table} {key}: {row}"]

    return look


def _deleted(store: WorkspaceStore, now: Picture, run_id: str) -> list[str]:
    return [f"run {run_id} is there again"] if run_id in now["runs"] else []


def _kept(store: WorkspaceStore, now: Picture, run_id: str) -> list[str]:
    there, deleted = run_id in now["runs"], store.trash.list()["object_id"].to_list()
    return [] if (run_id in deleted) is not there else [f"{run_id}: a run is {there}, in the trash {deleted}"]


def _version(store: WorkspaceStore, now: Picture, label: str) -> list[str]:
    store.calibrations.get(label)
    return []


def _alias(store: WorkspaceStore, now: Picture, alias: str, version: int) -> list[str]:
    # The operation may have been run again since.
    found = store.calibrations.resolve(alias)
    return [] if found.version >= version else [f"{alias} points to v{found.version}"]


def _logged(store: WorkspaceStore, now: Picture, names: list[str]) -> list[str]:
    there = set(store.measurements.list()["sample_id"].to_list())
    return [f"{name} was not logged" for name in names if name not in there]


def _referred(store: WorkspaceStore, now: Picture, name: str) -> list[str]:
    found = store.references.list(name).height
    return [] if found == 2 else [f"{name} has {found} references"]


def _dataset(
    store: WorkspaceStore, now: Picture, reference: str, digest: str, spectra: list[list[float]]
) -> list[str]:
    try:
        version, found = store.datasets.version(reference), store.datasets.get(reference).X
    except UnknownDataset:
        return [f"{reference} is gone"]
    return [] if version.content_hash == digest and found.tolist() == spectra else [f"{reference} is another"]


def _let_go(store: WorkspaceStore, now: Picture, name: str) -> list[str]:
    numbers = store.datasets.versions(name)["version"].to_list()
    return [] if numbers == [2] else [f"{name} has the versions {numbers}"]


def _collected(store: WorkspaceStore, now: Picture, orphans: list[str]) -> list[str]:
    return [f"{key} is there again" for key in orphans if store.get_artifact(key) is not None]


def _exported(store: WorkspaceStore, now: Picture, path: str) -> list[str]:
    load_bundle(Path(path), allow_pickle=True)
    return []


def _done(store: WorkspaceStore, now: Picture) -> list[str]:
    return []


_ACKS: dict[str, Any] = {
    "row": _row,
    "run": _run,
    "artifact": _artifact,
    "chain": _chain,
    "arrays": _arrays,
    "pipeline": _completed("pipelines"),
    "completed": _completed("runs"),
    "deleted": _deleted,
    "kept": _kept,
    "version": _version,
    "alias": _alias,
    "logged": _logged,
    "referred": _referred,
    "dataset": _dataset,
    "letting go": lambda store, now, reference: [],
    "let go": _let_go,
    "collected": _collected,
    "exported": _exported,
    "done": _done,
}
