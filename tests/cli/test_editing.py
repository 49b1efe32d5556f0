"""Commands that edit what may be edited of a run: rename, note, tag; and where it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from nirs_store import WorkspaceStore


def test_a_run_gets_another_name(run: Any, run_json: Any, own_copy: Any) -> None:
    shown = run("rename", own_copy.run_id[-8:], "fat, again", "-w", own_copy.path).stdout
    assert shown == f"{own_copy.run_id[-8:]} is now called fat, again.\n"
    (entry,) = run_json("runs", "--json", "-w", own_copy.path)
    assert (entry["run_id"], entry["name"], entry["status"]) == (own_copy.run_id, "fat, again", "completed")


def test_a_note_is_written_replaced_and_taken_off(run: Any, run_json: Any, own_copy: Any) -> None:
    place = ("-w", own_copy.path)
    assert run("note", own_copy.run_id, "first", *place).stdout == f"Noted on {own_copy.run_id[-8:]}.\n"
    run("note", own_copy.run_id, "-", *place, input="The lamp was new.\nSo was I.\n")
    assert run_json("show", own_copy.run_id, "--json", *place)["note"] == "The lamp was new.\nSo was I."
    lines = [line.strip() for line in run("show", own_copy.run_id, *place).stdout.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("note"))
    assert lines[start].removeprefix("note").strip() == "The lamp was new."
    assert lines[start + 1] == "So was I."
    assert "Took the note off" in run("note", own_copy.run_id, "", *place).stdout
    assert "\nnote" not in run("show", own_copy.run_id, *place).stdout


def test_tags_are_added_shown_found_and_removed(run: Any, run_json: Any, own_copy: Any) -> None:
    place = ("-w", own_copy.path)
    assert "tags" not in run("runs", *place).stdout
    assert run("tag", own_copy.run_id[-8:], "meat", "new lamp", *place).stdout == "meat, new lamp\n"
    assert "meat, new lamp" in run("show", own_copy.run_id, *place).stdout
    table = run("runs", *place).stdout.splitlines()
    assert table[0].split()[-1] == "tags"
    assert table[1].endswith("meat, new lamp")
    (entry,) = run_json("runs", "--tag", "meat", "--tag", "new lamp", "--json", *place)
    assert entry["tags"] == ["meat", "new lamp"]
    assert run("runs", "--tag", "meat", "--tag", "milk", *place).stdout == "No runs fit.\n"
    assert run("tag", "--remove", own_copy.run_id, "meat", "never", *place).stdout == "new lamp\n"
    assert run("tag", "--remove", own_copy.run_id, "new lamp", *place).stdout == "No tags.\n"


def test_show_tells_the_environment_that_a_run_was_recorded_in(
    run: Any, run_json: Any, recorded: Any
) -> None:
    recorded_in = run_json("show", recorded.run_id, "--json")["environment"]
    shown = " ".join(run("show", recorded.run_id).stdout.split())
    assert {"python", "platform", "numpy"} <= recorded_in.keys()
    for name, version in recorded_in.items():
        assert f"{name} {version}" in shown


@pytest.mark.parametrize("call", [("rename", "new"), ("note", "text"), ("tag", "meat")])
def test_only_runs_that_exist_are_edited(call: tuple[str, str], run: Any, own_copy: Any) -> None:
    name, value = call
    place = ("-w", own_copy.path)
    assert "No run has the id 'deadbeef'" in run(name, "deadbeef", value, *place, expect=3).stderr
    chain_id = own_copy.chains["better"].chain_id
    assert "No run has the id" in run(name, chain_id, value, *place, expect=3).stderr
    assert "Missing argument" in run(name, own_copy.run_id, *place, expect=2).stderr


def test_a_tag_with_a_comma_is_refused(run: Any, own_copy: Any) -> None:
    assert "without commas" in run("tag", own_copy.run_id, "a,b", "-w", own_copy.path, expect=2).stderr
    with WorkspaceStore(own_copy.path, create=False) as store:
        assert store.get_run(own_copy.run_id)["tags"] == []


def test_a_name_with_control_characters_cannot_break_the_table(run: Any, own_copy: Any) -> None:
    run("rename", own_copy.run_id, "two\nlines \x1b[31m", "-w", own_copy.path)
    table = run("runs", "-w", own_copy.path).stdout
    assert len(table.splitlines()) == 2
    assert "\x1b" not in table
