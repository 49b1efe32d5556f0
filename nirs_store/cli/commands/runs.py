"""``nirs-store runs``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

_STATUSES = ("running", "completed", "failed", "interrupted")
_JSON = ("config", "datasets", "summary", "environment")


@click.command("runs", cls=Command)
@click.option("--status", metavar="STATUS", help=f"Only runs that are {', '.join(_STATUSES)}.")
@click.option("--dataset", metavar="NAME", help="Only runs on this data set.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only runs with this tag; may be repeated.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@json_option
@workspace_option
def command(
    status: str | None,
    dataset: str | None,
    tags: tuple[str, ...],
    limit: int,
    as_json: bool,
    workspace: Path,
) -> None:
    """List the runs of a workspace, newest first.

    A run whose process died without finishing it is shown as interrupted.
    """
    import json

    from nirs_store.catalog import overview
    from nirs_store.cli._output import moment, print_json, print_table, short_id
    from nirs_store.cli._workspace import ask, open_store

    with open_store(workspace) as store:
        runs = store.list_runs(status=status, dataset=dataset, limit=limit, tags=tags)
        ids = runs["run_id"].to_list()
        counts = ask(store, overview.pipeline_counts, ids)
    rows = [
        {
            **row,
            **{name: json.loads(row[name] or "null") for name in _JSON},
            "tags": json.loads(row["tags"] or "[]"),
            "n_pipelines": counts.get(row["run_id"], 0),
        }
        for row in runs.iter_rows(named=True)
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("No runs fit." if status or dataset or tags else "No runs.")
        return
    tagged = any(row["tags"] for row in rows)
    print_table(
        ["run", "name", "status", "begun", "pipelines", "data", *(["tags"] if tagged else [])],
        [
            [
                short_id(row["run_id"]),
                row["name"],
                row["status"],
                moment(row["created_at"]),
                row["n_pipelines"],
                ", ".join(
                    str(each.get("name", "")) if isinstance(each, dict) else str(each)
                    for each in row["datasets"] or []
                ),
                *([", ".join(row["tags"])] if tagged else []),
            ]
            for row in rows
        ],
        numeric=["pipelines"],
        flexible=["name", "data", "tags"],
    )
