"""Records of artifacts that only a chain names: read from the chain, never stored.

So whatever was recorded through the store alone is found by the artifact layer as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nirs_store.chains.folds import normalise_folds, shared_ids, source_map, step_fold_ids, step_ids
from nirs_store.chains.kinds import MODEL, SPLITTER, STACKED, TARGETS, TRANSFORM, step_kind
from nirs_store.registry.ids import ChainNode, format_chain, generate_artifact_id, normalise_fold
from nirs_store.registry.types import ArtifactRecord, ArtifactType

__all__ = ["derive_records"]

_TYPES = {
    MODEL: ArtifactType.MODEL,
    STACKED: ArtifactType.META_MODEL,
    SPLITTER: ArtifactType.SPLITTER,
    TARGETS: ArtifactType.ENCODER,
}


@dataclass(frozen=True)
class _Found:
    """An artifact at its place in a chain."""

    blob_id: str
    node: ChainNode
    fold: str | None
    kind: str
    params: Mapping[str, Any]


def derive_records(
    chains: Iterable[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Any]],
    said: Iterable[ArtifactRecord] = (),
) -> list[ArtifactRecord]:
    """Read the records of what chains name.

    Parameters
    ----------
    chains : iterable of dict
        In the order of their making; ``steps``, ``fold_artifacts``, ``shared_artifacts`` and so on decoded.
    files : mapping
        Artifact to what the catalog knows of its file.
    said : iterable of ArtifactRecord
        Records that are stored: what they cover is not derived a second time.

    Returns
    -------
    list of ArtifactRecord
        Each place once, though several chains may share it.
    """
    covered = {(record.pipeline_id, record.blob_id, record.fold_id): record.artifact_id for record in said}
    taken = {identifier: key[1] for key, identifier in covered.items()}
    made: list[ArtifactRecord] = []
    for chain in chains:
        pipeline_id = str(chain["pipeline_id"])
        earlier: list[tuple[_Found, str]] = []
        nodes: list[ChainNode] = []
        for group in _places(chain):
            here: list[tuple[_Found, str]] = []
            for found in group:
                if not found.blob_id:  # a step without a fitted object only lengthens the path
                    continue
                key = (pipeline_id, found.blob_id, found.fold)
                if key not in covered and (pipeline_id, found.blob_id, None) in covered:
                    # Registered for no fold in particular, and named by the chain as its refit, say.
                    covered[key] = covered[(pipeline_id, found.blob_id, None)]
                needs = [identifier for other, identifier in earlier if _leads_to(other, found)]
                if key not in covered:
                    record = _record(chain, found, nodes, files.get(found.blob_id, {}), taken)
                    covered[key], taken[record.artifact_id] = record.artifact_id, found.blob_id
                    made.append(replace(record, depends_on=list(dict.fromkeys(needs))))
                here.append((found, covered[key]))
            earlier += here
            nodes.append(replace(group[0].node, source_index=None, substep_index=None))
    return made


def _leads_to(other: _Found, found: _Found) -> bool:
    """Whether what stands earlier takes part in what the later one was fitted on."""
    if other.kind == SPLITTER and found.fold in (None, "final"):
        return False  # fitted on all samples
    branch = other.node.branch_path
    return (
        found.node.branch_path[: len(branch)] == branch
        and (other.fold in (None, found.fold))
        and (found.node.source_index is None or other.node.source_index in (None, found.node.source_index))
    )


def _record(
    chain: Mapping[str, Any],
    found: _Found,
    nodes: list[ChainNode],
    file: Mapping[str, Any],
    taken: Mapping[str, str],
) -> ArtifactRecord:
    pipeline_id, node = str(chain["pipeline_id"]), found.node
    number = 0
    while True:
        path = format_chain([*nodes, node])
        identifier = generate_artifact_id(pipeline_id, path, found.fold)
        if taken.get(identifier, found.blob_id) == found.blob_id:
            break
        # Two chains of one pipeline with the same classes at the same steps, and other parameters.
        number += 1
        node = replace(node, substep_index=number)
    kind = _TYPES.get(found.kind, ArtifactType.TRANSFORMER)
    said = str(file.get("artifact_type") or "")
    return ArtifactRecord(
        artifact_id=identifier,
        content_hash=f"sha256:{file.get('content_hash') or found.blob_id}",
        path=str(file.get("artifact_path") or "").removeprefix("artifacts/"),
        chain_path=path,
        source_index=node.source_index,
        pipeline_id=pipeline_id,
        branch_path=list(node.branch_path),
        step_index=node.step_index,
        substep_index=node.substep_index,
        fold_id=found.fold,
        artifact_type=str(kind) if kind is not ArtifactType.TRANSFORMER or not said else said,
        class_name=str(file.get("operator_class") or node.class_name),
        format=str(file.get("format") or ""),
        size_bytes=int(file.get("size_bytes") or 0),
        created_at=chain.get("created_at"),
        params=dict(found.params),
        blob_id=found.blob_id,
        dataset_hash=chain.get("dataset_hash"),
    )


def _places(chain: Mapping[str, Any]) -> Iterator[list[_Found]]:
    """Go through the steps in order; each gives the artifacts at its place."""
    shared, sources = shared_ids(chain["shared_artifacts"]), source_map(chain["shared_artifacts"])
    models = normalise_folds(chain["fold_artifacts"], "fold_artifacts")
    model_index = int(chain["model_step_idx"])
    steps = sorted(enumerate(chain["steps"]), key=lambda item: (int(item[1]["step_idx"]), item[0]))
    for position, step in steps:
        where = f"steps[{position}]"
        index = int(step["step_idx"])
        name = str(step.get("operator_class") or "")
        own, by_fold = step_ids(step, where), step_fold_ids(step, where)
        kind = step_kind(step.get("operator_type"), name, bool(own or by_fold or index in shared))
        branch = tuple(
            step.get("branch_path") or (chain.get("branch_path") or () if index == model_index else ())
        )
        kind = MODEL if index == model_index and kind == TRANSFORM else kind
        node = ChainNode(index, name or kind, branch)
        params = step.get("params") or {}
        group: list[_Found] = []
        if index == model_index and models:
            for fold, value in models.items():
                blob_id = value[0] if isinstance(value, list | tuple) else value
                group.append(_Found(str(blob_id), node, normalise_fold(fold), kind, params))
        elif by_fold:
            for fold, ids in by_fold.items():
                group += _several(ids, node, normalise_fold(fold), kind, params)
        elif index in sources:
            for source, ids in sources[index].items():
                group += _several(ids, replace(node, source_index=source), None, kind, params)
        else:
            group += _several(own or shared.get(index, ()), node, None, kind, params)
        yield group or [_Found("", node, None, kind, params)]


def _several(
    ids: Iterable[str], node: ChainNode, fold: str | None, kind: str, params: Mapping[str, Any]
) -> list[_Found]:
    listed = list(ids)
    return [
        _Found(blob_id, replace(node, substep_index=number) if len(listed) > 1 else node, fold, kind, params)
        for number, blob_id in enumerate(listed)
    ]
