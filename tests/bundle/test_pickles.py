"""Listing what pickles name, without running them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle.trust import PickleListing, list_pickle, merge_listings


def objects() -> dict[str, Any]:
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import LabelEncoder, StandardScaler

    X = np.random.default_rng(0).normal(size=(40, 7))
    y = X[:, 0]
    return {
        "PLSRegression": make_pipeline(StandardScaler(), PLSRegression(2)).fit(X, y),
        "Tree": RandomForestClassifier(3).fit(X, np.where(y > 0, "a", "b")),
        "LabelEncoder": LabelEncoder().fit(np.array(["u", "v"], dtype=object)),
        "dtype": np.zeros(3, dtype=[("a", "f8"), ("b", object)]),
        "ndarray": [np.asfortranarray(np.ones((3, 4))), np.array("text"), np.ones((0, 3)), np.array([True])],
    }


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_arrays_between_the_opcodes_are_stepped_over(kit: Any, compress: Any) -> None:
    for name, obj in objects().items():
        listing = list_pickle(kit.dumped([obj, kit.Touch("x")], compress=compress))
        assert listing.complete, name
        # What comes after the arrays is seen as well as what comes before.
        assert any(found.endswith(name) for found in listing.classes), (name, listing.classes)
        assert "builtins.getattr" in listing.classes


@pytest.mark.parametrize("protocol", range(6))
def test_all_protocols_are_read(protocol: int, kit: Any) -> None:
    for obj in objects().values():
        listing = list_pickle(pickle.dumps([obj, kit.Touch("x"), {"a": {1, 2}}, b"", 10**30, 1.5], protocol))
        assert listing.complete
        assert any("getattr" in name for name in listing.classes)


def test_nothing_is_run_or_imported(kit: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    raw = b"cos\nsystem\n(S'touch " + os.fsencode(canary) + b"'\ntR."
    assert list_pickle(raw).classes == ("os.system",)
    assert list_pickle(b"cno_such_module\nthing\n)R.").classes == ("no_such_module.thing",)
    assert list_pickle(b"(ino_such_module\nthing\n.").classes == ("no_such_module.thing",)
    assert not canary.exists()


def test_strange_names_come_first_and_are_shown(kit: Any) -> None:
    listing = list_pickle(kit.dumped([*objects().values(), kit.Touch("x")]))
    assert not listing.classes[0].startswith(("numpy", "sklearn", "joblib"))
    assert "ndarray" not in listing.describe(), "plumbing hides what matters"
    assert "more" in listing.describe(most=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"\x80\x05",
        b"x\x9c" + b"\0" * 50,
        b"\x1f\x8b" + b"\0" * 50,
        b"BZ" + b"\0" * 50,
        b"\x80\x04]\x94(\x8c\x02os\x94\x8c\x06system\x94\x93\x94",
        b"\x80\x040.",
        b"\x80\x04}K\x01K\x02K\x03u.",
    ],
)
def test_what_cannot_be_followed_is_said_to_be_incomplete(data: bytes) -> None:
    listing = list_pickle(data)
    assert not listing.complete
    assert "not readable to the end" in listing.describe()


def test_what_was_found_before_the_end_is_kept(kit: Any) -> None:
    data = kit.dumped([kit.Touch("x"), np.arange(100.0)])
    listing = list_pickle(data[:-300])
    assert not listing.complete
    assert "builtins.getattr" in listing.classes


def test_an_array_that_claims_to_be_huge_is_not_believed(kit: Any) -> None:
    data = kit.dumped(np.ones((77, 3)))
    assert list_pickle(data).complete
    assert not list_pickle(data.replace(b"K\x4dK\x03", b"K\xffK\xff")).complete


def test_a_compressed_bomb_is_followed_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc
    import zlib

    bomb = zlib.compress(b"\x80\x04" + b"N0" * (40 << 20))
    monkeypatch.setattr("nirs_store.bundle.trust._MAX_OPCODES", 1000)
    monkeypatch.setattr("nirs_store.bundle.trust._MAX_INFLATED", 1 << 20)
    tracemalloc.start()
    listing = list_pickle(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not listing.complete
    assert peak < 8 << 20


def test_the_version_of_scikit_learn_is_found(kit: Any) -> None:
    import sklearn

    assert list_pickle(kit.dumped(objects()["Tree"])).sklearn_versions == (sklearn.__version__,)


def test_listings_are_merged() -> None:
    one = PickleListing(("b.c",), ("1.0",), True)
    two = PickleListing(("a.b", "sklearn.x"), ("2.0",), False)
    assert merge_listings([one, two]) == PickleListing(("a.b", "b.c", "sklearn.x"), ("1.0", "2.0"), False)
