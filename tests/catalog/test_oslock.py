"""Locks that the operating system frees with the file, whoever held them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nirs_store.db.lock import open_lock_file, try_lock, unlock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_readers_share_and_a_writer_is_alone(path: Path) -> None:
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
