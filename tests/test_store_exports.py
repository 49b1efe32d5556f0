"""Configuration, runs and predictions leave as JSON, YAML and Parquet, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from storekit import begin, chain_of, failing, predict, prediction, whole_pipeline

from nirs_store.errors import InvalidInput, NirsStoreError, UnknownId
from nirs_store.store import WorkspaceStore


def test_a_pipelines_configuration_as_json(store: WorkspaceStore, tmp_path: Path) -> None:
    run_id = store.begin_run("r", {}, [])
    pipeline_id = store.begin_pipeline(
        run_id, "pls", {"steps": ["SNV"], "ü": None}, [{"_or_": "SNV"}], "corn", "h"
    )
    path = store.export_pipeline_config(pipeline_id, tmp_path / "deep" / "config.json")
    assert path == tmp_path / "deep" / "config.json"
    assert json.loads(path.read_text()) == {"steps": ["SNV"], "ü": None}
    for config in ([{"class": "SNV"}, {"class": "PLS"}], None, []):
        pipeline_id = store.begin_pipeline(run_id, "pls", config, [], "corn", "h")
        path = store.export_pipeline_config(pipeline_id, tmp_path / "config.json")
        assert json.loads(path.read_text()) == config


def test_a_run_as_yaml_with_its_pipelines_and_chains(store: WorkspaceStore, tmp_path: Path) -> None:
    run_id, pipeline_id = begin(store)
    one, two = (store.save_artifact({name: 1}, "dict", "transformer") for name in "ab")
    store.save_chain(
        pipeline_id, [{"step_idx": 0, "operator_class": "X", "params": {}}], 0, "M", "", "per_fold", {"fold_0": one},
        {"_source_map": {"0": {"0": [one], "1": [two]}}}, wavelengths=np.array([850.5, 852.0]),
    )  # fmt: skip
    whole_pipeline(store, run_id, "second")
    path = store.export_run(run_id, tmp_path / "run.yaml")
    run = yaml.safe_load(path.read_text())
    assert (run["run_id"], run["status"], run["config"]) == (run_id, "running", {"seed": 1})
    assert list(run)[:2] == ["run_id", "name"]
    assert [p["name"] for p in run["pipelines"]] == ["run-pls", "second"]
    chain = run["pipelines"][0]["chains"][0]
    assert chain["shared_artifacts"]["_source_map"]["0"]["1"] == [two]
    assert chain["wavelengths"] == [850.5, 852.0]


@pytest.mark.everywhere
def test_predictions_as_parquet_with_the_filters_of_a_query(store: WorkspaceStore, tmp_path: Path) -> None:
    run_id, pipeline_id = begin(store)
    for partition in ("val", "val", "test"):
        predict(store, pipeline_id, partition=partition)
    path = store.export_predictions_parquet(tmp_path / "p.parquet", partition="val", run_id=run_id)
    table = pl.read_parquet(path)
    assert table.height == 2
    assert table.columns == store.query_predictions().columns
    assert pl.read_parquet(store.export_predictions_parquet(tmp_path / "p.parquet", limit=1)).height == 1


@pytest.mark.parametrize("include", [False, True])
def test_no_match_still_writes_a_readable_file(store: WorkspaceStore, tmp_path: Path, include: bool) -> None:
    path = store.export_predictions_parquet(
        tmp_path / "p.parquet", dataset_name="nobody", include_arrays=include
    )
    table = pl.read_parquet(path)
    assert table.is_empty()
    assert "val_score" in table.columns
    assert ("y_true" in table.columns) is include


def test_arrays_come_along_as_lists_of_one_type_a_column(store: WorkspaceStore, tmp_path: Path) -> None:
    """Also when the first rows have none, or another type or shape than the last one."""
    _, pipeline_id = begin(store)
    ids = [store.save_prediction(pipeline_id, None, **prediction()) for _ in range(4)]
    store.save_prediction_arrays(ids[0], [1, 2], np.array([1.5, 2.5]))
    store.save_prediction_arrays(ids[1], [1.5, 2.5], np.array([[1.0], [2.0]]), np.eye(2), [0, 1])
    store.save_prediction_arrays(ids[2], None, np.array([], dtype=float))
    path = store.export_predictions_parquet(tmp_path / "p.parquet", include_arrays=True)
    found = {row["prediction_id"]: row for row in pl.read_parquet(path).to_dicts()}
    assert found[ids[0]]["y_true"] == [1.0, 2.0]
    assert found[ids[0]]["y_pred"] == [[1.5], [2.5]]
    assert found[ids[1]]["y_pred"] == [[1.0], [2.0]]
    assert found[ids[1]]["y_proba"] == [[1.0, 0.0], [0.0, 1.0]]
    assert found[ids[2]]["y_true"] is None
    assert found[ids[2]]["y_pred"] == []
    assert found[ids[3]]["y_pred"] is None


def test_labels_and_numbers_in_one_export_become_text(store: WorkspaceStore, tmp_path: Path) -> None:
    _, pipeline_id = begin(store)
    first, second = (store.save_prediction(pipeline_id, None, **prediction()) for _ in range(2))
    store.save_prediction_arrays(first, ["lean", "fatty"], ["lean", "lean"])
    store.save_prediction_arrays(second, [1.0, 2.0], [1.0, 2.5])
    table = pl.read_parquet(store.export_predictions_parquet(tmp_path / "p.parquet", include_arrays=True))
    found = {row["prediction_id"]: row for row in table.to_dicts()}
    assert found[first]["y_true"] == ["lean", "fatty"]
    assert [float(text) for text in found[second]["y_pred"]] == [1.0, 2.5]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("datetime64[ns]", pl.Datetime("ns")), ("timedelta64[ns]", pl.Duration("ns"))]
)
def test_times_in_nanoseconds_stay_times(
    store: WorkspaceStore, tmp_path: Path, kind: str, dtype: pl.DataType
) -> None:
    _, pipeline_id = begin(store)
    moments = np.array([1_577_836_800_000_000_001, 5], "i8").astype(kind)
    moments = np.append(moments, np.array(["NaT"], kind))
    for values in (moments, moments[:, None], np.array([])):
        prediction_id = store.save_prediction(pipeline_id, None, **prediction())
        store.save_prediction_arrays(prediction_id, None, values)
    table = pl.read_parquet(store.export_predictions_parquet(tmp_path / "p.parquet", include_arrays=True))
    assert table["y_pred"].dtype == pl.List(pl.List(dtype))
    flat = table["y_pred"].explode().explode().cast(pl.Int64).drop_nulls()
    assert flat.to_list() == [1_577_836_800_000_000_001, 5] * 2


@pytest.mark.parametrize(
    "arrays",
    [[np.array([1j])], [np.array([1], "M8[ps]")], [np.array([1], "M8[ns]"), np.array([1.0])]],
    ids=["complex", "picoseconds", "mixed"],
)
def test_arrays_that_parquet_cannot_hold_are_refused_and_nothing_is_written(
    store: WorkspaceStore, tmp_path: Path, arrays: list[np.ndarray]
) -> None:
    _, pipeline_id = begin(store)
    for values in arrays:
        prediction_id = store.save_prediction(pipeline_id, None, **prediction())
        store.save_prediction_arrays(prediction_id, None, values)
    with pytest.raises(InvalidInput, match="y_pred: a column of Parquet"):
        store.export_predictions_parquet(tmp_path / "p.parquet", include_arrays=True)
    assert not (tmp_path / "p.parquet").exists()


def test_unknown_ids_are_refused_and_write_nothing(store: WorkspaceStore, tmp_path: Path) -> None:
    calls: list[Any] = [
        lambda: store.export_pipeline_config("nobody", tmp_path / "x"),
        lambda: store.export_run("nobody", tmp_path / "x"),
        lambda: store.export_chain("nobody", tmp_path / "x"),
    ]
    for call in calls:
        with pytest.raises(KeyError) as caught:
            call()
        assert isinstance(caught.value, UnknownId)
    with pytest.raises(InvalidInput, match="Invalid filter column: 'colour'"):
        store.export_predictions_parquet(tmp_path / "x", colour="red")
    assert list(tmp_path.glob("x*")) == []


def test_a_target_that_can_be_no_file_is_refused(store: WorkspaceStore, tmp_path: Path) -> None:
    run_id, pipeline_id = begin(store)
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path, tmp_path / "a\x00b", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        for call in (
            lambda path: store.export_run(run_id, path),
            lambda path: store.export_pipeline_config(pipeline_id, path),
            lambda path: store.export_predictions_parquet(path),
        ):
            with pytest.raises(NirsStoreError):
                call(target)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_an_export_that_the_disk_refuses_leaves_the_old_file(
    store: WorkspaceStore, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, pipeline_id = begin(store)
    chain_of(store, pipeline_id)
    target = tmp_path / "out"
    target.mkdir()
    (target / "run.yaml").write_text("old")
    with failing(monkeypatch, call, below=target), pytest.raises(NirsStoreError, match="No space"):
        store.export_run(run_id, target / "run.yaml")
    assert [path.name for path in target.iterdir()] == ["run.yaml"]
    assert (target / "run.yaml").read_text() == "old"
