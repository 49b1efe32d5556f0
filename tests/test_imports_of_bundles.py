"""A bundle comes into a workspace whole or not at all, once, and byte for byte."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chemotools.derivative import SavitzkyGolay
from chemotools.scatter import StandardNormalVariate
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from storekit import blob_keys

from nirs_store import WorkspaceStore, load_bundle, load_tecator, record_cross_validation
from nirs_store.blobs import trusted
from nirs_store.blobs.trusted import CHEMOTOOLS
from nirs_store.bundle import inspect_bundle
from nirs_store.bundle import transfer as imports
from nirs_store.bundle.container import DEFAULT_LIMITS
from nirs_store.bundle.contents import read_contents
from nirs_store.errors import BundleInvalid, InvalidInput, ReadOnlyStore, UntrustedBundle

MEAT = load_tecator()


class Origin:
    """A workspace with a calibration, and its bundles of both kinds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with WorkspaceStore(folder / "origin") as store:
            self.result = record_cross_validation(
                store,
                make_pipeline(StandardNormalVariate(), SavitzkyGolay(11, 2, 1), PLSRegression(6)),
                MEAT.X[:80],
                MEAT.fat[:80],
                X_test=MEAT.X[80:110],
                y_test=MEAT.fat[80:110],
                cv=KFold(3, shuffle=True, random_state=42),
                dataset_name="tecator",
                wavelengths=MEAT.wavelengths,
                wavelength_unit="nm",
                target="fat",
                target_unit="%",
            )
            chain_id = self.result.chain_id
            self.expected = store.replay_chain(chain_id, MEAT.X)
            self.joblib = store.export_chain(chain_id, folder / "joblib", probe=MEAT.X[:4])
            self.safe = store.export_chain(chain_id, folder / "safe", safe=True, probe=MEAT.X[:4])
            forest = record_cross_validation(
                store,
                RandomForestRegressor(3, random_state=0),
                MEAT.X[:40, :10],
                MEAT.fat[:40],
                cv=2,
                dataset_name="tecator",
            )
            self.forest = store.export_chain(forest.chain_id, folder / "forest", safe=True)

    def bundle(self, kind: str) -> Path:
        found: Path = getattr(self, kind)
        return found


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    return Origin(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with WorkspaceStore(tmp_path / "mine") as opened:
        yield opened


def contents(path: Path) -> Any:
    return read_contents(path, DEFAULT_LIMITS)


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


KINDS = pytest.mark.parametrize("kind", ["joblib", "safe"])


@KINDS
def test_a_bundle_becomes_a_run_whose_chain_predicts_the_same(
    kind: str, origin: Origin, store: WorkspaceStore
) -> None:
    found = store.import_bundle(origin.bundle(kind), allow_pickle=kind == "joblib")
    assert found.added
    np.testing.assert_array_equal(store.replay_chain(found.chain_id, MEAT.X), origin.expected)
    chain = store.get_chain(found.chain_id)
    run, pipeline = store.get_run(found.run_id), store.get_pipeline(found.pipeline_id)
    assert chain is not None
    assert run is not None
    assert pipeline is not None
    assert chain["pipeline_id"] == found.pipeline_id
    assert pipeline["run_id"] == found.run_id
    assert (run["status"], pipeline["status"], run["name"]) == (
        "completed",
        "completed",
        "PLSRegression for fat",
    )
    assert pipeline["best_val"] == pytest.approx(origin.result.rmsecv)
    assert pipeline["dataset_name"] == "tecator"
    np.testing.assert_array_equal(chain["wavelengths"], MEAT.wavelengths)
    assert chain["metadata"]["target_unit"] == "%"
    told = run["config"]["imported"]
    assert told["origin"]["chain_id"] == origin.result.chain_id
    assert told["policy"] == {"allow_pickle": kind == "joblib", "trusted_types": []}
    assert store.check().ok


@KINDS
def test_its_objects_are_copied_byte_for_byte(kind: str, origin: Origin, store: WorkspaceStore) -> None:
    path = origin.bundle(kind)
    store.import_bundle(path, allow_pickle=True)
    held = contents(path)
    for name, data in held.payloads.items():
        assert store.read_artifact(held.hashes[name]) == data
        artifact = store.get_artifact(held.hashes[name])
        assert artifact is not None
        assert artifact["format"] == held.kind
        assert artifact["ref_count"] >= 1


@KINDS
def test_importing_twice_adds_nothing(
    kind: str, origin: Origin, store: WorkspaceStore, tmp_path: Path
) -> None:
    first = store.import_bundle(origin.bundle(kind), allow_pickle=True)
    before = store.stats() if hasattr(store, "stats") else None
    copy = tmp_path / "under another name.n4a"
    shutil.copy(origin.bundle(kind), copy)
    second = store.import_bundle(copy, allow_pickle=True)
    assert not second.added
    assert (second.run_id, second.pipeline_id, second.chain_id) == (
        first.run_id,
        first.pipeline_id,
        first.chain_id,
    )
    assert store.list_runs().height == 1
    assert (store.stats() if hasattr(store, "stats") else None) == before


def lose(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@KINDS
@pytest.mark.parametrize("harm", [lose, damage])
def test_importing_again_brings_back_the_files_that_were_lost(
    kind: str, harm: Any, origin: Origin, tmp_path: Path
) -> None:
    path, folder = origin.bundle(kind), tmp_path / "mine"
    with WorkspaceStore(folder) as store:
        first = store.import_bundle(path, allow_pickle=True)
        blobs = {artifact_id: store.get_artifact_path(artifact_id) for artifact_id in held_ids(path)}
        assert len(blobs) >= 3
    for blob in blobs.values():
        blob.chmod(0o644)
        harm(blob)
    with WorkspaceStore(folder, create=False) as store:
        counted = {ident: store.get_artifact(ident) for ident in blobs}
        again = store.import_bundle(path, allow_pickle=True)
        assert (again.added, again.chain_id) == (False, first.chain_id)
        assert all(blob.is_file() for blob in blobs.values())
        np.testing.assert_array_equal(store.replay_chain(again.chain_id, MEAT.X), origin.expected)
        assert {ident: store.get_artifact(ident) for ident in blobs} == counted
        assert store.list_runs().height == 1
        assert store.check().ok


def held_ids(path: Path) -> list[str]:
    held = contents(path)
    return [held.hashes[name] for name in held.payloads]


def test_what_was_deleted_can_be_imported_again(origin: Origin, store: WorkspaceStore) -> None:
    first = store.import_bundle(origin.safe)
    store.delete_run(first.run_id, now=True)
    second = store.import_bundle(origin.safe)
    assert second.added
    assert second.run_id != first.run_id
    np.testing.assert_array_equal(store.replay_chain(second.chain_id, MEAT.X), origin.expected)


@KINDS
def test_what_is_exported_again_has_the_same_content(
    kind: str, origin: Origin, store: WorkspaceStore, tmp_path: Path
) -> None:
    found = store.import_bundle(origin.bundle(kind), allow_pickle=True)
    again = store.export_chain(found.chain_id, tmp_path / "again", safe=kind == "safe", probe=MEAT.X[:4])
    old, new = contents(origin.bundle(kind)), contents(again)
    assert new.content_hash == old.content_hash == found.content_hash
    for name in (*old.payloads, *old.arrays):
        assert new.hashes[name] == old.hashes[name]
    assert new.record.scores == old.record.scores
    assert "imported" in new.card


def test_another_model_has_another_content(origin: Origin, store: WorkspaceStore) -> None:
    hashes = {inspect_bundle(path).content_hash for path in (origin.joblib, origin.safe, origin.forest)}
    assert len(hashes) == 3


def test_an_imported_safe_model_can_leave_with_pickles_too(
    origin: Origin, store: WorkspaceStore, tmp_path: Path
) -> None:
    found = store.import_bundle(origin.safe)
    bundle = load_bundle(store.export_chain(found.chain_id, tmp_path / "pickled"), allow_pickle=True)
    np.testing.assert_allclose(bundle.predict(MEAT.X), origin.expected, rtol=1e-12)


def test_nothing_changes_when_a_bundle_is_refused(
    origin: Origin, store: WorkspaceStore, tmp_path: Path
) -> None:
    store.list_runs()
    before = outside_the_journal(tmp_path / "mine"), blob_keys(store)
    with pytest.raises(UntrustedBundle, match="allow_pickle=True"):
        store.import_bundle(origin.joblib)
    with pytest.raises(UntrustedBundle, match=r"sklearn\.tree\._tree\.Tree"):
        store.import_bundle(origin.forest)
    half = tmp_path / "half.n4a"
    half.write_bytes(origin.safe.read_bytes()[:5000])
    with pytest.raises(BundleInvalid):
        store.import_bundle(half)
    with pytest.raises(InvalidInput, match="list of names"):
        store.import_bundle(origin.forest, trusted_types="sklearn.tree._tree.Tree")
    assert (outside_the_journal(tmp_path / "mine"), blob_keys(store)) == before
    assert store.list_runs().is_empty()
    assert store.audit.query("import_bundle", success=False).height == 4


def outside_the_journal(folder: Path) -> dict[str, int]:
    """Refused attempts are noted in the audit trail, and a session is needed for that."""
    return {
        path: size for path, size in files(folder).items() if not path.startswith(str(folder / "journal"))
    }


def test_an_import_that_fails_midway_leaves_no_rows(
    origin: Origin, store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.records import runs as records

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the lights go out")

    with monkeypatch.context() as patched:
        patched.setattr(records, "complete_run", fail)
        with pytest.raises(RuntimeError, match="lights"):
            store.import_bundle(origin.safe)
    assert store.list_runs().is_empty()
    assert store.list_pipelines().is_empty()
    assert store.import_bundle(origin.safe).added


def test_trees_are_imported_when_they_are_trusted_and_replay_ever_after(
    origin: Origin, tmp_path: Path
) -> None:
    tree = "sklearn.tree._tree.Tree"
    with WorkspaceStore(tmp_path / "mine") as store:
        found = store.import_bundle(origin.forest, trusted_types=[tree])
        run = store.get_run(found.run_id)
        assert run is not None
        assert run["config"]["imported"]["policy"]["trusted_types"] == [tree]
    with WorkspaceStore(tmp_path / "mine", create=False) as store:
        expected = load_bundle(origin.forest, trusted_types=[tree]).predict(MEAT.X[:5, :10])
        np.testing.assert_array_equal(store.replay_chain(found.chain_id, MEAT.X[:5, :10]), expected)


def test_what_the_workspace_could_not_load_tomorrow_is_not_imported(
    origin: Origin, store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if chemotools were a package that nobody here has read.
    scatter = [name for name in CHEMOTOOLS if name in inspect_bundle(origin.safe).types]
    monkeypatch.setattr(trusted, "CHEMOTOOLS", CHEMOTOOLS - set(scatter))
    assert load_bundle(origin.safe, trusted_types=scatter).predict(MEAT.X[:2]).shape == (2,)
    with pytest.raises(UntrustedBundle, match="could not load again later"):
        store.import_bundle(origin.safe, trusted_types=scatter)
    assert store.list_runs().is_empty()


def test_a_bundle_of_another_program_is_imported(
    origin: Origin, store: WorkspaceStore, tmp_path: Path
) -> None:
    import zipfile

    foreign = tmp_path / "foreign.n4a"
    with zipfile.ZipFile(origin.joblib) as archive, zipfile.ZipFile(foreign, "w") as made:
        for name in archive.namelist():
            data = archive.read(name)
            if name == "manifest.json":
                keys = json.loads(data)
                del keys["members_listed_in"]
                data = json.dumps(keys).encode()
            if name.startswith(("artifacts/", "manifest", "pipeline", "chain")):
                made.writestr(name, data)
    found = store.import_bundle(foreign, allow_pickle=True, name="from a friend")
    np.testing.assert_array_equal(store.replay_chain(found.chain_id, MEAT.X), origin.expected)
    assert store.list_runs()["name"].to_list() == ["from a friend"]
    assert not store.import_bundle(foreign, allow_pickle=True).added


def test_a_read_only_workspace_takes_no_bundle(origin: Origin) -> None:
    with WorkspaceStore(origin.folder / "origin", read_only=True) as store, pytest.raises(ReadOnlyStore):
        store.import_bundle(origin.safe)


@pytest.mark.everywhere
def test_two_that_import_the_same_at_once_add_it_once(
    origin: Origin, store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.list_runs()
    with WorkspaceStore(store.workspace_path, create=False) as other, ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2)
        really = imports.open_contents

        def opened_by_both(*args: Any) -> Any:
            found = really(*args)
            barrier.wait(60)
            return found

        monkeypatch.setattr(imports, "open_contents", opened_by_both)
        found = list(pool.map(lambda one: one.import_bundle(origin.safe), (store, other)))
    assert sorted(one.added for one in found) == [False, True]
    assert found[0].chain_id == found[1].chain_id
    assert store.list_runs().height == 1
