"""``nirs-store migrate``."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

WRITTEN = Path(__file__).parents[1] / "compat" / "nirs4all" / "1.4.10.zip"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    with zipfile.ZipFile(WRITTEN) as archive:
        archive.extract("workspace/store.sqlite", tmp_path)
    return tmp_path / "workspace"


def test_the_plan_then_the_migration_then_a_difference(run: Any, theirs: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    plan = run("migrate", theirs, ours, "--dry-run")
    assert "to add" in plan.output
    assert "Nothing was written" in plan.output
    assert not ours.exists()
    done = run("migrate", theirs, ours, "--json")
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert report["counts"]["runs"] == {"found": 11, "added": 11, "present": 0, "left_out": 0, "verified": 11}
    assert any("its file is gone" in one["reason"] for one in report["left_out"])
    with closing(sqlite3.connect(theirs / "store.sqlite")) as con, con:
        con.execute("UPDATE runs SET error = 'changed' WHERE name = 'broken'")
    changed = run("migrate", theirs, ours, expect=4)
    assert "NOT as in the source" in changed.output
    assert "error differs" in changed.output


def test_a_folder_that_is_no_workspace_has_the_exit_code_of_its_kind(run: Any, tmp_path: Path) -> None:
    refused = run("migrate", tmp_path / "no", tmp_path / "ours", expect=7)
    assert "is not a folder" in refused.output
