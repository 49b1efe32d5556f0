"""Record a pipeline that branches: what was fitted where, step by step, and a chain for each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.artifacts.types import ArtifactRecord, ChainNode
from nirs_store.chains.folds import SOURCE_MAP, fold_key
from nirs_store.chains.steps import AUGMENTATION, MERGE, MODEL, TARGETS, TRANSFORM
from nirs_store.errors import InvalidInput
from nirs_store.protocol import ReadsRuns, RecordingStore
from nirs_store.recording.steps import class_name, parameters, preprocessing_text
from nirs_store.values import one_of

_TYPES = {TRANSFORM: "transformer", AUGMENTATION: "transformer", TARGETS: "encoder"}


class BranchStore(RecordingStore, ReadsRuns, Protocol):
    """The part of a store that branches and stacks need."""

    @property
    def artifacts(self) -> ArtifactRegistry:
        """Fitted objects by their place in a pipeline."""

    def save_chain(
        self,
        pipeline_id: str,
        steps: list[dict[str, Any]],
        model_step_idx: int,
        model_class: str,
        preprocessings: str,
        fold_strategy: str,
        fold_artifacts: dict[str, Any],
        shared_artifacts: dict[str, Any],
        branch_path: list[int] | None = None,
        source_index: int | None = None,
        *,
        fold_weights: Mapping[str, float] | None = None,
        wavelengths: Any = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Save a chain at its place in the branches."""


class BranchRecorder:
    """Record the steps of one pipeline, in branches that may lie within branches.

    The recorder fits nothing: it takes fitted objects in the order in which they apply. Each is registered at
    its place (branch, source, fold), depends on those before it, and is named by the chain of every model that
    it leads to.

    Parameters
    ----------
    store : WorkspaceStore
    pipeline_id : str
        A pipeline under way.
    artifact_format : str
        Serializer of the objects.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.preprocessing import StandardScaler
    >>> from nirs_store import WorkspaceStore, load_tecator
    >>> meat = load_tecator()
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store, store.run("branches") as run:
    ...     with run.pipeline("scaled or not", dataset_name="tecator") as pipeline:
    ...         recorder = BranchRecorder(store, pipeline.pipeline_id)
    ...         chains = []
    ...         for number, step in enumerate([StandardScaler(), PCA(5)]):
    ...             with recorder.branch(number):
    ...                 Z = step.fit_transform(meat.X)
    ...                 _ = recorder.step(step)
    ...                 chains.append(recorder.model(PLSRegression(3).fit(Z, meat.fat)))
    ...     [store.get_chain(chain)["branch_path"] for chain in chains]
    [[0], [1]]
    >>> folder.cleanup()
    """

    def __init__(self, store: BranchStore, pipeline_id: str, *, artifact_format: str = "joblib") -> None:
        self._store = store
        self._pipeline_id = pipeline_id
        self._format = artifact_format
        self._registry: ArtifactRegistry = store.artifacts
        self._path: list[int] = []
        self._entered: set[tuple[int, ...]] = set()
        self._steps: list[dict[str, Any]] = []
        self._held: list[tuple[dict[str, Any], ArtifactRecord]] = []
        self._sources: dict[int, dict[str, list[str]]] = {}

    @property
    def branch_path(self) -> list[int]:
        """The branch under way; empty outside."""
        return list(self._path)

    @contextmanager
    def branch(self, index: int) -> Iterator[None]:
        """Record what follows in a branch of the present one.

        Parameters
        ----------
        index : int
            Its number among its siblings.
        """
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise InvalidInput(f"branch: expected a number from 0, found {index!r}.")
        self._path.append(index)
        self._entered.add(tuple(self._path))
        try:
            yield
        finally:
            self._path.pop()

    def step(
        self,
        fitted: Any,
        operator_type: str = TRANSFORM,
        *,
        params: Mapping[str, Any] | None = None,
        custom_name: str | None = None,
    ) -> list[ArtifactRecord]:
        """Record a fitted step.

        Parameters
        ----------
        fitted : object, or dict of int to object or list of objects
            A dict maps each source to the object fitted on it; an empty list passes a source on unchanged.
        operator_type : {"transform", "feature_augmentation", "y_processing"}
        params : mapping, optional
            Its parameters; those of the object by default.
        custom_name : str, optional

        Returns
        -------
        list of ArtifactRecord
            By source, in order.
        """
        one_of("operator_type", operator_type, _TYPES, "")
        by_source = _by_source(fitted)
        objects = [each for held in by_source.values() for each in held]
        first = objects[0] if objects else None
        if first is None:
            raise InvalidInput("A step needs at least one fitted object.")
        entry = self._entry(
            class_name(first), operator_type, parameters(first) if params is None else dict(params)
        )
        made = []
        for source, held in by_source.items():
            for number, each in enumerate(held):
                place = number if len(held) > 1 else None
                made.append(
                    self._register(each, entry, _TYPES[operator_type], source, place, None, custom_name)
                )
        ids = [record.blob_id for record in made]
        if set(by_source) == {None}:
            entry["artifact_ids"] = ids
        else:
            self._sources[entry["step_idx"]] = {
                str(source): [r.blob_id for r in made if r.source_index == source] for source in by_source
            }
        return made

    def merge(self, branches: Sequence[Sequence[int]] | None = None) -> None:
        """Record that the results of branches are put side by side (``np.hstack``).

        Parameters
        ----------
        branches : sequence of branch paths, optional
            Which, and in which order; by default all branches of the present one, by number. One in which no
            step was recorded passes its input on.

        Raises
        ------
        InvalidInput
            A branch that was never entered, or is merged already; or there is none.
        """
        unknown = [list(path) for path in branches or () if tuple(path) not in self._entered]
        if unknown:
            raise InvalidInput(f"merge: branches that were never entered, or are merged already: {unknown}.")
        level = tuple(self._path)
        inside = {path for path in self._entered if len(path) > len(level) and path[: len(level)] == level}
        if branches is None:
            branches = sorted({path[: len(level) + 1] for path in inside})
        if not branches:
            raise InvalidInput(
                "merge: expected branches of the present one, found none that was entered since the last merge. "
                "Record each in a `with recorder.branch(number):` first."
            )
        entry = self._entry("merge", MERGE, {})
        entry["stateless"] = True
        # Named even when they are all: nothing else tells of one in which no step was recorded.
        entry["branches"] = [list(path) for path in branches]
        self._entered -= inside

    def model(
        self,
        fitted: Any,
        *,
        params: Mapping[str, Any] | None = None,
        source_index: int | None = None,
        wavelengths: Any = None,
        fold_weights: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Record a fitted model, and the chain that leads to it.

        Parameters
        ----------
        fitted : object, or dict of fold to object
            Folds by number, ``"final"`` for a refit.
        source_index : int, optional
            The one source it was fitted on.

        Returns
        -------
        str
            The chain's id.
        """
        folds = dict(fitted) if isinstance(fitted, Mapping) else {"final": fitted}
        first = next(iter(folds.values()))
        entry = self._entry(class_name(first), MODEL, parameters(first) if params is None else dict(params))
        records = {
            fold_key(fold): self._register(model, entry, "model", source_index, None, fold, None)
            for fold, model in folds.items()
        }
        steps = [*self._leading_to(entry), entry]
        known = {step["step_idx"] for step in steps}
        sources = {str(index): held for index, held in self._sources.items() if index in known}
        return self._store.save_chain(
            self._pipeline_id,
            steps,
            entry["step_idx"],
            entry["operator_class"],
            " > ".join(str(step["operator_class"]).rpartition(".")[2] for step in steps[:-1])
            or preprocessing_text(()),
            "per_fold",
            {fold: record.blob_id for fold, record in records.items()},
            {SOURCE_MAP: sources} if sources else {},
            self.branch_path or None,
            source_index,
            fold_weights=fold_weights,
            wavelengths=wavelengths,
            metadata=dict(metadata or {}),
        )

    # -- inside --------------------------------------------------------------------------------------

    def _entry(self, name: str, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {
            # Counted over all branches, so that no two steps of a pipeline share a number.
            "step_idx": len(self._steps) + 1,
            "operator_class": name,
            "operator_type": kind,
            "params": params,
            "stateless": False,
        }
        if self._path:
            entry["branch_path"] = self.branch_path
        self._steps.append(entry)
        return entry

    def _leading_to(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        """Return steps on the way to one: those of its own branch and, before a merge, of the branches merged."""
        path = entry.get("branch_path", [])
        found: list[dict[str, Any]] = []
        for step in self._steps[: entry["step_idx"] - 1]:
            own = step.get("branch_path", [])
            if step["operator_type"] == MODEL:
                continue
            later = [
                each
                for each in self._steps[step["step_idx"] : entry["step_idx"] - 1]
                if each["operator_type"] == MERGE
                and (level := each.get("branch_path", [])) == path[: len(level)]
                and len(own) > len(level)
                and own[: len(level)] == level
            ]
            if later or own == path[: len(own)]:
                found.append(step)
        return found

    def _register(
        self,
        fitted: Any,
        entry: dict[str, Any],
        kind: str,
        source: int | None,
        substep: int | None,
        fold: Any,
        custom_name: str | None,
    ) -> ArtifactRecord:
        before = self._leading_to(entry)
        node = ChainNode(entry["step_idx"], entry["operator_class"], tuple(self._path), source, substep)
        chain = [
            ChainNode(step["step_idx"], step["operator_class"], tuple(step.get("branch_path", ())))
            for step in before
        ]
        on_the_way = {step["step_idx"] for step in before}
        needs = [
            record.artifact_id
            for step, record in self._held
            if step["step_idx"] in on_the_way and (source is None or record.source_index in (None, source))
        ]
        record = self._registry.register_with_chain(
            fitted,
            [*chain, node],
            kind,
            entry["step_idx"],
            fold_id=fold,
            depends_on=needs,
            params=entry["params"],
            format_hint=self._format,
            custom_name=custom_name,
            pipeline_id=self._pipeline_id,
        )
        self._held.append((entry, record))
        return record


def _by_source(fitted: Any) -> dict[int | None, list[Any]]:
    if not isinstance(fitted, Mapping):
        return {None: list(fitted) if isinstance(fitted, list | tuple) else [fitted]}
    return {
        int(source): list(held) if isinstance(held, list | tuple) else [held]
        for source, held in sorted(fitted.items())
    }
