"""The base chains of a stack: what they predicted for samples they had not seen, and what travels of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.folds import REFIT, normalise_folds
from nirs_store.chains.plan import COLUMNS, SPLITTER, Names, ReplayPlan, text_names
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.registry import ArtifactRecord
from nirs_store.store import WorkspaceStore

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


def open_bases(store: WorkspaceStore, chain_ids: Sequence[str], names: Sequence[str] | None) -> list[Base]:
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
    store: WorkspaceStore,
    bases: Sequence[Base],
    names: NDArray[Any],
    y: NDArray[Any],
    classes: NDArray[Any] | None,
) -> tuple[NDArray[np.float64], list[str]]:
    """Put the out-of-fold predictions of the bases side by side, a row a sample."""
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
    store: WorkspaceStore, base: Base, place: Mapping[Any, int], y: NDArray[Any], proba: bool
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


def _open(store: WorkspaceStore, chain_id: str) -> Base:
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
