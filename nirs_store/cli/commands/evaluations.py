"""``nirs-store evaluations``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Group
from nirs_store.cli._options import FILE, FOR_GOOD, confirm, dry_run_option, given, now_option
from nirs_store.cli._output import answer, moment, print_fields, print_table, printed_json, short_id
from nirs_store.cli._workspace import json_store_option, plan_options, the_end_of_one
from nirs_store.ids import is_id

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.store import WorkspaceStore

_metric_option = click.option(
    "--metric", metavar="NAME", help="Metric to rank by (default: the suite's metric)."
)
_which_option = click.option(
    "--which",
    type=click.Choice(["latest", "best", "all"]),
    default="latest",
    help="Which evaluation of each model to use.",
)
_figure_option = click.option(
    "--figure", type=FILE, help="Also draw a figure to this .png, .pdf, .svg, ... file."
)
_seed_option = click.option("--seed", type=int, default=0, help="Seed of the bootstrap.")


@click.group("evaluations", cls=Group)
def evaluations() -> None:
    """List, rank, compare and summarize evaluations of models on suites."""


@evaluations.command("list")
@click.option("--model", "model_id", metavar="ID", help="Only this model.")
@click.option("--suite", metavar="NAME", help="Only this suite.")
@click.option("--status", metavar="STATUS", help="Only of this status.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Only with this tag; may be repeated.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The newest N.")
@json_store_option
def list_evaluations(store: WorkspaceStore, **options: Any) -> None:
    """List evaluations, oldest first."""
    frame = store.evaluations.list(**options)
    shown = ("evaluation_id", "suite", "model_id", "status", "metric", "scores", "success_rate", "created_at")
    _print(frame, shown)


@evaluations.command("show")
@click.argument("evaluation", metavar="ID")
@json_store_option
def show(store: WorkspaceStore, evaluation: str) -> None:
    """Show an evaluation with its recorded environment."""
    found = store.evaluations.get(_find(store, evaluation)) or {}
    if printed_json(found):
        return
    environment = {k: v for k, v in (found["environment"] or {}).items() if k != "packages"}
    shown = {**found, "environment": environment, "created_at": moment(found["created_at"])}
    print_fields({name: _text(value) for name, value in shown.items()})


@evaluations.command("leaderboard")
@click.argument("suite")
@_metric_option
@_which_option
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95)
@_seed_option
@_figure_option
@json_store_option
def leaderboard(
    store: WorkspaceStore, suite: str, metric: str | None, figure: Path | None, **options: Any
) -> None:
    """Rank the models of a suite, with bootstrap confidence intervals."""
    frame = store.evaluations.leaderboard(suite, metric, **options)
    _draw("leaderboard_intervals", frame, figure)
    shown = ("rank", "model_id", "metric", "value", "ci_low", "ci_high", "n", "success_rate", "champion")
    _print(frame, shown)


@evaluations.command("groups")
@click.argument("suite")
@click.argument("by", metavar="COLUMN")
@_metric_option
@_which_option
@_seed_option
@json_store_option
def groups(store: WorkspaceStore, suite: str, by: str, metric: str | None, **options: Any) -> None:
    """Show a metric for each group of episodes or samples."""
    frame = store.evaluations.by_group(suite, by, metric, **options)
    _print(frame, frame.columns)


@evaluations.command("compare")
@click.argument("suite")
@_metric_option
@click.option("--test", type=click.Choice(["wilcoxon", "t-test"]), default="wilcoxon")
@click.option(
    "--correction",
    type=click.Choice(["bh", "by", "holm", "none"]),
    default="bh",
    help="Correction for multiple tests.",
)
@click.option("--pair-by", metavar="COLUMN", help="Column that pairs the rows.")
@_figure_option
@json_store_option
def compare(
    store: WorkspaceStore, suite: str, metric: str | None, figure: Path | None, **options: Any
) -> None:
    """Compare every model with every other on the same episodes or samples."""
    found = store.evaluations.compare(suite, metric, **options)
    _draw("comparison_matrix", found, figure)
    shown = ("model_a", "model_b", "n", "mean_difference", "p_value", "p_adjusted", "better")
    _print(found.frame, shown)


@evaluations.command("pareto")
@click.argument("suite")
@click.argument("objectives", metavar="METRIC METRIC...", nargs=-1, required=True)
@_figure_option
@json_store_option
def pareto(store: WorkspaceStore, suite: str, objectives: tuple[str, ...], figure: Path | None) -> None:
    """Find the Pareto-optimal models; METRIC=lower sets a direction."""
    stated = dict(each.split("=", 1) for each in objectives if "=" in each)
    names = [each.split("=", 1)[0] for each in objectives]
    found = store.evaluations.pareto(suite, names)
    if stated:
        from nirs_store.evaluations.rows import better_of

        found = store.evaluations.pareto(suite, {n: stated.get(n) or better_of(n) for n in names})
    _draw("pareto_front", found, figure)
    _print(found, ("model_id", *names, "on_front", "dominated_by"))


@evaluations.command("robustness")
@click.argument("suite")
@click.argument("by", metavar="COLUMN")
@_metric_option
@_seed_option
@_figure_option
@json_store_option
def robustness(
    store: WorkspaceStore, suite: str, by: str, metric: str | None, seed: int, figure: Path | None
) -> None:
    """Show a metric against a numeric column."""
    frame = store.evaluations.robustness(suite, by, metric, seed=seed)
    _draw("robustness_curves", frame, figure)
    _print(frame, frame.columns)


@evaluations.command("trend")
@click.argument("suite")
@_metric_option
@click.option("--model", "model_id", metavar="ID", help="Only this model.")
@_figure_option
@json_store_option
def trend(
    store: WorkspaceStore, suite: str, metric: str | None, model_id: str | None, figure: Path | None
) -> None:
    """Show the recorded values over time."""
    frame = store.evaluations.trend(suite, metric, model_id=model_id)
    _draw("score_trend", frame, figure)
    _print(frame, ("created_at", "model_id", "metric", "value", "change", "best_so_far"))


def _draw(name: str, found: Any, path: Path | None) -> None:
    if path is None:
        return
    from nirs_store import plots

    click.echo(f"Figure: {plots.save_figure(getattr(plots, name)(found), path)}", err=True)


@evaluations.command("champions")
@click.option("--suite", metavar="NAME", help="Only this suite.")
@_metric_option
@click.option("--history", is_flag=True, help="Every change, oldest first.")
@json_store_option
def champions(store: WorkspaceStore, suite: str | None, metric: str | None, history: bool) -> None:
    """List the present champions by rank, or the history of champions."""
    book = store.evaluations
    frame = book.progression(suite, metric, rank=None) if history else book.champions(suite, metric)
    shown = ("suite", "metric", "rank", "model_id", "value", "previous_model", "improvement", "chosen_by")
    _print(frame, (*shown, "made_at"))


@evaluations.command("crown")
@click.argument("evaluation", metavar="ID")
@_metric_option
@click.option("--rank", type=click.IntRange(1), default=1)
@click.option("--note", metavar="TEXT", help="Why.")
@dry_run_option
@json_store_option
def crown(
    store: WorkspaceStore, evaluation: str, note: str | None, dry_run: bool, rank: int, metric: str | None
) -> None:
    """Set a champion by hand."""
    identifier = _find(store, evaluation)
    found = store.evaluations.plan_champion(identifier, metric=metric, rank=rank)
    if not dry_run:
        store.evaluations.set_champion(identifier, metric=metric, rank=rank, note=note)
    facts = {"suite": found["suite"], "model_id": found["model_id"], "evaluation_id": identifier}
    holds = "would hold" if dry_run else "holds"
    words = f"{found['model_id']} {holds} rank {rank} of {found['suite']}."
    answer({**facts, "rank": rank, "dry_run": dry_run}, words)


@evaluations.command("summary")
@click.argument("suite")
@_metric_option
@click.option("--by", metavar="COLUMN", help="Find the weakest group of this column.")
@click.option("--output", "-o", type=FILE, help="A .md or .html file.")
@_seed_option
@json_store_option
def summary(
    store: WorkspaceStore, suite: str, metric: str | None, output: Path | None, **options: Any
) -> None:
    """Summarize a suite on one page, with recommendations."""
    page = store.evaluations.summary(suite, metric, **options)
    if output is not None:
        page.save(output)
    shown = {"suite": page.suite, "metric": page.metric, "recommendations": list(page.recommendations)}
    if printed_json({**shown, "markdown": page.to_markdown(), "file": output}):
        return
    click.echo(str(output) if output is not None else page.to_markdown(), nl=output is not None)


@evaluations.command("export")
@click.argument("evaluation", metavar="ID")
@click.argument("folder", type=FILE)
@click.option("--what", type=click.Choice(["episodes", "samples"]), default="episodes")
@click.option("--format", type=click.Choice(["csv", "json", "both"]), default="both")
@json_store_option
def export(store: WorkspaceStore, evaluation: str, folder: Path, **options: Any) -> None:
    """Write the episodes or samples of an evaluation as CSV, JSON or both."""
    written = store.evaluations.export(_find(store, evaluation), folder, **options)
    answer(written, "\n".join(map(str, written.values())))


@evaluations.command("delete")
@click.argument("evaluation", metavar="ID")
@now_option
@plan_options
def delete(store: WorkspaceStore, evaluation: str, now: bool, dry_run: bool) -> None:
    """Delete an evaluation and its champion ranks; the next ranks move up.

    'nirs-store trash restore ID' undoes this within 30 days, unless --now was given.
    """
    identifier = _find(store, evaluation)
    found = store.evaluations.get(identifier) or {}
    ranks = store.evaluations.plan_delete(identifier)
    if not given("json"):
        click.echo(f"{identifier}: {found['model_id']} on {found['suite']}")
        for each in ranks:
            heir = each["next_model"] or "no model"
            click.echo(f"  rank {each['rank']} by {each['metric']} goes from {each['model_id']} to {heir}")
        if now:
            click.echo(FOR_GOOD)
    question = "Delete it for good?" if now else "Delete it?"
    done = not dry_run and confirm(question) and store.evaluations.delete(identifier, now=now)
    facts = {"evaluation_id": identifier, "dry_run": dry_run, "deleted": done, "champions": list(ranks)}
    answer(facts, "Deleted." if done else "Nothing was deleted.")
    if done and not now and not given("json"):
        click.echo(f"Undo it with: nirs-store trash restore {identifier}")


def _find(store: WorkspaceStore, text: str) -> str:
    """Return the evaluation that a whole id, or the beginning or end of one, stands for."""
    if store.evaluations.get(text) is not None:
        return text
    ids = store.evaluations.list()["evaluation_id"]
    return the_end_of_one(text, ids, "evaluation", "'nirs-store evaluations list' lists ids.")


def _print(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    if printed_json([_decoded(row) for row in frame.iter_rows(named=True)]):
        return
    if not frame.height:
        click.echo("None.")
        return
    numeric = [name for name in columns if frame[name].dtype.is_numeric()]
    lines = ([_cell(row[name], name) for name in columns] for row in frame.iter_rows(named=True))
    print_table(list(columns), lines, numeric=numeric, flexible=["model_id", "suite", "scores"])


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    documents = ("scores", "files", "tags", "metadata", "environment", "improvements")
    return {
        name: json.loads(value) if name in documents and isinstance(value, str) else value
        for name, value in row.items()
    }


def _cell(value: Any, name: str) -> Any:
    if name == "evaluation_id":
        return short_id(value) if is_id(value) else value
    if name == "scores":
        return ", ".join(f"{key} {_cell(item, '')}" for key, item in json.loads(value).items())
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return moment(value) if hasattr(value, "strftime") else value


def _text(value: Any) -> Any:
    return (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, dict | list) and value
        else value
    )
