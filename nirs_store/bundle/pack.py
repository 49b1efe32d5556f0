"""A chain packed for travel: the bytes of its objects by member name, and the chain that names them.

Both kinds of file that an export writes are made of this: the ``.n4a`` archive and the ``.n4a.py`` script.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nirs_store.blobs.code import CODE, without_text
from nirs_store.blobs.serializers import get_serializer
from nirs_store.bundle.container import clean
from nirs_store.bundle.layout import Layout, Made, Part, Step, as_it_is, inexpressible, lay_out
from nirs_store.bundle.manifest import Kind, Role
from nirs_store.bundle.payload import audit_payload, skops_payload
from nirs_store.bundle.trust import list_pickle
from nirs_store.chains.folds import (
    REFIT,
    chain_artifact_ids,
    fold_number,
    normalise_folds,
    normalise_weights,
    renamed,
)
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.predictor import channels
from nirs_store.chains.replay import predict
from nirs_store.chains.steps import AUGMENTATION, MODEL, SPLITTER, TARGETS, Operator, step_kind
from nirs_store.domain import DOMAIN, domain_id
from nirs_store.errors import (
    ArtifactMissing,
    BlobCorrupt,
    BundleInvalid,
    InvalidInput,
    NirsStoreError,
    SerializationError,
    UnknownId,
)
from nirs_store.ids import sha256_hex

# joblib.load reads all three: what it writes itself, and plain pickles.
_READ_BY_JOBLIB = frozenset({"joblib", "pickle", "cloudpickle"})
_HIGHEST_INDEX = 9_999
_MAIN = b"__main__"
_UNUSED = {"step": "unused"}


# -- What an export needs of a store: a few look-ups, so that this room knows no catalog.


@runtime_checkable
class ChainSource(Protocol):
    """An object that can name chains and return the bytes of their artifacts.

    `WorkspaceStore` is one; a test may be a dict with three methods.
    """

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """Return a stored chain, or None when there is none of that id."""
        ...

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """Return the record of an artifact (at least its ``format`` and ``operator_class``), or None."""
        ...

    def read_artifact(self, artifact_id: str) -> bytes:
        """Return the stored bytes of an artifact after their hash was verified."""
        ...


class Blobs:
    """The artifacts of one chain: each read once from the source, its hash compared, loaded when needed."""

    def __init__(self, source: ChainSource, chain_id: str) -> None:
        self._source = source
        self._chain_id = chain_id
        self._stored: dict[str, tuple[bytes, str, str]] = {}
        self._travelling: dict[str, tuple[bytes, str]] = {}
        self._objects: dict[str, Any] = {}

    def stored(self, artifact_id: str) -> tuple[bytes, str, str]:
        """Return the stored bytes as they are, their SHA-256 and their format."""
        if artifact_id not in self._stored:
            try:
                record = self._source.get_artifact(artifact_id)
                if record is None:
                    raise UnknownId("artifact", artifact_id)
                raw = bytes(self._source.read_artifact(artifact_id))
                found = sha256_hex(raw)
            except ArtifactMissing:
                raise
            except UnknownId as error:
                raise ArtifactMissing(
                    "artifact",
                    artifact_id,
                    f"Chain {self._chain_id!r} names it; without it nothing was written.",
                ) from error
            promised = str(record.get("content_hash") or "").removeprefix("sha256:").lower()
            if len(promised) == 64 and promised != found:
                raise BlobCorrupt(
                    f"The artifact {artifact_id!r} of chain {self._chain_id!r} has the hash {found}, its record "
                    f"says {promised}. Nothing was written. Repair the workspace, or save the object again."
                )
            self._stored[artifact_id] = raw, found, str(record.get("format", "joblib"))
        return self._stored[artifact_id]

    def travelling(self, artifact_id: str) -> tuple[bytes, str]:
        """Return bytes that joblib can load, and their SHA-256."""
        if artifact_id not in self._travelling:
            raw, found, format = self.stored(artifact_id)
            if format not in _READ_BY_JOBLIB:
                raw = get_serializer("joblib").dumps(get_serializer(format).loads(raw))
                found = sha256_hex(raw)
            self._travelling[artifact_id] = raw, found
        return self._travelling[artifact_id]

    def load(self, artifact_id: str) -> Any:
        """Return the object itself, loaded from the bytes that travel."""
        if artifact_id not in self._objects:
            self._objects[artifact_id] = get_serializer("joblib").loads(self.travelling(artifact_id)[0])
        return self._objects[artifact_id]


# -- A chain with everything that travels.


@dataclass(frozen=True)
class Payload:
    """A member on its way into the archive."""

    name: str
    role: Role
    data: bytes = field(repr=False)
    sha256: str


@dataclass
class Package:
    """The members to write, in that order."""

    chain: dict[str, Any]
    payloads: list[Payload]
    plan: ReplayPlan
    blobs: Blobs
    notes: tuple[str, ...]
    kind: Kind = "joblib"
    pipeline: list[dict[str, Any]] | None = None
    rearranged: bool = False
    domain: bytes | None = None

    @property
    def expressible(self) -> bool:
        """Whether version 1.0 of the format has a place for this chain."""
        return self.pipeline is not None


def pack_chain(source: ChainSource, chain_id: str, X: Any = None) -> Package:
    """Read a chain and all its objects, and lay them out for a bundle."""
    chain, plan, blobs = _find(source, chain_id)
    if plan.nested:
        package = _as_stored(chain, plan, blobs, "joblib")
    else:
        layout = lay_out(plan, Workbench(blobs.load, plan.memory), lambda name: blobs.travelling(name)[0])
        package = _pack(chain, plan, layout, blobs)
    _warn_of_main(package)
    if package.rearranged:
        agrees = _predicts_the_same(package, X)
        if not agrees:
            reason = "put together for it, its models predict other numbers than the stored chain"
            if agrees is None:
                reason = "its models had to be put together, and there were no spectra to compare them on; give probe="
            package = _pack(chain, plan, as_it_is(plan, reason), blobs)
    return _with_domain(package)


def pack_safely(source: ChainSource, chain_id: str, X: Any = None) -> tuple[Package, Any]:
    """Read a chain and all its objects, and turn each into a skops payload."""
    chain, plan, blobs = _find(source, chain_id)
    spectra = made_up_spectra(plan, blobs) if X is None else X
    if spectra is None:
        raise InvalidInput(
            f"Chain {chain_id!r} does not say how many channels it takes, so it cannot be compared with what "
            "travels. Nothing was written. Give a few spectra: probe=."
        )
    if plan.nested:
        return _with_domain(_as_stored(chain, plan, blobs, "skops")), spectra
    layout = as_it_is(plan, "a safe bundle holds no pickles, and readers of version 1.0 know nothing else")
    return _with_domain(_pack(chain, plan, layout, blobs, "skops")), spectra


def _find(source: ChainSource, chain_id: str) -> tuple[dict[str, Any], ReplayPlan, Blobs]:
    chain = source.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id, "Nothing was written.")
    return chain, ReplayPlan.from_chain(chain), Blobs(source, chain_id)


def _with_domain(package: Package) -> Package:
    """Put the chain's domain into the package, or say why it has to stay behind."""
    metadata = dict(package.chain.get("metadata") or {})
    named = domain_id(metadata)
    if named is None:
        return package
    notes = package.notes
    if package.rearranged and len(package.plan.members) > 1:
        # Its fold models travel with their preprocessing inside, so their input is no longer what was measured.
        note = "The domain of the calibration is left out, since the models of the folds were put together."
        notes = (*notes, note)
        warnings.warn(
            f"{note} Predictions will say 'domain not known'. A safe bundle (safe=True) keeps the domain, and a chain "
            "recorded with refit=True keeps it in every form.",
            UserWarning,
            stacklevel=4,
        )
    else:
        try:
            return replace(package, domain=package.blobs.stored(named)[0])
        except ArtifactMissing:
            pass  # an older version imported the chain and left out what it does not know
    del metadata[DOMAIN]
    return replace(package, chain=package.chain | {"metadata": metadata or None}, notes=notes)


def _warn_of_main(package: Package) -> None:
    """Warn of objects whose pickles name what only this script or notebook has."""
    listings = [
        list_pickle(p.data) for p in package.payloads if _MAIN in p.data or p.data[:1] != pickle.PROTO
    ]
    names = sorted({name for one in listings for name in one.classes if name.startswith("__main__.")})
    if names:
        warnings.warn(
            f"The bundle needs {', '.join(names)[:400]}, which only this script or notebook defines: in another "
            "process it cannot be opened. Move what it names into a module that is imported, fit again, and export "
            "that chain; or save the artifacts with format='cloudpickle'.",
            UserWarning,
            stacklevel=4,
        )


# -- Predicting with a chain as it will travel, before it does.


def _predicts_the_same(package: Package, X: Any) -> bool | None:
    """Compare a chain as it travels with the stored one, to the last bit; None without spectra that it takes."""
    load = package.blobs.load
    spectra = made_up_spectra(package.plan, package.blobs) if X is None else X
    if spectra is None:
        return None
    try:
        expected = predict(package.plan, spectra, load)
    except NirsStoreError:
        if X is None:
            return None
        raise
    objects = {item.sha256: get_serializer("joblib").loads(item.data) for item in package.payloads}
    try:
        found = predict(ReplayPlan.from_chain(package.chain), spectra, objects.__getitem__)
    except NirsStoreError:
        # An object that does without scikit-learn's conventions may not work inside its containers.
        return False
    if found.shape != expected.shape:
        return False
    return bool(np.all((found == expected) | ((found != found) & (expected != expected))))


def made_up_spectra(plan: ReplayPlan, blobs: Blobs) -> Any:
    """Make absorbance-like spectra of the width that the chain takes; None when that is not known."""
    width = channels(plan, Workbench(blobs.load, plan.memory))
    if width is None:
        return None
    rng = np.random.default_rng(20260101)
    place = np.linspace(0.0, 1.0, width)
    bands = np.exp(-(((place - rng.uniform(0.1, 0.9, (24, 1))) / 0.15) ** 2))
    return 0.5 + rng.uniform(0.1, 1.0, (24, 1)) * bands + rng.normal(0.0, 0.01, (24, width))


# -- Giving each object of a chain its bytes and its name in the bundle.


class _Packing:
    """Takes in the objects of a chain one after the other."""

    def __init__(self, plan: ReplayPlan, blobs: Blobs, kind: Kind, expressible: bool = False) -> None:
        self._blobs = blobs
        self._bench = Workbench(blobs.load, plan.memory)
        self._kind = kind
        self._expressible = expressible
        self.payloads: dict[str, Payload] = {}
        self.notes: list[str] = []

    def add(self, part: Part, name: str, role: Role) -> str | None:
        """Take in one object; give its id, or None for one that travels as the name of its class."""
        if isinstance(part, Made):
            return self._keep(get_serializer("joblib").dumps(part.value), name, role)
        if part.artifact_id is not None:
            return self.add_artifact(part.artifact_id, part.where, name, role)
        if self._kind == "skops":
            # A class made from its name would be chosen by the bundle's text.
            return self._keep(skops_payload(self._bench.open(part)[0], part.where, self.notes))
        if self._expressible:
            return self._keep(get_serializer("joblib").dumps(self._bench.open(part)[0]), name, role)
        return None

    def add_artifact(self, artifact_id: str, where: str, name: str = "", role: Role = "blob") -> str:
        """Take in a stored object; a payload that readers take as it is stays as it is."""
        if self._kind == "joblib":
            data, digest = self._blobs.travelling(artifact_id)
            return self._keep(data, name, role, digest)
        stored, digest, format = self._blobs.stored(artifact_id)
        if format == "skops":
            try:
                audit = audit_payload(stored, where)
            except BundleInvalid:
                return self._keep(stored)  # the comparison with the stored chain refuses it, and says why
            if not (audit.refused or audit.needs):
                return self._keep(stored)
        return self._keep(skops_payload(self._blobs.load(artifact_id), where, self.notes))

    def _keep(self, data: bytes, name: str = "", role: Role = "blob", digest: str | None = None) -> str:
        digest = digest or sha256_hex(data)
        if not self._expressible:
            name, role = f"blobs/{digest}.{self._kind}", "blob"
        self.payloads.setdefault(name, Payload(name, role, data, digest))
        return digest


def _as_stored(chain: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs, kind: Kind) -> Package:
    """Pack merged branches, or a stack with its base models, as stored: only the names of objects change."""
    if kind == "skops" and (made := plan.stateless_classes):
        raise SerializationError(
            f"The chain makes objects from the names of their classes ({', '.join(made)[:200]}), inside branches or "
            "a stack, which no safe bundle does. Nothing was written. Save these objects as artifacts of their "
            "steps, or export a joblib bundle (safe=False)."
        )
    packing = _Packing(plan, blobs, kind)
    places = {operator.artifact_id: operator.where for operator in plan.operators}
    names = {
        artifact_id: packing.add_artifact(artifact_id, places.get(artifact_id, "A model of a fold"))
        for artifact_id in chain_artifact_ids(
            chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"]
        )
    }
    travelling = dict(clean(renamed(chain, names)))
    travelling |= {
        "fold_artifacts": normalise_folds(travelling["fold_artifacts"], "fold_artifacts"),
        "fold_weights": normalise_weights(travelling.get("fold_weights")),
        **_plain_parts(chain, plan),
    }
    note = inexpressible("it is a stack of models" if plan.stack else "it merges branches")
    notes = (note, *dict.fromkeys(packing.notes))
    return Package(travelling, list(packing.payloads.values()), plan, blobs, notes, kind)


def _pack(
    chain: Mapping[str, Any], plan: ReplayPlan, layout: Layout, blobs: Blobs, kind: Kind = "joblib"
) -> Package:
    """Pack a row of steps and its models."""
    packing = _Packing(plan, blobs, kind, layout.expressible)
    shift, indices, model_index = _number(chain, layout)
    entries = {index + shift: entry for index, entry in _entries(chain).items()} if shift is not None else {}
    source_map: dict[str, dict[str, list[str]]] = {}
    numbered = sorted(zip(indices, layout.steps, strict=True), key=lambda item: item[0])
    steps = [_step(step, index, chain, packing, source_map) for index, step in numbered]
    model = _described(chain, int(chain["model_step_idx"]), str(chain.get("model_class") or ""))
    model |= {"step_idx": model_index, "operator_type": MODEL}
    fold_artifacts: dict[str, str] = {}
    for fold, part in layout.models.items():
        # A single model is called final as well: so every reader finds it and uses nothing else.
        number = None if fold is None else fold_number(fold)
        name = f"artifacts/step_{model_index}_fold{'final' if number is None else number}.joblib"
        digest = packing.add(part, name, "model")
        assert digest is not None  # a model is always fitted
        if fold is None:
            model["artifact_id"] = digest
        else:
            fold_artifacts[REFIT if number is None else f"fold_{number}"] = digest
    pipeline = _pipeline(steps, model, entries, model_index) if layout.expressible else None
    taken = {step["step_idx"] for step in steps}
    for index, entry in entries.items():
        if index < model_index and index not in taken and _is_splitter(entry):
            splitter = {"step_idx": index, "operator_class": str(entry.get("operator_class") or "")}
            params = clean(entry.get("params") or {})
            steps.append({**splitter, "operator_type": SPLITTER, "params": params, "stateless": True})
    travelling = {
        "pipeline_id": _text(chain.get("pipeline_id")),
        "steps": sorted([*steps, model], key=lambda step: int(step["step_idx"])),
        "model_step_idx": model_index,
        "model_class": str(chain.get("model_class") or ""),
        "preprocessings": str(chain.get("preprocessings") or ""),
        "fold_strategy": str(chain.get("fold_strategy") or ""),
        "fold_artifacts": fold_artifacts,
        "shared_artifacts": {"_source_map": source_map} if source_map else {},
        "branch_path": [int(branch) for branch in chain.get("branch_path") or ()] or None,
        "source_index": plan.source_index,
        "fold_weights": dict(layout.weights) if layout.weights else None,
        **_plain_parts(chain, plan),
    }
    payloads = list(packing.payloads.values())
    notes = (*layout.notes, *dict.fromkeys(packing.notes))
    return Package(travelling, payloads, plan, blobs, notes, kind, pipeline, layout.rearranged)


def _plain_parts(chain: Mapping[str, Any], plan: ReplayPlan) -> dict[str, Any]:
    metadata = dict(chain.get("metadata") or {})
    if isinstance(metadata.get(CODE), Mapping):
        metadata[CODE] = without_text(metadata[CODE])  # hashes of the code travel, not its source
    return {
        "chain_id": str(chain.get("chain_id") or ""),
        "wavelengths": None if plan.wavelengths is None else plan.wavelengths.tolist(),
        "metadata": clean(metadata) or None,
        "created_at": _text(clean(chain.get("created_at"))),
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(chain: Mapping[str, Any], layout: Layout) -> tuple[int | None, list[int], int]:
    """Give the steps their numbers: those of the chain, counted from 1, unless two steps would share one."""
    model = int(chain["model_step_idx"])
    shift = 1 if min([*_entries(chain), model]) == 0 else 0
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
    places = count()

    def add(parts: tuple[Part, ...]) -> list[str]:
        ids = [packing.add(part, f"artifacts/step_{index}_sub{next(places)}.joblib", role) for part in parts]
        return [identifier for identifier in ids if identifier is not None]

    first = next(iter(step.parts), None)
    stored_name = str(_entries(chain).get(step.index, {}).get("operator_class") or "")
    described = _described(chain, step.index, stored_name if first is None else first.name)
    described |= {"step_idx": index, "operator_type": step.kind}
    if step.by_source is not None:
        source_map[str(index)] = {str(source): add(parts) for source, parts in step.by_source.items()}
    elif step.by_fold is not None:
        described["fold_artifact_ids"] = {fold: add(parts) for fold, parts in step.by_fold.items()}
    elif ids := add(step.parts):
        described["artifact_ids"] = ids
    else:
        assert isinstance(first, Operator)
        described |= {"stateless": True, "params": clean(dict(first.params))}
    return described


def _described(chain: Mapping[str, Any], index: int, name: str) -> dict[str, Any]:
    """Describe a fitted step, with the parameters that the chain gives for it."""
    same: Iterator[Mapping[str, Any]] = (
        step
        for step in chain["steps"]
        if int(step["step_idx"]) == index and str(step.get("operator_class") or "") == name
    )
    params = clean(next(same, {}).get("params") or {})
    return {"operator_class": name, "params": dict(params), "stateless": False}


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
