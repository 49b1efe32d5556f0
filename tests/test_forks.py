"""Locks of modules: free in a forked child, whoever held them."""

from __future__ import annotations

import os
import threading

import pytest

from nirs_store.blobs import serializers
from nirs_store.db import connection as spare
from nirs_store.db import layout as filesystem

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.mark.parametrize("lock", [serializers._lock, filesystem._mutex, spare._lock], ids=["s", "f", "p"])
def test_a_fork_waits_for_whoever_holds_it_and_both_sides_go_on(lock: threading.Lock) -> None:
    held, order = threading.Event(), []

    def hold() -> None:
        with lock:
            held.set()
            threading.Event().wait(0.1)
            order.append("let go")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if order == ["let go"] and lock.acquire(timeout=0) else 1)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert lock.acquire(timeout=5)
    lock.release()
