"""Look at chains of several targets as chains of one of them: the view of a store that the other rooms work through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput, did_you_mean
from nirs_store.lazy import polars as pl

_PLACE = "target_place"


def one_target(store: Any, target: str | int | None) -> Any:
    """Return a store that shows one target of each chain; without a target the store itself."""
    return store if target is None else OneTarget(store, target)


def targets_of(chain: Mapping[str, Any]) -> list[str]:
    """Return the names of the targets of a chain that predicts several; empty for one, or where they have no names."""
    return [str(name) for name in (chain.get("metadata") or {}).get("target_names") or []]


def place_of(chain: Mapping[str, Any]) -> int | None:
    """Return which of several targets a narrowed chain shows, counted from 0; None for a chain of one."""
    place: int | None = (chain.get("metadata") or {}).get(_PLACE)
    return place


def say_which(chain: Mapping[str, Any], count: int | None = None) -> str:
    """Word the advice to name one of several targets; empty where the chain is not known to have several."""
    names: Sequence[Any] = targets_of(chain) or range(count or 0)
    if len(names) < 2:
        return ""
    return f"Say which of its {len(names)} targets: target={' or '.join(map(repr, names))}."


def column(values: Any, place: int | None) -> NDArray[Any]:
    """Return the values of one of several targets."""
    array = np.asarray(values)
    if place is None or array.ndim < 2:
        return array
    if place >= array.shape[1]:
        raise InvalidInput(f"target: expected a number below {array.shape[1]}; found {place}.")
    return np.ascontiguousarray(array[:, place])


class OneTarget:
    """Pass everything on to a store, but narrow chains and predictions to one target."""

    # The recorded scores of such a chain are means over its targets: they are left out, so that readers compute them.

    def __init__(self, store: Any, target: str | int) -> None:
        if isinstance(target, bool) or not isinstance(target, (str, int, np.integer)) or target == "":
            raise InvalidInput(f"target: expected the name of one target, or its number; found {target!r}.")
        self._store = store
        self._target: str | int = target if isinstance(target, str) else int(target)
        self._places: dict[str, int | None] = {}
        self._of_prediction: dict[str, int | None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """Return a chain that shows the target."""
        chain = self._store.get_chain(chain_id)
        return None if chain is None else self._narrow(chain, self._place(chain))

    def get_chains_for_run(self, run_id: str) -> list[dict[str, Any]]:
        """Return the chains of a run; those that do not predict the target stay as they are."""
        found = []
        for chain in self._store.get_chains_for_run(run_id):
            try:
                found.append(self._narrow(chain, self._place(chain)))
            except InvalidInput:
                found.append(chain)
        return found

    def query_predictions(self, **filters: Any) -> Any:
        """Return predictions; those of several targets without their scores."""
        rows = self._store.query_predictions(**filters)
        places = {}
        for identifier, chain_id in rows.select("prediction_id", "chain_id").iter_rows():
            if chain_id is not None and chain_id not in self._places:
                try:
                    self._places[chain_id] = self._place(self._store.get_chain(chain_id) or {})
                except InvalidInput:
                    self._places[chain_id] = None
            places[identifier] = self._places.get(chain_id)
        self._of_prediction |= places
        if "scores" not in rows.columns or not any(place is not None for place in places.values()):
            return rows
        several = [identifier for identifier, place in places.items() if place is not None]
        scored = ["scores", *(name for name in rows.columns if name.endswith("_score"))]
        mine = pl.col("prediction_id").is_in(several)
        return rows.with_columns(pl.when(mine).then(None).otherwise(pl.col(n)).alias(n) for n in scored)

    def get_prediction_arrays(self, prediction_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return arrays of predictions, measured and predicted values of the target alone."""
        found = {}
        for identifier, arrays in self._store.get_prediction_arrays(prediction_ids).items():
            place = self._of_prediction.get(identifier)
            named = {name: arrays.get(name) for name in ("y_true", "y_pred")}
            found[identifier] = dict(arrays) | {
                name: None if values is None else column(values, place) for name, values in named.items()
            }
        return found

    def _place(self, chain: Mapping[str, Any]) -> int | None:
        """Find the target among those of a chain; None where it is the only one."""
        metadata, names = chain.get("metadata") or {}, targets_of(chain)
        own = names or [str(chain.get("target") or metadata.get("target") or "")]
        if self._target not in own and str(self._target).isdigit():
            place = int(self._target)
            if names and place >= len(names):
                raise InvalidInput(f"target: expected a number below {len(names)}; found {place}.")
            # A chain without names of targets may have one or several: `column` takes either.
            return place if names or own == [""] else None
        if self._target not in own:
            if own == [""]:
                raise InvalidInput(
                    f"target: no target of the chain {chain.get('chain_id')!r} was named; count from 0, as in target=0."
                )
            raise InvalidInput(
                f"target: the chain {chain.get('chain_id')!r} predicts {', '.join(own)}; found {self._target!r}."
                f"{did_you_mean(str(self._target), own)}"
            )
        return names.index(self._target) if names else None

    def _narrow(self, chain: dict[str, Any], place: int | None) -> dict[str, Any]:
        if place is None:
            return chain
        metadata = dict(chain.get("metadata") or {})
        names, units = targets_of(chain), metadata.get("target_units") or []
        for name in ("target_names", "target_units", "cross_validation"):
            metadata.pop(name, None)
        own = names[place] if names else str(self._target)
        unit = units[place] if place < len(units) else metadata.get("target_unit") or ""
        metadata |= {"target": own, "target_unit": unit, _PLACE: place}
        return {**chain, "target": own, "target_unit": unit, "metadata": metadata}
