"""A heat map of one score: preprocessing by model, or any two of what chains are told apart by."""

from __future__ import annotations

from typing import Any

import numpy as np

from nirs_store.scores import CLASSIFICATION_SCORES, REGRESSION_SCORES, higher_is_better
from nirs_store.ui.frame import Request, Screen, View, address
from nirs_store.ui.table import decimals_of, number_text, seen

__all__ = ["SCREENS"]

_KINDS = ("preprocessings", "model_class", "model_name", "dataset_name", "run_name", "target")
_LISTED = ("preprocessings", "model_class", "dataset_name", "target")
_AGGREGATES = ("best", "min", "max", "mean", "median")
_MOST = 200


def show(request: Request) -> View:
    """Show the heat map."""
    rows, columns = request.text("rows", "preprocessings"), request.text("columns", "model_class")
    metric, how = request.text("metric") or None, request.text("aggregate", "best")
    filters = {name: request.text(name) or None for name in ("dataset_name", "target")}
    recorded = request.store.sql(
        "SELECT DISTINCT CASE WHEN contains(lower(task_type), 'classification') THEN 'classification' "
        "ELSE 'regression' END AS task FROM predictions WHERE chain_id IS NOT NULL ORDER BY task DESC"
    )["task"].to_list()
    task = request.text("task") or (recorded[0] if recorded else None)
    pivot = request.store.pivot(rows, columns, metric, aggregate=how, task_type=task, **filters)
    names = pivot.frame.columns[1 : _MOST + 1]
    frame = pivot.frame.head(_MOST)
    known = request.store.chain_values("dataset_name", "target")
    values: dict[str, Any] = {
        "pivot": pivot,
        "names": [_short(name, columns) for name in names],
        "whole_names": names,
        "rows": _cells(frame, names, pivot.metric, rows, columns, filters) if names else [],
        "kinds": _KINDS, "aggregates": _AGGREGATES, "known": known, "chosen": filters,
        "metrics": REGRESSION_SCORES if task != "classification" else CLASSIFICATION_SCORES,
        "tasks": recorded if len(recorded) > 1 else [], "task": task or "",
        "cut": pivot.frame.height > _MOST or len(pivot.frame.columns) > _MOST + 1,
    }  # fmt: skip
    data = {"rows": rows, "columns": columns, "metric": pivot.metric, "aggregate": how, "table": pivot.frame}
    return View("pivot.html", "Pivot", values, data=data)


def _short(name: str, kind: str) -> str:
    return name.rpartition(".")[2] if kind == "model_class" else name


def _cells(
    frame: Any, names: list[str], metric: str, rows: str, columns: str, filters: dict[str, Any]
) -> list[Any]:
    """Return each row's name and cells: text, shade from 0 (poor) to 9 (best), and the chains behind it."""
    table = frame.select(names).to_numpy().astype(float)
    good = np.isfinite(table)
    places = decimals_of(table[good].tolist())
    better = table if higher_is_better(metric) else -np.abs(table) if metric == "bias" else -table
    shades = np.full(table.shape, -1)
    if good.any():
        best, middle = better[good].max(), np.median(better[good])
        # One hopeless cell would take all the shades: what is three times as far off as the middle is the palest.
        reach = min(3 * (best - middle) or np.inf, best - better[good].min()) or 1.0
        shades[good] = np.clip(9.999 * (1 - (best - better[good]) / reach), 0, 9).astype(int)
    found = []
    for place, first in enumerate(frame[:, 0].to_list()):
        cells = []
        for column, name in enumerate(names):
            if not good[place, column]:
                cells.append(("", "", ""))
                continue
            wanted = {key: value for key, value in filters.items() if value}
            wanted |= {rows: _short(first or "", rows), columns: _short(name, columns)}
            asked = {key: value for key, value in wanted.items() if key in _LISTED}
            value = float(table[place, column])
            text = number_text(value, seen(value, places))
            cells.append((text, f"h{shades[place, column]}", address("/chains", **asked)))
        found.append((_short(first or "", rows) or "none", cells))
    return found


SCREENS = (Screen("/pivot", show, "Pivot", keeps=True),)
