"""What is registered is an artifact of the store, and what a chain names is found in the registry."""

from __future__ import annotations

from typing import Any

import pytest

from nirs_store import WorkspaceStore
from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.artifacts.types import ArtifactRecord, ArtifactType, ChainNode, chain_hash
from nirs_store.errors import InvalidInput, UnknownId

# Two chain paths, and two contents, whose SHA-256 agree in the first twelve digits.
TWINS = ("s1.C7262525", "s1.C30785430")
TWIN_BYTES = (b"sample no. 3088217", b"sample no. 8781312")


def steps_of(registry: ArtifactRegistry, fitted: dict[str, Any]) -> list[ArtifactRecord]:
    scaler = registry.register_with_chain(fitted["scaler"], "s1.StandardScaler", "transformer", 1)
    return [scaler] + [
        registry.register_with_chain(
            model, "s1.StandardScaler>s2.PLSRegression", ArtifactType.MODEL, 2, fold_id=fold,
            depends_on=[scaler.artifact_id], params={"n_components": 3}, custom_name=f"pls{fold}",
        )
        for fold, model in enumerate(fitted["folds"])
    ]  # fmt: skip


def test_a_record_is_given_back_as_it_was_registered(
    store: WorkspaceStore, registry: ArtifactRegistry, fitted: dict[str, Any], pipeline_id: str
) -> None:
    records = steps_of(registry, fitted)
    store.flush()
    for record in records:
        found = store.artifacts.resolve(record.artifact_id)
        assert found is not None
        assert found.to_dict() | {"created_at": None} == record.to_dict() | {"created_at": None}
        assert ArtifactRecord.from_dict(found.to_dict()) == found
    model = records[2]
    assert (model.step_index, model.fold_id, model.params) == (2, "1", {"n_components": 3})
    assert model.class_name == "sklearn.cross_decomposition.PLSRegression"
    assert registry.records() == [store.artifacts.resolve(r.artifact_id) for r in records]
    assert [r.fold_id for r in registry.get_fold_models(2)] == ["0", "1"]
    assert registry.find_artifact_by_custom_name("pls1") == registry.resolve(model.artifact_id)
    assert [r.artifact_id for r in registry.get_dependencies(model.artifact_id)] == [records[0].artifact_id]
    assert [r.artifact_id for r in registry.get_dependents(records[0].artifact_id)] == [
        records[1].artifact_id, records[2].artifact_id
    ]  # fmt: skip
    assert registry.get_by_chain("s1.StandardScaler") == registry.resolve(records[0].artifact_id)
    assert len(registry.get_chain_prefix("s1.StandardScaler")) == 3
    assert registry.resolve("p$0123456789ab:all") is None


def test_what_was_registered_and_is_named_by_a_chain_too_is_one_record(
    store: WorkspaceStore, registry: ArtifactRegistry, pipeline_id: str, fitted: dict[str, Any]
) -> None:
    records = steps_of(registry, fitted)
    store.save_chain(
        pipeline_id,
        [{"step_idx": 1, "operator_class": "StandardScaler", "artifact_id": records[0].blob_id},
         {"step_idx": 2, "operator_class": "PLSRegression", "operator_type": "model"}],
        2, "PLSRegression", "", "per_fold", {k: r.blob_id for k, r in enumerate(records[1:])}, {},
    )  # fmt: skip
    assert [r.artifact_id for r in registry.records()] == [r.artifact_id for r in records]


def test_chain_paths_with_the_same_short_hash_get_ids_of_their_own(registry: ArtifactRegistry) -> None:
    assert chain_hash(TWINS[0]) == chain_hash(TWINS[1])
    first = registry.register_with_chain([1], TWINS[0], "transformer", 1)
    second = registry.register_with_chain([2], TWINS[1], "transformer", 1)
    assert first.artifact_id != second.artifact_id
    assert registry.load_artifact(registry.resolve(second.artifact_id)) == [2]
    assert registry.load_artifact(registry.resolve(first.artifact_id)) == [1]
    assert registry.generate_id(TWINS[0]) == first.artifact_id
    with pytest.raises(InvalidInput, match="stands for the place"):
        registry.register([3], first.artifact_id, "transformer", chain_path=TWINS[1])


def test_a_content_is_found_by_its_hash_whole_or_short(
    registry: ArtifactRegistry, fitted: dict[str, Any]
) -> None:
    record = steps_of(registry, fitted)[1]
    for digits in (record.content_hash, record.blob_id, record.short_hash):
        assert registry.resolve_by_hash(digits).artifact_id == record.artifact_id
    assert registry.resolve_by_hash("0" * 64) is None
    with pytest.raises(InvalidInput, match="at least 12"):
        registry.resolve_by_hash(record.blob_id[:8])


def test_contents_with_the_same_short_hash_are_told_apart(registry: ArtifactRegistry) -> None:
    first, second = (
        registry.register_with_chain(data, f"s1.{name}", "model", 1, format_hint="bytes")
        for data, name in zip(TWIN_BYTES, "AB", strict=True)
    )
    assert first.short_hash == second.short_hash
    assert first.path != second.path
    assert [registry.load_artifact(record) for record in (first, second)] == list(TWIN_BYTES)
    with pytest.raises(InvalidInput, match="begins the hashes of 2 contents"):
        registry.resolve_by_hash(first.short_hash)
    assert registry.resolve_by_hash(second.content_hash).artifact_id == second.artifact_id
    assert registry.resolve_by_hash(first.blob_id[:20]).artifact_id == first.artifact_id


def test_an_id_names_one_object_for_ever(registry: ArtifactRegistry) -> None:
    first = registry.register_with_chain([1], "s1.A", "model", 1)
    assert registry.register_with_chain([1], "s1.A", "model", 1).blob_id == first.blob_id
    with pytest.raises(InvalidInput, match="names another object"):
        registry.register_with_chain([2], "s1.A", "model", 1)
    assert [r.blob_id for r in registry.records()] == [first.blob_id]


def test_dependencies_must_exist_and_cannot_run_in_circles(registry: ArtifactRegistry) -> None:
    with pytest.raises(UnknownId):
        registry.register_with_chain([0], "s1.A", "model", 1, depends_on=["p$0123456789ab:all"])
    assert registry.records() == []
    a = registry.register_with_chain([1], "s1.A", "transformer", 1).artifact_id
    b = registry.register_with_chain([2], "s2.B", "transformer", 2, depends_on=[a]).artifact_id
    c = registry.register_with_chain([3], "s3.C", "model", 3).artifact_id
    registry.add_dependency(c, b)
    assert [r.artifact_id for r in registry.resolve_dependencies(c)] == [a, b]
    with pytest.raises(InvalidInput, match="cycle"):
        registry.add_dependency(a, c)
    with pytest.raises(InvalidInput, match="itself"):
        registry.add_dependency(a, a)
    with pytest.raises(InvalidInput, match="deeper than 1"):
        registry.resolve_dependencies(c, max_depth=1)
    assert registry.resolve(a).depends_on == []


def test_branches_of_any_depth_sources_substeps_and_folds_are_told_apart(registry: ArtifactRegistry) -> None:
    shared = registry.register_with_chain([0], "s1.A", "transformer", 1)
    inner = registry.register_with_chain(
        [1], "s1.A>s2.B", "transformer", 2, branch_path=[0, 1, 2, 3], source_index=1, substep_index=4
    )
    other = registry.register_with_chain(
        [2], "s1.A>s2.B", "transformer", 2, branch_path=[0, 1, 2, 4], source_index=1
    )
    assert inner.chain_path == "s1.A>s2.B[br=0.1.2.3,src=1,sub=4]"
    assert inner.branch_path == [0, 1, 2, 3]
    assert len({r.artifact_id for r in (shared, inner, other)}) == 3
    assert registry.get_artifacts_for_step(2, [0, 1, 2, 3]) == [registry.resolve(inner.artifact_id)]
    assert registry.get_artifacts_for_step(2, [0, 1, 2, 3], source_index=0) == []
    assert [r.artifact_id for r in registry.get_artifacts_for_step(1, [7])] == [shared.artifact_id]
    nodes = [ChainNode(1, "A"), ChainNode(2, "B", (0, 1, 2, 4), 1)]
    assert registry.get_by_chain(nodes) == registry.resolve(other.artifact_id)
