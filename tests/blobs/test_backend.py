"""What every backend promises, and the store of blobs above it: the same tests on a folder, in memory and in a bucket."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import bucketkit
import pytest
from memoryblobs import MemoryBlobs

from nirs_store.blobs import store as store_module
from nirs_store.blobs.backend import BLOBS, BlobBackend, hash_blob, sizes, stat_blob
from nirs_store.blobs.local import LocalFolder
from nirs_store.blobs.store import BlobStore, blob_key, is_blob_key
from nirs_store.errors import BlobCorrupt, BlobMissing, PathEscapes

DATA = b"a fitted model" * 100
HASH = hashlib.sha256(DATA).hexdigest()
KEY = blob_key(HASH, "joblib")
OTHER = "models/by hand.bin"


@pytest.fixture(params=["local", "memory", "bucket"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobBackend:
    trash, scratch = tmp_path / "journal" / "aside", tmp_path / "journal" / "tmp"
    for folder in (trash, scratch, tmp_path / "artifacts", tmp_path / "copies"):
        folder.mkdir(parents=True)
    if request.param == "memory":
        return MemoryBlobs(tmp_path, scratch, tmp_path / "copies")
    if request.param == "bucket":
        bucketkit.credentials(monkeypatch, tmp_path)
        return bucketkit.backend(tmp_path)
    return LocalFolder(tmp_path, trash=trash, scratch=scratch)


@pytest.fixture
def store(backend: BlobBackend) -> Iterator[BlobStore]:
    made = BlobStore(backend)
    yield made
    made.close()


def content(backend: BlobBackend, key: str, *, trashed: bool = False) -> bytes:
    file, found = backend.open(key, trashed=trashed)
    with file:
        data = file.read()
    assert found.size == len(data)
    return data


def is_written(store: BlobStore, data: bytes, suffix: str) -> bool:
    """Save, and tell whether the backend was given the bytes."""
    given: list[str] = []
    real = store.backend.put

    def put(objects: dict[str, bytes]) -> None:
        given.extend(objects)
        real(objects)

    with patch.object(store.backend, "put", put):
        store.put(data, suffix)
        store.wait()
    return bool(given)


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_what_was_put_is_there_whole(backend: BlobBackend, key: str) -> None:
    file = backend.scratch / "finished"
    file.write_bytes(DATA[1:])
    backend.put({key: memoryview(DATA), key + "2": file})

    assert (content(backend, key), content(backend, key + "2")) == (DATA, DATA[1:])
    assert not file.exists()
    assert backend.path(key).read_bytes() == DATA
    assert sorted(backend.list(key)) == [key, key + "2"]
    assert [each for each in backend.scratch.iterdir() if each.is_file()] == []


def test_what_is_not_there_is_none_of_it(backend: BlobBackend) -> None:
    backend.put({OTHER: DATA})
    for trashed in (False, True):
        assert backend.stat(KEY, trashed=trashed) is None
        with pytest.raises(FileNotFoundError):
            backend.open(KEY, trashed=trashed)
    with pytest.raises(FileNotFoundError):
        hash_blob(backend, KEY)
    backend.trash([KEY])
    backend.restore([KEY])
    assert backend.delete([KEY]) == (0, 0)
    assert [*backend.list("models/"), *backend.list(BLOBS), *backend.list("", trashed=True)] == [OTHER]


def test_putting_again_does_no_harm_and_mends_what_is_damaged(backend: BlobBackend) -> None:
    backend.put({KEY: DATA[:-1]})
    damaged = backend.stat(KEY)
    backend.put({KEY: DATA})
    mended = backend.stat(KEY)
    backend.put({KEY: DATA})

    assert damaged is not None
    assert mended is not None
    assert damaged.state != mended.state
    assert content(backend, KEY) == DATA
    assert sizes(backend) == [len(DATA)]


def test_the_trash_keeps_what_is_in_it_apart(backend: BlobBackend) -> None:
    backend.put({KEY: DATA, OTHER: b"1"})
    backend.trash([KEY, OTHER, "artifacts/zz/never there"])

    assert [*backend.list(BLOBS), *backend.list("models/")] == []
    assert sorted(backend.list("", trashed=True)) == [KEY, OTHER]
    assert list(backend.list(BLOBS, trashed=True)) == [KEY]
    assert content(backend, KEY, trashed=True) == DATA
    assert backend.path(KEY, trashed=True).read_bytes() == DATA
    assert stat_blob(backend, KEY) == backend.stat(KEY, trashed=True)
    assert hash_blob(backend, KEY)[0] == HASH
    assert backend.strays() == [] or backend.strays() == ()


def test_what_is_restored_is_back_and_what_is_deleted_is_gone(backend: BlobBackend) -> None:
    backend.put({KEY: DATA, OTHER: b"1"})
    before = backend.stat(KEY)
    backend.trash([KEY, OTHER])
    for _ in range(2):  # a gc that died half-way does it again
        backend.restore([KEY])
    assert backend.delete([OTHER]) == (1, 1)
    assert backend.delete([OTHER]) == (0, 0)

    after = backend.stat(KEY)
    assert before is not None
    assert after is not None
    # An object store makes a new object of it.
    assert after.size == before.size
    assert content(backend, KEY) == DATA
    assert [*backend.list("", trashed=True)] == []
    assert backend.stat(OTHER) is None


def test_what_was_put_again_meanwhile_is_not_overwritten_by_a_restore(backend: BlobBackend) -> None:
    backend.put({KEY: b"damaged"})
    backend.trash([KEY])
    backend.put({KEY: DATA})
    backend.restore([KEY])

    assert content(backend, KEY) == DATA
    assert [*backend.list("", trashed=True)] == []


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", "journal/lock", "store.duckdb", "C:/x", ""])
def test_a_key_that_leads_elsewhere_is_refused(backend: BlobBackend, key: str) -> None:
    for call in (
        lambda: backend.stat(key),
        lambda: backend.open(key),
        lambda: backend.put({key: DATA}),
        lambda: backend.trash([key]),
        lambda: backend.sync(key),
    ):
        with pytest.raises(PathEscapes):
            call()


def test_readers_see_an_object_whole_whoever_puts_and_moves_it(backend: BlobBackend) -> None:
    store, stop = BlobStore(backend), threading.Event()
    backend.put({KEY: DATA})

    def move() -> None:
        while not stop.is_set():
            backend.trash([KEY])
            backend.restore([KEY])
            backend.put({KEY: DATA})

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _ in range(100):
            store.forget(HASH)
            assert store.read(KEY, HASH) == DATA
    finally:
        stop.set()
        thread.join()


# -- the store above them ------------------------------------------------------------------------


def test_the_same_bytes_are_written_once_and_verified_once(
    store: BlobStore, backend: BlobBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = store.put(DATA, ".joblib")
    store.wait()
    assert (info.artifact_id, info.path, info.written) == (HASH, KEY, True)
    hashed, synced = [], []
    real = store_module.hash_blob
    monkeypatch.setattr(store_module, "hash_blob", lambda *a, **k: hashed.append(a[1]) or real(*a, **k))
    monkeypatch.setattr(backend, "sync", synced.append)
    other = BlobStore(backend)
    for _ in range(3):
        assert not is_written(store, DATA, "joblib")
        assert not is_written(other, DATA, "joblib")
    # Another process may have put it a moment ago: it is made durable before it counts. An object store is not asked
    # about what was just put, so the first store reads it once as well.
    times = 2 if backend.far else 1
    assert (hashed, synced) == ([KEY] * times, [KEY] * times)


def test_as_many_verified_blobs_are_remembered_as_were_used_last(
    backend: BlobBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_VERIFIED", 2)
    store = BlobStore(backend)
    contents = [bytes([number]) * 10 for number in range(3)]
    for content in contents:
        store.put(content, "bin")
        store.wait()
    hashed = []
    real = store_module.hash_blob
    monkeypatch.setattr(store_module, "hash_blob", lambda *a, **k: hashed.append(a[1]) or real(*a, **k))
    assert not any(is_written(store, content, "bin") for content in contents)
    # The first was forgotten for the third; hashing it again forgot the second, and so on.
    assert hashed == [blob_key(hashlib.sha256(content).hexdigest(), "bin") for content in contents]
    assert not is_written(store, contents[2], "bin")
    assert not is_written(store, contents[1], "bin")
    assert len(hashed) == 3


@pytest.mark.parametrize("damage", [DATA[:-1], b"", b"X" + DATA[1:], None])
def test_a_damaged_or_lost_blob_is_told_and_heals(
    store: BlobStore, backend: BlobBackend, damage: bytes | None
) -> None:
    store.put(DATA, "joblib")
    store.wait()
    if damage is None:
        backend.trash([KEY])
        backend.delete([KEY])
    else:
        backend.put({KEY: damage})
    for look in (
        lambda: store.read(KEY, HASH),
        lambda: store.verify(KEY, HASH),
        lambda: store.path_of(KEY, HASH),
    ):
        with pytest.raises(BlobMissing if damage is None else BlobCorrupt) as caught:
            look()
        assert backend.address(KEY) in str(caught.value)
    assert is_written(store, DATA, "joblib")
    assert store.read(KEY, HASH) == DATA
    assert store.path_of(KEY, HASH).read_bytes() == DATA


def test_a_draft_becomes_the_blob_of_its_hash(store: BlobStore, backend: BlobBackend) -> None:
    for written in (True, False):
        draft = store.draft()
        for piece in (DATA[:7], DATA[7:]):
            draft.write(piece)
        (info,) = store.adopt([(draft.finish(), "joblib")])
        assert (info.path, info.size, info.written) == (KEY, len(DATA), written)
    assert store.read(KEY, HASH) == DATA
    assert [each for each in backend.scratch.iterdir() if each.is_file()] == []


def test_what_a_gc_decides_about_can_be_read_but_not_referred_to(
    store: BlobStore, backend: BlobBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_ASIDE_PATIENCE", 0.0)
    store.put(DATA, "joblib")
    store.wait()
    backend.trash([KEY])
    assert store.read(KEY, HASH) == DATA
    assert store.path_of(KEY, HASH).read_bytes() == DATA
    assert not store.exists(KEY)
    assert not store.is_coming_or_there(KEY)
    backend.restore([KEY])
    assert store.is_coming_or_there(KEY)


def test_a_key_says_whether_it_is_made_of_a_hash() -> None:
    assert is_blob_key(KEY)
    assert is_blob_key(KEY.removesuffix(".joblib"))
    for key in (OTHER, f"artifacts/zz/{HASH}.joblib", f"x/{KEY}", f"{KEY}/x", "artifacts/ab/ab.joblib"):
        assert not is_blob_key(key)
