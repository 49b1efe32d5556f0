"""``nirs-store pivot``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._choice import Choice
from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

if TYPE_CHECKING:
    from nirs_store.pivot import Pivot

_FORMATS = ("table", "markdown", "latex", "csv")
_TASKS = ("regression", "classification")


@click.command("pivot", cls=Command)
@click.option("--rows", metavar="COLUMN", default="preprocessings", show_default=True, help="What goes down.")
@click.option(
    "--columns", metavar="COLUMN", default="model_class", show_default=True, help="What goes across."
)
@click.option("--metric", metavar="METRIC", help="Score of the cells; by default that of the task.")
@click.option(
    "--aggregate",
    metavar="HOW",
    default="best",
    show_default=True,
    help="Of chains that share a cell: best, min, max, mean or median.",
)
@click.option("--dataset", metavar="NAME", help="Only chains of this data set.")
@click.option("--run", "run", metavar="RUN", help="Only chains of this run.")
@click.option("--task", type=Choice(_TASKS), help="Which task, where a workspace has both.")
@click.option(
    "--format", "form", type=Choice(_FORMATS), default="table", show_default=True, help="How to print."
)
@json_option
@workspace_option
def command(
    rows: str,
    columns: str,
    metric: str | None,
    aggregate: str,
    dataset: str | None,
    run: str | None,
    task: str | None,
    form: str,
    as_json: bool,
    workspace: Path,
) -> None:
    """Print a score by preprocessing and model, or by two other columns.

    COLUMN is preprocessings, model_class, model_name, dataset_name, run_id or run_name. In each cell
    stands the best pooled cross-validated score (an RMSECV, say); CSV and JSON keep all digits.
    """
    from nirs_store.cli._output import print_json
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        run_id = find(store, run, ["run"]).identifier if run else None
        pivot = store.pivot(
            rows, columns, metric, aggregate=aggregate, dataset_name=dataset, run_id=run_id, task_type=task
        )
    if as_json:
        print_json(
            {
                "rows": pivot.rows,
                "columns": pivot.columns,
                "metric": pivot.metric,
                "cells": pivot.frame.to_dicts(),
            }
        )
    elif form == "table":
        _print(pivot)
    else:
        text = {"markdown": pivot.to_markdown, "latex": pivot.to_latex, "csv": pivot.to_csv}[form]()
        click.echo(text, nl=False)


def _print(pivot: Pivot) -> None:
    from nirs_store.cli._output import print_table

    if not pivot.frame.height:
        click.echo("No chains with out-of-fold predictions.")
        return
    first, *whole = pivot.frame.columns
    short = [name.rsplit(".", 1)[-1] for name in whole]
    others = short if pivot.columns == "model_class" and len(set(short)) == len(short) else whole
    click.echo(f"{pivot.metric} of the pooled out-of-fold predictions")
    print_table(
        [first, *others],
        [
            [row[0] or "raw", *(None if value is None else f"{value:.4g}" for value in row[1:])]
            for row in pivot.frame.iter_rows()
        ],
        numeric=others,
        flexible=[first],
    )
