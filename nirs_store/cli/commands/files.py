"""``nirs-store files``: looking at stored files, and bringing them in and out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Group
from nirs_store.cli._options import FILE, FOR_GOOD, confirm, given
from nirs_store.cli._output import (
    answer,
    moment,
    print_aliases,
    print_fields,
    print_rows,
    printed_json,
)
from nirs_store.cli._workspace import json_store_option, plan_options, store_option
from nirs_store.display import byte_text
from nirs_store.errors import InvalidInput

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.files.change import FileRemoval
    from nirs_store.store import WorkspaceStore


@click.group("files", cls=Group)
def files() -> None:
    """Store and retrieve files of any kind: names, versions, aliases."""


_version_option = click.option("--version", "-v", metavar="V", help="v3, latest, or an alias.")
_test_option = click.option("--test", "test_name", metavar="NAME", help="The file of this test.")


@files.command("alias")
@click.argument("name")
@click.argument("alias", required=False)
@_version_option
@click.option("--remove", is_flag=True, help="Remove the alias.")
@_test_option
@json_store_option
def alias(
    store: WorkspaceStore,
    name: str,
    alias: str | None,
    version: str | None,
    remove: bool,
    test_name: str | None,
) -> None:
    """Set ALIAS to a version (default: the newest). Without ALIAS, list the aliases."""
    if alias is not None and remove:
        store.files.remove_alias(name, alias, test_name=test_name)
    elif alias is not None:
        store.files.set_alias(name, alias, version, test_name=test_name)
    print_aliases(store.files.aliases(name, test_name=test_name))


@files.command("status")
@click.argument("name")
@click.argument("status")
@click.option("--message", "-m", metavar="TEXT", help="Reason, for example of a failure.")
@_version_option
@_test_option
@store_option
def status(store: WorkspaceStore, name: str, status: str, message: str | None, **which: Any) -> None:
    """Set the status of a file: pending, in_progress, completed or failed."""
    store.files.set_status(name, status, message, **which)


@files.command("delete")
@click.argument("name")
@_version_option
@_test_option
@click.option(
    "--force",
    is_flag=True,
    help="Also delete production content, and content that an alias, pin or group refers to.",
)
@plan_options
def delete(store: WorkspaceStore, name: str, dry_run: bool, **options: Any) -> None:
    """Delete a file with all its versions, or one version. This cannot be undone."""
    _remove(lambda dry: store.files.delete(name, dry_run=dry, **options), "Delete", dry_run)


@files.command("cleanup")
@click.option("--days", type=float, default=30.0, help="Only files older than this.")
@click.option(
    "--old-tests", type=int, metavar="N", help="Instead, remove all tests except the N most recent."
)
@click.option("--include-production", is_flag=True, help="Also remove production content.")
@click.option(
    "--of-evaluations", is_flag=True, help="Also remove files that only evaluations without a champion name."
)
@plan_options
def cleanup(store: WorkspaceStore, days: float, old_tests: int | None, dry_run: bool, **options: Any) -> None:
    """Remove old unneeded files, and leftovers of programs that died. This cannot be undone."""

    def remove(dry: bool) -> FileRemoval:
        if old_tests is not None:
            return store.files.cleanup_old_tests(old_tests, dry_run=dry)
        return store.files.cleanup(days, dry_run=dry, **options)

    _remove(remove, "Remove", dry_run)


def _remove(remove: Callable[[bool], FileRemoval], verb: str, dry_run: bool) -> None:
    """Print what `remove` would do, ask, and let it."""
    plan = remove(True)
    if not given("json"):
        _print(plan)
    if not dry_run and (plan.versions or plan.workplaces) and confirm(f"{verb} this for good?"):
        plan = remove(False)
        if not given("json"):
            click.echo(f"{verb}d {len(plan)} versions.")
    printed_json(plan.to_dict())


def _print(plan: FileRemoval) -> None:
    click.echo(str(plan))
    for row in plan.versions:
        test = f" (test {row['test_name']})" if row["test_name"] else ""
        click.echo(f"  {row['name']}{test} v{row['version']}")
    for name, number, reason in plan.kept:
        click.echo(f"  kept: {name} v{number}, {reason}")
    if plan.versions or plan.workplaces:
        click.echo(FOR_GOOD)


_all_option = click.option(
    "--all", "all_versions", is_flag=True, help="List all versions, not only the newest."
)
_limit_option = click.option("--limit", "-n", type=click.IntRange(min=0), help="Maximum number of rows.")

_FILTERS = ("type", "status", "mode", "coverage", "model-id", "evaluation-id", "suite", "run-id")


def _filter_options(function: Any) -> Any:
    for name in reversed(_FILTERS):
        function = click.option(f"--{name}", metavar="X", help=f"Only this {name.replace('-', ' ')}.")(
            function
        )
    return function


@files.command("put")
@click.argument("what", nargs=-1, required=True, metavar="[SOURCE] NAME")
@click.option("--type", required=True, metavar="TYPE", help="Type of the file, such as report or video_raw.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Repeatable.")
@click.option("--metadata", metavar="JSON", help="A JSON object, or @FILE.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Source file. Repeatable.")
@click.option("--compression", metavar="HOW", help="auto, none, gzip, zip, tar.gz or zstd.")
@click.option("--mode", metavar="MODE", help="production or test.")
@click.option("--coverage", metavar="X", help="Coverage; full means production.")
@_test_option
@click.option("--model-id", metavar="ID", help="Model of the file.")
@click.option("--run-id", metavar="ID", help="Run of the file.")
@click.option("--force", is_flag=True, help="Make a new version even over production content.")
@json_store_option
def put(store: WorkspaceStore, what: tuple[str, ...], metadata: str | None, **about: Any) -> None:
    """Store a file or folder under a name. Without SOURCE, only its metadata is stored."""
    if len(what) > 2:
        raise click.UsageError("Expected a source and a name, or a name alone.")
    source, name = (None, what[0]) if len(what) == 1 else what
    made = store.files.put(source, name, metadata=_json_object(metadata), **about)
    answer(made, str(made) if made.added else f"{made.name} v{made.version} has this content already.")


@files.command("get")
@click.argument("name")
@click.argument("output", type=FILE, required=False)
@_version_option
@_test_option
@store_option
def get(store: WorkspaceStore, name: str, output: Path | None, **which: Any) -> None:
    """Write a file to OUTPUT, or to standard output, checked against its SHA-256."""
    if output is not None:
        click.echo(str(store.files.get(name, output, **which)))
        return
    with store.files.open(name, **which) as stream:
        while piece := stream.read(1 << 20):
            click.echo(piece, nl=False)


@files.command("list")
@click.argument("pattern", required=False)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only files with this tag. Repeatable.")
@_test_option
@_filter_options
@_all_option
@_limit_option
@json_store_option
def list_files(store: WorkspaceStore, pattern: str | None, **filters: Any) -> None:
    """List files. In PATTERN, * matches any characters: 'ensembl/*.tsv'."""
    _print_files(store.files.list(pattern, **filters))


@files.command("search")
@click.argument("words", nargs=-1, required=True)
@_test_option
@_filter_options
@_all_option
@_limit_option
@json_store_option
def search(store: WorkspaceStore, words: tuple[str, ...], **filters: Any) -> None:
    """Find files with all WORDS in their names, tags or metadata."""
    _print_files(store.files.search(" ".join(words), **filters))


@files.command("show")
@click.argument("name")
@_version_option
@_test_option
@json_store_option
def show(store: WorkspaceStore, name: str, **which: Any) -> None:
    """Show the sizes, hashes, tags, metadata and sources of a file."""
    found = store.files.metadata(name, **which)
    if printed_json(found):
        return
    sizes = f"{byte_text(found['size_bytes'])}, stored {byte_text(found['stored_bytes'])}"
    print_fields(
        {
            "name": found["name"],
            "test": found["test_name"],
            "version": f"v{found['version']}" + (", the newest" if found["is_latest"] else ""),
            "aliases": ", ".join(found["aliases"]),
            "id": found["version_id"],
            "type": f"{found['type']} ({found['kind']})",
            "status": found["status"] + (f": {found['message']}" if found["message"] else ""),
            "mode": found["mode"] + (f" ({found['coverage']})" if found["coverage"] else ""),
            "size": sizes,
            "compression": found["compression"]
            + (f"; {found['compression_note']}" if found["compression_note"] else ""),
            "SHA-256": found["content_hash"],
            "tags": ", ".join(found["tags"]),
            "metadata": json.dumps(found["metadata"], ensure_ascii=False) if found["metadata"] else None,
            "made from": "\n".join(
                f"{each['name']} v{each['version']}" if each["name"] else f"{each['kind']} {each['id']}"
                for each in found["sources"]
            ),
            "members": "\n".join(found.get("members") or {}),
            "stored": moment(found["created_at"]),
        }
    )


@files.command("versions")
@click.argument("name")
@_test_option
@json_store_option
def versions(store: WorkspaceStore, name: str, test_name: str | None) -> None:
    """List the versions of a file, newest first."""
    print_rows(
        store.files.versions(name, test_name=test_name),
        {
            "version": lambda row: f"v{row['version']}",
            "aliases": lambda row: ", ".join(row["aliases"]),
            "status": "status",
            "mode": "mode",
            "size": lambda row: byte_text(row["size_bytes"]),
            "SHA-256": lambda row: (row["content_hash"] or "-")[:12],
            "stored": lambda row: moment(row["created_at"]),
        },
        numeric=["size"],
        flexible=["aliases"],
    )


@files.command("summary")
@click.argument("pattern", required=False)
@json_store_option
def summary(store: WorkspaceStore, pattern: str | None) -> None:
    """Count files and bytes by type, status, mode and compression."""
    found = store.files.summary(pattern)
    answer(found.to_dict(), str(found))


@files.command("validate")
@click.argument("pattern", required=False)
@json_store_option
def validate(store: WorkspaceStore, pattern: str | None) -> None:
    """Read every file and compare it with its SHA-256. Exit code 4 if one is damaged."""
    found = store.files.validate(pattern)
    answer(found.to_dict(), str(found))
    if not found.ok:
        click.get_current_context().exit(4)


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except ValueError as error:
        raise InvalidInput(f"--metadata: this is not JSON: {error}. Nothing was stored.") from error
    if not isinstance(found, dict):
        raise InvalidInput("--metadata: expected a JSON object. Nothing was stored.")
    return found


def _print_files(frame: pl.DataFrame) -> None:
    rows = [
        {**row, "tags": json.loads(row["tags"] or "[]"), "metadata": json.loads(row["metadata"] or "{}")}
        for row in frame.iter_rows(named=True)
    ]
    print_rows(
        rows,
        {
            "name": "name",
            "test": "test_name" if any(row["test_name"] for row in rows) else None,
            "version": lambda row: f"v{row['version']}",
            "type": "type",
            "status": "status",
            "mode": "mode",
            "size": lambda row: byte_text(row["size_bytes"]),
            "tags": lambda row: ", ".join(row["tags"]),
            "stored": lambda row: moment(row["created_at"]),
        },
        empty="No files.",
        numeric=["size"],
        flexible=["name", "tags"],
    )
