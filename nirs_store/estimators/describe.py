"""From estimators to a configuration that builds the same ones again."""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any

from nirs_store.errors import SerializationError
from nirs_store.estimators.build import MAX_DEPTH, is_splitter

_MAX_ARRAY = 10_000
#: A dict with one of these keys would be read as something else than a dict.
_SPECIAL_KEYS = {"class", "tuple", "array", "float", "items"}


def describe_estimator(estimator: Any) -> dict[str, Any]:
    """Return the configuration from which :func:`build_estimator` makes the same estimator.

    Parameters
    ----------
    estimator : scikit-learn estimator or Pipeline
        Fitted or not; only parameters are described.

    Returns
    -------
    dict
        With ``steps``; strict JSON.

    Raises
    ------
    SerializationError
        A parameter that is code or state (a function, a random generator): its path is named.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from nirs_store.estimators import describe_estimator
    >>> describe_estimator(Ridge(alpha=0.5))["steps"][0]["params"]["alpha"]
    0.5
    """
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        return {"steps": [_describe_object(estimator, "steps[0]", depth=0)]}
    steps = []
    for index, (name, step) in enumerate(estimator.steps):
        if step is not None and step != "passthrough":
            steps.append({"name": name, **_describe_object(step, f"steps[{index}]", depth=0)})
    return {"steps": steps}


def describe_cv(cv: Any) -> dict[str, Any] | int:
    """Return the value for ``cv`` from which :func:`build_cv` makes the same splitter.

    Raises
    ------
    SerializationError
        Not a number and not a splitter object with plain parameters.

    Examples
    --------
    >>> from sklearn.model_selection import KFold
    >>> from nirs_store.estimators import describe_cv
    >>> describe_cv(KFold(5))["class"]
    'sklearn.model_selection.KFold'
    """
    if isinstance(cv, int):
        return cv
    if not is_splitter(cv):
        raise SerializationError(
            f"A cv that is {type(cv).__name__} cannot be described; pass a number of folds or a splitter."
        )
    return _describe_object(cv, "cv", depth=0)


def _describe_object(value: Any, where: str, *, depth: int) -> dict[str, Any]:
    if callable(getattr(value, "get_params", None)):
        params = value.get_params(deep=False)
    else:
        params = {name: _argument(value, name, where) for name in inspect.signature(type(value)).parameters}
    described = {
        name: _encode(item, f"{where}.{name}", depth=depth + 1)
        for name, item in params.items()
        # scikit-learn and chemotools mark a renamed parameter that was not set with this text.
        if not (isinstance(item, str) and item == "deprecated")
    }
    return {"class": class_path(type(value)), "params": described}


def _argument(splitter: Any, name: str, where: str) -> Any:
    # scikit-learn keeps each argument under its name, but the repeated splitters pass some on as cvargs.
    passed_on = getattr(splitter, "cvargs", {})
    if name in passed_on:
        return passed_on[name]
    try:
        return getattr(splitter, name)
    except AttributeError:
        raise SerializationError(
            f"{where}: {type(splitter).__name__} does not keep its argument {name!r} and cannot be described."
        ) from None


def class_path(cls: type[Any]) -> str:
    """Return the importable name of a class, by a public module where one offers it.

    Private modules move between versions of a package; public ones stay.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from nirs_store.estimators import class_path
    >>> Ridge.__module__, class_path(Ridge)
    ('sklearn.linear_model._ridge', 'sklearn.linear_model.Ridge')
    """
    parts = cls.__module__.split(".")
    public = [part for part in parts if not part.startswith("_")]
    # Of a module such as __main__ no public part is left.
    if 0 < len(public) < len(parts):
        try:
            offered = getattr(importlib.import_module(".".join(public)), cls.__name__, None)
        except ImportError:
            offered = None
        if offered is cls:
            parts = public
    return ".".join([*parts, cls.__qualname__])


def _encode(value: Any, where: str, *, depth: int) -> Any:
    import numpy as np

    if depth > MAX_DEPTH:
        raise SerializationError(f"{where} is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ndarray) and value.size <= _MAX_ARRAY and value.dtype.kind in "biufU":
        return {"array": _encode(value.tolist(), where, depth=depth)}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{where}[{i}]", depth=depth + 1) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or _SPECIAL_KEYS.intersection(value):
            pairs = [list(pair) for pair in value.items()]
            return {"items": _encode(pairs, where, depth=depth + 1)}
        return {key: _encode(item, f"{where}.{key}", depth=depth + 1) for key, item in value.items()}
    if not isinstance(value, type) and (callable(getattr(value, "get_params", None)) or is_splitter(value)):
        return _describe_object(value, where, depth=depth)
    raise SerializationError(
        f"{where} is {type(value).__name__}, which a configuration cannot hold. Use plain values, numpy "
        f"arrays of up to {_MAX_ARRAY} numbers, or estimators."
    )
