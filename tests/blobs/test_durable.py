"""The durable write: all or nothing, on disk before it returns, and honest about failure."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading

import pytest

from nirs_store.blobs import durable
from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, remove_files, write_file
from nirs_store.errors import InvalidInput, ReadOnlyStore, WriteFailed
from nirs_store.store import WorkspaceStore

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="folders are not synced on Windows")


def refuse(code):
    def call(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return call


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def calls(monkeypatch):
    """Names of the system calls made, in order; a sync is told apart by what it syncs."""
    seen: list[str] = []

    def record(name, label=None):
        real = getattr(os, name)

        def call(*args, **kwargs):
            seen.append(label(*args) if label else name)
            return real(*args, **kwargs)

        monkeypatch.setattr(durable.os, name, call)

    record("write")
    record("replace")
    record("fsync", _what_is_synced)
    return seen


def _what_is_synced(fd):
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        return "sync folder"
    return "sync file" if mode & 0o222 else "sync protected file"


@pytest.mark.parametrize("data", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_what_was_written_is_there(tmp_path, data):
    write_file(tmp_path / "file", data)

    assert (tmp_path / "file").read_bytes() == bytes(data)
    assert names_in(tmp_path) == ["file"]


def test_pieces_are_joined_whatever_their_item_size(tmp_path):
    wide = memoryview(b"12345678").cast("d")

    write_file(tmp_path / "file", iter([b"ab", wide, b"", memoryview(b"xyz")]))

    assert (tmp_path / "file").read_bytes() == b"ab12345678xyz"


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(durable.os, "write", lambda fd, view: real(fd, view[:3]))

    write_file(tmp_path / "file", b"0123456789")

    assert (tmp_path / "file").read_bytes() == b"0123456789"


@posix_only
def test_the_order_is_write_sync_rename_sync_folder_and_the_file_is_protected_before_its_sync(
    tmp_path, calls
):
    write_file(tmp_path / "file", b"abc", readonly=True)

    assert calls == ["write", "sync protected file", "replace", "sync folder"]


def test_a_read_only_file_cannot_be_written_by_anybody(tmp_path):
    write_file(tmp_path / "file", b"abc", readonly=True)

    assert not (tmp_path / "file").stat().st_mode & 0o222


def test_an_old_file_is_replaced_even_if_read_only(tmp_path):
    write_file(tmp_path / "file", b"old", readonly=True)
    write_file(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"new"


def test_the_unfinished_file_lies_in_the_folder_for_temporaries(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    seen: list[str] = []
    real = os.replace
    monkeypatch.setattr(
        durable.os, "replace", lambda source, target: (seen.append(str(source.parent)), real(source, target))
    )

    write_file(tmp_path / "file", b"abc", tmp_dir=tmp_path / "tmp")

    assert seen == [str(tmp_path / "tmp")]
    assert names_in(tmp_path / "tmp") == []


def test_replace_false_leaves_an_existing_file_as_it_is(tmp_path):
    write_file(tmp_path / "file", b"old", replace=False)

    with pytest.raises(InvalidInput, match="exists already"):
        write_file(tmp_path / "file", b"new", replace=False)

    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


@posix_only
def test_replace_false_works_where_there_are_no_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.os, "link", refuse(errno.EPERM))

    write_file(tmp_path / "file", b"old", replace=False)
    with pytest.raises(InvalidInput, match="exists already"):
        write_file(tmp_path / "file", b"new", replace=False)

    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_of_many_writers_of_a_new_name_exactly_one_wins(tmp_path):
    outcomes: list[str] = []

    def attempt(number):
        try:
            write_file(tmp_path / "file", str(number).encode(), replace=False)
            outcomes.append(str(number))
        except InvalidInput:
            pass

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [(tmp_path / "file").read_text()] == outcomes


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_refused_call_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, code):
    write_file(tmp_path / "file", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, call, refuse(code))
        with pytest.raises(WriteFailed) as caught:
            write_file(tmp_path / "file", b"new")

    assert str(tmp_path / "file") in str(caught.value)
    assert errno.errorcode[code] in str(caught.value)
    assert "call again; nothing was lost" in str(caught.value)
    assert caught.value.errno == code
    assert isinstance(caught.value.__cause__, OSError)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]

    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_cannot_be_written_is_called_read_only(tmp_path, monkeypatch, code):
    monkeypatch.setattr(durable.os, "open", refuse(code))

    with pytest.raises(ReadOnlyStore, match="right to write there"):
        write_file(tmp_path / "file", b"new")


def test_an_error_of_the_caller_s_own_pieces_passes_through_and_leaves_nothing(tmp_path):
    def pieces():
        yield b"begun"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "file", pieces())

    assert names_in(tmp_path) == []


def test_a_missing_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(WriteFailed, match="Make the folder"):
        write_file(tmp_path / "nowhere" / "file", b"abc")


@posix_only
def test_a_folder_that_cannot_be_synced_is_an_error_unless_its_file_system_has_no_such_thing(
    tmp_path, monkeypatch
):
    real = os.fsync

    def failing(code):
        def call(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(code, os.strerror(code))
            real(fd)

        return call

    monkeypatch.setattr(durable.os, "fsync", failing(errno.EINVAL))
    write_file(tmp_path / "file", b"abc")
    monkeypatch.setattr(durable.os, "fsync", failing(errno.EIO))
    with pytest.raises(WriteFailed, match="EIO"):
        write_file(tmp_path / "file", b"abc")


def test_syncing_a_folder_needs_nothing_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "_WINDOWS", True)

    fsync_dir(tmp_path / "not even there")


def test_a_file_that_a_windows_reader_has_open_is_replaced_when_it_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "_WINDOWS", True)
    monkeypatch.setattr(durable.time, "sleep", lambda seconds: None)
    real, refusals = os.replace, [1, 2, 3]

    def replace(source, target):
        if refusals:
            refusals.pop()
            raise PermissionError(errno.EACCES, "in use")
        real(source, target)

    monkeypatch.setattr(durable.os, "replace", replace)
    write_file(tmp_path / "file", b"abc")

    assert (tmp_path / "file").read_bytes() == b"abc"


@posix_only
def test_each_parent_that_got_a_new_folder_is_synced(tmp_path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(durable, "fsync_dir", lambda path: synced.append(path.name))

    ensure_dir(tmp_path / "a" / "b" / "c")
    ensure_dir(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [tmp_path.name, "a", "b"]

    ensure_dir(tmp_path / "a" / "b" / "c", certain=True)
    assert synced[3:] == ["b"]


@posix_only
def test_the_name_of_a_folder_that_becomes_a_workspace_is_synced(tmp_path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(durable, "fsync_dir", lambda path: synced.append(path.name))
    (tmp_path / "mine").mkdir()

    WorkspaceStore(tmp_path / "mine").close()
    assert tmp_path.name in synced

    synced.clear()
    WorkspaceStore(tmp_path / "mine").close()
    assert tmp_path.name not in synced


@posix_only
def test_a_folder_whose_parent_nobody_may_read_becomes_a_workspace(tmp_path, monkeypatch):
    def refused(path):
        if path == tmp_path:
            raise PermissionError(13, "no", str(path))
        return fsync_dir(path)

    monkeypatch.setattr(durable, "fsync_dir", refused)
    (tmp_path / "mine").mkdir()
    WorkspaceStore(tmp_path / "mine").close()


def test_a_file_where_a_folder_should_be_is_an_error_that_says_so(tmp_path):
    (tmp_path / "a").write_bytes(b"")

    with pytest.raises(WriteFailed, match="Move the"):
        ensure_dir(tmp_path / "a" / "b")
    with pytest.raises(WriteFailed, match="Move the"):
        ensure_dir(tmp_path / "a")


def test_many_threads_may_make_the_same_folder(tmp_path):
    errors: list[BaseException] = []

    def make():
        try:
            ensure_dir(tmp_path / "a" / "b" / "c")
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []


def test_a_read_only_file_can_be_removed_and_a_missing_one_if_allowed(tmp_path):
    write_file(tmp_path / "file", b"abc", readonly=True)

    remove_file(tmp_path / "file")
    remove_file(tmp_path / "file", missing_ok=True)
    with pytest.raises(FileNotFoundError):
        remove_file(tmp_path / "file")

    assert names_in(tmp_path) == []


def test_a_removal_that_windows_refuses_is_tried_again_without_protection(tmp_path, monkeypatch):
    write_file(tmp_path / "file", b"abc", readonly=True)
    monkeypatch.setattr(durable, "_WINDOWS", True)
    real = os.unlink

    def unlink(path):
        if not path.stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, "read-only")
        real(path)

    monkeypatch.setattr(durable.os, "unlink", unlink)
    remove_file(tmp_path / "file")

    assert names_in(tmp_path) == []


def test_a_removal_that_is_refused_is_a_typed_error(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.os, "unlink", refuse(errno.EROFS))

    with pytest.raises(ReadOnlyStore):
        remove_file(tmp_path / "file", missing_ok=True)


@posix_only
@pytest.mark.parametrize("count", [3, 3 * durable._MANY])
def test_many_files_are_removed_and_those_that_are_gone_do_not_count(tmp_path, count):
    paths = [tmp_path / f"{number}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * number)
        path.chmod(stat.S_IREAD)
    gone = tmp_path / "gone"
    assert remove_files([*paths, gone]) == (count, sum(range(count)))
    assert names_in(tmp_path) == []
    assert remove_files([]) == (0, 0)


@pytest.mark.parametrize("count", [3, 3 * durable._MANY])
def test_one_file_of_many_that_cannot_be_removed_is_an_error(tmp_path, monkeypatch, count):
    paths = [tmp_path / f"{number}" for number in range(count)]
    for path in paths:
        path.write_bytes(b"x")
    real = os.unlink

    def unlink(path, **named):
        if os.fspath(path).endswith(f"{os.sep}1"):
            raise OSError(errno.EIO, "input/output error")
        real(path, **named)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(WriteFailed, match="Check the disk"):
        remove_files(paths)
    assert (tmp_path / "1").exists()


def test_a_move_syncs_both_folders(tmp_path, calls):
    (tmp_path / "to").mkdir()
    write_file(tmp_path / "file", b"abc")
    calls.clear()

    move_file(tmp_path / "file", tmp_path / "to" / "other")

    assert (tmp_path / "to" / "other").read_bytes() == b"abc"
    assert calls == ["replace", "sync folder", "sync folder"]


def test_a_move_says_whether_the_source_was_gone_or_the_system_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        move_file(tmp_path / "file", tmp_path / "other")
    monkeypatch.setattr(durable.os, "replace", refuse(errno.ENOSPC))
    with pytest.raises(WriteFailed):
        move_file(tmp_path / "file", tmp_path / "other")
