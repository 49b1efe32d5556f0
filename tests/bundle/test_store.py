"""The same through a real workspace."""

from __future__ import annotations

import runpy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import WorkspaceStore, load_bundle
from nirs_store.bundle import ChainSource
from nirs_store.errors import BlobCorrupt, BlobMissing, UnknownId


@pytest.fixture
def recorded(world: Any, tmp_path: Path) -> Any:
    """A workspace with the chain of three folds."""
    with WorkspaceStore(tmp_path / "workspace") as store:
        run_id = store.begin_run("run", {}, [])
        pipeline_id = store.begin_pipeline(run_id, "0001", {}, [], "meat", "")
        chain = world.shelf.chains[world.chains["folds"]]
        renamed = {
            old: store.save_artifact(world.shelf.load(old), "", "model", "joblib")
            for old in [*(step["artifact_id"] for step in world.before), *chain["fold_artifacts"].values()]
        }
        steps = [
            {**step, "artifact_id": renamed[step["artifact_id"]]} if "artifact_id" in step else step
            for step in chain["steps"]
        ]
        chain_id = store.save_chain(
            pipeline_id,
            steps,
            chain["model_step_idx"],
            chain["model_class"],
            chain["preprocessings"],
            chain["fold_strategy"],
            {f"fold_{fold}": renamed[old] for fold, old in chain["fold_artifacts"].items()},
            {},
            wavelengths=world.wavelengths,
            metadata=chain["metadata"],
        )
        yield store, chain_id


def test_a_workspace_is_a_source_and_its_bundle_predicts_the_same(
    recorded: Any, world: Any, tmp_path: Path
) -> None:
    store, chain_id = recorded
    assert isinstance(store, ChainSource)
    expected = store.replay_chain(chain_id, world.new)
    path = store.export_chain(
        chain_id, tmp_path / "out" / "meat", probe=world.new[:3], scores={"rmsecv": 2.1}
    )
    assert path == tmp_path / "out" / "meat.n4a"
    bundle = load_bundle(path, allow_pickle=True)
    np.testing.assert_array_equal(bundle.predict(world.new), expected)
    assert bundle.scores == {"rmsecv": 2.1}
    script = store.export_chain(chain_id, tmp_path / "meat", format="n4a.py")
    np.testing.assert_array_equal(runpy.run_path(str(script))["predict"](world.new), expected)


def test_what_a_workspace_has_lost_is_not_exported(recorded: Any, tmp_path: Path) -> None:
    store, chain_id = recorded
    with pytest.raises(UnknownId, match="nothing"):
        store.export_chain("nothing", tmp_path / "x")
    blob = store.get_artifact_path(store.get_chain(chain_id)["fold_artifacts"]["fold_1"])
    data = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(data[:-8] + b"\0" * 8)
    with pytest.raises(BlobCorrupt):
        store.export_chain(chain_id, tmp_path / "x")
    blob.unlink()
    with pytest.raises((BlobMissing, BlobCorrupt)):
        store.export_chain(chain_id, tmp_path / "x")
    assert [item.name for item in tmp_path.iterdir() if item.name != "workspace"] == []


def test_a_second_export_gives_the_same_bytes_and_notices_what_was_damaged_since_the_first(
    recorded: Any, tmp_path: Path
) -> None:
    store, chain_id = recorded
    first = store.export_chain(chain_id, tmp_path / "first").read_bytes()
    assert store.export_chain(chain_id, tmp_path / "second").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "second.n4a") as archive:
        assert archive.testzip() is None
    blob = store.get_artifact_path(store.get_chain(chain_id)["fold_artifacts"]["fold_1"])
    data = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(data[:-8] + b"\0" * 8)
    with pytest.raises(BlobCorrupt):
        store.export_chain(chain_id, tmp_path / "second")
    assert (tmp_path / "second.n4a").read_bytes() == first
