"""``nirs-store predict``: the same numbers as the library, beside the labels of the file."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.errors import CodeChangedWarning


@pytest.fixture
def replayed(recorded: Any) -> Any:
    with WorkspaceStore(recorded.path, create=False) as store:
        return store.replay_chain(recorded.chains["better"].chain_id, recorded.tecator.X[60:80])


def test_predictions_are_printed_as_csv_beside_the_labels(
    run: Any, recorded: Any, spectra: Path, replayed: Any
) -> None:
    result = run("predict", recorded.chains["better"].chain_id[-8:], spectra)
    frame = pl.read_csv(io.StringIO(result.stdout), schema_overrides={"sample": pl.String})
    assert frame.columns == ["sample", "fat", "predicted_fat", "lower_fat", "upper_fat", "flags"]
    assert (frame["lower_fat"] < frame["predicted_fat"]).all()
    assert frame["sample"][0] == f"0{recorded.tecator.sample_names[60]}"
    assert np.array_equal(frame["predicted_fat"].to_numpy(), replayed)
    assert "20 samples, 100 channels 850 to 1050 nm" in result.stderr


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_predictions_are_written_in_the_format_of_the_suffix(
    suffix: str, run: Any, recorded: Any, spectra: Path, replayed: Any, tmp_path: Path
) -> None:
    output = tmp_path / "new" / f"predicted{suffix}"
    result = run("predict", recorded.chains["better"].chain_id, spectra, "-o", output)
    read = {".csv": pl.read_csv, ".parquet": pl.read_parquet, ".json": pl.read_json}[suffix]
    assert np.array_equal(read(output)["predicted_fat"].to_numpy(), replayed)
    assert result.stdout == ""
    assert "20 predictions in" in result.stderr


def test_predictions_are_printed_as_json_on_request(
    run: Any, recorded: Any, spectra: Path, replayed: Any
) -> None:
    rows = json.loads(run("predict", recorded.chains["better"].chain_id, spectra, "--json").stdout)
    assert [row["predicted_fat"] for row in rows] == replayed.tolist()


def test_a_bundle_predicts_without_a_workspace_once_it_is_trusted(
    run: Any, recorded: Any, spectra: Path, replayed: Any, tmp_path: Path
) -> None:
    bundle = tmp_path / "fat.n4a"
    run("export", recorded.chains["better"].chain_id, bundle)
    refused = run("predict", bundle, spectra, "-w", tmp_path, expect=10)
    assert "--allow-pickle" in refused.stderr
    assert refused.stdout == ""
    shown = run("predict", bundle, spectra, "--allow-pickle", "-w", tmp_path).stdout
    assert np.array_equal(pl.read_csv(io.StringIO(shown))["predicted_fat"].to_numpy(), replayed)


def test_spectra_on_another_grid_are_refused(run: Any, recorded: Any, tmp_path: Path) -> None:
    moved = tmp_path / "moved.csv"
    frame = {f"{wavelength + 1:.2f}": [1.0] for wavelength in recorded.tecator.wavelengths}
    pl.DataFrame(frame).write_csv(moved)
    result = run("predict", recorded.chains["better"].chain_id, moved, expect=2)
    assert "not on the grid" in result.stderr
    pl.DataFrame(dict(list(frame.items())[:50])).write_csv(moved)
    assert "100 channels" in run("predict", recorded.chains["better"].chain_id, moved, expect=2).stderr


def test_nothing_is_predicted_when_the_output_cannot_be_written(
    run: Any, recorded: Any, spectra: Path
) -> None:
    shown = run("predict", recorded.chains["better"].chain_id, spectra, "-o", "x.xlsx", expect=2).stderr
    assert "found 'x.xlsx'" in shown


def test_unknown_chain_and_missing_files_are_named(run: Any, spectra: Path, tmp_path: Path) -> None:
    assert "No chain has the id 'deadbeef'" in run("predict", "deadbeef", spectra, expect=3).stderr
    assert "none.csv does not exist" in run("predict", "deadbeef", tmp_path / "none.csv", expect=2).stderr
    assert "none.n4a" in run("predict", tmp_path / "none.n4a", spectra, expect=10).stderr


def test_code_of_ones_own_that_was_edited_is_said_or_refused(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_code.py").write_text("def treat(X):\n    return X * 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    X = np.random.default_rng(0).normal(size=(20, 3))
    with WorkspaceStore(tmp_path / "ws") as store:
        step = FunctionTransformer(importlib.import_module("own_code").treat)
        model = make_pipeline(step, Ridge())
        chain_id = record_cross_validation(store, model, X, X[:, 0], cv=2, dataset_name="d").chain_id
    pl.DataFrame(X, schema=["900", "902", "904"]).write_csv(tmp_path / "new.csv")
    call = ("predict", chain_id, tmp_path / "new.csv", "-w", tmp_path / "ws")
    run(*call, "--strict")
    (tmp_path / "own_code.py").write_text("def treat(X):\n    return X * 3\n")
    monkeypatch.delitem(sys.modules, "own_code")
    importlib.invalidate_caches()
    with pytest.warns(CodeChangedWarning, match="treat of module 'own_code'"):
        run(*call)
    assert "treat of module 'own_code'" in run(*call, "--strict", expect=4).stderr


@pytest.mark.parametrize(("delimiter", "decimal"), [(";", ","), ("\t", "."), ("|", ",")])
def test_predictions_come_in_the_dialect_of_the_file(
    delimiter: str, decimal: str, run: Any, recorded: Any, spectra: Path, replayed: Any, tmp_path: Path
) -> None:
    rows = spectra.read_text(encoding="utf-8").splitlines()
    text = "\n".join(row.replace(",", delimiter).replace(".", decimal) for row in rows)
    (tmp_path / "new.txt").write_text(text, encoding="utf-16")
    shown = run("predict", recorded.chains["better"].chain_id, tmp_path / "new.txt").stdout
    found = [line.split(delimiter) for line in shown.splitlines()]
    assert found[0] == ["sample", "fat", "predicted_fat", "lower_fat", "upper_fat", "flags"]
    assert np.allclose([float(row[2].replace(decimal, ".")) for row in found[1:]], replayed)


def test_a_column_of_the_user_is_kept_and_text_is_no_formula(
    run: Any, recorded: Any, spectra: Path, replayed: Any, tmp_path: Path
) -> None:
    frame = pl.read_csv(spectra).with_columns(sample=pl.lit("=1+1")).rename({"fat": "predicted_fat"})
    frame.write_csv(tmp_path / "new.csv")
    result = run("predict", recorded.chains["better"].chain_id, tmp_path / "new.csv")
    found = pl.read_csv(io.StringIO(result.stdout))
    assert found.columns[:3] == ["sample", "predicted_fat", "predicted_fat_2"]
    assert found["predicted_fat"].to_list() == frame["predicted_fat"].to_list()
    assert np.allclose(found["predicted_fat_2"].to_numpy(), replayed)
    assert set(found["sample"]) == {"'=1+1"}
    assert "'predicted_fat_2'" in result.stderr


def test_several_targets_name_the_columns_and_channels_of_text_are_found_by_name(
    run: Any, tmp_path: Path, recorded: Any
) -> None:
    meat = recorded.tecator
    both = pl.DataFrame({"fat": meat.fat[:40], "water": meat.water[:40]})
    frame = pl.DataFrame(meat.X[:40], schema=[f"band {k}" for k in range(100)])
    with WorkspaceStore(tmp_path / "ws") as store:
        chain = record_cross_validation(store, PLSRegression(3), frame, both, cv=3, dataset_name="d").chain_id
        expected = store.replay_chain(chain, frame[:3])
        script = store.export_chain(chain, tmp_path / "m", format="n4a.py")
    new = frame[:3].select(frame.columns[::-1]).with_columns(plot=pl.Series(["a", "b", "c"]))
    new.write_csv(tmp_path / "new.csv")
    result = run("predict", chain, tmp_path / "new.csv", "-w", tmp_path / "ws")
    found = pl.read_csv(io.StringIO(result.stdout))
    bounds = ["lower_fat", "lower_water", "upper_fat", "upper_water"]
    assert found.columns == ["plot", "predicted_fat", "predicted_water", *bounds, "flags"]
    assert np.allclose(found[:, 1:3].to_numpy(), expected)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "new.csv"], capture_output=True, text=True, check=True
    )
    carried = pl.read_csv(io.StringIO(done.stdout))
    assert carried.columns == ["sample", "fat", "water"]
    assert np.allclose(carried[:, 1:].to_numpy(), expected)


def test_a_flagged_sample_is_named_and_strict_ends_with_an_exit_code_of_its_own(
    run: Any, recorded: Any, spectra: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.csv"
    frame = pl.read_csv(spectra, schema_overrides={"sample": pl.String})
    channels = [name for name in frame.columns if name not in ("sample", "fat")]
    spoilt = frame.head(3).with_columns(pl.col(channels) * 1000)
    pl.concat([frame.tail(5), spoilt]).write_csv(wrong)
    chain = recorded.chains["better"].chain_id
    found = run("predict", chain, wrong)
    flags = pl.read_csv(io.StringIO(found.stdout))["flags"].to_list()
    assert flags[-3:] == ["outside; extrapolated"] * 3
    assert "warning: The calibration flags" in found.stderr
    strict = run("predict", chain, wrong, "--strict", expect=11)
    assert strict.stdout == found.stdout
    assert "--strict" in strict.stderr
    assert "No interval" not in found.stderr
    bare = run("predict", chain, wrong, "--level", "0.9999", expect=0)
    assert "No interval: a level of 0.9999 needs at least 9999 left-out samples" in bare.stderr
    details = run("predict", chain, wrong, "--details", "--json", "--level", "0.8", expect=0)
    row = json.loads(details.stdout)[-1]
    assert {"t2", "q", "h", "gh", "nh"} <= set(row)
    assert row["flags"] == ["outside", "extrapolated"]


def test_a_chain_without_a_domain_says_so_and_passes_strict(run: Any, spectra: Path, tmp_path: Path) -> None:
    with (
        WorkspaceStore(tmp_path / "ws") as store,
        store.run("by hand") as own,
        own.pipeline("p", dataset_name="d") as pipe,
    ):
        X = np.random.default_rng(0).normal(size=(30, 100))
        model = store.save_artifact(Ridge().fit(X, X[:, 0]), "sklearn.linear_model.Ridge", "model")
        step = {
            "step_idx": 1,
            "operator_class": "sklearn.linear_model.Ridge",
            "operator_type": "model",
            "params": {},
        }
        chain = store.save_chain(pipe.pipeline_id, [step], 1, "Ridge", "", "single", {"final": model}, {})
    found = run("predict", chain, spectra, "--strict", "-w", tmp_path / "ws")
    frame = pl.read_csv(io.StringIO(found.stdout))
    assert frame.columns[-2:] == ["predicted", "flags"]
    assert set(frame["flags"]) == {"domain not known"}
    assert "domain is not known" in found.stderr
