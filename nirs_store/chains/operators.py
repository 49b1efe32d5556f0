"""One object of a chain: finding out what it accepts, calling it, and saying what went wrong."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.blobs.trusted import always_trusted, configuration_file
from nirs_store.chains.steps import Operator
from nirs_store.errors import InvalidInput, NirsStoreError, ReplayError, ShapeMismatch

Load = Callable[[str], Any]
"""Returns the fitted object behind an artifact id; it is shared, so it is never changed."""

_COPY_FLAGS = frozenset({"copy", "copy_X"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What inspection says about a fitted object; the same for all loads of one artifact."""

    n_features: int | None
    allows_nan: bool
    leaves_input: bool
    classifier: bool
    one_d_targets: bool
    plain: bool
    wavelengths: Mapping[str, str]


class Workbench:
    """Loads the objects of one plan, remembers what is known about them, and calls them."""

    __slots__ = ("_memory", "finite", "load")

    def __init__(self, load: Load, memory: dict[str, Any], finite: bool = True) -> None:
        #: Returns the fitted object behind an artifact id.
        self.load = load
        self._memory = memory
        self.finite = finite

    def open(self, operator: Operator) -> tuple[Any, Facts]:
        """Return the object itself and what is known about it."""
        known = self._memory.get(operator.key)
        if operator.artifact_id is None:
            if known is None:
                rebuilt = _rebuild(operator)
                known = self._memory.setdefault(operator.key, (rebuilt, _inspect(rebuilt)))
            return known[0], known[1]
        loaded = self.load(operator.artifact_id)
        if known is None:
            known = self._memory.setdefault(operator.key, _inspect(loaded))
        return loaded, known

    def facts(self, operator: Operator) -> Facts:
        """Return what is known about an object, which need not be loaded again for that."""
        known = self._memory.get(operator.key)
        if known is None:
            return self.open(operator)[1]
        facts: Facts = known if operator.artifact_id is not None else known[1]
        return facts

    def call(
        self, operator: Operator, method: str, X: Any, wavelengths: NDArray[np.float64] | None = None
    ) -> Any:
        """Call ``transform``, ``predict`` or ``predict_proba`` on spectra."""
        target, facts = self.open(operator)
        function = getattr(target, method, None)
        if function is None:
            raise ReplayError(
                f"{operator.where} is a {type(target).__name__}, which has no {method}(); "
                "check the type of the step and the artifact it names."
            )
        if facts.n_features is not None and X.shape[1] != facts.n_features:
            raise ShapeMismatch(
                f"{_label(operator, target)} was fitted on {facts.n_features} channels, but gets "
                f"{X.shape[1]}. Give spectra on the grid that the chain was trained on."
            )
        if not self.finite and not facts.allows_nan:
            _refuse_missing(X, _label(operator, target))
        if not facts.leaves_input:
            X = own_copy(X)
        options: dict[str, Any] = {}
        if method in facts.wavelengths:
            if wavelengths is not None:
                options["wavelengths"] = wavelengths
            elif facts.wavelengths[method] == "required":
                raise InvalidInput(
                    f"{_label(operator, target)} needs the wavelengths of X: pass wavelengths=."
                )
        try:
            with plain_output():
                return function(X, **options)
        except (NirsStoreError, MemoryError):
            raise
        except Exception as error:
            if self.finite:
                _refuse_missing(X, _label(operator, target), born_inside=True)
            hint = "" if operator.artifact_id else " It was rebuilt as stateless: store it fitted instead."
            raise ReplayError(
                f"{_label(operator, target)} failed on input of shape {X.shape}: {_words(error)}."
                f"{hint}{_versions(target)}"
            ) from error

    def undo(self, operator: Operator, y: NDArray[Any]) -> NDArray[Any]:
        """Transform predictions back; 1-D values go in as one column and come out 1-D."""
        target, facts = self.open(operator)
        inverse = getattr(target, "inverse_transform", None)
        if inverse is None:
            raise ReplayError(
                f"{operator.where} transformed the targets in training, but {type(target).__name__} has no "
                "inverse_transform(), so predictions cannot be given in the unit of the targets."
            )
        if not facts.leaves_input:
            y = own_copy(y)
        as_column = y.ndim == 1 and not facts.one_d_targets
        try:
            result = np.asarray(inverse(y.reshape(-1, 1) if as_column else y))
        except (NirsStoreError, MemoryError):
            raise
        except Exception as error:
            raise ReplayError(
                f"{_label(operator, target)} could not transform predictions of shape {y.shape} back: "
                f"{_words(error)}.{_versions(target)}"
            ) from error
        return result.ravel() if as_column and result.shape == (len(y), 1) else result


def _label(operator: Operator, target: Any) -> str:
    return operator.where if operator.name else f"{operator.where} ({type(target).__name__})"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")


def _versions(target: Any) -> str:
    """Name both versions where an object, or one inside it, was fitted with another scikit-learn."""
    written = sorted(
        {
            str(made)
            for part in (target, *parts_of(target))
            if (made := getattr(part, "_sklearn_version", None))
        }
    )
    if not written:
        return ""
    import sklearn

    if written == [sklearn.__version__]:
        return ""
    return (
        f" It was fitted with scikit-learn {' and '.join(written)}, and {sklearn.__version__} is installed here; "
        "replay it with that version, or train the chain again."
    )


def plain_output() -> AbstractContextManager[None]:
    """Let the configuration of this process change no output: only a step's own set_output is part of a chain."""
    if "sklearn" not in sys.modules:
        return nullcontext()
    import sklearn

    if sklearn.get_config()["transform_output"] == "default":
        return nullcontext()
    context: AbstractContextManager[None] = sklearn.config_context(transform_output="default")
    return context


def own_copy(X: Any) -> Any:
    """Copy an array without changing its memory layout, on which the last bits of a product can depend."""
    return X.copy(order="K") if isinstance(X, np.ndarray) else copy.deepcopy(X)


# Packages of estimators whose modules only define things.
_ESTIMATOR_PACKAGES = frozenset({"chemotools", "nirs4all", "nirs_store", "scipy", "sklearn"})


def _refuse_import(module: str, operator: Operator, hint: str) -> None:
    """Raise before a module is imported that only the stored text names: importing a module runs it."""
    parts = module.split(".")
    plain = all(part.isidentifier() and not part.startswith("__") for part in parts)
    if plain and (module in sys.modules or parts[0] in _ESTIMATOR_PACKAGES):
        return
    named = {name.partition(".")[0] for name in always_trusted()} if plain else set()
    if parts[0] not in named:
        raise ReplayError(
            f"{operator.where}: the stored chain names the class {operator.name[:200]!r}, and its module is not "
            "imported in this process. Importing a module runs it, so nothing was imported. If you trust it, write "
            f"'import {module[:200]}' before you replay the chain, or write the class into {configuration_file()}. "
            f"{hint}"
        )


def _rebuild(operator: Operator) -> Any:
    module, _, name = operator.name.rpartition(".")
    hint = "Store the object as an artifact of the step, or install the package it comes from."
    if not module:
        raise ReplayError(
            f"{operator.where} is stateless and has no artifact, and {operator.name!r} is not the full name "
            f"of a class, such as sklearn.preprocessing.Normalizer, from which it could be rebuilt. {hint}"
        )
    _refuse_import(module, operator, hint)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ReplayError(
            f"{operator.where}: {operator.name} cannot be imported ({error}). {hint}"
        ) from error
    # The name comes from stored text: only a transformer is ever called because of it.
    if not isinstance(found, type) or not callable(getattr(found, "transform", None)):
        raise ReplayError(f"{operator.where}: {operator.name} is not a class with a transform(). {hint}")
    if operator.params.get("memory") is not None:
        raise ReplayError(
            f"{operator.where}: its memory names a folder of pickles, which stored text may not do."
        )
    try:
        return found(**operator.params)
    except Exception as error:
        raise ReplayError(
            f"{operator.where}: {operator.name} cannot be made with {dict(operator.params)}: {error}. {hint}"
        ) from error


def _inspect(target: Any) -> Facts:
    tags = _tags(target)
    n_features = getattr(target, "n_features_in_", None)
    kind = tags.estimator_type if tags else getattr(target, "_estimator_type", None)
    wanted: dict[str, str] = {}
    for method in ("transform", "predict", "predict_proba"):
        need = _wavelength_parameter(getattr(target, method, None))
        if need:
            wanted[method] = need
    return Facts(
        n_features=int(n_features) if isinstance(n_features, int | np.integer) else None,
        allows_nan=allows_nan(target),
        leaves_input=_leaves_input(target),
        classifier=kind == "classifier"
        or (kind is None and hasattr(target, "classes_") and hasattr(target, "predict")),
        one_d_targets=bool(tags and tags.target_tags.one_d_labels),
        plain=_is_sklearn(target) and not any(map(_is_estimator, made_of(target))),
        wavelengths=wanted,
    )


def allows_nan(target: Any) -> bool:
    """Tell whether an estimator says that it copes with NaN; a FeatureUnion does where all in it do."""
    inside = getattr(target, "transformer_list", None)
    if inside:
        return all(allows_nan(each) for _, each in inside)
    tags = _tags(target)
    return bool(tags and tags.input_tags.allow_nan)


def _tags(target: Any) -> Any:
    try:
        return target.__sklearn_tags__()
    except AttributeError:
        # None at all, or a mixin without the base class that would complete them.
        return None


def _wavelength_parameter(method: Any) -> str:
    try:
        parameter = inspect.signature(method).parameters.get("wavelengths")
    except (TypeError, ValueError):
        return ""
    if parameter is None or parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
        return ""
    return "required" if parameter.default is parameter.empty else "optional"


def _leaves_input(target: Any) -> bool:
    """Tell whether an object, and all it is made of, is scikit-learn's own and was not told to work in place."""
    # scikit-learn tests its estimators for this; for all others, and for functions that a user gave to one of them,
    # an array is copied before they see it.
    if not _is_sklearn(target):
        return False
    if any(value is False for name, value in _parameters(target).items() if name in _COPY_FLAGS):
        return False
    for part in made_of(target):
        if not _is_sklearn(part) or (_is_estimator(part) and not _leaves_input(part)):
            return False
    return True


def made_of(target: Any) -> Iterator[Any]:
    """Return the estimators, functions and classes among the parameters of an estimator, those in lists too."""
    # Asked for level by level: what is frozen does not tell its parameters with those of the whole.
    yield from _within(_parameters(target))
    # A search uses what it chose, whose parameters need not be those it began with.
    yield from _within(getattr(target, "best_estimator_", None))


def _parameters(target: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any]
    try:
        found = target.get_params(deep=False)
    except AttributeError:
        # Fitted with an older scikit-learn, it lacks a parameter that came later, but can still predict.
        found = vars(target)
    return found


def parts_of(target: Any) -> Iterator[Any]:
    """Return every estimator inside an estimator, at any depth."""
    for part in made_of(target) if _is_estimator(target) else ():
        if _is_estimator(part):
            yield part
            yield from parts_of(part)


def _within(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _within(item)
    elif hasattr(value, "get_params") or callable(value):
        yield value


def _is_estimator(value: Any) -> bool:
    return hasattr(value, "get_params") and not isinstance(value, type)


def _is_sklearn(target: Any) -> bool:
    made_by = target if isinstance(target, type) else type(target)
    return made_by.__module__.partition(".")[0] == "sklearn"


def _refuse_missing(X: Any, where: str, born_inside: bool = False) -> None:
    try:
        good = np.isfinite(np.asarray(X)).all(axis=1)
    except (TypeError, ValueError):
        return
    rows = np.flatnonzero(~good)
    if not rows.size:
        return
    named = ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else "")
    if born_inside:
        raise InvalidInput(
            f"The steps before {where} turned finite spectra into NaN or infinities in {rows.size} "
            f"of {len(good)} samples (rows {named}), as SNV does with a constant spectrum. Leave those out."
        )
    raise InvalidInput(
        f"X has NaN or infinities in {rows.size} of {len(good)} samples (rows {named}), and {where} "
        "does not allow them. Remove or impute them first."
    )
