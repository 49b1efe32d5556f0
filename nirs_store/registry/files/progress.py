"""A bar for files that take a while, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "showing"]

Advance = Callable[[int], None]
# About a tenth of a second: below it a bar would only flicker.
_WORTH_A_BAR = 32 << 20


@contextmanager
def showing(words: str, total: int) -> Iterator[Advance]:
    """Give a function that takes the bytes done since the last call; the bar is gone at the end."""
    if total < _WORTH_A_BAR or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(escape(words)), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda count: bar.advance(task, count)
