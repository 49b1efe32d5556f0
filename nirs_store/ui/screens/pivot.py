"""A heat map of one score: preprocessing by model, or any two of what chains are told apart by."""

from __future__ import annotations

from typing import Any

import numpy as np

from nirs_store.scores import CLASSIFICATION_SCORES, REGRESSION_SCORES, higher_is_better
from nirs_store.store import WorkspaceStore
from nirs_store.ui.frame import Request, Screen, View, address
from nirs_store.ui.screens.leaderboard import NONE
from nirs_store.ui.table import decimals_of, number_text, seen

_KINDS = ("preprocessings", "model_class", "model_name", "dataset_name", "run_name", "target")
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
    names, frame = pivot.frame.columns[1 : _MOST + 1], pivot.frame.head(_MOST)
    behind = _behind(request.store, frame, rows, columns, filters) if names else {}
    values: dict[str, Any] = {
        "pivot": pivot, "names": [_short(name, columns) for name in names], "whole_names": names,
        "rows": _cells(frame, names, pivot.metric, behind) if names else [],
        "kinds": _KINDS, "aggregates": _AGGREGATES, "chosen": filters,
        "known": request.store.chain_values("dataset_name", "target"),
        "metrics": REGRESSION_SCORES if task != "classification" else CLASSIFICATION_SCORES,
        "tasks": recorded if len(recorded) > 1 else [], "task": task or "",
        "most": _MOST, "size": (pivot.frame.height, pivot.frame.width - 1),
    }  # fmt: skip
    data = {"rows": rows, "columns": columns, "metric": pivot.metric, "aggregate": how, "table": pivot.frame}
    return View("pivot.html", "Pivot", values, data=data)


def _short(name: str, kind: str) -> str:
    return name.rpartition(".")[2] if kind == "model_class" else name


def _cells(
    frame: Any, names: list[str], metric: str, behind: dict[tuple[str, str], dict[str, str]]
) -> list[Any]:
    """Return each row's name and cells: text, shade from 0 (poor) to 9 (best), and the chains behind it."""
    table = frame.select(names).to_numpy().astype(float)
    good = np.isfinite(table)
    places = decimals_of(table[good].tolist())
    better = table if higher_is_better(metric) else -np.abs(table) if metric == "bias" else -table
    shades = np.zeros(table.shape, int)
    if good.any():
        best, middle = better[good].max(), np.median(better[good])
        # One hopeless cell would take all the shades: what is three times as far off as the middle is the palest.
        reach = min(3 * (best - middle) or np.inf, best - better[good].min()) or 1.0
        shades[good] = np.clip(9.999 * (1 - (best - better[good]) / reach), 0, 9).astype(int)

    def cell(first: str, name: str, value: float, shade: int) -> tuple[str, str, str]:
        if not np.isfinite(value):
            return "", "", ""
        asked = behind.get((first, name))
        return (
            number_text(value, seen(value, places)),
            f"h{shade}",
            address("/chains", **asked) if asked else "",
        )

    return [
        (_short(first or "", frame.columns[0]) or "none",
         [cell(first or "", *each) for each in zip(names, values.tolist(), row.tolist(), strict=True)])
        for first, values, row in zip(frame[:, 0].to_list(), table, shades, strict=True)
    ]  # fmt: skip


def _behind(
    store: WorkspaceStore, frame: Any, rows: str, columns: str, filters: dict[str, Any]
) -> dict[tuple[str, str], dict[str, str]]:
    """Return the filters of the leaderboard that lead to the chains of each cell."""
    # A pivot names in its rows what its scores may not be joined over, so a cell is found by all that it may be called.
    kinds = store.sql(
        "SELECT DISTINCT coalesce(c.preprocessings, '') AS preprocessings, c.model_class, coalesce((SELECT any_value("
        "q.model_name) FROM predictions q WHERE q.chain_id = c.chain_id), split_part(c.model_class, '.', -1)) AS "
        "model_name, l.dataset_name, coalesce(r.name, '') AS run_name, coalesce(c.target, '') AS target, "
        "coalesce(c.target_unit, '') AS target_unit FROM chains c JOIN pipelines l USING (pipeline_id) "
        "LEFT JOIN runs r USING (run_id)"
    ).to_dicts()
    kept = {key: value for key, value in filters.items() if value}
    kinds = [kind for kind in kinds if all(kind[key] == value for key, value in kept.items())]
    wanted = set(frame[rows].fill_null("").to_list())
    for split in ((), ("target",), ("dataset_name",), ("target", "dataset_name")):
        found: dict[tuple[str, str], dict[str, str]] = {}
        for kind in kinds:
            about = (kind["target"] or "no target") + (
                f" ({kind['target_unit']})" if kind["target_unit"] else ""
            )
            names = {"target": about, "dataset_name": kind["dataset_name"]}
            shown = kind | {key: names[key] for key in split if key in (rows, columns)}
            added = [names[key] for key in split if key not in (rows, columns)]
            row = " · ".join([shown[rows] or "raw", *added]) if added else shown[rows]
            asked = {key: _short(kind[key], key) for key in dict.fromkeys((rows, columns, *split))}
            if "target" in split:
                asked["target_unit"] = kind["target_unit"]
            found[row, shown[columns]] = kept | {key: value or NONE for key, value in asked.items()}
        if wanted <= {row for row, _ in found}:
            return found
    return {}


SCREENS = (Screen("/pivot", show, "Pivot", keeps=True),)
