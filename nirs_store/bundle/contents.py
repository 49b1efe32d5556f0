"""Everything about a bundle that can be known without loading an object from it.

The order matters: the directory is checked before anything is decompressed, sizes and hashes before anything
is interpreted, and what the pickles name is listed without running them. Loading comes after all of this,
elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nirs_store.bundle.container import (
    DEFAULT_LIMITS,
    Limits,
    Members,
    check_archive,
    dump_json,
    is_own_name,
    parse_object,
)
from nirs_store.bundle.manifest import (
    CARD,
    MANIFEST,
    RECORD,
    ArtifactName,
    BundleRecord,
    Manifest,
    by_step,
    fold_of,
    in_order,
    parse_record,
)
from nirs_store.bundle.trust import PickleListing, list_pickle, merge_listings
from nirs_store.chains.folds import REFIT
from nirs_store.chains.plan import AUGMENTATION, MODEL, SPLITTER, TARGETS, TRANSFORM
from nirs_store.errors import BundleInvalid, BundleMissing
from nirs_store.ids import sha256_hex

# -- Bundles of version 1.0 from another program: a chain made of names, ``pipeline.json``, ``trace.json``.


DESCRIPTIONS = ("pipeline.json", "trace.json", "chain.json", "fold_weights.json")
"""Members that decide about the reading, besides the manifest."""

_REFIT_NAMES = frozenset({"fold_final", "final"})
_MERGING = ("meta_model", "branch", "merge")
_NEEDS_MORE = {
    "partitioner_routing": "it sends each sample to one of several models",
    "relation_replay_manifest": "it replays relations between tables",
}


@dataclass
class Outline:
    """What the names and descriptions say, before anything is loaded."""

    steps: list[tuple[int, str, list[ArtifactName]]]
    model_step: int
    models: dict[str | None, ArtifactName]
    weights: dict[str, float] | None
    notes: list[str] = field(default_factory=list)

    @property
    def members(self) -> list[str]:
        """Every member that must be loaded, each once."""
        names = [name.member for _, _, held in self.steps for name in held]
        return list(dict.fromkeys(names + [name.member for name in self.models.values()]))


def outline(
    manifest: Manifest, names: list[str], texts: Mapping[str, Mapping[str, Any]], where: Path
) -> Outline:
    """Find out what each artifact is."""
    for key, what in _NEEDS_MORE.items():
        if manifest.get(key):
            raise BundleInvalid(f"{where} cannot be read without nirs4all: {what} ({key}).")
    notes: list[str] = []
    held = by_step([name for name in names if name.startswith("artifacts/")])
    trace = texts.get("trace.json")
    model_step = manifest.model_step_index
    if model_step is None and trace is not None and isinstance(trace.get("model_step_index"), int):
        model_step = int(trace["model_step_index"])
    if model_step is None:
        raise BundleInvalid(
            f"{where}: manifest.json has no model_step_index, so no step is known to be the model. "
            "Ask for a new export."
        )
    if trace is not None:
        order, kinds, passed_over = _from_trace(trace, model_step, where)
        unnamed = sorted(held.keys() - {*order, model_step})
        _account_for(unnamed, model_step, passed_over, notes, where)
    else:
        kinds = _from_pipeline(texts.get("pipeline.json"), where)
        order = sorted(held)
    models = _models(held.get(model_step, {}), model_step, texts.get("chain.json"), where)
    _refuse_unused(held.get(model_step, {}), models, where)
    steps: list[tuple[int, str, list[ArtifactName]]] = []
    for index in order:
        objects = held.get(index)
        kind = kinds.get(index, TRANSFORM)
        if index == model_step or not objects:
            continue
        if kind in _MERGING or kind == MODEL:
            raise BundleInvalid(
                f"{where}: step {index} is of the type {kind!r} and has fitted objects; such chains cannot be read "
                "without nirs4all."
            )
        if kind == SPLITTER:
            continue
        if trace is None and index > model_step:
            notes.append(f"Step {index} comes after the model and is not applied.")
            continue
        folds = {fold for name in objects.values() if (fold := fold_of(name)) is not None}
        if len(folds) > 1:
            raise BundleInvalid(
                f"{where}: step {index} has a fitted transformer for each of {len(folds)} folds. Version 1.0 has no "
                "rule for that, and applying one after the other would predict wrong numbers."
            )
        steps.append((index, kind, in_order(objects.values(), notes)))
    if sum(len(names) for _, kind, names in steps if kind == TARGETS) > 1:
        notes.append(
            "Several target transformers are undone in reverse order, which is the inverse of the training; "
            "nirs4all undoes those of the last step, in forward order."
        )
    weights = _weights(texts.get("fold_weights.json"), models, where)
    return Outline(steps, model_step, models, weights, notes)


def make_chain(
    found: Outline, manifest: Manifest, ids: Mapping[str, str], objects: Mapping[str, Any], where: Path
) -> dict[str, Any]:
    """Make the chain of an outline whose objects are loaded."""
    steps: list[dict[str, Any]] = []
    numbers = [index for index, _, _ in found.steps]
    keep = numbers == sorted(set(numbers)) and all(index < found.model_step for index in numbers)
    for place, (index, kind, names) in enumerate(found.steps):
        wanted = "inverse_transform" if kind == TARGETS else "transform"
        usable = [name for name in names if callable(getattr(objects[ids[name.member]], wanted, None))]
        for name in names:
            if name not in usable:
                found.notes.append(f"{name.member} has no {wanted}() and is not applied, as in nirs4all.")
        if usable:
            steps.append(
                {
                    "step_idx": index if keep else place,
                    "operator_class": _class_name(objects[ids[usable[0].member]]),
                    "operator_type": kind,
                    "params": {},
                    "stateless": False,
                    "artifact_ids": [ids[name.member] for name in usable],
                }
            )
    model_index = found.model_step if keep else len(found.steps)
    any_model = next(iter(found.models.values()))
    model: dict[str, Any] = {
        "step_idx": model_index,
        "operator_class": _class_name(objects[ids[any_model.member]]),
        "operator_type": MODEL,
        "params": {},
        "stateless": False,
    }
    for name in found.models.values():
        if not callable(getattr(objects[ids[name.member]], "predict", None)):
            raise BundleInvalid(
                f"{where}: {name.member} should be the model, but is a {_class_name(objects[ids[name.member]])}, "
                "which cannot predict."
            )
    if None in found.models:
        model["artifact_id"] = ids[found.models[None].member]
    return {
        "chain_id": str(manifest.get("chain_id") or manifest.get("pipeline_uid") or ""),
        "pipeline_id": None,
        "steps": [*steps, model],
        "model_step_idx": model_index,
        "model_class": str(manifest.get("model_class") or model["operator_class"]),
        "preprocessings": str(manifest.get("preprocessings") or manifest.get("preprocessing_chain") or ""),
        "fold_strategy": str(manifest.get("fold_strategy") or ""),
        "fold_artifacts": {fold: ids[name.member] for fold, name in found.models.items() if fold is not None},
        "shared_artifacts": {},
        "branch_path": None,
        "source_index": None,
        "fold_weights": found.weights,
        "wavelengths": None,
        "metadata": None,
        "created_at": manifest.get("created_at"),
    }


def _from_trace(
    trace: Mapping[str, Any], model_step: int, where: Path
) -> tuple[list[int], dict[int, str], dict[int, str]]:
    """Read from an execution trace the order and the kinds of steps, and why it passes others over."""
    order: list[int] = []
    kinds: dict[int, str] = {}
    passed_over: dict[int, str] = {}
    steps = iter(_list_of_dicts(trace.get("steps"), "trace.json", where))
    for step in steps:
        index = step.get("step_index")
        if not isinstance(index, int) or isinstance(index, bool):
            raise BundleInvalid(
                f"{where}: a step of trace.json has no number (step_index); ask for a new export."
            )
        if step.get("execution_mode") == "skip":
            passed_over[index] = "was skipped when the model was trained"
            continue
        kind = str(step.get("operator_type") or TRANSFORM)
        if index == model_step and kind == "meta_model":
            raise BundleInvalid(
                f"{where}: its model combines the predictions of other models (meta_model); such chains cannot be "
                "read without nirs4all. Ask for an export of a scikit-learn StackingRegressor."
            )
        if index not in kinds:
            order.append(index)
        kinds[index] = kind if kind in (TARGETS, AUGMENTATION, SPLITTER, MODEL, *_MERGING) else TRANSFORM
        if index == model_step:
            break
    for step in steps:
        later = step.get("step_index")
        if isinstance(later, int):
            passed_over.setdefault(later, "comes after the model")
    return order, kinds, passed_over


def _account_for(
    unnamed: Iterable[int], model_step: int, passed_over: Mapping[int, str], notes: list[str], where: Path
) -> None:
    """Say why each step with objects, but without a place in the trace's order, is not applied."""
    for index in unnamed:
        reason = passed_over.get(index, "comes after the model" if index > model_step else None)
        if reason is None:
            raise BundleInvalid(
                f"{where}: step {index} has fitted objects, but trace.json does not name it, so nothing says "
                "where it applies. Leaving it out would predict wrong numbers. Ask for a new export."
            )
        notes.append(f"Step {index} {reason} and is not applied.")


def _from_pipeline(pipeline: Mapping[str, Any] | None, where: Path) -> dict[int, str]:
    """Read the kinds of steps from ``pipeline.json``, where the first entry is step 1."""
    if pipeline is None:
        return {}
    kinds: dict[int, str] = {}
    entries = pipeline.get("steps")
    for place, entry in enumerate(entries if isinstance(entries, list) else [], start=1):
        if isinstance(entry, Mapping):
            known = (TARGETS, AUGMENTATION, MODEL, *_MERGING)
            kinds[place] = next((key for key in known if key in entry), TRANSFORM)
    return kinds


def _models(
    held: Mapping[str, ArtifactName], step: int, chain: Mapping[str, Any] | None, where: Path
) -> dict[str | None, ArtifactName]:
    for key in (f"step_{step}_foldfinal", f"step_{step}_final"):
        if key in held:
            return {REFIT: held[key]}
    named = chain.get("fold_artifacts") if chain else None
    if isinstance(named, Mapping) and _REFIT_NAMES & set(named) and held:
        # Only this step's own objects: a search by prefix would take those of step 10 for step 1.
        return {REFIT: next(iter(held.values()))}
    folds = {number: name for name in held.values() if (number := fold_of(name)) is not None}
    if folds:
        return {f"fold_{number}": folds[number] for number in sorted(folds)}
    alone = [name for name in held.values() if name.fold is None]
    if len(alone) == 1:
        return {None: alone[0]}
    raise BundleInvalid(
        f"{where}: its model, step {step}, should have one object or one for each fold, found "
        f"{sorted(held) or 'none'}. Ask for a new export."
    )


def _refuse_unused(
    held: Mapping[str, ArtifactName], models: Mapping[str | None, ArtifactName], where: Path
) -> None:
    """Refuse objects in the step of the model that are not models: the transformers of a branch have its number."""
    used = {name.member for name in models.values()}
    # A refit predicts alone; the models of the folds then lie unused, as nirs4all writes them.
    left = [
        n.member
        for n in held.values()
        if n.member not in used and (REFIT not in models or fold_of(n) is None)
    ]
    if left:
        raise BundleInvalid(
            f"{where}: {left[0]} is a fitted object in the step of the model, and nothing says where it applies; "
            "nirs4all writes the transformers of a branch so. Without it the predictions would be wrong. Export a "
            "chain without branches, or bring the whole workspace over with migrate_nirs4all."
        )


def _weights(
    found: Mapping[str, Any] | None, models: Mapping[str | None, ArtifactName], where: Path
) -> dict[str, float] | None:
    if not found or REFIT in models or None in models:
        return None
    weights: dict[int, float] = {}
    for key, value in found.items():
        try:
            weights[int(key)] = float(value)
        except (TypeError, ValueError):
            raise BundleInvalid(
                f"{where}: fold_weights.json must map fold numbers to numbers, found {key!r}: {value!r}."
            ) from None
    return {fold: weights.get(int(fold.removeprefix("fold_")), 1.0) for fold in models if fold is not None}


def _list_of_dicts(value: Any, member: str, where: Path) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise BundleInvalid(
            f"{where}: the steps in {member} are not a list of objects; ask for a new export."
        )
    return value


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# What of a chain is the model; ids, dates and the data it was made from differ from workspace to workspace.
_CONTENT = (
    "steps",
    "model_step_idx",
    "model_class",
    "preprocessings",
    "fold_strategy",
    "fold_artifacts",
    "shared_artifacts",
    "branch_path",
    "source_index",
    "fold_weights",
    "wavelengths",
)


@dataclass(frozen=True)
class Contents:
    """A bundle that was read and checked, but not loaded."""

    path: Path
    manifest: Manifest
    record: BundleRecord | None
    outline: Outline | None
    payloads: Mapping[str, bytes]
    arrays: Mapping[str, bytes]
    hashes: Mapping[str, str]
    sizes: Mapping[str, int]
    limits: Limits = DEFAULT_LIMITS
    card: str | None = None

    @property
    def kind(self) -> str:
        """What the fitted objects are: "joblib" (pickles) or "skops"."""
        return self.record.kind if self.record else "joblib"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was rearranged in the export, or found strange in the reading."""
        if self.record is not None:
            return self.record.version_1_0.notes
        return tuple(self.outline.notes) if self.outline else ()

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the objects and the chain that names them, whatever else travels with them.

        Exports of the same chain from two workspaces have the same one.
        """
        objects = sorted({self.hashes[name] for name in self.payloads})
        chain = {} if self.record is None else {key: self.record.chain.get(key) for key in _CONTENT}
        if self.record is None:
            objects += [f"{name} {self.hashes[name]}" for name in sorted(self.payloads)]
        return sha256_hex(dump_json([self.kind, objects, chain]))

    @cached_property
    def pickles(self) -> PickleListing:
        """What the fitted objects name."""
        return merge_listings(list_pickle(value) for value in self.payloads.values())


def read_contents(path: Path, limits: Limits) -> Contents:
    """Read a bundle up to the point where loading would begin."""
    with _open(path, limits) as members:
        names = members.names
        if MANIFEST not in names:
            raise BundleInvalid(
                f"{path} is a ZIP file without {MANIFEST}, so it is not a .n4a bundle. "
                "If it was one, it was repacked without it; ask for the original."
            )
        raw = members.read(MANIFEST, limits.manifest_bytes)
        manifest = Manifest(parse_object(raw, MANIFEST), path)
        sizes = {name: members.size(name) for name in names}
        promised = manifest.get("members_listed_in")
        if RECORD in names:
            record = parse_record(members.read(RECORD, limits.json_bytes), path)
            data = _read_listed(path, members, record, {MANIFEST: raw}, limits.manifest_bytes)
            found = None
            payloads = {
                m.name: data[m.name] for m in record.members if m.name.startswith(("artifacts/", "blobs/"))
            }
            _check_kind(path, record.kind, payloads)
        elif promised is not None:
            raise BundleInvalid(
                f"{path}: its manifest says that {str(promised)[:80]!r} lists the members, but that is not there, so "
                "nothing can be verified. It was taken out or renamed; ask for the original."
            )
        else:
            record = None
            texts = {
                name: parse_object(members.read(name, limits.json_bytes), name)
                for name in DESCRIPTIONS
                if name in names
            }
            found = outline(manifest, names, texts, path)
            data = payloads = {name: members.read(name) for name in found.members}
    hashes = {name: sha256_hex(value) for name, value in data.items()}
    if record is None:
        _check_integrity(path, manifest, sizes, hashes)
    arrays = {name: value for name, value in data.items() if name.startswith("arrays/")}
    card = data[CARD].decode("utf-8", "replace") if record is not None and CARD in data else None
    return Contents(path, manifest, record, found, payloads, arrays, hashes, sizes, limits, card)


@contextmanager
def _open(path: Path, limits: Limits) -> Iterator[Members]:
    if path.is_dir():
        raise BundleInvalid(f"{path} is a folder, not a bundle. Give the path of a .n4a file.")
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise BundleMissing(
            f"There is no bundle at {path}. Check the path; export_chain writes one."
        ) from None
    with stream:
        yield check_archive(stream, path, limits)


def _read_listed(
    path: Path, members: Members, record: BundleRecord, known: dict[str, bytes], card_bytes: int
) -> dict[str, bytes]:
    """Read every member and compare it with the list of ``nirs_store.json``."""
    listed = {member.name: member for member in record.members}
    if len(listed) != len(record.members):
        raise BundleInvalid(
            f"{path}: {RECORD} lists a member twice. Nothing was loaded; ask for a new export."
        )
    there = set(members.names) - {RECORD}
    if missing := sorted(listed.keys() - there):
        raise BundleInvalid(
            f"{path}: the member {missing[0]} is missing ({len(missing)} of {len(listed)}). Nothing was loaded; it "
            "was taken out or renamed. Copy or export the bundle again."
        )
    if strange := sorted(there - listed.keys()):
        raise BundleInvalid(
            f"{path}: the member {strange[0]!r} is not listed in {RECORD}. Nothing was loaded; it was "
            "added or renamed later. Ask for the original."
        )
    if odd := sorted(name for name in there if not is_own_name(name)):
        raise BundleInvalid(
            f"{path}: no bundle of this library has a member called {odd[0]!r}. Nothing was loaded."
        )
    found: dict[str, bytes] = {}
    for name, member in listed.items():
        if members.size(name) != member.size:
            raise BundleInvalid(
                f"{path}: the member {name} has {members.size(name):,} bytes, listed are {member.size:,}. "
                "Nothing was loaded; copy or export the bundle again."
            )
        data = known.get(name) or members.read(name, card_bytes if name == CARD else None)
        if sha256_hex(data) != member.sha256:
            raise BundleInvalid(
                f"{path}: the member {name} has the SHA-256 {sha256_hex(data)}, listed is {member.sha256[:64]!r}. It "
                "was damaged or exchanged. Nothing was loaded; copy or export the bundle again."
            )
        found[name] = data
    return found


def _check_kind(path: Path, kind: str, payloads: Mapping[str, bytes]) -> None:
    """Compare the names of objects with the kind of the bundle, and those that are hashes with the content."""
    for name, value in payloads.items():
        if not name.endswith(f".{kind}"):
            raise BundleInvalid(
                f"{path} says that it is of the kind {kind!r}, and holds {name}. Nothing was loaded; ask for a new "
                "export."
            )
        if name.startswith("blobs/") and name[6:70] != sha256_hex(value):
            raise BundleInvalid(
                f"{path}: the member {name} is not named by its SHA-256. Nothing was loaded; ask for a new export."
            )


def _check_integrity(
    path: Path, manifest: Manifest, there: Collection[str], hashes: Mapping[str, str]
) -> None:
    """Compare a foreign bundle with the hashes that its manifest promises."""
    promised = manifest.integrity
    # In version 1.0 the names of the members alone say which steps there are: one that is gone is missed by nobody.
    if missing := sorted(promised.keys() - set(there)):
        raise BundleInvalid(
            f"{path}: the member {missing[0]!r}, which its manifest promises, is missing ({len(missing)} of "
            f"{len(promised)}). Nothing was loaded; it was taken out or renamed, and without it the predictions "
            "would be wrong. Copy or export the bundle again."
        )
    for name, digest in promised.items():
        if name in hashes and hashes[name] != digest:
            raise BundleInvalid(
                f"{path}: the member {name} has the SHA-256 {hashes[name]}, its manifest promises {digest[:64]!r}. "
                "It was damaged or exchanged. Nothing was loaded; copy or export the bundle again."
            )
