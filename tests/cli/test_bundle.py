"""``nirs-store bundle``: export, import, inspect, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import WorkspaceStore, load_bundle


@pytest.fixture(scope="session")
def shared(recorded: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of both kinds of one chain."""
    folder = tmp_path_factory.mktemp("shared")
    chain_id = recorded.chains["better"].chain_id
    with WorkspaceStore(recorded.path, read_only=True) as store:
        return {
            "safe": store.export_chain(chain_id, folder / "safe", safe=True),
            "joblib": store.export_chain(chain_id, folder / "joblib"),
        }


def test_a_chain_is_exported_without_pickles(run: Any, recorded: Any, spectra: Path, tmp_path: Path) -> None:
    target = tmp_path / "fat.n4a"
    shown = run(
        "bundle", "export", recorded.chains["better"].chain_id[-8:], target, "--safe", "--probe", spectra
    )
    assert shown.stdout == f"{target}\n"
    bundle = load_bundle(target)
    assert bundle.record is not None
    assert bundle.record.kind == "skops"
    assert bundle.scores["rmsecv"] == pytest.approx(recorded.chains["better"].rmsecv)
    assert bundle.scores["rmsep"] == pytest.approx(recorded.chains["better"].test_value)


def test_it_goes_to_exports_by_default(run: Any, own_copy: Any) -> None:
    chain_id = own_copy.chains["worse"].chain_id
    shown = Path(run("bundle", "export", chain_id, "-w", own_copy.path).stdout.strip())
    assert shown == own_copy.path / "exports" / f"chain_{chain_id[-8:]}.n4a"
    assert load_bundle(shown, allow_pickle=True).predict(own_copy.tecator.X[:3]).shape == (3,)


def test_a_bundle_is_imported_once(
    run: Any, run_json: Any, recorded: Any, shared: Any, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    with WorkspaceStore(mine) as store:
        store.list_runs()
    assert run("bundle", "import", shared["safe"], "-w", mine).stdout.startswith("Imported.")
    again = run_json("bundle", "import", shared["safe"], "-w", mine, "--json")
    assert not again["added"]
    assert "nothing was added" in run("bundle", "import", shared["safe"], "-w", mine).stdout
    with WorkspaceStore(mine, read_only=True) as store, WorkspaceStore(recorded.path, read_only=True) as old:
        X = recorded.tecator.X[:5]
        expected = old.replay_chain(recorded.chains["better"].chain_id, X)
        np.testing.assert_allclose(store.replay_chain(again["chain_id"], X), expected, rtol=1e-12)


def test_pickles_are_imported_only_when_allowed(run: Any, own_copy: Any, shared: Any) -> None:
    refused = run("bundle", "import", shared["joblib"], "-w", own_copy.path, expect=10).stderr
    assert "--allow-pickle" in refused
    with WorkspaceStore(own_copy.path, read_only=True) as store:
        assert store.list_runs().height == 1
    shown = run("bundle", "import", shared["joblib"], "--allow-pickle", "--name", "gift", "-w", own_copy.path)
    assert "chain" in shown.stdout
    with WorkspaceStore(own_copy.path, read_only=True) as store:
        assert store.list_runs()["name"][0] == "gift"


def test_inspect_prints_members_types_and_card(run: Any, run_json: Any, shared: Any) -> None:
    shown = run("bundle", "inspect", shared["safe"]).stdout
    for words in (
        "holds no pickles",
        "opens as it is",
        "nirs_store.json",
        "PLSRegression",
        "| RMSECV |",
        "# PLSReg",
    ):
        assert words in shown
    found = run_json("bundle", "inspect", shared["joblib"], "--json")
    assert (found["kind"], found["verdict"]) == ("joblib", "needs allow_pickle")
    assert {member["name"] for member in found["members"]} >= {"manifest.json", "card.md"}


def test_verify_answers_with_its_exit_code(run: Any, run_json: Any, shared: Any, tmp_path: Path) -> None:
    assert "Intact" in run("bundle", "verify", shared["safe"]).stdout
    assert run_json("bundle", "verify", shared["safe"], "--json")["probe_agrees"] is True
    assert "--allow-pickle" in run("bundle", "verify", shared["joblib"], expect=10).stderr
    assert "no probe" in run("bundle", "verify", shared["joblib"], "--allow-pickle").stdout
    broken = tmp_path / "broken.n4a"
    data = bytearray(shared["safe"].read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)
    run("bundle", "verify", broken, expect=10)
    run("bundle", "inspect", tmp_path / "none.n4a", expect=10)


def test_predict_takes_a_safe_bundle_as_it_is_and_resamples_on_request(
    run: Any, recorded: Any, shared: Any, tmp_path: Path
) -> None:
    grid = recorded.tecator.wavelengths
    finer = np.linspace(grid[0], grid[-1], 300)
    path = tmp_path / "finer.csv"
    rows = [np.interp(finer, grid, row) for row in recorded.tecator.X[:2]]
    text = [
        ",".join(f"{value:.4f}" for value in finer),
        *(",".join(map(repr, map(float, row))) for row in rows),
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    assert "trained on 100 channels" in run("predict", shared["safe"], path, expect=2).stderr
    found = json.loads(run("predict", shared["safe"], path, "--resample", "--json").stdout)
    expected = load_bundle(shared["safe"]).predict(recorded.tecator.X[:2])
    assert [row["predicted_fat"] for row in found] == pytest.approx(expected.tolist(), abs=0.5)
    chain_id = recorded.chains["better"].chain_id
    assert "goes with a bundle" in run("predict", chain_id, path, "--resample", expect=2).stderr
