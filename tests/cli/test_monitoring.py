"""Predict with a name, add references, monitor, correct, update and challenge on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import load_bundle
from nirs_store.errors import OutlierFound, RecordingWarning


@pytest.fixture
def fat(own_copy: Any, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> Any:
    """A copy of the workspace with two versions of the calibration fat; the second is in production."""
    monkeypatch.setenv("NIRS_STORE_WORKSPACE", str(own_copy.path))
    run("calibrations", "register", "fat", own_copy.chains["worse"].chain_id)
    run("calibrations", "register", "fat", own_copy.chains["better"].chain_id, "--alias", "production")
    return own_copy


@pytest.fixture
def lab(fat: Any, tmp_path: Path) -> Path:
    """Values of a laboratory that reads 3 % more fat."""
    rows = zip(fat.tecator.sample_names[60:80], fat.tecator.fat[60:80], strict=True)
    path = tmp_path / "lab.csv"
    path.write_text("sample,fat\n" + "\n".join(f"0{name},{value + 3}" for name, value in rows))
    return path


def test_a_month_of_a_calibration(fat: Any, lab: Path, spectra: Path, run: Any, run_json: Any) -> None:
    run("predict", "fat@production", spectra, "--instrument", "bench 1", "--measured-at", "2026-03-01")
    run("predict", "fat@production", spectra, "--no-log")
    run("predict", fat.chains["better"].chain_id, spectra)
    logged = run_json("measurements", "list", "fat", "--json")
    assert len(logged) == 20
    assert {row["instrument"] for row in logged} == {"bench 1"}
    assert "2026-03-01" in run("measurements", "list", "--since", "2026-03-01", "--limit", 3).stdout
    run("references", "add", lab, "--target", "fat", "--unit", "%", "--lab", "north")
    assert (
        "Stored already"
        in run("references", "add", lab, "--target", "fat", "--unit", "%", "--lab", "north", expect=2).output
    )
    found = run_json("calibrations", "monitor", "fat", "--json")
    bias = np.mean([row["difference"] for row in found["chart"]])
    assert found["agreement"]["n"] == 20
    assert found["agreement"]["bias"] == pytest.approx(bias)
    assert found["agreement"]["sign"] == "difference = reference - predicted"
    shown = run("calibrations", "monitor", "fat@v2", "--since", "2026-03-01").stdout
    for words in ("fat@v2 (production)", "bias (reference - predicted)", "signals"):
        assert words in shown
    assert (
        "--strict" in run("calibrations", "monitor", "fat", "--strict", expect=OutlierFound.exit_code).output
    )


def test_a_correction_comes_and_goes(fat: Any, lab: Path, spectra: Path, run: Any, run_json: Any) -> None:
    run("predict", "fat", spectra)
    run("references", "add", lab, "--target", "fat")
    plain = run_json("predict", "fat", spectra, "--no-log", "--json")
    made = run_json(
        "calibrations", "correct", "fat", "--kind", "bias", "--reason", "another laboratory", "--json"
    )
    after = run_json("predict", "fat", spectra, "--json")
    assert after[0]["correction"] == made["words"]
    assert after[0]["raw_fat"] == plain[0]["predicted_fat"]
    assert after[0]["predicted_fat"] == pytest.approx(plain[0]["predicted_fat"] + made["bias"])
    for shown in (("monitor", "fat"), ("show", "fat"), ("show", "fat@v2")):
        assert made["words"] in run("calibrations", *shown).stdout
    for name in ("fat", "fat@production", "fat@v2"):
        for *export, file in (("export", "x.n4a"), ("export", "x.n4a.py"), ("bundle", "export", "x.n4a")):
            refused = run(*export, name, lab.parent / file, expect=2).stderr
            assert "which a bundle cannot carry. Nothing was written" in refused
            assert not (lab.parent / file).exists()
    for command in (["coefficients", "fat"], ["diagnose", "fat", spectra]):
        with pytest.warns(UserWarning, match="fat@v2 is corrected by c1"):
            run(*command)
    assert "retired" in run("calibrations", "correct", "fat", "--retire").stdout
    run("export", "fat", lab.parent / "fat.n4a")
    assert load_bundle(lab.parent / "fat.n4a", allow_pickle=True).facts["calibration"] == "fat@v2"
    assert "correction" not in run_json("predict", "fat", spectra, "--json")[0]
    assert "corrected by" not in run("calibrations", "show", "fat").stdout
    again = run("calibrations", "correct", "fat", "--retire", expect=3)
    assert "fat@v2 has no correction to retire" in again.stderr
    assert run("calibrations", "verify", "fat").stdout == "fat@v2 has no signatures.\n"


def test_a_reference_is_corrected_and_withdrawn(fat: Any, lab: Path, run: Any, run_json: Any) -> None:
    run("references", "add", lab, "--target", "fat")
    first, second = (row["reference_id"] for row in run_json("references", "list", "--json")[:2])
    run("references", "correct", first, 12.5, "--reason", "a slip of the pen")
    run("references", "correct", second, "--reason", "wrong sample")
    values = [row["value"] for row in run_json("references", "list", "--json")]
    assert len(values) == 19
    assert values[-1] == 12.5
    assert len(run_json("references", "list", "--history", "--json")) == 22


def test_a_challenger_and_old_measurements(fat: Any, spectra: Path, run: Any, run_json: Any) -> None:
    assert "no challengers" in run("calibrations", "challenge", "fat").stdout
    run("calibrations", "challenge", "fat", "v1")
    run("predict", "fat", spectra)
    assert {
        row["version"] for row in run_json("measurements", "list", "fat", "--role", "challenger", "--json")
    } == {1}
    run("calibrations", "challenge", "fat", "v1", "--end")
    assert "40 measurements" in run("measurements", "delete", "--before", "2999-01-01", "--dry-run").stdout
    run("measurements", "delete", "--before", "2999-01-01", expect=2)
    assert "deleted 40" in run("measurements", "delete", "--before", "2999-01-01", "--yes").stdout


def test_an_update_from_files(fat: Any, spectra: Path, tmp_path: Path, run: Any) -> None:
    tecator = fat.tecator
    old = tmp_path / "old.csv"
    header = ",".join(["sample", "fat", *(f"{w:.2f}" for w in tecator.wavelengths)])
    rows = zip(tecator.sample_names[:60], tecator.fat[:60], tecator.X[:60], strict=True)
    old.write_text(
        "\n".join([header, *(",".join([f"o{n}", str(y), *map(repr, map(float, x))]) for n, y, x in rows)])
    )
    with pytest.warns(RecordingWarning, match="1 copy of spectra"):
        told = run("calibrations", "update", "fat", spectra, "--old", old).stdout
    assert "v2 -> v3" in told
    assert "no alias was moved" in told
