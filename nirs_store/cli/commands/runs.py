"""``nirs-store runs``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

_STATUSES = ("running", "completed", "failed", "interrupted")


@click.command("runs", cls=Command)
@click.option("--status", metavar="STATUS", help=f"Only runs that are {', '.join(_STATUSES)}.")
@click.option("--dataset", metavar="NAME", help="Only runs on this data set.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@json_option
@workspace_option
def command(status: str | None, dataset: str | None, limit: int, as_json: bool, workspace: Path) -> None:
    """List the runs of a workspace, newest first.

    A run whose process died without finishing it is shown as interrupted.
    """
    import json

    from nirs_store.cli._output import moment, print_json, print_table, short_id
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        runs = store.list_runs(status=status, dataset=dataset, limit=limit)
        counts = {run_id: store.list_pipelines(run_id=run_id).height for run_id in runs["run_id"]}
    rows = [
        {**row, **{name: json.loads(row[name] or "null") for name in ("config", "datasets", "summary")}}
        for row in runs.iter_rows(named=True)
    ]
    if as_json:
        print_json([{**row, "n_pipelines": counts[row["run_id"]]} for row in rows])
        return
    if not rows:
        click.echo("No runs." if status is None and dataset is None else "No runs fit.")
        return
    print_table(
        ["run", "name", "status", "begun", "pipelines", "data"],
        [
            [
                short_id(row["run_id"]),
                row["name"],
                row["status"],
                moment(row["created_at"]),
                counts[row["run_id"]],
                ", ".join(
                    str(each.get("name", "")) if isinstance(each, dict) else str(each)
                    for each in row["datasets"] or []
                ),
            ]
            for row in rows
        ],
        numeric=["pipelines"],
        flexible=["name", "data"],
    )
