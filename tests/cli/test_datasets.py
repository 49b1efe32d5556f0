"""``nirs-store datasets``, and data sets where a file of spectra is expected."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from clikit import invoke

from nirs_store import WorkspaceStore, load_tecator
from nirs_store.cli import main

MEAT = load_tecator()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    table = pl.DataFrame(MEAT.X[:60], schema=[f"{w:g}" for w in MEAT.wavelengths])
    table = table.with_columns(
        pl.Series("sample", [f"m{n}" for n in range(60)]), pl.Series("fat", MEAT.fat[:60])
    )
    table.write_csv("meat.csv")
    table.with_columns(pl.col("fat") + (pl.col("sample") == "m7")).write_csv("corrected.csv")
    with WorkspaceStore(tmp_path / "workspace"):
        pass

    def call(*arguments: str, code: int = 0) -> str:
        told = invoke(*arguments, "--workspace", "workspace")
        assert told.exit_code == code, told.output
        return told.stdout if code == 0 else told.output

    return call


def test_data_sets_from_adding_to_deleting(run: Any, tmp_path: Path) -> None:
    add = ("datasets", "add", "meat")
    assert "Stored meat@v1: 60 samples" in run(*add, "meat.csv", "--unit", "fat=%", "-m", "first")
    assert "nothing was stored" in run(*add, "meat.csv", "--unit", "fat=%")
    run(*add, "corrected.csv", "--unit", "fat=%")
    assert [row["version"] for row in json.loads(run("datasets", "versions", "meat", "--json"))] == [1, 2]
    assert json.loads(run("datasets", "diff", "meat@v1", "meat", "--json"))["corrected"] == [
        {"sample": "m7", "column": "fat", "before": str(MEAT.fat[7]), "after": str(MEAT.fat[7] + 1)}
    ]
    for sample, where in (("m3", "is in meat@v1, meat@v2"), ("m33x", "is in no data set")):
        told = run("datasets", "chains", sample)
        assert f"No chain that was recorded from a data set has seen it. {sample!r} {where}." in told
    run("datasets", "select", "meat@v1", "lean", "--where", "fat < 10")
    run("datasets", "select", "meat@v1", "two", "--id", "m3", "--id", "m4")
    assert "m3" in run("datasets", "common", "two", "meat")
    assert json.loads(run("datasets", "show", "lean", "--json"))["selection"]["where"] == "fat < 10"
    run("datasets", "export", "two@v1", "two.parquet")
    assert pl.read_parquet("two.parquet").height == 2
    run("screen", "meat@v1", "--target", "fat", "--components", "2,3", "--preprocess", "raw")
    (chain,) = {
        row["chain_id"]
        for row in json.loads(run("datasets", "chains", "m3", "--json"))
        if "PLS" in row["pipeline"]
    }
    predicted = pl.read_csv(run("predict", chain, "two@v1").encode())
    with WorkspaceStore(tmp_path / "workspace") as store:
        np.testing.assert_allclose(predicted["predicted_fat"], store.replay_chain(chain, MEAT.X[3:5]).ravel())
    assert "2 samples" in run("diagnose", chain, "two@v1")
    assert "needed by the selection" in run("datasets", "delete", "meat@v1", "--yes", code=2)
    run("datasets", "delete", "two@v1", "--yes")
    assert [row["name"] for row in json.loads(run("datasets", "list", "--json"))] == ["lean", "meat"]


def test_a_warning_has_one_line_without_code(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("datasets", "add", "meat", "meat.csv")
    run("screen", "meat@v1", "--target", "fat", "--components", "2", "--preprocess", "raw")
    run("datasets", "delete", "meat@v1", "--yes", "--force")
    with warnings.catch_warnings(action="default"), pytest.raises(SystemExit) as ended:
        main(["datasets", "chains", "m3", "--workspace", "workspace"])
    told = capsys.readouterr()
    assert ended.value.code == 0
    assert told.err.startswith(
        "warning: Chains were recorded from data sets that have been deleted (1 in all)"
    )
    assert len(told.err.splitlines()) == 1
    assert "'m3' is in no data set" in told.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("datasets", "show", "corn"), "no data set 'corn'"),
        (("datasets", "add", "meat", "meat.csv", "--unit", "percent"), "COLUMN=UNIT"),
        (("screen", "corn@v1", "--target", "fat"), "no data set 'corn'"),
        (("datasets", "select", "meat", "x"), "one of ids, rows and where"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run: Any, arguments: tuple[str, ...], words: str) -> None:
    told = run(*arguments, code=3 if "no data set" in words else 2)
    assert words in told
    assert "Traceback" not in told
