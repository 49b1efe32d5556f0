"""Asking before something is destroyed."""

from __future__ import annotations

import sys

import click

from nirs_store.errors import InvalidInput

__all__ = ["confirm"]


def confirm(question: str, yes: bool) -> bool:
    """Ask on a terminal; elsewhere only ``--yes`` is a yes.

    Raises
    ------
    InvalidInput
        Nobody can be asked and ``--yes`` was not given; nothing was done.
    """
    if yes:
        return True
    if not asks():
        raise InvalidInput(
            "Nobody can be asked here: add --yes to go on, or --dry-run to look. Nothing was changed."
        )
    return click.confirm(question)


def asks() -> bool:
    """Say whether somebody can answer."""
    return sys.stdin is not None and sys.stdin.isatty()
