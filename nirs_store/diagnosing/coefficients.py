"""The coefficients of a chain's linear model, put on the channels of the spectra where the steps before allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains import ReplayPlan, fold_key
from nirs_store.chains.operators import Workbench
from nirs_store.chains.origins import channel_origins
from nirs_store.chains.plan import Member
from nirs_store.chains.predictor import channels
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.lazy import polars as pl
from nirs_store.protocol import ReadsChains, chain_of

Floats = NDArray[np.float64]
_FINAL = fold_key("final")


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


def coefficients(store: ReadsChains, chain_id: str) -> pl.DataFrame:
    """Return the regression coefficients of a chain's linear model, one row per channel.

    Parameters
    ----------
    store, chain_id
        Workspace and chain.

    Returns
    -------
    polars.DataFrame
        ``wavelength`` (where the chain has wavelengths), ``channel`` (from 0), ``coefficient`` of the refit, and one
        column per fold whose model is stored (``fold_0``, ...). The coefficients belong to the spectra after all
        preprocessing, in units of the target per unit of signal; a channel that a step leaves out has 0. Where a step
        makes other variables of the channels (PCA), ``variable`` counts these instead. Of several targets, each has
        columns of its own: ``coefficient_moisture``, ``fold_0_moisture``, ...; so has each class of a classifier of
        three or more.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The model has no coefficients.
    ReplayError
        Its fitted models are not stored.
    """
    chain = chain_of(store, chain_id)
    names = _outputs(store, chain)
    columns: dict[str, Any] = {}
    on_channels = True
    for output, name in enumerate(names):
        vectors = regression_vectors(store, chain, output if len(names) > 1 else None)
        on_channels = all(each.on_channels for each in vectors.values())
        final = vectors.pop(_FINAL, None)
        if final is None and not on_channels:
            raise InvalidInput(
                f"The steps of chain {chain_id!r} make variables of their own in each fold, so their coefficients have "
                "no common axis. Record the chain with a refit (refit=True)."
            )
        label = f"_{name}" if name else ""
        columns |= {} if final is None else {f"coefficient{label}": final.values}
        # Of a step such as a PCA, each fold made variables of its own.
        columns |= {fold + label: each.values for fold, each in vectors.items() if on_channels}
    width = len(next(iter(columns.values())))
    grid = chain.get("wavelengths")
    start: dict[str, Any] = {}
    if on_channels and grid is not None:
        start["wavelength"] = np.asarray(grid, dtype=float)
    start["channel" if on_channels else "variable"] = np.arange(width)
    return pl.DataFrame(start | columns)


def _outputs(store: ReadsChains, chain: Mapping[str, Any]) -> list[str]:
    """Return the names of a model's several targets or classes; one empty name where it has one vector."""
    plan = ReplayPlan.from_chain(chain)
    model = Workbench(store.load_artifact, plan.memory).open(plan.members[0].model)[0]
    count = len(np.atleast_2d(getattr(model, "coef_", 0.0)))
    if count == 1:
        return [""]
    metadata = chain.get("metadata") or {}
    names = metadata.get("target_names") or metadata.get("classes") or []
    return [str(each) for each in (names if len(names) == count else range(count))]


def regression_vectors(
    store: ReadsChains, chain: Mapping[str, Any], output: int | None = None
) -> dict[str, RegressionVector]:
    """Return the coefficients of each fold's model, and of the refit (``"fold_final"``), on the channels."""
    # `output` counts the targets of a model that has several.
    found = {}
    for fold, identifier in (chain["fold_artifacts"] or {"final": None}).items():
        alone = {"fold_artifacts": {fold: identifier}, "fold_weights": None} if identifier else {}
        plan = ReplayPlan.from_chain({**chain, **alone})
        try:
            found[fold_key(fold)] = regression_vector(
                plan, Workbench(store.load_artifact, plan.memory), output
            )
        except InvalidInput as error:
            name = str(chain["model_class"]).rpartition(".")[2]
            raise InvalidInput(f"The model {name} of chain {chain['chain_id']!r} {error}") from error
    return found


def regression_vector(plan: ReplayPlan, bench: Workbench, output: int | None = None) -> RegressionVector:
    """Find the coefficients of a plan's first member, for one of its targets."""
    member = plan.members[0]
    model, facts = bench.open(member.model)
    found = getattr(model, "coef_", None)
    if found is None:
        raise InvalidInput("has no coefficients; choose a linear model such as PLS.")
    array = np.atleast_2d(np.asarray(found, dtype=np.float64))
    if array.shape[0] != 1 and output is None:
        raise InvalidInput(f"predicts {array.shape[0]} targets; name one with target=....")
    own = array[output or 0]
    factor = None if facts.classifier else _to_target(plan, member, bench, own, output or 0, len(array))
    values = own if factor is None else own * factor
    width = None if plan.stack else channels(plan, bench)
    places = None if width is None else channel_origins(member.stages, bench, width, plan.wavelengths)
    if width is None or places is None or places.size != own.size:
        return RegressionVector(values, False, factor is not None)
    whole = np.zeros(width)
    whole[places] = values
    return RegressionVector(whole, True, factor is not None)


def _to_target(
    plan: ReplayPlan, member: Member, bench: Workbench, own: Floats, output: int, outputs: int
) -> float | None:
    """Find what a unit of the model's answer is in units of the target; None where that is not a constant."""
    norm = float(own @ own)
    direction = own / norm if norm else own
    steps = np.arange(3.0)
    y = steps if outputs == 1 else np.outer(steps, np.eye(outputs)[output])
    try:
        # A model with a link function has coefficients, too, but not of its predictions.
        made = np.asarray(
            bench.call(member.model, "predict", np.outer(steps, direction), None), dtype=np.float64
        )
        for target in (*reversed(member.targets), *reversed(plan.targets)):
            y = bench.undo(target, y)
    except NirsStoreError:
        return None
    if made.size != steps.size * outputs:
        return None
    predicted = np.diff(made.reshape(steps.size, outputs)[:, output])
    units = np.diff(np.asarray(y, dtype=np.float64).reshape(steps.size, outputs)[:, output])
    if not np.allclose(predicted, bool(norm), rtol=1e-5) or not np.isclose(units[0], units[1], rtol=1e-6):
        return None
    return float(units[0])
