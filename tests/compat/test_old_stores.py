"""Workspaces and bundles that earlier stages wrote open for ever and answer as they did."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nirs_store import WorkspaceStore, load_bundle
from nirs_store.errors import ShapeMismatch

ARCHIVES = sorted((Path(__file__).parent / "stores").glob("*.zip"))

pytestmark = pytest.mark.filterwarnings(
    # The frozen models were fitted with the scikit-learn of their day.
    "ignore:Trying to unpickle estimator",
    "ignore:.*was written with.*",
)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return unpacked(request.param, tmp_path)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem, scope="module")
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[WorkspaceStore, Path, dict[str, Any]]]:
    """A frozen store that was migrated once; tests only ask it."""
    folder, expected = unpacked(request.param, tmp_path_factory.mktemp("opened"))
    with WorkspaceStore(folder / "workspace") as store:
        yield store, folder, expected


def unpacked(archive: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder, json.loads((folder / "expected.json").read_text())


def test_every_schema_version_has_a_frozen_store(opened: tuple[WorkspaceStore, Path, dict[str, Any]]) -> None:
    newest = opened[0].sql("SELECT value FROM nirs_store_meta WHERE key = 'schema_version'").item()
    # Some versions have more than one: "schema-4-pickles" is of when models began to be dumped as plain pickles.
    versions = {int(path.stem.split("-")[1]) for path in ARCHIVES}
    assert versions == set(range(1, int(newest) + 1))


def test_a_frozen_store_answers_as_it_did(opened: tuple[WorkspaceStore, Path, dict[str, Any]]) -> None:
    store, _, expected = opened
    status = dict(store.list_runs().select("run_id", "status").iter_rows())
    stacked = {expected[key]: "completed" for key in ("stack_run", "named_run") if key in expected}
    assert status == {expected["recorded_run"]: "completed", expected["run_id"]: "failed"} | stacked
    run = store.get_run(expected["run_id"])
    assert run is not None
    assert run["config"] == {"alpha": 0.5, "nothing": None}
    assert store.query_predictions().height == expected["n_predictions"]
    bad, good = store.get_pipeline(expected["bad"]), store.get_pipeline(expected["good"])
    assert bad is not None
    assert good is not None
    assert (bad["status"], bad["error"], good["status"]) == ("failed", "it broke", "completed")
    assert store.get_pipeline_log(expected["bad"])["message"].to_list() == ["before the failure"]
    text = store.get_prediction(expected["text"], load_arrays=True)
    assert text is not None
    assert text["y_pred"].tolist() == ["a", "b", "b"]
    assert text["y_proba"].shape == (3, 2)
    np.testing.assert_allclose(
        store.replay_chain(expected["chain_id"], np.array(expected["X"])),
        expected["predicted"],
        rtol=1e-9,
    )


def test_frozen_records_and_stacks_answer_as_they_did(
    opened: tuple[WorkspaceStore, Path, dict[str, Any]],
) -> None:
    store, _, expected = opened
    for record in expected.get("records", ()):
        found = store.artifacts.resolve(record["artifact_id"])
        assert found is not None
        assert found.to_dict() | {"created_at": None} == record
    # What older stages recorded is found by the artifact layer as well.
    assert any(record.fold_id == "final" for record in store.artifacts.records())
    if "stack" in expected:
        again = store.replay_chain(expected["stack"], np.array(expected["X"]))
        np.testing.assert_allclose(again, expected["stacked"], rtol=1e-9)


def test_frozen_files_evaluations_and_trails_answer_as_they_did(
    opened: tuple[WorkspaceStore, Path, dict[str, Any]],
) -> None:
    store, _, expected = opened
    if "files" not in expected:
        pytest.skip("older than these")
    first, second = expected["files"]
    assert store.files.find("eval/positions.csv", version="best").version_id == first
    assert store.files.get("eval/positions.csv") == b"site,score\n1,0.5\n"
    assert store.files.metadata("eval/positions.json")["metadata"] == {"k": 3}
    assert f"file:{first}" in {str(link.source) for link in store.lineage.links(f"file:{second}")}
    assert store.evaluations.get(expected["evaluation"])["scores"] == {"reward": 0.75}
    assert store.evaluations.episodes(expected["evaluation"])["reward"].to_list() == [0.5, 1.0]
    assert store.retention.pins()["object_id"].to_list() == [expected["chain_id"]]
    assert store.audit.verify(expected["head"]).ok


def test_a_frozen_data_set_answers_as_it_did(opened: tuple[WorkspaceStore, Path, dict[str, Any]]) -> None:
    store, _, expected = opened
    if "dataset" not in expected:
        pytest.skip("older than data sets")
    reference, digest = expected["dataset"]
    assert store.datasets.version(reference).content_hash == digest
    found = store.datasets.get(reference, target="fat")
    assert found.X.dtype == np.float32
    assert store.datasets.diff("meat@v1", reference).corrected.height == len(found)


def test_a_frozen_calibration_means_what_it_did_and_its_signature_holds(
    opened: tuple[WorkspaceStore, Path, dict[str, Any]],
) -> None:
    store, _, expected = opened
    if "calibration" not in expected:
        pytest.skip("older than these")
    version_id, content, signed = expected["calibration"]
    version = store.calibrations.get("fat@production")
    assert (version.version_id, version.content_hash) == (version_id, content)
    assert version.chain_id == expected["chain_id"]
    found = store.calibrations.verify_signatures("fat", b"a frozen key of bytes")
    assert found.ok
    assert [each.content_hash for each in found.valid] == [signed]
    assert list(store.calibrations.rules("fat")) == ["production"]


def test_a_frozen_log_is_monitored_as_it_was(opened: tuple[WorkspaceStore, Path, dict[str, Any]]) -> None:
    store, _, expected = opened
    if "monitored" not in expected:
        pytest.skip("older than these")
    found = store.calibrations.monitor("fat").agreement
    assert [found.n, found.bias, found.sep, found.sep_limit] == pytest.approx(expected["monitored"])
    log = store.measurements.list("fat")
    np.testing.assert_allclose(log["prediction"] - log["raw"], 0.5)
    assert store.references.list(history=True).height == store.references.list().height + 1
    assert store.predict("fat", np.ones((1, 10)), log=False, on_outlier="ignore")["correction"][0].endswith(
        "y + 0.5"
    )


def test_the_targets_that_frozen_chains_name_in_their_metadata_are_columns(
    opened: tuple[WorkspaceStore, Path, dict[str, Any]],
) -> None:
    store, folder, expected = opened
    found = {
        row[0]: list(row[1:]) for row in store.sql("SELECT chain_id, target, target_unit FROM models").rows()
    }
    assert found[expected["chain_id"]] == expected.get("targets", {}).get(expected["chain_id"], [None, None])
    assert {key: found[key] for key in expected.get("targets", {})} == expected.get("targets", {})
    if "targets" not in expected:
        return
    with WorkspaceStore(folder / "other") as other:
        other.restore_archive(folder / "whole.zip")
        again = other.sql("SELECT chain_id, target, target_unit FROM models ORDER BY target LIMIT 1").row(0)
    assert again == (expected["chain_id"], *expected["targets"][expected["chain_id"]])


def test_a_frozen_bundle_predicts_as_it_did(frozen: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = frozen
    bundle = load_bundle(folder / "model.n4a", allow_pickle=True)
    np.testing.assert_allclose(bundle.predict(np.array(expected["X"])), expected["predicted"], rtol=1e-9)


def test_a_frozen_predictor_that_was_pickled_predicts_as_it_did(
    opened: tuple[WorkspaceStore, Path, dict[str, Any]],
) -> None:
    store, _, expected = opened
    if "predictor" not in expected:
        pytest.skip("older than these")
    predictor = store.load_artifact(expected["predictor"])
    np.testing.assert_allclose(predictor.predict(np.array(expected["X"])), expected["predicted"], rtol=1e-9)


def test_a_frozen_chain_of_named_columns_predicts_as_it_did_and_takes_no_others(
    opened: tuple[WorkspaceStore, Path, dict[str, Any]],
) -> None:
    store, _, expected = opened
    if "named" not in expected:
        pytest.skip("older than these")
    frame = pd.DataFrame(np.array(expected["X"]), columns=expected["named_columns"])
    found = store.replay_chain(expected["named"], frame)
    np.testing.assert_allclose(found, expected["named_predicted"], rtol=1e-9)
    with pytest.raises(ShapeMismatch):
        store.replay_chain(expected["named"], frame[frame.columns[::-1]])


def test_a_frozen_store_is_recorded_into(frozen: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = frozen
    with WorkspaceStore(folder / "workspace") as store, store.run("new"):
        pass
    with WorkspaceStore(folder / "workspace") as store:
        assert store.list_runs()["name"].to_list()[0] == "new"
        assert store.get_chain(expected["chain_id"]) is not None


@pytest.mark.filterwarnings("ignore:.*could not be applied")
def test_a_check_takes_what_an_older_version_made_for_no_damage(frozen: tuple[Path, dict[str, Any]]) -> None:
    with WorkspaceStore(frozen[0] / "workspace", read_only=True) as store:
        assert [str(each) for each in store.check().findings if each.severity != "info"] == []


def test_a_frozen_store_is_read_where_nothing_may_be_written(frozen: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = frozen
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with (
        pytest.warns(UserWarning, match="could not be applied"),
        WorkspaceStore(folder / "workspace", read_only=True) as store,
    ):
        np.testing.assert_allclose(
            store.replay_chain(expected["chain_id"], np.array(expected["X"])),
            expected["predicted"],
            rtol=1e-9,
        )
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
