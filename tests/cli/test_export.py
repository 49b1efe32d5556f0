"""``nirs-store export`` and ``nirs-store plot``: files, by suffix or by default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from nirs_store import WorkspaceStore, load_bundle


@pytest.mark.of_a_folder("exports/ lies in the folder")
def test_a_chain_becomes_a_bundle_in_exports_by_default(run: Any, own_copy: Any) -> None:
    chain_id = own_copy.chains["better"].chain_id
    shown = Path(run("export", chain_id[-8:], "-w", own_copy.path).stdout.strip())
    assert shown == own_copy.path / "exports" / f"chain_{chain_id[-8:]}.n4a"
    bundle = load_bundle(shown, allow_pickle=True)
    assert bundle.predict(own_copy.tecator.X[:3]).shape == (3,)


def test_a_chain_becomes_a_python_script(run: Any, recorded: Any, tmp_path: Path) -> None:
    target = tmp_path / "fat.n4a.py"
    run("export", recorded.chains["better"].chain_id, target)
    compile(target.read_text(encoding="utf-8"), str(target), "exec")


def test_a_run_a_pipeline_and_predictions_are_written(run: Any, recorded: Any, tmp_path: Path) -> None:
    result = recorded.chains["better"]
    run("export", recorded.run_id, tmp_path / "run.yaml")
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["run_id"] == recorded.run_id
    run("export", result.pipeline_id, tmp_path / "pipeline.json")
    stored = json.loads((tmp_path / "pipeline.json").read_text())
    with WorkspaceStore(recorded.path) as store:
        pipeline = store.get_pipeline(result.pipeline_id)
    assert pipeline is not None
    assert stored == pipeline["expanded_config"]
    run("export", result.chain_id, tmp_path / "chain.parquet", "--arrays")
    frame = pl.read_parquet(tmp_path / "chain.parquet")
    assert set(frame["prediction_id"]) == set(result.prediction_ids)
    assert frame["y_pred"].list.len().sum() == frame["n_samples"].sum()


def test_a_suffix_that_says_nothing_is_refused(run: Any, recorded: Any, tmp_path: Path) -> None:
    shown = run("export", recorded.run_id, tmp_path / "run.n4a", expect=2).stderr
    assert "A run is written to a file that ends in one of .yaml, .yml, .parquet" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["predicted", "residuals", "components", "folds", "heatmap", "coefficients"])
def test_every_figure_is_drawn_for_a_chain(kind: str, run: Any, recorded: Any, tmp_path: Path) -> None:
    target = tmp_path / f"{kind}.png"
    assert (
        run("plot", kind, recorded.chains["better"].chain_id, "-o", target, "--dpi", "30").stdout
        == f"{target}\n"
    )
    assert target.read_bytes().startswith(b"\x89PNG")


@pytest.mark.of_a_folder("exports/ lies in the folder")
def test_a_run_stands_for_its_best_chain_and_figures_go_to_exports(run: Any, own_copy: Any) -> None:
    shown = Path(run("plot", "predicted", own_copy.run_id, "-w", own_copy.path, "--dpi", "30").stdout.strip())
    assert shown == own_copy.path / "exports" / f"predicted_{own_copy.run_id[-8:]}.png"
    assert shown.is_file()


def test_spectra_are_drawn_from_a_file(run: Any, recorded: Any, spectra: Path, tmp_path: Path) -> None:
    chain_id = recorded.chains["better"].chain_id
    target = tmp_path / "spectra.svg"
    run("plot", "spectra", chain_id, "--data", spectra, "-o", target)
    assert "<svg" in target.read_text(encoding="utf-8")
    assert "needs --data" in run("plot", "spectra", chain_id, expect=2).stderr
    assert (
        "--data goes with the figures spectra, raw, intervals"
        in run("plot", "folds", chain_id, "--data", spectra, expect=2).stderr
    )
    shown = run("plot", "spectra", chain_id, "--data", spectra, "--colour-by", "sample", expect=2).stderr
    assert "does not hold numbers" in shown


def test_the_data_of_a_figure_are_written_as_a_table(
    run: Any, recorded: Any, spectra: Path, tmp_path: Path
) -> None:
    chain_id = recorded.chains["better"].chain_id
    shown = tmp_path / "data.csv"
    run("plot", "intervals", chain_id, "--data", spectra, "-o", shown)
    table = pl.read_csv(shown)
    assert table.columns[:2] == ["sample", "prediction"]
    assert table.height == pl.read_csv(spectra).height
    run("plot", "components", chain_id, "-o", tmp_path / "data.parquet")
    assert pl.read_parquet(tmp_path / "data.parquet")["rmsecv"].dtype == pl.Float64
    assert "--figure" in run("read", spectra, "--colour-by", "fat", expect=2).stderr
    run("read", spectra, "--figure", tmp_path / "raw.svg")
    run("read", spectra, "--figure", tmp_path / "raw.svg", "--colour-by", "fat", "--overwrite")
    assert "<svg" in (tmp_path / "raw.svg").read_text(encoding="utf-8")


def test_a_misspelt_figure_is_answered_with_the_nearest(run: Any, recorded: Any) -> None:
    assert "Did you mean 'residuals'?" in run("plot", "residual", recorded.run_id, expect=2).stderr
