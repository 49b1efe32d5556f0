"""The commands of ``nirs-store files`` that change or remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import dry_run_option, json_option, workspace_option, yes_option

if TYPE_CHECKING:
    from nirs_store.registry.files.removing import FileRemoval

__all__ = ["CHANGING"]

_version_option = click.option("--version", "-v", metavar="V", help="v3, latest, or an alias.")
_test_option = click.option("--test", "test_name", metavar="NAME", help="The file of this test.")


@click.command("alias", cls=Command)
@click.argument("name")
@click.argument("alias", required=False)
@_version_option
@click.option("--remove", is_flag=True, help="Take the alias away.")
@_test_option
@json_option
@workspace_option
def alias(
    name: str,
    alias: str | None,
    version: str | None,
    remove: bool,
    test_name: str | None,
    as_json: bool,
    workspace: Path,
) -> None:
    """Let ALIAS mean a version (the newest, unless --version says otherwise). Without ALIAS, list them."""
    from nirs_store.cli._output import print_json, print_table
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        if alias is not None and remove:
            store.files.remove_alias(name, alias, test_name=test_name)
        elif alias is not None:
            store.files.set_alias(name, alias, version, test_name=test_name)
        found = store.files.aliases(name, test_name=test_name)
    if as_json:
        print_json(found)
    elif found:
        print_table(["alias", "version"], [[word, f"v{number}"] for word, number in found.items()])
    else:
        click.echo("No aliases.")


@click.command("status", cls=Command)
@click.argument("name")
@click.argument("status")
@click.option("--message", "-m", metavar="TEXT", help="Such as what failed.")
@_version_option
@_test_option
@workspace_option
def status(
    name: str, status: str, message: str | None, version: str | None, test_name: str | None, workspace: Path
) -> None:
    """Say how far a file is: pending, in_progress, completed or failed."""
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        store.files.set_status(name, status, message, version=version, test_name=test_name)


@click.command("delete", cls=Command)
@click.argument("name")
@_version_option
@_test_option
@click.option("--force", is_flag=True, help="Also production content, and what an alias, pin or group holds.")
@dry_run_option
@yes_option
@json_option
@workspace_option
def delete(
    name: str,
    version: str | None,
    test_name: str | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    workspace: Path,
) -> None:
    """Delete a file with all its versions, or one version."""
    from nirs_store.cli._confirm import confirm
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:

        def remove(dry: bool) -> FileRemoval:
            return store.files.delete(name, version=version, test_name=test_name, force=force, dry_run=dry)

        plan = remove(True)
        if not as_json:
            _print(plan)
        if not dry_run and confirm("Delete this for good?", yes):
            plan = remove(False)
            if not as_json:
                click.echo(f"Deleted {len(plan)} versions.")
    _finish(plan, as_json)


@click.command("cleanup", cls=Command)
@click.option("--days", type=float, default=30.0, show_default=True, help="Only what was stored before.")
@click.option("--old-tests", type=int, metavar="N", help="Instead: all tests but the N most recent.")
@click.option("--include-production", is_flag=True, help="Production content as well.")
@dry_run_option
@yes_option
@json_option
@workspace_option
def cleanup(
    days: float,
    old_tests: int | None,
    include_production: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    workspace: Path,
) -> None:
    """Remove old files that nothing needs, and what programs that died left behind."""
    from nirs_store.cli._confirm import confirm
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:

        def remove(dry: bool) -> FileRemoval:
            if old_tests is not None:
                return store.files.cleanup_old_tests(old_tests, dry_run=dry)
            return store.files.cleanup(days, dry_run=dry, include_production=include_production)

        plan = remove(True)
        if not as_json:
            _print(plan)
        if not dry_run and (plan.versions or plan.workplaces) and confirm("Remove this for good?", yes):
            plan = remove(False)
            if not as_json:
                click.echo(f"Removed {len(plan)} versions.")
    _finish(plan, as_json)


def _print(plan: FileRemoval) -> None:
    click.echo(str(plan))
    for row in plan.versions:
        test = f" (test {row['test_name']})" if row["test_name"] else ""
        click.echo(f"  {row['name']}{test} v{row['version']}")
    for name, number, reason in plan.kept:
        click.echo(f"  kept: {name} v{number}, {reason}")


def _finish(plan: FileRemoval, as_json: bool) -> None:
    from nirs_store.cli._output import print_json

    if as_json:
        print_json(plan.to_dict())


CHANGING = (alias, status, delete, cleanup)
