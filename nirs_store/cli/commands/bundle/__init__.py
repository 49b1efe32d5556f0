"""``nirs-store bundle``: a command a file."""

from __future__ import annotations

import click

from nirs_store.cli._group import LazyGroup

__all__ = ["command"]

_HOME = "nirs_store.cli.commands.bundle"

_COMMANDS = {
    "export": (f"{_HOME}.export", "Write a chain as a bundle."),
    "import": (f"{_HOME}.importing", "Bring a bundle into the workspace."),
    "inspect": (f"{_HOME}.inspect", "Show what is in a bundle, without loading it."),
    "verify": (f"{_HOME}.verify", "Check a bundle, and that it predicts what it says."),
}


@click.group(
    "bundle",
    cls=LazyGroup,
    commands_table=_COMMANDS,
    epilog="What is safe and what each refusal means: the page 'Sharing bundles' of the documentation.",
)
def command() -> None:
    """Export, import, inspect and verify models in one file."""
