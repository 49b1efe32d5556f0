"""The first screen: what is best, what is going on, what needs attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.store import WorkspaceStore
from nirs_store.ui.chart import ChainFigures
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.screens.calibrations import alarms, is_compared
from nirs_store.ui.screens.leaderboard import chain_columns
from nirs_store.ui.screens.runs import run_columns, with_counts
from nirs_store.ui.table import Table

__all__ = ["SCREENS"]

_FIRST, _BOARDS, _REVIEWED, _LATEST = 6, 6, 3, 5
_OF_RUNS = ("name", "status", "n", "best", "created_at")


def show(request: Request) -> View:
    """Show the best chains of each data set with the figure of one; what goes on comes from an address of its own."""
    store = request.store
    kinds = _kinds(store)
    boards = _boards(request, kinds[:_BOARDS])
    chosen = request.text("chain") or (boards[0]["table"].frame["chain_id"][0] if boards else "")
    for board in boards:
        board["table"].picked = chosen
    values = {
        "counts": _counts(store),
        "live": live(store),
        "latest": _latest(request),
        "alarms": alarms(store) if request.static else [],
        "monitored": is_compared(store),
        "boards": boards,
        "chosen": store.show_chain(chosen) if chosen else None,
        "figure": ChainFigures(store, chosen).predicted_vs_measured() if chosen else None,
        "more_boards": max(0, len(kinds) - _BOARDS),
    }
    return View("overview.html", "Overview", values, refresh=2)


def _counts(store: WorkspaceStore) -> dict[str, int]:
    return store.sql(
        "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM pipelines) AS pipelines, "
        "(SELECT count(*) FROM chains) AS chains, (SELECT count(*) FROM predictions) AS predictions, "
        "(SELECT coalesce(sum(size_bytes), 0)::BIGINT FROM blobs) AS model_bytes"
    ).row(0, named=True)


def _latest(request: Request) -> Table:
    frame = with_counts(request.store, request.store.list_runs(limit=_LATEST))
    columns = [replace(column, sorts=False) for column in run_columns() if column.name in _OF_RUNS]
    return Table(frame, columns, request, frame.height, name="runs")


def _kinds(store: WorkspaceStore) -> list[dict[str, Any]]:
    return store.sql(
        "SELECT l.dataset_name, coalesce(c.target, '') AS target, coalesce(c.target_unit, '') AS target_unit, "
        "max(c.created_at) AS newest FROM chains c JOIN pipelines l USING (pipeline_id) "
        "GROUP BY ALL ORDER BY newest DESC LIMIT 200"
    ).to_dicts()


def _boards(request: Request, kinds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first rows of the leaderboard of each data set and target, the newest first."""
    boards = []
    for kind in kinds:
        about = {name: kind[name] for name in ("dataset_name", "target", "target_unit")}
        frame = request.store.list_chains(limit=_FIRST, **about)
        tasks = set(frame["task"].drop_nulls().to_list())
        left_out = ("dataset_name", "target", "target_unit", "run_name", "created_at", "chain_id")
        columns = [
            replace(c, longest=28) for c in chain_columns(tasks) if not c.hidden and c.name not in left_out
        ]
        total = int(frame["total"][0])
        table = Table(
            frame.drop("total"), columns, request, total, ranks=True, ticks="chain_id", picks="/?chain=",
            name=" ".join(about.values()),
        )  # fmt: skip
        boards.append({"about": about, "table": table, "total": total})
    return boards


def now(request: Request) -> View:
    """Show what goes on: asked for again and again, so it asks the catalog for little."""
    store = request.store
    values = {"counts": _counts(store), "live": live(store), "latest": _latest(request)}
    return View("now.html", "Now", values, refresh=2)


def findings(request: Request) -> View:
    """Show what the review says of the best chains: later than the rest, as it takes longer."""
    found = _findings(request.store, _boards(request, _kinds(request.store)[:_REVIEWED]))
    data = [{"chain_id": each["chain_id"], **vars(each["finding"])} for each in found]
    return View("findings.html", "What a reviewer would ask", {"findings": found}, data=data)


def live(store: WorkspaceStore) -> list[dict[str, Any]]:
    """Return the runs that are being recorded, with what is done of them and the best so far."""
    running = store.list_runs(status="running", limit=20)
    found = []
    for run in running.iter_rows(named=True):
        done = store.sql(
            "SELECT count(*) AS n, count(*) FILTER (status = 'completed') AS done, "
            "count(*) FILTER (status = 'failed') AS failed FROM pipelines WHERE run_id = ?",
            [run["run_id"]],
        ).row(0, named=True)
        best = store.list_chains(limit=1, run_id=run["run_id"], scores=False)
        found.append({"run": run, **done, "best": best.row(0, named=True) if best.height else None})
    return found


def _findings(store: WorkspaceStore, boards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the review says of the best chains, gravest first."""
    found: list[dict[str, Any]] = []
    for board in boards:
        row = board["table"].frame.row(0, named=True)
        try:
            review = store.review(row["chain_id"])
        except InvalidInput:
            continue
        found += [
            {"chain_id": row["chain_id"], "pipeline": row["pipeline"], "finding": f} for f in review.findings
        ]
    return sorted(found, key=lambda each: ("error", "warning", "note").index(each["finding"].severity))[:8]


SCREENS = (
    Screen("/", show, "Overview", keeps=True),
    Screen("/now", now),
    Screen("/findings", findings, keeps=True),
)
