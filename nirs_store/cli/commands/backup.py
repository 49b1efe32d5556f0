"""``nirs-store archive``, ``backup``, ``restore`` and ``migrate``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from nirs_store.addresses import is_shared
from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import (
    FILE,
    FOR_GOOD,
    confirm,
    dry_run_option,
    given,
    json_option,
    offline_option,
    overwrite_option,
    workspace_option,
)
from nirs_store.cli._output import (
    answer,
    moment,
    print_counts,
    print_rows,
    print_table,
    printed_json,
    progress,
)
from nirs_store.cli._workspace import find, json_store_option, open_store, plan_options
from nirs_store.display import byte_text

if TYPE_CHECKING:
    from nirs_store.migration.report import MigrationReport
    from nirs_store.store import WorkspaceStore


@click.command("archive", cls=Command)
@click.argument("path", type=FILE)
@click.option("--run", "runs", metavar="ID", multiple=True, help="A run; may be repeated.")
@click.option(
    "--file", "files", metavar="NAME", multiple=True, help="A file's name or a pattern; may be repeated."
)
@click.option("--evaluation", "evaluations", metavar="ID", multiple=True, help="May be repeated.")
@click.option(
    "--dataset", "datasets", metavar="NAME", multiple=True, help="All its versions; may be repeated."
)
@click.option(
    "--model", "model_id", metavar="ID", help="Instead, archive all files, evaluations and runs of a model."
)
@overwrite_option
@dry_run_option
@json_option
@workspace_option
@offline_option
def archive(
    path: Path, runs: tuple[str, ...], overwrite: bool, dry_run: bool, workspace: Path, **options: Any
) -> None:
    """Write runs, files, evaluations and data sets with all their contents to one file; without options, everything.

    PATH ends with .tar.gz, .tar.zst or .zip. 'nirs-store restore' restores it into another workspace.
    """
    with open_store(workspace) as store, progress("Archiving") as show:
        chosen: dict[str, Any] = {"dry_run": dry_run}
        chosen |= {name: value or None for name, value in options.items()}
        chosen["runs"] = [find(store, text, ["run"]).identifier for text in runs] or None
        made: Any = store.archive(path, overwrite=overwrite, progress=show, **chosen)
    if printed_json({**made.to_dict(), "dry_run": dry_run}):
        return
    _print_contents(made)
    click.echo(
        "Nothing was written (dry run)." if dry_run else f"Wrote {made.path} ({byte_text(made.size)})."
    )


def _print_contents(archived: Any) -> None:
    print_counts({**archived.rows, f"blobs ({byte_text(archived.blob_bytes)})": archived.blobs})


_target = click.argument("target", type=FILE)


@click.group("backup", cls=Group)
def backup() -> None:
    """Make, list, verify and remove backups in a folder outside the workspace.

    'nirs-store restore TARGET FOLDER' restores one.
    """


@backup.command("create")
@_target
@click.option("--if-older-than", metavar="SPAN", help="Only if the last backup is older, e.g. 24h or 7d.")
@click.option("--allow-missing", is_flag=True, help="Continue if the file of a blob is missing.")
@dry_run_option
@json_store_option
def create(
    store: WorkspaceStore, target: Path, if_older_than: str | None, allow_missing: bool, dry_run: bool
) -> None:
    """Make a backup and verify it. Other processes can keep recording; only new blobs are copied."""
    if dry_run:
        plan = store.backups.plan(target, if_older_than=if_older_than)
        size = byte_text(plan.new_bytes)
        words = f"{plan.new_blobs} new blobs ({size}) and the catalog" if plan.due else "Not due yet."
        answer({**plan.to_dict(), "dry_run": True}, f"{words}\nNothing was written (dry run).")
        return
    with progress("Backing up") as show:
        made = store.backups.create(
            target, if_older_than=if_older_than, allow_missing=allow_missing, progress=show
        )
    if made is None:
        answer(None, "The last backup is young enough; none was made.")
    else:
        answer(
            made.to_dict(),
            f"Backup {made.backup_id}: {made.n_blobs} blobs, {byte_text(made.size_bytes)}; "
            f"{made.new_blobs} of them new ({byte_text(made.new_bytes)}).",
        )


@backup.command("list")
@click.argument("target", type=FILE, required=False)
@json_store_option
def list_backups(store: WorkspaceStore, target: Path | None) -> None:
    """List the backups in a folder, or those that the workspace recorded."""
    print_rows(
        store.backups.list(target),
        {
            "backup": "backup_id",
            "made": lambda r: moment(r["created_at"]),
            "size": lambda r: byte_text(r["size_bytes"]),
            "blobs": "n_blobs",
            "folder": "path",
        },
        empty="No backups.",
        numeric=["size", "blobs"],
        flexible=["folder"],
    )


@backup.command("verify")
@_target
@click.option("--backup", "backup_id", metavar="ID", help="Backup to verify [default: the newest].")
@json_option
def verify(target: Path, backup_id: str | None) -> None:
    """Read a whole backup and compare every hash."""
    from nirs_store.backup.folder import verify_backup

    with progress("Verifying") as show:
        found = verify_backup(target, backup_id, progress=show)
    n, size = len(found.files), found.size_bytes
    words = f"Backup {found.backup_id} is whole: {n} files, {byte_text(size)}."
    answer({"backup_id": found.backup_id, "files": n, "bytes": size}, words)


@backup.command("prune")
@_target
@click.option("--keep-last", type=click.IntRange(1), metavar="N", help="Keep the newest N.")
@click.option("--max-age", metavar="SPAN", help="Remove older ones, e.g. 30d. The newest is always kept.")
@plan_options
def prune(
    store: WorkspaceStore, target: Path, keep_last: int | None, max_age: str | None, dry_run: bool
) -> None:
    """Remove backups beyond a number or an age, and the blobs that no other backup needs."""
    plan = store.backups.prune(target, keep_last=keep_last, max_age=max_age, dry_run=True)
    if not given("json"):
        click.echo(
            f"{len(plan.remove)} backups to remove ({byte_text(plan.bytes)}), {len(plan.keep)} to keep"
        )
        for backup_id in plan.remove:
            click.echo(f"  {backup_id}")
        if plan.remove:
            click.echo(FOR_GOOD)
    done = bool(plan.remove) and not dry_run and confirm("Remove them for good?")
    if done:
        plan = store.backups.prune(target, keep_last=keep_last, max_age=max_age)
    words = f"Removed {len(plan.remove)} backups." if done else "Nothing was removed."
    answer({**plan.to_dict(), "dry_run": dry_run, "removed": done}, words)


@click.command("restore", cls=Command)
@click.argument("source", type=FILE)
@click.argument("folder", type=FILE, required=False)
@click.option(
    "--backup", "backup_id", metavar="ID", help="Backup in a folder of backups [default: the newest]."
)
@dry_run_option
@json_option
@workspace_option
def restore(source: Path, folder: Path | None, backup_id: str | None, dry_run: bool, workspace: Path) -> None:
    """Restore an archive into the workspace, or a backup into an empty FOLDER.

    SOURCE is a .tar.gz, .tar.zst or .zip file, or a folder of backups. Everything is verified first;
    --dry-run stops there. An archive adds only what is missing, and creates the workspace if the folder
    is missing or empty. Models are pickles: restore only archives and backups from people you trust.
    """
    if source.is_dir():
        _backup(source, folder, backup_id, dry_run)
    elif folder is not None or backup_id is not None:
        raise click.UsageError(
            "An archive goes into the workspace (--workspace); FOLDER and --backup are for backups."
        )
    else:
        _archive(source, dry_run, workspace)


def _archive(source: Path, dry_run: bool, workspace: Path) -> None:
    new = not is_shared(workspace) and (
        not workspace.exists() or (workspace.is_dir() and not any(workspace.iterdir()))
    )
    place = _new_workspace(workspace, dry_run) if new else open_store(workspace)
    with place as store, progress("Verifying") as show:
        found = store.restore_archive(source, dry_run=dry_run, progress=show)
    if printed_json({**found.to_dict(), "new_workspace": new}):
        return
    if new:
        click.echo(
            f"{workspace} {'would become' if dry_run else 'is'} a workspace{'' if dry_run else ' now'}."
        )
    _print_contents(found)
    if not found.rows and not found.blobs:
        click.echo("Everything is there already.")
    else:
        click.echo("Nothing was changed (dry run)." if dry_run else "Restored.")


@contextmanager
def _new_workspace(workspace: Path, dry_run: bool) -> Iterator[WorkspaceStore]:
    """Make a workspace that takes its name when all went well, so that a refused archive leaves none behind."""
    from nirs_store.addresses import refuse_address
    from nirs_store.blobs.durable import ensure_dir, fsync_dir
    from nirs_store.db.journal import sweep_drafts
    from nirs_store.ids import new_id
    from nirs_store.store import WorkspaceStore

    refuse_address(workspace, "workspace")
    place = workspace.expanduser().absolute()
    if dry_run:
        with TemporaryDirectory(prefix="nirs_store-") as folder, WorkspaceStore(folder) as store:
            yield store
        return
    draft = place.with_name(f".{place.name[:80]}.{new_id()}.tmp")
    ensure_dir(place.parent)
    sweep_drafts(place)
    try:
        with WorkspaceStore(draft) as store:
            yield store
        if place.exists():
            place.rmdir()
        draft.rename(place)
        fsync_dir(place.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _backup(source: Path, folder: Path | None, backup_id: str | None, dry_run: bool) -> None:
    from nirs_store.backup.backup import restore_backup

    if folder is None:
        raise click.UsageError("Name the empty FOLDER that the backup is to be brought back into.")
    with progress("Verifying" if dry_run else "Restoring") as show:
        restored = restore_backup(source, folder, backup_id, dry_run=dry_run, progress=show).to_dict()
    words = "It is whole; nothing was restored (dry run)." if dry_run else f"Restored to {folder}."
    size = byte_text(int(str(restored["bytes"])))
    answer(
        {**restored, "folder": str(folder), "dry_run": dry_run},
        f"Backup {restored['backup_id']}: {restored['files']} files, {size}.\n{words}",
    )


_UNVERIFIED = 4


@click.command("migrate", cls=Command)
@click.argument("source", type=FILE)
@click.argument("target", type=FILE)
@click.option(
    "--unpickle",
    is_flag=True,
    help="Load models that nirs4all's default engine keeps in a dict, so that they replay. Runs their code.",
)
@dry_run_option
@json_option
@click.pass_context
def migrate(ctx: click.Context, source: Path, target: Path, unpickle: bool, dry_run: bool) -> None:
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
    if not printed_json(report.to_dict()):
        _print_migration(report)
    if not dry_run and not report.verified:
        ctx.exit(_UNVERIFIED)


def _print_migration(report: MigrationReport) -> None:
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
