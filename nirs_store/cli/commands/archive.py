"""``nirs-store archive``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import dry_run_option, json_option, workspace_option


@click.command("archive", cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--run", "runs", metavar="ID", multiple=True, help="A run; may be repeated.")
@click.option(
    "--file", "files", metavar="NAME", multiple=True, help="A file's name or a pattern; may be repeated."
)
@click.option("--evaluation", "evaluations", metavar="ID", multiple=True, help="May be repeated.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@dry_run_option
@json_option
@workspace_option
def command(
    path: Path,
    runs: tuple[str, ...],
    files: tuple[str, ...],
    evaluations: tuple[str, ...],
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    workspace: Path,
) -> None:
    """Write runs, files and evaluations with all that belongs to them into one file; without options everything.

    PATH ends with .tar.gz, .tar.zst or .zip. 'nirs-store restore' brings it into another workspace.
    """
    from nirs_store.cli._output import human_bytes, print_json
    from nirs_store.cli._progress import progress
    from nirs_store.cli._workspace import find, open_store
    from nirs_store.upkeep.archive import Archive, ArchivePlan

    with open_store(workspace) as store, progress("Archiving") as show:
        ids = [find(store, text, ["run"]).identifier for text in runs] or None
        made: Archive | ArchivePlan
        if dry_run:
            made = store.archive(
                path,
                runs=ids,
                files=files or None,
                evaluations=evaluations or None,
                overwrite=overwrite,
                dry_run=True,
            )
        else:
            made = store.archive(
                path,
                runs=ids,
                files=files or None,
                evaluations=evaluations or None,
                overwrite=overwrite,
                progress=show,
            )
    if as_json:
        print_json({**made.to_dict(), "dry_run": dry_run})
        return
    for table, count in made.rows.items():
        click.echo(f"  {count:>8} {table}")
    click.echo(f"  {made.blobs:>8} blobs ({human_bytes(made.blob_bytes)})")
    if isinstance(made, Archive):
        click.echo(f"Wrote {made.path} ({human_bytes(made.size)}).")
    else:
        click.echo("Nothing was written (dry run).")
