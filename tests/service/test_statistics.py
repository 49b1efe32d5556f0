"""Statistics of a calibration in service, against R, scipy and published examples."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy import stats

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.service.corrections import choose
from nirs_store.service.statistics import (
    Baseline,
    agreement,
    control_chart,
    ewma,
    paired,
    per_sample,
    replicate_error,
)

REFERENCE = np.array([12.1, 14.3, 9.8, 22.4, 18.7, 30.2, 7.9, 16.6, 25.1, 11.4, 19.9, 28.3])
PREDICTED = np.array([12.6, 14.1, 10.9, 21.5, 18.9, 28.8, 9.3, 16.9, 24.0, 12.2, 19.4, 27.1])


def test_agreement_is_what_r_computes():
    # R 4.2.2: t.test(ref, pred, paired=TRUE), sd(ref - pred), lm(ref ~ pred), lm(ref ~ pred + offset(pred)),
    # qt(.975, 10), 0.45 * sqrt(qf(.95, 11, 94)).
    found = agreement(REFERENCE, PREDICTED, baseline=Baseline(0.45, 94, "SEC"))
    assert found.bias == pytest.approx(0.083333333333333634, rel=1e-12)
    assert found.bias_limit == pytest.approx(0.60022236121015216, rel=1e-12)
    assert found.sep == pytest.approx(0.94468208537276799, rel=1e-12)
    assert (found.slope, found.intercept) == pytest.approx(
        (1.1386955400876513, -2.4097189997421986), rel=1e-12
    )
    assert found.slope_t == pytest.approx(9.1421376985909912, rel=1e-10)
    assert found.slope_t_limit == pytest.approx(2.2281388519862739, rel=1e-12)
    assert found.sep_limit == pytest.approx(0.61897346459143321, rel=1e-10)
    assert found.rmsep**2 == pytest.approx(found.bias**2 + found.sep**2 * 11 / 12)
    assert (found.bias_significant, found.slope_significant, found.sep_exceeds) == (False, True, True)


def test_limits_of_twenty_samples_are_the_shares_that_the_tables_of_t_and_f_give():
    # With SEP = SEC = 1: t(0.975; 19) = 2.093 and F(0.95; 19, 100) = 1.69 in printed tables.
    d = np.tile([-1.0, 1.0], 10) * np.sqrt(19 / 20)
    found = agreement(d, np.zeros(20), baseline=Baseline(1.0, 100, "SEC"))
    assert found.sep == pytest.approx(1.0)
    assert round(found.bias_limit, 3) == round(2.093 / np.sqrt(20), 3)
    assert round(found.sep_limit, 2) == round(np.sqrt(1.69), 2)
    assert found.sep_limit == pytest.approx(np.sqrt(stats.f.isf(0.05, 19, 100)))


def test_bias_is_reference_minus_predicted():
    low = agreement(REFERENCE, REFERENCE - 2 + np.tile([-0.1, 0.1], 6))
    assert low.bias == pytest.approx(2)
    assert low.bias_significant
    assert "a bias correction can be justified" in low.advice


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"n_cal": 100, "p": 5, "sec": 0.4, "secv": 0.5}, (0.4, 94, "SEC")),
        ({"n_cal": 100, "p": None, "sec": 0.1, "secv": 0.5}, (0.5, 99, "SECV")),
        ({"n_cal": 6, "p": 5, "sec": 0.0, "secv": 0.5}, (0.5, 5, "SECV")),
        ({"n_cal": 100, "p": 5, "sec": float("nan")}, None),
        ({}, None),
    ],
)
def test_the_baseline_is_sec_where_p_is_defined_and_secv_elsewhere(figures, expected):
    assert Baseline.of(figures) == expected


@pytest.mark.parametrize(
    ("reference", "predicted", "words"),
    [
        ([], [], "no verdict: 0"),
        ([1.0], [2.0], "no verdict: 1"),
        ([1.0, 2.0], [1.5, 2.5], "no verdict: 2"),
        ([5.0] * 12, [5.0] * 12, "in agreement"),
        ([5.0] * 12, [4.0] * 12, "bias (reference - predicted) +1 is beyond 0"),
        (np.arange(12) * 2.0, np.arange(12.0), "slope 2 differs"),
        (1e6 + np.arange(12), 1e6 + np.arange(12) + 0.1, "a bias correction"),
        ([0.1 + 0.2] * 12, [0.3] * 12, "in agreement"),
        (np.arange(12) * 0.1, np.arange(12) / 10, "in agreement"),
        # One control sample: its reference does not change, whatever is predicted.
        ([5.0] * 12, 5 + 0.2 * np.cos(np.arange(12) * np.pi), "in agreement"),
        ([5.0] * 12, 4 + 0.2 * np.cos(np.arange(12) * np.pi), "beyond 0.1327: a bias correction"),
    ],
)
def test_few_constant_and_perfect_values_have_their_words(reference, predicted, words):
    found = agreement(reference, predicted, baseline=Baseline(1.0, 50, "SECV"))
    assert words in found.advice
    assert found.to_dict()["sign"] == "difference = reference - predicted"
    if len(reference) < 10:
        assert {found.bias_significant, found.slope_significant, found.sep_exceeds} == {None}


@pytest.mark.parametrize("constant", ["reference", "prediction"])
def test_values_that_do_not_differ_have_no_slope_to_correct(constant):
    moving = 5 + 0.2 * np.cos(np.arange(12) * np.pi)
    pairs = pl.DataFrame({"reference": moving, "prediction": moving} | {constant: np.full(12, 4.0)})
    assert np.isnan(agreement(pairs["reference"], pairs["prediction"]).slope)
    for force in (False, True):
        with pytest.raises(InvalidInput, match="there is no slope"):
            choose(pairs, "slope_bias", None, None, force=force)
        assert choose(pairs, "auto", None, None, force=force)[0] == 1.0


def test_what_is_no_number_is_refused():
    with pytest.raises(ShapeMismatch):
        agreement([1.0], [1.0, 2.0])
    for wrong in ([1.0, np.nan], [[1.0, 2.0]], ["a", "b"]):
        with pytest.raises(InvalidInput):
            agreement(wrong, [1.0, 2.0])
    with pytest.raises(InvalidInput):
        agreement([1.0, 2.0], [1.0, 2.0], alpha=0)
    with pytest.raises(InvalidInput):
        ewma([1.0], 0.0)


# NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.2.4: data, lambda = 0.3, target 50, s = 2.0539.
NIST = [52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5, 49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1]  # fmt: skip
NIST_EWMA = [50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33, 50.11, 49.36, 49.52, 50.05, 49.38, 49.92, 50.73, 51.23, 51.94, 51.99]  # fmt: skip
# D. C. Montgomery, Introduction to Statistical Quality Control, example of the EWMA chart: lambda = 0.1, L = 2.7,
# target 10, sigma 1; its table begins with 9.945 and 9.7495, its limits with 10.27 and end at 10.62.
MONTGOMERY = [9.45, 7.99, 9.29, 11.66, 12.16, 10.18, 8.04, 11.46, 9.20, 10.34, 9.03, 11.47, 10.51, 9.40, 10.08, 9.37, 10.62, 10.31, 8.52, 10.84, 10.90, 9.33, 12.29, 11.50, 10.60, 11.08, 10.38, 11.62, 11.31, 10.52]  # fmt: skip


def test_ewma_is_that_of_the_nist_handbook():
    np.testing.assert_allclose(ewma(NIST, 0.3, 50.0), NIST_EWMA, atol=0.0051)
    chart = control_chart(np.array(NIST * 3) - 50, 2.0539, weight=0.3)
    assert 50 + chart["ewma_limit"][-1] == pytest.approx(52.5884, abs=2e-4)


def test_ewma_limits_are_those_of_montgomery():
    chart = control_chart(np.array(MONTGOMERY) - 10, 1.0, weight=0.1, limits=(2.0, 2.7))
    np.testing.assert_allclose(10 + chart["ewma"][:2], [9.945, 9.7495], atol=1e-9)
    np.testing.assert_allclose(
        10 + chart["ewma_limit"].to_numpy()[[0, 1, 29]], [10.27, 10.36, 10.62], atol=0.006
    )
    signalled = [row for row, words in enumerate(chart["signals"].to_list(), 1) if "ewma" in words]
    assert signalled == [29, 30]


@pytest.mark.parametrize(
    ("difference", "signals"),
    [
        ([0.5, 2.5, 3.5, -3.5], [[], ["warning"], ["action", "warning", "2 of 3"], ["action", "warning"]]),
        ([2.5, 0.0, 2.5, 0.0], [["warning"], [], ["warning", "2 of 3"], []]),
        ([2.5, -2.5, 0.1], [["warning"], ["warning"], []]),
        ([0.1] * 10, [[]] * 8 + [["9 in a row"]] * 2),
        ([0.1] * 8 + [0.0] + [0.1] * 8, [[]] * 17),
        ([0.1] * 8 + [-0.1] * 9, [[]] * 16 + [["9 in a row"]]),
    ],
)
def test_rules_of_the_control_chart(difference, signals):
    words = control_chart(difference, 1.0, weight=1.0)["signals"].to_list()
    assert [[w for w in each if w != "ewma"] for each in words] == signals


def test_a_chart_without_an_error_at_registration_has_no_limits():
    chart = control_chart([1.0, 2.0], float("nan"))
    assert chart["action"].null_count() == 2
    assert chart["signals"].to_list() == [[], []]
    assert control_chart([], 1.0).height == 0


def test_sel_is_the_residual_error_of_an_analysis_of_variance():
    # R 4.2.2: sqrt of the mean square of residuals of aov(v ~ g), 4 degrees of freedom.
    values = [10.1, 10.4, 12.0, 12.3, 11.8, 9.0, 14.2, 14.9]
    sel, df = replicate_error(values, ["a", "a", "b", "b", "b", "c", "d", "d"])
    assert (sel, df) == (pytest.approx(0.32274861218395201, rel=1e-12), 4)
    assert replicate_error([1.0, 2.0], ["a", "b"])[1] == 0


def test_a_pair_of_calibrations_is_compared_by_flipping_the_signs_of_the_differences():
    second = PREDICTED * 0.97 + 0.6
    found = paired(REFERENCE, PREDICTED, second)
    gap = (REFERENCE - second) ** 2 - (REFERENCE - PREDICTED) ** 2
    # All 4,096 ways to flip twelve signs, where the library draws some at random.
    means = np.array(list(itertools.product([1, -1], repeat=12))) @ gap / 12
    exact = np.mean(np.abs(means) >= abs(gap.mean()) - 1e-12)
    assert found["p"] == pytest.approx(exact, abs=0.005)
    # R 4.2.2: sqrt(mean((ref - p2)^2)); the two-sided paired t test of the squared errors gives 0.006.
    assert found["rmsep_second"] == pytest.approx(1.0811217554003796, rel=1e-12)
    assert found["verdict"] == "worse"
    assert paired(REFERENCE, PREDICTED, PREDICTED)["verdict"] == "not distinguishable"
    assert paired(REFERENCE[:2], PREDICTED[:2], PREDICTED[:2])["verdict"].startswith("no verdict")


@pytest.mark.parametrize(
    ("repeats", "expected"), [("mean", [2.0, 7.0]), ("last", [3.0, 7.0]), ("each", [1.0, 7.0, 3.0])]
)
def test_repeated_measurements_of_a_sample_count_once(repeats, expected):
    pairs = pl.DataFrame(
        {
            "sample_id": ["a", "b", "a"],
            "measured_at": [1, 2, 3],
            "reference": [2.0, 7.0, 2.0],
            "prediction": [1.0, 7.0, 3.0],
        }
    )
    assert sorted(per_sample(pairs, repeats)["prediction"]) == sorted(expected)
    with pytest.raises(InvalidInput):
        per_sample(pairs, "median")


def test_a_sample_of_two_versions_counts_once_for_each():
    pairs = pl.DataFrame(
        {
            "sample_id": ["a", "a", "a", "b"],
            "measured_at": [1, 2, 3, 4],
            "version": [1, 2, 2, 2],
            "reference": [2.0, 2.0, 2.0, 7.0],
            "prediction": [1.0, 4.0, 6.0, 7.0],
        }
    )
    found = per_sample(pairs, "mean", ("version",))
    assert found.select("sample_id", "version", "prediction").rows() == [
        ("a", 1, 1.0),
        ("a", 2, 5.0),
        ("b", 2, 7.0),
    ]


@pytest.mark.parametrize("sigma", [[0.1, 0.2], np.full((3, 1), 0.1), [0.1], np.zeros((1, 3))])
def test_errors_of_another_length_are_refused(sigma):
    with pytest.raises(ShapeMismatch, match="sigma: expected one number, or one for each of 3 differences"):
        control_chart([0.1, 0.2, 0.3], sigma)
    with pytest.raises(InvalidInput, match="sigma: expected numbers"):
        control_chart([0.1, 0.2, 0.3], "wide")
