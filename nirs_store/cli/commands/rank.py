"""``nirs-store top``, ``search``, ``pivot``, ``compare``, ``sql`` and ``stats``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import Choice
from nirs_store.cli._output import (
    cell_text,
    numbers,
    print_columns,
    print_csv,
    print_data,
    print_fields,
    print_rows,
    print_table,
    printed_json,
    refuse_json_with_csv,
    short_id,
)
from nirs_store.cli._workspace import Found, find, json_store_option, ranked, say_unknown, whole_id
from nirs_store.display import byte_text, printable, with_unit

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.records.views import Pivot
    from nirs_store.store import WorkspaceStore


_TASKS = ("regression", "classification")
_dataset = click.option("--dataset", "dataset_name", metavar="NAME", help="Only chains of this data set.")
_target = click.option("--target", metavar="NAME", help="Only chains that predict this target.")
_run = click.option("--run", metavar="RUN", help="Only chains of this run.")


def _chosen(
    store: WorkspaceStore, dataset: str | None, target: str | None, run: str | None
) -> dict[str, Any]:
    """Return what the three options choose, with the whole id of the run; say what nothing has."""
    say_unknown(store, "data set", dataset)
    say_unknown(store, "target", target)
    return {"dataset_name": dataset, "target": target, "run_id": whole_id(store, run, "run")}


@click.command("compare", cls=Command)
@click.argument("identifiers", metavar="ID ID...", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Also show identical items.")
@json_store_option
def compare(store: WorkspaceStore, identifiers: tuple[str, ...], everything: bool) -> None:
    """Compare the configuration, environment and scores of runs or chains in columns.

    Only differences are shown; the scores of a run are those of its best chain. The last eight characters
    of an id are enough.
    """
    if len(identifiers) < 2:
        raise click.UsageError("Name at least two runs or chains to compare.")
    things = [find(store, text, ["run", "chain"]) for text in identifiers]
    ids = [each.identifier for each in things]
    frame = store.compare(ids, only_differences=not everything)
    verdict = _verdict(store, things)
    if printed_json({row["item"]: {name: row[name] for name in ids} for row in frame.iter_rows(named=True)}):
        return
    if verdict:
        click.echo(verdict)
    if not frame.height:
        click.echo("No differences.")
        return
    shown = [short_id(identifier) for identifier in ids]
    print_table(["item", *shown], frame.iter_rows(), flexible=["item", *shown])


def _verdict(store: WorkspaceStore, things: Sequence[Found]) -> str:
    """Say whether two chains differ on the same samples; nothing where they have none in common."""
    from nirs_store.errors import InvalidInput

    if len(things) != 2 or any(each.kind != "chain" for each in things):
        return ""
    try:
        found = store.compare_errors(*(each.identifier for each in things))
    except InvalidInput:
        return ""
    return f"Out-of-fold errors on the same samples: {found.verdict}."


_FORMATS = ("table", "markdown", "latex", "csv")


@click.command("pivot", cls=Command)
@click.option("--rows", metavar="COLUMN", default="preprocessings", help="Variable of the rows.")
@click.option("--columns", metavar="COLUMN", default="model_class", help="Variable of the columns.")
@click.option("--metric", metavar="METRIC", help="Score in the cells [default: depends on the task].")
@click.option(
    "--aggregate",
    metavar="HOW",
    default="best",
    help="How to combine chains in one cell: best, min, max, mean or median.",
)
@_dataset
@_target
@_run
@click.option("--task", "task_type", type=Choice(_TASKS), help="Task, if a workspace has both.")
@click.option("--format", "form", type=Choice(_FORMATS), default="table", help="Output format.")
@json_store_option
def pivot(
    store: WorkspaceStore,
    dataset_name: str | None,
    target: str | None,
    run: str | None,
    form: str,
    **options: Any,
) -> None:
    """Print a score by preprocessing and model, or by two other columns.

    COLUMN is preprocessings, model_class, model_name, dataset_name, run_id, run_name or target. Each cell
    shows the best pooled cross-validated score, such as an RMSECV; CSV and JSON keep all digits.
    Different data sets or targets get separate rows.
    """
    pivot = store.pivot(**_chosen(store, dataset_name, target, run), **options)
    facts = {name: getattr(pivot, name) for name in ("rows", "columns", "metric", "aggregate")}
    if printed_json({**facts, "cells": pivot.frame.to_dicts()}):
        return
    if form == "table":
        _print_pivot(pivot)
    else:
        text = {"markdown": pivot.to_markdown, "latex": pivot.to_latex, "csv": pivot.to_csv}[form]()
        print_data(text)


def _print_pivot(pivot: Pivot) -> None:
    if not pivot.frame.height:
        click.echo("No chains with out-of-fold predictions.")
        return
    first, *whole = pivot.frame.columns
    short = [name.rsplit(".", 1)[-1] for name in whole]
    others = short if pivot.columns == "model_class" and len(set(short)) == len(short) else whole
    click.echo(f"{pivot.aggregate} {pivot.metric} of the pooled out-of-fold predictions")
    shown = iter(numbers([value for row in pivot.frame.iter_rows() for value in row[1:]]))
    rows = [[name or "raw", *(next(shown) for _ in whole)] for name in pivot.frame[first]]
    print_table([first, *others], rows, numeric=others, flexible=[first])


@click.command("sql", cls=Command)
@click.argument("query", metavar="QUERY")
@click.option(
    "--param", "params", multiple=True, metavar="VALUE", help="Value for each ? of the query, in order."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="SECONDS",
    help="Time limit of the query; 0 for no limit.",
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=0),
    default=1_000_000,
    metavar="N",
    help="Refuse a result with more rows; 0 for no limit.",
)
@json_store_option
def sql(
    store: WorkspaceStore,
    query: str,
    params: tuple[str, ...],
    as_csv: bool,
    timeout: float,
    max_rows: int,
) -> None:
    """Query the catalog with one SELECT statement, which cannot change anything.

    QUERY is the statement, or - to read it from standard input. The views scores, models, run_overview,
    log_lines and artifacts contain names instead of ids. Example:

    \b
    nirs-store sql "SELECT pipeline, best_val FROM models WHERE run = ?" --param "fat in meat"
    """  # noqa: D301 (click reads the escape)
    refuse_json_with_csv(as_csv)
    text = sys.stdin.read() if query == "-" else query
    frame = store.sql(text, list(params) or None, timeout=timeout or None, max_rows=max_rows or None)
    if as_csv:
        print_csv(frame)
    elif not printed_json(frame.to_dicts()):
        numeric = [name for name, kind in frame.schema.items() if kind.is_numeric()]
        print_table(
            frame.columns,
            [[cell_text(cell) for cell in row] for row in frame.iter_rows()],
            numeric=numeric,
            flexible=[name for name in frame.columns if name not in numeric],
        )


@click.command("stats", cls=Command)
@click.option(
    "--growth",
    type=click.Choice(["day", "week", "month", "year"]),
    help="Also show the growth per period.",
)
@json_store_option
def stats(store: WorkspaceStore, growth: str | None) -> None:
    """Show the contents and size of a workspace, and its largest runs."""
    from nirs_store.maintenance.gc import blob_sizes

    root, at = store.workspace_path, store.location
    statuses: Counter[str] = Counter()
    offset, page = 0, 1000
    while (runs := store.list_runs(limit=page, offset=offset)).height:
        statuses.update(runs["status"])
        offset += page
    pipelines = store.list_pipelines()
    predictions = store.query_predictions()
    plan = store.gc_artifacts(dry_run=True)
    report = store.storage_report()
    statistics = store.statistics(step=growth or "month")
    blobs = blob_sizes(store._engine)
    journal = sum(path.stat().st_size for path in (root / "journal").rglob("*") if path.is_file())
    facts: dict[str, Any] = {
        "workspace": at.address or str(root),
        "replica": str(root) if at.address else None,
        "commit": at.commit,
        "blobs": at.blobs,
        "runs": sum(statuses.values()),
        "runs_by_status": dict(statuses),
        "pipelines": pipelines.height,
        "chains": predictions["chain_id"].drop_nulls().n_unique(),
        "predictions": predictions.height,
        "datasets": sorted(pipelines["dataset_name"].unique().to_list()),
        "artifact_files": len(blobs),
        "artifact_bytes": sum(blobs),
        "unreferenced_files": len(plan.files),
        "unreferenced_bytes": plan.bytes,
        "unknown_files": len(plan.unknown_files),
        "catalog_bytes": (root / "store.duckdb").stat().st_size,
        "journal_bytes": journal,
        "storage": report.to_dict(),
        "statistics": statistics.to_dict(),
    }
    if printed_json(facts):
        return
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    print_fields(
        {
            "workspace": facts["workspace"],
            "replica": None if at.address is None else f"{root}, up to commit {at.commit:,}",
            "blobs": None if at.address is None and Path(at.blobs).parent == root else at.blobs,
            "runs": f"{facts['runs']} ({by_status})" if by_status else 0,
            "pipelines": pipelines.height,
            "chains": facts["chains"],
            "predictions": predictions.height,
            "data": ", ".join(facts["datasets"]),
            "models": f"{len(blobs)} files, {byte_text(sum(blobs))}",
            "unreferenced": f"{len(plan.files)} files, {byte_text(plan.bytes)}",
            "unknown": f"{len(plan.unknown_files)} files" if plan.unknown_files else None,
            "catalog": byte_text(facts["catalog_bytes"]),
            "journal": byte_text(facts["journal_bytes"]),
            "saved": f"{byte_text(report.saved_bytes)} by storing nothing twice",
            "files": f"{statistics.counts['files']}, {statistics.compression:.0%} saved by compression"
            if statistics.counts["files"]
            else None,
            "errors": ", ".join(f"{count} {name}" for name, count in statistics.errors_by_operation.items()),
        }
    )
    click.echo()
    print_rows(
        report.kinds,
        {
            "kind": lambda k: k.kind,
            "stored": lambda k: k.stored,
            "size": lambda k: byte_text(k.bytes),
            "saved": lambda k: byte_text(k.saved_bytes),
        },
        numeric=["stored", "size", "saved"],
    )
    if report.largest_runs:
        click.echo()
        print_rows(
            report.largest_runs,
            {
                "run": lambda r: short_id(r.run_id),
                "name": lambda r: r.name,
                "size": lambda r: byte_text(r.bytes),
                "only here": lambda r: byte_text(r.own_bytes),
            },
            numeric=["size", "only here"],
            flexible=["name"],
        )
    if growth:
        click.echo()
        print_table(
            statistics.growth.columns,
            statistics.growth.rows(),
            numeric=[name for name in statistics.growth.columns if name != "since"],
        )


@click.command("top", cls=Command)
@click.option("-n", "count", type=click.IntRange(1), default=10, help="Maximum number of chains.")
@click.option(
    "--metric", metavar="METRIC", help="Rank by r2, rpd, sep, f1, ... [default: depends on the task]."
)
@click.option(
    "--ascending/--descending", default=None, help="Smallest or largest first [default: best first]."
)
@click.option(
    "--task", "task_type", type=Choice(_TASKS), metavar="TASK", help="Only regression or classification."
)
@_dataset
@_target
@_run
@click.option(
    "--one-se",
    is_flag=True,
    help="For each family of a run, list only the number of latent variables within one SE.",
)
@click.option(
    "--name", metavar="TEXT", help="Only chains of runs whose names contain this text, or match a pattern."
)
@json_store_option
def top(
    store: WorkspaceStore,
    count: int,
    dataset_name: str | None,
    target: str | None,
    run: str | None,
    one_se: bool,
    **options: Any,
) -> None:
    """Rank the chains by their cross-validation, best first.

    RMSECV is the RMSE over all pooled out-of-fold predictions, SD its spread over the folds; bias
    (predicted - measured), R2 and RPD belong to the same predictions. RMSEP is the error of the refit on
    the test samples. For a repeated cross-validation, the scores are means over the repeats. Each target
    has its own table.
    Classifications have their own table too, ranked by balanced accuracy.
    """
    about = _chosen(store, dataset_name, target, run)
    chosen = _within_one_se(store, about["run_id"]) if one_se else None
    frames = ranked(store, count if chosen is None else 1_000_000, **about, **options)
    called = store.calibrations.names_of([each for frame in frames for each in frame["chain_id"]])
    if chosen is not None:
        kept = [frame.filter(frame["chain_id"].is_in(chosen)).head(count) for frame in frames]
        frames = [frame for frame in kept if frame.height]
    rows = [row for frame in frames for row in frame.to_dicts()]
    if printed_json([row | {"calibrations": called.get(row["chain_id"], ())} for row in rows]):
        return
    if not frames:
        narrowed = any(about.values()) or any(options[name] for name in ("name", "task_type", "metric"))
        click.echo("No chains fit." if narrowed else "No chains with predictions.")
    for index, frame in enumerate(frames):
        if index:
            click.echo()
        _print(frame, called)


def _within_one_se(store: WorkspaceStore, run_id: str | None) -> list[str]:
    """Return the chains that the rule of one standard error takes, of one run or of all."""
    from nirs_store.errors import InvalidInput

    runs = [run_id] if run_id else store.list_runs(limit=1_000_000)["run_id"].to_list()
    chosen = []
    for each in runs:
        try:
            choices = store.suggest_components(each)
        except InvalidInput:
            continue  # a run without such a family has nothing to choose
        chosen += (
            [choice.chain_id for choice in choices if choice.chain_id] if isinstance(choices, list) else []
        )
    return chosen


#: Score columns besides the one that ranks, and what chemometricians call a score.
_BESIDE = {"regression": ("rmse", "bias", "r2", "rpd"), "classification": ("accuracy", "f1")}
_COLUMNS = {"rmse": "rmsecv"}


def _print(frame: pl.DataFrame, called: Mapping[str, Sequence[str]]) -> None:
    from nirs_store.scores import score_label

    rows = frame.to_dicts()
    metric = rows[0]["metric"]
    about = [_about(row) for row in rows]
    several = len(set(about)) > 1
    if not several and about[0]:
        click.echo(printable(about[0]))
    scores: dict[str, list[str | None]] = {
        score_label(metric): numbers([row["score"] for row in rows], _decimals(metric)),
        "SD": numbers([row["score_sd"] for row in rows], 2),
    }
    if any((row["n_repeats"] or 1) > 1 for row in rows):
        scores["SD of repeats"] = numbers([row["repeat_sd"] for row in rows], 2)
    for name in _BESIDE[rows[0]["task_type"]]:
        if name != metric:
            values = [row[_COLUMNS.get(name, name)] for row in rows]
            scores[score_label(name)] = numbers(values, _decimals(name))
    scores["RMSEP" if metric == "rmse" else "test"] = numbers(
        [row["test_score"] for row in rows], _decimals(metric)
    )
    columns: dict[str, Sequence[Any]] = {
        "": range(1, len(rows) + 1),
        "chain": [row["pipeline"] for row in rows],
        **({"data": about} if several else {}),
        **scores,
    }
    if any(row["chain_id"] in called for row in rows):
        columns["calibration"] = [", ".join(called.get(row["chain_id"], ())) for row in rows]
    columns["id"] = [short_id(row["chain_id"]) for row in rows]
    print_columns(columns, numeric=["", *scores], flexible=["chain", "data"])


def _decimals(metric: str) -> int:
    from nirs_store.scores import METRICS

    return METRICS[metric].decimals if metric in METRICS else 3


def _about(row: dict[str, Any]) -> str:
    target = with_unit(row["target"] or "", row["unit"])
    return " ".join(part for part in (row["dataset_name"], target) if part)


@click.command("search", cls=Command)
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "count", type=click.IntRange(1), default=20, help="Maximum number of chains per target.")
@click.option("--metric", metavar="METRIC", help="Rank by r2, rpd, f1, ... [default: the recorded metric].")
@click.option("--deleted", is_flag=True, help="Search chains in the trash, and those that retention deleted.")
@json_store_option
def search(
    store: WorkspaceStore, words: tuple[str, ...], count: int, metric: str | None, deleted: bool
) -> None:
    """Find chains by words, best first: nirs-store search moisture sg 2nd.

    A chain must match all words, each at the beginning of a word: in the run's name, note and tags, the
    data set, the target and its unit, the preprocessing, the model, and the parameters of the steps.
    deriv=2 or lv=12 matches a parameter; 1st and 2nd also match the order of a derivative.
    """
    from nirs_store.scores import score_label

    rows = store.search(" ".join(words), count, metric, deleted=deleted).to_dicts()
    scores = iter(numbers([row["score"] for row in rows], 3))
    last = "deleted" if deleted else "tags"
    print_rows(
        rows,
        {
            "chain": "pipeline",
            "target": lambda row: with_unit(row["target"] or "", row["target_unit"]),
            "LV": "components",
            "score": lambda _: next(scores),
            "metric": lambda row: score_label(row["metric"]) if row["metric"] else None,
            "run": "run_name",
            last: lambda row: f"{row['deleted_at']:%Y-%m-%d}" if deleted else ", ".join(row["tags"] or []),
            "id": lambda row: short_id(row["chain_id"]),
        },
        empty="No chain fits all words.",
        numeric=["LV", "score"],
        flexible=["chain", "target", "run", last],
    )
