"""Updates, challengers and transfer of calibrations."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servicekit import GRID, MEAT, Recorded, X, Y
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store import WorkspaceStore, load_bundle, read_spectra, record_cross_validation
from nirs_store.errors import CalibrationNotFound, InvalidInput, ShapeMismatch, UnknownId

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
        ((X[:5], Y[:5]), (X, Y), InvalidInput, "5 spectra are in the calibration already .rows 0, 1"),
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
