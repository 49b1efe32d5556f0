"""From a configuration to estimators; everything in it is checked before anything is made of it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from nirs_store.errors import InvalidInput, did_you_mean

#: Top-level packages whose classes a configuration may name without being asked for.
ALLOWED_PACKAGES = ("chemotools", "sklearn")

#: How deep estimators and values may be nested.
MAX_DEPTH = 20

_STEP_KEYS = {"class", "params", "name"}


def build_estimator(config: Mapping[str, Any] | Iterable[Any], *, allow: Iterable[str] = ()) -> Any:
    """Build the scikit-learn Pipeline that a configuration describes.

    Parameters
    ----------
    config : mapping or sequence
        A mapping with ``steps``, or the steps themselves. A step is a mapping with ``class`` (fully
        qualified), ``params`` (optional) and ``name`` (optional), or just the class.
    allow : iterable of str
        Installed top-level packages whose classes are allowed besides :data:`ALLOWED_PACKAGES`.
        Importing a package runs its code: name only what you trust.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted.

    Raises
    ------
    InvalidInput
        No steps, a class of another package or that does not exist, or a parameter it does not have.

    Examples
    --------
    >>> from nirs_store.estimators import build_estimator
    >>> build_estimator(["sklearn.preprocessing.StandardScaler",
    ...                  {"class": "sklearn.linear_model.Ridge", "params": {"alpha": 0.5}}])
    Pipeline(steps=[('standardscaler', StandardScaler()), ('ridge', Ridge(alpha=0.5))])
    """
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

    _check_rebuildable(config, "steps")
    steps = config.get("steps") if isinstance(config, Mapping) else config
    if not steps or isinstance(steps, (str, Mapping)) or not isinstance(steps, Iterable):
        raise InvalidInput(f"The configuration needs a list of steps under 'steps', but has {steps!r}.")
    packages = _packages(allow)
    named: list[tuple[str, Any]] = []
    for index, step in enumerate(steps):
        where = f"steps[{index}]"
        step = {"class": step} if isinstance(step, str) else step
        if not isinstance(step, Mapping) or not isinstance(step.get("class"), str):
            raise InvalidInput(f"{where} needs a 'class' (fully qualified name), but is {step!r}.")
        if unknown := set(step) - _STEP_KEYS:
            raise InvalidInput(
                f"{where} may have the keys class, params and name, but also has {sorted(map(str, unknown))}."
            )
        built = _construct(step["class"], step.get("params"), packages, where, depth=0)
        if not isinstance(built, BaseEstimator):
            raise InvalidInput(f"{where}: {step['class']} is not a scikit-learn estimator.")
        named.append((_step_name(step.get("name"), built, {name for name, _ in named}, where), built))
    return Pipeline(named)


def build_cv(config: Mapping[str, Any], *, classifier: bool = False, allow: Iterable[str] = ()) -> Any:
    """Build the cross-validation splitter under ``cv`` of a configuration.

    Parameters
    ----------
    config : mapping
        ``cv`` may be a mapping with ``class`` and ``params``, a number of folds, or absent (10 folds).
    classifier : bool
        Whether folds made from a number are stratified by class.
    allow : iterable of str
        As in :func:`build_estimator`.

    Returns
    -------
    object
        With ``split`` and ``get_n_splits``; folds made from a number are shuffled with seed 0.

    Raises
    ------
    InvalidInput
        Fewer than two folds, or a class that is not a splitter.

    Examples
    --------
    >>> from nirs_store.estimators import build_cv
    >>> build_cv({"cv": 5})
    KFold(n_splits=5, random_state=0, shuffle=True)
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    _check_rebuildable(config, "cv")
    cv = config.get("cv")
    cv = 10 if cv is None else cv
    if isinstance(cv, int) and not isinstance(cv, bool):
        if cv < 2:
            raise InvalidInput(f"cv needs at least 2 folds, but is {cv}.")
        return (StratifiedKFold if classifier else KFold)(n_splits=cv, shuffle=True, random_state=0)
    if not isinstance(cv, Mapping) or not isinstance(cv.get("class"), str) or set(cv) - {"class", "params"}:
        raise InvalidInput(f"cv must be a number of folds or {{'class': ..., 'params': ...}}, but is {cv!r}.")
    built = _construct(cv["class"], cv.get("params"), _packages(allow), "cv", depth=0)
    if not is_splitter(built):
        raise InvalidInput(f"cv: {cv['class']} does not split: it has no split() and get_n_splits().")
    return built


def _check_rebuildable(config: Any, part: str) -> None:
    if isinstance(config, Mapping) and part in (config.get("not_rebuildable") or ()):
        raise InvalidInput(
            f"The {part} of this configuration were recorded from code or state (a function, a random "
            "generator, ready-made splits) that a configuration cannot hold: build them in Python."
        )


def _packages(allow: Iterable[str]) -> frozenset[str]:
    names = (allow,) if isinstance(allow, str) else tuple(allow)
    for name in names:
        if not name.isidentifier():
            raise InvalidInput(f"allow takes names of top-level packages, such as 'mypackage', not {name!r}.")
    return frozenset(ALLOWED_PACKAGES).union(names)


def _construct(path: str, params: Any, packages: frozenset[str], where: str, *, depth: int) -> Any:
    cls = _resolve(path, packages, where)
    params = {} if params is None else params
    if not isinstance(params, Mapping):
        raise InvalidInput(f"{where}: params must be a mapping of names to values, but is {params!r}.")
    _check_names(cls, path, params, where)
    values = {
        name: _decode(value, packages, f"{where}.{name}", depth=depth + 1) for name, value in params.items()
    }
    if values.get("memory") is not None:
        raise InvalidInput(
            f"{where}: 'memory' names a folder of pickles and cannot come from a configuration."
        )
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{where}: {path} does not accept these parameters: {error}") from error


def _resolve(path: str, packages: frozenset[str], where: str) -> type[Any]:
    module_name, _, class_name = path.rpartition(".")
    parts = path.split(".")
    if not module_name or not all(part.isidentifier() and not part.startswith("__") for part in parts):
        raise InvalidInput(f"{where}: {path!r} is not a fully qualified class, such as 'sklearn.svm.SVR'.")
    if parts[0] not in packages:
        raise InvalidInput(
            f"{where}: {path} is in the package {parts[0]!r}, but only {', '.join(sorted(packages))} are "
            f"allowed. If you trust it, add allow=[{parts[0]!r}]."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or module_name).split(".")[0]
        remedy = f"Install {missing!r}" if missing == error.name else "Check the spelling"
        raise InvalidInput(f"{where}: {path} cannot be imported: {error}. {remedy}.") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or cls.__module__.split(".")[0] not in packages or not _is_buildable(cls):
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        hint = did_you_mean(class_name, classes)
        raise InvalidInput(f"{where}: {module_name} has no estimator or splitter {class_name!r}.{hint}")
    return cls


def _is_buildable(cls: type[Any]) -> bool:
    return callable(getattr(cls, "get_params", None)) or is_splitter(cls)


def is_splitter(value: Any) -> bool:
    """Tell whether an object or a class cross-validates as scikit-learn's splitters do."""
    return callable(getattr(value, "split", None)) and callable(getattr(value, "get_n_splits", None))


def _check_names(cls: type[Any], path: str, params: Mapping[Any, Any], where: str) -> None:
    accepted = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    for name in params:
        if name not in accepted:
            raise InvalidInput(
                f"{where}: {path} has no parameter {name!r}; it has {', '.join(accepted) or 'none'}."
                f"{did_you_mean(str(name), accepted)}"
            )


def _decode(value: Any, packages: frozenset[str], where: str, *, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{where} is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, Mapping):
        keys = set(value)
        if "class" in keys and keys <= {"class", "params"} and isinstance(value["class"], str):
            return _construct(value["class"], value.get("params"), packages, where, depth=depth)
        if keys == {"items"}:
            return _decode_items(value["items"], packages, where, depth=depth)
        inner = {
            key: _decode(item, packages, f"{where}.{key}", depth=depth + 1) for key, item in value.items()
        }
        if keys == {"tuple"} and isinstance(inner["tuple"], list):
            return tuple(inner["tuple"])
        if keys == {"array"}:
            return _decode_array(inner["array"], where)
        if keys == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return inner
    if isinstance(value, (list, tuple)):
        items = (_decode(item, packages, f"{where}[{i}]", depth=depth + 1) for i, item in enumerate(value))
        return type(value)(items)
    return value


def _decode_items(pairs: Any, packages: frozenset[str], where: str, *, depth: int) -> dict[Any, Any]:
    decoded = _decode(pairs, packages, where, depth=depth + 1)
    try:
        return dict(decoded)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{where}: 'items' needs a list of [key, value] pairs, but has {pairs!r}."
        ) from error


def _decode_array(values: Any, where: str) -> Any:
    import numpy as np

    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(f"{where}: 'array' needs rows of one length: {error}.") from error
    if array.dtype.kind not in "biufU":
        raise InvalidInput(f"{where}: 'array' holds numbers, booleans or texts, but has {values!r}.")
    return array


def _step_name(given: Any, built: Any, taken: set[str], where: str) -> str:
    if given is not None:
        if not isinstance(given, str) or not given or "__" in given or given in taken:
            raise InvalidInput(f"{where}: name must be a unique text without '__', but is {given!r}.")
        return given
    base = type(built).__name__.lower()
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
