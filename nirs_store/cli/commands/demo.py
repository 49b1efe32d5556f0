"""``nirs-store demo``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command


@click.command("demo", cls=Command)
@click.argument(
    "directory", type=click.Path(path_type=Path), default=Path("nirs-store-demo"), metavar="[DIR]"
)
@click.option("--ui", "show", is_flag=True, help="Show the result in the browser.")
def command(directory: Path, show: bool) -> None:
    """Cross-validate real meat spectra and show every feature once, in less than a minute.

    DIR (default: ./nirs-store-demo) must be new, empty, or a workspace, to which the demo adds a run.
    """
    from rich.console import Console

    from nirs_store.demo import run_demo

    run_demo(directory, console=Console(highlight=False))
    if show:
        from nirs_store.ui.server import serve

        click.echo()
        serve(directory, say=lambda line: click.echo(line))
