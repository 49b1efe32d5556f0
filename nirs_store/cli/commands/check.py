"""``nirs-store check``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

#: As CatalogDamaged, BlobCorrupt and BlobMissing.
_DAMAGED = 4


@click.command("check", cls=Command)
@click.option("--read-data", is_flag=True, help="Read every byte of rows and models and compare checksums.")
@json_option
@workspace_option
@click.pass_context
def command(ctx: click.Context, read_data: bool, as_json: bool, workspace: Path) -> None:
    """Look whether everything recorded is there and belongs together.

    Nothing is changed, and recording goes on meanwhile. The exit code is 4 when something is damaged or
    lost, else 0.
    """
    from nirs_store.cli._output import print_json
    from nirs_store.cli._progress import progress
    from nirs_store.upkeep.check import check_workspace

    with progress("Reading models") as show:
        report = check_workspace(workspace, read_data=read_data, progress=show)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(str(report))
    if report.errors:
        ctx.exit(_DAMAGED)
