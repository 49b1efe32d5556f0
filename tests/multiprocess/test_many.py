"""Eight processes start at once, record, and two ask all the time: nobody fails, nothing is lost or out of date."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storekit import whole_pipeline

from nirs_store.db.lock import CatalogLock
from nirs_store.store import WorkspaceStore

WRITERS, READERS = 8, 2


def record(talk: Any, folder: Path, acks: Path) -> dict[str, Any]:
    """Open (or make) a store, record pipelines and write the id of each down as soon as it is committed."""
    waited: list[str] = []
    acquire = CatalogLock.acquire

    def seen(self: CatalogLock, *, exclusive: bool, timeout: float) -> None:
        if threading.current_thread() is threading.main_thread():
            waited.append("recording waited for the catalog")
        acquire(self, exclusive=exclusive, timeout=timeout)

    talk.say("ready")
    talk.wait()
    # All at once, on a folder that is not there.
    store = WorkspaceStore(folder)
    talk.say("open")
    until = talk.wait()
    run_id = store.begin_run("writer", {}, [])
    CatalogLock.acquire = seen  # type: ignore[method-assign]
    seconds = []
    with acks.open("w") as file:
        while time.monotonic() < until or not seconds:
            start = time.monotonic()
            pipeline_id = whole_pipeline(store, run_id)
            seconds.append(time.monotonic() - start)
            file.write(pipeline_id + "\n")
            file.flush()
    store.complete_run(run_id, {})
    CatalogLock.acquire = acquire  # type: ignore[method-assign]
    store.close()
    return {"waited": waited, "seconds": sorted(seconds)}


def ask(talk: Any, folder: Path, acks: Path) -> dict[str, Any]:
    """Open, ask for the best, and compare with what had been written down before; again and again."""
    talk.say("ready")
    until = talk.wait()
    missed: list[str] = []
    seconds = []
    while time.monotonic() < until or not seconds:
        promised = written(acks)
        start = time.monotonic()
        with WorkspaceStore(folder, lock_timeout=120.0) as store:
            best = store.top_predictions(10)
            seconds.append(time.monotonic() - start)
            found = set(store.list_pipelines().filter(status="completed")["pipeline_id"])
            scored = set(store.query_predictions()["pipeline_id"])
        missed += sorted(promised - found) + sorted(promised - scored)
        if promised and best.is_empty():
            missed.append("the leaderboard is empty")
    return {"missed": missed, "seconds": sorted(seconds)}


def written(acks: Path) -> set[str]:
    """Ids of the pipelines of which some process knows that they are committed."""
    # The end of a file may be a part of a line.
    return {line for path in acks.iterdir() for line in path.read_text().rpartition("\n")[0].split()}


def told(values: list[float]) -> str:
    middle, late = values[len(values) // 2], values[int(0.99 * (len(values) - 1))]
    return f"median {middle * 1000:.1f}, p99 {late * 1000:.0f}, longest {values[-1] * 1000:.0f} ms"


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_eight_writers_and_two_readers_lose_nothing_and_wait_for_nobody(
    tmp_path: Path, crew: Callable[..., Any], seconds: int
) -> None:
    folder, acks = tmp_path / "not" / "yet", tmp_path / "acks"
    acks.mkdir()
    writers = [crew(record, folder, acks / str(number)) for number in range(WRITERS)]
    for writer in writers:
        assert writer.hear() == "ready"
    for writer in writers:
        writer.tell()
    for writer in writers:
        assert writer.hear() == "open"
    readers = [crew(ask, folder, acks) for _ in range(READERS)]
    for reader in readers:
        assert reader.hear() == "ready"
    until = time.monotonic() + seconds
    for child in (*writers, *readers):
        child.tell(until)
    # A call that failed in any of them is raised here.
    wrote = [writer.hear(timeout=seconds + 240) for writer in writers]
    asked = [reader.hear(timeout=seconds + 240) for reader in readers]
    assert [each["waited"] for each in wrote] == [[]] * WRITERS
    assert [each["missed"] for each in asked] == [[]] * READERS
    promised = written(acks)
    assert len(promised) == sum(len(each["seconds"]) for each in wrote)
    with WorkspaceStore(folder) as store:
        pipelines = store.list_pipelines()
        assert sorted(pipelines["pipeline_id"]) == sorted(promised)
        assert set(pipelines["status"]) == {"completed"}
        assert set(Counter(store.query_predictions()["pipeline_id"].to_list()).values()) == {2}
        assert store.list_runs()["status"].to_list() == ["completed"] * WRITERS
        arrays = store.get_prediction_arrays(store.query_predictions()["prediction_id"].to_list())
        assert len(arrays) == 2 * len(promised)
        report = store.check()
        assert report.ok, str(report)
    for part in ("segments", "rejected", "claims", "aside"):
        assert list((folder / "journal" / part).iterdir()) == []
    print(
        f"{len(promised)} pipelines in {seconds} s, each {told(sorted(s for e in wrote for s in e['seconds']))}"
    )
    print(
        f"{sum(len(e['seconds']) for e in asked)} leaderboards, {told(sorted(s for e in asked for s in e['seconds']))}"
    )
