"""Transformers that an earlier pipeline fitted on the same samples: found by what went into them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import SerializationError
from nirs_store.estimators import describe_estimator
from nirs_store.ids import sha256_hex
from nirs_store.recording.inputs import content_hash
from nirs_store.recording.steps import class_name, parameters
from nirs_store.registry import ChainNode

if TYPE_CHECKING:  # folds imports this module
    from nirs_store.recording.folds import Job
    from nirs_store.recording.inputs import Fold

__all__ = ["Reuse"]

# The first step of a recorded chain is its splitter.
_FIRST = 2


class Reuse:
    """The transformers of one fold, as far as they can be known by their inputs.

    What goes into a transformer is the training samples with their targets, and every transformer up to it with
    its parameters. One whose parameters cannot be put into words (a function of a notebook, a random generator)
    is always fitted, and so is what comes after it.
    """

    def __init__(
        self,
        store: Any,
        job: Job,
        fold: Fold,
        transformers: Sequence[Any],
        spectra: NDArray[Any],
        target: NDArray[Any],
    ) -> None:
        self._store = store
        self._job = job
        self._fold = fold
        nodes = [ChainNode(_FIRST + place, class_name(each)) for place, each in enumerate(transformers)]
        self._paths = [nodes[: place + 1] for place in range(len(nodes))]
        self._params = [parameters(each) for each in transformers]
        self._hashes = _input_hashes(transformers, spectra, np.asarray(target))
        wanted = [
            (path, digest)
            for path, digest in zip(self._paths, self._hashes, strict=True)
            if digest is not None
        ]
        self._found = {
            record.input_data_hash: record for record in store.artifacts.find_cached_artifacts(wanted)
        }

    def find(self, place: int) -> Any:
        """Give the fitted transformer of a place, or None."""
        record = self._found.get(self._hashes[place])
        return None if record is None else self._store.load_artifact(record.blob_id)

    def remember(self, transformers: Sequence[Any], artifact_ids: Sequence[str]) -> None:
        """Say what went into the transformers of this fold."""
        for place, artifact_id in enumerate(artifact_ids):
            if self._hashes[place] is not None:
                self._store.artifacts.register_with_chain(
                    None,
                    self._paths[place],
                    "transformer",
                    _FIRST + place,
                    fold_id=self._fold.key,
                    params=self._params[place],
                    pipeline_id=self._job.pipeline_id,
                    input_data_hash=self._hashes[place],
                    blob_id=artifact_id,
                )


def _input_hashes(
    transformers: Sequence[Any], spectra: NDArray[Any], target: NDArray[Any]
) -> list[str | None]:
    import sklearn

    data = content_hash(spectra, target)
    described: list[Any] = [sklearn.__version__]
    hashes: list[str | None] = []
    for transformer in transformers:
        try:
            described.append(describe_estimator(transformer))
        except SerializationError:
            break
        hashes.append(sha256_hex(json.dumps([data, described], sort_keys=True).encode()))
    return hashes + [None] * (len(transformers) - len(hashes))
