"""What it takes to do the same again, captured by one call and kept with the run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from nirs_store import WorkspaceStore, capture_environment
from nirs_store.bundle.transfer import known_facts
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.records import runs as module


@pytest.fixture
def fresh() -> Iterator[None]:
    """Look everything up anew, and forget it again."""
    caches = (module.environment, module._git_dirty)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    call = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(call, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it_are_captured(
    tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "notes.txt").write_text("nobody tracks this")
    found = capture_environment()
    assert found["git-commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert found["git-dirty"] is False
    module._git_dirty.cache_clear()
    (tmp_path / "code.py").write_text("a = 2\n")
    assert capture_environment()["git-dirty"] is True


def test_outside_a_repository_nothing_is_said_of_git(
    tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert not {"git-commit", "git-dirty"} & capture_environment().keys()


def test_everything_installed_the_command_and_what_was_said_are_captured() -> None:
    found = capture_environment(seeds={"numpy": 1}, container="sha256:12", parameters={"folds": 5})
    assert found["packages"]["click"] == metadata.version("click")
    assert found["command"] == sys.orig_argv
    assert (found["seeds"], found["container"], found["parameters"]) == (
        {"numpy": 1},
        "sha256:12",
        {"folds": 5},
    )
    assert capture_environment(seeds=3, command=["train", "--fast"])["command"] == ["train", "--fast"]
    assert capture_environment(seeds=range(2))["seeds"] == [0, 1]
    assert "seeds" not in capture_environment()


def test_the_image_comes_from_the_variable_or_from_the_kernels_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(module.CONTAINER_VARIABLE, "sha256:from-the-variable")
    assert capture_environment()["container"] == "sha256:from-the-variable"
    monkeypatch.delenv(module.CONTAINER_VARIABLE)
    table = tmp_path / "cgroup"
    table.write_text(f"0::/system.slice/docker-{'ab' * 32}.scope\n")
    monkeypatch.setattr(module, "Path", lambda _: table)
    assert capture_environment()["container"] == "ab" * 32
    table.write_text("0::/user.slice\n")
    assert "container" not in capture_environment()


@pytest.mark.parametrize("seeds", ["7", [1.5], [None], {"a": "b"}, True])
def test_seeds_are_whole_numbers(seeds: object) -> None:
    with pytest.raises(InvalidInput, match="whole numbers"):
        capture_environment(seeds=seeds)  # type: ignore[arg-type]


def test_it_is_kept_with_the_run_and_compare_shows_what_differs(store: WorkspaceStore) -> None:
    with store.run("one", environment=capture_environment(seeds=[1], container="sha256:a")) as one:
        pass
    two = store.begin_run("two", {}, [], environment=capture_environment(seeds=[2], container="sha256:a"))
    table = store.compare([one.run_id, two])
    told = {row["item"]: (row[one.run_id], row[two]) for row in table.iter_rows(named=True)}
    assert told["environment.seeds.0"] == ("1", "2")
    assert "environment.container" not in told
    whole = store.compare([one.run_id, two], only_differences=False)["item"].to_list()
    assert {"environment.container", "environment.packages.numpy", "environment.python"} <= set(whole)
    assert "sha256:a" in store.show_run(two)._repr_html_()


def test_it_can_be_captured_for_a_run_that_has_begun(store: WorkspaceStore) -> None:
    run_id = store.begin_run("r", {}, [])
    before = store.get_run(run_id)
    assert before is not None
    captured = store.capture_environment(run_id, seeds=[5], parameters={"folds": 3})
    after = store.get_run(run_id)
    assert after is not None
    assert after["environment"] == {**before["environment"], **json.loads(json.dumps(captured))}
    store.capture_environment(run_id, parameters={"repeats": 2})
    merged = store.get_run(run_id)
    assert merged is not None
    assert merged["environment"]["seeds"] == [5]
    with pytest.raises(UnknownId, match="run"):
        store.capture_environment("nothing")


def test_a_bundle_does_not_carry_the_command_line_or_the_parameters() -> None:
    run = {"environment": capture_environment(parameters={"token": "x"}, command=["train", "--key=secret"])}
    facts = known_facts(run, None, None)
    assert "secret" not in repr(facts)
    assert "token" not in repr(facts)
    assert facts["environment"]["python"] == run["environment"]["python"]
