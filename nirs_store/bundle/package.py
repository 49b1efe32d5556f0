"""A chain packed for travel: the bytes of its objects by member name, and the chain that names them.

Both kinds of file that an export writes are made of this: the ``.n4a`` archive and the ``.n4a.py`` script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nirs_store.blobs.serializers import get_serializer
from nirs_store.bundle.artifacts import Blobs
from nirs_store.bundle.layout import Layout, Made, Part, Step, as_it_is, lay_out
from nirs_store.bundle.manifest import Role
from nirs_store.bundle.rehearsal import predicts_the_same
from nirs_store.bundle.source import ChainSource
from nirs_store.bundle.strict_json import clean
from nirs_store.chains.folds import (
    REFIT,
    chain_artifact_ids,
    fold_number,
    normalise_folds,
    normalise_weights,
    renamed,
)
from nirs_store.chains.kinds import AUGMENTATION, MODEL, SPLITTER, TARGETS, step_kind
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import Operator, ReplayPlan
from nirs_store.errors import UnknownId
from nirs_store.ids import sha256_hex

__all__ = ["Blobs", "Package", "Payload", "pack_chain"]

_HIGHEST_INDEX = 9_999
_UNUSED = {"step": "unused"}


@dataclass(frozen=True)
class Payload:
    """A member that holds a fitted object."""

    name: str
    role: Role
    data: bytes = field(repr=False)
    sha256: str


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
    """

    chain: dict[str, Any]
    payloads: list[Payload]
    pipeline: list[dict[str, Any]] | None
    layout: Layout
    plan: ReplayPlan
    blobs: Blobs
    notes: tuple[str, ...] = ()

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
        return _pack_nested(chain, plan, blobs)
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


def _pack_nested(chain: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs) -> Package:
    """Pack a chain of merged branches, or a stack with all its base models, as it is stored."""
    named = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    payloads: dict[str, Payload] = {}
    names: dict[str, str] = {}
    for artifact_id in named:
        data = blobs.data(artifact_id)
        names[artifact_id] = sha256_hex(data)
        payloads.setdefault(
            names[artifact_id],
            Payload(f"blobs/{names[artifact_id]}.joblib", "blob", data, names[artifact_id]),
        )
    travelling = clean(renamed(chain, names))
    travelling |= {
        "chain_id": str(chain.get("chain_id") or ""),
        "fold_artifacts": normalise_folds(travelling["fold_artifacts"], "fold_artifacts"),
        "fold_weights": normalise_weights(travelling.get("fold_weights")),
        "wavelengths": None if plan.wavelengths is None else plan.wavelengths.tolist(),
        "created_at": _text(clean(chain.get("created_at"))),
    }
    reason = "it is a stack of models" if plan.stack else "it merges branches"
    note = (
        f"Version 1.0 of the format cannot express this chain: {reason}. Only nirs_store can predict with this "
        "bundle."
    )
    layout = Layout((), {}, None, False, (note,))
    return Package(travelling, list(payloads.values()), None, layout, plan, blobs, layout.notes)


class _Packing:
    """Gives each object of a layout its bytes and its member name."""

    def __init__(self, blobs: Blobs, bench: Workbench, expressible: bool) -> None:
        self._blobs = blobs
        self._bench = bench
        self._expressible = expressible
        self.payloads: dict[str, Payload] = {}

    def add(self, part: Part, name: str, role: Role) -> str | None:
        """Take in one object; give its id, or None for one that travels as the name of its class."""
        if isinstance(part, Made):
            data = get_serializer("joblib").dumps(part.value)
        elif part.artifact_id is not None:
            data = self._blobs.data(part.artifact_id)
        elif self._expressible:
            data = get_serializer("joblib").dumps(self._bench.open(part)[0])
        else:
            return None
        digest = sha256_hex(data)
        if not self._expressible:
            name, role = f"blobs/{digest}.joblib", "blob"
        self.payloads.setdefault(name, Payload(name, role, data, digest))
        return digest


def _pack(chain: Mapping[str, Any], plan: ReplayPlan, layout: Layout, blobs: Blobs) -> Package:
    packing = _Packing(blobs, Workbench(blobs.load, plan.memory), layout.expressible)
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
    return Package(travelling, list(packing.payloads.values()), pipeline, layout, plan, blobs, layout.notes)


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
    packing: _Packing,
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
