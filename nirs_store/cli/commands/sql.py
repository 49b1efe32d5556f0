"""``nirs-store sql``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option


@click.command("sql", cls=Command)
@click.argument("query", metavar="QUERY")
@click.option("--param", "params", multiple=True, metavar="VALUE", help="For each ? of the query, in order.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@workspace_option
def command(query: str, params: tuple[str, ...], as_csv: bool, as_json: bool, workspace: Path) -> None:
    """Ask the catalog in SQL: one SELECT statement, which cannot change anything.

    QUERY is the statement, or - to read it from the standard input. The views scores, models,
    run_overview, log_lines and artifacts have names where the tables have ids. Example:

    \b
    nirs-store sql "SELECT pipeline, best_val FROM models WHERE run = ?" --param "fat in meat"
    """  # noqa: D301 (click reads the escape)
    from nirs_store.cli._output import print_json, print_table
    from nirs_store.cli._sqlcells import cell_text, flat_text
    from nirs_store.cli._workspace import open_store

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    text = sys.stdin.read() if query == "-" else query
    with open_store(workspace) as store:
        frame = store.sql(text, list(params) or None)
    if as_json:
        print_json(frame.to_dicts())
    elif as_csv:
        click.echo(flat_text(frame).write_csv(), nl=False)
    else:
        numeric = [name for name, kind in frame.schema.items() if kind.is_numeric()]
        print_table(
            frame.columns,
            [[cell_text(cell) for cell in row] for row in frame.iter_rows()],
            numeric=numeric,
            flexible=[name for name in frame.columns if name not in numeric],
        )
