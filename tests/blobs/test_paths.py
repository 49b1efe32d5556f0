"""Stored paths stay inside the workspace."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

import pytest

from nirs_store.blobs.local import aside_name
from nirs_store.blobs.plain import resolve_inside
from nirs_store.blobs.store import check_hash, check_suffix
from nirs_store.errors import InvalidInput, PathEscapes


@pytest.mark.parametrize("relative", ["a", "artifacts/ab/x.joblib", "a/./b", "a//b", "..a/b..", "ü/x y"])
def test_a_path_below_the_workspace_is_joined_to_it(tmp_path, relative):
    assert resolve_inside(tmp_path, relative) == tmp_path / relative


def test_a_path_object_is_as_good_as_text(tmp_path):
    assert resolve_inside(tmp_path, PurePosixPath("a/b")) == tmp_path / "a" / "b"


@pytest.mark.parametrize(
    "relative",
    [
        "",
        ".",
        "./",
        "..",
        "../x",
        "a/../../x",
        "a/../b",
        "/etc/passwd",
        "//server/share/x",
        "C:/x",
        "c:x",
        "a\\..\\..\\x",
        "\\\\server\\share",
        "a\0b",
    ],
)
def test_every_other_path_is_refused_with_its_name(tmp_path, relative):
    with pytest.raises(PathEscapes) as caught:
        resolve_inside(tmp_path, relative)

    assert repr(relative) in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_that_leads_outside_is_refused_and_one_that_stays_inside_is_not(tmp_path):
    workspace = tmp_path / "ws"
    (workspace / "real").mkdir(parents=True)
    (tmp_path / "ws-secret").mkdir()
    (workspace / "out").symlink_to(tmp_path / "ws-secret")
    (workspace / "in").symlink_to(workspace / "real")

    assert resolve_inside(workspace, "in/x") == workspace / "in" / "x"
    with pytest.raises(PathEscapes, match="ws-secret"):
        resolve_inside(workspace, "out/x")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_the_workspace_itself_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert resolve_inside(tmp_path / "link", "x") == tmp_path / "link" / "x"


def test_a_blob_set_aside_has_a_name_without_separators():
    name = aside_name("artifacts/ab/abcd.joblib")

    assert name == "artifacts%2Fab%2Fabcd.joblib"
    assert Path(name).name == name


@pytest.mark.parametrize(
    "digest", ["", "ab", "A" * 64, "g" * 64, "a" * 65, "../" + "a" * 61, "a" * 64 + "\n"]
)
def test_what_is_no_hash_cannot_name_a_blob(digest):
    with pytest.raises(InvalidInput, match="SHA-256"):
        check_hash(digest)


@pytest.mark.parametrize("suffix", ["", ".", "a/b", "..", "a.b", "JOBLIB", "x" * 33, "a\n"])
def test_what_is_no_ending_cannot_name_a_blob(suffix):
    with pytest.raises(InvalidInput, match="suffix"):
        check_suffix(suffix)


def test_an_ending_may_be_given_with_its_dot():
    assert check_suffix(".joblib") == check_suffix("joblib") == "joblib"
