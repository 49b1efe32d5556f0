"""The files that a new workspace starts with."""

from __future__ import annotations

from pathlib import Path

import pytest

from nirs_store.errors import NotAWorkspace
from nirs_store.scaffold import copy_workspace_template, workspace_template

EXPECTED = {
    ".gitignore",
    "README.md",
    "library/templates/classification/snv_pca_lda.json",
    "library/templates/regression/pls_baseline.json",
    "library/templates/regression/snv_sg_pls.json",
}


def test_all_files_are_copied_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "new" / "workspace"
    written = copy_workspace_template(root)
    assert {path.relative_to(root).as_posix() for path in written} == EXPECTED
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == EXPECTED
    source = workspace_template() / "README.md"
    assert (root / "README.md").read_bytes() == source.read_bytes()


def test_what_is_there_already_is_left_alone_unless_asked(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("mine", encoding="utf-8")
    written = copy_workspace_template(tmp_path)
    assert readme not in written
    assert readme.read_text(encoding="utf-8") == "mine"
    assert readme in copy_workspace_template(tmp_path, overwrite=True)
    assert readme.read_text(encoding="utf-8") != "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(NotAWorkspace, match="must be a folder"):
        copy_workspace_template(file)
