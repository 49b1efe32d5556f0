"""Questions: filters, order, columns, and that nothing turns into a pattern by accident."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from rankkit import error, names, record
from storekit import Y_TRUE, Counting, begin, chain_of, predict, prediction

from nirs_store.db import sql as frames
from nirs_store.db.schema import arrow_schema, column_names
from nirs_store.errors import CatalogDamaged, InvalidInput
from nirs_store.records import predictions as prediction_queries
from nirs_store.records import queries, ranking
from nirs_store.store import WorkspaceStore


@pytest.fixture
def pipeline_id(store: WorkspaceStore) -> str:
    return begin(store)[1]


def scored(store: WorkspaceStore, pipeline_id: str, **changes: Any) -> str:
    return store.save_prediction(pipeline_id, None, **prediction(**changes))


def test_a_fresh_store_gives_empty_frames_with_their_columns(store: WorkspaceStore) -> None:
    frames = {
        "runs": store.list_runs(),
        "pipelines": store.list_pipelines(),
        "predictions": store.query_predictions(),
        "top": store.top_predictions(5),
        "grouped": store.top_predictions(5, group_by="model_name"),
        "chains": store.get_chains_for_pipeline("nobody"),
        "log": store.get_pipeline_log("nobody"),
        "summary": store.get_run_log_summary("nobody"),
    }
    for name, frame in frames.items():
        assert isinstance(frame, pl.DataFrame), name
        assert frame.is_empty(), name
        assert frame.columns, name
    assert "val_score" in frames["top"].columns
    assert frames["summary"].columns == [
        "pipeline_id", "pipeline_name", "pipeline_status", "log_count", "total_duration_ms", "warning_count",
        "error_count",
    ]  # fmt: skip
    assert frames["log"].columns == [
        "log_id", "step_idx", "operator_class", "event", "duration_ms", "message", "details", "level",
        "created_at",
    ]  # fmt: skip
    assert frames["runs"].schema["created_at"] == pl.Datetime("us", "UTC")


def test_unknown_ids_are_nothing_and_not_an_error(store: WorkspaceStore) -> None:
    for strange in (
        "nobody",
        "",
        "'; DROP TABLE runs; --",
        5,
        None,
        b"x",
        ["a"],
        "\ud800",
        "a\x00b",
        "x" * 100_000,
    ):
        assert store.get_run(strange) is None  # type: ignore[arg-type]
        assert store.get_pipeline(strange) is None  # type: ignore[arg-type]
        assert store.get_chain(strange) is None  # type: ignore[arg-type]
        assert store.get_prediction(strange) is None  # type: ignore[arg-type]
        assert store.get_artifact(strange) is None  # type: ignore[arg-type]
    assert store.list_runs().is_empty()


def test_a_data_set_is_compared_whole_and_never_with_a_part_of_a_path(store: WorkspaceStore) -> None:
    old = store.begin_run(
        "old", {}, [{"name": "wheat_old", "path": "/data/wheat_old"}, {"path": "/data/wheat"}]
    )
    new = store.begin_run("new", {}, [{"name": "wheat"}])
    plain = store.begin_run("plain", {}, ["wheat"])  # type: ignore[list-item]
    store.begin_run("none", {}, [])
    assert set(store.list_runs(dataset="wheat")["run_id"]) == {new, plain}
    assert store.list_runs(dataset="wheat_old")["run_id"].to_list() == [old]
    for nobody in ("whea", "wheat%", "%", "_heat", "/data/wheat", '"wheat"', "name"):
        assert store.list_runs(dataset=nobody).is_empty(), nobody


def test_runs_come_newest_first_by_pages(store: WorkspaceStore) -> None:
    ids = [store.begin_run(str(number), {}, []) for number in range(5)]
    assert store.list_runs()["run_id"].to_list() == ids[::-1]
    assert store.list_runs(limit=2, offset=1)["run_id"].to_list() == [ids[3], ids[2]]
    assert store.list_runs(limit=0).is_empty()
    assert store.list_runs(limit=np.int64(2)).height == 2  # type: ignore[arg-type]
    for strange in (-1, 1.5, "2", True):
        with pytest.raises(InvalidInput, match="limit"):
            store.list_runs(limit=strange)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="Did you mean 'running'"):
        store.list_runs(status="runing")


def test_filters_are_joined_by_and(store: WorkspaceStore, pipeline_id: str) -> None:
    run_id, other = begin(store, "other")
    kept = scored(store, pipeline_id, fold_id="fold_1", branch_id=2, partition="test")
    scored(store, pipeline_id, fold_id="fold_1", branch_id=3, partition="test")
    scored(store, other, fold_id="fold_1", branch_id=2, partition="test")
    found = store.query_predictions(
        dataset_name="corn", partition="test", fold_id="fold_1", branch_id=2, pipeline_id=pipeline_id
    )
    assert found["prediction_id"].to_list() == [kept]
    assert store.query_predictions(run_id=run_id).height == 1
    assert store.query_predictions(limit=2, offset=1).height == 2
    assert store.query_predictions(branch_id=np.int64(2)).height == 2  # type: ignore[arg-type]


def test_only_a_percent_sign_in_model_class_is_a_wildcard(store: WorkspaceStore, pipeline_id: str) -> None:
    for name in ("my_model", "myXmodel", "100%", "a\\b"):
        scored(store, pipeline_id, model_class=name, dataset_name=name)

    def classes(pattern: str) -> list[str]:
        return sorted(store.query_predictions(model_class=pattern)["model_class"])

    assert classes("my_m%") == ["my_model"]
    assert classes("%model") == ["myXmodel", "my_model"]
    assert classes("my_model") == ["my_model"]
    assert classes("a\\%") == ["a\\b"]
    assert store.query_predictions(dataset_name="%").is_empty()
    assert store.query_predictions(dataset_name="100%").height == 1


@pytest.mark.parametrize(
    "filters",
    [
        {"branch_id": "abc"},
        {"branch_id": 1.5},
        {"dataset_name": 5},
        {"model_class": ["x"]},
        {"fold_id": 0},
        {"limit": -1},
    ],
)
def test_a_filter_of_the_wrong_type_is_refused_by_name(
    store: WorkspaceStore, pipeline_id: str, filters: dict[str, Any]
) -> None:
    scored(store, pipeline_id)
    with pytest.raises(InvalidInput, match=next(iter(filters))):
        store.query_predictions(**filters)
    assert store.query_predictions().height == 1


@pytest.mark.parametrize("ascending", [True, False])
def test_scores_that_are_missing_or_not_numbers_rank_last_in_either_direction(
    store: WorkspaceStore, pipeline_id: str, ascending: bool
) -> None:
    for score in (0.5, None, math.nan, 0.1, math.inf, -math.inf, 0.9):
        scored(store, pipeline_id, val_score=score)
    ranked = store.top_predictions(10, ascending=ascending)["val_score"].to_list()
    numbers = [-math.inf, 0.1, 0.5, 0.9, math.inf]
    assert ranked[:5] == (numbers if ascending else numbers[::-1])
    assert {repr(score) for score in ranked[5:]} == {"None", "nan"}


def test_the_best_of_each_group(store: WorkspaceStore, pipeline_id: str) -> None:
    for model in ("PLS", "SVR"):
        for score in (0.3, 0.1, math.nan, 0.2):
            scored(store, pipeline_id, model_name=model, val_score=score)
    top = store.top_predictions(2, group_by="model_name")
    assert top.select("model_name", "val_score").rows() == [
        ("PLS", 0.1),
        ("PLS", 0.2),
        ("SVR", 0.1),
        ("SVR", 0.2),
    ]
    worst = store.top_predictions(1, ascending=False, group_by=["model_name", "partition"])
    assert worst["val_score"].to_list() == [0.3, 0.3]


@pytest.mark.parametrize("ascending", [True, False])
def test_many_of_each_group_come_in_the_same_order_as_few(
    store: WorkspaceStore, pipeline_id: str, ascending: bool
) -> None:
    for number, score in enumerate((0.3, None, math.nan, 0.1, math.inf, 0.3, None, math.nan, -math.inf, 0.3)):
        scored(store, pipeline_id, model_name=f"m{number % 2}", val_score=score)
    many = store.top_predictions(20_000, ascending=ascending, group_by="model_name")
    assert many.height == 10
    for count in (1, 2, 3, 5):
        few = store.top_predictions(count, ascending=ascending, group_by="model_name")
        assert few.equals(many.group_by("model_name", maintain_order=True).head(count).select(many.columns))


def test_top_predictions_looks_at_validation_unless_told_otherwise(
    store: WorkspaceStore, pipeline_id: str
) -> None:
    scored(store, pipeline_id, partition="val", dataset_name="corn")
    scored(store, pipeline_id, partition="test", dataset_name="corn")
    scored(store, pipeline_id, partition="val", dataset_name="wheat")
    assert store.top_predictions(9).height == 2
    assert store.top_predictions(9, partition="test").height == 1
    assert store.top_predictions(9, dataset_name="wheat").height == 1
    assert store.top_predictions(9, metric="n_samples").height == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "val_scor"}, r"Invalid metric column: 'val_scor'.*Did you mean 'val_score'"),
        ({"metric": "val_score; DROP TABLE runs"}, "Invalid metric column: "),
        ({"group_by": "1"}, "Invalid group_by column: "),
        ({"group_by": ["model_name", "scores"]}, "Invalid group_by column: 'scores'"),
        ({"n": -1}, "limit"),
        ({"partition": 1}, "partition"),
    ],
)
def test_unknown_columns_are_refused_with_the_nearest_name(
    store: WorkspaceStore, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.top_predictions(**({"n": 5} | arguments))


def test_times_are_utc_with_microseconds(store: WorkspaceStore) -> None:
    before = datetime.now(UTC)
    run_id = store.begin_run("r", {}, [])
    run = store.get_run(run_id)
    assert run is not None
    assert before <= run["created_at"] <= datetime.now(UTC)
    assert store.list_runs()["created_at"].to_list() == [run["created_at"]]


def test_json_comes_back_decoded(store: WorkspaceStore) -> None:
    config = {"a": [1, None, {"ü": "🍇"}], "big": 2**70, "nan": math.nan}
    run_id = store.begin_run("r", config, [{"name": "corn", "n": 5}])
    pipeline_id = store.begin_pipeline(run_id, "p", [1, {"b": None}], [{"_or_": "SNV"}], "corn", "h")
    run, pipeline = store.get_run(run_id), store.get_pipeline(pipeline_id)
    assert run is not None
    assert pipeline is not None
    assert run["config"] == {**config, "nan": None}
    assert run["datasets"] == [{"name": "corn", "n": 5}]
    assert (pipeline["expanded_config"], pipeline["generator_choices"]) == (
        [1, {"b": None}],
        [{"_or_": "SNV"}],
    )


def test_arrays_of_thousands_of_predictions_are_loaded_with_two_queries(
    store: WorkspaceStore, pipeline_id: str
) -> None:
    with store.transaction():
        ids = [predict(store, pipeline_id) for _ in range(50)]
        bare = scored(store, pipeline_id)
    seen: list[Counting] = []

    def ask(con: Any) -> Any:
        seen.append(Counting(con))
        return prediction_queries.load_arrays(seen[-1], [*ids, bare, "nobody"])  # type: ignore[arg-type]

    found = store._engine.query(ask)
    assert len(seen[0].asked) == 2
    assert set(found) == set(ids)
    first, second = found[ids[0]]["y_true"], found[ids[1]]["y_true"]
    assert first is not None
    assert second is not None
    first[0] = 99.0  # each caller gets arrays of its own
    np.testing.assert_array_equal(second, Y_TRUE)


def test_arrays_of_a_pipeline_are_those_that_the_predictions_have_by_themselves(
    store: WorkspaceStore, pipeline_id: str
) -> None:
    ids = [predict(store, pipeline_id) for _ in range(3)]
    elsewhere = predict(store, begin(store, "other")[1])
    nameless = predict(store, pipeline_id)
    bare = scored(store, pipeline_id)
    store.list_runs()
    store._engine.change(
        lambda con: con.execute(
            "UPDATE prediction_arrays SET pipeline_id = NULL WHERE prediction_id = ?", [nameless]
        )
    )
    wanted = [*ids[:2], elsewhere, nameless, bare]

    def ask(pipeline: str | None) -> dict[str, dict[str, np.ndarray | None]]:
        return store._engine.query(
            lambda con: prediction_queries.load_arrays(
                con, wanted, ("y_true", "y_pred"), pipeline_id=pipeline
            )
        )

    found, expected = ask(pipeline_id), ask(None)
    assert found.keys() == expected.keys() == {*ids[:2], elsewhere, nameless}
    for key, arrays in expected.items():
        assert arrays.keys() == {"y_true", "y_pred"}
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[key][name], array)  # type: ignore[arg-type]


def test_a_few_rows_make_the_frame_that_arrow_would_make(store: WorkspaceStore, pipeline_id: str) -> None:
    for score in (0.5, None, math.nan, -math.inf, 0.25, 1.0):
        scored(
            store, pipeline_id, val_score=score, branch_id=None, exclusion_rate=None, best_params={"ü": [1]}
        )
    sql = f"SELECT {', '.join(column_names('predictions'))} FROM predictions WHERE fold_id <> ? ORDER BY 1"
    for absent in ("nobody", prediction()["fold_id"]):
        few = store._engine.query(
            lambda con, absent=absent: frames.few_rows(  # type: ignore[misc]
                con.execute(sql, [absent]).fetchall(), arrow_schema("predictions")
            )
        )
        many = store._engine.query(lambda con, absent=absent: queries.frame(con, sql, [absent]))  # type: ignore[misc]
        assert few.schema == many.schema
        assert few.equals(many)
        assert few.height == (6 if absent == "nobody" else 0)


def test_an_array_that_is_gone_is_damage_and_not_a_key_error(store: WorkspaceStore, pipeline_id: str) -> None:
    prediction_id = predict(store, pipeline_id)
    store.list_runs()
    store._engine.change(lambda con: con.execute("DELETE FROM arrays"))
    with pytest.raises(CatalogDamaged, match="nirs-store check"):
        store.get_prediction(prediction_id, load_arrays=True)


def test_log_summary_counts_durations_of_ends_warnings_and_errors(store: WorkspaceStore) -> None:
    run_id, first = begin(store)
    second = store.begin_pipeline(run_id, "second", {}, [], "corn", "h")
    store.log_step(first, 0, "SNV", "start", 7)
    store.log_step(first, 0, "SNV", "end", 10)
    store.log_step(first, 1, "PLS", "end", 20, "slow", {"k": 1}, "warning")
    store.log_step(first, 1, "PLS", "fail", None, None, None, "error")
    summary = {row["pipeline_id"]: row for row in store.get_run_log_summary(run_id).to_dicts()}
    assert summary[first] == {
        "pipeline_id": first, "pipeline_name": "run-pls", "pipeline_status": "running", "log_count": 4,
        "total_duration_ms": 30, "warning_count": 1, "error_count": 1,
    }  # fmt: skip
    assert (summary[second]["log_count"], summary[second]["total_duration_ms"]) == (0, 0)


def test_chains_of_a_pipeline_come_in_the_order_of_their_saving(
    store: WorkspaceStore, pipeline_id: str
) -> None:
    ids = [chain_of(store, pipeline_id) for _ in range(4)]
    assert store.get_chains_for_pipeline(pipeline_id)["chain_id"].to_list() == ids


# -- ranking


def test_of_many_chains_only_the_best_are_scored_from_arrays_and_the_answer_is_the_same(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rmse in (3.0, 1.0, 2.0, 5.0, 4.0):
        record(store, f"{rmse}", [error(rmse)], recorded=[rmse])
    record(store, "not recorded", [error(1.5)])
    everything = store.top_chains(2)
    monkeypatch.setattr(ranking, "_SCORED_CHAINS", 3)
    scored: list[int] = []
    inner = ranking._scored
    monkeypatch.setattr(
        ranking,
        "_scored",
        lambda con, found, *rest: (scored.append(found.height), inner(con, found, *rest))[1],
    )
    assert store.top_chains(2).equals(everything)
    assert names(everything) == ["1.0", "not recorded"]
    assert scored == [5], "four by their recorded scores, and the one that recorded none"


def test_the_best_of_many_are_chosen_by_squares_and_not_by_a_mean_over_folds(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_SCORED_CHAINS", 1)
    for name, folds in (("uneven", (0.0, 1.9)), ("uneven too", (0.0, 1.9)), ("even", (1.0, 1.0))):
        record(store, name, [error(each) for each in folds], recorded=folds)
    assert names(store.top_chains(1)) == ["even"]
