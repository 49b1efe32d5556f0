"""``nirs-store report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import store_option

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore


@click.command("report", cls=Command)
@click.argument("identifier", metavar="RUN|CHAIN|CALIBRATION")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="An .html or .pdf file [default: report.html]."
)
@store_option
def command(store: WorkspaceStore, identifier: str, output: Path | None) -> None:
    """Write a run, a chain or a calibration with its figures to one HTML file, which opens without a network.

    Name a calibration as "fat" or "fat@v2"; its report has the figures in service and the dossier.
    If --output ends in .pdf, a browser on this machine (Chromium, Chrome or Edge) prints the report.
    """
    import tempfile

    from nirs_store.errors import UnknownFormat
    from nirs_store.ui.server import needed

    path = output or Path("report.html")
    if path.suffix.lower() not in (".html", ".htm", ".pdf"):
        raise UnknownFormat(f"A report is an .html or a .pdf file; found {path.name!r}. Nothing was written.")
    with needed():
        from nirs_store.ui.export import write_pdf, write_report
    kind, whole = _named(store, identifier)
    if path.suffix.lower() != ".pdf":
        write_report(store, kind, whole, path)
    else:
        with tempfile.TemporaryDirectory(prefix="nirs_store-") as folder:
            write_pdf(write_report(store, kind, whole, Path(folder) / "report.html"), path)
    click.echo(f"Report of the {kind} {whole if kind == 'calibration' else whole[-8:]} in {path}", err=True)


def _named(store: WorkspaceStore, identifier: str) -> tuple[str, str]:
    """Return what is meant, and its whole id: a run, a calibration or a chain, in this order."""
    from nirs_store.cli._workspace import find
    from nirs_store.errors import UnknownId

    try:
        return "run", find(store, identifier, ["run"]).identifier
    except UnknownId:
        pass
    try:
        store.calibrations.get(identifier if "@" in identifier else f"{identifier}@latest")
        return "calibration", identifier
    except UnknownId:
        return "chain", find(store, identifier, ["chain"]).identifier
