"""When two sets of predictions count as the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle import export_chain, load_bundle
from nirs_store.bundle.container import difference
from nirs_store.errors import InvalidInput, ReplayError

GRID = 1100.0 + 2 * np.arange(6)
FINER = 1099.0 + np.arange(13)
SPECTRA = np.random.default_rng(3).normal(1.0, 0.2, (20, 6))
FAT = SPECTRA @ np.arange(6)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0 + 1e-9], True),
        ([1.0, 2.0], [1.0, 2.0001], False),
        ([1e-9, 50.0], [0.0, 50.0], True),
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([np.nan, 1.0], [2.0, 1.0], False),
        ([1.0, 2.0], [[1.0], [2.0]], False),
        (["a", "b"], ["a", "b"], True),
        (["a", "b"], ["a", "c"], False),
        ([True, False], [True, True], False),
        ([1, 2], [1, 2], True),
    ],
)
def test_numbers_agree_within_a_millionth_and_labels_exactly(found: Any, expected: Any, same: bool) -> None:
    a, b = np.array(found), np.array(expected)
    assert (difference(a, b) == "") is same


def test_labels_kept_as_objects_agree_with_their_text() -> None:
    assert not difference(np.array(["a", "b"], dtype=object), np.array(["a", "b"]))


def test_a_classifier_carries_its_labels_for_the_probe(world: Any, tmp_path: Path) -> None:
    chain_id = world.chains["hard votes"]
    load_bundle(export_chain(world.shelf, chain_id, tmp_path / "x", probe=world.new), allow_pickle=True)
    wrong = world.shelf.replay(chain_id, world.new)[::-1]
    with pytest.raises(ReplayError, match="labels differ"):
        export_chain(world.shelf, chain_id, tmp_path / "y", probe=world.new, predictions=wrong)


def framed(X: np.ndarray, wavelengths: np.ndarray) -> Any:
    import polars as pl

    return pl.DataFrame(X, schema=[f"{value:g}" for value in wavelengths])


def resampling(kit: Any, **more: Any) -> tuple[Any, str]:
    """Keep a chain that brings spectra onto the grid of its model."""
    from sklearn.linear_model import Ridge

    shelf = kit.Shelf()
    steps = [
        {"operator_class": "bundle_kit.Resampled", "artifact_id": shelf.keep(kit.Resampled(GRID))},
        {"operator_class": "sklearn.linear_model.Ridge"},
    ]
    return shelf, shelf.chain(steps, {"final": shelf.keep(Ridge().fit(SPECTRA, FAT))}, **more)


@pytest.mark.parametrize("stored", [None, GRID], ids=["no grid stored", "a grid stored"])
@pytest.mark.parametrize("grid", [GRID, GRID + 0.01, FINER], ids=["its own", "rounded", "another"])
def test_the_wavelengths_of_a_probe_travel_to_an_operator_that_takes_them(
    kit: Any, tmp_path: Path, stored: Any, grid: np.ndarray
) -> None:
    shelf, chain_id = resampling(kit, wavelengths=stored)
    probe = framed(np.array([np.interp(grid, GRID, row) for row in SPECTRA[:4]]), grid)
    expected = shelf.replay(chain_id, probe)
    path = export_chain(shelf, chain_id, tmp_path / "x", probe=probe, predictions=expected)
    bundle = load_bundle(path, allow_pickle=True)
    assert (bundle.predict(probe) == expected).all()
    assert bundle.record is not None
    assert bundle.record.probe is not None
    assert bool(bundle.record.probe.wavelengths) is not np.array_equal(stored, grid)


@pytest.mark.parametrize("kind", ["folds", "weights", "hard votes", "augmentation"])
def test_wavelengths_that_the_chain_does_not_look_at_change_no_byte_of_a_bundle(
    kind: str, world: Any, kit: Any, tmp_path: Path
) -> None:
    chain_id, X = world.chains[kind], world.new[:3]
    plain = export_chain(world.shelf, chain_id, tmp_path / "plain", probe=X)
    named = export_chain(world.shelf, chain_id, tmp_path / "named", probe=framed(X, world.wavelengths))
    assert named.read_bytes() == plain.read_bytes()
    record = json.loads(dict(kit.read_zip(plain))["nirs_store.json"])
    assert record["probe"].keys() == {"spectra", "expected", "sources"}


def test_a_probe_of_several_sources_for_a_chain_that_stacks_them_can_be_opened(
    toy: Any, tmp_path: Path
) -> None:
    X = np.array([[1.0, 2.0], [3.0, 5.0]])
    path = export_chain(toy, "chain-0", tmp_path / "x", probe=[X[:, :1], X[:, 1:]])
    assert (load_bundle(path, allow_pickle=True).predict(X) == toy.replay("chain-0", X)).all()


def test_a_probe_that_could_not_be_predicted_from_the_bundle_is_refused(kit: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    shelf = kit.Shelf()
    ids = [shelf.keep(kit.Tilted()), shelf.keep(StandardScaler().fit(SPECTRA))]
    chain_id = shelf.chain(
        [{"operator_class": "by source"}, {"operator_class": "sklearn.linear_model.Ridge"}],
        {"final": shelf.keep(Ridge().fit(np.hstack([SPECTRA, SPECTRA]), FAT))},
        shared_artifacts={"_source_map": {"0": {"0": ids[:1], "1": ids[1:]}}},
    )
    half_named = [framed(SPECTRA, GRID), SPECTRA]
    assert shelf.replay(chain_id, half_named).shape == (20,)
    with pytest.raises(InvalidInput, match=r"columns of every source.*"):
        export_chain(shelf, chain_id, tmp_path / "x", probe=half_named)
    assert not list(tmp_path.iterdir())
    named = [framed(SPECTRA, GRID), framed(SPECTRA, GRID)]
    path = export_chain(shelf, chain_id, tmp_path / "x", probe=named)
    assert (load_bundle(path, allow_pickle=True).predict(named) == shelf.replay(chain_id, named)).all()
