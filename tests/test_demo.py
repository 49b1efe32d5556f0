"""The demo: one run of it, looked at from all sides."""

from __future__ import annotations

import io
import os
import pickle
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from clikit import invoke
from rich.console import Console

from nirs_store import WorkspaceStore, load_bundle
from nirs_store.db.lock import open_lock_file, try_lock
from nirs_store.demo import DemoResult, run_demo
from nirs_store.errors import InvalidInput, NotAWorkspace


class Demo(NamedTuple):
    result: DemoResult
    printed: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the demo once, whichever worker comes first; it works longer than all its tests together."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo"
    shared.mkdir(exist_ok=True)
    kept = shared / "demo.pickle"
    lock = open_lock_file(shared / "lock")
    try:
        while not try_lock(lock, exclusive=True):
            time.sleep(0.05)
        if not kept.exists():
            paper = io.StringIO()
            console = Console(file=paper, width=80, highlight=False)
            made = Demo(run_demo(shared / "ws", console=console), paper.getvalue())
            kept.write_bytes(pickle.dumps(made))
        demo: Demo = pickle.loads(kept.read_bytes())
    finally:
        os.close(lock)
    return demo


def test_at_least_twelve_chains_are_compared_one_of_them_not_pls(demo: Demo) -> None:
    names = [chain.name for chain in demo.result.chains]
    assert len(names) == len(set(names)) >= 12
    assert any("PLS" not in name for name in names)
    for start in ("PLS", "SNV > PLS", "SG(deriv=2) > PLS"):
        assert sum(name.startswith(start) for name in names) >= 3


def test_the_rmsecv_are_those_that_the_data_are_known_for(demo: Demo) -> None:
    rmsecv = {chain.name: chain.rmsecv for chain in demo.result.chains}
    assert rmsecv["PLS(10)"] == pytest.approx(2.8, abs=0.25)
    assert rmsecv["SNV > PLS(10)"] == pytest.approx(2.05, abs=0.2)


def test_the_leaderboard_is_printed_best_first_on_80_columns(demo: Demo) -> None:
    lines = demo.printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["chain", "RMSECV"])
    assert lines[start].split()[1:] == ["RMSECV", "SD", "bias", "R²", "RPD", "RMSEP", "chain", "id"]
    rows = lines[start + 1 : start + 1 + len(demo.result.chains)]
    for rank, (row, chain) in enumerate(zip(rows, demo.result.chains, strict=True), start=1):
        assert row.split()[0] == str(rank)
        assert chain.name in row
        for score in (f"{chain.rmsecv:.3f}", f"{chain.pooled['r2']:.3f}", f"{chain.pooled['rpd']:.1f}"):
            assert score in row
        assert row.rstrip().endswith(chain.chain_id[-8:])
    assert [chain.rmsecv for chain in demo.result.chains] == sorted(
        chain.rmsecv for chain in demo.result.chains
    )


def test_nothing_of_a_progress_bar_gets_into_a_pipe(demo: Demo) -> None:
    assert "\x1b" not in demo.printed
    assert "━" not in demo.printed
    assert "\r" not in demo.printed


def test_a_terminal_gets_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from nirs_store.demo import _progress

    paper = io.StringIO()
    with _progress(Console(file=paper, force_terminal=True, width=80), 4) as show:
        show(2, "SNV > PLS(4)")
    assert "SNV > PLS(4)" in paper.getvalue()


def test_the_replay_on_held_out_samples_is_that_of_the_stored_chain(demo: Demo) -> None:
    result = demo.result
    held_out = pl.read_csv(result.spectra)
    assert held_out.height == 43
    X = held_out.drop("sample", "fat").to_numpy()
    with WorkspaceStore(result.workspace, create=False) as store:
        predicted = store.replay_chain(result.best.chain_id, X)
        run = store.get_run(result.run_id)
    rmsep = float(np.sqrt(np.mean((predicted - held_out["fat"].to_numpy()) ** 2)))
    assert rmsep == pytest.approx(result.rmsep) == pytest.approx(result.best.test_value)
    assert f"RMSEP {rmsep:.3f} %" in demo.printed
    assert run is not None
    assert run["status"] == "completed"
    assert run["summary"]["best_chain_id"] == result.best.chain_id


def test_the_bundle_predicts_what_the_workspace_predicts(demo: Demo) -> None:
    result = demo.result
    assert result.bundle_difference == 0.0
    assert "its predictions are identical" in demo.printed
    assert load_bundle(result.bundle, allow_pickle=True).chain["metadata"]["target"] == "fat"


def test_the_figure_is_a_png(demo: Demo) -> None:
    assert demo.result.figure.read_bytes().startswith(b"\x89PNG")


def test_the_closing_words_name_files_that_exist_and_commands_that_work(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = demo.printed.split("Everything is in")[1]
    for name in ("store.duckdb", "artifacts/", "exports/tecator_fat.n4a", "exports/tecator_fat.png"):
        assert name in words
        assert (demo.result.workspace / name).exists()
    commands = [line.strip() for line in words.split("Next, type")[1].splitlines() if line.strip()]
    assert commands[0] == f"cd {demo.result.workspace}"
    monkeypatch.chdir(demo.result.workspace)
    for command in commands[1:]:
        name, *arguments = command.split()
        assert name == "nirs-store"
        done = invoke(*arguments)
        assert done.exit_code == 0, (command, done.output)
        assert done.stdout.strip()


def test_a_second_run_into_the_same_folder_adds_a_run(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nirs_store.demo._COMPONENTS", (4,))
    again = run_demo(demo.result.workspace, console=Console(file=io.StringIO()))
    assert again.run_id != demo.result.run_id
    assert len(again.chains) == 4
    with WorkspaceStore(demo.result.workspace, create=False) as store:
        assert set(store.list_runs()["run_id"]) == {demo.result.run_id, again.run_id}


def test_a_folder_with_something_else_in_it_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(NotAWorkspace, match=r"it holds 'thesis\.tex'"):
        run_demo(tmp_path, console=Console(file=io.StringIO()))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(NotAWorkspace, match="is a file"):
        run_demo(tmp_path / "thesis.tex", console=Console(file=io.StringIO()))


@pytest.mark.parametrize("package", ["chemotools.scatter", "matplotlib.figure"])
def test_a_missing_package_is_said_before_anything_is_written(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidInput, match=r'pip install "nirs-store\[demo\]"'):
        run_demo(tmp_path / "ws", console=Console(file=io.StringIO()))
    assert not (tmp_path / "ws").exists()
