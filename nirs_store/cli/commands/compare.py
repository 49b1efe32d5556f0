"""``nirs-store compare``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option


@click.command("compare", cls=Command)
@click.argument("identifiers", metavar="ID ID...", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Also what is the same everywhere.")
@json_option
@workspace_option
def command(identifiers: tuple[str, ...], everything: bool, as_json: bool, workspace: Path) -> None:
    """Put runs or chains side by side: configuration, environment, scores.

    Only what differs is shown; a run stands with the scores of its best chain. The last eight
    characters of an id are enough.
    """
    from nirs_store.cli._output import print_json, print_table, short_id
    from nirs_store.cli._workspace import find, open_store

    if len(identifiers) < 2:
        raise click.UsageError("Name at least two runs or chains to compare.")
    with open_store(workspace) as store:
        ids = [find(store, text, ["run", "chain"]).identifier for text in identifiers]
        frame = store.compare(ids, only_differences=not everything)
    if as_json:
        print_json({row["item"]: {name: row[name] for name in ids} for row in frame.iter_rows(named=True)})
        return
    if not frame.height:
        click.echo("No differences.")
        return
    shown = [short_id(identifier) for identifier in ids]
    print_table(["item", *shown], frame.iter_rows(), flexible=["item", *shown])
