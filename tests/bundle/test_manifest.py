"""The two descriptions as values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nirs_store.bundle.manifest import (
    BundleRecord,
    Manifest,
    Origin,
    VersionOne,
    chain_from_json,
    dump_record,
    parse_record,
    read_environment,
)
from nirs_store.errors import BundleInvalid, BundleTooNew


def chain() -> dict[str, object]:
    step = {"step_idx": 1, "operator_class": "m", "operator_type": "model", "params": {}, "stateless": False}
    return {
        "chain_id": "c",
        "pipeline_id": None,
        "steps": [step],
        "model_step_idx": 1,
        "model_class": "m",
        "preprocessings": "",
        "fold_strategy": "",
        "fold_artifacts": {},
        "shared_artifacts": {},
        "branch_path": None,
        "source_index": None,
        "fold_weights": None,
        "wavelengths": None,
        "metadata": None,
        "created_at": None,
    }


def record() -> BundleRecord:
    return BundleRecord(
        record_version=1,
        kind="joblib",
        members=(),
        chain=chain(),
        origin=Origin(chain_id="c"),
        version_1_0=VersionOne(expressible=True),
        environment=read_environment(),
    )


def test_a_record_comes_back_as_it_was() -> None:
    assert parse_record(dump_record(record()), "x") == record()


def test_what_a_later_version_adds_is_ignored() -> None:
    found = json.loads(dump_record(record()))
    found["signature"] = {"by": "somebody"}
    assert parse_record(json.dumps(found).encode(), "x") == record()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("members", None, "members"),
        ("members", [{"name": "x"}], r"members\[0\]"),
        ("kind", "pickle", "kind"),
        ("chain", [], "chain"),
        ("chain", {**chain(), "steps": [None]}, r"steps\[0\]|steps\[\.\.\.\]"),
        ("chain", {**chain(), "fold_weights": {"0": "1"}}, "fold_weights"),
        ("chain", {**chain(), "wavelengths": ["a"]}, "wavelengths"),
        ("chain", {**chain(), "shared_artifacts": {"_source_map": {"0": []}}}, "shared_artifacts"),
        ("record_version", "1", "record_version"),
        ("environment", {"python": 3}, "environment"),
    ],
)
def test_a_record_of_another_shape_is_refused_with_the_place(key: str, value: object, reason: str) -> None:
    found = json.loads(dump_record(record()))
    found[key] = value
    with pytest.raises(BundleInvalid, match=reason):
        parse_record(json.dumps(found).encode(), "x")


def test_a_newer_record_is_too_new_even_if_its_shape_is_unknown() -> None:
    with pytest.raises(BundleTooNew, match="version 9"):
        parse_record(b'{"record_version": 9, "all": "different"}', "x")


def test_a_manifest_is_a_mapping_with_defaults() -> None:
    manifest = Manifest({"a": 1})
    assert (manifest.format_version, manifest.model_step_index, manifest.integrity) == ("1.0", None, {})
    assert dict(manifest) == {"a": 1}
    assert len(manifest) == 1
    assert "'a': 1" in repr(manifest)
    assert Manifest({"artifact_integrity": {"m": "sha256:AB"}}).integrity == {"m": "ab"}


def test_the_environment_names_what_pickles_depend_on() -> None:
    assert {"python", "numpy", "scikit-learn", "joblib", "nirs_store"} <= read_environment().keys()


def test_wavelengths_and_dates_become_values_again() -> None:
    chain = chain_from_json({"wavelengths": [1.5, 2.5], "created_at": "2026-01-02T03:04:05+00:00"})
    assert chain["wavelengths"].dtype == np.float64
    assert chain["created_at"].tzinfo is not None
    assert chain_from_json({"created_at": "yesterday"})["created_at"] is None
