"""When two sets of predictions count as the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle import export_chain, load_bundle
from nirs_store.bundle.probes import agree, disagreement
from nirs_store.errors import ReplayError


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
    assert agree(a, b) is same
    if not same:
        assert disagreement(a, b)


def test_labels_kept_as_objects_agree_with_their_text() -> None:
    assert agree(np.array(["a", "b"], dtype=object), np.array(["a", "b"]))


def test_a_classifier_carries_its_labels_for_the_probe(world: Any, tmp_path: Path) -> None:
    chain_id = world.chains["hard votes"]
    load_bundle(export_chain(world.shelf, chain_id, tmp_path / "x", probe=world.new), allow_pickle=True)
    wrong = world.shelf.replay(chain_id, world.new)[::-1]
    with pytest.raises(ReplayError, match="labels differ"):
        export_chain(world.shelf, chain_id, tmp_path / "y", probe=world.new, predictions=wrong)
