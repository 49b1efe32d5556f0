"""Artifacts: stored once by content, counted by reference, checked when loaded."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from storekit import begin, blob_keys, blob_root, chain_of, let_go, segments

from nirs_store import load_bundle
from nirs_store.errors import (
    ArtifactMissing,
    BlobCorrupt,
    BlobMissing,
    InvalidInput,
    PathEscapes,
    SerializationError,
    UnknownFormat,
    UnknownId,
    WriteFailed,
)
from nirs_store.store import WorkspaceStore


def count(store: WorkspaceStore, artifact_id: str) -> int:
    found = store.get_artifact(artifact_id)
    assert found is not None
    return int(found["ref_count"])


@pytest.fixture
def other(store: WorkspaceStore, folder: Path) -> Iterator[WorkspaceStore]:
    """A second store of the workspace, as another process would have one."""
    with WorkspaceStore(folder) as opened:
        yield opened


def test_the_id_is_the_hash_of_the_file_and_anybody_can_load_the_file(store: WorkspaceStore) -> None:
    model = {"coef": np.arange(5.0)}
    artifact_id = store.save_artifact(model, "dict", "model")
    path = store.get_artifact_path(artifact_id)
    assert sha256(path.read_bytes()).hexdigest() == artifact_id
    assert path.name == f"{artifact_id}.joblib"
    assert path.parent.name == artifact_id[:2]
    np.testing.assert_array_equal(joblib.load(path)["coef"], model["coef"])
    assert store.read_artifact(artifact_id) == path.read_bytes()
    found = store.get_artifact(artifact_id)
    assert found is not None
    assert found["artifact_path"] == path.relative_to(blob_root(store)).as_posix()
    assert (found["content_hash"], found["size_bytes"]) == (artifact_id, path.stat().st_size)
    assert (found["operator_class"], found["artifact_type"], found["format"]) == ("dict", "model", "joblib")


def test_equal_content_is_one_file_and_two_references(store: WorkspaceStore) -> None:
    first = store.save_artifact([1, 2], "list", "model")
    assert store.save_artifact([1, 2], "other.Class", "transformer") == first
    assert count(store, first) == 2
    assert len(list((blob_root(store) / "artifacts").rglob("*.joblib"))) == 1


def test_equal_bytes_of_two_formats_are_one_file_that_the_row_names(
    store: WorkspaceStore, folder: Path
) -> None:
    """A second file under another ending would belong to nobody, and heal nothing."""
    first = store.save_artifact({"a": 1}, "dict", "model", "pickle")
    assert store.save_artifact({"a": 1}, "dict", "document", "cloudpickle") == first
    store.flush()
    with WorkspaceStore(folder) as other:
        assert other.save_artifact({"a": 1}, "dict", "document", "joblib") == first
        store.get_artifact_path(first).chmod(0o644)
        store.get_artifact_path(first).unlink()
        other.save_artifact({"a": 1}, "dict", "document", "cloudpickle")
        other.flush()
    assert [path.suffix for path in (blob_root(store) / "artifacts").rglob("*.*")] == [".pkl"]
    assert store.load_artifact(first) == {"a": 1}


@pytest.mark.parametrize("formats", [("bytes", "pickle"), ("pickle", "bytes"), ("bytes", "joblib")])
@pytest.mark.parametrize("where", ["the same store", "another store", "the same transaction"])
def test_the_bytes_of_an_object_are_not_taken_for_bare_bytes_nor_the_other_way_round(
    store: WorkspaceStore, other: WorkspaceStore, formats: tuple[str, str], where: str
) -> None:
    model = {"a": 1}
    content = {name: pickle.dumps(model, 5) if name == "bytes" else model for name in formats}
    with store.transaction() if where == "the same transaction" else nullcontext():
        first = store.save_artifact(content[formats[0]], "C", "model", formats[0])
        if where == "another store":
            store.flush()
        second = other if where == "another store" else store
        with pytest.raises(InvalidInput, match=f"as {formats[0]!r} already"):
            second.save_artifact(content[formats[1]], "C", "model", formats[1])
    assert store.load_artifact(first) == content[formats[0]]
    assert second.save_artifact(content[formats[0]], "C", "model", formats[0]) == first


@pytest.mark.takes_over
def test_bytes_that_another_process_deleted_can_be_saved_as_an_object(
    store: WorkspaceStore, other: WorkspaceStore
) -> None:
    run_id, pipeline_id = begin(other)
    first = other.save_artifact(pickle.dumps({"a": 1}, 5), "bytes", "document", "bytes")
    chain_of(other, pipeline_id, first)
    other.flush()
    assert store.load_artifact(first) == pickle.dumps({"a": 1}, 5)
    other.delete_run(run_id, now=True)
    assert store.save_artifact({"a": 1}, "dict", "model", "pickle") == first
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


@pytest.mark.of_a_folder("it counts the commits in the journal")
def test_an_artifact_can_be_used_before_it_is_on_disk(store: WorkspaceStore, folder: Path) -> None:
    before = len(segments(folder))
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    assert store.load_artifact(artifact_id) == {"a": 1}
    chain_of(store, begin(store)[1], artifact_id)
    assert len(segments(folder)) > before


@pytest.mark.everywhere
@pytest.mark.not_on("replicas", why="the disk of one store object is full, and each call is another one's")
def test_nothing_is_committed_before_the_bytes_that_it_names(
    store: WorkspaceStore, other: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, pipeline_id = begin(store)
    store.flush()

    def refuse(objects: Any) -> None:
        raise WriteFailed("no room")

    with monkeypatch.context() as patch:
        patch.setattr(store._engine.layout.blobs, "put", refuse)
        artifact_id = store.save_artifact([1.0], "builtins.list", "model", "joblib")
        chain_of(store, pipeline_id, artifact_id)
        with pytest.raises(WriteFailed, match="no room"):
            store.flush()
        assert other.list_runs()["run_id"].to_list() == [run_id]
        assert other.get_artifact(artifact_id) is None
    store.flush()
    assert other.load_artifact(artifact_id) == [1.0]


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


def test_unknown_formats_and_objects_that_cannot_be_stored_change_nothing(store: WorkspaceStore) -> None:
    before = blob_keys(store)
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
    assert blob_keys(store) == before


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


@pytest.mark.takes_over
def test_a_deletion_by_another_store_is_an_unknown_id_and_not_a_lost_file(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, pipeline_id = begin(store)
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    chain_of(store, pipeline_id, artifact_id)
    store.flush()
    with WorkspaceStore(folder) as other:
        assert other.load_artifact(artifact_id) == {"a": 1}
        store.delete_run(run_id, now=True)
        for call in (other.load_artifact, other.read_artifact, other.get_artifact_path):
            with pytest.raises(UnknownId, match=artifact_id):
                call(artifact_id)


# -- files that are there already ------------------------------------------------------------------


def register(store: WorkspaceStore, path: Any, artifact_id: str = "mine", **changes: Any) -> str:
    file = blob_root(store) / str(path)
    data = file.read_bytes() if file.is_file() else b""
    given: dict[str, Any] = {
        "content_hash": sha256(data).hexdigest(), "operator_class": "C", "artifact_type": "model", "format": "bytes",
        "size_bytes": len(data),
    }  # fmt: skip
    return store.register_existing_artifact(artifact_id, path, **(given | changes))


@pytest.fixture
def file(store: WorkspaceStore) -> str:
    path = blob_root(store) / "exports" / "my model.bin"
    path.parent.mkdir()
    path.write_bytes(b"payload")
    return "exports/my model.bin"


def test_a_file_of_the_workspace_can_be_registered_under_an_id_of_the_callers(
    store: WorkspaceStore, file: str
) -> None:
    assert register(store, file) == "mine"
    assert register(store, blob_root(store) / file) == "mine"
    assert register(store, file, content_hash=f"sha256:{sha256(b'payload').hexdigest()}") == "mine"
    assert store.load_artifact("mine") == b"payload"
    assert store.get_artifact_path("mine") == blob_root(store) / file
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
    (blob_root(store).parent / "outside.bin").write_bytes(b"mine")
    (blob_root(store) / "link").symlink_to("/etc")
    with pytest.raises(PathEscapes):
        register(store, path, content_hash=sha256(b"mine").hexdigest(), size_bytes=4)
    assert store.get_artifact("mine") is None


@pytest.mark.of_a_folder("the catalog lies elsewhere than the blobs")
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
    assert store.sql("SELECT count(*) FROM blobs").item() == 0


def test_a_file_that_is_not_there_is_missing_and_an_id_names_one_content(
    store: WorkspaceStore, file: str
) -> None:
    with pytest.raises(FileNotFoundError):
        register(store, "exports/nothing.bin")
    register(store, file)
    (blob_root(store) / "other.bin").write_bytes(b"something else")
    with pytest.raises(InvalidInput, match="other content"):
        register(store, "other.bin")


# -- an id of the caller's own that is deleted and given anew --------------------------------------

LINE = [{"step_idx": 0, "operator_class": "LinearRegression", "params": {}}]
SPECTRA = np.array([[0.0], [1.0], [2.0]])


def register_line(store: WorkspaceStore, slope: float) -> str:
    """Register a model under an id of our own; gives its file."""
    path = blob_root(store) / f"slope {slope}.joblib"
    joblib.dump(LinearRegression().fit(SPECTRA, slope * SPECTRA[:, 0]), path)
    register(store, path.name, "my model", format="joblib")
    return path.name


def save_line(store: WorkspaceStore, slope: float) -> tuple[str, str]:
    """Register a model under an id of our own, with a chain that uses it: the run and the chain."""
    register_line(store, slope)
    run_id, pipeline_id = begin(store)
    chain_id = store.save_chain(pipeline_id, LINE, 0, "M", "", "", {"final": "my model"}, {})
    store.complete_pipeline(pipeline_id, None, None, None, None)
    return run_id, chain_id


def remove(store: WorkspaceStore, run_id: str) -> None:
    store.delete_run(run_id, delete_artifacts=False, now=True)
    store.artifacts.delete_orphaned_artifacts(dry_run=False, grace_seconds=0.0)
    assert store.get_artifact("my model") is None


def slope_of(store: WorkspaceStore, chain_id: str) -> float:
    return round(float(store.replay_chain(chain_id, [[1.0]])[0]), 6)


@pytest.mark.takes_over
def test_an_own_id_given_anew_predicts_with_what_it_names_now(store: WorkspaceStore) -> None:
    file = register_line(store, 2.0)
    _, pipeline_id = begin(store)
    chain_id = store.save_chain(pipeline_id, LINE, 0, "M", "", "", {"final": "my model"}, {})
    assert slope_of(store, chain_id) == 2.0
    assert store.loader.load_by_id(store.artifacts.records()[0].artifact_id).coef_.round(6).tolist() == [2.0]
    # Through the registry, which knows nothing of the cache that replay uses.
    store.fail_pipeline(pipeline_id, "wrong")
    assert store.artifacts.delete_orphaned_artifacts(dry_run=False)[0] == [file]
    _, chain_id = save_line(store, 3.0)
    assert slope_of(store, chain_id) == 3.0
    assert store.loader.load_by_id(store.artifacts.records()[0].artifact_id).coef_.round(6).tolist() == [3.0]


@pytest.mark.takes_over
def test_an_own_id_that_another_process_gives_anew_predicts_with_what_it_names_now(
    store: WorkspaceStore, other: WorkspaceStore, tmp_path: Path
) -> None:
    run_id, before = save_line(other, 2.0)
    assert slope_of(store, before) == 2.0
    remove(other, run_id)
    _, after = save_line(other, 3.0)
    assert slope_of(store, after) == 3.0
    assert round(float(store.predictor(after).predict([[1.0]])[0]), 6) == 3.0
    bundle = load_bundle(store.export_chain(after, tmp_path / "line"), allow_pickle=True)
    assert round(float(bundle.predict([[1.0]])[0]), 6) == 3.0


@pytest.mark.takes_over
@pytest.mark.parametrize("call", ["load_artifact", "read_artifact", "get_artifact_path"])
def test_what_is_remembered_of_an_own_id_gives_way_to_what_it_names_now(
    store: WorkspaceStore, other: WorkspaceStore, call: str
) -> None:
    run_id, _ = save_line(other, 2.0)
    before = getattr(store, call)("my model")
    remove(other, run_id)
    save_line(other, 3.0)
    after = getattr(store, call)("my model")
    assert str(getattr(after, "coef_", after)) != str(getattr(before, "coef_", before))


@pytest.mark.not_on("shared", "replicas", why="a name that a gc has given up is not registered again there")
@pytest.mark.takes_over
def test_a_file_replaced_under_its_own_name_is_read_as_it_was_registered_anew(
    store: WorkspaceStore, other: WorkspaceStore
) -> None:
    path = blob_root(store) / "slope 2.0.joblib"
    run_id, _ = save_line(other, 2.0)
    assert store.load_artifact("my model").coef_.round(6).tolist() == [2.0]
    remove(other, run_id)
    path.write_bytes(b"other bytes under the same name")
    register(other, path.name, "my model")
    other.flush()
    assert store.load_artifact("my model") == b"other bytes under the same name"


@pytest.mark.takes_over
def test_an_own_id_that_another_process_let_go_of_can_be_given_anew(
    store: WorkspaceStore, other: WorkspaceStore
) -> None:
    run_id, before = save_line(other, 2.0)
    assert slope_of(store, before) == 2.0
    remove(other, run_id)
    _, after = save_line(store, 3.0)
    assert (slope_of(store, after), slope_of(other, after)) == (3.0, 3.0)


@pytest.mark.takes_over
def test_a_chain_can_name_an_own_id_that_another_process_gave_anew(
    store: WorkspaceStore, other: WorkspaceStore
) -> None:
    run_id, before = save_line(other, 2.0)
    assert slope_of(store, before) == 2.0
    remove(other, run_id)
    save_line(other, 3.0)
    chain_id = store.save_chain(begin(store)[1], LINE, 0, "M", "", "", {"final": "my model"}, {})
    assert slope_of(store, chain_id) == 3.0


def test_a_deleted_chain_never_loads_what_its_own_id_names_now(
    store: WorkspaceStore, other: WorkspaceStore
) -> None:
    run_id, before = save_line(other, 2.0)
    with WorkspaceStore(store.workspace_path, cache_bytes=0) as keeps_no_objects:
        assert slope_of(keeps_no_objects, before) == 2.0
        remove(other, run_id)
        save_line(other, 3.0)
        with pytest.raises(UnknownId, match="other content"):
            slope_of(keeps_no_objects, before)
        with pytest.raises(UnknownId, match=before):
            slope_of(keeps_no_objects, before)
