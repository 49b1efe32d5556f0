"""What the model of a store holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from numpy.typing import NDArray

__all__ = ["Reference", "Row", "State", "named_artifacts", "strict_json"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """One reason to keep an artifact: a session's or a chain's."""

    artifact_id: str
    owner_kind: str
    owner_id: str
    pipeline_id: str | None


@dataclass
class State:
    """The tables of one workspace, by id."""

    runs: dict[str, Row] = field(default_factory=dict)
    pipelines: dict[str, Row] = field(default_factory=dict)
    chains: dict[str, Row] = field(default_factory=dict)
    predictions: dict[str, Row] = field(default_factory=dict)
    arrays: dict[str, dict[str, NDArray[Any] | None]] = field(default_factory=dict)
    artifacts: dict[str, Row] = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)
    sessions: dict[str, datetime | None] = field(default_factory=dict)
    logs: list[Row] = field(default_factory=list)

    def copy(self) -> State:
        """Give a state that changes by itself; values of rows are shared, because nobody alters them."""
        tables = {
            name: {key: dict(row) for key, row in getattr(self, name).items()}
            for name in ("runs", "pipelines", "chains", "predictions", "arrays", "artifacts")
        }
        return State(
            **tables,
            references=list(self.references),
            sessions=dict(self.sessions),
            logs=[dict(row) for row in self.logs],
        )


def named_artifacts(
    steps: list[dict[str, Any]], fold_artifacts: Mapping[str, Any], shared_artifacts: Mapping[str, Any]
) -> list[str]:
    """List every artifact that a chain names, each once, in the order of their first mention."""
    found: dict[str, None] = {}

    def visit(value: Any) -> None:
        if isinstance(value, str):
            found[value] = None
        elif isinstance(value, Mapping):
            for item in value.values():
                visit(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)

    for step in steps:
        for key in ("artifact_id", "artifact_ids", "fold_artifact_ids"):
            visit(step.get(key))
    visit(fold_artifacts)
    visit(shared_artifacts)
    return list(found)


def strict_json(value: Any) -> Any:
    """Pass a value through strict JSON: tuples become lists, keys text, NaN and infinities null."""
    return json.loads(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
