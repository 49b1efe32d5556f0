"""Names, versions and aliases of calibrations, and every place that takes a name for a chain."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from servicekit import GRID, NEW, Recorded, X, Y, alter, record
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold

from nirs_store import WorkspaceStore, load_bundle, record_cross_validation
from nirs_store.bundle import inspect_bundle
from nirs_store.errors import (
    BundleInvalid,
    CalibrationInUse,
    CalibrationNotFound,
    ForbiddenContent,
    InvalidInput,
    NirsStoreError,
    OutlierFound,
    OutlierWarning,
    ReadOnlyStore,
    UnknownId,
)


@pytest.mark.everywhere
def test_versions_count_up_and_keep_what_was_known(store: WorkspaceStore, recorded: Recorded) -> None:
    first = store.calibrations.register(
        "fat in meat", recorded.first[-8:], scope={"range": (0, 60)}, note="pilot"
    )
    second = store.calibrations.register("fat in meat", recorded.second, alias="candidate")
    assert (first.version, first.chain_id, first.note, first.scope) == (
        1,
        recorded.first,
        "pilot",
        {"range": [0.0, 60.0]},
    )
    assert (second.version, second.aliases) == (2, ("candidate",))
    listed = store.calibrations.versions("fat in meat")
    assert listed.select("version", "aliases", "chain_id").rows() == [
        (2, "candidate", recorded.second),
        (1, "", recorded.first),
    ]
    assert store.calibrations.list().select("name", "versions", "latest").rows() == [("fat in meat", 2, 2)]
    deleted = store.calibrations.delete("fat in meat@v1")
    assert deleted.version_id == first.version_id
    assert store.get_chain(recorded.first) is not None
    store.calibrations.remove_alias("fat in meat", "candidate")
    store.calibrations.delete("fat in meat@v2")
    # A number stands in reports and logs; it never means something else later.
    assert store.calibrations.register("fat in meat", recorded.first).version == 3


def test_figures_are_those_of_the_formulas(store: WorkspaceStore, recorded: Recorded) -> None:
    figures = store.calibrations.register("fat", recorded.second).figures
    parts = {
        (row["partition"], row["fold_id"] == "final"): []
        for row in store.query_predictions(chain_id=recorded.second).rows(named=True)
    }
    for row in store.query_predictions(chain_id=recorded.second).sort("prediction_id").rows(named=True):
        found = store.get_prediction(row["prediction_id"], load_arrays=True)
        assert found is not None
        parts[row["partition"], row["fold_id"] == "final"].append(found["y_pred"] - found["y_true"])
    fit = np.concatenate(parts["train", True])
    folds, test = np.concatenate(parts["val", False]), np.concatenate(parts["test", True])
    assert (figures["n_cal"], figures["p"], figures["n_test"]) == (90, 4, 30)
    assert figures["sec"] == pytest.approx(np.sqrt((fit**2).sum() / (90 - 4 - 1)))
    assert figures["secv"] == pytest.approx(folds.std(ddof=1))
    assert figures["sep"] == pytest.approx(test.std(ddof=1))
    assert figures["bias"] == pytest.approx(test.mean())
    assert figures["range"] == [Y.min(), Y.max()]


def test_several_targets_and_classes_have_figures_of_their_own(store: WorkspaceStore) -> None:
    both = pl.DataFrame({"fat": Y, "rest": 100 - Y + np.sin(np.arange(len(Y)))})
    chain = record(store, 3, both, target=None)
    figures = store.calibrations.register("both", chain).figures
    assert set(figures["targets"]) == {"fat", "rest"}
    assert figures["targets"]["fat"]["secv"] > 0
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    labels = np.where(np.median(Y) < Y, "fat", "lean")
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5)
    classes = record_cross_validation(
        store, model, X, labels, cv=KFold(3, shuffle=True, random_state=0), dataset_name="m"
    )
    figures = store.calibrations.register("kind", classes.chain_id).figures
    assert 0.5 < figures["accuracy_cv"] <= 1
    assert figures["n_cal"] == 90
    assert "secv" not in figures


def test_a_name_is_taken_wherever_a_chain_id_is(
    store: WorkspaceStore, recorded: Recorded, tmp_path: Any
) -> None:
    register = store.calibrations.register
    register("fat", recorded.first)
    version = register("fat", recorded.second)
    store.calibrations.set_alias("fat", "production", "v2")
    expected = store.replay_chain(recorded.second, NEW)
    for name in ("fat", "fat@production", "fat@v2", "fat@latest", "fat@V2", version):
        assert np.array_equal(store.replay_chain(name, NEW), expected)
    assert np.array_equal(store.replay_chain("fat@v1", NEW), store.replay_chain(recorded.first, NEW))
    assert store.calibrations.resolve("fat") == ("fat", 2, recorded.second)
    assert np.array_equal(store.predictor("fat").predict(NEW), expected)
    assert store.predict("fat", NEW, on_outlier="ignore").height == len(NEW)
    assert store.get_chain("fat@v1")["chain_id"] == recorded.first  # type: ignore[index]
    assert store.query_predictions(chain_id="fat@v1")["chain_id"].unique().to_list() == [recorded.first]
    assert store.review("fat").chain_id == recorded.second
    assert store.export_chain("fat@v1", tmp_path / "fat.n4a").is_file()
    assert store.compare_errors("fat@v1", "fat@v2").second == recorded.second
    assert store.top_chains(chain_id="fat").height == 1
    assert store.measurements.list(chain_id="fat").height == len(NEW)
    stored = store.files.put(b"x", "fat.txt", type="report", sources=[("chain", "fat@v1")])
    assert f"chain:{recorded.first}" in {
        str(link.source) for link in store.lineage.links(f"file:{stored.version_id}")
    }
    assert store.audit.history("calibration", "fat@v2")["operation"].to_list()[:2] == [
        "register_calibration",
        "set_alias",
    ]
    assert store.audit.history("chain", "fat@v1").height


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("fat@canditate", "Did you mean fat@candidate"),
        ("fta@candidate", "Did you mean 'fat'"),
        ("fat@v7", "has v1"),
        ("fat", "the name alone"),
        ("fat@", "after the '@'"),
        ("fat@candidate@x", "more than one"),
        ("Fat@candidate", "Did you mean 'fat'"),
        ("@candidate", "no calibration"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(
    store: WorkspaceStore, recorded: Recorded, given: str, words: str
) -> None:
    store.calibrations.register("fat", recorded.first, alias="candidate")
    for ask in (store.calibrations.resolve, lambda name: store.predict(name, NEW)):
        with pytest.raises(CalibrationNotFound, match=words):
            ask(given)


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("fat@v1", None), ("", None), ("  ", None), ("-fat", None), ("a\nb", None), ("f" * 101, None), (3, None),
        ("01a22b4e-702b-76dd-842f-d4e3889209d3", None), ("FAT", None), ("fa\ud800t", None),
        ("fat", "v2"), ("fat", "V02"), ("fat", "2"), ("fat", "latest"), ("fat", "LATEST"), ("fat", "my own"),
        ("fat", "a@b"), ("fat", ""), ("fat", "Candidate"), ("fat", "a\u202eb"),
    ],
)  # fmt: skip
def test_names_that_mislead_are_refused_and_change_nothing(
    store: WorkspaceStore, recorded: Recorded, name: Any, alias: str | None
) -> None:
    store.calibrations.register("fat", recorded.first, alias="candidate")
    with pytest.raises(InvalidInput, match=r"Nothing was|not valid Unicode"):
        store.calibrations.register(name, recorded.second, alias=alias)
    assert store.calibrations.versions("fat").height == 1
    assert store.calibrations.list().height == 1


def test_unicode_names_are_one_name_however_they_are_typed(store: WorkspaceStore, recorded: Recorded) -> None:
    composed, decomposed = "F\u00e4tt i k\u00f6tt", "Fa\u0308tt i ko\u0308tt"
    store.calibrations.register(decomposed, recorded.first, alias="production")
    assert store.calibrations.resolve(f"{composed}@production").chain_id == recorded.first
    assert store.calibrations.register(composed, recorded.second).version == 2


def test_a_name_that_could_be_a_part_of_an_id_is_never_guessed(
    store: WorkspaceStore, recorded: Recorded
) -> None:
    name = recorded.second[-8:]
    store.calibrations.register(name, recorded.first, alias="production")
    with pytest.raises(InvalidInput, match="fits 2 chains"):
        store.get_chain(name)
    assert store.get_chain(f"{name}@production")["chain_id"] == recorded.first  # type: ignore[index]


@pytest.mark.everywhere
def test_an_alias_moves_with_history_and_audit(store: WorkspaceStore, recorded: Recorded) -> None:
    calibrations = store.calibrations
    calibrations.register("fat", recorded.first, alias="production")
    calibrations.register("fat", recorded.second)
    calibrations.set_alias("fat", "production", "latest", reason="better RMSEP", user="Ada")
    calibrations.set_alias("fat", "production", 2)
    assert calibrations.aliases("fat") == {"production": 2}
    assert calibrations.remove_alias("fat", "production")
    assert not calibrations.remove_alias("fat", "production")
    changes = [
        (each.version, each.previous, each.reason) for each in calibrations.history("fat", "production")
    ]
    assert changes == [(1, None, "registered"), (2, 1, "better RMSEP"), (None, 2, None)]
    entries = store.audit.query(object_kind="calibration")["operation"].to_list()
    assert entries == [
        "register_calibration",
        "set_alias",
        "register_calibration",
        "set_alias",
        "remove_alias",
    ]
    assert store.audit.verify().ok
    for wrong in (3, 0, -1, "v3", "nobody", "other@v1"):
        with pytest.raises(CalibrationNotFound):
            calibrations.set_alias("fat", "production", wrong)
    calibrations.register("other", recorded.first)
    with pytest.raises(InvalidInput, match="another calibration"):
        calibrations.set_alias("fat", "production", "other@v1")


@pytest.mark.of_a_folder("it alters the file of the catalog")
def test_the_last_move_counts_whatever_the_clocks_say(recorded: Recorded) -> None:
    with WorkspaceStore(recorded.folder) as store:
        store.calibrations.register("fat", recorded.first, alias="production")
    # Of a machine whose clock is ten years ahead; its ids sort by its time too.
    alter(
        recorded.folder,
        "UPDATE calibration_aliases SET set_at = set_at + INTERVAL 10 YEARS, alias_id = 'f' || alias_id",
    )
    with WorkspaceStore(recorded.folder) as store:
        store.calibrations.register("fat", recorded.second)
        store.calibrations.set_alias("fat", "production", 2)
        assert store.calibrations.resolve("fat").version == 2
        assert store.calibrations.aliases("fat") == {"production": 2}
        assert store.calibrations.versions("fat")["aliases"].to_list() == ["production", ""]
        with pytest.raises(CalibrationInUse, match="fat@production"):
            store.delete_chain(recorded.second)
        assert store.delete_chain(recorded.first)


def test_what_an_alias_points_to_is_not_deleted(store: WorkspaceStore, recorded: Recorded) -> None:
    store.calibrations.register("fat", recorded.first, alias="production")
    with pytest.raises(CalibrationInUse, match="'production' points to it"):
        store.calibrations.delete("fat")
    assert (
        store.calibrations.plan_delete("fat@v1")
        if store.calibrations.remove_alias("fat", "production")
        else None
    )


def test_a_chain_of_an_open_pipeline_is_not_registered(store: WorkspaceStore) -> None:
    with store.run("r") as run, run.pipeline("p", dataset_name="d") as pipeline:
        chain = store.save_chain(pipeline.pipeline_id, [], 0, "M", "", "none", {}, {})
        with pytest.raises(InvalidInput, match="running"):
            store.calibrations.register("fat", chain)
    assert store.calibrations.register("fat", chain).figures["n_cal"] is None
    with pytest.raises((UnknownId, NirsStoreError)):
        store.calibrations.register("fat", "no such chain")


@pytest.mark.parametrize(
    "given", ["", " ", "@", "fat@ v1", "fat @v1", "\ud800@v1", "fat\x00@v1", "f" * 5000, "fat@v99999999999"]
)
def test_nothing_that_is_asked_for_gives_more_than_an_error(
    store: WorkspaceStore, recorded: Recorded, given: str
) -> None:
    store.calibrations.register("fat", recorded.first, alias="production")
    for ask in (store.calibrations.get, store.calibrations.versions, store.calibrations.aliases):
        with pytest.raises((CalibrationNotFound, InvalidInput)):
            ask(given)
    for strange in (None, 3, b"fat", ["fat"]):
        with pytest.raises((CalibrationNotFound, InvalidInput)):
            store.calibrations.get(strange)  # type: ignore[arg-type]


def test_a_run_may_have_the_name_of_a_calibration(store: WorkspaceStore, recorded: Recorded) -> None:
    store.calibrations.register("fat", recorded.first)
    runs = store.list_runs()["run_id"].to_list()
    store.rename_run(runs[0], "fat")
    assert store.compare(["fat", runs[1]], only_differences=False).height
    with pytest.raises(CalibrationNotFound):
        store.compare(["fat@production", runs[1]])


def test_an_alias_is_not_pointed_to_what_cannot_predict(store: WorkspaceStore, recorded: Recorded) -> None:
    store.calibrations.register("fat", recorded.first)
    store.delete_chain(recorded.first)
    with pytest.raises(CalibrationInUse, match="was deleted"):
        store.calibrations.set_alias("fat", "production", 1)
    with pytest.raises(CalibrationInUse, match="was deleted"):
        store.calibrations.sign("fat@v1", meaning="review")


def test_the_scope_flags_what_lies_outside(store: WorkspaceStore, recorded: Recorded) -> None:
    scope = {
        "matrix": ["Minced  meat", "sausage"],
        "instruments": "Lab 1",
        "range": (10, 20),
        "wavelengths": (850, 1050),
    }
    store.calibrations.register("fat", recorded.second, scope=scope, alias="production")

    def flags(**said: Any) -> list[set[str]]:
        found = store.predict("fat", NEW, on_outlier="ignore", **said)
        words = [{word.removeprefix("outside scope: ") for word in row if word.startswith("outside scope")}
                 for row in found["flags"]]  # fmt: skip
        for row, value in zip(words, found["prediction"], strict=True):
            assert ("range" in row) is not (10 <= value <= 20)
        return [row - {"range"} for row in words]

    assert flags(matrix="minced meat", instrument="lab 1", wavelengths=GRID) == [set()] * len(NEW)
    assert flags(matrix="milk", instrument="Lab 2") == [{"matrix", "instrument"}] * len(NEW)
    with pytest.warns(OutlierWarning, match="outside scope"):
        store.predict("fat", NEW)
    with pytest.raises(OutlierFound, match="fat@v1"):
        store.predict("fat", NEW, matrix="milk", on_outlier="raise")
    # A chain has no scope, and a challenger's own does not count.
    assert not any(
        "scope" in str(row) for row in store.predict(recorded.second, NEW, on_outlier="ignore")["flags"]
    )


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ({"matrices": "meat"}, "Did you mean 'matrix'"),
        ({"range": (3, 1)}, "lowest and the highest"),
        ({"range": (0, float("inf"))}, "lowest and the highest"),
        ({"range": {"fet": (0, 60)}}, "Did you mean 'fat'"),
        ({"instruments": []}, "a text or a list"),
        ({"wavelengths": "850"}, "lowest and the highest"),
        ("meat", "expected a dict"),
    ],
)
def test_a_scope_that_says_nothing_is_refused(
    store: WorkspaceStore, recorded: Recorded, scope: Any, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        store.calibrations.register("fat", recorded.first, scope=scope)
    assert store.calibrations.list().height == 0


BOTH = np.column_stack([Y, 100 - Y])


@pytest.mark.parametrize(
    ("values", "target", "limits", "words"),
    [
        (Y, None, {"fat": (0, 60)}, "no target name"),
        (Y, None, {"0": (0, 60)}, "no target name"),
        (Y, None, {"fat": (0, 60), "rest": (40, 99)}, "no target name"),
        (BOTH, None, {"fat": (0, 60)}, "predicts 0, 1"),
        (BOTH, None, {"0": (0, 60), "2": (0, 60)}, "predict '2'"),
        (BOTH, "fat", {"fat": (0, 60)}, "predicts 0, 1"),
        (pl.DataFrame({"fat": Y, "rest": 100 - Y}), None, {"0": (0, 60)}, "predicts fat, rest"),
    ],
)
def test_limits_that_nothing_would_check_are_refused(
    store: WorkspaceStore, values: Any, target: str | None, limits: dict[str, Any], words: str
) -> None:
    chain = record(store, 2, values, target=target)
    with pytest.raises(InvalidInput, match=f"{words}.*Nothing was registered"):
        store.calibrations.register("meat", chain, scope={"range": limits})
    assert store.calibrations.list().height == 0


@pytest.mark.parametrize(
    ("values", "names"),
    [(BOTH, ["0", "1"]), (pl.DataFrame({"fat": Y, "1": 100 - Y}), ["fat", "1"])],
)
def test_limits_by_the_names_in_the_predictions_are_checked(
    store: WorkspaceStore, values: Any, names: list[str]
) -> None:
    chain = record(store, 2, values, target=None)
    store.calibrations.register("meat", chain, scope={"range": {names[1]: (200, 300)}}, alias="production")
    found = store.predict("meat", NEW, on_outlier="ignore").select(
        "target", beyond=pl.col("flags").list.contains("outside scope: range")
    )
    assert found.rows() == [(name, name == names[1]) for _ in NEW for name in names]


def test_a_read_only_store_reads_names_and_changes_none(recorded: Recorded) -> None:
    with WorkspaceStore(recorded.folder) as store:
        store.calibrations.register("fat", recorded.first, alias="production")
        expected = store.replay_chain("fat", NEW)
    with WorkspaceStore(recorded.folder, read_only=True) as store:
        assert np.array_equal(store.replay_chain("fat", NEW), expected)
        changes: list[Callable[[], Any]] = [
            lambda: store.calibrations.register("fat", recorded.second),
            lambda: store.calibrations.set_alias("fat", "candidate", 1),
            lambda: store.calibrations.sign("fat", meaning="review"),
            lambda: store.calibrations.set_rule("fat", "production"),
            lambda: store.calibrations.delete("fat@v1"),
        ]
        for change in changes:
            with pytest.raises(ReadOnlyStore):
                change()


def test_the_guard_and_the_lineage_know_calibrations(store: WorkspaceStore, recorded: Recorded) -> None:
    version = store.calibrations.register("fat", recorded.first)
    links = {(str(link.source), str(link.target)) for link in store.lineage.links("fat@v1")}
    assert (f"chain:{recorded.first}", f"calibration:{version.version_id}") in links
    store.retention.pin("fat@v1", "kept")
    assert store.retention.pins().row(0)[:2] == ("chain", recorded.first)
    assert store.audit.history("calibration", version.version_id, related=False).height == 1
    assert store.statistics().counts["calibration_versions"] == 1
    store.audit.guard.forbid(keys=["mrn"], patterns=["secret"])
    for options in ({"metadata": {"MRN": 3}}, {"note": "a secret"}, {"scope": {"matrix": "secret"}}):
        with pytest.raises(ForbiddenContent):
            store.calibrations.register("fat", recorded.second, **options)  # type: ignore[arg-type]
    with pytest.raises(ForbiddenContent):
        store.calibrations.set_alias("fat", "production", 1, reason="secret")
    assert store.calibrations.versions("fat").height == 1


def test_a_version_knows_the_data_set_of_its_chain(store: WorkspaceStore) -> None:
    store.datasets.add("meat", X, references={"fat": Y}, wavelengths=GRID)
    model = PLSRegression(3, scale=False)
    chain = record_cross_validation(store, model, dataset="meat@v1", target="fat", cv=KFold(3)).chain_id
    expected = store.datasets.version("meat@v1").dataset_version_id
    assert store.calibrations.register("fat", chain).dataset_version_id == expected
    assert store.calibrations.register("fat", chain, dataset="meat@v1").dataset_version_id == expected
    assert "meat@v1, 90 samples" in store.calibrations.dossier("fat@v1", figures=False).to_html()
    with pytest.raises(NirsStoreError, match="meet"):
        store.calibrations.register("fat", chain, dataset="meet@v1")
    with pytest.raises(NirsStoreError, match="needed by the calibration fat@v1"):
        store.datasets.delete("meat@v1")


def test_predictors_and_bundles_keep_name_and_scope(
    store: WorkspaceStore, recorded: Recorded, tmp_path: Path
) -> None:
    scope = {"matrix": "meat", "range": (10, 20), "note": "pilot"}
    store.calibrations.register("fat", recorded.second, scope=scope, alias="production")
    expected = store.predict("fat", NEW, matrix="milk", on_outlier="ignore", log=False)
    assert {"outside scope: matrix", "outside scope: range"} <= {
        word for row in expected["flags"] for word in row
    }
    predictor = store.predictor("fat")
    for safe in (False, True):
        path = store.export_chain("fat@production", tmp_path / f"{safe}.n4a", safe=safe)
        bundle = load_bundle(path, allow_pickle=not safe)
        assert (bundle.facts["calibration"], bundle.scope["note"]) == ("fat@v1", "pilot")
        assert "fat@v1" in bundle._repr_html_()
        assert "fat@v1" in (inspect_bundle(path).card or "")
        for each in (predictor, pickle.loads(pickle.dumps(predictor)), bundle):
            found = each.predict_details(NEW, matrix="milk", on_outlier="ignore")
            assert found["flags"].to_list() == expected["flags"].to_list()
    imported = WorkspaceStore(tmp_path / "other")
    with imported:
        run = imported.import_bundle(tmp_path / "True.n4a")
        assert imported.get_run(run.run_id)["config"]["facts"]["calibration"] == "fat@v1"  # type: ignore[index]
        # The name is a fact about the file; here nothing is registered by it.
        assert imported.calibrations.list().height == 0
    plain = load_bundle(store.export_chain(recorded.second, tmp_path / "plain.n4a"), allow_pickle=True)
    assert ("calibration" in plain.facts, dict(plain.scope)) == (False, {})
    odd = store.export_chain(
        "fat", tmp_path / "odd.n4a", safe=True, facts={"calibration_scope": {"range": "all"}}
    )
    with pytest.raises(BundleInvalid, match="scope"):
        load_bundle(odd)
