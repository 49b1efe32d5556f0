"""``nirs-store bundle import``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option
from nirs_store.cli.commands.bundle._trust import as_options, trust_options


@click.command("import", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--name", metavar="TEXT", help="Name of the run [default: after model and target].")
@trust_options
@json_option
@workspace_option
def command(
    bundle: Path,
    name: str | None,
    allow_pickle: bool,
    trusted_types: tuple[str, ...],
    as_json: bool,
    workspace: Path,
) -> None:
    """Bring a bundle into the workspace, as a run with its chain.

    It is checked first; when a check fails, nothing in the workspace has changed. The same content
    is imported once.
    """
    from nirs_store.cli._output import print_fields, print_json
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store, as_options():
        found = store.import_bundle(bundle, allow_pickle=allow_pickle, trusted_types=trusted_types, name=name)
    if as_json:
        print_json(asdict(found))
        return
    click.echo("Imported." if found.added else "This content was imported before; nothing was added.")
    print_fields({"run": found.run_id, "pipeline": found.pipeline_id, "chain": found.chain_id})
