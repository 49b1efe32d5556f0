"""Commands that ask: pivot, compare, sql, and the options of top."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import Ridge

from nirs_store import WorkspaceStore


def save_chain(store: WorkspaceStore, pipeline_id: str, task: str, metric: str, score: float) -> str:
    """Record a chain with one fold whose score is known."""
    chain_id = store.save_chain(
        pipeline_id, [{"step_idx": 1, "operator_class": "x.Model"}], 1, "x.Model", "", "per_fold", {}, {}
    )
    store.save_prediction(
        pipeline_id, chain_id, "wheat", "Model", "x.Model", "0", "val", score, None, None, metric,
        task, 10, 5, {metric: score}, {}, None, None, 0, 0.0,
    )  # fmt: skip
    return chain_id


@pytest.fixture
def both_tasks(tmp_path: Path) -> tuple[Path, str, str]:
    """A workspace with a regression and a classification."""
    path = tmp_path / "both"
    with WorkspaceStore(path) as store, store.run("both") as run, run.pipeline("p") as pipeline:
        regression = save_chain(store, pipeline.pipeline_id, "regression", "rmse", 0.5)
        classification = save_chain(store, pipeline.pipeline_id, "classification", "balanced_accuracy", 0.9)
        pipeline.complete(best_val=0.5, metric="rmse")
    return path, regression, classification


# -- top -------------------------------------------------------------------------------------------


def test_top_ranks_by_a_metric_in_its_own_direction_or_in_yours(
    run_json: Any, run: Any, recorded: Any
) -> None:
    best_first = [recorded.chains[name].chain_id for name in ("better", "worse")]
    by_r2 = run_json("top", "--metric", "r2", "--json")
    assert [row["chain_id"] for row in by_r2] == best_first
    assert [row["score"] for row in by_r2] == [row["r2"] for row in by_r2]
    turned = run_json("top", "--metric", "r2", "--ascending", "--json")
    assert [row["chain_id"] for row in turned] == best_first[::-1]
    assert [row["chain_id"] for row in run_json("top", "--descending", "--json")] == best_first[::-1]
    header = run("top", "--metric", "r2").stdout.splitlines()[1]
    assert header.split() == ["chain", "R²", "SD", "RMSECV", "bias", "RPD", "test", "id"]


def test_each_task_has_a_table_of_its_own(run: Any, run_json: Any, both_tasks: tuple[Path, str, str]) -> None:
    path, regression, classification = both_tasks
    rows = run_json("top", "--json", "-w", path)
    assert [(row["chain_id"], row["task_type"]) for row in rows] == [
        (regression, "regression"),
        (classification, "classification"),
    ]
    for task, chain_id in (("regression", regression), ("classification", classification)):
        (row,) = run_json("top", "--task", task, "--json", "-w", path)
        assert row["chain_id"] == chain_id
    (row,) = run_json("top", "--metric", "f1", "--json", "-w", path)
    assert row["chain_id"] == classification
    assert "balanced accuracy" in run("top", "-w", path).stdout


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (("top", "--metric", "rmsce"), "rmse"),
        (("top", "--task", "regresion"), "regression"),
        (("pivot", "--metric", "rpdd"), "rpd"),
        (("pivot", "--rows", "preprocesings"), "preprocessings"),
        (("pivot", "--columns", "modelclass"), "model_class"),
        (("pivot", "--aggregate", "meen"), "mean"),
        (("pivot", "--format", "latx"), "latex"),
        (("logs", "RUN", "--level", "eror"), "error"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(
    call: tuple[str, ...], meant: str, run: Any, recorded: Any
) -> None:
    arguments = [recorded.run_id if word == "RUN" else word for word in call]
    assert f"Did you mean {meant!r}?" in run(*arguments, expect=2).stderr


# -- pivot -----------------------------------------------------------------------------------------


def test_a_pivot_has_a_row_a_preprocessing_and_a_column_a_model(
    run: Any, run_json: Any, recorded: Any
) -> None:
    shown = run_json("pivot", "--json")
    assert (shown["rows"], shown["columns"], shown["metric"]) == ("preprocessings", "model_class", "rmse")
    model = "sklearn.cross_decomposition.PLSRegression"
    assert {cell["preprocessings"]: cell[model] for cell in shown["cells"]} == {
        "": pytest.approx(recorded.chains["worse"].rmsecv),
        "StandardScaler": pytest.approx(recorded.chains["better"].rmsecv),
    }
    lines = run("pivot").stdout.splitlines()
    assert lines[1].split() == ["preprocessings", "PLSRegression"]
    assert lines[2].split() == ["raw", f"{recorded.chains['worse'].rmsecv:.4g}"]


def test_a_pivot_is_printed_for_papers_and_programs(run: Any, recorded: Any) -> None:
    value = f"{recorded.chains['better'].rmsecv:.4g}"
    call = ("pivot", "--columns", "model_name", "--run", recorded.run_id[-8:], "--format")
    assert f"| StandardScaler |  | {value} |" in run(*call, "markdown").stdout
    assert f"StandardScaler &  & {value} \\\\" in run(*call, "latex").stdout
    table = list(csv.DictReader(io.StringIO(run(*call, "csv").stdout)))
    assert float(table[1]["PLS(6)"]) == pytest.approx(recorded.chains["better"].rmsecv)


def test_a_pivot_of_nothing_says_so(run: Any) -> None:
    assert run("pivot", "--dataset", "wheat").stdout == "No chains with out-of-fold predictions.\n"


# -- compare ---------------------------------------------------------------------------------------


def test_compared_chains_differ_in_steps_and_scores(run: Any, run_json: Any, recorded: Any) -> None:
    worse, better = (recorded.chains[name].chain_id for name in ("worse", "better"))
    items = run_json("compare", worse[-8:], better[-8:], "--json")
    assert items["preprocessings"] == {worse: "", better: "StandardScaler"}
    assert float(items["score.rmsecv"][better]) == pytest.approx(recorded.chains["better"].rmsecv, rel=1e-5)
    assert "model_class" not in items
    assert "model_class" in run_json("compare", worse, better, "--all", "--json")
    verdict, head, *lines = run("compare", worse, better).stdout.splitlines()
    assert verdict.startswith("Out-of-fold errors on the same samples: ")
    assert head.split() == ["item", worse[-8:], better[-8:]]
    assert len(lines) == len(items)


def test_compare_wants_two_different_ids_that_exist(run: Any, recorded: Any) -> None:
    assert "at least two" in run("compare", recorded.run_id, expect=2).stderr
    assert "named twice" in run("compare", recorded.run_id, recorded.run_id[-8:], expect=2).stderr
    assert "No run or chain" in run("compare", recorded.run_id, "deadbeef", expect=3).stderr


# -- sql -------------------------------------------------------------------------------------------


def test_a_query_is_answered_as_table_json_and_csv(run: Any, run_json: Any) -> None:
    query = "SELECT name, status, length(name) AS letters FROM runs WHERE name = ?"
    call = ("sql", query, "--param", "fat in meat")
    assert [line.split() for line in run(*call).stdout.splitlines()] == [
        ["name", "status", "letters"],
        ["fat", "in", "meat", "completed", "11"],
    ]
    assert run_json(*call, "--json") == [{"name": "fat in meat", "status": "completed", "letters": 11}]
    assert run(*call, "--csv").stdout == "name,status,letters\nfat in meat,completed,11\n"
    assert run_json("sql", query, "--param", "milk", "--json") == []


def test_values_of_params_are_compared_with_numbers_too(run_json: Any) -> None:
    query = "SELECT count(*) AS n FROM scores WHERE partition = 'val' AND n_samples = ? AND val_score > ?"
    assert run_json("sql", query, "--param", "20", "--param", "0.1", "--json")[0]["n"] == 6


def test_a_query_may_come_from_the_standard_input(run: Any) -> None:
    assert run("sql", "-", "--csv", input="SELECT 1 + 1 AS two\n").stdout == "two\n2\n"


def test_answers_of_any_type_can_be_printed(run: Any, run_json: Any) -> None:
    query = (
        "SELECT [1, 2] AS l, {'a': 1} AS s, 'ab'::BLOB AS b, NULL AS n, 0.1 AS d, DATE '2026-03-01' AS day"
    )
    assert run("sql", query).stdout.splitlines()[1].split() == [
        "[1,",
        "2]",
        '{"a":',
        "1}",
        "0x6162",
        "-",
        "0.1",
        "2026-03-01",
    ]
    assert run("sql", query, "--csv").stdout.splitlines()[1] == '"[1, 2]","{""a"": 1}",0x6162,,0.1,2026-03-01'
    (row,) = run_json("sql", query, "--json")
    assert row == {"l": [1, 2], "s": {"a": 1}, "b": "0x6162", "n": None, "d": 0.1, "day": "2026-03-01"}


def test_long_bytes_are_cut_in_a_table(run: Any) -> None:
    assert run("sql", "SELECT repeat('a', 100)::BLOB AS b").stdout.splitlines()[1] == "0x" + "61" * 16 + "…"


@pytest.mark.parametrize(
    "query",
    ["DELETE FROM runs", "SELECT 1; DROP TABLE runs", "SELECT * FROM read_csv('/etc/hosts')", "SELEC 1", " "],
)
def test_what_is_no_single_harmless_select_is_refused(query: str, run: Any, run_json: Any) -> None:
    result = run("sql", query, expect=2)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: query: ")
    assert len(run_json("runs", "--json")) == 1


def test_a_misspelt_column_is_answered_with_candidates(run: Any) -> None:
    assert '"name"' in run("sql", "SELECT nam FROM runs", expect=2).stderr
    assert "exclude each other" in run("sql", "SELECT 1", "--json", "--csv", expect=2).stderr


# -- gc --------------------------------------------------------------------------------------------


def test_gc_prints_the_plan_that_it_carried_out(run_json: Any, own_copy: Any) -> None:
    with WorkspaceStore(own_copy.path, create=False) as store:
        artifact = store.save_artifact(Ridge(alpha=0.7), "sklearn.linear_model.Ridge", "model", "joblib")
        path = store.get_artifact(artifact)["artifact_path"]
    done = run_json("gc", "--grace", "0", "--json", "-w", own_copy.path)
    assert (done["files"], done["removed_files"], done["dry_run"]) == ([path], 1, False)
    assert not (own_copy.path / path).exists()
