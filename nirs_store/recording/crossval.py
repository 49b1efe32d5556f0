"""Cross-validate a scikit-learn estimator and keep all that comes of it in a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from nirs_store.datasets.version import DatasetVersion
from nirs_store.domain import DOMAIN_CLASS, Domain
from nirs_store.domain.build import FoldDomain, LeftOut, build, replicates_split
from nirs_store.errors import InvalidInput
from nirs_store.ids import content_hash
from nirs_store.protocol import RecordingStore
from nirs_store.recording.folds import FINAL, FoldResult, Job, fit_fold
from nirs_store.recording.given import resolve, take_name, take_spectra, take_test
from nirs_store.recording.groups import Companions, check_companions, refuse_fixed_inner_folds
from nirs_store.recording.inputs import (
    Data,
    Fold,
    check_data,
    check_estimator,
    choose_metric,
    make_folds,
    take_names,
    target_names,
)
from nirs_store.recording.prepare import by_position, refuse_fitted, refuse_missing
from nirs_store.recording.result import CrossValidationResult
from nirs_store.recording.rows import Layout, recording, save_everything
from nirs_store.recording.steps import class_name, configuration, describe, preprocessing_text, take_apart
from nirs_store.scores import repeats_of
from nirs_store.values import check_index, native


def record_cross_validation(
    store: RecordingStore,
    estimator: Any,
    X: Any = None,
    y: Any = None,
    *,
    cv: Any,
    dataset_name: str | None = None,
    dataset: str | DatasetVersion | None = None,
    name: str | None = None,
    run_id: str | None = None,
    groups: ArrayLike | None = None,
    wavelengths: ArrayLike | None = None,
    sample_ids: ArrayLike | str | None = None,
    sample_ids_test: ArrayLike | str | None = None,
    metric: str | None = None,
    refit: bool = True,
    n_jobs: int | None = 1,
    X_test: Any = None,
    y_test: Any = None,
    y_processing: Any = None,
    task_type: str | None = None,
    target: str | Sequence[str] | None = None,
    target_unit: str | None = None,
    wavelength_unit: str | None = None,
    artifact_format: str = "joblib",
    reuse: bool = False,
    progress: Callable[[int, int], None] | None = None,
    sample_weight: ArrayLike | None = None,
    keep_folds: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> CrossValidationResult:
    """Cross-validate an estimator and record trace, models, predictions, scores and logs.

    Every step of a Pipeline is fitted again on each fold's training samples, so nothing leaks from
    the validation samples into preprocessing. Bad input raises before anything is
    recorded; what goes wrong later marks the pipeline failed, with the traceback, and is raised.

    Parameters
    ----------
    store : WorkspaceStore
        Where to record; only its public interface is used.
    estimator : scikit-learn regressor, classifier or Pipeline
        Not changed. A Pipeline is recorded step by step, nested ones flattened; anything else
        (a search, a TransformedTargetRegressor, a stack) is one model.
    X : array or data frame, shape (n_samples, n_features)
        Spectra, of numpy, polars, pandas or anything with the Arrow C interface (pyarrow, DuckDB), as all
        other arrays here. Column names of a frame that are wavelengths ("850.5", "X850.5", "9090,91 cm-1") give
        the grid; other names are kept, and a frame that is predicted later must have the same in the same order.
        NaN is for pipelines that begin with an imputer. Or what `read_spectra` or `store.datasets.get` returned,
        which brings along what belongs to it; what is given by name wins.
    y : array-like, shape (n_samples,) or (n_samples, n_targets)
        Measured values, or labels, which the estimator gets as they are.
    cv : int, splitter or iterable of (train, validation) rows
        As in scikit-learn.
    dataset_name : str, optional
        The name under which predictions are found again; by default that of the data set or file. Arrays and frames
        need one.
    dataset : str, optional
        A stored data set, as in ``"corn@v2"``, in place of X and y; `target` names its column. The chain then says
        which version and which rows it was fitted on. Samples without a value are left out, with a warning.
    name : str, optional
        Name of the pipeline, and of the run when one is begun here; a description such as
        ``SNV > SG(deriv=1) > PLS(10)`` when None.
    run_id : str, optional
        Record into this run, and leave it open; when None a run is begun and completed.
    groups : array-like, shape (n_samples,), optional
        Samples of one group (replicates of one sample, say) stay in one fold. A number of folds and the splitters
        of scikit-learn that ignore groups are replaced by their grouped twin (KFold by GroupKFold); those without
        one are refused, and so is every fold that has a group on both sides. An estimator that splits by groups
        itself, such as GridSearchCV(cv=GroupKFold()), gets them as well.
    wavelengths : array-like, shape (n_features,), optional
        Wavelengths or wavenumbers of the channels.
    sample_ids, sample_ids_test : array-like, shape (n_samples,), or str, optional
        Names of the samples of X and X_test: text or whole numbers, replicates may share one. They are
        kept as ``sample_indices`` of every prediction, in place of row numbers. A str is the column of the
        frame that holds them, which then is not part of the spectra. A pandas frame with an index of text
        needs none of this.
    metric : str, optional
        Ranks the model: ``rmse`` (default), mae, r2, sep, rpd, rpiq for a regression;
        ``balanced_accuracy`` (default), accuracy, f1, log_loss for a classification.
    refit : bool
        Fit once more on all samples; replay and export then use that model alone.
    n_jobs : int
        Worker processes for joblib; -1 for all cores. 1 works in this process.
    X_test, y_test : optional
        Samples that no fold is fitted on: predicted by every fold and by the refit. A stored data set as well, as in
        ``X_test="corn-test@v1"``.
    y_processing : scikit-learn transformer, optional
        Transforms y before fitting and predictions back. For a regression it is fitted on each
        fold's training samples; for a classification (a LabelEncoder) once, on the labels.
    task_type : str, optional
        ``"regression"`` or ``"classification"``, for a model that does not say it itself.
    target : str or sequence of str, optional
        What y is (``"fat"``); one name per column where y has several (``["fat", "water"]``).
    target_unit, wavelength_unit : str, optional
        Unit of y (``"%"``) and that of the wavelengths (``"nm"``, ``"cm-1"`` or ``"um"``, in any spelling; by default
        as the column names say).
    artifact_format : str
        Serializer of the fitted objects; ``"cloudpickle"`` takes functions without a module.
    reuse : bool
        Take over transformers that an earlier pipeline of this workspace fitted with the same parameters on the
        same samples, and fit only what is new. Found are those that were themselves recorded with `reuse`;
        `ArtifactRegistry.invalidate_cache` has them fitted again. Not for transformers whose ``fit_transform``
        means something else than ``fit`` and ``transform`` (scikit-learn's TargetEncoder).
    progress : callable, optional
        Called as ``progress(done, total)`` after every fit.
    sample_weight : array-like, shape (n_samples,), optional
        Weights with which the model, the last step, is fitted. Scores count every sample alike.
    keep_folds : bool
        False stores only the refit's fitted objects. Scores and predictions of the folds are still stored.
    metadata : mapping, optional
        Plain data to keep with the chain.

    Returns
    -------
    CrossValidationResult
        Ids, the table of scores and the pooled out-of-fold figures (RMSECV).

    Raises
    ------
    ShapeMismatch
        Lengths, channels or column names that do not fit each other, more or fewer names than columns of y.
    InvalidInput
        NaN that no imputer fills in, infinities, no samples, a fold without samples or one that validates with
        samples (or groups) it was fitted on, an unknown metric (with the nearest name), something that is not
        an estimator, or one that is fitted already and stays so (FrozenEstimator, a predictor of a store).
    UnknownId
        `run_id` is not a run of this workspace.
    SerializationError
        A fitted step cannot be stored in `artifact_format`.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> from sklearn.model_selection import KFold
    >>> from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
    >>> tecator = load_tecator()
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     result = record_cross_validation(
    ...         store, PLSRegression(10, scale=False), tecator.X, tecator.fat,
    ...         cv=KFold(10, shuffle=True, random_state=0), dataset_name="tecator",
    ...         wavelengths=tecator.wavelengths, target="fat", target_unit="%",
    ...     )
    ...     again = store.replay_chain(result.chain_id, tecator.X[:5])
    >>> 2.5 < result.rmsecv < 3.2, again.shape
    (True, (5,))
    >>> folder.cleanup()
    """
    began = time.perf_counter()
    refuse_fitted(estimator)
    refuse_fitted(y_processing, "y_processing")
    named = (wavelengths, wavelength_unit, sample_ids, groups, target, target_unit)
    X, y, about, test, dataset_name = _take(store, X, y, dataset, X_test, y_test, dataset_name, named)
    if sample_ids_test is not None:
        test["sample_ids_test"] = sample_ids_test
    X = native(X, "X")
    given = estimator
    named_by = about["sample_ids"]
    estimator = by_position(estimator, take_names("X", X, named_by)[0] if isinstance(named_by, str) else X)
    parts = take_apart(estimator)
    task = check_estimator(parts, task_type)
    chosen = choose_metric(metric, task)
    _check_options(n_jobs, y_processing)
    if not keep_folds and not refit:
        raise InvalidInput("keep_folds=False keeps the refit only, so it needs refit=True.")
    if reuse and not hasattr(store, "artifacts"):
        raise InvalidInput("reuse: expected a store with an artifact registry, such as WorkspaceStore.")
    check_index(X=X, groups=about["groups"], sample_weight=sample_weight, sample_ids=named_by)
    data = check_data(
        X,
        y,
        wavelengths=about["wavelengths"],
        sample_ids=named_by,
        task_type=task,
        wavelength_unit=about["wavelength_unit"],
        no_missing=refuse_missing(parts),
        **test,
    )
    split_began = time.perf_counter()
    splitter, folds, labels = make_folds(cv, data, about["groups"], task)
    companions = check_companions(parts, labels, sample_weight, data.X.shape[0])
    sizes = [len(fold.train) for fold in folds] + [data.X.shape[0]] * refit
    refuse_fixed_inner_folds((*parts.transformers, parts.model), sizes)
    if companions.weights is not None and any(not companions.weights[fold.train].any() for fold in folds):
        raise InvalidInput(
            "sample_weight: all samples that one fold is fitted on have the weight 0. Nothing was recorded. Choose "
            "other folds, or leave the samples without weight out."
        )
    split_ms = round((time.perf_counter() - split_began) * 1000)

    described = preprocessing_text((*parts.transformers, parts.model))
    pipeline_name = described if name is None else name
    facts = chain_facts(data, y, labels, companions, described, about["target"], about["target_unit"])
    facts |= about["stored"] | about["stored_test"] | dict(metadata or {})
    config = configuration(given, splitter) | facts | {"task_type": task, "metric": chosen, "refit": refit}
    tasks = [*folds, Fold(FINAL, np.arange(data.X.shape[0]), None)] if refit else folds
    with recording(
        store, run_id, pipeline_name, config, dataset_name, facts["data_hash"],
        began=began, run_config=config, about_dataset=facts,
    ) as recorded:  # fmt: skip
        pipeline_id = recorded.pipeline_id
        layout = Layout(pipeline_id, dataset_name, parts, splitter, y_processing, data, task, chosen, facts)
        layout.repeats = repeats_of([fold.val for fold in folds if fold.val is not None])
        job = _job(estimator, data, pipeline_id, artifact_format, y_processing, task, reuse, companions)
        job = replace(job, keep="all" if keep_folds else "refit", domain="refit" if refit else "folds")
        _save_shared(store, layout, job, split_ms, len(folds))
        results = _collect(_fit_all(store, job, tasks, n_jobs or 1), len(tasks), progress)
        domain = domain_of_results(data, task, folds, results)
        layout.domain_id = store.save_artifact(
            domain.to_bytes(), DOMAIN_CLASS, "domain", "bytes", pipeline_id=pipeline_id
        )
        recorded.finish(layout, save_everything(store, layout, results))
    return recorded.result(len(folds))


def _take(
    store: RecordingStore,
    X: Any,
    y: Any,
    dataset: Any,
    X_test: Any,
    y_test: Any,
    dataset_name: str | None,
    named: tuple[Any, ...],
) -> tuple[Any, Any, dict[str, Any], dict[str, Any], Any]:
    """Take stored data sets and `Spectra` apart; arrays stay as they are."""
    if dataset is not None:
        if X is not None:
            raise InvalidInput("dataset: it is what is fitted on; X was given as well. Nothing was recorded.")
        X = dataset
    X, X_test = resolve(store, X, named[4]), resolve(store, X_test, named[4], "X_test")
    if X is None:
        raise InvalidInput("X: expected spectra, or dataset='corn@v2'; found None. Nothing was recorded.")
    y, about = take_spectra(X, y, *named)
    test = take_test(X, X_test, y_test, about)
    X, dataset_name = take_name(X, dataset_name)
    return X, y, about, test, dataset_name


def _check_options(n_jobs: Any, y_processing: Any) -> None:
    if n_jobs == 0 or not isinstance(n_jobs, (int, type(None))):
        raise InvalidInput(f"n_jobs is a number of processes, or -1 for all cores; found {n_jobs!r}.")
    needed = ("fit", "transform", "inverse_transform", "get_params")
    lacking = [] if y_processing is None else [each for each in needed if not hasattr(y_processing, each)]
    if lacking:
        raise InvalidInput(f"y_processing must be a transformer that can be undone; it lacks {lacking}.")


def chain_facts(
    data: Data,
    y: Any,
    labels: NDArray[Any] | None,
    companions: Companions,
    described: str,
    target: str | None,
    target_unit: str | None,
) -> dict[str, Any]:
    """Return what a chain's metadata says about the samples it was made of; `y` as it was given."""
    facts: dict[str, Any] = {"target": target, "target_unit": target_unit, "wavelength_unit": data.unit}
    facts = {name: value for name, value in facts.items() if value is not None} | {
        "preprocessing_chain": described,
        "n_samples": data.X.shape[0],
        "n_features": data.X.shape[1],
        "data_hash": content_hash(data.X, data.y),
    }
    if (names := target_names(y)) is not None:
        facts["target_names"] = names
    if labels is not None:
        facts["n_groups"] = int(np.unique(labels).size)
    if companions.weights is not None:
        facts["sample_weight_hash"] = content_hash(companions.weights, data.y)
    return facts


def _job(
    estimator: Any,
    data: Data,
    pipeline_id: str,
    artifact_format: str,
    encoder: Any,
    task: str,
    reuse: bool,
    companions: Companions,
) -> Job:
    shared = encoder is not None and task == "classification"
    if shared:
        # Which labels exist tells nothing about a sample; folds must number them alike.
        encoder = clone(encoder).fit(data.y)
    return Job(estimator, data, pipeline_id, artifact_format, encoder, shared, reuse, companions)


def _save_shared(store: RecordingStore, layout: Layout, job: Job, split_ms: int, n_folds: int) -> None:
    """Save the splitter and an encoder of labels, and log that every step begins."""
    splitter_class = class_name(layout.splitter)
    store.log_step(layout.pipeline_id, 1, splitter_class, "start")
    layout.splitter_id = store.save_artifact(
        layout.splitter, splitter_class, "splitter", job.artifact_format, pipeline_id=layout.pipeline_id
    )
    store.log_step(
        layout.pipeline_id, 1, splitter_class, "end", duration_ms=split_ms, message=f"{n_folds} folds"
    )
    if job.encoder_is_shared:
        layout.shared_encoder_id = store.save_artifact(
            job.encoder,
            class_name(job.encoder),
            "encoder",
            job.artifact_format,
            pipeline_id=layout.pipeline_id,
        )
    for step_idx, step in layout.timed:
        store.log_step(layout.pipeline_id, step_idx, class_name(step), "start", message=describe(step))


def domain_of_results(data: Data, task: str, folds: Sequence[Fold], results: Sequence[FoldResult]) -> Domain:
    """Return what says whether a new sample is inside the calibration, and how sure its prediction is."""
    of_folds = [result for result in results if result.key != FINAL]
    fitted = [result.domain for result in results if result.key == FINAL] or [r.domain for r in of_folds]
    names = data.names("train", np.arange(data.X.shape[0]))
    split = replicates_split(data.sample_ids, [(fold.train, fold.val) for fold in folds])
    left_out: list[tuple[LeftOut, FoldDomain | None]] = []
    for result in of_folds:
        one = result.predictions["val"]
        left_out.append((LeftOut(names[one.rows], one.y_true, one.y_pred, one.y_proba), result.domain))
    return build(
        [each for each in fitted if each is not None],
        left_out,
        data.y,
        task=task,
        classes=data.classes,
        refused="replicates of a sample lie in different folds" if split else "",
    )


def _fit_all(store: RecordingStore, job: Job, tasks: list[Fold], n_jobs: int) -> Iterator[FoldResult]:
    if n_jobs == 1:
        return (fit_fold(store, job, fold) for fold in tasks)
    workers = joblib.Parallel(n_jobs=n_jobs, return_as="generator")
    results: Iterator[FoldResult] = workers(joblib.delayed(fit_fold)(store, job, fold) for fold in tasks)
    return results


def _collect(
    results: Iterable[FoldResult], total: int, progress: Callable[[int, int], None] | None
) -> list[FoldResult]:
    collected = []
    for result in results:
        collected.append(result)
        if progress is not None:
            progress(len(collected), total)
    return collected
