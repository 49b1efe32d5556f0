"""Names, versions and aliases of calibrations, and every place that takes a name for a chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from servicekit import NEW, Recorded, X, Y, record

from nirs_store import WorkspaceStore
from nirs_store.errors import (
    CalibrationInUse,
    CalibrationNotFound,
    InvalidInput,
    NirsStoreError,
    UnknownId,
)


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
    from sklearn.model_selection import KFold

    from nirs_store import record_cross_validation

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
