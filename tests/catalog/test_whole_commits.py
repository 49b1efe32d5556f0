"""A commit is there as a whole or not at all: for every question, whoever asks, and whichever of its rows is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storekit import begin, commit_rows, predict, python, segments, whole_pipeline

from nirs_store.db.journal import decode
from nirs_store.store import WorkspaceStore

pytestmark = pytest.mark.filterwarnings("ignore:A commit could not be applied:UserWarning")

QUESTIONS: dict[str, Callable[[WorkspaceStore], Any]] = {
    "runs": lambda store: store.list_runs()["name"].sort().to_list(),
    "pipelines": lambda store: store.list_pipelines()["name"].sort().to_list(),
    "chains": lambda store: store.sql("SELECT chain_id FROM chains ORDER BY ALL").to_dicts(),
    "predictions": lambda store: store.query_predictions()["prediction_id"].sort().to_list(),
    "leaderboard": lambda store: store.top_predictions(99, partition=None)["prediction_id"].sort().to_list(),
    "artifacts": lambda store: store.sql(
        "SELECT artifact_id, ref_count FROM artifacts ORDER BY ALL"
    ).to_dicts(),
    "log": lambda store: store.sql("SELECT log_id FROM logs ORDER BY ALL").to_dicts(),
    "audit": lambda store: store.audit.query()["object_id"].to_list(),
}
# Tables of a commit by what is wrong with one of its rows.
TAKEN = ("runs", "pipelines", "chains", "predictions", "prediction_arrays", "artifact_refs", "logs")
SPOILT = [
    *((table, 0, "a key that is taken") for table in TAKEN),
    ("chains", 4, None),  # a text that must be there
    ("predictions", 15, "{no JSON"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of one commit: a run with a pipeline and all that this owns."""
    apart = tmp_path_factory.mktemp("apart")
    store = WorkspaceStore(apart)
    with store.transaction():
        whole_pipeline(store, store.begin_run("second", {}, []))
    (path,) = segments(apart)
    tables = decode(path.read_bytes()).tables
    store.close()
    return {name: [tuple(row.values()) for row in table.to_pylist()] for name, table in tables.items()}


def answers(store: WorkspaceStore, names: Any) -> dict[str, Any]:
    return {name: QUESTIONS[name](store) for name in names}


@pytest.mark.parametrize(("table", "column", "value"), SPOILT, ids=[f"{s[0]}-{s[2]}" for s in SPOILT])
def test_a_commit_of_which_one_row_is_refused_is_absent_for_every_question(
    store: WorkspaceStore,
    folder: Path,
    whole: dict[str, list[tuple[Any, ...]]],
    table: str,
    column: int,
    value: Any,
) -> None:
    whole_pipeline(store, begin(store)[0])
    before = answers(store, QUESTIONS)
    if value == "a key that is taken":
        value = store.sql(f"SELECT * FROM {table} LIMIT 1").row(0)[0]
    spoilt = {name: list(rows) for name, rows in whole.items()}
    spoilt[table][-1] = (*spoilt[table][-1][:column], value, *spoilt[table][-1][column + 1 :])
    commit_rows(folder, spoilt)
    with WorkspaceStore(folder) as other:
        assert answers(store, QUESTIONS) == before
        assert answers(other, reversed(QUESTIONS)) == before
    assert answers(store, QUESTIONS) == before
    assert len(list((folder / "journal" / "rejected").glob("*.seg"))) == 1
    # As it was meant, it is there for all of them.
    commit_rows(folder, whole)
    after = answers(store, QUESTIONS)
    assert [name for name in QUESTIONS if after[name] == before[name]] == []


@pytest.mark.parametrize("asked", ["chains", "leaderboard", "audit"])
def test_a_process_that_is_killed_after_a_question_leaves_each_commit_whole(folder: Path, asked: str) -> None:
    """The answer may have come from rows that were not in the file yet."""
    code = """
import os, sys
import test_whole_commits as t
store = t.WorkspaceStore(sys.argv[1])
for name in "abc":
    t.whole_pipeline(store, store.begin_run(name, {}, []))
    t.QUESTIONS[sys.argv[2]](store)
print(t.answers(store, t.QUESTIONS), flush=True)
os._exit(9)
"""
    done = python(
        f"import sys; sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})\n{code}", folder, asked
    )
    assert done.returncode == 9, done.stderr
    with WorkspaceStore(folder) as store:
        assert str(answers(store, QUESTIONS)) == done.stdout.strip()
        assert [finding for finding in store.check().findings if finding.severity == "error"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_was_begun_before_a_fork_is_there_once(store: WorkspaceStore, folder: Path) -> None:
    run_id, pipeline_id = begin(store)
    store.list_runs()
    predict(store, pipeline_id)
    pid = os.fork()
    if pid == 0:
        try:
            whole_pipeline(store, run_id, "of the child")
            store.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert store.query_predictions().height == 3
    assert store.list_pipelines().height == 2
