"""``nirs-store retention``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._options import FOR_GOOD, confirm, store_option
from nirs_store.cli._output import moment, print_json, print_rows, short_id

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore

from nirs_store.cli._group import Group
from nirs_store.cli._options import dry_run_option, json_option, yes_option

_KINDS = ("chain", "run", "file", "measurement")


@click.group("retention", cls=Group)
def command() -> None:
    """Set what a workspace keeps, and delete the rest."""


def _rule_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--on", type=click.Choice(_KINDS), default="chain", show_default=True, help="Kind of object."),
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
            # What 'show' and 'run' print has the policy in it, beside pins or a plan.
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


@command.command("show")
@json_option
@store_option
def show(store: WorkspaceStore, as_json: bool) -> None:
    """Print the policy of a workspace and its pins."""
    policy, pins = store.retention.policy, store.retention.pins()
    if as_json:
        print_json({"policy": policy.to_dict(), "pins": pins.to_dicts()})
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


@command.command("set")
@_rule_options
@click.option("--add", is_flag=True, help="Add to the existing policy.")
@click.option(
    "--automatic",
    type=click.Choice(["never", "on_close", "after_run", "hourly", "daily", "weekly"]),
    help="Apply it automatically at this event or interval.",
)
@dry_run_option
@json_option
@store_option
def set_policy(
    store: WorkspaceStore, add: bool, automatic: str | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Set the policy of a workspace; this alone deletes nothing. Without options it keeps everything."""
    from nirs_store.registry import RetentionPolicy

    policy = _policy(options) or RetentionPolicy()
    if add:
        policy = store.retention.policy | policy
    if automatic is not None:
        policy = RetentionPolicy(policy.rules, policy.limits, automatic)
    if not dry_run:
        policy = store.retention.set(policy)
    if as_json:
        print_json(policy.to_dict())
        return
    click.echo(str(policy))
    if dry_run:
        click.echo("Nothing was changed (dry run).")


@command.command("run")
@_rule_options
@click.option("--now", is_flag=True, help="Delete for good, without the trash.")
@dry_run_option
@yes_option
@json_option
@store_option
def run(store: WorkspaceStore, now: bool, dry_run: bool, yes: bool, as_json: bool, **options: Any) -> None:
    """Delete everything the retention policy does not keep: the workspace's policy, or one given here.

    The plan is printed first. The command asks for confirmation on a terminal and needs --yes elsewhere.
    """
    plan = store.retention.plan(_policy(options))
    if not as_json:
        click.echo(str(plan))
        kinds = {item.kind for item in plan.take}
        if kinds and (now or kinds <= {"file", "measurement"}):
            click.echo(FOR_GOOD)
        elif "measurement" in kinds:
            click.echo("Of the measurements, this cannot be undone.")
    if dry_run or not plan.take or not confirm("Delete these?", yes):
        result = None
    else:
        result = store.retention.execute(plan, now=now)
    if as_json:
        print_json(
            {**plan.to_dict(), "dry_run": dry_run, "result": None if result is None else result.to_dict()}
        )
    elif result is not None:
        click.echo(f"{str(result)[0].upper()}{str(result)[1:]}.")
    elif dry_run:
        click.echo("Nothing was removed (dry run).")


@command.command("pin")
@click.argument("thing", metavar="OBJECT")
@click.option("--reason", metavar="TEXT", help="Why.")
@store_option
def pin(store: WorkspaceStore, thing: str, reason: str | None) -> None:
    """Keep an object regardless of the policy."""
    from nirs_store.cli._workspace import thing as find_thing

    store.retention.pin(find_thing(store, thing), reason)
    click.echo(f"Pinned {thing}.")


@command.command("unpin")
@click.argument("thing", metavar="OBJECT")
@store_option
def unpin(store: WorkspaceStore, thing: str) -> None:
    """Remove a pin."""
    from nirs_store.cli._workspace import thing as find_thing

    there = store.retention.unpin(find_thing(store, thing))
    click.echo(f"Unpinned {thing}." if there else f"{thing} was not pinned.")
