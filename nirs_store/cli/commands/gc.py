"""``nirs-store gc``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import dry_run_option, json_option, workspace_option


@click.command("gc", cls=Command)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="Keep what a session saved and no chain took over for so long after the session's end.",
)
@dry_run_option
@json_option
@workspace_option
def command(grace: float, dry_run: bool, as_json: bool, workspace: Path) -> None:
    """Remove the files of models that nothing refers to.

    The plan is printed: the one that was carried out, or with --dry-run the one that would be. Files
    that the workspace does not know are reported and left alone.
    """
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        if dry_run:
            plan, removed = store.gc_artifacts(dry_run=True, grace_seconds=grace), None
        else:
            done = store.collect_garbage(grace_seconds=grace)
            plan, removed = done.plan, done.files
    if as_json:
        print_json({**plan.to_dict(), "dry_run": dry_run, "removed_files": removed})
        return
    click.echo(f"{len(plan.files)} files that nothing refers to ({human_bytes(plan.bytes)})")
    for path in plan.files:
        click.echo(f"  {path}")
    if plan.unused_arrays:
        click.echo(
            f"{plan.unused_arrays} arrays that nothing refers to ({human_bytes(plan.unused_array_bytes)})"
        )
    if plan.unknown_files:
        click.echo(f"{len(plan.unknown_files)} unknown files, left alone")
        for path in plan.unknown_files:
            click.echo(f"  {path}")
    click.echo("Nothing was removed (dry run)." if dry_run else f"Removed {removed} files.")
