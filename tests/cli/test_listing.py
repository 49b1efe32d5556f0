"""Commands that show what is there: runs, show, top, logs, stats."""

from __future__ import annotations

from typing import Any

import pytest

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, UnknownId


def test_runs_are_listed_with_status_and_number_of_pipelines(run: Any, run_json: Any, recorded: Any) -> None:
    line = run("runs").stdout.splitlines()[1]
    assert line.split()[0] == recorded.run_id[-8:]
    assert "fat in meat" in line
    assert "completed" in line
    (entry,) = run_json("runs", "--json")
    assert (entry["run_id"], entry["n_pipelines"], entry["config"]) == (recorded.run_id, 2, {"why": "tests"})


def test_runs_can_be_narrowed(run: Any, run_json: Any) -> None:
    assert run_json("runs", "--dataset", "tecator", "--json")
    assert run_json("runs", "--status", "failed", "--json") == []
    assert run("runs", "--dataset", "teca").stdout == "No runs fit.\n"
    assert "Did you mean 'completed'?" in run("runs", "--status", "complete", expect=2).stderr


def test_an_empty_workspace_says_so(run: Any, tmp_path: Any) -> None:
    run("init", tmp_path)
    assert run("runs", "-w", tmp_path).stdout == "No runs.\n"
    assert run("top", "-w", tmp_path).stdout == "No chains with predictions.\n"
    assert "predictions" in run("stats", "-w", tmp_path).stdout


def test_top_ranks_by_rmsecv_with_the_scores_of_the_pooled_predictions(
    run: Any, run_json: Any, recorded: Any
) -> None:
    rows = run_json("top", "--json")
    assert [row["chain_id"] for row in rows] == [
        recorded.chains[name].chain_id for name in ("better", "worse")
    ]
    for row, name in zip(rows, ("better", "worse"), strict=True):
        result = recorded.chains[name]
        assert row["score"] == row["rmsecv"] == pytest.approx(result.rmsecv)
        assert row["score_sd"] == pytest.approx(result.fold_sd)
        assert row["test_score"] == row["rmsep"] == pytest.approx(result.test_value)
        for score in ("bias", "sep", "r2", "rpd"):
            assert row[score] == pytest.approx(result.pooled[score])
    shown = run("top").stdout.splitlines()
    assert shown[0] == "tecator fat (%)"
    assert shown[1].split() == ["chain", "RMSECV", "SD", "bias", "R²", "RPD", "RMSEP", "id"]
    assert shown[2].startswith("1  StandardScaler > PLS(6)")


def test_top_can_be_narrowed(run: Any, run_json: Any, recorded: Any) -> None:
    assert len(run_json("top", "-n", "1", "--json")) == 1
    assert len(run_json("top", "--run", recorded.run_id[-8:], "--json")) == 2
    assert run_json("top", "--dataset", "wheat", "--json") == []


def test_the_leaderboard_of_foreign_rows_pools_the_folds_exactly(tmp_path: Any, run_json: Any) -> None:
    """Rows of a program that stores neither metadata nor the score names of ours."""
    y, yhat = {"0": [1.0, 2.0, 4.0], "1": [3.0, 5.0]}, {"0": [1.5, 2.0, 3.0], "1": [3.5, 4.0]}
    with (
        WorkspaceStore(tmp_path / "ws") as store,
        store.run("foreign") as foreign,
        foreign.pipeline("p") as p,
    ):
        chain_id = store.save_chain(
            p.pipeline_id, [{"step_idx": 1, "operator_class": "x.PLS"}], 1, "x.PLS", "", "per_fold", {}, {}
        )
        for fold, measured in y.items():
            rmse = (
                sum((a - b) ** 2 for a, b in zip(measured, yhat[fold], strict=True)) / len(measured)
            ) ** 0.5
            prediction = store.save_prediction(
                p.pipeline_id, chain_id, "wheat", "PLS", "x.PLS", fold, "val", rmse, None, None, "rmse",
                "regression", len(measured), 5, {}, {}, None, None, 0, 0.0,
            )  # fmt: skip
            store.save_prediction_arrays(prediction, measured, yhat[fold])
        p.complete(best_val=0.7, metric="rmse")
    (row,) = run_json("top", "-w", tmp_path / "ws", "--json")
    assert row["score"] == pytest.approx(((0.25 + 0 + 1 + 0.25 + 1) / 5) ** 0.5)
    assert row["bias"] == pytest.approx(-0.2)
    assert row["test_score"] is None


@pytest.mark.parametrize("kind", ["run", "pipeline", "chain", "prediction", "artifact"])
def test_show_finds_everything_by_the_end_of_its_id(
    kind: str, run: Any, run_json: Any, recorded: Any
) -> None:
    result = recorded.chains["better"]
    with WorkspaceStore(recorded.path, create=False) as store:
        artifact = store.get_chain(result.chain_id)["fold_artifacts"]["final"]
    identifier = {
        "run": recorded.run_id,
        "pipeline": result.pipeline_id,
        "chain": result.chain_id,
        "prediction": result.prediction_ids[0],
        "artifact": artifact,
    }[kind]
    assert run("show", identifier[-8:]).stdout.split()[:2] == [kind, identifier]
    record = run_json("show", identifier, "--json")
    assert (record["kind"], record[f"{kind}_id"]) == (kind, identifier)


def test_show_of_a_chain_tells_steps_scores_and_folds(run: Any, recorded: Any) -> None:
    shown = run("show", recorded.chains["better"].chain_id).stdout
    assert "StandardScaler > PLS(6)" in shown
    assert f"rmsecv {recorded.chains['better'].rmsecv:.3f}" in shown
    assert "100, 850 to 1050 nm" in shown
    assert sum("  val  " in line for line in shown.splitlines()) == 3


def test_an_unknown_id_is_exit_code_3(run: Any) -> None:
    assert "has the id 'deadbeef'" in run("show", "deadbeef", expect=3).stderr


def test_a_beginning_that_fits_several_is_ambiguous(run: Any, recorded: Any) -> None:
    chain = recorded.chains["better"].chain_id
    assert "fits 2 chains" in run("review", chain[:4], expect=InvalidInput.exit_code).stderr
    assert f"'{chain[-3:]}'" in run("review", chain[-3:], expect=UnknownId.exit_code).stderr


def test_logs_of_a_chain_are_those_of_its_pipeline(run: Any, run_json: Any, recorded: Any) -> None:
    result = recorded.chains["better"]
    entries = run_json("logs", result.chain_id, "--json")
    assert entries == run_json("logs", result.pipeline_id, "--json")
    assert {entry["event"] for entry in entries} == {"start", "end"}
    assert "StandardScaler" in run("logs", result.chain_id[-8:]).stdout
    assert run("logs", result.chain_id, "--level", "error").stdout == "No entries.\n"


def test_logs_of_a_run_are_a_line_a_pipeline(run: Any, run_json: Any, recorded: Any) -> None:
    assert len(run("logs", recorded.run_id).stdout.splitlines()) == 3
    assert {row["pipeline_status"] for row in run_json("logs", recorded.run_id, "--json")} == {"completed"}


@pytest.mark.not_on("shared", "replicas", why="the addresses of these tests are wider than the terminal")
@pytest.mark.parametrize(
    "command", ["runs", "top", "logs RUN", "logs CHAIN", "show RUN", "show CHAIN", "show PIPELINE", "stats"]
)
def test_on_a_terminal_no_line_of_a_table_is_wider_than_it(
    command: str, run: Any, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nirs_store.cli._output.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "90")
    result = recorded.chains["better"]
    ids = {"RUN": recorded.run_id, "CHAIN": result.chain_id, "PIPELINE": result.pipeline_id}
    shown = run(*(ids.get(word, word) for word in command.split())).stdout
    tables = [
        line for line in shown.splitlines() if not line.startswith(("summary", "cross-val", "workspace"))
    ]
    assert max(map(len, tables)) <= 90, shown


def test_stats_count_what_was_recorded(run: Any, run_json: Any, recorded: Any) -> None:
    facts = run_json("stats", "--json")
    files = [path for path in (recorded.path / "artifacts").rglob("*") if path.is_file()]
    assert (facts["runs"], facts["pipelines"], facts["chains"]) == (1, 2, 2)
    assert facts["predictions"] == sum(len(result.prediction_ids) for result in recorded.chains.values())
    assert facts["artifact_files"] == len(files)
    assert facts["artifact_bytes"] == sum(path.stat().st_size for path in files)
    assert facts["datasets"] == ["tecator"]
    kinds = {kind["kind"]: kind for kind in facts["storage"]["kinds"]}
    assert sum(kind["bytes"] for kind in kinds.values()) - kinds["arrays"]["bytes"] == facts["artifact_bytes"]
    assert facts["storage"]["largest_runs"][0]["own_bytes"] > 0
    shown = run("stats").stdout
    assert "1 (1 completed)" in shown
    assert "by storing nothing twice" in shown
