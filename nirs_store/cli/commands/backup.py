"""``nirs-store backup``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Group
from nirs_store.cli._options import dry_run_option, json_option, workspace_option, yes_option

_target = click.argument("target", type=click.Path(path_type=Path))


@click.group("backup", cls=Group)
def command() -> None:
    """Make, list, verify and remove backups in a folder outside the workspace.

    'nirs-store restore TARGET FOLDER' brings one back.
    """


@command.command("create")
@_target
@click.option(
    "--if-older-than", metavar="SPAN", help="Only when the last one is older, for instance 24h or 7d."
)
@click.option("--allow-missing", is_flag=True, help="Go on where the file of a blob is lost.")
@dry_run_option
@json_option
@workspace_option
def create(
    target: Path,
    if_older_than: str | None,
    allow_missing: bool,
    dry_run: bool,
    as_json: bool,
    workspace: Path,
) -> None:
    """Make a backup and verify it. Others may go on recording; only new blobs are copied."""
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._progress import progress
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        if dry_run:
            plan = store.backups.plan(target, if_older_than=if_older_than)
            if as_json:
                print_json({**plan.to_dict(), "dry_run": True})
            else:
                size = human_bytes(plan.new_bytes)
                click.echo(
                    f"{plan.new_blobs} new blobs ({size}) and the catalog" if plan.due else "Not due yet."
                )
                click.echo("Nothing was written (dry run).")
            return
        with progress("Backing up") as show:
            made = store.backups.create(
                target, if_older_than=if_older_than, allow_missing=allow_missing, progress=show
            )
    if as_json:
        print_json(None if made is None else made.to_dict())
    elif made is None:
        click.echo("The last backup is young enough; none was made.")
    else:
        click.echo(
            f"Backup {made.backup_id}: {made.n_blobs} blobs, {human_bytes(made.size_bytes)}; "
            f"{made.new_blobs} of them new ({human_bytes(made.new_bytes)})."
        )


@command.command("list")
@click.argument("target", type=click.Path(path_type=Path), required=False)
@json_option
@workspace_option
def list_backups(target: Path | None, as_json: bool, workspace: Path) -> None:
    """List the backups in a folder, or those that the workspace remembers."""
    from nirs_store.cli._output import human_bytes, moment, print_json, print_table
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        frame = store.backups.list(target)
    rows = list(frame.iter_rows(named=True))
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("No backups.")
        return
    print_table(
        ["backup", "made", "size", "blobs", "folder"],
        [
            (r["backup_id"], moment(r["created_at"]), human_bytes(r["size_bytes"]), r["n_blobs"], r["path"])
            for r in rows
        ],
        numeric=["size", "blobs"],
        flexible=["folder"],
    )


@command.command("verify")
@_target
@click.option("--backup", "backup_id", metavar="ID", help="The newest by default.")
@json_option
def verify(target: Path, backup_id: str | None, as_json: bool) -> None:
    """Read a backup whole and compare every hash."""
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._progress import progress
    from nirs_store.upkeep.backup_restore import verify_backup

    with progress("Verifying") as show:
        found = verify_backup(target, backup_id, progress=show)
    if as_json:
        print_json({"backup_id": found.backup_id, "files": len(found.files), "bytes": found.size_bytes})
        return
    click.echo(
        f"Backup {found.backup_id} is whole: {len(found.files)} files, {human_bytes(found.size_bytes)}."
    )


@command.command("prune")
@_target
@click.option("--keep-last", type=click.IntRange(1), metavar="N", help="Keep the newest N.")
@click.option(
    "--max-age", metavar="SPAN", help="Remove older ones, for instance 30d. The newest always stays."
)
@dry_run_option
@yes_option
@json_option
@workspace_option
def prune(
    target: Path,
    keep_last: int | None,
    max_age: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    workspace: Path,
) -> None:
    """Remove backups beyond a number or an age, and the blobs that no other backup needs."""
    from nirs_store.cli._confirm import confirm
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        plan = store.backups.prune(target, keep_last=keep_last, max_age=max_age, dry_run=True)
        if not as_json:
            click.echo(
                f"{len(plan.remove)} backups to remove ({human_bytes(plan.bytes)}), {len(plan.keep)} to keep"
            )
            for backup_id in plan.remove:
                click.echo(f"  {backup_id}")
        done = bool(plan.remove) and not dry_run and confirm("Remove them for good?", yes)
        if done:
            plan = store.backups.prune(target, keep_last=keep_last, max_age=max_age)
    if as_json:
        print_json({**plan.to_dict(), "dry_run": dry_run, "removed": done})
    else:
        click.echo(f"Removed {len(plan.remove)} backups." if done else "Nothing was removed.")
