"""A chain on its way out: what a bundle needs of the workspace, asked in one turn at the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nirs_store.blobs.cache import ByteLRU
from nirs_store.bundle.strict_json import clean
from nirs_store.catalog import artifacts, prediction_queries, queries, ranking
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.environment import versions_only
from nirs_store.catalog.known import KnownIds
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.leaderboard import SCORE_COLUMNS
from nirs_store.pooling import SCORED_ARRAYS, Arrays, chain_scores, count_folds, needed_arrays
from nirs_store.scores import default_metric, is_figure

__all__ = ["Outgoing", "Remembered", "known_facts", "known_scores"]

# Of a chain that is remembered, and of each of its predictions, about.
_BYTES, _ROW_BYTES = 8192, 2048


@dataclass(frozen=True)
class Remembered:
    """What an export has found out about a chain, for the next one of the same chain in this process.

    Nothing of it can be out of date: a chain and what is told of its pipeline never change, only disappear, and the
    figures of merit stand beside all that they were computed from.

    Attributes
    ----------
    chain, pipeline : dict
        The rows.
    predictions : list of dict
        The rows of its predictions.
    arrays : dict
        The hashes of their arrays.
    merits : dict or None
        The scores that follow; None without predictions.
    """

    chain: dict[str, Any]
    pipeline: dict[str, Any] | None
    predictions: list[dict[str, Any]]
    arrays: prediction_queries.ArrayNames
    merits: dict[str, Any] | None

    @property
    def nbytes(self) -> int:
        """About how much memory that takes."""
        grid = self.chain["wavelengths"]
        return _BYTES + _ROW_BYTES * len(self.predictions) + (0 if grid is None else int(grid.nbytes))


@dataclass(frozen=True)
class _Found:
    """What the catalog says about one chain, now."""

    about: Remembered
    run: dict[str, Any] | None
    artifacts: dict[str, dict[str, Any]]


class Outgoing:
    """One stored chain, as an export looks things up in it (a `nirs_store.bundle.source.HashingSource`).

    Parameters
    ----------
    engine : Engine
    chain_id : str
        A chain that is not there is found missing by the export.
    remembered : ByteLRU, optional
        What earlier exports of this process have found out, by chain.

    Raises
    ------
    StoreClosed, StoreBusy
    """

    def __init__(
        self, engine: Engine, chain_id: str, remembered: ByteLRU[str, Remembered] | None = None
    ) -> None:
        self._engine = engine
        self._chain_id = chain_id
        # What is not text is the id of no chain; the export says so.
        before = remembered.get(chain_id) if remembered is not None and isinstance(chain_id, str) else None
        # The entry that the last export left in the audit trail need not be in the catalog for this one.
        found = engine.query(lambda con: _ask(con, chain_id, engine.known, before), notes=False)
        self._found = found
        if found is None:
            return
        for artifact_id, row in found.artifacts.items():
            engine.known.add("artifact", artifact_id, {name: row[name] for name in queries.BLOB_NOTE})
        if remembered is not None and found.about is not before:
            remembered.put(chain_id, found.about, found.about.nbytes)

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """The chain."""
        return self._found.about.chain if self._found and chain_id == self._chain_id else None

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """The row of one of its artifacts."""
        return self._found.artifacts.get(artifact_id) if self._found else None

    def read_artifact(self, artifact_id: str) -> bytes:
        """The stored bytes of an artifact, checked against their hash."""
        return artifacts.read_artifact(self._engine, artifact_id)

    def read_hashed(self, artifact_id: str) -> tuple[bytes, str]:
        """The same with their hash, which the store has compared once in this process."""
        return artifacts.read_hashed(self._engine, artifact_id)

    def described(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of an export with what the workspace knows about the model; what was given wins."""
        found = self._found
        if found is None or found.about.pipeline is None or found.run is None:
            return dict(options)  # the export says what is missing
        row = found.about.merits
        tests = [one for one in found.about.predictions if one["partition"] == "test"]
        newest = max(tests, key=lambda one: (one["created_at"], one["prediction_id"]), default=None)
        n_test = None if newest is None else newest["n_samples"]
        config = found.run["config"] if isinstance(found.run.get("config"), dict) else {}
        scores = {**known_scores(row, config), **(options.get("scores") or {})}
        facts = {**known_facts(found.run, found.about.pipeline, row, n_test), **(options.get("facts") or {})}
        return {**options, "scores": scores, "facts": facts}


def _ask(con: Connection, chain_id: str, known: KnownIds, before: Remembered | None) -> _Found | None:
    if before is not None and queries.is_chain(con, chain_id):
        chain, pipeline = before.chain, before.pipeline
    else:
        asked = queries.get_chain(con, chain_id)
        if asked is None:
            return None
        before, chain = None, asked  # what was remembered under this id is gone
        pipeline = queries.pipeline_of_chain(con, chain["pipeline_id"])
    run = None if pipeline is None else queries.run_of_chain(con, pipeline["run_id"])
    ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    notes = {artifact_id: known.get("artifact", artifact_id) for artifact_id in ids}
    strangers = [ident for ident, note in notes.items() if not artifacts.is_settled(ident, note)]
    if strangers:
        notes |= queries.blob_rows(con, strangers)
    rows = ranking.predictions_of_chain(con, chain_id)
    needed = needed_arrays(rows)
    named = (
        prediction_queries.array_names(con, needed, SCORED_ARRAYS, pipeline_id=chain["pipeline_id"])
        if needed
        else {}
    )
    if before is None or before.predictions != rows or before.arrays != named:
        merits = _merits(chain, rows, prediction_queries.arrays_named(con, named)) if rows else None
        before = Remembered(chain, pipeline, rows, named, merits)
    return _Found(before, run, {key: note for key, note in notes.items() if note})


def _merits(chain: Mapping[str, Any], predictions: list[dict[str, Any]], arrays: Arrays) -> dict[str, Any]:
    """The scores of a chain, as its row of the leaderboard has them, and what they were computed from."""
    classifies = "classification" in str(predictions[0]["task_type"] or "").lower()
    task = "classification" if classifies else "regression"
    known = {"classes": chain["metadata"].get("classes"), "fold_weights": chain["fold_weights"]}
    known |= {"pooled": None, "fold_sd": None}
    return chain_scores(known, predictions, arrays, task, default_metric(task)) | count_folds(predictions)


def known_scores(row: Mapping[str, Any] | None, config: Mapping[str, Any]) -> dict[str, float]:
    """Collect the figures of merit of a chain: its row of the leaderboard, else what it was imported with."""
    stated = config.get("scores") if config.get("imported") else None
    found = dict(stated) if isinstance(stated, Mapping) else {}
    for name in (*SCORE_COLUMNS["regression"], *SCORE_COLUMNS["classification"]):
        if row is not None and is_figure(row.get(name)):
            found[name] = row[name]
    return found


def known_facts(
    run: Mapping[str, Any], pipeline: Mapping[str, Any], row: Mapping[str, Any] | None, n_test: int | None
) -> dict[str, Any]:
    """Collect what the card of a chain says beside scores and units."""
    config = run.get("config") or {}
    if isinstance(config, Mapping) and config.get("imported"):
        facts, origin = config.get("facts"), config["imported"].get("origin") or {}
        source = f"from {config['imported'].get('file')}, chain {origin.get('chain_id') or 'unknown'}"
        return {**(facts if isinstance(facts, Mapping) else {}), "imported_from": source}
    environment = versions_only(run.get("environment"))
    return {
        "dataset_name": pipeline.get("dataset_name"),
        "dataset_hash": pipeline.get("dataset_hash"),
        "run_name": run.get("name"),
        "pipeline_name": pipeline.get("name"),
        "created_at": clean(pipeline.get("created_at")),
        "git_commit": environment.pop("git-commit", None),
        "environment": environment,
        "n_samples": None if row is None else row.get("n_samples"),
        "n_folds": None if row is None else row.get("n_folds"),
        "n_test_samples": n_test,
    }
