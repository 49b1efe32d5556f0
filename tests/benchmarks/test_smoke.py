"""The benchmarks run at their smallest size; nothing is timed here, and no other program takes part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# They stand beside the package in the checkout and are not installed with it.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import fixture, goals, report, sizes, worker, workloads


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixture, "CACHE", tmp_path / "cache")


def test_floor_script_and_store_read_back_the_same(tmp_path: Path) -> None:
    found = {}
    for peer in ("floor", "plain", "nirs_store"):
        chains = worker.check(peer, tmp_path / peer)
        found[peer] = worker.read(peer, tmp_path / peer, chains)
    assert found["plain"] == found["nirs_store"]
    assert found["floor"].items() <= found["plain"].items()


def test_a_tiny_ingest_gives_its_figures(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    assert psutil
    size = sizes.SIZES["tiny"]
    rows = [
        {
            "workload": "W1",
            "peer": peer,
            "round": 0,
            "metrics": workloads.find("W1")(peer, size, tmp_path / peer),
        }
        for peer in ("floor", "nirs_store", "plain")
    ]
    answered = {goal.text: values for goal, values in goals.figures(rows)}
    assert "time against the floor" in answered
    assert "times faster than MLflow" not in answered
    machine: dict[str, Any] = dict.fromkeys(
        [
            "cores",
            "memory_gb",
            "file_system",
            "system",
            "python",
            "duckdb",
            "polars",
            "numpy",
            "scikit-learn",
            "joblib",
        ],
        "?",
    )
    target = tmp_path / "results.json"
    target.write_text(json.dumps({"size": "tiny", "rounds": 1, "machine": machine, "rows": rows}))
    text = report.write(json.loads(target.read_text()), publish=True, beside=target)
    assert "time against the floor" in text
    # Figures of a tiny run stay beside its JSON file.
    assert target.with_suffix(".md").read_text() == text


def test_a_tiny_repeated_save_stores_its_object_once(tmp_path: Path) -> None:
    found = workloads.find("W2")("nirs_store", sizes.SIZES["tiny"], tmp_path)
    assert found["save_ms"] > 0
    assert len(list(tmp_path.rglob("*.joblib"))) == 1


def test_the_clocks_of_the_anatomy_are_around_functions_that_are_there(tmp_path: Path) -> None:
    # In a process of its own, because it puts them into the package for good.
    code = (
        "import pathlib, sys; from benchmarks import fixture, sizes, workloads; "
        "place = pathlib.Path(sys.argv[1]); fixture.CACHE = place / 'cache'; "
        "print(workloads.find('anatomy')('nirs_store', sizes.SIZES['tiny'], place))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "apply_s" in done.stdout


def test_a_missed_goal_is_called_missed() -> None:
    goal = next(goal for goal in goals.GOALS if goal.text == "time against the floor")
    assert goals.verdict(goal, [1.0, 1.4, 9.0])
    assert not goals.verdict(goal, [1.0, 1.6, 1.7])
    faster = next(goal for goal in goals.GOALS if goal.text == "times faster than MLflow")
    assert faster.reached(2.5)
    assert not faster.reached(2.4)


def test_stored_files_are_measured(memory: Path) -> None:
    from benchmarks.files import ask, move, register

    found = register(memory / "many", 20, batch=10)
    found |= ask(memory / "many", repeats=1)
    found |= move(memory, 1, "auto")
    assert found["list_rows"] > 0
    assert found["search_rows"] > 0
    assert found["auto_stored_share"] < 0.9


@pytest.mark.parametrize("workload", ["W11", "W12", "W13", "W14", "W15"])
def test_a_tiny_calibration_answers_its_goals(workload: str, tmp_path: Path) -> None:
    metrics = workloads.find(workload)("nirs_store", sizes.SIZES["tiny"], tmp_path)
    rows = [{"workload": workload, "peer": "nirs_store", "round": 0, "metrics": metrics}]
    wanted = {goal.text for goal in goals.GOALS if goal.workload == workload}
    assert {goal.text for goal, _ in goals.figures(rows)} == wanted
    assert all(value > 0 for value in metrics.values())


def test_the_page_has_goals_and_a_slow_screen_is_listed_as_missed() -> None:
    metrics = {
        "leaderboard_server_ms": 180.0,
        "sort_server_ms": 49.0,
        "filter_server_ms": 20.0,
        "memory_mb": 266.0,
    }
    rows = [{"workload": "W16", "peer": "nirs_store", "round": 0, "metrics": metrics}]
    reached = {goal.text: goals.verdict(goal, values) for goal, values in goals.figures(rows)}
    assert reached == {
        "another page of the leaderboard, the server's time": False,
        "another order, the server's time": True,
        "a filter, the server's time": True,
        "memory of the server": False,
    }


@pytest.mark.parametrize(("more", "recorded", "reached"), [(6, 200, True), (6, 100, False), (4, 10, True)])
def test_the_domain_may_cost_5_percent_or_5_ms(more: float, recorded: float, reached: bool) -> None:
    metrics = {"folds_ms": 50.0 + more, "folds_bare_ms": 50.0, "recorded_ms": recorded}
    rows = [{"workload": "W12", "peer": "nirs_store", "round": 0, "metrics": metrics}]
    assert [goals.verdict(goal, values) for goal, values in goals.figures(rows)] == [reached]
