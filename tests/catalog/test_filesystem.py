"""A workspace on a network share: what can be promised is said, once; a local disk is not talked about."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from nirs_store.db import layout as filesystem
from nirs_store.db.layout import network_filesystem
from nirs_store.store import WorkspaceStore

LOCAL = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
LINE = "40 22 0:50 / {place} rw,relatime shared:9 master:2 - {kind} server:/export rw\n"


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of mounts that a test may write."""
    table = tmp_path / "mountinfo"
    table.write_text(LOCAL)
    monkeypatch.setattr(filesystem, "_MOUNTS", table)
    monkeypatch.setattr(filesystem, "_told", set())
    monkeypatch.setattr(filesystem.sys, "platform", "linux")
    return table


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre", "ceph"])
def test_a_network_file_system_is_known_by_its_kind(mounts: Path, tmp_path: Path, kind: str) -> None:
    mounts.write_text(LOCAL + LINE.format(place=tmp_path, kind=kind))
    assert network_filesystem(tmp_path / "workspace") == kind


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.ntfs-3g", "fuseblk"]
)
def test_a_local_one_is_not(mounts: Path, tmp_path: Path, kind: str) -> None:
    mounts.write_text(LOCAL + LINE.format(place=tmp_path, kind=kind))
    assert network_filesystem(tmp_path / "workspace") is None


def test_the_innermost_and_latest_mount_counts_and_names_are_not_compared_by_their_beginning(
    mounts: Path, tmp_path: Path
) -> None:
    outer, inner, alike = tmp_path, tmp_path / "with space", tmp_path / "with spaces"
    escaped = str(inner).replace(" ", "\\040")
    mounts.write_text(LOCAL + LINE.format(place=outer, kind="nfs4") + LINE.format(place=escaped, kind="xfs"))
    assert network_filesystem(inner / "workspace") is None
    assert network_filesystem(alike) == "nfs4"
    mounts.write_text(mounts.read_text() + LINE.format(place=escaped, kind="cifs"))
    assert network_filesystem(inner) == "cifs"


def test_what_cannot_be_known_is_not_talked_about(mounts: Path, tmp_path: Path) -> None:
    mounts.unlink()
    assert network_filesystem(tmp_path) is None


def test_a_store_on_a_share_says_once_what_it_cannot_promise_and_works(mounts: Path, folder: Path) -> None:
    mounts.write_text(LOCAL + LINE.format(place=folder.parent, kind="nfs4"))
    with pytest.warns(UserWarning, match=r"network file system \(nfs4\).*locks"):
        store = WorkspaceStore(folder)
    store.begin_run("r", {}, [])
    assert store.list_runs().height == 1
    store.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WorkspaceStore(folder).close()


def test_a_store_on_a_local_disk_and_one_that_only_reads_say_nothing(mounts: Path, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WorkspaceStore(folder).close()
        mounts.write_text(LOCAL + LINE.format(place=folder.parent, kind="nfs4"))
        WorkspaceStore(folder, read_only=True).close()
