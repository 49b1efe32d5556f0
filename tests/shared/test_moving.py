"""A folder becomes a shared workspace, and a shared one a folder, with every row and every blob."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storekit import Y_TRUE, begin, chain_of, commit_rows, whole_pipeline

from nirs_store.db.schema import column_names
from nirs_store.db.table import digests
from nirs_store.errors import NirsStoreError, NotAWorkspace, OverwriteRefused, StoreBusy
from nirs_store.shared import moving
from nirs_store.shared.address import Address, parse
from nirs_store.store import WorkspaceStore

X = np.arange(12.0).reshape(4, 3) ** 1.5


@pytest.fixture
def address(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Address:
    monkeypatch.setenv("NIRS_STORE_REPLICAS", str(tmp_path / "replicas"))
    return parse(f"{database}?workspace=corn", blobs=(tmp_path / "lab").as_uri())


def fill(store: WorkspaceStore) -> tuple[str, Any]:
    """Record something of every kind; returns a chain, and what it predicts."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(X, Y_TRUE)
    run_id, pipeline_id = begin(store)
    artifact_id = store.save_artifact(model, "sklearn.linear_model.LinearRegression", "model", "joblib")
    chain_id = chain_of(store, pipeline_id, artifact_id)
    gone, _ = begin(store, "gone")
    whole_pipeline(store, gone)
    store.delete_run(gone)
    whole_pipeline(store, run_id)
    store.files.put(b"text", "notes", type="text_raw")
    store.audit.guard.forbid(keys=["patient"])
    return chain_id, model.predict(X)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_folder_is_shared_and_cloned_with_the_same_rows_and_blobs(
    folder: Path,
    address: Address,
    database: str,
    tmp_path: Path,
    interrupted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WorkspaceStore(folder) as store:
        chain_id, expected = fill(store)
        rows = store._engine.query(digests)
    monkeypatch.setattr(moving, "_ROWS", 2)
    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr(moving, "_compare", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                moving.share(folder, address)
        with pytest.raises(NotAWorkspace):
            WorkspaceStore(f"{database}?workspace=corn", create=False)
        WorkspaceStore(folder).close()
    planned = moving.share(folder, address, dry_run=True)
    assert planned.dry_run
    assert moving.share(folder, address) == replace(planned, dry_run=False)
    with pytest.raises(NotAWorkspace, match="was shared"):
        WorkspaceStore(folder)
    with WorkspaceStore(f"{database}?workspace=corn") as shared:
        found = shared._engine.query(digests)
        assert {name for name in rows if rows[name] != found[name]} <= {"sessions"}
        np.testing.assert_array_equal(shared.replay_chain(chain_id, X), expected)
        shared.begin_run("later", {}, [])
        shared.flush()
    clone = tmp_path / "clone"
    if interrupted:
        clone.mkdir(mode=0o750)
    planned = moving.clone(address, clone, dry_run=True)
    assert moving.clone(address, clone) == replace(planned, dry_run=False)
    # A replica is for one user only; a workspace is for those who could enter the folder.
    assert clone.stat().st_mode == (clone if interrupted else folder).stat().st_mode
    if interrupted and os.name != "nt":
        assert clone.stat().st_mode & 0o777 == 0o750
    with WorkspaceStore(clone) as own:
        np.testing.assert_array_equal(own.replay_chain(chain_id, X), expected)
        assert own.check(read_data=True).errors == ()
        assert "later" in own.list_runs()["name"].to_list()
        own.begin_run("offline", {}, [])
        own.delete_run(own.get_run("later")["run_id"], now=True)  # type: ignore[index]


@pytest.mark.parametrize("lost", [0, -1])
def test_a_folder_of_which_something_was_lost_on_the_way_is_not_shared(
    folder: Path, address: Address, database: str, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    with WorkspaceStore(folder) as store:
        fill(store)
    images = moving._images

    def fewer(con: Any) -> Any:
        found = list(images(con))
        del found[lost]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(moving, "_images", fewer)
        with pytest.raises(NirsStoreError, match="not what was sent"):
            moving.share(folder, address)
    with pytest.raises(NotAWorkspace):
        WorkspaceStore(f"{database}?workspace=corn", create=False)
    with WorkspaceStore(folder) as store:
        store.begin_run("later", {}, [])
    moving.share(folder, address)
    with WorkspaceStore(f"{database}?workspace=corn") as shared:
        assert shared.list_runs().height == 2


def test_a_folder_into_which_another_process_records_meanwhile_is_not_shared(
    folder: Path, address: Address, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkspaceStore(folder) as store:
        fill(store)
    compare = moving._compare
    row = {"run_id": "r", "name": "meanwhile", "status": "running", "created_at": datetime(2026, 1, 1)}

    def then_record(*args: Any) -> None:
        compare(*args)
        commit_rows(folder, {"runs": [tuple(row.get(name) for name in column_names("runs"))]})

    with monkeypatch.context() as patch:
        patch.setattr(moving, "_compare", then_record)
        with pytest.raises(StoreBusy, match="recorded into"):
            moving.share(folder, address)
    moving.share(folder, address)
    with WorkspaceStore(f"{database}?workspace=corn") as shared:
        assert "meanwhile" in shared.list_runs()["name"].to_list()


def test_what_is_in_use_or_taken_is_not_shared(folder: Path, address: Address, tmp_path: Path) -> None:
    with WorkspaceStore(folder) as store:
        fill(store)
        with pytest.raises(StoreBusy, match="are recording"):
            moving.share(folder, address)
    moving.share(folder, address)
    other = tmp_path / "other"
    WorkspaceStore(other).close()
    copy, barley = tmp_path / "copy", replace(address, workspace="barley", blobs=str(tmp_path / "barley"))
    moving.clone(address, copy)
    for dry_run in (True, False):
        with pytest.raises(OverwriteRefused, match="name is taken"):
            moving.share(other, address, dry_run=dry_run)
        with pytest.raises(OverwriteRefused, match=r"already, as 'corn'.*push"):
            moving.share(copy, barley, dry_run=dry_run)
        with pytest.raises(NirsStoreError, match="another workspace"):
            moving.share(other, replace(barley, blobs=address.blobs), dry_run=dry_run)
        with pytest.raises(OverwriteRefused, match="is not empty"):
            moving.clone(address, copy, dry_run=dry_run)


# -- Killed in the middle, and done again.

CHILD = """
import os, sys
from pathlib import Path
from nirs_store.shared import moving
from nirs_store.shared.address import parse
from nirs_store.shared.log import SharedLog
from nirs_store.store import WorkspaceStore
what, folder, address, blobs = sys.argv[1:5]
def die(*_, **__):
    os._exit(9)
def at(owner, name, call=1, after=False):
    real, calls = getattr(owner, name), []
    def counted(*given, **more):
        calls.append(name)
        if len(calls) == call and not after:
            die()
        found = real(*given, **more)
        if len(calls) == call:
            die()
        return found
    setattr(owner, name, counted)
moving._ROWS = 2
KILL
if what == "share":
    moving.share(Path(folder), parse(address, blobs=blobs))
elif what == "clone":
    moving.clone(parse(address), Path(folder))
else:
    from click.testing import CliRunner
    from nirs_store.cli._app import app
    done = CliRunner().invoke(app, ["push", folder, address], standalone_mode=False)
    assert done.exit_code == 0, done.output
"""
KILLS = [
    ("share", "at(moving, 'put_from', 2)"),
    ("share", "at(SharedLog, 'commit_images', 3)"),
    ("share", "at(moving, '_compare', after=True)"),
    ("share", "at(moving, '_finish')"),
    ("clone", "at(moving, '_bring', 2)"),
    ("clone", "at(moving, 'remove_file')"),
    ("clone", "at(moving, 'remove_file', after=True)"),
    ("push", "at(SharedLog, 'changing')"),
    ("push", "at(SharedLog, 'append', 1)"),
    ("push", "from nirs_store.shared.log import _SharedChange\nat(_SharedChange, 'commit', after=True)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "kill"), KILLS)
def test_what_is_killed_in_the_middle_is_done_by_the_next_try(
    folder: Path, address: Address, database: str, tmp_path: Path, what: str, kill: str
) -> None:
    import subprocess
    import sys

    place, blobs = f"{database}?workspace=corn", (tmp_path / "lab").as_uri()
    with WorkspaceStore(folder) as store:
        chain_id, expected = fill(store)
        names = sorted(store.list_runs()["name"])
    if what == "clone":
        moving.share(folder, address)
    if what == "push":
        WorkspaceStore(place, blobs=blobs).close()
    source = tmp_path / "clone" if what == "clone" else folder

    def run(code: str, expected: int) -> None:
        words = [sys.executable, "-c", CHILD.replace("KILL", code), what, str(source), place, blobs]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr

    run(kill, 9)
    if not (what == "clone" and "after" in kill):
        run("", 0)
    if what == "push":
        run("", 0)
    with WorkspaceStore(str(source) if what == "clone" else place) as store:
        assert sorted(store.list_runs()["name"]) == names
        np.testing.assert_array_equal(store.replay_chain(chain_id, X), expected)
        assert store.check(read_data=True).errors == ()
