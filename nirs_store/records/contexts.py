"""`with` blocks for runs and pipelines: completed on a normal exit, failed on an exception."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nirs_store.display import block, field_table
from nirs_store.errors import NirsStoreError
from nirs_store.protocol import RecordingStore


class PipelineContext:
    """A pipeline that is being recorded.

    Attributes
    ----------
    pipeline_id : str
        Its id.
    name : str
    """

    def __init__(self, pipeline_id: str, name: str = "") -> None:
        self.pipeline_id = pipeline_id
        self.name = name
        self.best_val: float | None = None
        self.best_test: float | None = None
        self.metric: str | None = None

    def complete(
        self, best_val: float | None = None, best_test: float | None = None, metric: str | None = None
    ) -> None:
        """Set what is recorded when the block ends normally."""
        self.best_val, self.best_test, self.metric = best_val, best_test, metric

    def __repr__(self) -> str:
        return f"PipelineContext({self.pipeline_id!r})"

    def _repr_html_(self) -> str:
        facts = {"pipeline": self.pipeline_id, "metric": self.metric, "best val": self.best_val}
        return block(self.name or "Pipeline", field_table(facts | {"best test": self.best_test}))


class RunContext:
    """A run that is being recorded.

    Attributes
    ----------
    run_id : str
        Its id.
    name : str
    status : {"running", "completed", "failed"}
    summary : dict
        Written with the run when the block ends normally.
    """

    def __init__(self, store: RecordingStore, run_id: str, name: str = "") -> None:
        self._store = store
        self.run_id = run_id
        self.name = name
        self.status = "running"
        self.summary: dict[str, Any] = {}
        self._pipelines = 0

    @contextmanager
    def pipeline(
        self,
        name: str,
        expanded_config: Any = None,
        generator_choices: Sequence[Any] = (),
        dataset_name: str = "",
        dataset_hash: str = "",
    ) -> Iterator[PipelineContext]:
        """Record a pipeline: completed on a normal exit, failed with the traceback otherwise."""
        pipeline_id = self._store.begin_pipeline(
            self.run_id, name, expanded_config, list(generator_choices), dataset_name, dataset_hash
        )
        pipeline = PipelineContext(pipeline_id, name)
        start = time.monotonic()
        try:
            yield pipeline
        except BaseException as error:
            _fail(self._store.fail_pipeline, pipeline_id, error)
            raise
        elapsed = round((time.monotonic() - start) * 1000)
        self._store.complete_pipeline(
            pipeline_id, pipeline.best_val, pipeline.best_test, pipeline.metric, elapsed
        )
        self._pipelines += 1

    def __repr__(self) -> str:
        plural = "" if self._pipelines == 1 else "s"
        count = f", {self._pipelines} pipeline{plural} completed" if self._pipelines else ""
        return f"<Run {self.name!r}: {self.status}{count}; run_id={self.run_id!r}>"

    def _repr_html_(self) -> str:
        count = self._pipelines or None
        facts = {"run": self.run_id, "status": self.status, "completed pipelines": count}
        return block(self.name or "Run", field_table(facts | {"summary": self.summary or None}))


@contextmanager
def open_run(
    store: RecordingStore,
    name: str,
    config: Any,
    datasets: Sequence[str | Mapping[str, Any]] | str | Mapping[str, Any],
    environment: Mapping[str, Any] | None = None,
) -> Iterator[RunContext]:
    """Record a run: completed on a normal exit, failed with the traceback otherwise."""
    each = [datasets] if isinstance(datasets, (str, Mapping)) else datasets
    named = [{"name": d} if isinstance(d, str) else dict(d) for d in each]
    # Other stores of the protocol need not know the keyword.
    begin: Callable[..., str] = store.begin_run
    captured = {} if environment is None else {"environment": environment}
    run = RunContext(store, begin(name, config, named, **captured), name)
    try:
        yield run
    except BaseException as error:
        run.status = "failed"
        _fail(store.fail_run, run.run_id, error)
        raise
    # Only what went through this object is counted; pipelines may be recorded into the run by other ways.
    counted = {"total_pipelines": run._pipelines} if run._pipelines else {}
    store.complete_run(run.run_id, {**counted, **run.summary})
    run.status = "completed"


def _fail(mark: Callable[[str, str], None], identifier: str, error: BaseException) -> None:
    """Mark as failed; what hinders that is told with the error, and never instead of it."""
    try:
        mark(identifier, "".join(traceback.format_exception(error)))
    except NirsStoreError as second:
        error.add_note(f"It could not be recorded that {identifier} failed: {second}")
