"""``nirs-store share``, ``clone`` and ``shared``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import confirm, dry_run_option, json_option, workspace_option, yes_option
from nirs_store.cli._output import human_bytes, moment, print_json, progress
from nirs_store.display import printable
from nirs_store.errors import InvalidInput

_BLOBS = click.option(
    "--blobs", metavar="PLACE", help="Place of the blobs: s3://bucket/prefix, gs://, az:// or file:///folder."
)


@click.command("share", cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("address")
@_BLOBS
@dry_run_option
@yes_option
@json_option
def command_share(
    folder: Path, address: str, blobs: str | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Make a shared workspace of FOLDER, at an ADDRESS such as postgresql://lab.example/nirs?workspace=corn.

    All rows and blobs are copied and compared. After that, FOLDER is read-only: record at ADDRESS.
    """
    from nirs_store.shared import moving
    from nirs_store.shared.address import parse

    place = parse(address, blobs=blobs)
    if not dry_run:
        plan = moving.share(folder, place, dry_run=True)
        words = f"{plan.rows:,} rows and {plan.blobs:,} blobs ({human_bytes(plan.bytes)})"
        if not confirm(f"Copy {words} to {place}, and make the folder read-only?", yes):
            return
    with progress("Copying blobs") as show:
        _say(moving.share(folder, place, dry_run=dry_run, progress=show), as_json)


@click.command("clone", cls=Command)
@click.argument("address")
@click.argument("folder", type=click.Path(path_type=Path))
@dry_run_option
@json_option
def command_clone(address: str, folder: Path, dry_run: bool, as_json: bool) -> None:
    """Copy the shared workspace at ADDRESS, as it is now, into an ordinary workspace in FOLDER."""
    from nirs_store.shared import moving
    from nirs_store.shared.address import parse

    with progress("Copying blobs") as show:
        _say(moving.clone(parse(address), folder, dry_run=dry_run, progress=show), as_json)


@click.command("push", cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("address")
@dry_run_option
@json_option
def command_push(folder: Path, address: str, dry_run: bool, as_json: bool) -> None:
    """Add everything in FOLDER, a workspace recorded offline, to the shared workspace at ADDRESS.

    Rows and blobs that it already has are skipped, so you can push again after recording more. FOLDER does not change.
    """
    from tempfile import TemporaryDirectory

    from nirs_store.cli._workspace import open_store

    with TemporaryDirectory(prefix="nirs_store-") as scratch:
        archive = Path(scratch) / "push.tar.zst"
        with open_store(folder) as store:
            store.archive(archive)
        with open_store(address) as store, progress("Copying") as show:
            added = store.restore_archive(archive, dry_run=dry_run, progress=show)
    if as_json:
        print_json({"rows": added.rows, "blobs": added.blobs, "dry_run": dry_run})
        return
    rows = sum(added.rows.values())
    click.echo(f"{'Would add' if dry_run else 'Added'} {rows:,} rows and {added.blobs:,} blobs.")


def _say(moved: Any, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        print_json(asdict(moved))
        return
    words = "Would copy" if moved.dry_run else "Copied"
    click.echo(
        f"{words} {moved.rows:,} rows and {moved.blobs:,} blobs ({human_bytes(moved.bytes)}) "
        f"from {printable(moved.source)} to {printable(moved.target)}."
    )


@click.group("shared", cls=Group)
def command() -> None:
    """Look after a workspace that several computers share."""


@command.command("status", cls=Command)
@json_option
@workspace_option
def command_status(workspace: Path, as_json: bool) -> None:
    """Show commits, who records now, and how far the computers are."""
    from nirs_store.shared.checking import status

    found = status(_settings(workspace))
    if as_json:
        print_json(found.to_dict())
        return
    click.echo(
        f"{printable(found.workspace)}: {found.commits:,} commits, {human_bytes(found.log_bytes)} in the log"
    )
    click.echo(
        f"Blobs: {found.n_blobs:,} ({human_bytes(found.blob_bytes)}) in {printable(found.blobs)}; schema {found.schema}"
    )
    click.echo(f"Replica on this computer: {printable(found.replica)}")
    snapshot = "none" if found.snapshot is None else f"up to commit {found.snapshot:,}"
    click.echo(f"Snapshot: {snapshot}; the log begins after commit {found.floor:,}")
    for word, count in (("rejected commits", found.rejected), ("objects to be deleted", found.condemned)):
        if count:
            click.echo(f"{count:,} {word}")
    for living in found.living:
        click.echo(f"Recording: {printable(living)}")
    for each in found.computers:
        lag = "up to date" if not each.behind else f"{each.behind:,} commits behind"
        digest = "" if each.digest is None else f", digest {each.digest[:8]} at commit {each.compared:,}"
        click.echo(
            f"{printable(each.machine)}: {lag}, seen {moment(each.seen_at)}, nirs_store "
            f"{printable(each.library)}{digest}"
        )


@command.command("snapshot", cls=Command)
@click.option(
    "--truncate", "days", type=click.FloatRange(min=0), metavar="DAYS",
    help="Also delete commits from the log that are older and in the snapshot.",
)  # fmt: skip
@workspace_option
def command_snapshot(workspace: Path, days: float | None) -> None:
    """Publish a copy of the catalog, from which new computers start."""
    from nirs_store.shared import snapshots
    from nirs_store.shared.opening import open_engine, parts_of

    engine = open_engine(_settings(workspace))
    try:
        log, backend = parts_of(engine)
        click.echo(f"Published a snapshot up to commit {snapshots.publish(engine, log, backend):,}.")
        if days is not None:
            count = snapshots.truncate(log.server, log.workspace_id, backend, older_than_days=days)
            click.echo(f"Deleted {count:,} commits from the log.")
    finally:
        engine.close()


@command.command("migrate", cls=Command)
@dry_run_option
@yes_option
@workspace_option
def command_migrate(workspace: Path, dry_run: bool, yes: bool) -> None:
    """Bring the workspace to the schema of this nirs_store, on every computer.

    Recording waits for a moment. Computers with an older nirs_store are refused from then on, and go on when
    nirs_store is upgraded there. A snapshot from before is kept.
    """
    from nirs_store.shared.migrating import migrate

    settings = _settings(workspace)
    plan = migrate(settings, dry_run=True)
    if not plan.steps:
        click.echo(f"Schema version {plan.from_version} is that of this nirs_store: nothing to migrate.")
        return
    click.echo(f"{printable(plan.workspace)}: from schema version {plan.from_version} to {plan.to_version}")
    for step in plan.steps:
        click.echo(f"  {step}")
    for living in plan.status.living:
        click.echo(f"Recording: {printable(living)}")
    for each in plan.status.computers:
        click.echo(f"{printable(each.machine)}: nirs_store {printable(each.library)}")
    if dry_run or not confirm("Migrate, and refuse computers with an older nirs_store from then on?", yes):
        return
    done = migrate(settings, dry_run=False)
    click.echo(f"Migrated. A snapshot from before, up to commit {done.snapshot:,}, is kept.")


@command.command("grant", cls=Command)
@click.argument("role")
@click.argument("right", type=click.Choice(["reader", "writer", "admin"]))
@workspace_option
def command_grant(workspace: Path, role: str, right: str) -> None:
    """Grant an existing ROLE of PostgreSQL the rights of a reader, writer or admin, and revoke all others.

    A reader queries; a writer also records and changes; an admin also creates workspaces, publishes snapshots and
    deletes objects for good. The rights apply to all workspaces of the database.
    """
    from nirs_store.shared import pgschema
    from nirs_store.shared.pg import Server

    server = Server(_settings(workspace).shared)
    try:
        server.run(lambda con: pgschema.grant(con, role, right))
    finally:
        server.close()
    click.echo(
        f"{printable(role)} is a {right} now." if right != "admin" else f"{printable(role)} is an admin now."
    )


def _settings(workspace: Any) -> Any:
    from nirs_store.cli._workspace import shared_settings

    found = shared_settings(workspace)
    if found is None:
        raise InvalidInput(
            f"--workspace: expected the address of a shared workspace (postgresql://...), found {str(workspace)!r}."
        )
    return found
