"""How many channels a chain takes, as far as its fitted objects tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import ReplayPlan, Stage
from nirs_store.chains.steps import Operator

__all__ = ["channels"]


def channels(plan: ReplayPlan, bench: Workbench) -> int | None:
    """Give the number of channels that spectra for a chain must have.

    Parameters
    ----------
    plan : ReplayPlan
        The chain.
    bench : Workbench
        Opens its objects, and those of the chains that feed it.

    Returns
    -------
    int or None
        None where nothing tells, and where sources are kept apart, each of which has a number of its own.
    """
    if plan.wavelengths is not None:
        return int(plan.wavelengths.size)
    if plan.sources:
        return None
    if plan.stack:
        # What its own objects get are predictions; the spectra go to the chains that feed it.
        widths = (channels(base, bench) for base in plan.stack)
    else:
        member = plan.members[0]
        widths = (bench.open(operator)[1].n_features for operator in _meets(member.stages, member.model))
    return next((width for width in widths if width), None)


def _meets(stages: Sequence[Stage], model: Operator | None) -> Iterator[Operator]:
    """The operators that meet as many channels as come in.

    One that does not know the number mostly keeps it, so the next is asked.
    """
    for stage in stages:
        for inside in stage.branches:
            yield from _meets(inside, None)
        yield from stage.operators
        if stage.branches or stage.augments:
            # What follows meets more than came in.
            return
    if model is not None:
        yield model
