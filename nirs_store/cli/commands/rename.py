"""``nirs-store rename``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option


@click.command("rename", cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("name", metavar="NAME")
@workspace_option
def command(run: str, name: str, workspace: Path) -> None:
    """Give a run another name; its id stays.

    The last eight characters of the id are enough.
    """
    from nirs_store.cli._output import short_id
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        found = find(store, run, ["run"])
        store.rename_run(found.identifier, name)
    click.echo(f"{short_id(found.identifier)} is now called {name}.")
