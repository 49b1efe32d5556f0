"""Finding artifacts by id, hash, place, name or inputs."""

from __future__ import annotations

from collections.abc import Sequence

from nirs_store.catalog.artifact_records import (
    fetch_records,
    forget_inputs,
)
from nirs_store.errors import InvalidInput
from nirs_store.registry.cleanup import CleanupMethods
from nirs_store.registry.ids import (
    SHORT,
    ChainNode,
    format_chain,
    normalise_fold,
    parse_chain,
)
from nirs_store.registry.types import ArtifactRecord, ArtifactType
from nirs_store.registry.view import find_record, read_records, record_of

__all__ = ["FindingMethods", "select"]


class FindingMethods(CleanupMethods):
    """The part of the registry that looks up."""

    def records(
        self, pipeline_id: str | None = None, *, run_id: str | None = None, chain_id: str | None = None
    ) -> list[ArtifactRecord]:
        """Give all records of the registry's scope, in the order of their making."""
        return read_records(
            self._engine,
            dataset=self.dataset,
            pipeline_id=pipeline_id or self.pipeline_id,
            run_id=run_id,
            chain_id=chain_id,
        )

    def resolve(self, artifact_id: str) -> ArtifactRecord | None:
        """Give the record of an id, or None."""
        return find_record(self._engine, artifact_id)

    def resolve_by_hash(self, content_hash: str) -> ArtifactRecord | None:
        """Give the oldest record of some content, or None.

        Parameters
        ----------
        content_hash : str
            With or without ``sha256:``; whole, or at least its first twelve digits.

        Raises
        ------
        InvalidInput
            Too few digits, or digits that begin the hash of more than one content.
        """
        digits = str(content_hash).removeprefix("sha256:").lower()
        if len(digits) < SHORT:
            raise InvalidInput(f"content_hash: expected at least {SHORT} digits, found {content_hash!r}.")
        found: dict[str, ArtifactRecord] = {}
        for record in self.records():
            full = record.content_hash.removeprefix("sha256:")
            if full.startswith(digits):
                found.setdefault(full, record)
        if len(found) > 1:
            raise InvalidInput(
                f"{content_hash!r} begins the hashes of {len(found)} contents: {', '.join(sorted(found))}. "
                "Give more digits."
            )
        return next(iter(found.values()), None)

    def get_by_chain(
        self, chain: str | Sequence[ChainNode], fold_id: object = None, pipeline_id: str | None = None
    ) -> ArtifactRecord | None:
        """Give the record at a place, or None; the newest where several pipelines have one."""
        path, fold = format_chain(chain), normalise_fold(fold_id)
        found = [r for r in self.records(pipeline_id) if r.chain_path == path and r.fold_id == fold]
        return found[-1] if found else None

    def get_chain_prefix(
        self, chain: str | Sequence[ChainNode], pipeline_id: str | None = None
    ) -> list[ArtifactRecord]:
        """Give the records whose chain path begins with these operators."""
        nodes = parse_chain(format_chain(chain))
        return [r for r in self.records(pipeline_id) if parse_chain(r.chain_path)[: len(nodes)] == nodes]

    def get_artifacts_for_step(
        self,
        step_index: int,
        branch_path: Sequence[int] | None = None,
        source_index: int | None = None,
        fold_id: object = None,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Give the records of a step that take part in a context."""
        return select(self.records(pipeline_id), step_index, branch_path, source_index, fold_id)

    def get_fold_models(
        self,
        step_index: int | None = None,
        branch_path: Sequence[int] | None = None,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Give the models of the folds by number; a refit is no fold."""
        models = (ArtifactType.MODEL, ArtifactType.META_MODEL)
        found = [
            record
            for record in self.records(pipeline_id)
            if record.fold_id is not None
            and record.fold_id.isdecimal()
            and record.artifact_type in models
            and step_index in (None, record.step_index)
            and (branch_path is None or record.branch_path == list(branch_path))
        ]
        return sorted(found, key=lambda record: int(record.fold_id or 0))

    def find_artifact_by_custom_name(
        self, custom_name: str, step_index: int | None = None, pipeline_id: str | None = None
    ) -> ArtifactRecord | None:
        """Give the newest record of a name, or None."""
        found = [
            record
            for record in self.records(pipeline_id)
            if record.custom_name == custom_name and step_index in (None, record.step_index)
        ]
        return found[-1] if found else None

    def find_cached_artifact(
        self, chain: str | Sequence[ChainNode], input_data_hash: str, *, dataset_hash: str | None = None
    ) -> ArtifactRecord | None:
        """Give an object that was fitted at this place, on this data, by an earlier pipeline; or None.

        Parameters
        ----------
        chain : str or sequence of ChainNode
            Operators with whatever else the result depends on; compared as text.
        input_data_hash : str
            Hash of what it was fitted on.
        dataset_hash : str, optional
            Only of this state of the data set.
        """
        found = self.find_cached_artifacts([(chain, input_data_hash)], dataset_hash=dataset_hash)
        return found[0] if found else None

    def find_cached_artifacts(
        self, wanted: Sequence[tuple[str | Sequence[ChainNode], str]], *, dataset_hash: str | None = None
    ) -> list[ArtifactRecord]:
        """Look for several objects at once, as `find_cached_artifact` does for one.

        Parameters
        ----------
        wanted : sequence of (chain, input_data_hash)

        Returns
        -------
        list of ArtifactRecord
            Of those that were found, in the order of `wanted`.
        """
        keys = [(format_chain(chain), digest) for chain, digest in wanted]
        rows = self._engine.query(
            lambda con: fetch_records(
                con,
                input_data_hashes=[digest for _, digest in keys],
                dataset_hash=dataset_hash,
                dataset_name=self.dataset or None,
            )
        )
        # The newest of each wins, if its file is there.
        newest = {
            (row["chain_path"], row["input_data_hash"]): row
            for row in rows
            if row["artifact_path"] and self._engine.blobs.exists(row["artifact_path"])
        }
        return [record_of(newest[key]) for key in keys if key in newest]

    def invalidate_cache(self, dataset: str | None = None) -> int:
        """Have nothing that was fitted on a data set be found by `find_cached_artifact` any more.

        Parameters
        ----------
        dataset : str, optional
            The registry's own by default. What was recorded stays, and replays as before.

        Returns
        -------
        int
            Records that were found until now.

        Raises
        ------
        InvalidInput
            No data set was named.
        """
        name = dataset or self.dataset
        if not name:
            raise InvalidInput("dataset: expected the name of a data set, found nothing.")
        return self._engine.change(lambda con: forget_inputs(con, name))


def select(
    records: Sequence[ArtifactRecord],
    step_index: int | None = None,
    branch_path: Sequence[int] | None = None,
    source_index: int | None = None,
    fold_id: object = None,
) -> list[ArtifactRecord]:
    """Give the records of a step that take part in a context, in the order in which they apply."""
    found = [
        record
        for record in records
        if step_index in (None, record.step_index)
        and record.matches_context(branch_path, source_index, fold_id)
    ]
    return sorted(
        found,
        key=lambda r: (r.step_index, r.branch_path, r.source_index or 0, r.substep_index or 0),
    )
