"""What a training did: an execution trace, its steps, and the artifacts of each step.

The field names and the dict form are those that programs written for the .n4a format use, so a
``trace.json`` of a bundle reads as an `ExecutionTrace` and writes back the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nirs_store.chains.folds import fold_key, normalise_folds, normalise_weights, step_number
from nirs_store.errors import InvalidInput
from nirs_store.ids import new_id, utcnow

__all__ = ["ExecutionStep", "ExecutionTrace", "StepArtifacts"]

Shape = tuple[int, ...]


@dataclass
class StepArtifacts:
    """The artifacts that one step left behind, and where each belongs.

    Attributes
    ----------
    artifact_ids : list of str
        All of them, in the order in which they apply.
    primary_artifact_id : str or None
        The one that stands for the step, such as its model.
    fold_artifact_ids : dict
        Fold to artifact id, where each fold fitted an object of its own.
    primary_artifacts, by_chain : dict
        Text of an operator chain to artifact id.
    by_branch : dict
        Branch path, as a tuple of ints, to artifact ids.
    by_source : dict
        Index of a source to artifact ids.
    metadata : dict
        Anything else.
    """

    artifact_ids: list[str] = field(default_factory=list)
    primary_artifact_id: str | None = None
    fold_artifact_ids: dict[Any, str] = field(default_factory=dict)
    primary_artifacts: dict[str, str] = field(default_factory=dict)
    by_branch: dict[tuple[int, ...], list[str]] = field(default_factory=dict)
    by_source: dict[int, list[str]] = field(default_factory=dict)
    by_chain: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def add_artifact(
        self,
        artifact_id: str,
        is_primary: bool = False,
        chain_path: str | None = None,
        branch_path: list[int] | None = None,
        source_index: int | None = None,
    ) -> None:
        """Note an artifact, and the chain, branch and source it belongs to where they are given."""
        _append(self.artifact_ids, artifact_id)
        if is_primary:
            self.primary_artifact_id = artifact_id
        if chain_path:
            self.by_chain[chain_path] = artifact_id
            if is_primary:
                self.primary_artifacts[chain_path] = artifact_id
        if branch_path is not None:
            _append(self.by_branch.setdefault(tuple(branch_path), []), artifact_id)
        if source_index is not None:
            _append(self.by_source.setdefault(source_index, []), artifact_id)

    def add_fold_artifact(
        self,
        fold_id: int | str,
        artifact_id: str,
        chain_path: str | None = None,
        branch_path: list[int] | None = None,
    ) -> None:
        """Note the object that one fold (a number, or "final") fitted."""
        self.fold_artifact_ids[fold_key(fold_id)] = artifact_id
        self.add_artifact(artifact_id, chain_path=chain_path, branch_path=branch_path)

    def to_dict(self) -> dict[str, Any]:
        """Give a JSON-ready dict; branch paths become text such as "0.1", fold keys "fold_0"."""
        return {
            "artifact_ids": list(self.artifact_ids),
            "primary_artifact_id": self.primary_artifact_id,
            "fold_artifact_ids": normalise_folds(self.fold_artifact_ids, "fold_artifact_ids"),
            "primary_artifacts": dict(self.primary_artifacts),
            "by_branch": {".".join(map(str, path)): list(ids) for path, ids in self.by_branch.items()},
            "by_source": {str(source): list(ids) for source, ids in self.by_source.items()},
            "by_chain": dict(self.by_chain),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepArtifacts:
        """Read what `to_dict` wrote; unknown keys are ignored, missing ones get their default.

        Raises
        ------
        InvalidInput
            If a value has another shape than its field.
        """
        known = _known(cls, data, "artifacts")
        if "fold_artifact_ids" in known:
            known["fold_artifact_ids"] = normalise_folds(known["fold_artifact_ids"], "fold_artifact_ids")
        if "by_branch" in known:
            known["by_branch"] = {
                _branch(path): list(ids) for path, ids in _entries(known, "by_branch").items()
            }
        if "by_source" in known:
            known["by_source"] = {
                step_number(source, f"The key {source!r} of by_source"): list(ids)
                for source, ids in _entries(known, "by_source").items()
            }
        return cls(**known)


@dataclass
class ExecutionStep:
    """What happened at one step of a pipeline.

    Attributes
    ----------
    step_index : int
        Its place in the pipeline.
    operator_type : str
        "transform", "y_processing", "feature_augmentation", "splitter" or "model".
    operator_class : str
        Best the fully qualified class, such as "sklearn.preprocessing.StandardScaler".
    operator_config : dict
        The parameters it was made with.
    execution_mode : str
        "train", "predict", or "skip" for a step that did nothing.
    artifacts : StepArtifacts
        What it left behind.
    branch_path : list of int
        The branch it ran in; empty before any branching.
    duration_ms : float
        Milliseconds.
    substep_index : int or None
        Its place among several operators of one step.
    input_shape, output_shape : tuple of int or None
        Samples and channels before and after the step.
    """

    step_index: int
    operator_type: str = ""
    operator_class: str = ""
    operator_config: dict[str, Any] = field(default_factory=dict)
    execution_mode: str = "train"
    artifacts: StepArtifacts = field(default_factory=StepArtifacts)
    branch_path: list[int] = field(default_factory=list)
    branch_name: str = ""
    duration_ms: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    input_chain_path: str = ""
    output_chain_paths: list[str] = field(default_factory=list)
    source_count: int = 1
    produces_branches: bool = False
    substep_index: int | None = None
    input_shape: Shape | None = None
    output_shape: Shape | None = None
    input_features_shape: list[Shape] | None = None
    output_features_shape: list[Shape] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give a JSON-ready dict."""
        data = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}
        data["artifacts"] = self.artifacts.to_dict()
        # An enumeration of strings prints as its member; its value is what belongs into JSON.
        data["execution_mode"] = str(getattr(self.execution_mode, "value", self.execution_mode))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExecutionStep:
        """Read what `to_dict` wrote; unknown keys are ignored, missing ones get their default.

        Raises
        ------
        InvalidInput
            If ``step_index`` is missing or no whole number, or a value has another shape than its field.
        """
        known = _known(cls, data, "a step of the trace")
        if "step_index" not in known:
            raise InvalidInput(f"A step of a trace needs 'step_index'; found only {sorted(data)}.")
        known["step_index"] = step_number(known["step_index"], "step_index")
        if "artifacts" in known:
            known["artifacts"] = StepArtifacts.from_dict(known["artifacts"])
        for name in ("input_shape", "output_shape"):
            if name in known:
                known[name] = tuple(known[name])
        for name in ("input_features_shape", "output_features_shape"):
            if name in known:
                known[name] = [tuple(shape) for shape in known[name]]
        return cls(**known)


@dataclass
class ExecutionTrace:
    """The path of one training through its pipeline.

    Attributes
    ----------
    trace_id, pipeline_uid : str
        Names of the trace and of the pipeline it belongs to.
    created_at : str
        ISO 8601, UTC.
    steps : list of ExecutionStep
        In the order in which they ran.
    model_step_index : int or None
        The ``step_index`` of the model that the trace is about.
    fold_weights : dict or None
        Fold to its weight in the ensemble; None for a plain mean.
    preprocessing_chain : str
        Short text for people, such as "SNV > SavitzkyGolay".
    metadata : dict
        Anything else.

    Examples
    --------
    >>> trace = ExecutionTrace(trace_id="t1", created_at="2026-01-01T00:00:00+00:00")
    >>> trace.add_step(ExecutionStep(1, "transform", "sklearn.preprocessing.StandardScaler"))
    >>> ExecutionTrace.from_dict(trace.to_dict()) == trace
    True
    """

    trace_id: str = field(default_factory=new_id)
    pipeline_uid: str = ""
    created_at: str = field(default_factory=lambda: utcnow().isoformat())
    steps: list[ExecutionStep] = field(default_factory=list)
    model_step_index: int | None = None
    fold_weights: dict[Any, float] | None = None
    preprocessing_chain: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def add_step(self, step: ExecutionStep) -> None:
        """Append a step."""
        self.steps.append(step)

    def get_step(self, step_index: int) -> ExecutionStep | None:
        """Find the first step of that index."""
        return next((step for step in self.steps if step.step_index == step_index), None)

    def set_model_step(self, step_index: int, fold_weights: dict[Any, float] | None = None) -> None:
        """Say which step is the model, and how its folds are weighted."""
        self.model_step_index = step_index
        self.fold_weights = fold_weights

    def to_dict(self) -> dict[str, Any]:
        """Give a JSON-ready dict, the content of a bundle's ``trace.json``."""
        data = {item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name != "steps"}
        data["steps"] = [step.to_dict() for step in self.steps]
        data["fold_weights"] = normalise_weights(self.fold_weights)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExecutionTrace:
        """Read what `to_dict` wrote; unknown keys are ignored, missing ones get their default.

        Raises
        ------
        InvalidInput
            If a value has another shape than its field.
        """
        known = _known(cls, data, "trace")
        steps = known.get("steps", [])
        if not isinstance(steps, list | tuple):
            raise InvalidInput(f"The 'steps' of a trace must be a list, found {type(steps).__name__}.")
        known["steps"] = [ExecutionStep.from_dict(step) for step in steps]
        if "model_step_index" in known:
            known["model_step_index"] = step_number(known["model_step_index"], "model_step_index")
        known["fold_weights"] = normalise_weights(known.get("fold_weights"))
        return cls(**known)


def _known(cls: type[Any], data: Mapping[str, Any], what: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise InvalidInput(f"Expected {what} as a dict, found {type(data).__name__}.")
    names = {item.name for item in fields(cls)}
    # None stands for "not said": the field's own default is then right, whatever its type.
    return {key: _plain(value) for key, value in data.items() if key in names and value is not None}


def _entries(known: Mapping[str, Any], name: str) -> Mapping[Any, Any]:
    entries = known[name]
    if not isinstance(entries, Mapping):
        raise InvalidInput(f"{name} must be a dict, found {type(entries).__name__}.")
    return entries


def _branch(path: object) -> tuple[int, ...]:
    if isinstance(path, str):
        path = path.split(".") if path else ()
    if not isinstance(path, list | tuple):
        raise InvalidInput(f"A branch path is a list of numbers or text such as '0.1', found {path!r}.")
    return tuple(step_number(item, f"Each part of the branch path {path!r}") for item in path)


def _plain(value: Any) -> Any:
    """Copy containers, so that a dict and what was made from it share nothing; tuples become lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _append(ids: list[str], artifact_id: str) -> None:
    if artifact_id not in ids:
        ids.append(artifact_id)
