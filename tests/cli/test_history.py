"""Lineage, audit and retention on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from clikit import invoke
from storekit import whole_pipeline

from nirs_store import WorkspaceStore


class Workspace:
    """Three runs with a chain each, and the program on them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with WorkspaceStore(path) as store:
            self.runs = []
            for name in ("first", "second", "third"):
                run_id = store.begin_run(name, {}, [])
                whole_pipeline(store, run_id)
                store.complete_run(run_id, {})
                self.runs.append(run_id)

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = invoke(*arguments, "-w", self.path)
        assert result.exit_code == code, result.output
        return result

    def names(self) -> list[str]:
        with WorkspaceStore(self.path) as store:
            return store.list_runs()["name"].to_list()


@pytest.fixture
def workspace(memory: Path) -> Workspace:
    return Workspace(memory / "workspace")


def test_lineage_is_shown_linked_and_unlinked(workspace: Workspace) -> None:
    first, second, _ = (run_id[-8:] for run_id in workspace.runs)
    assert "chain" in workspace.run("lineage", "show", first, "--downstream").output
    assert "dry run" in workspace.run("lineage", "link", first, second, "--dry-run").output
    workspace.run("lineage", "link", first, f"run:{second}", "--type", "continued_by")
    shown = json.loads(workspace.run("lineage", "show", second, "--json").output)
    assert [link["link_type"] for link in shown["links"]] == ["continued_by"]
    assert workspace.run("lineage", "show", second, "--format", "mermaid").output.startswith("flowchart")
    assert workspace.run("lineage", "show", second, "--format", "dot").output.startswith("digraph")
    refused = workspace.run("lineage", "link", second, first, code=2)
    assert "came from" in refused.output
    assert "1 links" in workspace.run("lineage", "unlink", first, second).output
    workspace.run("lineage", "show", "nothing-there", code=3)


def test_the_trail_is_listed_verified_and_exported(workspace: Workspace, tmp_path: Path) -> None:
    run_id = workspace.runs[0]
    entries = json.loads(workspace.run("audit", "log", "--object", f"run:{run_id}", "--json").output)
    assert [entry["operation"] for entry in entries] == ["complete_run", "begin_run"]
    assert "begin_run" in workspace.run("audit", "history", run_id[-8:]).output
    assert "No entries" in workspace.run("audit", "log", "--failed").output
    assert "No kept head was there" in workspace.run("audit", "verify").output
    head = workspace.run("audit", "head").output.strip()
    workspace.run("audit", "verify", "--head", head)
    broken = workspace.run("audit", "verify", "--head", f"999:{head.partition(':')[2]}", "--json", code=4)
    assert json.loads(broken.output)["ok"] is False
    exported = workspace.run("audit", "export", str(tmp_path / "trail.csv"), "--format", "csv").output
    assert Path(exported.strip()).is_file()
    workspace.run("audit", "log", "--since", "yesterday", code=2)


def test_the_history_of_what_is_deleted_is_there(workspace: Workspace) -> None:
    run_id = workspace.runs[0]
    workspace.run("delete", run_id, "--yes")
    assert "delete_run" in workspace.run("audit", "history", f"run:{run_id}").output
    workspace.run("audit", "history", "nothing-there", code=3)


def test_the_log_finds_the_short_ids_that_it_shows(workspace: Workspace) -> None:
    first, second, _ = workspace.runs
    workspace.run("tag", first, "meat")
    workspace.run("tag", second, "meat")
    assert first[-8:] in workspace.run("audit", "log").output
    whole = workspace.run("audit", "log", "--object", f"run:{first}").output
    assert workspace.run("audit", "log", "--object", f"run:{first[-8:]}").output == whole
    workspace.run("delete", first, "--yes")
    gone = workspace.run("audit", "log", "--object", f"run:{first[-8:]}", "--json").output
    assert {entry["object_id"] for entry in json.loads(gone)} == {first}
    workspace.run("audit", "log", "--object", "run:00000000", code=3)
    assert "No entries" in workspace.run("audit", "log", "--object", "evaluation").output


def test_the_log_shows_the_names_of_files_whole(workspace: Workspace) -> None:
    with WorkspaceStore(workspace.path) as store:
        store.files.put(b"x", "reports/of the whole/harvest.txt", type="report")
    assert "file reports/of the whole/harvest.txt" in workspace.run("audit", "log").output


def test_a_dry_run_of_links_refuses_what_linking_refuses(workspace: Workspace) -> None:
    first, second, third = workspace.runs
    workspace.run("lineage", "link", first, second)
    real = workspace.run("lineage", "link", second, first, code=2).output
    assert workspace.run("lineage", "link", second, first, "--dry-run", code=2).output == real
    workspace.run("lineage", "link", first, first, "--dry-run", code=2)
    workspace.run("lineage", "link", first, second, "--type", " ", "--dry-run", code=2)
    assert "0 links would" in workspace.run("lineage", "unlink", first, third, "--dry-run").output
    assert "1 links would" in workspace.run("lineage", "unlink", first, second, "--dry-run").output
    assert "Removed 1 links" in workspace.run("lineage", "unlink", first, second).output
    with WorkspaceStore(workspace.path) as store:
        pipeline = store.list_pipelines(first)["pipeline_id"][0]
    for dry in ([], ["--dry-run"]):
        follows = workspace.run("lineage", "unlink", first, pipeline, *dry, code=2).output
        assert "follows from what the store holds" in follows


def test_a_dry_run_of_links_notes_no_attempt_and_keeps_the_guard(workspace: Workspace) -> None:
    first, second, _ = workspace.runs
    workspace.run("audit", "guard", "--forbid", "secret")
    workspace.run("lineage", "link", first, second, "--type", "secret", "--dry-run", code=2)
    assert "No entries" in workspace.run("audit", "log", "--failed").output
    assert workspace.run("lineage", "unlink", first, second).output == "Removed 0 links.\n"


def test_a_dry_run_of_the_guard_prints_the_rules_that_would_be(workspace: Workspace) -> None:
    call = ("audit", "guard", "--patients", "--forbid", "x+", "--allow-key", "email")
    planned = workspace.run(*call, "--dry-run").output
    assert "No rules" in workspace.run("audit", "guard").output
    assert planned == workspace.run(*call).output + "Nothing was changed (dry run).\n"
    for wrong in (["--forbid", "("], ["--forbid-key", "-"], ["--forbid", "(", "--allow", "("]):
        refused = workspace.run("audit", "guard", *wrong, "--dry-run", code=2).output
        assert workspace.run("audit", "guard", *wrong, code=2).output == refused


def test_the_guard_and_the_switch(workspace: Workspace) -> None:
    assert "dry run" in workspace.run("audit", "guard", "--forbid-key", "mrn", "--dry-run").output
    assert "No rules" in workspace.run("audit", "guard").output
    rules = workspace.run("audit", "guard", "--forbid-key", "mrn", "--forbid", "x+", "--json").output
    assert json.loads(rules) == {"keys": ["mrn"], "patterns": ["x+"]}
    workspace.run("tag", workspace.runs[0], "xx", code=2)
    assert "patient_id" in workspace.run("audit", "guard", "--patients", "--allow", "x+").output
    workspace.run("audit", "switch", "off")
    workspace.run("tag", workspace.runs[0], "yy")
    entries = json.loads(workspace.run("audit", "log", "--json").output)
    assert entries[0]["operation"] == "switch_audit"


def test_a_policy_is_set_shown_and_carried_out(workspace: Workspace) -> None:
    workspace.run("retention", "set", "--recent", "1", "--on", "run", "--dry-run")
    assert "keep everything" in workspace.run("retention", "show").output
    workspace.run("retention", "set", "--recent", "1", "--on", "run")
    added = workspace.run("retention", "set", "--add", "--top", "2", "--metric", "rmse", "--json").output
    assert [rule["policy"] for rule in json.loads(added)["rules"]] == ["keep_recent", "keep_top_k"]
    workspace.run("retention", "set", "--recent", "1", "--on", "run")
    workspace.run("retention", "pin", workspace.runs[0][-8:], "--reason", "reference")
    assert "reference" in workspace.run("retention", "show").output
    plan = json.loads(workspace.run("retention", "run", "--dry-run", "--json").output)
    assert [item["name"] for item in plan["take"]] == ["second"]
    assert plan["result"] is None
    assert workspace.names() == ["third", "second", "first"]
    workspace.run("retention", "run", code=2)  # nobody can be asked
    assert "Deleted 1 runs" in workspace.run("retention", "run", "--yes").output
    assert workspace.names() == ["third", "first"]
    assert "Unpinned" in workspace.run("retention", "unpin", workspace.runs[0]).output
    workspace.run("retention", "run", "--max-count", "0", "--on", "run", "--yes")
    assert workspace.names() == []


def test_a_policy_from_a_file(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"rules": [{"policy": "keep_recent", "on": "run", "count": 2}]}))
    assert "first" in workspace.run("retention", "run", "--file", str(path), "--dry-run").output
    workspace.run("retention", "set", "--recent", "2", "--on", "run")
    for command in ("show", "run --dry-run"):
        path.write_text(workspace.run("retention", *command.split(), "--json").output)
        assert "first" in workspace.run("retention", "run", "--file", str(path), "--dry-run").output
    path.write_text("{")
    workspace.run("retention", "run", "--file", str(path), "--dry-run", code=2)
    path.write_text(json.dumps({"rules": [{"policy": "keep_recnt"}]}))
    assert "'keep_recent'" in workspace.run("retention", "set", "--file", str(path), code=2).output


def test_stats_tell_of_errors_and_growth(workspace: Workspace) -> None:
    workspace.run("audit", "guard", "--forbid-key", "mrn", "--forbid", "x+")
    workspace.run("tag", workspace.runs[0], "xx", code=2)
    shown = workspace.run("stats", "--growth", "day").output
    assert "1 edit_run" in shown
    assert "total_bytes" in shown
    found = json.loads(workspace.run("stats", "--json").output)["statistics"]
    assert found["counts"]["runs"] == 3
    assert found["errors_by_operation"] == {"edit_run": 1}
