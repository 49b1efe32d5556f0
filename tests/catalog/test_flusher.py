"""The background thread: starts when needed, does what is due, ends."""

from __future__ import annotations

import threading
import time

import pytest

from nirs_store.db.recorder import BackgroundFlusher


class Kept:
    def __init__(self) -> None:
        self.next_flush: float | None = None
        self.next_look: float | None = None
        self.lingering = False
        self.backlog = False
        self.calls = 0

    def keep(self) -> None:
        self.calls += 1


def until(condition: object, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.002)
    assert condition()  # type: ignore[operator]


def keepers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "nirs_store background flusher"]


def test_no_thread_runs_before_there_is_something_to_keep() -> None:
    before = len(keepers())
    kept = Kept()
    keeper = BackgroundFlusher(kept)
    assert len(keepers()) == before
    keeper.wake()
    until(lambda: kept.calls >= 1)
    assert len(keepers()) == before + 1
    keeper.stop()
    assert len(keepers()) == before
    keeper.wake()
    assert len(keepers()) == before


def test_it_comes_when_something_is_due_and_sleeps_otherwise() -> None:
    kept = Kept()
    keeper = BackgroundFlusher(kept)
    keeper.wake()
    until(lambda: kept.calls == 1)
    time.sleep(0.1)
    assert kept.calls == 1
    kept.next_flush = time.monotonic() + 0.05
    keeper.wake()
    until(lambda: kept.calls == 2)
    kept.next_flush = None
    until(lambda: kept.calls == 3)
    kept.lingering = True
    keeper.wake()
    until(lambda: kept.calls > 6)
    keeper.stop()


def test_an_interpreter_that_starts_no_more_threads_does_not_fail_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    keeper = BackgroundFlusher(Kept())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        keeper.wake()
    keeper.stop()
