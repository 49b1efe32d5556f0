from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from nirs_store.chains.folds import (
    chain_artifact_ids,
    fold_key,
    fold_number,
    normalise_folds,
    normalise_weights,
    source_map,
)
from nirs_store.errors import InvalidInput


@pytest.mark.parametrize("spelling", [0, "0", "fold_0", "fold0", " fold_0 ", np.int64(0), "fold_00"])
def test_all_spellings_of_the_first_fold_mean_the_same(spelling: Any) -> None:
    assert fold_key(spelling) == "fold_0"
    assert fold_number(spelling) == 0


@pytest.mark.parametrize("spelling", ["final", "fold_final", "foldfinal", "refit", "fold_refit"])
def test_all_spellings_of_the_refit_mean_the_same(spelling: str) -> None:
    assert fold_key(spelling) == "fold_final"
    assert fold_number(spelling) is None


@pytest.mark.parametrize("key", ["avg", "fold_avg", "-1", -1, "", None, True, 1.5, "fold_1_PLS"])
def test_what_is_no_fold_is_refused_by_name(key: Any) -> None:
    with pytest.raises(InvalidInput, match="is not the key of a fold") as caught:
        fold_key(key)
    assert repr(key) in str(caught.value)


def test_folds_are_sorted_by_number_with_the_refit_last() -> None:
    folds = normalise_folds({"final": "r", "10": "k", "fold_2": "c", 1: "b"}, "fold_artifacts")
    assert list(folds) == ["fold_1", "fold_2", "fold_10", "fold_final"]


def test_two_spellings_of_a_fold_may_agree_but_not_differ() -> None:
    assert normalise_folds({"0": "a", "fold_0": "a"}, "fold_artifacts") == {"fold_0": "a"}
    with pytest.raises(InvalidInput, match="both mean 'fold_0'"):
        normalise_folds({"0": "a", "fold_0": "b"}, "fold_artifacts")


def test_weights_are_checked_and_kept_as_they_are() -> None:
    assert normalise_weights({0: 2, "1": 0.5}) == {"fold_0": 2.0, "fold_1": 0.5}
    assert normalise_weights(None) is None
    for wrong in ({0: -1.0}, {0: float("nan")}, {0: "heavy"}, {0: None}, {0: 0.0, 1: 0.0}):
        with pytest.raises(InvalidInput, match="fold_weights"):
            normalise_weights(wrong)


def test_every_artifact_is_listed_once_in_the_order_of_the_steps() -> None:
    steps = [
        {"step_idx": 0, "artifact_id": "snv"},
        {"step_idx": 1, "artifact_ids": ["scaler", "snv"]},
        {"step_idx": 2, "fold_artifact_ids": {"1": ["pca_1"], 0: "pca_0"}},
        {"step_idx": 3, "artifact_id": None, "artifact_ids": []},
    ]
    shared = {
        0: "snv",
        "1": ["scaler"],
        "2": None,
        "9": ["late"],
        "_source_map": {"1": {"0": ["msc"], "1": []}, 8: {0: "orphan"}},
    }
    ids = chain_artifact_ids(steps, {"final": "refit", "1": "pls_1", "0": "pls_0"}, shared)
    assert ids == ["snv", "scaler", "msc", "pca_0", "pca_1", "late", "orphan", "pls_0", "pls_1", "refit"]


def test_a_chain_without_artifacts_lists_none() -> None:
    assert chain_artifact_ids([], {}, {}) == []
    assert chain_artifact_ids([{"step_idx": 0}], None, None) == []


@pytest.mark.parametrize(
    ("steps", "folds", "shared", "named"),
    [
        ("scaler", {}, {}, "steps must be a list"),
        (["scaler"], {}, {}, r"steps\[0\] must be a dict"),
        ([{"artifact_id": 7}], {}, {}, r"steps\[0\]\['artifact_id'\]"),
        ([{"artifact_id": ""}], {}, {}, r"steps\[0\]\['artifact_id'\]"),
        ([{}, {"artifact_ids": ["a", None]}], {}, {}, r"steps\[1\]\['artifact_ids'\]"),
        ([{"artifact_ids": {"a": 1}}], {}, {}, r"steps\[0\]\['artifact_ids'\]"),
        ([{"artifact_id": "x", "artifact_ids": ["a", "b"]}], {}, {}, "'x' as 'artifact_id'"),
        ([{"step_idx": "first"}], {}, {}, r"steps\[0\]\['step_idx'\]"),
        ([{"step_idx": -1}], {}, {}, r"steps\[0\]\['step_idx'\]"),
        ([{"step_idx": True}], {}, {}, r"steps\[0\]\['step_idx'\]"),
        ([{"fold_artifact_ids": ["a"]}], {}, {}, r"steps\[0\]\['fold_artifact_ids'\] must be a dict"),
        ([{"fold_artifact_ids": {"avg": "a"}}], {}, {}, r"steps\[0\]\['fold_artifact_ids'\].*'avg'"),
        ([{"fold_artifact_ids": {"0": [1]}}], {}, {}, r"\['fold_artifact_ids'\]\['fold_0'\]"),
        ([], ["a"], {}, "fold_artifacts must be a dict"),
        ([], {"0": ["a", "b"]}, {}, r"fold_artifacts\['fold_0'\]"),
        ([], {"0": None}, {}, r"fold_artifacts\['fold_0'\]"),
        ([], {"w_avg": "a"}, {}, "fold_artifacts.*'w_avg'"),
        ([], {}, ["a"], "shared_artifacts must be a dict"),
        ([], {}, {"scaler": "a"}, "key 'scaler' of shared_artifacts"),
        ([], {}, {"_other": "a"}, "key '_other' of shared_artifacts"),
        ([], {}, {"0": {"a": "b"}}, r"shared_artifacts\['0'\]"),
        ([], {}, {0: "a", "0": "b"}, "both mean|another key both"),
        ([], {}, {"_source_map": ["a"]}, "_source_map.*must be a dict"),
        ([], {}, {"_source_map": {"0": ["a"]}}, r"_source_map'\]\['0'\] must be a dict"),
        ([], {}, {"_source_map": {"0": {"nir": ["a"]}}}, "key 'nir'"),
        ([], {}, {"_source_map": {"0": {"0": [3]}}}, r"_source_map'\]\['0'\]\['0'\]"),
    ],
)
def test_a_shape_that_no_chain_can_have_is_refused_by_the_name_of_its_key(
    steps: Any, folds: Any, shared: Any, named: str
) -> None:
    with pytest.raises(InvalidInput, match=named):
        chain_artifact_ids(steps, folds, shared)


def test_the_source_map_reads_the_same_from_json_and_from_memory() -> None:
    memory = {"_source_map": {1: {1: ["b"], 0: ["a"]}}}
    json = {"_source_map": {"1": {"1": ["b"], "0": "a"}}}
    assert source_map(memory) == source_map(json) == {1: {0: ("a",), 1: ("b",)}}
    assert list(source_map(memory)[1]) == [0, 1]


def test_listing_artifacts_needs_no_numerical_library() -> None:
    code = (
        "import sys, nirs_store.chains.folds, nirs_store.chains; from nirs_store.chains import fold_key\n"
        "print(sorted({'numpy', 'sklearn', 'polars', 'pandas'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("step", [None, 3, "scaler", ["scaler"]])
def test_a_step_that_is_no_dict_is_refused(step: object) -> None:
    with pytest.raises(InvalidInput, match=r"steps\[0\] must be a dict"):
        chain_artifact_ids([step], {}, {})  # type: ignore[list-item]
