"""A recorded workspace and a way to run the program on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from clikit import invoke as invoke_program
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import CrossValidationResult, WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.datasets import Tecator

Run = Callable[..., Result]


class Recorded:
    """A workspace with one run of two chains, and what was recorded there."""

    def __init__(self, path: Path, run_id: str, chains: dict[str, CrossValidationResult]) -> None:
        self.path = path
        self.run_id = run_id
        self.chains = chains
        self.tecator: Tecator = load_tecator()


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Read-only for tests: those that destroy take `own_copy`."""
    path = tmp_path_factory.mktemp("cli") / "ws"
    tecator = load_tecator()
    X, y = tecator.X[:60], tecator.fat[:60]
    with WorkspaceStore(path) as store, store.run("fat in meat", {"why": "tests"}, ["tecator"]) as run:
        chains = {
            name: record_cross_validation(
                store,
                estimator,
                X,
                y,
                X_test=tecator.X[60:80],
                y_test=tecator.fat[60:80],
                cv=KFold(3, shuffle=True, random_state=0),
                dataset_name="tecator",
                run_id=run.run_id,
                wavelengths=tecator.wavelengths,
                target="fat",
                target_unit="%",
            )
            for name, estimator in (
                ("worse", PLSRegression(2)),
                ("better", make_pipeline(StandardScaler(), PLSRegression(6))),
            )
        }
    return Recorded(path, run.run_id, chains)


@pytest.fixture
def own_copy(recorded: Recorded, tmp_path: Path) -> Recorded:
    """The recorded workspace, copied: break it as you like."""
    copy = tmp_path / "copy"
    shutil.copytree(recorded.path, copy)
    return Recorded(copy, recorded.run_id, recorded.chains)


@pytest.fixture
def run(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the program; without ``-w`` it works on the recorded workspace."""
    monkeypatch.setenv("NIRS_STORE_WORKSPACE", str(recorded.path))

    def invoke(*args: object, expect: int = 0, input: str | None = None) -> Result:
        result = invoke_program(*args, input=input)
        assert result.exit_code == expect, (result.output, result.exception)
        return result

    return invoke


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """Run the program and read the JSON it prints."""
    return lambda *args: json.loads(run(*args).stdout)


@pytest.fixture
def spectra(recorded: Recorded, tmp_path: Path) -> Path:
    """A CSV of 20 spectra that no model has seen, with names and measured fat."""
    path = tmp_path / "spectra.csv"
    tecator = recorded.tecator
    header = ["sample", "fat", *(f"{wavelength:.2f}" for wavelength in tecator.wavelengths)]
    lines = [
        [f"0{name}", str(fat), *map(repr, map(float, row))]
        for name, fat, row in zip(
            tecator.sample_names[60:80], tecator.fat[60:80], tecator.X[60:80], strict=True
        )
    ]
    path.write_text("\n".join(",".join(line) for line in [header, *lines]) + "\n", encoding="utf-8")
    return path
