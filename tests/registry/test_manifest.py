"""A manifest carries a pipeline's artifacts into another workspace; other versions are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nirs_store import WorkspaceStore
from nirs_store.artifacts.loader import ArtifactLoader
from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.errors import BlobCorrupt, BlobMissing, InvalidInput


@pytest.fixture(scope="module")
def registry(store: WorkspaceStore) -> ArtifactRegistry:
    run_id = store.begin_run("run", {}, [{"name": "meat"}])
    return ArtifactRegistry(store, "meat", store.begin_pipeline(run_id, "pls", {}, [], "meat", "hash"))


@pytest.fixture(scope="module")
def written(registry: ArtifactRegistry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    scaler = registry.register_with_chain([0], "s1.MSC", "transformer", 1)
    models = [
        registry.register_with_chain([1, k], "s1.MSC>s2.PLS", "model", 2, branch_path=[k], fold_id=k,
                                     depends_on=[scaler.artifact_id], params={"k": k}).artifact_id
        for k in range(2)
    ]  # fmt: skip
    registry.register_meta_model([2], registry.generate_id("s3.Ridge"), models[::-1], chain_path="s3.Ridge")
    registry.export_to_manifest(folder / "out", with_files=True)
    return folder / "out"


@pytest.fixture
def exported(written: Path, tmp_path: Path) -> Path:
    """A copy, which a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "out"))


def test_it_is_yaml_of_schema_version_2_with_a_list_of_items(exported: Path) -> None:
    data = yaml.safe_load((exported / "manifest.yaml").read_text())
    assert data["schema_version"] == 2
    assert data["dataset"] == "meat"
    assert [item["artifact_type"] for item in data["items"]] == [
        "transformer",
        "model",
        "model",
        "meta_model",
    ]
    assert all((exported / "artifacts" / item["path"]).is_file() for item in data["items"])


def test_another_workspace_imports_it(exported: Path, registry: ArtifactRegistry, tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "other") as other:
        made = other.artifacts.import_from_manifest(exported)
        assert [other.artifacts.load_artifact(r) for r in made] == [[0], [1, 0], [1, 1], [2]]
        theirs = registry.records()
        assert [r.content_hash for r in made] == [r.content_hash for r in theirs]
        assert [(r.chain_path, r.branch_path, r.fold_id, r.params) for r in made] == [
            (r.chain_path, r.branch_path, r.fold_id, r.params) for r in theirs
        ]
        meta = other.artifacts.resolve(made[3].artifact_id)
        assert meta.meta_config.source_ids == [made[2].artifact_id, made[1].artifact_id]
        assert (
            next(r.artifact_id for r in other.artifacts.resolve_dependencies(meta.artifact_id))
            == made[0].artifact_id
        )
        assert other.list_pipelines()["status"].to_list() == ["completed"]
        assert other.check(read_data=True).findings == ()


def test_the_same_workspace_imports_nothing_twice(exported: Path, registry: ArtifactRegistry) -> None:
    before = registry.records()
    assert [r.artifact_id for r in registry.import_from_manifest(exported)] == [r.artifact_id for r in before]
    assert registry.records() == before


def test_a_loader_works_on_just_a_manifest(
    exported: Path, store: WorkspaceStore, registry: ArtifactRegistry
) -> None:
    loader = ArtifactLoader.from_manifest(exported, workspace=store)
    assert loader.load_fold_models(2) == [(0, [1, 0]), (1, [1, 1])]
    assert loader.get_cache_info()["total_artifacts"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 1}, "schema version 1"),
        ({"schema_version": 3}, "schema version 3"),
        ({"schema_version": "2.0"}, "'2.0'"),
        ({"schema_version": None}, "version None"),
        ({"items": {}}, "list of records"),
        ({"items": [{"artifact_id": "x"}]}, "needs"),
    ],
)
def test_other_versions_and_shapes_are_refused_by_name(
    exported: Path, store: WorkspaceStore, change: dict[str, Any], words: str
) -> None:
    data = yaml.safe_load((exported / "manifest.yaml").read_text()) | change
    with pytest.raises(InvalidInput, match=words):
        store.artifacts.import_from_manifest(data)
    with pytest.raises(InvalidInput, match="version 1"):
        store.artifacts.import_from_manifest({"artifacts": []})


def test_files_are_checked_before_anything_is_recorded(exported: Path, tmp_path: Path) -> None:
    data = yaml.safe_load((exported / "manifest.yaml").read_text())
    file = exported / "artifacts" / data["items"][0]["path"]
    with WorkspaceStore(tmp_path / "other") as other:
        file.chmod(0o644)
        file.write_bytes(b"something else")
        with pytest.raises(BlobCorrupt):
            other.artifacts.import_from_manifest(exported)
        data["items"][0]["path"] = "../../../etc/passwd"
        file.unlink()
        with pytest.raises(BlobMissing):
            other.artifacts.import_from_manifest(data, exported)
        assert other.list_runs().is_empty()
