"""A real store and its model, side by side: whatever is done to them, they show the same.

The long run (10,000 steps, a quarter of an hour and more): ``pytest -m slow tests/property``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contractkit import Workspaces
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from nirs_store import WorkspaceStore
from nirs_store.db import apply, session
from nirs_store.db import changes as transitions
from nirs_store.db import recorder as buffer
from nirs_store.db.recorder import Recorder
from nirs_store.db.session import Engine
from nirs_store.records import queries
from tests.model.machine import StoreMachine
from tests.model.replicas import machine_of

PROFILE = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a busy catalog: after a second, a store accepts unknown ids and checks them later."""
    monkeypatch.setattr(session, "_LOOK_UP", 600.0)


@pytest.fixture
def of_kind(
    workspace_kind: str, workspaces: Callable[[str], Workspaces]
) -> Callable[..., type[StoreMachine]]:
    """The machine for what the tests run on."""
    return partial(machine_of, None if workspace_kind == "folder" else workspaces(workspace_kind))


@pytest.mark.everywhere
def test_a_store_does_what_its_model_does(
    workspace_kind: str, of_kind: Callable[..., type[StoreMachine]]
) -> None:
    # Elsewhere all replicas are compared after each step.
    examples, steps = (2, 40) if workspace_kind == "folder" else (1, 12)
    run_state_machine_as_test(
        of_kind(), settings=settings(PROFILE, max_examples=examples, stateful_step_count=steps)
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("compared_every", [1, 7])
def test_replicas_have_the_same_rows_after_each_step(
    workspaces: Callable[[str], Workspaces], compared_every: int
) -> None:
    machine = machine_of(workspaces("replicas"), compared_every=compared_every)
    run_state_machine_as_test(machine, settings=settings(PROFILE, max_examples=20, stateful_step_count=60))


class OneCallOneCommit(StoreMachine):
    """As somebody else would write it: the same rules against another store."""

    def open_store(self, folder: Path) -> WorkspaceStore:
        return WorkspaceStore(folder, durability="call")


@pytest.mark.of_a_folder("the machine opens folders itself")
def test_so_does_a_store_that_commits_each_call() -> None:
    run_state_machine_as_test(
        OneCallOneCommit, settings=settings(PROFILE, max_examples=1, stateful_step_count=30)
    )


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_store_does_what_its_model_does_for_ten_thousand_steps(
    of_kind: Callable[..., type[StoreMachine]],
) -> None:
    run_state_machine_as_test(
        of_kind(), settings=settings(PROFILE, max_examples=100, stateful_step_count=100)
    )


# -- it finds what is broken ---------------------------------------------------------------------


@pytest.fixture
def machine(of_kind: Callable[..., type[StoreMachine]]) -> Iterator[StoreMachine]:
    machine = of_kind()()
    machine.begin()
    yield machine
    machine.drop()


def test_an_intact_store_passes_all_the_scripts_below(machine: StoreMachine) -> None:
    for script in (look, fail, delete, regret, crash, collect):
        script(machine)
    machine.folder_fits()


def test_to_name_what_was_there_before_does_not_say_that_another_had_committed(machine: StoreMachine) -> None:
    machine.save_artifact(who=0, index=2, pipeline=None)
    machine.flush(who=0)
    machine.come_or_go()
    machine.save_artifact(who=0, index=5, pipeline=None)
    machine.save_artifact(who=0, index=2, pipeline=None)
    machine.save_chain(who=1, pipeline=0, scaler=None, models=[2], fresh=False, grid=False)
    machine.crash(who=0)


def test_to_fail_what_was_completed_before_does_not_mean_that_it_takes_no_more_rows(
    machine: StoreMachine,
) -> None:
    machine.end_pipeline(failed=False, pipeline=0, score=0.5, who=0)
    machine.crash(who=0)
    machine.end_pipeline(failed=True, pipeline=0, score=1.0, who=0)
    for _ in range(3):  # begun, committed, begun
        machine.transaction(who=0, regret=False)
    machine.save_prediction(who=0, chain=0, own_id=None, score=1.0)
    machine.look_at_everything(who=0)


def look(machine: StoreMachine) -> None:
    machine.train(0, [5], 1.0)
    machine.look_at_everything(0)


def fail(machine: StoreMachine) -> None:
    machine.end_pipeline(0, 0, True, None)
    machine.look_at_everything(0)


def delete(machine: StoreMachine) -> None:
    machine.train(0, [5], 1.0)
    machine.delete_run(0, 0, True)


def regret(machine: StoreMachine) -> None:
    machine.transaction(0, False)
    machine.train(0, [5], 1.0)
    machine.transaction(0, True)
    machine.look_at_everything(0)


def crash(machine: StoreMachine) -> None:
    machine.train(0, [5], 1.0)
    machine.crash(0)


def collect(machine: StoreMachine) -> None:
    machine.save_artifact(0, 6, None)
    machine.collect(0, 0.0)


def no_takeover(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apply, "_take_over", lambda con, arriving, transfers: None)


def no_references_of_chains(patch: pytest.MonkeyPatch) -> None:
    add = buffer.Buffer.add

    def forgetful(self: buffer.Buffer, table: str, values: Any) -> None:
        if not (table == "artifact_refs" and values["owner_kind"] == "chain"):
            add(self, table, values)

    patch.setattr(buffer.Buffer, "add", forgetful)


def no_rollback(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transitions, "roll_back", lambda con, failed: None)


def half_a_deletion(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transitions, "delete_children", lambda con, ids, delete: transitions.Deleted({}, []))


def commit_in_spite_of_an_exception(patch: pytest.MonkeyPatch) -> None:
    whole = Recorder.transaction

    @contextmanager
    def transaction(self: Recorder) -> Iterator[None]:
        regret = None
        with whole(self):
            try:
                yield
            except Exception as error:
                regret = error
        if regret is not None:
            raise regret

    patch.setattr(Recorder, "transaction", transaction)


def no_commit_before_returning(patch: pytest.MonkeyPatch) -> None:
    recording = Recorder.recording

    @contextmanager
    def late(self: Recorder, *, commit: bool = False) -> Iterator[Any]:
        with recording(self) as rows:
            yield rows

    patch.setattr(Recorder, "recording", late)


def all_sessions_are_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "living_sessions", lambda self: [])


def integers_come_back_as_floats(patch: pytest.MonkeyPatch) -> None:
    decode = queries.decode_array

    def careless(*row: Any) -> Any:
        array = decode(*row)
        return array.astype(float) if array.dtype.kind in "if" else array

    patch.setattr(queries, "decode_array", careless)


@pytest.mark.parametrize(
    ("breakage", "script"),
    [
        (no_takeover, look),
        (no_references_of_chains, look),
        (integers_come_back_as_floats, look),
        (no_rollback, fail),
        (half_a_deletion, delete),
        (commit_in_spite_of_an_exception, regret),
        (no_commit_before_returning, crash),
        (all_sessions_are_dead, collect),
    ],
)
def test_a_broken_store_is_found_out(
    breakage: Callable[[pytest.MonkeyPatch], None],
    script: Callable[[StoreMachine], None],
    machine: StoreMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breakage(monkeypatch)
    with pytest.raises(AssertionError):
        script(machine)


# -- steps that once went wrong --------------------------------------------------------------------


def test_a_takeover_that_found_nothing_takes_no_later_reference(machine: StoreMachine) -> None:
    machine.save_artifact(0, 4, None)
    for fresh in (False, False, True, True):
        machine.save_chain(0, 0, None, [4], fresh, False)
        machine.save_artifact(0, 4, None)
    machine.look_at_everything(0)
    machine.save_artifact(0, 5, None)
    machine.save_chain(0, 0, None, [5], False, False)
    machine.save_chain(0, 0, None, [5], False, False)
    machine.save_artifact(0, 5, None)
    machine.save_artifact(0, 5, None)
    machine.save_chain(0, 0, None, [5], False, False)
    machine.look_at_everything(0)


def test_a_pipeline_begun_in_a_failed_run_stays_open_however_much_is_applied_at_once(
    machine: StoreMachine,
) -> None:
    machine.end_run(0, 0, True, None)
    machine.begin_pipeline(0, 0, None)
    machine.look_at_everything(0)


def test_a_failed_run_ends_its_pipelines_before_anybody_completes_them(machine: StoreMachine) -> None:
    machine.end_run(0, 0, True, None)
    machine.end_pipeline(0, 0, False, 1.0)
    machine.look_at_everything(0)


def test_a_failed_pipeline_takes_no_artifact(machine: StoreMachine) -> None:
    machine.end_pipeline(0, 0, True, None)
    machine.save_artifact(0, 6, 0)
    machine.look_at_everything(0)


def test_what_a_transaction_made_is_known_after_a_deletion_in_it(machine: StoreMachine) -> None:
    machine.transaction(0, False)
    machine.train(0, [5], 1.0)
    machine.delete_run(0, 1, True)
    machine.load(0, 5)
    machine.save_prediction(0, 0, 1.0, 0)
    machine.save_prediction(0, 0, 1.0, 0)
    machine.save_arrays(0, 0, 0)
    machine.save_arrays(0, 0, 0)
    machine.transaction(0, False)
    machine.look_at_everything(0)
