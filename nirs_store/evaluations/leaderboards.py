"""Leaderboards, tables by group, robustness curves, Pareto fronts and trends, as polars data frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.evaluations import rows
from nirs_store.evaluations.rows import BETTER, better_of, sort_value, value_of
from nirs_store.evaluations.statistics import Drawing, Interval, estimate
from nirs_store.evaluations.tables import Entries, Entry, entries_of
from nirs_store.lazy import polars as pl
from nirs_store.values import one_of

Models = Sequence[str] | None


@cache
def _board() -> dict[str, Any]:
    return {
        "rank": pl.Int32,
        "model_id": pl.String,
        "evaluation_id": pl.String,
        "metric": pl.String,
        "value": pl.Float64,
        "ci_low": pl.Float64,
        "ci_high": pl.Float64,
        "n": pl.Int64,
        "success_rate": pl.Float64,
        "champion": pl.Boolean,
        "created_at": pl.Datetime("us", "UTC"),
    }


def leaderboard(
    engine: Engine, suite: str, metric: str | None, models: Models, which: str, drawing: Drawing
) -> pl.DataFrame:
    """See `Evaluations.leaderboard`."""
    found = entries_of(engine, suite, metric, models, which)
    held = engine.query(lambda con: rows.champion_rows(con, suite=suite, metric=found.metric, rank=1))
    champions = set(held["evaluation_id"])
    intervals = [estimate(entry.table, found.metric, entry.recorded, *drawing) for entry in found.items]
    _check_metric(found, metric, (interval.value for interval in intervals))
    strengths = [sort_value(interval.value, found.better) for interval in intervals]
    lines = zip(strengths, found.items, intervals, strict=True)
    table = [
        {
            # Equal values share a rank.
            "rank": 1 + sum(other > strength for other in strengths),
            "model_id": entry.model_id,
            "evaluation_id": entry.evaluation_id,
            "metric": found.metric,
            **_cells(interval),
            "success_rate": entry.row["success_rate"],
            "champion": entry.evaluation_id in champions,
            "created_at": entry.row["created_at"],
        }
        for strength, entry, interval in sorted(lines, key=lambda line: (-line[0], line[1].model_id))
    ]
    return pl.DataFrame(table, schema=_board())


def _check_metric(found: Entries, asked: str | None, values: Iterable[float | None]) -> None:
    """Refuse a metric that nothing has: a typing error would else be a table without values."""
    if asked is None or not found.items or any(value is not None for value in values):
        return
    known = {"success_rate"}
    for entry in found.items:
        known |= entry.row["scores"].keys()
        if entry.table is not None:
            known |= {name for name in entry.table.columns if entry.table[name].dtype.is_numeric()}
    one_of("metric", asked, sorted(known))


def _cells(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "n": interval.n}


def _grouped(found: Entries, by: str, drawing: Drawing) -> list[tuple[Entry, Any, Interval]]:
    lines: list[tuple[Entry, Any, Interval]] = []
    known: set[str] = set()
    for entry in found.items:
        if entry.table is None:
            continue
        known |= set(entry.table.columns)
        if by not in entry.table.columns:
            continue
        for group in entry.table[by].unique(maintain_order=True):
            part = entry.table.filter(pl.col(by).eq_missing(pl.lit(group)))
            lines.append((entry, group, estimate(part, found.metric, None, *drawing)))
    if not lines:
        if known:
            one_of("by", by, sorted(known))
        raise InvalidInput(
            f"by: no evaluation of {found.suite!r} has a table of episodes or samples. Record them with the evaluation."
        )
    if all(interval.value is None for _, _, interval in lines):
        raise InvalidInput(
            f"metric: {found.metric!r} is neither a column of the tables of {found.suite!r} nor a score of y_true and "
            f"y_pred. Their columns: {', '.join(sorted(known))}."
        )
    return lines


def by_group(
    engine: Engine,
    suite: str,
    by: str,
    metric: str | None,
    models: Models,
    which: str,
    wide: bool,
    drawing: Drawing,
) -> pl.DataFrame:
    """See `Evaluations.by_group`."""
    found = entries_of(engine, suite, metric, models, which)
    lines = _grouped(found, by, drawing)
    groups = sorted({group for _, group, _ in lines}, key=_natural)
    table = pl.DataFrame(
        [
            {"model_id": entry.model_id, by: group, "metric": found.metric, **_cells(interval)}
            for entry, group, interval in sorted(
                lines, key=lambda line: (line[0].model_id, groups.index(line[1]))
            )
        ],
        infer_schema_length=None,
    )
    if not wide:
        return table
    names = table.with_columns(pl.col(by).cast(pl.String).fill_null("(none)"))
    return names.pivot(on=by, index="model_id", values="value", aggregate_function="first")


def _natural(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (2, 0.0, "")
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def robustness(
    engine: Engine, suite: str, by: str, metric: str | None, models: Models, which: str, drawing: Drawing
) -> pl.DataFrame:
    """See `Evaluations.robustness`."""
    found = entries_of(engine, suite, metric, models, which)
    lines = _grouped(found, by, drawing)
    if not all(isinstance(level, int | float) and not isinstance(level, bool) for _, level, _ in lines):
        raise InvalidInput(
            f"by: a curve needs a column of numbers; {by!r} holds others. Use by_group for a table of kinds."
        )
    table = []
    for model in dict.fromkeys(entry.model_id for entry, _, _ in lines):
        curve = sorted((level, interval) for entry, level, interval in lines if entry.model_id == model)
        start = curve[0][1].value
        for level, interval in curve:
            change = None
            if start is not None and interval.value is not None:
                change = interval.value - start
            table.append(
                {
                    "model_id": model,
                    by: float(level),
                    "metric": found.metric,
                    **_cells(interval),
                    "change": change,
                }
            )
    return pl.DataFrame(table, infer_schema_length=None)


def pareto(
    engine: Engine, suite: str, objectives: Sequence[str] | Mapping[str, str], models: Models, which: str
) -> pl.DataFrame:
    """See `Evaluations.pareto`."""
    if isinstance(objectives, str) or len(objectives) < 2:
        raise InvalidInput("objectives: expected at least two metrics, as a list or as a dict of directions.")
    found = entries_of(engine, suite, None, models, which)
    stated = dict(objectives) if isinstance(objectives, Mapping) else {}
    names = list(objectives)
    better: dict[str, str] = {}
    for name in names:
        if name in stated:
            better[name] = one_of(f"objectives[{name!r}]", stated[name], BETTER)
        else:
            said = engine.query(lambda con, name=name: rows.direction_of(con, suite, name))  # type: ignore[misc]
            better[name] = better_of(name, said)
    known = sorted({name for entry in found.items for name in entry.row["scores"]} | {"success_rate"})
    points = [(entry, [_objective(entry, name) for name in names]) for entry in found.items]
    for position, name in enumerate(names):
        if all(values[position] is None for _, values in points):
            one_of("objectives", name, known)
            raise InvalidInput(f"objectives: no evaluation of {suite!r} has a value of {name!r}.")
    strengths = np.array(
        [
            [sort_value(value, better[name]) for name, value in zip(names, values, strict=True)]
            for _, values in points
        ]
    )
    table = []
    for index, (entry, values) in enumerate(points):
        whole = bool(np.isfinite(strengths[index]).all())
        above = (strengths >= strengths[index]).all(axis=1) & (strengths > strengths[index]).any(axis=1)
        table.append(
            {
                "model_id": entry.model_id,
                "evaluation_id": entry.evaluation_id,
                **dict(zip(names, values, strict=True)),
                "on_front": whole and not above.any(),
                "dominated_by": int(above.sum()),
            }
        )
    frame = pl.DataFrame(table, infer_schema_length=None)
    return frame.sort(
        ["on_front", names[0]], descending=[True, better[names[0]] == "higher"], nulls_last=True
    )


def _objective(entry: Entry, name: str) -> float | None:
    value = value_of(entry.row, name)
    if value is None:
        value = estimate(entry.table, name, n_resamples=1).value
    return None if value is None or math.isnan(value) else value


def trend(
    engine: Engine, suite: str, metric: str | None, model_id: str | None, *, checked: bool = True
) -> pl.DataFrame:
    """See `Evaluations.trend`; unless `checked`, a metric that only tables have is a trend without values."""
    models = None if model_id is None else [model_id]
    found = entries_of(engine, suite, metric, models, "all", tables=False)
    if checked:
        _check_metric(found, metric, (entry.recorded for entry in found.items))
    values = [math.nan if entry.recorded is None else entry.recorded for entry in found.items]
    moments = [entry.row["created_at"] for entry in found.items]
    days = np.array([(each - moments[0]).total_seconds() / 86400 for each in moments])
    slope, fitted = _line(days, np.array(values))
    best: float | None = None
    table = []
    for index, (entry, value) in enumerate(zip(found.items, values, strict=True)):
        if sort_value(value, found.better) > sort_value(best, found.better):
            best = value
        before = values[index - 1] if index else math.nan
        table.append(
            {
                "created_at": moments[index],
                "model_id": entry.model_id,
                "evaluation_id": entry.evaluation_id,
                "metric": found.metric,
                "value": entry.recorded,
                "change": None if math.isnan(before) or math.isnan(value) else value - before,
                "best_so_far": best,
                "fitted": fitted[index],
                "slope_per_day": slope,
            }
        )
    if not table:
        raise UnknownId("suite", suite, "It has no completed evaluation.")
    return pl.DataFrame(table, infer_schema_length=None)


def _line(days: np.ndarray, values: np.ndarray) -> tuple[float | None, list[float | None]]:
    """Theil and Sen's line through the values over time: one bad evaluation does not bend it."""
    known = np.isfinite(values)
    if known.sum() < 3 or np.ptp(days[known]) == 0:
        return None, [None] * len(values)
    from scipy.stats import theilslopes

    found = theilslopes(values[known], days[known])
    return float(found.slope), [float(found.intercept + found.slope * day) for day in days]
