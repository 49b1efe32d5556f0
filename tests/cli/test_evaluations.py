"""The commands on evaluations, archives and backups."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nirs_store import WorkspaceStore


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "ws"
    with WorkspaceStore(folder) as store:
        store.begin_run("a run", {}, [])
        for name, shift in (("base", 0.0), ("better", 0.2)):
            store.evaluations.record(
                name,
                "loop",
                {"reward": 0.5 + shift, "time": 3.0 - shift},
                episodes=[
                    {"episode_id": f"e{k}", "reward": k / 10 + shift, "map": "ab"[k % 2], "noise": k % 3}
                    for k in range(8)
                ],
                evaluation_id=f"eval_{name}",
                tags=[name],
            )
    return folder


@pytest.fixture
def ws(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Read-only for tests; those that change take `own`."""
    monkeypatch.setenv("NIRS_STORE_WORKSPACE", str(made))
    return made


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    copy = Path(shutil.copytree(made, tmp_path / "own"))
    monkeypatch.setenv("NIRS_STORE_WORKSPACE", str(copy))
    return copy


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (["list"], "eval_base"),
        (["list", "--tag", "better"], "better"),
        (["show", "eval_better"], "episodes_id"),
        (["leaderboard", "loop", "--seed", 1], "ci_low"),
        (["groups", "loop", "map"], "map"),
        (["compare", "loop", "--correction", "holm", "--test", "t-test"], "p_adjusted"),
        (["pareto", "loop", "reward", "time=lower"], "on_front"),
        (["robustness", "loop", "noise"], "change"),
        (["trend", "loop"], "best_so_far"),
        (["champions"], "better"),
        (["champions", "--history"], "base"),
        (["summary", "loop", "--by", "map"], "# Evaluation of loop"),
        (["summary", "loop", "--metric", "noise"], "# Evaluation of loop"),  # only in the episodes
    ],
)
def test_a_question_is_answered_for_people_and_as_json(
    call: list[Any], shown: str, run: Any, ws: Path
) -> None:
    assert shown in run("evaluations", *call, "-w", ws).stdout
    told = json.loads(run("evaluations", *call, "--json", "-w", ws).stdout)
    assert told


def test_json_of_a_list_has_its_documents_decoded(run: Any, ws: Path) -> None:
    told = json.loads(run("evaluations", "list", "--json", "-w", ws).stdout)
    assert told[0]["scores"] == {"reward": 0.5, "time": 3.0}
    assert told[0]["tags"] == ["base"]


def test_a_page_and_tables_are_written(run: Any, ws: Path, tmp_path: Path) -> None:
    run("evaluations", "summary", "loop", "-o", tmp_path / "page.html", "-w", ws)
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    run("evaluations", "export", "base", tmp_path / "out", "--format", "csv", "-w", ws)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["eval_base-episodes.csv"]


def test_champions_are_set_and_evaluations_deleted_after_a_dry_run(run: Any, own: Path) -> None:
    run("evaluations", "crown", "eval_base", "--dry-run", "-w", own)
    assert "better" in run("evaluations", "champions", "-w", own).stdout
    assert "base holds rank 1" in run("evaluations", "crown", "eval_base", "-w", own).stdout
    assert "hand" in run("evaluations", "champions", "-w", own).stdout
    planned = run("evaluations", "delete", "eval_base", "--dry-run", "-w", own).stdout
    assert "rank 1 by reward goes from base to better" in planned
    assert "Nothing was deleted" in planned
    assert "add --yes" in run("evaluations", "delete", "eval_base", "-w", own, expect=2).stderr
    assert "Deleted" in run("evaluations", "delete", "eval_base", "--yes", "-w", own).stdout
    assert "eval_base" not in run("evaluations", "list", "--json", "-w", own).stdout
    assert json.loads(run("evaluations", "delete", "eval_better", "--dry-run", "--json", "-w", own).stdout)[
        "champions"
    ] == [{"suite": "loop", "metric": "reward", "rank": 1, "model_id": "better", "next_model": None}]


def test_a_dry_run_of_crowning_checks_what_crowning_checks(run: Any, ws: Path) -> None:
    call = ("evaluations", "crown", "eval_base", "--dry-run", "-w", ws)
    assert "base would hold rank 1 of loop" in run(*call, "--metric", "time").stdout
    assert "has no 'nope'" in run(*call, "--metric", "nope", expect=2).stderr


def test_a_dry_run_of_archiving_refuses_the_paths_that_archiving_refuses(
    run: Any, ws: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.zip"
    there.write_bytes(b"mine")
    for path in (tmp_path / "fat.foo", there, tmp_path / "no" / "a.zip", ws / "artifacts" / "a.zip"):
        planned = run("archive", path, "--dry-run", "-w", ws, expect=2).stderr
        assert planned == run("archive", path, "-w", ws, expect=2).stderr
    assert "--overwrite" in run("archive", there, "-w", ws, expect=2).stderr
    assert "dry run" in run("archive", there, "--overwrite", "--dry-run", "-w", ws).stdout
    assert there.read_bytes() == b"mine"


def test_a_dry_run_of_restoring_looks_at_the_folder_and_tells_what_restoring_tells(
    run: Any, own: Path, tmp_path: Path
) -> None:
    target, full = tmp_path / "bk", tmp_path / "full"
    # The same content twice: restored as two files.
    for name in ("a", "b"):
        (own / "library").mkdir(exist_ok=True)
        (own / "library" / name).write_text("notes")
    run("backup", "create", target, "-w", own)
    full.mkdir()
    (full / "mine").touch()
    for folder in (full, target / "inside"):
        planned = run("restore", target, folder, "--dry-run", expect=2).stderr
        assert planned == run("restore", target, folder, expect=2).stderr
    planned = json.loads(run("restore", target, tmp_path / "new", "--dry-run", "--json").stdout)
    restored = json.loads(run("restore", target, tmp_path / "new", "--json").stdout)
    assert {**planned, "dry_run": False} == restored


def test_templates_in_a_backup_do_not_count_as_blobs(run: Any, own: Path, tmp_path: Path) -> None:
    (own / "library").mkdir()
    (own / "library" / "mine.json").write_text("{}")
    made = json.loads(run("backup", "create", tmp_path / "bk", "--json", "-w", own).stdout)
    assert made["new_blobs"] == made["n_blobs"] == 2


def test_mistakes_end_with_the_code_of_their_class(run: Any, ws: Path) -> None:
    assert "There are: loop" in run("evaluations", "leaderboard", "lop", "-w", ws, expect=3).stderr
    assert "Did you mean" in run("evaluations", "list", "--status", "faild", "-w", ws, expect=2).stderr
    assert "fits 2 evaluations" in run("evaluations", "show", "eval_", "-w", ws, expect=2).stderr


@pytest.mark.parametrize("question", ["leaderboard", "trend"])
def test_a_metric_that_nothing_has_is_refused(question: str, run: Any, ws: Path) -> None:
    refused = run("evaluations", question, "loop", "--metric", "rewrd", "-w", ws, expect=2).stderr
    assert "Did you mean 'reward'" in refused
    for known in ("time", "success_rate"):  # the rate is a metric of every suite, recorded or not
        run("evaluations", question, "loop", "--metric", known, "-w", ws)
    run("evaluations", "leaderboard", "loop", "--metric", "noise", "-w", ws)  # of the episodes


def test_an_archive_is_planned_written_and_brought_back(run: Any, ws: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    assert (
        "Nothing was written"
        in run("archive", path, "--evaluation", "eval_base", "--dry-run", "-w", ws).stdout
    )
    assert not path.exists()
    told = json.loads(run("archive", path, "--evaluation", "eval_base", "--json", "-w", ws).stdout)
    assert told["rows"]["evaluations"] == 1
    WorkspaceStore(tmp_path / "other").close()
    other = ("-w", tmp_path / "other")
    assert "dry run" in run("restore", path, "--dry-run", *other).stdout
    assert "Restored" in run("restore", path, *other).stdout
    assert "there already" in run("restore", path, *other).stdout
    assert "eval_base" in run("evaluations", "list", "--json", *other).stdout
    path.write_bytes(path.read_bytes()[:100])
    run("restore", path, *other, expect=10)
    run("restore", path, tmp_path / "x", *other, expect=2)


def test_an_archive_makes_the_workspace_where_there_is_no_folder_or_an_empty_one(
    run: Any, ws: Path, tmp_path: Path
) -> None:
    path, new, empty, full = (tmp_path / name for name in ("a.zip", "in/new", "empty", "full"))
    run("archive", path, "-w", ws)
    empty.mkdir()
    full.mkdir()
    (full / "mine").touch()
    for folder in (new, empty):
        planned = run("restore", path, "--dry-run", "-w", folder).stdout
        assert "would become a workspace" in planned
        assert not folder.exists() or not any(folder.iterdir())
        assert "Restored" in run("restore", path, "-w", folder).stdout
        assert "eval_base" in run("evaluations", "list", "--json", "-w", folder).stdout
    run("restore", path, "-w", full, expect=7)
    assert [each.name for each in full.iterdir()] == ["mine"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_archive_that_is_refused_leaves_no_workspace_behind(
    dry: list[str], run: Any, ws: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar.gz"
    run("restore", path, *dry, "-w", tmp_path / "new", expect=10)
    run("archive", path, "-w", ws)
    path.write_bytes(path.read_bytes()[:-400])
    run("restore", path, *dry, "-w", tmp_path / "new", expect=10)
    assert [each.name for each in tmp_path.iterdir()] == ["a.tar.gz"]


def test_backups_are_made_listed_verified_pruned_and_restored(run: Any, own: Path, tmp_path: Path) -> None:
    target = tmp_path / "bk"
    assert "Nothing was written" in run("backup", "create", target, "--dry-run", "-w", own).stdout
    assert not target.exists()
    first = json.loads(run("backup", "create", target, "--json", "-w", own).stdout)
    assert first["new_blobs"] == 2
    assert "young enough" in run("backup", "create", target, "--if-older-than", "1h", "-w", own).stdout
    run("backup", "create", target, "-w", own)
    assert first["backup_id"] in run("backup", "list", target, "-w", own).stdout
    assert len(json.loads(run("backup", "list", "--json", "-w", own).stdout)) == 2
    assert "is whole" in run("backup", "verify", target).stdout
    plan = json.loads(
        run("backup", "prune", target, "--keep-last", 1, "--dry-run", "--json", "-w", own).stdout
    )
    assert plan["remove"] == [first["backup_id"]]
    assert "add --yes" in run("backup", "prune", target, "--keep-last", 1, "-w", own, expect=2).stderr
    assert "Removed 1" in run("backup", "prune", target, "--keep-last", 1, "--yes", "-w", own).stdout
    assert "nothing was restored" in run("restore", target, tmp_path / "again", "--dry-run").stdout
    assert "Restored to" in run("restore", target, tmp_path / "again").stdout
    assert "eval_base" in run("evaluations", "list", "--json", "-w", tmp_path / "again").stdout
    run("restore", target, expect=2)
    run("backup", "create", own / "inside", "-w", own, expect=2)
