"""``nirs-store files``: in, out, looking, changing, removing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from nirs_store.store import WorkspaceStore

Run = Callable[..., Result]


@pytest.fixture
def files(run: Run, memory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The program on an empty workspace, in a folder with a report to store."""
    with WorkspaceStore(memory / "ws"):
        pass
    monkeypatch.setenv("NIRS_STORE_WORKSPACE", str(memory / "ws"))
    monkeypatch.chdir(tmp_path)
    Path("report.json").write_text('{"rmse": 0.4}')
    return lambda *args, **more: run("files", *args, **more)


def test_a_file_goes_in_and_comes_out(files: Run) -> None:
    stored = files("put", "report.json", "eval/report.json", "--type", "report", "--tag", "final").stdout
    assert stored.startswith("eval/report.json v1: report, 13 bytes")
    assert (
        "has this content already"
        in files("put", "report.json", "eval/report.json", "--type", "report").stdout
    )
    assert files("get", "eval/report.json").stdout == '{"rmse": 0.4}'
    assert files("get", "eval/report.json", "copy.json").stdout.strip() == "copy.json"
    assert Path("copy.json").read_text() == '{"rmse": 0.4}'


def test_metadata_alone_are_stored_without_a_source(files: Run) -> None:
    files("put", "phi", "--type", "audio_phi_intervals", "--metadata", '{"total_segments": 2}')
    (row,) = json.loads(files("list", "--json").stdout)
    assert (row["kind"], row["metadata"]) == ("metadata", {"total_segments": 2})
    files("put", "phi", "--type", "log", "--metadata", "[1]", expect=2)
    files("put", "phi", "--type", "log", "--metadata", "{", expect=2)
    files("put", "a", "b", "c", "--type", "log", expect=2)


def test_bad_input_has_its_exit_code_and_names_the_nearest(files: Run) -> None:
    assert "'report'" in files("put", "report.json", "x", "--type", "reprot", expect=2).output
    assert "does not exist" in files("put", "nowhere.json", "x", "--type", "report", expect=2).output
    assert "stay inside" in files("put", "report.json", "../x", "--type", "report", expect=2).output
    files("put", "report.json", "x", "--type", "report", "--coverage", "full")
    Path("report.json").write_text("other")
    refused = files("put", "report.json", "x", "--type", "report", expect=2).output
    assert "production" in refused
    assert "--force" in refused
    assert files("get", "x").stdout == '{"rmse": 0.4}'
    files("get", "nothing", expect=3)
    files("put", "report.json", "x", "--type", "report", "--force")
    assert files("get", "x").stdout == "other"


def test_what_is_stored_is_listed_found_and_shown(files: Run) -> None:
    files(
        "put",
        "report.json",
        "eval/report.json",
        "--type",
        "report",
        "--tag",
        "final",
        "--metadata",
        '{"suite": "base"}',
    )
    files(
        "put", "report.json", "other.json", "--type", "report", "--test", "t1", "--source", "eval/report.json"
    )
    assert "eval/report.json" in files("list", "eval/*").stdout
    assert files("list", "--status", "failed").stdout == "No files.\n"
    assert "'completed'" in files("list", "--status", "complet", expect=2).output
    assert [row["name"] for row in json.loads(files("search", "BASE", "final", "--json").stdout)] == [
        "eval/report.json"
    ]
    shown = files("show", "other.json", "--test", "t1").stdout
    assert "made from" in shown
    assert "eval/report.json v1" in shown
    assert json.loads(files("show", "eval/report.json", "--json").stdout)["tags"] == ["final"]
    assert json.loads(files("summary", "--json").stdout)["files"] == 2
    assert "2 report" in files("summary").stdout


def test_versions_aliases_and_status(files: Run) -> None:
    files("put", "report.json", "x", "--type", "report")
    Path("report.json").write_text("second")
    files("put", "report.json", "x", "--type", "report")
    assert [row["version"] for row in json.loads(files("versions", "x", "--json").stdout)] == [2, 1]
    assert "champion  v1" in files("alias", "x", "champion", "--version", "v1").stdout
    assert "looks like a version" in files("alias", "x", "v3", expect=2).output
    assert files("get", "x", "--version", "champion").stdout == '{"rmse": 0.4}'
    assert files("alias", "x", "champion", "--remove").stdout == "No aliases.\n"
    files("status", "x", "failed", "--message", "no light")
    assert json.loads(files("show", "x", "--json").stdout)["message"] == "no light"
    assert "champion" not in files("versions", "x").stdout


def test_a_refused_removal_names_the_option(files: Run) -> None:
    files("put", "report.json", "x", "--type", "report")
    files("alias", "x", "champion")
    assert "(on the command line: --force)" in files("delete", "x", "--yes", expect=2).output
    files("delete", "x", "--yes", "--force")


def test_removing_prints_its_plan_and_asks(files: Run) -> None:
    for text in ("one", "two"):
        Path("report.json").write_text(text)
        files("put", "report.json", "x", "--type", "report")
    assert "2 versions would be removed" in files("delete", "x", "--dry-run").stdout
    assert "add --yes" in files("delete", "x", expect=2).output
    files("delete", "x", "--version", "v1", "--yes")
    plan = json.loads(files("cleanup", "--days", "0", "--dry-run", "--json").stdout)
    assert ([row["version"] for row in plan["versions"]], plan["dry_run"]) == ([2], True)
    assert "0 versions" in files("cleanup", "--old-tests", "3", "--dry-run").stdout
    assert "Removed 1 versions." in files("cleanup", "--days", "0", "--yes").stdout
    files("get", "x", expect=3)


def test_damage_ends_with_exit_code_4(files: Run, memory: Path) -> None:
    files("put", "report.json", "x", "--type", "report")
    assert "1 versions checked, 0 not intact" in files("validate").stdout
    (blob,) = [path for path in (memory / "ws" / "artifacts").rglob("*") if path.is_file()]
    blob.chmod(0o644)
    blob.write_bytes(b'{"rmse": 0.9}')
    found: Any = json.loads(files("validate", "--json", expect=4).stdout)
    assert found["problems"][0]["problem"] == "damaged"
    files("get", "x", "copy.json", expect=4)
    assert not Path("copy.json").exists()
