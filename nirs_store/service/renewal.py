"""Renewing a calibration: updates with new samples, and challengers."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.audit.guard import store_setting
from nirs_store.chains.folds import REFIT, model_id, normalise_folds
from nirs_store.chains.plan import COLUMNS, ReplayPlan, text_names
from nirs_store.chains.steps import SPLITTER
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.display import block, cell_text, counted, field_table, table
from nirs_store.errors import (
    CalibrationNotFound,
    InvalidInput,
    OverwriteRefused,
    RecordingWarning,
    UnknownDataset,
    UnknownId,
)
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.records.named import find_version, known_name
from nirs_store.service.corrections import active
from nirs_store.service.samples import Samples, as_samples, check_channels, common_groups, refuse_known, seen
from nirs_store.service.statistics import paired, plain_fields
from nirs_store.service.versions import of_name

if TYPE_CHECKING:
    from nirs_store.datasets.version import DatasetVersion
    from nirs_store.reading import Spectra
    from nirs_store.service.versions import CalibrationVersion

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
        return plain_fields(self)

    def __repr__(self) -> str:
        added = f"{counted(self.added, 'sample')} added"
        lines = [f"{self.before.name}: v{self.before.version} -> v{self.after.version}, {added}"]
        for row in self.comparison.iter_rows(named=True):
            fitted = f", {row['fitted']} of them fitted, so its errors are too low" if row["fitted"] else ""
            lines.append(
                f"  {row['samples']} (n = {row['n']}{fitted}): RMSE {row['rmse_before']:.4g} -> "
                f"{row['rmse_after']:.4g}, {row['verdict']}"
            )
        return "\n".join([*lines, f"  samples: {self._stored}", "  no alias was moved"])

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
    from nirs_store.recording import record_cross_validation

    before = store.calibrations.get(calibration)
    chain = store.get_chain(before.chain_id)
    if chain is None:
        raise UnknownId("chain", before.chain_id, "Nothing was changed.")
    metadata = chain.get("metadata") or {}
    target, grid = metadata.get("target"), chain.get("wavelengths")
    if "classif" in str(metadata.get("task_type")) or (isinstance(target, str) and target.startswith("[")):
        raise InvalidInput(
            f"{calibration}: updating needs a calibration of one number per sample. Nothing was changed."
        )
    _refuse_transferred(store, before, chain)
    if "sample_weight_hash" in metadata:
        raise InvalidInput(
            f"{before.name}@v{before.version}: it was fitted with sample_weight, which the store does not hold. "
            "Nothing was changed. Record all samples with their weights by record_cross_validation, and register that "
            "chain."
        )
    estimator, y_processing = _recipe(store, before)
    source = old_samples if old_samples is not None else _samples_of(store, before, metadata)
    old = as_samples(store, source, target, "old_samples", old_groups, "old_groups")
    new = as_samples(store, new_samples, target, "new_samples", groups)
    test = None if test_samples is None else as_samples(store, test_samples, target, "test_samples")
    columns = text_names(metadata.get(COLUMNS))
    width = int(metadata.get("n_features") or old.X.shape[1])
    for word, each in (("old_samples", old), ("new_samples", new), ("test_samples", test)):
        if each is not None:
            check_channels(each, word, width, grid if grid is not None else old.wavelengths, columns)
    fitted = metadata.get("n_samples")
    if isinstance(fitted, int) and fitted != len(old.y):
        raise InvalidInput(
            f"old_samples: the calibration was fitted on {counted(fitted, 'sample')}; found {len(old.y)} with a "
            "reference. Nothing was changed."
        )
    refuse_known(old, new)
    labels, comparable = common_groups(f"{before.name}@v{before.version}", old, new, metadata.get("n_groups"))
    splitter = cv if cv is not None else _splitter(store, chain)
    # Whatever the old version cannot predict is refused here, before anything is recorded.
    of_new = _replayed(store, before.chain_id, new.X)
    of_test = None if test is None else _replayed(store, before.chain_id, test.X)
    _warn_of_mixtures(old, new)
    of_old = _out_of_fold(store, before.chain_id, old.y, old.ids) if comparable else None
    corrected = store._engine.query(lambda con: active(con, find_version(con, before.version_id)))
    if corrected is not None:
        warnings.warn(
            f"{before.name}@v{before.version} is {corrected.words}. The comparison and the new version are without "
            "this correction.",
            RecordingWarning,
            stacklevel=3,
        )
    ids = None if old.ids is None or new.ids is None else [*old.ids, *new.ids]
    if ids is None and (old.ids is not None or new.ids is not None):
        bare = "old_samples" if old.ids is None else "new_samples"
        warnings.warn(
            f"{bare} have no names, so the update keeps none: its predictions are found by row number. Give them as "
            "(X, y, sample_ids).",
            RecordingWarning,
            stacklevel=3,
        )
    # Out-of-fold predictions are found by name: a name in both sets tells neither sample.
    shared = seen(new, old, by_name=ids is not None)
    if shared.any():
        warnings.warn(
            f"new_samples: {int(shared.sum())} of {shared.size} left out of the comparison: they share a name or a "
            "group with old ones, and the old version was fitted on samples like them.",
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
        facts = {"updated_from": before.chain_id, "n_old": len(old.y), "n_new": len(new.y)}
        recorded: dict[str, Any] = _kept(store, chain)
        recorded |= {name: metadata.get(name) for name in ("metric", "target_unit", "wavelength_unit")}
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
            y_processing=y_processing,
            task_type="regression" if metadata.get("task_type") else None,
            target=target,
            metadata=facts | ({} if columns is None else {COLUMNS: list(columns)}),
            **recorded,
        )
    except BaseException:
        if enlarged is not None and enlarged.added:
            with contextlib.suppress(OverwriteRefused):  # another update may have found it and use it
                store.datasets.delete(enlarged)
        raise
    store.lineage.link(("chain", before.chain_id), ("chain", result.chain_id), "updated_from")
    rows = _comparison(store, result, old, new, of_new, of_old, shared)
    if test is not None:
        of_after = _replayed(store, result.chain_id, test.X)
        known = int(np.count_nonzero(seen(test, old) | seen(test, new)))
        rows.append(_compared("test samples", test.y, of_test, of_after, known=known))
    compared = pl.DataFrame(rows)
    after = store.calibrations.register(
        before.name,
        result.chain_id,
        scope=before.scope or None,
        note=note_text or f"update of v{before.version} with {counted(len(new.y), 'sample')}",
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
    give = "Nothing was changed. Give them: old_samples=(X, y)."
    if identifier is None:
        raise InvalidInput(
            f"{version.label}: the store does not hold the samples that it was fitted on. {give}"
        )
    try:
        whole = store.datasets.version(identifier)
    except UnknownDataset as error:
        named = f" {metadata['dataset']}" if metadata.get("dataset") else ""
        raise InvalidInput(
            f"{version.label}: the data set{named} with the samples that it was fitted on was deleted. {give}"
        ) from error
    target = metadata.get("target")
    if target is None and _UNNAMED in whole.labels:
        target = _UNNAMED
    rows = rows_in(metadata.get("dataset_rows"), whole.n_samples)
    found: Spectra = store.datasets.get(whole, target=target, rows=rows)
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
    """Store the old and the new samples as a version of a data set that is named after the calibration."""
    # Not as a version of the old data set: that may hold other samples as well, such as a test set.
    old, new = parts
    column, unit = metadata.get("target") or _UNNAMED, metadata.get("target_unit")
    same = {key: word for key, word in old.instrument.items() if new.instrument.get(key, word) == word}
    added: DatasetVersion = store.datasets.add(
        _title(before),
        X,
        references={column: y},
        ids=ids,
        groups=labels,
        wavelengths=grid if grid is not None else old.wavelengths,
        unit=metadata.get("wavelength_unit") or old.unit,
        units={column: unit} if unit else None,
        instrument=same,
        metadata={"updated_from": before.chain_id, "n_old": len(old.y), "n_new": len(new.y)},
        note=f"samples of {before.name}@v{before.version}, and {counted(len(new.y), 'new one')}",
        other_grid=True,
    )
    return added


#: What tells instruments apart, and how spectra are expressed; the rest is about single measurements.
_IDENTITY = ("instrument", "name", "model", "serial", "serial number", "instrument number", "signal")


def _warn_of_mixtures(old: Samples, new: Samples) -> None:
    """Warn of two instruments, and of new spectra that come twice: one may validate the fit of the other."""
    told = [key for key in _IDENTITY if key in old.instrument and key in new.instrument]
    differ = [key for key in told if old.instrument[key] != new.instrument[key]]
    if differ:
        shown = "; ".join(f"{key}: {old.instrument[key]} and {new.instrument[key]}" for key in differ)
        warnings.warn(
            f"new_samples were measured in another way than old_samples ({shown}). The update mixes them. For another "
            "instrument, see store.derive_chain.",
            RecordingWarning,
            stacklevel=4,
        )
    twice = len(new.y) - len(set(spectrum_hashes(new.X)))
    if twice and new.groups is None:
        warnings.warn(
            f"new_samples: {counted(twice, 'copy', 'copies')} of spectra in the same set, which may be on the other "
            "side of a fold. Leave them out, or give groups=.",
            RecordingWarning,
            stacklevel=4,
        )


def _refuse_transferred(store: Any, version: CalibrationVersion, chain: Mapping[str, Any]) -> None:
    """Refuse a chain whose adapter would be fitted again, on spectra of both instruments."""
    told = (chain.get("metadata") or {}).get("transferred_from")
    if told is None:
        return
    adapter = ReplayPlan.from_chain(chain).members[0].stages[0].operators[0].artifact_id
    source = str(told["chain_id"])
    known = store.calibrations.names_of([source]).get(source)
    why = (
        f"{version.name}@v{version.version} was transferred to another instrument: a fit of old and new spectra would "
        "mix the instruments and lose the adapter. Nothing was changed."
    )
    if store.get_chain(source) is None:
        raise InvalidInput(
            f"{why} The chain that it was transferred from, {source}, is not in this workspace. Restore it "
            "from the trash, or update it where it is, and transfer that."
        )
    update = f"Update {known[0]}" if known else f"Register its chain {source} under a name, and update that"
    raise InvalidInput(
        f"{why} {update} with the new spectra as the adapter transforms them, "
        f"store.load_artifact({adapter!r}).transform(X); then put the adapter in front of the new chain with "
        "store.derive_chain."
    )


def _recipe(store: Any, version: CalibrationVersion) -> tuple[Any, Any]:
    """Return an unfitted estimator, and what transforms y (or None)."""
    from sklearn.pipeline import make_pipeline

    from nirs_store.diagnosing.diagnose import inside

    why = "is not a plain sequence of steps"
    try:
        steps, targets = inside(store, version.chain_id).recipe()
        if len(targets) > 1:
            why = f"transforms y in {len(targets)} steps"
            raise InvalidInput(why)
    except InvalidInput as error:
        raise InvalidInput(
            f"{version.label} cannot be updated, because its chain {why}. Nothing was changed. Record all samples in "
            "the same way, and register that chain."
        ) from error
    return (steps[0] if len(steps) == 1 else make_pipeline(*steps)), next(iter(targets), None)


def _kept(store: Any, chain: Mapping[str, Any]) -> dict[str, Any]:
    """Return which models the recording kept, and in which format."""
    models = normalise_folds(chain["fold_artifacts"], "fold_artifacts")
    if not models:
        return {}
    first = next(iter(models.values()))
    artifact = store.get_artifact(model_id(first, "fold_artifacts")[0]) or {}
    return {
        "artifact_format": artifact.get("format") or "joblib",
        "refit": REFIT in models,
        "keep_folds": set(models) != {REFIT},
    }


def _splitter(store: Any, chain: Mapping[str, Any]) -> Any:
    first = next((step for step in chain["steps"] if step.get("operator_type") == SPLITTER), None)
    if first is None or not first.get("artifact_id"):
        raise InvalidInput("cv: the calibration was recorded without its splitter; say how to split: cv=10.")
    splitter = store.load_artifact(first["artifact_id"])
    given_rows = type(splitter).__name__ in ("PredefinedSplit", "_CVIterableWrapper")
    if given_rows or not hasattr(splitter, "get_n_splits"):
        raise InvalidInput(
            "cv: the calibration was split by given rows, which do not hold for more samples; say how to split: cv=10."
        )
    return splitter


def _comparison(
    store: Any,
    result: Any,
    old: Samples,
    new: Samples,
    of_new: NDArray[np.float64],
    of_old: NDArray[np.float64] | None,
    shared: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    """Compare on the new samples, which the old version never saw, and on the old ones, out of fold in both."""
    whole = None if old.ids is None or new.ids is None else (*old.ids, *new.ids)
    after = _out_of_fold(store, result.chain_id, np.append(old.y, new.y), whole)
    if after is None:
        return []
    rows = []
    if not shared.all():
        rows.append(_compared("new samples", new.y, of_new, after[len(old.y) :], ~shared, new.ids))
    if of_old is not None:
        # A name that is in both sets has the mean of both.
        there = set(new.ids or ()) if whole is not None else set()
        own = np.array([name not in there for name in old.ids or range(len(old.y))], dtype=bool)
        if own.any():
            rows.append(_compared("old samples", old.y, of_old, after[: len(old.y)], own, old.ids))
    return rows


def _out_of_fold(
    store: Any, chain_id: str, y: NDArray[np.float64], ids: Sequence[str] | None
) -> NDArray[np.float64] | None:
    """Return out-of-fold predictions in the order of the samples, found by name or row; None where neither tells."""
    frame = store.chain_predictions(chain_id)
    if not frame.height or not {"y_pred", "y_true"} <= set(frame.columns) or frame["sample"].null_count():
        return None
    means = frame.group_by("sample").agg(pl.col("y_pred", "y_true").mean()).rows()
    predicted = {str(name): float(value) for name, value, _ in means}
    if ids is not None and set(ids) == predicted.keys():
        return np.array([predicted[name] for name in ids])
    rows = [str(row) for row in range(len(y))]
    if set(rows) != predicted.keys():
        return None
    measured = {str(name): np.nan if value is None else float(value) for name, _, value in means}
    if not np.allclose([measured[row] for row in rows], y, rtol=1e-5):
        warnings.warn(
            "old_samples: their values, in this order, are not those that the version was fitted on. The versions are "
            "not compared on them.",
            RecordingWarning,
            stacklevel=4,
        )
        return None
    return np.array([predicted[row] for row in rows])


def _replayed(store: Any, chain_id: str, X: Any) -> NDArray[np.float64]:
    found = np.asarray(store.replay_chain(chain_id, X), dtype=float).reshape(len(X), -1)
    if found.shape[1] != 1:
        raise InvalidInput(
            f"Updating needs a calibration of one number per sample; found {found.shape[1]}. Nothing was changed."
        )
    return found[:, 0]


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
    rmse = {"rmse_before": found["rmsep_first"], "rmse_after": found["rmsep_second"]}
    return {
        "samples": words, "n": found["n"], "fitted": known, **rmse, "p": found["p"], "verdict": found["verdict"],
    }  # fmt: skip


# -- Challengers.


def challengers_of(engine: Engine, name: str, *, ask: bool = False) -> list[int]:
    """List the challengers of a name without reading the catalog; see `Engine.rules`."""
    found = (engine.rules(ask=ask).get(CHALLENGERS) or {}).get(name) or []
    return [int(each) for each in found]


def list_challengers(engine: Engine, calibration: Any) -> tuple[int, ...]:
    """List the challengers of a calibration; see `Calibrations.challengers`."""
    name = _plain_name(calibration)
    left = challengers_of(engine, name, ask=True) if name is not None else []
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
        if number not in challengers_of(engine, name, ask=True):
            raise
    if number not in challengers_of(engine, name, ask=True):
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
    """Return the name of a calibration, and the number of its version that is meant."""
    name = known_name(con, calibration)
    return name, int(of_name(con, name, version)["version"])
