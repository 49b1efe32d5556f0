"""``nirs-store init``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from nirs_store.cli._group import Command


@click.command("init", cls=Command)
@click.argument("directory", type=click.Path(path_type=Path), default=Path(), metavar="[DIR]")
def command(directory: Path) -> None:
    """Create a workspace in DIR (default: this folder), with pipeline templates and a note.

    Existing files are not changed; a second call changes nothing.
    """
    from nirs_store.scaffold import copy_workspace_template
    from nirs_store.store import WorkspaceStore

    existed = os.path.exists(directory / "store.duckdb")  # noqa: PTH110 (Path.exists raises for a name that is too long)
    with WorkspaceStore(directory) as store:
        root = store.workspace_path
    written = copy_workspace_template(root)
    click.echo(f"{root} {'is a workspace already' if existed else 'is a workspace now'}.")
    for path in written:
        click.echo(f"  {path.relative_to(root).as_posix()}")
