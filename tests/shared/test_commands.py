"""The commands of shared workspaces, and those of any workspace at an address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from storekit import begin, whole_pipeline

from nirs_store.cli._app import app
from nirs_store.store import WorkspaceStore


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output


def test_a_lab_goes_from_a_folder_to_a_shared_workspace_and_back(
    folder: Path, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIRS_STORE_REPLICAS", str(tmp_path / "replicas"))
    with WorkspaceStore(folder) as store:
        run_id, _ = begin(store, "corn run")
        whole_pipeline(store, run_id)
    place = f"{database}?workspace=corn"
    blobs = (tmp_path / "lab").as_uri()
    assert "Would copy" in run("share", str(folder), place, "--blobs", blobs, "--dry-run")
    assert "Copied" in run("share", str(folder), place, "--blobs", blobs, "--yes")
    assert "corn run" in run("runs", "-w", place)
    assert "corn run" in run("-w", place, "runs")
    run("check", "-w", place, "--read-data")
    # One command long, another computer is there.
    assert "corn run" in run("runs", "-w", f"{place}&replica={tmp_path / 'two'}")
    assert "Published a snapshot" in run("shared", "snapshot", "-w", place, "--truncate", "0")
    found = json.loads(run("shared", "status", "-w", place, "--json"))
    assert found["snapshot"] == found["floor"] == found["commits"]
    assert [each["behind"] for each in found["computers"]] == [0, 0]
    assert "Copied" in run("clone", place, str(tmp_path / "clone"))
    assert "corn run" in run("runs", "-w", str(tmp_path / "clone"))


def test_what_is_lost_or_altered_is_found(machine: Any, database: str, tmp_path: Path) -> None:
    one = machine("one")
    run_id, _ = begin(one)
    whole_pipeline(one, run_id)
    one.flush()
    place = f"{database}?workspace=corn&replica={tmp_path / 'checked'}"
    run("check", "-w", place, "--read-data")
    (key,) = one._engine.layout.blobs.list("artifacts/")
    one._engine.layout.blobs.path(key).unlink()
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("UPDATE nirs_store.log SET body = body || '\\x00' WHERE n = 1")
    said = run("check", "-w", place, "--read-data", code=4)
    assert "commit 1 is not what was committed" in said
    assert key in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("shared", "status", "-w", "."), "expected the address of a shared workspace"),
        (
            ("runs", "-w", "postgresql://lab:hunter2@127.0.0.1:1/x?workspace=corn&patience=0"),
            "could not be reached",
        ),
        (("runs", "-w", "postgresql://lab:hunter2@127.0.0.1/x"), "the name of a workspace"),
        (
            ("runs", "-w", "postgresql://lab:hunter2@127.0.0.1/x?workspace=corn&sslmoode=require"),
            "did you mean 'sslmode'",
        ),
        (
            ("check", "-w", "postgresql://lab:hunter2@127.0.0.1:1/x?workspace=corn&patience=0"),
            "could not be reached",
        ),
        (
            (
                "repair",
                "--restore-catalog",
                "-w",
                "postgresql://lab:hunter2@127.0.0.1:1/x?workspace=corn&patience=0",
            ),
            "built again from the log",
        ),
        (("runs", "-w", "s3://lab/x"), "which nirs_store does not open"),
    ],
)
def test_what_is_no_address_is_refused_in_words_without_its_password(
    words: tuple[str, ...], said: str
) -> None:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code not in (0, 1), done.output
    assert said.lower() in done.output.lower()
    assert "hunter2" not in done.output


def test_the_page_of_a_shared_workspace_says_where_it_is(machine: Any, database: str) -> None:
    starlette = pytest.importorskip(
        "starlette.testclient", reason="the extra nirs-store[ui] is not installed"
    )
    from nirs_store.shared.address import parse
    from nirs_store.ui.app import Desk, make_app
    from nirs_store.ui.guard import Guard

    one = machine("one")
    begin(one, "corn run")
    one.flush()
    place = one._engine.settings.shared
    assert repr(one) == f"WorkspaceStore('{place}')"
    desk = Desk(parse(place))
    client = starlette.TestClient(make_app(desk, Guard("127.0.0.1", "")), base_url="http://127.0.0.1")
    answer = client.get("/runs")
    assert "corn run" in answer.text
    assert "workspace=corn" in answer.text
    desk.close()


def test_what_was_recorded_offline_joins_once(
    folder: Path, machine: Any, database: str, tmp_path: Path
) -> None:
    one = machine("one")
    begin(one, "at the desk")
    one.flush()
    with WorkspaceStore(folder) as store:
        run_id, _ = begin(store, "in the field")
        whole_pipeline(store, run_id)
    place = f"{database}?workspace=corn&replica={tmp_path / 'pushing'}"
    assert "Would add" in run("push", str(folder), place, "--dry-run")
    assert one.list_runs().height == 1
    assert "Added" in run("push", str(folder), place)
    assert "Added 0 rows and 0 blobs" in run("push", str(folder), place)
    assert sorted(one.list_runs()["name"]) == ["at the desk", "in the field"]


@pytest.mark.slow
def test_an_archive_and_an_import_join_a_shared_workspace_and_no_file_goes_into_the_replica(
    folder: Path, machine: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = machine("one")
    whole_pipeline(one, begin(one, "here")[0])
    pipeline_id = one.list_pipelines()["pipeline_id"][0]
    place = f"{database}?workspace=corn&replica={tmp_path / 'two'}"
    with WorkspaceStore(folder) as store:
        whole_pipeline(store, begin(store, "there")[0])
        store.archive(tmp_path / "there.zip")
    assert "Nothing was changed" in run("restore", "there.zip", "-w", place, "--dry-run")
    assert "Restored" in run("restore", "there.zip", "-w", place)
    assert "Everything is there already" in run("restore", "there.zip", "-w", place)
    assert sorted(one.list_runs()["name"]) == ["here", "there"]
    run("archive", "all.tar.zst", "-w", place)
    run("restore", "all.tar.zst", "-w", str(tmp_path / "new"))
    assert "there" in run("runs", "-w", str(tmp_path / "new"))
    run("backup", "create", "backups", "-w", place)
    run("restore", "backups", "back")
    with WorkspaceStore("back") as store:
        assert sorted(store.list_runs()["name"]) == ["here", "there"]
        assert store.check(read_data=True).errors == ()
        store.begin_run("on its own", {}, [])
    assert run("export", pipeline_id, "-w", place).strip().startswith("exports")
    assert not (tmp_path / "two" / "exports").exists()


@pytest.mark.parametrize(
    "words", [("list",), ("show", "pls"), ("save", "some.json"), ("save", "0123abcd", "name")]
)
def test_templates_are_files_of_a_folder(words: tuple[str, ...], tmp_path: Path) -> None:
    said = run("library", *words, "-w", "postgresql://lab:hunter2@127.0.0.1:1/x?workspace=corn", code=2)
    assert "Name a folder" in said
    assert "hunter2" not in said


def test_the_compose_file_of_the_guide_turns_encryption_on_and_defines_all_it_uses() -> None:
    import re

    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    page = Path(__file__).parents[2] / "docs" / "guide" / "several-computers.md"
    (text,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    found = yaml.safe_load(text)
    assert set(found["services"]) == {"postgres", "objects"}
    assert "ssl=on" in found["services"]["postgres"]["command"]
    assert "--certs-dir" in found["services"]["objects"]["command"]
    for service in found["services"].values():
        assert set(service["secrets"]) <= set(found["secrets"])
        named = {volume.partition(":")[0] for volume in service["volumes"]}
        assert {each for each in named if not each.startswith("./certs")} <= set(found["volumes"])
