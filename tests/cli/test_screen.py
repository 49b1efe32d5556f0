"""``nirs-store screen``."""

from __future__ import annotations

import json

import polars as pl
import pytest

from nirs_store import WorkspaceStore, load_tecator


@pytest.fixture
def file(tmp_path):
    meat = load_tecator()
    frame = pl.DataFrame({"lot": [row // 2 for row in range(60)], "fat": meat.fat[:60]})
    frame.hstack(pl.DataFrame(meat.X[:60], schema=[f"{w:.1f}" for w in meat.wavelengths])).write_csv(
        tmp_path / "meat.csv"
    )
    return tmp_path / "meat.csv"


def test_a_file_is_screened_and_the_best_is_kept(run, tmp_path, file):
    with WorkspaceStore(tmp_path / "ws"):
        pass
    words = [
        "screen",
        str(file),
        "--target",
        "fat",
        "--unit",
        "%",
        "--groups",
        "lot",
        "--preprocess",
        "raw,sg1(11,2),snv+center",
    ]
    words += ["--components", "2,4-6", "--cv", "4", "-w", str(tmp_path / "ws")]
    shown = run(*words)
    assert "12 candidates in the run" in shown.stdout
    assert "Best by one_se: " in shown.stdout
    found = json.loads(run(*words, "--json").stdout)
    assert {row["preprocessing"] for row in found["candidates"]} == {"raw", "sg1(11,2)", "snv+center"}
    assert [row["chain_id"] for row in found["candidates"] if row["kept"]] == [found["best"]]
    with WorkspaceStore(tmp_path / "ws") as store:
        assert store.list_runs().height == 1
        assert store.get_chain(found["best"])["metadata"]["n_groups"] == 30
    tested = json.loads(run(*words, "--test", str(file), "--json", "--keep", "2").stdout)
    assert all((row["rmsep"] is not None) == row["kept"] for row in tested["candidates"])
    assert sum(row["kept"] for row in tested["candidates"]) >= 2
    # Scores of 0.01 or of 10 have digits that tell them apart.
    values = [row["rmsecv"] for row in found["candidates"]]
    column = [line.split()[4] for line in shown.stdout.splitlines()[1:11]]
    assert len(set(column)) == len({f"{value:.5g}" for value in values[:10]})
    frame = pl.read_csv(file).with_columns(water=100 - pl.col("fat"))
    frame.select("lot", "fat", "water", pl.exclude("lot", "fat", "water")).write_csv(tmp_path / "both.csv")
    words[1] = str(tmp_path / "both.csv")
    both = json.loads(run(*words, "--target", "water", "--json").stdout)
    with WorkspaceStore(tmp_path / "ws") as store:
        assert store.get_chain(both["best"])["metadata"]["target_names"] == ["fat", "water"]
    assert "fat, water (%)" in run("show", both["best"], "-w", str(tmp_path / "ws")).stdout
    for option, value, complaint in (
        ("--components", "5-2", "1-15 or 2,4,8"),
        ("--preprocess", "snw", "Did you mean 'snv'"),
    ):
        refused = run(*words, option, value, expect=2)
        assert complaint in " ".join(refused.stderr.split())


def test_a_test_set_needs_no_groups_and_a_stopped_screening_says_how_to_go_on(
    run, tmp_path, file, monkeypatch
):
    with WorkspaceStore(tmp_path / "ws"):
        pass
    pl.read_csv(file).drop("lot").write_csv(tmp_path / "test.csv")
    words = ["screen", str(file), "--target", "fat", "--groups", "lot", "--components", "2,3", "--cv", "3"]
    words += ["-w", str(tmp_path / "ws")]
    found = json.loads(run(*words, "--test", str(tmp_path / "test.csv"), "--json").stdout)
    assert any(row["rmsep"] for row in found["candidates"])

    def stopped(*_given, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkspaceStore, "screen", stopped)
    assert "same command continues" in run(*words, expect=1).stderr
