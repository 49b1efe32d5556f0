"""The background writer: bounded, patient, and honest about every file."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest
from storekit import until

from nirs_store.blobs import store as writer_module
from nirs_store.blobs.store import BackgroundWriter
from nirs_store.errors import StoreClosed, WriteFailed


class Disk:
    """A disk that can be held up, or be full."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.full = False
        self.free_to_go = threading.Event()
        self.free_to_go.set()
        self.attempts = 0
        self.in_flight = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def write(self, relative, digest, data):
        with self._lock:
            self.attempts += 1
            self.in_flight += 1
            self.most_at_once = max(self.most_at_once, self.in_flight)
        try:
            assert self.free_to_go.wait(10)
            if self.full:
                error = WriteFailed(f"{relative} could not be written")
                error.errno = errno.ENOSPC
                raise error
            self.files[relative] = data
        finally:
            with self._lock:
                self.in_flight -= 1


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def writer(disk):
    made = BackgroundWriter(disk.write, max_pending_bytes=100)
    yield made
    disk.full = False
    disk.free_to_go.set()
    made.close()


def test_submitting_does_not_wait_for_the_disk_and_waiting_does(disk, writer):
    disk.free_to_go.clear()
    writer.submit("a", "ha", b"data")
    assert writer.is_pending("a")
    assert writer.pending_bytes == 4
    threading.Timer(0.05, disk.free_to_go.set).start()

    writer.wait()

    assert disk.files == {"a": b"data"}
    assert not writer.is_pending("a")
    assert writer.pending_bytes == 0


def test_only_four_files_are_written_at_once(disk, writer):
    disk.free_to_go.clear()
    for number in range(10):
        writer.submit(str(number), str(number), b"x")
    until(lambda: disk.in_flight == 4)
    time.sleep(0.02)
    disk.free_to_go.set()
    writer.wait()

    assert disk.most_at_once == 4
    assert len(disk.files) == 10


def test_waiting_for_one_hash_does_not_wait_for_others(disk, writer):
    writer.submit("a", "ha", b"1")
    writer.wait()
    disk.free_to_go.clear()
    writer.submit("b", "hb", b"2")

    writer.wait(["ha"])
    writer.wait("ha")
    writer.wait([])
    writer.wait_for_file("a")

    assert writer.is_pending("b")


def test_the_same_file_is_queued_once(disk, writer):
    disk.free_to_go.clear()
    for _ in range(3):
        writer.submit("a", "ha", b"1")
    assert writer.pending_bytes == 1
    disk.free_to_go.set()
    writer.wait()

    assert disk.attempts == 1


def test_beyond_the_bound_submitting_waits(disk, writer):
    disk.free_to_go.clear()
    writer.submit("a", "ha", b"x" * 80)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (writer.submit("b", "hb", b"x" * 30), done.set()))
    thread.start()

    assert not done.wait(0.05)
    disk.free_to_go.set()
    assert done.wait(5)
    thread.join()


def test_a_file_larger_than_the_bound_is_let_in_alone(disk, writer):
    writer.submit("a", "ha", b"x" * 80)
    writer.submit("big", "hbig", b"x" * 1000)
    writer.wait()

    assert len(disk.files["big"]) == 1000


def test_a_full_disk_loses_nothing_and_the_next_wait_tries_again(disk, writer):
    disk.full = True
    writer.submit("a", "ha", b"1")
    writer.submit("b", "hb", b"2")
    for _ in range(2):
        with pytest.raises(WriteFailed, match="1 more files wait") as caught:
            writer.wait()
        assert caught.value.errno == errno.ENOSPC
    assert writer.pending_bytes == 2

    disk.full = False
    writer.wait()

    assert disk.files == {"a": b"1", "b": b"2"}


def test_a_failed_file_does_not_fail_those_who_wait_for_others(disk, writer):
    disk.full = True
    writer.submit("a", "ha", b"1")
    with pytest.raises(WriteFailed):
        writer.wait_for_file("a")
    disk.full = False
    disk.free_to_go.clear()
    writer.submit("b", "hb", b"2")
    disk.free_to_go.set()
    writer.wait(["hb"])

    assert disk.files == {"b": b"2"}
    assert writer.retry_if_pending("a")
    assert not writer.retry_if_pending("b")
    until(lambda: "a" in disk.files)


def test_when_failed_files_fill_the_bound_submitting_tries_them_again_before_it_refuses(disk, writer):
    disk.full = True
    writer.submit("a", "ha", b"x" * 90)
    with pytest.raises(WriteFailed):
        writer.submit("b", "hb", b"x" * 90)
    assert not writer.is_pending("b")
    assert disk.attempts == 2

    disk.full = False
    writer.submit("b", "hb", b"x" * 90)
    writer.wait()

    assert set(disk.files) == {"a", "b"}


def test_closing_waits_and_is_final(disk, writer):
    writer.submit("a", "ha", b"1")
    writer.close()
    writer.close()

    assert disk.files == {"a": b"1"}
    with pytest.raises(StoreClosed):
        writer.submit("b", "hb", b"2")


def test_closing_with_a_full_disk_raises_and_can_be_tried_again(disk, writer):
    disk.full = True
    writer.submit("a", "ha", b"1")
    with pytest.raises(WriteFailed):
        writer.close()
    disk.full = False
    writer.close()

    assert disk.files == {"a": b"1"}


def test_an_error_of_any_other_kind_reaches_the_waiter_as_it_is():
    def write(relative, digest, data):
        raise LookupError("a fault of ours")

    writer = BackgroundWriter(write)
    writer.submit("a", "ha", b"1")

    with pytest.raises(LookupError, match="a fault of ours"):
        writer.wait()


def test_at_the_end_of_the_interpreter_files_are_written_without_threads(disk, writer, monkeypatch):
    class Ended:
        def __init__(self, *args, **kwargs): ...

        def submit(self, *args):
            raise RuntimeError("cannot schedule new futures after shutdown")

        def shutdown(self, wait): ...

    monkeypatch.setattr(writer_module, "ThreadPoolExecutor", Ended)
    writer.submit("a", "ha", b"1")

    assert disk.files == {"a": b"1"}
    assert not writer.is_pending("a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_empty_and_can_write(disk, writer):
    disk.free_to_go.clear()
    writer.submit("parent", "hp", b"1")
    until(lambda: disk.in_flight == 1)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = b"failed"
        try:
            writer.after_fork_in_child()
            disk.free_to_go = threading.Event()
            disk.free_to_go.set()
            empty = writer.pending_bytes == 0 and not writer.is_pending("parent")
            writer.submit("child", "hc", b"2")
            writer.wait()
            outcome = f"{empty} {sorted(disk.files)}".encode()
        finally:
            os.write(send, outcome)
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)

    assert told == "True ['child']"
    assert writer.is_pending("parent")
