"""``nirs-store audit`` and ``nirs-store lineage``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Group
from nirs_store.cli._options import FILE, dry_run_option
from nirs_store.cli._output import answer, moment, print_rows, printed_json, short_id
from nirs_store.cli._workspace import json_store_option, store_option, the_end_of_one
from nirs_store.cli._workspace import thing as find_thing
from nirs_store.errors import UnknownId
from nirs_store.ids import is_id

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.store import WorkspaceStore


_FORMATS = ("json", "jsonl", "csv")


@click.group("audit", cls=Group)
def audit() -> None:
    """Read, verify and export the audit trail, and set the rules for forbidden content."""


@audit.command("log")
@click.option("--operation", "operations", multiple=True, metavar="NAME", help="Only these operations.")
@click.option("--failed", is_flag=True, help="Only refused or failed operations.")
@click.option("--since", metavar="TIME", help="Only entries from this time on, e.g. 2026-03-01.")
@click.option("--until", metavar="TIME", help="Only entries before this time.")
@click.option("--object", "thing", metavar="KIND[:ID]", help="Only entries about this kind or this object.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Maximum number of rows.")
@json_store_option
def log(
    store: WorkspaceStore, operations: tuple[str, ...], failed: bool, thing: str | None, **options: Any
) -> None:
    """List entries, newest first."""
    kind, identifier = _about(store, thing or "")
    success = False if failed else None
    about: dict[str, Any] = {"object_kind": kind, "object_id": identifier, "newest_first": True}
    _print(store.audit.query(operations or None, success, **about, **options))


@audit.command("history")
@click.argument("thing", metavar="OBJECT")
@json_store_option
def history(store: WorkspaceStore, thing: str) -> None:
    """List the history of an object, even of a deleted one (as kind:id)."""
    kind, colon, identifier = thing.partition(":")
    try:
        found = find_thing(store, thing)
    except UnknownId:
        if not colon:
            raise
        found = thing
    if isinstance(found, tuple):
        kind, identifier = found
    elif not colon:
        raise UnknownId("object", thing, "Write kind:id for what is no longer there.")
    _print(store.audit.history(kind, identifier))


@audit.command("verify")
@click.option("--head", metavar="NUMBER:HASH", help="A head that was stored elsewhere.")
@json_store_option
@click.pass_context
def verify(ctx: click.Context, store: WorkspaceStore, head: str | None) -> None:
    """Check for changed or removed entries; exit code 4 if any."""
    report = store.audit.verify(None if head is None else head.split(":", 1))
    answer(report.to_dict(), str(report))
    ctx.exit(0 if report.ok else 4)


@audit.command("head")
@json_store_option
def head(store: WorkspaceStore) -> None:
    """Print the number and hash of the last entry to store elsewhere; later checks expect it."""
    found = store.audit.head()
    answer(found._asdict(), f"{found.number}:{found.entry_hash}")


@audit.command("export")
@click.argument("path", type=FILE)
@click.option("--format", "form", type=click.Choice(_FORMATS), default="json")
@click.option("--since", metavar="TIME", help="Only entries from this time on.")
@click.option("--until", metavar="TIME", help="Only entries before this time.")
@store_option
def export(store: WorkspaceStore, path: Path, form: str, since: str | None, until: str | None) -> None:
    """Write entries to a file; with jsonl to a folder, one file per month."""
    for written in store.audit.export(path, form, since=since, until=until):
        click.echo(str(written))


@audit.command("switch")
@click.argument("state", type=click.Choice(["on", "off"]))
@click.option("--reads", is_flag=True, help="Also record replays, and reads of models and files.")
@store_option
def switch(store: WorkspaceStore, state: str, reads: bool) -> None:
    """Turn the trail of a workspace on or off, for every program."""
    store.audit.switch(state == "on", reads=reads)
    click.echo(f"The audit trail is {state}.")


@audit.command("guard")
@click.option("--forbid-key", "keys", multiple=True, metavar="NAME", help="Refuse this key of metadata.")
@click.option(
    "--forbid", "patterns", multiple=True, metavar="REGEX", help="Refuse text that matches this pattern."
)
@click.option("--patients", is_flag=True, help="Refuse the usual keys that identify people.")
@click.option("--allow-key", "fewer_keys", multiple=True, metavar="NAME", help="Remove a key.")
@click.option("--allow", "fewer", multiple=True, metavar="REGEX", help="Remove a pattern.")
@dry_run_option
@json_store_option
def guard(
    store: WorkspaceStore,
    keys: tuple[str, ...],
    patterns: tuple[str, ...],
    patients: bool,
    fewer_keys: tuple[str, ...],
    fewer: tuple[str, ...],
    dry_run: bool,
) -> None:
    """List, add or remove rules for content that metadata, notes and tags must not contain."""
    from nirs_store.audit.guard import PATIENT_KEYS

    more = (*keys, *(PATIENT_KEYS if patients else ()))
    rules = store.audit.guard
    found = rules.plan(
        forbid_keys=more, forbid_patterns=patterns, allow_keys=fewer_keys, allow_patterns=fewer
    )
    if not dry_run and (more or patterns):
        rules.forbid(keys=more, patterns=patterns)
    if not dry_run and (fewer_keys or fewer):
        rules.allow(keys=fewer_keys, patterns=fewer)
    if printed_json(found):
        return
    for name, values in found.items():
        for value in values:
            click.echo(f"{name.removesuffix('s')}  {value}")
    if not any(found.values()):
        click.echo("No rules.")
    if dry_run:
        click.echo("Nothing was changed (dry run).")


def _about(store: WorkspaceStore, thing: str) -> tuple[str | None, str | None]:
    """Return the kind and the whole id of what entries are about, also of what is deleted by now."""
    kind, _, identifier = thing.partition(":")
    if not identifier:
        return kind or None, None
    noted = store.audit.query(object_kind=kind)["object_id"].drop_nulls().unique(maintain_order=True)
    if identifier in noted:
        return kind, identifier
    try:
        found = find_thing(store, thing)
    except UnknownId:
        found = thing
    if isinstance(found, tuple):
        return found
    hint = "'nirs-store audit log' lists what there are entries about."
    return kind, the_end_of_one(identifier, noted, kind, hint)


def _print(entries: pl.DataFrame) -> None:
    print_rows(
        [{**row, "details": json.loads(row["details"] or "null")} for row in entries.to_dicts()],
        {
            "number": "number",
            "when": lambda row: moment(row["made_at"]),
            "who": lambda row: f"{row['user']}@{row['host']}:{row['pid']}",
            "operation": "operation",
            "object": _object,
            "": lambda row: "ok" if row["success"] else "failed",
            "message": lambda row: row["message"] or "",
        },
        empty="No entries.",
        numeric=["number"],
        flexible=["message", "who"],
    )


def _object(row: dict[str, Any]) -> str:
    """Return kind and short id of what an entry is about, with the name of a file; only ids are shortened."""
    kind, identifier = row["object_kind"], row["object_id"]
    name = (row["details"] or {}).get("name") if kind == "file" else None
    return " ".join(filter(None, (kind, name, short_id(identifier) if is_id(identifier) else identifier)))


_type_option = click.option(
    "--type", "link_type", default="derived_from", metavar="WORD", help="Type of the link."
)


@click.group("lineage", cls=Group)
def lineage() -> None:
    """Show the lineage of objects, and record links.

    An OBJECT is an id, the part of one shown in tables, or kind:id (file:..., bundle:...).
    """


@lineage.command("show")
@click.argument("thing", metavar="OBJECT")
@click.option(
    "--downstream", "direction", flag_value="downstream", help="Show what was made from the object."
)
@click.option("--both", "direction", flag_value="both", help="Show both directions.")
@click.option("--depth", type=click.IntRange(0), metavar="N", help="Maximum number of links to follow.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["tree", "dot", "mermaid"]),
    default="tree",
    help="A tree, or a graph for Graphviz or Mermaid.",
)
@json_store_option
def show_lineage(
    store: WorkspaceStore, thing: str, direction: str | None, depth: int | None, form: str
) -> None:
    """Show the sources of an object, or the objects made from it."""
    graph = store.lineage.graph(find_thing(store, thing), direction or "upstream", max_depth=depth)
    if printed_json(graph.to_dict()):
        return
    text = {"tree": graph.__str__, "dot": graph.to_dot, "mermaid": graph.to_mermaid}[form]()
    click.echo(text.rstrip("\n"))


@lineage.command("link")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("target", metavar="TARGET")
@_type_option
@dry_run_option
@store_option
def link(store: WorkspaceStore, sources: tuple[str, ...], target: str, link_type: str, dry_run: bool) -> None:
    """Record that TARGET was made from the sources."""
    found = [find_thing(store, source) for source in sources]
    store.lineage.link(found, find_thing(store, target), link_type, dry_run=dry_run)
    for source in sources:
        click.echo(f"{source} -> {target} ({link_type})")
    if dry_run:
        click.echo("Nothing was recorded (dry run).")


@lineage.command("unlink")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--type", "link_type", metavar="WORD", help="Only links of this type.")
@dry_run_option
@store_option
def unlink(store: WorkspaceStore, source: str, target: str, link_type: str | None, dry_run: bool) -> None:
    """Remove a recorded link."""
    first, second = find_thing(store, source), find_thing(store, target)
    count = store.lineage.unlink([first], second, link_type, dry_run=dry_run)
    click.echo(f"{count} links would be removed (dry run)." if dry_run else f"Removed {count} links.")
