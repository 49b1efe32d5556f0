"""``nirs-store ui``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option


@click.command("ui", cls=Command)
@click.option("--port", type=click.IntRange(0, 65535), help="Port [default: the first free one from 8423].")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on; other machines then need a token.",
)
@click.option("--token", metavar="TEXT", help="Token that visitors need [default: generated if needed].")
@click.option(
    "--allow-changes", is_flag=True, help="Let the page change the workspace: tags, deletions, retention."
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.option(
    "--export", "folder", type=click.Path(path_type=Path), help="Write the pages to a new folder instead."
)
@workspace_option
def command(
    port: int | None,
    host: str,
    token: str | None,
    allow_changes: bool,
    no_browser: bool,
    folder: Path | None,
    workspace: Path,
) -> None:
    """Show a workspace in the browser: leaderboards, chains with figures, runs, files, SQL.

    The page needs neither internet nor an account. Only this machine can reach it unless you pass --host, and it
    changes nothing unless you pass --allow-changes. Press Ctrl-C to stop it.
    """
    from nirs_store.ui.server import needed, serve

    if folder is not None:
        from nirs_store.store import WorkspaceStore

        with needed():
            from nirs_store.ui.export import export_pages
        with WorkspaceStore.to_look_at(workspace) as store:
            export_pages(store, folder, lambda line: click.echo(line, err=True))
        return
    serve(
        workspace,
        host=host,
        port=port,
        token=token,
        may_change=allow_changes,
        browser=not no_browser,
        say=lambda line: click.echo(line),
    )
