"""Forks, copies in workers, threads, and savers, deleters and collectors on two computers at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storekit import ROOT, begin, whole_pipeline

from nirs_store.db.table import digests
from nirs_store.store import WorkspaceStore

X = np.arange(12.0).reshape(4, 3) ** 1.5


def test_a_forked_child_records_with_connections_of_its_own(machine: Any) -> None:
    one = machine("one")
    run_id, _ = begin(one)
    whole_pipeline(one, run_id)
    one.flush()
    child = os.fork()
    if child == 0:
        try:
            whole_pipeline(one, run_id, "child")
            one.list_runs()
            one.close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    whole_pipeline(one, run_id, "parent")
    assert os.waitpid(child, 0)[1] == 0
    names = machine("other").list_pipelines()["name"].to_list()
    assert {"child", "parent"} <= set(names)
    assert one._engine.claims.living() == [one._engine._claim.claim_id]
    assert one.list_pipelines().height == len(names)


def _work(pickled: bytes, run_id: str) -> str:
    with pickle.loads(pickled) as store:
        return whole_pipeline(store, run_id, "worker")


def test_a_copy_in_a_worker_records_for_the_session_of_its_store(machine: Any) -> None:
    one = machine("one")
    run_id, _ = begin(one)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        made = pool.apply(_work, (pickle.dumps(one), run_id))
    sql = "SELECT status, session_id FROM pipelines WHERE pipeline_id = ?"
    found = machine("other")._engine.query(lambda con: con.execute(sql, [made]).fetchall())
    assert found == [("completed", one._engine.session_id)]


def test_threads_record_and_ask_while_others_change(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    one.flush()
    errors: list[BaseException] = []

    def work(store: WorkspaceStore, name: str) -> None:
        try:
            for number in range(4):
                whole_pipeline(store, run_id, f"{name} {number}", n=1)
                store.list_pipelines()
                store.retention.pin(run_id, name)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(store, f"{place} {number}"))
        for place, store in (("one", one), ("other", other))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    rows = one._engine.query(digests)
    assert other._engine.query(digests) == rows
    assert one.list_pipelines().height == 17


_LOOP = """
import random, sys
sys.path.insert(0, {kit!r})
import numpy as np
from storekit import Y_TRUE, begin, chain_of
from nirs_store.errors import ArtifactMissing, UnknownId
from nirs_store.store import WorkspaceStore
dice = random.Random({seed})
store = WorkspaceStore({place!r}, retention=False)
for turn in range(1000):
    what = dice.random()
    try:
        if what < 0.55:
            run_id, pipeline_id = begin(store)
            # Few contents, so that one saves what another has just deleted.
            artifact_id = store.save_artifact([float(dice.randrange(3))] * 50, "builtins.list", "model", "joblib")
            chain_of(store, pipeline_id, artifact_id)
            store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
        elif what < 0.85:
            runs = store.list_runs()["run_id"].to_list()
            if runs:
                store.delete_run(dice.choice(runs), now=True)
        else:
            store.gc_artifacts(grace_seconds=0)
    except (ArtifactMissing, UnknownId):
        pass  # another was faster, and it is said
store.close()
print("done")
"""


# A run may be deleted while another computer records into it.
@pytest.mark.filterwarnings("ignore:Committed rows were dropped")
@pytest.mark.slow
def test_savers_deleters_and_collectors_of_two_computers_lose_no_blob(
    machine: Any, database: str, tmp_path: Path
) -> None:
    one = machine("one")
    begin(one)
    one.flush()
    places = [f"{database}?workspace=corn&replica={tmp_path / name}" for name in "ab"]
    kit = str(ROOT / "tests" / "kit")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _LOOP.format(kit=kit, seed=seed, place=places[seed % 2])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    for process in running:
        said, errors = process.communicate()
        assert (said.strip(), process.returncode) == ("done", 0), errors
    engine = one._engine
    rows = engine.query(lambda con: con.execute("SELECT artifact_id, artifact_path FROM blobs").fetchall())
    held = engine.query(lambda con: con.execute("SELECT DISTINCT artifact_id FROM artifact_refs").fetchall())
    there = set(engine.layout.blobs.list("artifacts/"))
    assert {ident for (ident,) in held} <= {ident for ident, _ in rows}
    assert {path for _, path in rows} <= there
    for ident, _ in rows:
        assert len(one.load_artifact(ident)) == 50
    expected = engine.query(digests)
    for place in places:
        with WorkspaceStore(place) as store:
            assert store._engine.query(digests) == expected
