"""What an estimator is made of, as far as a cross-validation has to know: what is fitted already, NaN, and names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, StackingRegressor, VotingClassifier, VotingRegressor
from sklearn.pipeline import FeatureUnion, Pipeline

from nirs_store.chains.operators import allows_nan, made_of, parts_of
from nirs_store.errors import InvalidInput, did_you_mean
from nirs_store.recording.steps import Parts, describe
from nirs_store.values import column_names, is_frame


def refuse_fitted(estimator: Any, argument: str = "estimator") -> None:
    """Refuse an estimator that no fold would fit: its figures would be those of the calibration samples."""
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        return
    for part in (estimator, *parts_of(estimator)):
        if _stays_fitted(part):
            inside = "" if part is estimator else f", which {type(estimator).__name__} contains,"
            raise InvalidInput(
                f"{argument}: a {type(part).__name__}{inside} is fitted already and stays as it is, so no fold would "
                "be predicted by a model that has not seen it. Nothing was recorded. Give the estimator without its "
                "fit; evaluate a fitted model on samples of its own (store.evaluations)."
            )


def _stays_fitted(part: Any) -> bool:
    cls = type(part)
    clones = getattr(cls, "__sklearn_clone__", None)
    if clones is not None and clones is not BaseEstimator.__sklearn_clone__ and clone(part) is part:
        return True
    # FunctionTransformer(model.predict) holds a fitted model too.
    owners = (getattr(item, "__self__", None) for item in made_of(part) if callable(item))
    return any(hasattr(owner, "get_params") and not isinstance(owner, type) for owner in owners)


# -- NaN in the spectra: for pipelines that begin by filling it in.


def refuse_missing(parts: Parts) -> str:
    """Say why the steps of an estimator cannot take NaN in the spectra; empty when they can."""
    for step in (*parts.transformers, parts.model):
        if not allows_nan(step):
            return (
                f"{describe(step)} takes none. Remove these samples or channels, or begin the pipeline with an imputer "
                "that takes NaN, such as SimpleImputer()."
            )
        if _fills(step):
            return ""
    return ""


def _fills(step: Any) -> bool:
    # Of scikit-learn's own only the imputers fill NaN in; scalers pass it on. Of others only they know.
    modules = [type(part).__module__ for part in (step, *parts_of(step))]
    return not modules[0].startswith("sklearn.") or any(name.startswith("sklearn.impute") for name in modules)


# -- Columns that a ColumnTransformer picks by name: a chain keeps spectra as arrays, so they become positions.


def by_position(estimator: Any, X: Any) -> Any:
    """Return an estimator whose first steps pick columns by position, where they did so by the names of `X`."""
    if not any(_asks_names(column) for step in _first(estimator) for _, _, column in step.transformers):
        return estimator
    copied = clone(estimator)
    for step in _first(copied):
        step.transformers = [(name, each, _place(column, X)) for name, each, column in step.transformers]
    return copied


def _first(estimator: Any) -> Iterator[ColumnTransformer]:
    """Find every ColumnTransformer that gets the spectra as they come."""
    inside: list[Any] = []
    if isinstance(estimator, ColumnTransformer):
        yield estimator
    elif isinstance(estimator, Pipeline):
        inside = [step for _, step in estimator.steps if step not in (None, "passthrough")][:1]
    elif isinstance(estimator, FeatureUnion):
        inside = [step for _, step in estimator.transformer_list]
    elif isinstance(estimator, StackingRegressor | StackingClassifier | VotingRegressor | VotingClassifier):
        inside = [each for _, each in estimator.estimators]
    elif isinstance(estimator, TransformedTargetRegressor):
        inside = [estimator.regressor]
    elif type(estimator).__name__.endswith("SearchCV"):
        inside = [estimator.estimator]
    for each in inside:
        yield from _first(each)


def _asks_names(column: Any) -> bool:
    if isinstance(column, slice):
        return isinstance(column.start, str) or isinstance(column.stop, str)
    items = column if isinstance(column, list | tuple) else [column]
    return callable(column) or any(isinstance(item, str) for item in items)


def _place(column: Any, X: Any) -> Any:
    if callable(column) and not is_frame(X):
        return column
    if callable(column):
        try:
            column = column(X)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(f"ColumnTransformer: its columns cannot be chosen from X: {error}.") from error
    if not _asks_names(column):
        return column
    if not is_frame(X):
        raise InvalidInput(
            f"ColumnTransformer picks columns by name ({_shown(column)}), and X has none. Nothing was recorded. Give a "
            "data frame, or pick columns by position."
        )
    names = column_names(X)
    if isinstance(column, slice):
        start, stop = (
            _index(end, names) if isinstance(end, str) else end for end in (column.start, column.stop)
        )
        # As pandas and scikit-learn have it, a name at the end is included.
        return slice(start, stop + 1 if isinstance(column.stop, str) else stop, column.step)
    if isinstance(column, str):
        return _index(column, names)
    return [_index(item, names) if isinstance(item, str) else item for item in column]


def _index(name: str, names: list[Any]) -> int:
    if names.count(name) == 1:
        return names.index(name)
    hint = "" if name in names else did_you_mean(name, names)
    found = "several" if name in names else "no"
    raise InvalidInput(
        f"ColumnTransformer picks the column {name!r}; X has {found} of that name.{hint} Nothing was recorded."
    )


def _shown(column: Any) -> str:
    return repr(column) if isinstance(column, str | slice) else f"{column[0]!r}, ..."
