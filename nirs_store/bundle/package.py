"""A chain packed for travel: the bytes of its objects by member name, and the chain that names them.

Both kinds of file that an export writes are made of this: the ``.n4a`` archive and the ``.n4a.py`` script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nirs_store.blobs.serializers import get_serializer
from nirs_store.bundle.artifacts import Blobs
from nirs_store.bundle.layout import Layout, Part, Step, as_it_is, lay_out
from nirs_store.bundle.manifest import Kind, Role
from nirs_store.bundle.nested import pack_nested
from nirs_store.bundle.packing import Packing, Payload
from nirs_store.bundle.rehearsal import made_up_spectra, predicts_the_same
from nirs_store.bundle.source import ChainSource
from nirs_store.bundle.strict_json import clean
from nirs_store.chains.folds import REFIT, fold_number
from nirs_store.chains.kinds import AUGMENTATION, MODEL, SPLITTER, TARGETS, step_kind
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import Operator, ReplayPlan
from nirs_store.errors import InvalidInput, UnknownId

__all__ = ["Blobs", "Package", "Payload", "pack_chain", "pack_safely"]

_HIGHEST_INDEX = 9_999
_UNUSED = {"step": "unused"}


@dataclass
class Package:
    """What is written, in the order in which it is written.

    Attributes
    ----------
    chain : dict
        The chain as it travels, in JSON values: its artifact ids are the SHA-256 of payloads.
    payloads : list of Payload
        Fitted objects.
    pipeline : list of dict, or None
        Entries of ``pipeline.json``: what step 1, 2, ... is; None where version 1.0 cannot express the chain.
    layout : Layout
        What was rearranged, and why.
    plan : ReplayPlan
        The chain as it is stored.
    blobs : Blobs
        Its objects.
    kind : {"joblib", "skops"}
        What the payloads are.
    """

    chain: dict[str, Any]
    payloads: list[Payload]
    pipeline: list[dict[str, Any]] | None
    layout: Layout
    plan: ReplayPlan
    blobs: Blobs
    notes: tuple[str, ...] = ()
    kind: Kind = "joblib"

    def objects(self) -> dict[str, Any]:
        """Load every payload, as a reader would: SHA-256 to object."""
        return {payload.sha256: get_serializer("joblib").loads(payload.data) for payload in self.payloads}


def pack_chain(source: ChainSource, chain_id: str, X: Any = None) -> Package:
    """Read a chain and all its objects, and lay them out for a bundle.

    Parameters
    ----------
    source : ChainSource
        Where the chain is.
    chain_id : str
        The chain.
    X : array or data frame, optional
        Spectra on which a rearranged chain is compared with the stored one. Without them made-up ones are
        taken.

    Raises
    ------
    UnknownId
        No such chain.
    ArtifactMissing, BlobMissing, BlobCorrupt
        One of its artifacts cannot be had.
    ReplayError
        The chain cannot predict.
    """
    chain = source.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id, "Nothing was written.")
    plan = ReplayPlan.from_chain(chain)
    blobs = Blobs(source, chain_id)
    if plan.nested:
        return _as_stored(chain, plan, blobs, "joblib")
    layout = lay_out(plan, Workbench(blobs.load, plan.memory), blobs.data)
    package = _pack(chain, plan, layout, blobs)
    if layout.rearranged:
        agrees = predicts_the_same(package.chain, package.objects(), plan, blobs, X)
        if not agrees:
            reason = "put together for it, its models predict other numbers than the stored chain"
            if agrees is None:
                reason = "its models had to be put together, and there were no spectra to compare them on; give probe="
            package = _pack(chain, plan, as_it_is(plan, reason), blobs)
    return package


def pack_safely(source: ChainSource, chain_id: str, X: Any = None) -> tuple[Package, Any]:
    """Read a chain and all its objects, and turn each into a skops payload.

    Parameters
    ----------
    source, chain_id
        As for `pack_chain`.
    X : array or data frame, optional
        Spectra on which the chain as it travels is compared with the stored one. Without them made-up ones are
        taken.

    Returns
    -------
    Package, spectra
        The spectra are those that were compared on.

    Raises
    ------
    SerializationError
        skops cannot carry an object of the chain; its class is named.
    InvalidInput
        There are no spectra to compare on.
    ReplayError
        As it travels the chain predicts something else, or it cannot predict at all.
    """
    chain = source.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id, "Nothing was written.")
    plan = ReplayPlan.from_chain(chain)
    blobs = Blobs(source, chain_id)
    spectra = made_up_spectra(plan, blobs) if X is None else X
    if spectra is None:
        raise InvalidInput(
            f"Chain {chain_id!r} does not say how many channels it takes, so it cannot be compared with what "
            "travels. Nothing was written. Give a few spectra: probe=."
        )
    if plan.nested:
        return _as_stored(chain, plan, blobs, "skops"), spectra
    layout = as_it_is(plan, "a safe bundle holds no pickles, and readers of version 1.0 know nothing else")
    return _pack(chain, plan, layout, blobs, "skops"), spectra


def _as_stored(chain: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs, kind: Kind) -> Package:
    travelling, payloads, note = pack_nested(chain, plan, blobs, kind)
    layout = Layout((), {}, None, False, (note,))
    return Package(travelling, payloads, None, layout, plan, blobs, layout.notes, kind)


def _pack(
    chain: Mapping[str, Any], plan: ReplayPlan, layout: Layout, blobs: Blobs, kind: Kind = "joblib"
) -> Package:
    packing = Packing(blobs, Workbench(blobs.load, plan.memory), layout.expressible, kind)
    shift, indices, model_index = _number(chain, layout)
    entries = {index + shift: entry for index, entry in _entries(chain).items()} if shift is not None else {}
    steps: list[dict[str, Any]] = []
    source_map: dict[str, dict[str, list[str]]] = {}
    for index, step in sorted(zip(indices, layout.steps, strict=True), key=lambda item: item[0]):
        steps.append(_step(step, index, chain, packing, source_map))
    model_name = str(chain.get("model_class") or "")
    model: dict[str, Any] = {
        "step_idx": model_index,
        "operator_class": model_name,
        "operator_type": MODEL,
        "params": _params(chain, int(chain["model_step_idx"]), model_name),
        "stateless": False,
    }
    fold_artifacts: dict[str, str] = {}
    for fold, part in layout.models.items():
        # A model that stands alone is called final as well: so every reader finds it and uses nothing else.
        number = None if fold is None else fold_number(fold)
        name = f"artifacts/step_{model_index}_fold{'final' if number is None else number}.joblib"
        digest = packing.add(part, name, "model")
        assert digest is not None  # a model is always fitted
        if fold is None:
            model["artifact_id"] = digest
        else:
            fold_artifacts[REFIT if number is None else f"fold_{number}"] = digest
    pipeline = _pipeline(steps, model, entries, model_index) if layout.expressible else None
    for index, entry in entries.items():
        if index < model_index and _is_splitter(entry) and all(step["step_idx"] != index for step in steps):
            steps.append(
                {
                    "step_idx": index,
                    "operator_class": str(entry.get("operator_class") or ""),
                    "operator_type": SPLITTER,
                    "params": clean(entry.get("params") or {}),
                    "stateless": True,
                }
            )
    steps = sorted([*steps, model], key=lambda step: int(step["step_idx"]))
    travelling = {
        "chain_id": str(chain.get("chain_id") or ""),
        "pipeline_id": _text(chain.get("pipeline_id")),
        "steps": steps,
        "model_step_idx": model_index,
        "model_class": str(chain.get("model_class") or ""),
        "preprocessings": str(chain.get("preprocessings") or ""),
        "fold_strategy": str(chain.get("fold_strategy") or ""),
        "fold_artifacts": fold_artifacts,
        "shared_artifacts": {"_source_map": source_map} if source_map else {},
        "branch_path": [int(branch) for branch in chain.get("branch_path") or ()] or None,
        "source_index": plan.source_index,
        "fold_weights": dict(layout.weights) if layout.weights else None,
        "wavelengths": None if plan.wavelengths is None else plan.wavelengths.tolist(),
        "metadata": clean(dict(chain.get("metadata") or {})) or None,
        "created_at": _text(clean(chain.get("created_at"))),
    }
    payloads = list(packing.payloads.values())
    return Package(travelling, payloads, pipeline, layout, plan, blobs, layout.notes, kind)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(chain: Mapping[str, Any], layout: Layout) -> tuple[int | None, list[int], int]:
    """Give the steps their numbers: those of the chain, counted from 1, unless two steps would share one."""
    model = int(chain["model_step_idx"])
    known = [*_entries(chain), model]
    shift = 1 if min(known) == 0 else 0
    indices = [step.index + shift for step in layout.steps]
    if len(set(indices)) == len(indices) and model + shift <= _HIGHEST_INDEX:
        return shift, indices, model + shift
    return None, list(range(1, len(indices) + 1)), len(indices) + 1


def _step(
    step: Step,
    index: int,
    chain: Mapping[str, Any],
    packing: Packing,
    source_map: dict[str, dict[str, list[str]]],
) -> dict[str, Any]:
    role: Role = "y_transformer" if step.kind == TARGETS else "transformer"
    count = 0

    def add(parts: tuple[Part, ...]) -> list[str]:
        nonlocal count
        found = []
        for part in parts:
            digest = packing.add(part, f"artifacts/step_{index}_sub{count}.joblib", role)
            count += 1
            if digest is not None:
                found.append(digest)
        return found

    first = next((part for part in step.parts), None)
    name = first.name if first is not None else _class_of(chain, step.index)
    described: dict[str, Any] = {
        "step_idx": index,
        "operator_class": name,
        "operator_type": step.kind,
        "params": _params(chain, step.index, name),
        "stateless": False,
    }
    if step.by_source is not None:
        source_map[str(index)] = {str(source): add(parts) for source, parts in step.by_source.items()}
    elif step.by_fold is not None:
        described["fold_artifact_ids"] = {fold: add(parts) for fold, parts in step.by_fold.items()}
    elif ids := add(step.parts):
        described["artifact_ids"] = ids
    else:
        described["stateless"] = True
        assert isinstance(first, Operator)
        described["params"] = clean(dict(first.params))
    return described


def _pipeline(
    steps: list[dict[str, Any]], model: dict[str, Any], entries: Mapping[int, Mapping[str, Any]], last: int
) -> list[dict[str, Any]]:
    """Describe every step from 1 to the model: readers find a step by its place in this list."""
    by_index = {int(step["step_idx"]): step for step in steps}
    found: list[dict[str, Any]] = []
    for index in range(1, last):
        step = by_index.get(index)
        if step is None:
            entry = entries.get(index, {})
            found.append(_operator(entry) if _is_splitter(entry) else _UNUSED)
        elif step["operator_type"] == TARGETS:
            found.append({TARGETS: _operator(step)})
        elif step["operator_type"] == AUGMENTATION:
            found.append({AUGMENTATION: [_operator(step)]})
        else:
            # Under "class" a name with Split or Fold in it would be taken for a splitter.
            found.append({"step": _operator(step)})
    return [*found, {MODEL: _operator(model)}]


def _operator(step: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": str(step.get("operator_class") or ""), "params": clean(step.get("params") or {})}


def _entries(chain: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    return {int(step["step_idx"]): step for step in reversed(chain["steps"])}


def _is_splitter(entry: Mapping[str, Any]) -> bool:
    has_artifacts = any(entry.get(key) for key in ("artifact_id", "artifact_ids", "fold_artifact_ids"))
    kind = step_kind(entry.get("operator_type"), str(entry.get("operator_class") or ""), has_artifacts)
    return kind == SPLITTER


def _class_of(chain: Mapping[str, Any], index: int) -> str:
    return str(_entries(chain).get(index, {}).get("operator_class") or "")


def _params(chain: Mapping[str, Any], index: int, name: str) -> dict[str, Any]:
    for step in chain["steps"]:
        if int(step["step_idx"]) == index and str(step.get("operator_class") or "") == name:
            return dict(clean(step.get("params") or {}))
    return {}
