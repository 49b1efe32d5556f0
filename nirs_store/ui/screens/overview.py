"""The first screen: what is best, what is going on, what needs attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nirs_store.lazy import polars as pl
from nirs_store.store import WorkspaceStore
from nirs_store.ui.chart import ChainFigures
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.screens.calibrations import alarms, is_compared
from nirs_store.ui.screens.leaderboard import findings_of, flags_of, shown_columns, to_chain
from nirs_store.ui.screens.runs import RUN_COLUMNS, with_counts
from nirs_store.ui.table import Column, Table

_FIRST, _BOARDS, _REVIEWED, _LATEST, _TOLD = 6, 6, 3, 5, 8
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
        "figure": ChainFigures(store, chosen).predicted_vs_measured(width=360) if chosen else None,
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
    columns = [replace(column, sorts=False) for column in RUN_COLUMNS if column.name in _OF_RUNS]
    return Table(frame, columns, request, frame.height, name="runs")


def _kinds(store: WorkspaceStore) -> list[dict[str, Any]]:
    """Return the data sets and targets of which chains are ranked, the newest first, as filters of their list."""
    return store.sql(
        "SELECT l.dataset_name, coalesce(c.target, '') AS target, coalesce(c.target_unit, '') AS target_unit "
        "FROM chains c JOIN pipelines l USING (pipeline_id) GROUP BY ALL ORDER BY max(c.created_at) DESC LIMIT 200"
    ).to_dicts()


def _boards(request: Request, kinds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first rows of the leaderboard of each data set and target."""
    boards = []
    for about in kinds:
        frame = request.store.list_chains(limit=_FIRST, **about)
        columns = [replace(each, longest=60) for each in shown_columns(frame, *about, "run_name")]
        place = next(place for place, column in enumerate(columns) if column.name == "n_samples") + 1
        columns.insert(
            place, Column("flags", "Flags", link=_to_review, hint="Findings of the review", sorts=False)
        )
        flags, total = flags_of(request.store, frame["chain_id"]), int(frame["total"][0])
        frame = frame.drop("total").with_columns(flags=pl.Series(flags, dtype=pl.String))
        table = Table(frame, columns, request, total, ranks=True, ticks="chain_id", picks="/?chain=",
                      name=" ".join(about.values()))  # fmt: skip
        boards.append({"about": about, "table": table, "total": total})
    return boards


def _to_review(row: Mapping[str, Any]) -> str:
    return f"{to_chain(row)}#review"


def now(request: Request) -> View:
    """Show what goes on: asked for again and again, so it asks the catalog for little."""
    store = request.store
    values = {"counts": _counts(store), "live": live(store), "latest": _latest(request)}
    return View("now.html", "Now", values, refresh=2)


def findings(request: Request) -> View:
    """Show what needs attention, later than the rest as it takes longer: what is damaged, what a reviewer would ask."""
    store = request.store
    best: dict[str, str] = {}
    for about in _kinds(store)[:_REVIEWED]:
        best |= dict(
            store.list_chains(limit=1, scores=False, **about).select("chain_id", "pipeline").iter_rows()
        )
    reviews = findings_of(store, best)
    found = [
        {"chain_id": chain_id, "pipeline": best[chain_id], "finding": finding}
        for chain_id, review in zip(best, reviews, strict=True)
        for finding in review or ()
    ]
    found.sort(key=lambda each: ("error", "warning", "note").index(each["finding"].severity))
    # Sizes and names of files are compared, no bytes are read.
    report = store.check()
    trouble = [
        each for each in report.findings if each.severity == "error" or each.kind == "segment_rejected"
    ]
    values = {
        "findings": found[:_TOLD], "more_findings": len(found[_TOLD:]),
        "trouble": trouble[:_TOLD], "more_trouble": len(trouble[_TOLD:]),
        "flags": dict(zip(best, flags_of(store, best), strict=True)),
    }  # fmt: skip
    reviewed = [{"chain_id": each["chain_id"], **vars(each["finding"])} for each in found]
    return View(
        "findings.html", "What needs attention", values, data={"reviewed": reviewed, "damaged": trouble}
    )


def live(store: WorkspaceStore) -> list[dict[str, Any]]:
    """Return the runs that are being recorded, with what is done of them and the best so far."""
    found = []
    for run in store.list_runs(status="running", limit=20).iter_rows(named=True):
        done = store.sql(
            "SELECT count(*) AS n, count(*) FILTER (status = 'completed') AS done, "
            "count(*) FILTER (status = 'failed') AS failed FROM pipelines WHERE run_id = ?",
            [run["run_id"]],
        ).row(0, named=True)
        best = store.list_chains(limit=1, run_id=run["run_id"], scores=False).to_dicts()
        found.append({"run": run, **done, "best": best[0] if best else None})
    return found


SCREENS = (
    Screen("/", show, "Overview", keeps=True),
    Screen("/now", now),
    Screen("/findings", findings),
)
