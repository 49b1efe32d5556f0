"""Preprocessing by name: what chemometricians write, as transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sklearn.preprocessing import StandardScaler

from nirs_store.errors import InvalidInput, did_you_mean
from nirs_store.recording.steps import preprocessing_text, take_apart

_CHEMOTOOLS = {
    "snv": ("scatter", "StandardNormalVariate", {}),
    "msc": ("scatter", "MultiplicativeScatterCorrection", {}),
    "emsc": ("scatter", "ExtendedMultiplicativeScatterCorrection", {}),
    "detrend": ("baseline", "PolynomialCorrection", {"order": 2}),
}
_SCALERS: dict[str, Callable[[], Any]] = {
    "autoscale": StandardScaler,
    "center": lambda: StandardScaler(with_std=False),
}
_WINDOW, _ORDER = 15, 2
#: What may be given by name; "sg1(15,2)" sets window and polynomial order, "+" joins.
NAMES = ("raw", *_CHEMOTOOLS, "sg0", "sg1", "sg2", *_SCALERS)


def named_preprocessings(given: Any) -> dict[str, list[Any]]:
    """Return the transformers of each preprocessing by its name."""
    if isinstance(given, Mapping):
        pairs: Iterable[tuple[Any, Any]] = given.items()
    else:
        items = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        pairs = [(None, item) for item in items]
    found: dict[str, list[Any]] = {}
    for label, item in pairs:
        steps = transformers_of(item)
        if label is not None:
            name = str(label)
        elif isinstance(item, str):
            name = _tidy(item)
        else:
            name = preprocessing_text(tuple(steps)) or "raw"
        if name in found:
            raise InvalidInput(f"preprocess: {name!r} is given twice.")
        found[name] = steps
    if not found:
        raise InvalidInput("preprocess: expected at least one, for example 'raw'; found none.")
    return found


def transformers_of(item: Any) -> list[Any]:
    """Return the transformers of one preprocessing: a name, a transformer, a pipeline of transformers, or a list."""
    if item is None:
        return []
    if isinstance(item, str):
        return [step for word in _tidy(item).split("+") for step in _by_name(word, item)]
    if isinstance(item, Sequence):
        return [step for each in item for step in transformers_of(each)]
    parts = take_apart(item)
    steps = [*parts.transformers, *([] if parts.model is None else [parts.model])]
    for step in steps:
        if isinstance(step, type) or not (hasattr(step, "transform") and hasattr(step, "fit")):
            raise InvalidInput(
                f"preprocess: expected names, transformers or pipelines of transformers; found {step!r}."
            )
    return steps


def _tidy(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()


def _by_name(word: str, whole: str) -> list[Any]:
    match = re.fullmatch(r"sg([0-2])(?:\(([0-9]+),([0-9]+)\))?", word)
    if match:
        deriv, window, order = match.groups()
        return [_savitzky_golay(int(deriv), int(window or _WINDOW), int(order or _ORDER), whole)]
    if word == "raw":
        return []
    if word in _SCALERS:
        return [_SCALERS[word]()]
    if word in _CHEMOTOOLS:
        module, name, options = _CHEMOTOOLS[word]
        return [_chemotools(module, name)(**options)]
    hint = did_you_mean(word, NAMES)
    raise InvalidInput(
        f"preprocess: unknown name {word[:40]!r}.{hint} Known: {', '.join(NAMES)}; 'sg1(15,2)' sets window and "
        "polynomial order, 'snv+sg1' joins two. Any transformer can be given in place of a name."
    )


def _savitzky_golay(deriv: int, length: int, degree: int, whole: str) -> Any:
    if length % 2 == 0 or length <= degree or degree < deriv:
        raise InvalidInput(
            f"preprocess: {whole[:40]!r} needs an odd window that is longer than the polynomial order, which is at "
            f"least the derivative; found window {length}, order {degree}, derivative {deriv}."
        )
    return _chemotools("derivative", "SavitzkyGolay")(window_length=length, polyorder=degree, deriv=deriv)


def _chemotools(module: str, name: str) -> Any:
    try:
        found = __import__(f"chemotools.{module}", fromlist=[name])
    except ImportError as error:
        raise InvalidInput(
            "preprocess: names such as 'snv' and 'sg1' need chemotools, which is not installed. "
            "Run: pip install 'chemotools>=0.5'. Or give transformers in place of names."
        ) from error
    return getattr(found, name)
