"""``nirs-store restore``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import dry_run_option, json_option, workspace_option

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore


@click.command("restore", cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--backup", "backup_id", metavar="ID", help="Of a folder of backups; the newest by default.")
@dry_run_option
@json_option
@workspace_option
def command(
    source: Path, folder: Path | None, backup_id: str | None, dry_run: bool, as_json: bool, workspace: Path
) -> None:
    """Bring an archive into the workspace, or a backup into an empty FOLDER.

    SOURCE is a .tar.gz, .tar.zst or .zip file, or a folder of backups. Everything is verified first; with
    --dry-run that is all. An archive adds what is not there yet, and makes the workspace where the folder is
    missing or empty. Models are pickles: restore only what people
    made whom you trust.
    """
    if source.is_dir():
        _backup(source, folder, backup_id, dry_run, as_json)
    elif folder is not None or backup_id is not None:
        raise click.UsageError(
            "An archive goes into the workspace (--workspace); FOLDER and --backup are for backups."
        )
    else:
        _archive(source, dry_run, as_json, workspace)


def _archive(source: Path, dry_run: bool, as_json: bool, workspace: Path) -> None:
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._progress import progress
    from nirs_store.cli._workspace import open_store

    new = not workspace.exists() or (workspace.is_dir() and not any(workspace.iterdir()))
    place = _new_workspace(workspace, dry_run) if new else open_store(workspace)
    with place as store, progress("Verifying") as show:
        found = store.restore_archive(source, dry_run=dry_run, progress=show)
    if as_json:
        print_json({**found.to_dict(), "new_workspace": new})
        return
    if new:
        click.echo(
            f"{workspace} {'would become' if dry_run else 'is'} a workspace{'' if dry_run else ' now'}."
        )
    for table, count in found.rows.items():
        click.echo(f"  {count:>8} {table}")
    click.echo(f"  {found.blobs:>8} blobs ({human_bytes(found.blob_bytes)})")
    if not found.rows and not found.blobs:
        click.echo("Everything is there already.")
    else:
        click.echo("Nothing was changed (dry run)." if dry_run else "Restored.")


@contextmanager
def _new_workspace(workspace: Path, dry_run: bool) -> Iterator[WorkspaceStore]:
    """Make a workspace that takes its name when all went well, so that a refused archive leaves none behind."""
    from nirs_store.blobs.durable import ensure_dir, fsync_dir
    from nirs_store.ids import new_id
    from nirs_store.store import WorkspaceStore

    place = workspace.expanduser().absolute()
    if dry_run:
        with TemporaryDirectory(prefix="nirs_store-") as folder, WorkspaceStore(folder) as store:
            yield store
        return
    draft = place.with_name(f".{place.name[:80]}.{new_id()}.tmp")
    ensure_dir(place.parent)
    try:
        with WorkspaceStore(draft) as store:
            yield store
        if place.exists():
            place.rmdir()
        draft.rename(place)
        fsync_dir(place.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _backup(source: Path, folder: Path | None, backup_id: str | None, dry_run: bool, as_json: bool) -> None:
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._progress import progress
    from nirs_store.upkeep.backup_restore import restore_backup

    if folder is None:
        raise click.UsageError("Name the empty FOLDER that the backup is to be brought back into.")
    with progress("Verifying" if dry_run else "Restoring") as show:
        told = restore_backup(source, folder, backup_id, dry_run=dry_run, progress=show).to_dict()
    if as_json:
        print_json({**told, "folder": str(folder), "dry_run": dry_run})
        return
    size = human_bytes(int(str(told["bytes"])))
    click.echo(f"Backup {told['backup_id']}: {told['files']} files, {size}.")
    click.echo("It is whole; nothing was restored (dry run)." if dry_run else f"Restored to {folder}.")
