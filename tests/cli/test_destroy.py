"""Commands that remove something: delete, gc, vacuum. The plan comes first, a dry run stops there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import Ridge

from nirs_store import WorkspaceStore


def files(workspace: Path) -> set[Path]:
    return {path for path in (workspace / "artifacts").rglob("*") if path.is_file()}


def test_a_dry_run_prints_the_plan_of_the_deletion_and_keeps_everything(run: Any, own_copy: Any) -> None:
    before = files(own_copy.path)
    shown = run("delete", own_copy.run_id, "--dry-run", "--now", "-w", own_copy.path).stdout
    assert own_copy.run_id in shown
    assert "2 pipelines" in shown
    assert files(own_copy.path) == before
    with WorkspaceStore(own_copy.path, create=False) as store:
        assert store.get_run(own_copy.run_id) is not None
    done = run("delete", own_copy.run_id, "--yes", "--now", "-w", own_copy.path).stdout
    assert done.startswith(shown)
    assert "Deleted" in done
    assert files(own_copy.path) == set()
    with WorkspaceStore(own_copy.path, create=False) as store:
        assert store.get_run(own_copy.run_id) is None


def test_where_nobody_can_be_asked_nothing_is_deleted_without_yes(run: Any, own_copy: Any) -> None:
    shown = run("delete", own_copy.run_id[-8:], "--now", "-w", own_copy.path, expect=2)
    assert "add --yes" in shown.stderr
    assert len(files(own_copy.path)) > 0


@pytest.mark.parametrize(("answer", "kept"), [("n\n", True), ("y\n", False)])
def test_on_a_terminal_you_are_asked(
    answer: str, kept: bool, run: Any, own_copy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nirs_store.cli._options.asks", lambda: True)
    shown = run("delete", own_copy.run_id, "--now", "-w", own_copy.path, input=answer).stdout
    assert "Delete this? [y/N]" in shown
    assert bool(files(own_copy.path)) is kept


def test_kept_files_are_left_for_a_gc(run: Any, run_json: Any, own_copy: Any) -> None:
    before = files(own_copy.path)
    run("delete", own_copy.run_id, "--yes", "--keep-artifacts", "--now", "-w", own_copy.path)
    assert files(own_copy.path) == before
    plan = run_json("gc", "--dry-run", "--json", "-w", own_copy.path)
    assert {own_copy.path / path for path in plan["files"]} == before
    assert plan["removed_files"] is None
    assert files(own_copy.path) == before
    assert f"Removed {len(before)} files." in run("gc", "-w", own_copy.path).stdout
    assert files(own_copy.path) == set()


def test_a_prediction_can_be_deleted(run: Any, own_copy: Any) -> None:
    identifier = own_copy.chains["better"].prediction_ids[0]
    assert "Deleted." in run("delete", identifier, "-y", "--now", "-w", own_copy.path).stdout
    with WorkspaceStore(own_copy.path, create=False) as store:
        assert store.get_prediction(identifier) is None
        assert store.get_prediction(own_copy.chains["better"].prediction_ids[1]) is not None
    run("delete", identifier, "-y", "--now", "-w", own_copy.path, expect=3)


@pytest.mark.parametrize("kind", ["chain", "pipeline"])
def test_a_chain_or_pipeline_is_planned_and_deleted_alone(
    run: Any, run_json: Any, own_copy: Any, kind: str
) -> None:
    better, at = own_copy.chains["better"], ("-w", own_copy.path)
    identifier = getattr(better, f"{kind}_id")
    before = run_json("top", "--json", *at)
    plan = run_json("delete", identifier[-8:].upper(), "--dry-run", "--json", *at)
    assert (plan["kind"], plan["id"], plan["rows"]["chains"]) == (kind, identifier, 1)
    assert plan["artifacts"]
    assert run_json("top", "--json", *at) == before
    done = run_json("delete", identifier[-8:], "--yes", "--now", "--json", *at)
    assert done == plan | {"dry_run": False, "deleted": sum(plan["rows"].values())}
    assert [row["chain_id"] for row in run_json("top", "--json", *at)] == [
        row["chain_id"] for row in before if row["chain_id"] != better.chain_id
    ]
    assert run("show", identifier, *at, expect=3).stderr
    assert run("check", "--read-data", *at).stdout.startswith("No damage found")


def test_gc_respects_the_grace_and_leaves_unknown_files(run: Any, own_copy: Any) -> None:
    with WorkspaceStore(own_copy.path, create=False) as store:
        store.save_artifact(Ridge(alpha=0.123), "sklearn.linear_model.Ridge", "model", "joblib")
    stranger = own_copy.path / "artifacts" / "note.txt"
    stranger.write_text("mine")
    before = files(own_copy.path)
    shown = run("gc", "--dry-run", "-w", own_copy.path).stdout
    assert "0 files that nothing refers to" in shown
    assert "artifacts/note.txt" in shown
    shown = run("gc", "--grace", "0", "-w", own_copy.path).stdout
    assert "Removed 1 files." in shown
    assert len(files(own_copy.path)) == len(before) - 1
    assert stranger.exists()


def test_vacuum_says_what_it_gave_back(run: Any, run_json: Any, own_copy: Any) -> None:
    run("delete", own_copy.run_id, "-y", "--now", "-w", own_copy.path)
    sizes = run_json("vacuum", "--json", "-w", own_copy.path)
    assert sizes["after_bytes"] <= sizes["before_bytes"]
    assert sizes["after_bytes"] == (own_copy.path / "store.duckdb").stat().st_size
    assert "before" in run("vacuum", "-w", own_copy.path).stdout


def test_a_deletion_is_listed_undone_and_removed_for_good(run, run_json, own_copy):
    at = ("-w", own_copy.path)
    said = run("delete", own_copy.run_id, "-y", *at).stdout
    assert f"nirs-store trash restore {own_copy.run_id}" in said
    (row,) = run_json("trash", "list", "--json", *at)
    assert (row["kind"], row["object_id"]) == ("run", own_copy.run_id)
    assert row["name"] in run("trash", "list", *at).stdout
    assert f"The run {own_copy.run_id} is back." in run("trash", "restore", own_copy.run_id[-8:], *at).stdout
    assert "empty" in run("trash", "list", *at).stdout
    run("trash", "restore", own_copy.run_id, *at, expect=3)
    run("delete", own_copy.run_id, "-y", *at)
    assert "1 deletions" in run("trash", "empty", "--dry-run", *at).stdout
    assert run_json("trash", "empty", "--older-than", "1", "--yes", "--json", *at)["entries"] == []
    assert run_json("gc", "--now", "--dry-run", "--json", *at)["trash"] == [row_of(run_json, at)]
    done = run_json("trash", "empty", "--yes", "--json", *at)
    assert len(done["entries"]) == 1
    assert done["files"] > 0
    run("trash", "restore", own_copy.run_id, *at, expect=3)


def row_of(run_json, at):
    return run_json("trash", "list", "--json", *at)[0]["trash_id"]
