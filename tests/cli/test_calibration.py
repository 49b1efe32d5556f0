"""`suggest`, `review`, `diagnose`, `compare` of two chains and `top --one-se` as a user types them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation

MEAT = load_tecator()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    folder = tmp_path_factory.mktemp("calibration")
    with WorkspaceStore(folder / "ws") as store, store.run("meat", datasets=["meat"]) as run:
        chains = {
            a: record_cross_validation(
                store, PLSRegression(a, scale=False), MEAT.X[:100], MEAT.fat[:100], cv=KFold(5), run_id=run.run_id,
                dataset_name="meat", target="fat", target_unit="%", wavelengths=MEAT.wavelengths, wavelength_unit="nm",
            ).chain_id
            for a in (1, 4, 8, 12)
        }  # fmt: skip
    X = MEAT.X[:30].copy()
    X[4] = np.random.default_rng(0).normal(3, 0.5, 100)
    lines = ["name,fat," + ",".join(f"{w:.2f}" for w in MEAT.wavelengths)]
    lines += [f"M{i},{MEAT.fat[i]}," + ",".join(f"{v:.5f}" for v in X[i]) for i in range(30)]
    (folder / "new.csv").write_text("\n".join(lines) + "\n")
    return folder, chains


def test_suggest_prints_the_table_with_the_choice_marked(run: Any, run_json: Any, place: Any) -> None:
    folder, chains = place
    printed = run("suggest", chains[4][-8:], "-w", folder / "ws").stdout
    (choice,) = run_json("suggest", chains[4][-8:], "-w", folder / "ws", "--json")
    assert printed.splitlines()[0] == f"fat (%), no preprocessing: {choice['components']} by one_se"
    assert [row["components"] for row in choice["table"]] == [0, 1, 4, 8, 12]
    assert choice["chain_id"] == chains[choice["components"]]


def test_review_names_codes_and_compare_gives_a_verdict(run: Any, run_json: Any, place: Any) -> None:
    folder, chains = place
    found = run_json("review", chains[12], "-w", folder / "ws", "--json")
    assert {each["code"] for each in found["findings"]} & {"R07", "R13"}
    assert found["findings"][0]["code"] in run("review", chains[12], "-w", folder / "ws").stdout
    printed = run("compare", chains[1], chains[8], "-w", folder / "ws").stdout
    assert f"{chains[8][-8:]} is better (p = " in printed.splitlines()[0]


def test_diagnose_names_the_odd_sample_and_draws(run: Any, run_json: Any, place: Any, tmp_path: Path) -> None:
    folder, chains = place
    asked = (
        "diagnose",
        chains[8],
        folder / "new.csv",
        "--target",
        "fat",
        "--id",
        "name",
        "-w",
        folder / "ws",
    )
    found = run_json(*asked, "--json")
    assert next(each["sample"] for each in found["samples"]) == "M4" or "M4" in str(found["samples"])
    assert len(run_json(*asked, "--all", "--json")["samples"]) == 30
    printed = run(*asked, "--figure", "t2-q", "-o", tmp_path / "f.png")
    assert "M4" in printed.stdout
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_top_within_one_standard_error_is_what_suggest_says(run_json: Any, place: Any) -> None:
    folder, chains = place
    (choice,) = run_json("suggest", chains[1], "-w", folder / "ws", "--json")
    (row,) = run_json("top", "--one-se", "-w", folder / "ws", "--json")
    assert row["chain_id"] == choice["chain_id"]


def test_coefficients_and_the_tables_of_a_diagnosis_come_as_csv(run: Any, run_json: Any, place: Any) -> None:
    folder, chains = place
    asked = ("coefficients", chains[4][-8:], "-w", folder / "ws")
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--csv").stdout)))
    with WorkspaceStore(folder / "ws") as store:
        expected = store.coefficients(chains[4])
    assert [float(row["fold_4"]) for row in rows] == expected["fold_4"].to_list()
    assert run_json(*asked, "--json")[0]["coefficient"] == expected["coefficient"][0]
    head, first = run(*asked).stdout.splitlines()[:2]
    assert head.split()[:3] == ["wavelength", "channel", "coefficient"]
    assert first.split()[1] == "0"
    diagnose = ("diagnose", chains[4], folder / "new.csv", "--target", "fat", "-w", folder / "ws", "--csv")
    tables = {
        name: list(csv.DictReader(io.StringIO(run(*diagnose, name).stdout)))
        for name in ("samples", "scores", "channels")
    }
    assert {name: len(table) for name, table in tables.items()} == {
        "samples": 30,
        "scores": 30,
        "channels": 100,
    }
    assert {"p4", "w4", "vip"} <= set(tables["channels"][0])
    assert "expected a PLS chain, its calibration" in run(*diagnose, "explained", expect=2).stderr
    assert "exclude each other" in run(*diagnose, "samples", "--json", expect=2).stderr


def test_one_of_several_targets_is_named(run: Any, run_json: Any, tmp_path: Path) -> None:
    lines = ["name,fat (%),protein," + ",".join(f"{w:.2f}" for w in MEAT.wavelengths)]
    lines += [
        f"M{i},{MEAT.fat[i]},{MEAT.protein[i]}," + ",".join(f"{v:.5f}" for v in MEAT.X[i]) for i in range(60)
    ]
    file, place = tmp_path / "two.csv", ("-w", tmp_path / "ws")
    file.write_text("\n".join(lines) + "\n")
    run("init", tmp_path / "ws")
    screened = (
        "screen",
        file,
        "--target",
        "fat (%)",
        "--target",
        "protein",
        "--components",
        "2-4",
        "--cv",
        "3",
    )
    found = run_json(*screened, "--json", *place)
    both = run_json("suggest", found["run_id"], "--json", *place)
    assert {each["target"] for each in both} == {"fat (%)", "protein"}
    (choice,) = run_json("suggest", found["best"], "--target", "protein", "--json", *place)
    assert choice in both
    assert "target='fat (%)' or 'protein'" in run("suggest", found["best"], *place, expect=2).stderr
    rows = run_json("diagnose", found["best"], file, "--target", "protein", "--all", "--json", *place)[
        "samples"
    ]
    assert [row["measured"] for row in rows] == pytest.approx(MEAT.protein[:60].tolist())
    assert {"R03"} <= set(
        run_json("review", found["best"], "--target", "protein", "--json", *place)["checked"]
    )
    run("plot", "predicted", found["best"], "--target", "protein", "-o", tmp_path / "p.csv", *place)
    assert pl.read_csv(tmp_path / "p.csv")["measured"].max() == max(MEAT.protein[:60])
    run(
        "plot", "t2-q", found["best"], "--target", "protein", "--data", file, "-o", tmp_path / "t.csv", *place
    )
    assert pl.read_csv(tmp_path / "t.csv").height == 60
    run(
        "plot",
        "intervals",
        found["best"],
        "--target",
        "protein",
        "--data",
        file,
        "-o",
        tmp_path / "i.csv",
        *place,
    )
    assert pl.read_csv(tmp_path / "i.csv")["measured"].to_list() == pytest.approx(MEAT.protein[:60].tolist())
    assert "no training curves" in run("plot", "training", found["best"], *place, expect=2).stderr
    # A unit that the name ends with is not said twice.
    one = run_json(
        "screen",
        file,
        "--target",
        "fat (%)",
        "--unit",
        "%",
        "--components",
        "2,3",
        "--cv",
        "3",
        "--json",
        *place,
    )
    assert run("suggest", one["best"], *place).stdout.startswith("fat (%), ")
    assert "(%) (%)" not in run("show", one["best"], *place).stdout + run("top", *place).stdout


def test_calibration_spectra_need_no_reference_values_and_the_table_has_wavelengths(
    run: Any, place: Any
) -> None:
    folder, chains = place
    lines = ["name," + ",".join(f"{w:.2f}" for w in MEAT.wavelengths)]
    lines += [f"C{i}," + ",".join(repr(float(v)) for v in MEAT.X[i]) for i in range(100)]
    (folder / "calibration.csv").write_text("\n".join(lines) + "\n")
    asked = ("diagnose", chains[4], folder / "new.csv", "--target", "fat", "-w", folder / "ws")
    assert "Q not known" not in run(*asked, "--calibration", folder / "calibration.csv").stdout
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--csv", "channels").stdout)))
    assert [float(row["wavelength"]) for row in rows] == pytest.approx(MEAT.wavelengths)
