"""Predictions and their arrays: every row kept, every type and shape as it was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from storekit import begin, chain_of, let_go, predict, prediction, sql

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.store import WorkspaceStore


@pytest.fixture
def pipeline_id(store: WorkspaceStore) -> str:
    return begin(store)[1]


def arrays_of(store: WorkspaceStore, prediction_id: str) -> dict[str, Any]:
    found = store.get_prediction(prediction_id, load_arrays=True)
    assert found is not None
    return {name: found[name] for name in ("y_true", "y_pred", "y_proba", "sample_indices", "weights")}


@pytest.mark.everywhere
def test_a_prediction_comes_back_as_it_was_given(store: WorkspaceStore, pipeline_id: str) -> None:
    chain_id = chain_of(store, pipeline_id)
    given = prediction(
        branch_id=3, branch_name="snv", exclusion_count=2, exclusion_rate=0.1, preprocessings="SNV > SG",
        scores={"rmse": 0.5, "nested": {"r2": math.nan}}, val_score=math.nan,
    )  # fmt: skip
    prediction_id = store.save_prediction(pipeline_id, chain_id, **given)
    found = store.get_prediction(prediction_id)
    assert found is not None
    assert math.isnan(found.pop("val_score"))
    created = found.pop("created_at")
    assert created.tzinfo is not None
    given.pop("val_score")
    given["scores"] = {"rmse": 0.5, "nested": {"r2": None}}
    assert found == given | {"prediction_id": prediction_id, "pipeline_id": pipeline_id, "chain_id": chain_id}
    assert "y_true" not in found


def test_predictions_with_the_same_natural_key_are_all_kept(store: WorkspaceStore, pipeline_id: str) -> None:
    ids = {store.save_prediction(pipeline_id, None, **prediction()) for _ in range(3)}
    assert set(store.query_predictions()["prediction_id"]) == ids
    assert len(ids) == 3


def test_text_labels_and_two_columns_of_probabilities_come_back_as_they_were(
    store: WorkspaceStore, pipeline_id: str
) -> None:
    prediction_id = store.save_prediction(pipeline_id, None, **prediction(task_type="classification"))
    labels = np.array(["lean", "fatty", "lean"])
    proba = np.array([[0.8, 0.2], [0.1, 0.9], [0.6, 0.4]])
    store.save_prediction_arrays(prediction_id, labels, labels[::-1], proba, np.array([5, 7, 9]), [0.5, 1, 1])
    found = arrays_of(store, prediction_id)
    assert found["y_true"].tolist() == labels.tolist()
    assert found["y_pred"].tolist() == labels[::-1].tolist()
    assert found["y_proba"].shape == (3, 2)
    np.testing.assert_array_equal(found["y_proba"], proba)
    assert found["sample_indices"].dtype == np.int64
    assert found["weights"].tolist() == [0.5, 1, 1]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2, 3], dtype=np.int8),
        np.array([1.5, 2, 3], dtype=np.float32),
        np.array([[1.0], [2.0], [3.0]]),
        np.arange(6.0).reshape(3, 2)[:, ::-1],
        np.array([True, False, True]),
        np.array([1.0, np.nan, np.inf], dtype=">f8"),
        np.array([], dtype=np.float64),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_type_and_shape_of_an_array_are_kept(
    store: WorkspaceStore, pipeline_id: str, array: np.ndarray
) -> None:
    prediction_id = store.save_prediction(pipeline_id, None, **prediction())
    store.save_prediction_arrays(prediction_id, array, array)
    found = arrays_of(store, prediction_id)["y_pred"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_arrays_may_be_left_out(store: WorkspaceStore, pipeline_id: str) -> None:
    bare = store.save_prediction(pipeline_id, None, **prediction())
    some = store.save_prediction(pipeline_id, None, **prediction())
    store.save_prediction_arrays(some, None, [1.0, 2.0])
    assert set(arrays_of(store, bare).values()) == {None}
    assert arrays_of(store, some)["y_true"] is None
    assert arrays_of(store, some)["y_pred"].tolist() == [1.0, 2.0]


@pytest.mark.of_a_folder("it reads the file of the catalog")
def test_the_same_truth_of_hundreds_of_predictions_is_stored_once(
    store: WorkspaceStore, pipeline_id: str
) -> None:
    truth = np.linspace(0, 1, 2000)
    with store.transaction():
        for number in range(100):
            prediction_id = store.save_prediction(pipeline_id, None, **prediction())
            store.save_prediction_arrays(prediction_id, truth, np.array([float(number)] * 2000)[: len(truth)])
    store.list_runs()
    let_go(store)
    assert sql(store.workspace_path, "SELECT count(*) FROM arrays") == [(101,)]
    assert (store.workspace_path / "store.duckdb").stat().st_size < 101 * truth.nbytes * 2 + 4_000_000


def test_arrays_are_saved_once(store: WorkspaceStore, pipeline_id: str) -> None:
    prediction_id = predict(store, pipeline_id)
    with pytest.raises(InvalidInput, match="already"):
        store.save_prediction_arrays(prediction_id, [9.0], [9.0])
    store._engine.id_cache.clear()
    with pytest.raises(InvalidInput, match="already"):
        store.save_prediction_arrays(prediction_id, [9.0], [9.0])
    assert arrays_of(store, prediction_id)["y_true"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "arrays",
    [
        ([1.0, 2.0], [1.0]),
        ([1.0, 2.0], [1.0, 2.0], [[0.5, 0.5]]),
        ([1.0, 2.0], [1.0, 2.0], None, [1, 2, 3]),
        ([1.0, 2.0], [1.0, 2.0], None, None, [1.0]),
        (1.0, 1.0),
    ],
    ids=["y_pred", "y_proba", "sample_indices", "weights", "no dimension"],
)
def test_arrays_of_different_lengths_are_refused_and_nothing_is_recorded(
    store: WorkspaceStore, pipeline_id: str, arrays: tuple[Any, ...]
) -> None:
    prediction_id = store.save_prediction(pipeline_id, None, **prediction())
    with pytest.raises(ShapeMismatch, match=prediction_id):
        store.save_prediction_arrays(prediction_id, *arrays)
    assert set(arrays_of(store, prediction_id).values()) == {None}
    store.save_prediction_arrays(prediction_id, [1.0], [1.0])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"dataset_name": None}, "dataset_name"),
        ({"model_class": 5}, "model_class"),
        ({"partition": "a\x00b"}, "partition"),
        ({"val_score": "good"}, "val_score"),
        ({"n_samples": 1.5}, "n_samples"),
        ({"n_features": 2**40}, "n_features"),
        ({"branch_id": "first"}, "branch_id"),
        ({"branch_name": 5}, "branch_name"),
        ({"scores": {"f": object()}}, "scores"),
        ({"best_params": {1j: 1}}, "best_params"),
        ({"metric": None}, "metric"),
    ],
)
def test_a_value_that_no_column_takes_is_refused_by_name_and_nothing_is_recorded(
    store: WorkspaceStore, pipeline_id: str, changes: dict[str, Any], name: str
) -> None:
    with pytest.raises(InvalidInput, match=name):
        store.save_prediction(pipeline_id, None, **prediction(**changes))
    assert store.query_predictions().is_empty()


def test_values_may_come_from_numpy_and_folds_may_be_numbers(store: WorkspaceStore, pipeline_id: str) -> None:
    prediction_id = store.save_prediction(
        pipeline_id, None,
        **prediction(val_score=np.float32(0.5), n_samples=np.int64(4), fold_id=2, scores={"r2": np.float64(0.9)},
                     best_params={"n": np.int32(3), "grid": np.arange(2)}, branch_id=np.uint8(1)),
    )  # fmt: skip
    found = store.get_prediction(prediction_id)
    assert found is not None
    assert (found["val_score"], found["n_samples"], found["fold_id"], found["branch_id"]) == (0.5, 4, "2", 1)
    assert found["best_params"] == {"n": 3, "grid": [0, 1]}


def test_names_are_data_whatever_they_look_like(store: WorkspaceStore, pipeline_id: str) -> None:
    for name in (
        "../x",
        "..",
        "/etc",
        "CON",
        "dot.",
        "🍇",
        "x" * 300,
        "",
        "a\nb",
        "'; DROP TABLE predictions; --",
        "%",
    ):
        prediction_id = store.save_prediction(
            pipeline_id, None, **prediction(dataset_name=name, model_name=name)
        )
        assert store.query_predictions(dataset_name=name)["prediction_id"].to_list() == [prediction_id]
    assert store.query_predictions().height == 11


@pytest.mark.parametrize("ids", [5, None, [5], [b"x"], [["a"]], [1.5], [{}]])
def test_what_is_no_list_of_ids_has_no_arrays(store: WorkspaceStore, ids: Any) -> None:
    with pytest.raises(InvalidInput, match="prediction_ids: expected a list of ids"):
        store.get_prediction_arrays(ids)


def test_text_that_cannot_be_an_id_is_the_id_of_nothing(store: WorkspaceStore, pipeline_id: str) -> None:
    prediction_id = predict(store, pipeline_id)
    odd = "\ud800"
    assert store.delete_run(odd, now=True) == 0
    assert store.delete_run(odd, dry_run=True).total_rows == 0
    assert store.delete_prediction(odd, now=True) is False
    assert store.get_chains_for_pipeline(odd).height == 0
    assert store.get_pipeline_log(odd).height == 0
    assert store.get_run_log_summary(odd).height == 0
    assert list(store.get_prediction_arrays([odd, prediction_id])) == [prediction_id]


@pytest.mark.everywhere
def test_all_predictions_are_ranked_within_their_groups(store: WorkspaceStore, pipeline_id: str) -> None:
    for model, score in (("PLS", 2.0), ("PLS", 1.0), ("Ridge", 3.0)):
        store.save_prediction(pipeline_id, None, **prediction(model_class=model, val_score=score))
    found = store.top_predictions(None, group_by="model_class")  # type: ignore[arg-type]
    assert found["val_score"].to_list() == [1.0, 2.0, 3.0]
    assert found.equals(store.top_predictions(10, group_by="model_class"))
    with pytest.raises(InvalidInput, match="group_by column: 5"):
        store.top_predictions(3, group_by=5)  # type: ignore[arg-type]
