"""From an execution trace to the chains that `save_chain` takes."""

from __future__ import annotations

from typing import Any

from nirs_store.chains.folds import (
    SOURCE_MAP,
    chain_artifact_ids,
    normalise_folds,
    normalise_weights,
    renamed,
)
from nirs_store.chains.kinds import AUGMENTATION, KINDS, MODEL, SPLITTER, STACKED, TRANSFORM, step_kind
from nirs_store.chains.trace import ExecutionStep, ExecutionTrace

__all__ = ["ChainBuilder"]

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
        """Give the chain of the trace's model step, else of the last model, else an empty chain.

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
        """Give one chain for each model step, in the order of the trace."""
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
