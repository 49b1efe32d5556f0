"""Champions: who holds a rank of a suite, since when, whom they followed and by how much they are better.

Every change is a row, so the progression is there; the newest row of a rank says who holds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nirs_store.catalog import evaluation_rows as rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.values import to_json
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.ids import new_id
from nirs_store.registry.evaluations.scoring import better_of, sort_value

__all__ = [
    "BY_HAND",
    "FOUND",
    "choice",
    "choose",
    "crown",
    "find",
    "improvements",
    "put",
    "vacate",
    "value_of",
]

FOUND = "found"
BY_HAND = "hand"


def value_of(evaluation: Mapping[str, Any], metric: str) -> float | None:
    """The recorded value of a metric."""
    if metric == "success_rate" and metric not in evaluation["scores"]:
        rate: float | None = evaluation["success_rate"]
        return rate
    value = evaluation["scores"].get(metric)
    return None if value is None else float(value)


def improvements(
    con: Connection, now: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, float] | None:
    """By how much each score that both have is better; positive is better in every metric."""
    if before is None:
        return None
    found: dict[str, float] = {}
    for name in dict.fromkeys([*now["scores"], "success_rate"]):
        mine, theirs = value_of(now, name), value_of(before, name)
        if mine is None or theirs is None:
            continue
        better = better_of(name, rows.directions(con, now["suite"], name))
        change = sort_value(mine, better) - sort_value(theirs, better)
        if math.isfinite(change):
            found[name] = change
    return found


def crown(con: Connection, evaluation: Mapping[str, Any]) -> bool:
    """Make an evaluation champion where it is better than whoever holds the first rank.

    A champion set by hand stays until somebody sets another or has the champions found again.
    """
    metric = evaluation["metric"]
    value = value_of(evaluation, metric)
    if value is None or math.isnan(value):
        return False
    held = _holder(con, evaluation["suite"], metric, 1)
    if held is not None:
        if held["chosen_by"] == BY_HAND:
            return False
        better = evaluation["better"]
        if not sort_value(value, better) > sort_value(held["value"], better):
            return False
    put(con, evaluation, metric, 1, FOUND, None, held)
    return True


def put(
    con: Connection,
    evaluation: Mapping[str, Any],
    metric: str,
    rank: int,
    chosen_by: str,
    words: str | None,
    held: Mapping[str, Any] | None,
) -> str:
    """Write one change of a rank; gives its id."""
    before = None if held is None else rows.evaluation_of(con, held["evaluation_id"])
    champion_id = new_id()
    gained = improvements(con, evaluation, before)
    rows.add_champion(
        con,
        {
            "champion_id": champion_id,
            "suite": evaluation["suite"],
            "metric": metric,
            "model_id": evaluation["model_id"],
            "evaluation_id": evaluation["evaluation_id"],
            "rank": rank,
            "value": value_of(evaluation, metric),
            "previous_id": None if held is None else held["champion_id"],
            "improvements": to_json(gained, "improvements"),
            "chosen_by": chosen_by,
            "note": words,
            "made_at": now_naive(),
        },
    )
    return champion_id


def choice(
    con: Connection, evaluation_id: str, metric: str | None, rank: int
) -> tuple[dict[str, Any], str, dict[str, Any] | None]:
    """Check a choice by hand: its evaluation, the metric, and who holds the rank so far."""
    evaluation = rows.evaluation_of(con, evaluation_id)
    if evaluation is None:
        raise UnknownId("evaluation", evaluation_id, "Nothing was changed.")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InvalidInput(
            f"rank: expected a whole number of at least 1, found {rank!r}. Nothing was changed."
        )
    chosen = metric or evaluation["metric"]
    if value_of(evaluation, chosen) is None:
        raise InvalidInput(
            f"metric: evaluation {evaluation_id} has no {chosen!r}; it has {', '.join(evaluation['scores'])}. "
            "Nothing was changed."
        )
    return evaluation, chosen, _holder(con, evaluation["suite"], chosen, rank)


def choose(con: Connection, evaluation_id: str, metric: str | None, rank: int, words: str | None) -> str:
    """Set a champion by hand."""
    evaluation, chosen, held = choice(con, evaluation_id, metric, rank)
    return put(con, evaluation, chosen, rank, BY_HAND, words, held)


def find(con: Connection, suite: str, metric: str | None, top: int) -> list[str]:
    """Find the champions of a suite anew among all its evaluations: the best of each model, by rank.

    Also replaces champions that were set by hand. A rank whose holder stays the same gets no row.
    """
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise InvalidInput(f"top: expected a whole number of at least 1, found {top!r}. Nothing was changed.")
    default = rows.suite_metric(con, suite)
    if default is None:
        raise UnknownId(
            "suite", suite, f"There are: {', '.join(rows.suites(con)) or 'none'}. Nothing was changed."
        )
    chosen = metric or default[0]
    better = better_of(chosen, rows.directions(con, suite, chosen))
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for identifier in rows.evaluation_rows(con, {"suite": suite, "status": "completed"})["evaluation_id"]:
        evaluation = rows.evaluation_of(con, identifier) or {}
        strength = sort_value(value_of(evaluation, chosen), better)
        model = evaluation["model_id"]
        # Of equals the first one stays.
        if math.isfinite(strength) and (model not in best or strength > best[model][0]):
            best[model] = strength, evaluation
    ranked = sorted(best.values(), key=lambda pair: -pair[0])[:top]
    if not ranked:
        raise InvalidInput(
            f"metric: no completed evaluation of {suite!r} has {chosen!r}. Nothing was changed."
        )
    made = []
    for rank, (_, evaluation) in enumerate(ranked, start=1):
        held = _holder(con, suite, chosen, rank)
        same = held is not None and held["evaluation_id"] == evaluation["evaluation_id"]
        if not same or held is None or held["chosen_by"] == BY_HAND:
            made.append(put(con, evaluation, chosen, rank, FOUND, None, held))
    for held in rows.champion_rows(con, suite=suite, metric=chosen).to_dicts():
        if held["rank"] > len(ranked):
            vacate(con, held)
    return made


def vacate(con: Connection, held: Mapping[str, Any]) -> None:
    """Write that nobody holds a rank any more."""
    names = ("suite", "metric", "rank", "model_id", "evaluation_id")
    empty = {"champion_id": new_id(), "previous_id": held["champion_id"], "chosen_by": "vacant"}
    rows.add_champion(con, {**{name: held[name] for name in names}, **empty, "made_at": now_naive()})


def _holder(con: Connection, suite: str, metric: str, rank: int) -> dict[str, Any] | None:
    found = rows.champion_rows(con, suite=suite, metric=metric, rank=rank).to_dicts()
    return found[0] if found else None
