"""Bundles that nirs4all 1.4.10 wrote: by its legacy engine, its store and its default engine.

The archive and the answers in it were made by ``tests/compat/make_nirs4all.py``.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import load_bundle
from nirs_store.errors import BundleInvalid

WRITTEN = Path(__file__).parents[1] / "compat" / "nirs4all" / "1.4.10.zip"
# The models were fitted with the scikit-learn of their day.
pytestmark = pytest.mark.filterwarnings("ignore:.*was pickled with scikit-learn.*")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bundles by name, spectra, and what nirs4all's own loader predicted with them."""
    folder = tmp_path_factory.mktemp("written")
    with zipfile.ZipFile(WRITTEN) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if not name.startswith("workspace")])
    expected = json.loads((folder / "expected.json").read_text())
    bundles = {path.stem: path for path in sorted((folder / "bundles").glob("*.n4a"))}
    return bundles, np.array(expected["X"]), {Path(name).stem: y for name, y in expected["bundles"].items()}


def readable(written: Any) -> dict[str, Any]:
    found, refused = {}, []
    for name, path in written[0].items():
        try:
            found[name] = load_bundle(path, allow_pickle=True)
        except BundleInvalid as error:
            refused.append(str(error))
    assert all("needs classes of the package 'nirs4all'" in message for message in refused)
    return found


def test_those_of_scikit_learns_steps_predict_the_same_numbers_without_nirs4all(written: Any) -> None:
    _, X, expected = written
    opened = readable(written)
    assert {name for name in opened if name.startswith("legacy")} == {
        "legacy-classes",
        "legacy-plain",
        "legacy-targets",
    }
    assert len([name for name in opened if name.startswith("store")]) == 3
    for name, bundle in opened.items():
        found = bundle.predict(X)
        if name.startswith("store") and hasattr(bundle, "classes_"):
            # That loader averages the labels of folds; a label that exists comes out here.
            assert set(found) <= set(bundle.classes_)
        else:
            np.testing.assert_array_equal(found, np.array(expected[name]).reshape(found.shape), name)


def test_those_that_need_nirs4alls_classes_name_them(written: Any) -> None:
    bundles, _, _ = written
    for name in ("default-plain", "default-targets", "default-classes"):
        with pytest.raises(
            BundleInvalid, match=r"not installed here: nirs4all\.api\.result\._DagmlExportedModel"
        ):
            load_bundle(bundles[name], allow_pickle=True)
    with pytest.raises(
        BundleInvalid, match=r"nirs4all\.operators\.transforms\.scalers\.StandardNormalVariate"
    ):
        load_bundle(bundles["legacy-snv"], allow_pickle=True)
