"""Nodes that only record: what works there, and what the store that owns the workspace makes of it."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storekit import Y_TRUE, begin, chain_of, failing, predict, snapshot, whole_pipeline

from nirs_store import load_tecator, record_cross_validation
from nirs_store.db import database, journal, lock
from nirs_store.db import log as inbox
from nirs_store.db.journal import Journal, encode, new_txid
from nirs_store.db.layout import Layout
from nirs_store.db.lock import CatalogLock
from nirs_store.errors import (
    ArtifactMissing,
    ForbiddenContent,
    InboxOnly,
    InvalidInput,
    NotAWorkspace,
    PathEscapes,
    ReadOnlyStore,
    WriteFailed,
)
from nirs_store.maintenance.check import check_workspace
from nirs_store.store import WorkspaceStore


@pytest.fixture
def share(folder: Path, empty: Path) -> Path:
    """A workspace that nobody has open."""
    shutil.copytree(empty, folder)
    return folder


def sessions(share: Path) -> list[Path]:
    """Folders in the inbox."""
    return sorted((share / "inbox").glob("*"))


def commits(share: Path) -> list[Path]:
    """Commits that wait in it."""
    return sorted((share / "inbox").glob("*/journal/segments/*.seg"))


def clean(share: Path) -> bool:
    """Whether nothing at all is wrong with a workspace."""
    return check_workspace(share, read_data=True).findings == ()


# -- recording --------------------------------------------------------------------------------------


def test_everything_that_is_recorded_there_is_here_as_if_recorded_here(share: Path) -> None:
    with WorkspaceStore(share, inbox=True) as node:
        with node.run("r", {"seed": 1}, datasets=["corn"]) as run:
            with run.pipeline("p2") as second:
                second.complete(best_val=0.2, metric="rmse")
            with run.pipeline("p", dataset_name="corn") as p:
                artifact_id = node.save_artifact({"a": 1}, "builtins.dict", "model", "joblib")
                node.flush()  # and the chain comes in a later commit
                chain_id = chain_of(node, p.pipeline_id, artifact_id)
                prediction_id = predict(node, p.pipeline_id, chain_id)
                node.log_step(p.pipeline_id, 0, "builtins.list", "end", 5)
                node.log_metric(p.pipeline_id, "loss", 0.5, 1)
                p.complete(best_val=0.5, metric="rmse")
        with pytest.raises(RuntimeError), node.run("failed") as failed:
            raise RuntimeError
        node.tag_run(run.run_id, "best")
        with node.transaction():
            whole_pipeline(node, run.run_id)
        assert node.load_artifact(artifact_id) == {"a": 1}
    with WorkspaceStore(share) as store:
        assert (store.get_run(run.run_id) or {})["status"] == "completed"
        assert (store.get_run(run.run_id) or {})["tags"] == ["best"]
        assert (store.get_run(failed.run_id) or {})["status"] == "failed"
        found = store.get_prediction(prediction_id, load_arrays=True)
        assert found is not None
        assert found["y_pred"].tolist() == (Y_TRUE + 0.5).tolist()
        assert store.load_artifact(artifact_id) == {"a": 1}
        assert (store.get_chain(chain_id) or {})["pipeline_id"] == p.pipeline_id
        assert store.gc_artifacts(grace_seconds=0.0) == 0
    assert sessions(share) == []
    assert clean(share)


@pytest.mark.slow
def test_a_cross_validation_with_workers_predicts_the_same_here(share: Path) -> None:
    from sklearn.cross_decomposition import PLSRegression

    meat = load_tecator()
    with WorkspaceStore(share, inbox=True) as node:
        result = record_cross_validation(
            node, PLSRegression(n_components=3), meat.X, meat.fat, cv=3, dataset_name="tecator", n_jobs=2
        )
        assert repr(node).startswith("WorkspaceStore(")
    with WorkspaceStore(share) as store:
        assert store.top_chains()["chain_id"].to_list() == [result.chain_id]
        assert np.isfinite(np.asarray(store.replay_chain(result.chain_id, meat.X[:3]))).all()
    assert clean(share)


def test_a_copy_in_a_worker_records_for_the_session_it_came_from(share: Path) -> None:
    with WorkspaceStore(share, inbox=True) as node:
        _, pipeline_id = begin(node)
        worker = pickle.loads(pickle.dumps(node))
        artifact_id = worker.save_artifact([1], "builtins.list", "model", "joblib")
        worker.close()
        with WorkspaceStore(share) as store:
            assert store.list_runs()["status"].to_list() == ["running"]
        assert len(sessions(share)) == 1, "it goes on"
        chain_id = chain_of(node, pipeline_id, artifact_id)
    with WorkspaceStore(share) as store:
        assert store.get_chain(chain_id) is not None
        assert store.load_artifact(artifact_id) == [1]
    assert clean(share)


def test_no_lock_is_taken_and_nothing_but_the_inbox_is_touched(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = CatalogLock(Layout(share), writable=True)
    held.acquire(exclusive=True, timeout=1)
    before = snapshot(share)

    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError("a lock")

    with monkeypatch.context() as patch:
        for module in (lock, inbox, database):
            patch.setattr(module, "try_lock", refuse, raising=False)
        patch.setattr(lock.fcntl, "flock", refuse)
        patch.setattr(lock.fcntl, "fcntl", refuse)
        with WorkspaceStore(share, inbox=True) as node:
            run_id, _ = begin(node)
            whole_pipeline(node, run_id)
    after = snapshot(share)
    assert {path: data for path, data in after.items() if not path.startswith("inbox")} == before
    held.release()


def _data_set(store: WorkspaceStore, run_id: str) -> object:
    return store.datasets.add("corn", np.zeros((3, 4)))


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, run_id: store.list_runs(),
        lambda store, run_id: store.get_run(run_id),
        lambda store, run_id: store.get_run(run_id[:8]),
        lambda store, run_id: store.top_chains(),
        lambda store, run_id: store.sql("SELECT 1"),
        lambda store, run_id: store.delete_run(run_id),
        lambda store, run_id: store.gc_artifacts(),
        lambda store, run_id: store.vacuum(),
        lambda store, run_id: store.check(),
        lambda store, run_id: store.repair(),
        lambda store, run_id: store.predict("0123456789", np.zeros((2, 3))),
        lambda store, run_id: store.replay_chain(run_id, np.zeros((2, 3))),
        lambda store, run_id: store.files.list(),
        lambda store, run_id: store.evaluations.list(),
        lambda store, run_id: store.audit.query(),
        lambda store, run_id: store.trash.list(),
        lambda store, run_id: store.calibrations.register("fat", run_id),
        lambda store, run_id: store.archive("there.tar.gz"),
        _data_set,
    ],
)
def test_what_needs_an_answer_is_refused_in_words(
    share: Path, ask: Callable[[WorkspaceStore, str], object]
) -> None:
    with WorkspaceStore(share, inbox=True) as node:
        run_id, _ = begin(node)
        with pytest.raises(InboxOnly, match="inbox=True, which only records"):
            ask(node, run_id)
        begin(node, "goes on")
    with WorkspaceStore(share) as store:
        assert store.list_runs()["name"].to_list() == ["goes on", "run"]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"read_only": True}, ""),
        ({"take_over": True}, ""),
        ({"blobs": "there"}, ""),
        ({}, "postgresql://lab/nirs?workspace=corn"),
    ],
)
def test_options_that_do_not_go_together_are_refused(share: Path, options: dict[str, Any], path: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InvalidInput, match="inbox: expected alone"):
        WorkspaceStore(path or share, inbox=True, **options)
    assert not sessions(share)


def test_the_workspace_must_be_there_and_its_inbox_no_link(share: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAWorkspace, match="Make the workspace first"):
        WorkspaceStore(tmp_path / "none", inbox=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "elsewhere").mkdir()
    (share / "inbox").symlink_to(tmp_path / "elsewhere")
    for options in ({"inbox": True}, {}):
        with pytest.raises(PathEscapes):
            WorkspaceStore(share, **options)


def test_an_artifact_that_was_saved_elsewhere_cannot_be_named(share: Path) -> None:
    with WorkspaceStore(share) as store:
        theirs = store.save_artifact([1], "builtins.list", "model", "joblib")
    with WorkspaceStore(share, inbox=True) as node:
        _, pipeline_id = begin(node)
        with pytest.raises(ArtifactMissing):
            chain_of(node, pipeline_id, theirs)


def test_an_id_that_was_made_elsewhere_is_taken_as_it_is(share: Path) -> None:
    first, second = (WorkspaceStore(share, inbox=True) for _ in range(2))
    run_id, pipeline_id = begin(first)
    chain_id = chain_of(second, pipeline_id)
    prediction_id = predict(second, pipeline_id, chain_id, prediction_id="mine")
    other = whole_pipeline(second, run_id)
    second.close()
    hidden = share / "inbox" / first._engine.session_id
    hidden.rename(share / "late")  # the child comes before its parent
    with WorkspaceStore(share) as store:
        assert store.get_chain(chain_id) is not None
        (share / "late").rename(hidden)
        assert sorted(store.sql("SELECT pipeline_id FROM pipelines")["pipeline_id"]) == sorted(
            [pipeline_id, other]
        )
        assert (store.get_prediction(prediction_id) or {})["pipeline_id"] == pipeline_id
    first.close()
    WorkspaceStore(share).close()
    assert prediction_id == "mine"


def test_the_guard_of_the_workspace_holds_there_too(share: Path) -> None:
    with WorkspaceStore(share) as store:
        store.audit.guard.forbid(keys=["patient"])
    with WorkspaceStore(share, inbox=True) as node, pytest.raises(ForbiddenContent):
        node.begin_run("r", {"patient": "x"}, [])


# -- what becomes of it ---------------------------------------------------------------------------


def test_a_gc_at_any_moment_costs_no_artifact(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkspaceStore(share) as store:
        artifact_id = store.save_artifact([7], "builtins.list", "model", "joblib")
    nodes = [WorkspaceStore(share, inbox=True) for _ in range(2)]
    for node in nodes:
        assert node.save_artifact([7], "builtins.list", "model", "joblib") == artifact_id
    with WorkspaceStore(share) as store:
        assert store.gc_artifacts(grace_seconds=0.0) == 1, "nobody here holds it"
        _, pipeline_id = begin(nodes[0])
        first = chain_of(nodes[0], pipeline_id, artifact_id)
        nodes[0].flush()
        assert store.get_chain(first) is not None
        assert store.load_artifact(artifact_id) == [7]
        store.delete_run(store.list_runs()["run_id"][0], now=True)
        real, chains = store._engine.claims.read, []

        def read(*, remove_dead: bool) -> set[str]:
            # The files are aside, and the catalog has not decided yet.
            if not chains:
                _, pipeline_id = begin(nodes[1])
                chains.append(chain_of(nodes[1], pipeline_id, artifact_id))
                nodes[1].flush()
            return real(remove_dead=remove_dead)

        nodes[0].close()
        monkeypatch.setattr(store._engine.claims, "read", read)
        store.gc_artifacts(grace_seconds=0.0)
        assert store.load_artifact(artifact_id) == [7]
        assert store.get_chain(chains[0]) is not None
        nodes[1].close()
        store.list_runs()
    assert sessions(share) == []
    assert clean(share)


def _record(share: Path, count: int) -> list[str]:
    """Record pipelines, each acknowledged."""
    with WorkspaceStore(share, inbox=True) as node:
        run_id = node.begin_run("node", {}, [])
        done = [whole_pipeline(node, run_id, f"p{i}") for i in range(count)]
        node.complete_run(run_id, {})
    return done


@pytest.mark.parametrize(
    "pool", [ThreadPoolExecutor, pytest.param(ProcessPoolExecutor, marks=pytest.mark.slow)]
)
def test_two_nodes_at_once_and_questions_meanwhile(share: Path, pool: Any) -> None:
    options = {"mp_context": get_context("spawn")} if pool is ProcessPoolExecutor else {}
    seen: set[str] = set()
    with WorkspaceStore(share) as store, pool(2, **options) as nodes:
        ends = [nodes.submit(_record, share, 4) for _ in range(2)]
        while not all(end.done() for end in ends):
            now = set(store.list_runs()["run_id"])
            assert now >= seen
            seen = now
        done = [pipeline_id for end in ends for pipeline_id in end.result()]
        rows = store.sql("SELECT pipeline_id, status FROM pipelines")
        assert sorted(rows["pipeline_id"]) == sorted(done)
        assert set(rows["status"]) == {"completed"}
        assert store.sql("SELECT count(*) AS n FROM predictions")["n"][0] == 2 * len(done)
    assert sessions(share) == []
    assert clean(share)


def test_a_commit_that_comes_twice_counts_once(share: Path) -> None:
    with WorkspaceStore(share, inbox=True) as node:
        begin(node)
        node.flush()
        (first, *_) = commits(share)
        copies = {
            first.with_name(name): first.read_bytes() for name in (first.name, f"{9:012d}{first.name[12:]}")
        }
        with WorkspaceStore(share) as store:
            for _ in range(2):
                assert store.list_runs().height == 1
                for path, data in copies.items():
                    path.write_bytes(data)
            assert store.list_runs().height == 1


# -- damage and malice ------------------------------------------------------------------------------


def _truncated(folder: Path, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _altered(folder: Path, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _renamed(folder: Path, path: Path) -> None:
    path.rename(path.with_name(f"000000000001-{new_txid()}.seg"))


def _a_link(folder: Path, path: Path) -> None:
    data = path.with_suffix(".bin")
    path.rename(data)
    path.symlink_to(data)


def _a_pipe(folder: Path, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _lost_blob(folder: Path, path: Path) -> None:
    for blob in folder.glob("artifacts/*/*"):
        blob.unlink()


def _other_bytes(folder: Path, path: Path) -> None:
    for blob in folder.glob("artifacts/*/*"):
        size = blob.stat().st_size
        blob.unlink()
        blob.write_bytes(b"x" * size)


def _blob_that_is_a_link(folder: Path, path: Path) -> None:
    for blob in folder.glob("artifacts/*/*"):
        outside = folder.parents[2] / "secret"
        blob.rename(outside)
        blob.symlink_to(outside)


def _blob_that_is_a_pipe(folder: Path, path: Path) -> None:
    for blob in folder.glob("artifacts/*/*"):
        blob.unlink()
        os.mkfifo(blob)


@pytest.mark.parametrize(
    "harm",
    [
        _truncated,
        _altered,
        _renamed,
        _a_link,
        _a_pipe,
        _lost_blob,
        _other_bytes,
        _blob_that_is_a_link,
        _blob_that_is_a_pipe,
    ],
)
def test_what_is_damaged_is_set_aside_whole_and_the_rest_applied(
    share: Path, harm: Callable[[Path, Path], None]
) -> None:
    good, bad = (WorkspaceStore(share, inbox=True) for _ in range(2))
    kept, _ = begin(good, "good")
    with bad.transaction():
        run_id, pipeline_id = begin(bad, "bad")
        chain_of(bad, pipeline_id)
    bad.flush()
    (session,) = [folder for folder in sessions(share) if folder.name == bad._engine.session_id]
    harm(session, sorted(session.glob("journal/segments/*.seg"))[-1])
    with WorkspaceStore(share) as store:
        with pytest.warns(UserWarning, match="in the inbox could not be applied"):
            runs = store.list_runs()["run_id"].to_list()
        assert kept in runs
        assert run_id not in runs
        assert len(list((share / "journal" / "rejected").glob("*.json"))) == 1
        assert store.list_runs().height == len(runs), "said once"
        good.close()
        bad._engine.abort()
        for table in ("chains", "pipelines", "blobs"):
            assert store.sql(f"SELECT count(*) AS n FROM {table}")["n"][0] == (table == "pipelines")


@pytest.mark.parametrize(
    ("path", "artifact_id", "digest"),
    [
        ("../../outside.joblib", "a" * 64, "a" * 64),
        ("journal/lock", "a" * 64, "a" * 64),
        (f"artifacts/aa/{'a' * 64}.joblib", "mine", "a" * 64),
        (f"artifacts/aa/{'a' * 64}.joblib", "a" * 64, "b" * 64),
        (f"artifacts/aa/{'a' * 64}~1.joblib", "a" * 64, "a" * 64),
        (None, "a" * 64, "a" * 64),
        ("notes.txt", "a" * 64, "a" * 64),
    ],
)
def test_names_of_a_stranger_lead_nowhere(share: Path, path: Any, artifact_id: str, digest: str) -> None:
    (share / "notes.txt").write_text("the owner's")
    before = snapshot(share)
    session = Layout(share / "inbox" / new_txid())
    inbox.make_session(session)
    names = [field.name for field in journal.arrow_schema("blobs")]
    values = {"artifact_id": artifact_id, "artifact_path": path, "content_hash": digest, "size_bytes": 3}
    values |= {"operator_class": "", "artifact_type": "model", "format": "joblib"}
    row = tuple(values.get(name) for name in names)
    txid = new_txid()
    pieces = encode({"blobs": [row]}, txid=txid, claim="", session="s", created="2026-01-01T00:00:00+00:00")
    Journal(session).append(pieces, txid)
    with WorkspaceStore(share) as store, pytest.warns(UserWarning, match="not named after its content"):
        store.list_runs()
    after = snapshot(share)
    assert {name for name in after.keys() - before.keys() if not name.startswith(("journal", "inbox"))} <= {
        "store.duckdb.wal"
    }


@pytest.mark.parametrize("linked", ["", "journal", "journal/segments"])
def test_a_linked_folder_brings_nothing_from_elsewhere(share: Path, tmp_path: Path, linked: str) -> None:
    """Another workspace's commits would be taken away from it."""
    other = tmp_path / "other"
    shutil.copytree(share, other)
    theirs = WorkspaceStore(other)
    begin(theirs)
    theirs.flush()
    place = share / "inbox" / new_txid() / linked
    place.parent.mkdir(parents=True)
    place.symlink_to(other / linked)
    with WorkspaceStore(share) as store:
        assert store.list_runs().height == 0
    assert theirs.list_runs().height == 1
    theirs.close()


def test_a_direct_change_is_not_taken(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkspaceStore(share, inbox=True) as node:
        begin(node)
    real = inbox.read_entry

    def read(entry: Any) -> Any:
        segment = real(entry)
        segment.delta = object()  # type: ignore[assignment]
        return segment

    monkeypatch.setattr(inbox, "read_entry", read)
    with WorkspaceStore(share) as store, pytest.warns(UserWarning, match="only rows are taken"):
        assert store.list_runs().height == 0


def test_a_commit_of_a_newer_version_waits_and_holds_nobody_up(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal, "SCHEMA_VERSION", journal.SCHEMA_VERSION + 1)
        newer = WorkspaceStore(share, inbox=True)
        run_id, _ = begin(newer)
        newer.flush()
    with WorkspaceStore(share, inbox=True) as node:
        mine, _ = begin(node)
    with WorkspaceStore(share) as store:
        with pytest.warns(UserWarning, match=r"waits in the inbox.*Upgrade"):
            assert store.list_runs()["run_id"].to_list() == [mine]
        begin(store, "goes on")
        assert store.list_runs().height == 2
        monkeypatch.setattr(journal, "SCHEMA_VERSION", journal.SCHEMA_VERSION + 1)
        assert run_id in store.list_runs()["run_id"].to_list()
        monkeypatch.undo()
    newer._engine.abort()


@pytest.mark.parametrize("call", ["listdir", "replace"])
def test_a_folder_that_another_user_has_shut_waits_and_holds_nobody_up(
    share: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    shut, free = (WorkspaceStore(share, inbox=True) for _ in range(2))
    mine, theirs = begin(free)[0], begin(shut)[0]
    free.close()
    shut.close()
    (place,) = [folder for folder in sessions(share) if folder.name == shut._engine.session_id]
    with WorkspaceStore(share) as store:
        with failing(monkeypatch, call, below=place, code=errno.EACCES) as refused:
            with pytest.warns(UserWarning, match="waits in the inbox"):
                assert store.list_runs()["run_id"].to_list() == [mine]
            begin(store, "goes on")
            assert store.list_runs().height == 2, "said once"
        assert refused
        assert theirs in store.list_runs()["run_id"].to_list()
    assert clean(share)


def test_on_a_full_disk_it_waits_and_is_there_once_there_is_room(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkspaceStore(share, inbox=True) as node:
        _, pipeline_id = begin(node)
        chain_id = chain_of(node, pipeline_id)
    with WorkspaceStore(share) as store:
        with (
            failing(monkeypatch, "write", below=share / "journal" / "tmp") as refused,
            pytest.raises(WriteFailed),
        ):
            store.list_runs()
        assert refused
        assert store.get_chain(chain_id) is not None
    assert clean(share)


# -- waiting, and the end of a node ----------------------------------------------------------------


def test_what_waits_is_shown_by_the_check_and_told_to_who_only_reads(share: Path) -> None:
    with WorkspaceStore(share, inbox=True) as node:
        begin(node)
    waiting = len(commits(share))
    (finding,) = check_workspace(share).findings
    assert (finding.kind, finding.where) == ("segments_pending", "inbox")
    assert f"{waiting} commits of stores that only record" in finding.message
    with (
        WorkspaceStore(share, read_only=True) as store,
        pytest.warns(UserWarning, match=f"{waiting} commits"),
    ):
        assert store.list_runs().height == 0
    assert len(commits(share)) == waiting


def test_a_killed_node_ends_after_a_week_of_silence(share: Path) -> None:
    node = WorkspaceStore(share, inbox=True)
    begin(node)
    artifact_id = node.save_artifact([1], "builtins.list", "model", "joblib")
    node.flush()
    node._engine.abort()
    (session,) = sessions(share)
    with WorkspaceStore(share) as store:
        assert store.list_runs()["status"].to_list() == ["running"]
        assert store.gc_artifacts(grace_seconds=0.0) == 0
        assert sessions(share) == [session]
        long_ago = time.time() - journal.INBOX_IDLE - 60
        for path in (*session.rglob("*"), session):
            os.utime(path, (long_ago, long_ago), follow_symlinks=False)
        assert store.list_runs()["status"].to_list() == ["interrupted"]
        assert store.gc_artifacts(grace_seconds=0.0) == 1
        assert store.get_artifact(artifact_id) is None
    assert sessions(share) == []


def test_a_commit_that_waits_is_never_removed_however_old(share: Path) -> None:
    node = WorkspaceStore(share, inbox=True)
    begin(node)
    node.flush()
    node._engine.abort()
    (session,) = sessions(share)
    for path in (*session.rglob("*"), session):
        os.utime(path, (0, 0))
    Journal(Layout(share)).sweep_tmp([])
    with WorkspaceStore(share) as store:
        assert store.list_runs().height == 1


def test_a_node_that_may_not_write_is_told_at_once(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *rest: Any, **named: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(ReadOnlyStore):
        WorkspaceStore(share, inbox=True)
