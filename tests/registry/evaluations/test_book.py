"""Recording evaluations, finding them again, and their champions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression
from storekit import blob_root

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.errors import ForbiddenContent, InvalidInput, ReadOnlyStore, ShapeMismatch, UnknownId
from nirs_store.scores import regression_scores

EPISODES = [
    {"episode_id": "ep_001", "success": True, "reward": 0.85, "steps": 150, "map_name": "loop"},
    {"episode_id": "ep_002", "success": False, "reward": 0.25, "steps": 90, "map_name": "zigzag"},
    {"episode_id": "ep_003", "success": True, "reward": 0.70, "steps": 120, "map_name": "loop"},
]


def test_what_was_recorded_comes_back(store: WorkspaceStore) -> None:
    run_id = store.begin_run("r", {}, [])
    made = store.evaluations.record(
        "enhanced",
        "loop",
        {"global_score": 0.87, "time": 3.5},
        success_rate=0.92,
        run_id=run_id,
        evaluation_id="eval_001",
        files=["version-1"],
        tags=["final"],
        metadata={"suite_count": 5},
        seeds=[1, 2],
        parameters={"episodes": 100},
        container="sha256:abc",
    )
    assert made == "eval_001"
    found = store.evaluations.get(made)
    assert found is not None
    assert (found["model_id"], found["suite"], found["status"], found["metric"]) == (
        "enhanced", "loop", "completed", "global_score",
    )  # fmt: skip
    assert found["scores"] == {"global_score": 0.87, "time": 3.5}
    assert (found["success_rate"], found["run_id"], found["tags"]) == (0.92, run_id, ["final"])
    assert (found["files"], found["metadata"]) == (["version-1"], {"suite_count": 5})
    environment = found["environment"]
    assert (environment["seeds"], environment["container"]) == ([1, 2], "sha256:abc")
    assert environment["parameters"] == {"episodes": 100}
    assert environment["packages"]["numpy"] == np.__version__
    assert found["created_at"].tzinfo is UTC


@pytest.mark.parametrize(
    "make", [list, pl.DataFrame, pd.DataFrame, lambda rows: pl.DataFrame(rows).to_arrow()]
)
def test_a_table_may_come_as_list_polars_pandas_or_arrow_and_is_stored_once(
    store: WorkspaceStore, make: Any
) -> None:
    first = store.evaluations.record("a", "s", 0.5, episodes=make(EPISODES))
    store.evaluations.record("b", "s", 0.6, episodes=EPISODES)
    table = store.evaluations.episodes(first)
    assert table is not None
    assert table.to_dicts() == EPISODES
    found = store.evaluations.get(first)
    assert found is not None
    assert found["n_episodes"] == 3
    assert found["success_rate"] == pytest.approx(2 / 3)
    artifact = store.get_artifact(found["episodes_id"])
    assert artifact is not None
    assert artifact["ref_count"] == 2
    assert store.check(read_data=True).findings == ()
    assert store.evaluations.samples(first) is None


@pytest.mark.everywhere
def test_gc_keeps_a_table_until_its_evaluation_is_deleted(store: WorkspaceStore) -> None:
    made = store.evaluations.record("a", "s", 0.5, episodes=EPISODES)
    assert store.gc_artifacts(grace_seconds=0) == 0
    assert store.evaluations.delete(made)
    assert store.gc_artifacts(grace_seconds=0) == 0, "the trash holds it"
    store.trash.restore(made)
    assert store.evaluations.episodes(made) is not None
    assert store.evaluations.delete(made, now=True)
    assert store.gc_artifacts(grace_seconds=0) == 1
    assert not store.evaluations.delete(made)
    assert store.evaluations.champions().height == 0
    assert store.check(read_data=True).findings == ()


def test_a_reference_that_an_evaluation_lacks_is_found_and_mended(store: WorkspaceStore) -> None:
    made = store.evaluations.record("lost", "s", 0.5, episodes=EPISODES)
    store._engine.change(
        lambda con: con.execute("DELETE FROM artifact_refs WHERE owner_id = ?", [made]).fetchall()
    )
    assert [(f.kind, f.where) for f in store.check().findings] == [
        ("reference_missing", f"evaluations/{made}")
    ]
    store.repair()
    assert store.check(read_data=True).findings == ()
    assert store.evaluations.delete(made)


def test_the_guard_looks_through_what_is_said_of_an_evaluation(store: WorkspaceStore) -> None:
    before = store.evaluations.list().height
    store.audit.guard.forbid(keys=["patient_id"])
    with pytest.raises(ForbiddenContent, match="patient_id"):
        store.evaluations.record("a", "s", 0.5, metadata={"Patient-ID": 7})
    store.audit.guard.allow(keys=["patient_id"])
    assert store.evaluations.list().height == before


def test_an_export_writes_csv_and_json_with_the_facts(store: WorkspaceStore, tmp_path: Path) -> None:
    rows = [{**row, "path": [1, 2]} for row in EPISODES]
    made = store.evaluations.record("a", "s", 0.5, episodes=rows, evaluation_id="e1")
    files = store.evaluations.export(made, tmp_path / "out")
    assert {name: path.name for name, path in files.items()} == {
        "csv": "e1-episodes.csv",
        "json": "e1-episodes.json",
    }
    with files["csv"].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[1]["reward"] == "0.25"
    assert lines[1]["path"] == "[1,2]"
    told = json.loads(files["json"].read_text())
    assert told["episodes"] == rows
    assert told["evaluation"]["scores"] == {"score": 0.5}
    assert store.evaluations.export(made, tmp_path, format="csv").keys() == {"csv"}
    with pytest.raises(InvalidInput, match="recorded without samples"):
        store.evaluations.export(made, tmp_path, what="samples")
    with pytest.raises(InvalidInput, match="csv"):
        store.evaluations.export(made, tmp_path, format="cvs")


def test_lists_are_filtered_and_cut_to_the_newest(store: WorkspaceStore) -> None:
    for number in range(3):
        store.evaluations.record("a", "s", number, tags=[f"t{number}", "all"], evaluation_id=f"e{number}")
    store.evaluations.record("b", "other", 1.0, status="failed", message="lost contact", evaluation_id="bad")
    book = store.evaluations
    assert book.list(model_id="a", limit=2)["evaluation_id"].to_list() == ["e1", "e2"]
    assert book.list(tags=["all", "t1"])["evaluation_id"].to_list() == ["e1"]
    assert book.list(status="failed")["evaluation_id"].to_list() == ["bad"]
    assert book.history("a")["score"].to_list() == [0.0, 1.0, 2.0]
    assert book.suites() == ["other", "s"]
    with pytest.raises(InvalidInput, match="Did you mean 'failed'"):
        book.list(status="faild")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    """A workspace that refuses everything, and so can serve many tests."""
    with WorkspaceStore(tmp_path_factory.mktemp("untouched") / "ws") as store:
        yield store
        assert store.evaluations.list().height == 0
        assert list((blob_root(store) / "artifacts").rglob("*.parquet")) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"scores": {}}, "at least one"),
        ({"scores": {"x": "much"}}, "number"),
        ({"success_rate": 1.2}, "between 0 and 1"),
        ({"model_id": " "}, "expected a name"),
        ({"evaluation_id": "../up"}, "evaluation_id"),
        ({"status": "complete"}, "Did you mean 'completed'"),
        ({"better": "hihger"}, "Did you mean 'higher'"),
        ({"metric": "scor"}, "Did you mean 'score'"),
        ({"episodes": []}, "at least one row"),
        ({"episodes": [1, 2]}, "one dict per row"),
        ({"episodes": "rows"}, "data frame"),
        ({"episodes": [{"a": 1}, {"a": "x"}]}, "one kind of value"),
        ({"samples": [{"a": object()}]}, "Python objects"),
        ({"files": "one"}, "list of texts"),
        ({"seeds": "x"}, "whole numbers"),
        ({"seeds": [1.5]}, "whole numbers"),
        ({"created_at": "today"}, "datetime"),
    ],
)
def test_bad_input_is_refused_audited_and_changes_nothing(
    untouched: WorkspaceStore, bad: dict[str, Any], words: str
) -> None:
    before = untouched.audit.query(operation="record_evaluation").height
    given: dict[str, Any] = {"model_id": "a", "suite": "s", "scores": {"score": 0.5}} | bad
    with pytest.raises(InvalidInput, match=words):
        untouched.evaluations.record(**given)
    assert untouched.evaluations.list().height == 0
    noted = untouched.audit.query(operation="record_evaluation")
    assert noted["success"].to_list()[before:] == [False]
    assert list((blob_root(untouched) / "artifacts").rglob("*.parquet")) == []


def test_an_unknown_chain_or_run_and_a_second_use_of_an_id_are_refused(store: WorkspaceStore) -> None:
    with pytest.raises(UnknownId, match="chain"):
        store.evaluations.record("a", "s", 1.0, chain_id="nothing")
    with pytest.raises(UnknownId, match="run"):
        store.evaluations.record("a", "s", 1.0, run_id="nothing")
    store.evaluations.record("a", "s", 1.0, evaluation_id="e")
    with pytest.raises(InvalidInput, match="recorded already"):
        store.evaluations.record("b", "s", 2.0, evaluation_id="e", episodes=EPISODES)
    with pytest.raises(InvalidInput, match="'higher' is better for 'score'"):
        store.evaluations.record("b", "s", 2.0, better="lower", episodes=EPISODES)
    assert list((blob_root(store) / "artifacts").rglob("*.parquet")) == []
    assert store.evaluations.list()["model_id"].to_list() == ["a"]


def test_a_read_only_store_answers_and_records_nothing(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        store.evaluations.record("a", "s", 1.0, episodes=EPISODES, evaluation_id="e")
    with WorkspaceStore(folder, read_only=True) as store:
        table = store.evaluations.episodes("e")
        assert table is not None
        assert table.height == 3
        with pytest.raises(ReadOnlyStore):
            store.evaluations.record("a", "s", 1.0)


# -- champions -----------------------------------------------------------------------------------


def values(store: WorkspaceStore, *scores: float, metric: str = "score", **more: Any) -> None:
    for number, score in enumerate(scores):
        store.evaluations.record(f"m{number}", "s", {metric: score}, evaluation_id=f"e{number}", **more)


@pytest.mark.everywhere
def test_the_best_becomes_champion_and_tells_whom_it_followed(store: WorkspaceStore) -> None:
    book = store.evaluations
    book.record("base", "s", {"global_score": 0.82, "time": 3.0}, success_rate=0.88)
    book.record("worse", "s", {"global_score": 0.5}, success_rate=0.99)
    book.record("equal", "s", {"global_score": 0.82})
    book.record("better", "s", {"global_score": 0.87, "time": 2.0}, success_rate=0.92)
    (champion,) = book.champions().to_dicts()
    assert (champion["model_id"], champion["previous_model"], champion["rank"]) == ("better", "base", 1)
    assert champion["improvement"] == pytest.approx(0.05)
    assert json.loads(champion["improvements"]) == pytest.approx(
        {"global_score": 0.05, "time": -1.0, "success_rate": 0.04}
    )
    assert champion["chosen_by"] == "found"
    assert book.progression()["model_id"].to_list() == ["base", "better"]
    assert book.progression(limit=1)["model_id"].to_list() == ["better"]


@pytest.mark.parametrize(
    ("metric", "scores", "leader"),
    [
        ("rmsep", (2.0, 1.5, 1.8), "m1"),
        ("r2", (0.5, 0.9, 0.8), "m1"),
        ("bias", (-0.5, 0.1, -0.2), "m1"),
        ("anything", (1.0, 3.0, 2.0), "m1"),
    ],
)
def test_each_metric_improves_in_its_own_direction(
    store: WorkspaceStore, metric: str, scores: tuple[float, ...], leader: str
) -> None:
    values(store, *scores, metric=metric)
    assert store.evaluations.champions()["model_id"].to_list() == [leader]
    assert store.evaluations.leaderboard("s", n_resamples=10)["model_id"][0] == leader


def test_a_direction_that_was_said_once_holds_for_the_suite(store: WorkspaceStore) -> None:
    store.evaluations.record("slow", "s", {"seconds": 9.0}, better="lower")
    store.evaluations.record("quick", "s", {"seconds": 4.0})
    store.evaluations.record("slower", "s", {"seconds": 12.0})
    assert store.evaluations.champions()["model_id"].to_list() == ["quick"]
    assert store.evaluations.champions()["improvement"].to_list() == [5.0]
    assert store.evaluations.leaderboard("s")["model_id"].to_list() == ["quick", "slow", "slower"]


def test_nan_failed_and_unwanted_evaluations_never_become_champions(store: WorkspaceStore) -> None:
    values(store, 0.5)
    store.evaluations.record("nan", "s", {"score": float("nan"), "other": 1.0})
    store.evaluations.record("failed", "s", 0.9, status="failed")
    store.evaluations.record("shy", "s", 0.9, champion=False)
    assert store.evaluations.champions()["model_id"].to_list() == ["m0"]


def test_a_champion_set_by_hand_stays_until_champions_are_found_again(store: WorkspaceStore) -> None:
    values(store, 0.5, 0.7, 0.6)
    book = store.evaluations
    book.set_champion("e0", note="the only one that is certified")
    book.record("m3", "s", 0.9, evaluation_id="e3")
    (held,) = book.champions().to_dicts()
    assert (held["model_id"], held["chosen_by"], held["previous_model"]) == ("m0", "hand", "m1")
    assert held["note"] == "the only one that is certified"
    assert held["improvement"] == pytest.approx(-0.2)
    found = book.find_champions("s", top=3)
    assert list(zip(found["rank"], found["model_id"], found["chosen_by"], strict=True)) == [
        (1, "m3", "found"), (2, "m1", "found"), (3, "m2", "found"),
    ]  # fmt: skip
    assert book.find_champions("s", top=1)["model_id"].to_list() == ["m3"]
    before = book.progression(rank=None).height
    book.find_champions("s")
    assert book.progression(rank=None).height == before


def test_a_champion_by_another_metric_is_a_champion_of_its_own(store: WorkspaceStore) -> None:
    for model, score, rate in (("a", 0.9, 0.5), ("b", 0.8, 0.9)):
        store.evaluations.record(model, "s", score, success_rate=rate)
    store.evaluations.find_champions("s", metric="success_rate")
    found = {row["metric"]: row["model_id"] for row in store.evaluations.champions("s").iter_rows(named=True)}
    assert found == {"score": "a", "success_rate": "b"}


def ranks(store: WorkspaceStore, **of: Any) -> list[tuple[int, str]]:
    return store.evaluations.champions("s", **of).select("rank", "evaluation_id").rows()


@pytest.mark.everywhere
def test_ranks_close_up_when_the_champion_is_deleted(store: WorkspaceStore) -> None:
    book = store.evaluations
    values(store, 0.1, 0.4, 0.3, 0.2)  # crowned one after another: e0, e1
    book.find_champions("s", top=3)
    assert ranks(store) == [(1, "e1"), (2, "e2"), (3, "e3")]
    told = [(each["rank"], each["model_id"], each["next_model"]) for each in book.plan_delete("e1")]
    assert told == [(1, "m1", "m2"), (2, "m2", "m3"), (3, "m3", None)]
    assert ranks(store) == [(1, "e1"), (2, "e2"), (3, "e3")]
    book.delete("e1")
    assert ranks(store) == [(1, "e2"), (2, "e3")]
    book.delete("e3")
    assert ranks(store) == [(1, "e2")]
    assert book.plan_delete("e0") == []
    book.delete("e0")
    assert ranks(store) == [(1, "e2")]


def test_who_held_the_rank_before_holds_it_again_and_never_two(store: WorkspaceStore) -> None:
    book = store.evaluations
    values(store, 0.5, 0.9)
    book.record("never", "s", 0.8, evaluation_id="never")
    assert book.plan_delete("e1")[0]["next_model"] == "m0"
    book.find_champions("s", top=2)  # e1, never
    book.find_champions("s", top=1)
    assert ranks(store) == [(1, "e1")]
    book.set_champion("e0", rank=2)
    book.delete("e1")
    assert ranks(store) == [(1, "e0")]
    book.delete("e0")
    assert ranks(store) == []


def test_a_rank_that_was_left_empty_stays_so_when_its_holder_is_deleted(store: WorkspaceStore) -> None:
    book = store.evaluations
    values(store, 0.9, 0.5)
    book.set_champion("e0", rank=2)
    book.find_champions("s", top=2)  # e0, e1
    book.find_champions("s", top=1)
    book.delete("e1")
    assert ranks(store) == [(1, "e0")]


def test_unknown_champions_suites_and_ranks_are_refused(store: WorkspaceStore) -> None:
    values(store, 0.5)
    with pytest.raises(UnknownId, match="evaluation"):
        store.evaluations.set_champion("nothing")
    with pytest.raises(InvalidInput, match="it has score"):
        store.evaluations.set_champion("e0", metric="time")
    with pytest.raises(InvalidInput, match="rank"):
        store.evaluations.set_champion("e0", rank=0)
    with pytest.raises(UnknownId, match="There are: s"):
        store.evaluations.find_champions("nowhere")
    with pytest.raises(InvalidInput, match="no completed evaluation"):
        store.evaluations.find_champions("s", metric="time")
    assert store.evaluations.progression().height == 1


# -- chains --------------------------------------------------------------------------------------


def test_a_chain_is_evaluated_with_the_scores_of_the_field(store: WorkspaceStore) -> None:
    tecator = load_tecator()
    result = record_cross_validation(
        store, PLSRegression(6), tecator.X[:80], tecator.fat[:80], cv=3, dataset_name="tecator"
    )
    X, y = tecator.X[80:120], tecator.fat[80:120]
    group = ["a", "b"] * 20
    made = store.evaluations.record_chain(
        result.chain_id, X, y, "harvest", groups={"site": group}, tags=["x"]
    )
    found = store.evaluations.get(made)
    assert found is not None
    expected = regression_scores(y, store.replay_chain(result.chain_id, X))
    assert found["metric"] == "rmsep"
    assert found["scores"]["rmsep"] == pytest.approx(expected["rmse"])
    assert found["scores"]["rpd"] == pytest.approx(expected["rpd"])
    assert (found["chain_id"], found["model_id"], found["n_samples"]) == (
        result.chain_id,
        result.chain_id,
        40,
    )
    samples = store.evaluations.samples(made)
    assert samples is not None
    assert samples.columns == ["sample", "y_true", "y_pred", "site"]
    (line,) = store.evaluations.leaderboard("harvest", n_resamples=200).to_dicts()
    assert line["value"] == pytest.approx(expected["rmse"])
    assert line["ci_low"] < line["value"] < line["ci_high"]
    sites = store.evaluations.by_group("harvest", "site", n_resamples=50)
    assert sites["site"].to_list() == ["a", "b"]
    assert sites["value"][0] == pytest.approx(
        regression_scores(y[::2], store.replay_chain(result.chain_id, X[::2]))["rmse"]
    )


def test_a_classifier_is_ranked_by_its_balanced_accuracy(store: WorkspaceStore) -> None:
    tecator = load_tecator()
    labels = np.where(tecator.fat > 15, "fat", "lean")
    result = record_cross_validation(
        store, LogisticRegression(max_iter=500), tecator.X[:80], labels[:80], cv=3, dataset_name="tecator"
    )
    made = store.evaluations.record_chain(
        result.chain_id, tecator.X[80:120], labels[80:120], "meat", model_id="lr"
    )
    found = store.evaluations.get(made)
    assert found is not None
    assert (found["metric"], found["model_id"]) == ("balanced_accuracy", "lr")
    (line,) = store.evaluations.leaderboard("meat", n_resamples=50).to_dicts()
    assert line["value"] == pytest.approx(found["scores"]["balanced_accuracy"])
    assert line["ci_low"] <= line["value"] <= line["ci_high"]


def test_a_chain_needs_a_value_a_sample(store: WorkspaceStore) -> None:
    tecator = load_tecator()
    result = record_cross_validation(
        store, PLSRegression(2), tecator.X[:30], tecator.fat[:30], cv=3, dataset_name="tecator"
    )
    with pytest.raises(ShapeMismatch, match="10 of them, found 9"):
        store.evaluations.record_chain(result.chain_id, tecator.X[:10], tecator.fat[:9], "s")
    with pytest.raises(ShapeMismatch, match="groups"):
        store.evaluations.record_chain(result.chain_id, tecator.X[:10], tecator.fat[:10], "s", groups=["a"])
    with pytest.raises(InvalidInput, match="column of the table already"):
        store.evaluations.record_chain(
            result.chain_id, tecator.X[:2], tecator.fat[:2], "s", groups={"sample": [1, 2]}
        )
    with pytest.raises(InvalidInput, match="makes them itself"):
        store.evaluations.record_chain(result.chain_id, tecator.X[:2], tecator.fat[:2], "s", samples=[])
    assert store.evaluations.list().height == 0


def test_changes_and_refused_champions_are_audited(store: WorkspaceStore) -> None:
    evaluations = store.evaluations
    evaluations.record("a", "s", 1.0, evaluation_id="e")
    evaluations.find_champions("s")
    with pytest.raises(UnknownId):
        evaluations.set_champion("nothing")
    with pytest.raises(InvalidInput):
        evaluations.find_champions("s", top=0)
    evaluations.delete("e")
    noted = store.audit.query(object_kind="evaluation")
    assert noted.select("operation", "object_id", "success").rows() == [
        ("record_evaluation", "e", True),
        ("find_champions", "s", True),
        ("set_champion", "nothing", False),
        ("find_champions", "s", False),
        ("delete_evaluation", "e", True),
    ]


def test_evaluations_keep_the_moment_that_was_given(store: WorkspaceStore) -> None:
    moment = datetime(2025, 3, 1, 12, tzinfo=UTC)
    store.evaluations.record("a", "s", 2.0, created_at=moment + timedelta(days=1), evaluation_id="later")
    store.evaluations.record("a", "s", 1.0, created_at=moment, evaluation_id="earlier")
    assert store.evaluations.list()["evaluation_id"].to_list() == ["earlier", "later"]
    assert store.evaluations.list()["created_at"][0] == moment


@pytest.mark.parametrize("as_columns", [False, True])
@pytest.mark.parametrize(
    ("given", "read"),
    [
        ([0, 0, 0.5], [0.0, 0.0, 0.5]),
        ([None, True, 0.25, 2], [None, 1.0, 0.25, 2.0]),
        ([np.int32(3), np.float32(0.5), 1], [3.0, 0.5, 1.0]),
        ([True, 7], [1, 7]),
        ([np.bool_(True), None, False], [True, None, False]),
        ([[1], None, [0.5, 2]], [[1.0], None, [0.5, 2.0]]),
        (
            [{"x": 1}, {"y": 0.5}, {"x": 0.5}],
            [{"x": 1, "y": None}, {"x": None, "y": 0.5}, {"x": 0.5, "y": None}],
        ),
    ],
)
def test_numbers_of_several_kinds_come_back_as_they_were(
    store: WorkspaceStore, given: list[Any], read: list[Any], as_columns: bool
) -> None:
    table = {"reward": given} if as_columns else [{"reward": value} for value in given]
    made = store.evaluations.record("m", "s", 1.0, episodes=table)
    found = store.evaluations.episodes(made)
    assert found is not None
    assert found["reward"].to_list() == read


@pytest.mark.parametrize("given", [[1, "a"], [2**60, 0.5], [[1], ["a"]], [{"x": 1}, {"x": "a"}]])
def test_what_one_column_cannot_hold_is_refused_in_one_line(store: WorkspaceStore, given: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="Nothing was recorded") as caught:
        store.evaluations.record("m", "s", 1.0, episodes=[{"reward": value} for value in given])
    assert "\n" not in str(caught.value)
    assert store.evaluations.history().is_empty()
