"""``nirs-store lineage``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nirs_store.cli._options import store_option
from nirs_store.cli._output import print_json

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore

from nirs_store.cli._group import Group
from nirs_store.cli._options import dry_run_option, json_option

_type_option = click.option(
    "--type",
    "link_type",
    default="derived_from",
    show_default=True,
    metavar="WORD",
    help="Type of the link.",
)


@click.group("lineage", cls=Group)
def command() -> None:
    """Show the lineage of objects, and record links.

    An OBJECT is an id, the part of one shown in tables, or kind:id (file:..., bundle:...).
    """


@command.command("show")
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
    show_default=True,
    help="A tree, or a graph for Graphviz or Mermaid.",
)
@json_option
@store_option
def show(
    store: WorkspaceStore, thing: str, direction: str | None, depth: int | None, form: str, as_json: bool
) -> None:
    """Show the sources of an object, or the objects made from it."""
    from nirs_store.cli._workspace import thing as find_thing

    graph = store.lineage.graph(find_thing(store, thing), direction or "upstream", max_depth=depth)
    if as_json:
        print_json(graph.to_dict())
        return
    text = {"tree": graph.__str__, "dot": graph.to_dot, "mermaid": graph.to_mermaid}[form]()
    click.echo(text.rstrip("\n"))


@command.command("link")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("target", metavar="TARGET")
@_type_option
@dry_run_option
@store_option
def link(store: WorkspaceStore, sources: tuple[str, ...], target: str, link_type: str, dry_run: bool) -> None:
    """Record that TARGET was made from the sources."""
    from nirs_store.cli._workspace import thing

    found = [thing(store, source) for source in sources]
    made = thing(store, target)
    store.lineage.link(found, made, link_type, dry_run=dry_run)
    for source in sources:
        click.echo(f"{source} -> {target} ({link_type})")
    if dry_run:
        click.echo("Nothing was recorded (dry run).")


@command.command("unlink")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--type", "link_type", metavar="WORD", help="Only links of this type.")
@dry_run_option
@store_option
def unlink(store: WorkspaceStore, source: str, target: str, link_type: str | None, dry_run: bool) -> None:
    """Remove a recorded link."""
    from nirs_store.cli._workspace import thing

    first, second = thing(store, source), thing(store, target)
    count = store.lineage.unlink([first], second, link_type, dry_run=dry_run)
    click.echo(f"{count} links would be removed (dry run)." if dry_run else f"Removed {count} links.")
