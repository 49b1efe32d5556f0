"""The promises: wrong inputs are caught, normal samples pass, intervals cover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.errors import OutlierFound, OutlierWarning

DATASETS = ("tecator", "coffee", "fermentation")
MODELS = ("pls", "pcr", "svr", "forest")
COVERAGE = {"pls": (0.87, 0.93), "pcr": (0.85, 0.95), "svr": (0.85, 0.95), "forest": (0.85, 0.95)}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("kind", MODELS)
def test_inputs_that_nobody_should_predict_are_caught(
    kind: str, dataset: str, bars: Any, tmp_path: Path
) -> None:
    X, y = bars.spectra(dataset)
    # Every tenth of 1,841 channels costs no promise and saves most of the time.
    X = X[:, :: max(1, X.shape[1] // 150)]
    with WorkspaceStore(tmp_path) as store:
        chain = record_cross_validation(store, bars.model(kind, 5), X, y, cv=5, dataset_name=dataset).chain_id
        for what, spectrum in bars.wrong(X).items():
            with pytest.warns(OutlierWarning, match="outside"):
                frame = store.predict(chain, spectrum[None])
            assert "outside" in frame["flags"][0], what
            with pytest.raises(OutlierFound, match="outside"):
                store.predict(chain, spectrum[None], on_outlier="raise")


@pytest.mark.parametrize("kind", ["pls", "svr"])
def test_few_normal_samples_are_flagged_and_intervals_cover_some_splits(kind: str, bars: Any) -> None:
    found = bars.rates(kind, "tecator", 6)
    assert found["flagged"] <= 0.10
    assert 0.80 <= found["covered"] <= 0.97


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dataset", ["tecator", "coffee"])
@pytest.mark.parametrize("kind", MODELS)
def test_few_normal_samples_are_flagged_and_intervals_cover_over_200_splits(
    kind: str, dataset: str, bars: Any
) -> None:
    """Tecator: 215 near-infrared spectra of meat, public domain. Coffee: 60 mid-infrared (ATR-FTIR) spectra, from
    chemotools, whose MIT licence covers them; its y is the number of the origin, as no reference values come with them.
    """
    found = bars.rates(kind, dataset, 200)
    assert found["flagged"] <= 0.05 + 0.03
    low, high = COVERAGE[kind]
    assert low <= found["covered"] <= high


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_gives_what_its_single_spectra_give(kind: str, bars: Any, tmp_path: Path) -> None:
    X, y = bars.spectra("tecator")
    with WorkspaceStore(tmp_path) as store:
        chain = record_cross_validation(
            store, bars.model(kind, 5), X[:150], y[:150], cv=5, dataset_name="tecator"
        ).chain_id
        batch = store.predict(chain, X[100:], on_outlier="ignore")
        for row in (0, 40, 63, 64, 114):
            single = store.predict(chain, X[100 + row : 101 + row], on_outlier="ignore")
            for name in ("prediction", "lower", "upper", "t2", "q", "h", "gh", "nh"):
                assert single[name][0] == pytest.approx(batch[name][row], rel=1e-12, abs=1e-25), name
            assert single["flags"][0].to_list() == batch["flags"][row].to_list()
        assert np.array_equal(batch["prediction"], np.ravel(store.replay_chain(chain, X[100:])))
