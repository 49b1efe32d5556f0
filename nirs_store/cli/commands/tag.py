"""``nirs-store tag``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option


@click.command("tag", cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take the tags away instead.")
@workspace_option
def command(run: str, tags: tuple[str, ...], remove: bool, workspace: Path) -> None:
    """Add tags to a run, or take them away, and print those it has then.

    'nirs-store runs --tag TAG' lists the runs with a tag. A tag may have spaces but no commas.
    """
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        found = find(store, run, ["run"])
        (store.untag_run if remove else store.tag_run)(found.identifier, *tags)
        now = (store.get_run(found.identifier) or {}).get("tags") or []
    click.echo(", ".join(now) if now else "No tags.")
