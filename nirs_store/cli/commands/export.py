"""``nirs-store export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option

if TYPE_CHECKING:
    from nirs_store.cli._workspace import Found
    from nirs_store.store import WorkspaceStore

_SUFFIXES = {
    "chain": (".n4a", ".n4a.py", ".parquet"),
    "pipeline": (".json", ".parquet"),
    "run": (".yaml", ".yml", ".parquet"),
}


@click.command("export", cls=Command)
@click.argument("identifier", metavar="ID")
@click.argument("output", type=click.Path(path_type=Path), required=False)
@click.option(
    "--arrays", is_flag=True, help="With .parquet: also the measured and predicted values, as lists."
)
@workspace_option
def command(identifier: str, output: Path | None, arrays: bool, workspace: Path) -> None:
    """Write a chain, a pipeline or a run to a file; the suffix of OUTPUT says how.

    \b
    chain     .n4a (a bundle to share), .n4a.py (a Python script that predicts)
    pipeline  .json (its configuration)
    run       .yaml (the run with its pipelines and chains)
    any       .parquet (its predictions)

    Without OUTPUT the file goes into the folder exports/ of the workspace.
    """  # noqa: D301 (click reads the escape)
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        found = find(store, identifier, list(_SUFFIXES))
        known = _SUFFIXES[found.kind]
        if output is None:
            output = store.workspace_path / "exports" / f"{found.kind}_{found.identifier[-8:]}{known[0]}"
        path = _write(store, found, output, arrays)
    click.echo(path)


def _write(store: WorkspaceStore, found: Found, output: Path, arrays: bool) -> Path:
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
    return store.export_chain(
        found.identifier, output, format="n4a.py" if name.endswith(".n4a.py") else "n4a"
    )
