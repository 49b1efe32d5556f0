"""``nirs-store bundle``: a command a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command, LazyGroup
from nirs_store.cli._options import as_options, json_option, store_option, trust_options, workspace_option
from nirs_store.cli._output import human_bytes, print_fields, print_json, print_table

if TYPE_CHECKING:
    from nirs_store.cli._workspace import Found
    from nirs_store.store import WorkspaceStore

__all__ = ["command"]

_HOME = "nirs_store.cli.commands.bundle"

_COMMANDS = {
    "export": (f"{_HOME}:command_export", "Write a chain as a bundle."),
    "import": (f"{_HOME}:command_importing", "Bring a bundle into the workspace."),
    "inspect": (f"{_HOME}:command_inspect", "Show what is in a bundle, without loading it."),
    "verify": (f"{_HOME}:command_verify", "Check a bundle, and that it predicts what it says."),
}


@click.group(
    "bundle",
    cls=LazyGroup,
    commands_table=_COMMANDS,
    epilog="The documentation page 'Sharing bundles' explains the risks and each refusal.",
)
def command() -> None:
    """Export, import, inspect and verify models in one file."""


# -- ``nirs-store bundle export``.


_PROBE = 20


@click.command("export", cls=Command)
@click.argument("chain", metavar="CHAIN")
@click.argument("output", type=click.Path(path_type=Path), required=False)
@click.option("--safe", is_flag=True, help="Write no pickles, so that anyone can open the bundle.")
@click.option(
    "--probe",
    type=click.Path(path_type=Path),
    help=f"CSV or Parquet file of spectra; the bundle includes the first {_PROBE} and their predictions.",
)
@store_option
def command_export(
    store: WorkspaceStore, chain: str, output: Path | None, safe: bool, probe: Path | None
) -> None:
    """Write a chain as a bundle (.n4a).

    Without OUTPUT, the file is written to the folder exports/ of the workspace.
    """
    from nirs_store.cli._spectra import read_file
    from nirs_store.cli._workspace import named_chain

    X = None if probe is None else read_file(probe).X[:_PROBE]
    label, chain_id = named_chain(store, chain)
    if output is None:
        output = store.workspace_path / "exports" / f"chain_{chain_id[-8:]}.n4a"
    path = store.export_chain(label, output, safe=safe, probe=X)
    click.echo(path)


# -- ``nirs-store bundle import``.


@click.command("import", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--name", metavar="TEXT", help="Name of the run [default: after model and target].")
@trust_options
@json_option
@workspace_option
def command_importing(
    bundle: Path,
    name: str | None,
    allow_pickle: bool,
    trusted_types: tuple[str, ...],
    as_json: bool,
    workspace: Path,
) -> None:
    """Import a bundle into the workspace as a run with one chain.

    The bundle is checked first; a failed check changes nothing in the workspace. The same content is
    imported once.
    """
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store, as_options():
        found = store.import_bundle(bundle, allow_pickle=allow_pickle, trusted_types=trusted_types, name=name)
    if as_json:
        print_json(asdict(found))
        return
    click.echo("Imported." if found.added else "This content was imported before; nothing was added.")
    print_fields({"run": found.run_id, "pipeline": found.pipeline_id, "chain": found.chain_id})


# -- ``nirs-store bundle inspect``.


@click.command("inspect", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def command_inspect(bundle: Path, as_json: bool) -> None:
    """Show the members, types and card of a bundle, and the trust it needs to open.

    Nothing in it is loaded. The author of the bundle wrote its card.
    """
    from dataclasses import asdict

    from nirs_store.bundle.reader import inspect_bundle

    found = inspect_bundle(bundle)
    if as_json:
        print_json({**asdict(found), "members": [{"name": n, "size": size} for n, size in found.members]})
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
        ["member", "size"], [[name, human_bytes(size)] for name, size in found.members], numeric=["size"]
    )
    if found.card is not None:
        click.echo(f"\n{found.card.rstrip()}")


# -- ``nirs-store bundle verify``.


@click.command("verify", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@trust_options
@json_option
def command_verify(bundle: Path, allow_pickle: bool, trusted_types: tuple[str, ...], as_json: bool) -> None:
    """Check a whole bundle: archive, hashes, types, and its probe predictions.

    The predictions require loading, so a bundle with pickles fails without --allow-pickle.
    """
    import warnings

    from nirs_store.bundle.reader import inspect_bundle, load_bundle

    found = inspect_bundle(bundle)
    with as_options(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = load_bundle(bundle, allow_pickle=allow_pickle, trusted_types=trusted_types)
    told = [str(entry.message) for entry in caught]
    probed = opened.record is not None and opened.record.probe is not None
    if as_json:
        print_json(
            {
                "path": found.path,
                "content_hash": found.content_hash,
                "probe_agrees": probed or None,
                "warnings": told,
            }
        )
        return
    for text in told:
        click.secho(f"Warning: {text}", fg="yellow", err=True)
    words = (
        "its probe spectra give the stored predictions" if probed else "it has no probe spectra to compare"
    )
    click.echo(f"Intact: {len(found.members)} members, hashes and types as they should be; {words}.")


# -- ``nirs-store export``.


_SUFFIXES = {
    "chain": (".n4a", ".n4a.py", ".parquet"),
    "pipeline": (".json", ".parquet"),
    "run": (".yaml", ".yml", ".parquet"),
}


@click.command("export", cls=Command)
@click.argument("identifier", metavar="ID")
@click.argument("output", type=click.Path(path_type=Path), required=False)
@click.option(
    "--arrays", is_flag=True, help="With .parquet: include the measured and predicted values as lists."
)
@store_option
def command_export_(store: WorkspaceStore, identifier: str, output: Path | None, arrays: bool) -> None:
    """Write a chain, a pipeline or a run to a file in the format of OUTPUT's suffix.

    \b
    chain     .n4a (a bundle to share), .n4a.py (a Python script that predicts)
    pipeline  .json (its configuration)
    run       .yaml (the run with its pipelines and chains)
    any       .parquet (its predictions)

    Without OUTPUT, the file is written to the folder exports/ of the workspace.
    """  # noqa: D301 (click reads the escape)
    from nirs_store.cli._workspace import Found, find, named_chain

    label = ""
    if "@" in identifier:
        label, chain_id = named_chain(store, identifier)
        found = Found("chain", chain_id, {})
    else:
        found = find(store, identifier, list(_SUFFIXES))
    known = _SUFFIXES[found.kind]
    if output is None:
        output = store.workspace_path / "exports" / f"{found.kind}_{found.identifier[-8:]}{known[0]}"
    path = _write(store, found, output, arrays, label or found.identifier)
    click.echo(path)


def _write(store: WorkspaceStore, found: Found, output: Path, arrays: bool, label: str) -> Path:
    from nirs_store.errors import UnknownFormat

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
