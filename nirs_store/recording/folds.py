"""Fit one fold, predict with it, and write its fitted objects as blobs: the work of a worker."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from nirs_store.artifacts.types import ChainNode
from nirs_store.blobs.code import digest as code_digest
from nirs_store.chains.operators import plain_output
from nirs_store.chains.replay import mean, vote
from nirs_store.domain.build import FoldDomain, FoldWatch
from nirs_store.errors import InvalidInput, SerializationError, ShapeMismatch
from nirs_store.estimators import describe_estimator
from nirs_store.ids import content_hash, sha256_hex
from nirs_store.protocol import RecordingStore
from nirs_store.recording.groups import Companions
from nirs_store.recording.inputs import Data, Fold
from nirs_store.recording.steps import class_name, describe, json_safe, parameters, take_apart

# -- Transformers that an earlier pipeline fitted on the same samples: found by what went into them.


# The first step of a recorded chain is its splitter.
_FIRST = 2


class Reuse:
    """The transformers of one fold, as far as they can be known by their inputs."""

    # What goes into a transformer is the training samples with their targets, and every transformer up to it with its
    # parameters. One whose parameters cannot be put into words (a function of a notebook, a random generator) is always
    # fitted, and so is what comes after it.

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
        used = [job.companions.of(each, fold.train, model=False) for each in transformers]
        self._hashes = _input_hashes(transformers, spectra, np.asarray(target), used)
        wanted = [
            (path, digest)
            for path, digest in zip(self._paths, self._hashes, strict=True)
            if digest is not None
        ]
        self._found = {
            record.input_data_hash: record for record in store.artifacts.find_cached_artifacts(wanted)
        }

    def find(self, place: int) -> Any:
        """Return the fitted transformer of a place, or None."""
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
    transformers: Sequence[Any],
    spectra: NDArray[Any],
    target: NDArray[Any],
    used: Sequence[Mapping[str, NDArray[Any]]],
) -> list[str | None]:
    import sklearn

    data = content_hash(spectra, target)
    described: list[Any] = [sklearn.__version__]
    hashes: list[str | None] = []
    for transformer, options in zip(transformers, used, strict=True):
        try:
            described.append(describe_estimator(transformer))
        except SerializationError:
            break
        code = code_digest(transformer)
        if code is None:
            break
        described += [code] if code else []
        described += [[name, *map(str, values.tolist())] for name, values in options.items()]
        hashes.append(sha256_hex(json.dumps([data, described], sort_keys=True).encode()))
    return hashes + [None] * (len(transformers) - len(hashes))


FINAL = "final"
# From so many samples on, those that the folds leave out give the limit at any alpha that is asked for.
_FEW = 200


@dataclass(frozen=True, eq=False)
class Job:
    """What all folds have in common; travels to the workers."""

    estimator: Any
    data: Data
    pipeline_id: str
    artifact_format: str
    encoder: Any = None
    encoder_is_shared: bool = False
    reuse: bool = False
    companions: Companions = field(default_factory=Companions)
    keep: Literal["all", "refit", "nothing"] = "all"
    domain: Literal["no", "refit", "folds"] = "no"
    parent_pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one fitted fold says about one set of samples, in the unit or labels of y."""

    partition: str
    rows: NDArray[np.intp]
    y_true: NDArray[Any]
    y_pred: NDArray[Any]
    y_proba: NDArray[Any] | None


@dataclass(eq=False)
class FoldResult:
    """What a worker hands back: ids of blobs, predictions, and how long each step took."""

    key: str
    transformer_ids: list[str] = field(default_factory=list)
    reused: list[bool] = field(default_factory=list)
    encoder_id: str | None = None
    model_id: str = ""
    best_params: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    domain: FoldDomain | None = None


def fit_fold(store: RecordingStore, job: Job, fold: Fold) -> FoldResult:
    """Fit a fresh copy of the estimator on one fold's training rows and keep all that comes of it."""
    # Every step is fitted on the training rows alone. The blobs are on disk when this returns.
    # Fitted on frames because of this process's configuration, a chain would want frames everywhere.
    with plain_output():
        return _fit_fold(store, job, fold)


def _fit_fold(store: RecordingStore, job: Job, fold: Fold) -> FoldResult:
    result = FoldResult(fold.key)
    parts = take_apart(clone(job.estimator))
    # Rows are taken again for every use: an estimator with copy=False may overwrite what it gets.
    spectra, target = job.data.X[fold.train], job.data.y[fold.train]
    encoder = job.encoder
    with _timed(result, fold, job.encoder):
        if encoder is not None and not job.encoder_is_shared:
            encoder = clone(encoder).fit(_column(target))
        encoded = target if encoder is None else _encode(encoder, target, job.encoder_is_shared)
    transformers = list(parts.transformers)
    cache = Reuse(store, job, fold, transformers, spectra, encoded) if job.reuse else None
    for place, transformer in enumerate(transformers):
        with _timed(result, fold, transformer):
            found = None if cache is None else cache.find(place)
            result.reused.append(found is not None)
            options = job.companions.of(transformer, fold.train, model=False)
            if found is not None:
                transformers[place] = found
                spectra = found.transform(spectra)
            elif cache is None and hasattr(transformer, "fit_transform"):
                spectra = transformer.fit_transform(spectra, encoded, **options)
            else:
                # As one that was taken over does it: fit_transform may differ in the last bits.
                spectra = transformer.fit(spectra, encoded, **options).transform(spectra)
    with _timed(result, fold, parts.model):
        parts.model.fit(spectra, encoded, **job.companions.of(parts.model, fold.train, model=True))
    keep_space = job.domain == "folds" or fold.key == FINAL
    watch = None
    if job.domain != "no":
        few = fold.train.size < _FEW
        watch = FoldWatch(parts.model, transformers, keep_space=keep_space, formulas=few)
    for partition, rows, X, y in _partitions(job.data, fold):
        within = X
        for transformer in transformers:
            within, X = X, transformer.transform(X)
        if watch is not None:
            # Before the model gets them: one with copy=False may overwrite what it predicts.
            watch.see(partition, within if watch.before else X)
        result.predictions[partition] = predict(parts.model, encoder, job, fold.key, partition, rows, X, y)
    result.domain = None if watch is None else watch.found
    result.best_params = json_safe(getattr(parts.model, "best_params_", {}))
    if job.keep == "all" or (job.keep == "refit" and fold.key == FINAL):
        _save(store, job, result, transformers, parts.model, encoder)
    if cache is not None:
        cache.remember(transformers, result.transformer_ids)
        if os.getpid() != job.parent_pid:
            store.flush()
    return result


def align_probabilities(
    proba: NDArray[Any], own: Sequence[Any] | NDArray[Any], classes: Sequence[Any] | NDArray[Any]
) -> NDArray[Any]:
    """Put the columns of one model's probabilities into a common order of classes."""
    place = {label: index for index, label in enumerate(np.asarray(classes).tolist())}
    labels = np.asarray(own).tolist()
    if proba.ndim != 2 or proba.shape[1] != len(labels):
        raise ShapeMismatch(f"Probabilities of {len(labels)} classes have the shape {proba.shape}.")
    missing = [label for label in labels if label not in place]
    if missing:
        raise InvalidInput(f"The model knows the classes {missing}, which are not among {list(place)}.")
    aligned = np.zeros((proba.shape[0], len(place)), dtype=proba.dtype)
    aligned[:, [place[label] for label in labels]] = proba
    return aligned


def average_folds(predictions: Sequence[Prediction], classes: NDArray[Any] | None) -> Prediction:
    """Join what several folds say about the same samples, as replaying them would."""
    # Numbers are averaged; labels follow the averaged probabilities, or the majority (the first class in order where
    # votes are equal) when a model gives none.
    first = predictions[0]
    guesses = [each.y_pred for each in predictions]
    tables = [each.y_proba for each in predictions if each.y_proba is not None]
    proba = None
    if classes is None:
        predicted = mean(guesses, None)
    elif len(tables) == len(predictions):
        proba = mean(tables, None)
        predicted = classes[proba.argmax(axis=1)]
    else:
        predicted = vote(guesses, None)
    return Prediction(first.partition, first.rows, first.y_true, predicted, proba)


def _partitions(data: Data, fold: Fold) -> Iterator[tuple[str, NDArray[np.intp], NDArray[Any], NDArray[Any]]]:
    yield "train", fold.train, data.X[fold.train], data.y[fold.train]
    if fold.val is not None:
        yield "val", fold.val, data.X[fold.val], data.y[fold.val]
    if data.X_test is not None and data.y_test is not None:
        yield "test", np.arange(data.X_test.shape[0]), data.X_test.copy(), data.y_test


def predict(
    model: Any,
    encoder: Any,
    job: Job,
    fold: str,
    partition: str,
    rows: NDArray[np.intp],
    X: Any,
    y: NDArray[Any],
) -> Prediction:
    """Predict with a fitted model what its transformers made of some samples; refuse NaN and infinity."""
    predicted = np.asarray(model.predict(X))
    if encoder is not None:
        predicted = _decode(encoder, predicted, job.encoder_is_shared)
    proba = None
    if job.data.classes is not None and hasattr(model, "predict_proba"):
        own = model.classes_ if encoder is None else encoder.inverse_transform(model.classes_)
        proba = align_probabilities(np.asarray(model.predict_proba(X)), own, job.data.classes)
    found = Prediction(partition, rows, y, predicted, proba)
    _refuse_nan(found, fold, model)
    return found


def _refuse_nan(found: Prediction, fold: str, model: Any) -> None:
    for values in (found.y_pred, found.y_proba):
        if values is None or values.dtype.kind not in "fc" or np.isfinite(values).all():
            continue
        bad = found.rows[~np.isfinite(values).reshape(len(values), -1).all(axis=1)]
        raise InvalidInput(
            f"{describe(model)} predicts NaN or infinity for {bad.size} of {found.rows.size} {found.partition} samples "
            f"of {fold} (first: row {bad[0]}). Spectra and targets are in order, so look at the model: at a function "
            "that is undone outside its domain, such as a logarithm, or at a fit that did not converge."
        )


def _save(
    store: RecordingStore, job: Job, result: FoldResult, transformers: Sequence[Any], model: Any, encoder: Any
) -> None:
    def save(fitted: Any, artifact_type: str) -> str:
        return store.save_artifact(
            fitted, class_name(fitted), artifact_type, job.artifact_format, pipeline_id=job.pipeline_id
        )

    result.transformer_ids = [save(each, "transformer") for each in transformers]
    if encoder is not None and not job.encoder_is_shared:
        result.encoder_id = save(encoder, "encoder")
    result.model_id = save(model, "model")
    if os.getpid() != job.parent_pid:
        # In a worker no other process would commit the rows of these blobs before their ids are used.
        store.flush()


@contextmanager
def _timed(result: FoldResult, fold: Fold, step: Any) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        if "only supported for dataframes" in str(error):
            raise InvalidInput(
                f"{describe(step)} picks columns by name, which only the first steps of a pipeline can, or those after "
                "a step with set_output. Pick them by position."
            ) from error
        error.add_note(f"while fitting {describe(step)} in {fold.key} ({fold.train.size} samples)")
        raise
    result.seconds.append(time.perf_counter() - began)


def _column(target: NDArray[Any]) -> NDArray[Any]:
    return target[:, None] if target.ndim == 1 else target


def _encode(encoder: Any, target: NDArray[Any], labels: bool) -> NDArray[Any]:
    if labels:
        return np.asarray(encoder.transform(target))
    encoded = np.asarray(encoder.transform(_column(target)))
    return encoded[:, 0] if target.ndim == 1 else encoded


def _decode(encoder: Any, predicted: NDArray[Any], labels: bool) -> NDArray[Any]:
    if labels:
        return np.asarray(encoder.inverse_transform(predicted))
    decoded = np.asarray(encoder.inverse_transform(_column(predicted)))
    return decoded.ravel() if predicted.ndim == 1 else decoded
