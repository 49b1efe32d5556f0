"""``nirs-store vacuum``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option


@click.command("vacuum", cls=Command)
@json_option
@workspace_option
def command(as_json: bool, workspace: Path) -> None:
    """Shrink the catalog after deletions.

    Deleting rows leaves their space in store.duckdb; this writes the file anew without it.
    Other processes wait meanwhile, and recording goes on.
    """
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        store.list_runs(limit=1)  # what waits in the journal counts as before
        catalog = store.workspace_path / "store.duckdb"
        before = catalog.stat().st_size
        store.vacuum()
        after = catalog.stat().st_size
    if as_json:
        print_json({"before_bytes": before, "after_bytes": after})
        return
    click.echo(f"store.duckdb: {human_bytes(before)} before, {human_bytes(after)} after.")
