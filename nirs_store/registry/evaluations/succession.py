"""Who holds the ranks of a suite when an evaluation is deleted.

What an evaluation made champion goes with it. Whoever stands below moves up; where nobody does, whoever held the rank
before holds it again, unless that evaluation stands elsewhere. Nobody becomes champion who never was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.catalog import evaluation_rows as rows
from nirs_store.catalog.access import Connection
from nirs_store.registry.evaluations.champions import put, vacate

__all__ = ["delete", "plan"]

Holders = dict[tuple[str, int], dict[str, Any]]
"""Who holds which rank: by metric and rank."""


def plan(con: Connection, evaluation_id: str) -> list[dict[str, Any]]:
    """Tell which ranks change hands when an evaluation is deleted; changes nothing."""
    before, _, after = _holders(con, evaluation_id)
    return [
        {
            "suite": held["suite"],
            "metric": metric,
            "rank": rank,
            "model_id": held["model_id"],
            "next_model": None if (metric, rank) not in after else after[metric, rank]["model_id"],
        }
        for (metric, rank), held in sorted(before.items())
        if not _same(held, after.get((metric, rank)))
    ]


def delete(con: Connection, evaluation_id: str) -> bool:
    """Delete an evaluation inside the caller's transaction, and let others follow; False when there was none."""
    _, left, after = _holders(con, evaluation_id)
    if not rows.delete_evaluation(con, evaluation_id):
        return False
    for metric, rank in sorted(left.keys() | after.keys()):
        held, heir = left.get((metric, rank)), after.get((metric, rank))
        if _same(held, heir):
            continue
        evaluation = None if heir is None else rows.evaluation_of(con, heir["evaluation_id"])
        if heir is not None and evaluation is not None:
            put(con, evaluation, metric, rank, heir["chosen_by"], heir["note"], held)
        elif held is not None:
            vacate(con, held)
    return True


def _holders(con: Connection, evaluation_id: str) -> tuple[Holders, Holders, Holders]:
    """Who holds the ranks now, whom the rows name without the evaluation, and who is to hold them then."""
    evaluation = rows.evaluation_of(con, evaluation_id)
    if evaluation is None:
        return {}, {}, {}
    suite = evaluation["suite"]
    before = _by_rank(rows.champion_rows(con, suite=suite).to_dicts())
    left = _by_rank(rows.champion_rows(con, suite=suite, without=evaluation_id).to_dicts())
    after: Holders = {}
    for metric in {metric for metric, _ in before}:
        now = {rank: held for (name, rank), held in before.items() if name == metric}
        fallback = {rank: held for (name, rank), held in left.items() if name == metric}
        heirs = _heirs(now, fallback, evaluation_id)
        after |= {(metric, rank): held for rank, held in heirs.items()}
    return before, left, after


def _heirs(
    now: Mapping[int, dict[str, Any]], fallback: Mapping[int, dict[str, Any]], evaluation_id: str
) -> dict[int, dict[str, Any]]:
    free = [rank for rank, held in now.items() if held["evaluation_id"] == evaluation_id]
    if not free:
        return dict(now)
    first = min(free)
    heirs = {rank: held for rank, held in now.items() if rank < first}
    below = [held for rank, held in sorted(now.items()) if rank > first and rank not in free]
    standing = {held["evaluation_id"] for held in heirs.values()}
    if not below and first in fallback and fallback[first]["evaluation_id"] not in standing:
        below = [fallback[first]]
    return heirs | dict(enumerate(below, start=first))


def _by_rank(held: list[dict[str, Any]]) -> Holders:
    return {(each["metric"], each["rank"]): each for each in held}


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one["evaluation_id"] == other["evaluation_id"])
