"""``nirs-store bundle``, ``export`` and ``artifacts``."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import (
    FILE,
    FOR_GOOD,
    as_options,
    confirm,
    dry_run_option,
    given,
    json_option,
    trust_options,
    workspace_option,
    yes_option,
)
from nirs_store.cli._output import (
    answer,
    print_counts,
    print_fields,
    print_rows,
    print_table,
    printed_json,
)
from nirs_store.cli._spectra import read_file
from nirs_store.cli._workspace import (
    Found,
    exports_of,
    find,
    json_store_option,
    named_chain,
    open_store,
    store_option,
    whole_id,
)
from nirs_store.display import byte_text
from nirs_store.errors import UnknownFormat

if TYPE_CHECKING:
    from nirs_store.artifacts.purge import PurgePlan
    from nirs_store.store import WorkspaceStore


@click.group(
    "bundle",
    cls=Group,
    epilog="The documentation page 'Sharing bundles' explains the risks and each refusal.",
)
def bundle() -> None:
    """Export, import, inspect and verify models in one file."""


_PROBE = 20


@bundle.command("export")
@click.argument("chain", metavar="CHAIN")
@click.argument("output", type=FILE, required=False)
@click.option("--safe", is_flag=True, help="Write no pickles, so that anyone can open the bundle.")
@click.option(
    "--probe",
    type=FILE,
    help=f"CSV or Parquet file of spectra; the bundle includes the first {_PROBE} and their predictions.",
)
@store_option
def export_bundle(
    store: WorkspaceStore, chain: str, output: Path | None, safe: bool, probe: Path | None
) -> None:
    """Write a chain as a bundle (.n4a).

    Without OUTPUT, the file is written to the folder exports/ of the workspace (of a shared one, to ./exports/).
    """
    X = None if probe is None else read_file(probe).X[:_PROBE]
    label, chain_id = named_chain(store, chain)
    if output is None:
        output = exports_of(store) / f"chain_{chain_id[-8:]}.n4a"
    path = store.export_chain(label, output, safe=safe, probe=X)
    click.echo(path)


@bundle.command("import")
@click.argument("bundle", type=FILE)
@click.option("--name", metavar="TEXT", help="Name of the run [default: after model and target].")
@trust_options
@json_option
@workspace_option
def import_bundle(bundle: Path, workspace: Path, **options: Any) -> None:
    """Import a bundle into the workspace as a run with one chain.

    The bundle is checked first; a failed check changes nothing in the workspace. The same content is
    imported once.
    """
    with open_store(workspace) as store, as_options():
        found = store.import_bundle(bundle, **options)
    if printed_json(asdict(found)):
        return
    click.echo("Imported." if found.added else "This content was imported before; nothing was added.")
    print_fields({"run": found.run_id, "pipeline": found.pipeline_id, "chain": found.chain_id})


@bundle.command("inspect", short_help="Show what is in a bundle, without loading it.")
@click.argument("bundle", type=FILE)
@json_option
def inspect(bundle: Path) -> None:
    """Show the members, types and card of a bundle, and the trust it needs to open.

    Nothing in it is loaded. The author of the bundle wrote its card.
    """
    from nirs_store.bundle.reader import inspect_bundle

    found = inspect_bundle(bundle)
    if printed_json({**asdict(found), "members": [{"name": n, "size": size} for n, size in found.members]}):
        return
    pickles = found.kind == "joblib"
    print_fields(
        {
            "file": found.path,
            "kind": "joblib: holds pickles, which run code" if pickles else "safe: holds no pickles",
            "to open": found.verdict,
            "to be trusted": "\n".join(found.needs_trust),
            "pickles name" if pickles else "made of": "\n".join(found.types),
            "written by": found.writer,
            "format": found.format_version,
            "content": found.content_hash,
            "notes": "\n".join(found.notes),
        }
    )
    click.echo()
    print_table(
        ["member", "size"], [[name, byte_text(size)] for name, size in found.members], numeric=["size"]
    )
    if found.card is not None:
        click.echo(f"\n{found.card.rstrip()}")


@bundle.command("verify", short_help="Check a bundle, and that it predicts what it says.")
@click.argument("bundle", type=FILE)
@trust_options
@json_option
def verify(bundle: Path, allow_pickle: bool, trusted_types: tuple[str, ...]) -> None:
    """Check a whole bundle: archive, hashes, types, and its probe predictions.

    The predictions require loading, so a bundle with pickles fails without --allow-pickle.
    """
    from nirs_store.bundle.reader import inspect_bundle, load_bundle

    found = inspect_bundle(bundle)
    with as_options(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = load_bundle(bundle, allow_pickle=allow_pickle, trusted_types=trusted_types)
    told = [str(entry.message) for entry in caught]
    probed = opened.record is not None and opened.record.probe is not None
    facts = {"path": found.path, "content_hash": found.content_hash}
    if printed_json({**facts, "probe_agrees": probed or None, "warnings": told}):
        return
    for text in told:
        click.secho(f"Warning: {text}", fg="yellow", err=True)
    words = (
        "its probe spectra give the stored predictions" if probed else "it has no probe spectra to compare"
    )
    click.echo(f"Intact: {len(found.members)} members, hashes and types as they should be; {words}.")


_SUFFIXES = {
    "chain": (".n4a", ".n4a.py", ".parquet"),
    "pipeline": (".json", ".parquet"),
    "run": (".yaml", ".yml", ".parquet"),
}


@click.command("export", cls=Command)
@click.argument("identifier", metavar="ID")
@click.argument("output", type=FILE, required=False)
@click.option(
    "--arrays", is_flag=True, help="With .parquet: include the measured and predicted values as lists."
)
@store_option
def export(store: WorkspaceStore, identifier: str, output: Path | None, arrays: bool) -> None:
    """Write a chain, a pipeline or a run to a file in the format of OUTPUT's suffix.

    \b
    chain     .n4a (a bundle to share), .n4a.py (a Python script that predicts)
    pipeline  .json (its configuration)
    run       .yaml (the run with its pipelines and chains)
    any       .parquet (its predictions)

    Without OUTPUT, the file is written to the folder exports/ of the workspace (of a shared one, to ./exports/).
    """  # noqa: D301 (click reads the escape)
    label = ""
    found = None if "@" in identifier else find(store, identifier, list(_SUFFIXES))
    if found is None or found.kind == "chain":
        # The name goes along: it decides about the scope, and a correction is refused.
        label, chain_id = named_chain(store, identifier)
        found = Found("chain", chain_id, {})
    known = _SUFFIXES[found.kind]
    if output is None:
        output = exports_of(store) / f"{found.kind}_{found.identifier[-8:]}{known[0]}"
    path = _write(store, found, output, arrays, label or found.identifier)
    click.echo(path)


def _write(store: WorkspaceStore, found: Found, output: Path, arrays: bool, label: str) -> Path:
    name = output.name.lower()
    if name.endswith(".parquet"):
        return store.export_predictions_parquet(
            output, include_arrays=arrays, **{f"{found.kind}_id": found.identifier}
        )
    if not name.endswith(_SUFFIXES[found.kind]):
        raise UnknownFormat(
            f"A {found.kind} is written to a file that ends in one of {', '.join(_SUFFIXES[found.kind])}; "
            f"found {output.name!r}. Nothing was written."
        )
    if found.kind == "run":
        return store.export_run(found.identifier, output)
    if found.kind == "pipeline":
        return store.export_pipeline_config(found.identifier, output)
    return store.export_chain(label, output, format="n4a.py" if name.endswith(".n4a.py") else "n4a")


_dataset_option = click.option("--dataset", metavar="NAME", help="Only this data set.")
_pipeline_option = click.option("--pipeline", metavar="ID", help="Only this pipeline.")
_verbose_option = click.option("--verbose", "-v", is_flag=True, help="Name every file.")
_GRACE = 3600.0


@click.group("artifacts", cls=Group)
def artifacts() -> None:
    """List fitted objects by their place in a pipeline, and clean them up."""


@artifacts.command("list")
@_dataset_option
@_pipeline_option
@_verbose_option
@json_store_option
def list_artifacts(store: WorkspaceStore, dataset: str | None, pipeline: str | None, verbose: bool) -> None:
    """List artifacts by their place: registered ones, and those that chains name."""
    from nirs_store.artifacts.registry import ArtifactRegistry

    records = ArtifactRegistry(store, dataset or "", whole_id(store, pipeline, "pipeline") or "").records()
    if printed_json([record.to_dict() for record in records]):
        return
    print_rows(
        records,
        {
            "artifact": (lambda record: record.artifact_id) if verbose else None,
            "pipeline": None if verbose else lambda record: record.pipeline_id[-8:],
            "place": lambda record: record.chain_path,
            "fold": lambda record: record.get_fold_str(),
            "type": lambda record: record.artifact_type,
            "class": lambda record: record.class_name.rpartition(".")[2],
            "size": lambda record: byte_text(record.size_bytes),
        },
        empty="No artifacts.",
        numeric=["size"],
        flexible=["place"],
    )


@artifacts.command("list-orphaned")
@_verbose_option
@json_store_option
def list_orphaned(store: WorkspaceStore, verbose: bool) -> None:
    """List the files without references."""
    plan = store.gc_artifacts(dry_run=True)
    if printed_json(
        {"files": list(plan.files), "bytes": plan.bytes, "unknown_files": list(plan.unknown_files)}
    ):
        return
    click.echo(f"{len(plan.files)} files that nothing holds ({byte_text(plan.bytes)})")
    for artifact in plan.artifacts:
        click.echo(f"  {artifact.artifact_path}" + (f"  {artifact.artifact_type}" if verbose else ""))


@artifacts.command("cleanup")
@click.option("--force", is_flag=True, help="Also remove what a finished session saved within the last hour.")
@dry_run_option
@yes_option
@_verbose_option
@json_store_option
def cleanup(store: WorkspaceStore, force: bool, dry_run: bool, verbose: bool) -> None:
    """Remove the files without references. Files with references are kept. This cannot be undone."""
    grace = 0.0 if force else _GRACE
    files, size = store.artifacts.delete_orphaned_artifacts(grace_seconds=grace)
    if not given("json"):
        click.echo(f"{len(files)} files that nothing holds ({byte_text(size)})")
        for path in files if verbose or dry_run else ():
            click.echo(f"  {path}")
        if files:
            click.echo(FOR_GOOD)
    done = bool(files) and not dry_run and confirm("Remove them?")
    if done:
        files, size = store.artifacts.delete_orphaned_artifacts(dry_run=False, grace_seconds=grace)
    words = f"Removed {len(files)} files." if done else "Nothing was removed."
    answer({"files": files, "bytes": size, "dry_run": dry_run, "removed": done}, words)


@artifacts.command("stats")
@_dataset_option
@_verbose_option
@json_store_option
def stats(store: WorkspaceStore, dataset: str | None, verbose: bool) -> None:
    """Count artifacts, their files, and what deduplication saves."""
    from nirs_store.artifacts.registry import ArtifactRegistry

    found = ArtifactRegistry(store, dataset or "").get_stats()
    if printed_json(found):
        return
    fields = {
        "artifacts": str(found["total_artifacts"]),
        "files": f"{found['unique_files']} ({byte_text(found['total_size_bytes'])})",
        "shared": f"{found['deduplication_ratio']:.0%} of the artifacts needed no file of their own",
        "orphaned": f"{found['orphaned_count']} ({byte_text(found['orphaned_size_bytes'])})",
        "on disk": f"{found['disk_file_count']} files ({byte_text(found['disk_usage_bytes'])})",
        "folder": found["binaries_path"],
    }
    if verbose:
        fields |= {f"  {name}": str(count) for name, count in found["by_type"].items()}
    print_fields(fields)


@artifacts.command("purge")
@_dataset_option
@_pipeline_option
@click.option("--force", is_flag=True, help="Also remove artifacts that feed a meta-model elsewhere.")
@dry_run_option
@yes_option
@_verbose_option
@json_store_option
def purge(
    store: WorkspaceStore,
    dataset: str | None,
    pipeline: str | None,
    force: bool,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Remove all artifacts and chains of a data set or a pipeline; keep scores and logs.

    Artifacts with other references are kept too. This cannot be undone.
    """
    from nirs_store.artifacts.registry import ArtifactRegistry

    if bool(dataset) == bool(pipeline):
        raise click.UsageError("Name a data set with --dataset, or a pipeline with --pipeline.")
    registry = ArtifactRegistry(store, dataset or "")
    pipeline_id = whole_id(store, pipeline, "pipeline")
    ids = [pipeline_id] if pipeline_id else None
    plan = registry.plan_purge(pipeline_ids=ids, dataset=dataset)
    if not given("json"):
        _print_purge(plan, verbose)
        click.echo(FOR_GOOD)
    done = not dry_run and confirm("Remove them for good?")
    if done and pipeline_id:
        registry.delete_pipeline_artifacts(pipeline_id, delete_files=True, force=force)
    elif done:
        registry.purge_dataset_artifacts(confirm=True, force=force)
    words = f"Removed {len(plan.artifacts)} files." if done else "Nothing was removed."
    answer({**plan.to_dict(), "dry_run": dry_run, "removed": done}, words)


def _print_purge(plan: PurgePlan, verbose: bool) -> None:
    print_counts(
        {
            "pipelines lose their artifacts; scores and logs stay": len(plan.pipelines),
            f"chains, {plan.records} records": plan.chains,
            f"files that only they hold ({byte_text(plan.bytes)})": len(plan.artifacts),
            "files that something else holds too: they stay": plan.shared,
        }
    )
    for needing, needed in plan.needed_by:
        if needed in plan.held:
            click.echo(f"  chain {needed} cannot be removed: {needing}")
        else:
            click.echo(f"  meta-model {needing} is fed by {needed}; --force continues anyway")
    for artifact_id in plan.artifacts if verbose else ():
        click.echo(f"  {artifact_id}")
