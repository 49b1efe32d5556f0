"""``nirs-store top``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

if TYPE_CHECKING:
    from nirs_store.cli._leaderboard import ChainRow


@click.command("top", cls=Command)
@click.option(
    "-n", "count", type=click.IntRange(1), default=10, show_default=True, help="At most so many chains."
)
@click.option("--dataset", metavar="NAME", help="Only chains of this data set.")
@click.option("--run", "run", metavar="RUN", help="Only chains of this run.")
@json_option
@workspace_option
def command(count: int, dataset: str | None, run: str | None, as_json: bool, workspace: Path) -> None:
    """Rank the chains by their cross-validation, best first.

    RMSECV is the RMSE over all out-of-fold predictions together, SD its spread over the folds; bias,
    R2 and RPD belong to the same predictions. RMSEP is that of the refit on test samples.
    """
    from nirs_store.cli._leaderboard import leaderboard
    from nirs_store.cli._output import print_json
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        run_id = find(store, run, ["run"]).identifier if run else None
        rows = leaderboard(store, count, dataset=dataset, run_id=run_id)
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    if not rows:
        click.echo("No chains with out-of-fold predictions.")
        return
    for index, metric in enumerate(dict.fromkeys(row.metric for row in rows)):
        if index:
            click.echo()
        _print([row for row in rows if row.metric == metric])


def _print(rows: list[ChainRow]) -> None:
    from nirs_store.cli._output import number, print_table, short_id

    regression = rows[0].task_type == "regression"
    names = ("RMSECV", "RMSEP") if regression else (rows[0].metric.replace("_", " "), "test")
    subjects = {(row.dataset, row.target, row.unit) for row in rows}
    about = [
        " ".join(part for part in (row.dataset, row.target, row.unit and f"({row.unit})") if part)
        for row in rows
    ]
    if len(subjects) == 1 and about[0]:
        click.echo(about[0])
    scores = [names[0], "SD", *(["bias", "R²", "RPD"] if regression else []), names[1]]
    print_table(
        ["", "chain", *(["data"] if len(subjects) > 1 else []), *scores, "id"],
        [
            [
                rank,
                row.chain,
                *([about[rank - 1]] if len(subjects) > 1 else []),
                number(row.value),
                number(row.fold_sd, 2),
                *([number(row.bias), number(row.r2), number(row.rpd, 1)] if regression else []),
                number(row.test),
                short_id(row.chain_id),
            ]
            for rank, row in enumerate(rows, start=1)
        ],
        numeric=["", *scores],
        flexible=["chain", "data"],
    )
