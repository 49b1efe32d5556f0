"""Figures of merit of a chain, as they are kept with a version of a calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.family import components_of
from nirs_store.db.database import Connection
from nirs_store.records import predictions
from nirs_store.records.ranking import (
    NO_FOLDS,
    REFIT_FOLDS,
    SCORED_ARRAYS,
    needed_arrays,
    predictions_of_chain,
)
from nirs_store.scores import classification_scores, is_classification
from nirs_store.values import from_json

Floats = NDArray[np.float64]
Pair = tuple[NDArray[Any], NDArray[Any]]


def targets_of(chain: Mapping[str, Any]) -> list[str | None]:
    """List the names of what a chain predicts; several are kept as a JSON list."""
    metadata = chain.get("metadata") or {}
    found = metadata.get("target_names") or chain.get("target") or metadata.get("target")
    if isinstance(found, str) and found.startswith("["):
        found = from_json(found)
    if isinstance(found, (list, tuple)):
        return [None if each is None else str(each) for each in found]
    return [None if found in (None, "") else str(found)]


def names_in_predictions(chain: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """List what a detailed prediction calls the targets: by number where there are several without names."""
    named, told = (chain.get("metadata") or {}).get("target_names") or [], targets_of(chain)
    width = max(len(named), len(told), len(figures.get("targets") or ()))
    if width > 1 and len(named) != width:
        return [str(place) for place in range(width)]
    return [name for name in told if name]


def figures_of(con: Connection, chain: Mapping[str, Any]) -> dict[str, Any]:
    """Compute what a validation asks for from the stored predictions; what is not stored is left out.

    Returns
    -------
    dict
        ``task``, ``n_cal``, ``p`` (latent variables; None for a model without), and for each target ``sec`` (with
        n - p - 1 degrees of freedom), ``rmsec``, ``secv`` and ``rmsecv`` (out of fold), ``sep``, ``rmsep``, ``bias``
        and ``n_test`` (test set), ``bias_cv``, ``r2_cv``, ``range`` and ``sd`` of the measured values. A chain of
        one target has them at the top, a chain of several in ``targets``, by name. ``bias`` and ``bias_cv`` are
        predicted - reference, the sign of recorded scores and the opposite of that in service.
    """
    rows = predictions_of_chain(con, str(chain["chain_id"]))
    arrays = predictions.load_arrays(con, needed_arrays(rows), SCORED_ARRAYS)
    fitted = _pooled(rows, arrays, "train", refit=True)
    out_of_fold = _pooled(rows, arrays, "val", refit=False)
    tested = _pooled(rows, arrays, "test", refit=True)
    metadata = chain.get("metadata") or {}
    task = str(metadata.get("task_type") or (rows[0]["task_type"] if rows else "regression"))
    p = components_of(chain)
    found: dict[str, Any] = {"task": task, "n_cal": _count(metadata, fitted, out_of_fold), "p": p}
    if is_classification(task):
        for name, pair in (("cv", out_of_fold), ("test", tested)):
            if pair is not None:
                scores = classification_scores(pair[0], pair[1])
                found |= {f"{key}_{name}": _plain(value) for key, value in scores.items()}
                found[f"n_{name}"] = len(pair[0])
        return found
    names = targets_of(chain)
    width = max((_columns(pair) for pair in (fitted, out_of_fold, tested) if pair is not None), default=1)
    labels = [str(name or f"target {place}") for place, name in enumerate(names, 1)]
    if len(labels) != width:
        labels = [f"target {place}" for place in range(1, width + 1)]
    each = {
        label: _of_target(_column(fitted, place), _column(out_of_fold, place), _column(tested, place), p)
        for place, label in enumerate(labels)
    }
    return found | (each[labels[0]] if width == 1 else {"targets": each})


def labelled(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known figures for a reader: each bias says its sign."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if name == "targets" and isinstance(value, Mapping):
            found[name] = {target: labelled(own) for target, own in value.items()}
        elif value is not None:
            found[f"{name} (predicted - reference)" if name in ("bias", "bias_cv") else name] = value
    return found


def _of_target(
    fitted: tuple[Floats, Floats] | None,
    out_of_fold: tuple[Floats, Floats] | None,
    tested: tuple[Floats, Floats] | None,
    p: int | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if fitted is not None:
        y, errors = fitted[0], fitted[1] - fitted[0]
        free = len(y) - 1 - (p or 0)
        found["rmsec"] = _rmse(errors)
        # Without a number of latent variables the degrees of freedom that a fit has used up are not known.
        found["sec"] = math.sqrt(float(errors @ errors) / free) if p is not None and free > 0 else None
    if out_of_fold is not None:
        y, errors = out_of_fold[0], out_of_fold[1] - out_of_fold[0]
        spread = float(((y - y.mean()) ** 2).sum())
        found |= {"rmsecv": _rmse(errors), "secv": _sd(errors), "bias_cv": _plain(errors.mean())}
        found["r2_cv"] = _plain(1 - float(errors @ errors) / spread) if spread > 0 else None
    if tested is not None:
        errors = tested[1] - tested[0]
        found |= {"rmsep": _rmse(errors), "sep": _sd(errors), "bias": _plain(errors.mean())}
        found["n_test"] = len(errors)
        found |= _line(*tested)
    known = fitted or out_of_fold
    if known is not None:
        found |= {"range": [_plain(known[0].min()), _plain(known[0].max())], "sd": _sd(known[0])}
    return found


def _line(y: Floats, predicted: Floats) -> dict[str, Any]:
    """Fit reference values on predicted ones, as ISO 12099 does."""
    centred = predicted - predicted.mean()
    spread = float(centred @ centred)
    if len(y) < 3 or spread == 0:
        return {}
    slope = float(centred @ (y - y.mean())) / spread
    return {"slope": _plain(slope), "intercept": _plain(y.mean() - slope * predicted.mean())}


def _pooled(
    rows: Sequence[Mapping[str, Any]], arrays: Mapping[str, Mapping[str, Any]], partition: str, *, refit: bool
) -> Pair | None:
    """Join measured and predicted values of the refit, or of all folds; None where one was not stored."""
    chosen = [
        arrays.get(str(row["prediction_id"])) or {}
        for row in rows
        if row["partition"] == partition
        and ((row["fold_id"] in REFIT_FOLDS) if refit else (row["fold_id"] not in NO_FOLDS))
    ]
    pairs = [(each.get("y_true"), each.get("y_pred")) for each in chosen]
    whole = [(np.asarray(y), np.asarray(z)) for y, z in pairs if y is not None and z is not None]
    if not whole or len(whole) < len(pairs):
        return None
    return np.concatenate([y for y, _ in whole]), np.concatenate([z for _, z in whole])


def _columns(pair: Pair) -> int:
    return int(pair[0].shape[1]) if pair[0].ndim > 1 else 1


def _column(pair: Pair | None, place: int) -> tuple[Floats, Floats] | None:
    if pair is None:
        return None
    y, z = (np.asarray(each, dtype=float).reshape(len(each), -1)[:, place] for each in pair)
    known = np.isfinite(y) & np.isfinite(z)
    return (y[known], z[known]) if known.sum() > 1 else None


def _count(metadata: Mapping[str, Any], fitted: Pair | None, out_of_fold: Pair | None) -> int | None:
    if fitted is not None:
        return len(fitted[0])
    counted = metadata.get("n_samples")
    if isinstance(counted, int):
        return counted
    return None if out_of_fold is None else len(out_of_fold[0])


def _rmse(errors: Floats) -> float | None:
    return _plain(math.sqrt(float(errors @ errors) / len(errors)))


def _sd(values: Floats) -> float | None:
    return _plain(values.std(ddof=1)) if len(values) > 1 else None


def _plain(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None
