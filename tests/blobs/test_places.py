"""A workspace that keeps its blobs elsewhere: it remembers where, finds them, and says what it misses."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import bucketkit
import numpy as np
import pytest
from bucketkit import Proxy
from click.testing import CliRunner
from sklearn.cross_decomposition import PLSRegression

from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.backup.backup import restore_backup
from nirs_store.blobs import bucket as bucket_module
from nirs_store.blobs.bucket import Bucket, parse_place
from nirs_store.blobs.objects import OWNER
from nirs_store.cli._app import app
from nirs_store.errors import BlobMissing, CatalogDamaged, InvalidInput, SharedStoreUnreachable
from nirs_store.maintenance.check import check_workspace

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 8)), RNG.normal(size=24)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    bucketkit.credentials(monkeypatch, tmp_path)
    monkeypatch.setattr(bucket_module, "PATIENCE", 0.05)
    with bucketkit.proxy() as running:
        yield running


@pytest.fixture(params=["bucket", "folder"])
def place(request: pytest.FixtureRequest, proxy: Proxy, tmp_path: Path) -> str:
    return bucketkit.address(proxy.port) if request.param == "bucket" else str(tmp_path / "share")


def record(store: WorkspaceStore) -> str:
    """Record a small model, and return its chain."""
    with store.run("corn", datasets=["corn"]) as run:
        record_cross_validation(store, PLSRegression(2), X, Y, cv=2, dataset_name="corn", run_id=run.run_id)
        (pipeline,) = store.list_pipelines(run.run_id)["pipeline_id"]
    return str(store.get_chains_for_pipeline(pipeline)["chain_id"][0])


def test_a_workspace_remembers_where_its_blobs_are_and_works_there(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    with WorkspaceStore(folder, blobs=place) as store:
        chain = record(store)
        expected = store.replay_chain(chain, X)
    said = (folder / "blobs.json").read_text()
    assert not any(secret in said for secret in ("key-for-tests", "secret-for-tests"))
    assert [path for path in (folder / "artifacts").rglob("*") if path.is_file()] == []

    with WorkspaceStore(folder) as store:
        np.testing.assert_array_equal(store.replay_chain(chain, X), expected)
        again = pickle.loads(pickle.dumps(store))
        np.testing.assert_array_equal(again.replay_chain(chain, X), expected)
        again.close()
        assert store.gc_artifacts() == 0
        store.backups.create(tmp_path / "backup")
        store.archive(tmp_path / "corn.tar.zst")
    report = check_workspace(folder, read_data=True)
    assert report.ok, report

    restore_backup(tmp_path / "backup", tmp_path / "back")
    with WorkspaceStore(tmp_path / "back") as store:
        np.testing.assert_array_equal(store.replay_chain(chain, X), expected)
    assert not (tmp_path / "back" / "blobs.json").exists()


@pytest.mark.slow
def test_worker_processes_save_into_the_place_with_credentials_of_their_own(
    place: str, tmp_path: Path
) -> None:
    with WorkspaceStore(tmp_path / "ws", blobs=place) as store:
        with store.run("corn", datasets=["corn"]) as run:
            record_cross_validation(
                store, PLSRegression(2), X, Y, cv=3, dataset_name="corn", run_id=run.run_id, n_jobs=2
            )
        (chain,) = store.list_chains()["chain_id"]
        assert store.replay_chain(chain, X).shape[0] == len(X)
    assert [path for path in (tmp_path / "ws" / "artifacts").rglob("*") if path.is_file()] == []
    assert check_workspace(tmp_path / "ws", read_data=True).ok


def test_another_place_or_another_workspace_is_refused(place: str, proxy: Proxy, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    WorkspaceStore(folder, blobs=place).close()
    WorkspaceStore(folder, blobs=place).close()
    for other in (bucketkit.address(proxy.port), str(tmp_path / "elsewhere")):
        with pytest.raises(InvalidInput, match="keeps its blobs in"):
            WorkspaceStore(folder, blobs=other)
    with pytest.raises(SharedStoreUnreachable, match="another workspace"):
        WorkspaceStore(tmp_path / "second", blobs=place)
    with WorkspaceStore(tmp_path / "plain") as store:
        record(store)
    WorkspaceStore(tmp_path / "second").close()
    with pytest.raises(InvalidInput, match="own folder"):
        WorkspaceStore(tmp_path / "plain", blobs=place)
    with pytest.raises(InvalidInput, match="is a workspace itself"):
        WorkspaceStore(tmp_path / "third", blobs=tmp_path / "plain")
    with WorkspaceStore(tmp_path / "plain") as store:
        record(store)


def test_a_place_that_was_emptied_is_not_believed_because_it_is_named_again(
    proxy: Proxy, tmp_path: Path
) -> None:
    folder, share = tmp_path / "ws", tmp_path / "share"
    with WorkspaceStore(folder, blobs=share) as store:
        chain = record(store)
    share.rename(tmp_path / "away")
    share.mkdir()  # a mount point without its disk
    with pytest.raises(SharedStoreUnreachable, match="Mount the folder"):
        WorkspaceStore(folder, blobs=share)
    assert list(share.iterdir()) == []
    share.rmdir()
    (tmp_path / "away").rename(share)
    with WorkspaceStore(folder, blobs=share) as store:
        store.replay_chain(chain, X)

    place = bucketkit.address(proxy.port)
    WorkspaceStore(tmp_path / "far", blobs=place).close()
    bucket = Bucket(parse_place(place))
    bucket.delete([OWNER])
    with pytest.raises(SharedStoreUnreachable, match="Bring the bucket back"):
        WorkspaceStore(tmp_path / "far", blobs=place)


def test_blobs_move_with_the_mark_of_their_workspace(proxy: Proxy, tmp_path: Path) -> None:
    folder, old, new = tmp_path / "ws", tmp_path / "old", tmp_path / "new"
    bucket = bucketkit.address(proxy.port)
    with WorkspaceStore(folder, blobs=old) as store:
        chain = record(store)
        expected = store.replay_chain(chain, X)
    shutil.copytree(old, new)
    WorkspaceStore(folder, blobs=new).close()
    shutil.rmtree(old)
    target = Bucket(parse_place(bucket))
    for path in [new / OWNER, *(new / "artifacts").rglob("*.joblib")]:
        target.replace(path.relative_to(new).as_posix(), path)
    with WorkspaceStore(folder, blobs=bucket) as store:
        np.testing.assert_array_equal(store.replay_chain(chain, X), expected)
    shutil.rmtree(new)
    with WorkspaceStore(folder) as store:
        np.testing.assert_array_equal(store.replay_chain(chain, X), expected)


def test_a_lost_catalog_is_not_hidden_by_an_empty_one(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    with WorkspaceStore(folder, blobs=place) as store:
        record(store)
    for file in folder.glob("store.duckdb*"):
        file.unlink()
    for options in ({}, {"blobs": place}, {"create": True}):
        with pytest.raises(CatalogDamaged, match=r"no store\.duckdb"):
            WorkspaceStore(folder, **options)
    assert not (folder / "store.duckdb").exists()


def test_a_workspace_whose_making_was_broken_off_is_made_when_its_place_is_named(
    place: str, tmp_path: Path
) -> None:
    folder = tmp_path / "ws"
    WorkspaceStore(folder, blobs=place).close()
    for file in folder.glob("store.duckdb*"):
        file.unlink()
    with pytest.raises(CatalogDamaged):
        WorkspaceStore(folder)
    with WorkspaceStore(folder, blobs=place) as store:
        assert store.replay_chain(record(store), X).shape


def test_a_copy_is_refused_until_somebody_says_that_it_is_the_one(place: str, tmp_path: Path) -> None:
    folder, copy = tmp_path / "ws", tmp_path / "copy"
    with WorkspaceStore(folder, blobs=place) as store:
        chain = record(store)
    shutil.copytree(folder, copy)
    for _ in range(2):
        with pytest.raises(InvalidInput, match="is a copy"):
            WorkspaceStore(copy)
    with pytest.raises(InvalidInput, match="is a copy"):
        check_workspace(copy)
    folder.rename(tmp_path / "moved")
    with WorkspaceStore(tmp_path / "moved") as store:
        assert store.replay_chain(chain, X).shape
    with WorkspaceStore(copy, blobs=place) as store:
        assert store.replay_chain(chain, X).shape
    WorkspaceStore(copy).close()


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        "[]",
        '{"blobs": 1}',
        '{"blobs": "s3://x/y"}',
        '{"blobs": "s3://x/y", "id": "../../../x", "file": 1}',
    ],
)
def test_a_place_that_cannot_be_read_is_said(said: str, tmp_path: Path, empty: Path) -> None:
    shutil.copytree(empty, tmp_path / "ws")
    (tmp_path / "ws" / "blobs.json").write_text(said)
    with pytest.raises(CatalogDamaged, match=r"blobs\.json"):
        WorkspaceStore(tmp_path / "ws")


def test_without_the_library_it_says_what_to_install(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ws"
    with WorkspaceStore(folder, blobs=bucketkit.address(proxy.port)) as store:
        chain = record(store)
    for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with WorkspaceStore(folder) as store:
        assert store.list_runs().height == 1
        with pytest.raises(InvalidInput, match=r"nirs-store\[shared\]"):
            store.replay_chain(chain, X)


def test_while_the_bucket_is_away_rows_wait_and_questions_are_answered(proxy: Proxy, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    with WorkspaceStore(folder, blobs=bucketkit.address(proxy.port)) as store:
        record(store)
        proxy.rule = lambda seen, send: (503, [], b"")
        assert store.list_runs().height == 1
        with (
            pytest.raises(SharedStoreUnreachable, match="s3://lab/"),
            store.run("later", datasets=["corn"]) as run,
        ):
            record_cross_validation(
                store, PLSRegression(3), X, Y, cv=2, dataset_name="corn", run_id=run.run_id
            )
        with pytest.raises(SharedStoreUnreachable, match="s3://lab/"):
            store.gc_artifacts(now=True)
        with pytest.raises(SharedStoreUnreachable, match="s3://lab/"):
            store.backups.create(tmp_path / "backup")
        proxy.rule = None
        store.flush()
        assert store.list_runs(name="later").height == 1
        chain = record(store)
        assert store.replay_chain(chain, X).shape
    proxy.rule = lambda seen, send: (503, [], b"")
    with WorkspaceStore(folder) as store:
        assert store.list_runs().height == 3
    with pytest.raises(SharedStoreUnreachable):
        check_workspace(folder)


def test_a_lost_object_is_found_and_healed(proxy: Proxy, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    with WorkspaceStore(folder, blobs=bucketkit.address(proxy.port)) as store:
        chain = record(store)
        blobs = store._engine.layout.blobs
        key = next(iter(blobs.list("artifacts/")))
        data = blobs.path(key).read_bytes()
        blobs._bucket.delete([key])
        found = {finding.kind for finding in check_workspace(folder).findings}
        assert "blob_missing" in found
        blobs.put({key: data})
        assert store.replay_chain(chain, X).shape
        blobs._bucket.delete([key])
    digest = key.rpartition("/")[2].partition(".")[0]
    with WorkspaceStore(folder) as store, pytest.raises(BlobMissing, match="s3://lab/"):
        store.read_artifact(digest)


def test_the_command_line_makes_such_a_workspace(place: str, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["init", str(tmp_path / "ws"), "--blobs", place])
    assert made.exit_code == 0, made.output
    assert json.loads((tmp_path / "ws" / "blobs.json").read_text())["blobs"].startswith(("s3://", "file://"))
    made = CliRunner().invoke(app, ["init", str(tmp_path / "b"), "--blobs", "s3://AKIA:hidden-word@lab/x"])
    assert made.exit_code == 2
    assert "hidden-word" not in made.output
    assert not (tmp_path / "b" / "store.duckdb").exists()
