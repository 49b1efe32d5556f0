"""The command line over several targets, repeats, hostile names; the workspace named before the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold, RepeatedKFold

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation

MEAT = load_tecator()
X = MEAT.X[:40, ::10]


def fill(store: Any, **words: Any) -> Any:
    words = {"cv": KFold(3), "dataset_name": "corn", "refit": False} | words
    y = words.pop("y", MEAT.fat[:40])
    return record_cross_validation(store, PLSRegression(words.pop("lv", 2)), X, y, **words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked") / "ws"
    with WorkspaceStore(folder) as store:
        for lv in (1, 3):
            fill(store, lv=lv, target="fat", target_unit="%")
            fill(store, lv=lv, y=MEAT.y["protein"][:40], target="protein", target_unit="%")
        fill(store, dataset_name="oats", cv=RepeatedKFold(n_splits=3, n_repeats=2, random_state=0))
        run = fill(store, dataset_name="corn").run_id
        store.tag_run(run, "june")
    return folder


def test_each_target_has_a_table_and_one_may_be_named(run: Any, run_json: Any, place: Path) -> None:
    tables = run("top", "-w", place).stdout.split("\n\n")
    assert len(tables) == 3
    assert [table.splitlines()[0] for table in tables[:2]] == ["corn fat (%)", "corn protein (%)"]
    assert "SD of repeats" in tables[2]
    assert "SD of repeats" not in tables[0]
    rows = run_json("top", "-w", place, "--target", "protein", "--json")
    assert [(row["target"], row["unit"]) for row in rows] == [("protein", "%")] * 2
    cells = run_json("pivot", "-w", place, "--rows", "model_name", "--columns", "target", "--json")["cells"]
    assert {name for cell in cells for name in cell} == {"model_name", "fat (%)", "protein (%)", "no target"}
    assert run("pivot", "-w", place).stdout.startswith("best rmse")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("top", "--dataset", "cron"), "'cron'. Did you mean 'corn'? Known: 'corn', 'oats'."),
        (("top", "--target", "fats"), "'fats'. Did you mean 'fat'?"),
        (("pivot", "--dataset", "Oats"), "Did you mean 'oats'?"),
        (("pivot", "--target", "x"), "Known: 'fat', 'protein'."),
        (("runs", "--tag", "jun"), "Did you mean 'june'?"),
        (("runs", "--dataset", "c\x1b[2Jorn"), "Did you mean 'corn'?"),
    ],
)
def test_a_name_that_nothing_has_is_answered_with_those_there_are(
    words: tuple[str, ...], said: str, run: Any, place: Path
) -> None:
    result = run(*words, "-w", place)
    assert said in result.stderr
    assert "\x1b" not in result.output
    assert "No chains with predictions" not in result.output


def test_the_workspace_may_be_named_before_the_command(
    run: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIRS_STORE_WORKSPACE", str(tmp_path / "elsewhere"))
    expected = run("top", "-w", place).stdout
    assert run("-w", place, "top").stdout == expected
    assert run("--workspace", place, "files", "list").exit_code == 0
    assert run("-w", tmp_path / "nowhere", "top", "-w", place).stdout == expected


HOSTILE = ("fat\x1b]0;owned\x07\x1b[2Jmeat\u202egpj", "a\x9b2Jb\u2066c", "two\u2028lines\x85more")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_command_lets_a_name_steer_the_terminal(run: Any, tmp_path: Path, name: str) -> None:
    with WorkspaceStore(tmp_path / "ws") as store:
        result = fill(store, dataset_name=name, name=name, target=name, target_unit=name)
        store.annotate_run(result.run_id, name)
    at = ("-w", tmp_path / "ws")
    sql = "SELECT name FROM runs"
    for words in (
        ("runs",), ("top",), ("pivot",), ("stats",), ("show", result.run_id), ("show", result.chain_id),
        ("show", result.pipeline_id), ("logs", result.run_id), ("sql", sql), ("runs", "--json"),
        ("lineage", "show", result.chain_id), ("delete", result.run_id, "--dry-run"), ("runs", "--dataset", "x"),
    ):  # fmt: skip
        output = run(*words, *at).output
        assert all(sign.isprintable() or sign == "\n" for sign in output), words
    # A program gets a CSV as it is.
    assert name in run("sql", sql, "--csv", *at).stdout.replace("\r\n", "\n")
