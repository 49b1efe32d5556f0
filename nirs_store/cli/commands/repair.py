"""``nirs-store repair``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import dry_run_option, workspace_option, yes_option


@click.command("repair", cls=Command)
@click.option(
    "--restore-catalog",
    is_flag=True,
    help="When store.duckdb cannot be read: put the newest copy that a migration kept in its place.",
)
@dry_run_option
@yes_option
@workspace_option
def command(restore_catalog: bool, dry_run: bool, yes: bool, workspace: Path) -> None:
    """Put right what a check found, as far as possible.

    Every byte is read and the plan is printed first. Damaged files move to quarantine/ and are never
    deleted; what is lost is listed and nothing is invented. On a terminal you are asked; elsewhere --yes
    is needed.
    """
    from nirs_store.cli._confirm import confirm
    from nirs_store.cli._progress import progress
    from nirs_store.upkeep.repair import plan_workspace_repair, repair_workspace

    with progress("Reading models") as show:
        plan = plan_workspace_repair(workspace, restore_catalog=restore_catalog, progress=show)
    click.echo(str(plan))
    if restore_catalog and plan.restore_from is None:
        click.echo("The catalog is not restored: it can be read, or no migration kept a copy that can be.")
    if plan.empty or dry_run or not confirm("Do this?", yes):
        return
    repair_workspace(workspace, plan)
    click.echo("Done.")
