"""Take an estimator apart into the steps of a chain, and put steps into words and JSON."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from nirs_store.errors import SerializationError
from nirs_store.estimators import class_path, describe_cv, describe_estimator

#: What people who work with spectra write instead of the class.
_SHORT = {
    "ExtendedMultiplicativeScatterCorrection": "EMSC",
    "MultiplicativeScatterCorrection": "MSC",
    "NorrisWilliams": "NW",
    "PLSRegression": "PLS",
    "RobustNormalVariate": "RNV",
    "SavitzkyGolay": "SG",
    "StandardNormalVariate": "SNV",
}
#: The parameter that says what a step is, given without its name and even at its default.
_PRINCIPAL = {
    "PCA": "n_components",
    "PLSCanonical": "n_components",
    "PLSRegression": "n_components",
}
#: Parameters that are given even at their default.
_ALWAYS = {"SavitzkyGolay": ("deriv",), "Ridge": ("alpha",), "Lasso": ("alpha",)}

_MAX_TEXT = 60
_MAX_JSON_ARRAY = 1000


@dataclass(frozen=True)
class Parts:
    """An estimator as the steps of a chain: transformers in order, then the model."""

    transformers: tuple[Any, ...]
    model: Any


def take_apart(estimator: Any) -> Parts:
    """Flatten a scikit-learn Pipeline, nested ones included, into transformers and a model."""
    steps = _flatten(estimator)
    return Parts(tuple(steps[:-1]), steps[-1] if steps else None)


def _flatten(estimator: Any) -> list[Any]:
    if type(estimator) is not Pipeline:
        return [estimator]
    return [
        part
        for _, step in estimator.steps
        if step is not None and not isinstance(step, str)
        for part in _flatten(step)
    ]


def class_name(value: Any) -> str:
    """Return the importable name of an object's class, through public modules where they offer it."""
    return class_path(type(value))


def parameters(value: Any) -> dict[str, Any]:
    """Return the constructor parameters of an estimator or splitter as strict JSON values."""
    return {name: json_safe(item) for name, item in _raw_parameters(value).items()}


def _raw_parameters(value: Any) -> dict[str, Any]:
    if callable(getattr(value, "get_params", None)):
        found = dict(value.get_params(deep=False))
    else:
        # Splitters have no get_params; scikit-learn keeps each argument under its own name.
        names = _signature(type(value))
        found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    # A renamed parameter that was not set is marked with this text.
    return {
        name: item for name, item in found.items() if not (isinstance(item, str) and item == "deprecated")
    }


def json_safe(value: Any) -> Any:
    """Make a value fit for strict JSON; what JSON cannot say is given by its repr."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, np.ndarray):
        if value.size > _MAX_JSON_ARRAY:
            return f"array of shape {value.shape}, {value.dtype}"
        return json_safe(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    return _code_name(value) or repr(value)


def describe(step: Any) -> str:
    """Put a step into a few characters: its short name and the parameters that are not default."""
    cls = type(step)
    defaults = _signature(cls)
    values = _raw_parameters(step)
    principal = _PRINCIPAL.get(cls.__name__)
    always = _ALWAYS.get(cls.__name__, ())
    words: list[str] = []
    # In the order of the signature: get_params sorts by name.
    for name in defaults:
        if name not in values:
            continue
        if name == principal:
            words.append(_value_text(values[name]))
        elif name in always or not _same(values[name], defaults[name]):
            words.append(f"{name}={_value_text(values[name])}")
    short = _SHORT.get(cls.__name__, cls.__name__)
    return f"{short}({', '.join(words)})" if words else short


def preprocessing_text(steps: tuple[Any, ...]) -> str:
    """Join the descriptions of steps with `` > ``, as in ``SNV > SG(deriv=1) > PLS(10)``."""
    return " > ".join(describe(step) for step in steps)


def preprocessing_of(parts: Parts) -> str:
    """Describe the preprocessing of a chain, that inside a model which wraps pipelines (a search, a vote)
    included.
    """
    before = preprocessing_text(parts.transformers)
    inside = _pipelines_in(parts.model)
    nested = {id(each) for outer in inside for each in _pipelines_in(outer)}
    described = [preprocessing_text(tuple(_flatten(each)[:-1])) for each in inside if id(each) not in nested]
    texts = [text for text in dict.fromkeys(described) if text]
    wrapped = f"{' | '.join(texts)} (in {type(parts.model).__name__})" if texts else ""
    return " > ".join(text for text in (before, wrapped) if text)


def _pipelines_in(estimator: Any) -> list[Any]:
    found = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    return [each for each in found if type(each) is Pipeline]


def configuration(estimator: Any, cv: Any) -> dict[str, Any]:
    """Return a configuration that `nirs_store.estimators` rebuilds, as far as JSON can say it."""
    lost = []
    try:
        config = describe_estimator(estimator)
    except SerializationError:
        parts = take_apart(estimator)
        config = {"steps": [_readable(step) for step in (*parts.transformers, parts.model)]}
        lost.append("steps")
    try:
        config["cv"] = describe_cv(cv)
    except SerializationError:
        config["cv"] = _readable(cv)
        lost.append("cv")
    if lost:
        config["not_rebuildable"] = lost
    return config


def _readable(value: Any) -> dict[str, Any]:
    return {"class": class_name(value), "params": parameters(value)}


def _signature(cls: type[Any]) -> dict[str, Any]:
    try:
        found = inspect.signature(cls).parameters
    except (TypeError, ValueError):  # some classes written in C have none
        return {}
    return {name: parameter.default for name, parameter in found.items()}


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    return type(value) is type(default) and isinstance(value, (bool, int, float, str)) and value == default


def _value_text(value: Any) -> str:
    if callable(getattr(value, "get_params", None)) and not isinstance(value, type):
        if type(value) is Pipeline:
            return preprocessing_text(tuple(_flatten(value)))
        return describe(value)
    if isinstance(value, (list, tuple)):
        return _shorten(f"[{', '.join(_value_text(item) for item in value)}]")
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    return _shorten(_code_name(value).rpartition(".")[2] or repr(value))


def _code_name(value: Any) -> str:
    """Name a class or a function without the address that its repr shows; else nothing."""
    if isinstance(value, type):
        return class_path(value)
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
    return f"{module}.{name}" if isinstance(name, str) and isinstance(module, str) else ""


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
