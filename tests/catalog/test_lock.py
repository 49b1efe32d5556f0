"""The lease: shared or alone, waited for, announced, and named when it cannot be had."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import children
import pytest

from nirs_store.db import lock as lease_module
from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock, open_lock_file, try_lock, unlock
from nirs_store.errors import StoreBusy, WriteFailed


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.journal.mkdir()
    return layout


def catalog_lock(layout: Layout, *, writable: bool = True) -> CatalogLock:
    return CatalogLock(layout, writable=writable)


def test_readers_share_and_a_writer_is_alone(layout: Layout) -> None:
    a, b, c = (catalog_lock(layout) for _ in range(3))
    a.acquire(exclusive=False, timeout=0)
    b.acquire(exclusive=False, timeout=0)
    assert (a.mode, b.mode) == ("shared", "shared")
    with pytest.raises(StoreBusy):
        c.acquire(exclusive=True, timeout=0.02)
    a.release()
    b.release()
    c.acquire(exclusive=True, timeout=0)
    assert c.mode == "exclusive"
    with pytest.raises(StoreBusy):
        a.acquire(exclusive=False, timeout=0.02)
    c.release()
    assert not c.held


def test_who_holds_it_is_said_with_host_pid_and_since(layout: Layout) -> None:
    holder, waiter = catalog_lock(layout), catalog_lock(layout)
    before = datetime.now(UTC)
    holder.acquire(exclusive=True, timeout=0)
    with pytest.raises(StoreBusy, match=str(os.getpid())) as caught:
        waiter.acquire(exclusive=True, timeout=0.05)
    assert (caught.value.host, caught.value.pid) == (socket.gethostname(), os.getpid())
    assert caught.value.since is not None
    assert before <= caught.value.since <= datetime.now(UTC)
    assert "lock_timeout" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1, "pid": "x", "since": 5}'])
def test_a_holder_that_left_no_readable_name_does_not_hide_the_error(layout: Layout, text: str) -> None:
    holder = catalog_lock(layout)
    holder.acquire(exclusive=True, timeout=0)
    layout.holder.write_text(text)
    with pytest.raises(StoreBusy, match="left no name") as caught:
        catalog_lock(layout).acquire(exclusive=True, timeout=0)
    assert caught.value.pid is None


def test_the_name_goes_with_the_lock(layout: Layout) -> None:
    holder = catalog_lock(layout)
    holder.acquire(exclusive=True, timeout=0)
    assert json.loads(layout.holder.read_text())["pid"] == os.getpid()
    holder.release()
    assert not layout.holder.exists()


def test_a_waiter_is_seen_waiting_and_gets_it_when_it_is_free(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_FRESH", 5.0)  # a busy machine may take its time
    holder, waiter = catalog_lock(layout), catalog_lock(layout)
    holder.acquire(exclusive=True, timeout=0)
    thread = threading.Thread(target=lambda: waiter.acquire(exclusive=True, timeout=10))
    thread.start()
    deadline = time.monotonic() + 5
    while not holder.wanted() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert holder.wanted()
    # Who does not need it now leaves it to the waiter.
    assert not catalog_lock(layout).try_acquire()
    holder.release()
    thread.join(5)
    assert waiter.mode == "exclusive"
    waiter.release()


def test_an_announcement_expires_by_itself(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.wait.touch()
    some = catalog_lock(layout)
    with monkeypatch.context() as patch:
        patch.setattr(lease_module, "_FRESH", 5.0)
        assert some.wanted()
    time.sleep(0.03)
    assert not some.wanted()
    assert some.try_acquire()
    some.release()


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_an_announcement_with_a_wrong_clock_holds_nobody_up(layout: Layout, skew: int) -> None:
    layout.wait.touch()
    os.utime(layout.wait, (time.time() + skew,) * 2)
    assert not catalog_lock(layout).wanted()


def test_a_killed_holder_frees_it_at_once(layout: Layout, crew: Callable[..., Any]) -> None:
    child = crew(children.hold_lock, layout.root, True)
    child.hear()
    with pytest.raises(StoreBusy) as caught:
        catalog_lock(layout).acquire(exclusive=True, timeout=0.05)
    assert caught.value.pid == child.pid
    child.signal(signal.SIGKILL)
    child.end()
    mine = catalog_lock(layout)
    mine.acquire(exclusive=True, timeout=0)
    mine.release()


def test_a_stopped_waiter_pins_nothing(layout: Layout, crew: Callable[..., Any]) -> None:
    mine = catalog_lock(layout)
    mine.acquire(exclusive=True, timeout=0)
    child = crew(children.hold_lock, layout.root, True)
    deadline = time.monotonic() + 20
    while not mine.wanted() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.signal(signal.SIGSTOP)
    time.sleep(0.05)
    mine.release()
    assert catalog_lock(layout).try_acquire()


def test_who_may_only_read_touches_nothing(layout: Layout) -> None:
    layout.lock.touch()
    before = sorted(os.listdir(layout.journal))
    reader = catalog_lock(layout, writable=False)
    reader.acquire(exclusive=False, timeout=0)
    assert sorted(os.listdir(layout.journal)) == before
    with pytest.raises(StoreBusy):
        catalog_lock(layout).acquire(exclusive=True, timeout=0)
    reader.release()


def test_a_copy_without_the_machinery_can_be_read_without_a_lock(layout: Layout) -> None:
    reader = catalog_lock(layout, writable=False)
    reader.acquire(exclusive=False, timeout=0)
    assert reader.held
    reader.release()
    assert os.listdir(layout.journal) == []


def test_a_lock_file_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="lock"):
        catalog_lock(Layout(tmp_path / "gone")).acquire(exclusive=True, timeout=0)


# -- Locks that the operating system frees when their process ends.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_readers_of_a_file_share_it_and_a_writer_is_alone(path: Path) -> None:
    first, second, third = (open_lock_file(path) for _ in range(3))
    assert try_lock(first, exclusive=False)
    assert try_lock(second, exclusive=False)
    assert not try_lock(third, exclusive=True)
    unlock(first)
    unlock(second)
    assert try_lock(third, exclusive=True)
    assert not try_lock(first, exclusive=False)
    for fd in (first, second, third):
        os.close(fd)


def test_closing_the_file_frees_the_lock(path: Path) -> None:
    held, other = open_lock_file(path), open_lock_file(path)
    assert try_lock(held, exclusive=True)
    os.close(held)
    assert try_lock(other, exclusive=True)
    os.close(other)


def test_the_file_is_never_truncated_and_can_be_locked_by_who_may_only_read(path: Path) -> None:
    path.write_text("who")
    writer = open_lock_file(path)
    reader = open_lock_file(path, create=False, writable=False)
    assert try_lock(reader, exclusive=False)
    assert not try_lock(writer, exclusive=True)
    assert path.read_text() == "who"
    os.close(reader)
    os.close(writer)


def test_a_missing_file_is_not_made_when_that_is_not_wanted(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_lock_file(path, create=False)
    assert not path.exists()


def test_a_program_that_is_started_does_not_inherit_the_lock(path: Path) -> None:
    fd = open_lock_file(path)
    assert not os.get_inheritable(fd)
    os.close(fd)
