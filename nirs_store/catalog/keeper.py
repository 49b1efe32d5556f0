"""The one background thread of a store object: commits in time, lets go in time, applies backlogs."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Keeper", "Kept"]

_LINGER_POLL = 0.005


class Kept(Protocol):
    """What the thread looks after."""

    @property
    def next_flush(self) -> float | None:
        """Monotonic time of the next background commit."""

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without need."""

    @property
    def backlog(self) -> bool:
        """Whether the journal should be applied."""

    def keep(self) -> None:
        """Do what is due."""


class Keeper:
    """Starts its thread when there is first something to keep; the thread is a daemon."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._woken = False

    def wake(self) -> None:
        """Look again at what is due."""
        with self._condition:
            if self._stopped:
                return
            self._woken = True
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="nirs_store keeper", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # The interpreter is ending and starts no threads; closing, which comes next, does it all.
                    return
                self._thread = thread
            self._condition.notify()

    def stop(self) -> None:
        """End the thread and wait for what it is doing."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=30.0)

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller is what the keeper does."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._stopped:
                    return
                if not self._woken:
                    self._condition.wait(self._pause())
                self._woken = False
                if self._stopped:
                    return
            self._kept.keep()

    def _pause(self) -> float | None:
        if self._kept.backlog:
            return _LINGER_POLL
        if self._kept.lingering:
            return _LINGER_POLL
        due = self._kept.next_flush
        return None if due is None else max(0.0, due - time.monotonic())
