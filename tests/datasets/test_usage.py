"""What chains have seen: recording from data sets, finding chains by sample, leaks, coded checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation, record_search, record_stacking
from nirs_store.errors import InvalidInput, OverwriteRefused, RecordingWarning, UnknownDataset

MEAT = load_tecator()
# Tecator holds spectra twice; these tests want each once.
_, ONCE = np.unique(MEAT.X, axis=0, return_index=True)
X, FAT, WATER = MEAT.X[np.sort(ONCE)], MEAT.fat[np.sort(ONCE)], MEAT.water[np.sort(ONCE)]
NAMES = [f"m{n}" for n in range(len(X))]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path / "workspace") as opened:
        yield opened


def add(store: WorkspaceStore, spectra: Any = X, fat: Any = FAT, **about: Any) -> Any:
    n = len(spectra)
    about = {"ids": NAMES[:n], "references": {"fat": fat, "water": WATER[:n]}} | about
    return store.datasets.add(
        "meat", spectra, wavelengths=MEAT.wavelengths, unit="nm", units={"fat": "%"}, **about
    )


def record(store: WorkspaceStore, dataset: Any = "meat", **options: Any) -> str:
    options = {"cv": 4, "target": "fat", **options}
    return record_cross_validation(store, PLSRegression(3, scale=False), dataset=dataset, **options).chain_id


def test_a_chain_says_which_version_and_rows_it_was_fitted_on(store: WorkspaceStore) -> None:
    fat = FAT.copy()
    fat[[3, 40]] = np.nan
    add(store, fat=fat)
    with pytest.warns(RecordingWarning, match=r"2 of \d+ samples of meat@v1"):
        chain = record(store)
    known = np.setdiff1d(np.arange(len(X)), [3, 40])
    again = record_cross_validation(
        store, PLSRegression(3, scale=False), X[known], FAT[known], cv=4, dataset_name="arrays"
    ).chain_id
    np.testing.assert_array_equal(store.replay_chain(chain, X), store.replay_chain(again, X))
    seen = store.datasets.of_chain(chain)
    np.testing.assert_array_equal(seen.X, X[known])
    np.testing.assert_array_equal(seen.y, FAT[known])
    found = store.get_chain(chain)
    assert found is not None
    assert (found["target"], found["target_unit"]) == ("fat", "%")
    assert found["metadata"]["dataset_rows"] == [[0, 3], [4, 40], [41, len(X)]]
    # The sample is in the data set, and the chain has left it out.
    # What was recorded from arrays may have seen any sample.
    for sought, there in (({"sample": "m3"}, []), ({"sample": "m4"}, [chain]), ({"spectra": X[4]}, [chain])):
        with pytest.warns(RecordingWarning, match="^1 chain was recorded from arrays: .* is not known"):
            assert store.datasets.chains_of(**sought)["chain_id"].to_list() == there
    assert store.datasets.chains_of(dataset="meat")["chain_id"].to_list() == [chain]
    with pytest.raises(InvalidInput, match="only their hash was kept"):
        store.datasets.of_chain(again)


def test_the_chains_that_have_seen_a_sample_are_found_by_name_and_by_spectrum(store: WorkspaceStore) -> None:
    add(store)
    store.datasets.select("meat", "test", rows=range(0, len(X), 4))
    store.datasets.select("meat", "cal", rows=range(0, len(X), 4), invert=True)
    chain = record(store, "cal", X_test="test@v1")
    board = store.screen("meat@v1", target="water", components=[2, 3], cv=KFold(3))
    search = GridSearchCV(PLSRegression(), {"n_components": [2, 4]}, cv=KFold(3))
    searched = record_search(store, search, "cal", target="fat")

    def seen(**sought: Any) -> set[tuple[str, str]]:
        return set(store.datasets.chains_of(**sought).select("chain_id", "role").rows())

    screened = {(row, "calibration") for row in board.frame["chain_id"]}
    tried = {(row, "calibration") for row in searched.frame["chain_id"]}
    assert seen(sample="m4") == {(chain, "test"), *screened}
    assert seen(sample="m5") == {(chain, "calibration"), *screened, *tried}
    assert seen(spectra=X[5].astype(np.float64)) == seen(sample="m5")
    assert seen(dataset="cal@v1") == {(chain, "calibration"), *tried}
    assert seen(dataset="test") == {(chain, "test")}
    counted = store.datasets.chains_of(dataset="cal@v1")["samples"]
    assert set(counted) == {len(X) - len(range(0, len(X), 4))}
    with pytest.raises(InvalidInput, match="one of them"):
        store.datasets.chains_of("m5", dataset="cal@v1")
    assert seen(sample="nobody") == seen(spectra=X[5] + 1e-9) == set()
    with pytest.raises(OverwriteRefused, match="the chain"):
        store.datasets.delete("cal@v1")
    store.datasets.delete("cal@v1", force=True)
    with pytest.warns(RecordingWarning, match="deleted"):
        assert seen(sample="m5") == screened
    with pytest.raises(UnknownDataset, match="cal@v1, which has been deleted"):
        store.datasets.of_chain(chain)


def test_stored_samples_go_where_spectra_go(store: WorkspaceStore) -> None:
    add(store)
    chain = record(store)
    details = store.predict(chain, "meat@v1", on_outlier="ignore")
    np.testing.assert_array_equal(details["prediction"].to_numpy(), store.replay_chain(chain, X).ravel())
    assert details["sample"].to_list() == NAMES
    np.testing.assert_array_equal(store.transform(chain, "meat"), store.transform(chain, X))
    stack = record_stacking(store, [chain], Ridge(), "meat", target="fat").chain_id
    assert set(store.datasets.chains_of("m2")["chain_id"]) == {chain, stack}
    by_hand = record_stacking(store, [chain], Ridge(), X, FAT, sample_ids=NAMES).chain_id
    np.testing.assert_array_equal(store.replay_chain(stack, X), store.replay_chain(by_hand, X))
    whole = store.diagnose(chain)
    assert whole.is_calibration
    assert store.diagnose(chain, "meat").samples.equals(whole.samples)
    before = store.domain(chain)
    assert before is not None
    assert store.add_domain(chain).to_bytes() == before.to_bytes()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_spectra_of_any_dtype_are_known_as_the_calibration(store: WorkspaceStore, dtype: str) -> None:
    add(store, spectra=(X * 1000).astype(dtype))
    chain = record(store)
    assert store.diagnose(chain).is_calibration
    assert store.diagnose(store.screen("meat", target="fat", components=[2], cv=3).best()).is_calibration


def test_an_archived_run_brings_its_data_set(store: WorkspaceStore, tmp_path: Path) -> None:
    add(store)
    store.datasets.add("other", X)
    chain = record(store)
    store.archive(tmp_path / "run.zip", runs=store.list_runs()["run_id"].to_list())
    with WorkspaceStore(tmp_path / "second") as second:
        second.restore_archive(tmp_path / "run.zip")
        assert second.datasets.list()["name"].to_list() == ["meat"]
        np.testing.assert_array_equal(second.datasets.of_chain(chain).X, X)
        assert second.datasets.chains_of("m1")["chain_id"].to_list() == [chain]


def codes(store: WorkspaceStore, chain: str) -> dict[str, str]:
    found = store.review(chain)
    assert {"R14", "R15", "R16", "R17", "R18"} - set(found.checked) <= {"R14"}
    return {each.code: each.message for each in found.findings if each.code >= "R14"}


def test_checks_of_stored_spectra_find_what_they_are_for(store: WorkspaceStore) -> None:
    add(store)
    assert codes(store, record(store)) == {}
    # The same spectrum under another name, of another type: names say nothing.
    leaked = np.vstack([X[10:12], X[100:110] * 1.01])
    store.datasets.add("test", leaked, references={"fat": FAT[:12]}, ids=[f"t{n}" for n in range(12)])
    store.datasets.add("fine", X[:20] * 1.02, references={"fat": FAT[:20]})
    assert "for example t0, there m10" in codes(store, record(store, X_test="test"))["R14"]
    assert "R14" not in codes(store, record(store, X_test="fine"))
    assert store.datasets.in_common("meat", "test").rows() == [("m10", "t0", 10, 0), ("m11", "t1", 11, 1)]

    bad = X.copy()
    bad[7] = 0.3
    bad[9, 40:60] = bad[9].max() + 0.1
    bad[11] = bad[100]
    add(store, spectra=bad)
    found = codes(store, record(store))
    assert set(found) == {"R15", "R16", "R17", "R18"}
    assert "m7" in found["R16"]
    assert found["R17"].startswith("1 spectra")
    assert "m9" in found["R17"]
    assert "m11 and m100; 1 of them" in found["R18"]
    add(store, groups=[n // 2 for n in range(len(X))])
    # Groups of the caller's own part those of the data set, which a cross-validation keeps together by itself.
    assert "the same group (0)" in codes(store, record(store, groups=range(len(X))))["R15"]
    assert codes(store, record(store)) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "meat"}, "expected a column of meat"),
        ({"dataset": "meat", "target": "fatt"}, "Did you mean 'fat'"),
        ({"dataset": "meet", "target": "fat"}, "Did you mean 'meat'"),
        ({"dataset": "meat", "target": "empty"}, "no sample of meat@v1"),
        ({"dataset": "meat", "X": X, "target": "fat"}, "X was given as well"),
        ({}, "found None"),
        ({"X": X, "y": FAT}, "dataset_name"),
    ],
)
def test_what_cannot_be_recorded_is_said_before_anything_is(
    store: WorkspaceStore, given: dict[str, Any], words: str
) -> None:
    store.datasets.add("meat", X, references={"fat": FAT, "empty": [np.nan] * len(X)})
    with pytest.raises((InvalidInput, UnknownDataset), match=words):
        record_cross_validation(store, PLSRegression(2), cv=3, **given)
    assert store.list_runs().is_empty()
