"""Keep the samples of a group in one fold, and hand groups and weights to the estimators that use them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.compose import TransformedTargetRegressor
from sklearn.feature_selection import RFECV
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    LeavePGroupsOut,
    LeavePOut,
    PredefinedSplit,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    TimeSeriesSplit,
)

from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch
from nirs_store.recording.steps import Parts, describe
from nirs_store.values import as_array, as_floats

_SHOWN = 5
_NO_TWIN = (RepeatedKFold, RepeatedStratifiedKFold, StratifiedShuffleSplit, TimeSeriesSplit)


def read_groups(groups: Any, n: int) -> NDArray[Any] | None:
    """Return one label per sample, or None; refuse another number of labels, and missing ones."""
    if groups is None:
        return None
    labels = as_array(groups, "groups")
    if labels.shape != (n,):
        raise ShapeMismatch(f"groups: expected one label per sample, {n}; got the shape {labels.shape}.")
    missing = [row for row, label in enumerate(labels.tolist()) if label is None or label != label]
    if missing:
        raise InvalidInput(
            f"groups: expected a label for every sample; {len(missing)} are missing, the first in row {missing[0]}. "
            "Give a sample without replicates a label of its own."
        )
    # A label is compared with the others only: texts of an object array, or a mixture, sort as text.
    return labels.astype(str) if labels.dtype == object else labels


def grouped_twin(splitter: Any) -> Any:
    """Return the splitter that does the same with whole groups; a splitter that is not known to ignore them as
    it is.
    """
    kind = type(splitter)
    if kind is KFold or kind is StratifiedKFold:
        twin: Any = (GroupKFold if kind is KFold else StratifiedGroupKFold)(
            splitter.n_splits, shuffle=splitter.shuffle, random_state=splitter.random_state
        )
    elif kind is ShuffleSplit:
        twin = GroupShuffleSplit(
            splitter.n_splits,
            test_size=splitter.test_size,
            train_size=splitter.train_size,
            random_state=splitter.random_state,
        )
    elif kind is LeaveOneOut:
        twin = LeaveOneGroupOut()
    elif kind is LeavePOut:
        twin = LeavePGroupsOut(splitter.p)
    elif kind in _NO_TWIN:
        raise InvalidInput(
            f"cv: {kind.__name__} ignores groups, so samples of one group would be on both sides of a fold. Nothing "
            "was recorded. Use GroupKFold, StratifiedGroupKFold, GroupShuffleSplit or LeaveOneGroupOut."
        )
    else:
        return splitter
    return twin


def refuse_split_groups(
    index: int, groups: NDArray[Any], train: NDArray[np.intp], val: NDArray[np.intp]
) -> None:
    """Refuse a fold that has samples of one group on both sides."""
    both = np.intersect1d(groups[train], groups[val])
    if both.size:
        shown = ", ".join(repr(label) for label in both[:_SHOWN].tolist())
        raise InvalidInput(
            f"Fold {index} has samples of {both.size} groups on both sides ({shown}"
            f"{', ...' if both.size > _SHOWN else ''}); its scores would be too good. Nothing was recorded. Keep each "
            "group in one fold, as GroupKFold does."
        )


@dataclass(frozen=True, eq=False)
class Companions:
    """What goes with the samples when an estimator is fitted."""

    groups: NDArray[Any] | None = None
    weights: NDArray[np.float64] | None = None

    def of(self, step: Any, rows: NDArray[np.intp], *, model: bool) -> dict[str, Any]:
        """Return the keyword arguments of ``fit`` for a step: groups if it uses them, weights for the model."""
        options: dict[str, Any] = {}
        if self.groups is not None and _uses_groups(step):
            options["groups"] = self.groups[rows]
        if self.weights is not None and model:
            options["sample_weight"] = self.weights[rows]
        return options


def check_companions(parts: Parts, groups: NDArray[Any] | None, sample_weight: Any, n: int) -> Companions:
    """Check that the estimator can use what it is given, and is given what it needs."""
    for step in (*parts.transformers, parts.model):
        _check_inner(step, groups)
    return Companions(groups, None if sample_weight is None else _weights(sample_weight, parts.model, n))


def _check_inner(step: Any, groups: NDArray[Any] | None) -> None:
    if not _uses_groups(step):
        own = getattr(_search(step), "cv", None)
        if groups is not None and own is not None:
            warnings.warn(
                f"{describe(step)} splits samples of one group while it searches (cv={own!r}), so it may choose too "
                "large a model. Give it cv=GroupKFold(...); groups are passed on to it.",
                RecordingWarning,
                stacklevel=4,
            )
        return
    if groups is None:
        raise InvalidInput(
            f"{describe(step)} splits by groups while it is fitted: pass groups=. Nothing was recorded."
        )
    if not get_config()["enable_metadata_routing"] and not _takes_groups(step):
        raise InvalidInput(
            f"{describe(step)} needs groups inside, but scikit-learn hands them on only when asked to. Call "
            "sklearn.set_config(enable_metadata_routing=True) first. Nothing was recorded."
        )


def refuse_fixed_inner_folds(steps: Sequence[Any], sizes: Sequence[int]) -> None:
    """Refuse folds inside an estimator that name rows which a fit on part of the samples does not have."""
    for step in steps:
        for name, value in step.get_params(deep=True).items():
            if name.rpartition("__")[2] != "cv":
                continue
            rows, once = _named_rows(value), isinstance(value, Iterator)
            if rows <= min(sizes) and not once:
                continue
            found = "a generator, which serves one fit" if once else f"row numbers up to {rows - 1}"
            raise InvalidInput(
                f"{type(step).__name__} brings folds of its own ({name}=): {found}. It is fitted once per fold of the "
                f"recording, on {min(sizes)} samples and more, where a row number means another sample. Nothing was "
                "recorded. Give it a splitter, e.g. cv=KFold(5), or cv=GroupKFold(5) with groups=; or record the "
                "search on its own folds: record_search(...) without cv."
            )


def _named_rows(cv: Any) -> int:
    """Count the rows that folds made beforehand speak of; 0 for a splitter or a number."""
    if isinstance(cv, PredefinedSplit):
        return len(cv.test_fold)
    pairs = getattr(cv, "cv", cv)  # scikit-learn wraps lists
    if not isinstance(pairs, list | tuple):
        return 0
    try:
        parts = [np.asarray(part) for pair in pairs for part in pair]
    except TypeError:
        return 0  # whatever it is, the estimator says so
    rows = [len(part) if part.dtype == bool else int(part.max()) + 1 for part in parts if part.size]
    return max(rows, default=0)


def _uses_groups(step: Any) -> bool:
    """Tell whether a step splits by groups while it is fitted."""
    if get_config()["enable_metadata_routing"] and hasattr(step, "get_metadata_routing"):
        return bool(step.get_metadata_routing().consumes("fit", ["groups"]))
    return any(map(_splits_groups, _inner_splitters(step)))


def _inner_splitters(step: Any) -> Iterator[Any]:
    for name, value in step.get_params(deep=True).items():
        if name.rpartition("__")[2] == "cv" and hasattr(value, "split"):
            yield value


def _splits_groups(splitter: Any) -> bool:
    try:
        return splitter.get_metadata_routing().split.requests.get("groups") is True
    except AttributeError:  # a splitter of the user's own
        return False


def _search(step: Any) -> Any:
    """Return the search that a step is, or that a transformed target wraps; None for anything else."""
    inner = step.regressor if isinstance(step, TransformedTargetRegressor) else step
    return inner if isinstance(inner, RFECV) or hasattr(inner, "_run_search") else None


def _takes_groups(step: Any) -> bool:
    search = _search(step)
    if search is not None:
        return _splits_groups(search.cv) and not any(map(_splits_groups, _inner_splitters(search.estimator)))
    return "groups" in inspect.signature(step.fit).parameters


def _weights(given: Any, model: Any, n: int) -> NDArray[np.float64]:
    try:
        weights = as_floats(as_array(given, "sample_weight"))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"sample_weight must hold numbers only: {error}.") from error
    if weights.shape != (n,):
        raise ShapeMismatch(f"sample_weight: expected one per sample, {n}; got the shape {weights.shape}.")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise InvalidInput("sample_weight: expected finite numbers of 0 or more, not all 0.")
    if not _takes_weights(model):
        raise InvalidInput(
            f"sample_weight: {describe(model)} cannot be fitted with weights. Nothing was recorded. Leave them out, "
            "or choose a model whose fit() takes sample_weight."
        )
    return weights


def _takes_weights(model: Any) -> bool:
    if get_config()["enable_metadata_routing"] and hasattr(model, "get_metadata_routing"):
        return bool(model.get_metadata_routing().consumes("fit", ["sample_weight"]))
    if isinstance(model, TransformedTargetRegressor):
        return _takes_weights(model.regressor)
    if hasattr(model, "_run_search"):
        return _takes_weights(model.estimator)
    return "sample_weight" in inspect.signature(model.fit).parameters
