"""What a training did: an execution trace, its steps, and the artifacts of each step.

The field names and the dict form are those that programs written for the .n4a format use, so a
``trace.json`` of a bundle reads as an `ExecutionTrace` and writes back the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nirs_store.chains.folds import (
    SOURCE_MAP,
    chain_artifact_ids,
    fold_key,
    normalise_folds,
    normalise_weights,
    renamed,
    step_number,
)
from nirs_store.chains.steps import AUGMENTATION, KINDS, MODEL, SPLITTER, STACKED, TRANSFORM, step_kind
from nirs_store.errors import InvalidInput
from nirs_store.ids import new_id, utcnow

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
        """Add an artifact and, where given, its chain, branch and source."""
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
        """Add the object that one fold (a number, or "final") fitted."""
        self.fold_artifact_ids[fold_key(fold_id)] = artifact_id
        self.add_artifact(artifact_id, chain_path=chain_path, branch_path=branch_path)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; branch paths become text such as "0.1", fold keys "fold_0"."""
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
        """Return a JSON-ready dict."""
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
        """Set which step is the model, and how its folds are weighted."""
        self.model_step_index = step_index
        self.fold_weights = fold_weights

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict, the content of a bundle's ``trace.json``."""
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


# -- From an execution trace to the chains that `save_chain` takes.


_MODELS = (MODEL, STACKED)
_NOT_MODELS = tuple(kind for kind in KINDS if kind != MODEL)


class ChainBuilder:
    """Make chains from a trace, one for each model step.

    Parameters
    ----------
    trace : ExecutionTrace
        A finished trace.
    artifact_registry : object, optional
        Anything with ``resolve(artifact_id)`` that gives None or a record, such as ``store.artifacts``; the
        record's ``branch_path`` and ``class_name`` are used where the trace says nothing, and its ``blob_id``
        is what the chain names.

    Notes
    -----
    Skipped steps are dropped, and so are steps after the model, other models, and steps of
    branches other than the model's. An artifact is kept when it has no branch path or when its
    path is the beginning of the model's. A model that has no branch path, but branched steps
    before it, was fitted on merged branches; its chain keeps those steps, with their artifacts but
    not among the shared ones, so that a replay refuses it instead of giving numbers that look right.

    Examples
    --------
    >>> from nirs_store.chains.trace import StepArtifacts
    >>> trace = ExecutionTrace(model_step_index=2)
    >>> trace.add_step(ExecutionStep(1, "transform", "SNV", artifacts=StepArtifacts(["snv"])))
    >>> folds = StepArtifacts(fold_artifact_ids={"0": "pls_a", "1": "pls_b"})
    >>> trace.add_step(ExecutionStep(2, "model", "PLSRegression", artifacts=folds))
    >>> chain = ChainBuilder(trace).build()
    >>> chain["fold_artifacts"], chain["shared_artifacts"]
    ({'fold_0': 'pls_a', 'fold_1': 'pls_b'}, {'1': ['snv']})
    """

    def __init__(self, trace: ExecutionTrace, artifact_registry: Any = None) -> None:
        self._trace = trace
        self._resolve = getattr(artifact_registry, "resolve", None)

    def build(self) -> dict[str, Any]:
        """Return the chain of the trace's model step, else of the last model, else an empty chain.

        Returns
        -------
        dict
            The keyword arguments of ``save_chain`` but ``pipeline_id``; ``fold_weights`` only
            when the trace has them.
        """
        chains = self.build_all()
        if not chains:
            return _chain([], 0, "", "", {}, {}, None, None)
        wanted = self._trace.model_step_index
        return next((chain for chain in chains if chain["model_step_idx"] == wanted), chains[-1])

    def build_all(self) -> list[dict[str, Any]]:
        """Return one chain for each model step, in the order of the trace."""
        steps = [(step, self._kind(step)) for step in self._trace.steps if step.execution_mode != "skip"]
        models = [(step, kind) for step, kind in steps if kind in _MODELS]
        others = [(step, kind) for step, kind in steps if kind not in _MODELS]
        chains = [self._with_blobs(self._build(model, kind, others)) for model, kind in models]
        weights = normalise_weights(self._trace.fold_weights)
        # The weights were computed for the trace's model; the folds of another model are not theirs.
        wanted = self._trace.model_step_index
        for chain in chains:
            if weights and (chain["model_step_idx"] == wanted or (wanted is None and len(chains) == 1)):
                chain["fold_weights"] = dict(weights)
        return chains

    def _with_blobs(self, chain: dict[str, Any]) -> dict[str, Any]:
        """Name artifacts as the store does, where the trace has ids of the artifact layer."""
        named = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
        found = ((identifier, getattr(self._record(identifier), "blob_id", None)) for identifier in named)
        blobs = {identifier: blob for identifier, blob in found if isinstance(blob, str) and blob}
        return renamed(chain, blobs) if blobs else chain

    def _build(
        self, model: ExecutionStep, model_kind: str, others: list[tuple[ExecutionStep, str]]
    ) -> dict[str, Any]:
        path = self._path(model)
        steps: list[dict[str, Any]] = []
        shared: dict[str, Any] = {}
        sources: dict[str, dict[str, list[str]]] = {}
        for step, kind in others:
            own_path = self._path(step)
            on_path = own_path == path[: len(own_path)]
            if step.step_index > model.step_index or (path and not on_path):
                continue
            folds = normalise_folds(step.artifacts.fold_artifact_ids, "fold_artifact_ids")
            held = self._ids_on(step, path if on_path else own_path)
            ids = [artifact_id for artifact_id in held if artifact_id not in folds.values()]
            steps.append(self._step_dict(step, kind, ids, folds, own_path))
            if not ids or not on_path:
                continue
            key = str(step.step_index)
            shared.setdefault(key, []).extend(ids)
            if len(step.artifacts.by_source) > 1:
                sources[key] = {
                    str(source): [artifact_id for artifact_id in held if artifact_id in ids]
                    for source, held in sorted(step.artifacts.by_source.items())
                }
        if sources:
            shared[SOURCE_MAP] = sources

        fold_artifacts = normalise_folds(model.artifacts.fold_artifact_ids, "fold_artifact_ids")
        ids = _all_ids(model)
        steps.append(self._step_dict(model, model_kind, ids, {}, path))
        if ids and not fold_artifacts:
            shared[str(model.step_index)] = list(ids)
        source_index = model.metadata.get("source_index")
        return _chain(
            steps,
            model.step_index,
            steps[-1]["operator_class"],
            self._trace.preprocessing_chain,
            fold_artifacts,
            shared,
            list(path) or None,
            source_index if isinstance(source_index, int) else None,
        )

    def _kind(self, step: ExecutionStep) -> str:
        if step.step_index == self._trace.model_step_index and step.operator_type not in _NOT_MODELS:
            return step.operator_type if step.operator_type == STACKED else MODEL
        # Before steps said what they are, having a fitted object for each fold marked the model.
        if not step.operator_type and step.artifacts.fold_artifact_ids:
            return MODEL
        return step_kind(step.operator_type, step.operator_class, bool(_all_ids(step)))

    def _step_dict(
        self, step: ExecutionStep, kind: str, ids: list[str], folds: dict[str, str], path: tuple[int, ...]
    ) -> dict[str, Any]:
        operator_class = step.operator_class
        if not operator_class:
            found = (getattr(self._record(i), "class_name", None) for i in [*ids, *folds.values()])
            operator_class = next((name for name in found if isinstance(name, str)), "")
        can_do_without = kind in (TRANSFORM, AUGMENTATION, SPLITTER)
        left_something = bool(_all_ids(step) or folds)
        entry: dict[str, Any] = {
            "step_idx": step.step_index,
            "operator_class": operator_class,
            "operator_type": kind,
            "params": dict(step.operator_config or {}),
            "stateless": can_do_without and not left_something,
            "artifact_ids": list(ids),
        }
        if folds:
            entry["fold_artifact_ids"] = {fold: [artifact_id] for fold, artifact_id in folds.items()}
        if path:
            entry["branch_path"] = list(path)
        return entry

    def _path(self, step: ExecutionStep) -> tuple[int, ...]:
        if step.branch_path:
            return tuple(step.branch_path)
        held = step.artifacts
        ids = [*_all_ids(step), *held.fold_artifact_ids.values()]
        # A step that ran in several branches at once is sorted out artifact by artifact.
        paths = {_known_path(self._record(artifact_id)) for artifact_id in ids}
        return paths.pop() if len(paths) == 1 else ()

    def _ids_on(self, step: ExecutionStep, path: tuple[int, ...]) -> list[str]:
        """List the step's artifacts on the way to a branch, in their order."""
        branches: dict[str, list[tuple[int, ...]]] = {}
        for branch, ids in step.artifacts.by_branch.items():
            for artifact_id in ids:
                branches.setdefault(artifact_id, []).append(tuple(branch))
        kept = []
        for artifact_id in _all_ids(step):
            paths = branches.get(artifact_id) or [_known_path(self._record(artifact_id))]
            if any(branch == path[: len(branch)] for branch in paths):
                kept.append(artifact_id)
        return kept

    def _record(self, artifact_id: str) -> Any:
        return self._resolve(artifact_id) if callable(self._resolve) else None


def _all_ids(step: ExecutionStep) -> list[str]:
    held = step.artifacts
    return list(held.artifact_ids) or ([held.primary_artifact_id] if held.primary_artifact_id else [])


def _known_path(record: Any) -> tuple[int, ...]:
    path = getattr(record, "branch_path", None)
    return tuple(path) if isinstance(path, list | tuple) else ()


def _chain(
    steps: list[dict[str, Any]],
    model_step_idx: int,
    model_class: str,
    preprocessings: str,
    fold_artifacts: dict[str, str],
    shared_artifacts: dict[str, Any],
    branch_path: list[int] | None,
    source_index: int | None,
) -> dict[str, Any]:
    return {
        "steps": steps,
        "model_step_idx": model_step_idx,
        "model_class": model_class,
        "preprocessings": preprocessings or "",
        "fold_strategy": "per_fold" if fold_artifacts else "shared",
        "fold_artifacts": fold_artifacts,
        "shared_artifacts": shared_artifacts,
        "branch_path": branch_path,
        "source_index": source_index,
    }
