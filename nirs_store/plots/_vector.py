"""The coefficients of a chain's linear model, put on the channels of the spectra where the steps before allow it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nirs_store.chains import ReplayPlan
from nirs_store.chains.origins import channel_origins
from nirs_store.chains.plan import Member
from nirs_store.chains.predictor import channels
from nirs_store.chains.replay import Workbench
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.plots._figure import Floats

__all__ = ["RegressionVector", "regression_vector"]


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
    places = None if width is None else channel_origins(member.stages, bench, width, plan.wavelengths)
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
