"""Chains of nirs4all as chains that replay here: whose steps say what they are and name artifacts by hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nirs_store.chains.folds import REFIT, chain_artifact_ids, fold_key
from nirs_store.chains.steps import MODEL, SPLITTER, TARGETS
from nirs_store.errors import InvalidInput
from nirs_store.migration.artifacts import Nirs4allArtifacts
from nirs_store.migration.rows import Unusable, identifier, json_value, moment
from nirs_store.values import as_int, to_json

_ROW = (
    "chain_id", "pipeline_id", "steps", "model_step_idx", "model_class", "preprocessings", "fold_strategy",
    "fold_artifacts", "shared_artifacts", "branch_path", "source_index", "created_at",
)  # fmt: skip
_THEIRS = "nirs4all "
_IN_THE_MODEL = f"{_THEIRS}preprocessing inside the model"
# Keys of nirs4all's step language whose effect a row of steps cannot express, or was not tried.
_OWN_WORDS = (
    "feature_augmentation", "concat_transform", "sample_augmentation", "branch", "merge", "merge_sources",
    "sources", "meta_model", "rep_to_sources", "rep_to_pp",
)  # fmt: skip


@dataclass(frozen=True)
class ChainRows:
    """A chain's row, the artifacts that it refers to, and what it cannot do here."""

    row: dict[str, Any]
    artifacts: dict[str, str]
    lost: list[str]
    wrapped: bool
    unknown: list[str]

    @property
    def reasons(self) -> list[str]:
        """Say why the chain came over, but does not predict as it did."""
        found = []
        if self.wrapped:
            found.append(
                "its model lies in a dict of nirs4all's default engine; it came over, but cannot replay"
            )
        if self.unknown:
            kinds = ", ".join(self.unknown)
            found.append(
                f"it has steps that only nirs4all can apply ({kinds}); it came over, but cannot predict"
            )
        if self.lost:
            found.append("an artifact of it is lost; it came over, but cannot predict as it did")
        return found


def chain_row(row: Mapping[str, Any], configured: Sequence[Any], artifacts: Nirs4allArtifacts) -> ChainRows:
    """Rewrite a chain."""
    # A chain that has lost an artifact comes without the references that would let it predict something else: its
    # replay is an error, never a wrong number.
    row, opened = _unwrapped(row, artifacts)
    found = _Artifacts(artifacts.resolve)
    folds = json_value(row.get("fold_artifacts")) or {}
    shared = json_value(row.get("shared_artifacts")) or {}
    steps = json_value(row.get("steps"))
    if not isinstance(steps, list) or not isinstance(folds, Mapping) or not isinstance(shared, Mapping):
        raise Unusable("its steps or artifacts have a form that no chain has")
    try:
        model = as_int(row.get("model_step_idx"), "model_step_idx")
        if model is None:
            raise Unusable("it does not say which step is its model")
        models = _models(folds, found)
        if any(artifacts.preprocesses(str(name)) for name in folds.values()):
            for step in steps:
                if step.get("step_idx") != model and not step.get("stateless"):
                    # Applied here and in the model it would act twice, unnoticed.
                    step["operator_type"] = _IN_THE_MODEL
        kept = [_step(step, model, configured, found, bool(models)) for step in steps]
        branch = [name for step in steps for name in _of_a_branch(step, row, folds, artifacts)]
        if models and branch:
            # The transformers of a branch have the number of its model: nothing says where they apply.
            described = _described_step(max(model - 1, 0), "", f"{_THEIRS}branch")
            kept.insert(0, {**described, "stateless": False, "artifact_ids": found.replace(branch)})
        sharing = {str(key): found.replace(value) for key, value in shared.items() if found.replace(value)}
        used = set(chain_artifact_ids(kept, models, sharing))
        path = json_value(row.get("branch_path"))
        written = {
            "chain_id": identifier(row["chain_id"]),
            "pipeline_id": identifier(row["pipeline_id"]),
            "steps": to_json(kept, "steps"),
            "model_step_idx": model,
            "model_class": str(row.get("model_class") or ""),
            "preprocessings": str(row.get("preprocessings") or ""),
            "fold_strategy": str(row.get("fold_strategy") or ""),
            "fold_artifacts": to_json(models, "fold_artifacts"),
            "shared_artifacts": to_json(sharing, "shared_artifacts"),
            "branch_path": to_json([int(item) for item in path], "branch_path") if path else None,
            "source_index": as_int(row.get("source_index"), "source_index"),
            "metadata": to_json(_metadata(row, found.lost), "metadata"),
            "created_at": moment(row.get("created_at")),
        }
    except (InvalidInput, TypeError, ValueError, KeyError) as error:
        raise Unusable("it has values that no chain can have") from error
    kinds = {str(step["operator_type"]) for step in kept}
    return ChainRows(
        written,
        {sha: name for sha, name in found.names.items() if sha in used},
        found.lost,
        not opened and any("dagml_host_replay" in step for step in steps),
        sorted(kind for kind in kinds if kind.startswith(_THEIRS)),
    )


def _described_step(index: int, name: str, kind: str) -> dict[str, Any]:
    return {"step_idx": index, "operator_class": name, "operator_type": kind, "params": {}}


class _Artifacts:
    """Replaces ids, and remembers which had no file."""

    def __init__(self, resolve: Callable[[str], str | None]) -> None:
        self._resolve = resolve
        self.names: dict[str, str] = {}
        self.lost: list[str] = []

    def one(self, artifact_id: Any) -> str | None:
        sha = self._resolve(str(artifact_id))
        if sha is None:
            if artifact_id not in self.lost:
                self.lost.append(str(artifact_id))
        else:
            self.names.setdefault(sha, str(artifact_id))
        return sha

    def replace(self, value: Any) -> Any:
        """Replace an id, a list of ids, or a map of them; what is incomplete becomes nothing."""
        if isinstance(value, Mapping):
            held = {str(key): self.replace(item) for key, item in value.items()}
            # An empty list says that a source passes unchanged; one that has become empty has lost something.
            return {} if any(value[key] and not held[str(key)] for key in value) else held
        if isinstance(value, list):
            every = [self.replace(item) for item in value]
            return every if all(every) else []
        return self.one(value) if value else None


def _unwrapped(row: Mapping[str, Any], artifacts: Nirs4allArtifacts) -> tuple[Mapping[str, Any], bool]:
    """Turn a chain of the default engine, whose one artifact is a dict, into one of ordinary steps."""
    steps, folds = json_value(row.get("steps")), json_value(row.get("fold_artifacts"))
    one = isinstance(steps, list) and len(steps) == 1 and isinstance(steps[0], Mapping)
    if not one or "dagml_host_replay" not in steps[0] or not isinstance(folds, Mapping) or len(folds) != 1:
        return row, False
    ((fold, name),) = folds.items()
    parts = artifacts.unwrap(str(name))
    if parts is None:
        return row, False
    made = []
    for index, (key, kind) in enumerate((("y_transform", TARGETS), ("estimator", MODEL))):
        if key in parts:
            name = artifacts.facts(parts[key])[0]
            described = _described_step(index, name, kind)
            made.append({**described, "params": {kind: name}, "artifact_ids": [parts[key]]})
    return {**row, "steps": made, "model_step_idx": 1, "fold_artifacts": {fold: parts["estimator"]}}, True


def _models(folds: Mapping[str, Any], found: _Artifacts) -> dict[str, str]:
    models = {fold_key(fold): found.one(value) for fold, value in folds.items()}
    refit = models.get(REFIT)
    if all(models.values()):
        return {fold: sha for fold, sha in models.items() if sha}
    # A mean over fewer folds would be another model; only a refit is a single model.
    return {REFIT: refit} if refit else {}


def _step(
    step: Any, model: int, configured: Sequence[Any], found: _Artifacts, has_models: bool
) -> dict[str, Any]:
    if not isinstance(step, Mapping):
        raise Unusable("one of its steps is not an object")
    index = as_int(step.get("step_idx"), "step_idx")
    if index is None:
        raise Unusable("one of its steps has no number")
    config = configured[index - 1] if 0 < index <= len(configured) else None
    ids = step.get("artifact_ids") or ([step["artifact_id"]] if step.get("artifact_id") else [])
    name, params = _described(config if _words(config) or isinstance(config, str) else step.get("params"))
    short = str(step.get("operator_class") or "")
    written: dict[str, Any] = {
        "step_idx": index,
        "operator_class": name if name.rpartition(".")[2] == short.rpartition(".")[2] else short,
        "params": params,
        "stateless": bool(step.get("stateless")),
        "operator_type": _kind(step, index == model, config, bool(ids)),
    }
    for key in ("branch_path", "source_index"):
        if step.get(key) is not None:
            written[key] = step[key]
    if index == model and has_models:
        return written
    if kept := found.replace(list(ids)):
        written["artifact_ids"] = kept
    return written


def _of_a_branch(
    step: Mapping[str, Any], row: Mapping[str, Any], folds: Mapping[str, Any], artifacts: Nirs4allArtifacts
) -> list[str]:
    """List the objects in the step of the model that are of other classes than the model."""
    if step.get("step_idx") != row.get("model_step_idx"):
        return []
    model = str(row.get("model_class") or "").rpartition(".")[2]
    ids = [str(name) for name in step.get("artifact_ids") or [step.get("artifact_id")] if name]
    named = {name: artifacts.facts(name)[0].rpartition(".")[2] for name in ids if name not in folds.values()}
    return [name for name, short in named.items() if short not in ("", model)]


def _kind(step: Mapping[str, Any], is_model: bool, config: Any, has_artifacts: bool) -> str:
    if is_model:
        return MODEL
    if step.get("operator_type") == _IN_THE_MODEL:
        return _IN_THE_MODEL
    words = {*_words(config), *_words(step.get("params")), str(step.get("operator_type") or "")}
    if TARGETS in words:
        return TARGETS
    for word in _OWN_WORDS:
        if word in words and has_artifacts:
            # A kind that a replay refuses by name: better no number than a wrong one.
            return f"{_THEIRS}{word}"
    if step.get("stateless") and not has_artifacts:
        # nirs4all passes over such steps when it replays: splitters, exclusions.
        return SPLITTER
    return "transform"


def _words(config: Any) -> tuple[str, ...]:
    return tuple(str(key) for key in config) if isinstance(config, Mapping) else ()


def _described(config: Any) -> tuple[str, dict[str, Any]]:
    """Class and parameters of a configured operator, wherever they stand in it."""
    if isinstance(config, str):
        return config, {}
    if isinstance(config, Mapping):
        if isinstance(config.get("class"), str):
            params = config.get("params")
            return config["class"], dict(params) if isinstance(params, Mapping) else {}
        for key in (MODEL, TARGETS, "split", "preprocessing"):
            if key in config:
                return _described(config[key])
    return "", {}


def _metadata(row: Mapping[str, Any], lost: Sequence[str]) -> dict[str, Any]:
    """Return what nirs4all knows of a chain otherwise, under its own name."""
    own: dict[str, Any] = {}
    for name, value in row.items():
        if name not in _ROW and value is not None:
            try:
                own[name] = json_value(value) if isinstance(value, str) and value[:1] in "[{" else value
            except Unusable:
                own[name] = str(value)
    if lost:
        own["lost_artifacts"] = list(lost)
    found: dict[str, Any] = {"nirs4all": own} if own else {}
    if row.get("task_type"):
        found["task_type"] = str(row["task_type"])
    return found
