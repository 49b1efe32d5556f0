"""Deletions that are undone: the same rows under the same ids, and the same predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampling import covering
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from storekit import blob_keys

from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.errors import InvalidInput, OverwriteRefused, UnknownId
from nirs_store.history.policy import keep_recent, keep_top_k

pytestmark = pytest.mark.usefixtures("each_backend")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 12)), RNG.normal(size=40)
# What a deletion and its undoing write by themselves.
OTHER = {"audit_entries", "nirs_store_meta", "applied", "sessions", "settings"}


def digests(store: WorkspaceStore) -> dict[str, Any]:
    """Return all rows of all tables, in an order of their own."""
    store.flush()
    tables = store.sql("SELECT table_name FROM duckdb_tables() ORDER BY table_name")["table_name"]
    return {
        table: sorted(map(str, store.sql(f"SELECT * FROM {table}").rows()))
        for table in tables
        if table not in OTHER
    }


@pytest.fixture
def store(tmp_path: Path):
    with WorkspaceStore(tmp_path / "w") as opened:
        with opened.run("corn", datasets=["corn"]) as run:
            opened.tag_run(run.run_id, "kept")
            for count in (2, 3):
                record_cross_validation(
                    opened, PLSRegression(count), X, Y, cv=3, dataset_name="corn", run_id=run.run_id,
                    target="oil", target_unit="%", wavelengths=np.arange(12.0),
                )  # fmt: skip
            opened.log_metric(opened.list_pipelines(run.run_id)["pipeline_id"][0], "loss", 0.5, 1)
        with opened.run("others", datasets=["corn"]) as other:
            record_cross_validation(opened, Ridge(), X, Y, cv=3, dataset_name="corn", run_id=other.run_id)
        yield opened


def ids(store: WorkspaceStore) -> dict[str, str]:
    run = store.list_runs(name="corn")["run_id"][0]
    pipeline = store.list_pipelines(run)["pipeline_id"][0]
    chain = store.get_chains_for_pipeline(pipeline)["chain_id"][0]
    prediction = store.query_predictions(chain_id=chain)["prediction_id"][0]
    return {"run": run, "pipeline": pipeline, "chain": chain, "prediction": prediction}


def retention(policy: Any) -> Callable[..., None]:
    return lambda store, now=False: store.retention.execute(store.retention.plan(policy), now=now)


WAYS: dict[str, Callable[..., Any]] = {
    **{
        kind: lambda store, now=False, kind=kind: getattr(store, f"delete_{kind}")(ids(store)[kind], now=now)
        for kind in ("run", "pipeline", "chain", "prediction")
    },
    "retention of chains": retention(keep_top_k(1, metric="rmse")),
    "retention of runs": retention(keep_recent(1, on="run")),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_back_is_what_went(store, way):
    before, files = digests(store), blob_keys(store)
    chain = ids(store)["chain"]
    expected = store.replay_chain(chain, X)
    WAYS[way](store)
    assert digests(store) != before
    # Neither takes what can still come back.
    store.gc_artifacts(grace_seconds=0)
    store.vacuum()
    assert store.check(read_data=True).findings == ()
    for trash_id in store.trash.list()["trash_id"]:
        store.trash.restore(trash_id)
    assert digests(store) == before
    assert blob_keys(store) == files
    np.testing.assert_array_equal(store.replay_chain(chain, X), expected)
    assert store.check(read_data=True).findings == ()


@pytest.mark.parametrize(("how", "way"), covering(["now", "empty", "gc --now", "time"], WAYS))
def test_what_is_deleted_for_good_leaves_nothing(store, way, how):
    WAYS[way](store, now=how == "now")
    if how == "empty":
        planned = store.trash.empty(dry_run=True).entries
        assert store.trash.empty().entries == planned
    elif how == "gc --now":
        assert store.gc_artifacts(dry_run=True).trash == ()
        assert store.gc_artifacts(dry_run=True, now=True).trash
        store.gc_artifacts(now=True)
    elif how == "time":
        store.trash.keep(0)
        store.vacuum()
        store.gc_artifacts()
    assert store.trash.list().height == 0
    plan = store.gc_artifacts(dry_run=True, grace_seconds=0)
    assert (plan.artifacts, plan.unused_arrays) == ((), 0)
    report = store.storage_report()
    assert (report.trash, report.trash_bytes) == (0, 0)
    assert not any("'trash'" in row for row in digests(store)["artifact_refs"])


def test_the_report_says_what_the_trash_keeps(store):
    store.delete_run(ids(store)["run"])
    kept = store.storage_report()
    free = store.gc_artifacts(dry_run=True, now=True)
    (entry,) = store.trash.list().iter_rows(named=True)
    assert (kept.trash, kept.trash_bytes) == (1, free.bytes + free.unused_array_bytes + entry["size_bytes"])
    assert free.bytes > 0
    assert free.unused_array_bytes > 0
    assert (entry["kind"], entry["name"], entry["operation"]) == ("run", "corn", "delete_run")
    assert (entry["until"] - entry["deleted_at"]).days == 30


@pytest.mark.everywhere
def test_parents_come_back_first_or_the_refusal_names_them(store):
    before, found = digests(store), ids(store)
    store.delete_prediction(found["prediction"])
    store.delete_chain(found["chain"])
    store.delete_run(found["run"])
    back = store.trash.restore(found["prediction"])
    assert back == [("run", found["run"]), ("chain", found["chain"]), ("prediction", found["prediction"])]
    assert digests(store) == before
    store.delete_chain(found["chain"])
    store.delete_run(found["run"], now=True)
    gone = digests(store)
    with pytest.raises(InvalidInput, match=found["pipeline"]):
        store.trash.restore(found["chain"])
    assert digests(store) == gone


def test_an_id_that_is_taken_or_unknown_is_refused(store):
    found = ids(store)
    row = store.get_prediction(found["prediction"])
    store.delete_prediction(found["prediction"])
    names = (
        "pipeline_id chain_id dataset_name model_name model_class fold_id partition val_score test_score train_score "
        "metric task_type n_samples n_features scores best_params branch_id branch_name exclusion_count exclusion_rate"
    )
    store.save_prediction(*(row[name] for name in names.split()), prediction_id=found["prediction"])
    before = digests(store)
    with pytest.raises(OverwriteRefused, match=found["prediction"]):
        store.trash.restore(found["prediction"])
    with pytest.raises(UnknownId):
        store.trash.restore("no such thing")
    for days in (-1, True, "3", float("nan")):
        with pytest.raises(InvalidInput, match=r"days|older_than"):
            store.trash.keep(days)
    assert digests(store) == before


@pytest.mark.not_on("replicas", why="each computer warns of the rows that it drops")
def test_what_comes_late_for_a_deleted_run_stays_away_and_after_the_undoing_it_stays(store):
    found = ids(store)
    late = WorkspaceStore(store.workspace_path)
    late.get_run(found["run"])
    with late.transaction():
        late.log_step(found["pipeline"], 0, None, "late", None, None, None, "info")
        store.delete_run(found["run"])
    late.flush()
    with pytest.warns(UserWarning, match="1 of logs"):
        store.trash.restore(found["run"])
    assert "late" not in store.get_pipeline_log(found["pipeline"])["event"].to_list()
    late.log_step(found["pipeline"], 0, None, "later", None, None, None, "info")
    late.close()
    assert "later" in store.get_pipeline_log(found["pipeline"])["event"].to_list()


@pytest.mark.parametrize("way", ["retention of chains", "run", "chain"])
def test_a_search_still_knows_the_scores_of_what_went(store, way):
    before = {row["chain_id"]: row for row in store.search("oil pls", None).to_dicts()}
    WAYS[way](store)
    gone = store.search("oil pls", None, deleted=True)
    assert set(gone["chain_id"]) == set(before) - set(store.search("oil pls", None)["chain_id"])
    assert gone.height
    for row in gone.iter_rows(named=True):
        old = before[row["chain_id"]]
        assert row["score"] == pytest.approx(old["score"])
        for name in ("components", "target", "target_unit", "run_name", "tags", "metric", "pipeline", "task"):
            assert row[name] == old[name]
    store.trash.empty()
    kept = store.search("oil", deleted=True).height
    assert kept == (gone.height if way.startswith("retention") else 0)


def judged(store: WorkspaceStore) -> None:
    """Two models on one suite; the better one has a table of samples, too."""
    store.evaluations.record(
        "base", "harvest", {"rmsep": 0.9}, metric="rmsep", better="lower", evaluation_id="first"
    )
    store.evaluations.record_chain(
        ids(store)["chain"], X, Y, "harvest", model_id="pls", evaluation_id="second"
    )
    store.evaluations.set_champion("second")
    store.evaluations.set_champion("first", rank=2)


@pytest.mark.parametrize("evaluation", ["first", "second"])
def test_an_evaluation_comes_back_with_its_table_and_its_ranks(store, evaluation):
    judged(store)
    before, samples = digests(store), store.evaluations.samples("second")
    assert store.evaluations.delete(evaluation)
    assert store.evaluations.get(evaluation) is None
    moved_up = store.evaluations.champions("harvest").filter(rank=1)["model_id"].to_list()
    assert moved_up == ["pls" if evaluation == "first" else "base"]
    assert store.trash.list()["kind"][0] == "evaluation"
    store.gc_artifacts(grace_seconds=0)
    assert store.check(read_data=True).findings == ()
    assert store.trash.restore(evaluation) == [("evaluation", evaluation)]
    assert digests(store) == before
    assert store.evaluations.samples("second").equals(samples)
    assert store.check(read_data=True).findings == ()


def test_a_rank_that_was_given_since_stays_and_now_is_for_good(store):
    judged(store)
    store.evaluations.delete("second")
    store.evaluations.record(
        "new", "harvest", {"rmsep": 0.1}, metric="rmsep", better="lower", evaluation_id="third"
    )
    store.evaluations.set_champion("third")
    store.trash.restore("second")
    assert store.evaluations.champions("harvest").filter(rank=1)["model_id"].to_list() == ["new"]
    store.evaluations.delete("second", now=True)
    assert store.trash.list().height == 0
    with pytest.raises(UnknownId):
        store.trash.restore("second")
