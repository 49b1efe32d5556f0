"""Ctrl-C and time limits for DuckDB statements, wherever DuckDB is in one.

Python handles a signal between two of its own instructions, and DuckDB looks for signals between two of its tasks, of
which one can take minutes. Only `interrupt()`, called from another thread, ends a statement in the middle of a task.
So the system tells a thread of this process of the signal (`signal.set_wakeup_fd`), and that thread interrupts DuckDB;
the main thread then handles the signal as always. A question takes some 30 microseconds longer for it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import duckdb

T = TypeVar("T")

# An interruption that comes between two statements is lost, so it is repeated.
_PAUSE = 0.05


class TimeOver(Exception):
    """A statement was interrupted because its time was over."""


def is_interrupt(error: BaseException | None) -> bool:
    """Whether DuckDB says with this that it saw a signal: it swallows the KeyboardInterrupt."""
    return type(error) is RuntimeError and "Query interrupted" in str(error)


class _Block:
    """Statements that the main thread is running on a connection."""

    def __init__(self, con: duckdb.DuckDBPyConnection, outer: _Block | None) -> None:
        self.con = con
        self.outer = outer
        self.stopped = False
        self.over = False


class _Watch:
    """The thread that hears of signals while the main thread runs statements."""

    def __init__(self) -> None:
        # The innermost block; only the main thread sets it.
        self.block: _Block | None = None
        # A signal handler or a destructor may ask another store while this thread has it.
        self._lock = threading.RLock()
        # Where a signal arrives, and where it is read.
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        # The wakeup descriptor that was set before, such as that of an event loop.
        self._other = -1

    def arm(self, block: _Block) -> None:
        """Have the statements of a block interrupted from now on."""
        with self._lock:
            ends = self._ends or self._make_ends()
            if self._thread is None:
                self._start(ends[1])
            if self.block is None:
                other = signal.set_wakeup_fd(ends[0].fileno(), warn_on_full_buffer=False)
                # Ours is still there when a second Ctrl-C has interrupted `disarm`.
                self._other = other if other != ends[0].fileno() else self._other
            # A signal that came at the end of an earlier block interrupts no statement of this one.
            self._read(ends[1])
            self.block = block

    def heard(self) -> bool:
        """Read which signals came, and pass them on; tells whether Ctrl-C is to end the block."""
        with self._lock:
            came = self._ends is not None and self._read(self._ends[1])
        # A program's own handler may go on: DuckDB calls it, and stops if it raises.
        return came and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def disarm(self) -> None:
        """Wait for an interruption that is being made, and give the descriptor back after the outermost block."""
        with self._lock:
            pass
        if self.block is None:
            signal.set_wakeup_fd(self._other)

    def end_thread(self) -> None:
        """End the thread: Python warns of a fork beside threads. The next block starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
        while thread is not None and thread.is_alive():
            if self._ends is not None:
                with contextlib.suppress(BlockingIOError):
                    self._ends[0].send(b"\0")
            # Again, if the main thread has read that meanwhile.
            thread.join(_PAUSE)

    def forget(self) -> None:
        """Give the descriptor back in a forked child: it is the parent that reads there."""
        if self._ends is not None:
            found = signal.set_wakeup_fd(-1)
            with contextlib.suppress(OSError, ValueError):  # closed by its owner
                signal.set_wakeup_fd(found if found != self._ends[0].fileno() else self._other)

    def _make_ends(self) -> tuple[socket.socket, socket.socket]:
        # Never closed: the system would give their numbers to other files, and a late signal write into those.
        self._ends = ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        return ends

    def _start(self, end: socket.socket) -> None:
        thread = threading.Thread(target=self._run, args=[end], name="nirs_store signals", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending and starts no threads
            self._thread = None

    def _run(self, end: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(end, selectors.EVENT_READ)
            while self._thread is threading.current_thread():
                selector.select()
                # Read and acted upon under the lock: in between, the main thread could come to another block.
                with self._lock:
                    heard, block = self.heard(), self.block
                    if block is None or not heard:
                        continue
                    block.stopped = True
                while not block.over:
                    self._interrupt()
                    time.sleep(_PAUSE)

    def _read(self, end: socket.socket) -> bool:
        try:
            numbers = end.recv(4096)
        except BlockingIOError:
            return False
        if self._other != -1:
            with contextlib.suppress(OSError):  # closed meanwhile, or full: then it has enough to read
                _send(self._other, numbers)
        return signal.SIGINT in numbers

    def _interrupt(self) -> None:
        with self._lock:
            block = self.block
            while block is not None:
                with contextlib.suppress(duckdb.Error):  # closed by its owner
                    block.con.interrupt()
                block = block.outer


def _send(descriptor: int, numbers: bytes) -> None:
    if sys.platform != "win32":
        os.write(descriptor, numbers)
        return
    other = socket.socket(fileno=descriptor)
    try:
        other.send(numbers)
    finally:
        other.detach()


_watch = _Watch()


def _renew() -> None:
    global _watch
    before, _watch = _watch, _Watch()
    before.forget()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=lambda: _watch.end_thread(), after_in_child=_renew)


def interruptible(con: duckdb.DuckDBPyConnection, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
    """Run statements so that Ctrl-C ends them at once; in the main thread, which alone handles signals."""
    if threading.current_thread() is not threading.main_thread():
        return work(con)
    watch = _watch
    block = _Block(con, watch.block)
    try:
        watch.arm(block)
        found = work(con)
        if block.stopped or watch.heard():
            # DuckDB took the signal, and the caller dropped its error.
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0)
            raise KeyboardInterrupt
        return found
    except Exception as error:
        # DuckDB may have seen the signal before the other thread did, and somebody have made another error of that.
        if block.stopped or is_interrupt(error) or watch.heard():
            # The signal may still wait for the main thread: it is handled here, and does not come a second time.
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0)
            raise KeyboardInterrupt from None
        raise
    finally:
        # No calls before these: a signal is handled at the next one.
        block.over = True
        watch.block = block.outer
        watch.disarm()


def within(con: duckdb.DuckDBPyConnection, work: Callable[[], T], seconds: float | None) -> T:
    """Run one statement; interrupt it, and raise `TimeOver`, when its time is over."""
    if seconds is None:
        return work()
    done, late = threading.Event(), threading.Event()

    def wait(seconds: float) -> None:
        if not done.wait(min(seconds, threading.TIMEOUT_MAX)):
            late.set()
            while not done.is_set():
                con.interrupt()
                done.wait(_PAUSE)

    thread = threading.Thread(target=wait, args=[seconds], name="nirs_store time limit", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending and starts no threads
        return work()
    try:
        return work()
    except (
        duckdb.InterruptException,
        OSError,
    ) as error:  # OSError: from a result that is read batch by batch
        if late.is_set():
            raise TimeOver from error
        raise
    finally:
        done.set()
        # The next statement on the connection is not its business.
        thread.join()
