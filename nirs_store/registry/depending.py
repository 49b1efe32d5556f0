"""What needs what: links between registered artifacts, and the graph that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nirs_store.catalog.artifact_records import (
    add_link,
    known_record,
)
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.registry.finding import FindingMethods
from nirs_store.registry.graph import MAX_DEPTH, DependencyGraph
from nirs_store.registry.ids import (
    parse_artifact_id,
)
from nirs_store.registry.types import ArtifactRecord
from nirs_store.registry.view import DEPENDS, read_records

__all__ = ["DependencyMethods", "check_branches"]


class DependencyMethods(FindingMethods):
    """The part of the registry that knows dependencies."""

    def add_dependency(self, artifact_id: str, depends_on: str) -> None:
        """Say that one registered artifact needs another.

        Raises
        ------
        UnknownId
            One of them is not registered.
        InvalidInput
            A cycle. Nothing was recorded.
        """
        record = self.resolve(artifact_id)
        if record is None or known_record(self._engine, artifact_id, ask=True) is None:
            raise UnknownId("registered artifact", artifact_id, "Nothing was recorded.")
        link = self._link(artifact_id, depends_on, DEPENDS, None)
        graph = self.dependency_graph(depends_on)
        graph.add_dependencies(artifact_id, [*record.depends_on, depends_on])
        if depends_on not in record.depends_on:
            add_link(self._engine, artifact_id, record.pipeline_id, len(record.depends_on), link)

    def get_dependencies(self, artifact_id: str) -> list[ArtifactRecord]:
        """Give the records of what an artifact needs itself, in order."""
        record = self._require(artifact_id)
        return [self._require(each) for each in record.depends_on]

    def resolve_dependencies(self, artifact_id: str, max_depth: int = MAX_DEPTH) -> list[ArtifactRecord]:
        """Give the records of all an artifact needs, itself left out, each after what it needs.

        Raises
        ------
        UnknownId
            An id that is not registered (any more).
        InvalidInput
            A cycle, or a depth above `max_depth`.
        """
        known: dict[str, ArtifactRecord] = {}
        graph = self.dependency_graph(artifact_id, known)
        return [known[each] for each in graph.resolve_dependencies(artifact_id, max_depth)]

    def get_dependents(self, artifact_id: str) -> list[ArtifactRecord]:
        """Give the records of the registry's scope that need an artifact themselves."""
        return [record for record in self.records() if artifact_id in record.depends_on]

    def dependency_graph(
        self, artifact_id: str, known: dict[str, ArtifactRecord] | None = None
    ) -> DependencyGraph:
        """Give the graph of all that an artifact needs; `known` collects the records."""
        graph, records = DependencyGraph(), {} if known is None else known
        waiting, pipelines = [artifact_id], set()
        while waiting:
            each = waiting.pop()
            if each not in records:
                pipeline = parse_artifact_id(each).pipeline_id
                if pipeline not in pipelines:
                    pipelines.add(pipeline)
                    loaded = read_records(self._engine, pipeline_id=pipeline)
                    records.update({record.artifact_id: record for record in loaded})
                if each not in records:
                    raise UnknownId("artifact", each, f"{artifact_id!r} needs it, or is it.")
            if not graph.get_dependencies(each):
                graph.add_dependencies(each, records[each].depends_on)
                waiting += records[each].depends_on
        return graph

    def _require(self, artifact_id: str) -> ArtifactRecord:
        record = self.resolve(artifact_id)
        if record is None:
            raise UnknownId("artifact", artifact_id)
        return record

    def _link(self, artifact_id: str, target: str, kind: str, place: int | None) -> dict[str, Any]:
        if target == artifact_id:
            raise InvalidInput(f"{artifact_id!r} cannot depend on itself. Nothing was recorded.")
        known = known_record(self._engine, target, ask=True)
        if known is None:
            record = self.resolve(target)
            if record is None:
                raise UnknownId("artifact", target, f"{artifact_id!r} depends on it. Nothing was recorded.")
            known = {"artifact_id": record.blob_id}
        return {
            "kind": kind,
            "target_id": target,
            "artifact_id": known["artifact_id"],
            "feature_index": place,
        }


def check_branches(artifact_id: str, branch: list[int], sources: Sequence[ArtifactRecord]) -> None:
    """Refuse sources of branches that a meta-model is not on; one that is on no branch takes all.

    Raises
    ------
    InvalidInput
    """
    strange = [s for s in sources if branch and s.branch_path != branch[: len(s.branch_path)]]
    if strange:
        raise InvalidInput(
            f"The meta-model {artifact_id!r} is on branch {branch}, its source {strange[0].artifact_id!r} on "
            f"{strange[0].branch_path}. Sources come from the same branch or from before it; a meta-model of "
            "several branches belongs to none."
        )
