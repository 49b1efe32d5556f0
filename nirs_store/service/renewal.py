"""Renewing a calibration: updates with new samples, challengers, transfer to another instrument."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
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
from nirs_store.errors import (
    CalibrationNotFound,
    InvalidInput,
    OverwriteRefused,
    RecordingWarning,
    ShapeMismatch,
    UnknownDataset,
    UnknownId,
    quoted,
)
from nirs_store.ids import is_id
from nirs_store.lazy import polars as pl
from nirs_store.records.named import find_version, known_name
from nirs_store.scores import regression_scores
from nirs_store.service.samples import (
    Samples,
    as_samples,
    check_channels,
    common_groups,
    refuse_known,
    seen,
)
from nirs_store.service.statistics import paired

if TYPE_CHECKING:
    from nirs_store.datasets.version import DatasetVersion
    from nirs_store.reading import Spectra
    from nirs_store.service.versions import CalibrationVersion

__all__ = [
    "CHALLENGERS",
    "Transferred",
    "Updated",
    "challenge",
    "challengers_of",
    "derive_chain",
    "end_challenge",
    "list_challengers",
    "update",
]

#: The setting that lists the challengers by name.
CHALLENGERS = "challengers"


# -- Updating.


@dataclass(frozen=True, eq=False)
class Updated:
    """A calibration and its update, compared on the same samples.

    Attributes
    ----------
    before, after : CalibrationVersion
        The version that was updated, and the new one. No alias was moved.
    comparison : polars.DataFrame
        One row per set of samples: ``samples, n, fitted, rmse_before, rmse_after, p, verdict``. For samples that a
        version was fitted on, its out-of-fold predictions are compared. Replicates that share a name count once, with
        their mean.
        `fitted` counts the test samples of which a version was fitted on the spectrum or the group: leave them out.
    added : int
        Number of new samples.
    dataset : str or None
        The stored data set with the old and the new samples, such as ``"fat update@v1"``; None where the old samples
        are in no data set. Then the next update needs `old_samples` again.
    """

    before: CalibrationVersion
    after: CalibrationVersion
    comparison: pl.DataFrame
    added: int
    dataset: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "added": self.added,
            "dataset": self.dataset,
            "comparison": self.comparison.to_dicts(),
        }

    def __repr__(self) -> str:
        head = (
            f"{self.before.name}: v{self.before.version} -> v{self.after.version}, {self.added} samples added"
        )
        lines = [
            f"  {row['samples']} (n = {row['n']}{_fitted(row['fitted'])}): RMSE {row['rmse_before']:.4g} -> "
            f"{row['rmse_after']:.4g}, {row['verdict']}"
            for row in self.comparison.iter_rows(named=True)
        ]
        return "\n".join([head, *lines, f"  samples: {self._stored}", "  no alias was moved"])

    @property
    def _stored(self) -> str:
        return self.dataset or "not stored; the next update needs old_samples="

    def _repr_html_(self) -> str:
        rows = [[cell_text(value) for value in row] for row in self.comparison.rows()]
        return block(
            f"{self.before.name}: v{self.before.version} to v{self.after.version}",
            field_table({"samples added": self.added, "samples": self._stored, "aliases": "none was moved"}),
            table(self.comparison.columns, rows),
        )


def _fitted(count: int) -> str:
    return f", {count} of which were fitted, so its errors are too low" if count else ""


def update(
    store: Any,
    calibration: Any,
    new_samples: Any,
    *,
    old_samples: Any = None,
    test_samples: Any = None,
    cv: Any = None,
    note_text: str | None = None,
    groups: Any = None,
    old_groups: Any = None,
) -> Updated:
    """Fit the same recipe on the old and the new samples; see `Calibrations.update`."""
    from nirs_store.diagnosing.diagnose import inside
    from nirs_store.recording import record_cross_validation

    before = store.calibrations.get(calibration)
    found = inside(store, before.chain_id)
    chain = found.chain
    metadata = chain.get("metadata") or {}
    target, grid = metadata.get("target"), chain.get("wavelengths")
    if "classif" in str(metadata.get("task_type")) or (isinstance(target, str) and target.startswith("[")):
        raise InvalidInput(f"{calibration}: updating needs a calibration of one number per sample.")
    if "sample_weight_hash" in metadata:
        raise InvalidInput(
            f"{before.name}@v{before.version}: it was fitted with sample_weight, which the store does not hold. "
            "Nothing was changed. Record all samples with their weights by record_cross_validation, and register that "
            "chain."
        )
    source = old_samples if old_samples is not None else _samples_of(store, before, metadata)
    old = as_samples(store, source, target, "old_samples", old_groups, "old_groups")
    new = as_samples(store, new_samples, target, "new_samples", groups)
    test = None if test_samples is None else as_samples(store, test_samples, target, "test_samples")
    width = int(metadata.get("n_features") or old.X.shape[1])
    for word, each in (("old_samples", old), ("new_samples", new), ("test_samples", test)):
        if each is not None:
            check_channels(each, word, width, grid if grid is not None else old.wavelengths)
    counted = metadata.get("n_samples")
    if isinstance(counted, int) and counted != len(old.y):
        raise InvalidInput(
            f"old_samples: the calibration was fitted on {counted} samples; found {len(old.y)} with a reference. "
            "Nothing was changed."
        )
    refuse_known(old, new)
    labels, comparable = common_groups(f"{before.name}@v{before.version}", old, new, metadata.get("n_groups"))
    estimator = _pipeline(found.steps())
    splitter = cv if cv is not None else _splitter(store, chain)
    # Whatever the old version cannot predict is refused here, before anything is recorded.
    of_new = _replayed(store, before.chain_id, new.X)
    of_test = None if test is None else _replayed(store, before.chain_id, test.X)
    ids = None if old.ids is None or new.ids is None else [*old.ids, *new.ids]
    # Out-of-fold predictions are found by name: a name in both sets tells neither sample.
    shared = seen(new, old, by_name=ids is not None)
    if shared.any():
        warnings.warn(
            f"new_samples: {int(shared.sum())} of {shared.size} share a name or a group with old ones; they are left "
            "out of the comparison, because the old version was fitted on samples like them.",
            RecordingWarning,
            stacklevel=3,
        )
    X: Any = np.vstack([old.X, new.X])
    y: Any = np.concatenate([old.y, new.y])
    enlarged = None
    if _is_stored(store, source, _dataset_id(before, metadata)):
        enlarged = _enlarge(store, before, metadata, grid, (old, new), X, y, ids, labels)
    try:
        if enlarged is not None:
            X, y = store.datasets.get(enlarged, target=target or _UNNAMED), None
        result = record_cross_validation(
            store,
            estimator,
            X,
            y,
            cv=splitter,
            dataset_name=_title(before),
            name=f"{before.name}: update of v{before.version}",
            wavelengths=grid,
            sample_ids=ids,
            groups=labels,
            metric=metadata.get("metric"),
            target=target,
            target_unit=metadata.get("target_unit"),
            wavelength_unit=metadata.get("wavelength_unit"),
            metadata={"updated_from": before.chain_id, "n_old": len(old.y), "n_new": len(new.y)},
        )
    except BaseException:
        if enlarged is not None and enlarged.added:
            with contextlib.suppress(OverwriteRefused):  # another update may have found it and use it
                store.datasets.delete(enlarged)
        raise
    store.lineage.link(("chain", before.chain_id), ("chain", result.chain_id), "updated_from")
    rows = _comparison(store, before.chain_id, result, old, new, of_new, shared, comparable=comparable)
    if test is not None:
        of_after = _replayed(store, result.chain_id, test.X)
        known = int(np.count_nonzero(seen(test, old) | seen(test, new)))
        rows.append(_compared("test samples", test.y, of_test, of_after, known=known))
    compared = pl.DataFrame(rows)
    after = store.calibrations.register(
        before.name,
        result.chain_id,
        scope=before.scope or None,
        note=note_text or f"update of v{before.version} with {len(new.y)} samples",
        metadata={"updated_from": before.version, "comparison": rows},
    )
    return Updated(before, after, compared, len(new.y), None if enlarged is None else enlarged.reference)


#: The column of the references where a chain does not say what it predicts.
_UNNAMED = "reference"


def _title(version: CalibrationVersion) -> str:
    return f"{version.name} update"


def _dataset_id(version: CalibrationVersion, metadata: Mapping[str, Any]) -> Any:
    return metadata.get("dataset_version_id") or version.dataset_version_id


def _samples_of(store: Any, version: CalibrationVersion, metadata: Mapping[str, Any]) -> Spectra:
    """Return the samples that a version was fitted on, from the data set that it was recorded or registered with."""
    from nirs_store.datasets.rows import rows_in

    identifier = _dataset_id(version, metadata)
    if identifier is None:
        raise InvalidInput(
            f"{version.name}@v{version.version}: the store does not hold the samples that it was fitted on. Nothing "
            "was changed. Give them: old_samples=(X, y)."
        )
    whole = store.datasets.version(identifier)
    target = metadata.get("target")
    if target is None and _UNNAMED in whole.labels:
        target = _UNNAMED
    found: Spectra = store.datasets.get(
        whole, target=target, rows=rows_in(metadata.get("dataset_rows"), whole.n_samples)
    )
    return found


def _is_stored(store: Any, source: Any, identifier: Any) -> bool:
    """Tell whether the old samples are in a data set: the one that was given, or that of the version."""
    from nirs_store.datasets.version import DatasetVersion

    if isinstance(source, (str, DatasetVersion)) or getattr(source, "dataset", None) is not None:
        return True
    try:
        return identifier is not None and bool(store.datasets.version(identifier).n_samples)
    except UnknownDataset:
        return False


def _enlarge(
    store: Any,
    before: CalibrationVersion,
    metadata: Mapping[str, Any],
    grid: Any,
    parts: tuple[Samples, Samples],
    X: NDArray[Any],
    y: NDArray[np.float64],
    ids: Sequence[str] | None,
    labels: NDArray[Any] | None,
) -> DatasetVersion:
    """Store the old and the new samples as a version of a data set that is named after the calibration.

    Not as a version of the old data set: that may hold other samples as well, such as a test set.
    """
    old, new = parts
    column, unit = metadata.get("target") or _UNNAMED, metadata.get("target_unit")
    added: DatasetVersion = store.datasets.add(
        _title(before),
        X,
        references={column: y},
        ids=ids,
        groups=labels,
        wavelengths=grid if grid is not None else old.wavelengths,
        unit=metadata.get("wavelength_unit") or old.unit,
        units={column: unit} if unit else None,
        instrument={
            key: word for key, word in old.instrument.items() if new.instrument.get(key, word) == word
        },
        metadata={"updated_from": before.chain_id, "n_old": len(old.y), "n_new": len(new.y)},
        note=f"samples of {before.name}@v{before.version}, and {len(new.y)} new ones",
        other_grid=True,
    )
    return added


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


def _comparison(
    store: Any,
    chain_id: str,
    result: Any,
    old: Samples,
    new: Samples,
    of_new: NDArray[np.float64],
    shared: NDArray[np.bool_],
    *,
    comparable: bool,
) -> list[dict[str, Any]]:
    """Compare on the new samples, which the old version never saw, and on the old ones, out of fold in both."""
    whole = None if old.ids is None or new.ids is None else (*old.ids, *new.ids)
    after = _out_of_fold(store, result.chain_id, len(old.y) + len(new.y), whole)
    if after is None:
        return []
    rows = []
    if not shared.all():
        rows.append(_compared("new samples", new.y, of_new, after[len(old.y) :], ~shared, new.ids))
    before = _out_of_fold(store, chain_id, len(old.y), old.ids)
    if before is not None and comparable:
        # A name that is in both sets has the mean of both.
        there = set(new.ids or ()) if whole is not None else set()
        own = np.array([name not in there for name in old.ids or range(len(old.y))], dtype=bool)
        if own.any():
            rows.append(_compared("old samples", old.y, before, after[: len(old.y)], own, old.ids))
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


def _replayed(store: Any, chain_id: str, X: Any) -> NDArray[np.float64]:
    return np.asarray(store.replay_chain(chain_id, X), dtype=float).ravel()


def _compared(
    words: str,
    y: Any,
    first: Any,
    second: Any,
    mask: Any = slice(None),
    names: Sequence[str] | None = None,
    known: int = 0,
) -> dict[str, Any]:
    y, first, second = y[mask], first[mask], second[mask]
    if names is not None:
        # Replicates that share a name are told by it only: the mean of each sample counts, in both versions.
        cells = {"name": np.array(names)[mask].tolist(), "y": y, "first": first, "second": second}
        means = pl.DataFrame(cells).group_by("name", maintain_order=True).mean()
        y, first, second = (means[each].to_numpy() for each in ("y", "first", "second"))
    found = paired(y, first, second)
    return {
        "samples": words,
        "n": found["n"],
        "fitted": known,
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


def list_challengers(engine: Engine, calibration: Any) -> tuple[int, ...]:
    """List the challengers of a calibration; see `Calibrations.challengers`."""
    name = _plain_name(calibration)
    left = challengers_of(engine, name) if name is not None else []
    return tuple(left or challengers_of(engine, engine.query(lambda con: known_name(con, calibration))))


def challenge(engine: Engine, calibration: Any, version: Any) -> int:
    """Make a version a challenger; see `Calibrations.challenge`."""
    name, number = engine.query(lambda con: _version(con, calibration, version))

    def put(setting: Any) -> dict[str, Any]:
        kept = dict(setting or {})
        return {**kept, name: sorted({*kept.get(name, []), number})}

    store_setting(engine, CHALLENGERS, put, "challenge", {"calibration": name, "version": number})
    return number


def end_challenge(engine: Engine, calibration: Any, version: Any) -> bool:
    """End the challenge of a version; return False if it was not a challenger."""
    try:
        name, number = engine.query(lambda con: _version(con, calibration, version))
    except CalibrationNotFound:
        # A version that was deleted may still be listed; only its number can name it.
        name, number = _plain_name(calibration) or "", _number(version)
        if number not in challengers_of(engine, name):
            raise
    if number not in challengers_of(engine, name):
        return False

    def put(setting: Any) -> dict[str, Any] | None:
        kept = dict(setting or {})
        kept[name] = [each for each in kept.get(name, []) if each != number]
        return {each: versions for each, versions in kept.items() if versions} or None

    store_setting(engine, CHALLENGERS, put, "end_challenge", {"calibration": name, "version": number})
    return True


def _plain_name(calibration: Any) -> str | None:
    given = getattr(calibration, "name", calibration)
    return unicodedata.normalize("NFC", given.strip()).partition("@")[0] if isinstance(given, str) else None


def _number(version: Any) -> int:
    """Read the number out of 3, "3", "v3", "fat@v3" or a version; -1 where it is an alias."""
    given = str(getattr(version, "version", version)).strip().rpartition("@")[2]
    digits = given[1:] if given[:1] in ("v", "V") else given
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1


def _version(con: Connection, calibration: Any, version: Any) -> tuple[str, int]:
    """Resolve a version of a calibration, by number, alias, whole name or id, or as `get` returned it."""
    name = known_name(con, calibration)
    if isinstance(version, str) and ("@" in version or is_id(version)):
        row = find_version(con, version)
    elif isinstance(version, str) or isinstance(getattr(version, "version", version), (int, np.integer)):
        number = _number(version)
        own = getattr(version, "name", name)
        row = find_version(
            con, f"{own}@{version.strip() if isinstance(version, str) and number < 0 else f'v{number}'}"
        )
    else:
        raise InvalidInput(
            f"version: expected a number, an alias such as 'candidate', or a version; found {type(version).__name__}. "
            "Nothing was changed."
        )
    if row["name"] != name:
        raise InvalidInput(
            f"version: expected one of {quoted(name)}; found {row['name']}@v{row['version']}. Nothing was changed."
        )
    return name, int(row["version"])


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
