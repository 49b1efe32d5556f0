"""Give a chain that was recorded without one a domain, from the spectra that it was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.folds import REFIT, fold_key
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import Member, ReplayPlan
from nirs_store.chains.predictor import folds_alone
from nirs_store.chains.replay import predict_watched
from nirs_store.diagnosing.diagnose import check_length, data_hash, given_spectra
from nirs_store.domain.build import FoldDomain, FoldWatch, LeftOut, build, is_pca_step
from nirs_store.domain.measure import Domain
from nirs_store.errors import InvalidInput
from nirs_store.protocol import ReadsChains, chain_of
from nirs_store.values import as_array

__all__ = ["domain_of_calibration"]


_BLIND = "the model sees the predictions of other chains, not spectra; look at the domains of those chains"


class _Stored(NamedTuple):
    """The stored arrays of one fold and partition."""

    y_true: NDArray[Any]
    y_pred: NDArray[Any]
    y_proba: NDArray[Any] | None
    names: NDArray[Any]


def domain_of_calibration(
    store: ReadsChains, chain_id: str, X: Any, y: Any, wavelengths: Any = None, sample_ids: Any = None
) -> Domain:
    """Make the domain of a chain from its calibration; see ``store.add_domain``."""
    # The refit's space comes from the spectra, the joint limit from the stored fold models, and the interval from the
    # stored out-of-fold predictions. If one of these is missing, the domain lacks that part and says so.
    chain = chain_of(store, chain_id)
    if "transferred_from" in (chain.get("metadata") or {}):
        raise InvalidInput(
            f"Chain {chain['chain_id']!r} was transferred to another instrument: no spectra of that were used to fit "
            "it. Nothing was changed. Give the chain that it was transferred from a domain, and derive it again."
        )
    X, _, wavelengths, sample_ids = given_spectra(X, y, wavelengths, sample_ids)
    measured = as_array(y, "y")
    if measured.ndim == 2 and measured.shape[1] == 1:
        measured = measured[:, 0]
    plan = ReplayPlan.from_chain(chain)
    folds = folds_alone(chain, plan)
    stored = _stored(store, str(chain["chain_id"]))
    before = _before(plan, store.load_artifact)
    predicted, _, inputs = predict_watched(plan, X, store.load_artifact, wavelengths, before=before)
    check_length("y", "value", measured, len(predicted))
    names = np.arange(len(measured)) if sample_ids is None else np.asarray(list(sample_ids))
    check_length("sample_ids", "name", names, len(measured))
    rows = _rows(stored, names, measured)
    _check_calibration(chain, plan, stored, rows, X, measured, predicted)
    refit = plan.members[0].fold == REFIT or folds is None
    # Base models turn strange spectra into ordinary numbers: a space of predictions would call these inside.
    blind = bool(plan.stack) and not plan.passthrough
    fits = [_fit(store, plan.members[0], inputs[0], before, None, None)] if refit else []
    left_out: list[tuple[LeftOut, FoldDomain | None]] = []
    members: Mapping[str | None, tuple[Member, Any]] = {}
    if folds is not None:
        of_folds = (
            inputs
            if not refit
            else predict_watched(folds, X, store.load_artifact, wavelengths, before=before)[2]
        )
        members = {member.fold: (member, each) for member, each in zip(folds.members, of_folds, strict=True)}
    if blind:
        fits, members = [FoldDomain(unknown=_BLIND)], {}
    whole = np.arange(len(measured))
    for (fold, partition), one in stored.items():
        if partition != "val" or fold == REFIT:
            continue
        fit, val = None, rows.get((fold, "val"))
        if fold in members and val is not None:
            member, given = members[fold]
            train = rows.get((fold, "train"))
            fit = _fit(
                store,
                member,
                given,
                before,
                np.setdiff1d(whole, val) if train is None else train,
                val,
                not refit,
            )
            fits += [] if refit else [fit]
        left_out.append((LeftOut(one.names, one.y_true, one.y_pred, one.y_proba), fit))
    about = chain.get("metadata") or {}
    classes = about.get("classes")
    task = str(
        about.get("task_type")
        or ("regression" if predicted.dtype.kind in "fiu" and classes is None else "classification")
    )
    pairs = [
        (_names(stored.get((fold, "train"))), _names(one))
        for (fold, part), one in stored.items()
        if part == "val"
    ]
    split = sample_ids is not None and any(np.isin(val, train).any() for train, val in pairs)
    return build(
        fits,
        left_out,
        measured,
        task=task,
        classes=None if classes is None else np.asarray(classes),
        refused="replicates of a sample lie in different folds" if split else "",
    )


def _names(one: _Stored | None) -> NDArray[Any]:
    return np.empty(0) if one is None else one.names


def _before(plan: ReplayPlan, load: Any) -> int:
    """Return 1 where a PCA alone is the last step before a model without latent variables, else 0."""
    member, bench = plan.members[0], Workbench(load, plan.memory)
    last = member.stages[-1] if member.stages else None
    if last is None or last.augments or last.branches or len(last.operators) != 1:
        return 0
    return int(is_pca_step(bench.open(member.model)[0], [bench.open(last.operators[0])[0]]))


def _fit(
    store: ReadsChains,
    member: Member,
    given: Any,
    before: int,
    train: NDArray[Any] | None,
    val: NDArray[Any] | None,
    keep_space: bool = True,
) -> FoldDomain:
    def fitted(operator: Any) -> Any:
        return store.load_artifact(operator.artifact_id)

    steps = [fitted(member.stages[-1].operators[0])] if before else []
    watch = FoldWatch(fitted(member.model), steps, keep_space=keep_space)
    watch.see("train", given if train is None else given[train])
    if val is not None:
        watch.see("val", given[val])
    return watch.found


def _stored(store: ReadsChains, chain_id: str) -> dict[tuple[str, str], _Stored]:
    frame = store.query_predictions(chain_id=chain_id).select("prediction_id", "fold_id", "partition")
    keys = {str(row[0]): (fold_key(row[1]), str(row[2])) for row in frame.iter_rows()}
    found: dict[tuple[str, str], _Stored] = {}
    for prediction_id, arrays in store.get_prediction_arrays(list(keys)).items():
        parts = [arrays.get(name) for name in ("y_true", "y_pred", "sample_indices")]
        if all(part is not None for part in parts):
            y_true, y_pred, names = (np.asarray(part) for part in parts)
            found[keys[prediction_id]] = _Stored(y_true, y_pred, arrays.get("y_proba"), names)
    return dict(sorted(found.items()))


def _rows(
    stored: Mapping[tuple[str, str], _Stored], names: NDArray[Any], y: NDArray[Any]
) -> dict[tuple[str, str], NDArray[np.intp]]:
    """Return the rows of X that each stored prediction belongs to, as far as names and measured values agree."""
    place = {str(name): row for row, name in enumerate(names.tolist())}
    if len(place) < len(names):
        return {}
    found = {}
    for key, one in stored.items():
        if key[1] not in ("train", "val"):
            continue
        rows = np.array([place.get(str(name), -1) for name in one.names.tolist()], dtype=np.intp)
        if (rows >= 0).all() and np.array_equal(np.ravel(y[rows]), np.ravel(one.y_true)):
            found[key] = rows
    return found


def _check_calibration(
    chain: Mapping[str, Any],
    plan: ReplayPlan,
    stored: Mapping[tuple[str, str], _Stored],
    rows: Mapping[tuple[str, str], NDArray[np.intp]],
    X: Any,
    y: NDArray[Any],
    predicted: NDArray[Any],
) -> None:
    """Refuse spectra that the chain was not fitted on, as far as anything tells."""
    about = chain.get("metadata") or {}
    if about.get("data_hash") is not None and data_hash(X, y) == about["data_hash"]:
        return
    train = stored.get((REFIT, "train"))
    if train is not None and plan.members[0].fold == REFIT:
        where = rows.get((REFIT, "train"))
        same = where is not None and _agree(predicted[where], train.y_pred)
    else:
        known = about.get("n_samples")
        same = (known is None or known == len(y)) and about.get("data_hash") is None
    if not same:
        raise InvalidInput(
            f"Chain {chain['chain_id']!r} was not fitted on these spectra and values: its stored predictions of the "
            "calibration are others. Nothing was changed. Give the calibration's spectra in their order; sample_ids= "
            "where it was recorded with names."
        )


def _agree(found: NDArray[Any], stored: NDArray[Any]) -> bool:
    if found.shape != stored.shape:
        return False
    if stored.dtype.kind not in "fc":
        return bool((found.astype(str) == stored.astype(str)).mean() > 0.99)
    scale = float(np.abs(stored).max(initial=0.0)) or 1.0
    return bool(np.abs(found - stored).max(initial=0.0) <= 1e-6 * scale)
