"""``nirs-store artifacts``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Group
from nirs_store.cli._options import (
    FOR_GOOD,
    confirm,
    dry_run_option,
    json_option,
    store_option,
    yes_option,
)
from nirs_store.cli._output import human_bytes, print_fields, print_json, print_rows

if TYPE_CHECKING:
    from nirs_store.artifacts.purge import PurgePlan
    from nirs_store.store import WorkspaceStore

_dataset_option = click.option("--dataset", metavar="NAME", default="", help="Only this data set.")
_verbose_option = click.option("--verbose", "-v", is_flag=True, help="Name every file.")
_GRACE = 3600.0


@click.group("artifacts", cls=Group)
def command() -> None:
    """List fitted objects by their place in a pipeline, and clean them up."""


@command.command("list")
@_dataset_option
@click.option("--pipeline", metavar="ID", default="", help="Only this pipeline.")
@_verbose_option
@json_option
@store_option
def list_artifacts(store: WorkspaceStore, dataset: str, pipeline: str, verbose: bool, as_json: bool) -> None:
    """List artifacts by their place: registered ones, and those that chains name."""
    from nirs_store.cli._workspace import find
    from nirs_store.registry import ArtifactRegistry

    pipeline_id = find(store, pipeline, ["pipeline"]).identifier if pipeline else ""
    records = ArtifactRegistry(store, dataset, pipeline_id).records()
    if as_json:
        print_json([record.to_dict() for record in records])
        return
    if not records:
        click.echo("No artifacts.")
        return
    print_rows(
        records,
        {
            "artifact" if verbose else "pipeline": lambda record: (
                record.artifact_id if verbose else record.pipeline_id[-8:]
            ),
            "place": lambda record: record.chain_path,
            "fold": lambda record: record.get_fold_str(),
            "type": lambda record: record.artifact_type,
            "class": lambda record: record.class_name.rpartition(".")[2],
            "size": lambda record: human_bytes(record.size_bytes),
        },
        numeric=["size"],
        flexible=["place"],
    )


@command.command("list-orphaned")
@_verbose_option
@json_option
@store_option
def list_orphaned(store: WorkspaceStore, verbose: bool, as_json: bool) -> None:
    """List the files without references."""
    plan = store.gc_artifacts(dry_run=True)
    if as_json:
        print_json(
            {"files": list(plan.files), "bytes": plan.bytes, "unknown_files": list(plan.unknown_files)}
        )
        return
    click.echo(f"{len(plan.files)} files that nothing holds ({human_bytes(plan.bytes)})")
    for artifact in plan.artifacts:
        click.echo(f"  {artifact.artifact_path}" + (f"  {artifact.artifact_type}" if verbose else ""))


@command.command("cleanup")
@click.option("--force", is_flag=True, help="Also remove what a finished session saved within the last hour.")
@dry_run_option
@yes_option
@_verbose_option
@json_option
@store_option
def cleanup(
    store: WorkspaceStore, force: bool, dry_run: bool, yes: bool, verbose: bool, as_json: bool
) -> None:
    """Remove the files without references. Files with references are kept. This cannot be undone."""
    grace = 0.0 if force else _GRACE
    files, size = store.artifacts.delete_orphaned_artifacts(grace_seconds=grace)
    if not as_json:
        click.echo(f"{len(files)} files that nothing holds ({human_bytes(size)})")
        for path in files if verbose or dry_run else ():
            click.echo(f"  {path}")
        if files:
            click.echo(FOR_GOOD)
    done = bool(files) and not dry_run and confirm("Remove them?", yes)
    if done:
        files, size = store.artifacts.delete_orphaned_artifacts(dry_run=False, grace_seconds=grace)
    if as_json:
        print_json({"files": files, "bytes": size, "dry_run": dry_run, "removed": done})
    else:
        click.echo(f"Removed {len(files)} files." if done else "Nothing was removed.")


@command.command("stats")
@_dataset_option
@_verbose_option
@json_option
@store_option
def stats(store: WorkspaceStore, dataset: str, verbose: bool, as_json: bool) -> None:
    """Count artifacts, their files, and what deduplication saves."""
    from nirs_store.registry import ArtifactRegistry

    found = ArtifactRegistry(store, dataset).get_stats()
    if as_json:
        print_json(found)
        return
    fields = {
        "artifacts": str(found["total_artifacts"]),
        "files": f"{found['unique_files']} ({human_bytes(found['total_size_bytes'])})",
        "shared": f"{found['deduplication_ratio']:.0%} of the artifacts needed no file of their own",
        "orphaned": f"{found['orphaned_count']} ({human_bytes(found['orphaned_size_bytes'])})",
        "on disk": f"{found['disk_file_count']} files ({human_bytes(found['disk_usage_bytes'])})",
        "folder": found["binaries_path"],
    }
    if verbose:
        fields |= {f"  {name}": str(count) for name, count in found["by_type"].items()}
    print_fields(fields)


@command.command("purge")
@_dataset_option
@click.option("--pipeline", metavar="ID", default="", help="Only this pipeline.")
@click.option("--force", is_flag=True, help="Also remove artifacts that feed a meta-model elsewhere.")
@dry_run_option
@yes_option
@_verbose_option
@json_option
@store_option
def purge(
    store: WorkspaceStore,
    dataset: str,
    pipeline: str,
    force: bool,
    dry_run: bool,
    yes: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Remove all artifacts and chains of a data set or a pipeline; keep scores and logs.

    Artifacts with other references are kept too. This cannot be undone.
    """
    from nirs_store.cli._workspace import find
    from nirs_store.registry import ArtifactRegistry

    if bool(dataset) == bool(pipeline):
        raise click.UsageError("Name a data set with --dataset, or a pipeline with --pipeline.")
    registry = ArtifactRegistry(store, dataset)
    pipeline_id = find(store, pipeline, ["pipeline"]).identifier if pipeline else ""
    ids = [pipeline_id] if pipeline_id else None
    plan = registry.plan_purge(pipeline_ids=ids, dataset=dataset or None)
    if not as_json:
        _print_plan(plan, verbose)
        click.echo(FOR_GOOD)
    done = not dry_run and confirm("Remove them for good?", yes)
    if done and pipeline_id:
        registry.delete_pipeline_artifacts(pipeline_id, delete_files=True, force=force)
    elif done:
        registry.purge_dataset_artifacts(confirm=True, force=force)
    if as_json:
        print_json({**plan.to_dict(), "dry_run": dry_run, "removed": done})
    else:
        click.echo(f"Removed {len(plan.artifacts)} files." if done else "Nothing was removed.")


def _print_plan(plan: PurgePlan, verbose: bool) -> None:

    click.echo(f"  {len(plan.pipelines):>8} pipelines lose their artifacts; scores and logs stay")
    click.echo(f"  {plan.chains:>8} chains, {plan.records} records")
    click.echo(f"  {len(plan.artifacts):>8} files that only they hold ({human_bytes(plan.bytes)})")
    click.echo(f"  {plan.shared:>8} files that something else holds too: they stay")
    for needing, needed in plan.needed_by:
        if needed in plan.held:
            click.echo(f"  chain {needed} cannot be removed: {needing}")
        else:
            click.echo(f"  meta-model {needing} is fed by {needed}; --force continues anyway")
    for artifact_id in plan.artifacts if verbose else ():
        click.echo(f"  {artifact_id}")
