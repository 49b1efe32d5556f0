"""Renewing a calibration: updates with new samples, challengers, transfer to another instrument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.audit.trail import store_setting
from nirs_store.chains.folds import REFIT
from nirs_store.chains.plan import COLUMNS, SPLITTER
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.display import block, cell_text, field_table, table
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.records.named import find_version
from nirs_store.scores import regression_scores
from nirs_store.service.statistics import paired
from nirs_store.values import as_array

if TYPE_CHECKING:
    from nirs_store.service.versions import CalibrationVersion

__all__ = [
    "CHALLENGERS",
    "Samples",
    "Transferred",
    "Updated",
    "as_samples",
    "challenge",
    "challengers_of",
    "derive_chain",
    "end_challenge",
    "update",
]

#: The setting that lists the challengers by name.
CHALLENGERS = "challengers"


# -- Samples in the forms that people have them.


@dataclass(frozen=True, eq=False)
class Samples:
    """Spectra with reference values, and sample names if known."""

    X: NDArray[Any]
    y: NDArray[np.float64]
    ids: tuple[str, ...] | None
    wavelengths: Any = None


def as_samples(store: Any, given: Any, target: str | None, name: str) -> Samples:
    """Read ``(X, y)``, ``(X, y, sample_ids)``, a `Spectra` with its target, or the name of a data set.

    Raises
    ------
    InvalidInput, ShapeMismatch
        It has no reference values, or they do not fit the spectra.
    """
    from nirs_store.datasets.version import DatasetVersion
    from nirs_store.reading import Spectra

    wavelengths = None
    if isinstance(given, (str, DatasetVersion)):
        found = store.datasets.get(given, target=target)
        X, y, ids, wavelengths = found.X, found.y, found.ids, found.wavelengths
    elif isinstance(given, Spectra):
        y = given.y if given.y is not None else (given.numbers(target) if target in given.labels else None)
        X, ids, wavelengths = given.X, given.ids, given.wavelengths
    elif isinstance(given, tuple) and len(given) in (2, 3):
        X, y, ids = (*given, None)[:3]
    else:
        raise InvalidInput(
            f"{name}: expected (X, y), (X, y, sample_ids), spectra of a file, or the name of a data set; found "
            f"{type(given).__name__}."
        )
    if y is None:
        raise InvalidInput(f"{name}: expected reference values; found none. Nothing was changed.")
    table_ = np.asarray(as_array(X, name))
    try:
        values = np.asarray(as_array(y, name), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{name}: expected numbers as reference values: {error}. Nothing was changed."
        ) from error
    if table_.ndim != 2 or values.shape != (len(table_),):
        raise ShapeMismatch(
            f"{name}: expected spectra and one value for each; found {table_.shape} and {values.shape}."
        )
    known = np.isfinite(values)
    if not known.any():
        raise InvalidInput(f"{name}: expected reference values; all are missing. Nothing was changed.")
    named = None if ids is None else tuple(str(each) for each in np.asarray(ids)[known])
    return Samples(table_[known], values[known], named, wavelengths)


# -- Updating.


@dataclass(frozen=True, eq=False)
class Updated:
    """A calibration and its update, compared on the same samples.

    Attributes
    ----------
    before, after : CalibrationVersion
        The version that was updated, and the new one. No alias was moved.
    comparison : polars.DataFrame
        One row per set of samples: ``samples, n, rmse_before, rmse_after, p, verdict``. For samples that a version was
        fitted on, its out-of-fold predictions are compared.
    added : int
        Number of new samples.
    """

    before: CalibrationVersion
    after: CalibrationVersion
    comparison: pl.DataFrame
    added: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "added": self.added,
            "comparison": self.comparison.to_dicts(),
        }

    def __repr__(self) -> str:
        head = (
            f"{self.before.name}: v{self.before.version} -> v{self.after.version}, {self.added} samples added"
        )
        lines = [
            f"  {row['samples']} (n = {row['n']}): RMSE {row['rmse_before']:.4g} -> {row['rmse_after']:.4g}, "
            f"{row['verdict']}"
            for row in self.comparison.iter_rows(named=True)
        ]
        return "\n".join([head, *lines, "  no alias was moved"])

    def _repr_html_(self) -> str:
        rows = [[cell_text(value) for value in row] for row in self.comparison.rows()]
        return block(
            f"{self.before.name}: v{self.before.version} to v{self.after.version}",
            field_table({"samples added": self.added, "aliases": "none was moved"}),
            table(self.comparison.columns, rows),
        )


def update(
    store: Any,
    calibration: Any,
    new_samples: Any,
    *,
    old_samples: Any = None,
    test_samples: Any = None,
    cv: Any = None,
    note_text: str | None = None,
) -> Updated:
    """Fit the same recipe on the old and the new samples; see `Calibrations.update`."""
    from nirs_store.diagnosing.diagnose import inside
    from nirs_store.recording import record_cross_validation

    before = store.calibrations.get(calibration)
    found = inside(store, before.chain_id)
    chain = found.chain
    metadata = chain.get("metadata") or {}
    target = metadata.get("target")
    if "classif" in str(metadata.get("task_type")) or (isinstance(target, str) and target.startswith("[")):
        raise InvalidInput(f"{calibration}: updating needs a calibration of one number per sample.")
    source = old_samples if old_samples is not None else _dataset_of(store, before, metadata)
    old = as_samples(store, source, target, "old_samples")
    new = as_samples(store, new_samples, target, "new_samples")
    _check(old, new, metadata, chain.get("wavelengths"))
    estimator = _pipeline(found.steps())
    splitter = cv if cv is not None else _splitter(store, chain)
    ids = None if old.ids is None or new.ids is None else [*old.ids, *new.ids]
    grid = chain.get("wavelengths")
    result = record_cross_validation(
        store,
        estimator,
        np.vstack([old.X, new.X]),
        np.concatenate([old.y, new.y]),
        cv=splitter,
        dataset_name=f"{before.name} update",
        name=f"{before.name}: update of v{before.version}",
        wavelengths=grid,
        sample_ids=ids,
        metric=metadata.get("metric"),
        target=target,
        target_unit=metadata.get("target_unit"),
        wavelength_unit=metadata.get("wavelength_unit"),
        metadata={"updated_from": before.chain_id, "n_old": len(old.y), "n_new": len(new.y)},
    )
    store.lineage.link(("chain", before.chain_id), ("chain", result.chain_id), "updated_from")
    rows = _comparison(store, before.chain_id, result, old, new)
    if test_samples is not None:
        test = as_samples(store, test_samples, target, "test_samples")
        rows.append(
            _compared("test samples", test.y, *_both(store, before.chain_id, result.chain_id, test.X))
        )
    compared = pl.DataFrame(rows)
    after = store.calibrations.register(
        before.name,
        result.chain_id,
        scope=before.scope or None,
        note=note_text or f"update of v{before.version} with {len(new.y)} samples",
        metadata={"updated_from": before.version, "comparison": rows},
    )
    return Updated(before, after, compared, len(new.y))


def _dataset_of(store: Any, version: CalibrationVersion, metadata: Mapping[str, Any]) -> Any:
    """Return the samples that a version was fitted on, from the data set that it was recorded or registered with."""
    from nirs_store.datasets.rows import rows_in

    identifier = metadata.get("dataset_version_id") or version.dataset_version_id
    if identifier is None:
        raise InvalidInput(
            f"{version.name}@v{version.version}: the store does not hold the samples that it was fitted on. Nothing "
            "was changed. Give them: old_samples=(X, y)."
        )
    whole = store.datasets.version(identifier)
    return store.datasets.get(
        whole, target=metadata.get("target"), rows=rows_in(metadata.get("dataset_rows"), whole.n_samples)
    )


def _check(old: Samples, new: Samples, metadata: Mapping[str, Any], grid: Any) -> None:
    """Refuse spectra that do not belong together, and new samples that are old ones."""
    if old.X.shape[1] != new.X.shape[1]:
        raise ShapeMismatch(
            f"new_samples: expected {old.X.shape[1]} channels as in the calibration; found {new.X.shape[1]}."
        )
    grids = [
        np.asarray(each, dtype=float) for each in (grid, old.wavelengths, new.wavelengths) if each is not None
    ]
    if any(len(each) != len(grids[0]) or not np.allclose(each, grids[0], rtol=1e-6) for each in grids):
        raise InvalidInput(
            "new_samples, old_samples: their wavelengths are not those of the calibration. Nothing was changed. "
            "Resample them first."
        )
    counted = metadata.get("n_samples")
    if isinstance(counted, int) and counted != len(old.y):
        raise InvalidInput(
            f"old_samples: the calibration was fitted on {counted} samples; found {len(old.y)} with a reference. "
            "Nothing was changed."
        )
    known = set(spectrum_hashes(old.X))
    same = [row for row, each in enumerate(spectrum_hashes(new.X)) if each in known]
    if same:
        rows = ", ".join(new.ids[row] if new.ids else str(row) for row in same[:10])
        which = f"{'samples' if new.ids else 'rows'} {rows}{', ...' if len(same) > 10 else ''}"
        raise InvalidInput(
            f"new_samples: {len(same)} spectra are in the calibration already ({which}). Nothing was changed. Leave "
            "them out: they would count twice, and once in the fold that validates them."
        )


def _pipeline(steps: Sequence[Any]) -> Any:
    from sklearn.pipeline import make_pipeline

    return steps[0] if len(steps) == 1 else make_pipeline(*steps)


def _splitter(store: Any, chain: Mapping[str, Any]) -> Any:
    first = next((step for step in chain["steps"] if step.get("operator_type") == SPLITTER), None)
    if first is None or not first.get("artifact_id"):
        raise InvalidInput("cv: the calibration was recorded without its splitter; say how to split: cv=10.")
    splitter = store.load_artifact(first["artifact_id"])
    if not hasattr(splitter, "get_n_splits") or type(splitter).__name__ in (
        "PredefinedSplit",
        "_CVIterableWrapper",
    ):
        raise InvalidInput(
            "cv: the calibration was split by given rows, which do not hold for more samples; say how to split: cv=10."
        )
    return splitter


def _comparison(store: Any, chain_id: str, result: Any, old: Samples, new: Samples) -> list[dict[str, Any]]:
    """Compare on the new samples, which the old version never saw, and on the old ones, out of fold in both."""
    whole = None if old.ids is None or new.ids is None else (*old.ids, *new.ids)
    after = _out_of_fold(store, result.chain_id, len(old.y) + len(new.y), whole)
    rows = []
    if after is not None:
        earlier = np.asarray(store.replay_chain(chain_id, new.X), dtype=float).ravel()
        rows.append(_compared("new samples", new.y, earlier, after[len(old.y) :]))
        before = _out_of_fold(store, chain_id, len(old.y), old.ids)
        if before is not None:
            rows.append(_compared("old samples", old.y, before, after[: len(old.y)]))
    return rows


def _out_of_fold(store: Any, chain_id: str, n: int, ids: Sequence[str] | None) -> NDArray[np.float64] | None:
    """Return out-of-fold predictions in the order of the samples, found by name or row; None where neither tells."""
    frame = store.chain_predictions(chain_id)
    if not frame.height or "y_pred" not in frame.columns or frame["sample"].null_count():
        return None
    means = {
        str(name): float(value)
        for name, value in frame.group_by("sample").agg(pl.col("y_pred").mean()).rows()
    }
    for names in (ids, [str(row) for row in range(n)]):
        if names is not None and set(names) == set(means):
            return np.array([means[name] for name in names])
    return None


def _both(store: Any, first: str, second: str, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = (np.asarray(store.replay_chain(each, X), dtype=float).ravel() for each in (first, second))
    return one, other


def _compared(words: str, y: Any, first: Any, second: Any) -> dict[str, Any]:
    found = paired(y, first, second)
    return {
        "samples": words,
        "n": found["n"],
        "rmse_before": found["rmsep_first"],
        "rmse_after": found["rmsep_second"],
        "p": found["p"],
        "verdict": found["verdict"],
    }


# -- Challengers.


def challengers_of(engine: Engine, name: str) -> list[int]:
    """List the challengers of a name without reading the catalog."""
    found = (engine.workspace_settings.current().get(CHALLENGERS) or {}).get(name) or []
    return [int(each) for each in found]


def challenge(engine: Engine, calibration: Any, version: Any) -> int:
    """Make a version a challenger; see `Calibrations.challenge`."""
    row = engine.query(lambda con: _version(con, calibration, version))
    name, number = row["name"], int(row["version"])

    def put(setting: Any) -> dict[str, Any]:
        kept = dict(setting or {})
        return {**kept, name: sorted({*kept.get(name, []), number})}

    store_setting(engine, CHALLENGERS, put, "challenge", {"calibration": name, "version": number})
    return number


def end_challenge(engine: Engine, calibration: Any, version: Any) -> bool:
    """End the challenge of a version; return False if it was not a challenger."""
    name = str(calibration).partition("@")[0]
    number = int(str(version).lstrip("vV")) if str(version).lstrip("vV").isdigit() else -1
    if number not in challengers_of(engine, name):
        return False

    def put(setting: Any) -> dict[str, Any] | None:
        kept = dict(setting or {})
        kept[name] = [each for each in kept.get(name, []) if each != number]
        return {each: versions for each, versions in kept.items() if versions} or None

    store_setting(engine, CHALLENGERS, put, "end_challenge", {"calibration": name, "version": number})
    return True


def _version(con: Connection, calibration: Any, version: Any) -> dict[str, Any]:
    name = str(getattr(calibration, "name", calibration)).partition("@")[0]
    number = getattr(version, "version", version)
    selector = f"v{number}" if isinstance(number, int) and not isinstance(number, bool) else str(number)
    return find_version(con, f"{name}@{selector}")


# -- Transfer.


@dataclass(frozen=True, eq=False)
class Transferred:
    """A chain for another instrument.

    Attributes
    ----------
    chain_id : str
        The new chain: the adapter, then the old chain.
    transferred_from : str
        The old chain.
    n : int or None
        Number of transfer samples with reference values.
    rmsep_before, rmsep_after : float or None
        RMSEP of these samples on the other instrument, without and with the adapter. `rmsep_before` is None if the
        other instrument has other channels.
    """

    chain_id: str
    transferred_from: str
    n: int | None
    rmsep_before: float | None
    rmsep_after: float | None

    def __repr__(self) -> str:
        if self.rmsep_after is None:
            return f"<chain {self.chain_id}, transferred from {self.transferred_from}; not compared>"
        if self.rmsep_before is None:
            return f"<chain {self.chain_id}, transferred from {self.transferred_from}: RMSEP {self.rmsep_after:.4g}>"
        return (
            f"<chain {self.chain_id}, transferred from {self.transferred_from}: RMSEP {self.rmsep_before:.4g} -> "
            f"{self.rmsep_after:.4g}, n = {self.n}>"
        )

    def _repr_html_(self) -> str:
        facts = {
            "chain": self.chain_id,
            "transferred from": self.transferred_from,
            "samples": self.n,
            "RMSEP before": self.rmsep_before,
            "RMSEP after": self.rmsep_after,
        }
        return block("Transferred chain", field_table(facts))


#: What the new chain cannot take over: it is about how the old one was fitted and split.
_NOT_CARRIED = ("cross_validation", "repeats", "data_hash", "code", "updated_from")


def derive_chain(
    store: Any,
    chain_id: str,
    before: Any,
    *,
    transfer_samples: Any = None,
    wavelengths: Any = None,
    name: str | None = None,
    artifact_format: str = "joblib",
) -> Transferred:
    """Put a fitted transformer in front of a chain; see `WorkspaceStore.derive_chain`."""
    from sklearn.utils.validation import check_is_fitted

    chain = store.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id)
    metadata = chain.get("metadata") or {}
    if not hasattr(before, "transform"):
        raise InvalidInput(
            f"before: expected a fitted transformer; found {type(before).__name__}, which has no transform. Nothing "
            "was recorded."
        )
    try:
        check_is_fitted(before)
    except Exception as error:
        raise InvalidInput(
            f"before: {type(before).__name__} is not fitted: {error} Nothing was recorded."
        ) from error
    if any(step.get("operator_type") == "sources" or step.get("sources") for step in chain["steps"]):
        raise InvalidInput("A stack cannot be transferred as a whole: transfer the chains that feed it.")
    samples = None
    if transfer_samples is not None:
        samples = as_samples(store, transfer_samples, metadata.get("target"), "transfer_samples")
    _try(store, chain, before, samples)
    kind = f"{type(before).__module__}.{type(before).__qualname__}"
    title = name or f"{type(before).__name__} > {metadata.get('preprocessing_chain') or chain['model_class']}"
    with store.run(f"transfer: {title}") as run, run.pipeline(title, dataset_name="transfer") as pipeline:
        artifact_id = store.save_artifact(
            before, kind, "transformer", artifact_format, pipeline_id=pipeline.pipeline_id
        )
        made = _prepended(chain, artifact_id, kind, before)
        told = {"chain_id": chain["chain_id"], "adapter": kind}
        carried = {key: value for key, value in metadata.items() if key not in _NOT_CARRIED}
        grid = chain.get("wavelengths") if wavelengths is None else wavelengths
        width = getattr(before, "n_features_in_", None)
        if isinstance(width, (int, np.integer)) and width != metadata.get("n_features", width):
            # The other instrument has other channels; the names and the grid of the old ones say nothing of them.
            carried = {key: value for key, value in carried.items() if key != COLUMNS} | {
                "n_features": int(width)
            }
            grid = wavelengths
        if samples is not None:
            told |= {"n": len(samples.y), "data_hash": _hash(samples)}
        new_id = store.save_chain(
            pipeline.pipeline_id,
            **made,
            wavelengths=grid,
            metadata={**carried, "transferred_from": told},
        )
        scores: dict[str, float] = {}
        if samples is not None:
            scores = _record(store, pipeline, new_id, chain, metadata, samples)
    store.lineage.link(
        ("chain", chain["chain_id"]), ("chain", new_id), "transferred_from", metadata=scores or None
    )
    return Transferred(
        new_id, chain["chain_id"], None if samples is None else len(samples.y), scores.get("rmsep_before"),
        scores.get("rmsep_after"),
    )  # fmt: skip


def _try(store: Any, chain: Mapping[str, Any], before: Any, samples: Samples | None) -> None:
    """Refuse an adapter whose spectra the chain cannot take, before anything is recorded."""
    X = (
        samples.X[:1]
        if samples is not None
        else np.zeros((1, int(getattr(before, "n_features_in_", 0) or 1)))
    )
    width = (chain.get("metadata") or {}).get("n_features")
    if samples is None and not hasattr(before, "n_features_in_"):
        return
    try:
        out = np.asarray(before.transform(X))
    except Exception as error:
        raise InvalidInput(
            f"before: {type(before).__name__} cannot transform the spectra: {error} Nothing was recorded."
        ) from error
    if out.ndim != 2 or (isinstance(width, int) and out.shape[1] != width):
        raise ShapeMismatch(
            f"before: the chain takes {width} channels; {type(before).__name__} returns the shape {out.shape[1:]}. "
            "Nothing was recorded."
        )


def _prepended(chain: Mapping[str, Any], artifact_id: str, kind: str, before: Any) -> dict[str, Any]:
    """Return what `save_chain` takes: the adapter as the first step after the splitter, the others one further."""
    steps = [dict(step) for step in chain["steps"]]
    place = sum(step.get("operator_type") == SPLITTER for step in steps[:1])
    first = int(steps[place]["step_idx"]) if place < len(steps) else 1
    for step in steps[place:]:
        step["step_idx"] = int(step["step_idx"]) + 1
    params = before.get_params(deep=False) if hasattr(before, "get_params") else {}
    plain = {
        name: value
        for name, value in params.items()
        if isinstance(value, (int, float, str, bool, type(None)))
    }
    adapter = {
        "step_idx": first, "operator_class": kind, "operator_type": "transform", "params": plain, "stateless": False,
        "artifact_id": artifact_id,
    }  # fmt: skip
    shared = {
        str(int(key) + (int(key) >= first)): value
        for key, value in (chain.get("shared_artifacts") or {}).items()
    }
    name = type(before).__name__
    return {
        "steps": [*steps[:place], adapter, *steps[place:]],
        "model_step_idx": int(chain["model_step_idx"]) + 1,
        "model_class": chain["model_class"],
        "preprocessings": f"{name} > {chain['preprocessings']}" if chain["preprocessings"] else name,
        "fold_strategy": chain["fold_strategy"],
        "fold_artifacts": chain["fold_artifacts"],
        "shared_artifacts": {**shared, str(first): artifact_id},
        "branch_path": chain.get("branch_path"),
        "source_index": chain.get("source_index"),
        "fold_weights": chain.get("fold_weights"),
    }


def _record(
    store: Any,
    pipeline: Any,
    new_id: str,
    chain: Mapping[str, Any],
    metadata: Mapping[str, Any],
    samples: Samples,
) -> dict[str, float]:
    """Record the predictions of the transfer samples as a test set; returns RMSEP before and after."""
    after = np.asarray(store.replay_chain(new_id, samples.X), dtype=float).ravel()
    found = regression_scores(samples.y, after)
    scores = {"rmsep_after": float(found["rmse"])}
    if samples.X.shape[1] == metadata.get("n_features", samples.X.shape[1]):
        # With other channels there is nothing to compare with.
        before = np.asarray(store.replay_chain(chain["chain_id"], samples.X), dtype=float).ravel()
        scores["rmsep_before"] = float(regression_scores(samples.y, before)["rmse"])
    prediction_id = store.save_prediction(
        pipeline.pipeline_id, new_id, "transfer", chain["model_class"].rpartition(".")[2], chain["model_class"], REFIT,
        "test", None, found["rmse"], None, "rmse", str(metadata.get("task_type") or "regression"), len(samples.y),
        int(samples.X.shape[1]), {"test": found}, {}, None, None, 0, 0.0, str(chain["preprocessings"]),
    )  # fmt: skip
    names = None if samples.ids is None else np.array(samples.ids)
    store.save_prediction_arrays(prediction_id, samples.y, after, sample_indices=names)
    pipeline.complete(best_test=scores["rmsep_after"], metric="rmse")
    return scores


def _hash(samples: Samples) -> str:
    from nirs_store.ids import content_hash

    return content_hash(np.ascontiguousarray(samples.X), samples.y)
