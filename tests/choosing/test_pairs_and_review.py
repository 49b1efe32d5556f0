"""Paired comparison of chains, and the coded checks: each finds what it is for, and is silent on a sound chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import KFold, RepeatedKFold, ShuffleSplit

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.choosing.pairs import compare_errors, paired_p_value
from nirs_store.choosing.review import CODES, Material, review
from nirs_store.errors import InvalidInput, UnknownId

MEAT = load_tecator()
X, FAT = MEAT.X[:150], MEAT.fat[:150]
NAMES = [f"S{i}" for i in range(150)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path_factory.mktemp("pairs") / "ws") as opened:
        yield opened


@pytest.fixture(scope="module")
def record(store: WorkspaceStore) -> Any:
    def made(model: Any, spectra: Any = X, y: Any = FAT, **options: Any) -> str:
        options = {"cv": KFold(5, shuffle=True, random_state=0), "dataset_name": "meat"} | options
        options.setdefault("sample_ids", NAMES[: len(y)])
        return record_cross_validation(
            store, model, spectra, y, target="fat", target_unit="%", **options
        ).chain_id

    return made


def test_a_p_value_is_that_of_all_sign_flips() -> None:
    first, second = np.array([4.0, 1.0, 9.0, 2.0, 7.0]), np.array([1.0, 1.5, 2.0, 1.0, 3.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    exact = (np.abs((first - second) @ signs) >= abs((first - second).sum()) - 1e-12).mean()
    assert paired_p_value(first, second, n_permutations=20_000) == pytest.approx(exact, abs=0.01)


def test_a_good_and_a_poor_chain_differ_and_twins_do_not(store: WorkspaceStore, record: Any) -> None:
    good, poor = record(PLSRegression(8, scale=False)), record(PLSRegression(1, scale=False))
    found = compare_errors(store, good, poor)
    assert found.distinguishable
    assert found.p < 0.001
    assert good[-8:] in found.verdict
    order = np.random.default_rng(0).permutation(150)
    twin = record(
        PLSRegression(8, scale=False), X[order], FAT[order], sample_ids=np.array(NAMES)[order], cv=KFold(6)
    )
    other = compare_errors(store, good, twin)
    assert not other.distinguishable
    assert "not distinguishable" in repr(other)
    assert other.n == 150


def test_chains_that_cannot_be_compared_are_refused(store: WorkspaceStore, record: Any) -> None:
    chain = record(PLSRegression(3))
    with pytest.raises(UnknownId):
        compare_errors(store, chain, "nothing")
    moved = record(PLSRegression(3), y=FAT + 1)
    with pytest.raises(InvalidInput, match="corrected"):
        compare_errors(store, chain, moved)
    missing = record(PLSRegression(3), sample_ids=[f"T{i}" for i in range(150)])
    with pytest.raises(InvalidInput, match="at least 5"):
        compare_errors(store, chain, missing)


def test_a_sound_chain_has_nothing_grave(store: WorkspaceStore, record: Any) -> None:
    rng = np.random.default_rng(1)
    T = rng.normal(size=(400, 2))
    spectra = T @ rng.normal(size=(2, 60)) + rng.normal(scale=0.01, size=(400, 60))
    y = 20 + T @ [2.0, 1.0] + rng.normal(scale=0.3, size=400)
    names = [f"L{i}" for i in range(400)]
    inside = [i for i in range(300, 400) if y[:300].min() < y[i] < y[:300].max()]
    chain = record(
        PLSRegression(2, scale=False), spectra[:300], y[:300], sample_ids=names[:300], X_test=spectra[inside],
        y_test=y[inside], sample_ids_test=[names[i] for i in inside],
        wavelengths=np.linspace(1100, 2300, 60), wavelength_unit="nm",
    )  # fmt: skip
    found = store.review(chain)
    assert found.findings == ()
    assert set(found.checked) >= set(list(CODES)[:12])


def codes(store: WorkspaceStore, chain: str) -> set[str]:
    return {each.code for each in review(store, chain).findings}


def test_each_check_finds_what_it_is_for(store: WorkspaceStore, record: Any) -> None:
    rng = np.random.default_rng(2)
    twice = np.repeat(X[:75], 2, axis=0) + rng.normal(scale=1e-5, size=(150, 100))
    split = record(PLSRegression(6), twice, np.repeat(FAT[:75], 2), sample_ids=np.repeat(NAMES[:75], 2))
    assert "R01" in codes(store, split)
    reused = record(
        PLSRegression(4), X_test=X[:20], y_test=FAT[:20] + 30, sample_ids_test=NAMES[:20], wavelengths=gap()
    )
    assert {"R02", "R04", "R05", "R11"} <= codes(store, reused)
    tiny = record(PLSRegression(6), X[:26], FAT[:26], cv=5)
    assert {"R03", "R07"} <= codes(store, tiny)
    y = FAT.copy()
    y[7] += 500
    spoilt = record(PLSRegression(3), y=y, refit=False)
    assert {"R08", "R09", "R12"} <= codes(store, spoilt)
    classes = record(PLSRegression(3), y=np.round(FAT / 20))
    assert "R10" in codes(store, classes)
    assert "R06" in codes(store, record(DummyOfNoise(), cv=ShuffleSplit(5, random_state=0)))


def test_more_components_than_needed_are_noted(store: WorkspaceStore, record: Any) -> None:
    with store.run("family", datasets=["meat"]) as run:
        chains = [record(PLSRegression(a, scale=False), run_id=run.run_id) for a in (2, 5, 8, 12, 20)]
    assert "R13" in codes(store, chains[-1])
    choice = store.suggest_components(chains[0])
    assert choice.chain_id is not None
    assert "R13" not in codes(store, choice.chain_id)


def test_every_code_has_a_page_that_names_its_source_or_reason() -> None:
    for code, check in CODES.items():
        page = Path(__file__).parents[2] / "docs" / "review" / f"{code}.md"
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {code}: {check.title}\n"), page
        assert "## What to do" in text, page


def gap() -> Any:
    grid = np.linspace(900, 1000, 100)
    grid[50:] += 400
    return grid


class DummyOfNoise(DummyRegressor):
    """Predict far too wide a spread, so that the slope of measured on predicted is far below 1."""

    def predict(self, X: Any, return_std: bool = False) -> Any:
        return 100 * np.asarray(X)[:, 40] - 280


def standard_errors(cv: RepeatedKFold, numbers: tuple[int, ...]) -> list[float]:
    """Compute without a store the standard deviation of the errors of all repeats, over the root of 60 samples."""
    found = []
    for n in numbers:
        model = PLSRegression(n, scale=False)
        errors = [
            model.fit(X[rows], FAT[rows]).predict(X[left]) - FAT[left] for rows, left in cv.split(X[:60])
        ]
        found.append(float(np.std(np.concatenate(errors), ddof=1) / np.sqrt(60)))
    return found


def test_repeats_do_not_make_a_rule_or_a_check_surer(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "ws") as store:
        chains = {}
        for repeats in (1, 8):
            cv = RepeatedKFold(n_splits=5, n_repeats=repeats, random_state=0)
            with store.run(f"{repeats}", datasets=["meat"]) as run:
                options = {"cv": cv, "dataset_name": "meat", "run_id": run.run_id, "keep_folds": False}
                made = [
                    record_cross_validation(
                        store, PLSRegression(n, scale=False), X[:60], FAT[:60], **options
                    ).chain_id
                    for n in (2, 4, 6)
                ]
            chains[repeats] = made
        one, many = (store.suggest_components(chains[n][0]).table for n in (1, 8))
        # The standard error of 60 samples, not of 480 predictions.
        for repeats, table in ((1, one), (8, many)):
            cv = RepeatedKFold(n_splits=5, n_repeats=repeats, random_state=0)
            assert table["se"].to_numpy()[1:] == pytest.approx(standard_errors(cv, (2, 4, 6)), rel=1e-9)
        assert many["rmsecv"][0] == pytest.approx(one["rmsecv"][0])  # the mean of the others
        cv = RepeatedKFold(n_splits=5, n_repeats=8, random_state=0)
        board = store.screen(X[:60], FAT[:60], components=[2, 4, 6], cv=cv, dataset_name="meat")
        ranked = board.frame.sort("components")
        assert ranked["se"].to_numpy() == pytest.approx(many["se"].to_numpy()[1:])
        material = Material(store, store.get_chain(chains[8][1]))
        measured, _ = material.pooled("val", final=False)
        assert sorted(measured) == sorted(FAT[:60])
