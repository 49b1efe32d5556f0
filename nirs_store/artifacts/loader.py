"""`ArtifactLoader`: fitted objects by their place, loaded when they are asked for, each kept once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from nirs_store.artifacts import find
from nirs_store.artifacts.manifest import read_manifest
from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.artifacts.types import (
    ArtifactRecord,
    ArtifactType,
    ChainNode,
    format_chain,
    parse_artifact_id,
)
from nirs_store.artifacts.view import View
from nirs_store.blobs.cache import ByteLRU
from nirs_store.errors import BlobMissing, InvalidInput, UnknownId
from nirs_store.records import artifacts

# -- The cache of the loader under the names that older programs use.


DEFAULT_BYTES = 256 << 20


class LRUCache:
    """Keep the objects used last, bounded in entries and in bytes. A cached None counts as a miss."""

    def __init__(
        self,
        max_size: int | None = 100,
        max_bytes: int = DEFAULT_BYTES,
        cache: ByteLRU[str, Any] | None = None,
    ) -> None:
        self._cache = ByteLRU[str, Any](max_bytes, max_size) if cache is None else cache
        self.max_size = max_size if cache is None else None

    def get(self, key: str) -> Any:
        """Return a value, or None."""
        return self._cache.get(key)

    def put(self, key: str, value: Any, nbytes: int = 0) -> None:
        """Keep a value, counted as `nbytes`."""
        if value is not None:
            self._cache.put(key, value, nbytes)

    def contains(self, key: str) -> bool:
        """Tell whether a key is there; no hit and no miss."""
        return key in self._cache

    def remove(self, key: str) -> bool:
        """Forget a key; tell whether it was there."""
        return self._cache.remove(key)

    def clear(self) -> None:
        """Forget everything; hits and misses go on counting."""
        self._cache.clear()

    def size(self) -> int:
        """Entries now."""
        return len(self._cache)

    def resize(self, max_size: int | None, max_bytes: int | None = None) -> None:
        """Set new bounds; the least recently used objects go first."""
        bound = self._cache.stats().max_bytes if max_bytes is None else max_bytes
        self._cache.resize(bound, max_size)
        self.max_size = max_size

    def stats(self) -> dict[str, Any]:
        """Return size, max_size, bytes, max_bytes, hits, misses and hit_rate."""
        found = self._cache.stats()
        asked = found.hits + found.misses
        return {
            "size": found.entries,
            "max_size": self.max_size,
            "bytes": found.bytes,
            "max_bytes": found.max_bytes,
            "hits": found.hits,
            "misses": found.misses,
            "hit_rate": found.hits / asked if asked else 0.0,
        }


_LOG = logging.getLogger("nirs_store.artifacts")


class ArtifactLoader(View):
    """Load what the registry, or a chain, recorded. Nothing is loaded before it is asked for.

    Objects come out of a cache and are shared: do not change them. `store.load_artifact` gives one of its own.

    Parameters
    ----------
    workspace : WorkspaceStore, str or Path
    dataset : str
        Limits what lists find; empty for all.
    results_dir : str or Path, optional
        Taken for the sake of older callers; there is one place of artifacts, that of the workspace.
    cache_size : int, optional
        Objects to keep; None for any number.
    cache_bytes : int
        Sum of the sizes of their files.

    Examples
    --------
    >>> [type(fitted).__name__ for _, fitted in store.loader.load_for_step(2, fold_id=0)]
    ['StandardScaler']
    """

    def __init__(
        self,
        workspace: Any,
        dataset: str = "",
        results_dir: str | Path | None = None,
        cache_size: int | None = 100,
        *,
        pipeline_id: str = "",
        cache_bytes: int = DEFAULT_BYTES,
        cache: ByteLRU[str, Any] | None = None,
    ) -> None:
        super().__init__(workspace, dataset, pipeline_id)
        self.registry = ArtifactRegistry(self._engine, dataset, pipeline_id)
        self._cache = LRUCache(cache_size, cache_bytes, cache)
        self._records: dict[str, ArtifactRecord] = {}
        self._listed: list[ArtifactRecord] | None = None

    @classmethod
    def from_manifest(
        cls,
        manifest: Mapping[str, Any] | str | Path,
        results_dir: str | Path | None = None,
        *,
        workspace: Any,
        cache_size: int | None = 100,
    ) -> Self:
        """Make a loader of just what a manifest lists.

        Parameters
        ----------
        manifest : mapping, str or Path
            As `export_to_manifest` gives it, or its file.
        workspace : WorkspaceStore, str or Path
            Where the files are.

        Raises
        ------
        InvalidInput
            No manifest, or one of another schema version.
        """
        data, records, _ = read_manifest(manifest)
        loader = cls(workspace, str(data.get("dataset") or ""), results_dir, cache_size)
        loader._listed = records
        loader._records = {record.artifact_id: record for record in records}
        return loader

    # -- one -----------------------------------------------------------------------------------------

    def load_by_id(self, artifact_id: str) -> Any:
        """Load one object.

        Raises
        ------
        UnknownId (KeyError)
        BlobMissing (FileNotFoundError), BlobCorrupt
        """
        return self._load(self._record(artifact_id))

    def load_by_chain(self, chain: str | Sequence[ChainNode], fold_id: object = None) -> Any:
        """Load the object at a place.

        Raises
        ------
        UnknownId
        """
        found = find.at_place(self._all(), chain, fold_id)
        if found is None:
            raise UnknownId("artifact at the place", format_chain(chain))
        return self._load(found)

    def load_by_chain_prefix(self, chain: str | Sequence[ChainNode]) -> list[tuple[str, Any]]:
        """Load everything whose chain path begins with these operators: [(id, object)]."""
        return [(r.artifact_id, self._load(r)) for r in find.beginning_with(self._all(), chain)]

    def find_artifact_by_custom_name(
        self, custom_name: str, step_index: int | None = None, pipeline_id: str | None = None
    ) -> ArtifactRecord | None:
        """Return the newest record of a name, or None."""
        return find.named(self._all(pipeline_id), custom_name, step_index)

    # -- several -------------------------------------------------------------------------------------

    def load_for_step(
        self,
        step_index: int,
        branch_path: Sequence[int] | None = None,
        source_index: int | None = None,
        fold_id: object = None,
        pipeline_id: str | None = None,
        *,
        skip_missing: bool = False,
    ) -> list[tuple[str, Any]]:
        """Load what takes part in a step: [(id, object)] in the order in which they apply.

        Objects from before the branching, and those that all sources or folds share, take part in each.

        Parameters
        ----------
        skip_missing : bool
            Log a missing file and go on without it. A prediction without it is wrong, so the default raises.

        Raises
        ------
        BlobMissing, BlobCorrupt
        """
        loaded = []
        for record in find.taking_part(
            self._all(pipeline_id), step_index, branch_path, source_index, fold_id
        ):
            try:
                loaded.append((record.artifact_id, self._load(record)))
            except BlobMissing:
                if not skip_missing:
                    raise
                _LOG.warning(
                    "the file of %s is gone; step %d goes without it", record.artifact_id, step_index
                )
        return loaded

    def load_with_dependencies(self, artifact_id: str) -> dict[str, Any]:
        """Load an object and all it needs: by id, each after what it needs, itself last."""
        needs = self.registry.resolve_dependencies(artifact_id)
        return {r.artifact_id: self._load(r) for r in [*needs, self._record(artifact_id)]}

    def load_fold_models(
        self,
        step_index: int | None = None,
        branch_path: Sequence[int] | None = None,
        pipeline_id: str | None = None,
    ) -> list[tuple[int, Any]]:
        """Load the models of all folds: [(fold, model)] by number."""
        found = find.fold_models(self._all(pipeline_id), step_index, branch_path)
        return [(fold, self._load(record)) for fold, record in found]

    # -- meta-models ---------------------------------------------------------------------------------

    def load_meta_model_with_sources(
        self, artifact_id: str, validate_branch: bool = True
    ) -> tuple[Any, list[tuple[str, Any]], list[str]]:
        """Load a meta-model with its sources in the order of its columns.

        Returns
        -------
        model, sources, columns
            The model, [(id, source model)], and the names of the columns.

        Raises
        ------
        InvalidInput
            Not a meta-model, or one whose sources are of another branch.
        """
        record = self._record(artifact_id)
        config = record.meta_config
        if not record.is_meta_model or config is None:
            raise InvalidInput(f"{artifact_id!r} is a {record.artifact_type}, not a meta-model.")
        sources = [self._record(each) for each in config.source_ids]
        if validate_branch:
            find.check_branches(artifact_id, record.branch_path, sources)
        return (
            self._load(record),
            [(source.artifact_id, self._load(source)) for source in sources],
            list(config.feature_columns),
        )

    def load_meta_model_for_prediction(
        self, artifact_id: str, branch_path: Sequence[int] | None = None
    ) -> tuple[Any, list[Any], list[str]]:
        """Load a meta-model, its source models and its columns, for predicting on a branch.

        Raises
        ------
        InvalidInput
            As `load_meta_model_with_sources`; also where the meta-model is not of that branch.
        """
        record = self._record(artifact_id)
        if branch_path is not None and not record.matches_context(branch_path):
            raise InvalidInput(
                f"The meta-model {artifact_id!r} is on branch {record.branch_path}, not on {list(branch_path)}."
            )
        model, sources, columns = self.load_meta_model_with_sources(artifact_id)
        return model, [source for _, source in sources], columns

    # -- the cache -----------------------------------------------------------------------------------

    def preload_artifacts(
        self,
        artifact_ids: Sequence[str] | None = None,
        artifact_types: Sequence[ArtifactType | str] | None = None,
    ) -> int:
        """Load into the cache what will be needed; gives how many objects.

        Parameters
        ----------
        artifact_ids : sequence of str, optional
            All of the scope when None.
        artifact_types : sequence, optional
            Only these.
        """
        if artifact_ids is None:
            records = self._all()
        else:
            records = [self._record(each) for each in artifact_ids]
        wanted = None if artifact_types is None else {str(each) for each in artifact_types}
        chosen = [r for r in records if wanted is None or str(r.artifact_type) in wanted]
        for record in chosen:
            self._load(record)
        return len(chosen)

    def set_cache_size(self, max_size: int | None, max_bytes: int | None = None) -> None:
        """Set the bounds of the cache; what was not used for longest goes first."""
        self._cache.resize(max_size, max_bytes)

    def clear_cache(self) -> None:
        """Drop all cached objects and their places."""
        self._cache.clear()
        if self._listed is None:
            self._records.clear()

    def get_cache_info(self) -> dict[str, Any]:
        """Return figures of the cache, and the number of artifacts, in all and by type."""
        stats = self._cache.stats()
        records = self._all()
        return {"cached_count": stats.pop("size"), **stats} | {
            "total_artifacts": len(records),
            "artifacts_by_type": find.counted_by_type(records),
        }

    # -- inside --------------------------------------------------------------------------------------

    def _all(self, pipeline_id: str | None = None) -> list[ArtifactRecord]:
        if self._listed is not None:
            return [r for r in self._listed if pipeline_id in (None, r.pipeline_id)]
        records = self.registry.records(pipeline_id)
        self._records.update({record.artifact_id: record for record in records})
        return records

    def _record(self, artifact_id: str) -> ArtifactRecord:
        found = self._records.get(artifact_id)
        if found is None and self._listed is None:
            found = self.registry.resolve(artifact_id)
            if found is not None:
                # Who loads one fold's model wants the others next.
                pipeline_id = parse_artifact_id(artifact_id).pipeline_id
                self._records.update({r.artifact_id: r for r in self.registry.records(pipeline_id)})
                self._records[artifact_id] = found
        if found is None:
            raise UnknownId("artifact", artifact_id)
        return found

    def _load(self, record: ArtifactRecord) -> Any:
        self._engine.check_open()
        facts = {"content_hash": record.content_hash.removeprefix("sha256:"), "format": record.format}
        found = self._cache.get(artifacts.content_key(record.blob_id, facts))
        if found is None or not found.is_current:
            found, row = artifacts.load_held(self._engine, record.blob_id)
            self._cache.put(artifacts.content_key(record.blob_id, row), found, record.size_bytes)
        return found.value
