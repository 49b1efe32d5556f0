"""``nirs-store top``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._choice import Choice
from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

if TYPE_CHECKING:
    import polars as pl


@click.command("top", cls=Command)
@click.option(
    "-n", "count", type=click.IntRange(1), default=10, show_default=True, help="At most so many chains."
)
@click.option(
    "--metric", metavar="METRIC", help="Rank by r2, rpd, sep, f1, ...; by default as the task asks."
)
@click.option(
    "--ascending/--descending", default=None, help="Smallest or largest first; by default the best first."
)
@click.option(
    "--task",
    type=Choice(("regression", "classification")),
    metavar="TASK",
    help="Only regression or classification.",
)
@click.option("--dataset", metavar="NAME", help="Only chains of this data set.")
@click.option("--run", "run", metavar="RUN", help="Only chains of this run.")
@json_option
@workspace_option
def command(
    count: int,
    metric: str | None,
    ascending: bool | None,
    task: str | None,
    dataset: str | None,
    run: str | None,
    as_json: bool,
    workspace: Path,
) -> None:
    """Rank the chains by their cross-validation, best first.

    RMSECV is the RMSE over all out-of-fold predictions together, SD its spread over the folds; bias,
    R2 and RPD belong to the same predictions. RMSEP is that of the refit on test samples.
    Classifications, in a table of their own, are ranked by balanced accuracy.
    """
    from nirs_store.cli._output import print_json
    from nirs_store.cli._ranking import ranked
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        run_id = find(store, run, ["run"]).identifier if run else None
        frames = ranked(
            store, count, metric=metric, ascending=ascending, task=task, dataset=dataset, run_id=run_id
        )
    if as_json:
        print_json([row for frame in frames for row in frame.to_dicts()])
        return
    if not frames:
        click.echo("No chains with predictions.")
    for index, frame in enumerate(frames):
        if index:
            click.echo()
        _print(frame)


#: Score columns beside the one that ranks, and what chemometricians call a score.
_BESIDE = {"regression": ("rmse", "bias", "r2", "rpd"), "classification": ("accuracy", "f1")}
_LABELS = {"rmse": "RMSECV", "r2": "R²", "rpd": "RPD", "rpiq": "RPIQ", "sep": "SEP", "mae": "MAE", "f1": "F1"}
_COLUMNS = {"rmse": "rmsecv"}
_DECIMALS = {"rpd": 1, "rpiq": 1}


def _print(frame: pl.DataFrame) -> None:
    from nirs_store.cli._output import number, print_table, short_id

    rows = frame.to_dicts()
    metric = rows[0]["metric"]
    beside = [name for name in _BESIDE[rows[0]["task_type"]] if name != metric]
    about = [_about(row) for row in rows]
    several = len(set(about)) > 1
    if not several and about[0]:
        click.echo(about[0])
    scores = [_label(metric), "SD", *map(_label, beside), "RMSEP" if metric == "rmse" else "test"]
    print_table(
        ["", "chain", *(["data"] if several else []), *scores, "id"],
        [
            [
                rank,
                row["pipeline"],
                *([about[rank - 1]] if several else []),
                number(row["score"], _DECIMALS.get(metric, 3)),
                number(row["score_sd"], 2),
                *(number(row[_COLUMNS.get(name, name)], _DECIMALS.get(name, 3)) for name in beside),
                number(row["test_score"], _DECIMALS.get(metric, 3)),
                short_id(row["chain_id"]),
            ]
            for rank, row in enumerate(rows, start=1)
        ],
        numeric=["", *scores],
        flexible=["chain", "data"],
    )


def _label(metric: str) -> str:
    return _LABELS.get(metric, metric.replace("_", " "))


def _about(row: dict[str, Any]) -> str:
    unit = f"({row['unit']})" if row["unit"] else None
    return " ".join(part for part in (row["dataset_name"], row["target"], unit) if part)
