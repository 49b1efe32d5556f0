"""Copies for other programs: read-only, checked, made anew where somebody altered them."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nirs_store.errors import BlobCorrupt, WriteFailed
from nirs_store.files import output as copies
from nirs_store.store import WorkspaceStore

TEXT = b"wavelength\tvalue\n" * 600


@pytest.fixture
def folder_copy(store: WorkspaceStore, tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "deep" / "a.txt").write_bytes(TEXT)
    (source / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    store.files.put(source, "f", type="archive")
    return store.files.path("f")


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    # Some file systems count time in steps longer than this test; to others a later time is as good.
    os.utime(path, (1, 1))


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def alter_bytes(path: Path) -> None:
    overwrite(path, b"altered")


def alter_one_byte(path: Path) -> None:
    overwrite(path, b"W" + TEXT[1:])


def make_a_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def make_a_link(path: Path) -> None:
    other = path.parent / "other"
    other.write_bytes(TEXT)
    path.unlink()
    path.symlink_to(other)


@pytest.mark.not_on("replicas", why="each computer has unpacked copies of its own")
@pytest.mark.parametrize("alter", [alter_bytes, alter_one_byte, Path.unlink, make_a_folder, make_a_link])
def test_a_copy_that_was_altered_is_made_anew(store: WorkspaceStore, alter: Callable[[Path], None]) -> None:
    store.files.put(TEXT, "a/x.tsv", type="text_raw", compression="zstd")
    copy = store.files.path("a/x.tsv")
    alter(copy)
    again = store.files.path("a/x.tsv")
    assert (again, again.read_bytes(), again.is_symlink()) == (copy, TEXT, False)
    assert not [path for path in copy.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("change", ["bytes", "new file", "missing file", "missing folder", "a file instead"])
def test_a_folder_that_was_altered_is_made_anew(
    store: WorkspaceStore, folder_copy: Path, change: str
) -> None:
    before = everything(folder_copy)
    if change == "bytes":
        overwrite(folder_copy / "deep" / "a.txt", b"altered")
    elif change == "new file":
        (folder_copy / "new").write_bytes(b"x")
    elif change == "missing file":
        (folder_copy / "deep" / "a.txt").unlink()
    elif change == "missing folder":
        (folder_copy / "empty").rmdir()
    else:
        shutil.rmtree(folder_copy)
        folder_copy.write_bytes(b"x")
    assert everything(store.files.path("f")) == before
    assert [path.name for path in folder_copy.parent.iterdir()] == ["f"]


def test_the_files_of_copies_are_read_only(store: WorkspaceStore, folder_copy: Path) -> None:
    store.files.put(TEXT, "x.tsv", type="text_raw", compression="zstd")
    for path in (store.files.path("x.tsv"), folder_copy / "deep" / "a.txt", folder_copy / "run.sh"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o222
    if os.name != "nt":
        assert (folder_copy / "run.sh").stat().st_mode & 0o100


@pytest.mark.not_on("replicas", why="each computer has unpacked copies of its own")
def test_an_intact_copy_is_hashed_once(
    store: WorkspaceStore, folder_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.files.put(TEXT, "x.tsv", type="text_raw", compression="zstd")
    first = [store.files.path(name) for name in ("x.tsv", "f") for _ in range(2)]
    monkeypatch.setattr(copies, "hash_file", None)
    monkeypatch.setattr(copies, "write_output", None)
    assert [store.files.path(name) for name in ("x.tsv", "f") for _ in range(2)] == first


def test_a_copy_is_not_made_from_a_damaged_blob(store: WorkspaceStore) -> None:
    version = store.files.put(TEXT, "x.tsv", type="text_raw", compression="gzip")
    copy = store.files.path("x.tsv")
    overwrite(copy, b"altered")
    overwrite(store.get_artifact_path(version.artifact_id or ""), b"damaged")
    with pytest.raises(BlobCorrupt):
        store.files.path("x.tsv")


def test_a_copy_that_cannot_be_made_is_a_typed_error(
    store: WorkspaceStore, folder_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    overwrite(folder_copy / "run.sh", b"altered")
    monkeypatch.setattr(copies, "move_file", refuse)
    with pytest.raises(WriteFailed, match="No space"):
        store.files.path("f")


@pytest.mark.not_on("replicas", why="each computer has unpacked copies of its own")
def test_many_at_once_get_one_copy(store: WorkspaceStore, folder_copy: Path) -> None:
    before = everything(folder_copy)
    overwrite(folder_copy / "run.sh", b"altered")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: store.files.path("f"), range(8)))
    assert set(found) == {folder_copy}
    assert everything(folder_copy) == before
    assert [path.name for path in folder_copy.parent.iterdir()] == ["f"]


@pytest.mark.not_on("replicas", why="each computer has unpacked copies of its own")
@pytest.mark.parametrize("windows", [False, True])
def test_read_only_copies_go_with_their_content(
    store: WorkspaceStore, folder_copy: Path, windows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_WINDOWS", windows or os.name == "nt")
    store.files.delete("f")
    assert not folder_copy.parent.exists()
