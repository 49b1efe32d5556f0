"""Blobs and large commits of a shared workspace in an S3 server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storekit import Y_TRUE, begin, chain_of

from nirs_store.db.layout import Layout
from nirs_store.errors import InvalidInput, SharedStoreUnreachable
from nirs_store.shared.objects import backend_of
from nirs_store.store import WorkspaceStore

obstore = pytest.importorskip("obstore", reason="the extra nirs-store[shared] is not installed")
X = np.arange(12.0).reshape(4, 3) ** 1.5


def fitted(store: WorkspaceStore) -> tuple[str, str, Any]:
    """Run and chain of a fitted model, committed; and what it predicts."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(X, Y_TRUE)
    run_id, pipeline_id = begin(store)
    artifact_id = store.save_artifact(model, "sklearn.linear_model.LinearRegression", "model", "joblib")
    chain_id = chain_of(store, pipeline_id, artifact_id)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    return run_id, chain_id, model.predict(X)


def test_computers_share_blobs_and_large_commits_through_a_bucket(machine: Any, bucket: str) -> None:
    one, other = machine("one", blobs=bucket), machine("other", blobs=bucket)
    _, chain_id, expected = fitted(one)
    _, pipeline_id = begin(one, "large")
    large = np.random.default_rng(0).normal(size=60_000)
    prediction_id = one.save_prediction(
        pipeline_id, None, "corn", "m", "c", "f", "val", 1.0, None, None, "rmse", "regression", 4, 4, {}, {}, None,
        None, 0, 0.0,
    )  # fmt: skip
    one.save_prediction_arrays(prediction_id, large, large)
    one.flush()
    np.testing.assert_array_equal(other.replay_chain(chain_id, X), expected)
    found = other.get_prediction(prediction_id, load_arrays=True)
    assert found is not None
    np.testing.assert_array_equal(found["y_pred"], large)


def test_a_large_commit_that_was_altered_in_the_bucket_is_not_applied(
    machine: Any, bucket: str, tmp_path: Path
) -> None:
    one, other = machine("one", blobs=bucket), machine("other", blobs=bucket)
    one.begin_run("large", {"text": "x" * 400_000}, [])
    backend: Any = backend_of(bucket, Layout(tmp_path / "look"))
    (key,) = backend.list("commits/")
    body = bytearray(obstore.get(backend._bucket._store(), key).bytes())
    body[len(body) // 2] ^= 1
    obstore.put(backend._bucket._store(), key, bytes(body))
    with pytest.raises(SharedStoreUnreachable, match="SHA-256"):
        other.list_runs()
    body[len(body) // 2] ^= 1
    obstore.put(backend._bucket._store(), key, bytes(body))
    assert other.list_runs()["name"].to_list() == ["large"]


def test_another_folder_for_the_blobs_of_a_workspace_is_refused(machine: Any, tmp_path: Path) -> None:
    one = machine("one")
    begin(one)
    one.flush()
    with pytest.raises(InvalidInput, match="keeps its blobs in"):
        machine("two", blobs=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    # The same folder under another name, as where it is mounted.
    (tmp_path / "mounted").symlink_to(one._engine.layout.blobs._root, target_is_directory=True)
    assert machine("two", blobs=tmp_path / "mounted").list_runs().height == 1


@pytest.mark.parametrize("filled", [False, True])
def test_another_prefix_for_the_blobs_of_a_workspace_is_refused(
    machine: Any, bucket: str, filled: bool
) -> None:
    one = machine("one", blobs=bucket)
    if filled:
        fitted(one)
    with pytest.raises(InvalidInput, match="is not that place under another address"):
        machine("two", blobs=f"{bucket}-2")
    machine("three", "workspace=barley", blobs=f"{bucket}-2")
    with pytest.raises(InvalidInput, match="is not that place under another address"):
        machine("two", blobs=f"{bucket}-2")
    # The same prefix, reached under another name of its server.
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    assert machine("two", blobs=f"{bucket}?endpoint={endpoint}").list_runs().height == int(filled)


def test_a_folder_for_blobs_is_of_one_workspace(machine: Any, tmp_path: Path) -> None:
    share = tmp_path / "Geräte"
    machine("one", blobs=share)
    with pytest.raises(SharedStoreUnreachable, match="another workspace"):
        machine("barley", "workspace=barley", blobs=share)
    with pytest.raises(SharedStoreUnreachable, match="another workspace"):
        WorkspaceStore(tmp_path / "local", blobs=share)
    WorkspaceStore(tmp_path / "plain").close()
    with pytest.raises(InvalidInput, match="is a workspace itself"):
        machine("oats", "workspace=oats", blobs=tmp_path / "plain")


def test_a_folder_for_blobs_that_is_not_mounted_is_not_made_again(machine: Any, tmp_path: Path) -> None:
    share = tmp_path / "share"
    _, chain_id, expected = fitted(machine("one", blobs=share))
    share.rename(tmp_path / "away")
    share.mkdir()
    with pytest.raises(SharedStoreUnreachable, match="Mount the folder"):
        machine("two", blobs=share)
    assert list(share.iterdir()) == []
    share.rmdir()
    (tmp_path / "away").rename(share)
    np.testing.assert_array_equal(machine("two", blobs=None).replay_chain(chain_id, X), expected)
