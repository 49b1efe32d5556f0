"""Exporting chains: what the archive holds, and that it appears complete or not at all."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from nirs_store.bundle import export_chain, load_bundle
from nirs_store.errors import (
    ArtifactMissing,
    BlobCorrupt,
    InvalidInput,
    ReplayError,
    SerializationError,
    UnknownId,
    WriteFailed,
)

KINDS = [
    "folds",
    "weights",
    "refit",
    "single",
    "two in one step",
    "steps of each fold",
    "augmentation",
    "stateless",
    "targets",
    "two targets",
    "targets of each fold",
    "soft votes",
    "soft votes, weighted",
    "hard votes",
    "hard votes on numbers",
    "two classes",
    "classes that a fold never saw",
    "encoded labels",
]


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def read(path: Path, name: str) -> Any:
    return json.loads(members(path)[name])


def artifacts(path: Path) -> list[str]:
    return [name.removeprefix("artifacts/") for name in members(path) if name.startswith("artifacts/")]


def test_every_kind_of_chain_is_tried(world: Any) -> None:
    assert set(world.chains) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_predicts_the_same_bits_as_the_stored_chain(
    kind: str, world: Any, spectra: np.ndarray, tmp_path: Path
) -> None:
    expected = world.shelf.replay(world.chains[kind], spectra)
    bundle = load_bundle(export_chain(world.shelf, world.chains[kind], tmp_path / "x"), allow_pickle=True)
    found = bundle.predict(spectra)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert (found == expected).all()
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_readers_that_know_only_version_1_0_find_the_same(
    kind: str, world: Any, kit: Any, spectra: np.ndarray, tmp_path: Path
) -> None:
    path = export_chain(world.shelf, world.chains[kind], tmp_path / "x")
    foreign = load_bundle(kit.as_foreign(path), allow_pickle=True)
    assert foreign.record is None
    assert (foreign.predict(spectra) == world.shelf.replay(world.chains[kind], spectra)).all()


def test_members_are_named_by_step_counted_from_one_and_by_fold(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["folds"], tmp_path / "x")
    assert artifacts(path) == [
        "step_1_sub0.joblib",
        "step_2_sub0.joblib",
        "step_4_fold0.joblib",
        "step_4_fold1.joblib",
        "step_4_fold2.joblib",
    ]
    assert read(path, "manifest.json")["model_step_index"] == 4
    steps = read(path, "pipeline.json")["steps"]
    assert [next(iter(step)) for step in steps] == ["step", "step", "class", "model"]
    assert steps[2]["class"].endswith("KFold")


def test_steps_counted_from_one_keep_their_numbers(toy: Any, tmp_path: Path) -> None:
    chain = toy.chains["chain-0"]
    for step in chain["steps"]:
        step["step_idx"] += 1
    chain["model_step_idx"] += 1
    path = export_chain(toy, "chain-0", tmp_path / "x")
    assert artifacts(path) == ["step_1_sub0.joblib", "step_2_fold0.joblib", "step_2_fold1.joblib"]


def test_several_objects_of_a_step_are_numbered_in_the_order_in_which_they_apply(
    world: Any, tmp_path: Path
) -> None:
    path = export_chain(world.shelf, world.chains["two in one step"], tmp_path / "x")
    assert artifacts(path)[:2] == ["step_1_sub0.joblib", "step_1_sub1.joblib"]
    blobs = members(path)
    ids = [step["artifact_id"] for step in world.before]
    assert [blobs[f"artifacts/step_1_sub{k}.joblib"] for k in (0, 1)] == [world.shelf.blobs[i] for i in ids]


def test_a_refit_travels_alone(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["refit"], tmp_path / "x")
    assert artifacts(path)[2:] == ["step_4_foldfinal.joblib"]
    assert read(path, "chain.json")["fold_artifacts"].keys() == {"fold_final"}
    assert read(path, "manifest.json")["has_refit"] is True
    assert read(path, "manifest.json")["fold_strategy"] == "single_refit"


def test_no_refit_is_mentioned_where_none_travels(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["folds"], tmp_path / "x")
    assert read(path, "chain.json")["fold_artifacts"].keys() == {"fold_0", "fold_1", "fold_2"}


def test_weights_are_written_under_whole_numbers(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["weights"], tmp_path / "x")
    assert read(path, "fold_weights.json") == {"0": 0.2, "1": 0.5, "2": 0.1}
    plain = export_chain(world.shelf, world.chains["folds"], tmp_path / "y")
    assert "fold_weights.json" not in members(plain)


def test_target_steps_are_marked(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["targets"], tmp_path / "x")
    kinds = [next(iter(step)) for step in read(path, "pipeline.json")["steps"]]
    assert kinds == ["step", "y_processing", "step", "model"]


def test_several_target_steps_travel_as_one_object(world: Any, tmp_path: Path) -> None:
    """Another reader would undo two of them in the wrong order."""
    path = export_chain(world.shelf, world.chains["two targets"], tmp_path / "x")
    assert [name for name in artifacts(path) if name.startswith("step_3_")] == ["step_3_sub0.joblib"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "votes" in kind or "classes" in kind])
def test_classifiers_of_folds_travel_as_one(kind: str, world: Any, tmp_path: Path) -> None:
    """Another reader would average their labels."""
    path = export_chain(world.shelf, world.chains[kind], tmp_path / "x")
    assert [name for name in artifacts(path) if "_fold" in name] == ["step_3_foldfinal.joblib"]
    assert "fold_weights.json" not in members(path)


def test_blobs_travel_byte_for_byte(world: Any, tmp_path: Path) -> None:
    found = members(export_chain(world.shelf, world.chains["folds"], tmp_path / "x"))
    model = world.shelf.chains[world.chains["folds"]]["fold_artifacts"][1]
    assert found["artifacts/step_4_fold1.joblib"] == world.shelf.blobs[model]


def test_what_only_scikit_learn_needs_is_all_that_rearranged_models_name(world: Any, tmp_path: Path) -> None:
    from nirs_store.bundle.trust import list_pickle

    for kind in ("steps of each fold", "hard votes", "soft votes", "targets of each fold"):
        found = members(export_chain(world.shelf, world.chains[kind], tmp_path / "x"))
        for name, data in found.items():
            if "_fold" in name:
                packages = {full.partition(".")[0] for full in list_pickle(data).classes}
                assert packages <= {"sklearn", "numpy", "joblib", "builtins"}, (kind, packages)


def test_a_blob_of_a_format_that_joblib_cannot_read_is_written_anew(toy: Any, tmp_path: Path) -> None:
    scaler = toy.load(toy.chains["chain-0"]["steps"][0]["artifact_id"])
    toy.chains["chain-0"]["steps"][0]["artifact_id"] = toy.keep(scaler, "skops")
    X = np.array([[0.5, 2.0], [4.0, 1.0]])
    bundle = load_bundle(export_chain(toy, "chain-0", tmp_path / "x"), allow_pickle=True)
    assert (bundle.predict(X) == toy.replay("chain-0", X)).all()


def test_the_same_chain_gives_the_same_bytes_in_every_process(world: Any, toy: Any, tmp_path: Path) -> None:
    first = export_chain(world.shelf, world.chains["hard votes"], tmp_path / "a").read_bytes()
    assert export_chain(world.shelf, world.chains["hard votes"], tmp_path / "b").read_bytes() == first
    here = export_chain(toy, "chain-0", tmp_path / "c").read_bytes()
    code = (
        "import runpy, sys; from nirs_store.bundle import export_chain; "
        "export_chain(runpy.run_path(sys.argv[1])['toy_shelf'](), 'chain-0', sys.argv[2])"
    )
    helpers = Path(__file__).with_name("helpers.py")
    env = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, helpers, tmp_path / "d"], check=True, env=env)
    assert (tmp_path / "d.n4a").read_bytes() == here


@pytest.mark.parametrize(
    ("given", "written"),
    [("m", "m.n4a"), ("m.n4a", "m.n4a"), ("wheat_1.5", "wheat_1.5.n4a"), ("new/m", "new/m.n4a")],
)
def test_the_suffix_is_added_and_folders_are_made(toy: Any, tmp_path: Path, given: str, written: str) -> None:
    assert export_chain(toy, "chain-0", str(tmp_path / given)) == tmp_path / written
    assert (tmp_path / written).is_file()


def test_a_folder_is_refused_as_a_target(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a folder"):
        export_chain(toy, "chain-0", tmp_path)


def test_an_unknown_chain_is_a_key_error(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="nothing-of-the-kind") as caught:
        export_chain(toy, "nothing-of-the-kind", tmp_path / "x")
    assert isinstance(caught.value, UnknownId)
    assert not list(tmp_path.iterdir())


def test_a_missing_artifact_aborts_and_leaves_the_old_file(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "x.n4a").write_bytes(b"old")
    lost = toy.chains["chain-0"]["steps"][0]["artifact_id"]
    del toy.blobs[lost]
    with pytest.raises(ArtifactMissing, match=lost):
        export_chain(toy, "chain-0", tmp_path / "x")
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"old"]


def test_an_artifact_that_is_deleted_between_two_looks_is_missing(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(artifact_id: str) -> bytes:
        raise UnknownId("artifact", artifact_id, "It was deleted.")

    monkeypatch.setattr(toy, "read_artifact", gone)
    with pytest.raises(ArtifactMissing, match="chain-0"):
        export_chain(toy, "chain-0", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_damaged_artifact_aborts_and_leaves_no_file(toy: Any, tmp_path: Path) -> None:
    damaged = toy.chains["chain-0"]["fold_artifacts"][1]
    toy.blobs[damaged] = toy.blobs[damaged][:-1] + b"\0"
    with pytest.raises(BlobCorrupt, match=damaged):
        export_chain(toy, "chain-0", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_chain_that_cannot_predict_is_not_exported(toy: Any, tmp_path: Path) -> None:
    del toy.chains["chain-0"]["steps"][0]["artifact_id"]
    with pytest.raises(ReplayError, match="names no artifact"):
        export_chain(toy, "chain-0", tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_an_interrupted_export_leaves_the_target_untouched(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "x.n4a").write_bytes(b"old")

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_chain(toy, "chain-0", tmp_path / "x")
    monkeypatch.undo()
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"old"]


def test_a_full_disk_is_a_typed_error_and_leaves_the_target_untouched(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.n4a").write_bytes(b"old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WriteFailed, match="No space left"):
        export_chain(toy, "chain-0", tmp_path / "x")
    monkeypatch.undo()
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"old"]


def test_probe_scores_and_units_travel(plain: Path, world: Any) -> None:
    record = load_bundle(plain, allow_pickle=True).record
    assert record is not None
    assert record.scores == {"rmsecv": 2.0}
    assert record.units == {"target": "fat", "target_unit": "%", "wavelength_unit": "nm"}
    assert record.environment["scikit-learn"]
    assert record.probe is not None
    assert [member.role for member in record.members].count("probe") == 2


def test_scores_that_are_no_numbers_become_null(toy: Any, tmp_path: Path) -> None:
    path = export_chain(toy, "chain-0", tmp_path / "x", scores={"r2": float("nan"), "n": np.int64(4)})
    assert load_bundle(path, allow_pickle=True).scores == {"r2": None, "n": 4}


def test_predictions_that_the_chain_does_not_make_are_refused(world: Any, tmp_path: Path) -> None:
    chain_id, probe = world.chains["folds"], world.new[:3]
    expected = world.shelf.replay(chain_id, probe)
    export_chain(world.shelf, chain_id, tmp_path / "good", probe=probe, predictions=expected)
    with pytest.raises(ReplayError, match="largest difference"):
        export_chain(world.shelf, chain_id, tmp_path / "bad", probe=probe, predictions=expected + 0.01)
    with pytest.raises(InvalidInput, match="without probe"):
        export_chain(world.shelf, chain_id, tmp_path / "bad", predictions=expected)
    assert [item.name for item in tmp_path.iterdir()] == ["good.n4a"]


def test_several_sources_travel_in_our_own_manifest_which_says_so(
    world: Any, kit: Any, tmp_path: Path
) -> None:
    X = [world.new, world.new]
    path = export_chain(world.shelf, world.sources, tmp_path / "x", probe=[part[:3] for part in X])
    bundle = load_bundle(path, allow_pickle=True)
    assert (bundle.predict(X) == world.shelf.replay(world.sources, X)).all()
    assert bundle.record is not None
    assert not bundle.record.version_1_0.expressible
    assert "2 sources" in bundle.notes[0]
    # Whoever knows version 1.0 only must find no model, instead of a wrong one.
    assert "model_step_index" not in bundle.manifest
    assert artifacts(path) == []


def test_one_source_of_several_is_an_ordinary_chain(world: Any, tmp_path: Path) -> None:
    source = world.shelf.chains[world.sources]
    models = world.shelf.chains[world.chains["folds"]]["fold_artifacts"]
    ids = {"0": {"0": [], "1": [step["artifact_id"] for step in world.before]}}
    one = world.shelf.chain(source["steps"], models, shared_artifacts={"_source_map": ids}, source_index=1)
    bundle = load_bundle(export_chain(world.shelf, one, tmp_path / "x"), allow_pickle=True)
    assert bundle.record is not None
    assert bundle.record.version_1_0.expressible
    assert (
        bundle.predict([world.new * 0, world.new]) == world.shelf.replay(one, [world.new * 0, world.new])
    ).all()
    assert "source 1" in bundle.notes[0]


@pytest.mark.parametrize("merges", [False, True])
def test_hashes_of_the_code_travel_without_its_source(merges: bool, world: Any, tmp_path: Path) -> None:
    steps = list(world.before)
    if merges:
        steps = [{**step, "operator_type": "transform", "branch_path": [k]} for k, step in enumerate(steps)]
        steps.append({"operator_class": "merge", "operator_type": "merge", "stateless": True})
    Z = np.hstack([world.snv.transform(world.X), world.derivative.transform(world.X)]) if merges else world.Z
    models = world.fit(Ridge(), Z)
    module = {"sha256": "0" * 64, "file": "own.py", "text": "the_source = 1"}
    code = {"modules": {"own": module}, "by_value": {}}
    model = {"operator_class": "sklearn.linear_model.Ridge", "operator_type": "model"}
    chain_id = world.shelf.chain([*steps, model], models, metadata={"code": code})
    held = members(export_chain(world.shelf, chain_id, tmp_path / "x"))
    assert b"own.py" in held["nirs_store.json"]
    assert not any(b"the_source" in data for data in held.values())


def test_a_rearrangement_that_predicts_other_numbers_is_given_up(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.bundle import layout as prefit

    made = prefit.in_sequence
    monkeypatch.setattr(prefit, "in_sequence", lambda parts: made(parts[1:]))
    path = export_chain(world.shelf, world.chains["steps of each fold"], tmp_path / "x")
    bundle = load_bundle(path, allow_pickle=True)
    assert "other numbers" in bundle.notes[0]
    expected = world.shelf.replay(world.chains["steps of each fold"], world.new)
    assert (bundle.predict(world.new) == expected).all()


def test_exporting_a_chain_out_of_a_bundle_gives_the_same_hashes(
    world: Any, kit: Any, tmp_path: Path
) -> None:
    for kind in ("folds", "refit", "steps of each fold", "soft votes", "two targets"):
        first = export_chain(world.shelf, world.chains[kind], tmp_path / "first")
        bundle = load_bundle(first, allow_pickle=True)
        shelf = kit.Shelf()
        for name, data in members(first).items():
            if name.startswith("artifacts/"):
                shelf.blobs[kit.sha256_hex(data)] = data
                shelf.formats[kit.sha256_hex(data)] = "joblib"
        shelf.chains["again"] = bundle.chain
        second = members(export_chain(shelf, "again", tmp_path / "second"))
        one = {name: data for name, data in members(first).items() if name.startswith("artifacts/")}
        two = {name: data for name, data in second.items() if name.startswith("artifacts/")}
        assert one == two, kind


@pytest.mark.parametrize("what", ["a function", "a class"])
def test_what_only_the_notebook_defines_is_said_at_export(
    what: str, kit: Any, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    def double(X: Any) -> Any:
        return 2.0 * X

    class Scaler(StandardScaler):
        pass

    for made, name in ((double, "double"), (Scaler, "Scaler")):
        made.__module__, made.__qualname__ = "__main__", name
        monkeypatch.setattr(sys.modules["__main__"], name, made, raising=False)
    step = FunctionTransformer(double) if what == "a function" else Scaler().fit(world.X)
    shelf = kit.Shelf()
    model = shelf.keep(Ridge().fit(world.X, world.fat))
    # As older versions stored it, by its name; today such code is stored by value, and the bundle opens anywhere.
    named = shelf.keep(pickle.dumps(step), "bytes")
    shelf.formats[named] = "pickle"
    chain = shelf.chain([{"operator_class": "f", "artifact_id": named}, {"operator_class": "m"}], {0: model})
    with pytest.warns(UserWarning, match=r"needs __main__\.(double|Scaler), which only this script"):
        export_chain(shelf, chain, tmp_path / "x")
    with pytest.raises(SerializationError, match=r"__main__\.(double|Scaler)"):
        export_chain(shelf, chain, tmp_path / "y", safe=True)
