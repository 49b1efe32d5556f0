"""What an archive must look like before anything in it is decompressed."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nirs_store.bundle import Limits, load_bundle
from nirs_store.bundle.container import Members, check_archive, is_own_name
from nirs_store.errors import BundleInvalid

MANIFEST = ("manifest.json", b"{}")


def check(path: Path, **limits: Any) -> list[str]:
    with path.open("rb") as stream:
        return check_archive(stream, path, Limits(**limits)).names


def read_all(path: Path, **limits: Any) -> dict[str, bytes]:
    with path.open("rb") as stream:
        members = check_archive(stream, path, Limits(**limits))
        return {name: members.read(name) for name in members.names}


@pytest.fixture
def archive(kit: Any, tmp_path: Path) -> Callable[..., Path]:
    def make(*members: Any, compression: int = zipfile.ZIP_STORED) -> Path:
        path: Path = kit.write_zip(tmp_path / "x.n4a", [MANIFEST, *members], compression)
        return path

    return make


def test_an_ordinary_archive_passes(archive: Any) -> None:
    path = archive(("artifacts/step_1.joblib", b"abc" * 100), compression=zipfile.ZIP_DEFLATED)
    assert check(path) == ["manifest.json", "artifacts/step_1.joblib"]
    assert read_all(path)["artifacts/step_1.joblib"] == b"abc" * 100


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "artifacts/../../evil",
        "/etc/passwd",
        "C:/windows",
        "..\\evil",
        "artifacts\\x",
        "a//b",
        "./a",
        "folder/",
        "new\nline",
        "bell\a",
        "CON:",
        "\u202egpj.joblib",
        "a/b/c/d/e",
        "n" * 201,
        "a?b",
    ],
)
def test_names_that_are_not_plain_and_relative_are_refused(archive: Any, name: str) -> None:
    with pytest.raises(BundleInvalid, match="member name"):
        check(archive((name, b"")))


def test_a_name_with_a_nul_byte_is_refused(archive: Any) -> None:
    path = archive(("artifactsX.joblib", b""))
    path.write_bytes(path.read_bytes().replace(b"artifactsX.joblib", b"artifacts\0.joblib"))
    with pytest.raises(BundleInvalid, match="member name"):
        check(path)


@pytest.mark.parametrize("second", ["a/x.joblib", "A/X.joblib"])
def test_two_members_of_one_name_are_refused(archive: Any, second: str) -> None:
    with pytest.warns(UserWarning, match="Duplicate") if second == "a/x.joblib" else no_warning():
        path = archive(("a/x.joblib", b"1"), (second, b"2"))
    with pytest.raises(BundleInvalid, match="two members"):
        check(path)


class no_warning:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR])
def test_links_and_devices_are_refused(archive: Any, kind: int) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    with pytest.raises(BundleInvalid, match="link or a device"):
        check(archive((info, b"/etc/passwd")))


@pytest.mark.parametrize(("method", "data"), [(zipfile.ZIP_BZIP2, b"x"), (zipfile.ZIP_LZMA, b"x")])
def test_other_methods_are_refused(archive: Any, method: int, data: bytes) -> None:
    with pytest.raises(BundleInvalid, match="packed by method"):
        check(archive(("a", data), compression=method))


def test_an_encrypted_member_is_refused(archive: Any) -> None:
    with pytest.raises(BundleInvalid, match="encrypted"):
        check(patch_directory(archive(("a", b"x")), "<H", 8, 1))


def patch_directory(path: Path, layout: str, offset: int, value: int, member: int = -1) -> Path:
    """Change a field of a member's entry in the central directory."""
    data = bytearray(path.read_bytes())
    places = [place for place in range(len(data)) if data[place : place + 4] == b"PK\x01\x02"]
    struct.pack_into(layout, data, places[member] + offset, value)
    path.write_bytes(data)
    return path


def test_too_many_members_are_refused_from_the_last_record_alone(archive: Any) -> None:
    path = archive(*[(f"m{number}", b"") for number in range(20)])
    assert len(check(path, members=21)) == 21
    with pytest.raises(BundleInvalid, match="21 members; at most 20"):
        check(path, members=20)


def test_sizes_are_limited_before_anything_is_read(archive: Any) -> None:
    path = archive(("a", b"x" * 1000), ("b", b"y" * 1000))
    with pytest.raises(BundleInvalid, match="promises 1,000 bytes; at most 999"):
        check(path, member_bytes=999)
    with pytest.raises(BundleInvalid, match="promises 2,002 bytes"):
        check(path, total_bytes=2000)


def test_a_ratio_bomb_is_refused(archive: Any) -> None:
    path = archive(("a", b"\0" * (2 << 20)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleInvalid, match=r"would grow 1,\d\d\d-fold"):
        check(path)
    assert check(path, ratio=2000.0)
    assert check(archive(("a", b"\0" * (1 << 19)), compression=zipfile.ZIP_DEFLATED)), (
        "small ones may shrink well"
    )


def test_a_member_that_holds_more_than_it_promises_is_cut(archive: Any) -> None:
    path = archive(("a", b"x" * 5000), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleInvalid, match="damaged"):
        read_all(patch_directory(path, "<I", 24, 100))


def test_a_member_that_holds_less_than_it_promises_is_refused(archive: Any) -> None:
    path = archive(("a", b"x" * 5000), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleInvalid, match=r"damaged|were promised"):
        read_all(patch_directory(path, "<I", 24, 6000))


def test_bytes_are_counted_while_they_come_out(archive: Any) -> None:
    """Even if the directory were believed: the count is what decides."""
    path = archive(("a", b"x" * 5000), ("b", b"x" * 5000), compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as open_archive:
        members = Members(open_archive, open_archive.infolist(), Limits(total_bytes=7000))
        assert len(members.read("a")) == 5000
        with pytest.raises(BundleInvalid, match="goes on"):
            members.read("b")


def test_a_wrong_checksum_is_refused(archive: Any) -> None:
    path = archive(("a", b"hello world"))
    path.write_bytes(path.read_bytes().replace(b"hello world", b"hello there"))
    with pytest.raises(BundleInvalid, match=r"damaged.*CRC"):
        read_all(path)


def test_overlapping_members_are_refused(archive: Any) -> None:
    path = archive(("a", b"x" * 200), ("b", b"y" * 200))
    with pytest.raises(BundleInvalid, match="overlaps"):
        check(patch_directory(path, "<I", 42, 60))


def test_a_member_that_reaches_into_the_directory_is_refused(archive: Any) -> None:
    path = archive(("a", b"x" * 200))
    patch_directory(path, "<I", 20, 300)
    with pytest.raises(BundleInvalid, match="overlaps the directory"):
        check(patch_directory(path, "<I", 24, 300))


def test_a_stored_member_with_two_sizes_is_refused(archive: Any) -> None:
    with pytest.raises(BundleInvalid, match="two sizes"):
        check(patch_directory(archive(("a", b"x" * 200)), "<I", 24, 199))


def test_a_name_that_differs_between_directory_and_member_is_refused(archive: Any) -> None:
    path = archive(("artifacts/step_1.joblib", b"x"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"step_1", b"step_2", 1))
    with pytest.raises(BundleInvalid, match="damaged"):
        read_all(path)


@pytest.mark.parametrize("extra", [b"\0", b"PK\x05\x06" + b"\0" * 18])
def test_bytes_after_the_end_are_refused(archive: Any, extra: bytes) -> None:
    path = archive()
    path.write_bytes(path.read_bytes() + extra)
    with pytest.raises(BundleInvalid, match=r"appended|not where it should be"):
        check(path)


def test_bytes_before_the_beginning_are_refused(archive: Any) -> None:
    path = archive()
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    with pytest.raises(BundleInvalid, match="not where it should be"):
        check(path)


def test_a_comment_is_refused(archive: Any) -> None:
    path = archive()
    with zipfile.ZipFile(path, "a") as open_archive:
        open_archive.comment = b"hello"
    with pytest.raises(BundleInvalid, match="appended"):
        check(path)


def test_the_large_form_of_the_directory_is_refused(archive: Any) -> None:
    path = archive()
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, len(data) - 14, 0xFFFF, 0xFFFF)
    path.write_bytes(data)
    with pytest.raises(BundleInvalid, match="ZIP64"):
        check(path)


def test_a_directory_of_garbage_is_refused(archive: Any) -> None:
    path = archive()
    data = path.read_bytes()
    place = data.index(b"PK\x01\x02")
    path.write_bytes(data[:place] + b"\xff" * (len(data) - place - 22) + data[-22:])
    with pytest.raises(BundleInvalid, match="cannot be read"):
        check(path)


def test_a_broken_stream_is_refused(kit: Any, tmp_path: Path) -> None:
    raw = zlib.compress(b"x" * 100)[2:-4]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as open_archive:
        open_archive.writestr("a", b"x" * 100)
    data = buffer.getvalue()
    assert raw in data
    (tmp_path / "x.n4a").write_bytes(data.replace(raw, b"\xff" * len(raw)))
    with pytest.raises(BundleInvalid, match="damaged"):
        read_all(tmp_path / "x.n4a")


def test_limits_reach_load_bundle(plain: Path) -> None:
    with pytest.raises(BundleInvalid, match="members"):
        load_bundle(plain, allow_pickle=True, limits=Limits(members=3))
    with pytest.raises(BundleInvalid, match=r"manifest\.json promises"):
        load_bundle(plain, allow_pickle=True, limits=Limits(manifest_bytes=10))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("manifest.json", True),
        ("card.md", True),
        ("artifacts/step_1_sub0.joblib", True),
        ("artifacts/step_12_foldfinal.joblib", True),
        ("artifacts/step_01_sub0.joblib", False),
        ("artifacts/step_1_sub0.joblib\n", False),
        ("artifacts/step_1.pkl", False),
        ("blobs/" + "a" * 64 + ".skops", True),
        ("blobs/" + "A" * 64 + ".skops", False),
        ("arrays/" + "0" * 64 + ".npy", True),
        ("x/manifest.json", False),
    ],
)
def test_the_grammar_of_our_own_names_is_exact(name: str, ours: bool) -> None:
    assert is_own_name(name) is ours


def test_what_all_members_unpack_to_is_bounded_by_the_size_of_the_file(archive: Any) -> None:
    """Each member alone would pass."""
    members = [(f"m{number}", b"0123456789abcdef" * (1 << 16)) for number in range(5)]
    path = archive(*members, compression=zipfile.ZIP_DEFLATED)
    assert len(check(path)) == 6
    with pytest.raises(BundleInvalid, match=r"would unpack to 5,242,882; at most 1,048,576 .*total_ratio"):
        check(path, total_ratio_from=1 << 20)
    assert len(check(path, total_ratio_from=6 << 20)) == 6
    assert len(check(path, total_ratio_from=1 << 20, total_ratio=1000.0)) == 6
    with pytest.raises(BundleInvalid, match=r"total_bytes"):
        check(path, total_bytes=1 << 20)
