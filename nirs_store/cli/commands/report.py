"""``nirs-store report``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option


@click.command("report", cls=Command)
@click.argument("identifier", metavar="RUN|CHAIN")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="An .html or .pdf file [default: report.html]."
)
@workspace_option
def command(identifier: str, output: Path | None, workspace: Path) -> None:
    """Write a run or a chain with its figures into one HTML file that opens without network.

    A name that ends in .pdf prints the report with a browser of this machine (Chromium, Chrome or Edge).
    """
    import tempfile

    from nirs_store.cli._workspace import find, open_store
    from nirs_store.errors import UnknownFormat
    from nirs_store.ui.server import needed

    path = output or Path("report.html")
    if path.suffix.lower() not in (".html", ".htm", ".pdf"):
        raise UnknownFormat(f"A report is an .html or a .pdf file; found {path.name!r}. Nothing was written.")
    with needed():
        from nirs_store.ui.export import write_pdf, write_report
    with open_store(workspace) as store:
        found = find(store, identifier, ["run", "chain"])
        if path.suffix.lower() != ".pdf":
            write_report(store, found.kind, found.identifier, path)
        else:
            with tempfile.TemporaryDirectory(prefix="nirs_store-") as folder:
                write_pdf(
                    write_report(store, found.kind, found.identifier, Path(folder) / "report.html"), path
                )
    click.echo(f"Report of the {found.kind} {found.identifier[-8:]} in {path}", err=True)
