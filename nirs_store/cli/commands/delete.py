"""``nirs-store delete``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import dry_run_option, workspace_option, yes_option

if TYPE_CHECKING:
    from nirs_store.catalog.deletion import RunDeletion


@click.command("delete", cls=Command)
@click.argument("identifier", metavar="ID")
@click.option("--keep-artifacts", is_flag=True, help="Leave the files of models for a later gc.")
@click.option("--force", is_flag=True, help="Also models that a meta-model of another run is fed by.")
@dry_run_option
@yes_option
@workspace_option
def command(
    identifier: str, keep_artifacts: bool, force: bool, dry_run: bool, yes: bool, workspace: Path
) -> None:
    """Delete a run with all it recorded, or one prediction.

    The plan is printed first. Models that other runs use stay. On a terminal you are asked;
    elsewhere --yes is needed.
    """
    from nirs_store.cli._confirm import confirm
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        found = find(store, identifier, ["run", "prediction"])
        if found.kind == "run":
            _print_plan(store.delete_run(found.identifier, dry_run=True), keep_artifacts)
        else:
            click.echo(f"Prediction {found.identifier} with its arrays")
        if dry_run or not confirm("Delete this?", yes):
            return
        if found.kind == "run":
            rows = store.delete_run(found.identifier, not keep_artifacts, force=force)
        else:
            rows = int(store.delete_prediction(found.identifier))
    click.echo(f"Deleted {rows} rows." if found.kind == "run" else "Deleted.")


def _print_plan(plan: RunDeletion, keep_artifacts: bool) -> None:
    from nirs_store.cli._output import human_bytes

    click.echo(f"Run {plan.run_id} ({plan.name})")
    for table, count in plan.rows.items():
        click.echo(f"  {count:>8} {table.replace('_', ' ')}")
    for model, source in plan.needed_by:
        click.echo(f"  meta-model {model} is fed by {source}; --force deletes it all the same")
    what = "unreferenced, left for a gc" if keep_artifacts else "files that only this run uses"
    click.echo(f"  {len(plan.artifacts):>8} models, {what} ({human_bytes(plan.artifact_bytes)})")
