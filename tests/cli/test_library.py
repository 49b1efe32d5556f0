"""``nirs-store init`` and ``nirs-store library``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import nirs_store
from nirs_store import WorkspaceStore

TECATOR = Path(nirs_store.__file__).parent / "data" / "tecator.csv"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A third of the meat samples, to be quick, with a class column."""
    frame = pl.read_csv(TECATOR).head(70)
    label = pl.when(pl.col("fat") > 20).then(pl.lit("fat")).otherwise(pl.lit("lean")).alias("class")
    path = tmp_path / "meat.csv"
    frame.with_columns(label).write_csv(path)
    return path


@pytest.mark.of_a_folder("templates are files of a folder")
def test_init_makes_a_workspace_with_templates_and_leaves_what_is_there(run: Any, tmp_path: Path) -> None:
    workspace = tmp_path / "new"
    assert "is a workspace now" in run("init", workspace).stdout
    with WorkspaceStore(workspace, create=False) as store:
        assert store.list_runs().height == 0
    (workspace / "README.md").write_text("my own words")
    shown = run("init", workspace).stdout
    assert shown.splitlines() == [f"{workspace} is a workspace already."]
    assert (workspace / "README.md").read_text() == "my own words"


def test_init_refuses_a_file_in_the_place_of_the_folder(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in run("init", tmp_path / "file", expect=7).stderr


@pytest.mark.of_a_folder("templates are files of a folder")
def test_templates_are_listed_and_shown(run: Any, run_json: Any, tmp_path: Path) -> None:
    run("init", tmp_path)
    assert "regression/pls_baseline" in run("library", "list", "-w", tmp_path).stdout
    names = [each["name"] for each in run_json("library", "list", "--tag", "lda", "--json", "-w", tmp_path)]
    assert names == ["snv_pca_lda"]
    shown = run_json("library", "show", "regression/pls_baseline", "-w", tmp_path)
    assert shown["pipeline"]["steps"][0]["class"] == "sklearn.cross_decomposition.PLSRegression"
    assert (
        "Did you mean 'pls_baseline'"
        in run("library", "show", "pls_baselin", "-w", tmp_path, expect=3).stderr
    )


@pytest.mark.of_a_folder("templates are files of a folder")
def test_templates_are_listed_of_a_workspace_or_a_folder_of_templates_only(run: Any, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert "is not a workspace" in run("library", "list", "-w", folder, expect=7).stderr
    run("init", tmp_path / "ws")
    (tmp_path / "ws" / "store.duckdb").unlink()
    assert "pls_baseline" in run("library", "list", "-w", tmp_path / "ws").stdout
    WorkspaceStore(tmp_path / "bare").close()
    assert run("library", "list", "-w", tmp_path / "bare").stdout == "No templates.\n"


def test_a_recorded_chain_becomes_a_template_that_runs(run: Any, own_copy: Any, data: Path) -> None:
    result = own_copy.chains["better"]
    run("library", "save", result.chain_id[-8:], "mine", "--tag", "pls", "-w", own_copy.path)
    again = run("library", "save", result.pipeline_id, "mine", "-w", own_copy.path, expect=2).stderr
    assert "already" in again
    assert "--overwrite" in again
    unknown = run("library", "show", "zzz", "-w", own_copy.path, expect=3).stderr
    assert "'nirs-store library list'" in unknown
    shown = run(
        "library", "run", "mine", "--data", data, "--target", "protein", "--unit", "%", "-w", own_copy.path
    )
    assert shown.stdout.startswith("StandardScaler > PLS(6): RMSECV ")
    chain_id = shown.stdout.split()[-1]
    with WorkspaceStore(own_copy.path, create=False) as store:
        chain = store.get_chain(chain_id)
    assert (chain["metadata"]["target"], chain["metadata"]["target_unit"]) == ("protein", "%")
    assert len(chain["wavelengths"]) == 100
    assert list(chain["fold_artifacts"]) == ["fold_0", "fold_1", "fold_2", "final"]


def test_a_shipped_template_runs_in_a_new_folder(run: Any, run_json: Any, data: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "new"
    run(
        "library",
        "run",
        "snv_pca_lda",
        "--data",
        data,
        "--target",
        "class",
        "--name",
        "meat",
        "-w",
        workspace,
    )
    (row,) = run_json("top", "--json", "-w", workspace)
    assert (row["task_type"], row["metric"]) == ("classification", "balanced_accuracy")
    assert row["score"] > 0.7
    assert "balanced accuracy" in run("top", "-w", workspace).stdout


def test_a_template_can_be_a_file_and_groups_stay_together(run: Any, data: Path, tmp_path: Path) -> None:
    config = {
        "steps": [{"class": "sklearn.linear_model.Ridge"}],
        "cv": {"class": "sklearn.model_selection.GroupKFold", "params": {"n_splits": 2}},
    }
    template = tmp_path / "ridge.json"
    template.write_text(json.dumps(config))
    call = ("library", "run", template, "--data", data, "--target", "fat", "-w", tmp_path / "ws")
    assert "Ridge(alpha=1.0): RMSECV" in run(*call, "--groups", "class").stdout
    assert "groups" in run(*call, expect=2).stderr


@pytest.mark.parametrize(
    "cv", [2, {"class": "sklearn.model_selection.ShuffleSplit", "params": {"n_splits": 2}}]
)
def test_a_template_that_knows_no_groups_keeps_them_together(
    run: Any, data: Path, tmp_path: Path, cv: Any
) -> None:
    template, workspace = tmp_path / "ridge.json", tmp_path / "ws"
    template.write_text(json.dumps({"steps": [{"class": "sklearn.linear_model.Ridge"}], "cv": cv}))
    frame = pl.read_csv(data).with_columns(pl.int_range(pl.len()).mod(7).alias("sample"))
    frame.write_csv(data)
    call = (
        "library",
        "run",
        template,
        "--data",
        data,
        "--target",
        "fat",
        "--groups",
        "sample",
        "-w",
        workspace,
    )
    assert "Samples of one sample stay in one fold: Group" in run(*call).stderr
    with WorkspaceStore(workspace, create=False) as store:
        for fold in ("fold_0", "fold_1"):
            sides = []
            for partition in ("train", "val"):
                ids = store.query_predictions(partition=partition, fold_id=fold)["prediction_id"].to_list()
                sides.append(
                    {int(row) % 7 for row in store.get_prediction_arrays(ids)[ids[0]]["sample_indices"]}
                )
            assert sides[0].isdisjoint(sides[1])
            assert len(sides[0] | sides[1]) == 7
    template.write_text(
        json.dumps(
            {
                "steps": [{"class": "sklearn.linear_model.Ridge"}],
                "cv": {"class": "sklearn.model_selection.TimeSeriesSplit"},
            }
        )
    )
    assert "TimeSeriesSplit ignores groups" in run(*call, expect=2).stderr


def test_samples_without_a_value_are_left_out_aloud(run: Any, data: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(data)
    gaps = frame.with_columns(pl.when(pl.int_range(pl.len()) > 4).then(pl.col("fat")).alias("fat"))
    gaps.write_csv(data)
    call = ("library", "run", "pls_baseline", "--data", data, "--target", "fat", "-w", tmp_path / "ws")
    with_gaps = run(*call)
    assert "5 samples without a value of 'fat' are left out" in with_gaps.stderr
    frame[5:].write_csv(data)
    assert run(*call).stdout.splitlines()[0] == with_gaps.stdout.splitlines()[0]


def test_what_cannot_be_run_is_refused_and_makes_no_workspace(run: Any, data: Path, tmp_path: Path) -> None:
    def refused(template: Any, target: str, code: int = 2) -> str:
        call = ("library", "run", template, "--data", data, "--target", target, "-w", tmp_path / "ws")
        return str(run(*call, expect=code).stderr)

    assert "Did you mean 'protein'" in refused("pls_baseline", "protien")
    assert "predicts numbers" in refused("pls_baseline", "class")
    assert "Did you mean 'pls_baseline'" in refused("pls_basline", "fat", 3)
    evil = tmp_path / "evil.json"
    evil.write_text(json.dumps({"steps": [{"class": "os.system"}]}))
    assert "only chemotools, sklearn are allowed" in refused(evil, "fat")
    assert not (tmp_path / "ws").exists()


def test_a_template_file_is_imported(run: Any, run_json: Any, tmp_path: Path) -> None:
    run("init", tmp_path / "ws")
    (tmp_path / "ridge.json").write_text(json.dumps({"steps": [{"class": "sklearn.linear_model.Ridge"}]}))
    run("library", "save", tmp_path / "ridge.json", "--category", "linear", "-w", tmp_path / "ws")
    assert run_json("library", "show", "linear/ridge", "-w", tmp_path / "ws")["category"] == "linear"
    assert (
        "Missing argument 'NAME'"
        in run("library", "save", "abcd1234", "-w", tmp_path / "ws", expect=2).stderr
    )
