"""What the artifact layer says of a fitted object: values without any I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.registry.ids import SHORT, chain_hash, normalise_fold

__all__ = ["RECORD_VERSION", "ArtifactRecord", "ArtifactType", "MetaModelConfig"]

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
        """Give plain data."""
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
        """Give the branch path as text: ``0.1``."""
        return ".".join(map(str, self.branch_path))

    def get_fold_str(self) -> str:
        """Give the fold as ids spell it: ``0``, ``final``, ``all``."""
        return "all" if self.fold_id is None else self.fold_id

    def matches_context(
        self,
        branch_path: Sequence[int] | None = None,
        source_index: int | None = None,
        fold_id: object = None,
    ) -> bool:
        """Tell whether it takes part in a context; what is None is not asked for.

        What stands before the branching, and what all sources or folds share, takes part in every one.
        """
        if branch_path is not None and list(branch_path)[: len(self.branch_path)] != self.branch_path:
            return False
        if source_index is not None and self.source_index not in (None, source_index):
            return False
        return fold_id is None or self.fold_id in (None, normalise_fold(fold_id))

    def to_dict(self) -> dict[str, Any]:
        """Give plain data; moments as ISO 8601."""
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
