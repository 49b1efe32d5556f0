"""Turn fitted folds into the rows of a store: logs, chain, predictions, scores."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nirs_store.blobs.code import CODE, describe_code, reliance
from nirs_store.chains.plan import COLUMNS
from nirs_store.domain import DOMAIN
from nirs_store.errors import NirsStoreError
from nirs_store.lazy import polars as pl
from nirs_store.protocol import RecordingStore
from nirs_store.recording.folds import FINAL, FoldResult, Prediction, average_folds
from nirs_store.recording.inputs import Data, full_run_id
from nirs_store.recording.result import AVERAGE, POOLED, CrossValidationResult, ScoreRow, score_table
from nirs_store.recording.steps import Parts, class_name, describe, parameters, preprocessing_of
from nirs_store.scores import classification_scores, pooled_scores, regression_scores

_PARTITIONS = ("train", "val", "test")


@dataclass(eq=False)
class Layout:
    """The steps of one chain and their numbers: splitter 1, transformers, y_processing, model."""

    pipeline_id: str
    dataset_name: str
    parts: Parts
    splitter: Any
    encoder: Any
    data: Data
    task_type: str
    metric: str
    facts: dict[str, Any] = field(default_factory=dict)
    repeats: list[int] | None = None
    splitter_id: str | None = None
    shared_encoder_id: str | None = None
    domain_id: str | None = None

    @property
    def timed(self) -> list[tuple[int, Any]]:
        """Step number and object of all that is fitted in a fold, in the order of the chain."""
        middle = [] if self.encoder is None else [self.encoder]
        return list(enumerate([*self.parts.transformers, *middle, self.parts.model], start=2))

    @property
    def model_step_idx(self) -> int:
        """Number of the model's step."""
        return self.timed[-1][0]

    @cached_property
    def words(self) -> tuple[str, str, dict[str, Any], str]:
        """Description, class and parameters of the model, and the preprocessing: alike in all predictions."""
        model = self.parts.model
        return describe(model), class_name(model), parameters(model), preprocessing_of(self.parts)

    def seconds(self, result: FoldResult) -> list[float]:
        """Put one fold's durations in the order of `timed`."""
        encoding, *transforming, fitting = result.seconds
        return [*transforming, *([] if self.encoder is None else [encoding]), fitting]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A chain with its predictions and scores, as they were saved."""

    chain_id: str
    prediction_ids: tuple[str, ...]
    value: float
    test_value: float | None
    pooled: dict[str, Any]
    table: pl.DataFrame


def save_everything(
    store: RecordingStore, layout: Layout, results: Sequence[FoldResult], *, logs: bool = True
) -> Outcome:
    """Save logs, chain and predictions of all folds and of the refit."""
    pooled = pooled_of(layout, results)
    if logs:
        _log_ends(store, layout, results)
    return save_predictions(store, layout, results, _save_chain(store, layout, results, pooled), pooled)


def pooled_of(layout: Layout, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Return the scores of what the folds predict for samples they were not fitted on, taken together."""
    of_folds = [result.predictions["val"] for result in results if result.key != FINAL]
    arrays = [(each.y_true, each.y_pred, each.y_proba) for each in of_folds]
    return pooled_scores(
        [each[:2] for each in arrays] if layout.task_type == "regression" else arrays,
        task_type=layout.task_type,
        metric=layout.metric,
        classes=layout.data.classes,
        repeats=layout.repeats,
    )


def save_predictions(
    store: RecordingStore,
    layout: Layout,
    results: Sequence[FoldResult],
    chain_id: str,
    pooled: dict[str, Any],
) -> Outcome:
    """Save the predictions of all folds and of the refit, with their scores."""
    value = float(pooled[layout.metric])
    rows = [row for result in results for row in _save_predictions(store, layout, result, chain_id, value)]
    ids = tuple(row.prediction_id for row in rows if row.prediction_id is not None)
    tested = [row for row in rows if row.partition == "test" and row.fold_id == FINAL]
    rows.append(ScoreRow(POOLED, "val", pooled))
    if not tested and layout.data.X_test is not None:
        tests = [result.predictions["test"] for result in results if result.key != FINAL]
        together = average_folds(tests, layout.data.classes)
        tested = [ScoreRow(AVERAGE, "test", _scores(layout, together))]
        rows += tested
    test_value = float(tested[0].scores[layout.metric]) if tested else None
    return Outcome(chain_id, ids, value, test_value, pooled, score_table(rows, layout.task_type))


@dataclass(eq=False)
class Recorded:
    """A pipeline that is recorded; what its block finishes it with completes it."""

    run_id: str
    pipeline_id: str
    name: str
    layout: Layout = field(init=False)
    outcome: Outcome = field(init=False)
    duration_ms: int = 0

    def finish(self, layout: Layout, outcome: Outcome) -> None:
        """Say what was saved."""
        self.layout, self.outcome = layout, outcome

    def result(self, n_folds: int) -> CrossValidationResult:
        """Return what the caller gets."""
        return CrossValidationResult(
            run_id=self.run_id,
            pipeline_id=self.pipeline_id,
            chain_id=self.outcome.chain_id,
            prediction_ids=self.outcome.prediction_ids,
            name=self.name,
            task_type=self.layout.task_type,
            metric=self.layout.metric,
            value=self.outcome.value,
            fold_sd=self.outcome.pooled["fold_sd"],
            test_value=self.outcome.test_value,
            pooled=self.outcome.pooled,
            n_folds=n_folds,
            duration_ms=self.duration_ms,
            scores=self.outcome.table,
        )


@contextmanager
def recording(
    store: RecordingStore,
    run_id: str | None,
    name: str,
    config: Mapping[str, Any],
    dataset_name: str,
    data_hash: str,
    *,
    began: float,
    run_config: Mapping[str, Any],
    about_dataset: Mapping[str, Any],
) -> Iterator[Recorded]:
    """Record a pipeline, in a run of its own where none is given: completed at the end, failed on an error."""
    own_run = run_id is None
    run_id = full_run_id(store, run_id)
    if run_id is None:
        run_id = store.begin_run(name, run_config, [{"name": dataset_name, **about_dataset}])
    pipeline_id = None
    try:
        pipeline_id = store.begin_pipeline(run_id, name, config, [], dataset_name, data_hash)
        recorded = Recorded(run_id, pipeline_id, name)
        yield recorded
        outcome, metric = recorded.outcome, recorded.layout.metric
        recorded.duration_ms = round((time.perf_counter() - began) * 1000)
        store.complete_pipeline(pipeline_id, outcome.value, outcome.test_value, metric, recorded.duration_ms)
        if own_run:
            best = {
                "best_pipeline_id": pipeline_id,
                "best_val": outcome.value,
                "best_test": outcome.test_value,
            }
            store.complete_run(run_id, finite({"pipelines": 1, "metric": metric, **best}))
    except BaseException as error:
        _fail(store, run_id if own_run else None, pipeline_id, error)
        raise


def _fail(store: RecordingStore, run_id: str | None, pipeline_id: str | None, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    try:
        if pipeline_id is not None:
            store.log_step(pipeline_id, 0, type(error).__name__, "error", message=str(error), level="error")
            store.fail_pipeline(pipeline_id, text)
        if run_id is not None:
            store.fail_run(run_id, text)
    except NirsStoreError as second:
        # The first error is the one to be seen; a failure to record it is added to it.
        error.add_note(f"The pipeline could not be marked failed either: {second}")


def finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Replace what strict JSON cannot say (NaN, infinity) by None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in scores.items()
    }


def _log_ends(store: RecordingStore, layout: Layout, results: Sequence[FoldResult]) -> None:
    durations = [layout.seconds(result) for result in results]
    for position, (step_idx, step) in enumerate(layout.timed):
        each = {
            result.key: round(seconds[position] * 1000, 3)
            for result, seconds in zip(results, durations, strict=True)
        }
        taken = sum(result.reused[position] for result in results if position < len(result.reused))
        store.log_step(
            layout.pipeline_id,
            step_idx,
            class_name(step),
            "end",
            duration_ms=round(sum(each.values())),
            message=f"{describe(step)}: fitted {len(results) - taken} times"
            + (f", taken over {taken} times" if taken else ""),
            details={"fit_ms": each},
        )


def _save_chain(
    store: RecordingStore, layout: Layout, results: Sequence[FoldResult], pooled: Mapping[str, Any]
) -> str:
    model = layout.parts.model
    metadata = metadata_of(layout, pooled) | {"depends_on": _dependencies(layout, results)}
    # Here, because workers that fitted may have saved the objects; fitted and as given they rely on the same code.
    code = describe_code(reliance([*layout.parts.transformers, model, layout.encoder]))
    if code is not None:
        metadata[CODE] = code
    if layout.domain_id is not None:
        metadata[DOMAIN] = layout.domain_id
    return store.save_chain(
        layout.pipeline_id,
        _steps(layout, results),
        layout.model_step_idx,
        class_name(model),
        preprocessing_of(layout.parts),
        "per_fold",
        {result.key: result.model_id for result in results if result.model_id},
        {},
        wavelengths=layout.data.wavelengths,
        metadata=metadata,
    )


def metadata_of(layout: Layout, pooled: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the metadata of a chain say of the samples, the task and the scores."""
    metadata = layout.facts | {
        "task_type": layout.task_type,
        "metric": layout.metric,
        "cross_validation": finite(pooled),
        "repeats": layout.repeats,
    }
    if layout.data.classes is not None:
        metadata["classes"] = layout.data.classes.tolist()
    if layout.data.columns is not None:
        metadata[COLUMNS] = list(layout.data.columns)
    return metadata


def _steps(layout: Layout, results: Sequence[FoldResult]) -> list[dict[str, Any]]:
    results = [result for result in results if result.model_id]
    steps = [
        step_entry(1, layout.splitter, "splitter") | {"stateless": True, "artifact_id": layout.splitter_id}
    ]
    for step_idx, step in layout.timed[: len(layout.parts.transformers)]:
        ids = {result.key: [result.transformer_ids[step_idx - 2]] for result in results}
        steps.append(step_entry(step_idx, step, "transform") | {"fold_artifact_ids": ids})
    if layout.encoder is not None:
        entry = step_entry(layout.model_step_idx - 1, layout.encoder, "y_processing")
        if layout.shared_encoder_id is not None:
            entry["artifact_id"] = layout.shared_encoder_id
        else:
            entry["fold_artifact_ids"] = {result.key: [result.encoder_id] for result in results}
        steps.append(entry)
    return [*steps, step_entry(layout.model_step_idx, layout.parts.model, "model")]


def step_entry(step_idx: int, value: Any, operator_type: str) -> dict[str, Any]:
    """Describe one step of a chain, without its artifacts."""
    return {
        "step_idx": step_idx,
        "operator_class": class_name(value),
        "operator_type": operator_type,
        "params": parameters(value),
        "stateless": False,
    }


def _dependencies(layout: Layout, results: Sequence[FoldResult]) -> dict[str, list[str]]:
    """List for each model the blobs that it needs: its transformers, encoder and the splitter."""
    needs: dict[str, dict[str, None]] = {}
    for result in results:
        if not result.model_id:
            continue
        ids = [*result.transformer_ids, result.encoder_id, layout.shared_encoder_id]
        if result.key != FINAL:
            ids.append(layout.splitter_id)
        # Two folds may end in the same bytes; the model then needs what either needed.
        needs.setdefault(result.model_id, {}).update(dict.fromkeys(each for each in ids if each is not None))
    return {model_id: list(ids) for model_id, ids in needs.items()}


def _save_predictions(
    store: RecordingStore, layout: Layout, result: FoldResult, chain_id: str, pooled_value: float
) -> list[ScoreRow]:
    model_name, model_class, params, preprocessings = layout.words
    scores = {name: _scores(layout, each) for name, each in result.predictions.items()}
    value = {name: float(each[layout.metric]) for name, each in scores.items()}
    # The refit validates on nothing; what is known about it is the cross-validation as a whole.
    val_score = pooled_value if result.key == FINAL else value["val"]
    n_features = int(layout.data.X.shape[1])
    rows = []
    for partition in [each for each in _PARTITIONS if each in result.predictions]:
        prediction = result.predictions[partition]
        prediction_id = store.save_prediction(
            layout.pipeline_id, chain_id, layout.dataset_name, model_name, model_class, result.key, partition,
            val_score, value.get("test"), value.get("train"), layout.metric, layout.task_type,
            int(prediction.rows.size), n_features, finite(scores[partition]), params | result.best_params,
            None, None, 0, 0.0, preprocessings=preprocessings,
        )  # fmt: skip
        store.save_prediction_arrays(
            prediction_id,
            prediction.y_true,
            prediction.y_pred,
            y_proba=prediction.y_proba,
            sample_indices=layout.data.names(partition, prediction.rows),
        )
        rows.append(ScoreRow(result.key, partition, scores[partition], prediction_id))
    return rows


def _scores(layout: Layout, prediction: Prediction) -> dict[str, Any]:
    if layout.task_type == "regression":
        return regression_scores(prediction.y_true, prediction.y_pred)
    return classification_scores(
        prediction.y_true, prediction.y_pred, prediction.y_proba, layout.data.classes
    )
