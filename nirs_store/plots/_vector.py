"""The coefficients of a chain's linear model, put on the channels of the spectra where the steps before allow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin

from nirs_store.chains import ReplayPlan
from nirs_store.chains.plan import Member, Operator, Stage
from nirs_store.chains.predictor import channels
from nirs_store.chains.replay import Workbench
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.plots._figure import Floats

__all__ = ["RegressionVector", "regression_vector"]

Places = NDArray[np.intp]
#: So many spectra at a time, however many channels there are.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class RegressionVector:
    """Coefficients of one fitted model.

    Attributes
    ----------
    values : ndarray
        One a channel, 0 where a step left the channel out; or one a variable of the model.
    on_channels : bool
        Whether they are those of the channels.
    of_target : bool
        Whether they are in units of the target.
    """

    values: Floats
    on_channels: bool
    of_target: bool


def regression_vector(plan: ReplayPlan, bench: Workbench) -> RegressionVector:
    """Find the coefficients of a plan's first member.

    Raises
    ------
    InvalidInput
        The model has none, or several targets; the message begins after the name of the model.
    """
    member = plan.members[0]
    model, facts = bench.open(member.model)
    found = getattr(model, "coef_", None)
    if found is None:
        raise InvalidInput("has no coefficients; choose a linear model such as PLS.")
    array = np.atleast_2d(np.asarray(found, dtype=np.float64))
    if array.shape[0] != 1:
        raise InvalidInput(f"predicts {array.shape[0]} targets; one can be drawn.")
    own = array[0]
    factor = None if facts.classifier else _to_target(plan, member, bench, own)
    values = own if factor is None else own * factor
    width = None if plan.stack else channels(plan, bench)
    places = None if width is None else _trace(member.stages, bench, width, plan.wavelengths)
    if width is None or places is None or places.size != own.size:
        return RegressionVector(values, False, factor is not None)
    whole = np.zeros(width)
    whole[places] = values
    return RegressionVector(whole, True, factor is not None)


def _to_target(plan: ReplayPlan, member: Member, bench: Workbench, own: Floats) -> float | None:
    """Find what a unit of the model's answer is in units of the target; None where that is no constant."""
    norm = float(own @ own)
    direction = own / norm if norm else own
    y = np.arange(3.0)
    try:
        # A model with a link function has coefficients, too, but not of its predictions.
        made = np.ravel(bench.call(member.model, "predict", np.outer(y, direction), None))
        for target in (*reversed(member.targets), *reversed(plan.targets)):
            y = bench.undo(target, y)
    except NirsStoreError:
        return None
    steps = np.diff(np.asarray(y, dtype=np.float64))
    if not np.allclose(np.diff(made), bool(norm), rtol=1e-5) or not np.isclose(steps[0], steps[1], rtol=1e-6):
        return None
    return float(steps[0])


def _trace(stages: Sequence[Stage], bench: Workbench, width: int, grid: Floats | None) -> Places | None:
    """Find the channel that each variable of the model came from; None where it came from several."""
    # Smooth, positive and nowhere symmetric, as spectra are.
    x = np.linspace(0.0, 1.0, width)
    signal = (0.5 + x + 0.3 * np.sin(7 * x**2) + 0.01 * np.cos(31 * x))[np.newaxis]
    places = np.arange(width)
    for stage in stages:
        if stage.branches or stage.augments or stage.by_source is not None:
            return None
        for operator in stage.operators:
            try:
                found = _origins(bench, operator, signal, grid)
                signal = _transform(bench, operator, signal, grid)
            except NirsStoreError:
                return None
            if found is None:
                return None
            places = places[found]
    return places if np.unique(places).size == places.size else None


def _transform(bench: Workbench, operator: Operator, X: Floats, grid: Any) -> Floats:
    return np.asarray(bench.call(operator, "transform", X, grid), dtype=np.float64)


def _origins(bench: Workbench, operator: Operator, signal: Floats, grid: Any) -> Places | None:
    """Find the channel that each output of a step shows, by changing channels and looking at what changes with them."""
    width, step = signal.shape[1], 1e-3 * (float(np.abs(signal).mean()) or 1.0)
    before = _transform(bench, operator, signal, grid)
    if before.shape[1] == width and isinstance(bench.open(operator)[0], OneToOneFeatureMixin):
        return np.arange(width)
    # Channels whose number has a certain bit are changed together, then all others: an output that shows one channel
    # follows either the one or the other, bit by bit.
    bits = (np.arange(width) >> np.arange(max(width - 1, 1).bit_length())[:, np.newaxis]) & 1
    followed, others = (
        _transform(bench, operator, signal + step * mask, grid) != before for mask in (bits, 1 - bits)
    )
    if (followed != others).all():
        return np.asarray((followed << np.arange(len(bits))[:, np.newaxis]).sum(axis=0), dtype=np.intp)
    if before.shape[1] != width:
        return None
    # What smooths, derives or corrects a whole spectrum keeps the channels in place if each changes mostly itself and
    # its neighbours; towards both ends a filter may do something else.
    inner = np.arange(width // 5, width - width // 5)
    near = 0
    for changed in np.split(inner, range(_CHUNK, inner.size, _CHUNK)):
        moved = np.repeat(signal, changed.size, axis=0)
        moved[np.arange(changed.size), changed] += step
        share = np.cumsum((_transform(bench, operator, moved, grid) - before) ** 2, axis=1)
        middle = (share >= 0.5 * share[:, -1:]).argmax(axis=1)
        near += int(((np.abs(middle - changed) <= 2) & (share[:, -1] > 0)).sum())
    return np.arange(width) if near >= 0.8 * inner.size else None
