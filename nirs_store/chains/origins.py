"""Which channel of the spectra a variable after the preprocessing shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin

from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import Stage
from nirs_store.chains.steps import Operator
from nirs_store.errors import NirsStoreError

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
#: So many spectra at a time, however many channels there are.
_CHUNK = 256


def channel_origins(
    stages: Sequence[Stage], bench: Workbench, width: int, grid: Floats | None
) -> Places | None:
    """Find the channel that each variable after some steps came from; None where one came from several."""
    # Steps that select or reorder channels are seen through, whatever their class; those that smooth, derive or correct
    # spectra keep the channels in place.
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
    # its neighbors; towards both ends a filter may do something else.
    inner = np.arange(width // 5, width - width // 5)
    near = 0
    for changed in np.split(inner, range(_CHUNK, inner.size, _CHUNK)):
        moved = np.repeat(signal, changed.size, axis=0)
        moved[np.arange(changed.size), changed] += step
        share = np.cumsum((_transform(bench, operator, moved, grid) - before) ** 2, axis=1)
        middle = (share >= 0.5 * share[:, -1:]).argmax(axis=1)
        near += int(((np.abs(middle - changed) <= 2) & (share[:, -1] > 0)).sum())
    return np.arange(width) if near >= 0.8 * inner.size else None
