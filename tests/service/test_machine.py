"""Any order of registering, moving, signing, deleting and restoring keeps the promises about names."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from servicekit import Recorded

from nirs_store import WorkspaceStore
from nirs_store.errors import CalibrationInUse, CalibrationNotFound

NAMES = st.sampled_from(["fat", "fat in meat"])
ALIASES = st.sampled_from(["production", "candidate"])
NUMBERS = st.integers(1, 4)


def machine_on(recorded: Recorded) -> type[RuleBasedStateMachine]:
    class Machine(RuleBasedStateMachine):
        """What is expected lies in plain dicts beside the store."""

        @initialize()
        def begin(self) -> None:
            self.folder = tempfile.mkdtemp()
            shutil.copytree(recorded.folder, Path(self.folder) / "ws")
            self.store = WorkspaceStore(Path(self.folder) / "ws")
            self.chains = [recorded.first, recorded.second]
            self.versions: dict[tuple[str, int], str] = {}
            self.highest: dict[str, int] = {}
            self.aliases: dict[tuple[str, str], int] = {}
            self.signed: dict[tuple[str, int], set[str]] = {}
            self.trash: dict[tuple[str, int], tuple[str, str, set[str]]] = {}
            self.rules: set[tuple[str, str]] = set()
            self.moves = 0

        def allowed(self, name: str, alias: str, number: int) -> bool:
            return (name, alias) not in self.rules or "other" in self.signed.get((name, number), set())

        @rule(name=NAMES, which=st.integers(0, 1))
        def register(self, name: str, which: int) -> None:
            found = self.store.calibrations.register(name, self.chains[which], author="me")
            self.highest[name] = self.highest.get(name, 0) + 1
            assert found.version == self.highest[name]
            self.versions[name, found.version] = self.chains[which]

        @rule(name=NAMES, alias=ALIASES, number=NUMBERS)
        def move(self, name: str, alias: str, number: int) -> None:
            if (name, number) not in self.versions:
                expected: Any = CalibrationNotFound
            elif self.aliases.get((name, alias)) == number:
                expected = None
            elif not self.allowed(name, alias, number):
                expected = CalibrationInUse
            else:
                expected = None
                self.moves += 1
                self.aliases[name, alias] = number
            if expected is None:
                self.store.calibrations.set_alias(name, alias, number)
            else:
                with pytest.raises(expected):
                    self.store.calibrations.set_alias(name, alias, number)

        @rule(name=NAMES, alias=ALIASES)
        def remove(self, name: str, alias: str) -> None:
            if not any(each == name for each, _ in self.versions):
                return
            gone = self.aliases.pop((name, alias), None)
            self.moves += gone is not None
            assert self.store.calibrations.remove_alias(name, alias) is (gone is not None)

        @rule(name=NAMES, number=NUMBERS, signer=st.sampled_from(["me", "other"]))
        def sign(self, name: str, number: int, signer: str) -> None:
            if (name, number) in self.versions and signer not in self.signed.get((name, number), set()):
                self.store.calibrations.sign(f"{name}@v{number}", meaning="approval", signer=signer)
                self.signed.setdefault((name, number), set()).add(signer)

        @rule(name=NAMES, alias=ALIASES, on=st.booleans())
        def demand(self, name: str, alias: str, on: bool) -> None:
            if on:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the alias may point to a version without signatures
                    self.store.calibrations.set_rule(name, alias, signatures=1, others=1)
                self.rules.add((name, alias))
            else:
                assert self.store.calibrations.remove_rule(name, alias) is ((name, alias) in self.rules)
                self.rules.discard((name, alias))

        @rule(name=NAMES, number=NUMBERS)
        def delete(self, name: str, number: int) -> None:
            label, key = f"{name}@v{number}", (name, number)
            if key not in self.versions:
                with pytest.raises(CalibrationNotFound):
                    self.store.calibrations.delete(label)
            elif number in [version for (each, _), version in self.aliases.items() if each == name]:
                with pytest.raises(CalibrationInUse):
                    self.store.calibrations.delete(label, reason="x")
            else:
                found = self.store.calibrations.delete(label, reason="x")
                self.trash[key] = (found.version_id, self.versions.pop(key), self.signed.pop(key, set()))

        @precondition(lambda self: getattr(self, "trash", None))
        @rule(data=st.data())
        def restore(self, data: Any) -> None:
            key = data.draw(st.sampled_from(sorted(self.trash)))
            version_id, chain, signers = self.trash.pop(key)
            self.store.trash.restore(version_id)
            self.versions[key] = chain
            self.signed[key] = signers

        @rule(which=st.integers(0, 1))
        def delete_chain(self, which: int) -> None:
            chain = self.chains[which]
            pointed = {(name, number) for (name, _), number in self.aliases.items()}
            held = any(
                self.versions[key] == chain for key in pointed | {k for k, who in self.signed.items() if who}
            )
            if held:
                with pytest.raises(CalibrationInUse):
                    self.store.delete_chain(chain)
            else:
                self.store.delete_chain(chain)
                self.store.trash.restore(chain)

        @rule()
        def reopen(self) -> None:
            self.store.close()
            self.store = WorkspaceStore(Path(self.folder) / "ws")

        @invariant()
        def everything_is_as_expected(self) -> None:
            if not hasattr(self, "store"):
                return
            found = self.store.sql("SELECT name, version, chain_id FROM calibration_versions").rows()
            assert {(name, version): chain for name, version, chain in found} == self.versions
            for (name, alias), number in self.aliases.items():
                assert self.store.calibrations.resolve(f"{name}@{alias}") == (
                    name,
                    number,
                    self.versions[name, number],
                )
            for name in {name for name, _ in self.versions}:
                present = {alias: number for (each, alias), number in self.aliases.items() if each == name}
                assert self.store.calibrations.aliases(name) == present

        def teardown(self) -> None:
            if not hasattr(self, "store"):
                return
            for (name, number), signers in self.signed.items():
                found = self.store.calibrations.verify_signatures(f"{name}@v{number}")
                assert (found.ok, {each.signer for each in found.valid}) == (True, signers)
            assert self.store.sql("SELECT count(*) FROM calibration_aliases").item() == self.moves
            assert self.store.audit.verify().ok
            assert not self.store.check().of_kind("calibration_broken")
            self.store.close()
            shutil.rmtree(self.folder)

    return Machine


def _run(recorded: Recorded, examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine_on(recorded),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_few_orders_keep_every_promise(recorded: Recorded) -> None:
    _run(recorded, 2, 25)


@pytest.mark.slow
def test_many_orders_keep_every_promise(recorded: Recorded) -> None:
    _run(recorded, 20, 40)
