"""Champions: who holds a rank of a suite, since when, whom they followed and by how much they are better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nirs_store.audit.trail import attempting
from nirs_store.db.changes import PROMOTED
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Row, Table
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.evaluations import rows
from nirs_store.evaluations.rows import better_of, sort_value, value_of
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.maintenance.trash import deleting
from nirs_store.records.notes import note
from nirs_store.values import from_json, whole_number

T = TypeVar("T")
# Who holds which rank: by metric and rank.
Holders = dict[tuple[str, int], Row]

_FOUND, _BY_HAND, _VACANT = "found", "hand", "vacant"


# -- what `store.evaluations` offers -------------------------------------------------------------


def list_champions(engine: Engine, **which: Any) -> pl.DataFrame:
    """Return champions, with the improvement in the metric itself as a column of its own."""
    found = engine.query(lambda con: rows.champion_rows(con, **which))
    gains = [(from_json(row["improvements"]) or {}).get(row["metric"]) for row in found.iter_rows(named=True)]
    return found.with_columns(pl.Series("improvement", gains, pl.Float64))


def set_champion(engine: Engine, evaluation_id: str, metric: str | None, rank: int, words: str | None) -> str:
    """Set a champion by hand; return the id of the change."""

    def work(con: Connection) -> str:
        evaluation, chosen, held = _choice(con, evaluation_id, metric, rank)
        return _promote(con, evaluation, chosen, rank, _BY_HAND, words, held)

    return _change(engine, "set_champion", evaluation_id, work)


def plan_champion(engine: Engine, evaluation_id: str, metric: str | None, rank: int) -> Row:
    """Tell what `set_champion` would do."""
    evaluation, chosen, held = engine.query(lambda con: _choice(con, evaluation_id, metric, rank))
    return {
        "suite": evaluation["suite"],
        "metric": chosen,
        "rank": rank,
        "model_id": evaluation["model_id"],
        "evaluation_id": evaluation_id,
        "value": value_of(evaluation, chosen),
        "previous_model": None if held is None else held["model_id"],
    }


def find_champions(engine: Engine, suite: str, metric: str | None, top: int) -> None:
    """Find the champions of a suite again among all its evaluations: the best of each model, by rank."""
    # Also replaces champions that were set by hand. A rank whose holder stays the same gets no row.

    def work(con: Connection) -> None:
        whole_number("top", top, 1)
        default = rows.suite_metric(con, suite)
        if default is None:
            known = ", ".join(rows.suites(con)) or "none"
            raise UnknownId("suite", suite, f"There are: {known}. Nothing was changed.")
        chosen = metric or default[0]
        ranked = _best(con, suite, chosen)[:top]
        if not ranked:
            raise InvalidInput(
                f"metric: no completed evaluation of {suite!r} has {chosen!r}. Nothing was changed."
            )
        before = {row["rank"]: row for row in rows.champion_rows(con, suite=suite, metric=chosen).to_dicts()}
        for rank, evaluation in enumerate(ranked, start=1):
            held = before.pop(rank, None)
            if not _same(held, evaluation) or held is None or held["chosen_by"] == _BY_HAND:
                _promote(con, evaluation, chosen, rank, _FOUND, None, held)
        for held in before.values():
            _demote(con, held)

    _change(engine, "find_champions", suite, work)


def delete(engine: Engine, evaluation_id: str, *, now: bool) -> bool:
    """Delete an evaluation and let others follow on its ranks; False when there was none."""

    def work(con: Connection) -> bool:
        found = rows.evaluation_of(con, evaluation_id)
        if found is None:
            return False
        _, left, after = _holders(con, found)
        known = Table(con, "champions").keys()
        name = f"{found['model_id']} on {found['suite']}"
        with deleting(con, "evaluation", evaluation_id, name, "delete_evaluation", now=now) as take:
            take(con, "artifact_refs", "owner_kind = 'evaluation' AND owner_id = ?", [evaluation_id])
            take(con, "champions", "evaluation_id = ?", [evaluation_id])
            take(con, "evaluations", "evaluation_id = ?", [evaluation_id])
            for metric, rank in sorted(left.keys() | after.keys()):
                held, heir = left.get((metric, rank)), after.get((metric, rank))
                if _same(held, heir):
                    continue
                evaluation = None if heir is None else rows.evaluation_of(con, heir["evaluation_id"])
                if heir is not None and evaluation is not None:
                    _promote(con, evaluation, metric, rank, heir["chosen_by"], heir["note"], held)
                elif held is not None:
                    _demote(con, held)
            take(con, PROMOTED, "champion_id NOT IN (SELECT unnest(?::VARCHAR[]))", [known])
        return True

    deleted = engine.change(work)
    note(engine, "delete_evaluation", "evaluation", evaluation_id, success=deleted)
    return deleted


def plan_delete(engine: Engine, evaluation_id: str) -> list[Row]:
    """Tell which ranks change hands when an evaluation is deleted."""

    def ask(con: Connection) -> list[Row]:
        found = rows.evaluation_of(con, evaluation_id)
        before, _, after = ({}, {}, {}) if found is None else _holders(con, found)
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

    return engine.query(ask)


# -- inside a transaction ------------------------------------------------------------------------


def crown(con: Connection, evaluation: Mapping[str, Any]) -> None:
    """Make an evaluation champion where it is better than what holds the first rank."""
    # A champion set by hand stays until another is set or the champions are found again.
    metric, better = evaluation["metric"], evaluation["better"]
    value = value_of(evaluation, metric)
    if value is None or math.isnan(value):
        return
    held = _holder(con, evaluation["suite"], metric, 1)
    if held is None or (
        held["chosen_by"] != _BY_HAND and sort_value(value, better) > sort_value(held["value"], better)
    ):
        _promote(con, evaluation, metric, 1, _FOUND, None, held)


def _change(engine: Engine, operation: str, what: str, work: Callable[[Connection], T]) -> T:
    with attempting(engine, operation, "evaluation", what):
        made = engine.change(work)
    note(engine, operation, "evaluation", what)
    return made


def _choice(
    con: Connection, evaluation_id: str, metric: str | None, rank: int
) -> tuple[Row, str, Row | None]:
    """Check a choice by hand; return its evaluation, the metric, and who holds the rank so far."""
    evaluation = rows.evaluation_of(con, evaluation_id)
    if evaluation is None:
        raise UnknownId("evaluation", evaluation_id, "Nothing was changed.")
    whole_number("rank", rank, 1)
    chosen = metric or evaluation["metric"]
    if value_of(evaluation, chosen) is None:
        raise InvalidInput(
            f"metric: evaluation {evaluation_id} has no {chosen!r}; it has {', '.join(evaluation['scores'])}. "
            "Nothing was changed."
        )
    return evaluation, chosen, _holder(con, evaluation["suite"], chosen, rank)


def _best(con: Connection, suite: str, metric: str) -> list[Row]:
    """Return the best completed evaluation of each model of a suite, best first."""
    better = better_of(metric, rows.direction_of(con, suite, metric))
    best: dict[str, tuple[float, Row]] = {}
    for identifier in rows.evaluation_rows(con, suite=suite, status="completed")["evaluation_id"]:
        evaluation = rows.evaluation_of(con, identifier) or {}
        strength = sort_value(value_of(evaluation, metric), better)
        model = evaluation["model_id"]
        # Of equals the first one stays.
        if math.isfinite(strength) and (model not in best or strength > best[model][0]):
            best[model] = strength, evaluation
    return [evaluation for _, evaluation in sorted(best.values(), key=lambda pair: -pair[0])]


def _promote(
    con: Connection,
    evaluation: Mapping[str, Any],
    metric: str,
    rank: int,
    chosen_by: str,
    words: str | None,
    held: Mapping[str, Any] | None,
) -> str:
    """Write who holds a rank now; return the id of the change."""
    before = None if held is None else rows.evaluation_of(con, held["evaluation_id"])
    row = {
        "champion_id": new_id(),
        "suite": evaluation["suite"],
        "metric": metric,
        "model_id": evaluation["model_id"],
        "evaluation_id": evaluation["evaluation_id"],
        "rank": rank,
        "value": value_of(evaluation, metric),
        "previous_id": None if held is None else held["champion_id"],
        "improvements": None if before is None else _improvements(con, evaluation, before),
        "chosen_by": chosen_by,
        "note": words,
        "made_at": now_naive(),
    }
    Table(con, "champions").insert([row])
    return str(row["champion_id"])


def _demote(con: Connection, held: Mapping[str, Any]) -> None:
    """Write that a rank is empty now."""
    same = {name: held[name] for name in ("suite", "metric", "rank", "model_id", "evaluation_id")}
    change = {"champion_id": new_id(), "previous_id": held["champion_id"], "chosen_by": _VACANT}
    Table(con, "champions").insert([{**same, **change, "made_at": now_naive()}])


def _improvements(con: Connection, now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """Return by how much each score that both have is better; positive is better in every metric."""
    found: dict[str, float] = {}
    for name in dict.fromkeys([*now["scores"], "success_rate"]):
        mine, theirs = value_of(now, name), value_of(before, name)
        if mine is None or theirs is None:
            continue
        better = better_of(name, rows.direction_of(con, now["suite"], name))
        change = sort_value(mine, better) - sort_value(theirs, better)
        if math.isfinite(change):
            found[name] = change
    return found


def _holder(con: Connection, suite: str, metric: str, rank: int) -> Row | None:
    found = rows.champion_rows(con, suite=suite, metric=metric, rank=rank).to_dicts()
    return found[0] if found else None


def _holders(con: Connection, evaluation: Row) -> tuple[Holders, Holders, Holders]:
    """Return who holds the ranks now, whom the rows name without the evaluation, and who holds them after it."""
    suite, evaluation_id = evaluation["suite"], evaluation["evaluation_id"]
    before = _by_rank(rows.champion_rows(con, suite=suite))
    left = _by_rank(rows.champion_rows(con, suite=suite, without=evaluation_id))
    after: Holders = {}
    for metric in {metric for metric, _ in before}:
        now = {rank: held for (name, rank), held in before.items() if name == metric}
        fallback = {rank: held for (name, rank), held in left.items() if name == metric}
        heirs = _heirs(now, fallback, evaluation_id)
        after |= {(metric, rank): held for rank, held in heirs.items()}
    return before, left, after


def _heirs(now: Mapping[int, Row], fallback: Mapping[int, Row], evaluation_id: str) -> dict[int, Row]:
    """Return who holds the ranks of a metric without an evaluation: those below move up, else the one before."""
    free = [rank for rank, held in now.items() if held["evaluation_id"] == evaluation_id]
    if not free:
        return dict(now)
    first = min(free)
    heirs = {rank: held for rank, held in now.items() if rank < first}
    below = [held for rank, held in sorted(now.items()) if rank > first and rank not in free]
    above = {held["evaluation_id"] for held in heirs.values()}
    if not below and first in fallback and fallback[first]["evaluation_id"] not in above:
        below = [fallback[first]]
    return heirs | dict(enumerate(below, start=first))


def _by_rank(held: pl.DataFrame) -> Holders:
    return {(each["metric"], each["rank"]): each for each in held.to_dicts()}


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one["evaluation_id"] == other["evaluation_id"])
