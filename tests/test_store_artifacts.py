"""Artifacts: stored once by content, counted by reference, checked when loaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from storekit import begin, chain_of, let_go, segments, snapshot

from nirs_store.errors import (
    ArtifactMissing,
    BlobCorrupt,
    BlobMissing,
    InvalidInput,
    PathEscapes,
    SerializationError,
    UnknownFormat,
    UnknownId,
)
from nirs_store.ids import sha256_hex
from nirs_store.store import WorkspaceStore


def count(store: WorkspaceStore, artifact_id: str) -> int:
    found = store.get_artifact(artifact_id)
    assert found is not None
    return int(found["ref_count"])


def test_the_id_is_the_hash_of_the_file_and_anybody_can_load_the_file(store: WorkspaceStore) -> None:
    model = {"coef": np.arange(5.0)}
    artifact_id = store.save_artifact(model, "dict", "model")
    path = store.get_artifact_path(artifact_id)
    assert sha256_hex(path.read_bytes()) == artifact_id
    assert path.name == f"{artifact_id}.joblib"
    assert path.parent.name == artifact_id[:2]
    np.testing.assert_array_equal(joblib.load(path)["coef"], model["coef"])
    assert store.read_artifact(artifact_id) == path.read_bytes()
    found = store.get_artifact(artifact_id)
    assert found is not None
    assert found["artifact_path"] == path.relative_to(store.workspace_path).as_posix()
    assert (found["content_hash"], found["size_bytes"]) == (artifact_id, path.stat().st_size)
    assert (found["operator_class"], found["artifact_type"], found["format"]) == ("dict", "model", "joblib")


def test_equal_content_is_one_file_and_two_references(store: WorkspaceStore, folder: Path) -> None:
    first = store.save_artifact([1, 2], "list", "model")
    assert store.save_artifact([1, 2], "other.Class", "transformer") == first
    assert count(store, first) == 2
    assert len(list((folder / "artifacts").rglob("*.joblib"))) == 1


def test_equal_bytes_of_two_formats_are_one_file_that_the_row_names(
    store: WorkspaceStore, folder: Path
) -> None:
    """A second file under another ending would belong to nobody, and heal nothing."""
    first = store.save_artifact({"a": 1}, "dict", "model", "pickle")
    data = pickle.dumps({"a": 1}, protocol=5)
    assert store.save_artifact(data, "bytes", "document", "bytes") == first
    store.flush()
    with WorkspaceStore(folder) as other:
        assert other.save_artifact(data, "bytes", "document", "bytes") == first
        store.get_artifact_path(first).chmod(0o644)
        store.get_artifact_path(first).unlink()
        other.save_artifact(data, "bytes", "document", "bytes")
        other.flush()
    assert [path.suffix for path in (folder / "artifacts").rglob("*.*")] == [".pkl"]
    assert store.load_artifact(first) == {"a": 1}


@pytest.mark.parametrize("fate", ["vanished", "truncated", "altered"])
def test_saving_again_heals_a_file_that_is_gone_or_damaged(store: WorkspaceStore, fate: str) -> None:
    model = {"coef": list(range(100))}
    artifact_id = store.save_artifact(model, "dict", "model")
    path = store.get_artifact_path(artifact_id)
    data = path.read_bytes()
    path.chmod(0o644)
    if fate == "vanished":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if fate == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BlobMissing if fate == "vanished" else BlobCorrupt, match=artifact_id):
        store.load_artifact(artifact_id)
    with WorkspaceStore(store.workspace_path) as other:
        assert other.save_artifact(model, "dict", "model") == artifact_id
        other.flush()
    assert path.read_bytes() == data
    assert store.load_artifact(artifact_id) == model


def test_each_load_gives_an_object_of_its_own(store: WorkspaceStore) -> None:
    artifact_id = store.save_artifact({"a": [1]}, "dict", "model")
    store.load_artifact(artifact_id)["a"].append(2)
    assert store.load_artifact(artifact_id) == {"a": [1]}


def test_an_artifact_can_be_used_before_it_is_on_disk(store: WorkspaceStore, folder: Path) -> None:
    before = len(segments(folder))
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    assert store.load_artifact(artifact_id) == {"a": 1}
    chain_of(store, begin(store)[1], artifact_id)
    assert len(segments(folder)) > before


def test_every_named_artifact_must_exist_or_nothing_is_recorded(store: WorkspaceStore) -> None:
    _, pipeline_id = begin(store)
    good = store.save_artifact({"a": 1}, "dict", "model")
    for strange in ("nobody", "0" * 64, "../../etc/passwd"):
        with pytest.raises(ArtifactMissing, match="Nothing was recorded") as caught:
            store.save_chain(
                pipeline_id, [{"step_idx": 0, "operator_class": "M", "params": {}, "artifact_id": good}], 0, "M", "",
                "per_fold", {"fold_0": strange}, {},
            )  # fmt: skip
        assert isinstance(caught.value, KeyError)
    assert store.get_chains_for_pipeline(pipeline_id).is_empty()
    assert count(store, good) == 1
    path = store.get_artifact_path(good)
    path.unlink()
    with pytest.raises(ArtifactMissing, match="is gone"):
        chain_of(store, pipeline_id, good)


def test_unknown_formats_and_objects_that_cannot_be_stored_change_nothing(
    store: WorkspaceStore, folder: Path
) -> None:
    before = snapshot(folder / "artifacts")
    with pytest.raises(UnknownFormat, match="joblib"):
        store.save_artifact(1, "int", "model", "jblib")
    with pytest.raises(SerializationError, match="cloudpickle"):
        store.save_artifact(lambda x: x, "function", "model", "pickle")
    with pytest.raises(SerializationError):
        store.save_artifact(1.5, "float", "model", "bytes")
    with pytest.raises(InvalidInput, match="operator_class"):
        store.save_artifact(1, None, "model")  # type: ignore[arg-type]
    with pytest.raises(UnknownId):
        store.save_artifact(1, "int", "model", pipeline_id="nobody")
    assert snapshot(folder / "artifacts") == before


def test_unknown_ids_and_lost_files_are_told_apart(store: WorkspaceStore) -> None:
    for call in (store.load_artifact, store.read_artifact, store.get_artifact_path):
        for strange in ("nobody", "", 5, None):
            with pytest.raises(KeyError):
                call(strange)  # type: ignore[operator]
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    store.get_artifact_path(artifact_id).unlink()
    for call in (store.load_artifact, store.read_artifact, store.get_artifact_path):
        with pytest.raises(FileNotFoundError):
            call(artifact_id)


def test_a_deletion_by_another_store_is_an_unknown_id_and_not_a_lost_file(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, pipeline_id = begin(store)
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    chain_of(store, pipeline_id, artifact_id)
    store.flush()
    with WorkspaceStore(folder) as other:
        assert other.load_artifact(artifact_id) == {"a": 1}
        store.delete_run(run_id)
        for call in (other.load_artifact, other.read_artifact, other.get_artifact_path):
            with pytest.raises(UnknownId, match=artifact_id):
                call(artifact_id)


# -- files that are there already ------------------------------------------------------------------


def register(store: WorkspaceStore, path: Any, artifact_id: str = "mine", **changes: Any) -> str:
    file = store.workspace_path / str(path)
    data = file.read_bytes() if file.is_file() else b""
    given: dict[str, Any] = {
        "content_hash": sha256_hex(data), "operator_class": "C", "artifact_type": "model", "format": "bytes",
        "size_bytes": len(data),
    }  # fmt: skip
    return store.register_existing_artifact(artifact_id, path, **(given | changes))


@pytest.fixture
def file(store: WorkspaceStore) -> str:
    path = store.workspace_path / "exports" / "my model.bin"
    path.parent.mkdir()
    path.write_bytes(b"payload")
    return "exports/my model.bin"


def test_a_file_of_the_workspace_can_be_registered_under_an_id_of_the_callers(
    store: WorkspaceStore, file: str
) -> None:
    assert register(store, file) == "mine"
    assert register(store, store.workspace_path / file) == "mine"
    assert register(store, file, content_hash=f"sha256:{sha256_hex(b'payload')}") == "mine"
    assert store.load_artifact("mine") == b"payload"
    assert store.get_artifact_path("mine") == store.workspace_path / file
    chain_id = chain_of(store, begin(store)[1], "mine")
    assert (store.get_chain(chain_id) or {})["fold_artifacts"] == {"fold_0": "mine"}
    assert count(store, "mine") == 3


@pytest.mark.parametrize(
    "path",
    [
        "../outside.bin",
        "a/../../outside.bin",
        "/etc/passwd",
        "..",
        "",
        "a\x00b",
        "link/passwd",
        "C:/x",
        "a\\..\\b",
    ],
)
def test_a_path_that_leaves_the_workspace_is_refused(store: WorkspaceStore, path: str) -> None:
    (store.workspace_path.parent / "outside.bin").write_bytes(b"mine")
    (store.workspace_path / "link").symlink_to("/etc")
    with pytest.raises(PathEscapes):
        register(store, path, content_hash=sha256_hex(b"mine"), size_bytes=4)
    assert store.get_artifact("mine") is None


@pytest.mark.parametrize("path", ["store.duckdb", "journal/lock"])
def test_the_stores_own_machinery_is_no_artifact(store: WorkspaceStore, path: str) -> None:
    store.begin_run("r", {}, [])
    store.list_runs()
    let_go(store)
    with pytest.raises(InvalidInput, match="machinery"):
        register(store, path)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"content_hash": "0" * 64}, BlobCorrupt),
        ({"size_bytes": 8}, InvalidInput),
        ({"size_bytes": None}, InvalidInput),
        ({"size_bytes": "many"}, InvalidInput),
        ({"content_hash": None}, InvalidInput),
        ({"format": "nonsense"}, UnknownFormat),
        ({"artifact_id": ""}, InvalidInput),
        ({"artifact_id": None}, InvalidInput),
        ({"operator_class": 5}, InvalidInput),
    ],
)
def test_what_does_not_fit_the_file_is_refused(
    store: WorkspaceStore, file: str, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        register(store, file, **changes)
    assert store._engine.query(lambda con: con.execute("SELECT count(*) FROM blobs").fetchall()) == [(0,)]


def test_a_file_that_is_not_there_is_missing_and_an_id_names_one_content(
    store: WorkspaceStore, file: str
) -> None:
    with pytest.raises(FileNotFoundError):
        register(store, "exports/nothing.bin")
    register(store, file)
    (store.workspace_path / "other.bin").write_bytes(b"something else")
    with pytest.raises(InvalidInput, match="other content"):
        register(store, "other.bin")
