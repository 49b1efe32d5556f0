"""Record a stack: a final estimator fitted on the out-of-fold predictions of chains that are stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from nirs_store.artifacts.find import check_branches
from nirs_store.chains.grids import differ, same_grid
from nirs_store.chains.plan import COLUMNS, STACKED, Names, require_columns
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.ids import content_hash
from nirs_store.reading import Spectra
from nirs_store.recording.bases import Base, gather, open_bases
from nirs_store.recording.crossval import _facts, _fail, _milliseconds
from nirs_store.recording.folds import align_probabilities
from nirs_store.recording.given import resolve, take_spectra
from nirs_store.recording.groups import Companions, check_companions, refuse_fixed_inner_folds
from nirs_store.recording.inputs import (
    Data,
    check_data,
    check_estimator,
    choose_metric,
    full_run_id,
    make_folds,
)
from nirs_store.recording.prepare import refuse_fitted
from nirs_store.recording.result import POOLED, CrossValidationResult, ScoreRow, score_table
from nirs_store.recording.rows import finite
from nirs_store.recording.steps import class_name, describe, parameters, take_apart
from nirs_store.registry import ArtifactRecord, ArtifactType, ChainNode, MetaModelConfig
from nirs_store.scores import classification_scores, pooled_scores, regression_scores, repeats_of
from nirs_store.store import WorkspaceStore

_STEP = 1


def record_stacking(
    store: WorkspaceStore,
    source_chain_ids: Sequence[str],
    final_estimator: Any,
    X: Any,
    y: Any = None,
    *,
    cv: Any = 5,
    dataset_name: str | None = None,
    name: str | None = None,
    run_id: str | None = None,
    feature_columns: Sequence[str] | None = None,
    sample_ids: ArrayLike | str | None = None,
    groups: ArrayLike | None = None,
    metric: str | None = None,
    passthrough: bool = False,
    branch_path: Sequence[int] | None = None,
    task_type: str | None = None,
    target: str | Sequence[str] | None = None,
    target_unit: str | None = None,
    artifact_format: str = "joblib",
) -> CrossValidationResult:
    """Train a final estimator on the stored out-of-fold predictions of some chains, and record the stack.

    A base model has never seen the samples whose predictions the final estimator learns from. The stack is a
    chain of its own, which holds what its base chains need: it replays, exports and survives as a whole.

    Parameters
    ----------
    store : WorkspaceStore
    source_chain_ids : sequence of str
        Chains with stored predictions of the partition ``val``, in the order of the columns. Such as
        `record_cross_validation` records.
    final_estimator : scikit-learn regressor or classifier
        Not changed.
    X : array or data frame, shape (n_samples, n_features)
        The spectra that the sources were recorded with; used as they are only with `passthrough`. Or what
        `read_spectra` returned, or a stored data set, as in ``"corn@v2"``, with its `target`.
    y : array-like, shape (n_samples,)
        Measured values, or labels; compared with those stored.
    cv : int, splitter or iterable of (train, validation) rows
        Folds on which the final estimator itself is scored.
    dataset_name : str, optional
        That of the sources by default.
    feature_columns : sequence of str, optional
        Names of the sources; made of their models by default.
    sample_ids : array-like, shape (n_samples,), or str, optional
        Names under which the sources stored their predictions; row numbers by default.
    passthrough : bool
        Give the final estimator the spectra beside the predictions.
    branch_path : sequence of int, optional
        Branch on which the stack stands; sources of other branches are then refused.
    name, run_id, groups, metric, task_type, target, target_unit, artifact_format
        As for `record_cross_validation`.

    Returns
    -------
    CrossValidationResult
        Of the final estimator, by the folds of `cv`.

    Raises
    ------
    UnknownId
        No such chain or run.
    InvalidInput
        A sample without an out-of-fold prediction of every source; predictions without sample names; targets
        other than those stored; sources of another branch, another grid or other classes. Nothing was recorded.
    ShapeMismatch
        With `passthrough`, spectra on other wavelengths or columns than those of the sources. Nothing was recorded.

    Notes
    -----
    A sample that several folds predicted (repeated cross-validation) counts with the mean. For a
    classification the columns are the probabilities of each class.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> from sklearn.linear_model import Ridge
    >>> from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
    >>> meat = load_tecator()
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     bases = [
    ...         record_cross_validation(store, model, meat.X, meat.fat, cv=3, dataset_name="tecator").chain_id
    ...         for model in (PLSRegression(8), Ridge(1e-3))
    ...     ]
    ...     stack = record_stacking(store, bases, Ridge(), meat.X, meat.fat)
    ...     store.replay_chain(stack.chain_id, meat.X[:2]).shape
    (2,)
    >>> folder.cleanup()
    """
    began = time.perf_counter()
    refuse_fitted(final_estimator, "final_estimator")
    parts = take_apart(final_estimator)
    if parts.transformers:
        raise InvalidInput("final_estimator: expected one estimator, found a Pipeline of several steps.")
    task = check_estimator(parts, task_type)
    chosen = choose_metric(metric, task)
    X = resolve(store, X, target)
    y, about = take_spectra(X, y, None, None, sample_ids, groups, target, target_unit)
    sample_ids, groups, target, target_unit = (
        about[word] for word in ("sample_ids", "groups", "target", "target_unit")
    )
    data = check_data(
        X.X if isinstance(X, Spectra) else X,
        y,
        sample_ids=sample_ids,
        task_type=task,
        wavelengths=about["wavelengths"],
        wavelength_unit=about["wavelength_unit"],
    )
    bases = open_bases(store, source_chain_ids, feature_columns)
    if passthrough:
        _require_channels(bases, data)
    check_branches("the stack", list(branch_path or ()), [r for base in bases for r in base.models])
    dataset = dataset_name or _one({base.dataset_name for base in bases})
    names = data.names("val", np.arange(len(data.y)))
    features, columns = gather(store, bases, names, data.y, data.classes)
    table = np.hstack([features, data.X]) if passthrough else features
    _splitter, folds, labels = make_folds(cv, data, groups, task)
    with_them = check_companions(parts, labels, None, len(data.y))
    refuse_fixed_inner_folds((parts.model,), [*(len(fold.train) for fold in folds), len(data.y)])
    fitted = _cross_validate(parts.model, table, data, folds, with_them)
    pooled = pooled_scores(
        [(data.y[rows], *found) for rows, found in fitted],
        task_type=task,
        metric=chosen,
        classes=data.classes,
        repeats=repeats_of([rows for rows, _ in fitted]),
    )
    value = float(pooled[chosen])
    title = name or f"{describe(parts.model)} on {len(bases)} models"
    data_hash = content_hash(data.X, data.y)
    facts = _facts(target=about["target"], target_unit=target_unit) | {
        "task_type": task,
        "metric": chosen,
        "data_hash": data_hash,
        "repeats": repeats_of([rows for rows, _ in fitted]),
        "feature_columns": columns,
        "source_chain_ids": [base.chain_id for base in bases],
        **about["stored"],
    }
    own_run = run_id is None
    run_id = full_run_id(store, run_id)
    if run_id is None:
        run_id = store.begin_run(title, {"stack": facts}, [{"name": dataset}])
    pipeline_id = None
    try:
        pipeline_id = store.begin_pipeline(run_id, title, facts, [], dataset, data_hash)
        options = with_them.of(parts.model, np.arange(len(data.y)), model=True)
        model = clone(parts.model).fit(table, data.y, **options)
        store.log_step(
            pipeline_id,
            _STEP,
            class_name(model),
            "end",
            message=f"{describe(model)} on {table.shape[1]} columns",
        )
        record = _register(store, pipeline_id, model, bases, columns, branch_path, artifact_format)
        chain_id = _save_chain(
            store, pipeline_id, model, record, bases, facts, pooled, branch_path, passthrough, data
        )
        recording = _Rows(store, pipeline_id, chain_id, dataset, model, task, chosen, data, value)
        rows = [recording.save(f"fold_{k}", "val", at, found) for k, (at, found) in enumerate(fitted)]
        everything = np.arange(len(data.y))
        rows.append(recording.save("final", "train", everything, _ask(model, table, data)))
        duration = _milliseconds(began)
        store.complete_pipeline(pipeline_id, value, None, chosen, duration)
        if own_run:
            store.complete_run(run_id, finite({"pipelines": 1, "metric": chosen, "best_val": value}))
    except BaseException as error:
        _fail(store, run_id if own_run else None, pipeline_id, error)
        raise
    ids = tuple(row.prediction_id for row in rows if row.prediction_id is not None)
    return CrossValidationResult(
        run_id=run_id,
        pipeline_id=pipeline_id,
        chain_id=chain_id,
        prediction_ids=ids,
        name=title,
        task_type=task,
        metric=chosen,
        value=value,
        fold_sd=pooled["fold_sd"],
        test_value=None,
        pooled=pooled,
        n_folds=len(fitted),
        duration_ms=duration,
        scores=score_table([*rows, ScoreRow(POOLED, "val", pooled)], task),
    )


def _require_channels(bases: Sequence[Base], data: Data) -> None:
    """Refuse spectra to pass through whose channels are known to be others than those of the bases."""
    # A replay gives bases and final estimator the same spectra, on the grid of the bases.
    expected, found = bases[0].wavelengths, data.wavelengths
    if expected is not None and found is not None and not same_grid(found, expected):
        raise ShapeMismatch(
            f"X is not on the wavelengths that the sources were recorded on: {differ(found, expected)}. Nothing was "
            "recorded; with passthrough=True give X as the sources got it."
        )
    named = _columns(bases)
    if named is not None and data.columns is not None:
        require_columns(data.columns, named, "X", "the sources")


def _columns(bases: Sequence[Base]) -> Names | None:
    return next((base.columns for base in bases if base.columns is not None), None)


Found = tuple[NDArray[Any], ...]
"""Predictions, and for a classification probabilities."""


def _cross_validate(
    model: Any, table: NDArray[Any], data: Data, folds: Sequence[Any], with_them: Companions
) -> list[tuple[NDArray[np.intp], Found]]:
    found = []
    for fold in folds:
        options = with_them.of(model, fold.train, model=True)
        fitted = clone(model).fit(table[fold.train], data.y[fold.train], **options)
        found.append((fold.val, _ask(fitted, table[fold.val], data)))
    return found


def _ask(model: Any, table: NDArray[Any], data: Data) -> Found:
    predicted = np.asarray(model.predict(table))
    if data.classes is None:
        return (predicted,)
    if not hasattr(model, "predict_proba"):
        return (predicted, None)  # type: ignore[return-value]
    return (predicted, align_probabilities(model.predict_proba(table), model.classes_, data.classes))


def _register(
    store: WorkspaceStore,
    pipeline_id: str,
    model: Any,
    bases: Sequence[Base],
    columns: list[str],
    branch_path: Sequence[int] | None,
    artifact_format: str,
) -> ArtifactRecord:
    sources = [
        {"artifact_id": record.artifact_id, "feature_index": place}
        for place, base in enumerate(bases)
        for record in base.models
    ]
    return store.artifacts.register_with_chain(
        model,
        [ChainNode(_STEP, class_name(model), tuple(branch_path or ()))],
        ArtifactType.META_MODEL,
        _STEP,
        fold_id="final",
        params=parameters(model),
        meta_config=MetaModelConfig(sources, columns),
        format_hint=artifact_format,
        pipeline_id=pipeline_id,
    )


def _save_chain(
    store: WorkspaceStore,
    pipeline_id: str,
    model: Any,
    record: ArtifactRecord,
    bases: Sequence[Base],
    facts: dict[str, Any],
    pooled: dict[str, Any],
    branch_path: Sequence[int] | None,
    passthrough: bool,
    data: Data,
) -> str:
    step = {
        "step_idx": _STEP,
        "operator_class": class_name(model),
        "operator_type": STACKED,
        "params": parameters(model),
        "stateless": False,
        "sources": [{"chain_id": base.chain_id, "feature": base.name, "chain": base.chain} for base in bases],
        "stack_method": "predict" if data.classes is None else "predict_proba",
        "passthrough": passthrough,
    }
    metadata = facts | {"cross_validation": finite(pooled)}
    if data.classes is not None:
        metadata["classes"] = data.classes.tolist()
    named = _columns(bases)
    if named is not None:
        metadata[COLUMNS] = list(named)
    return store.save_chain(
        pipeline_id,
        [step],
        _STEP,
        class_name(model),
        " + ".join(base.name for base in bases),
        "single",
        {"final": record.blob_id},
        {},
        list(branch_path) if branch_path else None,
        wavelengths=bases[0].wavelengths,
        metadata=metadata,
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Saves the predictions of the stack."""

    store: WorkspaceStore
    pipeline_id: str
    chain_id: str
    dataset: str
    model: Any
    task: str
    metric: str
    data: Data
    value: float

    def save(self, fold: str, partition: str, rows: NDArray[np.intp], found: Found) -> ScoreRow:
        y = self.data.y[rows]
        if self.task == "regression":
            scores = regression_scores(y, found[0])
        else:
            scores = classification_scores(y, found[0], found[1], self.data.classes)
        own = float(scores[self.metric])
        prediction_id = self.store.save_prediction(
            self.pipeline_id,
            self.chain_id,
            self.dataset,
            describe(self.model),
            class_name(self.model),
            fold,
            partition,
            own if partition == "val" else self.value,
            None,
            own if partition == "train" else None,
            self.metric,
            self.task,
            int(rows.size),
            int(self.data.X.shape[1]),
            finite(scores),
            parameters(self.model),
            None,
            None,
            0,
            0.0,
        )
        proba = found[1] if len(found) > 1 else None
        self.store.save_prediction_arrays(
            prediction_id, y, found[0], y_proba=proba, sample_indices=self.data.names("val", rows)
        )
        return ScoreRow(fold, partition, scores, prediction_id)


def _one(names: set[str]) -> str:
    if len(names) > 1:
        raise InvalidInput(f"The sources are of the data sets {sorted(names)}; say dataset_name.")
    return next(iter(names))
