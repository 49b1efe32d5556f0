"""``nirs-store note``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option


@click.command("note", cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("text", metavar="TEXT")
@workspace_option
def command(run: str, text: str, workspace: Path) -> None:
    """Write a note to a run; it replaces the one that was there.

    TEXT is free; - reads it from the standard input, and '' takes the note away. 'nirs-store show
    RUN' prints it.
    """
    from nirs_store.cli._output import short_id
    from nirs_store.cli._workspace import find, open_store

    if text == "-":
        text = sys.stdin.read().strip()
    with open_store(workspace) as store:
        found = find(store, run, ["run"])
        store.annotate_run(found.identifier, text)
    click.echo(f"{'Noted on' if text else 'Took the note off'} {short_id(found.identifier)}.")
