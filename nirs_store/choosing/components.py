"""Suggest a number of latent variables among the recorded chains that differ in nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.family import Family, components_of, family_of
from nirs_store.chains.one_target import one_target, place_of, say_which, targets_of
from nirs_store.choosing.rules import Rule, errors_of_the_mean, select_components
from nirs_store.display import with_unit
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.protocol import ReadsRuns, chain_of

__all__ = ["ComponentChoice", "Errors", "errors_of_run", "suggest_components"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ComponentChoice:
    """A chosen number of latent variables, with the rule and the table that it was chosen from.

    Attributes
    ----------
    components : int
        The chosen number; 0 if no model is distinguishable from the mean of y.
    chain_id : str or None
        The chain with that number; None for 0.
    rule : str
        The rule.
    table : polars.DataFrame
        ``components, chain_id, rmsecv, se, p, wold_r, chosen``; the first row, 0 components, predicts each sample by
        the mean of the others.
    preprocessings, target, unit : str
        What the chains have in common.
    """

    components: int
    chain_id: str | None
    rule: str
    table: pl.DataFrame
    preprocessings: str
    target: str
    unit: str

    @property
    def rmsecv(self) -> float:
        """Return the RMSECV at the chosen number, in the unit of the target."""
        return float(self.table.filter(pl.col("chosen"))["rmsecv"][0])

    def __repr__(self) -> str:
        best = self.table.sort("rmsecv").row(0, named=True)
        words = with_unit(self.target, self.unit) or "y"
        return (
            f"<{self.components} latent variables by {self.rule} for {words} "
            f"after {self.preprocessings or 'no preprocessing'}: "
            f"RMSECV {self.rmsecv:.4g}; lowest {best['rmsecv']:.4g} at {best['components']}>"
        )


@dataclass(frozen=True, eq=False)
class Errors:
    """Out-of-fold errors of one chain: predicted minus measured for each fold and sample."""

    keys: list[tuple[str, Any]]
    measured: Floats
    errors: Floats
    named: bool

    @property
    def samples(self) -> list[Any]:
        """Return the sample of each error; a repeated cross-validation brings samples several times."""
        return [name for _, name in self.keys] if self.named else list(self.keys)

    def of_the_mean(self) -> Floats:
        """Return the errors of a model without components for the same folds and samples."""
        place: dict[Any, int] = {}
        rows = [place.setdefault(sample, len(place)) for sample in self.samples]
        first = np.unique(rows, return_index=True)[1]
        found: Floats = errors_of_the_mean(self.measured[first])[rows]
        return found


def suggest_components(
    store: ReadsRuns,
    chains: str | Sequence[str],
    rule: Rule = "one_se",
    *,
    alpha: float = 0.01,
    threshold: float = 0.95,
    n_permutations: int = 999,
    seed: int = 0,
    target: str | int | None = None,
) -> ComponentChoice | list[ComponentChoice]:
    """Suggest a number of latent variables by a rule.

    Parameters
    ----------
    store : WorkspaceStore
        Where the chains are recorded.
    chains : str or sequence of str
        A chain stands for its family: the chains of its run on the same data with the same splitter, preprocessing
        and parameters, which differ in the number of latent variables only. A sequence of chains must be of one
        family. A run stands for all its families.
    rule, alpha, threshold, n_permutations, seed
        As for `select_components`.
    target : str or int, optional
        Which target, by name or counted from 0, of chains that predict several. A run without it gives a choice for
        each of them.

    Returns
    -------
    ComponentChoice, or for a run a list of them
        One per family of at least two chains and target, the lowest RMSECV first.

    Raises
    ------
    UnknownId
        No run or chain has that id.
    InvalidInput
        The chains are not of one family, a family has fewer than two numbers of latent variables, the out-of-fold
        predictions are not stored, or the chains do not predict one number per sample.
    """
    options: dict[str, Any] = {
        "alpha": alpha,
        "threshold": threshold,
        "n_permutations": n_permutations,
        "seed": seed,
    }
    unnarrowed, store = store, one_target(store, target)
    if isinstance(chains, str) and unnarrowed.get_chain(chains) is None:
        if store.get_run(chains) is None:
            raise UnknownId("run or chain", chains)
        members = store.get_chains_for_run(chains)
        names = {name: None for row in members for name in targets_of(row)} if target is None else {}
        choices = _choices(store, chains, rule, options, target)
        for name in names:
            choices += _choices(one_target(store, name), chains, rule, options, name)
        if not choices:
            raise InvalidInput(
                f"The run {chains!r} has no chains that differ in the number of latent variables only."
            )
        return sorted(choices, key=lambda choice: choice.rmsecv)
    wanted = [chains] if isinstance(chains, str) else list(chains)
    if not wanted:
        raise InvalidInput("chains: expected a run, a chain, or several chains; found none.")
    runs, rows = [], {}
    for chain_id in wanted:
        chain = chain_of(store, chain_id)
        pipeline = store.get_pipeline(chain["pipeline_id"])
        runs.append("" if pipeline is None else str(pipeline["run_id"]))
        rows[str(chain["chain_id"])] = chain
    if len(set(runs)) > 1:
        raise InvalidInput(f"chains: expected chains of one run; found {len(set(runs))} runs.")
    members = store.get_chains_for_run(runs[0])
    if len(wanted) > 1:
        members = [row for row in members if row["chain_id"] in rows]
    own = next(row for row in members if row["chain_id"] in rows)
    family = family_of(own, own.get("dataset_hash"))
    groups = _families(members)
    group = groups.get(family, [])
    if len(wanted) > 1 and len(groups) > 1:
        other = next(each for each in groups if each != family)
        differs = [name for name, a, b in zip(Family._fields, family, other, strict=True) if a != b]
        raise InvalidInput(
            "chains: expected chains that differ in the number of latent variables only; "
            f"these differ in {', '.join(differs)}."
        )
    if _numbers(group) < 2:
        raise InvalidInput(
            "chains: expected at least two numbers of latent variables on the same data, splitter and preprocessing; "
            f"found {sorted({n for row in group if (n := components_of(row)) is not None})}."
        )
    wanted_ids = [str(row["chain_id"]) for row in group]
    return _choose(store, errors_of_run(store, runs[0], wanted_ids), family, group, rule, options)


def _choices(
    store: ReadsRuns, run_id: str, rule: Rule, options: dict[str, Any], target: str | int | None
) -> list[ComponentChoice]:
    """Choose for each family of a run: with a target for those that predict it, else for those of one target."""
    errors = errors_of_run(store, run_id)
    found = _families(store.get_chains_for_run(run_id))
    return [
        _choose(store, errors, family, group, rule, options)
        for family, group in found.items()
        if _numbers(group) > 1
        and not targets_of(group[0])
        and (target is None or place_of(group[0]) is not None or family.target == target)
    ]


def errors_of_run(store: ReadsRuns, run_id: str, chains: Sequence[str] | None = None) -> dict[str, Errors]:
    """Read the out-of-fold errors of the chains of a run at once; chains without stored numbers are left out."""
    rows = store.query_predictions(run_id=run_id, partition="val").sort("prediction_id")
    if chains is not None:
        rows = rows.filter(pl.col("chain_id").is_in(list(chains)))
    arrays = store.get_prediction_arrays(rows["prediction_id"].to_list())
    parts: dict[str, list[tuple[str, Any, Floats, Floats]]] = {}
    unnamed = set()
    for prediction_id, chain_id, fold in rows.select("prediction_id", "chain_id", "fold_id").iter_rows():
        stored = arrays.get(prediction_id) or {}
        if chain_id is None or stored.get("y_true") is None or stored.get("y_pred") is None:
            continue
        measured, predicted = np.asarray(stored["y_true"]), np.asarray(stored["y_pred"])
        if (
            measured.size != len(measured)
            or predicted.size != len(predicted)
            or predicted.dtype.kind not in "fiu"
        ):
            continue
        ids = stored.get("sample_indices")
        if ids is None:
            unnamed.add(chain_id)
        names = np.arange(len(measured)) if ids is None else np.asarray(ids)
        parts.setdefault(chain_id, []).append(
            (str(fold), names, measured.astype(float).ravel(), predicted.astype(float).ravel())
        )
    return {
        chain_id: Errors(
            [(fold, name) for fold, names, _, _ in each for name in names.tolist()],
            np.concatenate([measured for _, _, measured, _ in each]),
            np.concatenate([predicted - measured for _, _, measured, predicted in each]),
            chain_id not in unnamed,
        )
        for chain_id, each in parts.items()
    }


def _families(rows: Sequence[dict[str, Any]]) -> dict[Family, list[dict[str, Any]]]:
    found: dict[Family, list[dict[str, Any]]] = {}
    for row in rows:
        if components_of(row) is not None:
            found.setdefault(family_of(row, row.get("dataset_hash")), []).append(row)
    return found


def searched(chain: Mapping[str, Any]) -> str:
    """Say why a candidate of a search has no predictions."""
    if "search" not in (chain.get("metadata") or {}):
        return ""
    return (
        " They are candidates of a search, which keeps scores only: record it with keep='all', or use store.screen, "
        "which keeps the predictions of all candidates."
    )


def several(store: ReadsRuns, chain: Mapping[str, Any]) -> str:
    """Say how to name one of the targets of a chain that predicts several."""
    rows = store.query_predictions(chain_id=chain["chain_id"], partition="val").head(1)
    arrays = store.get_prediction_arrays(rows["prediction_id"].to_list())
    widths = [np.shape(each["y_pred"]) for each in arrays.values() if each.get("y_pred") is not None]
    words = say_which(chain, widths[0][1] if widths and len(widths[0]) > 1 else None)
    return f" {words}" if words else ""


def _numbers(group: Sequence[dict[str, Any]]) -> int:
    return len({components_of(row) for row in group})


def _choose(
    store: ReadsRuns,
    errors: dict[str, Errors],
    family: Family,
    group: Sequence[dict[str, Any]],
    rule: Rule,
    options: dict[str, Any],
) -> ComponentChoice:
    # Of chains recorded twice with one number the newest counts; ids rise with time.
    latest = {
        int(components_of(row) or 0): row for row in sorted(group, key=lambda row: str(row["chain_id"]))
    }
    numbers = sorted(latest)
    missing = [n for n in numbers if latest[n]["chain_id"] not in errors]
    if missing:
        raise InvalidInput(
            f"The chains with {missing[:8]} latent variables have no stored out-of-fold predictions "
            f"of one number per sample.{searched(latest[missing[0]])}{several(store, latest[missing[0]])}"
        )
    each = [errors[latest[n]["chain_id"]] for n in numbers]
    if any(one.keys != each[0].keys for one in each[1:]):
        raise InvalidInput(
            "The chains were validated on different folds; record them with one splitter and seed."
        )
    matrix = np.column_stack([each[0].of_the_mean(), *(one.errors for one in each)])
    chosen, columns = select_components(matrix, [0, *numbers], rule, samples=each[0].samples, **options)
    table = pl.DataFrame(
        {
            "components": [0, *numbers],
            "chain_id": [None, *(latest[n]["chain_id"] for n in numbers)],
            **columns,
            "chosen": [n == chosen for n in [0, *numbers]],
        }
    )
    return ComponentChoice(
        components=chosen,
        chain_id=None if chosen == 0 else str(latest[chosen]["chain_id"]),
        rule=rule,
        table=table,
        preprocessings=str(group[0].get("preprocessings") or ""),
        target=family.target,
        unit=family.unit,
    )
