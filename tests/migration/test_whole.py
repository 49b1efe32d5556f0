"""Whole workspaces of nirs4all 0.7.1 (DuckDB) and 1.4.10 (SQLite + Parquet), as they were written."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from nirs_store import WorkspaceStore, migrate_nirs4all
from nirs_store.errors import ReplayError, SerializationError

pytestmark = pytest.mark.filterwarnings(
    # The models were fitted with the scikit-learn of their day.
    "ignore:Trying to unpickle estimator",
)


def counted(migrated: Any) -> dict[str, int]:
    tables = ("runs", "pipelines", "chains", "predictions", "logs")
    if migrated.version == "0.7.1":
        with duckdb.connect(str(migrated.source / "store.duckdb"), read_only=True) as con:
            counts = {t: con.execute(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in tables}
            return {
                **counts,
                "arrays": con.execute("SELECT count(*) FROM prediction_arrays").fetchall()[0][0],
            }
    with closing(sqlite3.connect(f"file:{migrated.source}/store.sqlite?immutable=1", uri=True)) as con:
        counts = {t: con.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}
    files = (migrated.source / "arrays").glob("*.parquet")
    return {**counts, "arrays": sum(len(pl.read_parquet(path)) for path in files)}


def test_everything_comes_over_and_is_verified(migrated: Any) -> None:
    report = migrated.report
    expected = counted(migrated)
    assert {kind: counts.added for kind, counts in report.counts.items() if kind != "artifacts"} == expected
    assert report.verified
    files = {path.name for path in (migrated.target / "artifacts").rglob("*") if path.is_file()}
    assert report.counts["artifacts"].added == report.counts["artifacts"].verified == len(files) > 10
    with WorkspaceStore(migrated.target, read_only=True) as store:
        for table, count in expected.items():
            name = {"arrays": "prediction_arrays"}.get(table, table)
            assert store.sql(f"SELECT count(*) AS n FROM {name}")["n"][0] == count
        assert store.check(read_data=True).ok


def test_the_source_stays_as_it_was(migrated: Any, fingerprint: Any) -> None:
    assert fingerprint(migrated.source) == migrated.before


def test_chains_predict_the_numbers_that_nirs4all_gave(migrated: Any) -> None:
    X = np.array(migrated.expected["X"])
    same, refused = 0, []
    with WorkspaceStore(migrated.target, read_only=True) as store:
        for chain_id, answer in migrated.expected["replayed"].items():
            chain = store.get_chain(chain_id)
            assert chain is not None
            try:
                found = store.replay_chain(chain_id, X)
            except (ReplayError, SerializationError) as error:
                # Steps of nirs4all's own, which is not installed; and models that are dicts, at which nirs4all
                # gives up as well.
                refused.append(str(error))
                continue
            if isinstance(answer, str):
                # 0.7.1 applies target transformers to spectra; here they are undone on predictions.
                assert migrated.version == "0.7.1"
                assert found.shape == (len(X),)
            elif chain["model_class"] == "LogisticRegression" and len(chain["fold_artifacts"]) > 1:
                # nirs4all averages labels of folds; here probabilities are.
                assert set(found) <= {0, 1, 2}
            else:
                np.testing.assert_array_equal(found, np.array(answer))
                same += 1
    assert all("nirs4all" in message or "is a dict" in message for message in refused)
    assert (same, len(refused)) == {"0.7.1": (3, 3), "1.4.10": (5, 7)}[migrated.version]


def test_a_second_migration_adds_nothing(migrated: Any) -> None:
    again = migrate_nirs4all(migrated.source, migrated.target)
    assert [counts.added for counts in again.counts.values()] == [0] * len(again.counts)
    assert {kind: c.present for kind, c in again.counts.items()} == {
        kind: c.added for kind, c in migrated.report.counts.items()
    }
    assert again.verified


def test_runs_pipelines_and_logs_are_as_they_were(migrated: Any) -> None:
    with WorkspaceStore(migrated.target, read_only=True) as store:
        runs = {row["name"]: row for row in store.list_runs().iter_rows(named=True)}
        assert (runs["broken"]["status"], runs["broken"]["error"]) == ("failed", "it broke")
        assert runs["open"]["status"] == "interrupted"
        hand = store.get_run(runs["by hand"]["run_id"])
        assert hand is not None
        assert hand["summary"] == {"best": 0.25}
        assert hand["tags"] == ([] if migrated.version == "0.7.1" else ["project Meat"])
        assert hand["created_at"].year == 2026
        (pipeline,) = store.list_pipelines(run_id=hand["run_id"]).iter_rows(named=True)
        assert (pipeline["status"], pipeline["best_val"], pipeline["duration_ms"]) == ("completed", 0.25, 7)
        assert pipeline["best_test"] is None or np.isnan(pipeline["best_test"])
        log = store.get_pipeline_log(pipeline["pipeline_id"]).row(0, named=True)
        assert (log["level"], log["message"], log["duration_ms"]) == ("warning", "careful", 5)
        (chain_id,) = store.get_chains_for_pipeline(pipeline["pipeline_id"])["chain_id"]
        chain = store.get_chain(chain_id)
        assert chain is not None
        assert (chain["branch_path"], chain["source_index"]) == ([1, 0], 0)
        assert store.load_artifact(chain["fold_artifacts"]["fold_0"]) == {"not": "a model"}


def test_arrays_keep_labels_and_shapes(migrated: Any) -> None:
    with WorkspaceStore(migrated.target, read_only=True) as store:
        one = store.get_prediction("by-hand-1", load_arrays=True)
        assert one is not None
        assert (one["branch_name"], one["exclusion_rate"], one["scores"]) == (
            "left",
            0.5,
            {"val": {"rmse": 0.25}},
        )
        np.testing.assert_array_equal(one["weights"], [0.5, 1.0, 2.0])
        if migrated.version == "0.7.1":
            np.testing.assert_array_equal(one["y_true"], np.arange(3.0))
            return
        np.testing.assert_array_equal(one["y_true"], np.arange(6.0).reshape(3, 2))
        labels = store.get_prediction("by-hand-0", load_arrays=True)
        assert labels is not None
        assert labels["y_true"].tolist() == ["a", "b", "ä"]
        assert labels["y_proba"].shape == (3, 2)


def test_what_has_no_place_here_is_named(migrated: Any) -> None:
    left = {(one.kind, one.reason): one.count for one in migrated.report.left_out}
    reasons = " | ".join(reason for _, reason in left)
    assert "refit_context" in reasons
    assert "outputs" in reasons
    assert "weights of folds" in reasons
    if migrated.version == "1.4.10":
        assert "sample_metadata" in reasons
        assert left[("chains", next(r for _, r in left if "default engine" in r))] == 4


def test_the_leaderboard_ranks_them_by_pooled_predictions(migrated: Any) -> None:
    with WorkspaceStore(migrated.target, read_only=True) as store:
        top = store.top_chains(20, task_type="regression").filter(pl.col("n_folds") == 3)
        assert top.height >= 3
        row = top.row(0, named=True)
        # Each of the 54 calibration samples once: nirs4all's rows of averaged folds do not count.
        assert row["n_samples"] == 54
        arrays = [
            store.get_prediction(prediction_id, load_arrays=True)
            for prediction_id in store.query_predictions(chain_id=row["chain_id"], partition="val").filter(
                pl.col("fold_id").is_in(["0", "1", "2"])
            )["prediction_id"]
        ]
        errors = np.concatenate([a["y_pred"] - a["y_true"] for a in arrays if a is not None])
        np.testing.assert_allclose(row["rmsecv"], np.sqrt(np.mean(errors**2)))


def test_models_of_the_default_engine_replay_when_they_may_be_unpickled(unpack: Any, tmp_path: Path) -> None:
    folder = unpack("1.4.10")
    expected = json.loads((folder / "expected.json").read_text())
    report = migrate_nirs4all(folder / "workspace", tmp_path / "ours", unpickle=True)
    assert report.verified
    X = np.array(expected["X"])
    with WorkspaceStore(tmp_path / "ours", read_only=True) as store:
        runs = dict(store.list_runs().select("name", "run_id").iter_rows())
        for name in ("plain", "targets", "classes"):
            (pipeline_id,) = store.list_pipelines(run_id=runs[f"{name} default"])["pipeline_id"]
            (chain_id,) = store.get_chains_for_pipeline(pipeline_id)["chain_id"]
            # What nirs4all's own loader predicted with the bundle that it exported of the same result.
            answer = np.array(expected["bundles"][f"default-{name}.n4a"])
            found = store.replay_chain(chain_id, X)
            np.testing.assert_array_equal(found, answer.reshape(found.shape), name)
    # The one with a step of nirs4all's own needs nirs4all.
    assert {
        one.reason.partition(":")[0]: one.count for one in report.left_out if one.kind == "artifacts"
    } == {"it cannot be loaded here": 1}
    again = migrate_nirs4all(folder / "workspace", tmp_path / "ours", unpickle=True)
    assert {counts.added for counts in again.counts.values()} == {0}
    assert again.verified
