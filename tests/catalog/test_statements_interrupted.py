"""Ctrl-C ends a statement wherever DuckDB is in it, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest

from nirs_store.db.sql import interruptible

pytestmark = pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process there")

ENDLESS = "SELECT count(*) FROM range(100000000000) t(i) WHERE hash(i) % 7 = 3"


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    # A statement that is not ended fails here; it takes neither all memory nor the disk.
    with duckdb.connect(config={"memory_limit": "1GB", "temp_directory": ""}) as made:
        yield made


def run(sql: str) -> Callable[[duckdb.DuckDBPyConnection], list[Any]]:
    return lambda con: con.execute(sql).fetchall()


def press() -> None:
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        "SELECT max(u) FROM (SELECT unnest(range(i, i + 100)) AS u FROM range(10000000000) t(i))",
        "CREATE TEMP TABLE found AS SELECT i FROM range(100000000000) t(i) ORDER BY hash(i)",
        "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i > 0) SELECT count(*) FROM r",
        "SELECT count(*) FROM range(3000000) a(i), range(3000000) b(j) WHERE hash(i + j) = 1",
    ],
    ids=["one task", "lists", "sort", "recursion", "join"],
)
def test_any_statement_is_ended_and_the_next_is_answered(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    press()
    with pytest.raises(KeyboardInterrupt):
        interruptible(con, run(sql))
    # A late interruption would end one of these.
    assert [interruptible(con, run("SELECT 1")) for _ in range(200)] == [[(1,)]] * 200


def test_a_statement_inside_another_ends_both(con: duckdb.DuckDBPyConnection) -> None:
    with duckdb.connect() as other:
        press()
        with pytest.raises(KeyboardInterrupt):
            interruptible(con, lambda con: interruptible(other, run(ENDLESS)) + run("SELECT 1")(con))
        assert interruptible(other, run("SELECT 1")) == interruptible(con, run("SELECT 1")) == [(1,)]


def test_an_interruption_that_is_swallowed_is_not_lost(con: duckdb.DuckDBPyConnection) -> None:
    def swallowing(con: duckdb.DuckDBPyConnection) -> str:
        with contextlib.suppress(BaseException):
            con.execute(ENDLESS)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(0.01)
        return "as if nothing had been"

    press()
    with pytest.raises(KeyboardInterrupt):
        interruptible(con, swallowing)
    assert interruptible(con, run("SELECT 1")) == [(1,)]


def test_an_error_in_place_of_the_interruption_is_not_believed(con: duckdb.DuckDBPyConnection) -> None:
    def work(con: duckdb.DuckDBPyConnection) -> None:
        try:
            con.execute(ENDLESS)
        except (duckdb.Error, RuntimeError) as error:
            raise ValueError("damaged") from error

    press()
    with pytest.raises(KeyboardInterrupt):
        interruptible(con, work)


def test_a_handler_of_the_program_decides_itself(con: duckdb.DuckDBPyConnection) -> None:
    came: list[int] = []
    answers = []

    def work(con: duckdb.DuckDBPyConnection) -> None:
        while not came:
            answers.append(
                con.execute("SELECT count(*) FROM range(30000000) t(i) WHERE hash(i) >= 0").fetchone()
            )

    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        press()
        interruptible(con, work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert set(answers) == {(30_000_000,)}


@pytest.mark.parametrize("inner", [False, True])
def test_an_event_loop_hears_of_its_signals_during_a_statement_and_afterwards(
    con: duckdb.DuckDBPyConnection, inner: bool
) -> None:
    read, write = socket.socketpair()
    with read, write:
        for end in (read, write):
            end.setblocking(False)
        handler = signal.signal(signal.SIGUSR1, lambda *_: None)
        before = signal.set_wakeup_fd(write.fileno())
        try:
            kill = run("SELECT 1") if inner else (lambda con: None)
            interruptible(con, lambda con: (interruptible(con, kill), signal.raise_signal(signal.SIGUSR1)))
            interruptible(con, run("SELECT 1"))
            during = read.recv(10)
            signal.raise_signal(signal.SIGUSR1)
            assert (during, read.recv(10)) == (bytes([signal.SIGUSR1]),) * 2
        finally:
            assert signal.set_wakeup_fd(before) == write.fileno()
            signal.signal(signal.SIGUSR1, handler)


def test_a_forked_child_has_no_part_in_it_and_starts_its_own(con: duckdb.DuckDBPyConnection) -> None:
    interruptible(con, run("SELECT 1"))
    con.close()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with duckdb.connect(config={"threads": 1}) as own:
                press()
                interruptible(own, run(ENDLESS))
        except KeyboardInterrupt:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert "nirs_store signals" not in [thread.name for thread in threading.enumerate()]
    with duckdb.connect() as again:
        press()
        with pytest.raises(KeyboardInterrupt):
            interruptible(again, run(ENDLESS))
