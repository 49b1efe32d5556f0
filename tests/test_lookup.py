"""Ids as people give them; names that can be seen; deleting a chain or a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation, record_stacking
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.records import lookup

MEAT = load_tecator()
X, Y = MEAT.X[:30, ::20], MEAT.fat[:30]


def record(store: Any, alpha: float = 1.0, **words: Any) -> Any:
    return record_cross_validation(store, Ridge(alpha), X, Y, cv=KFold(3), dataset_name="d", **words)


CALLS: dict[str, tuple[str, Any]] = {
    "replay": ("chain", lambda store, given: store.replay_chain(given, X[:2]).tolist()),
    "get_chain": ("chain", lambda store, given: store.get_chain(given)["chain_id"]),
    "predictor": ("chain", lambda store, given: store.predictor(given).predict(X[:2]).tolist()),
    "show_chain": ("chain", lambda store, given: store.show_chain(given).chain_id),
    "query": (
        "chain",
        lambda store, given: store.query_predictions(chain_id=given)["prediction_id"].to_list(),
    ),
    "top": ("run", lambda store, given: store.top_chains(run_id=given)["chain_id"].to_list()),
    "get_run": ("run", lambda store, given: store.get_run(given)["run_id"]),
    "tag": ("run", lambda store, given: store.tag_run(given, "seen")),
    "get_pipeline": ("pipeline", lambda store, given: store.get_pipeline(given)["pipeline_id"]),
    "log": ("pipeline", lambda store, given: store.get_pipeline_log(given)["log_id"].to_list()),
    "delete_chain": ("chain", lambda store, given: store.delete_chain(given, dry_run=True)),
    "delete_pipeline": ("pipeline", lambda store, given: store.delete_pipeline(given, dry_run=True)),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with WorkspaceStore(tmp_path_factory.mktemp("lookup")) as store:
        yield store, [record(store, alpha, name=f"ridge, {alpha}") for alpha in (1.0, 2.0)]


@pytest.mark.parametrize("call", CALLS)
def test_the_end_of_an_id_in_any_case_and_a_result_mean_the_whole(filled: Any, call: str) -> None:
    store, (result, _) = filled
    kind, ask = CALLS[call]
    whole = getattr(result, f"{kind}_id")
    expected = ask(store, whole)
    for given in (whole[-8:], whole[-8:].upper(), whole[-12:], result):
        assert ask(store, given) == expected
    if kind == "run":
        assert ask(store, "ridge, 1.0") == expected


def test_references_and_arrays_take_the_end_of_an_id(filled: Any) -> None:
    store, (first, second) = filled
    store.retention.pin(("chain", first.chain_id[-8:]), "the first")
    store.retention.pin(second.chain_id[-8:])
    assert set(store.retention.pins()["object_id"]) == {first.chain_id, second.chain_id}
    assert store.retention.unpin(f"chain:{first.chain_id[-8:]}")
    with pytest.raises(UnknownId):
        store.retention.pin(("run", first.chain_id[-8:]))
    whole = first.prediction_ids[0]
    found = store.get_prediction_arrays([whole[-8:], whole, "ffffffff"])
    assert list(found) == [whole[-8:], whole]
    assert found[whole[-8:]]["y_pred"].tolist() == found[whole]["y_pred"].tolist()


def test_what_several_have_is_refused_with_their_ids_and_what_none_has_is_unknown(filled: Any) -> None:
    store, (first, second) = filled
    for ask in (lambda part: store.get_chain(part), lambda part: store.replay_chain(part, X[:1])):
        with pytest.raises(InvalidInput, match=f"fits 2 chains: {first.chain_id}, {second.chain_id}"):
            ask(first.chain_id[:6])
    with pytest.raises(UnknownId):
        store.replay_chain("ffffffff", X[:1])
    assert store.get_run("no such name") is None
    assert store.get_chain("abc") is None  # too short to be a part
    twice = store.begin_run("ridge, 2.0", {}, [])
    with pytest.raises(InvalidInput, match=f"fits 2 runs: {twice}, {second.run_id}"):
        store.get_run("ridge, 2.0")
    frame = store.compare([first.chain_id[-8:], second])
    assert frame.columns == ["item", first.chain_id, second.chain_id]


def written(store: Any, short: Any) -> dict[str, Any]:
    """Record by all calls, each id as `short` has it, and return what is stored."""
    run = store.begin_run("by parts", {}, [])
    pipeline = store.begin_pipeline(short(run), "p", {}, [], "d", "h")
    store.log_step(short(pipeline), 0, "Ridge", "end")
    store.log_metric(short(pipeline), "loss", 0.5, 1)
    store.log_metrics(short(pipeline), "loss", [0.4], [2])
    artifact = store.save_artifact(Ridge().fit(X, Y), "Ridge", "model", pipeline_id=short(pipeline))
    chain = store.save_chain(
        short(pipeline), steps=[{"step_idx": 0}], model_step_idx=0, model_class="Ridge", preprocessings="",
        fold_strategy="none", fold_artifacts={"final": artifact}, shared_artifacts={},
    )  # fmt: skip
    scores: dict[str, Any] = dict.fromkeys(("val_score", "test_score", "train_score"))
    prediction = store.save_prediction(
        short(pipeline), short(chain), "d", "Ridge", "Ridge", "final", "train", **scores, metric="rmse",
        task_type="regression", n_samples=2, n_features=2, scores={}, best_params={}, branch_id=None,
        branch_name=None, exclusion_count=0, exclusion_rate=0.0,
    )  # fmt: skip
    store.save_prediction_arrays(short(prediction), Y[:2], Y[:2])
    store.complete_pipeline(short(pipeline), 1.0, None, "rmse", 5)
    inside = record(store, run_id=short(run))
    stack = record_stacking(store, [short(inside.chain_id)], Ridge(), X, Y, cv=KFold(3), run_id=short(run))
    store.complete_run(short(run), {})
    evaluation = store.evaluations.record("m", "s", {"rmse": 1.0}, chain_id=short(chain), run_id=short(run))
    known = store.evaluations.get(evaluation)
    failed = store.begin_run("fails", {}, [])
    broken = store.begin_pipeline(short(failed), "p", {}, [], "d", "h")
    store.fail_pipeline(short(broken), "x")
    store.fail_run(short(failed), "x")
    return {
        "pipeline": store.get_pipeline(pipeline)["run_id"] == run,
        "steps": store.get_pipeline_log(pipeline).height,
        "losses": store.get_metrics(pipeline).height,
        "chain": store.get_chain(chain)["pipeline_id"] == pipeline,
        "prediction": store.get_prediction(prediction)["chain_id"] == chain,
        "arrays": list(store.get_prediction_arrays([short(prediction)])) == [short(prediction)],
        "runs": (inside.run_id, stack.run_id) == (run, run),
        "bases": store.get_pipeline(stack.pipeline_id)["expanded_config"]["source_chain_ids"]
        == [inside.chain_id],
        "evaluation": (known["chain_id"], known["run_id"]) == (chain, run),
        "listed": store.evaluations.list(chain_id=short(chain)).height,
        "status": [store.get_run(each)["status"] for each in (run, failed)],
    }


def test_recording_takes_parts_of_ids_and_whole_ones_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkspaceStore(tmp_path / "a") as store, WorkspaceStore(tmp_path / "b") as other:
        found = written(store, lambda whole: whole[-8:])
        assert all(found.values())
        assert found["status"] == ["completed", "failed"]
        for call in (
            lambda: store.begin_pipeline("ffffffff", "p", {}, [], "d", "h"),
            lambda: store.complete_run("ffffffff", {}),
            lambda: store.log_metric("ffffffff", "loss", 1.0, 1),
            lambda: record(store, run_id="no such run"),
        ):
            with pytest.raises(UnknownId):
                call()
        store.begin_run("by parts", {}, [])
        with pytest.raises(InvalidInput, match="fits 2 runs"):
            store.begin_pipeline("by parts", "p", {}, [], "d", "h")
        monkeypatch.setattr(lookup, "_candidates", lambda *_: pytest.fail("a question was asked"))
        assert written(other, str) == found


BLANK = ["", "   ", "\n", "\t\r\n", "\x1b\x07", "\u200b", "\u202e", "\u00a0", "\u3000\x85"]


@pytest.mark.parametrize("blank", BLANK)
def test_a_name_that_nobody_sees_is_refused(tmp_path: Path, blank: str) -> None:
    with WorkspaceStore(tmp_path) as store:
        run = store.begin_run("first", {}, ["d"])
        for call in (
            lambda: store.begin_run(blank, {}, []),
            lambda: store.begin_run("a", {}, ["d", blank]),
            lambda: store.begin_run("a", {}, [{"name": blank}]),
            lambda: store.rename_run(run, blank),
            lambda: store.tag_run(run, blank),
            lambda: store.begin_pipeline(run, blank, {}, [], "d", None),
            lambda: store.begin_pipeline(run, "p", {}, [], blank or " ", None),  # "" is for none
            lambda: store.evaluations.record(blank, "suite", 1.0),
            lambda: store.evaluations.record("model", blank, 1.0),
            lambda: store.evaluations.record("model", "suite", 1.0, tags=[blank]),
        ):
            with pytest.raises(InvalidInput, match=r"Nothing was (recorded|changed)"):
                call()
        assert store.list_runs()["name"].to_list() == ["first"]
        assert store.get_run(run)["tags"] == []
        assert store.list_pipelines().height == store.evaluations.list().height == 0


def test_a_success_rate_agrees_with_the_episodes(tmp_path: Path) -> None:
    episodes = [{"episode_id": str(k), "success": k < 2} for k in range(3)]
    with WorkspaceStore(tmp_path) as store:
        for wrong in (0.0, 0.6, 0.7, 1.0):
            with pytest.raises(InvalidInput, match=r"of the episodes 0\.6667 succeeded"):
                store.evaluations.record("a", "s", 1.0, success_rate=wrong, episodes=episodes)
        for right in (None, 0.67, 2 / 3):
            made = store.evaluations.record("a", "s", 1.0, success_rate=right, episodes=episodes)
            assert np.isclose(store.evaluations.get(made)["success_rate"], 2 / 3)


@pytest.mark.parametrize("kind", ["chain", "pipeline"])
def test_one_part_of_a_run_is_deleted_and_nothing_else(tmp_path: Path, kind: str) -> None:
    with WorkspaceStore(tmp_path) as store:
        with store.run("two") as run:
            gone, kept = (record(store, alpha, run_id=run.run_id) for alpha in (1.0, 2.0))
        delete = store.delete_chain if kind == "chain" else store.delete_pipeline
        before = store.replay_chain(kept.chain_id, X)
        plan = delete(getattr(gone, f"{kind}_id"), dry_run=True)
        assert store.top_chains().height == 2
        rows = store.query_predictions().height
        assert delete(gone, now=True) == plan.total_rows
        assert store.top_chains()["chain_id"].to_list() == [kept.chain_id]
        assert store.query_predictions().height == rows // 2
        assert [store.get_artifact(each) for each in plan.artifacts] == [None] * len(plan.artifacts)
        assert np.array_equal(store.replay_chain(kept, X), before)
        assert store.list_pipelines().height == (2 if kind == "chain" else 1)
        assert store.check(read_data=True).ok
        with pytest.raises(UnknownId):
            delete(gone)
        trail = store.sql("SELECT success FROM audit_entries WHERE operation = ?", [f"delete_{kind}"])
        assert sorted(trail["success"]) == [False, True]


def test_what_feeds_a_meta_model_is_deleted_only_by_force(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        base = record(store)
        stack = record_stacking(store, [base.chain_id], Ridge(), X, Y, cv=KFold(3))
        before = store.replay_chain(stack.chain_id, X)
        for delete, given in ((store.delete_chain, base.chain_id), (store.delete_pipeline, base.pipeline_id)):
            assert delete(given, dry_run=True).needed_by
            with pytest.raises(InvalidInput, match="--force"):
                delete(given)
        assert store.get_chain(base.chain_id) is not None
        store.delete_chain(base, force=True, now=True)
        assert np.array_equal(store.replay_chain(stack.chain_id, X), before)
        assert store.check(read_data=True).ok
