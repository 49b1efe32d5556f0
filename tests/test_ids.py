"""Ids, the clock and the hash."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
import uuid
from datetime import timedelta
from multiprocessing.connection import Connection

import pytest

from nirs_store.ids import is_id, new_id, sha256_hex, utcnow

GOOD = "01a1fdc7-c841-73cd-bd22-58939a5607a0"


def _send_ids(connection: Connection) -> None:
    connection.send([new_id() for _ in range(500)])


def test_an_id_is_a_uuid_of_version_7_made_now():
    before = time.time_ns() // 1_000_000
    parsed = uuid.UUID(new_id())
    after = time.time_ns() // 1_000_000

    assert parsed.version == 7
    assert before - 1 <= parsed.int >> 80 <= after + 1


def test_ids_sort_in_the_order_of_their_making():
    ids = [new_id() for _ in range(5000)]

    assert ids == sorted(set(ids))


def test_threads_never_get_the_same_id():
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(new_id() for _ in range(2000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 16000


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_forked_children_never_get_the_same_id():
    new_id()  # the state that the children inherit
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(6)]
    children = [context.Process(target=_send_ids, args=(sender,)) for _, sender in pipes]
    for child in children:
        child.start()
    ids = [one for receiver, _ in pipes for one in receiver.recv()]
    for child in children:
        child.join()

    assert len(set(ids)) == 6 * 500


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_a_forked_child_begins_in_a_millisecond_of_its_own(monkeypatch):
    from nirs_store import ids

    readings = iter([5_000_000, 5_400_000, 5_999_999, 6_000_000])
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(readings))
    monkeypatch.setattr(ids.time, "sleep", lambda seconds: None)

    ids._leave_the_millisecond_of_the_fork()

    assert list(readings) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        None,
        7,
        "e563c4c7-0183-4a80-8289-dd643cef5921",
        GOOD.upper(),
        GOOD + "\n",
        "../" + GOOD,
        GOOD[:-1],
    ],
)
def test_what_is_no_id_is_told_apart(text):
    assert not is_id(text)


def test_an_id_is_recognised():
    assert is_id(new_id())
    assert is_id(GOOD)


def test_the_clock_is_utc_and_aware():
    assert utcnow().utcoffset() == timedelta(0)
    assert any(utcnow().microsecond % 1000 for _ in range(50))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_hash_is_sha256_in_lower_case(kind):
    assert sha256_hex(kind(b"abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
