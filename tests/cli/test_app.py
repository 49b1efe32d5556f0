"""The program as a whole: help, errors, suggestions, completion, and what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from clikit import invoke, program

import nirs_store
from nirs_store.errors import NotAWorkspace, WriteFailed

CONTEXT = click.Context(program)
HEAVY = {"numpy", "duckdb", "polars", "pyarrow", "sklearn", "scipy", "matplotlib", "rich", "joblib"}


def environment(**more: str) -> dict[str, str]:
    """Variables with which a new process finds this package, installed or not."""
    return {**os.environ, "PYTHONPATH": str(Path(nirs_store.__file__).parents[1]), **more}


def test_the_help_lists_every_command_with_its_line() -> None:
    shown = " ".join(invoke("--help").output.split())
    for command in program.shell_complete(CONTEXT, ""):
        assert f" {command.value} {command.help}" in shown


def loaded_by(*args: str) -> set[str]:
    """Modules that a new process has loaded after running the program."""
    code = (
        "import json, sys; from nirs_store.cli import main\n"
        f"try: main({list(args)!r})\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60, env=environment())
    return set(json.loads(done.stdout.splitlines()[-1]))


def commands_in(loaded: set[str]) -> set[str]:
    return {name for name in loaded if name.startswith("nirs_store.cli.commands.")}


def test_the_help_loads_no_scientific_package_and_no_command() -> None:
    loaded = loaded_by("--help")
    assert not loaded & HEAVY
    assert not commands_in(loaded)


@pytest.mark.parametrize("name", program.list_commands(CONTEXT))
def test_every_command_has_a_help_of_its_own(name: str, run: Any) -> None:
    shown = run(name, "--help").output
    assert f"nirs-store {name}" in shown
    command = program.get_command(CONTEXT, name)
    assert command is not None
    assert command.help is not None
    assert len(command.help.splitlines()[0]) > 20
    assert command.name == name


def test_the_help_of_one_command_loads_only_that_command() -> None:
    loaded = loaded_by("predict", "--help")
    assert commands_in(loaded) == {"nirs_store.cli.commands.predict"}
    assert not loaded & HEAVY


def test_the_version_is_that_of_the_package(run: Any) -> None:
    assert run("--version").output == f"nirs-store {nirs_store.__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("topp", "top"), ("predcit", "predict"), ("libary", "library")])
def test_a_misspelt_command_is_answered_with_the_nearest(typed: str, meant: str, run: Any) -> None:
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in run(typed, expect=2).stderr


def test_a_misspelt_subcommand_is_answered_too(run: Any) -> None:
    assert "Did you mean 'list'?" in run("library", "lst", expect=2).stderr


def test_what_resembles_nothing_gets_no_suggestion(run: Any) -> None:
    shown = run("xyzzy", expect=2).stderr
    assert "No such command 'xyzzy'. See 'nirs-store --help'." in shown


def test_a_command_of_a_hundred_thousand_letters_is_cut(run: Any) -> None:
    assert len(run("lineage", "A" * 100_000, expect=2).stderr) < 1000


@pytest.mark.of_a_folder("the message is about a folder")
def test_an_error_is_one_plain_line_with_the_exit_code_of_its_class(tmp_path: Path, run: Any) -> None:
    result = run("runs", "-w", tmp_path / "nowhere", expect=7)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "nowhere is not a workspace" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "nowhere").exists()


def _groups() -> list[str]:
    names = program.list_commands(CONTEXT)
    return [name for name in names if isinstance(program.get_command(CONTEXT, name), click.Group)]


@pytest.mark.parametrize("group", _groups())
def test_every_group_and_every_command_in_it_takes_debug(group: str) -> None:
    found = program.get_command(CONTEXT, group)
    assert isinstance(found, click.Group)
    for command in (found, *found.commands.values()):
        assert [o for parameter in command.params for o in parameter.opts].count("--debug") == 1, command.name


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_lets_the_error_through_wherever_it_is_written(place: str, tmp_path: Path) -> None:
    call = ["runs", "-w", str(tmp_path / "nowhere")]
    result = invoke(*(["--debug", *call] if place == "before" else [*call, "--debug"]))
    assert isinstance(result.exception, NotAWorkspace)


def test_python_m_is_the_program_and_writes_errors_to_stderr(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nirs_store", "runs", "-w", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("Error: ")


def test_an_error_of_the_operating_system_names_the_file(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "store.duckdb")

    monkeypatch.setattr("nirs_store.scaffold.copy_workspace_template", full)
    result = run("init", tmp_path / "ws", expect=WriteFailed.exit_code)
    assert result.stderr == "Error: No space left on device (store.duckdb)\n"


def test_no_color_takes_the_colours_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = ["runs", "-w", str(tmp_path)]
    assert "\x1b[" in invoke(*call, color=True).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in invoke(*call, color=True).stderr


def test_the_shell_completes_commands_with_their_help_and_options() -> None:
    def complete(instruction: str, words: str, position: int) -> str:
        environment = {
            "_NIRS_STORE_COMPLETE": instruction,
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        }
        return invoke(env=environment).output

    words = complete("zsh_complete", "nirs-store l", 1)
    assert "Show the log of a pipeline or a run." in words
    assert "library" in words
    assert "demo" not in words
    assert complete("bash_complete", "nirs-store top --r", 2).strip() == "plain,--run"


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize("call", ["runs >&-", "check 2>&-", "delete ID <&-"])
def test_a_closed_stream_is_no_traceback(call: str, recorded: Any) -> None:
    command = f'"{sys.executable}" -m nirs_store {call.replace("ID", recorded.run_id)}'
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(NIRS_STORE_WORKSPACE=str(recorded.path)),
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "delete" in call else 0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash and head")
def test_a_reader_that_goes_away_is_no_error(recorded: Any) -> None:
    command = f'"{sys.executable}" -m nirs_store show {recorded.chains["better"].chain_id} --json | head -c 1'
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(NIRS_STORE_WORKSPACE=str(recorded.path)),
    )
    assert (done.stdout, done.stderr) == ("{", "")
