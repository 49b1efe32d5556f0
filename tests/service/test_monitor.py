"""Monitoring of named calibrations through the store."""

from __future__ import annotations

import json
import math
import re
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from servicekit import GRID, MEAT, Recorded, X, Y, alter, record
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import KNeighborsClassifier

from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.errors import CalibrationNotFound, InvalidInput, RecordingWarning, UnknownId
from nirs_store.service.statistics import replicate_error

LATER, TRUE = MEAT.X[120:180, ::4], MEAT.fat[120:180]
IDS = [f"s{row}" for row in range(60)]
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [START + timedelta(days=5 * row) for row in range(60)]


@pytest.fixture
def fat(store: WorkspaceStore, recorded: Recorded) -> WorkspaceStore:
    store.calibrations.register("fat", recorded.second, alias="production")
    return store


def measure(
    store: WorkspaceStore, name: str = "fat", rows: slice = slice(None), **options: Any
) -> pl.DataFrame:
    settings = {"sample_ids": IDS[rows], "measured_at": DAYS[rows], "on_outlier": "ignore"}
    return store.predict(name, LATER[rows], **(settings | options))


def refer(store: WorkspaceStore, rows: slice = slice(None), **options: Any) -> None:
    settings = {"target": "fat"} | options
    store.references.add_many({"sample_id": IDS[rows], "value": TRUE[rows]}, **settings)


def test_the_figures_are_those_of_the_log_and_the_laboratory(fat: WorkspaceStore, recorded: Recorded) -> None:
    refer(fat)  # references may come before the predictions
    predicted = measure(fat)["prediction"].to_numpy()
    found = fat.calibrations.monitor("fat")
    d = TRUE - predicted
    assert (found.n, found.n_measurements, found.version) == (60, 60, 1)
    assert found.agreement.bias == pytest.approx(d.mean())
    assert found.agreement.sep == pytest.approx(d.std(ddof=1))
    low, high = stats.t.interval(0.95, 59, d.mean(), d.std(ddof=1) / math.sqrt(60))
    assert found.agreement.bias_limit == pytest.approx((high - low) / 2)
    line = stats.linregress(predicted, TRUE)
    assert found.agreement.slope == pytest.approx(line.slope)
    assert found.agreement.slope_t == pytest.approx(abs(line.slope - 1) / line.stderr)
    figures = fat.calibrations.get("fat").figures
    limit = figures["sec"] * math.sqrt(stats.f.isf(0.05, 59, figures["n_cal"] - 4 - 1))
    assert found.agreement.sep_limit == pytest.approx(limit)
    np.testing.assert_allclose(found.chart["difference"], d)
    np.testing.assert_allclose(found.chart["action"], 3 * figures["sep"])
    assert found.chart["measured_at"].is_sorted()
    assert found.by_month["n"].sum() == 60
    assert found.by_version["bias"].to_list() == [pytest.approx(d.mean())]
    assert found.share_flagged == pytest.approx(found.n_flagged / 60)
    told = json.loads(json.dumps(found.to_dict(), default=str))
    assert told["agreement"]["sign"] == "difference = reference - predicted"
    assert "bias (reference - predicted)" in repr(found)
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize(
    ("stored", "asked", "said"),
    [
        ({"target": "Fat %"}, {}, r"about something else \(target, lab, method\): Fat % \(60\)"),
        ({"lab": "north", "method": "Soxhlet"}, {"lab": "nord"}, r"fat, north, Soxhlet \(60\)"),
        ({"method": "Soxhlet"}, {"method": "NMR"}, r"fat, Soxhlet \(60\)"),
        ({"prefix": "0", "target": "protein"}, {}, None),
        (
            {"prefix": "0", "target": "Fat"},
            {},
            "samples are called like 's0' here, and like '0s0' in the references",
        ),
        ({}, {"instrument": "bench 3"}, "the instrument 'bench 3'; there are: bench 1, bench 2$"),
        ({}, {"since": "2030-01-01"}, None),
        ({}, {"include_flagged": False}, None),
        (None, {}, None),
    ],
)
def test_no_pairs_are_explained_by_names_that_differ(
    fat: WorkspaceStore, stored: dict[str, str] | None, asked: dict[str, Any], said: str | None
) -> None:
    spectra = np.vstack([LATER[:2], LATER[2:] * 0])
    if "include_flagged" in asked:
        spectra = LATER * 0
    for name, rows in (("bench 1", slice(0, 1)), ("bench 2", slice(1, None))):
        fat.predict("fat", spectra[rows], sample_ids=IDS[rows], instrument=name, on_outlier="ignore")
    if stored is not None:
        about = {"target": "fat", "prefix": ""} | stored
        prefix = about.pop("prefix")
        fat.references.add_many({"sample_id": [prefix + name for name in IDS], "value": TRUE}, **about)
    found = fat.calibrations.monitor("fat", **asked)
    assert found.n == 0
    matching = [note for note in found.notes if said is not None and re.search(said, note)]
    told = [
        note for note in found.notes if re.search("something else|are called like|no measurements with", note)
    ]
    assert len(matching) == len(told) == (said is not None)


def test_a_drift_is_seen_in_the_month_in_which_it_begins(fat: WorkspaceStore) -> None:
    refer(fat)
    measure(fat, rows=slice(0, 30))
    fat.predict("fat", LATER[30:] * 1.05, sample_ids=IDS[30:], measured_at=DAYS[30:], on_outlier="ignore")
    early = fat.calibrations.monitor("fat", until=DAYS[30])
    late = fat.calibrations.monitor("fat", since=DAYS[30].isoformat())
    assert not early.agreement.bias_significant
    assert late.agreement.bias_significant or late.agreement.sep_exceeds
    assert late.chart["signals"].list.len().sum() > early.chart["signals"].list.len().sum()
    assert early.n == late.n == 30


@pytest.mark.parametrize(
    ("measured", "determined", "said"), [(0, 30, 0), (30, 0, 0), (6, 6, 0), (7, 7, 12), (30, 60, 12)]
)
def test_a_name_that_is_used_again_is_noted(
    fat: WorkspaceStore, measured: int, determined: int, said: int
) -> None:
    for days in (0, measured):
        measure(fat, rows=slice(0, 12), measured_at=START + timedelta(days=days))
    for days in (0, determined):
        refer(fat, slice(0, 12), measured_at=START + timedelta(days=days), existing="add")
    # A control sample that is determined once.
    measure(fat, rows=slice(12, 13), measured_at=START + timedelta(days=90))
    measure(fat, rows=slice(12, 13), measured_at=START)
    refer(fat, slice(12, 13))
    found = fat.calibrations.monitor("fat")
    assert found.n == 13
    told = [note for note in found.notes if "must not be used for another sample" in note]
    assert [note.split(" samples")[0] for note in told] == ([str(said)] if said else [])


def test_few_samples_have_no_verdict(fat: WorkspaceStore) -> None:
    nothing = fat.calibrations.monitor("fat")
    assert nothing.n == 0
    assert "no verdict" in repr(nothing)
    assert math.isnan(nothing.share_flagged)
    measure(fat, rows=slice(0, 2))
    assert fat.calibrations.monitor("fat").n == 0
    refer(fat, slice(0, 2))
    two = fat.calibrations.monitor("fat")
    assert two.n == 2
    assert two.verdict == "no verdict: 2 of at least 10 samples with a reference"
    assert two.agreement.bias_significant is None
    assert two._repr_html_()


def test_a_model_without_a_number_of_parameters_is_compared_with_secv(store: WorkspaceStore) -> None:
    forest = record_cross_validation(
        store, RandomForestRegressor(10, random_state=0), X, Y, cv=3, dataset_name="meat", wavelengths=GRID,
        target="fat",
    )  # fmt: skip
    store.calibrations.register("forest", forest.chain_id)
    measure(store, "forest@v1", rows=slice(0, 20))
    refer(store, slice(0, 20))
    found = store.calibrations.monitor("forest")
    base = found.agreement.baseline
    figures = store.calibrations.get("forest@v1").figures
    assert base is not None
    assert (base.kind, base.df, base.error) == ("SECV", len(Y) - 1, figures["secv"])
    assert any("number of fitted parameters is not defined" in note for note in found.notes)
    assert any("multiples of SECV" in note for note in found.notes)


def test_a_classifier_is_counted_and_not_judged(store: WorkspaceStore) -> None:
    labels = np.where(Y > 20, "fat", "lean")
    chain = record_cross_validation(
        store, KNeighborsClassifier(3), X, labels, cv=3, dataset_name="meat", wavelengths=GRID, target="kind"
    ).chain_id
    store.calibrations.register("kind", chain, alias="production")
    found = measure(store, "kind")
    assert store.measurements.list("kind")["label"].to_list() == found["prediction"].to_list()
    report = store.calibrations.monitor("kind")
    assert report.n == 0
    assert any("labels of a classifier" in note for note in report.notes)
    with pytest.raises(InvalidInput, match="predicts labels; a slope and bias correction"):
        store.calibrations.correct("kind", bias=1.0)


def test_each_of_several_targets_is_looked_at_alone(store: WorkspaceStore) -> None:
    both = pl.DataFrame({"fat": MEAT.fat[:90], "water": MEAT.water[:90]})
    chain = record(store, 4, both, target=None, target_unit=None)  # type: ignore[arg-type]
    store.calibrations.register("meat", chain, alias="production")
    found = measure(store, "meat")
    assert store.measurements.list()["target"].to_list() == ["fat", "water"] * 60
    store.references.add_many({"sample_id": IDS, "value": MEAT.water[120:180]}, target="water")
    with pytest.raises(InvalidInput, match="one of fat, water"):
        store.calibrations.monitor("meat")
    water = store.calibrations.monitor("meat", target="water")
    d = MEAT.water[120:180] - found.filter(pl.col("target") == "water")["prediction"].to_numpy()
    assert water.agreement.bias == pytest.approx(d.mean())
    assert water.agreement.baseline is not None
    assert store.calibrations.monitor("meat", target="fat").n == 0
    with pytest.raises(InvalidInput, match="Did you mean"):
        store.calibrations.monitor("meat", target="watr")
    for how in ({}, {"bias": 1.0}, {"samples": {"reference": TRUE, "prediction": TRUE + 1}}):
        with pytest.raises(InvalidInput, match="predicts several targets; a slope and bias correction"):
            store.calibrations.correct("meat", **how)
    assert "raw" not in measure(store, "meat").columns


def test_references_without_a_target_count_only_where_one_was_predicted(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    measure(fat)
    fat.references.add_many({"sample_id": IDS, "value": TRUE})
    assert fat.calibrations.monitor("fat").n == 60
    water = record(fat, 4, MEAT.water[:90], target="water")
    fat.calibrations.register("water", water, alias="production")
    measure(fat, "water", rows=slice(0, 20))
    found = fat.calibrations.monitor("fat")
    assert found.n == 40
    assert any("20 samples name no target" in note for note in found.notes)
    assert fat.calibrations.monitor("water").n == 0
    refer(fat, slice(0, 20))
    assert fat.calibrations.monitor("fat").n == 60


def test_units_laboratories_and_replicates(fat: WorkspaceStore) -> None:
    measure(fat)
    refer(fat, slice(0, 30), unit="%", lab="north")
    refer(fat, slice(0, 15), unit="%", lab="south", measured_at="2026-05-01")
    refer(fat, slice(30, 60), unit="g/kg")
    found = fat.calibrations.monitor("fat")
    assert found.n == 30
    assert any("30 references in another unit than %" in note for note in found.notes)
    assert fat.calibrations.monitor("fat", lab="south").n == 15
    rows = fat.references.list().filter(pl.col("unit") == "%")
    sel, df = replicate_error(rows["value"].to_numpy(), rows["sample_id"].to_numpy())
    assert (
        (found.sel, found.sel_df) == (pytest.approx(sel, abs=1e-12), df) == (pytest.approx(0, abs=1e-12), 15)
    )


@pytest.mark.parametrize(("repeats", "n"), [("mean", 12), ("last", 12), ("each", 24)])
def test_a_sample_that_was_logged_twice_counts_as_asked(fat: WorkspaceStore, repeats: Any, n: int) -> None:
    rows = slice(0, 12)
    refer(fat, rows)
    first = measure(fat, rows=rows)["prediction"].to_numpy()
    second = fat.predict(
        "fat", LATER[rows] * 1.01, sample_ids=IDS[rows], measured_at=DAYS[20:32], on_outlier="ignore"
    )["prediction"].to_numpy()
    used = {"mean": (first + second) / 2, "last": second, "each": np.concatenate([first, second])}[repeats]
    found = fat.calibrations.monitor("fat", repeats=repeats)
    assert found.n == n
    assert found.agreement.bias == pytest.approx((np.resize(TRUE[rows], n) - used).mean())


def test_instruments_versions_and_measurements_without_names(fat: WorkspaceStore, recorded: Recorded) -> None:
    refer(fat)
    measure(fat, rows=slice(0, 20), instrument="A")
    measure(fat, rows=slice(20, 40), instrument="B")
    fat.predict("fat", LATER[:3], on_outlier="ignore")
    found = fat.calibrations.monitor("fat")
    assert found.by_instrument["instrument"].to_list() == ["A", "B", None]
    assert found.by_instrument["n"].to_list() == [20, 20, 0]
    assert any("3 measurements without a sample id" in note for note in found.notes)
    assert fat.calibrations.monitor("fat", instrument="B").n == 20
    fat.calibrations.register("fat", recorded.first)
    nothing, one = fat.calibrations.monitor("fat@v2"), fat.calibrations.monitor("fat@v1")
    assert any("v2 has no measurements yet; v1 has 43" in note for note in nothing.notes)
    assert not any("no measurements yet" in note for note in one.notes)
    # The newest version has another SEC, and measured nothing.
    whole = fat.calibrations.monitor("fat", version="all")
    assert whole.agreement.baseline == one.agreement.baseline is not None
    assert whole.agreement.baseline != nothing.agreement.baseline
    measure(fat, "fat@v2", rows=slice(40, 60))
    assert fat.calibrations.monitor("fat").n == 40
    whole = fat.calibrations.monitor("fat", version="all")
    assert whole.agreement.sep_exceeds is None
    assert any("the versions differ in SEC" in note for note in whole.notes)
    whole = fat.calibrations.monitor("fat", version="all")
    assert whole.n == 60
    assert whole.by_version["version"].to_list() == [1, 2]
    assert whole.chart["action"].n_unique() == 2
    assert fat.calibrations.monitor("fat@v2").n == fat.calibrations.monitor("fat", version=2).n == 20


def test_what_cannot_be_monitored_is_refused(fat: WorkspaceStore) -> None:
    for wrong in (
        {"calibration": "fat@v1", "version": 1},
        {"alias": "production", "version": 1},
        {"version": "newest"},
        {"since": "2026-02-01", "until": "2026-01-01"},
        {"since": "spring"},
        {"repeats": "first"},
        {"combine": "sum"},
        {"alpha": 1.0},
        {"alpha": "5 %"},
        {"ewma_lambda": "0.4"},
        {"ewma_lambda": 0.0},
    ):
        with pytest.raises(InvalidInput):
            fat.calibrations.monitor(**({"calibration": "fat"} | wrong))
    for unknown in ({"calibration": "fit"}, {"alias": "prodution"}, {"version": 9}):
        with pytest.raises(CalibrationNotFound):
            fat.calibrations.monitor(**({"calibration": "fat"} | unknown))


@pytest.mark.parametrize(("strange", "said"), [(9, False), (10, False), (11, True), (20, True)])
def test_a_majority_of_flagged_measurements_is_noted(fat: WorkspaceStore, strange: int, said: bool) -> None:
    spectra = np.vstack([X[: 20 - strange], X[:strange] * 1000])
    flags = fat.predict("fat", spectra, on_outlier="ignore", alpha=0.001)["flags"]
    assert (flags.list.len() > 0).sum() == strange
    found = [note for note in fat.calibrations.monitor("fat").notes if "before you correct" in note]
    assert found == [f"{strange / 20:.0%} of the measurements are flagged: the instrument or the samples have changed; "
                     "look for the cause before you correct"] * said  # fmt: skip


# -- Corrections.


def test_a_correction_is_applied_in_sight_and_can_be_taken_back(fat: WorkspaceStore, tmp_path: Any) -> None:
    fat.references.add_many({"sample_id": IDS, "value": TRUE * 1.1 + 2}, target="fat")
    raw = measure(fat)
    made = fat.calibrations.correct("fat", reason="a new reference method")
    line = stats.linregress(raw["prediction"], TRUE * 1.1 + 2)
    assert (made.slope, made.bias) == (pytest.approx(line.slope), pytest.approx(line.intercept))
    assert len(made.samples) == 60
    assert made.figures["rmsep_after"] < made.figures["rmsep_before"]
    found = measure(fat)
    assert found["raw"].to_list() == raw["prediction"].to_list()
    for name in ("prediction", "lower", "upper"):
        np.testing.assert_allclose(found[name], raw[name] * made.slope + made.bias)
    assert set(found["correction"]) == {made.words}
    assert made.words.startswith("corrected by c1: ")
    log = fat.measurements.list("fat")
    assert log["correction"].to_list() == [None, "c1"] * 60
    assert log["raw"].to_list() == np.repeat(raw["prediction"].to_numpy(), 2).tolist()
    with pytest.warns(UserWarning, match="corrected by c1"):
        predictor = fat.predictor("fat@production")
    np.testing.assert_array_equal(predictor.predict(LATER), found["prediction"].to_numpy())
    assert made.words in repr(predictor)
    with pytest.warns(UserWarning, match="without the correction"):
        np.testing.assert_array_equal(fat.replay_chain("fat", LATER), raw["prediction"].to_numpy())
    with pytest.raises(InvalidInput, match="a bundle cannot carry"):
        fat.export_chain("fat@production", tmp_path / "fat.n4a")
    assert not (tmp_path / "fat.n4a").exists()
    assert made.words in repr(fat.calibrations.monitor("fat"))
    fat.calibrations.retire_correction("fat", reason="the old method is back")
    assert "raw" not in measure(fat).columns
    assert [each.retired_at is None for each in fat.calibrations.corrections("fat")] == [False]
    assert fat.export_chain("fat@production", tmp_path / "fat.n4a").exists()


def test_a_correction_belongs_to_one_version_and_replaces_the_one_before(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    fat.calibrations.correct("fat", bias=1.0)
    second = fat.calibrations.correct("fat", slope=0.5, bias=1.0)
    assert (second.label, second.words) == ("c2", "corrected by c2: 0.5 y + 1")
    assert [each.retired_at is None for each in fat.calibrations.corrections("fat")] == [False, True]
    fat.calibrations.register("fat", recorded.first, alias="production")
    assert "raw" not in fat.predict("fat", LATER[:1], on_outlier="ignore").columns
    assert "raw" in fat.predict("fat@v1", LATER[:1], on_outlier="ignore").columns
    fat.calibrations.correct("fat@v2", bias=3.0)
    for version, label in (("fat@v1", "c2"), ("fat@v2", "c3")):
        assert label in fat.predict(version, LATER[:1], on_outlier="ignore")["correction"][0]


def test_a_version_registered_with_a_correction_has_a_copy_of_its_own(
    fat: WorkspaceStore, recorded: Recorded, tmp_path: Path
) -> None:
    calibrations = fat.calibrations
    given = calibrations.correct("fat", slope=0.5, bias=1.0, reason="a new lamp").correction_id
    with pytest.raises(UnknownId, match="Nothing was registered"):
        calibrations.register("cream", recorded.first, correction_id=f"{given[:-1]}x")
    for name in ("fat", "cream"):
        calibrations.register(name, recorded.first, correction_id=given)

    def labels() -> list[str | None]:
        found = [
            fat.predict(each, LATER[:1], on_outlier="ignore") for each in ("fat@v1", "fat@v2", "cream@v1")
        ]
        return [each["correction"][0][13:15] if "correction" in each.columns else None for each in found]

    assert labels() == ["c1", "c2", "c1"]
    (copy,) = calibrations.corrections("cream")
    assert (copy.slope, copy.bias, copy.reason) == (0.5, 1.0, "as c1 of fat@v1: a new lamp")
    assert "corrected by c1" in repr(calibrations.monitor("cream@v1"))
    # What happens to the one leaves the others alone.
    calibrations.retire_correction("fat@v1")
    assert labels() == [None, "c2", "c1"]
    calibrations.correct("fat@v2", bias=3.0)
    calibrations.retire_correction("fat@v2")
    assert labels() == [None, None, "c1"]
    predicted = fat.predict("cream@v1", LATER[:1], on_outlier="ignore")
    fat.archive(tmp_path / "all.tar.gz")
    with WorkspaceStore(tmp_path / "other") as other:
        other.restore_archive(tmp_path / "all.tar.gz")
        assert other.predict("cream@v1", LATER[:1], on_outlier="ignore").equals(predicted)


@pytest.mark.parametrize("name", ["fat", "fat@production", "fat@v1", "chain"])
def test_what_is_about_the_model_alone_says_that_it_lacks_the_correction(
    fat: WorkspaceStore, recorded: Recorded, name: str
) -> None:
    fat.calibrations.correct("fat", slope=0.9, bias=1.0)
    given = recorded.second if name == "chain" else name
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coefficients, found = fat.coefficients(given), fat.diagnose(given, LATER, TRUE)
    assert coefficients.equals(fat.coefficients(recorded.second))
    assert found.samples["predicted"].to_list() == fat.replay_chain(recorded.second, LATER).tolist()
    told = [str(each.message) for each in caught if "fat@v1 is corrected by c1" in str(each.message)]
    assert len(told) == (0 if name == "chain" else 2)


def test_a_correction_is_computed_from_uncorrected_predictions(fat: WorkspaceStore) -> None:
    refer(fat)
    fat.calibrations.correct("fat", bias=50.0)
    corrected = measure(fat)
    made = fat.calibrations.correct("fat", kind="bias", force=True)
    assert made.bias == pytest.approx((TRUE - corrected["raw"].to_numpy()).mean())
    assert [each["prediction"] for each in made.samples] == corrected["raw"].to_list()


@pytest.mark.parametrize(
    ("make", "options", "outcome"),
    [
        (lambda x: x, {}, "the bias is not significant"),
        (lambda x: x + 0.5, {}, "c1: y + 0.5"),
        (lambda x: x + 0.5, {"kind": "slope_bias"}, "does not differ from 1"),
        (lambda x: 1.2 * x, {}, "c1: 1.2 y"),
        (lambda x: x, {"kind": "bias"}, "is within"),
        (lambda x: x, {"kind": "bias", "force": True}, "c1: y"),
    ],
)
def test_a_slope_is_corrected_only_where_that_is_justified(
    fat: WorkspaceStore, make: Any, options: dict[str, Any], outcome: str
) -> None:
    x = np.linspace(2, 50, 30)
    noise = np.tile([0.05, -0.05, -0.05, 0.05, 0.0], 6)
    frame = pl.DataFrame({"prediction": x, "reference": make(x) + noise - noise.mean()})
    if outcome.startswith("c1"):
        assert outcome in fat.calibrations.correct("fat", frame, **options).words
    else:
        with pytest.raises(InvalidInput, match=outcome):
            fat.calibrations.correct("fat", frame, **options)
        assert fat.calibrations.corrections("fat") == ()


def test_a_narrow_range_justifies_no_slope(fat: WorkspaceStore) -> None:
    x = np.linspace(20, 24, 30)
    frame = {"prediction": x, "reference": 1.5 * (x - 22) + 23 + np.tile([0.02, -0.02], 15)}
    assert fat.calibrations.correct("fat", frame).slope == 1.0
    with pytest.raises(InvalidInput, match="span only"):
        fat.calibrations.correct("fat", frame, kind="slope_bias")


def test_a_correction_chooses_its_samples_as_monitoring_does(fat: WorkspaceStore) -> None:
    raw = measure(fat, rows=slice(0, 20))["prediction"].to_numpy()
    wild = fat.predict("fat", LATER[20:24] * 3, sample_ids=IDS[20:24], on_outlier="ignore")
    assert wild["flags"].list.len().min() > 0
    wave = np.tile([0.1, -0.1], 12)
    values = np.concatenate([raw, wild["prediction"]])
    for lab, shift in (("north", 1.0), ("south", 3.0)):
        fat.references.add_many(
            {"sample_id": IDS[:24], "value": values + shift + wave}, target="fat", lab=lab
        )
    fat.references.add_many({"sample_id": IDS[:5], "value": np.full(5, 180.0)}, target="fat", unit="g/kg")

    def bias(**options: Any) -> tuple[int, float]:
        with pytest.warns(RecordingWarning, match="left out: 5 references in another unit than %"):
            made = fat.calibrations.correct("fat", kind="bias", force=True, dry_run=True, **options)
        monitored = fat.calibrations.monitor("fat", **options).agreement
        assert (len(made.samples), made.bias) == (monitored.n, pytest.approx(monitored.bias))
        return len(made.samples), round(made.bias, 6)

    assert bias() == (24, 2.0)
    assert bias(lab="north") == (24, 1.0)
    assert bias(lab="south", include_flagged=False)[1] == pytest.approx(3.0, abs=0.02)
    assert bias(lab="south", include_flagged=False)[0] <= 20


def test_samples_of_a_correction_must_be_known(fat: WorkspaceStore) -> None:
    measure(fat)
    refer(fat, slice(0, 30))
    made = fat.calibrations.correct("fat", IDS[:12], force=True, kind="bias")
    assert [each["sample_id"] for each in made.samples] == IDS[:12]
    for wrong in (
        IDS[25:35],
        ["nobody"],
        {"prediction": [1.0]},
        {"prediction": [1.0], "reference": [np.nan]},
    ):
        with pytest.raises(InvalidInput):
            fat.calibrations.correct("fat", wrong, force=True)
    for wrong in ({"slope": 0.0}, {"bias": float("nan")}, {"slope": True}):
        with pytest.raises(InvalidInput):
            fat.calibrations.correct("fat", **wrong)  # type: ignore[arg-type]
    assert len(fat.calibrations.corrections("fat")) == 1


class Root(RegressorMixin, BaseEstimator):  # type: ignore[misc,unused-ignore]
    """Predicts no number for small spectra."""

    def fit(self, X: Any, y: Any) -> Root:
        self.n_features_in_ = np.shape(X)[1]
        return self

    def predict(self, X: Any) -> Any:
        return np.sqrt(np.asarray(X).mean(axis=1) - 1.0) * 10


def test_predictions_that_are_no_numbers_are_counted_and_left_out(store: WorkspaceStore) -> None:
    with np.errstate(invalid="ignore"):
        chain = record_cross_validation(
            store, Root(), X, Y, cv=3, dataset_name="meat", target="fat", artifact_format="cloudpickle"
        ).chain_id
        store.calibrations.register("root", chain, alias="production")
        store.predict("root", LATER[:12], sample_ids=IDS[:12], on_outlier="ignore")
        store.predict("root", LATER[12:24] * 0.1, sample_ids=IDS[12:24], on_outlier="ignore")
    refer(store)
    found = store.calibrations.monitor("root")
    assert (found.n, found.n_measurements) == (12, 24)
    assert any("left out: 12 measurements without a finite prediction" in note for note in found.notes)
    assert found.by_version["n"].to_list() == [12]


def test_a_constant_reference_and_a_clock_that_goes_back_have_their_words(fat: WorkspaceStore) -> None:
    measure(fat, measured_at=DAYS[::-1])
    fat.references.add_many({"sample_id": IDS, "value": [20.0] * 60}, target="fat")
    found = fat.calibrations.monitor("fat")
    assert found.chart["measured_at"].is_sorted()
    assert found.chart["sample_id"].to_list() == IDS[::-1]
    assert found.agreement.sep_exceeds
    assert fat.predict("fat", LATER[:1], measured_at="2099-01-01", on_outlier="ignore").height == 1
    assert fat.calibrations.monitor("fat", until="2027-01-01").n_measurements == 60


def test_alarms_say_what_is_out_of_control(fat: WorkspaceStore) -> None:
    predicted = measure(fat)["prediction"].to_numpy()
    assert fat.calibrations.monitor("fat").alarms == ()
    noise = np.tile([0.1, -0.1], 30)
    fat.references.add_many({"sample_id": IDS, "value": predicted + noise}, target="fat")
    assert fat.calibrations.monitor("fat").alarms == ()
    fat.references.add_many({"sample_id": IDS[-1:], "value": predicted[-1:] + 80.0}, target="fat")
    (newest,) = fat.calibrations.monitor("fat", since=DAYS[-3]).alarms
    assert "action" in newest
    assert fat.calibrations.monitor("fat", since=DAYS[-13], until=DAYS[-1]).alarms == ()
    fat.references.add_many({"sample_id": IDS, "value": predicted + 9.0}, target="fat")
    (verdict, *_) = fat.calibrations.monitor("fat").to_dict()["alarms"]
    assert verdict.startswith("bias")


def test_a_planned_correction_keeps_nothing_and_is_the_one_that_is_made(fat: WorkspaceStore) -> None:
    measure(fat)
    fat.references.add_many({"sample_id": IDS, "value": TRUE + 3.0}, target="fat")
    plan = fat.calibrations.correct("fat", kind="bias", dry_run=True)
    assert fat.calibrations.corrections("fat") == ()
    made = fat.calibrations.correct("fat", kind="bias")
    assert (plan.slope, plan.bias, plan.number, plan.samples) == (
        made.slope,
        made.bias,
        made.number,
        made.samples,
    )
    with pytest.raises(InvalidInput):
        fat.calibrations.correct("fat", bias=math.nan, dry_run=True)


def test_planned_references_are_those_that_are_added(fat: WorkspaceStore) -> None:
    measure(fat, rows=slice(0, 2))
    refer(fat, slice(1, 2))
    table = {"id": [IDS[0], IDS[1], "unknown", IDS[0]], "fat": [TRUE[0], TRUE[1], 7.0, math.nan]}
    plan = fat.references.plan_many(table, target="fat", lab="north")
    assert plan["stored"].to_list() == [False, False, False]
    plan = fat.references.plan_many(table, target="fat")
    assert plan.select("sample_id", "stored", "measured").rows() == [
        (IDS[0], False, 1), (IDS[1], True, 1), ("unknown", False, 0),
    ]  # fmt: skip
    assert fat.references.list().height == 1
    added = fat.references.add_many(plan.drop("stored", "measured"), existing="skip")
    assert len(added) == 2
    assert fat.references.list("unknown")["value"].to_list() == [7.0]
    with pytest.raises(InvalidInput, match="expected a number"):
        fat.references.plan_many({"id": ["a"], "value": ["much"]})


def test_versions_that_predicted_the_same_samples_are_never_averaged(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    fat.calibrations.register("fat", recorded.first)
    refer(fat)
    first = measure(fat, "fat@v1", slice(0, 12), instrument="A")["prediction"].to_numpy()
    second = measure(fat, "fat@v2", slice(6, 18), instrument="A")["prediction"].to_numpy()
    found = fat.calibrations.monitor("fat", version="all")
    chart = found.chart.sort("version", "sample_id").select("sample_id", "version", "prediction")
    expected = [(s, 1, p) for s, p in zip(IDS[:12], first, strict=True)]
    expected += [(s, 2, p) for s, p in zip(IDS[6:18], second, strict=True)]
    assert chart.rows() == sorted(expected, key=lambda row: (row[1], row[0]))
    errors = np.concatenate([TRUE[:12] - first, TRUE[6:18] - second])
    assert found.n == 24
    assert found.agreement.rmsep == pytest.approx(np.sqrt((errors**2).mean()))
    for part in (found.by_version, found.by_instrument, found.by_month):
        assert part["n"].sum() == 24
    assert found.by_instrument["bias"].to_list() == [pytest.approx(errors.mean())]
    assert any(
        "several versions, and counted once for each: 6 samples; limits" in note for note in found.notes
    )
    assert fat.calibrations.monitor("fat@v2").n == 12


def test_a_challenger_is_compared_with_each_reported_version(fat: WorkspaceStore, recorded: Recorded) -> None:
    fat.calibrations.register("fat", recorded.first)
    fat.calibrations.register("fat", recorded.first)
    fat.calibrations.challenge("fat", 3)
    assert fat.calibrations.challengers(fat.calibrations.get("fat@v1")) == (3,)  # type: ignore[arg-type]
    refer(fat)
    reported = [measure(fat, f"fat@v{v}", slice(0, 12))["prediction"].to_numpy() for v in (1, 2)]
    (row,) = fat.calibrations.monitor("fat", version="all").challengers.to_dicts()
    errors = np.concatenate([TRUE[:12] - each for each in reported])
    assert row["n"] == 24
    assert row["rmsep_reported"] == pytest.approx(np.sqrt((errors**2).mean()))


@pytest.mark.parametrize("task", ["binary_classification", "multiclass_classification"])
@pytest.mark.of_a_folder("it alters the file of the catalog")
def test_no_classifier_takes_a_correction(store: WorkspaceStore, recorded: Recorded, task: str) -> None:
    store.close()
    alter(
        recorded.folder,
        f"UPDATE predictions SET task_type = '{task}'; UPDATE chains SET metadata = json_merge_patch(metadata, "
        f'\'{{"task_type": "{task}"}}\')',
    )
    with WorkspaceStore(recorded.folder) as opened:
        opened.calibrations.register("kind", recorded.first)
        assert opened.calibrations.get("kind@v1").figures["task"] == task
        with pytest.raises(InvalidInput, match="predicts labels"):
            opened.calibrations.correct("kind@v1", bias=1.0)
        assert opened.calibrations.corrections("kind") == ()


@pytest.mark.parametrize("number", [np.float32(0.25), np.int64(1), np.float64(0.5), np.uint8(2), 3])
def test_numbers_of_numpy_correct_too(fat: WorkspaceStore, number: Any) -> None:
    made = fat.calibrations.correct("fat", slope=number, bias=number)
    assert type(made.slope) is type(made.bias) is float
    assert (made.slope, made.bias) == (float(number), float(number))
    assert fat.calibrations.corrections(fat.calibrations.get("fat")) == fat.calibrations.corrections("fat")  # type: ignore[arg-type]
    for wrong in (np.bool_(True), np.float32("nan"), 10**400, "1", 1j):
        with pytest.raises(InvalidInput, match="bias: expected a finite number"):
            fat.calibrations.correct("fat", bias=wrong)  # type: ignore[arg-type]


def test_a_single_measurement_is_told_in_the_singular(fat: WorkspaceStore) -> None:
    fat.references.add("one", 5.0, target="fat")
    fat.calibrations.correct("fat", bias=1.0)
    for names, rows in ((["one"], [0]), (None, [1])):
        fat.predict("fat", LATER[rows], sample_ids=names, on_outlier="ignore")
    found = fat.calibrations.monitor("fat")
    assert "1 measurement without a sample id" in repr(found)
    assert " of 1 point\n" in repr(found)
    assert "corrected: 2 of 2 measurements;" in repr(found)
    with pytest.raises(InvalidInput, match=r"word for word: 1 of 1 row\."):
        fat.references.add_many([{"sample_id": "one", "value": 5.0, "target": "fat"}])
    with pytest.raises(InvalidInput, match=r"1 of 2 samples without: two\."):
        fat.calibrations.correct("fat", ["one", "two"])


@pytest.mark.of_a_folder("it alters the file of the catalog")
def test_a_correction_that_older_versions_share_ends_for_one_alone(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    given = fat.calibrations.correct("fat", slope=0.5, bias=1.0).correction_id
    for name in ("fat", "cream", "whey"):
        fat.calibrations.register(name, recorded.first)
    fat.close()
    alter(
        recorded.folder,
        f"UPDATE calibration_versions SET correction_id = '{given}' WHERE name <> 'fat' OR version = 2",
    )
    every = ("fat@v1", "fat@v2", "cream@v1", "whey@v1")
    with WorkspaceStore(recorded.folder) as opened:

        def corrected() -> list[str]:
            read = {each: opened.predict(each, LATER[:1], on_outlier="ignore") for each in every}
            return [each for each, found in read.items() if "raw" in found.columns]

        assert corrected() == list(every)
        # One that shares it, then its owner; the others keep the same numbers.
        ended = opened.calibrations.retire_correction("cream@v1")
        assert (ended.calibration, ended.slope, ended.retired_at is None) == ("cream", 0.5, False)
        assert corrected() == ["fat@v1", "fat@v2", "whey@v1"]
        made = opened.calibrations.correct("fat@v1", bias=3.0)
        assert corrected() == ["fat@v1", "fat@v2", "whey@v1"]
        assert [each.label for each in opened.calibrations.corrections("fat")] == ["c1", "c2", "c3"]
        assert made.label == "c3"
        for name in ("fat@v2", "whey@v1"):
            (kept,) = opened.calibrations.monitor(name).corrections
            assert (kept.slope, kept.bias, kept.retired_at) == (0.5, 1.0, None)
        for gone in ("fat@v2", "fat@v1", "whey@v1"):
            opened.calibrations.retire_correction(gone)
            assert gone not in corrected()


def test_each_number_of_a_bias_names_its_sign(fat: WorkspaceStore) -> None:
    refer(fat)
    measure(fat)
    version, report = fat.calibrations.get("fat"), fat.calibrations.monitor("fat")
    for name in ("bias", "bias_cv"):
        assert f"{name} (predicted - reference)" in version._repr_html_()
    assert ">bias<" not in version._repr_html_() + report._repr_html_()
    assert "bias (reference - predicted)" in report._repr_html_()
    pairs = {"reference": TRUE[:12], "prediction": TRUE[:12] - 0.5}
    made = fat.calibrations.correct("fat", pairs, kind="bias")
    assert made.figures["bias_before"] == pytest.approx(0.5)
    assert "bias (reference - predicted) +0.5 before" in repr(made)
    assert "bias_before (reference - predicted)" in made._repr_html_()
    items = [
        item.label for part in fat.calibrations.dossier("fat", figures=False).parts for item in part.items
    ]
    assert "accuracy: SEP and bias (predicted - reference) of a test set" in items
