"""Bundles of version 1.0 from another program: a chain made of names, ``pipeline.json`` and ``trace.json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nirs_store.bundle.manifest import Manifest
from nirs_store.chains.folds import REFIT
from nirs_store.chains.steps import AUGMENTATION, MODEL, SPLITTER, TARGETS, TRANSFORM
from nirs_store.errors import BundleInvalid

# -- What the name of an artifact says in version 1.0: its step, its fold, its place within the step.


_STEP = re.compile(r"\d{1,9}")
_FOLD = re.compile(r"fold(\d{1,9})")
_SUB = re.compile(r"sub(\d{1,9})")
_HASH = re.compile(r"[0-9a-f]{32,64}")


class ArtifactName(NamedTuple):
    """A member that holds a fitted object."""

    member: str
    step: int
    key: str
    fold: str | None
    sub: int | None


def parse_artifact_name(member: str) -> ArtifactName | None:
    """Read the name of a member; None when it names no step."""
    stem, dot, _ = member.rpartition("/")[2].rpartition(".")
    parts = (stem if dot else member.rpartition("/")[2]).split("_")
    if len(parts) < 2 or parts[0] != "step" or not _STEP.fullmatch(parts[1]):
        return None
    step = int(parts[1])
    fold = next((part for part in parts[2:] if part.startswith("fold")), None)
    subs = [int(match[1]) for part in parts[2:] if (match := _SUB.fullmatch(part))]
    key = f"step_{step}_{fold}" if fold is not None else "_".join(parts) if len(parts) > 2 else f"step_{step}"
    return ArtifactName(member, step, key, fold, subs[-1] if subs else None)


def by_step(members: Iterable[str]) -> dict[int, dict[str, ArtifactName]]:
    """Group members by step and key, in the order in which they stand in the archive."""
    found: dict[int, dict[str, ArtifactName]] = {}
    nameless = []
    for member in members:
        name = parse_artifact_name(member)
        if name is None:
            nameless.append(member)
            continue
        held = found.setdefault(name.step, {})
        if name.key in held:
            raise BundleInvalid(
                f"The members {held[name.key].member} and {member} both mean {name.key}, as a pipeline with branches "
                "writes them, so one of them would be left out and the predictions could be those of another "
                "branch. Export the chain of one branch."
            )
        held[name.key] = name
    if nameless and not found:
        if all(_HASH.fullmatch(member.rpartition("/")[2].partition(".")[0]) for member in nameless):
            raise BundleInvalid(
                "The members of this bundle are named by hash, as nirs4all 0.7 wrote them, and nothing says which "
                "step each belongs to; no program can predict with it. Export the chain again with a newer version."
            )
        raise BundleInvalid(
            f"No member of this bundle is named step_<number>; the first is {nameless[0]}. It holds no model."
        )
    if nameless:
        raise BundleInvalid(
            f"The member {nameless[0]} is a fitted object that belongs to no step: expected a name such as "
            "artifacts/step_1_sub0.joblib. Leaving it out could predict wrong numbers; ask for a new export."
        )
    return found


def fold_of(name: ArtifactName) -> int | None:
    """Return the number of the fold that a member belongs to, or None."""
    match = _FOLD.fullmatch(name.fold) if name.fold else None
    return int(match[1]) if match else None


def in_order(names: Iterable[ArtifactName], notes: list[str]) -> list[ArtifactName]:
    """Put the objects of one step into the order in which they apply."""
    # Version 1.0 leaves that to the order in the archive, which every tool that packs it again may change. Where all
    # names carry a number (``_sub0``, ``_sub1``), the number decides.
    found = list(names)
    if any(name.sub is None for name in found):
        if len(found) > 1:
            listed = ", ".join(name.member for name in found)
            notes.append(
                f"The order of {listed} is only that of the archive; if it was repacked, it may be wrong."
            )
        return found
    ordered = sorted(found, key=lambda name: name.sub or 0)
    if ordered != found:
        notes.append(
            f"Step {found[0].step} is in the archive in another order than its numbers; the numbers were used."
        )
    return ordered


# -- What the names and descriptions say.


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
        for index in sorted(held.keys() - {*order, model_step}):
            reason = passed_over.get(index, "comes after the model" if index > model_step else None)
            if reason is None:
                raise BundleInvalid(
                    f"{where}: step {index} has fitted objects, but trace.json does not name it, so nothing says "
                    "where it applies. Leaving it out would predict wrong numbers. Ask for a new export."
                )
            notes.append(f"Step {index} {reason} and is not applied.")
    else:
        kinds = _from_pipeline(texts.get("pipeline.json"))
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
    """Make the chain of an outline whose objects are loaded, by the ids that the members have."""
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
            step = _step(index if keep else place, kind, objects[ids[usable[0].member]])
            steps.append(step | {"artifact_ids": [ids[name.member] for name in usable]})
    for name in found.models.values():
        if not callable(getattr(objects[ids[name.member]], "predict", None)):
            raise BundleInvalid(
                f"{where}: {name.member} should be the model, but is a {_class_name(objects[ids[name.member]])}, "
                "which cannot predict."
            )
    model_index = found.model_step if keep else len(found.steps)
    any_model = next(iter(found.models.values()))
    model = _step(model_index, MODEL, objects[ids[any_model.member]])
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
    listed = trace.get("steps")
    if not isinstance(listed, list) or not all(isinstance(item, Mapping) for item in listed):
        raise BundleInvalid(
            f"{where}: the steps in trace.json are not a list of objects; ask for a new export."
        )
    steps = iter(listed)
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


def _from_pipeline(pipeline: Mapping[str, Any] | None) -> dict[int, str]:
    """Read the kinds of steps from ``pipeline.json``, where the first entry is step 1."""
    entries = (pipeline or {}).get("steps")
    known = (TARGETS, AUGMENTATION, MODEL, *_MERGING)
    return {
        place: next((key for key in known if key in entry), TRANSFORM)
        for place, entry in enumerate(entries if isinstance(entries, list) else [], start=1)
        if isinstance(entry, Mapping)
    }


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


def _step(index: int, kind: str, fitted: Any) -> dict[str, Any]:
    described = {"step_idx": index, "operator_class": _class_name(fitted), "operator_type": kind}
    return {**described, "params": {}, "stateless": False}


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
