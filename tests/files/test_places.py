"""Names that one system holds and another does not, and names that lead elsewhere."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from storekit import blob_root

from nirs_store.errors import InvalidInput, PathEscapes, SourceMissing
from nirs_store.files import content as intake
from nirs_store.files import names as places
from nirs_store.store import WorkspaceStore

COMPRESSIONS = ("none", "gzip", "zip", "tar.gz", "zstd")
#: Ordinary names on Linux and macOS.
ODD = ("2026-11-28T10:30:00.json", "c:d/e.txt", "a\\b.txt", "..\\up", "...", "what?")
posix = pytest.mark.skipif(os.name == "nt", reason="Windows cannot hold these names")
any_bytes = pytest.mark.skipif(sys.platform != "linux", reason="only there a name may be any bytes")


def put_odd(store: WorkspaceStore, source: Path, compression: str, names: tuple[str, ...] = ODD) -> str:
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    name = f"episodes/{compression}"
    store.files.put(source, name, type="text_raw", compression=compression)
    return name


def as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_WINDOWS", True)


# -- names of a stored folder --------------------------------------------------------------------


@posix
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_folder_with_names_of_this_system_comes_back(
    store: WorkspaceStore, tmp_path: Path, compression: str
) -> None:
    name = put_odd(store, tmp_path / "source", compression)
    for back in (
        store.files.get(name, tmp_path / "back"),
        store.files.path(name),
        *store.files.export("*", tmp_path / "out"),
    ):
        found = sorted(path.relative_to(back).as_posix() for path in back.rglob("*") if path.is_file())
        assert found == sorted(ODD)
        assert all((back / each).read_bytes() == each.encode() for each in found)
    assert store.files.validate().ok


@posix
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_where_a_name_cannot_be_made_the_folder_is_refused_and_still_checked(
    store: WorkspaceStore, tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_windows(monkeypatch)
    for number, odd in enumerate(ODD):
        name = put_odd(store, tmp_path / f"{number}", compression, (odd,))
        with pytest.raises(PathEscapes, match="cannot be made on this system"):
            store.files.get(name, tmp_path / "back")
        with pytest.raises(PathEscapes, match="cannot be made on this system"):
            store.files.path(name)
        with pytest.raises(PathEscapes, match="cannot be made on this system"):
            store.files.export("*", tmp_path / "out")
        assert store.files.validate().ok, "its content can be hashed anywhere"
    assert not (tmp_path / "back").exists()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_windows_holds_no_drive_stream_device_or_dropped_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_windows(monkeypatch)
    for name in ("C:x", "a/b.txt:stream", "a\\b", "nul", "a/Aux.txt", "com¹", "a.", "b /c", "x?", "x\ty"):
        with pytest.raises(PathEscapes, match="cannot be made on this system"):
            places.placed(tmp_path, name)
    for name in ("a/b.txt", "console.txt", "ümlaut", ".hidden", "a b", "-x"):
        assert places.placed(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["", ".", "/etc/x", "../up", "a/../../up", "a\0b", "a\udcff"])
def test_a_name_that_leads_out_or_is_none_is_refused_on_every_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(PathEscapes):
        places.placed(tmp_path, name)


# -- archives of other people --------------------------------------------------------------------


def zipped(name: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, b"x")
    return target.getvalue()


def tarred(name: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return target.getvalue()


def linked(kind: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/hostname"
        archive.addfile(info)
    return target.getvalue()


def put_made(
    store: WorkspaceStore, source: Path, compression: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Store a folder whose archive somebody else made, as an import brings it."""
    source.mkdir(exist_ok=True)
    name = f"made/{source.name}"

    def write(draft: object, *_: object) -> list[tuple[str, str]]:
        draft.write(data)  # type: ignore[attr-defined]
        return [("x", "0" * 64)]

    with monkeypatch.context() as patch:
        patch.setattr(intake, "_write_members", write)
        store.files.put(source, name, type="file", compression=compression)
    return name


@pytest.mark.parametrize(("compression", "made"), [("zip", zipped), ("none", tarred)])
def test_an_archive_that_leads_out_is_refused_and_the_others_are_checked(
    store: WorkspaceStore,
    tmp_path: Path,
    compression: str,
    made: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [
        put_made(store, tmp_path / f"{number}", compression, made(name), monkeypatch)
        for number, name in enumerate(("../up", "/tmp/nirs-store-absolute", "a/../../up"))
    ]
    store.files.put(b"fine", "other.txt", type="log")
    for name in names:
        with pytest.raises(PathEscapes, match="leads out of it"):
            store.files.get(name, tmp_path / "deep" / "back")
    assert not (tmp_path / "up").exists()
    assert not list((tmp_path / "deep").iterdir())
    found = store.files.validate()
    assert found.checked == 4
    assert [(each["name"], each["problem"]) for each in found.problems] == [(n, "unreadable") for n in names]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_an_archive_with_a_link_or_a_device_is_refused(
    store: WorkspaceStore, tmp_path: Path, kind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_made(store, tmp_path / "made", "none", linked(kind), monkeypatch)
    with pytest.raises(OSError, match="damaged"):
        store.files.get(name, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert [each["problem"] for each in store.files.validate().problems] == ["damaged"]


# -- names of files and members ------------------------------------------------------------------


@posix
def test_names_of_files_and_members_are_held_to_the_same(
    store: WorkspaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "c:x.txt").write_bytes(b"x" * 2000)
    store.files.put_group("m", tmp_path / "source", type="archive")
    as_windows(monkeypatch)
    (tmp_path / "out").mkdir()
    for ask in (
        lambda: store.files.get("m", tmp_path / "out"),
        lambda: store.files.get("m/c:x.txt", tmp_path / "out"),
        lambda: store.files.path("m/c:x.txt"),
        lambda: store.files.export("*", tmp_path / "out"),
    ):
        with pytest.raises(PathEscapes, match="cannot be made on this system"):
            ask()
    assert not list((tmp_path / "out").iterdir())
    assert store.files.get("m") == {"c:x.txt": b"x" * 2000}


@any_bytes
@pytest.mark.parametrize("inside", ["", "sub/"])
def test_a_folder_with_a_name_that_is_no_text_is_refused(
    store: WorkspaceStore, tmp_path: Path, inside: str
) -> None:
    place = tmp_path / "source" / inside
    place.mkdir(parents=True)
    (place / os.fsdecode(b"\xff.txt")).write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"^source: the name '\\udcff\.txt' .* Nothing was stored"):
        store.files.put(tmp_path / "source", "x", type="log")
    assert store.files.list().is_empty()
    assert not [path for path in (blob_root(store) / "artifacts").rglob("*") if path.is_file()]
    assert not list((store.workspace_path / "journal" / "tmp").iterdir())


@any_bytes
def test_a_path_or_name_that_is_no_text_has_its_own_error(store: WorkspaceStore, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="does not exist"):
        store.files.put(tmp_path / "\udcff", "x", type="log")
    with pytest.raises(InvalidInput, match="not valid Unicode"):
        store.files.put(b"x", "\udcff", type="log")
    assert store.files.list().is_empty()
