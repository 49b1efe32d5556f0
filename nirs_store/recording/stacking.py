"""Record a stack: a final estimator fitted on the out-of-fold predictions of chains that are stored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from nirs_store.artifacts.find import check_branches
from nirs_store.artifacts.types import ArtifactRecord, ArtifactType, ChainNode, MetaModelConfig
from nirs_store.chains.folds import REFIT, normalise_folds
from nirs_store.chains.grids import differ, same_grid
from nirs_store.chains.plan import COLUMNS, Names, ReplayPlan, require_columns, text_names
from nirs_store.chains.steps import SPLITTER, STACKED
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId
from nirs_store.ids import content_hash
from nirs_store.reading import Spectra
from nirs_store.recording.branching import BranchStore
from nirs_store.recording.folds import FINAL, FoldResult, Prediction, align_probabilities
from nirs_store.recording.given import resolve, take_spectra
from nirs_store.recording.groups import check_companions, refuse_fixed_inner_folds
from nirs_store.recording.inputs import Data, Fold, check_data, check_estimator, choose_metric, make_folds
from nirs_store.recording.prepare import refuse_fitted
from nirs_store.recording.result import CrossValidationResult
from nirs_store.recording.rows import Layout, metadata_of, pooled_of, recording, save_predictions, step_entry
from nirs_store.recording.steps import class_name, describe, parameters, take_apart
from nirs_store.scores import repeats_of

_STEP = 1


def record_stacking(
    store: BranchStore,
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
        Give the final estimator the spectra in addition to the predictions.
    branch_path : sequence of int, optional
        Branch of the stack; sources of other branches are then refused.
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
    data = check_data(
        X.X if isinstance(X, Spectra) else X,
        y,
        sample_ids=about["sample_ids"],
        task_type=task,
        wavelengths=about["wavelengths"],
        wavelength_unit=about["wavelength_unit"],
    )
    bases = open_bases(store, source_chain_ids, feature_columns)
    if passthrough:
        _require_channels(bases, data)
    branch = list(branch_path or ())
    check_branches("the stack", branch, [r for base in bases for r in base.models])
    dataset = dataset_name or _one({base.dataset_name for base in bases})
    everything = np.arange(len(data.y))
    features, columns = gather(store, bases, data.names("val", everything), data.y, data.classes)
    table = np.hstack([features, data.X]) if passthrough else features
    _splitter, folds, labels = make_folds(cv, data, about["groups"], task)
    with_them = check_companions(parts, labels, None, len(data.y))
    refuse_fixed_inner_folds((parts.model,), [*(len(fold.train) for fold in folds), len(data.y)])

    def fit(fold: Fold) -> tuple[Any, FoldResult]:
        options = with_them.of(parts.model, fold.train, model=True)
        model = clone(parts.model).fit(table[fold.train], data.y[fold.train], **options)
        partition, rows = ("train", fold.train) if fold.val is None else ("val", fold.val)
        found = {partition: _ask(model, table, data, partition, rows)}
        return model, FoldResult(fold.key, predictions=found)

    results = [fit(fold)[1] for fold in folds]
    title = name or f"{describe(parts.model)} on {len(bases)} models"
    facts = {key: about[key] for key in ("target", "target_unit") if about[key] is not None} | {
        "data_hash": content_hash(data.X, data.y),
        "feature_columns": columns,
        "source_chain_ids": [base.chain_id for base in bases],
        **about["stored"],
    }
    # A replay gives bases and final estimator the same spectra.
    layout = Layout(
        "", dataset, parts, None, None, replace(data, columns=_columns(bases)), task, chosen, facts
    )
    layout.repeats = repeats_of([fold.val for fold in folds if fold.val is not None])
    pooled = pooled_of(layout, results)
    metadata = metadata_of(layout, pooled)
    config = {
        key: value for key, value in metadata.items() if key not in ("classes", "cross_validation", COLUMNS)
    }
    with recording(
        store, run_id, title, config, dataset, facts["data_hash"],
        began=began, run_config={"stack": config}, about_dataset={},
    ) as recorded:  # fmt: skip
        layout.pipeline_id = recorded.pipeline_id
        model, refitted = fit(Fold(FINAL, everything, None))
        message = f"{describe(model)} on {table.shape[1]} columns"
        store.log_step(layout.pipeline_id, _STEP, class_name(model), "end", message=message)
        record = _register(store, layout.pipeline_id, model, bases, columns, branch, artifact_format)
        chain_id = _save_chain(store, layout, model, record, bases, metadata, branch, passthrough)
        outcome = save_predictions(store, layout, [*results, refitted], chain_id, pooled)
        recorded.finish(layout, outcome)
    return recorded.result(len(folds))


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


def _ask(model: Any, table: NDArray[Any], data: Data, partition: str, rows: NDArray[np.intp]) -> Prediction:
    proba = None
    predicted = np.asarray(model.predict(table[rows]))
    if data.classes is not None and hasattr(model, "predict_proba"):
        proba = align_probabilities(model.predict_proba(table[rows]), model.classes_, data.classes)
    return Prediction(partition, rows, data.y[rows], predicted, proba)


def _register(
    store: BranchStore,
    pipeline_id: str,
    model: Any,
    bases: Sequence[Base],
    columns: list[str],
    branch: list[int],
    artifact_format: str,
) -> ArtifactRecord:
    sources = [
        {"artifact_id": record.artifact_id, "feature_index": place}
        for place, base in enumerate(bases)
        for record in base.models
    ]
    return store.artifacts.register_with_chain(
        model,
        [ChainNode(_STEP, class_name(model), tuple(branch))],
        ArtifactType.META_MODEL,
        _STEP,
        fold_id=FINAL,
        params=parameters(model),
        meta_config=MetaModelConfig(sources, columns),
        format_hint=artifact_format,
        pipeline_id=pipeline_id,
    )


def _save_chain(
    store: BranchStore,
    layout: Layout,
    model: Any,
    record: ArtifactRecord,
    bases: Sequence[Base],
    metadata: dict[str, Any],
    branch: list[int],
    passthrough: bool,
) -> str:
    step = step_entry(_STEP, model, STACKED) | {
        "sources": [{"chain_id": base.chain_id, "feature": base.name, "chain": base.chain} for base in bases],
        "stack_method": "predict" if layout.data.classes is None else "predict_proba",
        "passthrough": passthrough,
    }
    return store.save_chain(
        layout.pipeline_id,
        [step],
        _STEP,
        class_name(model),
        " + ".join(base.name for base in bases),
        "single",
        {FINAL: record.blob_id},
        {},
        branch or None,
        wavelengths=bases[0].wavelengths,
        metadata=metadata,
    )


# -- The base chains: what they predicted for samples they had not seen, and what travels of them.


_CARRIED = (
    "steps", "model_step_idx", "model_class", "fold_artifacts", "shared_artifacts", "fold_weights",
    "branch_path", "source_index",
)  # fmt: skip
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Base:
    """A chain that feeds a stack."""

    chain_id: str
    name: str
    dataset_name: str
    chain: dict[str, Any]
    models: list[ArtifactRecord]
    wavelengths: NDArray[np.float64] | None
    classes: list[Any] | None
    columns: Names | None = None


def open_bases(store: BranchStore, chain_ids: Sequence[str], names: Sequence[str] | None) -> list[Base]:
    """Look the chains up, and refuse those that cannot stand side by side."""
    ids = list(chain_ids) if not isinstance(chain_ids, str) else [chain_ids]
    bases = [_open(store, chain_id) for chain_id in dict.fromkeys(ids)]
    if not ids or len({base.chain_id for base in bases}) < len(ids):
        raise InvalidInput(f"source_chain_ids: expected different chains, at least one; found {ids}.")
    given = list(names) if names is not None else _unique([base.name for base in bases])
    if len(given) != len(bases) or len(set(given)) < len(given):
        raise InvalidInput(f"feature_columns: expected {len(bases)} different names, found {given}.")
    first = named = bases[0]
    for base in bases[1:]:
        same = (
            base.wavelengths is first.wavelengths
            if base.wavelengths is None or first.wavelengths is None
            else np.array_equal(base.wavelengths, first.wavelengths)
        )
        if not same:
            raise InvalidInput(
                f"The chains {first.chain_id} and {base.chain_id} were recorded on different wavelengths, so no "
                "spectra fit both. Nothing was recorded."
            )
        if base.columns is not None and named.columns not in (None, base.columns):
            raise InvalidInput(
                f"The chains {named.chain_id} and {base.chain_id} were recorded on columns of different names or "
                "order, so no spectra fit both. Nothing was recorded."
            )
        named = named if named.columns is not None else base
        if base.classes != first.classes:
            raise InvalidInput(
                f"The chains {first.chain_id} and {base.chain_id} know different classes: {first.classes} and "
                f"{base.classes}. Nothing was recorded."
            )
    return [replace(b, name=name) for b, name in zip(bases, given, strict=True)]


def gather(
    store: BranchStore,
    bases: Sequence[Base],
    names: NDArray[Any],
    y: NDArray[Any],
    classes: NDArray[Any] | None,
) -> tuple[NDArray[np.float64], list[str]]:
    """Put the out-of-fold predictions of the bases next to each other, one row per sample."""
    place = {name: row for row, name in enumerate(names.tolist())}
    if len(place) < len(names):
        raise InvalidInput(
            "sample_ids: some samples share a name, so that their predictions cannot be told apart. Give each "
            "a name of its own, in the cross-validations of the sources as well. Nothing was recorded."
        )
    tables, columns = [], []
    for base in bases:
        if (classes is None) != (base.classes is None) or (
            classes is not None and list(base.classes or ()) != classes.tolist()
        ):
            raise InvalidInput(
                f"Chain {base.chain_id} knows the classes {base.classes}, y has "
                f"{None if classes is None else classes.tolist()}. Nothing was recorded."
            )
        found = _out_of_fold(store, base, place, y, classes is not None)
        tables.append(found)
        width = found.shape[1]
        labels = [""] if width == 1 else [f"_{label}" for label in (base.classes or range(width))]
        columns += [base.name + label for label in labels]
    return np.hstack(tables), columns


def _out_of_fold(
    store: BranchStore, base: Base, place: Mapping[Any, int], y: NDArray[Any], proba: bool
) -> NDArray[np.float64]:
    rows = store.query_predictions(partition="val", chain_id=base.chain_id)
    arrays = store.get_prediction_arrays(rows["prediction_id"].to_list())
    if not arrays:
        raise InvalidInput(
            f"Chain {base.chain_id} has no stored out-of-fold predictions (partition 'val'). Nothing was recorded; "
            "record it with record_cross_validation."
        )
    total: NDArray[np.float64] | None = None
    count = np.zeros(len(y), dtype=np.intp)
    for prediction_id, held in arrays.items():
        values, samples = held["y_proba" if proba else "y_pred"], held["sample_indices"]
        if values is None or samples is None:
            lacking = "sample_indices" if samples is None else "y_proba" if proba else "y_pred"
            raise InvalidInput(
                f"Prediction {prediction_id} of chain {base.chain_id} was stored without {lacking}, so it belongs "
                "to no sample. Nothing was recorded."
            )
        known = np.array([place.get(sample, -1) for sample in samples.tolist()], dtype=np.intp)
        inside = known >= 0
        table = np.asarray(values, dtype=np.float64).reshape(len(samples), -1)[inside]
        at = known[inside]
        if held["y_true"] is not None:
            _compare(base, prediction_id, np.asarray(held["y_true"])[inside], y[at])
        if total is None:
            total = np.zeros((len(y), table.shape[1]))
        np.add.at(total, at, table)
        np.add.at(count, at, 1)
    missing = np.flatnonzero(count == 0)
    if missing.size or total is None:
        by_row = list(place)
        shown = ", ".join(repr(by_row[row]) for row in missing[:_SHOWN])
        raise InvalidInput(
            f"{missing.size} of {len(y)} samples have no out-of-fold prediction of chain {base.chain_id} "
            f"({base.name}): {shown}{', …' if missing.size > _SHOWN else ''}. Nothing was recorded; leave them out, "
            "or cross-validate the source with all of them."
        )
    return np.asarray(total / count[:, None])


def _compare(base: Base, prediction_id: str, stored: NDArray[Any], given: NDArray[Any]) -> None:
    stored = stored.reshape(given.shape)
    equal = (
        np.allclose(stored.astype(np.float64), given.astype(np.float64), rtol=1e-9)
        if given.dtype.kind in "fiu" and stored.dtype.kind in "fiu"
        else np.array_equal(stored, given)
    )
    if not equal:
        raise InvalidInput(
            f"y is not what chain {base.chain_id} was recorded with (prediction {prediction_id}). Give the same "
            "samples under the same names. Nothing was recorded."
        )


def _open(store: BranchStore, chain_id: str) -> Base:
    chain = store.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id, "Nothing was recorded.")
    chain_id = str(chain["chain_id"])
    carried = _carried(chain)
    plan = ReplayPlan.from_chain({**carried, "wavelengths": chain["wavelengths"], "chain_id": chain_id})
    wanted = {member.model.artifact_id for member in plan.members}
    models = [
        record
        for record in store.artifacts.records(chain_id=chain_id)
        if record.blob_id in wanted and str(record.artifact_type) in ("model", "meta_model")
    ]
    pipeline = store.get_pipeline(chain["pipeline_id"])
    if pipeline is None or not models:
        raise UnknownId("pipeline", chain["pipeline_id"], f"Chain {chain_id} is being deleted.")
    return Base(
        chain_id,
        f"{str(chain['model_class']).rpartition('.')[2]}_pred",
        str(pipeline["dataset_name"]),
        carried,
        models,
        chain["wavelengths"],
        chain["metadata"].get("classes"),
        text_names(chain["metadata"].get(COLUMNS)),
    )


def _carried(chain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stack needs of a chain: the models of the folds stay behind where there is a refit."""
    carried = {name: chain[name] for name in _CARRIED}
    folds = normalise_folds(chain["fold_artifacts"], "fold_artifacts")
    steps = []
    for step in chain["steps"]:
        if step.get("operator_type") == SPLITTER:
            continue
        own = step.get("fold_artifact_ids")
        if own and REFIT in folds:
            own = {
                fold: ids for fold, ids in normalise_folds(own, "fold_artifact_ids").items() if fold == REFIT
            }
        steps.append(step | {"fold_artifact_ids": own} if own else step)
    if REFIT in folds:
        folds = {REFIT: folds[REFIT]}
    return carried | {"steps": steps, "fold_artifacts": folds}


def _unique(names: list[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name)}"
        for place, name in enumerate(names)
    ]


def _one(names: set[str]) -> str:
    if len(names) > 1:
        raise InvalidInput(f"The sources are of the data sets {sorted(names)}; say dataset_name.")
    return next(iter(names))
