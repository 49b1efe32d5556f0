"""A store in plain dictionaries: what `WorkspaceStore` means, without how it does it.

A state machine drives this model and a real store with the same calls and compares what they
answer. It has no files, no journal, no locks and no other process; everything is visible at once.
References are rows here too: an artifact's ``ref_count`` is their number, never a counter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from nirs_store.db.changes import released_words
from nirs_store.ids import new_id
from nirs_store.records.contexts import RunContext, open_run
from tests.model.records import ModelRecords
from tests.model.state import State, strict_json

__all__ = ["ModelStore"]


class ModelStore(ModelRecords):
    """The semantics of `WorkspaceStore` in memory.

    Parameters
    ----------
    clock : callable
        Gives the time; sessions that ended longer ago than the grace period no longer count.

    Examples
    --------
    >>> store = ModelStore()
    >>> first = store.save_artifact([1, 2], "builtins.list", "model")
    >>> second = store.save_artifact([1, 2], "builtins.list", "model")
    >>> first == second, store.get_artifact(first)["ref_count"]
    (True, 2)
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._state = State()
        self._clock = clock
        self._order = itertools.count()
        self._session = new_id()
        self._state.sessions[self._session] = None
        self._closed = False

    # -- sessions -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; its references count for the grace period from now on."""
        if not self._closed:
            self._state.sessions[self._session] = self._clock()
            self._closed = True

    def reopen(self) -> ModelStore:
        """Give a new store object on the same workspace, as after a crash or a close."""
        self.close()
        again = ModelStore(self._clock)
        again._state, again._order = self._state, self._order
        again._state.sessions[again._session] = None
        return again

    def flush(self) -> None:
        """Do nothing: every call is committed at once."""
        self._open()

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """Do nothing, as `flush`."""
        self._open()
        yield self

    def run(
        self, name: str, config: Any = None, datasets: Sequence[str | Mapping[str, Any]] = ()
    ) -> AbstractContextManager[RunContext]:
        """Record a run in a `with` block."""
        return open_run(self, name, config, datasets)

    def vacuum(self) -> None:
        """Do nothing: there is no file."""
        self._open()

    # -- runs and pipelines -------------------------------------------------------------------

    def begin_run(self, name: str, config: Any, datasets: list[dict[str, Any]]) -> str:
        """Begin a run."""
        row = {
            "run_id": self._new_id(),
            "name": name,
            "config": strict_json(config),
            "datasets": strict_json(datasets),
        }
        ending = {"completed_at": None, "summary": None, "error": None}
        self._open().runs[row["run_id"]] = self._stamped(row | {"status": "running"} | ending)
        return str(row["run_id"])

    def complete_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Mark a run completed, unless it is finished already."""
        run = self._known("run", run_id)
        if run["status"] == "running":
            run.update(status="completed", completed_at=self._clock(), summary=strict_json(summary))

    def fail_run(self, run_id: str, error: str) -> None:
        """Mark a run failed, unless it is finished already; its open pipelines fail with it."""
        run = self._known("run", run_id)
        if run["status"] == "running":
            run.update(status="failed", completed_at=self._clock(), error=error)
            for row in self._state.pipelines.values():
                if row["run_id"] == run_id:
                    self.fail_pipeline(row["pipeline_id"], f"run failed: {error}")

    def begin_pipeline(
        self,
        run_id: str,
        name: str,
        expanded_config: Any,
        generator_choices: list[Any],
        dataset_name: str,
        dataset_hash: str,
    ) -> str:
        """Begin a pipeline."""
        self._known("run", run_id)
        row = {
            "pipeline_id": self._new_id(),
            "run_id": run_id,
            "name": name,
            "expanded_config": strict_json(expanded_config),
            "generator_choices": strict_json(generator_choices),
            "dataset_name": dataset_name,
            "dataset_hash": dataset_hash,
            "status": "running",
        }
        ending = dict.fromkeys(("completed_at", "best_val", "best_test", "metric", "duration_ms", "error"))
        self._state.pipelines[row["pipeline_id"]] = self._stamped(row | ending)
        return str(row["pipeline_id"])

    def complete_pipeline(
        self,
        pipeline_id: str,
        best_val: float | None,
        best_test: float | None,
        metric: str | None,
        duration_ms: int | None,
    ) -> None:
        """Mark a pipeline completed, unless it is finished already."""
        row = self._known("pipeline", pipeline_id)
        if row["status"] == "running":
            row.update(status="completed", completed_at=self._clock(), metric=metric, duration_ms=duration_ms)
            row.update(best_val=_finite(best_val), best_test=_finite(best_test))

    def fail_pipeline(self, pipeline_id: str, error: str) -> None:
        """Roll a pipeline back; its row and logs stay. A finished one is left alone."""
        row = self._known("pipeline", pipeline_id)
        if row["status"] == "running":
            row.update(status="failed", completed_at=self._clock(), error=error)
            held = sorted({r.artifact_id for r in self._state.references if r.pipeline_id == pipeline_id})
            if held:
                words = released_words(len(held))
                self.log_step(pipeline_id, 0, None, "cleanup", None, words, {"artifact_ids": held[:100]})
            self._drop_children(pipeline_id)

    # -- deletion -----------------------------------------------------------------------------

    def delete_run(self, run_id: str, delete_artifacts: bool = True, *, now: bool = False) -> int:
        """Delete a run with all it owns; gives the number of rows, 0 for an unknown run."""
        if run_id not in self._open().runs:
            return 0
        held = {ref.artifact_id for ref in self._state.references}
        doomed = [key for key, row in self._state.pipelines.items() if row["run_id"] == run_id]
        deleted = 1 + sum(self._delete_pipeline(key) for key in doomed)
        del self._state.runs[run_id]
        if delete_artifacts:
            for artifact_id in held - {ref.artifact_id for ref in self._state.references}:
                del self._state.artifacts[artifact_id]
        return deleted

    def delete_prediction(self, prediction_id: str, *, now: bool = False) -> bool:
        """Delete a prediction with its arrays; False when there is none."""
        self._open().arrays.pop(prediction_id, None)
        return self._state.predictions.pop(prediction_id, None) is not None

    def gc_artifacts(self, *, grace_seconds: float = 3600.0) -> int:
        """Remove artifacts without a reference that still counts; gives their number."""
        self._open()
        now = self._clock()
        ended = {
            session
            for session, at in self._state.sessions.items()
            if at is not None and (now - at).total_seconds() >= grace_seconds
        }
        self._state.references = [
            ref for ref in self._state.references if ref.owner_kind != "session" or ref.owner_id not in ended
        ]
        held = {ref.artifact_id for ref in self._state.references}
        doomed = [key for key in self._state.artifacts if key not in held]
        for key in doomed:
            del self._state.artifacts[key]
        return len(doomed)

    # -- inside -------------------------------------------------------------------------------

    def _drop_children(self, pipeline_id: str) -> int:
        state = self._state
        chains = [key for key, row in state.chains.items() if row["pipeline_id"] == pipeline_id]
        predictions = [key for key, row in state.predictions.items() if row["pipeline_id"] == pipeline_id]
        arrays = [key for key in predictions if key in state.arrays]
        for rows, doomed in ((state.chains, chains), (state.predictions, predictions)):
            for key in doomed:
                del rows[key]
        for key in arrays:
            del state.arrays[key]
        state.references = [ref for ref in state.references if ref.pipeline_id != pipeline_id]
        return len(chains) + len(predictions) + len(arrays)

    def _delete_pipeline(self, pipeline_id: str) -> int:
        logs = [row for row in self._state.logs if row["pipeline_id"] == pipeline_id]
        self._state.logs = [row for row in self._state.logs if row["pipeline_id"] != pipeline_id]
        deleted = self._drop_children(pipeline_id) + len(logs) + 1
        del self._state.pipelines[pipeline_id]
        return deleted


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
