"""What is applied for a question waits for its commit: seen at once, lost by nobody, and written without planning."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from storekit import Counting, begin, chain_of, commit_rows, predict, segments, sql, whole_pipeline

from nirs_store.db import apply as appending_module
from nirs_store.db import database as access_module
from nirs_store.db.schema import TABLES, VIEWS, column_names
from nirs_store.ids import new_id
from nirs_store.records.predictions import PREDICTION_TABLES, TOP_TABLES, query_predictions, top_predictions
from nirs_store.records.queries import CHAIN_TABLES, get_chain
from nirs_store.store import WorkspaceStore


@pytest.fixture(autouse=True)
def kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog is let go of only where a test says so."""
    monkeypatch.setattr(access_module, "LINGER", 600.0)


def waiting(store: WorkspaceStore) -> int:
    return len(store._engine.access._opened._appending.waiting)


def give_up(store: WorkspaceStore) -> None:
    with store._engine.access._mutex:
        store._engine.access._give_up()


def listen(store: WorkspaceStore) -> list[str]:
    """The texts of the statements that the open connection is given from now on."""
    access = store._engine.access
    counting = Counting(access._opened.con)
    access._opened.con = counting  # type: ignore[assignment]
    return counting.asked


def test_what_waits_is_seen_by_every_question_and_goes_into_the_catalog_when_it_is_let_go_of(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, _ = begin(store)
    for count in range(1, 4):
        whole_pipeline(store, run_id, f"p{count}")
        assert store.query_predictions().height == 2 * count
        assert store.top_predictions(9, ascending=True).height == 2 * count
        assert (
            len(store.get_prediction_arrays(store.query_predictions()["prediction_id"].to_list()))
            == 2 * count
        )
    assert waiting(store) > 0
    assert len(segments(folder)) >= waiting(store)
    give_up(store)
    assert segments(folder) == []
    assert sql(folder, "SELECT count(*) FROM predictions") == [(6,)]
    assert store.check().ok


def test_a_pipeline_is_appended_without_a_question_and_without_a_plan(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    for name in ("first", "second", "third"):
        whole_pipeline(store, run_id, name)
        store.list_runs()
    whole_pipeline(store, run_id, "fourth")
    asked = listen(store)
    assert store.query_predictions().height == 8
    # The two tables that it reads; the question itself is asked in another way.
    assert [text.split()[0] for text in asked] == ["EXECUTE"] * 2
    store.list_runs()
    # Eight tables, one of them of the audit trail; the arrays are known.
    assert [text.split()[0] for text in asked] == ["EXECUTE"] * 8
    give_up(store)
    assert [text.split()[0] for text in asked[8:]][:2] == ["INSERT", "COMMIT"]


def test_a_question_that_says_what_it_reads_says_all_of_it(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    whole_pipeline(store, run_id)
    artifact_id = store.save_artifact([1], "builtins.list", "model", "joblib")
    chain_id = chain_of(store, pipeline_id, artifact_id, wavelengths=[1.0, 2.0])
    predict(store, pipeline_id, chain_id=chain_id)
    store.list_runs()
    con: Any = store._engine.access._opened.con
    questions: list[tuple[tuple[str, ...], Any]] = [
        (CHAIN_TABLES, lambda con: get_chain(con, chain_id)),
        (PREDICTION_TABLES, lambda con: query_predictions(con, 5, 0)),
        (PREDICTION_TABLES, lambda con: query_predictions(con, None, 0, run_id=run_id)),
        *(
            (TOP_TABLES, partial(_top, n=n, groups=groups))
            for n in (1, 500, None)
            for groups in (None, "model_class", ["pipeline_id", "fold_id"])
        ),
    ]
    for tables, question in questions:
        heard = _Heard(con)
        assert question(heard) is not None
        assert heard.asked
        read = {
            name
            for name in (*TABLES, *VIEWS)
            for text in heard.asked
            if re.search(rf"\b(FROM|JOIN)\s+{name}\b", text)
        }
        assert read
        assert read <= set(tables), question


def _top(con: Any, n: int | None, groups: Any) -> Any:
    return top_predictions(con, n, "val_score", True, None, None, groups)  # type: ignore[arg-type]


class _Heard(Counting):
    """Hears of relations too."""

    def sql(self, statement: Any, params: Any = None) -> Any:
        self.asked.append(getattr(statement, "query", statement))
        return self.con.sql(statement, params=params)


def held(store: WorkspaceStore) -> set[str]:
    return set(store._engine.access._opened._appending._held)


def test_rows_that_no_question_has_read_stay_with_their_writer_until_one_does(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id, "first")
    store.list_runs()
    assert not held(store)
    whole_pipeline(store, run_id, "second")
    assert store.top_predictions(9, partition=None).height == 4
    assert {"pipelines", "chains", "prediction_arrays", "artifact_refs", "audit_entries"} <= held(store)
    third = store.begin_pipeline(run_id, "third", {}, [], "corn", "h")
    chain_id = chain_of(store, third, store.save_artifact([3], "builtins.list", "model", "joblib"))
    assert store.get_chain(chain_id)["pipeline_id"] == third
    assert "chains" not in held(store)
    assert "pipelines" in held(store)
    # Its beginning is held yet, and its end has to find it.
    store.complete_pipeline(third, 0.1, 0.2, "rmse", 3)
    asked = listen(store)
    assert store.top_predictions(9, partition=None).height == 4
    assert "COMMIT" not in asked
    assert store.list_pipelines()["name"].sort().to_list() == ["first", "run-pls", "second", "third"]
    assert store.get_pipeline(third)["status"] == "completed"
    assert not held(store)
    whole_pipeline(store, run_id, "fourth")
    assert store.top_predictions(9, partition=None).height == 6
    assert held(store)
    give_up(store)
    assert segments(folder) == []
    assert sql(folder, "SELECT count(*), count(best_val) FROM pipelines") == [(5, 4)]
    assert sql(folder, "SELECT count(*) FROM prediction_arrays") == [(6,)]
    assert store.check().ok
    assert store.audit.verify().ok


LETS_GO = {
    "expired": give_up,
    "changed": lambda store: store.delete_run(begin(store)[0]),
    "committed": lambda store: store.sql("SELECT 1 AS one"),
    "asked": lambda store: store.list_runs(),
    "completed": lambda store: store.complete_pipeline(begin(store)[1], 0.1, 0.2, "rmse", 3),
}


@pytest.mark.parametrize("lets_go", LETS_GO.values(), ids=LETS_GO.keys())
def test_a_held_row_that_is_refused_is_applied_in_the_usual_way_whoever_meets_it(
    store: WorkspaceStore, folder: Path, lets_go: Any
) -> None:
    _, pipeline_id = begin(store)
    predict(store, pipeline_id)
    store.list_runs()
    predict(store, pipeline_id, fold_id="fold_1")
    store.list_runs()
    for known in store._engine.access._opened._appending._keys.values():
        known.clear()
    predict(store, pipeline_id, fold_id="fold_2")
    assert store.top_predictions(9, partition=None).height == 3
    assert "arrays" in held(store)
    lets_go(store)
    assert store.query_predictions().height == 3
    assert store.list_runs().height > 0
    assert len(store.get_prediction_arrays(store.query_predictions()["prediction_id"].to_list())) == 3
    give_up(store)
    assert segments(folder) == []
    assert sql(folder, "SELECT count(*), count(DISTINCT prediction_id) FROM predictions") == [(3, 3)]
    assert list((folder / "journal" / "rejected").iterdir()) == []
    assert store.check().ok


def test_a_commit_that_is_wrong_is_told_of_when_its_held_rows_are_written(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, pipeline_id = begin(store)
    predict(store, pipeline_id)
    store.list_runs()
    commit_rows(folder, {"pipelines": [tuple(None for _ in column_names("pipelines"))]})
    whole_pipeline(store, run_id, "after")
    assert store.top_predictions(9, partition=None).height == 3
    assert "pipelines" in held(store)
    with pytest.warns(UserWarning, match="set aside"):
        assert store.list_pipelines().height == 2
    assert store.top_predictions(9, partition=None).height == 3
    give_up(store)
    assert segments(folder) == []
    assert [f.kind for f in store.check().findings] == ["segment_rejected"]


def test_other_questions_are_planned_as_ever(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    for name in ("first", "second"):
        whole_pipeline(store, run_id, name)
        store.list_runs()
    assert waiting(store)
    con: Any = store._engine.access._opened.con
    assert con.execute("SELECT current_setting('enable_optimizer')").fetchall() == [(True,)]


def test_another_store_sees_what_waits_in_this_one(folder: Path) -> None:
    with WorkspaceStore(folder) as one, WorkspaceStore(folder) as other:
        run_id, _ = begin(one)
        whole_pipeline(one, run_id)
        assert one.query_predictions().height == 2
        assert other.query_predictions().height == 2
        whole_pipeline(other, run_id, "theirs")
        assert one.query_predictions().height == other.query_predictions().height == 4


def test_a_question_that_fails_takes_nothing_with_it(store: WorkspaceStore, folder: Path) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    store.list_runs()
    whole_pipeline(store, run_id, "second")
    assert store.query_predictions().height == 4
    assert waiting(store)

    def fails(con: duckdb.DuckDBPyConnection) -> object:
        return con.execute("SELECT status::INTEGER FROM runs").fetchall()

    with pytest.raises(Exception, match="cannot answer"):
        store._engine.query(fails)
    assert waiting(store) == 0
    assert store.query_predictions().height == 4
    give_up(store)
    assert segments(folder) == []
    assert sql(folder, "SELECT count(*), count(DISTINCT prediction_id) FROM predictions") == [(4, 4)]


def test_a_question_that_fails_leaves_no_held_row_behind_that_would_come_twice(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    store.list_runs()
    whole_pipeline(store, run_id, "second")
    assert store.top_predictions(9, partition=None).height == 4
    assert "audit_entries" in held(store)
    with pytest.raises(Exception, match="cannot answer"):
        store._engine.query(
            lambda con: con.execute("SELECT status::INTEGER FROM runs").fetchall(), reads=("runs",)
        )
    assert not held(store)
    assert store.list_pipelines().height == 3
    assert store.audit.query()["number"].is_unique().all()
    assert store.audit.verify().ok
    give_up(store)
    assert sql(folder, "SELECT count(*) = count(DISTINCT number) FROM audit_entries") == [(True,)]


def test_a_question_that_is_refused_leaves_what_waits(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    store.list_runs()
    whole_pipeline(store, run_id, "second")
    store.list_runs()
    before = waiting(store)
    assert before
    with pytest.raises(KeyError):
        store.replay_chain("no such chain", [[1.0]])
    assert waiting(store) == before


def test_rows_that_are_there_already_are_found_out_by_their_key_and_nothing_is_doubled_or_lost(
    store: WorkspaceStore, folder: Path
) -> None:
    _, pipeline_id = begin(store)
    predict(store, pipeline_id)
    store.list_runs()
    kept = predict(store, pipeline_id, fold_id="fold_1")
    store.list_runs()
    assert waiting(store)
    stored = store._engine.query(
        lambda con: con.execute("SELECT * FROM arrays ORDER BY array_hash").fetchall(), committed=True
    )
    # Forgotten here, so that this opening takes them for new.
    for known in store._engine.access._opened._appending._keys.values():
        known.clear()
    predict(store, pipeline_id, fold_id="fold_2")
    store.list_runs()
    assert waiting(store) == 0  # applied in the usual way
    predict(store, pipeline_id, fold_id="fold_3")
    assert store.query_predictions().height == 4
    give_up(store)
    assert sql(folder, "SELECT * FROM arrays ORDER BY array_hash") == stored
    assert sql(folder, f"SELECT count(*) FROM predictions WHERE prediction_id = '{kept}'") == [(1,)]
    assert segments(folder) == []
    assert list((folder / "journal" / "rejected").iterdir()) == []


def test_a_commit_that_is_wrong_is_set_aside_and_what_waited_is_not(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, _ = begin(store)
    store.list_runs()
    whole_pipeline(store, run_id)
    store.list_runs()
    assert waiting(store)
    commit_rows(folder, {"runs": [tuple(None for _ in column_names("runs"))]})
    whole_pipeline(store, run_id, "after")
    with pytest.warns(UserWarning, match="set aside"):
        assert store.list_runs().height == 1
    assert store.query_predictions().height == 4
    give_up(store)
    assert sql(folder, "SELECT count(*) FROM predictions") == [(4,)]
    assert [f.kind for f in store.check().findings] == ["segment_rejected"]


def test_a_change_of_another_kind_comes_after_what_waits(store: WorkspaceStore, folder: Path) -> None:
    run_id, _ = begin(store)
    store.list_runs()
    whole_pipeline(store, run_id)
    failing = store.begin_pipeline(run_id, "fails", {}, [], "corn", "h")
    predict(store, failing)
    assert store.query_predictions().height == 3
    store.fail_pipeline(failing, "no convergence")
    assert store.query_predictions().height == 2
    # Now a row may have lost its owner: what comes is looked at one by one.
    late = store.begin_pipeline(run_id, "late", {}, [], "corn", "h")
    predict(store, late)
    assert store.query_predictions().height == 3
    assert waiting(store) == 0
    store.delete_run(run_id)
    assert store.query_predictions().is_empty()
    assert store.check().ok


@pytest.mark.parametrize("committed", [False, True], ids=["waiting", "committed"])
def test_a_pipeline_whose_beginning_was_applied_is_completed_without_a_commit(
    store: WorkspaceStore, folder: Path, committed: bool
) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    pipeline_id = store.begin_pipeline(run_id, "cut in two", {}, [], "corn", "h")
    predict(store, pipeline_id, val_score=0.25)
    assert store.get_pipeline(pipeline_id)["status"] == "running"
    if committed:
        give_up(store)
        store.list_runs()
    asked = listen(store)
    before = waiting(store)
    predict(store, pipeline_id, fold_id="fold_1", val_score=0.75)
    store.complete_pipeline(pipeline_id, 0.25, 0.5, "rmse", 7)
    found = store.get_pipeline(pipeline_id)
    assert (found["status"], found["best_val"], found["best_test"], found["duration_ms"]) == (
        "completed",
        0.25,
        0.5,
        7,
    )
    assert waiting(store) > before
    assert "COMMIT" not in asked
    give_up(store)
    assert segments(folder) == []
    rows = "SELECT status, best_val, metric, error, completed_at IS NOT NULL FROM pipelines WHERE name = 'cut in two'"
    assert sql(folder, rows) == [("completed", 0.25, "rmse", None, True)]
    assert sql(folder, "SELECT count(*) FROM pipelines WHERE status = 'running'") == [(1,)]
    assert sql(folder, "SELECT count(*) FROM deferred") == [(0,)]
    assert store.check().ok


def test_the_first_end_of_a_pipeline_stays_however_ends_are_applied(folder: Path) -> None:
    def end(pipeline_id: str, kind: str, best: float, minute: int) -> None:
        made = datetime(2026, 1, 1, 12, minute)
        payload = json.dumps({"best_val": best, "metric": "rmse"})
        commit_rows(folder, {"changes": [(new_id(), kind, pipeline_id, made, payload)]})

    with WorkspaceStore(folder) as store:
        run_id, first = begin(store)
        second = store.begin_pipeline(run_id, "second", {}, [], "corn", "h")
        store.list_runs()
        # In one chunk, and then in another.
        for best in (0.1, 0.2):
            end(first, "complete_pipeline", best, 1)
        assert store.get_pipeline(first)["best_val"] == 0.1
        end(first, "complete_pipeline", 0.3, 2)
        end(second, "complete_pipeline", 0.4, 2)
        assert store.get_pipeline(second)["best_val"] == 0.4
        assert waiting(store) == 4
        end(first, "fail_pipeline", 0.5, 3)
        found = store.get_pipeline(first)
        assert (found["status"], found["best_val"]) == ("completed", 0.1)
        assert found["completed_at"] == datetime(2026, 1, 1, 12, 1, tzinfo=UTC)


def test_an_end_whose_pipeline_has_not_come_waits_for_it_and_holds_nothing_else_up(
    store: WorkspaceStore, folder: Path
) -> None:
    known = begin(store)[1]
    store.list_runs()
    unknown = new_id()
    made = datetime(2026, 1, 1, 12)
    ends = [(new_id(), "complete_pipeline", ident, made, '{"best_val": 0.5}') for ident in (known, unknown)]
    commit_rows(folder, {"changes": ends})
    assert store.get_pipeline(known)["status"] == "completed"
    give_up(store)
    assert sql(folder, "SELECT id FROM deferred") == [(unknown,)]


def test_so_many_commits_do_not_wait_any_longer(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending_module, "_MOST_COMMITS", 5)
    run_id, _ = begin(store)
    for number in range(12):
        store.log_step(store.begin_pipeline(run_id, str(number), {}, [], "corn", "h"), 0, "x", "start")
        assert store.list_pipelines().height == number + 2
        assert waiting(store) < 5
        assert len(segments(folder)) < 5


def test_references_that_this_opening_wrote_are_taken_over(store: WorkspaceStore) -> None:
    _, pipeline_id = begin(store)
    store.list_runs()
    artifact_id = store.save_artifact([1], "builtins.list", "model", "joblib")
    assert store.get_artifact(artifact_id)["ref_count"] == 1
    assert waiting(store)
    chain_of(store, pipeline_id, artifact_id)
    assert store.get_artifact(artifact_id)["ref_count"] == 1
    again = store.save_artifact([1], "builtins.list", "model", "joblib")
    chain_of(store, pipeline_id, again)
    assert store.get_artifact(artifact_id)["ref_count"] == 2


def test_a_disk_that_is_full_at_the_commit_leaves_everything_in_the_journal(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, _ = begin(store)
    store.list_runs()
    whole_pipeline(store, run_id)
    assert store.query_predictions().height == 2
    assert waiting(store)
    before = segments(folder)
    access = store._engine.access
    real: Any = access._opened.con

    class Full(Counting):
        def execute(self, statement: Any, params: Any = None) -> Any:
            if statement == "COMMIT":
                raise duckdb.IOException("No space left on device")
            return super().execute(statement, params)

    access._opened.con = Full(real)  # type: ignore[assignment]
    give_up(store)
    assert segments(folder) == before
    assert store.query_predictions().height == 2
    give_up(store)
    assert segments(folder) == []
    assert sql(folder, "SELECT count(*) FROM predictions") == [(2,)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_process_that_is_killed_while_commits_wait_loses_none(folder: Path, crew: Any) -> None:
    child = crew(_record_ask_and_stay, folder)
    promised = child.hear()
    assert segments(folder)
    child.signal(signal.SIGKILL)
    child.end()
    with WorkspaceStore(folder) as store:
        assert store.query_predictions().height == promised
        # It leaves the claim of a store that was not closed.
        assert [finding.kind for finding in store.check().findings] == ["dead_claim"]
    assert segments(folder) == []


def _record_ask_and_stay(talk: Any, folder: Path) -> None:
    access_module.LINGER = 600.0
    store = WorkspaceStore(folder)
    run_id, _ = begin(store)
    found = 0
    for number in range(4):
        whole_pipeline(store, run_id, f"p{number}")
        found = store.query_predictions().height
    if not waiting(store) or not held(store):
        os._exit(1)
    talk.say(found)
    talk.wait()


def test_the_audit_trail_goes_on_where_it_stood(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    for number in range(3):
        whole_pipeline(store, run_id, str(number))
        store.list_runs()
    assert waiting(store)
    assert store.audit.verify().ok
    whole_pipeline(store, run_id, "last")
    trail = store.audit.query()
    assert trail.height == len(set(trail["number"].to_list()))
    assert store.audit.verify().ok


def test_a_person_who_asks_in_sql_sees_what_waits(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    store.list_runs()
    whole_pipeline(store, run_id, "second")
    store.list_runs()
    assert store.sql("SELECT count(*) AS n FROM scores")["n"].to_list() == [4]
    assert store.query_predictions().height == 4
