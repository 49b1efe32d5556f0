"""Frames and arrays of any make go in, and what comes out is polars or numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from framekit import COLUMNS, GRID, LABELS, MEAT, NAMES, TABLES, X, Y
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore, load_bundle, record_cross_validation, replay_chain
from nirs_store.errors import InvalidInput, ShapeMismatch


@dataclass(frozen=True)
class Trained:
    """A regression and a classification, recorded from plain numpy arrays."""

    store: WorkspaceStore
    fat: str
    kind: str
    bundle: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("workspace")
    with WorkspaceStore(folder / "ws") as store:
        model = make_pipeline(StandardScaler(), PLSRegression(3))
        fat = record_cross_validation(
            store, model, X, Y, cv=KFold(3), dataset_name="meat", wavelengths=MEAT.wavelengths[::10]
        )
        kind = record_cross_validation(store, LogisticRegression(), X, LABELS, cv=3, dataset_name="meat")
        yield Trained(
            store, fat.chain_id, kind.chain_id, store.export_chain(fat.chain_id, folder / "fat.n4a")
        )


# -- predicting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_a_chain_and_a_bundle_predict_the_same_from_every_table(trained: Trained, name: str) -> None:
    expected = trained.store.replay_chain(trained.fat, X)
    np.testing.assert_array_equal(trained.store.replay_chain(trained.fat, TABLES[name]()), expected)
    np.testing.assert_array_equal(replay_chain(trained.store, trained.fat, TABLES[name]()), expected)
    bundle = load_bundle(trained.bundle, allow_pickle=True)
    np.testing.assert_array_equal(bundle.predict(TABLES[name]()), expected)


def test_wavelengths_come_from_anything_too(trained: Trained) -> None:
    expected = trained.store.replay_chain(trained.fat, X)
    for make in COLUMNS.values():
        grid = make(MEAT.wavelengths[::10])
        np.testing.assert_array_equal(trained.store.replay_chain(trained.fat, X, wavelengths=grid), expected)
        with pytest.raises(ShapeMismatch):
            trained.store.replay_chain(trained.fat, X, wavelengths=make(MEAT.wavelengths[::10] + 5))


def test_a_table_whose_names_are_no_wavelengths_counts_as_an_array(trained: Trained) -> None:
    expected = trained.store.replay_chain(trained.fat, X)
    for frame in (pl.DataFrame(X), pd.DataFrame(X), pd.DataFrame(X, columns=[f"c{i}" for i in range(10)])):
        np.testing.assert_array_equal(trained.store.replay_chain(trained.fat, frame), expected)
    mixed = pl.DataFrame(X, schema=GRID).with_columns(operator=pl.lit(1.0))
    with pytest.raises(InvalidInput, match="operator"):
        trained.store.replay_chain(trained.fat, mixed)


# -- recording --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["lazy polars", "pandas, nullable", "pyarrow table", "duckdb", "arrow stream"]
)
def test_a_recording_is_the_same_from_every_table(trained: Trained, name: str) -> None:
    column = pa.array if "arrow" in name else pl.Series if "polars" in name else pd.Series
    store = trained.store
    result = record_cross_validation(
        store, make_pipeline(StandardScaler(), PLSRegression(3)), TABLES[name](), column(Y),
        cv=KFold(3), dataset_name="meat",
    )  # fmt: skip
    chain, expected = store.get_chain(result.chain_id), trained.store.get_chain(trained.fat)
    assert chain is not None
    assert expected is not None
    assert chain["fold_artifacts"] == expected["fold_artifacts"], "the models have the same bytes"
    assert [f"{w:g}" for w in chain["wavelengths"]] == GRID
    assert chain["metadata"]["data_hash"] == expected["metadata"]["data_hash"]


@pytest.mark.parametrize("name", ["list", "polars", "pandas, categories", "pyarrow chunks", "arrow array"])
def test_labels_survive_recording_and_replay(trained: Trained, name: str) -> None:
    store = trained.store
    result = record_cross_validation(
        store, LogisticRegression(), X, COLUMNS[name](LABELS), cv=3, dataset_name="meat"
    )
    frame = store.chain_predictions(result.chain_id)
    assert [LABELS[i] for i in frame["sample"]] == frame["y_true"].to_list()
    assert set(store.replay_chain(result.chain_id, X)) <= {"fatty", "lean"}


@pytest.mark.parametrize("name", COLUMNS)
def test_arrays_of_a_prediction_may_be_anything(trained: Trained, name: str) -> None:
    store, make = trained.store, COLUMNS[name]
    with store.run("by hand") as run, run.pipeline("p") as p:
        prediction_id = store.save_prediction(
            p.pipeline_id, None, "meat", "m", "m", "0", "val", 1.0, None, None, "rmse", "regression", 48, 1,
            {}, {}, None, None, 0, 0.0,
        )  # fmt: skip
        proba = pl.DataFrame({"a": Y, "b": Y}) if name == "polars" else np.column_stack([Y, Y])
        store.save_prediction_arrays(
            prediction_id, make(LABELS), make(LABELS[::-1]), proba, make(NAMES), make(np.ones(48))
        )
    row = store.get_prediction(prediction_id, load_arrays=True)
    assert row is not None
    assert row["y_true"].tolist() == LABELS.tolist()
    assert row["y_pred"].tolist() == LABELS[::-1].tolist()
    assert row["sample_indices"].tolist() == NAMES
    assert row["y_proba"].shape == (48, 2)
    np.testing.assert_array_equal(row["weights"], np.ones(48))


# -- names of samples -------------------------------------------------------------------------------------

NAMED: dict[str, tuple[Callable[[Any, list[str]], Any], dict[str, Any]]] = {
    "given": (lambda x, _: x, {"sample_ids": NAMES[:40], "sample_ids_test": pa.array(NAMES[40:])}),
    "a pandas index": (lambda x, names: pd.DataFrame(x, columns=GRID, index=names), {}),
    "a column of pandas": (
        lambda x, names: pd.DataFrame(x, columns=GRID).assign(sample=names),
        {"sample_ids": "sample"},
    ),
    "a column of polars": (
        lambda x, names: pl.DataFrame(x, schema=GRID).with_columns(sample=pl.Series(names)),
        {"sample_ids": "sample"},
    ),
    "a column of arrow": (
        lambda x, names: pa.table({"sample": names} | {name: x[:, i] for i, name in enumerate(GRID)}),
        {"sample_ids": "sample"},
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_names_of_samples_survive(trained: Trained, name: str) -> None:
    make, options = NAMED[name]
    store = trained.store
    result = record_cross_validation(
        store, PLSRegression(3), make(X[:40], NAMES[:40]), Y[:40], cv=KFold(3, shuffle=True, random_state=0),
        dataset_name="meat", X_test=make(X[40:], NAMES[40:]), y_test=Y[40:], **options,
    )  # fmt: skip
    value = dict(zip(NAMES, Y, strict=True))
    for partition, expected in (("val", NAMES[:40]), ("test", NAMES[40:])):
        frame = store.chain_predictions(result.chain_id, partition)
        assert sorted(set(frame["sample"])) == sorted(expected)
        assert [value[each] for each in frame["sample"]] == frame["y_true"].to_list()
    assert store.replay_chain(result.chain_id, X).shape == (48,)


def test_names_may_be_numbers_and_replicates_may_share_one(trained: Trained) -> None:
    numbers = np.repeat(np.arange(1000, 1024), 2)
    store = trained.store
    result = record_cross_validation(
        store, PLSRegression(3), X, Y, cv=KFold(3), dataset_name="meat", sample_ids=numbers
    )
    frame = store.chain_predictions(result.chain_id)
    assert frame["sample"].to_list() == numbers.tolist()
    assert store.top_chains(chain_id=result.chain_id)["rmsecv"][0] == pytest.approx(result.rmsecv)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample_ids": NAMES[:5]}, ShapeMismatch, r"one name per sample of X, 48; found the shape \(5,\)"),
        ({"sample_ids": "sample"}, InvalidInput, "X is not a data frame"),
        ({"sample_ids": [1.5] * 48}, InvalidInput, "text or whole numbers.*found float"),
        ({"sample_ids": [*NAMES[:47], None]}, InvalidInput, "none missing; found NoneType, str"),
        ({"sample_ids_test": NAMES}, InvalidInput, "X_test, which was not given"),
        (
            {"X": pl.DataFrame(X, schema=GRID).with_columns(sample=pl.lit("a")), "sample_ids": "sampel"},
            InvalidInput,
            "Did you mean 'sample'",
        ),
        ({"X_test": X, "y_test": Y, "sample_ids_test": NAMES[:3]}, ShapeMismatch, "of X_test, 48"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_anything_is_recorded(
    trained: Trained, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = trained.store.list_runs().height
    with pytest.raises(error, match=message):
        record_cross_validation(
            trained.store, PLSRegression(3), **{"X": X, "y": Y, "cv": 3, "dataset_name": "meat", **options}
        )
    assert trained.store.list_runs().height == before


# -- what comes out -------------------------------------------------------------------------------------


def test_every_answer_is_polars_and_goes_to_pandas_and_arrow(trained: Trained) -> None:
    store = trained.store
    chain = store.get_chain(trained.fat)
    assert chain is not None
    answers = {
        "list_runs": store.list_runs(),
        "list_pipelines": store.list_pipelines(),
        "get_chains_for_pipeline": store.get_chains_for_pipeline(chain["pipeline_id"]),
        "query_predictions": store.query_predictions(),
        "top_predictions": store.top_predictions(3, scored_by="rmse"),
        "get_pipeline_log": store.get_pipeline_log(chain["pipeline_id"]),
        "top_chains": store.top_chains(metric="rmse"),
        "aggregate_predictions": store.aggregate_predictions("model_name"),
        "pivot": store.pivot(columns="run_id", metric="rmse").frame,
        "compare": store.compare([trained.fat, trained.kind]),
        "sql": store.sql("SELECT * FROM runs"),
        "chain_predictions": store.chain_predictions(trained.kind),
    }
    for name, frame in answers.items():
        assert isinstance(frame, pl.DataFrame), name
        assert frame.height > 0, name
        pandas = frame.to_pandas()
        assert isinstance(pandas, pd.DataFrame)
        assert pandas.shape == frame.shape, name
        assert list(pandas.columns) == frame.columns, name
        assert frame.to_arrow().num_rows == frame.height, name
    assert str(answers["list_runs"].to_pandas()["created_at"].dt.tz) == "UTC"
    assert answers["top_chains"].to_pandas()["rmsecv"].dtype == np.float64
