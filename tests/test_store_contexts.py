"""`with` blocks for runs, pipelines and transactions."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from storekit import failing, predict

from nirs_store.errors import InvalidInput, StoreClosed
from nirs_store.records import contexts
from nirs_store.store import WorkspaceStore


@pytest.mark.everywhere
def test_a_block_that_ends_normally_completes_what_it_began(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each look at the blocks' clock finds it 1.2344 s later.
    ticks = itertools.count(100, 1.2344)
    monkeypatch.setattr(contexts, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with store.run("corn", {"seed": 1}, ["corn", {"name": "wheat"}]) as run:
        with run.pipeline("pls", {"n": 2}, dataset_name="corn") as p:
            predict(store, p.pipeline_id)
            p.complete(best_val=0.5, best_test=np.float64(0.6), metric="rmse")
        with run.pipeline("ridge"):
            pass
        run.summary["best"] = 0.5
    found = store.get_run(run.run_id)
    assert found is not None
    assert (found["status"], found["summary"]) == ("completed", {"total_pipelines": 2, "best": 0.5})
    assert found["datasets"] == [{"name": "corn"}, {"name": "wheat"}]
    pipeline = store.get_pipeline(p.pipeline_id)
    assert pipeline is not None
    assert (pipeline["status"], pipeline["best_val"], pipeline["best_test"]) == ("completed", 0.5, 0.6)
    assert pipeline["duration_ms"] == 1234
    assert run.run_id in repr(run)
    assert p.pipeline_id in repr(p)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, SystemExit])
def test_a_block_that_an_exception_leaves_fails_with_the_traceback(
    store: WorkspaceStore, error: type[BaseException]
) -> None:
    with pytest.raises(error, match="singular"), store.run("corn") as run:  # noqa: PT012
        with run.pipeline("done") as done:
            predict(store, done.pipeline_id)
        with run.pipeline("broken") as broken:
            predict(store, broken.pipeline_id)
            raise error("singular matrix")
    found, pipeline = store.get_run(run.run_id), store.get_pipeline(broken.pipeline_id)
    assert found is not None
    assert pipeline is not None
    assert (found["status"], pipeline["status"]) == ("failed", "failed")
    for text in (found["error"], pipeline["error"]):
        assert "singular matrix" in text
        assert "Traceback" in text
        assert "test_store_contexts.py" in text
    assert store.query_predictions()["pipeline_id"].to_list() == [done.pipeline_id]


def test_a_pipeline_that_fails_may_be_caught_and_the_run_goes_on(store: WorkspaceStore) -> None:
    with store.run("corn") as run:
        for name in ("good", "bad"):
            try:
                with run.pipeline(name):
                    if name == "bad":
                        raise RuntimeError("no convergence")
            except RuntimeError:
                pass
    assert store.list_runs()["status"].to_list() == ["completed"]
    assert dict(store.list_pipelines().select("name", "status").rows()) == {
        "good": "completed",
        "bad": "failed",
    }


@pytest.mark.of_a_folder("it breaks writes to the journal")
def test_the_users_error_is_not_hidden_by_trouble_with_recording_it(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError) as caught, store.run("corn") as run:  # noqa: PT012
        broken = failing(monkeypatch, "write", below=folder / "journal" / "tmp")
        broken.__enter__()
        try:
            raise ZeroDivisionError
        finally:
            store._engine.flush = broken  # type: ignore[assignment, method-assign]
    broken.__exit__(None, None, None)
    assert any("could not be recorded" in note and "No space" in note for note in caught.value.__notes__)
    found = store.get_run(run.run_id)
    assert found is not None
    # The change is in the buffer and goes with the next commit.
    assert found["status"] == "failed"


def test_a_store_that_was_closed_inside_the_block_says_so(folder: Path) -> None:
    store = WorkspaceStore(folder)
    with pytest.raises(StoreClosed), store.run("corn"):
        store.close()
    with WorkspaceStore(folder) as again:
        assert again.list_runs()["status"].to_list() == ["interrupted"]


def test_what_a_pipeline_is_completed_with_is_checked(store: WorkspaceStore) -> None:
    with pytest.raises(InvalidInput, match="best_val"), store.run("corn") as run, run.pipeline("pls") as p:
        p.complete(best_val="good")  # type: ignore[arg-type]
    assert store.list_runs()["status"].to_list() == ["failed"]
    assert store.list_pipelines()["status"].to_list() == ["failed"]


def test_a_name_that_is_no_text_begins_nothing(store: WorkspaceStore) -> None:
    with pytest.raises(InvalidInput, match="name"), store.run(5):  # type: ignore[arg-type]
        pass
    assert store.list_runs().is_empty()


def test_leaving_the_stores_own_block_closes_it_also_after_an_exception(folder: Path) -> None:
    with pytest.raises(RuntimeError), WorkspaceStore(folder) as store:  # noqa: PT012
        predict(store, store.begin_pipeline(store.begin_run("r", {}, []), "p", {}, [], "d", "h"))
        raise RuntimeError
    with pytest.raises(StoreClosed):
        store.list_runs()
    with WorkspaceStore(folder) as again:
        assert again.query_predictions().height == 1
