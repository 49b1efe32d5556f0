"""The blob store: named by content, healed when damaged, safe beside a gc and from many threads."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
import threading
import time

import pytest
from storekit import until

from nirs_store.blobs import durable, local
from nirs_store.blobs import store as store_module
from nirs_store.blobs.local import LocalFolder, aside_name
from nirs_store.blobs.store import BlobStore, blob_key
from nirs_store.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobUnreadable,
    InvalidInput,
    PathEscapes,
    ReadOnlyStore,
    StoreClosed,
    WriteFailed,
)

DATA = b"a fitted model" * 100
HASH = hashlib.sha256(DATA).hexdigest()
PATH = f"artifacts/{HASH[:2]}/{HASH}.joblib"


def open_store(root):
    """As another process would open the same folder: it has verified nothing yet."""
    return BlobStore(LocalFolder(root, trash=root / "journal" / "aside", scratch=root / "journal" / "tmp"))


@pytest.fixture
def store(tmp_path):
    (tmp_path / "journal" / "aside").mkdir(parents=True)
    made = open_store(tmp_path)
    yield made
    made.close()


@pytest.fixture
def saved(store):
    store.put(DATA, "joblib")
    store.wait()
    return store


@pytest.fixture
def hashed(monkeypatch):
    """Keys of the blobs whose bytes were read to hash them."""
    seen: list[str] = []
    real = store_module.hash_blob

    def hash_blob(backend, key, **named):
        seen.append(key)
        return real(backend, key, **named)

    monkeypatch.setattr(store_module, "hash_blob", hash_blob)
    return seen


def overwrite(path, data):
    path.chmod(0o644)
    path.write_bytes(data)


def set_aside(root):
    (root / PATH).rename(root / "journal" / "aside" / aside_name(PATH))


def bring_back(root):
    (root / "journal" / "aside" / aside_name(PATH)).rename(root / PATH)


def test_a_blob_is_a_plain_read_only_file_named_by_its_hash(store, tmp_path):
    info = store.put(DATA, "joblib")
    store.wait([info.artifact_id])
    path = tmp_path / info.path

    assert (info.artifact_id, info.path, info.size, info.written) == (HASH, PATH, len(DATA), True)
    assert path.read_bytes() == DATA
    assert not stat.S_IMODE(path.stat().st_mode) & 0o222
    assert list((tmp_path / "journal" / "tmp").iterdir()) == []


def test_the_same_bytes_are_written_once(saved, tmp_path):
    before = (tmp_path / PATH).stat()

    assert saved.put(bytearray(DATA), ".joblib").written is False
    assert open_store(tmp_path).put(memoryview(DATA), "joblib").written is False
    saved.wait()

    assert (tmp_path / PATH).stat().st_mtime_ns == before.st_mtime_ns
    assert len(list((tmp_path / "artifacts").rglob("*.joblib"))) == 1


def test_the_same_bytes_in_two_formats_are_two_files_of_one_hash(saved, tmp_path):
    other = saved.put(DATA, "pkl")
    saved.wait()

    assert other.artifact_id == HASH
    assert other.written
    assert saved.read(other.path, HASH) == saved.read(PATH, HASH) == DATA


def test_a_later_change_of_the_caller_s_buffer_does_not_reach_the_blob(store):
    buffer = bytearray(DATA)
    info = store.put(buffer, "joblib")
    buffer[:] = bytes(len(buffer))
    store.wait()

    assert store.read(info.path, info.artifact_id) == DATA


def test_everything_that_looks_waits_for_a_write_under_way(store, monkeypatch):
    real, go_on, asked = local.write_file, threading.Event(), store._writer.wait_for_file

    def held(*args, **kwargs):
        assert go_on.wait(60)
        real(*args, **kwargs)

    def wait(*args, **kwargs):
        go_on.set()
        asked(*args, **kwargs)

    monkeypatch.setattr(local, "write_file", held)
    monkeypatch.setattr(store._writer, "wait_for_file", wait)
    for number, look in enumerate(
        [
            lambda path, digest: store.read(path, digest),
            lambda path, digest: store.path_of(path).read_bytes(),
            lambda path, digest: store.exists(path),
            lambda path, digest: store.verify(path, digest),
        ]
    ):
        go_on.clear()
        info = store.put(DATA + bytes([number]), "joblib")
        assert look(info.path, info.artifact_id)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: overwrite(path, DATA[:-1]),
        lambda path: overwrite(path, b""),
        lambda path: overwrite(path, b"X" + DATA[1:]),
    ],
    ids=["vanished", "truncated", "empty", "altered"],
)
@pytest.mark.parametrize("another_process", [False, True])
def test_a_damaged_blob_heals_when_the_same_content_is_saved_again(saved, tmp_path, damage, another_process):
    damage(tmp_path / PATH)
    saver = open_store(tmp_path) if another_process else saved

    info = saver.put(DATA, "joblib")
    saver.wait()

    assert info.written
    assert (tmp_path / PATH).read_bytes() == DATA
    assert saver.verify(PATH, HASH) == len(DATA)
    saver.close()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_in_place_of_a_blob_is_replaced_by_the_blob(saved, tmp_path):
    (tmp_path / "elsewhere").write_bytes(DATA)
    (tmp_path / PATH).unlink()
    (tmp_path / PATH).symlink_to(tmp_path / "elsewhere")

    assert saved.put(DATA, "joblib").written
    saved.wait()

    assert not (tmp_path / PATH).is_symlink()


def test_folders_that_vanished_are_made_again(saved, tmp_path):
    (tmp_path / PATH).unlink()
    (tmp_path / PATH).parent.rmdir()
    (tmp_path / "journal" / "tmp").rmdir()

    saved.put(DATA, "joblib")
    saved.wait()

    assert (tmp_path / PATH).read_bytes() == DATA


def test_a_blob_is_hashed_once_in_a_process_and_again_when_the_file_is_another(saved, tmp_path, hashed):
    other = open_store(tmp_path)
    for _ in range(3):
        other.put(DATA, "joblib")
    assert len(hashed) == 1

    overwrite(tmp_path / PATH, DATA)
    os.utime(tmp_path / PATH, ns=(1, 1))
    other.put(DATA, "joblib")
    assert len(hashed) == 2

    other.forget(HASH)
    other.put(DATA, "joblib")
    assert len(hashed) == 3


def test_what_this_process_wrote_or_read_is_not_hashed_again(saved, tmp_path, hashed):
    saved.put(DATA, "joblib")
    reader = open_store(tmp_path)
    reader.read(PATH, HASH)
    reader.put(DATA, "joblib")

    assert hashed == []


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not synced on Windows")
def test_a_blob_that_another_process_has_just_renamed_is_made_durable_before_it_counts(
    saved, tmp_path, monkeypatch
):
    synced: list[str] = []
    monkeypatch.setattr(local, "fsync_dir", lambda path: synced.append(path.name))

    open_store(tmp_path).put(DATA, "joblib")

    assert synced == [HASH[:2], "artifacts"]


@pytest.mark.parametrize("wrong", [b"X" + DATA[1:], DATA[:-1]])
def test_a_damaged_blob_is_never_handed_out(saved, tmp_path, wrong):
    assert saved.read(PATH, HASH) == DATA
    overwrite(tmp_path / PATH, wrong)
    os.utime(tmp_path / PATH, ns=(1, 1))

    for look in (saved.read, saved.verify, open_store(tmp_path).read):
        with pytest.raises(BlobCorrupt) as caught:
            look(PATH, HASH)
        for part in (str(tmp_path / PATH), HASH, hashlib.sha256(wrong).hexdigest()):
            assert part in str(caught.value)


def test_verify_reads_the_bytes_even_if_they_were_verified_before(saved, tmp_path):
    before = (tmp_path / PATH).stat()
    overwrite(tmp_path / PATH, b"X" + DATA[1:])
    os.utime(tmp_path / PATH, ns=(before.st_mtime_ns, before.st_mtime_ns))

    with pytest.raises(BlobCorrupt):
        saved.verify(PATH, HASH)
    # and after that, nobody believes the old verdict
    with pytest.raises(BlobCorrupt):
        saved.read(PATH, HASH)


def test_a_missing_blob_is_named(store, tmp_path):
    for look in (
        lambda: store.read(PATH, HASH),
        lambda: store.path_of(PATH),
        lambda: store.verify(PATH, HASH),
    ):
        with pytest.raises(BlobMissing) as caught:
            look()
        assert str(tmp_path / PATH) in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError)
    assert store.exists(PATH) is False


@pytest.mark.parametrize("refusal", [errno.EIO, errno.EACCES])
def test_a_file_that_the_system_refuses_to_read_is_not_called_damaged(saved, monkeypatch, refusal):
    def refuse(path, *args, **named):
        raise OSError(refusal, os.strerror(refusal), str(path))

    monkeypatch.setattr(local, "open_plain", refuse)
    with pytest.raises(BlobUnreadable, match=rf"{HASH}.*{os.strerror(refusal)}.*disk"):
        saved.read(PATH, HASH)


def test_a_folder_in_place_of_a_blob_is_a_missing_blob_and_cannot_be_healed_silently(store, tmp_path):
    (tmp_path / PATH).mkdir(parents=True)

    with pytest.raises(BlobMissing):
        store.read(PATH, HASH)
    store.put(DATA, "joblib")
    with pytest.raises(WriteFailed, match="Move the"):
        store.wait()
    (tmp_path / PATH).rmdir()


def test_a_blob_that_a_gc_has_set_aside_can_be_read_but_not_referred_to(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_ASIDE_PATIENCE", 0.02)
    set_aside(tmp_path)

    assert saved.read(PATH, HASH) == DATA
    assert saved.verify(PATH, HASH) == len(DATA)
    assert saved.path_of(PATH).read_bytes() == DATA
    assert saved.exists(PATH) is False


def test_a_blob_that_comes_back_from_a_gc_is_waited_for(saved, tmp_path):
    for look in (saved.exists, saved.path_of):
        set_aside(tmp_path)
        timer = threading.Timer(0.03, bring_back, args=(tmp_path,))
        timer.start()
        found = look(PATH)
        timer.join()
        assert found in (True, tmp_path / PATH)


def test_saving_what_a_gc_has_set_aside_writes_it_again(saved, tmp_path):
    set_aside(tmp_path)

    assert saved.put(DATA, "joblib").written
    saved.wait()

    assert (tmp_path / PATH).read_bytes() == DATA


def test_a_blob_that_comes_back_between_two_looks_is_found_at_the_third(saved, tmp_path, monkeypatch):
    for look in (lambda: saved.read(PATH, HASH) == DATA, lambda: saved.verify(PATH, HASH) == len(DATA)):
        set_aside(tmp_path)
        looked: list[str] = []
        real_open = local.open_plain

        def opened(path, *args, looked=looked, real_open=real_open, **kwargs):
            looked.append(path.parent.name)
            if len(looked) == 2:
                bring_back(tmp_path)
            return real_open(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(local, "open_plain", opened)
            assert look()
        assert looked == [HASH[:2], "aside", HASH[:2]]


def test_readers_never_fail_while_a_gc_moves_a_blob_to_and_fro(saved, tmp_path):
    stop = threading.Event()

    def collect():
        while not stop.is_set():
            set_aside(tmp_path)
            bring_back(tmp_path)
            time.sleep(0.0005)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for _ in range(300):
            assert saved.read(PATH, HASH) == DATA
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_is_told_at_wait_and_the_blob_is_written_at_the_next(store, tmp_path, monkeypatch, call):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, call, refuse)
        store.put(DATA, "joblib")
        for look in (store.wait, lambda: store.read(PATH, HASH), lambda: store.exists(PATH)):
            with pytest.raises(WriteFailed, match="ENOSPC"):
                look()
        assert store.pending_bytes == len(DATA)
        assert list(tmp_path.rglob("*.joblib")) == []

    store.wait()

    assert store.read(PATH, HASH) == DATA
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


def test_saving_the_same_content_again_tries_a_failed_write_again(store, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", refuse)
        store.put(DATA, "joblib")
        with pytest.raises(WriteFailed):
            store.wait()

    assert store.put(DATA, "joblib").written
    until(lambda: not store.pending_bytes)

    assert (tmp_path / PATH).read_bytes() == DATA


def test_a_place_that_cannot_be_written_is_called_read_only(store, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "replace", refuse)
        store.put(DATA, "joblib")
        with pytest.raises(ReadOnlyStore):
            store.wait()
    store.wait()


def test_many_threads_save_and_read_the_same_and_other_content(store, tmp_path):
    errors: list[BaseException] = []
    contents = [bytes([number]) * (number * 37 + 1) for number in range(40)]

    def work(seed):
        try:
            for step in range(40):
                info = store.put(contents[(seed * 11 + step) % 40], "joblib")
                if step % 5 == 0:
                    assert store.read(info.path, info.artifact_id) == contents[(seed * 11 + step) % 40]
            store.wait()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list((tmp_path / "artifacts").rglob("*.joblib"))

    assert errors == []
    assert len(files) == 40
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in files)
    assert list((tmp_path / "journal" / "tmp").iterdir()) == []


def test_a_path_that_leaves_the_workspace_is_refused_everywhere(store):
    for look in (
        lambda: store.put(b"", "x") and store.is_coming_or_there("../x"),
        lambda: store.read("/etc/passwd", HASH),
        lambda: store.path_of("a/../../x"),
        lambda: store.exists("C:/x"),
        lambda: store.verify("a\0", HASH),
    ):
        with pytest.raises(PathEscapes):
            look()


def test_names_are_made_of_hashes_and_plain_endings_only(store):
    assert blob_key(HASH, ".joblib") == PATH
    with pytest.raises(InvalidInput):
        blob_key("../" + HASH, "joblib")
    with pytest.raises(InvalidInput):
        store.put(DATA, "../joblib")


def test_a_file_of_the_workspace_outside_artifacts_can_be_read_too(store, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "old.joblib").write_bytes(DATA)

    assert store.read("models/old.joblib", HASH) == DATA
    assert store.path_of("models/old.joblib") == tmp_path / "models" / "old.joblib"


def test_a_closed_store_takes_no_more_blobs(saved):
    saved.close()
    saved.close()

    assert saved.read(PATH, HASH) == DATA
    with pytest.raises(StoreClosed):
        saved.put(b"another", "joblib")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_saves_blobs_of_its_own(saved, tmp_path):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            saved.after_fork_in_child()
            saved.put(b"from the child", "joblib")
            saved.wait()
            code = 0 if saved.put(DATA, "joblib").written is False else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert saved.put(b"from the child", "joblib").written is False
