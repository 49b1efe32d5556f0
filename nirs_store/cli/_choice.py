"""A choice between words that answers a misspelt one with the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import click

__all__ = ["Choice"]


class Choice(click.Choice[str]):
    """As `click.Choice`, with a suggestion.

    Parameters
    ----------
    choices
        The words.
    """

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__(choices)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return `value` when it is one of the words, else fail with the nearest."""
        if value in self.choices:
            return value
        near = difflib.get_close_matches(value, self.choices, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        self.fail(f"{value!r} is none of {', '.join(self.choices)}.{hint}", param, ctx)
