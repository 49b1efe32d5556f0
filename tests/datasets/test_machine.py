"""Any order of additions, corrections, selections, deletions and gcs against a model in plain Python."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nirs_store import WorkspaceStore

CHANNELS = 4
NAMES = ("corn", "wheat", "test")
# Few spectra, so that versions share, repeat and bring back each other's; one of them twice under other signs of zero.
POOL = np.vstack([np.arange(40.0).reshape(10, CHANNELS), np.zeros((1, CHANNELS)), -np.zeros((1, CHANNELS))])
rows = st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=8)


class Version(NamedTuple):
    """What a version holds."""

    X: np.ndarray
    ids: list[str]
    fat: list[float]

    def same(self, other: Version) -> bool:
        return self.X.shape == other.X.shape and (self.X == other.X).all() and self[1:] == other[1:]


class DatasetMachine(RuleBasedStateMachine):
    """Two store objects on one folder; a crash drops one of them."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.stores = [WorkspaceStore(self.folder / "workspace") for _ in range(2)]
        self.versions: dict[str, dict[int, Version]] = {}
        self.highest: dict[str, int] = {}

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)

    def keep(self, name: str, made: Any, version: Version) -> None:
        known = self.versions.setdefault(name, {})
        newest = known.get(max(known, default=0))
        assert made.added == (newest is None or not newest.same(version))
        if made.added:
            self.highest[name] = self.highest.get(name, 0) + 1
            known[self.highest[name]] = version
        assert made.version == max(known)

    @rule(which=st.integers(0, 1), name=st.sampled_from(NAMES), chosen=rows, shift=st.integers(0, 1))
    def add(self, which: int, name: str, chosen: list[int], shift: int) -> None:
        version = Version(POOL[chosen], [f"s{row}" for row in chosen], [float(row + shift) for row in chosen])
        made = self.stores[which].datasets.add(
            name, version.X, ids=version.ids, references={"fat": version.fat}
        )
        self.keep(name, made, version)

    def some(self, data: st.DataObject) -> tuple[str, int]:
        name = data.draw(st.sampled_from(sorted(name for name, found in self.versions.items() if found)))
        return name, data.draw(st.sampled_from(sorted(self.versions[name])))

    @precondition(lambda self: any(self.versions.values()))
    @rule(which=st.integers(0, 1), data=st.data(), invert=st.booleans())
    def select(self, which: int, data: st.DataObject, invert: bool) -> None:
        name, number = self.some(data)
        if name == "chosen":
            return
        source = self.versions[name][number]
        chosen = data.draw(st.lists(st.integers(0, len(source.ids) - 1), min_size=1, unique=True))
        kept = [row for row in range(len(source.ids)) if row not in chosen] if invert else chosen
        if not kept:
            return
        made = self.stores[which].datasets.select(f"{name}@v{number}", "chosen", rows=chosen, invert=invert)
        picked = Version(source.X[kept], [source.ids[k] for k in kept], [source.fat[k] for k in kept])
        self.keep("chosen", made, picked)

    @precondition(lambda self: any(self.versions.values()))
    @rule(which=st.integers(0, 1), data=st.data())
    def delete(self, which: int, data: st.DataObject) -> None:
        name, number = self.some(data)
        self.stores[which].datasets.delete(f"{name}@v{number}", force=True)
        del self.versions[name][number]

    @rule(which=st.integers(0, 1))
    def collect(self, which: int) -> None:
        self.stores[which].gc_artifacts(grace_seconds=0)

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        self.stores[which]._engine.abort()
        self.stores[which] = WorkspaceStore(self.folder / "workspace")

    @invariant()
    def every_version_comes_back(self) -> None:
        for name, known in getattr(self, "versions", {}).items():
            store = self.stores[len(known) % 2].datasets
            listed = store.versions(name)["version"].to_list() if known else []
            assert listed == sorted(known)
            for number, version in known.items():
                found = store.get(f"{name}@v{number}", target="fat")
                np.testing.assert_array_equal(found.X, version.X)
                assert found.ids is not None
                assert found.y is not None
                assert (found.ids.tolist(), found.y.tolist()) == (version.ids, version.fat)


DatasetMachine.TestCase.settings = settings(max_examples=3, stateful_step_count=12, deadline=None)
TestDatasets = DatasetMachine.TestCase


@pytest.mark.slow
def test_many_orders() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        DatasetMachine, settings=settings(max_examples=80, stateful_step_count=30, deadline=None)
    )
