"""Both ways with an installed nirs4all 1.4.10.

It needs an environment of its own, of about 1 GB, and one command:

    python -m venv their-env && their-env/bin/pip install nirs4all==1.4.10 chemotools
    NIRS4ALL_PYTHON=their-env/bin/python python -m pytest -m interop tests/interop
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore, load_bundle, load_tecator, migrate_nirs4all, record_cross_validation
from nirs_store.bundle import export_chain
from nirs_store.errors import BundleInvalid

TESTS = Path(__file__).parents[1]
THEIR_PYTHON = os.environ.get("NIRS4ALL_PYTHON", "")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not THEIR_PYTHON, reason="NIRS4ALL_PYTHON names no Python with nirs4all (see the module)"
    ),
]


# Opens every bundle of a folder with nirs4all's own loader, and predicts.
OPEN_BUNDLES = """
import sys
from pathlib import Path
import numpy as np
from nirs4all.pipeline.bundle import BundleLoader
folder, spectra, output = map(Path, sys.argv[1:])
X = np.load(spectra)
np.savez(output, **{p.stem: np.asarray(BundleLoader(p).predict(X)) for p in sorted(folder.glob("*.n4a"))})
"""


def theirs(*command: str | Path) -> None:
    """Run something with their Python, which must not see this library."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [THEIR_PYTHON, *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def bundle_kit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_kit", TESTS / "bundle" / "helpers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def opened_there(folder: Path, X: np.ndarray) -> dict[str, np.ndarray]:
    np.save(folder / "X.npy", X)
    theirs("-c", OPEN_BUNDLES, folder, folder / "X.npy", folder / "out.npz")
    with np.load(folder / "out.npz", allow_pickle=False) as found:
        return dict(found)


def test_every_kind_of_chain_predicts_the_same_numbers_in_their_loader(tmp_path: Path) -> None:
    world: Any = bundle_kit().World()
    expected = {}
    for number, (name, chain_id) in enumerate(world.chains.items()):
        path = export_chain(world.shelf, chain_id, tmp_path / f"chain{number}", probe=world.new[:2])
        bundle = load_bundle(path, allow_pickle=True)
        assert bundle.record is not None
        assert bundle.record.version_1_0.expressible, name
        expected[path.stem] = (name, world.shelf.replay(chain_id, world.new))
    found = opened_there(tmp_path, world.new)
    assert found.keys() == expected.keys()
    assert len(found) >= 15
    for stem, (name, y) in expected.items():
        np.testing.assert_array_equal(found[stem].reshape(y.shape), y, name)


@pytest.mark.parametrize("refit", [True, False])
def test_recorded_cross_validations_do_too(tmp_path: Path, refit: bool) -> None:
    meat = load_tecator()
    X, labels = meat.X[:, ::4].copy(), np.where(meat.fat > 15, "fatty", "lean")
    about: dict[str, Any] = {"cv": 4, "dataset_name": "meat", "refit": refit}
    with WorkspaceStore(tmp_path / "w") as store:
        chains = {
            "pls": record_cross_validation(
                store, make_pipeline(StandardScaler(), PLSRegression(6)), X, meat.fat, **about
            ),
            "logistic": record_cross_validation(
                store, make_pipeline(StandardScaler(), LogisticRegression()), X, labels, **about
            ),
        }
        for name, result in chains.items():
            store.export_chain(result.chain_id, tmp_path / name)
        found = opened_there(tmp_path, X)
        for name, result in chains.items():
            np.testing.assert_array_equal(found[name], store.replay_chain(result.chain_id, X))


def test_what_it_writes_today_opens_and_comes_over_here(tmp_path: Path) -> None:
    theirs(TESTS / "compat" / "make_nirs4all.py", tmp_path / "fresh.zip")
    with zipfile.ZipFile(tmp_path / "fresh.zip") as archive:
        archive.extractall(tmp_path)
    answers = json.loads((tmp_path / "expected.json").read_text())
    X = np.array(answers["X"])
    opened, refused = 0, []
    for name, y in answers["bundles"].items():
        try:
            bundle = load_bundle(tmp_path / "bundles" / name, allow_pickle=True)
        except BundleInvalid as error:
            refused.append(str(error))
            continue
        if not (name.startswith("store") and hasattr(bundle, "classes_")):
            np.testing.assert_array_equal(bundle.predict(X), np.array(y).reshape(len(X)))
            opened += 1
    assert opened == 5
    assert all("needs classes of the package 'nirs4all'" in message for message in refused)
    assert migrate_nirs4all(tmp_path / "workspace", tmp_path / "ours").verified
