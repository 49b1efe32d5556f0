"""Transfer of a calibration to another instrument: an adapter in front of its chain."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nirs_store.chains.folds import REFIT
from nirs_store.chains.plan import COLUMNS
from nirs_store.chains.steps import SPLITTER
from nirs_store.display import block, field_table
from nirs_store.domain import DOMAIN, DOMAIN_CLASS
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId
from nirs_store.ids import content_hash
from nirs_store.scores import regression_scores
from nirs_store.service.replaying import use_of, warn_uncorrected
from nirs_store.service.samples import Samples, as_samples


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
        told = "; not compared" if self.rmsep_after is None else f": RMSEP {self.rmsep_after:.4g}"
        if self.rmsep_before is not None:
            told = f": RMSEP {self.rmsep_before:.4g} -> {self.rmsep_after:.4g}, n = {self.n}"
        return f"<chain {self.chain_id}, transferred from {self.transferred_from}{told}>"

    def _repr_html_(self) -> str:
        facts = {
            "chain": self.chain_id,
            "transferred from": self.transferred_from,
            "samples": self.n,
            "RMSEP before": self.rmsep_before,
            "RMSEP after": self.rmsep_after,
        }
        return block("Transferred chain", field_table(facts))


#: Why a transferred chain has no interval.
NO_INTERVAL = (
    "the calibration was transferred to another instrument, and its errors are known on its own instrument only; "
    "compare with references measured on the other one"
)
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

    use = use_of(store._engine, chain_id)
    warn_uncorrected(use, "the new chain does not have this correction")
    chain_id = use.chain_id
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
    domain = copy.copy(store.domain(chain["chain_id"]))
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
        if domain is not None:
            domain.facts = {**domain.facts, "refused": NO_INTERVAL}
            carried[DOMAIN] = store.save_artifact(
                domain.to_bytes(), DOMAIN_CLASS, "domain", "bytes", pipeline_id=pipeline.pipeline_id
            )
        if samples is not None:
            told |= {
                "n": len(samples.y),
                "data_hash": content_hash(np.ascontiguousarray(samples.X), samples.y),
            }
        carried["transferred_from"] = told
        new_id = store.save_chain(pipeline.pipeline_id, **made, wavelengths=grid, metadata=carried)
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
    if samples is None and not hasattr(before, "n_features_in_"):
        return
    X = np.zeros((1, int(before.n_features_in_ or 1))) if samples is None else samples.X[:1]
    width = (chain.get("metadata") or {}).get("n_features")
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
    plain = {name: value for name, value in params.items() if isinstance(value, int | float | str | None)}
    adapter = {
        "step_idx": first, "operator_class": kind, "operator_type": "transform", "params": plain, "stateless": False,
        "artifact_id": artifact_id,
    }  # fmt: skip
    held = chain.get("shared_artifacts") or {}
    shared = {str(int(key) + (int(key) >= first)): value for key, value in held.items()}
    name = type(before).__name__
    same = ("model_class", "fold_strategy", "fold_artifacts", "branch_path", "source_index", "fold_weights")
    return {each: chain.get(each) for each in same} | {
        "steps": [*steps[:place], adapter, *steps[place:]],
        "model_step_idx": int(chain["model_step_idx"]) + 1,
        "preprocessings": f"{name} > {chain['preprocessings']}" if chain["preprocessings"] else name,
        "shared_artifacts": {**shared, str(first): artifact_id},
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
