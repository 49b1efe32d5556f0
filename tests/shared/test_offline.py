"""Answers without the server: from this computer's replica, saying how old they are."""

from __future__ import annotations

import os
import re
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sharedkit import PostgreSQL
from storekit import Y_TRUE, begin, chain_of

from nirs_store.cli._app import app
from nirs_store.errors import NotAWorkspace, ReadOnlyStore, SharedStoreUnreachable
from nirs_store.store import WorkspaceStore

X = np.arange(12.0).reshape(4, 3) ** 1.5


def model_chain(store: WorkspaceStore, name: str, factor: float) -> tuple[str, Any]:
    """Record a chain with a model; returns its id and what it predicts."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(X, Y_TRUE * factor)
    _, pipeline_id = begin(store, name)
    artifact_id = store.save_artifact(model, "sklearn.linear_model.LinearRegression", "model", "joblib")
    return chain_of(store, pipeline_id, artifact_id), model.predict(X)


def offline_store(place: str, said: str = "without its server") -> WorkspaceStore:
    with pytest.warns(UserWarning, match=said):
        return WorkspaceStore(place, fresh=False)


@pytest.fixture
def away(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a workspace at a port where nobody listens, whose database was at another."""
    monkeypatch.setenv("NIRS_STORE_REPLICAS", str(tmp_path / "replicas"))
    return re.sub(r":\d+/", ":1/", f"{database}?workspace=corn")


def moved(tmp_path: Path, port: str) -> None:
    """Make the replicas of this computer those of a server at another port."""
    for said in (tmp_path / "replicas").glob("*/replica.json"):
        when = said.stat().st_mtime
        said.write_text(re.sub(r":\d+/", f":{port}/", said.read_text()))
        os.utime(said, (when, when))


def test_a_replica_answers_while_server_and_object_store_are_away(
    database: str, away: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAWorkspace, match="no replica of it"):
        WorkspaceStore(away, fresh=False)
    with WorkspaceStore(f"{database}?workspace=corn", blobs=bucket) as store:
        known, expected = model_chain(store, "known", 1.0)
        np.testing.assert_array_equal(store.replay_chain(known, X), expected)
    # Its last commit, that it was closed, may have come after its last look at the server.
    with WorkspaceStore(f"{database}?workspace=corn") as store:
        store.list_runs()
    with WorkspaceStore(f"{database}?workspace=corn&replica={tmp_path / 'other'}") as other:
        other.begin_run("later", {}, [])
    moved(tmp_path, "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    before = datetime.now().astimezone()
    with pytest.warns(
        UserWarning, match=r"commits up to number \d+ and was up to date less than a minute ago"
    ):
        offline = WorkspaceStore(away, fresh=False)
    with offline as store, warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        runs = store.list_runs()
        assert runs["name"].to_list() == ["known"]
        # The store said that it was closed.
        assert runs["status"].to_list() == ["interrupted"]
        np.testing.assert_array_equal(store.replay_chain(known, X), expected)
        at = store.location
        assert at.address is not None
        assert ":1/" in at.address
        assert at.blobs.startswith(bucket)
        assert at.commit is not None
        assert at.as_of is not None
        assert abs((before - at.as_of).total_seconds()) < 3600
        with pytest.raises(ReadOnlyStore, match="without its server"):
            store.begin_run("new", {}, [])
        with pytest.raises(ReadOnlyStore, match="without its server"):
            store.delete_run(runs["run_id"][0])
    (cache,) = (tmp_path / "replicas").glob("*/cache")
    for copy in cache.iterdir():
        copy.chmod(0o600)
        copy.write_bytes(b"altered")
    store = offline_store(away)
    with store, pytest.raises(SharedStoreUnreachable, match="no copy on this computer"):
        store.replay_chain(known, X)
    with pytest.warns(UserWarning, match="without its server"):
        done = CliRunner().invoke(app, ["runs", "-w", away, "--offline"])
    assert (done.exit_code, "known" in done.output) == (0, True), done.output
    with pytest.warns(UserWarning, match="without its server"):
        done = CliRunner().invoke(app, ["stats", "-w", away, "--offline"])
    assert (done.exit_code, "464 B" in done.output) == (0, True), done.output
    with pytest.warns(UserWarning, match="without its server"):
        done = CliRunner().invoke(app, ["delete", str(runs["run_id"][0]), "-w", away, "--offline", "--yes"])
    assert done.exit_code == 6, done.output


def test_a_replica_is_offline_as_of_when_it_last_had_every_commit(
    database: str, away: str, tmp_path: Path
) -> None:
    place = f"{database}?workspace=corn"
    with WorkspaceStore(place, blobs=(tmp_path / "blobs").as_uri()) as store:
        store.begin_run("one", {}, [])
        store.list_runs()
    (said,) = (tmp_path / "replicas").glob("*/replica.json")
    os.utime(said, (1_700_000_000, 1_700_000_000))
    with offline_store(place, r"was up to date \d+ days ago \(2023-11-1") as store:
        first = store.location
    assert first.as_of is not None
    assert first.as_of.year == 2023
    # Recording alone does not make a replica newer, and a question does.
    with WorkspaceStore(place) as store:
        store.list_runs()
    offline_store(place, "less than a minute").close()


def test_the_page_says_how_old_it_is_and_where_the_workspace_is(
    database: str, away: str, tmp_path: Path, recwarn: Any
) -> None:
    starlette = pytest.importorskip(
        "starlette.testclient", reason="the extra nirs-store[ui] is not installed"
    )
    from nirs_store.shared.address import parse
    from nirs_store.ui.app import Desk, make_app
    from nirs_store.ui.guard import Guard

    with WorkspaceStore(f"{database}?workspace=corn", blobs=(tmp_path / "blobs").as_uri()) as store:
        store.begin_run("corn run", {}, [])
        store.list_runs()
    moved(tmp_path, "1")
    desk = Desk(parse(away), fresh=False)
    client = starlette.TestClient(make_app(desk, Guard("127.0.0.1", "")), base_url="http://127.0.0.1")
    for path in ("/runs", "/health", "/sql"):
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        assert "without the server" in answer.text
    assert str(tmp_path / "blobs") in client.get("/health").text
    desk.close()


def test_a_folder_is_its_own_source(folder: Path) -> None:
    with warnings.catch_warnings(), WorkspaceStore(folder, fresh=False) as store:
        warnings.simplefilter("error")
        store.begin_run("new", {}, [])
        assert store.list_runs().height == 1
        assert (store.location.address, store.location.commit) == (None, None)


def test_a_server_that_is_down_is_not_asked(machine: Any, server: PostgreSQL, tmp_path: Path) -> None:
    one = machine("one")
    one.begin_run("here", {}, [])
    one.list_runs()
    one.close()
    server.stop()
    try:
        with pytest.warns(UserWarning, match="without its server"):
            assert machine("one", fresh=False).list_runs().height == 1
    finally:
        server.start()
