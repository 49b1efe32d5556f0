"""Bring the work of a nirs4all workspace into one of this library's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import dry_run_option, json_option
from nirs_store.cli._output import print_json, print_table, progress

if TYPE_CHECKING:
    from nirs_store.migration.report import MigrationReport

__all__ = ["command"]

_UNVERIFIED = 4


@click.command(name="migrate", cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--unpickle",
    is_flag=True,
    help="Load models that nirs4all's default engine keeps in a dict, so that they replay. Runs their code.",
)
@dry_run_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, source: Path, target: Path, unpickle: bool, dry_run: bool, as_json: bool
) -> None:
    """Copy runs, models and predictions of the nirs4all workspace SOURCE into TARGET.

    SOURCE (nirs4all 0.7 to 1.4) is only read. TARGET is created if missing. At the end, everything copied
    is compared with the source. Run the command again after an interruption, or when SOURCE has grown:
    it adds only what is missing.
    """
    from nirs_store.migration import migrate_nirs4all

    with progress("reading" if dry_run else "migrating") as show:
        report = migrate_nirs4all(
            source,
            target,
            dry_run=dry_run,
            unpickle=unpickle,
            on_progress=lambda what, done, total: show(done, total),
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if not dry_run and not report.verified:
        ctx.exit(_UNVERIFIED)


def _print(report: MigrationReport) -> None:

    click.echo(f"{report.source} ({report.generation}) to {report.target}")
    rows = [(name, c.found, c.added, c.present, c.left_out, c.verified) for name, c in report.counts.items()]
    head = ("", "found", "to add" if report.dry_run else "added", "present", "left out", "verified")
    print_table(head, rows, numeric=head[1:])
    if report.left_out:
        click.echo("\nNot brought over:")
        for left in report.left_out:
            such = f" (such as {', '.join(left.examples)})" if left.examples else ""
            click.echo(f"  {left.kind}: {left.count}: {left.reason}{such}")
    if report.dry_run:
        click.echo("\nNothing was written (dry run).")
    elif report.verified:
        click.echo("\nEverything that came over was read back and is as in the source.")
    else:
        click.echo("\nNOT as in the source:")
        for difference in report.differences:
            click.echo(f"  {difference}")
