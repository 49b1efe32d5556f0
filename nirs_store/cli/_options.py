"""Options that several commands take, worded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["dry_run_option", "json_option", "workspace_option", "yes_option"]

Function = TypeVar("Function", bound=Callable[..., Any])


def workspace_option(function: Function) -> Function:
    """Add ``--workspace/-w``: the folder of the store, also from ``NIRS_STORE_WORKSPACE``."""
    return click.option(
        "--workspace",
        "-w",
        type=click.Path(path_type=Path),
        default=Path(),
        envvar="NIRS_STORE_WORKSPACE",
        show_envvar=True,
        show_default="this folder",
        metavar="DIR",
        help="Folder of the workspace.",
    )(function)


def json_option(function: Function) -> Function:
    """Add ``--json``: the same content for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def dry_run_option(function: Function) -> Function:
    """Add ``--dry-run``: print the plan and change nothing."""
    return click.option("--dry-run", is_flag=True, help="Print what would be done and do nothing.")(function)


def yes_option(function: Function) -> Function:
    """Add ``--yes/-y``: do not ask."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")(function)
