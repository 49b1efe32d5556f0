"""Show how far a screening is, and the best candidate so far."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from nirs_store.display import cell_text, printable
from nirs_store.scores import higher_is_better, score_label


class Progress:
    """A bar on a terminal, calls of a function, or nothing."""

    def __init__(
        self, total: int, metric: str, tell: Callable[[int, int, Mapping[str, Any] | None], None] | None
    ) -> None:
        self._total, self._metric, self._tell = total, metric, tell
        self._done, self._best = 0, None  # type: tuple[int, Mapping[str, Any] | None]
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._tell is None and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int, best: Mapping[str, Any] | None = None) -> None:
        """Count candidates that are recorded, the best of which is `best`."""
        self._done += count
        if best and (
            self._best is None or (best["value"] > self._best["value"]) == higher_is_better(self._metric)
        ):
            self._best = best
        if self._tell is not None and count:
            self._tell(self._done, self._total, self._best)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._words())

    def _words(self) -> str:
        if self._best is None:
            return ""
        about = self._best
        label = score_label(self._metric)
        number = "" if about["components"] is None else f", {about['components']} components"
        words = (
            f"best: {about['preprocessing']}, {about['model']}{number}, {label} {cell_text(about['value'])}"
        )
        return printable(words)
