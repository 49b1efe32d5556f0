"""The domain's formulas, limits and file, on arrays."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from sklearn.cross_decomposition import PLSRegression

from nirs_store import load_tecator
from nirs_store.domain.build import FoldWatch, LeftOut, build
from nirs_store.domain.measure import Domain, Space, ranked

meat = load_tecator()


def of_a_fit(n: int, components: int, *, scale: bool = False, folds: bool = False) -> tuple[Domain, Any]:
    """Return a domain without folds, or with the second half of the spectra left out, and its model."""
    X, y = meat.X[:n], meat.fat[:n]
    fitted = PLSRegression(components, scale=scale).fit(X, y)
    whole = FoldWatch(fitted, [], keep_space=True)
    whole.see("train", X)
    left_out = []
    if folds:
        half = PLSRegression(components, scale=scale).fit(X[: n // 2], y[: n // 2])
        watch = FoldWatch(half, [], keep_space=False)
        watch.see("train", X[: n // 2])
        watch.see("val", X[n // 2 :])
        left_out = [
            (LeftOut(np.arange(n // 2, n), y[n // 2 :], half.predict(X[n // 2 :]).ravel()), watch.found)
        ]
    return build([whole.found], left_out, y, task="regression"), fitted


@pytest.mark.parametrize("scale", [False, True])
def test_the_columns_follow_their_formulas(scale: bool) -> None:
    domain, fitted = of_a_fit(100, 5, scale=scale)
    new = meat.X[100:140]
    found = domain.measure([new], fitted.predict(new)).values
    T, t = fitted.x_scores_, fitted.transform(new)
    C = T - T.mean(axis=0)
    S = np.linalg.inv(C.T @ C)
    d = t - T.mean(axis=0)
    h = 1 / 100 + np.einsum("ij,jk,ik->i", d, S, d)
    rebuilt = t @ fitted.x_loadings_.T
    rest = (new - fitted._x_mean) / fitted._x_std - rebuilt
    scaled, calibration = d / T.std(axis=0, ddof=1), C / T.std(axis=0, ddof=1)
    nearest = ((scaled[:, None] - calibration[None]) ** 2).sum(axis=2).min(axis=1) / 5
    assert found["h"] == pytest.approx(h, rel=1e-9)
    assert found["t2"] == pytest.approx((h - 1 / 100) * 99, rel=1e-9)
    assert found["gh"] == pytest.approx(found["t2"] / 5)
    assert found["q"] == pytest.approx((rest**2).sum(axis=1), rel=1e-8)
    assert found["nh"] == pytest.approx(nearest, rel=1e-9)


def test_the_rank_is_the_one_of_conformal_prediction_also_for_repeats() -> None:
    values = np.arange(1.0, 20.0)
    assert ranked(values, 19, 0.95) == 19.0
    assert ranked(values[:18], 18, 0.95) is None
    assert ranked(values, 19, 0.90) == 18.0
    assert ranked(np.repeat(values, 3), 19, 0.90) == 18.0


def test_without_folds_the_formulas_decide_and_are_named() -> None:
    domain, _ = of_a_fit(100, 5)
    limits = domain.limits(0.05)
    t2, q, method = domain.spaces[0].formula_limits(0.025)
    assert limits["method"] == f"F distribution and {method}, alpha / 2 each"
    assert (limits["t2"], limits["q"]) == (t2, q)
    # 9 left-out samples do not support alpha = 0.05, but they do support 0.2.
    few, _ = of_a_fit(18, 3, folds=True)
    assert "F distribution" in few.limits(0.05)["method"]
    assert few.limits(0.2)["method"] == "left-out samples"


def test_as_many_latent_variables_as_samples_leave_the_domain_unknown_rather_than_inside() -> None:
    X, y = meat.X[:6], meat.fat[:6]
    fitted = PLSRegression(6, scale=False).fit(X, y)
    watch = FoldWatch(fitted, [], keep_space=True)
    watch.see("train", X)
    domain = build([watch.found], [], y, task="regression")
    found = domain.measure([meat.X[100:102]], fitted.predict(meat.X[100:102]))
    assert all(row[0][0] == "domain not known" for row in found.flags)
    assert "6 latent variables of 6 samples" in domain.limits()["method"]


def test_a_model_that_rebuilds_every_spectrum_does_not_flag_rounding_errors() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X @ [1.0, 2.0, 3.0]
    whole, fold = PLSRegression(3, scale=False).fit(X, y), PLSRegression(3, scale=False).fit(X[:30], y[:30])
    watches = FoldWatch(whole, [], keep_space=True), FoldWatch(fold, [], keep_space=False)
    watches[0].see("train", X)
    watches[1].see("train", X[:30])
    watches[1].see("val", X[30:])
    left = LeftOut(np.arange(30, 60), y[30:], fold.predict(X[30:]).ravel())
    # On another processor the rounding errors may have been none at all.
    exact = replace(watches[1].found, q=np.zeros(30))
    domain = build([watches[0].found], [(left, exact)], y, task="regression")
    new = rng.normal(size=(400, 3))
    found = domain.measure([new], whole.predict(new))
    assert np.mean(["outside" in row[0] for row in found.flags]) < 0.12
    assert domain.measure([new[:1] * 20], [0.0]).flags[0][0][0] == "outside"


@pytest.mark.parametrize(
    ("refused", "n", "words"),
    [
        ("replicates of a sample lie in different folds", 100, "replicates"),
        ("", 16, "needs at least 9 left-out samples, found 8"),
    ],
)
def test_an_interval_is_refused_with_the_reason(refused: str, n: int, words: str) -> None:
    domain, fitted = of_a_fit(n, 2, folds=True)
    domain = Domain(
        {**domain.facts, "refused": refused},
        **{
            name: getattr(domain, name)
            for name in ("spaces", "distances", "medians", "errors", "leverages", "y_range")
        },
    )
    found = domain.measure([meat.X[:3]], fitted.predict(meat.X[:3]))
    assert found.lower is None
    assert words in found.refused


def test_bounds_widen_with_the_leverage_only_when_asked() -> None:
    domain, fitted = of_a_fit(100, 5, folds=True)
    new, y = meat.X[100:130], fitted.predict(meat.X[100:130])
    plain, scaled = domain.measure([new], y), domain.measure([new], y, scaled=True)
    assert plain.upper is not None
    assert scaled.upper is not None
    assert scaled.lower is not None
    assert np.ptp(plain.upper[:, 0] - np.ravel(y)) < 1e-12
    width = (scaled.upper - scaled.lower)[:, 0]
    assert (np.argsort(width) == np.argsort(plain.values["h"])).all()


def test_a_prediction_beyond_the_range_of_y_is_extrapolated_and_conventions_flag_when_asked() -> None:
    domain, fitted = of_a_fit(100, 5, folds=True)
    low, high = domain.y_range[0]
    y = [high + 0.04 * (high - low), high + 0.06 * (high - low), low - 0.06 * (high - low)]
    inside = np.repeat(meat.X[:1], 3, axis=0)
    words = [row[0] for row in domain.measure([inside], y).flags]
    assert words == [[], ["extrapolated"], ["extrapolated"]]
    far = domain.measure([meat.X[100:]], fitted.predict(meat.X[100:]), flag={"gh": 1.0}).flags
    assert any("high GH" in row[0] for row in far)
    assert not any("high GH" in row[0] for row in domain.measure([inside], y).flags)


def test_a_spectrum_that_is_not_a_number_is_not_inside() -> None:
    domain, _ = of_a_fit(60, 3, folds=True)
    found = domain.measure([np.full((1, 100), np.nan)], [20.0])
    assert found.flags[0][0] == ["outside"]


def test_the_file_keeps_every_number_and_its_bytes_are_always_the_same() -> None:
    domain, _ = of_a_fit(80, 4, folds=True)
    data = domain.to_bytes()
    again = Domain.from_bytes(data)
    assert again.to_bytes() == data
    assert again.facts == domain.facts
    assert np.array_equal(again.spaces[0].scores, domain.spaces[0].scores)
    assert "distances" in np.load(io.BytesIO(data), allow_pickle=False)


def rewritten(data: bytes, name: str, member: bytes | None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return the file with another member of that name, or without it."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w", compression) as new:
        for info in old.infolist():
            content = member if info.filename == name else old.read(info)
            if content is not None:
                new.writestr(info.filename, content)
    return sink.getvalue()


def member(array: Any) -> bytes:
    sink = io.BytesIO()
    npy.write_array(sink, np.asarray(array), allow_pickle=True)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("space0_mean.npy", None),
        ("space0_mean.npy", member(np.zeros(99))),
        ("space0_mean.npy", member(np.array([{"a": 1}], dtype=object))),
        ("space0_mean.npy", member(np.zeros(100))[:-8]),
        ("space0_mean.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8',"),
        ("y_range.npy", member(np.zeros((1, 3)))),
        ("errors.npy", member(np.zeros(4, dtype=np.float32))),
        ("header.npy", member(np.frombuffer(b"[1, 2]", dtype=np.uint8))),
        ("header.npy", member(np.frombuffer(b'{"version": 2}', dtype=np.uint8))),
        ("header.npy", member(np.frombuffer(b'{"version": 1, "before": "1"}', dtype=np.uint8))),
    ],
)
def test_a_damaged_or_hostile_file_is_refused(name: str, content: bytes | None) -> None:
    data = of_a_fit(80, 4, folds=True)[0].to_bytes()
    assert Domain.from_bytes(rewritten(data, "none", None)).spaces
    with pytest.raises(ValueError):
        Domain.from_bytes(rewritten(data, name, content))


def test_no_file_grows_when_it_is_read() -> None:
    data = of_a_fit(80, 4)[0].to_bytes()
    with pytest.raises(ValueError, match="compressed"):
        Domain.from_bytes(rewritten(data, "none", None, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError):
        Domain.from_bytes(data[: len(data) // 2])


def test_a_space_refuses_spectra_of_another_width() -> None:
    domain, _ = of_a_fit(60, 3)
    space: Space = domain.spaces[0]
    with pytest.raises(ValueError, match="100 channels"):
        space.measure(np.zeros((2, 99)))


def test_a_spectrum_gives_the_same_alone_and_in_a_batch_where_q_is_all_but_rounding() -> None:
    domain, _ = of_a_fit(200, 30)
    space = domain.spaces[0]
    batch = space.measure(meat.X)
    for row in (0, 63, 64, 214):
        for name, values in space.measure(meat.X[row : row + 1]).items():
            assert values[0] == pytest.approx(batch[name][row], rel=1e-12, abs=0), name


@pytest.mark.parametrize("scaled", [False, True])
def test_why_there_is_no_interval_is_said_for_each_level(scaled: bool) -> None:
    domain, fitted = of_a_fit(100, 5, folds=True)
    predicted = fitted.predict(meat.X[100:103])
    for level in (0.5, 0.9, 0.98, 0.99, 0.9999):
        found = domain.measure([meat.X[100:103]], predicted, level=level, scaled=scaled)
        assert (found.lower is None) is bool(domain.no_interval(level, scaled))
        assert domain.no_interval(level, scaled) == found.refused
    assert domain.no_interval(0.98) == ""
    assert domain.no_interval(0.99) == "a level of 0.99 needs at least 99 left-out samples, found 50"
