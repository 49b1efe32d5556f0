"""What is recorded into the model of a store: chains, predictions, logs, artifacts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.blobs.serializers import get_serializer
from nirs_store.errors import ArtifactMissing, InvalidInput, ShapeMismatch, StoreClosed, UnknownId
from nirs_store.ids import new_id, sha256_hex
from tests.model.queries import ModelQueries
from tests.model.state import Reference, Row, State, named_artifacts, strict_json

__all__ = ["ModelRecords"]


class ModelRecords(ModelQueries):
    """Recording half of `tests.model.ModelStore`."""

    _state: State
    _clock: Callable[[], datetime]
    _order: itertools.count[int]
    _session: str
    _closed: bool

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
        fold_weights: dict[str, float] | None = None,
        wavelengths: Any = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Save a chain; it takes over one of this session's references to each artifact, or adds one."""
        self._accepting(pipeline_id)
        named = named_artifacts(steps, fold_artifacts, shared_artifacts)
        for artifact_id in named:
            if artifact_id not in self._state.artifacts:
                raise ArtifactMissing("artifact", artifact_id, "Save it before the chain that names it.")
        row = {
            "chain_id": self._new_id(),
            "pipeline_id": pipeline_id,
            "steps": strict_json(steps),
            "model_step_idx": model_step_idx,
            "model_class": model_class,
            "preprocessings": preprocessings,
            "fold_strategy": fold_strategy,
            "fold_artifacts": strict_json(fold_artifacts),
            "shared_artifacts": strict_json(shared_artifacts),
            "branch_path": branch_path,
            "source_index": source_index,
            "fold_weights": fold_weights,
            "wavelengths": None if wavelengths is None else np.array(wavelengths, dtype=np.float64),
            "metadata": strict_json(metadata or {}),
            **{name: (metadata or {}).get(name) or None for name in ("target", "target_unit")},
        }
        self._state.chains[row["chain_id"]] = self._stamped(row)
        for artifact_id in named:
            self._take_over(artifact_id)
            self._state.references.append(Reference(artifact_id, "chain", row["chain_id"], pipeline_id))
        return str(row["chain_id"])

    def save_prediction(
        self,
        pipeline_id: str,
        chain_id: str | None,
        dataset_name: str,
        model_name: str,
        model_class: str,
        fold_id: str,
        partition: str,
        val_score: float | None,
        test_score: float | None,
        train_score: float | None,
        metric: str,
        task_type: str,
        n_samples: int,
        n_features: int,
        scores: dict[str, Any] | None,
        best_params: dict[str, Any] | None,
        branch_id: int | None,
        branch_name: str | None,
        exclusion_count: int,
        exclusion_rate: float,
        preprocessings: str = "",
        prediction_id: str | None = None,
    ) -> str:
        """Save the row of a prediction; equal rows are all kept."""
        given = {name: value for name, value in locals().items() if name != "self"}
        self._accepting(pipeline_id)
        if chain_id is not None:
            self._known("chain", chain_id)
        given["prediction_id"] = key = prediction_id or self._new_id()
        if key in self._state.predictions:
            raise InvalidInput(f"A prediction has the id {key!r} already; leave prediction_id out.")
        given.update(scores=strict_json(scores or {}), best_params=strict_json(best_params or {}))
        self._state.predictions[key] = self._stamped(given)
        return key

    def save_prediction_arrays(
        self,
        prediction_id: str,
        y_true: NDArray[Any] | None,
        y_pred: NDArray[Any] | None,
        y_proba: NDArray[Any] | None = None,
        sample_indices: NDArray[Any] | None = None,
        weights: NDArray[Any] | None = None,
    ) -> None:
        """Keep copies of a prediction's arrays; a second call for it is an error."""
        self._known("prediction", prediction_id)
        if prediction_id in self._state.arrays:
            raise InvalidInput(f"The prediction {prediction_id!r} has its arrays already.")
        given = {"y_true": y_true, "y_pred": y_pred, "y_proba": y_proba}
        given |= {"sample_indices": sample_indices, "weights": weights}
        arrays = {name: None if value is None else np.array(value) for name, value in given.items()}
        lengths = {value.shape[0] for value in arrays.values() if value is not None and value.ndim}
        if len(lengths) > 1:
            raise ShapeMismatch(f"The arrays of a prediction have one length; found {sorted(lengths)}.")
        self._state.arrays[prediction_id] = arrays

    def log_step(
        self,
        pipeline_id: str,
        step_idx: int,
        operator_class: str | None,
        event: str,
        duration_ms: int | None = None,
        message: str | None = None,
        details: dict[str, Any] | None = None,
        level: str = "info",
    ) -> None:
        """Add a log entry."""
        given = {name: value for name, value in locals().items() if name != "self"}
        self._known("pipeline", pipeline_id)
        self._state.logs.append(
            self._stamped(given | {"log_id": self._new_id(), "details": strict_json(details)})
        )

    def save_artifact(
        self,
        obj: Any,
        operator_class: str,
        artifact_type: str,
        format: str = "joblib",
        *,
        pipeline_id: str | None = None,
    ) -> str:
        """Keep an object by its bytes; this session holds one reference a save."""
        self._open()
        if pipeline_id is not None:
            self._accepting(pipeline_id)
        data = get_serializer(format).dumps(obj)
        artifact_id = sha256_hex(data)
        if artifact_id not in self._state.artifacts:
            self._state.artifacts[artifact_id] = self._stamped(
                {
                    "artifact_id": artifact_id,
                    "artifact_path": f"artifacts/{artifact_id[:2]}/{artifact_id}.{format}",
                    "content_hash": artifact_id,
                    "operator_class": operator_class,
                    "artifact_type": artifact_type,
                    "format": format,
                    "size_bytes": len(data),
                    "data": data,
                }
            )
        self._state.references.append(Reference(artifact_id, "session", self._session, pipeline_id))
        return artifact_id

    def read_artifact(self, artifact_id: str) -> bytes:
        """Give an artifact's bytes."""
        data: bytes = self._known("artifact", artifact_id)["data"]
        return data

    def load_artifact(self, artifact_id: str) -> Any:
        """Give a fresh copy of the object."""
        row = self._known("artifact", artifact_id)
        return get_serializer(row["format"]).loads(row["data"])

    def _open(self) -> State:
        if self._closed:
            raise StoreClosed
        return self._state

    def _known(self, kind: str, identifier: str) -> Row:
        rows: dict[str, Row] = getattr(self._open(), f"{kind}s")
        if identifier not in rows:
            raise UnknownId(kind, identifier)
        return rows[identifier]

    def _accepting(self, pipeline_id: str) -> None:
        if self._known("pipeline", pipeline_id)["status"] == "failed":
            raise InvalidInput(f"Pipeline {pipeline_id} has failed and takes no more rows.")

    def _take_over(self, artifact_id: str) -> None:
        held = [ref for ref in self._mine() if ref.artifact_id == artifact_id]
        if held:
            self._state.references.remove(held[0])

    def _new_id(self) -> str:
        return new_id()

    def _stamped(self, row: Row) -> Row:
        return row | {"created_at": self._clock(), "_order": next(self._order), "_session": self._session}

    def _mine(self) -> list[Reference]:
        return [ref for ref in self._state.references if ref.owner_id == self._session]

    def _reference_counts(self) -> Counter[str]:
        return Counter(ref.artifact_id for ref in self._state.references)
