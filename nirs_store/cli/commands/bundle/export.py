"""``nirs-store bundle export``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option

_PROBE = 20


@click.command("export", cls=Command)
@click.argument("chain", metavar="CHAIN")
@click.argument("output", type=click.Path(path_type=Path), required=False)
@click.option("--safe", is_flag=True, help="Without pickles: opens for people who do not know you.")
@click.option(
    "--probe",
    type=click.Path(path_type=Path),
    help=f"CSV or Parquet of spectra; the first {_PROBE} travel along, with what the chain predicts for them.",
)
@workspace_option
def command(chain: str, output: Path | None, safe: bool, probe: Path | None, workspace: Path) -> None:
    """Write a chain as a bundle (.n4a).

    Without OUTPUT the file goes into the folder exports/ of the workspace.
    """
    from nirs_store.cli._spectra import read_spectra
    from nirs_store.cli._workspace import find, open_store

    X = None if probe is None else read_spectra(probe).X[:_PROBE]
    with open_store(workspace) as store:
        found = find(store, chain, ["chain"])
        if output is None:
            output = store.workspace_path / "exports" / f"chain_{found.identifier[-8:]}.n4a"
        path = store.export_chain(found.identifier, output, safe=safe, probe=X)
    click.echo(path)
