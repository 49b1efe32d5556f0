"""Runs: the list, and one run with its notes, tags, pipelines, curves and log, live while it is recorded."""

from __future__ import annotations

from nirs_store.errors import UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.scores import CLASSIFICATION_SCORES, REGRESSION_SCORES, higher_is_better
from nirs_store.store import WorkspaceStore
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.screens.leaderboard import shown_columns
from nirs_store.ui.table import Column, Table, cut_of, table_of, to
from nirs_store.values import from_json

_MOST = 2000
_TIMES = ("created_at", "completed_at")
_SHOWN = ("run_id", "name", "status", "datasets", "note", "tags", "environment", "config", "summary", "error", *_TIMES,
          "pipelines")  # fmt: skip
_SCORES = (*REGRESSION_SCORES, *CLASSIFICATION_SCORES)
_STATUSES = ("running", "completed", "failed", "interrupted")


def listing(request: Request) -> View:
    """List runs, newest first."""
    status, tag = request.text("status") or None, request.texts("tag")
    frame = request.store.list_runs(status, request.text("dataset") or None, limit=_MOST, tags=tag)
    frame = with_counts(request.store, frame)
    empty = "No run matches." if request.query else "No run was recorded yet."
    cut = cut_of(request.store, frame, _MOST, "SELECT count(*) FROM runs")
    table = table_of(request, frame, RUN_COLUMNS, empty=empty, ticks="run_id", name="runs", cut=cut)
    more = {"table": table, "statuses": _STATUSES, "status": status or ""}
    return View("runs.html", "Runs", more, table=table, refresh=3)


RUN_COLUMNS = (
    Column("name", "Run", link=to("/runs", "run_id")), Column("status", kind="status"),
    Column("data", longest=32), Column("n", "Pipelines", "whole"),
    Column("best", "Best", "number", hint="Best validation score of its pipelines"),
    Column("tags", "Tags", "list"), Column("note", longest=40),
    Column("created_at", "Begun", "time"), Column("completed_at", "Ended", "time"),
    Column("run_id", "Id", "id", link=to("/runs", "run_id"), sorts=False),
)  # fmt: skip


def with_counts(store: WorkspaceStore, frame: pl.DataFrame) -> pl.DataFrame:
    """Add to a list of runs how many pipelines each has, and its best score."""
    counts = store.sql(
        "SELECT run_id, count(*) AS n, CASE WHEN list_contains($high, any_value(lower(metric))) THEN max(best_val) "
        "ELSE min(best_val) END AS best FROM pipelines WHERE run_id IN (SELECT unnest($ids::VARCHAR[])) "
        "GROUP BY run_id",
        {"ids": frame["run_id"].to_list(), "high": [name for name in _SCORES if higher_is_better(name)]},
    )
    made = frame.with_columns(
        pl.Series("data", [_names(each) for each in frame["datasets"]], dtype=pl.String),
        pl.Series("tags", [from_json(each) or [] for each in frame["tags"]], dtype=pl.List(pl.String)),
    )
    return made.join(counts, on="run_id", how="left", maintain_order="left").select(
        "name", "status", "data", pl.col("n").fill_null(0), "best", "tags", "note", *_TIMES, "run_id"
    )


def _names(datasets: str | None) -> str:
    found = from_json(datasets) or []
    return ", ".join(str(each.get("name", "") if isinstance(each, dict) else each) for each in found)


_PIPELINES = (
    Column("name", "Pipeline", link=to("/pipelines", "pipeline_id")), Column("status", kind="status"),
    Column("dataset_name", "Data", longest=24), Column("metric"), Column("best_val", "Best val", "number"),
    Column("best_test", "Best test", "number", like="best_val"), Column("duration_ms", "ms", "whole"),
    Column("created_at", "Begun", "time"), Column("error", longest=60, hidden=True),
    Column("pipeline_id", "Id", "id", sorts=False),
)  # fmt: skip
_LOG = (
    Column("created_at", "When", "time"), Column("step_idx", "Step", "whole"), Column("event"), Column("level"),
    Column("operator_class", "Operator"), Column("duration_ms", "ms", "whole"), Column("message", longest=120),
)  # fmt: skip


def one(request: Request) -> View:
    """Show a run."""
    store = request.store
    shown = store.show_run(request.parts["run_id"])
    run_id, empty = shown.run_id, "No pipeline was begun yet."
    pipelines = table_of(request, shown.pipelines, _PIPELINES, prefix="p_", empty=empty, name="pipelines")
    best = store.list_chains(limit=8, run_id=run_id)
    columns = shown_columns(best, "run_name", "dataset_name")
    total = int(best["total"][0]) if best.height else 0
    wrong = pl.col("warning_count") + pl.col("error_count") > 0
    values = {
        "run": shown,
        "run_id": run_id,
        "pipelines": pipelines,
        "chains": Table(best, columns, request, total, ranks=True, name="chains"),
        "done": dict(shown.pipelines["status"].value_counts().iter_rows()),
        "progress": _progress(shown.pipelines),
        "log": store.get_run_log_summary(run_id).filter(wrong).head(50),
    }
    data = {name: getattr(shown, name) for name in _SHOWN}
    refresh = 2 if shown.status == "running" else 0
    return View("run.html", shown.name, values, data=data, table=pipelines, refresh=refresh)


def _progress(pipelines: pl.DataFrame) -> Figure | None:
    """Draw the scores of the pipelines in the order in which they were begun, with the best so far."""
    known = pipelines.sort("created_at").filter(pl.col("best_val").is_finite())
    if known.height < 3:
        return None
    metric = known["metric"].drop_nulls().to_list()
    words = f"Best {metric[0] if metric else 'score'}"
    figure = Figure("Scores in the order of recording", "Pipeline", words, whole_x=True)
    place = range(1, known.height + 1)
    links = [f"/pipelines/{each}" for each in known["pipeline_id"].to_list()]
    figure.points(
        place, known["best_val"], "cv", titles=[str(name) for name in known["name"].to_list()], links=links
    )
    low = not metric or metric[0] not in _SCORES or not higher_is_better(metric[0])
    best = known["best_val"].cum_min() if low else known["best_val"].cum_max()
    return figure.line(place, best, "test", label="best so far")


def pipeline(request: Request) -> View:
    """Show a pipeline with its chains, curves and log."""
    store = request.store
    found = store.get_pipeline(request.parts["pipeline_id"])
    if found is None:
        raise UnknownId("pipeline", request.parts["pipeline_id"])
    rows = store.get_pipeline_log(found["pipeline_id"])
    log = table_of(request, rows, _LOG, empty="Nothing was logged.", name="log")
    curves = store.get_metrics(found["pipeline_id"], max_points=600).group_by("name", maintain_order=True)
    figures = [
        Figure(str(name), "Step", str(name)).line(part["step"], part["value"], "cv")
        for (name,), part in curves
    ]
    chains = store.get_chains_for_pipeline(found["pipeline_id"])
    chains = chains.select("chain_id", "preprocessings", "model_class")
    values = {"pipeline": found, "log": log, "figures": figures[:12], "chains": chains.to_dicts(),
              "undrawn": len(figures[12:])}  # fmt: skip
    data = found | {"chains": chains, "log": log}
    refresh = 2 if found["status"] == "running" else 0
    return View("pipeline.html", found["name"], values, data=data, table=log, refresh=refresh)


SCREENS = (
    Screen("/runs", listing, "Runs"),
    Screen("/runs/{run_id}", one),
    Screen("/pipelines/{pipeline_id}", pipeline),
)
