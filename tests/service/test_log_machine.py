"""Any order of predictions, references, corrections, restarts and deletions gives what a list in memory gives."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from servicekit import NEW, Recorded

from nirs_store import WorkspaceStore

NAMES = st.sampled_from([None, "a", "b", "c"])
VALUES = st.integers(0, 40).map(float)


class Log(RuleBasedStateMachine):
    """The store next to what it should hold."""

    recorded: ClassVar[Recorded]
    raw: ClassVar[list[float]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(self.recorded.folder, self.folder / "workspace")
        self.store = WorkspaceStore(self.folder / "workspace")
        self.logged: list[tuple[str | None, float, float]] = []
        self.references: dict[str, tuple[str, float]] = {}
        self.history = 0
        self.correction: tuple[float, float] | None = None

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(names=st.lists(NAMES, min_size=1, max_size=4), log=st.booleans())
    def predict(self, names: list[str | None], log: bool) -> None:
        found = self.store.predict("fat", NEW[: len(names)], sample_ids=names, log=log, on_outlier="ignore")
        slope, bias = self.correction or (1.0, 0.0)
        expected = [raw * slope + bias for raw in self.raw[: len(names)]]
        np.testing.assert_allclose(found["prediction"], expected, rtol=1e-12)
        if log:
            self.logged += zip(names, self.raw, found["prediction"].to_list(), strict=False)

    @rule(name=st.sampled_from("abc"), values=st.lists(VALUES, min_size=1, max_size=3))
    def refer(self, name: str, values: list[float]) -> None:
        ids = self.store.references.add(name, values, target="fat")
        self.references |= {each: (name, value) for each, value in zip(ids, values, strict=True)}
        self.history += len(ids)

    @rule(value=st.none() | VALUES, data=st.data())
    def mend(self, value: float | None, data: Any) -> None:
        if not self.references:
            return
        old = data.draw(st.sampled_from(sorted(self.references)))
        name, _ = self.references.pop(old)
        if value is None:
            self.store.references.withdraw(old, "why")
        else:
            self.references[self.store.references.correct(old, value, "why")] = (name, value)
        self.history += 1

    @rule(slope=st.sampled_from([0.5, 1.0, -2.0]), bias=VALUES)
    def correct(self, slope: float, bias: float) -> None:
        self.store.calibrations.correct("fat", slope=slope, bias=bias)
        self.correction = (slope, bias)

    @rule()
    def retire(self) -> None:
        if self.correction is not None:
            self.store.calibrations.retire_correction("fat")
            self.correction = None

    @rule()
    def forget(self) -> None:
        assert self.store.measurements.delete(before="2999-01-01") == len(self.logged)
        self.logged = []

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = WorkspaceStore(self.folder / "workspace")

    @rule()
    def move(self) -> None:
        self.store.archive(self.folder / "all.zip")
        self.store.close()
        shutil.rmtree(self.folder / "workspace")
        self.store = WorkspaceStore(self.folder / "workspace")
        self.store.restore_archive(self.folder / "all.zip")
        (self.folder / "all.zip").unlink()

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        found = self.store.measurements.list("fat").select("sample_id", "raw", "prediction").rows()
        assert [row[0] for row in found] == [row[0] for row in self.logged]
        # A matrix of one row is multiplied by other code, which may round otherwise.
        np.testing.assert_allclose([row[1:] for row in found], [row[1:] for row in self.logged], rtol=1e-9)
        assert self.store.references.list(history=True).height == self.history
        current = self.store.references.list().select("reference_id", "value").rows()
        assert dict(current) == {each: value for each, (_, value) in self.references.items()}
        means = {
            name: np.mean([value for other, value in self.references.values() if other == name])
            for name in {name for name, _ in self.references.values()}
        }
        joined = {
            name: np.mean([p for n, _, p in self.logged if n == name])
            for name in {n for n, _, _ in self.logged if n in means}
        }
        report = self.store.calibrations.monitor("fat")
        assert (report.n, report.n_measurements) == (len(joined), len(self.logged))
        if joined:
            assert report.agreement.bias == pytest.approx(
                np.mean([means[n] - p for n, p in joined.items()]), abs=1e-9
            )


@pytest.mark.of_a_folder("the machine copies the folder and removes it")
@pytest.mark.parametrize("examples", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_any_order_of_operations_gives_what_a_list_gives(recorded: Recorded, examples: int) -> None:
    with WorkspaceStore(recorded.folder) as store:
        store.calibrations.register("fat", recorded.first, alias="production")
        Log.raw = store.replay_chain("fat", NEW).tolist()
    Log.recorded = recorded
    chosen = settings(
        max_examples=examples,
        stateful_step_count=8,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # A failing run is short enough as it is.
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    run_state_machine_as_test(Log, settings=chosen)
