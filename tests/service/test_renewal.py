"""Updates, challengers and transfer of calibrations."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from servicekit import GRID, MEAT, Recorded, X, Y, record
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupShuffleSplit, KFold, RepeatedKFold
from sklearn.preprocessing import FunctionTransformer, PowerTransformer, StandardScaler

from nirs_store import WorkspaceStore, load_bundle, read_spectra, record_cross_validation
from nirs_store.errors import (
    CalibrationNotFound,
    InvalidInput,
    RecordingWarning,
    ShapeMismatch,
    UnknownDataset,
    UnknownId,
)

# Some spectra of Tecator come twice.
_HELD = {row.tobytes() for row in X}
_FRESH = [row for row in range(120, 175) if MEAT.X[row, ::4].tobytes() not in _HELD][:40]
NEW, NEW_Y = MEAT.X[_FRESH, ::4], MEAT.fat[_FRESH]
TEST, TEST_Y = MEAT.X[160:200, ::4], MEAT.fat[160:200]


@pytest.fixture
def fat(store: WorkspaceStore, recorded: Recorded) -> WorkspaceStore:
    store.calibrations.register("fat", recorded.second, alias="production", scope={"matrix": "meat"})
    return store


def test_an_update_is_the_same_recipe_on_more_samples(fat: WorkspaceStore, recorded: Recorded) -> None:
    found = fat.calibrations.update(
        "fat@production", (NEW, NEW_Y), old_samples=(X, Y), test_samples=(TEST, TEST_Y)
    )
    assert (found.before.version, found.after.version, found.added) == (1, 2, 40)
    assert fat.calibrations.resolve("fat").version == 1  # no alias moved
    chain = fat.get_chain(found.after.chain_id)
    old = fat.get_chain(recorded.second)
    assert chain is not None
    assert old is not None
    assert chain["metadata"]["n_samples"] == len(Y) + 40
    assert [s["params"] for s in chain["steps"]] == [s["params"] for s in old["steps"]]
    assert found.after.scope == found.before.scope
    rows = {row["samples"]: row for row in found.comparison.to_dicts()}
    assert list(rows) == ["new samples", "old samples", "test samples"]
    before = fat.replay_chain(recorded.second, TEST)
    after = fat.replay_chain("fat@v2", TEST)
    for name, predicted in (("before", before), ("after", after)):
        assert rows["test samples"][f"rmse_{name}"] == pytest.approx(
            np.sqrt(np.mean((predicted - TEST_Y) ** 2))
        )
    folds = fat.chain_predictions(found.after.chain_id).sort("sample")["y_pred"].to_numpy()
    assert rows["new samples"]["rmse_after"] == pytest.approx(
        np.sqrt(np.mean((folds[len(Y) :] - NEW_Y) ** 2))
    )
    links = fat.lineage.links(("chain", found.after.chain_id))
    assert [link.source.id for link in links if link.link_type == "updated_from"] == [recorded.second]
    assert "no alias was moved" in repr(found)
    assert "new samples" in found._repr_html_()


def test_spectra_of_a_file_update_as_well(fat: WorkspaceStore, tmp_path: Path) -> None:
    lines = ["id;fat;" + ";".join(f"{value:.6f}" for value in GRID)]
    lines += [
        f"n{row};{'' if row == 3 else value};" + ";".join(f"{x:.9f}" for x in spectrum)
        for row, (value, spectrum) in enumerate(zip(NEW_Y[:20], NEW[:20], strict=True))
    ]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    spectra = read_spectra(tmp_path / "new.csv", target="fat")
    found = fat.calibrations.update("fat", spectra, old_samples=(X, Y, [f"o{row}" for row in range(len(Y))]))
    assert found.added == 19
    assert found.comparison["samples"].to_list() == ["new samples", "old samples"]


@pytest.mark.parametrize(
    ("new", "old", "error", "words"),
    [
        ((X[:5], Y[:5]), (X, Y), InvalidInput, "5 spectra of the calibration itself .rows 0, 1"),
        ((NEW[:, :9], NEW_Y), (X, Y), ShapeMismatch, "found 9"),
        ((NEW, NEW_Y), (X[:50], Y[:50]), InvalidInput, "was fitted on 90 samples"),
        ((NEW, NEW_Y), None, InvalidInput, "does not hold the samples"),
        ((NEW, NEW_Y[:5]), (X, Y), ShapeMismatch, "one value for each"),
        ((NEW, np.full(40, np.nan)), (X, Y), InvalidInput, "all are missing"),
        (NEW, (X, Y), InvalidInput, "expected"),
    ],
)
def test_samples_that_do_not_belong_together_change_nothing(
    fat: WorkspaceStore, new: Any, old: Any, error: type[Exception], words: str
) -> None:
    runs = fat.list_runs().height
    with pytest.raises(error, match=words):
        fat.calibrations.update("fat", new, old_samples=old)
    assert fat.list_runs().height == runs
    assert fat.calibrations.versions("fat").height == 1


def test_a_challenger_predicts_along_and_is_compared_on_the_same_samples(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    fat.calibrations.register("fat", recorded.first)
    assert fat.calibrations.challenge("fat", 2) == 2
    ids = [f"s{row}" for row in range(40)]
    returned = fat.predict("fat", TEST, sample_ids=ids, on_outlier="ignore")
    log = fat.measurements.list("fat")
    assert sorted(log["role"].unique()) == ["challenger", "reported"]
    along = log.filter(role="challenger")
    np.testing.assert_array_equal(along["prediction"], fat.replay_chain(recorded.first, TEST))
    np.testing.assert_array_equal(returned["prediction"], fat.replay_chain(recorded.second, TEST))
    fat.references.add_many({"sample_id": ids, "value": TEST_Y}, target="fat")
    found = fat.calibrations.monitor("fat")
    row = found.challengers.row(0, named=True)
    errors = along["prediction"].to_numpy() - TEST_Y
    assert (row["version"], row["n"], row["verdict"]) == (2, 40, "worse")
    assert row["rmsep"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert row["rmsep_reported"] == pytest.approx(found.agreement.rmsep)
    assert found.n_measurements == 40
    assert "challenger v2" in repr(found)
    fat.predict("fat@v2", TEST[:3], on_outlier="ignore")
    assert fat.measurements.list("fat", version=2, role="reported").height == 3
    assert fat.calibrations.challengers("fat") == (2,)
    assert fat.calibrations.end_challenge("fat", 2)
    assert not fat.calibrations.end_challenge("fat", "v2")
    fat.predict("fat", TEST[:3], on_outlier="ignore")
    assert fat.measurements.list(role="challenger").height == 40


def test_a_challenger_of_another_target_is_not_compared_with_references_of_this(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    other = record(fat, 3, Y / 2, target="protein")
    for chain in (other, recorded.first):
        fat.calibrations.challenge("fat", fat.calibrations.register("fat", chain))
    ids = [f"s{row}" for row in range(40)]
    fat.predict("fat", TEST, sample_ids=ids, on_outlier="ignore")
    log = fat.measurements.list("fat")
    assert {row: set(rows["target"]) for (row,), rows in log.group_by("version")} == {
        1: {"fat"}, 2: {"protein"}, 3: {"fat"},
    }  # fmt: skip
    fat.references.add_many({"sample_id": ids, "value": TEST_Y}, target="fat")
    assert fat.calibrations.monitor("fat").challengers.filter(pl.col("n") > 0)["version"].to_list() == [3]


def test_a_challenger_that_is_gone_never_hinders_a_prediction(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    with pytest.raises(CalibrationNotFound):
        fat.calibrations.challenge("fat", 7)
    fat.calibrations.register("fat", recorded.first)
    fat.calibrations.challenge("fat", "v2")
    fat.calibrations.delete("fat@v2")
    with pytest.warns(UserWarning, match="could not predict"):
        found = fat.predict("fat", TEST, on_outlier="ignore")
    assert found.height == len(fat.measurements) == 40


class Gain(TransformerMixin, BaseEstimator):  # type: ignore[misc,unused-ignore]
    """Divides by a factor that is learnt per channel; has no state of scikit-learn's own."""

    def fit(self, X: Any, y: Any) -> Gain:
        self.factor_ = np.asarray(X).mean(axis=0) / np.asarray(y).mean(axis=0)
        return self

    def transform(self, X: Any) -> Any:
        return np.asarray(X) / self.factor_


def other_instrument(spectra: np.ndarray) -> np.ndarray:
    return spectra * np.linspace(1.02, 1.08, spectra.shape[1])


def test_a_chain_is_transferred_and_replays_to_the_bit(
    fat: WorkspaceStore, recorded: Recorded, tmp_path: Path
) -> None:
    adapter = Gain().fit(other_instrument(X), X)
    ids = [f"t{row}" for row in range(40)]
    found = fat.derive_chain("fat", adapter, transfer_samples=(other_instrument(TEST), TEST_Y, ids), artifact_format="cloudpickle")  # fmt: skip
    before, after = (
        np.sqrt(np.mean((p - TEST_Y) ** 2))
        for p in (
            fat.replay_chain(recorded.second, other_instrument(TEST)),
            fat.replay_chain(found.chain_id, other_instrument(TEST)),
        )
    )
    assert (found.rmsep_before, found.rmsep_after) == (pytest.approx(before), pytest.approx(after))
    assert found.rmsep_after < found.rmsep_before  # type: ignore[operator]
    expected = fat.replay_chain(recorded.second, adapter.transform(other_instrument(TEST)))
    np.testing.assert_array_equal(fat.replay_chain(found.chain_id, other_instrument(TEST)), expected)
    links = fat.lineage.links(("chain", found.chain_id))
    assert [link.source.id for link in links if link.link_type == "transferred_from"] == [recorded.second]
    detailed = fat.predict(found.chain_id, other_instrument(TEST), on_outlier="ignore")
    same = fat.predict(recorded.second, adapter.transform(other_instrument(TEST)), on_outlier="ignore")
    assert detailed["t2"].to_list() == same["t2"].to_list()
    version = fat.calibrations.register("fat", found.chain_id)
    assert version.figures["rmsep"] == pytest.approx(after)
    bundle = load_bundle(fat.export_chain("fat@v2", tmp_path / "fat.n4a"), allow_pickle=True)
    np.testing.assert_array_equal(bundle.predict(other_instrument(TEST)), expected)


def test_direct_standardization_of_chemotools(fat: WorkspaceStore, recorded: Recorded) -> None:
    chemotools = pytest.importorskip("chemotools.adaptation", reason="no direct standardization here")
    adapter = chemotools.DirectStandardization().fit(other_instrument(X)[:30], X_source=X[:30])
    found = fat.derive_chain("fat", adapter)
    assert found.rmsep_before is None
    expected = fat.replay_chain(recorded.second, adapter.transform(other_instrument(TEST)))
    np.testing.assert_array_equal(fat.replay_chain(found.chain_id, other_instrument(TEST)), expected)


@pytest.mark.parametrize(
    ("adapter", "samples", "error", "words"),
    [
        (StandardScaler(), None, InvalidInput, "not fitted"),
        (object(), None, InvalidInput, "no transform"),
        (StandardScaler().fit(X[:, :9]), None, ShapeMismatch, "takes 25 channels"),
        (StandardScaler().fit(X[:, :9]), (TEST, TEST_Y), InvalidInput, "cannot transform"),
        (StandardScaler().fit(X), (TEST, ["a"] * 40), InvalidInput, "expected numbers"),
        (FunctionTransformer(np.copy).fit(X), (TEST, None), InvalidInput, "expected reference values"),
    ],
)
def test_an_adapter_that_does_not_fit_changes_nothing(
    fat: WorkspaceStore, adapter: Any, samples: Any, error: type[Exception], words: str
) -> None:
    runs = fat.list_runs().height
    with pytest.raises(error, match=words):
        fat.derive_chain("fat", adapter, transfer_samples=samples)
    with pytest.raises(UnknownId):
        fat.derive_chain("0" * 8, adapter)
    assert fat.list_runs().height == runs


def test_years_are_counted_in_utc(fat: WorkspaceStore) -> None:
    fat.predict("fat", TEST[:1], measured_at=datetime(2026, 1, 1, tzinfo=UTC), on_outlier="ignore")
    assert fat.measurements.list(since="2026-01-01", until="2026-01-01T01:00+00:00").height == 1
    assert fat.measurements.list(since="2026-01-01T02:00+01:00").height == 0


def test_a_data_set_tells_what_a_version_was_fitted_on(store: WorkspaceStore) -> None:
    both = MEAT.X[:, ::4]
    named = [f"m{row}" for row in range(len(both))]
    store.datasets.add("meat", both, references={"fat": MEAT.fat}, ids=named, wavelengths=GRID, unit="nm")
    old = store.datasets.get("meat", target="fat", rows=slice(0, 90))
    chain = record_cross_validation(store, PLSRegression(4, scale=False), old, cv=KFold(3)).chain_id
    store.calibrations.register("fat", chain)
    found = store.calibrations.update("fat@v1", store.datasets.get("meat", target="fat", rows=_FRESH))
    assert found.added == 40
    assert found.comparison["samples"].to_list() == ["new samples", "old samples"]
    turned = store.datasets.add(
        "turned", NEW[:, ::-1], references={"fat": NEW_Y}, wavelengths=GRID[::-1], unit="nm"
    )
    with pytest.raises(InvalidInput, match="wavelengths are not those"):
        store.calibrations.update("fat@v1", turned)


class Coarser(TransformerMixin, BaseEstimator):  # type: ignore[misc,unused-ignore]
    """Takes every fourth channel of an instrument with four times as many."""

    def fit(self, X: Any, y: Any = None) -> Coarser:
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X: Any) -> Any:
        return np.asarray(X)[:, ::4]


@pytest.mark.parametrize("grid", [None, MEAT.wavelengths])
def test_an_instrument_with_other_channels(fat: WorkspaceStore, recorded: Recorded, grid: Any) -> None:
    fine = MEAT.X[160:200]
    found = fat.derive_chain(
        "fat",
        Coarser().fit(MEAT.X),
        transfer_samples=(fine, TEST_Y),
        wavelengths=grid,
        artifact_format="cloudpickle",
    )
    assert found.rmsep_before is None
    expected = fat.replay_chain(recorded.second, TEST)
    assert found.rmsep_after == pytest.approx(np.sqrt(np.mean((expected - TEST_Y) ** 2)))
    np.testing.assert_array_equal(fat.replay_chain(found.chain_id, fine), expected)
    predictor = fat.predictor(found.chain_id)
    assert predictor.n_features_in_ == 100
    assert (predictor.wavelengths is None) == (grid is None)
    with pytest.raises(ShapeMismatch):
        fat.predict(found.chain_id, TEST, on_outlier="ignore")


# Replicates: each of 30 old samples three times, 15 new ones twice.
_OLD_GROUPS, _NEW_GROUPS = np.repeat(np.arange(30), 3), np.repeat(np.arange(100, 115), 2)
_RNG = np.random.default_rng(3)
REPLICATED = X[::3].repeat(3, axis=0) + _RNG.normal(0, 1e-4, X.shape)
REPLICATED_Y = Y[::3].repeat(3)
MORE = NEW[:15].repeat(2, axis=0) + _RNG.normal(0, 1e-4, (30, X.shape[1]))
MORE_Y = NEW_Y[:15].repeat(2)


def grouped(store: WorkspaceStore, **options: Any) -> Any:
    """Register a version that kept replicates together."""
    given = {"X": REPLICATED, "y": REPLICATED_Y, "groups": _OLD_GROUPS, "target": "fat"} | options
    chain = record_cross_validation(store, PLSRegression(4), cv=5, dataset_name="twins", **given).chain_id
    return store.calibrations.register("twins", chain)


def one_sided(store: WorkspaceStore, chain_id: str, groups: np.ndarray) -> bool:
    """Tell whether each group is in one fold only."""
    frame = store.chain_predictions(chain_id).sort("sample")
    folds = dict(zip(frame["sample"].to_list(), frame["fold_id"].to_list(), strict=True))
    return all(len({folds[row] for row in np.flatnonzero(groups == g).tolist()}) == 1 for g in set(groups))


@pytest.mark.parametrize("cv", [None, 4, KFold(3, shuffle=True, random_state=0)])
@pytest.mark.filterwarnings("ignore:.*ignores groups")
def test_groups_stay_together_in_an_update(store: WorkspaceStore, cv: Any) -> None:
    grouped(store)
    found = store.calibrations.update(
        "twins@latest", (MORE, MORE_Y), old_samples=(REPLICATED, REPLICATED_Y), cv=cv,
        groups=_NEW_GROUPS, old_groups=_OLD_GROUPS.astype(float),
    )  # fmt: skip
    chain = store.get_chain(found.after.chain_id)
    assert chain is not None
    assert chain["metadata"]["n_groups"] == 45
    assert one_sided(store, found.after.chain_id, np.concatenate([_OLD_GROUPS, _NEW_GROUPS]))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, InvalidInput, "old_samples and new_samples have none.*Give old_groups= and groups="),
        ({"cv": 4, "groups": _NEW_GROUPS}, InvalidInput, "Give old_groups="),
        ({"old_groups": _OLD_GROUPS}, InvalidInput, "new_samples have none"),
        ({"groups": _NEW_GROUPS, "old_groups": np.arange(90)}, InvalidInput, "recorded with 30 groups"),
        ({"groups": _NEW_GROUPS[:9], "old_groups": _OLD_GROUPS}, ShapeMismatch, "one label per sample, 30"),
        ({"groups": "batch"}, InvalidInput, "names a column"),
    ],
)
def test_a_version_with_groups_is_not_updated_without_them(
    store: WorkspaceStore, options: Any, error: type[Exception], words: str
) -> None:
    grouped(store)
    runs = store.list_runs().height
    with pytest.raises(error, match=words):
        store.calibrations.update(
            "twins@latest", (MORE, MORE_Y), old_samples=(REPLICATED, REPLICATED_Y), **options
        )
    assert store.list_runs().height == runs


def test_samples_like_those_that_were_fitted_prove_nothing(store: WorkspaceStore) -> None:
    grouped(store)
    labels = np.where(_NEW_GROUPS < 105, 7, _NEW_GROUPS)  # ten new spectra are of an old sample
    with pytest.warns(
        RecordingWarning, match="10 of 30 left out of the comparison: they share a name or a group"
    ):
        found = store.calibrations.update(
            "twins@latest", (MORE, MORE_Y), old_samples=(REPLICATED, REPLICATED_Y),
            groups=labels, old_groups=_OLD_GROUPS, test_samples=(MORE[:12], MORE_Y[:12]),
        )  # fmt: skip
    rows = {row["samples"]: row for row in found.comparison.to_dicts()}
    assert {name: (row["n"], row["fitted"]) for name, row in rows.items()} == {
        "new samples": (20, 0), "old samples": (90, 0), "test samples": (12, 12),
    }  # fmt: skip
    assert "12 of them fitted" in repr(found)


def test_replicates_that_share_a_name_are_compared_by_their_mean(store: WorkspaceStore) -> None:
    names, more = [f"s{g}" for g in _OLD_GROUPS], [f"s{g}" for g in _NEW_GROUPS]
    before = grouped(store, sample_ids=names)
    found = store.calibrations.update(
        "twins@latest", (MORE, MORE_Y, more), old_samples=(REPLICATED, REPLICATED_Y, names),
        groups=_NEW_GROUPS, old_groups=_OLD_GROUPS,
    )  # fmt: skip
    row = found.comparison.row(0, named=True)
    means = store.replay_chain(before.chain_id, MORE).reshape(15, 2).mean(axis=1)
    assert row["n"] == 15
    assert row["rmse_before"] == pytest.approx(np.sqrt(np.mean((means - MORE_Y[::2]) ** 2)))


def test_groups_that_a_version_did_not_have_are_kept_and_said(store: WorkspaceStore) -> None:
    grouped(store, groups=None)
    with pytest.warns(RecordingWarning) as said:
        found = store.calibrations.update(
            "twins@latest", (MORE, MORE_Y), old_samples=(REPLICATED, REPLICATED_Y), old_groups=_OLD_GROUPS
        )
    assert any("was recorded without groups" in str(each.message) for each in said)
    assert found.comparison["samples"].to_list() == ["new samples"]
    assert one_sided(store, found.after.chain_id, np.append(_OLD_GROUPS, np.arange(100, 130)))


def test_a_review_sees_an_update_that_lost_its_groups(store: WorkspaceStore) -> None:
    before = grouped(store)
    lost = record_cross_validation(
        store, PLSRegression(4), REPLICATED, REPLICATED_Y, cv=5, dataset_name="twins",
        metadata={"updated_from": before.chain_id},
    )  # fmt: skip
    found = {each.code: each.message for each in store.review(lost.chain_id).findings}
    assert "kept 30 groups together" in found["R15"]
    assert "R15" not in {each.code for each in store.review(before.chain_id).findings}


def test_an_update_whose_data_set_is_gone_asks_for_the_samples(store: WorkspaceStore) -> None:
    store.datasets.add("meat", X, references={"fat": Y}, wavelengths=GRID, unit="nm")
    chain = record_cross_validation(store, PLSRegression(3), dataset="meat", target="fat", cv=4).chain_id
    store.calibrations.register("fat", chain, alias="production")
    store.datasets.delete("meat@v1", force=True)
    with pytest.raises(
        InvalidInput, match=r"data set meat@v1 .* was deleted. Nothing was changed. .*old_samples="
    ):
        store.calibrations.update("fat", (NEW, NEW_Y))
    assert store.calibrations.update("fat", (NEW, NEW_Y), old_samples=(X, Y)).after.version == 2


@pytest.mark.parametrize("arrays", [False, True])
def test_an_update_of_a_stored_data_set_can_be_updated_and_reviewed(
    store: WorkspaceStore, arrays: bool
) -> None:
    store.datasets.add(
        "twins", REPLICATED, references={"fat": REPLICATED_Y}, groups=_OLD_GROUPS, wavelengths=GRID, unit="nm"
    )
    store.datasets.add("more", MORE, references={"fat": MORE_Y}, groups=_NEW_GROUPS)
    grouped(store, X=None, y=None, groups=None, dataset="twins")
    new = (MORE[:20], MORE_Y[:20]) if arrays else store.datasets.get("more", target="fat", rows=slice(0, 20))
    first = store.calibrations.update("twins@latest", new, groups=_NEW_GROUPS[:20] if arrays else None)
    assert first.dataset == "twins update@v1"
    assert first.after.dataset_version_id == store.datasets.version("twins update@v1").dataset_version_id
    kept = store.datasets.of_chain(first.after.chain_id)
    np.testing.assert_array_equal(kept.X, np.vstack([REPLICATED, MORE[:20]]))
    assert kept.groups is not None
    assert kept.unit == "nm"
    assert {"R15", "R16", "R17", "R18"} <= set(store.review(first.after.chain_id).checked)
    second = store.calibrations.update("twins@latest", (MORE[20:], MORE_Y[20:]), groups=_NEW_GROUPS[20:])
    assert second.dataset == "twins update@v2"
    assert len(store.datasets.of_chain(second.after.chain_id)) == 120
    assert store.datasets.version("twins").version == 1
    # What fails leaves no data set behind.
    versions = store.datasets.versions("twins update").height
    with pytest.raises(InvalidInput):
        store.calibrations.update("twins@latest", (NEW[20:], NEW_Y[20:]), groups=np.arange(900, 920), cv=5000)
    assert store.datasets.versions("twins update").height == versions


def test_arrays_that_are_in_no_data_set_stay_outside_and_it_is_said(fat: WorkspaceStore) -> None:
    found = fat.calibrations.update("fat", (NEW, NEW_Y), old_samples=(X, Y))
    assert found.dataset is None
    assert found.after.dataset_version_id is None
    assert "not stored; the next update needs old_samples=" in repr(found)


_FEW = [f"n{row}" for row in range(5)]


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        ((TEST[:, :9], TEST_Y), ShapeMismatch, "found 9"),
        ((TEST, TEST_Y[:5]), ShapeMismatch, "one value for each"),
        ((TEST, TEST_Y, _FEW), ShapeMismatch, "one name per sample"),
        ((TEST, TEST_Y, "abc"), InvalidInput, "not a data frame"),
        ((TEST, TEST_Y, [None] * 40), InvalidInput, "expected text or whole numbers"),
        ((TEST, TEST_Y, [_FEW] * 40), ShapeMismatch, "one name per sample"),
        ((TEST.astype(str).astype(object) + "x", TEST_Y), InvalidInput, "must hold numbers"),
        ((np.full(TEST.shape, "wet"), TEST_Y), InvalidInput, "must hold real numbers"),
        ((TEST * 1j, TEST_Y), InvalidInput, "found complex"),
        ((np.where(TEST[3, 3] == TEST, np.inf, TEST), TEST_Y), InvalidInput, "infinite"),
        ((np.full(TEST.shape, np.nan), TEST_Y), InvalidInput, "NaN"),
        ((TEST, ["wet"] * 40), InvalidInput, "expected numbers as reference"),
        ("nowhere", UnknownDataset, "no data set"),
    ],
)
@pytest.mark.parametrize("role", ["new_samples", "test_samples"])
def test_bad_samples_are_refused_before_anything_is_recorded(
    fat: WorkspaceStore, role: str, samples: Any, error: type[Exception], words: str
) -> None:
    runs = fat.list_runs().height
    given = {"new_samples": (NEW, NEW_Y)} | {role: samples}
    with pytest.raises(error, match=words):
        fat.calibrations.update("fat", old_samples=(X, Y), **given)
    assert fat.list_runs().height == runs


def test_test_samples_on_another_grid_are_refused(fat: WorkspaceStore) -> None:
    fat.datasets.add("other", TEST, references={"fat": TEST_Y}, wavelengths=GRID + 40, unit="nm")
    runs = fat.list_runs().height
    with pytest.raises(InvalidInput, match="test_samples: their wavelengths are not those"):
        fat.calibrations.update("fat", (NEW, NEW_Y), old_samples=(X, Y), test_samples="other")
    assert fat.list_runs().height == runs


def test_weights_are_not_dropped(store: WorkspaceStore) -> None:
    chain = record_cross_validation(
        store, Ridge(), X, Y, cv=3, dataset_name="meat", sample_weight=np.linspace(1, 2, len(Y))
    ).chain_id
    store.calibrations.register("weighted", chain, alias="production")
    with pytest.raises(InvalidInput, match="fitted with sample_weight"):
        store.calibrations.update("weighted", (NEW, NEW_Y), old_samples=(X, Y))


@pytest.mark.parametrize(
    "version", ["candidate", "latest", "v2", "V2", "2", 2, np.int64(2), "fat@candidate", "object"]
)
def test_a_challenge_ends_as_it_began(fat: WorkspaceStore, recorded: Recorded, version: Any) -> None:
    made = fat.calibrations.register("fat", recorded.first, alias="candidate")
    given = made if version == "object" else version
    assert fat.calibrations.challenge("fat", given) == 2
    assert fat.calibrations.challengers("fat@production") == (2,)
    assert fat.calibrations.end_challenge("fat@v1", given)
    assert not fat.calibrations.end_challenge(made, given)
    assert fat.calibrations.challengers("fat") == ()


def test_unknown_names_of_challengers_are_errors(fat: WorkspaceStore, recorded: Recorded) -> None:
    fat.calibrations.register("fat", recorded.first, alias="candidate")
    other = fat.calibrations.register("protein", recorded.first)
    fat.calibrations.challenge("fat", 2)
    for method in (fat.calibrations.challenge, fat.calibrations.end_challenge):
        for wrong in (("fatt", 2), ("fat", "candidat"), ("fat", 7), ("fat", "v7")):
            with pytest.raises(CalibrationNotFound):
                method(*wrong)
        for strange in (other, "protein@v1", None, 2.5):
            with pytest.raises(InvalidInput, match="version: expected"):
                method("fat", strange)
    with pytest.raises(CalibrationNotFound):
        fat.calibrations.challengers("fatt")
    fat.calibrations.remove_alias("fat", "candidate")
    fat.calibrations.delete("fat@v2")
    assert fat.calibrations.end_challenge("fat", "2")  # deleted, but still listed
    assert fat.calibrations.challengers("fat") == ()


def test_a_transferred_version_is_not_updated_and_the_way_is_said(
    fat: WorkspaceStore, recorded: Recorded, tmp_path: Path
) -> None:
    adapter = StandardScaler(with_mean=False).fit(X)
    adapter.scale_ = np.linspace(1.02, 1.08, X.shape[1])
    moved = fat.derive_chain("fat", adapter)
    again = fat.derive_chain(moved.chain_id, StandardScaler(with_mean=False, with_std=False).fit(X))
    both = ("other bench", moved.chain_id), ("third bench", again.chain_id)
    for name, chain in both:
        fat.calibrations.register(name, chain, alias="production")
    runs = fat.list_runs().height
    words = {}
    for name, _ in both:
        with pytest.raises(InvalidInput, match="was transferred to another instrument") as said:
            fat.calibrations.update(name, (other_instrument(NEW), NEW_Y), old_samples=(X, Y))
        words[name] = str(said.value)
    with pytest.raises(InvalidInput, match="would lose it"):
        fat.permutation_test(moved.chain_id, X, Y, cv=3, n_permutations=1)
    assert fat.list_runs().height == runs
    assert "Update other bench@production" in words["third bench"]
    bundle = fat.export_chain(moved.chain_id, tmp_path / "moved.n4a")
    with WorkspaceStore(tmp_path / "elsewhere") as other:
        there = other.import_bundle(bundle, allow_pickle=True).chain_id
        other.calibrations.register("fat", there, alias="production")
        with pytest.raises(InvalidInput, match="is not in this workspace"):
            other.calibrations.update("fat", (NEW, NEW_Y), old_samples=(X, Y))
    # What the words advise.
    assert "Update fat@production with" in words["other bench"]
    kept = fat.load_artifact(words["other bench"].split("load_artifact('")[1].partition("'")[0])
    found = fat.calibrations.update(
        "fat@production", (kept.transform(other_instrument(NEW)), NEW_Y), old_samples=(X, Y)
    )
    last = fat.derive_chain(found.after.chain_id, kept)
    expected = fat.replay_chain(found.after.chain_id, kept.transform(other_instrument(TEST)))
    np.testing.assert_array_equal(fat.replay_chain(last.chain_id, other_instrument(TEST)), expected)


def test_a_transferred_chain_has_no_interval_of_the_first_instrument(
    fat: WorkspaceStore, recorded: Recorded, tmp_path: Path
) -> None:
    moved = fat.derive_chain("fat", StandardScaler(with_mean=False, with_std=False).fit(X))
    for chain in (moved.chain_id, fat.derive_chain(moved.chain_id, StandardScaler().fit(X)).chain_id):
        found = fat.predict(chain, TEST, on_outlier="ignore")
        assert found["lower"].null_count() == found["upper"].null_count() == len(TEST)
        domain = fat.domain(chain)
        assert domain is not None
        assert "another instrument" in domain.no_interval()
    of_a, of_b = (
        fat.predict(chain, TEST, on_outlier="ignore") for chain in (recorded.second, moved.chain_id)
    )
    assert of_a["lower"].null_count() == 0
    for name in ("prediction", "t2", "q", "nh", "flags"):
        assert of_b[name].to_list() == of_a[name].to_list()
    bundle = load_bundle(fat.export_chain(moved.chain_id, tmp_path / "moved.n4a"), allow_pickle=True)
    assert bundle.predict_details(TEST, on_outlier="ignore")["lower"].null_count() == len(TEST)
    with pytest.raises(InvalidInput, match="was transferred to another instrument"):
        fat.add_domain(moved.chain_id, X, Y)
    dossier = fat.calibrations.register("other bench", moved.chain_id).label
    assert any(
        "prediction interval" in each for each in fat.calibrations.dossier(dossier, figures=False).missing
    )


def _of(store: WorkspaceStore, version: Any) -> dict[str, Any]:
    chain = store.get_chain(version.chain_id)
    assert chain is not None
    return chain


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (PLSRegression(3), {"y_processing": PowerTransformer(), "keep_folds": False}),
        (Ridge(), {"y_processing": StandardScaler(), "artifact_format": "skops", "cv": RepeatedKFold(n_splits=3, n_repeats=2, random_state=1)}),
        (TransformedTargetRegressor(Ridge(), transformer=StandardScaler()), {"refit": False, "task_type": "regression", "metric": "mae"}),
        (PLSRegression(3), {"artifact_format": "cloudpickle", "groups": np.arange(90) // 3, "cv": GroupShuffleSplit(4, random_state=2)}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::nirs_store.errors.OutlierWarning")
def test_an_update_records_as_the_version_was_recorded(
    store: WorkspaceStore, model: Any, options: dict[str, Any]
) -> None:
    chain = record_cross_validation(
        store, model, X, Y, **({"cv": KFold(3), "dataset_name": "meat"} | options)
    )
    store.calibrations.register("fat", chain.chain_id, alias="production")
    labels = {"groups": np.arange(90, 130), "old_groups": options["groups"]} if "groups" in options else {}
    found = store.calibrations.update("fat", (NEW, NEW_Y), old_samples=(X, Y), **labels)
    before, after = (_of(store, each) for each in (found.before, found.after))
    assert [(s["operator_class"], s["params"]) for s in after["steps"]] == [
        (s["operator_class"], s["params"]) for s in before["steps"]
    ]
    assert list(after["fold_artifacts"]) == list(before["fold_artifacts"])
    for name in ("task_type", "metric", "repeats", "preprocessing_chain"):
        assert after["metadata"].get(name) == before["metadata"].get(name)
    formats = [
        {(store.get_artifact(each) or {})["format"] for each in c["fold_artifacts"].values()}
        for c in (before, after)
    ]
    assert formats[0] == formats[1] == {options.get("artifact_format", "joblib")}
    expected = record_cross_validation(
        store, model, np.vstack([X, NEW]), np.append(Y, NEW_Y),
        **({"cv": KFold(3), "dataset_name": "meat"} | options | ({} if not labels else {"groups": np.append(labels["old_groups"], labels["groups"])})),
    )  # fmt: skip
    np.testing.assert_allclose(
        store.replay_chain(found.after.chain_id, TEST),
        store.replay_chain(expected.chain_id, TEST),
        rtol=1e-12,
    )


def test_old_samples_in_another_order_are_not_compared(fat: WorkspaceStore) -> None:
    with pytest.warns(RecordingWarning, match="in this order, are not those"):
        found = fat.calibrations.update("fat", (NEW, NEW_Y), old_samples=(X[::-1], Y[::-1]))
    assert found.comparison["samples"].to_list() == ["new samples"]


def test_what_an_update_leaves_behind_is_said(fat: WorkspaceStore) -> None:
    shifted = {"prediction": Y[:30], "reference": Y[:30] + 1 + np.tile([0.1, -0.1], 15)}
    fat.calibrations.correct("fat", shifted, reason="a new cuvette")
    with pytest.warns(RecordingWarning) as said:
        found = fat.calibrations.update(
            "fat", (NEW, NEW_Y), old_samples=(X, Y, [f"o{row}" for row in range(len(Y))])
        )
    words = " ".join(str(each.message) for each in said)
    assert "fat@v1 is corrected by c1" in words
    assert "new_samples have no names" in words
    assert not [each for each in fat.calibrations.corrections("fat") if each.version == found.after.version]
    with pytest.warns(UserWarning, match="the new chain does not have this correction"):
        fat.derive_chain("fat", StandardScaler().fit(X))


def test_names_of_columns_outlive_an_update(store: WorkspaceStore) -> None:
    names = [f"band {place}" for place in range(X.shape[1])]
    frame, more = pl.DataFrame(X, schema=names), pl.DataFrame(NEW, schema=names)
    chain = record_cross_validation(store, PLSRegression(3), frame, Y, cv=3, dataset_name="meat").chain_id
    store.calibrations.register("fat", chain, alias="production")
    with pytest.raises(ShapeMismatch, match="same in another order"):
        store.calibrations.update("fat", (more[:, ::-1], NEW_Y), old_samples=(frame, Y))
    found = store.calibrations.update("fat", (more, NEW_Y), old_samples=(X, Y))
    with pytest.raises(ShapeMismatch, match="same in another order"):
        store.replay_chain(found.after.chain_id, more[:, ::-1])


def test_mixtures_and_doubles_are_said(store: WorkspaceStore) -> None:
    def add(name: str, spectra: Any, values: Any, **about: str) -> Any:
        store.datasets.add(
            name, spectra, references={"fat": values}, wavelengths=GRID, unit="nm", instrument=about
        )
        return store.datasets.get(name, target="fat")

    old = add("old", X, Y, instrument="A", measured="May")
    chain = record_cross_validation(store, PLSRegression(3), old, cv=3).chain_id
    store.calibrations.register("fat", chain, alias="production")
    other = add(
        "new",
        np.vstack([NEW[:20], NEW[:2]]),
        np.append(NEW_Y[:20], NEW_Y[:2]),
        instrument="B",
        measured="June",
    )
    with pytest.warns(RecordingWarning) as said:
        store.calibrations.update("fat", other)
    words = " ".join(str(each.message) for each in said)
    assert "(instrument: A and B). The update mixes them" in words
    assert "2 copies of spectra" in words
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        store.calibrations.update("fat", add("more", NEW[20:], NEW_Y[20:], instrument="A", measured="July"))
