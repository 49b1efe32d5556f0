"""Retention: what rules keep, what limits cut, and what must stay whatever they say."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from historykit import put_row
from storekit import begin, blob_root, chain_of, prediction

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.history.policy import (
    RetentionPolicy,
    keep_all,
    keep_champions,
    keep_recent,
    keep_top_k,
    limit,
)

Y = np.array([1.0, 2.0, 3.0, 4.0])


def scored(store: WorkspaceStore, error: float, *, model: str = "a.PLS", dataset: str = "corn") -> str:
    """A run with one chain whose RMSECV is `error`."""
    run_id, pipeline_id = begin(store, f"{model} {error}", dataset)
    artifact = store.save_artifact([run_id], "builtins.list", "model", "joblib")
    steps = [{"step_idx": 0, "operator_class": model, "params": {}, "artifact_id": artifact}]
    chain_id = store.save_chain(pipeline_id, steps, 0, model, "raw", "per_fold", {"fold_0": artifact}, {})
    made = store.save_prediction(
        pipeline_id,
        chain_id,
        **prediction(val_score=error, scores={"rmse": error}, model_class=model, dataset_name=dataset),
    )
    store.save_prediction_arrays(made, Y, Y + error)
    store.complete_pipeline(pipeline_id, error, None, "rmse", 5)
    store.complete_run(run_id, {})
    return chain_id


def chains(store: WorkspaceStore) -> list[str]:
    return store.sql("SELECT chain_id FROM chains ORDER BY created_at").to_series().to_list()


def run_of(store: WorkspaceStore, chain_id: str) -> str:
    sql = "SELECT run_id FROM chains JOIN pipelines USING (pipeline_id) WHERE chain_id = $id"
    return str(store.sql(sql, {"id": chain_id}).item())


def going(store: WorkspaceStore, policy: Any) -> list[str]:
    return [item.id for item in store.retention.plan(policy).take]


@pytest.fixture(scope="session")
def recorded(empty: Path) -> tuple[Path, list[str]]:
    """A workspace with three runs of a chain each, worst, best and middle, and its chains."""
    # A name of its own: a worker that takes over tests of this module comes here again.
    folder = Path(shutil.copytree(empty, Path(tempfile.mkdtemp(dir=empty.parent)) / "three"))
    with WorkspaceStore(folder) as store:
        return folder, [scored(store, error) for error in (0.3, 0.1, 0.2)]


@pytest.fixture
def folder(
    request: pytest.FixtureRequest, empty: Path, recorded: tuple[Path, list[str]], memory: Path
) -> Path:
    """A copy of that where a test asks for it, else of an empty workspace."""
    source = recorded[0] if "three" in request.fixturenames else empty
    return Path(shutil.copytree(source, memory / "workspace"))


@pytest.fixture
def three(recorded: tuple[Path, list[str]]) -> list[str]:
    return recorded[1]


# -- rules and limits ----------------------------------------------------------------------------------


def test_without_a_policy_everything_stays(store: WorkspaceStore, three: Sequence[str]) -> None:
    plan = store.retention.plan()
    assert plan.take == ()
    assert "Nothing would go" in str(plan)
    assert going(store, keep_all()) == []
    assert store.retention.execute(plan).taken == 0


def test_the_best_stay(store: WorkspaceStore, three: Sequence[str]) -> None:
    assert set(going(store, keep_top_k(1, "rmse"))) == {three[0], three[2]}
    assert going(store, keep_top_k(2)) == [three[0]]
    assert set(going(store, keep_top_k(1, "r2"))) == {three[0], three[2]}


def test_the_best_of_each_model_and_data_set_stay(store: WorkspaceStore, three: Sequence[str]) -> None:
    other = scored(store, 0.9, model="b.SVR")
    elsewhere = scored(store, 0.8, dataset="wheat")
    assert set(going(store, keep_top_k(1, "rmse", per="model"))) == {three[0], three[2]}
    # Errors of another data set are never compared.
    assert set(going(store, keep_top_k(1, "rmse"))) == {three[0], three[2], other}
    assert elsewhere not in going(store, keep_top_k(1, "rmse"))


def test_what_has_no_score_ranks_last(store: WorkspaceStore, three: Sequence[str]) -> None:
    _, pipeline_id = begin(store)
    bare = chain_of(store, pipeline_id)
    store.complete_pipeline(pipeline_id, None, None, None, 5)
    assert going(store, keep_top_k(3, "rmse")) == [bare]


def test_the_newest_stay_and_a_union_keeps_what_either_keeps(
    store: WorkspaceStore, three: Sequence[str]
) -> None:
    assert set(going(store, keep_recent(1))) == set(three[:2])
    assert going(store, keep_recent(1) | keep_top_k(1, "rmse")) == [three[0]]
    assert going(store, keep_recent(days=1)) == []
    store._engine.change(
        lambda con: con.execute(
            "UPDATE chains SET created_at = created_at - INTERVAL 3 DAY WHERE chain_id = ?", [three[0]]
        )
    )
    assert going(store, keep_recent(days=1)) == [three[0]]


def test_limits_cut_what_the_rules_keep(store: WorkspaceStore, three: Sequence[str]) -> None:
    assert set(going(store, keep_all() | limit(max_count=1))) == set(three[:2])
    assert going(store, limit(max_count=2, type="regression")) == [three[0]]
    assert going(store, limit(max_count=0, type="classification")) == []
    size = store.retention.plan(limit(max_count=0)).take[0].bytes
    assert size > 0
    assert going(store, limit(max_bytes=2 * size)) == [three[0]]
    assert set(going(store, limit(max_age_days=0))) == set(three)


def test_runs_go_whole(store: WorkspaceStore, three: Sequence[str]) -> None:
    result = store.retention.execute(store.retention.plan(keep_top_k(1, "rmse", on="run")))
    assert result.taken == 2
    assert chains(store) == [three[1]]
    assert store.list_runs().height == 1
    assert store.check().ok


def test_of_a_chain_the_models_go_and_the_scores_stay(
    store: WorkspaceStore, three: Sequence[str], folder: Path
) -> None:
    plan = store.retention.plan(keep_top_k(1, "rmse"))
    result = store.retention.execute(plan, now=True)
    assert (result.taken, result.files, result.bytes) == (2, 2, plan.bytes)
    assert chains(store) == [three[1]]
    assert len(list((blob_root(store) / "artifacts").rglob("*.joblib"))) == 1
    assert store.query_predictions().height == 3
    assert store.check().ok
    (entry,) = store.audit.query("retention").to_dicts()
    assert json.loads(entry["details"])["taken"] == {"chain": 2}


# -- what must stay ------------------------------------------------------------------------------------


NOTHING = limit(max_count=0)


def test_what_is_pinned_stays_and_says_why(store: WorkspaceStore, three: Sequence[str]) -> None:
    store.retention.pin(("chain", three[0]), "reference")
    store.retention.pin(("run", run_of(store, three[1])))
    plan = store.retention.plan(NOTHING)
    assert [item.id for item in plan.take] == [three[2]]
    assert {held.id: held.reason for held in plan.held} == {
        three[0]: "it is pinned",
        three[1]: "its run is pinned",
    }
    assert going(store, limit(on="run", max_count=0)) == [run_of(store, three[2])]
    store.retention.pin(three[0], "another reason")
    assert store.retention.pins()["reason"].to_list() == ["another reason", None]
    assert store.retention.unpin(three[0])
    assert not store.retention.unpin(three[0])
    assert three[0] in going(store, NOTHING)


def champion(store: WorkspaceStore, chain_id: str) -> None:
    values = {"suite": "s", "metric": "rmse", "rank": 1, "model_id": chain_id, "evaluation_id": "none"}
    store._engine.change(lambda con: put_row(con, "champions", champion_id=f"c-{chain_id}", **values))


def test_a_present_champion_stays_and_a_rule_keeps_former_ones(
    store: WorkspaceStore, three: Sequence[str]
) -> None:
    champion(store, three[0])
    champion(store, three[1])
    plan = store.retention.plan(NOTHING)
    assert {item.id for item in plan.take} == {three[0], three[2]}
    assert plan.held[0].reason == "it is a champion"
    assert going(store, keep_champions()) == [three[2]]
    assert run_of(store, three[1]) not in going(store, limit(on="run", max_count=0))


def test_what_something_that_stays_came_from_stays(store: WorkspaceStore, three: Sequence[str]) -> None:
    target = store.begin_run("uses it", {}, [])
    store.lineage.link(("chain", three[0]), ("run", target), "used_by")
    store.lineage.link(("chain", three[1]), ("chain", three[2]), "tuned_from")
    plan = store.retention.plan(NOTHING)
    # The second chain was needed by the third only, and that goes too.
    assert {item.id for item in plan.take} == {three[1], three[2]}
    assert "came from it" in plan.held[0].reason
    store.retention.pin(("chain", three[2]))
    assert going(store, NOTHING) == []
    assert run_of(store, three[0]) not in going(store, limit(on="run", max_count=0))


def test_the_sources_of_a_stack_stay_as_long_as_it_does(store: WorkspaceStore, three: Sequence[str]) -> None:
    _, pipeline_id = begin(store, "stack")
    meta = store.save_artifact({"b": 2}, "builtins.dict", "meta_model", "joblib")
    source = store.get_chain(three[0]) or {}
    inner = {name: source[name] for name in ("steps", "model_step_idx", "fold_artifacts", "shared_artifacts")}
    step = {
        "step_idx": 0,
        "operator_class": "builtins.dict",
        "params": {},
        "operator_type": "model",
        "sources": [{"chain_id": three[0], "feature": "f", "chain": inner}],
    }
    stack = store.save_chain(pipeline_id, [step], 0, "builtins.dict", "", "single", {"final": meta}, {})
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
    assert set(going(store, keep_recent(1))) == set(three[1:])
    assert set(going(store, NOTHING)) == {*three, stack}
    plan = store.retention.plan(limit(on="run", max_count=1))
    assert {held.id for held in plan.held} == {run_of(store, three[0])}


def test_what_is_being_recorded_stays(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    chain_id = chain_of(store, pipeline_id)
    assert going(store, NOTHING) == []
    assert going(store, limit(on="run", max_count=0)) == []
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
    assert going(store, NOTHING) == [chain_id]
    assert run_id not in going(store, limit(on="run", max_count=0))


def test_what_came_to_be_needed_after_the_plan_stays(store: WorkspaceStore, three: Sequence[str]) -> None:
    plan = store.retention.plan(NOTHING)
    store.retention.pin(("chain", three[1]))
    store.delete_run(run_of(store, three[0]), now=True)
    result = store.retention.execute(plan)
    assert (result.removed["chain"], result.skipped) == ([three[2]], 2)


def test_a_blob_that_another_chain_holds_stays(store: WorkspaceStore) -> None:
    _, one = begin(store, "one")
    shared = store.save_artifact([1], "builtins.list", "model", "joblib")
    chain_of(store, one, shared)
    _, two = begin(store, "two")
    kept = chain_of(store, two, shared)
    for pipeline_id in (one, two):
        store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
    result = store.retention.execute(store.retention.plan(keep_recent(1)))
    assert (result.taken, result.files) == (1, 0)
    assert chains(store) == [kept]
    assert store.load_artifact(shared) == [1]


# -- files ---------------------------------------------------------------------------------------------


def put_file(
    store: WorkspaceStore, name: str, *, score: float | None = None, status: str = "completed"
) -> str:
    """A version of a file as rows: its content, and the reference that holds it."""
    data = store.save_artifact(name.encode() * 10, "builtins.bytes", "file", "bytes")
    version = f"v-{name}"

    def put(con: Any) -> None:
        con.execute("DELETE FROM artifact_refs WHERE owner_kind = 'session' AND artifact_id = ?", [data])
        said = {"status": status, "metadata": json.dumps({"metrics": {"auc": score}}), "mode": "test"}
        put_row(con, "file_versions", version_id=version, name=name, version=1, artifact_id=data, **said)
        held = {"ref_id": f"r-{name}", "artifact_id": data, "owner_kind": "file", "owner_id": version}
        put_row(con, "artifact_refs", **held)

    store._engine.change(put)
    return version


def test_versions_of_files_go_by_the_same_rules(store: WorkspaceStore, folder: Path) -> None:
    poor, good = put_file(store, "poor", score=0.6), put_file(store, "good", score=0.9)
    named, busy = put_file(store, "named"), put_file(store, "busy", status="in_progress")
    alias = {"name": "named", "alias": "best", "version_id": named}
    store._engine.change(lambda con: put_row(con, "file_aliases", **alias))
    rule = keep_top_k(1, "auc", on="file", higher_is_better=True)
    plan = store.retention.plan(rule)
    assert [item.id for item in plan.take] == [poor]
    assert {held.id: held.reason for held in plan.held} == {
        named: "the alias best names it",
        busy: "it is in progress",
    }
    result = store.retention.execute(plan)
    assert (result.taken, result.files) == (1, 1)
    left = store.sql("SELECT version_id FROM file_versions").to_series().to_list()
    assert set(left) == {good, named, busy}


def test_a_file_keeps_the_run_that_made_it(store: WorkspaceStore, three: Sequence[str]) -> None:
    version = put_file(store, "made")
    run_id = run_of(store, three[0])
    store._engine.change(lambda con: con.execute("UPDATE file_versions SET run_id = ?", [run_id]))
    none_of_either = limit(on="run", max_count=0) | limit(on="file", max_count=0)
    assert run_id not in going(store, limit(on="run", max_count=0))
    assert {run_id, version} <= set(going(store, none_of_either))
    store.retention.execute(store.retention.plan(none_of_either))
    assert store.list_runs().height == 0


# -- the policy in the workspace -----------------------------------------------------------------------


@pytest.mark.everywhere
def test_a_policy_is_kept_in_the_workspace(folder: Path) -> None:
    policy = (
        keep_top_k(3, "rmse", per=["model", "dataset"]) | keep_recent(5, on="run") | limit(max_bytes=10**9)
    )
    with WorkspaceStore(folder) as store:
        store.retention.set(policy)
        (entry,) = store.audit.query("set_retention").to_dicts()
        assert json.loads(entry["details"]) == policy.to_dict()
    with WorkspaceStore(folder) as store:
        assert store.retention.policy == policy
        store.retention.clear()
        assert store.retention.policy == RetentionPolicy()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rules": [{"policy": "keep_tpo_k", "count": 1}]}, "'keep_top_k'"),
        ({"rules": [{"policy": "keep_recent"}]}, "count or days"),
        ({"rules": [{"policy": "keep_top_k", "count": 0}]}, "at least 1"),
        ({"rules": [{"policy": "keep_top_k", "count": 1, "metric": "rsme"}]}, "rmse"),
        ({"rules": [{"policy": "keep_top_k", "count": 1, "per": "modell"}]}, "'model'"),
        ({"rules": [{"policy": "keep_all", "on": "chains"}]}, "'chain'"),
        ({"rules": [{"count": 1}]}, "expected a policy"),
        ({"rules": [{"policy": "keep_all", "kount": 1}]}, "'count'"),
        ({"limits": [{"on": "chain"}]}, "max_count"),
        ({"limits": [{"max_age_days": -1}]}, "at least 0"),
        ({"automatic": "on_clos"}, "'on_close'"),
        ({"ruels": []}, "'rules'"),
        ([], "an object"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_the_nearest(wrong: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        RetentionPolicy.from_dict(wrong)


def test_a_refused_policy_or_pin_is_noted(store: WorkspaceStore) -> None:
    with pytest.raises(InvalidInput):
        store.retention.set({"automatic": "sometimes"})
    with pytest.raises(UnknownId):
        store.retention.pin("chain:none")
    assert store.audit.query(success=False)["operation"].to_list() == ["set_retention", "pin"]


def test_nothing_happens_by_itself_unless_it_was_asked_for(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        store.retention.set(keep_recent(1, on="run"))
        for _ in range(3):
            scored(store, 0.1)
    with WorkspaceStore(folder) as store:
        assert store.list_runs().height == 3


def test_it_is_carried_out_when_a_run_is_completed_and_says_so(
    store: WorkspaceStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.retention.set(keep_recent(1, on="run"), automatic="after_run")
    with caplog.at_level(logging.WARNING, logger="nirs_store.retention"):
        scored(store, 0.1)
        scored(store, 0.2)
    assert store.list_runs()["name"].to_list() == ["a.PLS 0.2"]
    assert [record.message for record in caplog.records] == [
        "retention (after run): deleted 1 runs, 0 files (0 B)"
    ]
    assert store.audit.query("retention").height == 1


def test_it_is_carried_out_on_close_but_not_by_a_worker(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with WorkspaceStore(folder) as store:
        for error in (0.1, 0.2):
            scored(store, error)
        store.retention.set(keep_recent(1, on="run"), automatic="on_close")
        pickle.loads(pickle.dumps(store)).close()
        assert store.list_runs().height == 2
    with WorkspaceStore(folder, read_only=True) as store:
        assert store.list_runs().height == 1
    assert "deleted 1 runs" in caplog.text


# -- what no rule takes unless it names it ----------------------------------------------------------------


def put_kinds(store: WorkspaceStore) -> dict[str, str]:
    """Files of several kinds, oldest first; the last is ordinary test content."""
    X, y = pl.DataFrame({"a": [1, 2]}), pl.Series("y", [0, 1])
    made = {
        "production": store.files.put(b"1", "p.txt", type="log", coverage="full"),
        "training": store.files.put_training_set("t", X, y),
        "checkpoint": store.files.put_group("c", {"w.pt": b"w"}, type="model_checkpoint"),
        "matrix": store.files.put(X, "x.parquet", type="feature_matrix"),
    }
    for k in range(3):
        made[f"draft {k}"] = store.files.put(str(k).encode(), f"d{k}.txt", type="log")
    return {name: version.version_id for name, version in made.items()}


@pytest.mark.parametrize(
    ("policy", "gone"),
    [
        (keep_recent(1, on="file"), {"draft 0", "draft 1"}),
        (limit(on="file", max_count=0), {"draft 0", "draft 1", "draft 2"}),
        (limit(on="file", max_bytes=0) | keep_all(on="file"), {"draft 0", "draft 1", "draft 2"}),
        (keep_top_k(1, "rmse", on="file"), {"draft 0", "draft 1"}),
        (keep_champions(on="file"), {"draft 0", "draft 1", "draft 2"}),
        (limit(on="file", max_count=0, mode="production"), {"production"}),
        (limit(on="file", max_count=0, type="feature_matrix"), {"matrix"}),
        (keep_recent(1, on="file", type="log", mode="test"), {"draft 0", "draft 1"}),
    ],
)
def test_production_and_what_models_come_from_go_only_when_named(
    store: WorkspaceStore, policy: Any, gone: set[str]
) -> None:
    made = put_kinds(store)
    plan = store.retention.plan(policy)
    assert {name for name, identifier in made.items() if identifier in {i.id for i in plan.take}} == gone
    store.retention.execute(plan)
    assert {name for name, i in made.items() if not store.files.exists(i)} == gone


def test_what_stays_because_no_rule_names_it_is_told(store: WorkspaceStore) -> None:
    put_kinds(store)
    reasons = {held.reason for held in store.retention.plan(limit(on="file", max_count=0)).held}
    assert {"it is production content, and no rule names mode='production'"} < reasons
    with pytest.raises(InvalidInput, match="only files have one"):
        keep_recent(1, on="run", mode="test")


# -- scores are compared where they mean the same ---------------------------------------------------------


def targeted(store: WorkspaceStore, error: float, target: str, unit: str | None = None) -> str:
    chain_id = scored(store, error)
    sql = "UPDATE chains SET target = ?, target_unit = ? WHERE chain_id = ?"
    store._engine.change(lambda con: con.execute(sql, [target, unit, chain_id]))
    return chain_id


@pytest.mark.parametrize("on", ["chain", "run"])
def test_the_best_of_each_target_and_unit_stay(store: WorkspaceStore, on: str) -> None:
    made = {
        (target, unit, error): targeted(store, error, target, unit)
        for target, unit, errors in (
            ("fat", "%", (2.0, 3.0)),
            ("fat", "g/kg", (20.0, 30.0)),
            ("protein", None, (0.1, 0.2)),
        )
        for error in errors
    }
    store.retention.execute(store.retention.plan(keep_top_k(1, "rmse", on=on)))
    left = {key for key, chain_id in made.items() if store.get_chain(chain_id)}
    assert left == {("fat", "%", 2.0), ("fat", "g/kg", 20.0), ("protein", None, 0.1)}


def test_the_best_files_of_each_suite_stay(store: WorkspaceStore) -> None:
    made = {
        (suite, error): store.files.put(
            suite.encode(), f"{suite}{error}", type="log", suite=suite, metadata={"rmse": error}
        ).version_id
        for suite, errors in (("fat", (2.0, 3.0)), ("protein", (0.1, 0.2)))
        for error in errors
    }
    store.retention.execute(store.retention.plan(keep_top_k(1, "rmse", on="file")))
    assert {key for key, i in made.items() if store.files.exists(i)} == {("fat", 2.0), ("protein", 0.1)}


# -- clocks ------------------------------------------------------------------------------------------------

DAY = timedelta(days=1)


class Shifted(datetime):
    """A clock that is wrong by `by`."""

    by = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + cls.by


def session_at(folder: Path, by: timedelta, monkeypatch: pytest.MonkeyPatch, host: str = "here") -> None:
    """Open the workspace on a machine whose clock says `by` more, record one run, close."""
    with monkeypatch.context() as patch:
        patch.setattr(Shifted, "by", by)
        patch.setattr("nirs_store.ids.datetime", Shifted)
        patch.setattr("socket.gethostname", lambda: host)
        with WorkspaceStore(folder) as store:
            store.complete_run(store.begin_run(f"{host} {by.days}", {}, []), {})


@pytest.mark.parametrize(
    ("sessions", "warned"),
    [
        pytest.param([(60, "b")], "bear out", id="one machine is ahead, once"),
        pytest.param([(60, "b"), (60, "b"), (61, "b")], "bear out", id="and again"),
        pytest.param([(3650, "a"), (3651, "a"), (1, "a")], "bear out", id="years forward, then back"),
        pytest.param([(60, "b"), (1, "a"), (61, "b")], "a clock is wrong", id="two machines by turns"),
        pytest.param([(-60, "b"), (1, "a")], "a clock is wrong", id="one machine is behind"),
        pytest.param([(12, "a")], "", id="no run is too old"),
    ],
)
def test_automatic_retention_does_not_believe_a_clock_that_jumped(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sessions: list[tuple[int, str]],
    warned: str,
) -> None:
    with WorkspaceStore(folder) as store:
        store.retention.set(keep_recent(days=30, on="run"), automatic="on_close")
    session_at(folder, timedelta(0), monkeypatch, "a")
    for days, host in sessions:
        session_at(folder, days * DAY, monkeypatch, host)
    with WorkspaceStore(folder, read_only=True) as store:
        assert store.list_runs().height == 1 + len(sessions)
    assert warned in caplog.text
    assert "let go" not in caplog.text


def test_a_clock_that_others_bear_out_is_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkspaceStore(folder) as store:
        store.retention.set(keep_recent(days=30, on="run"), automatic="on_close")
    for days in (0, 5, 50, 54, 58, 59):
        session_at(folder, days * DAY, monkeypatch)
    with WorkspaceStore(folder, read_only=True) as store:
        assert sorted(store.list_runs()["name"]) == [f"here {days}" for days in (50, 54, 58, 59)]


@pytest.mark.parametrize("policy", [keep_recent(2, on="run"), limit(on="run", max_count=2)])
def test_what_is_dated_in_the_future_neither_goes_nor_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    for days in (0, 0, 0, 4000, 4000, 4000):
        session_at(folder, days * DAY, monkeypatch)
    with WorkspaceStore(folder) as store:
        plan = store.retention.plan(policy)
        assert [item.name for item in plan.take] == ["here 0"]
        assert store.retention.execute(plan).taken == 1
        held = store.retention.plan(limit(on="run", max_count=0)).held
        assert [("future" in each.reason) for each in held] == [True] * 3


# -- a policy that goes by time ----------------------------------------------------------------------------


def test_a_service_that_never_closes_keeps_to_its_policy(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.retention.set(keep_recent(1, on="run"), automatic="daily")
    for _ in range(3):
        scored(store, 0.1)
    watch = store._watch
    assert watch.turn()
    assert store.list_runs().height == 3  # the first time is a day from now
    now = time.time()
    monkeypatch.setattr("nirs_store.history.triggers.time.time", lambda: now + 90_000)
    assert watch.turn()
    assert store.list_runs().height == 1
    scored(store, 0.2)
    assert store.list_runs().height == 2  # not again on the same day
    thread = watch._thread
    assert thread is not None
    assert thread.is_alive()
    store.close()
    assert not thread.is_alive()
    assert not watch.turn()


def test_a_copy_in_a_worker_and_a_reader_watch_nothing(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        store.retention.set(keep_recent(1, on="run"), automatic="hourly")
        copy = pickle.loads(pickle.dumps(store))
        assert copy._watch._thread is None
        copy.close()
    with WorkspaceStore(folder, read_only=True) as store:
        assert store._watch._thread is None
    with WorkspaceStore(folder) as store:
        assert store._watch._thread is not None
