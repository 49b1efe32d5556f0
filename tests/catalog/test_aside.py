"""What a gc that died has left aside is settled by the next one who changes the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
from storekit import begin, chain_of, failing, trashed

from nirs_store.errors import WriteFailed
from nirs_store.store import WorkspaceStore


def blob(store: WorkspaceStore, name: str, *, chained: bool) -> str:
    artifact_id = store.save_artifact({name: 1}, "dict", "model")
    if chained:
        chain_of(store, begin(store)[1], artifact_id)
    store.flush()
    return str(store._engine.id_cache.get("artifact", artifact_id)["artifact_path"])


def test_when_a_run_is_deleted_for_good_its_files_are_gone(store: WorkspaceStore, folder: Path) -> None:
    run_id, pipeline_id = begin(store)
    models = [store.save_artifact({"model": n}, "dict", "model") for n in range(40)]
    step = {"step_idx": 0, "operator_class": "M", "params": {}}
    folds = {f"fold_{n}": key for n, key in enumerate(models)}
    store.save_chain(pipeline_id, [step], 0, "M", "", "per_fold", folds, {})
    store.flush()
    assert len(list((folder / "artifacts").rglob("*.joblib"))) == 40
    store.delete_run(run_id, now=True)
    assert [*(folder / "artifacts").rglob("*.joblib"), *(folder / "journal" / "aside").iterdir()] == []


def test_named_blobs_come_back_and_nameless_ones_go(store: WorkspaceStore, folder: Path) -> None:
    layout = store._engine.layout
    kept = blob(store, "kept", chained=True)
    info = store._engine.blobs.put(b"nobody names this", "bin")
    store._engine.blobs.wait()
    layout.blobs.trash([kept, info.path, "artifacts/zz/gone.joblib"])
    assert trashed(store) == sorted([kept, info.path])
    assert not (folder / kept).exists()
    # A gc died here. A reader that has something to apply is the next holder.
    store.begin_run("r", {}, [])
    store.list_runs()
    assert trashed(store) == []
    assert (folder / kept).exists()
    assert not (folder / info.path).exists()


def test_what_somebody_claims_comes_back(store: WorkspaceStore, folder: Path) -> None:
    layout = store._engine.layout
    info = store._engine.blobs.put(b"about to be named", "bin")
    store._engine.blobs.wait()
    (folder / "exports").mkdir()
    (folder / "exports" / "my model.bin").write_bytes(b"by its path")
    with store._engine.recorder.claiming(info.artifact_id, "exports/my model.bin"):
        layout.blobs.trash([info.path, "exports/my model.bin"])
        with WorkspaceStore(folder) as other:
            other.begin_run("r", {}, [])
            other.list_runs()
    assert (folder / info.path).exists()
    assert (folder / "exports" / "my model.bin").exists()


def test_a_blob_that_was_written_anew_meanwhile_is_there_once(store: WorkspaceStore, folder: Path) -> None:
    layout = store._engine.layout
    path = blob(store, "kept", chained=True)
    layout.blobs.trash([path])
    store._engine.blobs.put(
        (folder / "journal" / "aside").joinpath(next((folder / "journal" / "aside").iterdir())).read_bytes(),
        "joblib",
    )
    store._engine.blobs.wait()
    store.begin_run("r", {}, [])
    store.list_runs()
    assert trashed(store) == []
    assert (folder / path).exists()


def test_a_blob_that_is_aside_can_be_read_and_named(store: WorkspaceStore, folder: Path) -> None:
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    store.flush()
    path = store._engine.id_cache.get("artifact", artifact_id)["artifact_path"]
    store._engine.layout.blobs.trash([path])
    assert store.load_artifact(artifact_id) == {"a": 1}


def test_a_stored_file_whose_blob_is_aside_can_be_opened(store: WorkspaceStore, folder: Path) -> None:
    version = store.files.put(b"a,b\n1,2\n", "corn/weights.bin", type="model_checkpoint")
    store._engine.layout.blobs.trash(
        [str((store.get_artifact(version.artifact_id or "") or {})["artifact_path"])]
    )
    with store.files.open("corn/weights.bin") as file:
        assert file.read() == b"a,b\n1,2\n"
    assert store.files.path("corn/weights.bin").read_bytes() == b"a,b\n1,2\n"


def test_a_move_that_the_disk_refuses_is_a_typed_error(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = blob(store, "kept", chained=True)
    with failing(monkeypatch, "replace", below=folder / "artifacts"), pytest.raises(WriteFailed):
        store._engine.layout.blobs.trash([path])
    assert (folder / path).exists()
