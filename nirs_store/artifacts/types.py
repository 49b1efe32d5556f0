"""What the artifact layer says of a fitted object: values without any I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from nirs_store.chains.folds import (
    REFIT,
    fold_key,
    fold_number,
    normalise_folds,
    shared_ids,
    source_map,
    step_fold_ids,
    step_ids,
)
from nirs_store.chains.steps import MODEL, SPLITTER, STACKED, TARGETS, TRANSFORM, step_kind
from nirs_store.errors import InvalidInput
from nirs_store.ids import sha256_hex

# -- Chain paths and the ids that are made of them, both ways.


SHORT = 12
"""Digits of a hash that an id shows."""

_NODE = re.compile(r"s(\d+)\.([^\s>\[\]]+?)(?:\[([^\[\]]*)\])?")
_ID = re.compile(r"(.+)\$([0-9a-f]{12,64}):(all|final|\d+)", re.DOTALL)
_WANTED = "s<step>.<Class>[br=0.1,src=1,sub=2]"


@dataclass(frozen=True, slots=True)
class ChainNode:
    """One node of a chain path: an operator at its place."""

    step_index: int
    class_name: str
    branch_path: tuple[int, ...] = ()
    source_index: int | None = None
    substep_index: int | None = None

    def __post_init__(self) -> None:
        short = self.class_name.rpartition(".")[2]
        if not re.fullmatch(r"[^\s>\[\]]+", short) or self.step_index < 0:
            raise InvalidInput(
                f"A node of a chain path is a step of at least 0 and the name of a class; found "
                f"{self.step_index!r} and {self.class_name!r}."
            )
        object.__setattr__(self, "class_name", short)
        object.__setattr__(self, "branch_path", tuple(int(branch) for branch in self.branch_path))

    def __str__(self) -> str:
        marks = []
        if self.branch_path:
            marks.append("br=" + ".".join(map(str, self.branch_path)))
        if self.source_index is not None:
            marks.append(f"src={self.source_index}")
        if self.substep_index is not None:
            marks.append(f"sub={self.substep_index}")
        return f"s{self.step_index}.{self.class_name}" + (f"[{','.join(marks)}]" if marks else "")


def format_chain(nodes: str | ChainNode | Iterable[ChainNode | str]) -> str:
    """Write a chain path; one that is text already is checked and given back."""
    if isinstance(nodes, ChainNode):
        return str(nodes)
    parts = parse_chain(nodes) if isinstance(nodes, str) else nodes
    return ">".join(str(part) for part in parts)


def parse_chain(path: str) -> tuple[ChainNode, ...]:
    """Read a chain path."""
    if not isinstance(path, str):
        raise InvalidInput(f"A chain path is text such as {_WANTED}, found {type(path).__name__}.")
    return tuple(_node(part) for part in path.split(">")) if path else ()


def _node(part: str) -> ChainNode:
    found = _NODE.fullmatch(part)
    if found is None:
        raise InvalidInput(f"{part!r} is not a node of a chain path; expected {_WANTED}.")
    marks: dict[str, str] = {}
    for mark in (found[3] or "").split(",") if found[3] else ():
        name, _, value = mark.partition("=")
        digits = value.replace(".", "") if name == "br" else value
        if name not in ("br", "src", "sub") or name in marks or not digits.isdecimal():
            raise InvalidInput(f"{mark!r} in the chain path {part!r} is not understood; expected {_WANTED}.")
        marks[name] = value
    branch = tuple(int(item) for item in marks["br"].split(".")) if "br" in marks else ()
    source = int(marks["src"]) if "src" in marks else None
    sub = int(marks["sub"]) if "sub" in marks else None
    return ChainNode(int(found[1]), found[2], branch, source, sub)


def chain_hash(path: str, digits: int = SHORT) -> str:
    """Hash a chain path: the first digits of its SHA-256."""
    return sha256_hex(path.encode())[:digits]


@dataclass(frozen=True, slots=True)
class ParsedId:
    """What the id of an artifact says."""

    pipeline_id: str
    chain_hash: str
    fold_id: str | None


def normalise_fold(fold_id: object) -> str | None:
    """Spell a fold as ids do: "0" for ``0``, "0" and "fold_0", "final" for a refit, None for all."""
    if fold_id is None or fold_id == "all":
        return None
    name = fold_key(fold_id)
    return "final" if name == REFIT else str(fold_number(name))


def generate_artifact_id(
    pipeline_id: str, chain: str | Sequence[ChainNode], fold_id: object = None, *, digits: int = SHORT
) -> str:
    """Make the id of an artifact from its place."""
    if not pipeline_id:
        raise InvalidInput("pipeline_id: expected the id of a pipeline, found nothing.")
    fold = normalise_fold(fold_id)
    return f"{pipeline_id}${chain_hash(format_chain(chain), digits)}:{'all' if fold is None else fold}"


def parse_artifact_id(artifact_id: str) -> ParsedId:
    """Read an id."""
    found = _ID.fullmatch(artifact_id) if isinstance(artifact_id, str) else None
    if found is None:
        raise InvalidInput(
            f"{artifact_id!r} is not an id of the artifact layer; expected <pipeline>$<12 hexadecimal digits>:"
            "<fold, 'final' or 'all'>."
        )
    return ParsedId(found[1], found[2], normalise_fold(found[3]))


RECORD_VERSION = 3


class ArtifactType(StrEnum):
    """What an artifact is. Text of your own is taken wherever one of these is.

    Examples
    --------
    >>> ArtifactType.MODEL == "model", str(ArtifactType("meta_model"))
    (True, 'meta_model')
    """

    MODEL = "model"
    TRANSFORMER = "transformer"
    SPLITTER = "splitter"
    ENCODER = "encoder"
    META_MODEL = "meta_model"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class MetaModelConfig:
    """From which models a meta-model is fed, in which order.

    Attributes
    ----------
    source_models : list of dict
        ``{"artifact_id": …, "feature_index": …}``, one a column, in the order of the columns.
    feature_columns : list of str
        Their names.
    """

    source_models: list[dict[str, Any]] = field(default_factory=list)
    feature_columns: list[str] = field(default_factory=list)

    @property
    def source_ids(self) -> list[str]:
        """Ids of the sources by their column."""
        ordered = sorted(self.source_models, key=lambda source: int(source["feature_index"]))
        return [str(source["artifact_id"]) for source in ordered]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "source_models": [dict(source) for source in self.source_models],
            "feature_columns": list(self.feature_columns),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MetaModelConfig:
        """Read what `to_dict` wrote.

        Raises
        ------
        InvalidInput
            A source without its id or its place among the columns.
        """
        sources = []
        for source in data.get("source_models") or ():
            if not isinstance(source, Mapping) or not {"artifact_id", "feature_index"} <= source.keys():
                raise InvalidInput(
                    f"meta_config: a source model needs 'artifact_id' and 'feature_index', found {source!r}."
                )
            sources.append(dict(source))
        return cls(sources, [str(name) for name in data.get("feature_columns") or ()])


@dataclass(frozen=True)
class ArtifactRecord:
    """One fitted object: its content, and its place in a pipeline.

    Attributes
    ----------
    artifact_id : str
        ``<pipeline>$<hash of the chain path>:<fold>``.
    content_hash : str
        ``sha256:`` and the hash of the file.
    path : str
        The file below ``artifacts/``, as in ``ab/ab12….joblib``.
    chain_path : str
        The operators up to this one, as `parse_chain` reads them.
    source_index, substep_index : int or None
    pipeline_id : str
    branch_path : list of int
        Empty before any branching.
    step_index : int
    fold_id : str or None
        "0", "1", …, "final" for the refit; None for what all folds share.
    artifact_type, class_name : str
    custom_name : str
        A name of the user's; may be empty.
    depends_on : list of str
        Ids of what it needs, in order.
    format, format_version : str
        Serializer, and the version of the library whose objects it holds, where that is known.
    nirs4all_version : str
        Version of the program that recorded it; the name is that of the older records.
    size_bytes : int
    created_at : datetime or None
        UTC.
    params : dict
    meta_config : MetaModelConfig or None
        Of a meta-model.
    version : int
        Of this form.
    blob_id : str
        What `store.load_artifact` takes.
    input_data_hash, dataset_hash : str or None
        What it was fitted on, where that was said.
    """

    artifact_id: str
    content_hash: str
    path: str
    chain_path: str = ""
    source_index: int | None = None
    pipeline_id: str = ""
    branch_path: list[int] = field(default_factory=list)
    step_index: int = 0
    substep_index: int | None = None
    fold_id: str | None = None
    artifact_type: str = "model"
    class_name: str = ""
    custom_name: str = ""
    depends_on: list[str] = field(default_factory=list)
    format: str = "joblib"
    format_version: str = ""
    nirs4all_version: str = ""
    size_bytes: int = 0
    created_at: datetime | None = None
    params: dict[str, Any] = field(default_factory=dict)
    meta_config: MetaModelConfig | None = None
    version: int = RECORD_VERSION
    blob_id: str = ""
    input_data_hash: str | None = None
    dataset_hash: str | None = None

    def __post_init__(self) -> None:
        if not self.blob_id:
            object.__setattr__(self, "blob_id", self.content_hash.removeprefix("sha256:"))

    @property
    def short_hash(self) -> str:
        """The first digits of the content's hash."""
        return self.content_hash.removeprefix("sha256:")[:SHORT]

    @property
    def chain_hash(self) -> str:
        """The first digits of the chain path's hash."""
        return chain_hash(self.chain_path)

    @property
    def is_branch_specific(self) -> bool:
        """Whether it belongs to one branch."""
        return bool(self.branch_path)

    @property
    def is_fold_specific(self) -> bool:
        """Whether it belongs to one fold."""
        return self.fold_id is not None

    @property
    def is_source_specific(self) -> bool:
        """Whether it belongs to one source."""
        return self.source_index is not None

    @property
    def is_meta_model(self) -> bool:
        """Whether it predicts from the predictions of other models."""
        return self.artifact_type == ArtifactType.META_MODEL

    def get_branch_path_str(self) -> str:
        """Return the branch path as text: ``0.1``."""
        return ".".join(map(str, self.branch_path))

    def get_fold_str(self) -> str:
        """Return the fold as ids spell it: ``0``, ``final``, ``all``."""
        return "all" if self.fold_id is None else self.fold_id

    def matches_context(
        self,
        branch_path: Sequence[int] | None = None,
        source_index: int | None = None,
        fold_id: object = None,
    ) -> bool:
        """Tell whether it takes part in a context; what is None is not asked for.

        Steps before the branching, and those that all sources or folds share, take part in every one.
        """
        if branch_path is not None and list(branch_path)[: len(self.branch_path)] != self.branch_path:
            return False
        if source_index is not None and self.source_index not in (None, source_index):
            return False
        return fold_id is None or self.fold_id in (None, normalise_fold(fold_id))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; moments as ISO 8601."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        data["created_at"] = None if self.created_at is None else self.created_at.isoformat()
        data["meta_config"] = None if self.meta_config is None else self.meta_config.to_dict()
        for name in ("branch_path", "depends_on"):
            data[name] = list(data[name])
        return data | {"params": dict(self.params), "artifact_type": str(self.artifact_type)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ArtifactRecord:
        """Read what `to_dict` wrote; unknown keys are ignored.

        Raises
        ------
        InvalidInput
            Not a record, or one of another version.
        """
        known = {item.name: data[item.name] for item in fields(cls) if data.get(item.name) is not None}
        lacking = {"artifact_id", "content_hash", "path"} - known.keys()
        if lacking:
            raise InvalidInput(f"An artifact record needs {sorted(lacking)}; found only {sorted(data)}.")
        if known.get("version", RECORD_VERSION) != RECORD_VERSION:
            raise InvalidInput(
                f"An artifact record of version {known['version']!r} cannot be read; expected {RECORD_VERSION}."
            )
        if "fold_id" in known:
            known["fold_id"] = normalise_fold(known["fold_id"])
        if "created_at" in known and not isinstance(known["created_at"], datetime):
            known["created_at"] = datetime.fromisoformat(str(known["created_at"]))
        if "meta_config" in known and not isinstance(known["meta_config"], MetaModelConfig):
            known["meta_config"] = MetaModelConfig.from_dict(known["meta_config"])
        for name in ("branch_path", "depends_on"):
            known[name] = list(known.get(name, ()))
        return cls(**known)


# -- Records of artifacts that only a chain names: read from the chain, never stored.


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
    recorded: Iterable[ArtifactRecord] = (),
) -> list[ArtifactRecord]:
    """Read the records of what chains name."""
    covered = {
        (record.pipeline_id, record.blob_id, record.fold_id): record.artifact_id for record in recorded
    }
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
    """Whether the earlier one takes part in what the later one was fitted on."""
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
    recorded = str(file.get("artifact_type") or "")
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
        artifact_type=str(kind) if kind is not ArtifactType.TRANSFORMER or not recorded else recorded,
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
