"""Predicting with a chain as it will travel, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nirs_store.bundle.artifacts import Blobs
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.replay import predict
from nirs_store.chains.width import channels
from nirs_store.errors import NirsStoreError

__all__ = ["made_up_spectra", "predicts_the_same"]


def predicts_the_same(
    packed: Mapping[str, Any], objects: Mapping[str, Any], plan: ReplayPlan, blobs: Blobs, X: Any
) -> bool | None:
    """Compare a chain as it travels with the stored one, to the last bit.

    Parameters
    ----------
    packed, objects
        The chain as it travels, and its objects by id.
    plan, blobs
        The chain as it is stored, and its artifacts.
    X : array or data frame, or None
        Spectra; None takes made-up ones.

    Returns
    -------
    bool or None
        None when there are no spectra on which the stored chain predicts.
    """
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
