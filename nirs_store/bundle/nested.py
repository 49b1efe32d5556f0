"""Chains of merged branches, and stacks with all their base models, on their way into a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.bundle.artifacts import Blobs
from nirs_store.bundle.manifest import Kind
from nirs_store.bundle.packing import Payload
from nirs_store.bundle.skops_payload import skops_payload
from nirs_store.bundle.strict_json import clean
from nirs_store.chains.folds import chain_artifact_ids, normalise_folds, normalise_weights, renamed
from nirs_store.chains.plan import ReplayPlan
from nirs_store.errors import SerializationError
from nirs_store.ids import sha256_hex

__all__ = ["pack_nested"]


def pack_nested(
    chain: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs, kind: Kind
) -> tuple[dict[str, Any], list[Payload], str]:
    """Pack a chain as it is stored: only the names of its objects change, to their SHA-256.

    Returns
    -------
    dict, list of Payload, str
        The chain as it travels, its objects, and a note for readers of version 1.0, which cannot express it.

    Raises
    ------
    SerializationError
        A safe bundle cannot carry it.
    """
    if kind == "skops" and (made := plan.stateless_classes):
        raise SerializationError(
            f"The chain makes objects from the names of their classes ({', '.join(made)[:200]}), inside branches or "
            "a stack, which no safe bundle does. Nothing was written. Save these objects as artifacts of their "
            "steps, or export a joblib bundle (safe=False)."
        )
    payloads: dict[str, Payload] = {}
    names: dict[str, str] = {}
    for artifact_id in chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"]):
        data = blobs.data(artifact_id) if kind == "joblib" else _skops(artifact_id, plan, blobs)
        digest = names[artifact_id] = sha256_hex(data)
        payloads.setdefault(digest, Payload(f"blobs/{digest}.{kind}", "blob", data, digest))
    created_at = clean(chain.get("created_at"))
    travelling = dict(clean(renamed(chain, names)))
    travelling |= {
        "chain_id": str(chain.get("chain_id") or ""),
        "fold_artifacts": normalise_folds(travelling["fold_artifacts"], "fold_artifacts"),
        "fold_weights": normalise_weights(travelling.get("fold_weights")),
        "wavelengths": None if plan.wavelengths is None else plan.wavelengths.tolist(),
        "created_at": None if created_at is None else str(created_at),
    }
    reason = "it is a stack of models" if plan.stack else "it merges branches"
    note = (
        f"Version 1.0 of the format cannot express this chain: {reason}. Only nirs_store can predict with this "
        "bundle."
    )
    return travelling, list(payloads.values()), note


def _skops(artifact_id: str, plan: ReplayPlan, blobs: Blobs) -> bytes:
    stored = blobs.skops(artifact_id)
    if stored is not None:
        return stored
    where = next((op.where for op in plan.operators if op.artifact_id == artifact_id), "A model of a fold")
    return skops_payload(blobs.load(artifact_id), where)
