"""``nirs-store check``, ``repair``, ``delete``, ``trash``, ``retention``, ``gc``, ``vacuum`` and ``take-over``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import (
    FOR_GOOD,
    confirm,
    dry_run_option,
    given,
    json_option,
    workspace_option,
    yes_option,
)
from nirs_store.cli._output import (
    answer,
    moment,
    print_counts,
    print_rows,
    printed_json,
    progress,
    short_id,
)
from nirs_store.cli._workspace import find, json_store_option, plan_options, shared_settings, store_option
from nirs_store.cli._workspace import thing as find_thing
from nirs_store.display import byte_text, printable

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore


#: As CatalogDamaged, BlobCorrupt and BlobMissing.
_DAMAGED = 4


@click.command("check", cls=Command)
@click.option("--read-data", is_flag=True, help="Read every byte of rows and models and compare checksums.")
@json_option
@workspace_option
@click.pass_context
def check(ctx: click.Context, read_data: bool, workspace: Path) -> None:
    """Check that everything recorded is present and consistent.

    Nothing is changed, and recording can continue. The exit code is 4 if something is damaged or lost, else
    0. Of a shared workspace, its log and the replica on this computer are checked too.
    """
    from nirs_store.maintenance.check import check_workspace

    with progress("Reading models") as show:
        if (settings := shared_settings(workspace)) is not None:
            from nirs_store.maintenance import shared as shared_care

            report = shared_care.check_address(settings, read_data=read_data, progress=show)
        else:
            report = check_workspace(workspace, read_data=read_data, progress=show)
    answer(report.to_dict(), str(report))
    if report.errors:
        ctx.exit(_DAMAGED)


@click.command("delete", cls=Command)
@click.argument("identifier", metavar="ID")
@click.option("--keep-artifacts", is_flag=True, help="Keep the model files for a later gc.")
@click.option("--force", is_flag=True, help="Also delete models that feed a meta-model of another run.")
@click.option("--now", is_flag=True, help="Delete permanently, without the trash.")
@plan_options
def delete(
    store: WorkspaceStore, identifier: str, keep_artifacts: bool, force: bool, now: bool, dry_run: bool
) -> None:
    """Delete a run with all its contents, a pipeline, a chain with its predictions, or one prediction.

    'nirs-store trash restore ID' undoes this within 30 days, unless --now was given.

    The plan is printed first. Models that other runs use are kept. The command asks for confirmation on a
    terminal and needs --yes elsewhere.
    """
    found = find(store, identifier, ["run", "pipeline", "chain", "prediction"])
    facts: dict[str, Any] = {"kind": found.kind, "id": found.identifier, "dry_run": dry_run}
    one = found.kind == "prediction"
    remove = getattr(store, f"delete_{found.kind}")
    if not one:
        plan = remove(found.identifier, dry_run=True)
        names = ("name", "rows", "artifacts", "artifact_bytes", "needed_by")
        facts |= {name: getattr(plan, name) for name in names}
    if not given("json"):
        _print_plan(facts, keep_artifacts)
        if now:
            click.echo(FOR_GOOD)
    if not dry_run:
        if not confirm("Delete this?"):
            return
        options: dict[str, Any] = {} if one else {"delete_artifacts": not keep_artifacts, "force": force}
        facts["deleted"] = int(remove(found.identifier, now=now, **options))
    if printed_json(facts) or dry_run:
        return
    click.echo("Deleted." if one else f"Deleted {facts['deleted']} rows.")
    if not now:
        click.echo(f"Undo it with: nirs-store trash restore {found.identifier}")


def _print_plan(facts: dict[str, Any], keep_artifacts: bool) -> None:
    kind, identifier = facts["kind"], facts["id"]
    if kind == "prediction":
        click.echo(f"Prediction {identifier} with its arrays")
        return
    click.echo(f"{kind.capitalize()} {identifier} ({printable(facts['name'])})")
    for table, count in facts["rows"].items():
        words = table.replace("_", " ")
        print_counts({words.removesuffix("s") if count == 1 else words: count})
    for model, source in facts["needed_by"]:
        click.echo(f"  meta-model {model} is fed by {source}; --force deletes it anyway")
    what = "unreferenced, left for a gc" if keep_artifacts else f"files that only this {kind} uses"
    print_counts({f"models, {what} ({byte_text(facts['artifact_bytes'])})": len(facts["artifacts"])})


@click.command("gc", cls=Command)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=3600.0,
    metavar="SECONDS",
    help="How long to keep saved objects that no chain names, after the end of their session.",
)
@click.option("--now", is_flag=True, help="Also empty the trash, whatever its age.")
@dry_run_option
@json_store_option
def gc(store: WorkspaceStore, grace: float, now: bool, dry_run: bool) -> None:
    """Remove model files without references, and expired entries of the trash.

    The plan is printed; --dry-run only prints it. Unknown files are reported and kept.
    """
    if dry_run:
        plan, removed = store.gc_artifacts(dry_run=True, grace_seconds=grace, now=now), None
    else:
        done = store.collect_garbage(grace_seconds=grace, now=now)
        plan, removed = done.plan, done.files
    if printed_json({**plan.to_dict(), "dry_run": dry_run, "removed_files": removed}):
        return
    click.echo(f"{len(plan.files)} files that nothing refers to ({byte_text(plan.bytes)})")
    for path in plan.files:
        click.echo(f"  {path}")
    if plan.unused_arrays:
        click.echo(
            f"{plan.unused_arrays} arrays that nothing refers to ({byte_text(plan.unused_array_bytes)})"
        )
    if plan.trash:
        click.echo(f"{len(plan.trash)} deletions that can no longer be undone then")
    if plan.unknown_files:
        click.echo(f"{len(plan.unknown_files)} unknown files, left alone")
        for path in plan.unknown_files:
            click.echo(f"  {path}")
    click.echo("Nothing was removed (dry run)." if dry_run else f"Removed {removed} files.")


@click.command("repair", cls=Command)
@click.option(
    "--restore-catalog",
    is_flag=True,
    help="If store.duckdb cannot be read, replace it with the newest copy that a migration kept.",
)
@dry_run_option
@yes_option
@workspace_option
def repair(restore_catalog: bool, dry_run: bool, workspace: Path) -> None:
    """Repair what a check found, as far as possible.

    The command reads every byte and prints its plan first. It moves damaged files to quarantine/ and never
    deletes them; it lists lost data and invents nothing. It asks for confirmation on a terminal and
    needs --yes elsewhere. Of a shared workspace, the replica on this computer is replaced by one built from the
    log where they differ, and lost models are put back from the copies here.
    """
    from nirs_store.lazy import later
    from nirs_store.maintenance.repair import plan_workspace_repair, repair_workspace

    shared_care: Any = later("nirs_store.maintenance.shared")
    settings = shared_settings(workspace)
    if settings is not None and restore_catalog:
        raise click.UsageError("--restore-catalog is for a folder; a replica is built again from the log.")
    with progress("Reading models") as show:
        if settings is not None:
            plan = shared_care.repair(settings, dry_run=True, progress=show)
        else:
            plan = plan_workspace_repair(workspace, restore_catalog=restore_catalog, progress=show)
    click.echo(str(plan))
    if restore_catalog and plan.restore_from is None:
        click.echo("The catalog is not restored: it can be read, or no migration kept a copy that can be.")
    if plan.empty or dry_run or not confirm("Do this?"):
        return
    if settings is not None:
        shared_care.repair(settings, dry_run=False)
    else:
        repair_workspace(workspace, plan)
    click.echo("Done.")


@click.command("vacuum", cls=Command)
@json_store_option
def vacuum(store: WorkspaceStore) -> None:
    """Shrink the catalog after deletions.

    Deleted rows leave unused space in store.duckdb; this command rewrites the file without it. Queries of
    other processes wait meanwhile; recording continues.
    """
    store.list_runs(limit=1)  # what waits in the journal counts as before
    catalog = store.workspace_path / "store.duckdb"
    before = catalog.stat().st_size
    store.vacuum()
    after = catalog.stat().st_size
    words = f"store.duckdb: {byte_text(before)} before, {byte_text(after)} after."
    answer({"before_bytes": before, "after_bytes": after}, words)


@click.group("trash", cls=Group)
def trash() -> None:
    """List, restore and permanently remove deleted objects."""


@trash.command("list")
@json_store_option
def trash_list(store: WorkspaceStore) -> None:
    """List what was deleted and can be restored, newest first."""
    print_rows(
        store.trash.list(),
        {
            "deleted": lambda row: moment(row["deleted_at"]),
            "what": "kind",
            "name": "name",
            "rows": "rows",
            "size": lambda row: byte_text(row["size_bytes"]),
            "until": lambda row: moment(row["until"]),
            "id": lambda row: short_id(row["object_id"]),
        },
        empty="The trash is empty.",
        numeric=["rows", "size"],
        flexible=["name"],
    )


@trash.command("restore")
@click.argument("identifier", metavar="ID")
@json_store_option
def trash_restore(store: WorkspaceStore, identifier: str) -> None:
    """Restore a deleted object by its id, or the last eight characters of it."""
    back = store.trash.restore(identifier)
    words = "\n".join(f"The {kind} {each} is back." for kind, each in back)
    answer([{"kind": kind, "id": each} for kind, each in back], words)


@trash.command("empty")
@click.option(
    "--older-than", type=click.FloatRange(0), metavar="DAYS", help="Only what was deleted longer ago."
)
@plan_options
def trash_empty(store: WorkspaceStore, older_than: float | None, dry_run: bool) -> None:
    """Permanently remove deleted objects, with the files that nothing else needs."""
    done = store.trash.empty(older_than, dry_run=True)
    if not given("json"):
        click.echo(f"{len(done.entries)} deletions in the trash")
        if done.entries:
            click.echo(FOR_GOOD)
    if not dry_run and done.entries:
        if not confirm("Remove them for good?"):
            return
        done = store.trash.empty(older_than)
    words = f"Removed {len(done.entries)} deletions, {done.files} files ({byte_text(done.bytes)})."
    facts = {"entries": done.entries, "files": done.files, "bytes": done.bytes, "dry_run": dry_run}
    answer(facts, "Nothing was removed (dry run)." if dry_run else words)


_KINDS = ("chain", "run", "file", "measurement")


@click.group("retention", cls=Group)
def retention() -> None:
    """Set what a workspace keeps, and delete the rest."""


def _rule_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--on", type=click.Choice(_KINDS), default="chain", help="Kind of object."),
        click.option("--type", "of_type", metavar="NAME", help="Only of this type."),
        click.option("--mode", type=click.Choice(["production", "test"]), help="Only files of this mode."),
        click.option("--all", "everything", is_flag=True, help="Keep everything."),
        click.option("--top", type=click.IntRange(1), metavar="K", help="Keep the K best."),
        click.option("--metric", metavar="NAME", help="Score to rank by."),
        click.option("--per", multiple=True, metavar="NAME", help="Keep K of each type, model, dataset, run or name."),
        click.option("--recent", type=click.IntRange(1), metavar="N", help="Keep the N newest."),
        click.option("--days", type=click.FloatRange(0), metavar="D", help="Keep everything that is not older."),
        click.option("--champions", is_flag=True, help="Keep present and former champions."),
        click.option("--max-count", type=click.IntRange(0), metavar="N", help="Maximum number of rows."),
        click.option("--max-bytes", type=click.IntRange(0), metavar="BYTES", help="Maximum size."),
        click.option("--max-age", type=click.FloatRange(0), metavar="D", help="Maximum age in days."),
        click.option(
            "--file", "source", type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A policy file in the form that --json prints, instead of these options.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def _policy(options: dict[str, Any]) -> Any:
    """Return the policy that the options say; None when they say none."""
    import json

    from nirs_store.errors import InvalidInput
    from nirs_store.history.policy import (
        RetentionPolicy,
        keep_all,
        keep_champions,
        keep_recent,
        keep_top_k,
        limit,
    )

    if options["source"] is not None:
        try:
            given = json.loads(options["source"].read_text(encoding="utf-8"))
            # What 'show' and 'run' print has the policy in it, next to pins or a plan.
            within = isinstance(given, dict) and "policy" in given
            return RetentionPolicy.from_dict(given["policy"] if within else given)
        except ValueError as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"{options['source']} is not JSON: {error}. Nothing was changed.") from error
    on, per = options["on"], options["per"] or None
    about = {"on": on, "type": options["of_type"], "mode": options["mode"]}
    policy = RetentionPolicy()
    if options["everything"]:
        policy |= keep_all(**about)
    if options["top"] is not None:
        policy |= keep_top_k(options["top"], options["metric"], per=per, **about)
    if options["recent"] is not None or options["days"] is not None:
        policy |= keep_recent(options["recent"], days=options["days"], per=per, **about)
    if options["champions"]:
        policy |= keep_champions(on=on)
    bounds = {name: options[name] for name in ("max_count", "max_bytes")}
    if options["max_age"] is not None or any(value is not None for value in bounds.values()):
        policy |= limit(max_age_days=options["max_age"], **about, **bounds)
    return policy if policy.kinds else None


@retention.command("show")
@json_store_option
def show(store: WorkspaceStore) -> None:
    """Print the policy of a workspace and its pins."""
    policy, pins = store.retention.policy, store.retention.pins()
    if printed_json({"policy": policy.to_dict(), "pins": pins.to_dicts()}):
        return
    click.echo(str(policy))
    if pins.height:
        click.echo()
        print_rows(
            pins.to_dicts(),
            {
                "pinned": "object_kind",
                "id": lambda p: short_id(p["object_id"]),
                "since": lambda p: moment(p["made_at"]),
                "reason": "reason",
            },
            flexible=["reason"],
        )


@retention.command("set")
@_rule_options
@click.option("--add", is_flag=True, help="Add to the existing policy.")
@click.option(
    "--automatic",
    type=click.Choice(["never", "on_close", "after_run", "hourly", "daily", "weekly"]),
    help="Apply it automatically at this event or interval.",
)
@dry_run_option
@json_store_option
def set_policy(
    store: WorkspaceStore, add: bool, automatic: str | None, dry_run: bool, **options: Any
) -> None:
    """Set the policy of a workspace; this alone deletes nothing. Without options it keeps everything."""
    from nirs_store.history.policy import RetentionPolicy

    policy = _policy(options) or RetentionPolicy()
    if add:
        policy = store.retention.policy | policy
    if automatic is not None:
        policy = RetentionPolicy(policy.rules, policy.limits, automatic)
    if not dry_run:
        policy = store.retention.set(policy)
    answer(policy.to_dict(), str(policy) + ("\nNothing was changed (dry run)." if dry_run else ""))


@retention.command("run")
@_rule_options
@click.option("--now", is_flag=True, help="Delete for good, without the trash.")
@plan_options
def run(store: WorkspaceStore, now: bool, dry_run: bool, **options: Any) -> None:
    """Delete everything the retention policy does not keep: the workspace's policy, or one given here.

    The plan is printed first. The command asks for confirmation on a terminal and needs --yes elsewhere.
    """
    plan = store.retention.plan(_policy(options))
    if not given("json"):
        click.echo(str(plan))
        kinds = {item.kind for item in plan.take}
        if kinds and (now or kinds <= {"file", "measurement"}):
            click.echo(FOR_GOOD)
        elif "measurement" in kinds:
            click.echo("Of the measurements, this cannot be undone.")
    result = None
    if not dry_run and plan.take and confirm("Delete these?"):
        result = store.retention.execute(plan, now=now)
    done = None if result is None else result.to_dict()
    if printed_json({**plan.to_dict(), "dry_run": dry_run, "result": done}):
        return
    if result is not None:
        click.echo(f"{str(result)[0].upper()}{str(result)[1:]}.")
    elif dry_run:
        click.echo("Nothing was removed (dry run).")


@retention.command("pin")
@click.argument("thing", metavar="OBJECT")
@click.option("--reason", metavar="TEXT", help="Why.")
@store_option
def pin(store: WorkspaceStore, thing: str, reason: str | None) -> None:
    """Keep an object regardless of the policy."""
    store.retention.pin(find_thing(store, thing), reason)
    click.echo(f"Pinned {thing}.")


@retention.command("unpin")
@click.argument("thing", metavar="OBJECT")
@store_option
def unpin(store: WorkspaceStore, thing: str) -> None:
    """Remove a pin."""
    there = store.retention.unpin(find_thing(store, thing))
    click.echo(f"Unpinned {thing}." if there else f"{thing} was not pinned.")


@click.command("take-over", cls=Command)
@yes_option
@workspace_option
def take_over(workspace: Path) -> None:
    """Free a workspace on a network share from a computer that crashed or is gone.

    Stop everything that uses the workspace on that computer first: two computers that write into one folder
    destroy its catalog.
    """
    from nirs_store.errors import WorkspaceElsewhere
    from nirs_store.store import WorkspaceStore

    try:
        WorkspaceStore(workspace, create=False).close()
    except WorkspaceElsewhere as error:
        host = printable(error.host or "a computer without a name")
        since = "" if error.since is None else f" since {error.since:%Y-%m-%d %H:%M} UTC"
        click.echo(f"Used by {host}{since}.")
        if not confirm("Has every store there been closed?"):
            return
        WorkspaceStore(workspace, create=False, take_over=True).close()
    click.echo("No other computer uses the workspace.")
