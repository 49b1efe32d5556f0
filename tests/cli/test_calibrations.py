"""`nirs-store calibrations`, and the other commands with the name of a calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import WorkspaceStore


@pytest.fixture
def fat(own_copy: Any, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> Any:
    """A copy of the workspace with two versions of the calibration fat; the second is in production."""
    monkeypatch.setenv("NIRS_STORE_WORKSPACE", str(own_copy.path))
    run(
        "calibrations",
        "register",
        "fat",
        own_copy.chains["worse"].chain_id[-8:],
        "--matrix",
        "meat",
        "--range",
        "0",
        "60",
    )
    run("calibrations", "register", "fat", own_copy.chains["better"].chain_id, "--alias", "production", "-m", "cleaner",
        "--fact", "reference_method=ISO 1443")  # fmt: skip
    return own_copy


def test_a_life_of_a_calibration(fat: Any, run: Any, run_json: Any) -> None:
    assert [row["latest"] for row in run_json("calibrations", "list", "--json")] == [2]
    shown = run("calibrations", "show", "fat").output
    for words in ("v2", "production", "cleaner", "registered"):
        assert words in shown
    run("calibrations", "alias", "fat", "production", "v1", "--reason", "a scare", "--by", "Ada")
    assert run_json("calibrations", "alias", "fat", "--json") == {"production": 1}
    version = run_json("calibrations", "show", "fat@production", "--json")
    assert (version["version"], version["scope"]) == (1, {"matrix": ["meat"], "range": [0.0, 60.0]})
    assert run_json("calibrations", "show", "fat", "--json")["history"][-1]["reason"] == "a scare"
    assert "fat@v1" in run("calibrations", "show", "fat@v1").output
    with WorkspaceStore(fat.path) as store:
        store.datasets.add("meat", np.eye(3))
    chain = fat.chains["better"].chain_id
    run("calibrations", "register", "other", chain, "--dataset", "meat@v1", "--alias", "production")
    assert run_json("calibrations", "show", "other@v1", "--json")["dataset"] == "meat@v1"
    assert "meat@v1" in run("calibrations", "show", "other@v1").output
    run("datasets", "delete", "meat@v1", "--force", "--yes")
    assert "(deleted)" in run("calibrations", "show", "other@v1").output
    run("calibrations", "alias", "fat", "production", "--remove")
    assert "No aliases" in run("calibrations", "alias", "fat").output


def test_signatures_rules_and_deletion(fat: Any, run: Any, run_json: Any, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef\n")
    run("calibrations", "rule", "fat", "candidate", "--signatures", "1", "--others", "0")
    assert "demands" in run("calibrations", "alias", "fat", "candidate", "v1", expect=2).output
    said = run(
        "calibrations", "sign", "fat@v1", "--meaning", "approval", "--signer", "Grace", "--key-file", key
    )
    assert "approval of fat@v1 by Grace" in said.output
    run("calibrations", "alias", "fat", "candidate", "v1")
    run("calibrations", "alias", "fat", "candidate", "--remove")
    found = run_json("calibrations", "verify", "fat@v1", "--key-file", key, "--json")
    assert (found["ok"], found["unchecked"]) == (True, [])
    assert "--key-file" in run("calibrations", "verify", "fat@v1").output
    run("calibrations", "delete", "fat@v1", "--dry-run")
    assert "Give a reason" in run("calibrations", "delete", "fat@v1", "--yes", expect=2).output
    deleted = run_json("calibrations", "delete", "fat@v1", "--yes", "-m", "wrong", "--json")
    run("trash", "restore", deleted["version_id"])
    with WorkspaceStore(fat.path) as store:
        store._engine.change(lambda con: con.execute("UPDATE signatures SET signer = 'Boss'"))
    assert "NOT VALID" in run("calibrations", "verify", "fat@v1", expect=4).output
    assert "Removed" in run("calibrations", "rule", "fat", "candidate", "--remove").output


def test_a_name_is_taken_by_the_other_commands(
    fat: Any, run: Any, run_json: Any, spectra: Path, tmp_path: Path
) -> None:
    better = fat.chains["better"].chain_id
    by_name = run("predict", "fat@production", spectra, "--instrument", "lab 1")
    assert "calibration: fat@v2" in by_name.stderr
    assert by_name.stdout == run("predict", better, spectra).stdout
    with WorkspaceStore(fat.path) as store:
        logged = store.sql(
            "SELECT DISTINCT calibration, version, instrument, count(*) FROM measurements GROUP BY ALL"
        )
        assert logged.rows() == [("fat", 2, "lab 1", 20)]
    run("predict", "fat@v2", spectra, "--no-log")
    assert "outside scope: matrix" in run("predict", "fat@v1", spectra, "--matrix", "milk").stdout
    assert run_json("show", "fat@v2", "--json")["chain_id"] == better
    assert "fat@production" in run("show", better).output
    assert {tuple(row["calibrations"]) for row in run_json("top", "--json")} == {
        ("fat@v1",),
        ("fat@production",),
    }
    assert "fat@production" in run("top").output
    assert run_json("review", "fat", "--json")["chain_id"] == better
    run("diagnose", "fat@v2", spectra, "--target", "fat")
    for command in (("bundle", "export"), ("export",)):
        bundle = tmp_path / f"{command[0]}.n4a"
        run(*command, "fat@production", bundle)
        assert "fat@v2" in run("bundle", "inspect", bundle).output
    for wrong in ("fat@nothing", "fat@v9", "fta"):
        assert "Error" in run("predict", wrong, spectra, expect=3).output


def test_a_dossier_is_written_and_its_holes_are_named(
    fat: Any, run: Any, run_json: Any, tmp_path: Path
) -> None:
    said = run("calibrations", "dossier", "fat@production", "--no-figures", "--output", tmp_path / "fat.html")
    assert "Reference method: laboratory" in said.stderr
    assert "ISO 1443" in (tmp_path / "fat.html").read_text()
    path = run("calibrations", "dossier", "fat@v1", "--no-figures").stdout.strip()
    assert Path(path).parent == fat.path / "exports"
    assert "Scope: instruments" in run_json("calibrations", "dossier", "fat@v1", "--json")["missing"]


def test_what_an_alias_needs_is_not_deleted(fat: Any, run: Any) -> None:
    better = fat.chains["better"].chain_id
    for thing in (better, fat.run_id):
        for how in ("--dry-run", "--yes"):
            assert "fat@production names it" in run("delete", thing, how, expect=2).output
    assert "points to it" in run("calibrations", "delete", "fat@v2", "--yes", expect=2).output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("alias", "fat", "v2", "v1"), 2),
        (("alias", "fat", "stable"), 2),
        (("alias", "fat", "--remove"), 2),
        (("alias", "fta", "stable", "v1"), 3),
        (("register", "a@b", "CHAIN"), 2),
        (("register", "fat", "nothing"), 3),
        (("register", "fat", "CHAIN", "--fact", "no sign"), 2),
        (("register", "fat", "CHAIN", "--range", "60", "0"), 2),
        (("sign", "fat", "--meaning", "aproval"), 2),
        (("verify", "fat@v7"), 3),
        (("delete", "fat@v1"), 2),
        (("show", "fat@"), 3),
    ],
)
def test_wrong_words_are_refused(fat: Any, run: Any, arguments: tuple[str, ...], code: int) -> None:
    given = [fat.chains["worse"].chain_id if each == "CHAIN" else each for each in arguments]
    run("calibrations", *given, expect=code)
    with WorkspaceStore(fat.path) as store:
        assert store.calibrations.aliases("fat") == {"production": 2}
        assert store.calibrations.versions("fat").height == 2
