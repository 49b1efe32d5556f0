"""Opening bundles: trust, damage, contradiction, and what is said about each."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle import export_chain, load_bundle
from nirs_store.chains.predictor import ChainPredictor
from nirs_store.errors import (
    BundleInvalid,
    BundleMissing,
    BundleTooNew,
    NirsStoreError,
    ShapeMismatch,
    UntrustedBundle,
)

Change = Callable[[dict[str, bytes]], Any]


@pytest.fixture
def repack(kit: Any) -> Callable[[Path, Change], Path]:
    """Pack a bundle anew after its members were changed."""

    def do(path: Path, change: Change) -> Path:
        members = dict(kit.read_zip(path))
        change(members)
        return kit.write_zip(path, members.items())  # type: ignore[no-any-return]

    return do


def edit(members: dict[str, bytes], name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON member, and where the record lists it, its entry there."""
    found = json.loads(members[name])
    change(found)
    members[name] = json.dumps(found).encode()


def relist(kit: Any, members: dict[str, bytes]) -> None:
    """Make the record agree with the members again, as whoever forges a bundle would."""

    def entries(record: dict[str, Any]) -> None:
        for entry in record["members"]:
            entry.update(size=len(members[entry["name"]]), sha256=kit.sha256_hex(members[entry["name"]]))

    edit(members, "nirs_store.json", entries)


def test_pickles_are_refused_unless_they_are_allowed(plain: Path) -> None:
    with pytest.raises(UntrustedBundle) as caught:
        load_bundle(plain)
    text = str(caught.value)
    assert "allow_pickle=True" in text
    assert "runs code" in text
    assert "sklearn.cross_decomposition._pls.PLSRegression" in text
    assert "chemotools" in text
    assert isinstance(caught.value, PermissionError)
    assert isinstance(caught.value, ValueError)


def test_a_refused_bundle_runs_nothing(kit: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = kit.dumped(kit.Touch(str(canary)))
    members = [
        ("manifest.json", b'{"model_step_index": 1}'),
        ("artifacts/step_1_foldfinal_PLSRegression.joblib", evil),
    ]
    path = kit.write_zip(tmp_path / "evil.n4a", members)
    with pytest.raises(UntrustedBundle, match=r"pathlib.*Path\.touch|builtins.getattr"):
        load_bundle(path)
    assert not canary.exists()
    with pytest.raises(BundleInvalid, match="cannot predict"):
        load_bundle(path, allow_pickle=True)
    assert canary.exists(), "the canary sings when it may; else this test would prove nothing"


def test_allow_pickle_is_for_one_call_and_by_keyword(plain: Path) -> None:
    load_bundle(plain, allow_pickle=True)
    with pytest.raises(UntrustedBundle):
        load_bundle(plain)
    with pytest.raises(TypeError):
        load_bundle(plain, True)  # type: ignore[misc]


def test_a_bundle_tells_what_it_is(plain: Path, world: Any) -> None:
    bundle = load_bundle(str(plain), allow_pickle=True)
    plain.unlink()
    assert "plain.n4a" in repr(bundle)
    assert "PLSRegression, 3 folds averaged" in repr(bundle)
    assert "100 channels 850 to 1050 nm" in repr(bundle)
    assert "predicts 'fat'" in repr(bundle)
    assert bundle.manifest["bundle_format_version"] == "1.0"
    assert bundle.manifest["chain_id"] == world.chains["folds"]
    assert bundle.chain["model_step_idx"] == 4
    assert bundle.wavelengths is not None
    np.testing.assert_array_equal(bundle.wavelengths, world.wavelengths)
    np.testing.assert_array_equal(bundle.chain["wavelengths"], world.wavelengths)
    stored = world.shelf.chains[world.chains["folds"]]
    assert bundle.chain["created_at"] == stored["created_at"]
    assert bundle.chain["metadata"] == stored["metadata"]
    assert bundle.predict(world.new).shape == (65,)


def test_spectra_that_do_not_fit_are_refused(plain: Path, world: Any) -> None:
    bundle = load_bundle(plain, allow_pickle=True)
    with pytest.raises(ShapeMismatch, match="100 channels"):
        bundle.predict(world.new[:, :99])
    with pytest.raises(ShapeMismatch, match="grid"):
        bundle.predict(world.new, world.wavelengths + 1)
    bundle.predict(world.new, world.wavelengths)


def test_probabilities_of_fold_classifiers_are_kept(world: Any, tmp_path: Path) -> None:
    chain_id = world.chains["soft votes"]
    bundle = load_bundle(export_chain(world.shelf, chain_id, tmp_path / "x"), allow_pickle=True)
    chain = ChainPredictor(world.shelf.chains[chain_id], world.shelf.load)
    np.testing.assert_array_equal(bundle.predict_proba(world.new), chain.predict_proba(world.new))
    assert bundle.classes.tolist() == chain.classes_.tolist()


def test_votes_are_not_sold_as_probabilities(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["hard votes"], tmp_path / "x")
    with pytest.raises(AttributeError, match="predict_proba"):
        load_bundle(path, allow_pickle=True).predict_proba(world.new)


def test_a_path_without_a_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.n4a") as caught:
        load_bundle(tmp_path / "nothing.n4a")
    assert isinstance(caught.value, BundleMissing)
    assert isinstance(caught.value, NirsStoreError)


def test_folders_scripts_and_other_files_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match="is a folder"):
        load_bundle(tmp_path)
    (tmp_path / "empty.n4a").touch()
    with pytest.raises(BundleInvalid, match="not a ZIP file"):
        load_bundle(tmp_path / "empty.n4a")
    (tmp_path / "model.n4a.py").write_text("import numpy\n" * 10)
    with pytest.raises(BundleInvalid, match="Python script"):
        load_bundle(tmp_path / "model.n4a.py")


def test_a_zip_without_a_manifest_is_no_bundle(kit: Any, tmp_path: Path) -> None:
    path = kit.write_zip(tmp_path / "x.n4a", [("artifacts/step_1.joblib", b"")])
    with pytest.raises(BundleInvalid, match=r"without manifest\.json"):
        load_bundle(path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_bundle_is_refused(plain: Path, kept: float) -> None:
    data = plain.read_bytes()
    plain.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BundleInvalid, match=r"cut off|not a ZIP"):
        load_bundle(plain, allow_pickle=True)


def test_every_flipped_bit_is_found(toy: Any, tmp_path: Path) -> None:
    path = export_chain(toy, "chain-0", tmp_path / "x")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    unnoticed = []
    for place in rng.choice(len(data), 150, replace=False).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :])
        try:
            load_bundle(path, allow_pickle=True)
        except BundleInvalid:
            continue
        unnoticed.append(place)
    # Dates, attributes and versions in ZIP headers carry nothing that anybody reads.
    members = [m for m in toy_ranges(data) for place in unnoticed if m[0] <= place < m[1]]
    assert not members


def toy_ranges(data: bytes) -> list[tuple[int, int]]:
    """Where the contents of stored members lie."""
    found, place = [], 0
    while data[place : place + 4] == b"PK\x03\x04":
        size = int.from_bytes(data[place + 18 : place + 22], "little")
        names = int.from_bytes(data[place + 26 : place + 28], "little")
        start = place + 30 + names + int.from_bytes(data[place + 28 : place + 30], "little")
        found.append((start, start + size))
        place = start + size
    return found


def test_a_missing_member_is_named(plain: Path, repack: Any) -> None:
    repack(plain, lambda members: members.pop("artifacts/step_2_sub0.joblib"))
    with pytest.raises(BundleInvalid, match=r"artifacts/step_2_sub0\.joblib is missing"):
        load_bundle(plain, allow_pickle=True)


def test_a_renamed_member_is_refused(plain: Path, repack: Any) -> None:
    def rename(members: dict[str, bytes]) -> None:
        members["artifacts/step_3_sub0.joblib"] = members.pop("artifacts/step_2_sub0.joblib")

    repack(plain, rename)
    with pytest.raises(BundleInvalid, match="missing"):
        load_bundle(plain, allow_pickle=True)


def test_an_added_member_is_refused(plain: Path, repack: Any) -> None:
    repack(plain, lambda members: members.update({"artifacts/step_2_sub1.joblib": b"x"}))
    with pytest.raises(BundleInvalid, match="not listed"):
        load_bundle(plain, allow_pickle=True)


def test_a_listed_member_of_a_strange_name_is_refused(plain: Path, repack: Any, kit: Any) -> None:
    def add(members: dict[str, bytes]) -> None:
        members["setup.py"] = b"print()"
        entry = {"name": "setup.py", "size": 7, "sha256": kit.sha256_hex(b"print()"), "role": "blob"}
        edit(members, "nirs_store.json", lambda record: record["members"].append(entry))

    repack(plain, add)
    with pytest.raises(BundleInvalid, match=r"setup\.py"):
        load_bundle(plain, allow_pickle=True)


def test_a_listed_size_that_is_wrong_is_refused(plain: Path, repack: Any) -> None:
    def change(record: dict[str, Any]) -> None:
        record["members"][-1]["size"] += 1

    repack(plain, lambda members: edit(members, "nirs_store.json", change))
    with pytest.raises(BundleInvalid, match="listed are"):
        load_bundle(plain, allow_pickle=True)


def test_two_exchanged_members_have_wrong_hashes(plain: Path, repack: Any) -> None:
    def exchange(members: dict[str, bytes]) -> None:
        one, two = "artifacts/step_4_fold0.joblib", "artifacts/step_4_fold1.joblib"
        assert len(members[one]) == len(members[two])
        members[one], members[two] = members[two], members[one]

    repack(plain, exchange)
    with pytest.raises(BundleInvalid, match="SHA-256"):
        load_bundle(plain, allow_pickle=True)


def test_a_changed_manifest_has_a_wrong_hash(plain: Path, repack: Any) -> None:
    def change(members: dict[str, bytes]) -> None:
        members["manifest.json"] = members["manifest.json"].replace(
            b'"model_step_index": 4', b'"model_step_index": 2'
        )

    repack(plain, change)
    with pytest.raises(BundleInvalid, match=r"manifest\.json has the SHA-256"):
        load_bundle(plain, allow_pickle=True)


def test_our_manifest_may_not_be_taken_out(plain: Path, repack: Any) -> None:
    repack(plain, lambda members: members.pop("nirs_store.json"))
    with pytest.raises(BundleInvalid, match=r"nirs_store\.json"):
        load_bundle(plain, allow_pickle=True)


def test_a_transformer_that_cannot_be_loaded_is_never_skipped(plain: Path, repack: Any, kit: Any) -> None:
    def damage(members: dict[str, bytes]) -> None:
        name = "artifacts/step_2_sub0.joblib"
        members[name] = members[name][:200]
        relist(kit, members)

    repack(plain, damage)
    with pytest.raises(BundleInvalid, match=r"step_2_sub0\.joblib cannot be loaded"):
        load_bundle(plain, allow_pickle=True)


def test_a_chain_that_names_an_object_which_is_not_there_is_refused(plain: Path, repack: Any) -> None:
    def change(members: dict[str, bytes]) -> None:
        edit(
            members,
            "nirs_store.json",
            lambda record: record["chain"]["steps"][0].update(artifact_ids=["0" * 64]),
        )

    repack(plain, change)
    with pytest.raises(BundleInvalid, match="0000', which no member has"):
        load_bundle(plain, allow_pickle=True)


@pytest.mark.parametrize("key", ["steps", "model_step_idx", "fold_artifacts"])
def test_a_chain_without_what_it_needs_is_refused(plain: Path, repack: Any, key: str) -> None:
    repack(plain, lambda members: edit(members, "nirs_store.json", lambda record: record["chain"].pop(key)))
    with pytest.raises(BundleInvalid, match="chain"):
        load_bundle(plain, allow_pickle=True)


def test_a_newer_format_is_refused_before_anything_else(plain: Path, repack: Any) -> None:
    def change(members: dict[str, bytes]) -> None:
        edit(members, "manifest.json", lambda manifest: manifest.update(bundle_format_version="1.1"))

    repack(plain, change)
    with pytest.raises(BundleTooNew, match=r"1\.1.*1\.0"):
        load_bundle(plain)


def test_a_newer_record_is_refused(plain: Path, repack: Any) -> None:
    repack(plain, lambda members: edit(members, "nirs_store.json", lambda r: r.update(record_version=2)))
    with pytest.raises(BundleTooNew, match=r"nirs_store\.json has version 2"):
        load_bundle(plain, allow_pickle=True)


def test_a_bundle_of_a_kind_that_is_not_known_here_says_so(plain: Path, repack: Any) -> None:
    repack(
        plain, lambda members: edit(members, "nirs_store.json", lambda record: record.update(kind="skops"))
    )
    with pytest.raises(BundleInvalid, match="skops"):
        load_bundle(plain, allow_pickle=True)


def test_a_bundle_that_predicts_other_numbers_than_at_its_export_is_refused(
    plain: Path, repack: Any, kit: Any
) -> None:
    def change(members: dict[str, bytes]) -> None:
        record = json.loads(members["nirs_store.json"])
        old = record["probe"]["expected"]
        data = kit.npy(np.array([1.0, 2.0, 3.0, 4.0]))
        new = f"arrays/{kit.sha256_hex(data)}.npy"
        del members[old]
        members[new] = data
        record["probe"]["expected"] = new
        next(m for m in record["members"] if m["name"] == old).update(
            name=new, size=len(data), sha256=kit.sha256_hex(data)
        )
        members["nirs_store.json"] = json.dumps(record).encode()

    repack(plain, change)
    with pytest.raises(BundleInvalid, match=r"probe spectra.*largest difference.*scikit-learn"):
        load_bundle(plain, allow_pickle=True)


def test_a_probe_whose_header_lies_about_its_size_is_refused(plain: Path, repack: Any, kit: Any) -> None:
    def change(members: dict[str, bytes]) -> None:
        record = json.loads(members["nirs_store.json"])
        name = record["probe"]["spectra"][0]
        members[name] = members[name].replace(b"(4, 100)", b"(9, 999)")
        relist(kit, members)

    repack(plain, change)
    with pytest.raises(BundleInvalid, match="probe spectra cannot be read"):
        load_bundle(plain, allow_pickle=True)


def test_another_scikit_learn_is_one_warning_that_names_both(plain: Path, repack: Any, kit: Any) -> None:
    import sklearn

    def change(members: dict[str, bytes]) -> None:
        now = sklearn.__version__.encode()
        old = b"1.6.1".ljust(len(now), b"0")
        for name in members:
            if name.endswith(".joblib"):
                members[name] = members[name].replace(now, old)
        relist(kit, members)
        edit(members, "nirs_store.json", lambda record: forge_ids(kit, record, members))

    repack(plain, change)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_bundle(plain, allow_pickle=True)
    assert len(caught) == 1
    assert "1.6.1" in str(caught[0].message)
    assert sklearn.__version__ in str(caught[0].message)
    assert caught[0].filename == __file__


def forge_ids(kit: Any, record: dict[str, Any], members: dict[str, bytes]) -> None:
    """Let the chain name the objects as they are now."""
    chain = record["chain"]
    for step in chain["steps"]:
        if "artifact_ids" in step:
            step["artifact_ids"] = [kit.sha256_hex(members[f"artifacts/step_{step['step_idx']}_sub0.joblib"])]
    for fold in chain["fold_artifacts"]:
        number = fold.removeprefix("fold_")
        chain["fold_artifacts"][fold] = kit.sha256_hex(members[f"artifacts/step_4_fold{number}.joblib"])


def test_warnings_of_others_come_through(kit: Any, toy: Any, tmp_path: Path) -> None:
    toy.chains["chain-0"]["steps"][0]["artifact_id"] = toy.keep(kit.Warns(), "pickle")
    path = export_chain(toy, "chain-0", tmp_path / "x")
    with pytest.warns(UserWarning, match="from the constructor"):
        load_bundle(path, allow_pickle=True)


def test_a_package_that_is_missing_is_named_with_its_classes(kit: Any, tmp_path: Path) -> None:
    evil = kit.dumped(kit.Touch("x")).replace(b"pathlib", b"pathlob")
    members = [("manifest.json", b'{"model_step_index": 1}'), ("artifacts/step_1.joblib", evil)]
    path = kit.write_zip(tmp_path / "x.n4a", members)
    with pytest.raises(BundleInvalid, match=r"package 'pathlob'.*pathlob\.PosixPath|package 'pathlob'.*Path"):
        load_bundle(path, allow_pickle=True)
