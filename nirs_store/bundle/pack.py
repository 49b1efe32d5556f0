"""A chain packed for travel: the bytes of its objects by member name, and the chain that names them.

Both kinds of file that an export writes are made of this: the ``.n4a`` archive and the ``.n4a.py`` script.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from nirs_store.blobs.code import CODE, without_text
from nirs_store.blobs.serializers import get_serializer, normalise_skops
from nirs_store.bundle.container import clean
from nirs_store.bundle.manifest import Kind, Role
from nirs_store.bundle.payload import audit_payload, load_payload
from nirs_store.bundle.trust import list_pickle
from nirs_store.chains.folds import (
    REFIT,
    chain_artifact_ids,
    fold_number,
    normalise_folds,
    normalise_weights,
    renamed,
)
from nirs_store.chains.plan import (
    AUGMENTATION,
    MODEL,
    SPLITTER,
    TARGETS,
    TRANSFORM,
    Member,
    Operator,
    ReplayPlan,
    Stage,
    step_kind,
)
from nirs_store.chains.predictor import channels
from nirs_store.chains.replay import Workbench, predict, union
from nirs_store.domain import DOMAIN, domain_id
from nirs_store.errors import (
    ArtifactMissing,
    BlobCorrupt,
    BundleInvalid,
    InvalidInput,
    NirsStoreError,
    ReplayError,
    SerializationError,
    UnknownId,
)
from nirs_store.ids import sha256_hex

__all__ = [
    "Blobs",
    "ChainSource",
    "HashingSource",
    "Layout",
    "Made",
    "Package",
    "Packing",
    "Payload",
    "Step",
    "as_it_is",
    "augmented",
    "average_probabilities",
    "count_votes",
    "in_sequence",
    "lay_out",
    "made_up_spectra",
    "pack_chain",
    "pack_nested",
    "pack_safely",
    "predicts_the_same",
    "skops_payload",
    "undo_targets",
]


# -- What an export needs of a store: a few look-ups, so that this room knows no catalog.


@runtime_checkable
class ChainSource(Protocol):
    """An object that can name chains and return the bytes of their artifacts.

    `WorkspaceStore` is one; a test may be a dict with three methods.
    """

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """Give a stored chain, or None when there is none of that id."""
        ...

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """Give the record of an artifact (at least its ``format`` and ``operator_class``), or None."""
        ...

    def read_artifact(self, artifact_id: str) -> bytes:
        """Give the stored bytes of an artifact after their hash was verified."""
        ...


@runtime_checkable
class HashingSource(ChainSource, Protocol):
    """One that says which hash it has found the bytes to have, so that nobody needs to hash them again."""

    def read_hashed(self, artifact_id: str) -> tuple[bytes, str]:
        """Give the bytes as `read_artifact` does, and their SHA-256.

        It was computed in this process, of the same unchanged file.
        """
        ...


# -- The artifacts of one chain on their way into a bundle.


# joblib.load reads all three: what it writes itself, and plain pickles.
_READ_BY_JOBLIB = frozenset({"joblib", "pickle", "cloudpickle"})


class Blobs:
    """The artifacts of one chain: each read once from the source, its hash compared, loaded when needed."""

    def __init__(self, source: ChainSource, chain_id: str) -> None:
        self._source = source
        # Looked at once: to find whether an object keeps a protocol takes as long as reading a small file.
        self._hashing = source if isinstance(source, HashingSource) else None
        self._chain_id = chain_id
        self._raw: dict[str, tuple[bytes, str]] = {}
        self._data: dict[str, bytes] = {}
        self._hashes: dict[str, str] = {}
        self._objects: dict[str, Any] = {}

    def data(self, artifact_id: str) -> bytes:
        """Give bytes that joblib can load."""
        if artifact_id not in self._data:
            raw, format = self._read(artifact_id)
            if format not in _READ_BY_JOBLIB:
                raw = get_serializer("joblib").dumps(get_serializer(format).loads(raw))
            self._data[artifact_id] = raw
        return self._data[artifact_id]

    def sha256(self, artifact_id: str) -> str:
        """Give the SHA-256 of `data`."""
        data = self.data(artifact_id)
        if artifact_id not in self._hashes:
            self._hashes[artifact_id] = sha256_hex(data)
        return self._hashes[artifact_id]

    def skops(self, artifact_id: str) -> bytes | None:
        """Give the stored bytes if they are a skops payload, else None; errors as for `data`."""
        raw, format = self._read(artifact_id)
        return raw if format == "skops" else None

    def raw(self, artifact_id: str) -> bytes:
        """Return the stored bytes as they are; errors as for `data`."""
        return self._read(artifact_id)[0]

    def _read(self, artifact_id: str) -> tuple[bytes, str]:
        if artifact_id not in self._raw:
            record = self._record(artifact_id)
            try:
                raw, found = self._hashed(artifact_id)
            except ArtifactMissing:
                raise
            except UnknownId as error:
                raise self._missing(artifact_id) from error
            promised = str(record.get("content_hash") or "").removeprefix("sha256:").lower()
            if len(promised) == 64 and promised != found:
                raise BlobCorrupt(
                    f"The artifact {artifact_id!r} of chain {self._chain_id!r} has the hash "
                    f"{found}, its record says {promised}. Nothing was written. Repair the workspace, or "
                    "save the object again."
                )
            format = str(record.get("format", "joblib"))
            if format in _READ_BY_JOBLIB:
                self._hashes[artifact_id] = found
            self._raw[artifact_id] = raw, format
        return self._raw[artifact_id]

    def _hashed(self, artifact_id: str) -> tuple[bytes, str]:
        if self._hashing is not None:
            return self._hashing.read_hashed(artifact_id)
        raw = bytes(self._source.read_artifact(artifact_id))
        return raw, sha256_hex(raw)

    def load(self, artifact_id: str) -> Any:
        """Give the object itself, loaded from the bytes that travel."""
        if artifact_id not in self._objects:
            self._objects[artifact_id] = get_serializer("joblib").loads(self.data(artifact_id))
        return self._objects[artifact_id]

    def _record(self, artifact_id: str) -> Mapping[str, Any]:
        try:
            record = self._source.get_artifact(artifact_id)
        except ArtifactMissing:
            raise
        except UnknownId:
            record = None
        if record is None:
            raise self._missing(artifact_id)
        return record

    def _missing(self, artifact_id: str) -> ArtifactMissing:
        return ArtifactMissing(
            "artifact", artifact_id, f"Chain {self._chain_id!r} names it; without it nothing was written."
        )


# -- Fitted scikit-learn objects put together from parts that are fitted already.


Array = NDArray[Any]


def in_sequence(parts: Sequence[Any]) -> Any:
    """Put fitted transformers, and perhaps a model at the end, into one fitted Pipeline."""
    from sklearn.pipeline import Pipeline

    return Pipeline([(f"step_{number}", part) for number, part in enumerate(parts)])


def augmented(transformers: Sequence[Any]) -> Any:
    """Put fitted transformers side by side, their input first: ``hstack([X, t1(X), t2(X), ...])``."""
    from sklearn.pipeline import FeatureUnion

    named = [(f"part_{number}", transformer) for number, transformer in enumerate(transformers)]
    return FeatureUnion([("input", "passthrough"), *named])


def undo_targets(model: Any, transformers: Sequence[Any], one_d: bool) -> Any:
    """Let a fitted regressor undo the target transformers that it was trained behind."""
    from sklearn.compose import TransformedTargetRegressor

    undoing = transformers[0] if len(transformers) == 1 else in_sequence(transformers)
    whole = TransformedTargetRegressor(regressor=model, transformer=undoing, check_inverse=False)
    whole.regressor_ = model
    whole.transformer_ = undoing
    whole._training_dim = 1 if one_d else 2
    return whole


def average_probabilities(
    models: Sequence[Any], classes: Sequence[Array], known: Array, weights: Sequence[float] | None
) -> Any:
    """Make one classifier that averages the probabilities of fitted ones."""
    if all(np.array_equal(known, own) for own in classes):
        return _soft_vote(models, known, weights)
    # A label that a fold never saw has no column there, which VotingClassifier cannot take. What is made in
    # its place gives labels only.
    shares = [1.0] * len(models) if weights is None else list(weights)
    blocks = [
        share * (known[:, np.newaxis] == own[np.newaxis, :]).astype(np.float64)
        for share, own in zip(shares, classes, strict=True)
    ]
    columns = [_calling(model, "predict_proba") for model in models]
    return _largest_sum(columns, np.hstack(blocks) / sum(shares), known)


def count_votes(models: Sequence[Any], known: Array, weights: Sequence[float] | None) -> Any:
    """Make one classifier that gives the label for which most fitted ones vote; a tie goes to the first."""
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    shares = [1.0] * len(models) if weights is None else list(weights)
    columns = []
    for model in models:
        ballots = OneHotEncoder(categories=[known], sparse_output=False).fit(known.reshape(-1, 1))
        upright = FunctionTransformer(np.expand_dims, kw_args={"axis": 1})
        columns.append(in_sequence([_calling(model, "predict"), upright, ballots]))
    blocks = [share * np.eye(len(known)) for share in shares]
    return _largest_sum(columns, np.hstack(blocks), known)


def _soft_vote(models: Sequence[Any], known: Array, weights: Sequence[float] | None) -> Any:
    from sklearn.ensemble import VotingClassifier
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import Bunch

    named = [(f"fold_{number}", model) for number, model in enumerate(models)]
    whole = VotingClassifier(named, voting="soft", weights=None if weights is None else list(weights))
    whole.estimators_ = list(models)
    whole.named_estimators_ = Bunch(**dict(named))
    whole.le_ = LabelEncoder().fit(known)
    whole.classes_ = whole.le_.classes_
    return whole


def _calling(model: Any, method: str) -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(getattr(model, method))


def _largest_sum(columns: Sequence[Any], shares: Array, known: Array) -> Any:
    """Choose for each sample the label with the largest weighted sum of columns."""
    from sklearn.pipeline import FeatureUnion
    from sklearn.svm import LinearSVC

    # Linear, and without a predict_proba: a sum of votes is no probability.
    chooser = LinearSVC()
    if len(known) > 2:
        chooser.coef_ = shares
    elif len(known) == 2:
        # scikit-learn keeps one row for two labels: its sign decides, and 0 means the first.
        chooser.coef_ = shares[1:] - shares[:1]
    else:
        chooser.coef_ = np.zeros_like(shares)
    chooser.intercept_ = np.zeros(len(chooser.coef_))
    chooser.classes_ = known
    chooser.n_features_in_ = shares.shape[1]
    chooser.n_iter_ = 0
    union = FeatureUnion([(f"fold_{number}", column) for number, column in enumerate(columns)])
    return in_sequence([union, chooser])


# -- How a chain travels: which objects, in which steps, and what had to be rearranged for version 1.0.


@dataclass(frozen=True)
class Made:
    """An object that was put together for the bundle, and so has no blob yet."""

    name: str
    value: Any


Part = Operator | Made

# Protocol, frame, the names of a module and a class with their lengths, and that an object of the class is made.
_NEW_OBJECT = re.compile(
    rb"\x80[\x04\x05]\x95.{8}\x8c(.)(sklearn\.[\w.]+)\x94\x8c(.)(\w+)\x94\x93\x94\)\x81", re.DOTALL
)


@dataclass(frozen=True)
class Step:
    """One step of the bundle before its model."""

    index: int
    kind: str
    parts: tuple[Part, ...] = ()
    by_source: Mapping[int, tuple[Part, ...]] | None = None
    by_fold: Mapping[str, tuple[Part, ...]] | None = None


@dataclass(frozen=True)
class Layout:
    """What is written."""

    steps: tuple[Step, ...]
    models: Mapping[str | None, Part]
    weights: Mapping[str, float] | None
    expressible: bool
    notes: tuple[str, ...] = field(default=())
    rearranged: bool = False


class _CannotExpress(Exception):
    """Version 1.0 has no place for this chain; the reason is the argument."""


def lay_out(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> Layout:
    """Bring a chain into the form of version 1.0, or keep it as it is and say why."""
    try:
        return _express(plan, bench, peek)
    except _CannotExpress as reason:
        return as_it_is(plan, str(reason))


def as_it_is(plan: ReplayPlan, reason: str) -> Layout:
    """Lay a chain out as this library replays it, without regard for version 1.0."""
    first = plan.members[0]
    steps: list[Step] = []
    for place, stage in enumerate(first.stages):
        kind = AUGMENTATION if stage.augments else TRANSFORM
        if stage.by_source is not None:
            steps.append(Step(stage.step_idx, kind, by_source=dict(stage.by_source)))
        elif place < plan.n_shared or all(m.stages[place] == stage for m in plan.members):
            steps.append(Step(stage.step_idx, kind, tuple(stage.operators)))
        else:
            own = {str(member.fold): tuple(member.stages[place].operators) for member in plan.members}
            steps.append(Step(stage.step_idx, kind, by_fold=own))
    steps += _target_steps(plan.targets)
    if len(plan.members) == 1:
        steps += _target_steps(first.targets)
    else:
        for place, target in enumerate(first.targets):
            own = {str(member.fold): (member.targets[place],) for member in plan.members}
            steps.append(Step(target.step_idx, TARGETS, by_fold=own))
    return Layout(
        tuple(steps),
        {member.fold: member.model for member in plan.members},
        _weights(plan),
        False,
        (
            f"Version 1.0 of the format cannot express this chain: {reason}. "
            "Only nirs_store can predict with this bundle.",
        ),
    )


def _express(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> Layout:
    if plan.sources:
        raise _CannotExpress(f"it keeps {len(plan.sources)} sources of spectra apart")
    notes: list[str] = []
    if plan.source_index is not None:
        notes.append(f"The chain uses source {plan.source_index} of several; readers must be given that one.")
    _note_wavelengths(plan, bench, notes)
    if len(plan.members) == 1:
        member = plan.members[0]
        targets, rearranged = _one_target((*plan.targets, *member.targets), bench, notes)
        return Layout(
            (*_stage_steps(member.stages), *targets),
            {member.fold: member.model},
            None,
            True,
            tuple(notes),
            rearranged,
        )
    targets, rearranged = _one_target(plan.targets, bench, notes)
    shared = plan.members[0].stages[: plan.n_shared]
    models: Mapping[str | None, Part]
    weights: Mapping[str, float] | None
    if _classifies(plan, bench, peek):
        models, weights = {None: _one_classifier(plan, bench, notes)}, None
        rearranged = True
    else:
        models, weights = (
            {member.fold: _whole_regressor(plan, member, bench) for member in plan.members},
            _weights(plan),
        )
        if any(isinstance(model, Made) for model in models.values()):
            rearranged = True
            notes.append(
                "Steps that each fold fitted for itself travel with its model, as one estimator a fold."
            )
    return Layout((*_stage_steps(shared), *targets), models, weights, True, tuple(notes), rearranged)


def _stage_steps(stages: Sequence[Stage]) -> list[Step]:
    steps: list[Step] = []
    for stage in stages:
        kind = AUGMENTATION if stage.augments else TRANSFORM
        last = steps[-1] if steps else None
        if last and last.index == stage.step_idx and last.kind == kind == TRANSFORM:
            steps[-1] = Step(last.index, kind, (*last.parts, *stage.operators))
        else:
            steps.append(Step(stage.step_idx, kind, tuple(stage.operators)))
    return steps


def _target_steps(targets: Sequence[Operator]) -> list[Step]:
    steps: list[Step] = []
    for target in targets:
        if steps and steps[-1].index == target.step_idx:
            steps[-1] = Step(target.step_idx, TARGETS, (*steps[-1].parts, target))
        else:
            steps.append(Step(target.step_idx, TARGETS, (target,)))
    return steps


def _one_target(targets: Sequence[Operator], bench: Workbench, notes: list[str]) -> tuple[list[Step], bool]:
    """Give the target steps; several become one, because other readers may undo them in another order."""
    if len(targets) < 2:
        return _target_steps(targets), False
    if any(bench.open(target)[1].one_d_targets for target in targets):
        raise _CannotExpress("it encodes labels in several steps")
    notes.append("Several target transformers travel as one Pipeline, which undoes them in reverse order.")
    whole = in_sequence([bench.open(target)[0] for target in targets])
    return [Step(targets[0].step_idx, TARGETS, (Made("sklearn.pipeline.Pipeline", whole),))], True


def _note_wavelengths(plan: ReplayPlan, bench: Workbench, notes: list[str]) -> None:
    # No method of scikit-learn's own classes takes wavelengths.
    others = [operator for operator in plan.operators if not operator.name.startswith("sklearn.")]
    wanting = [operator.where for operator in others if bench.open(operator)[1].wavelengths]
    if wanting:
        notes.append(f"{wanting[0]} takes wavelengths, which other readers of version 1.0 do not pass on.")


def _classifies(plan: ReplayPlan, bench: Workbench, peek: Callable[[str], bytes]) -> bool:
    pickles = [peek(member.model.artifact_id) for member in plan.members if member.model.artifact_id]
    # Of anything else only the object itself can tell: a classifier of one's own need not have classes_.
    if all(map(_is_regressor, pickles)):
        return False
    kinds = {bench.open(member.model)[1].classifier for member in plan.members}
    if len(kinds) > 1:
        raise ReplayError(
            "Some models of the folds are classifiers, others are not, so the chain cannot predict and is "
            "not exported."
        )
    return kinds.pop()


def _is_regressor(data: bytes) -> bool:
    """Whether a pickle makes an object of one of scikit-learn's regressors: that stands in its first bytes."""
    begun = _NEW_OBJECT.match(data)
    if begun is None or [len(begun[2]), len(begun[4])] != [begun[1][0], begun[3][0]]:
        return False
    try:
        module = importlib.import_module(begun[2].decode())
    except ImportError:  # of another version of scikit-learn
        return False
    made = getattr(module, begun[4].decode(), None)
    return isinstance(made, type) and issubclass(made, RegressorMixin)


def _own_stages(plan: ReplayPlan, member: Member) -> tuple[Stage, ...]:
    return member.stages[plan.n_shared :]


def _sequence(plan: ReplayPlan, member: Member, bench: Workbench) -> Any:
    """Put a fold's own steps and its model into one estimator."""
    parts: list[Any] = []
    for stage in _own_stages(plan, member):
        objects = [bench.open(operator)[0] for operator in stage.operators]
        parts += [augmented(objects)] if stage.augments else objects
    model = bench.open(member.model)[0]
    return in_sequence([*parts, model]) if parts else model


def _refuse_wavelengths(plan: ReplayPlan, member: Member, bench: Workbench) -> None:
    inside = [operator for stage in _own_stages(plan, member) for operator in stage.operators]
    for operator in (*inside, member.model):
        if bench.open(operator)[1].wavelengths:
            raise _CannotExpress(f"{operator.where} takes wavelengths, and each fold has its own")


def _whole_regressor(plan: ReplayPlan, member: Member, bench: Workbench) -> Part:
    if not _own_stages(plan, member) and not member.targets:
        return member.model
    _refuse_wavelengths(plan, member, bench)
    whole = _sequence(plan, member, bench)
    if member.targets:
        if any(bench.open(target)[1].one_d_targets for target in member.targets):
            raise _CannotExpress("each fold encodes labels in its own way")
        undoing = [bench.open(target)[0] for target in member.targets]
        whole = undo_targets(whole, undoing, _gives_one_d(member, bench))
    return Made(f"{type(whole).__module__}.{type(whole).__qualname__}", whole)


def _gives_one_d(member: Member, bench: Workbench) -> bool:
    n_features = bench.open(member.model)[1].n_features
    if n_features is None:
        raise _CannotExpress(f"the shape that {member.model.where} predicts is not known beforehand")
    try:
        found = np.asarray(bench.call(member.model, "predict", np.zeros((1, n_features))))
    except ReplayError as error:
        raise _CannotExpress(
            f"the shape that {member.model.where} predicts is not known beforehand"
        ) from error
    return found.ndim == 1


def _one_classifier(plan: ReplayPlan, bench: Workbench, notes: list[str]) -> Made:
    for member in plan.members:
        _refuse_wavelengths(plan, member, bench)
    models = [bench.open(member.model)[0] for member in plan.members]
    labels = [getattr(model, "classes_", None) for model in models]
    classes = [own for own in labels if isinstance(own, np.ndarray)]
    if len(classes) < len(labels):
        raise _CannotExpress("its classifiers predict several outputs, or do not name their labels")
    soft = all(hasattr(model, "predict_proba") for model in models)
    if any(member.targets for member in plan.members):
        if not soft:
            raise _CannotExpress("each fold encodes its labels in its own way, and has no probabilities")
        for place, member in enumerate(plan.members):
            for target in reversed(member.targets):
                classes[place] = bench.undo(target, classes[place])
    whole = [_sequence(plan, member, bench) for member in plan.members]
    known = union(classes)
    if soft:
        made = average_probabilities(whole, classes, known, plan.weights)
        notes.append(
            f"The classifiers of {len(whole)} folds travel as one, which averages their probabilities."
        )
    else:
        made = count_votes(whole, known, plan.weights)
        notes.append(f"The classifiers of {len(whole)} folds travel as one, which counts their votes.")
    return Made(f"{type(made).__module__}.{type(made).__qualname__}", made)


def _weights(plan: ReplayPlan) -> Mapping[str, float] | None:
    if plan.weights is None or len(plan.members) == 1:
        return None
    return {str(member.fold): float(member.weight or 0.0) for member in plan.members}


# -- Objects on their way into a safe bundle.


def without_searches(value: Any) -> tuple[Any, list[str]]:
    """Put in place of every fitted search the estimator that it found and predicts with."""
    module = sys.modules.get("sklearn.model_selection._search")
    if module is None:  # nobody can have fitted one
        return value, []
    names: list[str] = []
    while found := list(_searches(value, module.BaseSearchCV)):
        memo: dict[int, Any] = {}
        # Those inside others come last, and are replaced first.
        for search in reversed(found):
            names.append(type(search).__name__)
            memo[id(search)] = copy.deepcopy(getattr(search, "best_estimator_", search.estimator), memo)
        value = copy.deepcopy(value, memo)
    return value, names


def _searches(value: Any, base: type[Any]) -> Iterator[Any]:
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str | bytes | int | float | type) or id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, base):
            yield item
        if isinstance(item, np.ndarray):
            waiting += item.ravel().tolist() if item.dtype.hasobject else ()
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple | set):
            waiting += item
        else:
            waiting += getattr(item, "__dict__", {}).values()


def skops_payload(value: Any, where: str, notes: list[str] | None = None) -> bytes:
    """Turn a fitted object into a skops payload that can be loaded again."""
    import skops.io

    cls = type(value)
    name = f"{cls.__module__}.{cls.__qualname__}"
    value, searches = without_searches(value)
    if searches and notes is not None:
        notes.append(
            f"{where}: of {' and '.join(sorted(set(searches)))} the estimator travels that it found and predicts with, "
            "not the search and its results."
        )
    try:
        data = normalise_skops(skops.io.dumps(value))
        audit = audit_payload(data, where)
    except MemoryError:
        raise
    except BundleInvalid as exc:
        reason = str(exc).partition(" payload: ")[2].partition(". Nothing was loaded")[0]
        raise _refusal(where, name, reason or str(exc)) from exc
    except Exception as exc:
        raise _refusal(where, name, f"{type(exc).__name__}: {exc}") from exc
    if audit.refused:
        raise _refusal(where, name, f"it holds {', '.join(sorted(audit.refused))}")
    if own := sorted(name for name in audit.types if name.startswith("__main__.")):
        raise _refusal(where, name, f"it holds {', '.join(own)}, which only this script or notebook defines")
    try:
        load_payload(data, audit.types)
    except MemoryError:
        raise
    except Exception as exc:
        # A lambda or a class of the main program can be written, but not be found again.
        listed = ", ".join(item for item in sorted(audit.types) if not _is_usual(item))
        reason = f"what was written cannot be loaded again ({type(exc).__name__}: {exc}); it holds {listed}"
        raise _refusal(where, name, reason) from exc
    return data


def _is_usual(name: str) -> bool:
    return name.partition(".")[0] in ("builtins", "numpy", "collections")


def _refusal(where: str, name: str, reason: str) -> SerializationError:
    cause = f"{where} is an object of class {name}, which a safe bundle cannot carry: {reason.rstrip('.')}."
    return SerializationError(
        f"{cause} Nothing was written. Export a joblib bundle (safe=False) for people who trust you."
    )


# -- Giving each object of a chain its bytes and its name in the bundle.


# CRC-32 by SHA-256: what has the one has the other. Of objects that were packed before, some bytes each.
_MOST_CHECKSUMS = 4096
_checksums: dict[str, int] = {}


@dataclass(frozen=True)
class Payload:
    """A member that holds a fitted object."""

    name: str
    role: Role
    data: bytes = field(repr=False)
    sha256: str

    @property
    def crc32(self) -> int:
        """What a ZIP file states beside the size."""
        found = _checksums.get(self.sha256)
        if found is None:
            found = zlib.crc32(self.data)
            if len(_checksums) >= _MOST_CHECKSUMS:
                _checksums.clear()
            _checksums[self.sha256] = found
        return found


class Packing:
    """Gives each object of a layout its bytes and its member name."""

    def __init__(self, blobs: Blobs, bench: Workbench, expressible: bool, kind: Kind) -> None:
        self._blobs = blobs
        self._bench = bench
        self._expressible = expressible
        self._kind = kind
        self.payloads: dict[str, Payload] = {}
        self.notes: list[str] = []

    def add(self, part: Part, name: str, role: Role) -> str | None:
        """Take in one object; give its id, or None for one that travels as the name of its class."""
        if self._kind == "skops":
            return self._add_skops(part)
        if isinstance(part, Made):
            data = get_serializer("joblib").dumps(part.value)
        elif part.artifact_id is not None:
            return self._take(
                self._blobs.data(part.artifact_id), self._blobs.sha256(part.artifact_id), name, role
            )
        elif self._expressible:
            data = get_serializer("joblib").dumps(self._bench.open(part)[0])
        else:
            return None
        return self._take(data, sha256_hex(data), name, role)

    def _take(self, data: bytes, digest: str, name: str, role: Role) -> str:
        if not self._expressible:
            name, role = f"blobs/{digest}.joblib", "blob"
        self.payloads.setdefault(name, Payload(name, role, data, digest))
        return digest

    def _add_skops(self, part: Part) -> str:
        assert isinstance(part, Operator)  # nothing is put together for a safe bundle
        # Also what needs no fitting: a class made from its name would be chosen by the bundle's text.
        stored = self._blobs.skops(part.artifact_id) if part.artifact_id is not None else None
        data = _as_travels(stored, part.where, lambda: self._bench.open(part)[0], self.notes)
        digest = sha256_hex(data)
        name = f"blobs/{digest}.skops"
        self.payloads.setdefault(name, Payload(name, "blob", data, digest))
        return digest


# -- Chains of merged branches, and stacks with all their base models, on their way into a bundle.


def pack_nested(
    chain: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs, kind: Kind
) -> tuple[dict[str, Any], list[Payload], list[str]]:
    """Pack a chain as it is stored: only the names of its objects change, to their SHA-256."""
    if kind == "skops" and (made := plan.stateless_classes):
        raise SerializationError(
            f"The chain makes objects from the names of their classes ({', '.join(made)[:200]}), inside branches or "
            "a stack, which no safe bundle does. Nothing was written. Save these objects as artifacts of their "
            "steps, or export a joblib bundle (safe=False)."
        )
    payloads: dict[str, Payload] = {}
    notes: list[str] = []
    names: dict[str, str] = {}
    for artifact_id in chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"]):
        data = blobs.data(artifact_id) if kind == "joblib" else _skops(artifact_id, plan, blobs, notes)
        digest = names[artifact_id] = sha256_hex(data)
        payloads.setdefault(digest, Payload(f"blobs/{digest}.{kind}", "blob", data, digest))
    created_at = clean(chain.get("created_at"))
    travelling = dict(clean(renamed(chain, names)))
    travelling |= {
        "chain_id": str(chain.get("chain_id") or ""),
        "fold_artifacts": normalise_folds(travelling["fold_artifacts"], "fold_artifacts"),
        "fold_weights": normalise_weights(travelling.get("fold_weights")),
        "wavelengths": None if plan.wavelengths is None else plan.wavelengths.tolist(),
        "created_at": None if created_at is None else str(created_at),
    }
    reason = "it is a stack of models" if plan.stack else "it merges branches"
    note = (
        f"Version 1.0 of the format cannot express this chain: {reason}. Only nirs_store can predict with this "
        "bundle."
    )
    return travelling, list(payloads.values()), [note, *dict.fromkeys(notes)]


def _skops(artifact_id: str, plan: ReplayPlan, blobs: Blobs, notes: list[str]) -> bytes:
    where = next((op.where for op in plan.operators if op.artifact_id == artifact_id), "A model of a fold")
    return _as_travels(blobs.skops(artifact_id), where, lambda: blobs.load(artifact_id), notes)


def _as_travels(stored: bytes | None, where: str, load: Callable[[], Any], notes: list[str]) -> bytes:
    """Give a payload: the stored one where a reader takes it as it is, else one made of the object."""
    if stored is not None:
        try:
            audit = audit_payload(stored, where)
        except BundleInvalid:
            return stored  # the comparison with the stored chain refuses it, and says why
        if not (audit.refused or audit.needs):
            return stored
    return skops_payload(load(), where, notes)


# -- Predicting with a chain as it will travel, before it does.


def predicts_the_same(
    packed: Mapping[str, Any], objects: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs, X: Any
) -> bool | None:
    """Compare a chain as it travels with the stored one, to the last bit."""
    spectra = made_up_spectra(plan, blobs) if X is None else X
    if spectra is None:
        return None
    try:
        expected = predict(plan, spectra, blobs.load)
    except NirsStoreError:
        if X is None:
            return None
        raise
    try:
        found = predict(ReplayPlan.from_chain(packed), spectra, objects.__getitem__)
    except NirsStoreError:
        # An object that does without scikit-learn's conventions may not work inside its containers.
        return False
    if found.shape != expected.shape:
        return False
    return bool(np.all((found == expected) | ((found != found) & (expected != expected))))


def made_up_spectra(plan: ReplayPlan, blobs: Blobs) -> Any:
    """Make absorbance-like spectra of the width that the chain takes; None when that is not known."""
    width = channels(plan, Workbench(blobs.load, plan.memory))
    if width is None:
        return None
    rng = np.random.default_rng(20260101)
    place = np.linspace(0.0, 1.0, width)
    bands = np.exp(-(((place - rng.uniform(0.1, 0.9, (24, 1))) / 0.15) ** 2))
    return 0.5 + rng.uniform(0.1, 1.0, (24, 1)) * bands + rng.normal(0.0, 0.01, (24, width))


_HIGHEST_INDEX = 9_999
_MAIN = b"__main__"
_UNUSED = {"step": "unused"}


@dataclass
class Package:
    """What is written, in the order in which it is written."""

    chain: dict[str, Any]
    payloads: list[Payload]
    pipeline: list[dict[str, Any]] | None
    layout: Layout
    plan: ReplayPlan
    blobs: Blobs
    notes: tuple[str, ...] = ()
    kind: Kind = "joblib"
    domain: bytes | None = None

    def objects(self) -> dict[str, Any]:
        """Load every payload, as a reader would: SHA-256 to object."""
        return {payload.sha256: get_serializer("joblib").loads(payload.data) for payload in self.payloads}


def pack_chain(source: ChainSource, chain_id: str, X: Any = None) -> Package:
    """Read a chain and all its objects, and lay them out for a bundle."""
    chain = source.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id, "Nothing was written.")
    plan = ReplayPlan.from_chain(chain)
    blobs = Blobs(source, chain_id)
    if plan.nested:
        package = _as_stored(chain, plan, blobs, "joblib")
        _warn_of_main(package)
        return _with_domain(package)
    layout = lay_out(plan, Workbench(blobs.load, plan.memory), blobs.data)
    package = _pack(chain, plan, layout, blobs)
    _warn_of_main(package)
    if layout.rearranged:
        agrees = predicts_the_same(package.chain, package.objects(), plan, blobs, X)
        if not agrees:
            reason = "put together for it, its models predict other numbers than the stored chain"
            if agrees is None:
                reason = "its models had to be put together, and there were no spectra to compare them on; give probe="
            package = _pack(chain, plan, as_it_is(plan, reason), blobs)
    return _with_domain(package)


def _with_domain(package: Package) -> Package:
    """Put the chain's domain into the package, or say why it has to stay behind."""
    metadata = dict(package.chain.get("metadata") or {})
    named = domain_id(metadata)
    if named is None:
        return package
    if package.layout.rearranged and len(package.plan.members) > 1:
        # Its fold models travel with their preprocessing inside, so their input is no longer what was measured.
        del metadata[DOMAIN]
        note = "The domain of the calibration is left out, since the models of the folds were put together."
        chain = package.chain | {"metadata": metadata or None}
        return replace(package, chain=chain, notes=(*package.notes, note))
    try:
        return replace(package, domain=package.blobs.raw(named))
    except ArtifactMissing:
        # An older version imported the chain and left out what it does not know.
        del metadata[DOMAIN]
        return replace(package, chain=package.chain | {"metadata": metadata or None})


def _warn_of_main(package: Package) -> None:
    """Warn of objects whose pickles name what only this script or notebook has."""
    listings = [
        list_pickle(p.data) for p in package.payloads if _MAIN in p.data or p.data[:1] != pickle.PROTO
    ]
    names = sorted({name for one in listings for name in one.classes if name.startswith("__main__.")})
    if names:
        warnings.warn(
            f"The bundle needs {', '.join(names)[:400]}, which only this script or notebook defines: in another "
            "process it cannot be opened. Move what it names into a module that is imported, fit again, and export "
            "that chain; or save the artifacts with format='cloudpickle'.",
            UserWarning,
            stacklevel=4,
        )


def pack_safely(source: ChainSource, chain_id: str, X: Any = None) -> tuple[Package, Any]:
    """Read a chain and all its objects, and turn each into a skops payload."""
    chain = source.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id, "Nothing was written.")
    plan = ReplayPlan.from_chain(chain)
    blobs = Blobs(source, chain_id)
    spectra = made_up_spectra(plan, blobs) if X is None else X
    if spectra is None:
        raise InvalidInput(
            f"Chain {chain_id!r} does not say how many channels it takes, so it cannot be compared with what "
            "travels. Nothing was written. Give a few spectra: probe=."
        )
    if plan.nested:
        return _with_domain(_as_stored(chain, plan, blobs, "skops")), spectra
    layout = as_it_is(plan, "a safe bundle holds no pickles, and readers of version 1.0 know nothing else")
    return _with_domain(_pack(chain, plan, layout, blobs, "skops")), spectra


def _as_stored(chain: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs, kind: Kind) -> Package:
    travelling, payloads, notes = pack_nested(chain, plan, blobs, kind)
    layout = Layout((), {}, None, False, tuple(notes))
    return Package(travelling, payloads, None, layout, plan, blobs, layout.notes, kind)


def _metadata(chain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that travel: hashes of the code, without its source."""
    known = dict(chain.get("metadata") or {})
    return known | {CODE: without_text(known[CODE])} if isinstance(known.get(CODE), Mapping) else known


def _pack(
    chain: Mapping[str, Any], plan: ReplayPlan, layout: Layout, blobs: Blobs, kind: Kind = "joblib"
) -> Package:
    packing = Packing(blobs, Workbench(blobs.load, plan.memory), layout.expressible, kind)
    shift, indices, model_index = _number(chain, layout)
    entries = {index + shift: entry for index, entry in _entries(chain).items()} if shift is not None else {}
    steps: list[dict[str, Any]] = []
    source_map: dict[str, dict[str, list[str]]] = {}
    for index, step in sorted(zip(indices, layout.steps, strict=True), key=lambda item: item[0]):
        steps.append(_step(step, index, chain, packing, source_map))
    model_name = str(chain.get("model_class") or "")
    model: dict[str, Any] = {
        "step_idx": model_index,
        "operator_class": model_name,
        "operator_type": MODEL,
        "params": _params(chain, int(chain["model_step_idx"]), model_name),
        "stateless": False,
    }
    fold_artifacts: dict[str, str] = {}
    for fold, part in layout.models.items():
        # A model that stands alone is called final as well: so every reader finds it and uses nothing else.
        number = None if fold is None else fold_number(fold)
        name = f"artifacts/step_{model_index}_fold{'final' if number is None else number}.joblib"
        digest = packing.add(part, name, "model")
        assert digest is not None  # a model is always fitted
        if fold is None:
            model["artifact_id"] = digest
        else:
            fold_artifacts[REFIT if number is None else f"fold_{number}"] = digest
    pipeline = _pipeline(steps, model, entries, model_index) if layout.expressible else None
    for index, entry in entries.items():
        if index < model_index and _is_splitter(entry) and all(step["step_idx"] != index for step in steps):
            steps.append(
                {
                    "step_idx": index,
                    "operator_class": str(entry.get("operator_class") or ""),
                    "operator_type": SPLITTER,
                    "params": clean(entry.get("params") or {}),
                    "stateless": True,
                }
            )
    steps = sorted([*steps, model], key=lambda step: int(step["step_idx"]))
    travelling = {
        "chain_id": str(chain.get("chain_id") or ""),
        "pipeline_id": _text(chain.get("pipeline_id")),
        "steps": steps,
        "model_step_idx": model_index,
        "model_class": str(chain.get("model_class") or ""),
        "preprocessings": str(chain.get("preprocessings") or ""),
        "fold_strategy": str(chain.get("fold_strategy") or ""),
        "fold_artifacts": fold_artifacts,
        "shared_artifacts": {"_source_map": source_map} if source_map else {},
        "branch_path": [int(branch) for branch in chain.get("branch_path") or ()] or None,
        "source_index": plan.source_index,
        "fold_weights": dict(layout.weights) if layout.weights else None,
        "wavelengths": None if plan.wavelengths is None else plan.wavelengths.tolist(),
        "metadata": clean(_metadata(chain)) or None,
        "created_at": _text(clean(chain.get("created_at"))),
    }
    payloads = list(packing.payloads.values())
    notes = (*layout.notes, *dict.fromkeys(packing.notes))
    return Package(travelling, payloads, pipeline, layout, plan, blobs, notes, kind)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(chain: Mapping[str, Any], layout: Layout) -> tuple[int | None, list[int], int]:
    """Give the steps their numbers: those of the chain, counted from 1, unless two steps would share one."""
    model = int(chain["model_step_idx"])
    known = [*_entries(chain), model]
    shift = 1 if min(known) == 0 else 0
    indices = [step.index + shift for step in layout.steps]
    if len(set(indices)) == len(indices) and model + shift <= _HIGHEST_INDEX:
        return shift, indices, model + shift
    return None, list(range(1, len(indices) + 1)), len(indices) + 1


def _step(
    step: Step,
    index: int,
    chain: Mapping[str, Any],
    packing: Packing,
    source_map: dict[str, dict[str, list[str]]],
) -> dict[str, Any]:
    role: Role = "y_transformer" if step.kind == TARGETS else "transformer"
    count = 0

    def add(parts: tuple[Part, ...]) -> list[str]:
        nonlocal count
        found = []
        for part in parts:
            digest = packing.add(part, f"artifacts/step_{index}_sub{count}.joblib", role)
            count += 1
            if digest is not None:
                found.append(digest)
        return found

    first = next((part for part in step.parts), None)
    name = first.name if first is not None else _class_of(chain, step.index)
    described: dict[str, Any] = {
        "step_idx": index,
        "operator_class": name,
        "operator_type": step.kind,
        "params": _params(chain, step.index, name),
        "stateless": False,
    }
    if step.by_source is not None:
        source_map[str(index)] = {str(source): add(parts) for source, parts in step.by_source.items()}
    elif step.by_fold is not None:
        described["fold_artifact_ids"] = {fold: add(parts) for fold, parts in step.by_fold.items()}
    elif ids := add(step.parts):
        described["artifact_ids"] = ids
    else:
        described["stateless"] = True
        assert isinstance(first, Operator)
        described["params"] = clean(dict(first.params))
    return described


def _pipeline(
    steps: list[dict[str, Any]], model: dict[str, Any], entries: Mapping[int, Mapping[str, Any]], last: int
) -> list[dict[str, Any]]:
    """Describe every step from 1 to the model: readers find a step by its place in this list."""
    by_index = {int(step["step_idx"]): step for step in steps}
    found: list[dict[str, Any]] = []
    for index in range(1, last):
        step = by_index.get(index)
        if step is None:
            entry = entries.get(index, {})
            found.append(_operator(entry) if _is_splitter(entry) else _UNUSED)
        elif step["operator_type"] == TARGETS:
            found.append({TARGETS: _operator(step)})
        elif step["operator_type"] == AUGMENTATION:
            found.append({AUGMENTATION: [_operator(step)]})
        else:
            # Under "class" a name with Split or Fold in it would be taken for a splitter.
            found.append({"step": _operator(step)})
    return [*found, {MODEL: _operator(model)}]


def _operator(step: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": str(step.get("operator_class") or ""), "params": clean(step.get("params") or {})}


def _entries(chain: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    return {int(step["step_idx"]): step for step in reversed(chain["steps"])}


def _is_splitter(entry: Mapping[str, Any]) -> bool:
    has_artifacts = any(entry.get(key) for key in ("artifact_id", "artifact_ids", "fold_artifact_ids"))
    kind = step_kind(entry.get("operator_type"), str(entry.get("operator_class") or ""), has_artifacts)
    return kind == SPLITTER


def _class_of(chain: Mapping[str, Any], index: int) -> str:
    return str(_entries(chain).get(index, {}).get("operator_class") or "")


def _params(chain: Mapping[str, Any], index: int, name: str) -> dict[str, Any]:
    for step in chain["steps"]:
        if int(step["step_idx"]) == index and str(step.get("operator_class") or "") == name:
            return dict(clean(step.get("params") or {}))
    return {}
