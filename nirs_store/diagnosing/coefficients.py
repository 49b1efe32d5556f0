"""The coefficients of a chain's linear model, put on the channels of the spectra where the steps before allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains import ReplayPlan, fold_key
from nirs_store.chains.origins import channel_origins
from nirs_store.chains.plan import Member
from nirs_store.chains.predictor import channels
from nirs_store.chains.replay import Workbench
from nirs_store.diagnosing.diagnose import ReadsChains
from nirs_store.errors import InvalidInput, NirsStoreError, UnknownId
from nirs_store.lazy import polars as pl

__all__ = ["RegressionVector", "coefficients", "regression_vector", "regression_vectors"]

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
        makes other variables of the channels (PCA), ``variable`` counts these instead.

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The model has no coefficients or several targets, or its fitted models are not stored.
    """
    chain = store.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id)
    vectors = regression_vectors(store, chain)
    final = vectors.pop(_FINAL, None)
    on_channels = all(each.on_channels for each in (final, *vectors.values()) if each is not None)
    if final is not None and not on_channels:
        vectors = {}  # each fold made variables of its own
    if final is None and not on_channels:
        raise InvalidInput(
            f"The steps of chain {chain_id!r} make variables of their own in each fold, so their coefficients have no "
            "common axis. Record the chain with a refit (refit=True)."
        )
    columns: dict[str, Any] = {} if final is None else {"coefficient": final.values}
    columns |= {fold: each.values for fold, each in vectors.items()}
    width = len(next(iter(columns.values())))
    grid = chain.get("wavelengths")
    start: dict[str, Any] = (
        {"wavelength": np.asarray(grid, dtype=float)} if on_channels and grid is not None else {}
    )
    start["channel" if on_channels else "variable"] = np.arange(width)
    return pl.DataFrame(start | columns)


def regression_vectors(store: ReadsChains, chain: Mapping[str, Any]) -> dict[str, RegressionVector]:
    """Return the coefficients of each fold's model, and of the refit (``"fold_final"``), on the channels.

    Raises
    ------
    InvalidInput
        A model has no coefficients, or several targets.
    """
    found = {}
    for fold, identifier in (chain["fold_artifacts"] or {"final": None}).items():
        alone = {"fold_artifacts": {fold: identifier}, "fold_weights": None} if identifier else {}
        plan = ReplayPlan.from_chain({**chain, **alone})
        try:
            found[fold_key(fold)] = regression_vector(plan, Workbench(store.load_artifact, plan.memory))
        except InvalidInput as error:
            name = str(chain["model_class"]).rpartition(".")[2]
            raise InvalidInput(f"The model {name} of chain {chain['chain_id']!r} {error}") from error
    return found


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
        raise InvalidInput(f"predicts {array.shape[0]} targets; choose a chain of one target.")
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
