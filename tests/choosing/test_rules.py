"""The rules choose what R's pls package chooses.

`r_pls.jsonl` was printed by R 4.2 with pls 2.8-1: ``plsr(method="simpls", validation="CV")`` on Tecator with interleaved
segments, ``selectNcomp`` by "onesigma" and "randomization" (19,999 permutations), p values of 200,000 sign flips.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from nirs_store import load_tecator
from nirs_store.choosing.rules import errors_of_the_mean, select_components, wold_ratios
from nirs_store.errors import InvalidInput, ShapeMismatch

CASES = [json.loads(line) for line in Path(__file__).with_name("r_pls.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=CASES, ids=[case["target"] for case in CASES])
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], np.ndarray]:
    meat, printed = load_tecator(), request.param
    X = meat.X[:: printed["step"]]
    y = meat.y["water" if printed["target"] == "moisture" else printed["target"]][:: printed["step"]]
    cv = PredefinedSplit(np.arange(len(y)) % printed["k"])
    columns = [cross_val_predict(PLSRegression(a, scale=False), X, y, cv=cv) - y for a in range(1, 16)]
    return printed, np.column_stack([errors_of_the_mean(y), *columns])


def test_rmsecv_and_the_choice_by_one_standard_error_are_those_of_r(case: Any) -> None:
    printed, errors = case
    chosen, columns = select_components(errors, range(16), "one_se")
    assert columns["rmsecv"] == pytest.approx(printed["rmsecv"], rel=1e-6)
    assert chosen == printed["one_se"]


def test_the_randomization_test_chooses_as_r_does(case: Any) -> None:
    printed, errors = case
    chosen, columns = select_components(errors, range(16), "randomization", n_permutations=19_999)
    assert chosen == printed["randomization"]
    best = printed["best"]
    p = np.array(printed["p"])
    assert np.all(np.abs(columns["p"][:best] - p) < 5 * np.sqrt(p * (1 - p) / 19_999) + 2e-4)
    assert np.isnan(columns["p"][best])


def test_the_lowest_is_the_lowest(case: Any) -> None:
    printed, errors = case
    assert select_components(errors, range(16), "min")[0] == printed["best"]


def test_wold_stops_where_press_hardly_falls() -> None:
    # PRESS 4, 2, 1.98, 1: R = 0.5, 0.99, 0.505. The second further component is the first that is not worth it.
    errors = np.sqrt(np.array([[4.0, 2.0, 1.98, 1.0]] * 2) / 2)
    assert wold_ratios(errors)[1:] == pytest.approx([0.5, 0.99, 1 / 1.98])
    assert select_components(errors, [1, 2, 3, 4], "wold")[0] == 2
    assert select_components(errors, [1, 2, 3, 4], "wold", threshold=1.0)[0] == 4


def test_a_p_value_does_not_depend_on_the_unit() -> None:
    errors = np.random.default_rng(3).normal(size=(40, 4)) * [3, 2, 1.1, 1]
    p = [select_components(errors * unit, range(4), "randomization")[1]["p"] for unit in (1e-6, 1.0, 1e6)]
    assert np.array_equal(p[0], p[1], equal_nan=True)
    assert np.array_equal(p[1], p[2], equal_nan=True)


@pytest.mark.parametrize(
    ("errors", "components", "options", "error"),
    [
        ([[1.0, 2.0]], [1, 2], {}, ShapeMismatch),
        ([[1.0], [2.0]], [1, 2], {}, ShapeMismatch),
        ([[1.0, np.nan], [2.0, 1.0]], [1, 2], {}, InvalidInput),
        ([[1.0, 2.0], [2.0, 1.0]], [2, 1], {}, InvalidInput),
        ([[1.0, 2.0], [2.0, 1.0]], [1, 2], {"rule": "two_se"}, InvalidInput),
        ([[1.0, 2.0], [2.0, 1.0]], [1, 2], {"alpha": 1.0}, InvalidInput),
    ],
)
def test_bad_input_is_refused(errors: Any, components: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        select_components(errors, components, **options)


def test_repeats_of_a_cross_validation_count_each_sample_once() -> None:
    rng = np.random.default_rng(5)
    once = rng.normal(size=(40, 3)) * [3.0, 1.2, 1.0]
    copies = np.tile(once, (10, 1))
    names = [*range(40)] * 10
    for rule in ("one_se", "randomization"):
        expected, columns = select_components(once, [1, 2, 3], rule)
        found, repeated = select_components(copies, [1, 2, 3], rule, samples=names)
        assert found == expected
        assert repeated["rmsecv"] == pytest.approx(columns["rmsecv"])
        assert repeated["se"] == pytest.approx(columns["se"], rel=0.02)
        assert repeated["p"] == pytest.approx(columns["p"], nan_ok=True)
    with pytest.raises(ShapeMismatch, match="one per row"):
        select_components(once, [1, 2, 3], samples=names)
